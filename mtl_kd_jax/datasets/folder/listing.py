"""Patterns of paths with {frame}, and the files of a folder that match them."""

from collections.abc import Iterator, Sequence
import glob
import os
import pathlib
import re

from mtl_kd_jax.datasets import files, paths

# Endings of pictures, whether they can be read or not.
_PICTURES = (
  'png|jpg|jpeg|jpe|jfif|npy|npz|tif|tiff|bmp|gif|webp|heic|heif|avif|jp2|ppm'
)


def fill(pattern: str, split: str, frame: str = '{frame}') -> str:
  """A pattern with the name of a split, and maybe of a frame."""
  return pattern.replace('{split}', split).replace('{frame}', frame)


def natural_order(name: str) -> list[int | str]:
  """Sorts 'a10' after 'a9'."""
  parts = re.split(r'(\d+)', name)
  return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def list_pictures(
  root: pathlib.Path, pattern: str
) -> tuple[set[str], list[tuple[str, str, str]]]:
  """The names of frames, and the files that almost match the pattern.

  Args:
    root: the folder.
    pattern: without {split}.

  Returns:
    The names, a set; and path, name of the frame and ending of the others.
  """
  stem, ending = os.path.splitext(pattern)
  if '{frame}' in ending or ending.lower() not in files.SUFFIXES:
    return set(matching(root, pattern)), []
  exact = re.compile(as_regex(pattern))
  loose = re.compile(
    as_regex(stem) + rf'(\.(?:{_PICTURES}))', flags=re.IGNORECASE
  )
  names, similar = set(), []
  folder = os.path.join(os.path.dirname(pattern), '')
  for path in _glob(root, [*folder.split('{frame}'), '']):
    if match := exact.fullmatch(path):
      names.add(match[1])
    elif match := loose.fullmatch(path):
      similar.append((path, match[1], match[match.lastindex]))
  return names, similar


def matching(root: pathlib.Path, pattern: str) -> Iterator[str]:
  """The names of frames whose files match a pattern without {split}."""
  regex = re.compile(as_regex(pattern))
  for path in _glob(root, pattern.split('{frame}')):
    if match := regex.fullmatch(path):
      yield match[1]


def as_regex(pattern: str) -> str:
  """Matches paths; its first group is {frame}."""
  first, *others = map(re.escape, pattern.split('{frame}'))
  # Hidden files are excluded: some systems create them beside images.
  return first + '([^./][^/]*)' + r'\1'.join(others)


def _glob(root: pathlib.Path, parts: Sequence[str]) -> Iterator[str]:
  """The paths that consist of these parts, with any names in between."""
  for path in glob.iglob('*'.join(map(glob.escape, parts)), root_dir=root):
    yield path.replace(os.sep, '/')


def same_format(one: str, two: str) -> bool:
  """Whether two endings are those of one format."""
  one, two = one.lower(), two.lower()
  same = paths.SAME_ENDINGS
  return same.get(one, one) == same.get(two, two)
