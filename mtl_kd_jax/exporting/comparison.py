"""Compares what an artifact gives with what the checkpoint gives."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.prediction.outputs import finish
from mtl_kd_jax.tasks import Task

# Of the largest number of an output of the network. Rounding in another order
# makes 1e-6 of it, and a wrong operation rarely less than 1e-2.
TOLERANCE = 1e-4


class Difference(NamedTuple):
  """How far an output is from the checkpoint's.

  Attributes:
    largest: absolute, in the unit of the output; of classes, the share of
      pixels with another class.
    text: the same in words.
    accepted: whether rounding explains it.
  """

  largest: float
  text: str
  accepted: bool


def compare(
  task: Task, found: np.ndarray, raw: np.ndarray, *, outputs: str
) -> Difference:
  """Compares one output of an artifact.

  A class may differ where the checkpoint's scores of both are almost equal, and
  a normal by as much as the tolerance turns the vector before it is scaled to
  length one.

  Args:
    task: the task.
    found: what the artifact gives.
    raw: what the checkpoint gives, float [b h w c].
    outputs: 'finished' or 'raw', as in `serving.make_serving`.
  """
  expected = raw if outputs == 'raw' else finish(task, raw)
  if found.shape != expected.shape or found.dtype != expected.dtype:
    text = (
      f'{found.dtype} {list(found.shape)} in place of '
      f'{expected.dtype} {list(expected.shape)}'
    )
    return Difference(float('inf'), text, accepted=False)
  tolerance = TOLERANCE * np.abs(raw).max()
  unit = task.label.unit
  if outputs == 'finished' and task.form.is_class:
    differs = found != expected
    known = (found >= 0) & (found < raw.shape[-1])
    scores = np.take_along_axis(raw, np.where(known, found, 0)[..., None], -1)
    gap = raw.max(axis=-1) - scores[..., 0]
    accepted = bool((known & (~differs | (gap <= 2 * tolerance))).all())
    text = f'{int(differs.sum())} of {differs.size} pixels of another class'
    return Difference(float(differs.mean()), text, accepted)
  difference = np.abs(found - expected)
  if outputs == 'finished' and task.form.tolerance is not None:
    tolerance = task.form.tolerance(raw) * tolerance + TOLERANCE
  accepted = bool((difference <= tolerance).all())  # not so for NaN
  largest = float(difference.max())
  return Difference(largest, f'{largest:.2g} {unit}'.rstrip(), accepted)


def compare_all(
  tasks: Mapping[str, Task],
  found: Mapping[str, np.ndarray],
  raw: Mapping[str, np.ndarray],
  *,
  outputs: str,
) -> dict[str, Difference]:
  """Compares all outputs, see `compare`."""
  return {
    name: compare(task, found[name], raw[name], outputs=outputs)
    for name, task in tasks.items()
  }


def made_pictures(size: tuple[int, int]) -> np.ndarray:
  """Pictures to compare on: two rooms, a gradient and noise.

  Args:
    size: (height, width) in pixels.

  Returns:
    uint8 [4 h w 3].
  """
  # Imported here because preparing data needs libraries that are slow to load.
  from mtl_kd_jax.datasets.scenes.dataset import render

  height, width = size
  rooms = [render(0, 'val', i, size)['image'] for i in range(2)]
  rows, columns = np.mgrid[
    0 : height - 1 : height * 1j, 0 : width - 1 : width * 1j
  ]
  gradient = np.stack(
    [rows / height, columns / width, (rows + columns) / (height + width)], -1
  )
  noise = np.random.default_rng(0).uniform(size=(height, width, 3))
  return as_bytes(np.stack([*rooms, gradient, noise]))


def as_bytes(images: np.ndarray) -> np.ndarray:
  """uint8 of colors in [0, 1]."""
  return np.rint(255 * np.asarray(images)).astype(np.uint8)
