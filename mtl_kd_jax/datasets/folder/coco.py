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
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.datasets import option_checks, paths
from mtl_kd_jax.datasets.folder import maps
from mtl_kd_jax.datasets.folder.coco_shapes import COLUMN, draw_mask
from mtl_kd_jax.datasets.folder.rows import Row, Table
from mtl_kd_jax.errors import InputError, hint
from mtl_kd_jax.labels import Label

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
      drawn[draw_mask(row, item.shape, picture.size)] = of_class[item.category]
  return drawn


def _first(of_class):
  return next((c for c, i in of_class.items() if i == 0), '')


def _draw_channels(row, *, of_class, count, name):
  picture = _drawn_picture(row, name)
  _check_categories(row, picture, of_class, name)
  drawn = np.zeros((*picture.size, count), np.int32)
  for item in picture.items:
    if item.category in of_class:
      mask = draw_mask(row, item.shape, picture.size)
      drawn[mask, of_class[item.category]] = 1
  return drawn


def _draw_binary(row, *, chosen, name):
  picture = _drawn_picture(row, name)
  _check_categories(row, picture, chosen, name)
  drawn = np.zeros(picture.size, np.int32)
  for item in picture.items:
    if not chosen or item.category in chosen:
      drawn[draw_mask(row, item.shape, picture.size)] = 1
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


def _bad(where: str, expected: str, found: Any) -> InputError:
  return InputError(
    expected=expected,
    found=f'{found}'[:200],
    where=where,
    argument='coco',
    do='correct the file (docs/own_tasks.md)',
  )
