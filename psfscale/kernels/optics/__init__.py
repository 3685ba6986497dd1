"""From a wavefront to a PSF: pupils, Zernikes, exact-wavelength propagation, spectra."""
