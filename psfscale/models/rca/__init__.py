"""RCA: a low-rank, sparse, super-resolved PSF field of one CCD."""
