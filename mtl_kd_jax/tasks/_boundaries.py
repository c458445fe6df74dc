"""F1 of the borders between classes (Csurka et al. 2013).

A pixel is on the border of its class where one of its four neighbors has
another one. It is found where the other map has a border of the same class no
farther away than 0.75 % of the picture's diagonal, and at least a pixel.
"""

import jax
import jax.numpy as jnp
import numpy as np

_TOLERANCE = 0.0075  # of the diagonal


def boundary_counts(predicted, label, classes: int):
  """Counts border pixels of each class.

  Args:
    predicted: int [b h w], ids of classes; -1 where there is no label.
    label: int [b h w]; -1 for no label.
    classes: their number.

  Returns:
    int32 [4 classes]: border pixels of the prediction that are found in the
    label, all of them, and the same of the label in the prediction.
  """
  offsets = _offsets(label.shape[1:])
  one, two = _borders(predicted), _borders(label)
  return jnp.stack(
    [
      _count(jnp.where(chosen, ids, -1), classes)
      for ids, chosen in (
        (one, _found(one, two, offsets)),
        (one, one >= 0),
        (two, _found(two, one, offsets)),
        (two, two >= 0),
      )
    ]
  )


def mean_f1(counts: np.ndarray) -> float:
  """The mean over classes of F1 of precision and recall; NaN for no border.

  Classes without a border in both are left out.
  """
  found, predicted, recalled, labeled = np.asarray(counts, np.float64)
  seen = (predicted > 0) | (labeled > 0)
  if not seen.any():
    return float('nan')
  precision = found / np.maximum(predicted, 1)
  recall = recalled / np.maximum(labeled, 1)
  total = precision + recall
  f1 = 2 * precision * recall / np.where(total > 0, total, 1)
  return float(f1[seen].mean())


def _borders(ids):
  """The ids of pixels on a border, and -1 elsewhere."""
  border = jnp.zeros(ids.shape, bool)
  for axis in (1, 2):
    first, last = _ends(ids.ndim, axis)
    differs = (ids[last] != ids[first]) & (ids[last] >= 0) & (ids[first] >= 0)
    pad = [(0, 0)] * ids.ndim
    for side in ((0, 1), (1, 0)):
      pad[axis] = side
      border |= jnp.pad(differs, pad)
  return jnp.where(border, ids, -1)


def _ends(ndim, axis):
  first, last = [slice(None)] * ndim, [slice(None)] * ndim
  first[axis], last[axis] = slice(None, -1), slice(1, None)
  return tuple(first), tuple(last)


def _offsets(size) -> np.ndarray:
  """(row, column) of the pixels that are near enough, int [n 2], from 0."""
  radius = max(1.0, _TOLERANCE * float(np.hypot(*size)))
  reach = np.arange(-int(radius), int(radius) + 1)
  steps = np.stack(np.meshgrid(reach, reach, indexing='ij'), -1).reshape(-1, 2)
  return steps[np.hypot(*steps.T) <= radius] + int(radius)


def _found(ids, others, offsets):
  """Whether the same border is near in the other map, bool [b h w]."""
  reach = int(offsets.max()) // 2
  padded = jnp.pad(
    others, [(0, 0), (reach, reach), (reach, reach)], constant_values=-1
  )

  # A loop in the program, which is compiled once: there are hundreds of offsets
  # in a large picture.
  def look(found, offset):
    shifted = jax.lax.dynamic_slice(
      padded, (0, offset[0], offset[1]), ids.shape
    )
    return found | (shifted == ids), None

  found, _ = jax.lax.scan(look, jnp.zeros(ids.shape, bool), offsets)
  return found & (ids >= 0)


def _count(ids, classes):
  return jnp.bincount(
    jnp.where(ids < 0, classes, ids).ravel(), length=classes + 1
  )[:-1]
