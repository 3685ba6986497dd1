"""Mathematics in torch: leading batch axes, device and dtype as the input's, no files."""
