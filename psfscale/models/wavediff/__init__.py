"""WaveDiff: a chromatic PSF field from a wavefront fitted through the optics."""
