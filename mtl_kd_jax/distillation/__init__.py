"""Teachers, adaptors and the losses between their features."""
