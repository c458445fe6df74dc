"""The size at which a network sees a picture, and the pieces it sees it in.

The edges of the picture are mapped onto the edges of what the network sees, as
in training. What a network cannot take whole is padded on the right and at the
bottom with the nearest pixels, which are cut off what it predicts.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from mtl_kd_jax.datasets.option_checks import is_whole
from mtl_kd_jax.errors import InputError

Size: TypeAlias = tuple[int, int]
Resize: TypeAlias = "Literal['train', 'keep'] | Size | None"

# Neighboring tiles share at least this part of their sides.
_OVERLAP = 0.25


class Window(NamedTuple):
  """A piece of a picture: where it is, and what of it is no padding.

  Attributes:
    top: the first row.
    left: the first column.
    size: (height, width) of what lies in the picture, in pixels.
    padded: (height, width) of what the network sees, in pixels.
  """

  top: int
  left: int
  size: Size
  padded: Size

  def cut(self, pixels: np.ndarray) -> np.ndarray:
    """The piece of a picture [h w c], padded."""
    piece = self.of(pixels)
    margin = [(0, p - s) for p, s in zip(self.padded, self.size, strict=True)]
    return np.pad(piece, [*margin, (0, 0)], mode='edge')

  def of(self, maps: np.ndarray) -> np.ndarray:
    """The part of maps [h w ...] that the window covers; a view."""
    height, width = self.size
    rows = slice(self.top, self.top + height)
    return maps[rows, self.left : self.left + width]


@dataclasses.dataclass(frozen=True)
class Sizing:
  """How pictures of any size are brought to what a network can take.

  Attributes:
    size: (height, width) that pictures are resized to; None for their own.
    tile: (height, width) of the tiles that these are cut into, or None.
    stride: sides of what the network sees are multiples of it.
  """

  size: Size | None
  tile: Size | None
  stride: int

  @property
  def one_shape(self) -> bool:
    """Whether the network always sees the same size."""
    return bool(self.size or self.tile)

  def working_size(self, size: Size) -> Size:
    """The size to which a picture of `size` is resized."""
    return self.size or size

  def count(self, size: Size) -> int:
    """The number of pieces that a picture of `size` is seen in."""
    return len(self.windows(self.working_size(size)))

  def windows(self, size: Size) -> list[Window]:
    """The pieces that a picture is seen in, after it is resized to `size`."""
    padded = self.tile or tuple(
      -(-s // self.stride) * self.stride for s in size
    )
    height, width = padded
    return [
      Window(
        top,
        left,
        size=(min(height, size[0] - top), min(width, size[1] - left)),
        padded=(height, width),
      )
      for top in tile_starts(size[0], height)
      for left in tile_starts(size[1], width)
    ]


def make_sizing(
  *, image_size: Size, stride: int | None, resize: Resize, tile: Any
) -> Sizing:
  """Checks and completes what is said of sizes.

  Args:
    image_size: (height, width) that the network was trained on, in pixels.
    stride: what sides have to be multiples of; None for a network that takes
      `image_size` alone.
    resize: 'train' for `image_size`, 'keep' for the picture's own size, or
      (height, width); None for 'keep' where there are tiles, else 'train'.
    tile: (height, width) of a tile, or one number for both; None for no tiles.

  Raises:
    InputError: there are no such sizes, or the network does not take them.
  """
  sides = None if tile is None else _check_tile(tile)
  if sides is not None:
    _check_fits(sides, 'tile', image_size, stride)
  if resize is None:
    resize = 'train' if sides is None else 'keep'
  if isinstance(resize, str):
    if resize not in ('train', 'keep'):
      raise _no_size(resize, 'resize', "'train', 'keep' or (height, width)")
    size = image_size if resize == 'train' else None
  else:
    size = _as_size(resize, 'resize', "'train', 'keep' or (height, width)")
  if sides is None and size is None and stride is None:
    raise _unfit('pictures of other sizes', 'resize', image_size, image_size)
  if sides is None and size is not None:
    _check_fits(size, 'resize', image_size, stride)
  return Sizing(size, sides, stride or 1)


def tile_starts(length: int, tile: int) -> list[int]:
  """Where tiles begin along a side: evenly, the last one ending with it.

  Args:
    length: of the side, in pixels.
    tile: the side of a tile, in pixels.
  """
  if length <= tile:
    return [0]
  step = max(1, int(tile * (1 - _OVERLAP)))
  count = -(-(length - tile) // step) + 1
  return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_weights(size: Size) -> np.ndarray:
  """How much each pixel of a tile counts: sin^2 along both sides, above 0.

  A network sees least around the border of a tile, where tiles meet.

  Args:
    size: (height, width) of the tile, in pixels.

  Returns:
    float32 [h w].
  """
  rows, columns = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in size)
  return np.outer(rows, columns).astype(np.float32)


def _check_tile(tile: Any) -> Size:
  if is_whole(tile):
    tile = (tile, tile)
  return _as_size(tile, 'tile', '(height, width) or one number for both')


def _as_size(value: Any, argument: str, expected: str) -> Size:
  sides = tuple(value) if isinstance(value, Sequence) else ()
  whole = [is_whole(s) and s > 0 for s in sides]
  if len(sides) != 2 or not all(whole):
    raise _no_size(value, argument, f'{expected}, in pixels from 1')
  return int(sides[0]), int(sides[1])


def _check_fits(
  size: Size, argument: str, image_size: Size, stride: int | None
) -> None:
  if stride is None:
    if size != tuple(image_size):
      raise _unfit(_text(size), argument, image_size, image_size)
  elif any(side % stride for side in size):
    fit = [max(stride, round(side / stride) * stride) for side in size]
    raise InputError(
      expected=f'sides that are multiples of {stride}, for this network',
      found=f'{_text(size)} (height x width)',
      argument=argument,
      do=f'choose such as {_text(fit)}',
    )


def _unfit(found: str, argument: str, image_size: Size, fit: Size):
  return InputError(
    expected=f'the only size that this network takes, {_text(image_size)}',
    found=found,
    argument=argument,
    do=f"resize='train' or tile=({fit[0]}, {fit[1]})",
  )


def _no_size(value: Any, argument: str, expected: str) -> InputError:
  return InputError(
    expected=expected,
    found=repr(value),
    argument=argument,
    do='correct it, or leave it out',
  )


def _text(size: Sequence[int]) -> str:
  return ' x '.join(map(str, size))
