"""Nested dictionaries as one; without flax, which would import JAX."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """One dictionary, with dots in its keys; empty ones are left out.

  Args:
    tree: {'data': {'flip': True}}
    prefix: of all keys.

  Returns:
    {'data.flip': True}
  """
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = value
  return flat
