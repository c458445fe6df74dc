"""`predict`, as networks have it: one picture, a list, or a folder."""

from collections.abc import Iterator, Sequence
import os
import pathlib
from typing import Any, overload

import numpy as np
from PIL import Image

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.option_checks import is_whole
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.pictures import (
  Picture,
  check_white,
  list_pictures,
  read_picture,
)
from mtl_kd_jax.prediction.predictor import Predictor
from mtl_kd_jax.prediction.result import Prediction
from mtl_kd_jax.prediction.sizing import Resize, Size, Sizing

_BATCH_SIZE = 8


class Predictions(Sequence[Prediction]):
  """What a network predicts for several pictures, computed on demand.

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
      ((read_picture(p, white=self._white), _path_of(p)) for p in pictures),
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
    batch_size = check_batch_size(batch_size, sizing)
    several = _several(image)
    if several is None:
      pixels = read_picture(image, white=white)
      batch_size = min(batch_size, sizing.count(pixels.shape[:2]))
      return next(
        self.predictor.predict(
          [(pixels, _path_of(image))], sizing, batch_size=batch_size
        )
      )
    if sizing.tile is None:
      batch_size = max(1, min(batch_size, len(several)))
    return Predictions(
      self.predictor,
      several,
      sizing=sizing,
      white=white,
      batch_size=batch_size,
    )


def check_batch_size(batch_size: int | None, sizing: Sizing) -> int:
  """The number of pictures or tiles that a network sees at once.

  Args:
    batch_size: the number that the caller wants, or None.
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


def _path_of(picture: Picture) -> pathlib.Path | None:
  """The file of a picture, if it has one."""
  if isinstance(picture, str | os.PathLike):
    return paths.expand(picture, argument='image', kind='file')
  return None


def _several(image: Any) -> list[Picture] | None:
  """The pictures of a list or of a folder; None for a single picture."""
  if isinstance(image, list | tuple):
    return [p for one in image for p in _in_folder(one) or [_one(one)]]
  return _in_folder(image)


def _in_folder(image: Any) -> list[Picture] | None:
  """The pictures of a folder; None where it is not the path of one."""
  if not isinstance(image, str | os.PathLike) or not os.fspath(image):
    return None
  path = paths.expand(image, argument='image', kind='file')
  if not path.is_dir():
    return None
  return [*list_pictures(paths.local(path, argument='image'))]


def _one(image: Any) -> Picture:
  if not isinstance(image, list | tuple):
    return image
  raise InputError(
    expected='a list of pictures: paths, PIL images or arrays [h w 3]',
    found=f'a {type(image).__name__} in it',
    argument='image',
    do='give one list; an array by np.asarray',
  )
