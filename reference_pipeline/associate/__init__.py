"""From candidates to objects: which detections are of one thing, and how it changed."""
