"""The parts of the report: each file makes one section, or the answer to one of the study's six questions."""
