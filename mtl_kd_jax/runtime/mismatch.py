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


def shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
  """The shapes of a tree's arrays by their path, e.g. 'params/conv/kernel'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _listed(kind, entries) -> str:
  text = f'{len(entries)} {kind}: {", ".join(entries[:_SHOWN])}'
  return text + (', ...' if len(entries) > _SHOWN else '')


def _shape(shape) -> str:
  return f'[{" ".join(map(str, shape))}]'
