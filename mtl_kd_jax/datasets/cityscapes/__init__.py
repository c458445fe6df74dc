"""Cityscapes, from the official archives or the .npy dump."""
