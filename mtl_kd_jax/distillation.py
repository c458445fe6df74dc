"""The alignment loss between a student's features and frozen teachers'."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks.base import masked_mean, unit

Features = Mapping[str, jax.Array]

# Inside the square root of the norm, as the KD4MTL code has it.
_EPS = 1e-6
BATCH_NORM_MODES = ('running', 'batch')


@dataclasses.dataclass(frozen=True)
class Distillation:
  """How teachers are asked, and how much each task's alignment weighs.

  Attributes:
    teachers: task -> its teacher's network; the variables come separately.
    adaptors: maps student features into every teacher's space.
    taps: student tap -> teacher tap that it is aligned with.
    weights: task -> lambda_t.
    batch_norm: 'running' asks the teachers with their frozen statistics;
      'batch' with the statistics of the student's own batch, as the reference
      does, which never switches its teachers to evaluation.
  """

  teachers: Mapping[str, nn.Module]
  adaptors: nn.Module
  taps: Mapping[str, str]
  weights: Mapping[str, float]
  batch_norm: str = 'running'

  def __post_init__(self):
    if self.batch_norm not in BATCH_NORM_MODES:
      raise InputError(
        expected=f'one of {", ".join(BATCH_NORM_MODES)}',
        found=repr(self.batch_norm),
        where='config.teacher.batch_norm',
        do="'running' is the sound choice, 'batch' is what the paper's code "
        'does',
      )

  def ask(self, variables: Mapping[str, Any], image: jax.Array):
    """Every teacher's features of a batch.

    Args:
      variables: task -> {'params', 'batch_stats'} of its teacher. They are
        read only: in mode 'batch' the updated statistics are thrown away.
      image: float32 [b h w 3].

    Returns:
      task -> teacher tap -> float [b h w c]; no gradient flows back.
    """
    train = self.batch_norm == 'batch'
    features = {}
    for task, network in self.teachers.items():
      frozen = jax.lax.stop_gradient(variables[task])
      features[task], _ = network.apply(
        frozen,
        image,
        train=train,
        method='features',
        mutable=['batch_stats'] if train else [],
      )
    return features

  def losses(
    self,
    adaptor_params: Mapping[str, Any],
    student: Features,
    teachers: Mapping[str, Features],
    *,
    axis_name: str | None = None,
  ) -> dict[str, jax.Array]:
    """Alignment loss per task, summed over taps, without lambda.

    Args:
      adaptor_params: the parameters of `adaptors`.
      student: student tap -> float [b h w c].
      teachers: from `ask`.
      axis_name: the mapped device axis; the losses are then shares.

    Returns:
      task -> float32 scalar, between 0 and 4 for each tap.
    """
    adapted = self.adaptors.apply({'params': adaptor_params}, student)
    return {
      task: sum(
        alignment_loss(
          adapted[task][tap],
          teachers[task][teacher_tap],
          axis_name=axis_name,
        )
        for tap, teacher_tap in self.taps.items()
      )
      for task in self.teachers
    }


def alignment_loss(
  a: jax.Array, b: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """l^d(a, b) = mean over pixels of || a/|a| - b/|b| ||^2 (Li & Bilen 2020).

  The norms run over channels; squares are summed over channels and averaged
  over batch and space.

  Args:
    a: float [b h w c].
    b: float [b h w c].
    axis_name: the mapped device axis; the result is then this device's share.

  Returns:
    float32 scalar in [0, 4].
  """
  a = unit(a.astype(jnp.float32), eps=_EPS)
  b = unit(b.astype(jnp.float32), eps=_EPS)
  distance = jnp.sum((a - b) ** 2, axis=-1)
  every_pixel = jnp.ones(distance.shape, bool)
  return masked_mean(distance, every_pixel, axis_name=axis_name)
