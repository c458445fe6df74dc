"""Says in which entries named arrays differ from what was expected."""

from collections.abc import Mapping
from typing import Any

import jax

Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 3


def describe_mismatch(expected: Shapes, found: Shapes) -> str:
  """Names the first missing, unexpected and misshaped entries.

  Args:
    expected: name -> shape.
    found: name -> shape.

  Returns:
    One line; '' when names and shapes are the same.
  """
  missing = [f'{n} {_shape(s)}' for n, s in expected.items() if n not in found]
  unexpected = [
    f'{n} {_shape(s)}' for n, s in found.items() if n not in expected
  ]
  misshaped = [
    f'{n} {_shape(found[n])} in place of {_shape(s)}'
    for n, s in expected.items()
    if n in found and tuple(found[n]) != tuple(s)
  ]
  kinds = {
    'missing': missing,
    'unexpected': unexpected,
    'misshaped': misshaped,
  }
  return '; '.join(
    _listed(kind, names) for kind, names in kinds.items() if names
  )


def describe_dtypes(expected: Any, found: Any) -> str:
  """Names the first arrays whose dtypes differ, in trees of the same names.

  Returns:
    One line; '' when the dtypes are the same.
  """
  expected, found = _by_name(expected), _by_name(found)
  others = [
    f'{n} {found[n].dtype} in place of {x.dtype}'
    for n, x in expected.items()
    if found[n].dtype != x.dtype
  ]
  return _listed('of another dtype', others) if others else ''


def shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
  """The shapes of a tree's arrays by their path, e.g. 'params/conv/kernel'."""
  return {name: x.shape for name, x in _by_name(tree).items()}


def _by_name(tree) -> dict[str, Any]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _listed(kind, entries) -> str:
  text = f'{len(entries)} {kind}: {", ".join(entries[:_SHOWN])}'
  return text + (', ...' if len(entries) > _SHOWN else '')


def _shape(shape) -> str:
  return f'[{" ".join(map(str, shape))}]'
