"""Predicts pictures of any size, in batches of one compiled program."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, overload

import numpy as np
from PIL import Image

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.option_checks import is_whole
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.outputs import finish_at
from mtl_kd_jax.prediction.pictures import (
  Picture,
  check_white,
  list_pictures,
  read_picture,
  resized,
)
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

_BATCH_SIZE = 8


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

  def pieces(self) -> Iterator[tuple[Window, np.ndarray]]:
    """The windows, and what the network sees of each."""
    for window in self._windows:
      yield window, window.cut(self._working)

  def add(self, window: Window, outputs: Mapping[str, np.ndarray]) -> None:
    """Adds what the network gives for a window, task -> [h w c]."""
    self.missing -= 1
    size = self._working.shape[:2]
    height, width = window.size
    outputs = {t: x[:height, :width] for t, x in outputs.items()}
    if len(self._windows) == 1:
      self._maps = outputs
      return
    if self._weight is None:
      self._weight = np.zeros((*size, 1), np.float32)
      self._maps = {
        t: np.zeros((*size, x.shape[-1]), np.float32)
        for t, x in outputs.items()
      }
    weight = tile_weights(window.padded)[:height, :width, None]
    window.of(self._weight)[:] += weight
    for task, x in outputs.items():
      window.of(self._maps[task])[:] += weight * x

  def finish(self) -> Prediction:
    """The prediction at the size of the picture."""
    arrays = {}
    for name, task in self._tasks.items():
      x = self._maps.pop(name)
      if self._weight is not None:
        x /= self._weight
      arrays[name] = finish_at(task, x, self._size)
    return Prediction(arrays, self._tasks, image=self._image, path=self._path)


class Predictions(Sequence[Prediction]):
  """What a network predicts for several pictures, when it is asked for.

  Iterating reads and predicts them in batches, and keeps none: a prediction of
  a large picture needs much memory. `list(predictions)` keeps them all. Taking
  one by its index, or iterating again, predicts again.

  Attributes:
    pictures: the pictures; for those of a folder, their paths.
  """

  def __init__(
    self,
    predictor: Predictor,
    pictures: Sequence[Picture],
    *,
    sizing: Sizing,
    white: float | None,
    batch_size: int,
  ):
    self.pictures = tuple(pictures)
    self._predictor, self._sizing = predictor, sizing
    self._white, self._batch_size = white, batch_size

  def __len__(self) -> int:
    return len(self.pictures)

  def __iter__(self) -> Iterator[Prediction]:
    return self._predict(self.pictures)

  @overload
  def __getitem__(self, index: int) -> Prediction: ...
  @overload
  def __getitem__(self, index: slice) -> 'Predictions': ...
  def __getitem__(self, index: int | slice) -> 'Prediction | Predictions':
    if isinstance(index, slice):
      return Predictions(
        self._predictor,
        self.pictures[index],
        sizing=self._sizing,
        white=self._white,
        batch_size=self._batch_size,
      )
    (prediction,) = self._predict([self.pictures[index]])
    return prediction

  def __repr__(self) -> str:
    return f'Predictions of {len(self)} pictures'

  def _predict(self, pictures) -> Iterator[Prediction]:
    return self._predictor.predict(
      ((read_picture(p, white=self._white), path_of(p)) for p in pictures),
      self._sizing,
      batch_size=self._batch_size,
    )


class PredictsPictures:
  """Adds `predict` to a class with a `predictor`."""

  @property
  def predictor(self) -> Predictor:
    """What predicts."""
    raise NotImplementedError

  # A path may be that of a folder, which a type cannot tell.
  @overload
  def predict(  # type: ignore[overload-overlap]
    self,
    image: 'str | os.PathLike[str]',
    *,
    resize: Resize = None,
    tile: 'int | Size | None' = None,
    white: float | None = None,
    batch_size: int | None = None,
  ) -> Prediction | Any: ...
  @overload
  def predict(
    self,
    image: Image.Image | np.ndarray,
    *,
    resize: Resize = None,
    tile: 'int | Size | None' = None,
    white: float | None = None,
    batch_size: int | None = None,
  ) -> Prediction: ...
  @overload
  def predict(
    self,
    image: Sequence[Picture],
    *,
    resize: Resize = None,
    tile: 'int | Size | None' = None,
    white: float | None = None,
    batch_size: int | None = None,
  ) -> Predictions: ...
  def predict(
    self,
    image: Any,
    *,
    resize: Resize = None,
    tile: 'int | Size | None' = None,
    white: float | None = None,
    batch_size: int | None = None,
  ) -> Any:
    """Predicts a picture of any size, or several.

    Args:
      image: the path of a PNG, JPEG, WebP, TIFF, BMP or .npy file; a PIL image;
        or an array [h w 3] of bytes, or of floats in [0, 1]. Or several: a list
        of these, or the path of a folder with pictures.
      resize: the size at which the network sees a picture: 'train', the size
        that it was trained on; 'keep', the picture's own, padded to what the
        network can take; or (height, width) in pixels. None for 'train', and
        for 'keep' with tiles. Only 'train' shows things as large as they were
        in training, up to the shape of the picture. Depth is not corrected for
        another scale: what appears twice as large is taken to be nearer.
      tile: (height, width) in pixels, or one number for both: cut the picture
        into such tiles, which overlap by at least a quarter, and blend what is
        predicted for them. For large pictures.
      white: the value that is white in pictures of more than 8 bits, which are
        refused without. In those of 8 bits it is 255.
      batch_size: number of pictures or tiles that the network sees at once.
        None for 8 at most; for one where pictures keep their own size.

    Returns:
      For one picture a `Prediction`, at its size. By task: class ids int32
      [h w]; depth and other measurements float32 [h w], in the unit of
      `tasks[...].label`; unit normals float32 [h w 3]. For several pictures
      `Predictions`, which are computed while they are iterated over.

    Raises:
      InputError: it is no picture, there is none in the folder, or the network
        cannot take such sizes.
    """
    sizing = self.predictor.sizing(resize=resize, tile=tile)
    check_white(white)
    pictures, single = _pictures(image)
    batch_size = check_batch_size(batch_size, sizing)
    if sizing.tile is None:
      batch_size = max(1, min(batch_size, len(pictures)))
    predictions = Predictions(
      self.predictor,
      pictures,
      sizing=sizing,
      white=white,
      batch_size=batch_size,
    )
    return predictions[0] if single else predictions


def check_batch_size(batch_size: int | None, sizing: Sizing) -> int:
  """The number of pictures or tiles that a network sees at once.

  Args:
    batch_size: what was asked for, or None.
    sizing: of the pictures. Where they keep their own sizes, which may be
      large, it is one by default.

  Raises:
    InputError: there is no such number.
  """
  if batch_size is None:
    return _BATCH_SIZE if sizing.one_shape else 1
  if not is_whole(batch_size) or batch_size < 1:
    raise InputError(
      expected='a number of pictures or tiles, from 1',
      found=repr(batch_size),
      argument='batch_size',
      do='correct it, or leave it out',
    )
  return batch_size


def path_of(picture: Picture) -> pathlib.Path | None:
  """The file of a picture, if it has one."""
  if isinstance(picture, str | os.PathLike):
    return paths.expand(picture, argument='image', kind='file')
  return None


def _pictures(image: Any) -> tuple[list[Picture], bool]:
  """The pictures of what was given, and whether that was a single one."""
  if isinstance(image, list | tuple):
    return [p for one in image for p in _in_folder(one) or [_one(one)]], False
  in_folder = _in_folder(image)
  return in_folder or [image], in_folder is None


def _in_folder(image: Any) -> list[Picture] | None:
  """The pictures of a folder; None where it is not the path of one."""
  if not isinstance(image, str | os.PathLike) or not os.fspath(image):
    return None
  path = paths.expand(image, argument='image', kind='file')
  return [*list_pictures(path)] if path.is_dir() else None


def _one(image: Any) -> Picture:
  if not isinstance(image, list | tuple):
    return image
  raise InputError(
    expected='a list of pictures: paths, PIL images or arrays [h w 3]',
    found=f'a {type(image).__name__} in it',
    argument='image',
    do='give one list; an array by np.asarray',
  )
