"""How well, and how fast, raw frames become calibrated ones."""
