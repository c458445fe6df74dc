"""Keypoints: a heat map for each of several points in the picture."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _options, base
from mtl_kd_jax.tasks._drawing import draw_points
from mtl_kd_jax.tasks.augmentation import Augmentation, of_maps, swap_channels
from mtl_kd_jax.tasks.classes import palette_of, swatches

_WITHIN = (0.05, 0.1)  # shares of the longer side of the picture


def describe(
  *,
  points: int | Sequence[str] = 0,
  maps: bool = False,
  pairs: Sequence[Sequence[str]] = (),
) -> Label:
  """Describes points of the picture.

  Args:
    points: their number, or their names.
    maps: whether the labels are heat maps, one of every point and 0 where it is
      not; else they are positions.
    pairs: names, or numbers from 0, of two points each that are the same thing
      on the left and on the right.
  """
  names = () if _options.whole(points) else _options.members(points)
  if names:
    names = _options.names('points', names, fewest=1)
  elif not (_options.whole(points) and points > 0):
    raise _options.bad('points', 'the number of points, or their names', points)
  count = len(names) or int(points)  # type: ignore[arg-type]
  return Label(
    'heatmap' if maps else 'points',
    classes=names,
    channels=count,
    pairs=_options.pairs(pairs, names or range(count)),
  )


def make(label: Label, *, sigma: float = 2.0) -> base.Task:
  """Makes the task.

  The prediction is a map of scores of each point; the softmax over its pixels
  is where the point may be.
  Loss: the Kullback-Leibler divergence of it from a Gaussian around the point,
  or from the heat map of the label divided by its sum; averaged over the points
  that have a label. A point outside of the picture, as after a crop, has none.
  Metrics over all labeled points, where the largest score is taken for the
  point and that of a heat map for its label: PCK, the share of points no
  farther off than 5 and 10 % of the longer side of the picture; and the mean
  distance in pixels.

  Args:
    label: of quantity 'points' or 'heatmap'.
    sigma: of the Gaussian, in pixels of the prediction; for 'points'.
  """
  sigma = _options.factor('sigma', sigma)
  channels = label.num_channels
  names = label.classes or tuple(map(str, range(channels)))
  palette = palette_of(channels)
  return base.Task(
    name='heatmap',
    channels=channels,
    valid=_valid,
    loss=functools.partial(_loss, sigma=sigma),
    statistics=_statistics,
    metrics=lambda s: {
      **{
        _pck(share): 100 * base.ratio(hits, s['count'])
        for share, hits in zip(_WITHIN, s['hits'], strict=True)
      },
      'distance': base.ratio(s['distance'], s['count']),
    },
    columns={
      _pck(_WITHIN[0]): base.Metric('PCK', '%', True),
      _pck(_WITHIN[1]): base.detail('PCK@0.1', '%', True),
      'distance': base.Metric('Dist', 'px', False),
    },
    headline=_pck(_WITHIN[0]),
    render=lambda x, y: draw_points(
      _as_points(x), palette, np.zeros((*_size(x, y), 3), np.float32)
    ),
    form=base.Form(
      finish=_positions,
      meaning='x, y in pixels, and the probability of the most likely pixel',
      axes='c 3',
      unfinish=_maps_of,
      keep=lambda x: np.asarray(x, np.float16),
    ),
    colors=base.Colors(
      swatches=swatches(palette, names),
      draw=lambda x, y, image: draw_points(_as_points(x), palette, image),
    ),
  )


def _pck(share: float) -> str:
  return f'pck_{share:g}'


def _valid(label):
  """Which points have a label, bool [b c]."""
  if label.ndim == 3:
    return label[..., 2] > 0
  return (label >= 0).all((1, 2)) & (label > 0).any((1, 2))


def _loss(prediction, label, *, sigma):
  b, h, w, c = prediction.shape
  scores = base.as_float32(prediction).reshape(b, h * w, c)
  log_p = jax.nn.log_softmax(scores, axis=1)
  if label.ndim == 3:
    target = _gaussians(label, (h, w), sigma)
  else:
    target = jnp.maximum(label, 0)
  target = target.reshape(b, h * w, c)
  target /= jnp.maximum(jnp.sum(target, 1, keepdims=True), 1e-12)
  log_target = jnp.log(jnp.maximum(target, 1e-30))
  return jnp.sum(target * (log_target - log_p), axis=1)


def _gaussians(points, size, sigma):
  """float32 [b h w c], of points [b c 3]."""
  # [1 n 1], beside points [b 1 c].
  y, x = (jnp.arange(n, dtype=jnp.float32)[None, :, None] for n in size)
  known = points[..., 2] > 0
  # Where there is no label, the product of NaN with a gradient of 0 is NaN.
  at_x, at_y = (jnp.where(known, points[..., i], 0) for i in (0, 1))
  rows = jnp.exp(-0.5 * ((y - at_y[:, None]) / sigma) ** 2)
  columns = jnp.exp(-0.5 * ((x - at_x[:, None]) / sigma) ** 2)
  return rows[:, :, None] * columns[:, None]


def _positions(x):
  """x, y, probability [... c 3] of the highest scores of maps [... h w c]."""
  xp = base.numpy_of(x)
  *batch, h, w, c = x.shape
  flat = x.reshape(*batch, h * w, c)
  best, highest = flat.argmax(axis=-2), flat.max(axis=-2)
  total = xp.exp(flat - highest[..., None, :]).sum(axis=-2)
  # In floats, which all formats of programs can divide.
  best = best.astype(np.float32)
  row = xp.floor((best + 0.5) / w)
  place = [best - w * row, row, 1 / total]
  return xp.stack([p.astype(np.float32) for p in place], axis=-1)


def _maps_of(points, size):
  """Scores float32 [b h w c] of which `_positions` are points [b c 3]."""
  h, w = size
  x, y, p = np.moveaxis(np.asarray(points, np.float64), -1, 0)
  p = np.clip(p, 1e-6, 1 - 1e-6)
  b, c = np.indices(x.shape)
  maps = np.zeros((len(points), h, w, points.shape[1]), np.float32)
  maps[b, y.astype(int), x.astype(int), c] = np.log(p * (h * w - 1) / (1 - p))
  return maps


def _label_positions(label):
  """x, y [b c 2] of labels: points, or the highest value of heat maps."""
  return (label if label.ndim == 3 else _positions(label))[..., :2]


def _statistics(prediction, label, valid):
  longer = max(prediction.shape[1:3])
  off = _positions(base.as_float32(prediction))[..., :2]
  off = jnp.where(valid[..., None], off - _label_positions(label), 0)
  distance = jnp.linalg.norm(off, axis=-1)
  hits = [jnp.sum(valid & (distance <= s * longer)) for s in _WITHIN]
  return {
    'count': jnp.sum(valid),
    'hits': jnp.stack(hits),
    'distance': jnp.sum(jnp.where(valid, distance, 0)),
  }


def _as_points(x):
  """Points [c 3] of one image, of points or of maps [h w c]."""
  if x.ndim == 2:
    return x
  points = _positions(np.asarray(x, np.float32))
  # Of a label, which is -1 or 0 everywhere where there is none.
  points[(x <= 0).all((0, 1)) & (x.max((0, 1)) == x.min((0, 1))), 2] = 0
  return points


def _size(x, label):
  maps = [v for v in (x, label) if v.ndim == 3]
  if maps:
    return maps[0].shape[:2]
  reach = np.ceil(max(label[:, :2].max(initial=0), 15)) + 1
  return int(reach), int(reach)


def _moved(array, view, label):
  """Points in a view; those outside of it have no label."""
  del label
  points = np.zeros_like(array)
  place = view.place(array[:, :2].astype(np.float64))
  h, w = view.size
  inside = (place > -0.5).all(-1) & (place[:, 0] < w - 0.5)
  inside &= (place[:, 1] < h - 0.5) & (array[:, 2] > 0)
  points[inside, :2] = place[inside]
  points[inside, 2] = 1
  return points


def _mirrored(array, width, label):
  points = array[label.swapped]
  known = points[:, 2] > 0
  points[known, 0] = width - 1 - points[known, 0]
  return points


KIND = base.Kind(
  quantities=('points', 'heatmap'),
  describe=describe,
  make=make,
  augmentation={
    'points': Augmentation(_moved, _moved, _mirrored),
    'heatmap': of_maps(mirrored=swap_channels),
  },
)
