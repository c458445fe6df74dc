"""Two ways in which a run ends early through no fault of the code.

The third is `runtime.preemption.Stopped`. All are caught in one place, the
command line, which prints the message alone. Everything else is a defect and
keeps its traceback.
"""

from collections.abc import Iterable
import difflib
from typing import Any


class InputError(ValueError):
  """Something that the user gave (config, data, folder) cannot be used.

  The message has always the same four parts, so that nobody has to guess:
  what was expected, what was found, where, and what to do about it.

  Attributes:
    expected: what would have been right.
    found: what there was instead.
    where: the file, folder or argument it was found in.
    do: what the user can do now.
    argument: the argument of the called function that is at fault, with dots
      inside of it ('weights.depth'); '' where it is not one argument. The
      config translates it into the key that the argument came from.
  """

  def __init__(
    self,
    *,
    expected: str,
    found: str,
    do: str,
    where: str = '',
    argument: str = '',
  ):
    """Builds the message; `where` may be left out where `argument` says it."""
    where = where or f'argument {argument}'
    super().__init__(
      f'expected {expected}\n'
      f'  found:  {found}\n'
      f'  where:  {where}\n'
      f'  to do:  {do}'
    )
    self.expected, self.found, self.where, self.do = expected, found, where, do
    self.argument = argument

  def __reduce__(self):
    # Exceptions of loader processes travel to the main process by pickle.
    return _rebuild_input_error, (
      self.expected,
      self.found,
      self.where,
      self.do,
      self.argument,
    )


def _rebuild_input_error(expected, found, where, do, argument):
  return InputError(
    expected=expected, found=found, where=where, do=do, argument=argument
  )


class NotFiniteError(ArithmeticError):
  """A loss or gradient became infinite or NaN; training has stopped."""


def hint(name: str, known: Iterable[str]) -> str:
  """'; did you mean ...?' where a name is like a known one, else ''."""
  close = difflib.get_close_matches(str(name), [*known], n=1)
  return f'; did you mean {close[0]!r}?' if close else ''


def check_type(
  value: Any,
  kind: type | tuple[type, ...],
  *,
  expected: str,
  argument: str,
  do: str,
) -> None:
  """Checks that an argument is of a type, before anything is read from it.

  Args:
    value: of the argument.
    kind: the type, or some.
    expected: what it should be, in the user's words.
    argument: its name.
    do: what the user can do.

  Raises:
    InputError: it is of another one.
  """
  if not isinstance(value, kind):
    raise InputError(
      expected=expected, found=what_is(value), argument=argument, do=do
    )


def what_is(value: Any) -> str:
  """A value as messages show it: itself where it is short, else its type."""
  plain = value is None or isinstance(value, str | bytes | int | float)
  return f'{value!r:.99}' if plain else f'a {type(value).__name__}'
