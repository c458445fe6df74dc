"""Teachers, adaptors, and the losses that hold a student to its teachers.

A loss is a pure function of two maps, a registry of which stands here. To add
one: a file with a `make`, and a line here; the tests run over the registry.

  loss = distillation.make_loss('feature_l2')
  loss(student, teacher)    # [b h w c] each -> float32 scalar
"""

import inspect
from typing import Any, Protocol

import jax

from mtl_kd_jax.distillation import feature_l2
from mtl_kd_jax.distillation.adaptors import (
  Adaptors,
  Alignment,
  Pair,
  make_adaptors,
  parse_taps,
)
from mtl_kd_jax.distillation.teachers import Teacher
from mtl_kd_jax.errors import InputError

__all__ = [
  'LOSSES',
  'Adaptors',
  'Alignment',
  'KDLoss',
  'Pair',
  'Teacher',
  'loss_options',
  'make_adaptors',
  'make_loss',
  'parse_taps',
]


class KDLoss(Protocol):
  """How far a student's map is from a teacher's; features or predictions."""

  def __call__(
    self,
    student: jax.Array,
    teacher: jax.Array,
    mask: jax.Array | None = None,
    *,
    axis_name: str | None = None,
  ) -> jax.Array:
    """Computes the loss; its docstring says how it is reduced.

    Args:
      student: float [b h w c].
      teacher: float [b h' w' c]; no gradient is wanted with respect to it.
      mask: bool [b h' w'], the pixels that count; None for all.
      axis_name: the mapped device axis, if any; the result is then this
        device's share, and the sum over devices is the loss.

    Returns:
      float32 scalar.
    """
    ...


LOSSES = {
  'feature_l2': feature_l2.make,
}


def make_loss(name: str, **options: Any) -> KDLoss:
  """Makes a distillation loss.

  Args:
    name: of `LOSSES`.
    **options: what its `make` takes.

  Raises:
    InputError: unknown name or option, or a value that cannot be used.
  """
  if name not in LOSSES:
    raise InputError(
      expected=f'a known distillation loss: {", ".join(LOSSES)}',
      found=repr(name),
      argument='loss',
      do='correct the name',
    )
  known = loss_options(name)
  if unknown := [option for option in options if option not in known]:
    raise InputError(
      expected=f'options of {name}: {", ".join(known) or "none"}',
      found=', '.join(unknown),
      argument=unknown[0],
      do='correct the name',
    )
  return LOSSES[name](**options)


def loss_options(name: str) -> dict[str, Any]:
  """The options of a loss with their defaults."""
  parameters = inspect.signature(LOSSES[name]).parameters
  return {option: p.default for option, p in parameters.items()}
