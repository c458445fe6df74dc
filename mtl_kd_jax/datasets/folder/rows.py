"""A table with one row per picture: CSV, or JSON in every line.

It is read once. What stands in a row becomes labels of the picture (readers.py)
or fills patterns of paths.
"""

from collections.abc import Iterable, Iterator, Mapping
import csv
import dataclasses
import io
import json
import pathlib
from typing import Any

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, hint

SUFFIXES = ('.csv', '.jsonl')


@dataclasses.dataclass(frozen=True)
class Row:
  """One row.

  Attributes:
    table: path of the file, as text for messages.
    number: its line in the file, from 1.
    values: column -> text, of CSV; or what JSON has.
  """

  table: str
  number: int
  values: Mapping[str, Any]

  def error(self, column: str, expected: str, found: Any) -> InputError:
    """Makes the error for a value that cannot be used."""
    return InputError(
      expected=expected,
      found=f'{found!r:.200}',
      where=f'{self.table}, line {self.number}, column {column!r}',
      do='correct the row',
    )

  def get(self, column: str) -> Any:
    """A value; None where the cell is empty. All rows have all columns."""
    value = self.values.get(column)
    if isinstance(value, str):
      value = value.strip()
    return None if value == '' else value


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of one split.

  Attributes:
    path: of the file, as text for messages.
    columns: their names; the first of those asked for names the pictures.
    key: the column that names the pictures.
    rows: what the key says of a picture -> its row.
  """

  path: str
  columns: tuple[str, ...]
  key: str
  rows: Mapping[str, Row]

  def check_columns(self, columns, argument: str) -> None:
    """Raises InputError where there is no such column."""
    for column in columns:
      if column not in self.columns:
        raise InputError(
          expected=f'a column of {self.path}: {", ".join(self.columns)}',
          found=repr(column),
          argument=argument,
          do=f'correct it{hint(column, self.columns)}',
        )

  def by_picture(
    self, pictures: Iterable[tuple[str, pathlib.Path]]
  ) -> dict[pathlib.Path, Row]:
    """The file of a picture -> its row.

    A row names a picture as the patterns do, or as a file: by its name, with
    folders in front of it or without. Folders tell apart pictures of one name.

    Args:
      pictures: the name of each frame, and the file of its picture.

    Raises:
      InputError: a row names no picture, or one of several, or two rows name
        the same one.
    """
    found: dict[pathlib.Path, Row] = {}
    known: dict[str, dict[pathlib.Path, None]] = {}  # in order, each once
    names = set()
    for name, path in pictures:
      names.add(name)
      for form in {name, path.name, path.stem}:
        known.setdefault(form, {})[path] = None
    for value, row in self.rows.items():
      as_path = pathlib.PurePosixPath(value.replace('\\', '/'))
      forms = (value, as_path.name, as_path.stem)
      meant = next((known[form] for form in forms if form in known), {})
      if not meant:
        raise InputError(
          expected='rows that name pictures',
          found=f'{value!r}, which none of the {len(names)} pictures is called'
          f'{hint(as_path.stem, sorted(names))}',
          where=f'{row.table}, line {row.number}, column {self.key!r}',
          argument='rows',
          do='correct or remove the row, or name another column in `picture`',
        )
      alike = {path: _common_parts(path, as_path) for path in meant}
      highest = max(alike.values())
      most = [path for path, count in alike.items() if count == highest]
      if len(most) > 1:
        raise InputError(
          expected='rows that name one picture each',
          found=f'{value!r}, which may be {paths.as_text(most[0])} or '
          f'{paths.as_text(most[1])}',
          where=f'{row.table}, line {row.number}, column {self.key!r}',
          argument='rows',
          do="add a column 'split', or put {split} into the name of the table",
        )
      if most[0] in found:
        raise _twice(row, self.key, value, found[most[0]])
      found[most[0]] = row
    return found


def _common_parts(path: pathlib.Path, value: pathlib.PurePosixPath) -> int:
  """How many folders in front of two files are the same, from the last on."""
  count = 0
  for one, other in zip(path.parts[-2::-1], value.parts[-2::-1], strict=False):
    if one != other:
      break
    count += 1
  return count


def read_table(path: pathlib.Path, *, key: str = '', split: str = '') -> Table:
  """Reads a table.

  Args:
    path: of a .csv or .jsonl.
    key: the column that names the pictures; '' for the first one.
    split: where there is a column 'split', the rows that have this value there.

  Raises:
    InputError: it cannot be read, has no such column, or no row.
  """
  where = paths.as_text(path)
  found = paths.why_no_such_file(path)
  if not found and path.suffix.lower() not in SUFFIXES:
    found = f'{path.suffix!r}'
  if found:
    raise _bad_table(where, f'a file in one of {", ".join(SUFFIXES)}', found)
  try:
    # utf-8-sig: some editors begin a file with a mark.
    text = path.read_text(encoding='utf-8-sig')
  except (OSError, ValueError) as error:
    raise _bad_table(where, 'a text file in UTF-8', f'{error}') from error
  read = _read_csv if path.suffix.lower() == '.csv' else _read_json_lines
  rows = [Row(where, number, values) for number, values in read(text, where)]
  if not rows:
    raise _bad_table(where, 'a row for every picture', 'none')
  columns = tuple(dict.fromkeys(c for row in rows for c in row.values))
  key = key or columns[0]
  if key not in columns:
    raise InputError(
      expected=f'a column of {where}: {", ".join(columns)}',
      found=repr(key),
      argument='picture',
      do=f'correct it{hint(key, columns)}',
    )
  by_name: dict[str, Row] = {}
  for row in rows:
    if 'split' in columns and split and row.get('split') != split:
      continue
    name = row.get(key)
    if not isinstance(name, str):
      raise row.error(key, 'the name of a picture', name)
    if name in by_name:
      raise _twice(row, key, name, by_name[name])
    by_name[name] = row
  if not by_name:
    raise _bad_table(
      where, f'rows whose column split is {split!r}', 'none of them'
    )
  return Table(where, columns, key, by_name)


def _read_csv(text, where) -> Iterator[tuple[int, Mapping[str, Any]]]:
  reader = csv.DictReader(io.StringIO(text, newline=''), strict=True)
  try:
    names = reader.fieldnames or []
    if len(set(names)) < len(names) or not all(names):
      raise _bad_table(
        where, 'different names of columns in the first line', f'{names}'
      )
    for values in reader:
      if None in values or None in values.values():
        raise _bad_table(
          f'{where}, line {reader.line_num}',
          f'{len(names)} cells, as the first line has',
          'another number',
        )
      yield reader.line_num, values
  except csv.Error as error:
    raise _bad_table(
      f'{where}, line {reader.line_num}', 'CSV', f'{error}'
    ) from error


def _read_json_lines(text, where) -> Iterator[tuple[int, Mapping[str, Any]]]:
  for number, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      values = json.loads(line)
    except (RecursionError, ValueError) as error:
      values = f'{error}'
    if not isinstance(values, dict):
      raise _bad_table(
        f'{where}, line {number}', 'a JSON object, {"picture": ...}', values
      )
    yield number, values


def _bad_table(where, expected, found) -> InputError:
  return InputError(
    expected=expected,
    found=f'{found}'[:200],
    where=where,
    argument='rows',
    do='correct the file (docs/own_tasks.md)',
  )


def _twice(row, key, name, first) -> InputError:
  return InputError(
    expected='one row for each picture',
    found=f'{name!r} in lines {first.number} and {row.number}',
    where=f'{row.table}, column {key!r}',
    argument='rows',
    do='remove one of them',
  )
