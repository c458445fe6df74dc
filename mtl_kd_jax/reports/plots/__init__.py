"""The figures of a run; the only folder that imports matplotlib.

`plot_*` returns a figure, which a notebook shows; `draw_*` writes it to a file.
"""

from mtl_kd_jax.reports.plots.balance import draw_balance, plot_balance
from mtl_kd_jax.reports.plots.curves import draw_curves, plot_curves
from mtl_kd_jax.reports.plots.prediction import plot_prediction
from mtl_kd_jax.reports.plots.predictions import (
  draw_predictions,
  plot_predictions,
)
from mtl_kd_jax.reports.plots.samples import draw_samples

__all__ = [
  'draw_balance',
  'draw_curves',
  'draw_predictions',
  'draw_samples',
  'plot_balance',
  'plot_curves',
  'plot_prediction',
  'plot_predictions',
]
