"""Cityscapes, from the official archives or a .npy dump."""
