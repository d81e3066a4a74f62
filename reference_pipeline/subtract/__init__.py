"""From two calibrated frames to their difference: the matching kernel, its application, the score image."""
