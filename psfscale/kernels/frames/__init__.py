"""Wavelet frames and their exact adjoints."""
