"""Depth: L1; absolute and relative error, RMSE.

Zooming in brings a scene nearer: what is seen twice as large is taken to be at
half the depth.
"""

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _options, base
from mtl_kd_jax.tasks.augmentation import of_maps

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


# What is nearer than this is not told apart in ratios and logarithms.
_NEAREST = 1e-3
_RATIOS = (1, 2, 3)  # exponents of 1.25


def describe(*, unit: str = 'm') -> Label:
  """Describes a map of depth.

  Args:
    unit: that of the values, for the tables.
  """
  return Label('depth', unit=_options.text('unit', unit))


def make(label: Label) -> base.Task:
  """Makes the task; its errors have the unit of `label`.

  Loss: |prediction - label|, averaged over pixels with a label (label > 0; NaN
  is none).
  Metrics over all valid pixels of the split: mean |p - y|; mean |p - y| / y;
  sqrt of mean (p - y)^2; the shares with max(p / y, y / p) < 1.25, 1.25^2 and
  1.25^3; and the scale-invariant logarithmic error of KITTI, 100 times the
  standard deviation of log p - log y. For these, p is at least 0.001.
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
      **{f'delta_{n}': base.detail(f'δ{n}', '%', True) for n in _RATIOS},
      'si_log': base.detail('SIlog', '%', False),
    },
    headline='abs_error',
    render=lambda x, label: render(x, label),
    form=base.Form(meaning='distance along z, the axis of the camera'),
    colors=colors(('near', 'far')),
  )


def colors(ends: tuple[str, str]) -> base.Colors:
  """The colors of measurements of one channel that are above 0."""
  return base.Colors(
    ends=ends,
    bounds=color_range,
    errors=lambda x, y: np.abs(x[..., 0].astype(np.float64) - y[..., 0]),
  )


def _error(prediction, label):
  # Where there is no label, the product of NaN with a gradient of 0 is NaN.
  known = jnp.where(label > 0, label, 0)
  return base.as_float32(prediction[..., 0]) - known[..., 0]


def _statistics(prediction, label, valid):
  error = jnp.abs(_error(prediction, label))
  known = jnp.where(valid, label[..., 0], 1)
  relative = error / known
  p = jnp.maximum(base.as_float32(prediction[..., 0]), _NEAREST)
  log_ratio = jnp.where(valid, jnp.log(p) - jnp.log(known), 0)
  return {
    'count': jnp.sum(valid),
    'absolute': jnp.sum(jnp.where(valid, error, 0)),
    'relative': jnp.sum(jnp.where(valid, relative, 0)),
    'squared': jnp.sum(jnp.where(valid, error**2, 0)),
    'within': jnp.stack(
      [
        jnp.sum(valid & (jnp.maximum(p / known, known / p) < 1.25**n))
        for n in _RATIOS
      ]
    ),
    'log': jnp.sum(log_ratio),
    'log_squared': jnp.sum(log_ratio**2),
  }


def _metrics(statistics):
  count = statistics['count']
  log = base.ratio(statistics['log'], count)
  variance = base.ratio(statistics['log_squared'], count) - log**2
  return {
    'abs_error': base.ratio(statistics['absolute'], count),
    'rel_error': base.ratio(statistics['relative'], count),
    'rmse': base.ratio(statistics['squared'], count) ** 0.5,
    **{
      f'delta_{n}': 100 * base.ratio(within, count)
      for n, within in zip(_RATIOS, statistics['within'], strict=True)
    },
    'si_log': 100 * float(np.sqrt(np.maximum(variance, 0))),
  }


def color_range(label: np.ndarray) -> tuple[float, float]:
  """The values of the first and the last color, of a label [h w (1)].

  They leave out the nearest and the farthest 2 % of the pixels.
  """
  known = label[label > 0]
  low, high = np.quantile(known, (0.02, 0.98)) if known.size else (0.0, 1.0)
  return float(low), float(high)


def shaded(shade: np.ndarray) -> np.ndarray:
  """The colors of numbers from 0, dark, to 1, light: float [... 3]."""
  knots = np.linspace(0, 1, len(_COLORS))
  return np.stack([np.interp(shade, knots, c) for c in _COLORS.T], axis=-1)


def render(
  x: np.ndarray, label: np.ndarray, *, far_is_large: bool = True
) -> np.ndarray:
  """Colors values above 0, [h w 1] or [h w], dark where they are near."""
  depth = (x[..., 0] if x.ndim == 3 else x).astype(np.float64)
  # Where there is no label, the prediction has a scale of its own.
  low, high = color_range(label if np.any(label > 0) else depth)
  shade = np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
  if not far_is_large:
    shade = 1 - shade
  rgb = shaded(shade)
  # A prediction may be negative; only an exact 0, or NaN, is a missing label.
  labeled = (depth != 0) & ~np.isnan(depth)
  return np.where(labeled[..., None], rgb, base.UNLABELED).astype(np.uint8)


def _nearer(values, scale):
  return values / np.float32(scale)


KIND = base.Kind(
  quantities=('depth',),
  describe=describe,
  make=make,
  augmentation=of_maps(zoomed=_nearer),
)
