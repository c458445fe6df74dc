"""How the labels of a kind of task are read: from files, or from a row.

A reader is made of the entries that a description has beside those of its kind
(docs/own_tasks.md): the parameters of the function of its quantity
(map_readers.py, row_readers.py).
"""

from collections.abc import Callable, Mapping
import inspect
import pathlib
from typing import Any

from mtl_kd_jax.datasets.folder import coco, map_readers, maps, row_readers
from mtl_kd_jax.datasets.folder.reader import Reader
from mtl_kd_jax.errors import InputError, hint
from mtl_kd_jax.labels import Label


def make_reader(
  name: str,
  label: Label,
  options: Mapping[str, Any],
  *,
  root: pathlib.Path | None,
) -> Reader:
  """Makes the reader of a task.

  Args:
    name: of the description in errors, 'maps.road'.
    label: what its label means.
    options: entries of the description, but 'files'.
    root: the folder; None where nothing is read.

  Raises:
    InputError: an entry is unknown or cannot be used.
  """
  if options.get('source'):
    return _annotated(name, label, options)
  make = _MAKERS[label.quantity]
  known = [*inspect.signature(make).parameters][3:]
  for key in options:
    if key not in known:
      raise InputError(
        expected=f'entries of the description, beside those of its kind: '
        f'{", ".join(["files", "source", *known])}',
        found=repr(key),
        argument=f'{name}.{key}',
        do=f'correct it{hint(key, known)} (docs/own_tasks.md)',
      )
  return make(name, label, root, **options)


def _annotated(name: str, label: Label, options: Mapping[str, Any]) -> Reader:
  """Of annotations, in place of a file for each picture."""
  others = dict(options)
  source, categories = others.pop('source'), others.pop('categories', ())
  if source != 'coco':
    raise maps.bad_option(f'{name}.source', "'coco', or ''", source)
  if others:
    key = next(iter(others))
    known = ('source', 'categories')
    raise InputError(
      expected=f'entries of a task of annotations: {", ".join(known)}',
      found=repr(key),
      argument=f'{name}.{key}',
      do=f'correct it{hint(key, known)} (docs/own_tasks.md)',
    )
  label, from_row = coco.make_from_row(name, label, categories=categories)
  return Reader(label, from_row=from_row, columns=(coco.COLUMN,))


_MAKERS: dict[str, Callable[..., Reader]] = {
  'class': map_readers.classes,
  'binary': map_readers.binary,
  'multilabel': map_readers.multilabel,
  'depth': map_readers.measured,
  'disparity': map_readers.measured,
  'normal': map_readers.normals,
  'regression': map_readers.numbers,
  'vector': map_readers.vectors,
  'heatmap': map_readers.heatmaps,
  'points': row_readers.points,
  'image_class': row_readers.image_class,
  'image_multilabel': row_readers.attributes,
  'image_regression': row_readers.image_numbers,
}
