"""A trained network, and what it predicts for a picture."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.reports.plots import plot_balance
from mtl_kd_jax.runtime.metric_writer import read_log
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
  """

  name: str
  network: Network
  variables: Any
  tasks: Mapping[str, Task]
  image_size: tuple[int, int]
  metrics: Metrics | None = None
  workdir: pathlib.Path | None = None

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
      image: a path, a PIL image, or an array [h w 3] of bytes, or of floats in
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
    return jax.jit(self.apply)


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
  if isinstance(image, str | pathlib.Path):
    try:
      with Image.open(pathlib.Path(image).expanduser()) as opened:
        return _read(opened)
    except OSError as error:
      raise InputError(
        expected='a picture that can be read',
        found=f'{error}',
        where=f'{image}',
        do='correct the path, or save it as .png or .jpg',
      ) from error
  if isinstance(image, Image.Image):
    # Cameras store turned pictures as they are, with a note.
    image = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
  array = np.asarray(image)
  good = array.ndim == 3 and array.shape[-1] == 3 and array.size > 0
  if good and array.dtype == np.uint8:
    return array.astype(np.float32) / np.float32(255)
  if good and np.issubdtype(array.dtype, np.floating):
    if np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
      return array.astype(np.float32)
  raise InputError(
    expected='a path, a PIL image, or an array [h w 3] of bytes, or of floats '
    'in [0, 1]',
    found=f'{array.dtype} {list(array.shape)}'
    + (f' from {array.min()} to {array.max()}' if good else ''),
    argument='image',
    do='convert it; for a batch, call apply',
  )
