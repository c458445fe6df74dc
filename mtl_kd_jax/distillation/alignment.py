"""The alignment loss between a student's features and frozen teachers'."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.distillation.adaptors import Adaptors, Pair
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.features import taps_of
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.tasks.base import masked_mean, widened

Features = Mapping[str, jax.Array]
Shapes = Mapping[str, tuple[int, ...]]

BATCH_NORM_MODES = ('running', 'batch')


@dataclasses.dataclass(frozen=True)
class Distillation:
  """How teachers are asked, and how much each task's alignment weighs.

  Attributes:
    teachers: task -> its teacher's network; the variables come separately.
    adaptors: maps student features into every teacher's space, for every pair
      of taps that is aligned.
    weights: task -> lambda_t.
    epsilon: inside the square root of the norms; 1e-6 in the KD4MTL code.
    batch_norm: 'running' asks the teachers with their frozen statistics;
      'batch' with the statistics of the student's own batch, as the reference
      does, which never switches its teachers to evaluation.
  """

  teachers: Mapping[str, nn.Module]
  adaptors: Adaptors
  weights: Mapping[str, float]
  epsilon: float = 1e-6
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

  def only(self, task: str) -> 'Distillation':
    """The part of it that is about one task."""
    return dataclasses.replace(
      self,
      teachers={task: self.teachers[task]},
      adaptors=Adaptors({task: self.adaptors.channels[task]}),
    )

  @property
  def adaptor_names(self) -> tuple[str, ...]:
    """The keys of the adaptors' parameters."""
    return tuple(
      f'{task}_{pair}'
      for task, pairs in self.adaptors.channels.items()
      for pair in pairs
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
      # The prediction is not used, so that the compiler leaves the head out.
      output, _ = network.apply(
        frozen, image, train=train, mutable=['batch_stats'] if train else []
      )
      # On the CPU the sums of the loss would be fused with the convolutions
      # that they sum, in a form of these that is slow.
      features[task] = jax.lax.optimization_barrier(
        taps_of(output.features, task)
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
    """Alignment loss per task, summed over pairs of taps, without lambda.

    Args:
      adaptor_params: the parameters of `adaptors`.
      student: tap -> float [b h w c], all of the student's.
      teachers: from `ask`.
      axis_name: the mapped device axis; the losses are then shares.

    Returns:
      task -> float32 scalar, between 0 and 4 for each pair.
    """
    adapted = self.adaptors.apply({'params': adaptor_params}, student)
    return {
      task: sum(
        alignment_loss(
          feature,
          teachers[task][pair.teacher],
          epsilon=self.epsilon,
          axis_name=axis_name,
        )
        for pair, feature in adapted[task].items()
      )
      for task in self.teachers
    }


def alignment_loss(
  a: jax.Array,
  b: jax.Array,
  *,
  epsilon: float = 1e-6,
  axis_name: str | None = None,
) -> jax.Array:
  """l^d(a, b) = mean over pixels of || a/|a| - b/|b| ||^2 (Li & Bilen 2020).

  The norms run over channels; squares are summed over channels and averaged
  over batch and space.

  Args:
    a: float [b h w c], the student's, adapted. Of another height and width
      than `b` it is resized to it, bilinearly (Li, Liu & Bilen 2023).
    b: float [b h' w' c], the teacher's.
    epsilon: inside the square root of the norms.
    axis_name: the mapped device axis; the result is then this device's share.

  Returns:
    float32 scalar in [0, 4].
  """
  a, b = resize_bilinear(widened(a), b.shape[1:3]), widened(b)
  # Multiplied out: three sums over channels, and no unit vectors in memory.
  aa, bb, ab = (jnp.sum(x * y, axis=-1) for x, y in ((a, a), (b, b), (a, b)))
  a_norm, b_norm = aa + epsilon, bb + epsilon
  cosine = ab * jax.lax.rsqrt(a_norm) * jax.lax.rsqrt(b_norm)
  distance = aa / a_norm + bb / b_norm - 2 * cosine
  every_pixel = jnp.ones(distance.shape, bool)
  return masked_mean(distance, every_pixel, axis_name=axis_name)


def make_adaptors(
  taps: Sequence[str], student: Shapes, teachers: Mapping[str, Shapes]
) -> Adaptors:
  """Makes the adaptors for pairs of taps, after checking that they can meet.

  Args:
    taps: 'tap', for a tap of that name in both networks, or 'tap:teacher tap'.
    student: tap -> shape [b h w c], all of the student's.
    teachers: task -> tap -> shape, all of that teacher's.

  Raises:
    InputError: a tap that there is not, a pair that is named twice, or one
      whose maps do not show the same image; with the shapes.
  """
  pairs = [_parse(name) for name in taps]
  if len(set(pairs)) < len(pairs):
    raise InputError(
      expected='different pairs of features',
      found=f'{tuple(taps)}',
      where='config.distill.taps',
      do='name each pair once',
    )
  return Adaptors(
    {
      task: {
        pair: _matched(
          pair, task, taps_of(student, task), taps_of(shapes, task)
        )
        for pair in pairs
      }
      for task, shapes in teachers.items()
    }
  )


def _parse(name: str) -> Pair:
  student, _, teacher = name.replace(' ', '').partition(':')
  return Pair(student, teacher or student)


def _matched(pair, task, student, teacher) -> int:
  """The channels that the adaptor of a pair maps to."""
  for tap, shapes, whose in (
    (pair.student, student, "the student's"),
    (pair.teacher, teacher, f"the teacher's of {task}"),
  ):
    if tap not in shapes:
      raise InputError(
        expected=f'a feature of the backbone or head, {whose}: '
        f'{_listed(shapes)}',
        found=repr(tap),
        where='config.distill.taps',
        do='name some of those features, as TAP or STUDENT_TAP:TEACHER_TAP',
      )
  s, t = student[pair.student], teacher[pair.teacher]
  # Maps of one image differ in size by their strides, in both directions alike
  # up to rounding. Others would be aligned with the wrong place.
  if len(s) != 4 or len(t) != 4 or not _same_view(s[1:3], t[1:3]):
    raise InputError(
      expected='two maps [b h w c] of the same image',
      found=f'{pair.student} {_shape(s)} of the student and {pair.teacher} '
      f'{_shape(t)} of the teacher of {task}',
      where='config.distill.taps',
      do='choose another pair; --job=taps lists all features',
    )
  return t[-1]


def _same_view(a, b) -> bool:
  (h, w), (k, m) = a, b
  # h / k and w / m agree when each side may be off by up to one pixel.
  return (h - 1) * (m - 1) <= (k + 1) * (w + 1) and (k - 1) * (w - 1) <= (
    h + 1
  ) * (m + 1)


def _listed(shapes) -> str:
  return ', '.join(f'{tap} {_shape(shape)}' for tap, shape in shapes.items())


def _shape(shape) -> str:
  return f'[{" ".join(map(str, ("b", *shape[1:])))}]'
