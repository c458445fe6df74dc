"""What a network gives, brought to a picture's size and a label's form."""

import numpy as np
from PIL import Image

from mtl_kd_jax.tasks import Task


def finish(task: Task, x):
  """The output of a task in the form that users get.

  Args:
    task: the task.
    x: float [... h w c], or [... c] of an image, as a network gives it; NumPy
      or JAX.

  Returns:
    As `task.form` says: class ids int32 [... h w]; unit vectors [... h w 3];
    measurements of one channel [... h w]; points [... c 3]; numbers [... c].
  """
  return task.form.finish(x)


def finish_at(task: Task, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """As `finish`, of one output that is resized first, if it is a map.

  What is resized are the numbers of the network: a class is the largest of the
  resized ones, and a normal is scaled to length one afterwards. Vectors are in
  pixels of the new size.

  Args:
    task: the task.
    x: float [h w c], or [c] of an image.
    size: (height, width) in pixels.
  """
  if x.ndim == 1 or x.shape[:2] == tuple(size):
    return finish(task, x)

  def resize(channel):
    return _resized(channel, size)

  if task.form.finish_resized is not None:
    return task.form.finish_resized(x, resize)
  channels = [resize(x[..., i]) for i in range(x.shape[-1])]
  finished = finish(task, np.stack(channels, axis=-1))
  if task.form.rescale is None:
    return finished
  return task.form.rescale(
    finished, (size[0] / x.shape[0], size[1] / x.shape[1])
  )


def _resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes float32 [h w]: bilinear, and averaged where it gets smaller."""
  image = Image.fromarray(np.ascontiguousarray(x, np.float32))
  return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
