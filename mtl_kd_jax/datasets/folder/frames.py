"""The frames of a folder: which there are, and which files are left over.

Paths are patterns in which {split} stands for the folder of a split and {frame}
for the name of a frame. Nothing is dropped silently: pictures that differ from
the pattern only in what is easily overlooked are an error, and what else is not
used is listed for a note.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import os
import pathlib
import re

from mtl_kd_jax.datasets import files, paths
from mtl_kd_jax.datasets.folder import listing
from mtl_kd_jax.datasets.folder.maps import bad_option
from mtl_kd_jax.datasets.folder.rows import Row, Table
from mtl_kd_jax.errors import InputError

_IMAGE = 'image'  # the key of its pattern; those of labels are '<name>.files'


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame.

  Attributes:
    root: the folder.
    split: what {split} is replaced by.
    name: what {frame} is replaced by.
    row: of the table, if there is one: what {column} is replaced by.
  """

  root: pathlib.Path
  split: str
  name: str
  row: Row | None = None

  def path(self, pattern: str) -> pathlib.Path:
    """The file of this frame that a pattern describes."""
    for column in columns_in(pattern):
      value = None if self.row is None else self.row.get(column)
      if value is None:
        line = '' if self.row is None else f' in line {self.row.number}'
        return self.root / f'(no {column}{line})'  # no such file
      pattern = pattern.replace(f'{{{column}}}', str(value))
    return self.root / listing.fill(pattern, self.split, self.name)


def columns_in(pattern: str) -> list[str]:
  """The columns of a table that a pattern names."""
  fields = re.findall(r'\{(.*?)\}', pattern)
  return [f for f in fields if f not in ('frame', 'split')]


def find_frames(
  root: pathlib.Path,
  patterns: Mapping[str, str],
  splits: Mapping[str, str],
  *,
  tables: Mapping[str, Table] | None = None,
) -> tuple[dict[str, tuple[Frame, ...]], tuple[str, ...]]:
  """Finds the frames of all splits, and what is not used.

  Args:
    root: the folder.
    patterns: 'image', and '<label>.files' for the labels -> pattern.
    splits: split -> the folder of it, or a file .txt that lists its frames.
    tables: split -> its table, if there are any. Where the pattern of images
      names one of its columns, a row is a frame. Where it has no {split}, and
      tables have a column of that name, they say whose the pictures are.

  Returns:
    Split -> frames, in natural order of their names or in that of the list; and
    notes about files that are not used and frames that are used twice.

  Raises:
    InputError: a pattern or split cannot be used, there are no frames, or some
      are about to be overlooked.
  """
  _check_patterns(patterns, tables or {})
  if columns_in(patterns[_IMAGE]):
    frames = {
      split: tuple(
        Frame(root, _folder_of(split, splits[split]), name, row)
        for name, row in table.rows.items()
      )
      for split, table in (tables or {}).items()
    }
    return frames, tuple(_shared(frames, patterns[_IMAGE]))
  if _tables_split(patterns[_IMAGE], tables or {}, splits):
    return _split_by_tables(root, patterns[_IMAGE], splits, tables)
  folders = {}
  for split, value in splits.items():
    # A list may be anywhere: data are often not to be written to.
    if not isinstance(value, str) or re.search(r'[{}]|^/.*(?<!\.txt)$', value):
      expected = 'the name of a sub-folder, or that of a list ending in .txt'
      raise bad_option(split, expected, value)
    if not value.endswith('.txt'):
      folders[split] = value
  if len(set(folders.values())) > 1 and '{split}' not in patterns[_IMAGE]:
    raise bad_option(
      _IMAGE,
      f'a path with {{split}}, or {" and ".join(folders)} could not differ',
      patterns[_IMAGE],
    )
  frames, notes = {}, []
  for split, value in splits.items():
    if split in folders:
      frames[split], unused = _list_folder(root, patterns, split, value)
      notes += unused
    else:
      names = _read_list(root / value, split)
      frames[split] = tuple(Frame(root, split, name) for name in names)
  notes += _without_picture(root, patterns, folders, frames)
  notes += _shared(frames, patterns[_IMAGE])
  return frames, tuple(notes)


def _tables_split(pattern, tables, splits) -> bool:
  """Whether a column of the tables is all that tells splits apart."""
  return (
    bool(tables)
    and '{split}' not in pattern
    and all('split' in table.columns for table in tables.values())
    and not any(f'{value}'.endswith('.txt') for value in splits.values())
  )


def _split_by_tables(root, pattern, splits, tables):
  """The frames of all splits, and a note on pictures that are in none."""
  (names, _), frames = listing.list_pictures(root, pattern), {}
  # The pattern has no {split}.
  pictures = [(n, Frame(root, '', n).path(pattern)) for n in names]
  for split, table in tables.items():
    rows = table.by_picture(pictures)
    members = [
      Frame(root, splits[split], name, rows[path])
      for name, path in pictures
      if path in rows
    ]
    frames[split] = tuple(
      sorted(members, key=lambda f: listing.natural_order(f.name))
    )
  left = names.difference(
    f.name for members in frames.values() for f in members
  )
  if not left:
    return frames, ()
  shown = _shown([listing.fill(pattern, '', name) for name in left])
  note = (
    f'not used, because no row of a split names them ({len(left)}): {shown}'
  )
  return frames, (note,)


def _folder_of(split: str, value: str) -> str:
  return split if value.endswith('.txt') else value


def with_rows(
  frames: Mapping[str, Sequence[Frame]],
  tables: Mapping[str, Table],
  *,
  image: str,
  of_all: bool,
  allow_missing: bool,
) -> dict[str, tuple[Frame, ...]]:
  """Frames with their rows.

  Args:
    frames: split -> its frames.
    tables: split -> its table.
    image: pattern of the images.
    of_all: whether all splits have the same table.
    allow_missing: whether frames may lack a row.

  Raises:
    InputError: a row names no picture, or a picture has none.
  """
  pictures = {
    split: [(f.name, f.path(image)) for f in members]
    for split, members in frames.items()
  }
  everything = [p for members in pictures.values() for p in members]
  joined = {}
  for split, members in frames.items():
    rows = tables[split].by_picture(everything if of_all else pictures[split])
    lacking = [name for name, path in pictures[split] if path not in rows]
    if lacking and not allow_missing:
      raise InputError(
        expected=f'a row for each of the {len(members)} pictures of {split}',
        found=f'none for {len(lacking)}: {paths.some(lacking)}',
        where=tables[split].path,
        argument='rows',
        do='add the rows, or accept frames without labels with '
        'allow_missing=True',
      )
    joined[split] = tuple(
      dataclasses.replace(f, row=rows.get(f.path(image))) for f in members
    )
  return joined


def check_files(
  frames: Mapping[str, Sequence[Frame]],
  patterns: Mapping[str, str],
  *,
  allow_missing: bool,
) -> None:
  """Checks that every frame has its image, and its maps if they must exist.

  Raises:
    InputError: files are missing, or are there under similar names.
  """
  members = [frame for split in frames.values() for frame in split]
  similar_name = paths.SimilarNames()
  for argument, pattern in patterns.items():
    missing = {}
    for frame in members:
      if found := paths.why_no_file(frame.path(pattern)):
        missing[frame] = found
    if not missing:
      continue
    similar = {f: similar_name(f.path(pattern)) for f in missing}
    named = next((frame for frame, name in similar.items() if name), None)
    strange = {f: w for f, w in missing.items() if w != 'no such file'}
    # If all are missing, the pattern is wrong.
    partial = argument != _IMAGE and len(missing) < len(members)
    if allow_missing and partial and not named and not strange:
      continue
    first = named or next(iter(strange), next(iter(missing)))
    found = f'{len(missing)} missing, the first for {first.name!r}'
    if named:
      there = paths.as_text(similar[first])
      found += f', where there is {there}: another name, though similar'
    elif strange:
      found += f': {strange[first]}'
    raise InputError(
      expected=f'a file for each of {len(members)} frames',
      found=found,
      argument=argument,
      where=paths.as_text(first.path(pattern)),
      do=_what_to_do(argument, first, pattern, partial, bool(named)),
    )


def _what_to_do(argument, frame, pattern, partial, named):
  if named:
    return f'rename the files, or correct {argument}'
  stem, ending = os.path.splitext(frame.name)
  if ending.lower() in files.SUFFIXES:
    shorter = dataclasses.replace(frame, name=stem)
    if not paths.why_no_file(shorter.path(pattern)):
      return f'list the frames without {ending}, which {argument} adds'
  hint = ', or accept frames without labels with allow_missing=True'
  return f'add the files, or correct {argument}' + hint * partial


def _check_patterns(patterns, tables):
  for argument, pattern in patterns.items():
    known = isinstance(pattern, str)
    if known and tables:
      for table in tables.values():
        table.check_columns(columns_in(pattern), argument)
    if known and not (tables and columns_in(pattern)):
      fields = set(re.findall(r'\{(.*?)\}', pattern))
      known = {'frame'} <= fields <= {'frame', 'split'}
    if not known or pathlib.PurePath(pattern).is_absolute():
      expected = 'a relative path with {frame}, and with {split} if it differs'
      raise bad_option(argument, expected, pattern)


# ---- Splits that are folders -------------------------------------------------


def _list_folder(root, patterns, split, value):
  """The frames of a split in natural order of their names, and notes."""
  pattern = listing.fill(patterns[_IMAGE], value)
  names, similar = listing.list_pictures(root, pattern)
  others = [
    re.compile(listing.as_regex(listing.fill(p, value)))
    for argument, p in patterns.items()
    if argument != _IMAGE
  ]
  overlooked, beside, unread = [], [], []
  for path, name, ending in similar:
    if any(other.fullmatch(path) for other in others):
      continue
    if listing.same_format(ending, pathlib.PurePath(pattern).suffix):
      (beside if name in names else overlooked).append(path)
    elif name not in names:
      unread.append(path)
  if overlooked:
    raise InputError(
      expected=f'pictures named {listing.fill(patterns[_IMAGE], value, "*")}',
      found=f'{len(overlooked)} beside {len(names)} that differ in the case of '
      f'letters or in the ending: {_shown(overlooked)}',
      argument=_IMAGE,
      where=paths.as_text(root),
      do='rename them all alike; to leave some out, list the frames to use in '
      'a .txt file (docs/data.md, "Your own data")',
    )
  if not names:
    raise InputError(
      expected=f'images {listing.fill(patterns[_IMAGE], value, "*")}',
      found=f'none; {_what_is_there(root, pattern)}',
      argument=split,
      where=paths.as_text(root),
      do=f'correct image or {split} (docs/data.md, "Your own data")',
    )
  notes = []
  if beside:
    notes.append(
      f'{split}: not used, because there are two pictures of one name '
      f'({len(beside)}): {_shown(beside)}'
    )
  if unread:
    notes.append(
      f'{split}: not used, because their endings are not that of '
      f'{patterns[_IMAGE]} ({len(unread)}): {_shown(unread)}'
    )
  ordered = sorted(names, key=listing.natural_order)
  return tuple(Frame(root, value, name) for name in ordered), notes


def _what_is_there(root, pattern):
  """The contents of the last folder of a pattern that exists."""
  folder = root
  for part in pathlib.PurePosixPath(pattern).parts[:-1]:
    if '{frame}' in part or paths.why_no_folder(folder / part):
      break
    folder = folder / part
  place = paths.as_text(folder.relative_to(root)) if folder != root else 'it'
  return f'{place} contains {paths.contents(folder)}'


# ---- Splits that are lists ---------------------------------------------------


def _read_list(path, split) -> list[str]:
  found, lines = paths.why_no_file(path), []
  if not found:  # a pipe would never end
    try:
      # utf-8-sig: some editors begin a file with a mark.
      lines = path.read_text(encoding='utf-8-sig').split('\n')
    except (OSError, ValueError) as error:
      found = f'{error}'
  if found:
    raise InputError(
      expected='a text file with the name of a frame in every line, in UTF-8',
      found=found,
      argument=split,
      where=paths.as_text(path),
      do=f'write the file, or name the folder of the split in {split}',
    )
  names = [line.strip() for line in lines if line.strip()]
  if not names or len(set(names)) < len(names):
    raise InputError(
      expected='names of different frames',
      found=f'{_duplicate(names)!r} twice' if names else 'no name',
      argument=split,
      where=paths.as_text(path),
      do='correct the list',
    )
  return names


def _duplicate(names):
  seen = set()
  return next(n for n in names if n in seen or seen.add(n))


# ---- Notes -------------------------------------------------------------------


def _without_picture(root, patterns, folders, frames) -> Iterator[str]:
  """Notes about labels that no picture claims."""
  for argument, pattern in patterns.items():
    if argument == _IMAGE:
      continue
    label = argument.partition('.')[0]
    if '{split}' in pattern:
      for split, value in folders.items():
        used = {frame.name for frame in frames[split]}
        yield from _unclaimed(
          root, listing.fill(pattern, value), used, f'{split}: {label}'
        )
    elif folders.keys() == frames.keys():  # lists may leave frames out
      used = {frame.name for split in frames.values() for frame in split}
      yield from _unclaimed(root, pattern, used, label)


def _unclaimed(root, pattern, used, where) -> Iterator[str]:
  left = set(listing.matching(root, pattern)) - used
  if left:
    shown = _shown([listing.fill(pattern, '', name) for name in left])
    yield (
      f'{where}: not used, because no picture has these names ({len(left)}): '
      f'{shown}'
    )


def _shared(frames, pattern) -> Iterator[str]:
  """Notes about pictures in more than one split."""
  used = {
    split: {frame.path(pattern) for frame in members}
    for split, members in frames.items()
  }
  for one, two in itertools.combinations(used, 2):
    if both := len(used[one] & used[two]):
      yield (
        f'{one} and {two} have the same {both} pictures: what is measured on '
        'them says little of others'
      )


def _shown(found: Iterable[str]) -> str:
  return paths.some([paths.as_text(path) for path in sorted(found)], most=4)
