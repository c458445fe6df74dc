"""Tables and annotations of COCO in a folder, for a draft."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.folder.coco import COLUMN, Picture, read_coco
from mtl_kd_jax.datasets.folder.rows import SUFFIXES, Table, read_table
from mtl_kd_jax.datasets.guess.draft import Draft, Task, free_name
from mtl_kd_jax.datasets.guess.splits import split_in, split_of_word
from mtl_kd_jax.datasets.guess.tables import (
  guess_columns,
  key_column,
  named_frames,
  other_separator,
)
from mtl_kd_jax.datasets.guess.tree import Parts, by_folder
from mtl_kd_jax.errors import InputError

_MOST_IN_A_FOLDER = 20  # more are of one picture each
_FILE_NAME = 'file_name'  # of pictures in annotations


def add_tables(draft: Draft, found: Sequence[Parts]) -> list[Parts]:
  """Adds the tasks of a table, .csv or .jsonl.

  Args:
    draft: of the folder.
    found: paths of files that are no maps.

  Returns:
    The files that were looked at.
  """
  patterns, looked_at = _patterns(draft, found, SUFFIXES)
  for pattern, by_split in patterns.items():
    if why := _why_not_here(draft, pattern, by_split) or _add_table(
      draft, pattern, by_split
    ):
      draft.notes.append(f'{pattern}: not used ({why})')
  return looked_at


def add_coco(draft: Draft, found: Sequence[Parts]) -> list[Parts]:
  """As `add_tables`, of annotations in the format of COCO."""
  patterns, looked_at = _patterns(draft, found, ('.json',))
  others = []
  for pattern, by_split in patterns.items():
    try:
      tables = {s: read_coco(draft.root / p) for s, p in by_split.items()}
    except InputError as error:
      if why := _why_no_coco([draft.root / p for p in by_split.values()]):
        draft.notes.append(f'{pattern}: not used ({why}: {error.found})')
      else:
        others += by_split.values()
      continue
    if why := _why_not_here(draft, pattern, by_split) or _add_annotations(
      draft, pattern, tables, by_split
    ):
      draft.notes.append(f'{pattern}: not used ({why})')
  names = {*others}
  return [parts for parts in looked_at if '/'.join(parts) not in names]


def _patterns(
  draft: Draft, found: Sequence[Parts], suffixes: Sequence[str]
) -> tuple[dict[str, dict[str, str]], list[Parts]]:
  """Pattern -> split -> path; and the files that are meant."""
  patterns: dict[str, dict[str, str]] = {}
  looked_at = []
  for (_, ending), files in by_folder(found, lambda x: x).items():
    if ending.lower() in suffixes and len(files) <= _MOST_IN_A_FOLDER:
      looked_at += files
      for path in map('/'.join, files):
        split, pattern = split_in(path, draft.folders)
        patterns.setdefault(pattern, {})[split] = path
  return dict(sorted(patterns.items())), looked_at


def _why_not_here(draft: Draft, pattern: str, by_split) -> str:
  """Why a table cannot be used, for all that its place says."""
  if 'rows' in draft.options or 'coco' in draft.options:
    return 'one table is enough'
  if '{split}' not in pattern:
    return ''
  if not draft.pictures.has_splits:
    return 'for a split, and the pictures are in no folders of splits'
  missing = draft.folders.keys() - by_split.keys() - {'test'}
  return f'there is none for {", ".join(sorted(missing))}' if missing else ''


def _leave_test(draft: Draft, pattern: str, by_split) -> None:
  """Where only the split test lacks a table, its pictures are left out."""
  if '{split}' in pattern and 'test' in draft.folders.keys() - by_split.keys():
    draft.drop_test(f'it has no {pattern}')


# ---- Tables ------------------------------------------------------------------


def _add_table(draft: Draft, pattern: str, by_split) -> str:
  """Adds a table; returns why not."""
  tables = {}
  for split, path in by_split.items():
    try:
      tables[split] = read_table(draft.root / path)
    except InputError as error:
      return f'{path}: {error.found}' if len(by_split) > 1 else error.found
  table = _joined(tables)
  if mark := other_separator(table):
    return f'one column; separated by {mark!r}?'
  key = key_column(table, draft.pictures.all_frames)
  if not key:
    return 'no column names the pictures'
  tasks, unused = guess_columns(table, key, draft.tasks)
  for column, reason in unused.items():
    draft.notes.append(
      f'{pattern}, column {paths.as_text(column)}: not used ({reason})'
    )
  if not tasks:
    return 'no column that could be labels'
  split = 'split' in table.columns
  if split and (why := _use_splits(draft, table)):
    return why
  _leave_test(draft, pattern, by_split)
  draft.tasks |= tasks
  draft.options |= {'rows': pattern, 'picture': key}
  if not split or draft.pictures.has_splits:
    draft.allow_missing(pattern, _count_named(draft, pattern, tables, key))
  return ''


def _joined(tables: Mapping[str, Table]) -> Table:
  """The rows of all splits."""
  rows = {
    f'{split}/{name}': row
    for split, table in tables.items()
    for name, row in table.rows.items()
  }
  return dataclasses.replace(next(iter(tables.values())), rows=rows)


def _count_named(draft: Draft, pattern: str, tables, key: str) -> int:
  """How many pictures the rows of tables name."""
  count = 0
  for split, table in tables.items():
    names = {
      name
      for of, name in draft.pictures.members
      if of == split or '{split}' not in pattern
    }
    values = [row.get(key) for row in table.rows.values()]
    named = named_frames(values, names)
    count += sum(
      name in named and (of == split or '{split}' not in pattern)
      for of, name in draft.pictures.members
    )
  return count


def _use_splits(draft: Draft, table: Table) -> str:
  """Lets the column 'split' tell splits apart; returns why it cannot."""
  said = [row.get('split') for row in table.rows.values()]
  words = sorted({w for w in said if isinstance(w, str)})
  shown = ', '.join(map(paths.as_text, words[:6]))
  if draft.pictures.has_splits:
    if set(draft.folders.values()) <= {*words}:
      return ''
    return (
      f"its column 'split' says {shown}, and the folders are called "
      f'{", ".join(draft.folders.values())}'
    )
  names = {split_of_word(w): w for w in words if split_of_word(w)}
  if 'train' in names and 'val' not in names and 'test' in names:
    names['val'] = names.pop('test')
    draft.notes.append(f"no row is of 'val': {names['val']!r} is scored")
  if not {'train', 'val'} <= names.keys():
    return f"its column 'split' says {shown}, not train and val"
  draft.options |= names
  if others := [w for w in words if w not in names.values()]:
    draft.notes.append(
      f'rows whose split is {", ".join(map(paths.as_text, others[:6]))} are '
      'not used'
    )
  return ''


# ---- COCO --------------------------------------------------------------------


def _why_no_coco(files: Sequence[pathlib.Path]) -> str:
  """What is wrong with annotations; '' where they are something else."""
  for path in files:
    try:
      content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, RecursionError, ValueError):
      return 'cannot be read'
    if isinstance(content, dict) and content.keys() & {'images', 'annotations'}:
      return 'no annotations as COCO has them'
  return ''


def _add_annotations(draft: Draft, pattern: str, tables, by_split) -> str:
  """Adds annotations; returns why not."""
  if not _count_named(draft, pattern, tables, _FILE_NAME):
    return 'its file names are not those of the pictures'
  pictures: list[Picture] = [
    row.values[COLUMN]
    for table in tables.values()
    for row in table.rows.values()
  ]
  items = [item for picture in pictures for item in picture.items]
  if not items:
    return 'no annotation in it'
  _leave_test(draft, pattern, by_split)
  draft.options['coco'] = pattern
  draft.allow_missing(pattern, _count_named(draft, pattern, tables, _FILE_NAME))
  categories = sorted(pictures[0].categories)
  outlined = sum(bool(item.shape) for item in items)
  if outlined > len(items) / 2:
    task = Task(
      {
        'kind': 'classes',
        'source': 'coco',
        'classes': ('background', *categories),
      },
      f'annotations of {len(pictures)} pictures, drawn as a map of classes',
    )
  else:
    task = Task(
      {'kind': 'image_multilabel', 'source': 'coco', 'classes': (*categories,)},
      f'{outlined} of {len(items)} annotations have a segmentation, so they '
      'say which objects are in a picture',
    )
  draft.tasks[free_name('objects', draft.tasks)] = task
  counts = {len(item.points) for item in items if len(item.points)}
  if len(counts) == 1:
    path = draft.root / next(iter(by_split.values()))
    draft.tasks[free_name('keypoints', draft.tasks)] = Task(
      {'kind': 'heatmap', 'source': 'coco', **_points(path, counts.pop())},
      'key points of the annotations; of the largest object',
    )
  return ''


def _points(path: pathlib.Path, count: int) -> dict[str, Any]:
  """Names of key points, as categories say, and pairs of left and right."""
  categories = json.loads(path.read_text(encoding='utf-8'))['categories']
  named = [c['keypoints'] for c in categories if c.get('keypoints')]
  if len(named) != 1 or len(set(map(str, named[0]))) != count:
    return {'points': count}
  names = tuple(map(str, named[0]))
  others = {name: name.lower().replace('left', 'right') for name in names}
  known = {name.lower(): name for name in names}
  pairs = tuple(
    (name, known[other])
    for name, other in others.items()
    if other != name.lower() and other in known
  )
  return {'points': names} | ({'pairs': pairs} if pairs else {})
