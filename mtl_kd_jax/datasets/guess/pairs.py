"""Which files are the pictures, and which are labels of them."""

from collections.abc import Iterable, Mapping, Sequence
import os
import pathlib

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.guess.contents import GRAY, PICTURE, Guess
from mtl_kd_jax.datasets.guess.groups import Group
from mtl_kd_jax.datasets.guess.splits import (
  other_spelling,
  sounds_like_pictures,
)
from mtl_kd_jax.errors import InputError

Guesses = Mapping[str, Guess]


def choose_pictures(
  root: pathlib.Path,
  groups: Sequence[Group],
  guesses: Guesses,
  notes: Sequence[str],
) -> Group:
  """The group that most others share the names of frames with.

  Args:
    root: the folder.
    groups: of its files.
    guesses: pattern -> what is in the files.
    notes: what was left out, for the error.

  Raises:
    InputError: there are no pictures.
  """
  for kind in (PICTURE, GRAY):
    candidates = [g for g in groups if guesses[g.pattern].kind == kind]
    if candidates:
      return max(candidates, key=lambda group: _rank(group, groups))
  found = [f'{g.pattern}: {guesses[g.pattern].why}' for g in groups[:4]]
  found += notes
  raise InputError(
    expected='pictures: .jpg, .png, or .npy of three numbers from 0 to 1',
    found='; '.join(found) or paths.contents(root) or 'nothing',
    where=paths.as_text(root),
    argument='init',
    do='name the folder that holds pictures and labels',
  )


def _rank(group: Group, groups: Iterable[Group]) -> tuple[int, int, int]:
  count = len(group.members)
  shared = sum(
    len(group.having(other)) > count / 2
    for other in groups
    if other is not group
  )
  return shared, count, sounds_like_pictures(group.pattern)


def why_not_used(
  group: Group,
  pictures: Group,
  groups: Sequence[Group],
  guesses: Guesses,
  folders: Mapping[str, str],
) -> str:
  """Why files are no labels of the pictures; '' if they are.

  Args:
    group: the files.
    pictures: the pictures.
    groups: all of the folder.
    guesses: pattern -> what is in the files.
    folders: split -> what stands for it in the names of folders.
  """
  guess, of_pictures = guesses[group.pattern], guesses[pictures.pattern]
  if spelled := other_spelling(group.pattern, folders):
    return f'folders of a split are spelled differently: {spelled}'
  if guess.kind == PICTURE:
    if _stem(group) == _stem(pictures):
      return 'the same kind of pictures, with another ending: rename them'
    if _differing(group, pictures):
      return 'pictures of another folder'
    return 'more pictures'
  if guess.kind in ('', GRAY):
    return guess.why
  for other in groups:
    differing = _differing(other, pictures)
    parts = _parts(group)
    if (
      differing
      and guesses[other.pattern].kind == of_pictures.kind
      and differing[0] in parts
      and differing[1] not in parts
    ):
      return 'of pictures of another folder'
  shared, every = len(pictures.having(group)), len(pictures.members)
  if not shared:
    alone = group.has_splits and not pictures.has_splits
    return (
      'in folders of splits, and the pictures are not'
      if alone
      else 'other names'
    )
  if shared < every / 2:
    return f'{shared} of {every} pictures have one'
  if guess.one_size and of_pictures.one_size and guess.size != of_pictures.size:
    (height, width), (high, wide) = guess.size, of_pictures.size
    return (
      f'{height} x {width} pixels, and the pictures have {high} x {wide} '
      '(height x width)'
    )
  return ''


def _stem(group: Group) -> str:
  return os.path.splitext(group.pattern)[0]


def _parts(group: Group) -> list[str]:
  return group.pattern.split('/')


def _differing(group: Group, pictures: Group) -> tuple[str, str] | None:
  """The only folder in which a pattern differs from that of the pictures."""
  mine, theirs = _parts(group), _parts(pictures)
  if len(mine) != len(theirs) or mine[-1] != theirs[-1]:
    return None
  pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if a != b]
  return pairs[0] if len(pairs) == 1 else None
