"""What the stages of a run do with PSFs: fit fields, choose among them, draw them, measure them."""
