"""What cropping, zooming, mirroring and resizing a picture do to its labels.

Every kind of task has such a rule (an `Augmentation`), which its file states.
The picture itself is the business of `datasets/augment.py` and
`datasets/resize.py`. NumPy only: the rules run where samples are read.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.labels import Label


class View(NamedTuple):
  """A part of a picture, as it is seen at another size.

  Attributes:
    rows: the row of the picture that each new row shows, the nearest one, int
      [h].
    columns: the same of columns, int [w].
    scale: (vertical, horizontal) new pixels to one of the picture.
    corner: (top, left) of the part, in pixels of the picture, from its edge.
  """

  rows: np.ndarray
  columns: np.ndarray
  scale: tuple[float, float]
  corner: tuple[float, float] = (0.0, 0.0)

  def pick(self, array: np.ndarray) -> np.ndarray:
    """The nearest pixels of a map [h w ...]; nothing is blended."""
    return array[np.ix_(self.rows, self.columns)]

  def place(self, points: np.ndarray) -> np.ndarray:
    """Where points (x, y) [n 2] are in the view.

    The edges of the part are the edges of the view, so that pixel centers, at
    whole numbers, are half a pixel from them.
    """
    corner = np.array(self.corner[::-1])
    return (points + 0.5 - corner) * self.scale[::-1] - 0.5

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the view."""
    return len(self.rows), len(self.columns)


def same(values: np.ndarray, label: Label) -> np.ndarray:
  """Values that mirroring does not change."""
  del label
  return values


def same_at(values: np.ndarray, scale) -> np.ndarray:
  """Values that do not depend on the scale at which they are seen."""
  del scale
  return values


def swap_classes(values: np.ndarray, label: Label) -> np.ndarray:
  """Class ids in a mirrored picture; -1 stays."""
  if not label.pairs:
    return values
  swapped = label.swapped.astype(values.dtype)
  return np.where(values < 0, values, swapped[np.maximum(values, 0)])


def swap_channels(values: np.ndarray, label: Label) -> np.ndarray:
  """Channels, the last axis, in a mirrored picture."""
  return values[..., label.swapped] if label.pairs else values


class Augmentation(NamedTuple):
  """The rule of a kind, as functions of a label's array.

  They return new arrays, or the same one where nothing changes. Functions of a
  module, so that the rule can be sent to the processes that read.

  Attributes:
    zoom: (array, view, label): a part of the picture is enlarged to its size.
      What appears larger is taken to be nearer.
    resize: (array, view, label): all of the picture is seen at another size,
      through the same lens.
    mirror: (array, width, label): left and right are exchanged.
  """

  zoom: Callable[[np.ndarray, View, Label], np.ndarray]
  resize: Callable[[np.ndarray, View, Label], np.ndarray]
  mirror: Callable[[np.ndarray, int, Label], np.ndarray]


class _Maps(NamedTuple):
  """See `of_maps`; its methods are the functions of the rule."""

  zoomed: Callable
  resized: Callable
  mirrored: Callable

  def zoom(self, array, view, label):
    del label
    # Zooming is the same in both directions.
    return self.zoomed(view.pick(array), view.scale[0])

  def resize(self, array, view, label):
    del label
    return self.resized(view.pick(array), view.scale)

  def mirror(self, array, width, label):
    del width
    return self.mirrored(np.ascontiguousarray(array[:, ::-1]), label)


def of_maps(
  *,
  zoomed: Callable[[np.ndarray, float], np.ndarray] = same_at,
  resized: Callable[[np.ndarray, tuple[float, float]], np.ndarray] = same_at,
  mirrored: Callable[[np.ndarray, Label], np.ndarray] = same,
) -> Augmentation:
  """The rule of labels [h w ...], which take the nearest pixel.

  Args:
    zoomed: (values, scale) -> values, of what is seen `scale` times as large.
    resized: (values, (vertical, horizontal scale)) -> values, of all of the
      picture at another size.
    mirrored: (values, label) -> values in a mirrored picture.
  """
  maps = _Maps(zoomed, resized, mirrored)
  return Augmentation(maps.zoom, maps.resize, maps.mirror)


class _Images(NamedTuple):
  """See `of_images`."""

  mirrored: Callable

  def zoom(self, array, view, label):
    del view, label
    return array

  def mirror(self, array, width, label):
    del width
    return self.mirrored(array, label)


def of_images(
  *, mirrored: Callable[[np.ndarray, Label], np.ndarray] = same
) -> Augmentation:
  """The rule of labels of a whole picture, which crops of it keep."""
  images = _Images(mirrored)
  return Augmentation(images.zoom, images.zoom, images.mirror)
