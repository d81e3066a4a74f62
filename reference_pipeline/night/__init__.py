"""A night: many frames in many processes, what became of each, and the state that outlives a run."""
