"""Linear maps from the student's features to its teachers'."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax

from mtl_kd_jax.errors import InputError, check_type
from mtl_kd_jax.models.features import taps_of
from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.ops.conv import dot_general

Shapes = Mapping[str, tuple[int, ...]]


class Pair(NamedTuple):
  """A student's tap and the teacher's tap that it is aligned with."""

  student: str
  teacher: str

  def __str__(self):
    return f'{self.student}_to_{self.teacher}'


@dataclasses.dataclass(frozen=True)
class Alignment:
  """What of the student is aligned with what of one teacher.

  Attributes:
    teacher: name of the teacher.
    task: whose features are meant where tasks have features of their own, of
      the student's and of the teacher's; '' for the shared ones.
    channels: pair -> channels of the teacher's feature.
  """

  teacher: str
  task: str
  channels: Mapping[Pair, int]


class Adaptors(nn.Module):
  """One 1x1 convolution without bias for each alignment and pair of taps.

  Linear, so that the student's feature must *contain* each teacher's feature
  and the adaptor cannot compute it (Li & Bilen 2020, A_t in Fig. 1).

  Attributes:
    alignments: name -> what is aligned.
  """

  alignments: Mapping[str, Alignment]

  @nn.compact
  def __call__(
    self, features: Mapping[str, jax.Array]
  ) -> dict[str, dict[Pair, jax.Array]]:
    """Maps features.

    Args:
      features: tap -> float [b h w c], all of the student's.

    Returns:
      name -> pair -> float [b h w c'], c' from `Alignment.channels`.
    """
    return {
      name: {
        pair: nn.Dense(
          channels,
          use_bias=False,
          kernel_init=xavier_normal,
          dot_general=dot_general,
          name=f'{name}_{pair}',
        )(taps_of(features, alignment.task)[pair.student])
        for pair, channels in alignment.channels.items()
      }
      for name, alignment in self.alignments.items()
    }

  def only(self, name: str) -> 'Adaptors':
    """The adaptors of one alignment; the parameters of all serve it."""
    return self.clone(alignments={name: self.alignments[name]})


def make_adaptors(
  taps: Sequence[str] | Mapping[str, Sequence[str]],
  student: Shapes,
  teachers: Mapping[str, Shapes],
) -> Adaptors:
  """Makes the adaptors of a student whose tasks have a teacher each.

  Args:
    taps: 'tap', for a tap of that name in both networks, or 'tap:teacher tap';
      the same for all tasks, or by task.
    student: tap -> shape [b h w c], all of the student's.
    teachers: task -> tap -> shape, all of that teacher's.

  Raises:
    InputError: an unknown tap, a pair that is named twice, or one whose maps do
      not show the same image; with the shapes.
  """
  by_task = taps if isinstance(taps, Mapping) else dict.fromkeys(teachers, taps)
  pairs = {task: parse_taps(by_task[task]) for task in teachers}
  return Adaptors(
    {
      task: Alignment(
        task,
        task,
        {
          pair: _matched(
            pair, task, taps_of(student, task), taps_of(shapes, task)
          )
          for pair in pairs[task]
        },
      )
      for task, shapes in teachers.items()
    }
  )


def parse_taps(taps: Sequence[str]) -> list[Pair]:
  """The pairs that names such as 'decoder' or 'bottleneck:decoder' stand for.

  Raises:
    InputError: there is none, or one is named twice.
  """
  pairs = []
  for name in taps:
    check_type(
      name,
      str,
      expected='names of features',
      argument='taps',
      do='name features as TAP or STUDENT_TAP:TEACHER_TAP',
    )
    student, _, teacher = name.replace(' ', '').partition(':')
    pairs.append(Pair(student, teacher or student))
  if not pairs or len(set(pairs)) < len(pairs):
    raise InputError(
      expected='at least one pair of features, each named once',
      found=f'{tuple(taps)}',
      argument='taps',
      do='name features as TAP or STUDENT_TAP:TEACHER_TAP',
    )
  return pairs


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
        argument='taps',
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
      argument='taps',
      do='choose another pair; the job "taps" lists all features',
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
