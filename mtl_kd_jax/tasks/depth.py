"""Depth, or inverse depth: L1; absolute and relative error, RMSE."""

import functools

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import base

# Perceptually even, dark = near; a few knots of a sequential color map.
_COLORS = np.array(
  [
    (24, 15, 62),
    (86, 35, 122),
    (158, 56, 124),
    (222, 92, 100),
    (253, 163, 99),
    (252, 236, 186),
  ],
  np.float64,
)


def make(label: Label) -> base.Task:
  """Makes the task; its errors have the unit of `label`.

  Loss: |prediction - label|, averaged over pixels with a label (label > 0; NaN
  is none).
  Metrics over all valid pixels of the split: mean |p - y|; mean |p - y| / y;
  sqrt of mean (p - y)^2.
  """
  return base.Task(
    name='depth',
    channels=1,
    valid=lambda label: label[..., 0] > 0,
    loss=lambda prediction, label: jnp.abs(_error(prediction, label)),
    statistics=_statistics,
    metrics=_metrics,
    columns={
      'abs_error': base.Metric('AbsErr', label.unit, False),
      'rel_error': base.Metric('RelErr', '', False),
      'rmse': base.Metric('RMSE', label.unit, False, in_gain=False),
    },
    headline='abs_error',
    render=functools.partial(_render, far_is_large=label.quantity == 'depth'),
  )


def _error(prediction, label):
  # Where there is no label, the product of NaN with a gradient of 0 is NaN.
  known = jnp.where(label > 0, label, 0)
  return base.as_float32(prediction[..., 0]) - known[..., 0]


def _statistics(prediction, label, valid):
  error = jnp.abs(_error(prediction, label))
  relative = error / jnp.where(valid, label[..., 0], 1)
  return {
    'count': jnp.sum(valid),
    'absolute': jnp.sum(jnp.where(valid, error, 0)),
    'relative': jnp.sum(jnp.where(valid, relative, 0)),
    'squared': jnp.sum(jnp.where(valid, error**2, 0)),
  }


def _metrics(statistics):
  count = statistics['count']
  return {
    'abs_error': base.ratio(statistics['absolute'], count),
    'rel_error': base.ratio(statistics['relative'], count),
    'rmse': base.ratio(statistics['squared'], count) ** 0.5,
  }


def color_range(label: np.ndarray) -> tuple[float, float]:
  """The values of the first and the last color, of a label [h w (1)].

  They leave out the nearest and the farthest 2 % of the pixels.
  """
  known = label[label > 0]
  low, high = np.quantile(known, (0.02, 0.98)) if known.size else (0.0, 1.0)
  return float(low), float(high)


def _render(x, label, *, far_is_large):
  depth = x[..., 0].astype(np.float64)
  # Where there is no label, the prediction has a scale of its own.
  low, high = color_range(label if np.any(label > 0) else depth)
  shade = np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
  if not far_is_large:
    shade = 1 - shade
  knots = np.linspace(0, 1, len(_COLORS))
  rgb = np.stack([np.interp(shade, knots, c) for c in _COLORS.T], axis=-1)
  # A prediction may be negative; only an exact 0, or NaN, is a missing label.
  labeled = (depth != 0) & ~np.isnan(depth)
  return np.where(labeled[..., None], rgb, base.UNLABELED).astype(np.uint8)
