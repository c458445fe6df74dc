"""What a network predicts for one picture."""

from collections.abc import Iterator, Mapping
import pathlib

import numpy as np

from mtl_kd_jax.tasks import Task


class Prediction(Mapping[str, np.ndarray]):
  """task -> what a network predicts for one picture of [h w] pixels.

  The tasks are attributes too: `prediction.depth`.

  Attributes:
    tasks: the tasks; `tasks['semantic'].label.classes` names the classes.
    image: the picture, uint8 [h w 3], upright; None where it is not kept.
    path: the file of the picture; None where it came from memory.
  """

  def __init__(
    self,
    arrays: Mapping[str, np.ndarray],
    tasks: Mapping[str, Task],
    *,
    image: np.ndarray | None = None,
    path: pathlib.Path | None = None,
  ):
    self._arrays, self.tasks = dict(arrays), dict(tasks)
    self.image, self.path = image, path

  def __getitem__(self, task: str) -> np.ndarray:
    return self._arrays[task]

  def __getattr__(self, task: str) -> np.ndarray:
    if task.startswith('_'):  # `copy` and `pickle` look before there are arrays
      raise AttributeError(task)
    if task not in self._arrays:
      raise AttributeError(
        f'no prediction of {task!r}; there are {", ".join(self._arrays)}'
      )
    return self._arrays[task]

  def __iter__(self) -> Iterator[str]:
    return iter(self._arrays)

  def __len__(self) -> int:
    return len(self._arrays)

  def __repr__(self) -> str:
    shown = [
      f'{t}: {x.dtype} {list(x.shape)} {self.tasks[t].label.unit}'.rstrip()
      for t, x in self._arrays.items()
    ]
    return f'Prediction({"; ".join(shown)})'

  def render(self, task: str) -> np.ndarray:
    """The prediction of a task in colors, uint8 [h w 3]."""
    x = self._arrays[task]
    if self.tasks[task].label.quantity in ('depth', 'disparity'):
      x = x[..., None]
    return self.tasks[task].render(x, x)
