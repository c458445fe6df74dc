"""Annotations in the format of COCO: one JSON file for the pictures of a split.

    images       id, file_name, height, width
    categories   id, name; keypoints: their names
    annotations  image_id, category_id; segmentation: polygons [[x, y, x, y ..]]
                 or run lengths; keypoints: [x, y, v ..], v 0 where not labeled

Polygons are in pixels from the upper left corner of the picture: its first
pixel is from 0 to 1. Key points are numbers of pixels: the center of the first
one is 0. The file is read once; a picture is drawn when it is read. Smaller
objects are drawn over larger ones.
"""

from collections.abc import Callable, Mapping
import functools
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.datasets import option_checks, paths
from mtl_kd_jax.datasets.folder import maps
from mtl_kd_jax.datasets.folder.rows import Row, Table
from mtl_kd_jax.errors import InputError, hint
from mtl_kd_jax.labels import Label

COLUMN = 'annotations'  # of the table that the file is read as
_KEY = 'file_name'


class Item(NamedTuple):
  """One object.

  Attributes:
    category: its name.
    shape: 'segmentation' as it stands in the file.
    points: x, y, v of its points, float [n 3]; [0 3] for none.
  """

  category: str
  shape: Any
  points: np.ndarray


class Picture(NamedTuple):
  """What a file says of one picture.

  Attributes:
    size: (height, width) in pixels.
    items: the objects; large ones first.
    categories: all of the file.
    drawn: whether the file has the shape of any object.
  """

  size: tuple[int, int]
  items: tuple[Item, ...]
  categories: frozenset[str]
  drawn: bool


def read_coco(path: pathlib.Path) -> Table:
  """Reads a file as a table of one row per picture.

  Raises:
    InputError: it cannot be read, or is none of this format.
  """
  where = paths.as_text(path)
  if found := paths.why_no_such_file(path):
    raise _bad(where, 'a JSON file in the format of COCO', found)
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    return _table(where, content)
  except (OSError, RecursionError, UnicodeDecodeError) as error:
    raise _bad(where, 'a JSON file', f'{error}') from error
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise _bad(
      where,
      'images, categories and annotations, as COCO has them',
      f'{type(error).__name__}: {error}',
    ) from error


def _table(where: str, content: Mapping[str, Any]) -> Table:
  categories = {c['id']: c['name'] for c in content['categories']}
  names = frozenset(categories.values())
  items: dict[Any, list[tuple[float, Item]]] = {}
  for annotation in content['annotations']:
    if annotation['category_id'] not in categories:
      raise _bad(
        f'{where}, annotation {annotation.get("id")}',
        'the id of a category',
        f'{annotation["category_id"]}',
      )
    points = np.reshape(annotation.get('keypoints') or [], (-1, 3))
    item = Item(
      categories[annotation['category_id']],
      annotation.get('segmentation') or [],
      points.astype(np.float64),
    )
    area = float(annotation.get('area') or _area(annotation))
    items.setdefault(annotation['image_id'], []).append((area, item))
  drawn = any(item.shape for of_one in items.values() for _, item in of_one)
  rows: dict[str, Row] = {}
  for number, image in enumerate(content['images'], start=1):
    of_image = sorted(
      items.pop(image['id'], []), key=lambda entry: entry[0], reverse=True
    )
    size, name = (int(image['height']), int(image['width'])), image[_KEY]
    if min(size) < 1 or not isinstance(name, str):
      raise _bad(
        f'{where}, image {image["id"]}',
        'a height and a width in pixels, and the name of a file',
        f'{size[0]} x {size[1]}, {name!r}',
      )
    picture = Picture(size, tuple(item for _, item in of_image), names, drawn)
    if name in rows:
      raise _bad(f'{where}, image {image["id"]}', 'different file names', name)
    rows[name] = Row(where, number, {_KEY: name, COLUMN: picture})
  if items:
    raise _bad(
      where,
      'annotations of the images in the file',
      f'one of the image {next(iter(items))}, which is not there',
    )
  if not rows:
    raise _bad(where, 'an image', 'none')
  return Table(where, (_KEY, COLUMN), _KEY, rows)


def _area(annotation: Mapping[str, Any]) -> float:
  """The area of an object that does not say it: that of its box."""
  shape = annotation.get('segmentation')
  if box := annotation.get('bbox'):
    return float(box[2]) * float(box[3])
  if isinstance(shape, list) and shape:
    x, y = np.reshape(np.concatenate(shape), (-1, 2)).T.astype(float)
    return float(np.ptp(x) * np.ptp(y))
  if isinstance(shape, Mapping) and isinstance(shape.get('counts'), list):
    return float(sum(shape['counts'][1::2]))
  return 0.0


def check_annotated(row: Row, size: tuple[int, int], why: str) -> None:
  """Checks that annotations are of a picture of the size of its file.

  Args:
    row: of the picture.
    size: (height, width) of the file in pixels.
    why: what may be the reason where they are not; '' for nothing known.

  Raises:
    InputError: they are of another size; what is drawn would be cut off, or
      stand in another place.
  """
  annotated = _picture(row).size
  if annotated != size:
    raise InputError(
      expected=f'a picture of {annotated[0]} x {annotated[1]} pixels (height x '
      'width), as its annotations say',
      found=f'{size[0]} x {size[1]}{why}',
      where=f'{row.table}, {row.values[_KEY]}',
      argument='coco',
      do='use the pictures that were annotated, or bring sizes and coordinates '
      'in the annotations to those of the files',
    )


# ---- Labels ------------------------------------------------------------------


def make_from_row(
  name: str, label: Label, *, categories: Any = ()
) -> tuple[Label, Callable[[Row], np.ndarray]]:
  """How the labels of a task are made of annotations.

  Args:
    name: of the description in errors, 'maps.road'.
    label: what its label means.
    categories: what counts as what: of 'class', 'multilabel' and
      'image_multilabel', {class: category or categories}, () for categories
      of the names of the classes; of 'binary' and 'points', the names of
      categories, () for all.

  Raises:
    InputError: it cannot be made of annotations.
  """
  if label.quantity in ('class', 'multilabel', 'image_multilabel'):
    of_class = _by_class(name, label, categories)
    if label.quantity == 'class':
      make = functools.partial(_draw_classes, of_class=of_class, name=name)
      return label, make
    make = functools.partial(
      _draw_channels if label.quantity == 'multilabel' else _say_which,
      of_class=of_class,
      count=label.num_channels,
      name=name,
    )
    return label, make
  chosen = option_checks.as_tuple(categories)
  if label.quantity == 'binary':
    return label, functools.partial(_draw_binary, chosen=chosen, name=name)
  if label.quantity == 'points':
    return label, functools.partial(
      _points, chosen=chosen, count=label.num_channels, name=name
    )
  raise InputError(
    expected='a kind of task that annotations of COCO have labels for: '
    'classes, binary, multilabel, heatmap, image_multilabel',
    found=f'labels of {label.quantity}',
    argument=f'{name}.source',
    do='read it from files or from the columns of a table',
  )


def _by_class(name: str, label: Label, categories: Any) -> dict[str, int]:
  """Category -> the number of its class."""
  if not categories:
    return {c: i for i, c in enumerate(label.classes)}
  if not hasattr(categories, 'items'):
    raise maps.bad_option(
      f'{name}.categories', "{'class': ('category', ..)}", categories
    )
  found = {}
  for class_name, names in categories.items():
    if class_name not in label.classes:
      raise maps.bad_option(
        f'{name}.categories',
        f'classes of the task: {", ".join(label.classes)}'
        f'{hint(class_name, label.classes)}',
        class_name,
      )
    names = (names,) if isinstance(names, str) else names
    found |= dict.fromkeys(names, label.classes.index(class_name))
  return found


def _draw_classes(row, *, of_class, name):
  """The first class is everything that no object covers."""
  picture = _drawn_picture(row, name)
  _check_categories(row, picture, of_class, name, but={_first(of_class)})
  drawn = np.zeros(picture.size, np.int32)
  for item in picture.items:
    if item.category in of_class:
      drawn[_mask(row, item, picture.size)] = of_class[item.category]
  return drawn


def _first(of_class):
  return next((c for c, i in of_class.items() if i == 0), '')


def _draw_channels(row, *, of_class, count, name):
  picture = _drawn_picture(row, name)
  _check_categories(row, picture, of_class, name)
  drawn = np.zeros((*picture.size, count), np.int32)
  for item in picture.items:
    if item.category in of_class:
      mask = _mask(row, item, picture.size)
      drawn[mask, of_class[item.category]] = 1
  return drawn


def _draw_binary(row, *, chosen, name):
  picture = _drawn_picture(row, name)
  _check_categories(row, picture, chosen, name)
  drawn = np.zeros(picture.size, np.int32)
  for item in picture.items:
    if not chosen or item.category in chosen:
      drawn[_mask(row, item, picture.size)] = 1
  return drawn


def _say_which(row, *, of_class, count, name):
  picture = _picture(row)
  _check_categories(row, picture, of_class, name)
  there = np.zeros(count, np.int32)
  for item in picture.items:
    if item.category in of_class:
      there[of_class[item.category]] = 1
  return there


def _points(row, *, chosen, count, name):
  """Those of the largest object that has any."""
  picture = _picture(row)
  _check_categories(row, picture, chosen, name)
  points = np.zeros((count, 3), np.float32)
  for item in picture.items:
    if (chosen and item.category not in chosen) or not item.points[:, 2:].any():
      continue
    if len(item.points) != count:
      raise row.error(
        COLUMN, f'{count} points of {item.category}', len(item.points)
      )
    known = item.points[:, 2] > 0
    points[known, :2], points[known, 2] = item.points[known, :2], 1
    break
  return points


def _picture(row: Row) -> Picture:
  return row.values[COLUMN]


def _drawn_picture(row: Row, name: str) -> Picture:
  """The picture; raises InputError where the file has no shapes at all."""
  picture = _picture(row)
  if picture.items and not picture.drawn:
    raise InputError(
      expected=f'the shapes of objects in {row.table}, as polygons or run '
      'lengths (segmentation)',
      found='none, of any object',
      argument=f'{name}.source',
      do="boxes say what is in a picture: use the kind 'image_multilabel', or "
      'read maps from files',
    )
  return picture


def _check_categories(row, picture, wanted, name, but=frozenset()) -> None:
  for category in wanted:
    if category not in picture.categories and category not in but:
      raise InputError(
        expected=f'categories of {row.table}: '
        f'{", ".join(sorted(picture.categories))}',
        found=repr(category),
        argument=f'{name}.categories',
        do=f'correct it{hint(category, picture.categories)}',
      )


# ---- Shapes ------------------------------------------------------------------


def _mask(row: Row, item: Item, size: tuple[int, int]) -> np.ndarray:
  """Where an object is, bool [h w]."""
  shape = item.shape
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


def _bad(where: str, expected: str, found: Any) -> InputError:
  return InputError(
    expected=expected,
    found=f'{found}'[:200],
    where=where,
    argument='coco',
    do='correct the file (docs/own_tasks.md)',
  )
