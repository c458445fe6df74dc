"""The report of a comparison over seeds: tables, intervals and a figure."""

from mtl_kd_jax.reports.compare.comparison import Comparison

__all__ = ['Comparison']
