"""Galaxies without their PSFs: sparse, low-rank, both, or the gradient alone.

What is solved, and what departs from the papers, stands in ``docs/methods/deconvolution.md``.
"""
