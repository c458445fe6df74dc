"""Colors of classes, for maps that show classes as colors."""

from collections.abc import Mapping, Sequence
import csv
import json
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.datasets import files, option_checks, paths
from mtl_kd_jax.errors import InputError

Colors = Mapping[str, tuple[tuple[int, int, int], ...]]


def read_palette(path: pathlib.Path, *, argument: str = 'palette') -> Colors:
  """Class -> its colors, of a file.

  Args:
    path: of a .json, {"road": [128, 64, 128]}, or of a text file with a name
      and three numbers in every line, separated by commas or blanks. A class
      may have several lines. Lines that begin with # are left out, and so is a
      first line of titles.

    argument: names it in errors.

  Raises:
    InputError: there is none, or one color belongs to two classes.
  """

  def bad(expected, found):
    return _bad(path, expected, found, argument)

  found = paths.why_no_such_file(path)
  lines: list[tuple[str, Any]] = []
  if not found:
    try:
      text = path.read_text(encoding='utf-8-sig')
      if path.suffix.lower() == '.json':
        lines = [(k, v) for k, v in dict(json.loads(text)).items()]
      else:
        lines = list(_lines_of(text))
    except (OSError, RecursionError, TypeError, ValueError) as error:
      found = f'{error}'
  if not found and not lines:
    found = 'no color'
  if found:
    raise bad('a palette: a name and three numbers in a line', found)
  return check_palette(lines, bad)


def check_palette(entries, error) -> Colors:
  """Sorts (name, color) by name; raises error(expected, found)."""
  colors: dict[str, tuple[tuple[int, int, int], ...]] = {}
  owners: dict[tuple[int, int, int], str] = {}
  for name, color in entries:
    rgb = option_checks.as_tuple(color)
    if len(rgb) != 3 or not all(
      option_checks.is_whole(x) and 0 <= x <= 255 for x in rgb
    ):
      raise error('red, green and blue from 0 to 255', f'{name}: {color}')
    if owners.setdefault(rgb, name) != name:
      raise error('a color of one class', f'{rgb} of {owners[rgb]} and {name}')
    colors[name] = tuple(dict.fromkeys((*colors.get(name, ()), rgb)))
  return colors


def _lines_of(text: str):
  for number, line in enumerate(text.splitlines()):
    if not line.strip() or line.lstrip().startswith('#'):
      continue
    split = next(csv.reader([line])) if ',' in line else line.split()
    *names, r, g, b = (part.strip() for part in split)
    # The first line may have titles.
    if not number and not any(part.isdecimal() for part in (r, g, b)):
      continue
    where, color = f'line {number + 1}: {line.strip()}', (0, 0, 0)
    if len(names) > 1 and names[-1].isdecimal():
      raise ValueError(
        f'{where}: four numbers; leave alpha out, and write a name that ends '
        'in a number with commas: lane 2, 0, 128, 255'
      )
    try:
      color = (int(r), int(g), int(b))
    except ValueError:
      raise ValueError(where) from None
    yield ' '.join(names), color


class ColorTable:
  """Looks class ids up by their colors; picklable."""

  def __init__(self, ids: Mapping[tuple[int, int, int], int]):
    """Args: color -> class id; -1 for unlabeled."""
    packed = np.array([_pack(np.array(color)) for color in ids], np.int64)
    order = np.argsort(packed)
    self._packed = packed[order]
    self._ids = np.array([*ids.values()], np.int32)[order]

  def read(self, path: pathlib.Path, argument: str) -> np.ndarray:
    """Class ids int32 [h w] of a picture of colors."""
    if path.suffix.lower() in ('.jpg', '.jpeg'):
      raise files.bad_file(
        path,
        'colors as they were drawn, .png or .npy',
        'JPEG, whose compression changes colors',
        'store it as PNG',
      )
    image = files.read_array(path, colors=True)
    files.check_shape(path, image, (None, None, 3))
    packed = _pack(image.astype(np.int64))
    at = np.minimum(
      np.searchsorted(self._packed, packed), len(self._packed) - 1
    )
    unknown = self._packed[at] != packed
    if unknown.any():
      colors, counts = np.unique(packed[unknown], return_counts=True)
      most = [_unpack(c) for c in colors[np.argsort(-counts)][:3]]
      raise files.bad_file(
        path,
        'the colors of the palette',
        f'{", ".join(map(str, most))}{" ..." if len(colors) > 3 else ""}, at '
        f'{int(unknown.sum())} pixels',
        f'add the color to the palette in {argument}, or store maps without '
        'smoothed borders',
      )
    return self._ids[at]


def _pack(rgb: np.ndarray) -> np.ndarray:
  return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _unpack(packed: int) -> tuple[int, int, int]:
  return int(packed) >> 16, int(packed) >> 8 & 255, int(packed) & 255


def table_for(
  palette: Colors, classes: Sequence[str], error
) -> tuple[ColorTable, tuple[tuple[int, int, int], ...]]:
  """The table of some classes of a palette, and their colors.

  Colors of other names mean unlabeled.
  """
  missing = [name for name in classes if name not in palette]
  if missing:
    raise error(
      f'a color for every class, in the palette of {", ".join(palette)}',
      f'none for {", ".join(missing)}',
    )
  ids = {
    color: classes.index(name) if name in classes else -1
    for name, colors in palette.items()
    for color in colors
  }
  return ColorTable(ids), tuple(palette[name][0] for name in classes)


def _bad(path, expected, found, argument) -> InputError:
  return InputError(
    expected=expected,
    found=found,
    where=paths.as_text(path),
    argument=argument,
    do='correct the palette (docs/own_tasks.md)',
  )
