"""The experiments that are shipped."""
