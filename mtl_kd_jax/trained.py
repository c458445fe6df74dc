"""A trained network, and what it predicts for a picture."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mtl_kd_jax.datasets import decode, files, paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.reports.plots import plot_balance
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.tasks.base import l2_normalize
from mtl_kd_jax.training.evaluation import Metrics


class Prediction(Mapping[str, np.ndarray]):
  """task -> what a network predicts for one picture of [h w] pixels.

  The tasks are attributes too: `prediction.depth`.

  Attributes:
    tasks: the tasks; `tasks['semantic'].label.classes` names the classes.
  """

  def __init__(
    self, arrays: Mapping[str, np.ndarray], tasks: Mapping[str, Task]
  ):
    self._arrays, self.tasks = dict(arrays), dict(tasks)

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


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
  """A network with its variables.

  Attributes:
    name: of the stage that trained it.
    network: the module.
    variables: {'params', ...}.
    tasks: the tasks that it predicts.
    image_size: (height, width) in pixels, of the images it was trained on.
    metrics: task -> metric -> value on the split that was reported, if known.
    workdir: the folder of the run.
    recalibrated_over: the number of batches that the statistics of BatchNorm
      were computed over with these weights: 0 for the running means of
      training, None without BatchNorm.
  """

  name: str
  network: Network
  variables: Any
  tasks: Mapping[str, Task]
  image_size: tuple[int, int]
  metrics: Metrics | None = None
  workdir: pathlib.Path | None = None
  recalibrated_over: int | None = 0

  def apply(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Predicts images; pure, for `jax.jit(network.apply)`.

    Args:
      variables: as `self.variables`.
      images: float32 [b h w 3] in [0, 1]; sides are multiples of the network's
        stride.

    Returns:
      task -> float [b h w c], as the network gives it.
    """
    return self.network.apply(variables, images, train=False).predictions

  def predict(self, image: Any) -> Prediction:
    """Predicts one picture of any size.

    It is brought to the size that the network was trained on, and what is
    predicted back to the picture's own.

    Args:
      image: the path of a PNG, JPEG or .npy file as the data set 'folder'
        reads them; a PIL image; or an array [h w 3] of bytes, or of floats in
        [0, 1].

    Returns:
      By task: class ids int32 [h w]; depth and other measurements float32
      [h w], in the unit of `tasks[...].label`; unit normals float32 [h w 3].

    Raises:
      InputError: it is no picture.
    """
    pixels = _read(image)
    size = pixels.shape[:2]
    outputs = self._compiled(
      self.variables, _resized(pixels, self.image_size)[None]
    )
    arrays = {
      name: np.asarray(_finished(task, resize_bilinear(outputs[name], size)[0]))
      for name, task in self.tasks.items()
    }
    return Prediction(arrays, self.tasks)

  def plot_conflict(self) -> Any:
    """A figure of how the gradients of its tasks compared while it trained.

    Returns:
      A matplotlib figure; None where nothing was measured, as for one task.
    """
    if self.workdir is None:
      return None
    log = [e for e in read_log(self.workdir) if e['stage'] == self.name]
    return plot_balance(log, self.tasks)

  def __repr__(self) -> str:
    return f'TrainedNetwork({self.name!r}: {", ".join(self.tasks)})'

  @functools.cached_property
  def _compiled(self):
    options = compiler_options(jax.default_backend())
    return jax.jit(self.apply, compiler_options=options)


def _finished(task: Task, x: jax.Array) -> jax.Array:
  """The output [h w c] of a task in the form of its label."""
  quantity = task.label.quantity
  if quantity == 'class':
    return jnp.argmax(x, axis=-1).astype(jnp.int32)
  if quantity == 'normal':
    return l2_normalize(x, eps=1e-12)
  return x[..., 0] if x.shape[-1] == 1 else x


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes float32 [h w c], smoothly where it gets smaller."""
  height, width = size
  channels = [
    Image.fromarray(x).resize((width, height), Image.BILINEAR)
    for x in np.moveaxis(pixels, -1, 0)
  ]
  return np.stack(channels, axis=-1)


def _read(image: Any) -> np.ndarray:
  """The pixels of a picture, float32 [h w 3] in [0, 1]."""
  if isinstance(image, str | os.PathLike):
    path = paths.expand(image, argument='image', kind='file')
    return files.as_colors(files.read_image(path))
  try:
    if isinstance(image, Image.Image):
      array = decode.pixels(image, colors=True)
    else:
      array = np.asarray(image)
  except decode.CannotUse as error:
    raise _no_picture(f'{error}', error.do) from error
  except Exception as error:
    # Pillow and NumPy raise many types, as for a file that is cut short.
    raise _no_picture(f'{error}' or type(error).__name__) from error
  found = f'{array.dtype} {list(array.shape)}'
  if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
    raise _no_picture(found)
  if array.dtype == np.uint8:
    return files.as_colors(array)
  if not np.issubdtype(array.dtype, np.floating):
    raise _no_picture(found)
  if not np.isfinite(array).all():
    raise _no_picture(f'{found} with NaN or infinite values')
  if array.min() < 0 or array.max() > 1:
    raise _no_picture(f'{found} from {array.min():g} to {array.max():g}')
  return array.astype(np.float32)


def _no_picture(found: str, do: str = '') -> InputError:
  return InputError(
    expected='a path, a PIL image, or an array [h w 3] of bytes, or of floats '
    'in [0, 1]',
    found=found,
    argument='image',
    do=do or 'convert it; for a batch, call apply',
  )
