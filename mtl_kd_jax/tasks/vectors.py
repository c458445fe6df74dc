"""Vectors in the picture, in pixels, such as optical flow: right and down.

Zooming in makes them as much longer as what they belong to, and mirroring turns
right into left.
"""

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _errors, _options, base
from mtl_kd_jax.tasks.augmentation import of_maps

_LOSSES = ('endpoint', *_errors.LOSSES)
# KITTI's outliers: farther away than so many pixels, and than this share of the
# true length.
_FAR, _FAR_SHARE = 3.0, 0.05


def describe(*, unit: str = 'px') -> Label:
  """Describes a map of vectors (right, down) in pixels; NaN is no label.

  Args:
    unit: for the tables.
  """
  return Label('vector', unit=_options.text('unit', unit))


def make(
  label: Label, *, loss: str = 'endpoint', delta: float = 1.0
) -> base.Task:
  """Makes the task.

  Loss: 'endpoint', the length of prediction - label, or the 'l1', 'l2' or
  'huber' of its two components; averaged over pixels with a label.
  Metrics over the split: the mean endpoint error; the share of outliers of
  KITTI, more than 3 pixels and 5 % off; and the mean angle between (p, 1) and
  (y, 1) (Barron et al. 1994).

  Args:
    label: of quantity 'vector'.
    loss: 'endpoint', 'l1', 'l2' or 'huber'.
    delta: of 'huber', in pixels.
  """
  _options.one_of('loss', loss, _LOSSES)
  return base.Task(
    name='vectors',
    channels=2,
    valid=_errors.valid,
    loss=_endpoint_loss
    if loss == 'endpoint'
    else _errors.make_loss(loss, delta),
    statistics=_statistics,
    metrics=lambda s: {
      'endpoint_error': base.ratio(s['length'], s['count']),
      'outliers': 100 * base.ratio(s['outliers'], s['count']),
      'angle': base.ratio(s['angle'], s['count']),
    },
    columns={
      'endpoint_error': base.Metric('EPE', label.unit, False),
      'outliers': base.Metric('Fl', '%', False),
      'angle': base.detail('AAE', '°', False),
    },
    headline='endpoint_error',
    render=_render,
    form=base.Form(
      meaning='vectors to the right and down, in pixels', rescale=_resized
    ),
    colors=base.Colors(
      swatches=_swatches(),
      errors=lambda x, y: np.linalg.norm(x.astype(np.float64) - y, axis=-1),
    ),
  )


def _endpoint_loss(prediction, label):
  error = _errors.difference(prediction, label)
  squared = jnp.sum(error**2, axis=-1)
  # The root has no gradient at 0.
  return jnp.sqrt(squared + 1e-12) - 1e-6


def _statistics(prediction, label, valid):
  error = _errors.difference(prediction, label)
  y = jnp.where(valid[..., None], label, 0)
  p = y + error
  length = jnp.linalg.norm(error, axis=-1)
  far = (length > _FAR) & (length > _FAR_SHARE * jnp.linalg.norm(y, axis=-1))
  one = jnp.ones_like(y[..., :1])
  p, y = jnp.concatenate([p, one], -1), jnp.concatenate([y, one], -1)
  sine = jnp.linalg.norm(jnp.cross(p, y), axis=-1)
  angle = jnp.degrees(jnp.arctan2(sine, jnp.sum(p * y, axis=-1)))
  return {
    'count': jnp.sum(valid),
    'length': jnp.sum(jnp.where(valid, length, 0)),
    'outliers': jnp.sum(valid & far),
    'angle': jnp.sum(jnp.where(valid, angle, 0)),
  }


def _render(x, label):
  """Direction as hue, and length as how strong the color is."""
  length = np.linalg.norm(x.astype(np.float64), axis=-1)
  scale = np.linalg.norm(label.astype(np.float64), axis=-1)
  scale = scale if np.isfinite(scale).any() else length
  finite = scale[np.isfinite(scale)]
  most = np.quantile(finite, 0.98) if finite.size else 1
  strength = np.clip(np.nan_to_num(length) / max(most, 1e-6), 0, 1)[..., None]
  hue = np.arctan2(*np.nan_to_num(x.astype(np.float64)).T[::-1]).T
  # Three cosines a third of a turn apart.
  turns = hue[..., None] - np.array([0, 2, 4]) * np.pi / 3
  rgb = 255 * (1 - strength * (0.5 - 0.5 * np.cos(turns)))
  known = ~np.isnan(x).any(axis=-1, keepdims=True)
  return np.where(known, rgb, base.UNLABELED).astype(np.uint8)


def _swatches():
  axes = np.array([[[1, 0], [-1, 0], [0, -1], [0, 1]]], np.float32)
  names = ('right', 'left', 'up', 'down')
  colors = [tuple(int(x) for x in c) for c in _render(axes, axes)[0]]
  return list(zip(colors, names, strict=True))


def _scaled(values, scale):
  return values * np.float32(scale)


def _resized(values, scale):
  return values * np.float32(scale[::-1])


def _mirrored(values, label):
  del label
  return values * np.float32([-1, 1])


KIND = base.Kind(
  quantities=('vector',),
  describe=describe,
  make=make,
  augmentation=of_maps(zoomed=_scaled, resized=_resized, mirrored=_mirrored),
)
