"""Inspection of a dataset: a profile of its contents, and likely defects."""
