"""A survey made from a seed: the sky, the telescope and camera, and the truth about every frame."""
