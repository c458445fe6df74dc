"""Files of a folder by what their paths have in common: patterns."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
import re

from mtl_kd_jax.datasets.guess.splits import split_in
from mtl_kd_jax.datasets.guess.tree import Parts, by_folder

# What a name may end with after the number of a frame: 0001_depth, frame1.seg
_TAIL = re.compile(r'[_.-][A-Za-z][A-Za-z_.-]*$')
_DEEPEST = 3  # folders of one kind, such as data/rgb/, have so many parts
_EXAMINED = 4  # folders in a folder of one kind

# (place, ending) -> (split, name of the frame) of its files
Places = dict[tuple[str, str], list[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class Group:
  """Files with one pattern.

  Attributes:
    pattern: with {frame}, and {split} where there are such folders.
    frames: split -> names of frames; the split '' where there are none.
  """

  pattern: str
  frames: Mapping[str, tuple[str, ...]]

  @property
  def has_splits(self) -> bool:
    """Whether folders tell splits apart."""
    return '{split}' in self.pattern

  @functools.cached_property
  def members(self) -> frozenset[tuple[str, str]]:
    """(split, name of a frame) of every file."""
    return frozenset(
      (split, name) for split, names in self.frames.items() for name in names
    )

  @functools.cached_property
  def all_frames(self) -> frozenset[str]:
    """Of all splits."""
    return frozenset(name for _, name in self.members)

  def having(self, other: 'Group') -> set[tuple[str, str]]:
    """The members for which another group has a file."""
    if self.has_splits and not other.has_splits:
      return {m for m in self.members if m[1] in other.all_frames}
    return set(self.members & other.members)

  def without(self, split: str) -> 'Group':
    """The files of the other splits."""
    kept = {s: names for s, names in self.frames.items() if s != split}
    return Group(self.pattern, kept)

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
  found: Sequence[Parts],
  folders: Mapping[str, str],
  kind_of: Callable[[Sequence[str]], str],
) -> list[Group]:
  """Sorts files by patterns.

  Args:
    found: paths of pictures and maps.
    folders: split -> what stands for it in the names of folders.
    kind_of: what files hold.

  Returns:
    The groups, those with most files first.
  """
  by_place: Places = {}
  for (folder, suffix), members in by_folder(found, lambda x: x).items():
    split, place = split_in(folder, folders)
    by_place.setdefault((place, suffix), []).extend(
      (split, os.path.splitext(parts[-1])[0]) for parts in members
    )
  if not folders:  # lists of frames can have folders in them
    by_place = _joined(by_place, kind_of)
  tails = _tails_of(stem for each in by_place.values() for _, stem in each)
  groups = []
  for (place, suffix), members in by_place.items():
    for tail, of_tail in _by_tail(members, tails).items():
      frames: dict[str, list[str]] = {}
      for split, stem in of_tail:
        frames.setdefault(split, []).append(stem.removesuffix(tail))
      groups.append(
        Group(
          f'{place}{{frame}}{tail}{suffix}',
          {split: tuple(sorted(names)) for split, names in frames.items()},
        )
      )
  return sorted(groups, key=lambda g: (-len(g.members), g.pattern))


# ---- Folders in folders ------------------------------------------------------


def _joined(
  by_place: Places, kind_of: Callable[[Sequence[str]], str]
) -> Places:
  """Joins rgb/kitchen/ and rgb/bath/, where there are depth/kitchen/ and so on.

  Their frames are kitchen/0001 and so on: equal names in two of the folders are
  different frames.
  """
  for depth in range(1, _DEEPEST + 1):
    inner: dict[tuple[str, str], dict[str, list]] = {}
    for (place, suffix), members in by_place.items():
      parts = place.split('/')[:-1]
      if len(parts) >= depth:
        top = ''.join(f'{part}/' for part in parts[:depth])
        of_top = inner.setdefault((top, suffix), {})
        of_top[place.removeprefix(top)] = members
    for (top, suffix), of_top in inner.items():
      rests = {rest for rest in of_top if rest}
      others = (o.keys() for (t, _), o in inner.items() if t != top)
      if (
        len(rests) > 1
        and any(len(rests & o) > max(1, len(rests) / 2) for o in others)
        and _of_one_kind(top, suffix, of_top, kind_of)
      ):
        for rest in of_top:
          del by_place[top + rest, suffix]
        by_place[top, suffix] = [
          (split, rest + stem)
          for rest, members in of_top.items()
          for split, stem in members
        ]
  return by_place


def _of_one_kind(top, suffix, of_top, kind_of) -> bool:
  kinds = {
    kind_of([f'{top}{rest}{stem}{suffix}' for _, stem in members])
    for rest, members in [*of_top.items()][:_EXAMINED]
  }
  return len(kinds) == 1


# ---- What comes after the name of a frame ------------------------------------


def _tails_of(stems: Iterable[str]) -> dict[str, set[str]]:
  """Name without a tail -> the tails that it has anywhere; '' for none."""
  tails: dict[str, set[str]] = {}
  for stem in stems:
    tails.setdefault(stem, set()).add('')
    if match := _TAIL.search(stem):
      tails.setdefault(stem[: match.start()], set()).add(match[0])
  return tails


def _by_tail(members, tails) -> dict[str, list[tuple[str, str]]]:
  """Files of one place by what comes after the name of the frame.

  Names such as living_room end like tails, too; but there is no living_sofa.
  """
  bare: dict[str, list[str]] = collections.defaultdict(list)
  for _, stem in members:
    if match := _TAIL.search(stem):
      bare[match[0]].append(stem[: match.start()])
  meant = {
    tail
    for tail, names in bare.items()
    if sum(len(tails[name]) > 1 for name in names) > len(names) / 2
  }
  divided: dict[str, list[tuple[str, str]]] = {}
  for split, stem in members:
    match = _TAIL.search(stem)
    tail = match[0] if match and match[0] in meant else ''
    divided.setdefault(tail, []).append((split, stem))
  return divided
