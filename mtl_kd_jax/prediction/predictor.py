"""Predicts pictures of any size, in batches of one compiled program."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.prediction.outputs import finish_at
from mtl_kd_jax.prediction.pictures import resized
from mtl_kd_jax.prediction.result import Prediction
from mtl_kd_jax.prediction.sizing import (
  Resize,
  Size,
  Sizing,
  Window,
  make_sizing,
  tile_weights,
)
from mtl_kd_jax.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
  """A network as pictures are predicted with it.

  Attributes:
    call: float32 [b h w 3] in [0, 1] -> task -> float [b h w c].
    tasks: the tasks that it predicts.
    image_size: (height, width) in pixels, of the images it was trained on.
    stride: what sides have to be multiples of; None for a network that takes
      `image_size` alone.
  """

  call: Callable[[np.ndarray], Mapping[str, Any]]
  tasks: Mapping[str, Task]
  image_size: Size
  stride: int | None = 1

  def sizing(self, *, resize: Resize = None, tile: Any = None) -> Sizing:
    """How pictures are brought to sizes that the network takes; checked."""
    return make_sizing(
      image_size=self.image_size, stride=self.stride, resize=resize, tile=tile
    )

  def predict(
    self,
    pictures: Iterable[tuple[np.ndarray, pathlib.Path | None]],
    sizing: Sizing,
    *,
    batch_size: int,
  ) -> Iterator[Prediction]:
    """Predicts pictures that are read, in their order.

    Args:
      pictures: (float32 [h w 3] in [0, 1], its file or None).
      sizing: of `self.sizing`.
      batch_size: number of pictures or tiles that the network sees at once. A
        batch that is not full is filled up, so that nothing is compiled for it.
    """
    canvases: list[_Canvas] = []
    pieces: list[tuple[_Canvas, Window, np.ndarray]] = []

    def flush() -> Iterator[Prediction]:
      self._predict_pieces(pieces, batch_size)
      pieces.clear()
      while canvases and not canvases[0].missing:
        yield canvases.pop(0).finish()

    for pixels, path in pictures:
      canvas = _Canvas(self.tasks, sizing, pixels, path)
      canvases.append(canvas)
      for window, piece in canvas.pieces():
        if pieces and pieces[0][2].shape != piece.shape:
          yield from flush()
        pieces.append((canvas, window, piece))
        if len(pieces) == batch_size:
          yield from flush()
    if pieces:
      yield from flush()

  def _predict_pieces(self, pieces, batch_size) -> None:
    images = [piece for _, _, piece in pieces]
    images += images[-1:] * (batch_size - len(images))
    outputs = {
      task: np.asarray(x, np.float32)
      for task, x in self.call(np.stack(images)).items()
    }
    for i, (canvas, window, _) in enumerate(pieces):
      canvas.add(window, {task: x[i] for task, x in outputs.items()})


class _Canvas:
  """What is predicted for one picture, put together of its pieces."""

  def __init__(
    self,
    tasks: Mapping[str, Task],
    sizing: Sizing,
    pixels: np.ndarray,
    path: pathlib.Path | None,
  ):
    self._tasks, self._path = tasks, path
    self._size: Size = pixels.shape[:2]
    self._image = np.rint(255 * pixels).astype(np.uint8)
    self._working = resized(pixels, sizing.working_size(self._size))
    self._windows = sizing.windows(self._working.shape[:2])
    self.missing = len(self._windows)
    self._weight: np.ndarray | None = None
    self._maps: dict[str, np.ndarray] = {}
    self._total = np.float32(0)  # of the weights of tiles, for whole pictures

  def pieces(self) -> Iterator[tuple[Window, np.ndarray]]:
    """The windows, and what the network sees of each."""
    for window in self._windows:
      yield window, window.cut(self._working)

  def add(self, window: Window, outputs: Mapping[str, np.ndarray]) -> None:
    """Adds what the network gives for a window, task -> [h w c]."""
    self.missing -= 1
    size = self._working.shape[:2]
    height, width = window.size
    outputs = {
      t: x[:height, :width] if x.ndim == 3 else x for t, x in outputs.items()
    }
    if len(self._windows) == 1:
      self._maps = outputs
      return
    if self._weight is None:
      self._weight = np.zeros((*size, 1), np.float32)
      self._maps = {
        t: np.zeros(
          (*size, x.shape[-1]) if x.ndim == 3 else x.shape, np.float32
        )
        for t, x in outputs.items()
      }
    weight = tile_weights(window.padded)[:height, :width, None]
    window.of(self._weight)[:] += weight
    self._total += weight.sum()
    for task, x in outputs.items():
      if x.ndim == 3:
        window.of(self._maps[task])[:] += weight * x
      else:  # of a picture, the mean of what is said of its tiles
        self._maps[task] += weight.sum() * x

  def finish(self) -> Prediction:
    """The prediction at the size of the picture."""
    arrays = {}
    for name, task in self._tasks.items():
      x = self._maps.pop(name)
      if self._weight is not None:
        x /= self._weight if x.ndim == 3 else self._total
      arrays[name] = finish_at(task, x, self._size)
    return Prediction(arrays, self._tasks, image=self._image, path=self._path)
