"""What the reduction makes of real frames, which have no truth."""
