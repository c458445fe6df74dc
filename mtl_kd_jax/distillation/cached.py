"""Outputs of frozen teachers that come with a batch, computed before.

In a batch they stand beside the image and the labels, as
'teachers/<teacher>/features/<tap>' and 'teachers/<teacher>/predictions/<task>',
[b h w c].
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtl_kd_jax.models.network import Output

_ROOT = 'teachers'


def as_arrays(outputs: Mapping[str, Output]) -> dict[str, Any]:
  """The outputs of teachers as entries of a batch."""
  return {
    f'{_prefix(teacher, kind)}{name}': value
    for teacher, output in outputs.items()
    for kind, values in output._asdict().items()
    for name, value in values.items()
  }


def from_arrays(batch: Mapping[str, jax.Array], teacher: str) -> Output | None:
  """The output of a teacher, float32; None where the batch has none."""
  found = {}
  for kind in Output._fields:
    prefix = _prefix(teacher, kind)
    found[kind] = {
      name.removeprefix(prefix): value.astype(jnp.float32)
      for name, value in batch.items()
      if name.startswith(prefix)
    }
  return Output(**found) if any(found.values()) else None


def _prefix(teacher: str, kind: str) -> str:
  return f'{_ROOT}/{teacher}/{kind}/'
