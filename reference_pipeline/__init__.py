"""The reference pipeline: raw frames of a night in, validated multi-scale alerts out."""
