"""Measurements, one folder a question. `python -m benchmarks` asks them all."""
