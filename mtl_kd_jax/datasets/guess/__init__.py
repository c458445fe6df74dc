"""Guesses what a folder of one's own holds, for a first config."""

from collections.abc import Sequence
import json
import pathlib
import re
from typing import Any, NamedTuple

from mtl_kd_jax.datasets import files, paths
from mtl_kd_jax.datasets.folder.coco import read_coco
from mtl_kd_jax.datasets.folder.palette import read_palette
from mtl_kd_jax.datasets.folder.rows import SUFFIXES, read_table
from mtl_kd_jax.datasets.guess.contents import PICTURE, Guess, guess_contents
from mtl_kd_jax.datasets.guess.groups import Group, find_groups, split_in
from mtl_kd_jax.datasets.guess.tables import guess_columns, key_column
from mtl_kd_jax.errors import InputError

__all__ = ['Folder', 'Task', 'guess_folder']

_EXAMINED = 6  # files of each group
_PALETTES = ('.txt', '.csv', '.json')
_UNLABELED = ('unlabeled', 'unlabelled', 'unknown', 'void', 'ignore')
_MULTIPLE, _LARGEST_SIDE = 32, 256


class Task(NamedTuple):
  """A task that files or columns seem to be for.

  Attributes:
    description: of config.task.
    why: the reason, a sentence.
  """

  description: dict[str, Any]
  why: str


class Folder(NamedTuple):
  """What a folder seems to hold.

  Attributes:
    options: of the data set 'folder'.
    tasks: name -> task.
    size: (height, width) of the pictures' files, in pixels.
    count: of the pictures.
    frames: names of all pictures, where no folders say which are which split.
    notes: what was left out, in sentences.
  """

  options: dict[str, Any]
  tasks: dict[str, Task]
  size: tuple[int, int]
  count: int
  frames: tuple[str, ...]
  notes: tuple[str, ...]


def guess_folder(root: pathlib.Path) -> Folder:
  """Looks at a folder; reads a few files of every kind.

  Args:
    root: the folder.

  Raises:
    InputError: there are no pictures, or nothing that could be labels.
  """
  groups, folders = find_groups(root, {*files.SUFFIXES, *files.MAPS})
  guesses = {g.pattern: guess_contents(_some(root, g, folders)) for g in groups}
  pictures = _pictures(root, groups, guesses)
  names, notes = pictures.all_frames, []
  tasks: dict[str, Task] = {}
  for group in groups:
    guess = guesses[group.pattern]
    if group is pictures:
      continue
    shared = group.all_frames & names
    if guess.kind in ('', PICTURE) or len(shared) < len(names) / 2:
      reason = guess.why if guess.kind in ('', PICTURE) else 'other names'
      notes.append(
        f'{group.pattern}: {len(group.all_frames)} files, not used ({reason})'
      )
      continue
    name = _task_name(group.pattern, tasks)
    description = {'kind': guess.kind, 'files': group.pattern}
    guess = _with_names(root, guess)
    tasks[name] = Task({**description, **guess.description}, guess.why)
  options: dict[str, Any] = {'image': pictures.pattern}
  options |= folders if '{split}' in pictures.pattern else {}
  _add_rows(root, names, folders, options, tasks, notes)
  _add_coco(root, folders, options, tasks, notes)
  if not tasks:
    raise InputError(
      expected='label maps with the names of the pictures, a table with a '
      'row for each, or annotations of COCO',
      found='; '.join(notes) or f'pictures alone: {pictures.pattern}',
      where=paths.as_text(root),
      argument='init',
      do='see docs/own_tasks.md for what can be read',
    )
  if folders and '{split}' in pictures.pattern:
    notes.insert(0, _why_splits(folders))
  size = guesses[pictures.pattern].size
  options['image_size'] = _fitting(size)
  return Folder(
    options,
    tasks,
    size,
    sum(map(len, pictures.frames.values())),
    () if folders and '{split}' in pictures.pattern else tuple(sorted(names)),
    tuple(notes),
  )


def _why_splits(folders) -> str:
  said = [f'{name!r} for {split}' for split, name in folders.items()]
  return f'splits: {", ".join(said)}'


def _with_names(root, guess: Guess) -> Guess:
  """With names for colors, of a palette in the folder."""
  colors = set(guess.description.get('palette', {}).values())
  for path in sorted(root.iterdir()) if colors else ():
    if path.suffix.lower() not in _PALETTES:
      continue
    try:
      palette = read_palette(path)
    except InputError:
      continue
    named = {c: name for name, of_name in palette.items() for c in of_name}
    if colors <= named.keys():
      present = {named[color] for color in colors}
      classes = tuple(
        name
        for name in palette
        if name in present and name.lower() not in _UNLABELED
      )
      return guess._replace(
        description={'classes': classes, 'palette': path.name},
        why=f'{len(colors)} different colors, whose names are in {path.name}. '
        'What is called unlabeled or void is left out',
      )
  return guess


def _some(root, group: Group, folders) -> list[pathlib.Path]:
  """A few files, from the whole of a group."""
  every = [
    (split, frame) for split, frames in group.frames.items() for frame in frames
  ]
  step = max(1, len(every) // _EXAMINED)
  return [
    group.path(root, folders, split, frame)
    for split, frame in every[::step][:_EXAMINED]
  ]


def _pictures(root, groups: Sequence[Group], guesses) -> Group:
  """The group that most others share the names of frames with."""
  candidates = [g for g in groups if guesses[g.pattern].kind == PICTURE]
  if not candidates:
    found = [f'{g.pattern}: {guesses[g.pattern].why}' for g in groups[:4]]
    raise InputError(
      expected='pictures: .jpg, .png, or .npy of three numbers from 0 to 1',
      found='; '.join(found) or paths.contents(root) or 'nothing',
      where=paths.as_text(root),
      argument='init',
      do='name the folder that holds pictures and labels',
    )

  def shared(group):
    others = [g for g in groups if g is not group]
    names = group.all_frames
    return (
      sum(len(names & g.all_frames) > len(names) / 2 for g in others),
      len(names),
      any(word in group.pattern.lower() for word in ('image', 'rgb', 'img')),
    )

  return max(candidates, key=shared)


def _task_name(pattern: str, taken) -> str:
  """The word of a pattern that says most, as the name of a task."""
  stem = pattern.rpartition('.')[0]
  words = [w for w in re.split(r'[/{}._-]+|frame|split', stem) if w]
  name = re.sub(r'\W+', '_', words[-1]).lower() if words else 'labels'
  number, free = 1, name
  while free in taken or free == 'image':
    number += 1
    free = f'{name}_{number}'
  return free


def _add_rows(root, names, folders, options, tasks, notes) -> None:
  for path in sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES):
    try:
      table = read_table(path)
    except InputError as error:
      notes.append(f'{path.name}: not used ({error.found})')
      continue
    key = key_column(table, names)
    if not key or 'rows' in options:
      reason = 'one table is enough' if key else 'no column names the pictures'
      notes.append(f'{path.name}: not used ({reason})')
      continue
    options |= {'rows': path.name, 'picture': key}
    if 'split' in table.columns:
      said = {row.get('split') for row in table.rows.values()} - {None}
      options |= {s: s for s in ('train', 'val', 'test') if s in said}
    for name, (description, why) in guess_columns(table, key).items():
      free = name if name not in tasks else f'{name}_of_table'
      tasks[free] = Task(description, why)


def _add_coco(root, folders, options, tasks, notes) -> None:
  for path in sorted(root.rglob('*.json')):
    try:
      table = read_coco(path)
    except InputError:
      continue
    relative = path.relative_to(root).as_posix()
    if 'coco' in options or 'rows' in options:
      if split_in(relative, folders)[1] != options.get('coco'):
        notes.append(f'{relative}: not used (one table is enough)')
      continue
    options['coco'] = split_in(relative, folders)[1]
    first = next(iter(table.rows.values())).values['annotations']
    tasks['objects'] = Task(
      {
        'kind': 'classes',
        'source': 'coco',
        'classes': ('background', *sorted(first.categories)),
      },
      f'annotations of {len(table.rows)} pictures, drawn as a map of classes',
    )
    counts = {
      len(item.points)
      for row in table.rows.values()
      for item in row.values['annotations'].items
      if len(item.points)
    }
    if len(counts) == 1:
      tasks['keypoints'] = Task(
        {'kind': 'heatmap', 'source': 'coco', **_points(path, counts.pop())},
        'key points of the annotations; of the largest object',
      )


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


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
  """A size for a first training: small, and of sides that networks take."""
  factor = min(1.0, _LARGEST_SIDE / max(size))
  return tuple(
    max(1, round(side * factor / _MULTIPLE)) * _MULTIPLE for side in size
  )
