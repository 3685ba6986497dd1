"""State of a run: its progress, and its cost."""
