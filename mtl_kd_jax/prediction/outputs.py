"""What a network gives, brought to a picture's size and a label's form."""

import numpy as np
from PIL import Image

from mtl_kd_jax.tasks import Task


def finish(task: Task, x):
  """The output of a task in the form of its label.

  Args:
    task: the task.
    x: float [... h w c], as a network gives it; NumPy or JAX.

  Returns:
    As `x`: class ids int32 [... h w]; unit vectors [... h w 3]; measurements of
    one channel [... h w].
  """
  quantity = task.label.quantity
  if quantity == 'class':
    return x.argmax(axis=-1).astype(np.int32)
  if quantity == 'normal':
    return x / ((x * x).sum(axis=-1, keepdims=True) + 1e-12) ** 0.5
  return x[..., 0] if x.shape[-1] == 1 else x


def finish_at(task: Task, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """As `finish`, of one output that is resized first.

  What is resized are the numbers of the network: a class is the largest of the
  resized ones, and a normal is scaled to length one afterwards.

  Args:
    task: the task.
    x: float [h w c].
    size: (height, width) in pixels.
  """
  if x.shape[:2] == tuple(size):
    return finish(task, x)
  if task.label.quantity != 'class':
    channels = [_resized(x[..., i], size) for i in range(x.shape[-1])]
    return finish(task, np.stack(channels, axis=-1))
  # One class after the other: all of a large picture need much memory.
  best = _resized(x[..., 0], size)
  ids = np.zeros(size, np.int32)
  for i in range(1, x.shape[-1]):
    score = _resized(x[..., i], size)
    larger = score > best
    ids[larger] = i
    best = np.maximum(best, score)
  return ids


def _resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes float32 [h w]: bilinear, and averaged where it gets smaller."""
  image = Image.fromarray(np.ascontiguousarray(x, np.float32))
  return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
