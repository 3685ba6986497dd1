"""Galaxies restored by a prior that is learnt from their own catalogue.

Each galaxy is an elliptical profile, of a population whose mean and scatter are learnt, and
clumps where the data show them; see ``docs/methods/deconvolution.md``.
"""
