"""Classification of stamps and frames: networks, how they are trained, and their use without torch."""
