"""A run: its context and the prior it may be given."""
