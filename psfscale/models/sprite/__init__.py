"""SPRITE: sparse super-resolution of one PSF from several exposures, and the field made of them."""
