"""Which stamp layout should a survey send: accuracy against bytes, layout by layout."""
