"""Checks the options of kinds: names, pairs, colors, weights."""

from collections.abc import Iterable, Sequence
import math
import numbers
from typing import Any

from mtl_kd_jax.errors import InputError, hint


def bad(argument: str, expected: str, found: Any, do: str = '') -> InputError:
  """Makes the error for an option that cannot be used."""
  return InputError(
    expected=expected,
    found=repr(found),
    argument=argument,
    do=do or 'correct it (docs/own_tasks.md)',
  )


def members(values: Any) -> tuple:
  """The members of a sequence; () for text and for what has none."""
  if isinstance(values, str | bytes) or not isinstance(values, Iterable):
    return ()
  return tuple(values)


def names(argument: str, values: Any, *, fewest: int) -> tuple[str, ...]:
  """Different names, at least so many."""
  found = members(values)
  valid = all(isinstance(x, str) and x for x in found)
  if not valid or len(set(found)) < len(found) or len(found) < fewest:
    least = {1: 'one or more', 2: 'two or more'}.get(fewest, 'any number of')
    # Of one class, every prediction is right, and the loss is 0.
    raise bad(argument, f'{least} different names, in the order of ids', values)
  return found


def pairs(values: Any, known: Sequence[str]) -> tuple[tuple[int, int], ...]:
  """Pairs of names, or of numbers, as numbers."""
  found = []
  for pair in members(values):
    both = members(pair)
    ids = [_number_of(x, known) for x in both]
    if len(both) != 2 or None in ids or ids[0] == ids[1]:
      unknown = [x for x, i in zip(both, ids, strict=True) if i is None]
      raise bad(
        'pairs',
        f'pairs of two of {", ".join(map(str, known))}',
        pair,
        'name what is the same thing on the left and on the right'
        + ''.join(hint(x, known) for x in unknown[:1]),
      )
    found.append((ids[0], ids[1]))
  used = [i for pair in found for i in pair]
  if len(set(used)) < len(used):
    raise bad('pairs', 'each name in one pair', values)
  return tuple(found)


def _number_of(name, known) -> int | None:
  if isinstance(name, int) and 0 <= name < len(known):
    return name
  return known.index(name) if name in known else None


def colors(values: Any, count: int) -> tuple[tuple[int, int, int], ...]:
  """A color of each class, or none at all."""
  found = tuple(members(color) for color in members(values))
  if not found and not values:
    return ()
  valid = all(
    len(c) == 3 and all(whole(x) and 0 <= x <= 255 for x in c) for c in found
  )
  if not valid or len(found) != count:
    raise bad('colors', f'(red, green, blue) for each of {count}', values)
  return tuple((int(r), int(g), int(b)) for r, g, b in found)


def weights(
  argument: str, values: Any, classes: Sequence[str]
) -> tuple[float, ...]:
  """A factor above 0 for each class, or none at all."""
  found = members(values)
  if not all(map(positive, found)) or len(found) not in (0, len(classes)):
    raise bad(
      argument,
      f'a factor above 0 for each of {len(classes)}: {", ".join(classes)}',
      values,
    )
  return tuple(map(float, found))


def share(argument: str, value: Any) -> float:
  """A share above 0 and up to 1."""
  if not (positive(value) and value <= 1):
    raise bad(argument, 'a share above 0 and up to 1', value)
  return float(value)


def factor(argument: str, value: Any) -> float:
  """A finite number above 0."""
  if not positive(value):
    raise bad(argument, 'a finite number above 0', value)
  return float(value)


def one_of(argument: str, value: Any, known: Sequence[str]) -> str:
  """One of some words."""
  if value not in known:
    shown = ', '.join(map(repr, known))
    raise bad(
      argument, f'one of {shown}', value, f'correct it{hint(value, known)}'
    )
  return value


def count(argument: str, value: Any, *, fewest: int = 1) -> int:
  """A whole number."""
  if not (whole(value) and value >= fewest):
    raise bad(argument, f'a whole number from {fewest}', value)
  return int(value)


def text(argument: str, value: Any) -> str:
  """Text, maybe none."""
  if not isinstance(value, str):
    raise bad(argument, "text, such as 'm'", value)
  return value


def whole(value: Any) -> bool:
  """Whether a value is an integer; bool is none."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def positive(value: Any) -> bool:
  """Whether a value is a finite number above 0."""
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return number and value > 0 and math.isfinite(value)
