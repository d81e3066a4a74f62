"""The drawings of the report: each file draws one kind from plain values."""
