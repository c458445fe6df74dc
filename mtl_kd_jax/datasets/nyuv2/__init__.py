"""NYU-v2, from the official archive or the .npy dump."""
