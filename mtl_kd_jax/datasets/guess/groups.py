"""Files of a folder by what their paths have in common: patterns."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import os
import pathlib
import re
from typing import NamedTuple

# Words that stand for splits in the names of folders: train, train2017,
# train_images.
_SPLITS = {
  'train': ('train', 'training'),
  'val': ('val', 'valid', 'validation', 'dev'),
  'test': ('test', 'testing'),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_WORD = re.compile(
  rf'(?<![a-z0-9])({"|".join(_SPLIT_OF)})(\d*)(?![a-z0-9])',
  flags=re.IGNORECASE,
)
# What a name may end with after the number of a frame: 0001_depth, frame1.seg
_TAIL = re.compile(r'[_.-][A-Za-z][A-Za-z_.-]*$')
_MOST_FILES = 200_000


class Group(NamedTuple):
  """Files with one pattern.

  Attributes:
    pattern: with {frame}, and {split} where there are such folders.
    frames: split -> names of frames; the split '' where there are none.
  """

  pattern: str
  frames: Mapping[str, tuple[str, ...]]

  @property
  def all_frames(self) -> set[str]:
    """Of all splits."""
    return {name for names in self.frames.values() for name in names}

  def path(
    self, root: pathlib.Path, folders: Mapping[str, str], split: str, frame: str
  ) -> pathlib.Path:
    """Of one file.

    Args:
      root: the folder.
      folders: split -> the name of its folder.
      split: the split.
      frame: name of the frame.
    """
    name = self.pattern.replace('{split}', folders.get(split, ''))
    return root / name.replace('{frame}', frame)


def find_groups(
  root: pathlib.Path, suffixes: Iterable[str]
) -> tuple[list[Group], dict[str, str]]:
  """Lists the files of a folder.

  Args:
    root: the folder.
    suffixes: endings of the files that are meant.

  Returns:
    The groups, those with most files first; and split -> what stands for it in
    the names of folders.
  """
  by_place: dict[tuple[str, str], list[tuple[str, str]]] = {}
  suffixes = tuple(suffixes)
  found = [
    parts
    for parts in _paths(root)
    if os.path.splitext(parts[-1])[1].lower() in suffixes
  ]
  folders = _find_splits(found)
  for parts in found:
    stem, suffix = os.path.splitext(parts[-1])
    folder = ''.join(f'{part}/' for part in parts[:-1])
    split, place = split_in(folder, folders)
    by_place.setdefault((place, suffix), []).append((split, stem))
  groups = []
  for (place, suffix), members in by_place.items():
    for tail, of_tail in _by_tail(members).items():
      frames: dict[str, list[str]] = {}
      for split, stem in of_tail:
        frames.setdefault(split, []).append(stem.removesuffix(tail))
      groups.append(
        Group(
          f'{place}{{frame}}{tail}{suffix}',
          {split: tuple(sorted(names)) for split, names in frames.items()},
        )
      )
  groups.sort(key=lambda g: (-len(g.all_frames), g.pattern))
  return groups, folders


def _paths(root: pathlib.Path):
  """The parts of the paths of all files, hidden ones left out."""
  count = 0
  for folder, inner, names in os.walk(root):
    inner[:] = sorted(name for name in inner if name[0] != '.')
    relative = pathlib.Path(folder).relative_to(root).parts
    for name in sorted(names):
      if name[0] == '.':
        continue
      count += 1
      if count > _MOST_FILES:
        return
      yield (*relative, name)


def split_in(path: str, folders: Mapping[str, str]) -> tuple[str, str]:
  """The split that a path names, '' for none, and the path with {split} in it.

  Args:
    path: of a file or folder.
    folders: split -> what stands for it in names.
  """
  for split, name in folders.items():
    # Not a part of a longer word.
    word = rf'(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])'
    if re.search(word, path):
      return split, re.sub(word, '{split}', path)
  return '', path


def _find_splits(found: Sequence[tuple[str, ...]]) -> dict[str, str]:
  """Split -> what stands for it in the names of folders; {} for none."""
  folders: dict[str, str] = {}
  for parts in found:
    words = (match for part in parts[:-1] if (match := _WORD.search(part)))
    if match := next(words, None):
      folders.setdefault(_SPLIT_OF[match[1].lower()], match[0])
  return folders if 'train' in folders else _alike(found)


def _alike(found: Sequence[tuple[str, ...]]) -> dict[str, str]:
  """Folders for splits where no name says so: two that hold the same folders.

  The one with more files is for training. {} where there are none.
  """
  inner: dict[str, dict[tuple[str, ...], int]] = {}
  for parts in found:
    if len(parts) > 2:
      places = inner.setdefault(parts[0], {})
      places[parts[1:-1]] = places.get(parts[1:-1], 0) + 1
  same = len({frozenset(places) for places in inner.values()}) == 1
  if len(inner) != 2 or not same or len(next(iter(inner.values()))) < 2:
    return {}
  ordered = sorted(inner, key=lambda name: (-sum(inner[name].values()), name))
  return dict(zip(('train', 'val'), ordered, strict=True))


def _by_tail(members) -> dict[str, list[tuple[str, str]]]:
  """Files of one place by what comes after the name of the frame."""
  tails = collections.Counter(
    match[0] for _, stem in members if (match := _TAIL.search(stem))
  )
  # Names such as living_room end like tails, too; but no two in one way.
  common = {tail for tail, count in tails.items() if count > 1}
  divided: dict[str, list[tuple[str, str]]] = {}
  for split, stem in members:
    match = _TAIL.search(stem)
    tail = match[0] if match and match[0] in common else ''
    divided.setdefault(tail, []).append((split, stem))
  return divided
