"""Checks options that several datasets have."""

from collections.abc import Collection, Iterable
import numbers
from typing import Any

from mtl_kd_jax.errors import InputError, hint

# Of one image or map: what Pillow decodes at most. Headers can declare more
# than any memory holds.
MAX_PIXELS = 178_956_970


def check_size(size: Any, *, minimum: int = 1) -> tuple[int, int]:
  """Returns the option `image_size` as (height, width).

  Raises:
    InputError: it is not two whole numbers from `minimum`.
  """
  sides = as_tuple(size)
  whole = [s for s in sides if is_whole(s) and minimum <= s]
  if len(sides) != 2 or len(whole) != 2:
    expected = '(height, width) in whole pixels' + (
      f' of at least {minimum} each' if minimum > 1 else ', from 1'
    )
    raise _bad('image_size', expected, size)
  if sides[0] * sides[1] > MAX_PIXELS:
    raise _bad('image_size', f'at most {MAX_PIXELS} pixels', size)
  height, width = map(int, sides)
  return height, width


def check_whole(argument: str, value: Any, *, minimum: int) -> int:
  """Returns an option as an integer; InputError unless it is one."""
  if not (is_whole(value) and value >= minimum):
    raise _bad(argument, f'a whole number from {minimum}', value)
  return int(value)


def check_names(
  argument: str, value: Any, known: Collection[str]
) -> tuple[str, ...]:
  """Returns an option of one or more names that are known.

  Raises:
    InputError: there is none, or one is unknown.
  """
  names = as_tuple(value)
  for name in names or ('',):
    if name not in known:
      raise InputError(
        expected=f'one or more of {", ".join(known)}',
        found=repr(name),
        argument=argument,
        do=f'name some of those{hint(f"{name}", known)}',
      )
  return names


def is_whole(value: Any) -> bool:
  """Whether a value is an integer, of Python or NumPy; bool is none."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_empty(value: Any) -> bool:
  """Whether an option of several values is left out, as () or []."""
  return isinstance(value, tuple | list) and not value


def as_tuple(value: Any) -> tuple:
  """The members of a sequence; () for text and for what has no members."""
  if isinstance(value, str | bytes) or not isinstance(value, Iterable):
    return ()
  return tuple(value)


def _bad(argument, expected, found) -> InputError:
  return InputError(
    expected=expected,
    found=repr(found),
    argument=argument,
    do=f'set {argument} to such a value',
  )
