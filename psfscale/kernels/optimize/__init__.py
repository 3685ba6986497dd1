"""Proximals, low-rank steps and the solvers that use them."""
