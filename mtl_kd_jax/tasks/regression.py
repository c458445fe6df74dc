"""Numbers at every pixel, in any number of channels."""

from collections.abc import Sequence
import functools

import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _errors, _options, base
from mtl_kd_jax.tasks.augmentation import of_maps, swap_channels
from mtl_kd_jax.tasks.depth import shaded


def describe(
  *,
  unit: str = '',
  channels: int = 1,
  pairs: Sequence[Sequence[int]] = (),
) -> Label:
  """Describes a map of numbers; NaN is no label.

  Args:
    unit: of the values, for the tables.
    channels: how many numbers each pixel has.
    pairs: the numbers, from 0, of two channels each that mirroring exchanges.
  """
  count = _options.count('channels', channels)
  return Label(
    'regression',
    unit=_options.text('unit', unit),
    channels=count,
    pairs=_options.pairs(pairs, range(count)),
  )


def make(label: Label, *, loss: str = 'l1', delta: float = 1.0) -> base.Task:
  """Makes the task; its errors have the unit of `label`.

  Loss: 'l1', 'l2' or 'huber' of prediction - label, averaged over channels and
  pixels with a label in all channels.
  Metrics over the split: mean |p - y|, sqrt of mean (p - y)^2, and R².

  Args:
    label: of quantity 'regression'.
    loss: 'l1', 'l2' or 'huber'.
    delta: of 'huber': up to where it is a square, in the unit of the label.
  """
  channels = label.num_channels
  return base.Task(
    name='regression',
    channels=channels,
    valid=_errors.valid,
    loss=_errors.make_loss(loss, delta),
    statistics=_errors.statistics,
    metrics=_errors.metrics,
    columns=_errors.columns(label.unit),
    headline='abs_error',
    render=functools.partial(_render, channels=channels),
    colors=base.Colors(
      ends=('low', 'high') if channels == 1 else ('', ''),
      bounds=_bounds if channels == 1 else None,
      errors=lambda x, y: np.abs(x.astype(np.float64) - y).mean(axis=-1),
    ),
  )


def _bounds(values):
  known = values[np.isfinite(values)]
  low, high = np.quantile(known, (0.02, 0.98)) if known.size else (0.0, 1.0)
  return float(low), float(high)


def _render(x, label, *, channels):
  """One channel as shades, others as red, green and blue."""
  x, label = (v if v.ndim == 3 else v[..., None] for v in (x, label))
  scale = label if np.isfinite(label).any() else x
  layers = []
  for i in range(min(channels, 3)):
    low, high = _bounds(scale[..., i])
    shade = (x[..., i].astype(np.float64) - low) / max(high - low, 1e-6)
    layers.append(np.clip(np.nan_to_num(shade), 0, 1))
  if channels == 1:
    rgb = shaded(layers[0])
  else:
    layers += [np.zeros_like(layers[0])] * (3 - len(layers))
    rgb = 30 + 225 * np.stack(layers, axis=-1)
  known = ~np.isnan(x).any(axis=-1)
  return np.where(known[..., None], rgb, base.UNLABELED).astype(np.uint8)


KIND = base.Kind(
  quantities=('regression',),
  describe=describe,
  make=make,
  augmentation=of_maps(mirrored=swap_channels),
)
