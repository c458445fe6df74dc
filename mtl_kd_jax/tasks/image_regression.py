"""Numbers about the picture as a whole."""

from collections.abc import Sequence

import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _errors, _options, base
from mtl_kd_jax.tasks._drawing import draw_words
from mtl_kd_jax.tasks.augmentation import of_images, swap_channels


def describe(
  *,
  unit: str = '',
  channels: int = 1,
  names: Sequence[str] = (),
  pairs: Sequence[Sequence[int]] = (),
) -> Label:
  """Describes numbers about the picture; NaN is no label.

  Args:
    unit: of the numbers, for the tables.
    channels: how many there are.
    names: what each of them is called; () for none. Says their number, too.
    pairs: names, or numbers from 0, of two of them each that mirroring
      exchanges.
  """
  called = _options.names('names', names, fewest=0)
  count = len(called) or _options.count('channels', channels)
  return Label(
    'image_regression',
    unit=_options.text('unit', unit),
    classes=called,
    channels=count,
    pairs=_options.pairs(pairs, called or range(count)),
  )


def make(label: Label, *, loss: str = 'l1', delta: float = 1.0) -> base.Task:
  """Makes the task; its errors have the unit of `label`.

  Loss: 'l1', 'l2' or 'huber' of prediction - label, averaged over channels and
  images with a label.
  Metrics over the split: mean |p - y|, sqrt of mean (p - y)^2, and R².

  Args:
    label: of quantity 'image_regression'.
    loss: 'l1', 'l2' or 'huber'.
    delta: of 'huber': up to where it is a square, in the unit of the label.
  """
  names, unit = label.classes or ('',) * label.num_channels, label.unit

  def draw(x, label, image):
    del label
    numbers = [
      f'{name} {v:.3g} {unit}'.strip() if np.isfinite(v) else 'no label'
      for name, v in zip(names, x, strict=True)
    ]
    return draw_words(numbers, image)

  return base.Task(
    name='image_regression',
    channels=label.num_channels,
    valid=_errors.valid,
    loss=_errors.make_loss(loss, delta),
    statistics=_errors.statistics,
    metrics=_errors.metrics,
    columns=_errors.columns(unit),
    headline='abs_error',
    render=lambda x, y: draw(x, y, np.zeros((60, 80, 3))),
    form=base.Form(finish=lambda x: x, unfinish=lambda x, size: x, axes='c'),
    colors=base.Colors(draw=draw),
  )


KIND = base.Kind(
  quantities=('image_regression',),
  describe=describe,
  make=make,
  augmentation=of_images(mirrored=swap_channels),
)
