"""The task contract: everything the rest needs to know about one task.

A task is a value (a frozen dataclass of functions), not a class to inherit
from. Losses are values per pixel (or image) and metrics are sums per batch, so
that one shared mean and one shared sum serve every task, every device layout
and every pattern of missing labels.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks.augmentation import Augmentation

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
    detail: whether it stands only in tables of all metrics.
  """

  title: str
  unit: str
  higher_is_better: bool
  in_gain: bool = True
  detail: bool = False


def detail(title: str, unit: str, higher_is_better: bool) -> Metric:
  """A metric that stands only in tables of all metrics, and in no gain."""
  return Metric(title, unit, higher_is_better, in_gain=False, detail=True)


Swatch = tuple[tuple[int, int, int], str]  # a color, and what it stands for


def squeezed(x):
  """A prediction of one channel without that axis; others as they are."""
  return x[..., 0] if x.shape[-1] == 1 else x


@dataclasses.dataclass(frozen=True)
class Form:
  """What predictions are given to users as, and what is kept of them.

  Attributes:
    finish: what a network gives, float [... h w c] or of an image [... c],
      NumPy or JAX -> the form that users get.
    finish_resized: (float [h w c], function that resizes one channel) -> the
      same of [h w] at another size, in less memory than all channels need; None
      to resize them all.
    meaning: what users get, in words.
    is_class: whether users get integers, the ids of classes.
    axes: of one prediction as users get it; '' for the axes of its label.
    tolerance: (raw [... c]) -> how much a finished value may move where a raw
      one moves by 1; None for as much.
    unfinish: (what users get of a batch, (height, width) of its images) ->
      something that is finished to it and can be resized, float [b h w c] or
      [b c]; None where that is the same with an axis of channels.
    rescale: (finished [h w c], (down, right) factors) -> the same of a picture
      that many times as large; None where numbers do not depend on its size.
    keep: float [... c] -> what is kept of it until it is drawn.
    restore: what is kept -> something with the same metrics, float [... c].
  """

  finish: Callable = squeezed
  finish_resized: Callable | None = None
  meaning: str = 'numbers'
  is_class: bool = False
  axes: str = ''
  tolerance: Callable | None = None
  unfinish: Callable | None = None
  rescale: Callable | None = None
  keep: Callable = np.asarray
  restore: Callable = np.asarray


@dataclasses.dataclass(frozen=True)
class Colors:
  """How pictures of a task are read, beside `Task.render`.

  Attributes:
    swatches: the colors that stand for something by themselves.
    ends: what the first and the last color of a scale stand for; ('', '')
      without one.
    bounds: label or finished prediction of one image -> the numbers that have
      the first and the last color of the scale; None without one.
    errors: (kept prediction, label) of one image -> float [h w], how wrong each
      pixel is; None where that cannot be said.
    error_unit: of these; None for the unit of the label.
    is_right_or_wrong: whether errors are 0 and 1.
    draw: (label or finished prediction, label, image float [h w 3]) -> uint8
      [h w 3], for labels that are no maps; None to call `render`.
  """

  swatches: Sequence[Swatch] = ()
  ends: tuple[str, str] = ('', '')
  bounds: Callable[[np.ndarray], tuple[float, float]] | None = None
  errors: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
  error_unit: str | None = None
  is_right_or_wrong: bool = False
  draw: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
  """One task; its name is the key of label, head, losses and metrics alike.

  The shape [b ...] is that of `valid`: [b h w] of a map, [b c] where every
  class or point may be missing by itself, [b] of an image.

  Attributes:
    name: the key, e.g. 'depth'.
    channels: number of channels c of the prediction [b h w c], or [b c] where
      it says something of the image as a whole.
    valid: label -> bool [b ...], False where there is no label.
    loss: (prediction, label) -> float32 [b ...]. Finite everywhere, whatever
      stands where there is no label.
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
    kind: of `KINDS`, which can make it again; '' for a task of one's own.
    options: of the kind, in plain values.
    head: of `models.HEADS`; '' for the head of the network, or the pooled one
      where the label is that of an image.
    is_classification: whether it tells classes apart, for balancers.
    augmentation: what augmentation does to its label; None for what it does to
      all of that quantity.
    form: what users get.
    colors: how its pictures are read.
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
  kind: str = ''
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  head: str = ''
  is_classification: bool = False
  augmentation: Augmentation | None = None
  form: Form = Form()
  colors: Colors = Colors()

  @property
  def higher_is_better(self) -> bool:
    """The direction of the headline metric."""
    return self.columns[self.headline].higher_is_better

  @property
  def is_map(self) -> bool:
    """Whether users get a number, or several, at every pixel."""
    return not self.form.axes and (self.label is None or self.label.is_map)

  @property
  def of_image(self) -> bool:
    """Whether it says something of the image as a whole."""
    return self.label is not None and 'image' in self.label.quantity

  def main_columns(self) -> dict[str, Metric]:
    """The columns of a table that is not one of all metrics."""
    return {m: c for m, c in self.columns.items() if not c.detail}

  def picture(
    self, x: np.ndarray, label: np.ndarray, image: np.ndarray
  ) -> np.ndarray:
    """A label, or what is kept of a prediction, in colors.

    Args:
      x: of one image.
      label: of that image; gives the scale of colors.
      image: float [h w 3] in [0, 1].

    Returns:
      uint8 [h w 3].
    """
    if self.colors.draw is None:
      return self.render(x, label)
    return self.colors.draw(x, label, image)


@dataclasses.dataclass(frozen=True)
class Kind:
  """What all tasks of one kind have in common.

  Attributes:
    quantities: of the labels that it learns.
    describe: makes the label of a task, of options that have defaults.
    make: (label, options that have defaults) -> the task.
    augmentation: what augmentation does to its labels: one rule, or quantity ->
      rule.
  """

  quantities: tuple[str, ...]
  describe: Callable[..., Label]
  make: Callable[..., Task]
  augmentation: Augmentation | Mapping[str, Augmentation]


def masked_mean(
  values: jax.Array, valid: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """Mean over the valid pixels of the global batch; 0 if there is none.

  Args:
    values: float [b ...], finite also where not valid.
    valid: bool [b ...].
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


widened = as_float32  # its name in files of earlier versions


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


def numpy_of(x):
  """`numpy` or `jax.numpy`, whichever an array belongs to."""
  return jnp if isinstance(x, jax.Array) else np


def sigmoid(x):
  """Probabilities of logits, NumPy or JAX."""
  return 0.5 + 0.5 * numpy_of(x).tanh(0.5 * x)
