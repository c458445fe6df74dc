"""The pixels of an object: polygons and run lengths, as COCO has them."""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from mtl_kd_jax.datasets.folder.rows import Row

COLUMN = 'annotations'  # of the table that a file of annotations is read as


def draw_mask(row: Row, shape: Any, size: tuple[int, int]) -> np.ndarray:
  """Where an object is.

  Args:
    row: of the picture, for errors.
    shape: 'segmentation' as it stands in the file: polygons [[x, y, x, y ..]]
      in pixels, or run lengths.
    size: (height, width) in pixels.

  Returns:
    bool [h w].

  Raises:
    InputError: it is no such shape.
  """
  if isinstance(shape, Mapping):
    return _from_runs(row, shape, size)
  mask = np.zeros(size, bool)
  for polygon in shape:
    count = len(polygon) if isinstance(polygon, list) else 1
    if count < 6 or count % 2 or not all(map(_is_number, polygon)):
      raise row.error(
        COLUMN, 'polygons of three or more x, y: [[x, y, x, y ..], ..]', shape
      )
    mask |= _inside(np.reshape(np.asarray(polygon, float), (-1, 2)), size)
  return mask


def _is_number(x: Any) -> bool:
  return isinstance(x, int | float) and math.isfinite(x)


def _inside(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The pixels whose centers are in a polygon [n 2] of x, y; bool [h w]."""
  mask = np.zeros(size, bool)
  (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
  first, last = np.floor(y0.min()), np.ceil(y0.max())
  for line in range(max(0, int(first)), min(size[0], int(last))):
    y = line + 0.5
    crossing = (y0 <= y) != (y1 <= y)
    part = (y - y0[crossing]) / (y1 - y0)[crossing]
    edges = np.sort(x0[crossing] + part * (x1 - x0)[crossing])
    # Left of the first edge is outside, right of it inside, and so on.
    columns = np.clip(np.ceil(edges - 0.5), 0, size[1]).astype(int)
    for begin, end in columns.reshape(-1, 2):
      mask[line, begin:end] ^= True
  return mask


def _from_runs(row: Row, shape: Mapping[str, Any], size) -> np.ndarray:
  """Run lengths down the columns, of 0 and 1 in turn."""
  counts, of_size = shape.get('counts'), shape.get('size')
  if isinstance(counts, str):
    counts = _decode(row, counts)
  runs = isinstance(counts, list) and all(
    isinstance(n, int) and n >= 0 for n in counts
  )
  total = sum(counts) if runs else 'no'
  if of_size != [*size] or total != size[0] * size[1]:
    raise row.error(
      COLUMN,
      f'run lengths of {size[0]} x {size[1]} pixels',
      f'{total} pixels of the size {of_size}',
    )
  values = np.repeat(np.arange(len(counts)) % 2, counts)
  return values.reshape(size[::-1]).T.astype(bool)


def _decode(row: Row, text: str) -> list[int]:
  """Run lengths that are written as characters of six bits each.

  Five of them are digits, from the lowest on, and the sixth says that more
  follow; the last carries the sign. From the fourth number on, it is the
  difference to the number two before it.
  """
  counts: list[int] = []
  number = shift = 0
  for character in text:
    digit = ord(character) - 48
    if not 0 <= digit < 64:
      raise row.error(COLUMN, 'run lengths as COCO writes them', text[:40])
    number |= (digit & 0x1F) << shift
    shift += 5
    if digit & 0x20:
      continue
    if digit & 0x10:
      number -= 1 << shift
    if len(counts) > 2:
      number += counts[-2]
    counts.append(number)
    number = shift = 0
  return counts
