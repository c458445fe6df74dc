"""Which files are meant, and what their predictions are called."""

from collections import Counter
from collections.abc import Iterable, Sequence
import functools
import glob
import os
import pathlib
from typing import Any, NamedTuple

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.folder import VIDEO, read_json
from mtl_kd_jax.prediction.pictures import is_picture_name
from mtl_kd_jax.prediction.video import is_video
from mtl_kd_jax.prediction.write import read_record
from mtl_kd_jax.runtime import buckets


class Input(NamedTuple):
  """A file that is to be predicted.

  Attributes:
    path: the picture or video.
    name: where its prediction goes, relative to the folder of all.
  """

  path: pathlib.Path
  name: str


def find_inputs(images: str, *, lines: Iterable[str] = ()) -> list[Input]:
  """The files that are meant, each once, and a name for each.

  The name is the path below the folder that was given (that of a pattern up to
  its first wildcard, or the common one of a list), without the ending. Files
  whose names would be the same keep their endings.

  Args:
    images: a file; a folder, for the pictures and videos in it; a pattern such
      as 'photos/**/*.jpg'; or '-' for `lines`. Beside others, files of
      predictions are none of those that a folder or a pattern means.
    lines: a path in each; these need not exist.

  Raises:
    InputError: there is nothing.
  """
  if images == '-':
    texts = [line.rstrip('\r\n') for line in lines]
    found = [
      paths.local(text, argument='images', kind='file')
      for text in texts
      if text.strip()
    ]
    base = _common_folder(found)
  else:
    base, found = _named_by(images)
  if not found:
    raise InputError(
      expected='pictures or videos',
      found='none' if images == '-' else f'none that {images!r} names',
      argument='images',
      do="name a file, a folder, or a pattern such as 'photos/*.jpg'; '-' "
      'reads paths from the standard input, one a line',
    )
  unique = list(dict.fromkeys(pathlib.Path(os.path.abspath(p)) for p in found))
  names = _names([os.path.relpath(path, base) for path in unique])
  given = {os.path.abspath(p): p for p in reversed(found)}
  return [Input(given[str(p)], n) for p, n in zip(unique, names, strict=True)]


def _named_by(images: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
  """The folder that names are relative to, and the files."""
  path = _of_this_machine(images)
  if images and path.is_dir():
    there = [p for p in path.iterdir() if is_picture_name(p) or is_video(p)]
    return path, _without_predictions(sorted(there))
  if images and path.exists():
    return path.parent, [path]
  if not glob.has_magic(images):
    return path.parent, []
  files = sorted(map(pathlib.Path, glob.glob(str(path), recursive=True)))
  there = [p for p in files if not p.is_dir()]
  return _fixed(path), _without_predictions(there)


def _without_predictions(found: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Those that were not written by predicting others; all, if all were."""

  @functools.cache
  def written(folder):
    records = (read_record(folder), read_json(folder / VIDEO))
    names = [record.get('files') for record in records if record]
    return {str(n) for part in names if isinstance(part, list) for n in part}

  return [p for p in found if p.name not in written(p.parent)] or [*found]


def _of_this_machine(images: str) -> pathlib.Path:
  """The path; in a bucket that of a copy, of all below its first wildcard."""
  path = paths.expand(images, argument='images', kind='file')
  if not buckets.is_bucket(path):
    return path
  fixed = _fixed(path)
  copy = paths.local(fixed, argument='images', kind='file')
  return copy / path.relative_to(fixed)


def _fixed(path: Any) -> Any:
  """The part of a pattern before its first wildcard."""
  while any(map(glob.has_magic, path.parts)):
    path = path.parent
  return path


def _common_folder(found: Sequence[pathlib.Path]) -> pathlib.Path:
  parents = {os.path.dirname(os.path.abspath(p)) for p in found}
  return (
    pathlib.Path(os.path.commonpath(parents)) if parents else pathlib.Path()
  )


def _names(relative: Sequence[str]) -> list[str]:
  """A different name for each of different paths."""
  whole = [pathlib.PurePath(p) for p in relative]
  names = [p.with_suffix('') for p in whole]
  while True:
    # Where letters of both cases are the same, so are folders of such names.
    counts = Counter(str(n).casefold() for n in names)
    folders = {str(f).casefold() for n in names for f in n.parents}
    clash = [
      i
      for i, n in enumerate(names)
      if n != whole[i]
      and (counts[str(n).casefold()] > 1 or str(n).casefold() in folders)
    ]
    if not clash:
      return [n.as_posix() for n in names]
    for i in clash:
      names[i] = whole[i]
