"""A folder of your own images and label maps."""
