"""Surface normals: cosine loss; mean and median angle, threshold shares."""

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import base
from mtl_kd_jax.tasks.augmentation import of_maps

# 0.05 degree wide: the median, interpolated inside its bin, is exact to 0.1.
_BINS = 3600
_WITHIN = (11.25, 22.5, 30.0)  # degrees, the thresholds of the literature


def describe() -> Label:
  """Describes a map of unit vectors."""
  return Label('normal')


def make(label: Label) -> base.Task:
  """Makes the task; predictions are scaled to unit length over channels.

  Loss: 1 - <prediction / |prediction|, label>, averaged over pixels with a
  label (not 0; one with NaN is none). (The KD4MTL code averages over pixels
  with a *depth* label instead; we follow the normals' own mask, as its
  successor does.)
  Metrics over all valid pixels of the split: mean and median angle in degrees,
  and the share of pixels whose angle is below 11.25, 22.5 and 30 degrees.
  """
  del label  # normals have one form only
  shares = {
    f'within_{limit:g}': base.Metric(f'<{limit:g}°', '%', True)
    for limit in _WITHIN
  }
  return base.Task(
    name='normals',
    channels=3,
    valid=_valid,
    loss=_loss,
    statistics=_statistics,
    metrics=_metrics,
    columns={
      'mean_angle': base.Metric('Mean', '°', False),
      'median_angle': base.Metric('Median', '°', False),
      **shares,
    },
    headline='mean_angle',
    render=_render,
    form=base.Form(
      finish=_finish,
      meaning='unit vectors in the frame of the camera',
      tolerance=lambda raw: (
        2 / np.maximum(np.linalg.norm(raw, axis=-1, keepdims=True), 1e-6)
      ),
    ),
    colors=base.Colors(swatches=_swatches(), errors=_errors, error_unit='°'),
  )


def _finish(x):
  return x / ((x * x).sum(axis=-1, keepdims=True) + 1e-12) ** 0.5


def _errors(prediction, label):
  p, y = prediction.astype(np.float64), label.astype(np.float64)
  sine = np.linalg.norm(np.cross(p, y), axis=-1)
  return np.degrees(np.arctan2(sine, (p * y).sum(axis=-1)))


def _swatches():
  axes = np.array([[[1, 0, 0], [0, -1, 0], [0, 0, -1]]], np.float32)
  names = ('+x (right)', '−y (up)', '−z (toward the camera)')
  colors = [tuple(int(x) for x in c) for c in _render(axes, axes)[0]]
  return list(zip(colors, names, strict=True))


def _valid(label):
  return jnp.any(label != 0, axis=-1) & ~jnp.any(jnp.isnan(label), axis=-1)


def _loss(prediction, label):
  # Where there is no label, the product of NaN with a gradient of 0 is NaN.
  known = jnp.where(_valid(label)[..., None], label, 0)
  return 1 - jnp.sum(_unit(prediction) * known, -1)


def _unit(prediction):
  return base.l2_normalize(base.as_float32(prediction), eps=1e-12)


def _angle(prediction, label):
  """Degrees [b h w]. atan2, since arccos loses small angles in float32."""
  p = _unit(prediction)
  sine = jnp.linalg.norm(jnp.cross(p, label), axis=-1)
  return jnp.degrees(jnp.arctan2(sine, jnp.sum(p * label, axis=-1)))


def _statistics(prediction, label, valid):
  angle = _angle(prediction, label)
  bins = jnp.clip(jnp.floor(angle * (_BINS / 180)), 0, _BINS - 1)
  bins = jnp.where(valid, bins.astype(jnp.int32), _BINS)
  below = {
    f'within_{limit:g}': jnp.sum(valid & (angle < limit)) for limit in _WITHIN
  }
  return {
    'count': jnp.sum(valid),
    'angle': jnp.sum(jnp.where(valid, angle, 0)),
    'histogram': jnp.bincount(bins.ravel(), length=_BINS + 1)[:-1],
    **below,
  }


def _metrics(statistics):
  count = statistics['count']
  return {
    'mean_angle': base.ratio(statistics['angle'], count),
    'median_angle': _median(np.asarray(statistics['histogram'], np.int64)),
    **{
      name: 100 * base.ratio(statistics[name], count)
      for name in (f'within_{limit:g}' for limit in _WITHIN)
    },
  }


def _median(histogram: np.ndarray) -> float:
  """The median angle in degrees: the mean of the two middle pixels.

  The pixels of a bin are taken to lie evenly in it.
  """
  total = histogram.sum()
  if total == 0:
    return float('nan')
  below = np.concatenate([[0], np.cumsum(histogram)])
  middle = np.array([(total - 1) // 2, total // 2])
  bins = np.searchsorted(below, middle, side='right') - 1
  inside = (middle - below[bins] + 0.5) / histogram[bins]
  return float((bins + inside).mean() * 180 / _BINS)


def _render(x, label):
  del label  # directions have one fixed coloring
  length = np.linalg.norm(x, axis=-1, keepdims=True)
  direction = x / np.maximum(length, 1e-12)
  # x right, y up and toward the camera as red, green and blue.
  rgb = 127.5 * (1 + direction * np.array([1, -1, -1]))
  return np.where(length > 0, rgb, base.UNLABELED).astype(np.uint8)


def _mirrored(values, label):
  del label
  return values * np.float32([-1, 1, 1])


KIND = base.Kind(
  quantities=('normal',),
  describe=describe,
  make=make,
  augmentation=of_maps(mirrored=_mirrored),
)
