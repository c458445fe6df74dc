"""Convolutions without the taps of their kernel that only ever read padding.

The pyramids of DeepLab have dilations as large as small maps, and larger: of
3x3 taps only the one in the middle ever reads the map. XLA multiplies all nine.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax


class Taps(NamedTuple):
  """The taps of one axis of a kernel that read the map for some output.

  Attributes:
    first: of them.
    end: one after the last of them.
    padding: (low, high) of the map, for a kernel of these taps alone.
  """

  first: int
  end: int
  padding: tuple[int, int]


def taps_on_map(
  side: int,
  taps: int,
  *,
  stride: int,
  dilation: int,
  padding: tuple[int, int],
) -> Taps:
  """Finds the taps of an axis that read more than padding.

  Args:
    side: of the map, in pixels.
    taps: of the kernel.
    stride: of the outputs, in pixels.
    dilation: distance of the taps, in pixels.
    padding: (low, high), in pixels.

  Returns:
    The taps; all of them where none reads the map.
  """
  low, high = padding
  outputs = (side + low + high - dilation * (taps - 1) - 1) // stride + 1
  # The positions on the map that a tap reads for the first and the last output.
  last = (outputs - 1) * stride
  live = [
    tap
    for tap in range(taps)
    if tap * dilation - low < side and tap * dilation - low + last >= 0
  ]
  if not live:
    return Taps(0, taps, padding)
  first, end = live[0], live[-1] + 1
  return Taps(
    first,
    end,
    (low - first * dilation, high - (taps - end) * dilation),
  )


def without_taps_on_padding(
  shape: Sequence[int],
  kernel: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  padding: Sequence[tuple[int, int]],
) -> tuple[jax.Array, tuple[tuple[int, int], tuple[int, int]]]:
  """The part of a kernel that reads the map, and the padding that it needs.

  Args:
    shape: of the map, [b h w c].
    kernel: [kh kw c d].
    strides: of the outputs, in pixels.
    dilations: distances of the taps, in pixels.
    padding: (low, high) of rows and of columns, in pixels.

  Returns:
    The part, and its padding (low, high) of rows and of columns.
  """
  rows, columns = (
    taps_on_map(
      shape[1 + axis],
      kernel.shape[axis],
      stride=strides[axis],
      dilation=dilations[axis],
      padding=tuple(padding[axis]),
    )
    for axis in range(2)
  )
  part = kernel[rows.first : rows.end, columns.first : columns.end]
  return part, (rows.padding, columns.padding)
