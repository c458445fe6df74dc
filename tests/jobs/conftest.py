"""Fixtures of the tests of jobs."""

from fixtures.figures import without_figures

__all__ = ['without_figures']
