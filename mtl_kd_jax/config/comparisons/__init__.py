"""The shipped comparisons."""
