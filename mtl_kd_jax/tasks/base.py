"""The task contract: everything the rest needs to know about one task.

A task is a value (a frozen dataclass of functions), not a class to inherit
from. Losses are values per pixel and metrics are sums per batch, so that one
shared mean and one shared sum serve every task, every device layout and every
pattern of missing labels.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label

Statistics = Mapping[str, Any]  # name -> array that adds up over batches

UNLABELED = (90, 90, 90)  # the color of pixels without a label


@dataclasses.dataclass(frozen=True)
class Metric:
  """How one number of the result table is read.

  Attributes:
    title: the heading of its column.
    unit: its unit; '' for a ratio.
    higher_is_better: its direction.
    in_gain: whether it is one of the metrics over which the literature
      averages (the conventions of CAGrad and of LibMTL).
  """

  title: str
  unit: str
  higher_is_better: bool
  in_gain: bool = True


@dataclasses.dataclass(frozen=True)
class Task:
  """One task; its name is the key of label, head, losses and metrics alike.

  Attributes:
    name: the key, e.g. 'depth'.
    channels: number of channels c of the prediction [b h w c].
    valid: label -> bool [b h w], False where the pixel has no label.
    loss: (prediction [b h w c], label) -> float32 [b h w]. Finite everywhere,
      whatever stands at pixels without a label.
    statistics: (prediction, label, valid) -> sufficient statistics of a batch:
      arrays that add up over batches and devices. Runs on the device.
    metrics: statistics of a whole split -> {metric name: float}; NaN where the
      split has no label at all. Runs on the host, in float64.
    columns: metric name -> how to read it, in the order of the table.
    headline: the metric that enters the relative gain, e.g. 'miou'.
    render: (label or prediction of one image [h w (c)], label of that image)
      -> uint8 [h w 3]; NumPy. The label gives the color scale, so that one
      color means the same in a whole row of pictures. Pixels without a label
      are gray.
    label: what the numbers of its label mean; set by `make_tasks`.
  """

  name: str
  channels: int
  valid: Callable[[jax.Array], jax.Array]
  loss: Callable[[jax.Array, jax.Array], jax.Array]
  statistics: Callable[[jax.Array, jax.Array, jax.Array], Statistics]
  metrics: Callable[[Statistics], dict[str, float]]
  columns: Mapping[str, Metric]
  headline: str
  render: Callable[[np.ndarray, np.ndarray], np.ndarray]
  label: Label = None  # type: ignore[assignment]

  @property
  def higher_is_better(self) -> bool:
    """The direction of the headline metric."""
    return self.columns[self.headline].higher_is_better


def masked_mean(
  values: jax.Array, valid: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """Mean over the valid pixels of the global batch; 0 if there is none.

  Args:
    values: float [b h w], finite also where not valid.
    valid: bool [b h w].
    axis_name: the mapped device axis, if any. The result is then this device's
      *share*: the sum over devices is the mean, and so is the sum of the
      gradients their gradient.

  Returns:
    Scalar, float32 (or float64 as `values`).
  """
  total = jnp.sum(jnp.where(valid, as_float32(values), 0))
  count = jnp.sum(valid, dtype=total.dtype)
  if axis_name is not None:
    count = jax.lax.psum(count, axis_name)
  return total / jnp.maximum(count, 1)


def as_float32(x: jax.Array) -> jax.Array:
  """As float32, whose range and precision losses need; float64 stays."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def l2_normalize(x: jax.Array, *, eps: float) -> jax.Array:
  """Scales `x` [... c] to length one over c: x / sqrt(|x|^2 + eps)."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + eps)


def merge(first: Statistics, second: Statistics) -> Statistics:
  """Adds the statistics of two batches, on the host and without overflow."""
  return jax.tree.map(lambda a, b: _wide(a) + _wide(b), first, second)


def ratio(total, count) -> float:
  """The quotient in float64, or NaN when nothing was counted."""
  return float(total) / float(count) if count > 0 else float('nan')


def _wide(x) -> np.ndarray:
  x = np.asarray(x)
  integer = np.issubdtype(x.dtype, np.integer)
  return x.astype(np.int64 if integer else np.float64)
