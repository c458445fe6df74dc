"""What a network predicts for one picture."""

from collections.abc import Iterator, Mapping
import importlib
import io
import os
import pathlib
import sys

import numpy as np
from PIL import Image, ImageShow

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, check_type, what_is
from mtl_kd_jax.prediction.write import write_prediction
from mtl_kd_jax.reports.plots import plot_prediction
from mtl_kd_jax.reports.plots.style import ReportFigure, png_of
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

  def render(
    self, task: str, *, like: 'Prediction | np.ndarray | None' = None
  ) -> np.ndarray:
    """The prediction of a task in colors.

    Args:
      task: the task.
      like: the prediction, or its values, that the colors of depth are scaled
        by, so that one color means the same in both; None for this one.

    Returns:
      uint8 [h w 3].

    Raises:
      InputError: the task is not predicted, or `like` is no prediction.
    """
    scale = self if like is None else like
    check_type(
      scale,
      (Prediction, np.ndarray),
      expected='a prediction, or its values',
      argument='like',
      do='give that of another network for the same picture',
    )
    for given in (self, scale):
      if isinstance(given, Prediction) and task not in given.tasks:
        raise InputError(
          expected=f'a task that is predicted: {", ".join(given)}',
          found=what_is(task),
          argument='task' if given is self else 'like',
          do='name one of those',
        )
    about = self.tasks[task]
    if isinstance(scale, Prediction):
      scale = scale[task]
    if scale.dtype.kind not in 'biuf':
      raise InputError(
        expected='numbers',
        found=f'{scale.dtype} {[*scale.shape]}',
        argument='like',
        do='give what another network predicts of this task',
      )
    x, scale = (
      # Of one channel, in the form of the label.
      p[..., None] if p.ndim == 2 and about.label.num_channels == 1 else p
      for p in (self._arrays[task], scale)
    )
    return about.picture(x, scale, self._picture())

  def _picture(self) -> np.ndarray:
    """The picture in [0, 1]; black where it is not kept."""
    if self.image is not None:
      return self.image.astype(np.float32) / 255
    return np.zeros((*self.size, 3))

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the picture, in pixels."""
    maps = [x for t, x in self.items() if self.tasks[t].is_map]
    if self.image is None and not maps:
      return 96, 128  # not known
    height, width = (maps[0] if self.image is None else self.image).shape[:2]
    return height, width

  def plot(self) -> ReportFigure:
    """A matplotlib figure: the picture, the predictions, and their legends."""
    return plot_prediction(
      self.image,
      self._arrays,
      {task: self.render(task) for task in self},
      self.tasks,
    )

  def show(self) -> None:
    """Shows `plot()`: in a notebook below the cell, else in a window.

    Raises:
      InputError: there is neither.
    """
    figure = self.plot()
    shell = getattr(sys.modules.get('IPython'), 'get_ipython', lambda: None)()
    if shell is not None and getattr(shell, 'kernel', None) is not None:
      importlib.import_module('IPython.display').display(figure)
      return
    if not ImageShow.show(Image.open(io.BytesIO(png_of(figure)))):
      raise InputError(
        expected='a notebook, or a desktop with a viewer of pictures',
        found='neither',
        where='prediction.show()',
        do='write files: prediction.save(folder)',
      )

  def save(
    self,
    folder: str | os.PathLike[str],
    *,
    raw: bool = True,
    overview: bool = True,
  ) -> pathlib.Path:
    """Writes the prediction into a folder, in the formats of `write.py`.

    Args:
      folder: made where it does not exist. Predictions that were saved in it
        before are replaced, and other files are never.
      raw: whether to write the arrays themselves, as .npy.
      overview: whether to write the figure of `plot()`.

    Returns:
      The folder.

    Raises:
      InputError: the folder has other files of these names, or cannot be
        written to.
    """
    path = paths.expand(folder, argument='folder')
    write_prediction(self, path, raw=raw, overview=overview)
    return path
