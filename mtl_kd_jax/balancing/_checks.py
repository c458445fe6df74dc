"""Checks of the options that balancers are made with."""

from collections.abc import Mapping, Sequence
import math
import numbers
from typing import Any

from mtl_kd_jax.errors import InputError


def number(
  value: float,
  name: str,
  *,
  above: float | None = None,
  at_least: float | None = None,
  below: float | None = None,
  at_most: float | None = None,
  integer: bool = False,
) -> None:
  """Checks that an option is a finite number within bounds.

  Raises:
    InputError: it is not.
  """
  bounds = [
    (above, 'above', lambda x, y: x > y),
    (at_least, 'at least', lambda x, y: x >= y),
    (below, 'below', lambda x, y: x < y),
    (at_most, 'at most', lambda x, y: x <= y),
  ]
  bounds = [b for b in bounds if b[0] is not None]
  wanted = ' and '.join(f'{words} {bound}' for bound, words, _ in bounds)
  kind = numbers.Integral if integer else numbers.Real
  good = isinstance(value, kind) and not isinstance(value, bool)
  good = good and math.isfinite(value)
  if not good or not all(holds(value, bound) for bound, _, holds in bounds):
    article = 'an integer' if integer else 'a number'
    raise InputError(
      expected=f'{article} {wanted}'.strip(),
      found=repr(value),
      argument=name,
      do=f'correct {name}',
    )


def choice(value: Any, name: str, choices: Sequence[Any]) -> None:
  """Checks that an option is one of `choices`; raises InputError."""
  if value not in choices:
    raise InputError(
      expected=f'one of {", ".join(map(str, choices))}',
      found=repr(value),
      argument=name,
      do=f'correct {name}',
    )


def by_task(value: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
  """Returns an option that maps tasks to values, {} for None.

  Raises:
    InputError: it is no mapping.
  """
  if not isinstance(value or {}, Mapping):
    raise InputError(
      expected='a value for each task: {task: value}',
      found=repr(value),
      argument=name,
      do=f'correct {name}',
    )
  return value or {}


def required(value: Any, argument: str) -> Any:
  """Returns an argument that a rule needs; raises InputError for None."""
  if value is None:
    raise InputError(
      expected=f'{argument}, which this balancer needs',
      found='None',
      argument=argument,
      do=f'pass {argument}=...',
    )
  return value
