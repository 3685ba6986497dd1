"""Finished runs: open them, count their tables, write their pages."""
