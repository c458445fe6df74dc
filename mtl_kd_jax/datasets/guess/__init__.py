"""Guesses what a folder of one's own holds, for a first config."""

from collections.abc import Iterable, Sequence
import os
import pathlib
import re
from typing import Any, NamedTuple

from mtl_kd_jax.datasets import files, paths
from mtl_kd_jax.datasets.folder.palette import read_palette
from mtl_kd_jax.datasets.guess.annotations import add_coco, add_tables
from mtl_kd_jax.datasets.guess.contents import Guess, guess_contents
from mtl_kd_jax.datasets.guess.draft import Draft, Task, free_name
from mtl_kd_jax.datasets.guess.groups import Group, find_groups
from mtl_kd_jax.datasets.guess.pairs import choose_pictures, why_not_used
from mtl_kd_jax.datasets.guess.splits import find_splits, split_in
from mtl_kd_jax.datasets.guess.tree import Parts, by_folder, list_files
from mtl_kd_jax.errors import InputError

__all__ = ['Folder', 'Task', 'guess_folder']

_EXAMINED = 6  # files of each group
_PALETTES = ('.txt', '.csv', '.json')
_UNLABELED = ('unlabeled', 'unlabelled', 'unknown', 'void', 'ignore')
_MULTIPLE, _LARGEST_SIDE = 32, 256
_MOST_NOTES = 20  # about files that are not read
# Why files are not read whose ending others have that are.
_UNREAD = {
  '.json': 'no annotations in the format of COCO',
  '.csv': 'many tables in a folder',
  '.jsonl': 'many tables in a folder',
  '.txt': 'no palette, and nothing else is read from text',
}


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
  found, notes = list_files(root)
  maps, others = _divided(found)

  def kind_of(names: Sequence[str]) -> str:
    first, *more = [root / name for name in names[:_EXAMINED]]
    kind = guess_contents([first], more).kind
    return 'classes' if kind == 'binary' else kind

  folders, assumed = find_splits(maps, kind_of)
  groups = find_groups(maps, folders, kind_of)
  guesses = {g.pattern: _guess(root, g, folders) for g in groups}
  pictures = choose_pictures(root, groups, guesses, notes)
  draft = Draft(root, folders, pictures, {'image': pictures.pattern})
  _add_maps(draft, groups, guesses)
  described = (task.description for task in draft.tasks.values())
  palettes = [d['palette'] for d in described if 'palette' in d]
  others = [p for p in others if '/'.join(p) not in palettes]
  seen = add_tables(draft, others) + add_coco(draft, others)
  notes += _broken(root, guesses)
  notes += draft.notes
  notes += _of_others(draft, others, {*seen})
  options, pictures = draft.options, draft.pictures
  if not draft.tasks:
    raise InputError(
      expected='label maps with the names of the pictures, a table with a '
      'row for each, or annotations of COCO',
      found='; '.join(notes) or f'pictures alone: {pictures.pattern}',
      where=paths.as_text(root),
      argument='init',
      do='see docs/own_tasks.md for what can be read',
    )
  if pictures.has_splits or not folders:
    notes = [*assumed, *notes]
  if pictures.has_splits:
    options |= draft.folders
    said = [f'{name!r} for {split}' for split, name in draft.folders.items()]
    notes = [f'splits: {", ".join(said)}', *notes]
  size = guesses[pictures.pattern].size
  options['image_size'] = _fitting(size)
  return Folder(
    options,
    draft.tasks,
    size,
    len(pictures.members),
    () if pictures.has_splits else tuple(sorted(pictures.all_frames)),
    tuple(notes),
  )


def _divided(found: Iterable[Parts]) -> tuple[list[Parts], list[Parts]]:
  """Pictures and maps, and other files."""
  suffixes = {*files.SUFFIXES, *files.MAPS}
  maps: list[Parts] = []
  others: list[Parts] = []
  for parts in found:
    known = os.path.splitext(parts[-1])[1].lower() in suffixes
    (maps if known else others).append(parts)
  return maps, others


def _guess(root, group: Group, folders) -> Guess:
  """What a few files hold, from the whole of a group."""
  every = [
    (split, frame) for split, frames in group.frames.items() for frame in frames
  ]
  step = max(1, len(every) // _EXAMINED)
  some = every[::step][:_EXAMINED]
  others = every[max(1, step // 2) :: step][:_EXAMINED]

  def as_paths(members):
    return [group.path(root, folders, split, name) for split, name in members]

  return guess_contents(
    as_paths(some), as_paths(m for m in others if m not in some)
  )


# ---- Maps --------------------------------------------------------------------


def _add_maps(draft: Draft, groups: Sequence[Group], guesses) -> None:
  """Adds the tasks that have a file for each picture."""
  used: list[Group] = []
  unused: dict[str, list[Group]] = {}  # reason -> groups
  for group in groups:
    if group is draft.pictures:
      continue
    reason = why_not_used(group, draft.pictures, groups, guesses, draft.folders)
    if reason:
      unused.setdefault(reason, []).append(group)
      continue
    used.append(group)
    name = _task_name(group.pattern, draft)
    guess = _with_names(draft.root, guesses[group.pattern])
    description = {'kind': guess.kind, 'files': group.pattern}
    draft.tasks[name] = Task({**description, **guess.description}, guess.why)
  for reason, others in unused.items():
    patterns = paths.some([group.pattern for group in others])
    count = sum(len(group.members) for group in others)
    draft.notes.append(f'{patterns}: {count} files, not used ({reason})')
  if (
    used
    and 'test' in draft.folders
    and not any(
      split == 'test'
      for group in used
      for split, _ in draft.pictures.having(group)
    )
  ):
    draft.drop_test('its pictures have no labels')
  for group in used:
    draft.allow_missing(group.pattern, len(draft.pictures.having(group)))


def _task_name(pattern: str, draft: Draft) -> str:
  """The word of a pattern that says most, as the name of a task."""
  words, of_pictures = (
    [w for w in re.split(r'[/{}._-]+|frame|split', stem) if w]
    for stem, _ in map(os.path.splitext, (pattern, draft.pictures.pattern))
  )
  own = [w for w in words if w not in of_pictures] or words
  return free_name(own[-1] if own else '', draft.tasks)


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


# ---- Notes -------------------------------------------------------------------


def _broken(root: pathlib.Path, guesses) -> list[str]:
  """About files that cannot be read, where others of their group can."""
  return [
    f'{paths.as_text(path.relative_to(root))}: cannot be read: {found}'
    for guess in guesses.values()
    if guess.kind
    for path, found in guess.broken.items()
  ]


def _of_others(
  draft: Draft, others: Iterable[Parts], seen: set[Parts]
) -> list[str]:
  """About files that are not read at all, by folder and ending."""
  left = [p for p in others if p not in seen]
  places = by_folder(left, lambda folder: split_in(folder, draft.folders)[1])
  notes = []
  for (place, ending), members in places.items():
    reason = _UNREAD.get(ending.lower(), 'files of this ending are not read')
    said = f'{"/".join(members[0])}:'
    if len(members) > 1:
      said = f'{place}*{ending}: {len(members)} files,'
    notes.append(f'{said} not used ({reason})')
  if len(notes) > _MOST_NOTES:
    more = len(notes) - _MOST_NOTES
    notes[_MOST_NOTES:] = [f'and files in {more} more folders, not used']
  return notes


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
  """A size for a first training: small, and of sides that networks take."""
  factor = min(1.0, _LARGEST_SIDE / max(size))
  return tuple(
    max(1, round(side * factor / _MULTIPLE)) * _MULTIPLE for side in size
  )
