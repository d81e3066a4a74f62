"""Stamps whose class is known: simulated with the whole pipeline, or real ones with labels from elsewhere."""
