"""How far a run is, and what it has cost."""
