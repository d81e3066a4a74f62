"""The networks, as torch modules: those of the two papers, and our own. Needed for training alone."""
