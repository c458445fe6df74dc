"""Lambda that follows how far a student is behind its teachers.

With a constant lambda, a student imitates its teachers also in tasks in which
it is better than they are. Here each lambda is

  lambda_t * min(1, gap_t / full)

with gap_t the percentage by which the student's headline metric is behind its
teacher's on held-out data; 0 where the student is ahead.
"""

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks.base import Task
from mtl_kd_jax.training.evaluation import Metrics

# 'cosine' is in agreement.py: it changes in every step.
ADAPTATIONS = ('none', 'gap', 'cosine')


class Adaptation(NamedTuple):
  """Factors on the weights of terms, set anew whenever the student is scored.

  Attributes:
    terms: the names of the terms; their factors begin at 1.
    factors: (metrics of the student, teacher -> its metrics, all on the split
      that checkpoints are chosen on) -> {term: factor}.
  """

  terms: tuple[str, ...]
  factors: Callable[[Metrics, Mapping[str, Metrics]], dict[str, float]]


def check_adaptation(
  adapt: str, *, held_out: bool, eval_every_epochs: int
) -> None:
  """Checks that lambda can be adapted as asked.

  Args:
    adapt: of `ADAPTATIONS`.
    held_out: whether checkpoints are chosen on another split than the one that
      is reported.
    eval_every_epochs: how often the student is scored; 0 for never.

  Raises:
    InputError: unknown, or nothing to compare student and teachers on or at.
  """
  if adapt not in ADAPTATIONS:
    raise InputError(
      expected=f'one of {", ".join(ADAPTATIONS)}',
      found=repr(adapt),
      argument='adapt',
      do="'none' is the paper's",
    )
  if adapt == 'gap' and not held_out:
    raise InputError(
      expected='samples that are neither trained on nor reported, on which '
      "'gap' compares the student with its teachers",
      found='the split that is reported',
      argument='adapt',
      do='hold out a share of training with data.val_fraction=0.1, or name a '
      'split in data.select_split',
    )
  if adapt == 'gap' and not eval_every_epochs:
    raise InputError(
      expected="a number of epochs, after which 'gap' looks at the scores",
      found='0',
      argument='eval_every_epochs',
      do='score every epoch',
    )


def by_gap(
  terms: Mapping[str, tuple[str, str]],
  tasks: Mapping[str, Task],
  *,
  full: float = 10.0,
) -> Adaptation:
  """Lambda by how far a student is behind its teachers.

  Args:
    terms: name of an alignment's term -> (teacher, task).
    tasks: the tasks; their headline metrics are compared.
    full: percent of the teacher's metric that the student is behind by, from
      which on lambda is whole.

  Raises:
    InputError: `full` is not above 0.
  """
  if not (full > 0 and math.isfinite(full)):
    raise InputError(
      expected='percent above 0',
      found=repr(full),
      argument='full',
      do='with 10, half of lambda is left where a student is 5 % behind',
    )

  def factors(student, teachers):
    return {
      name: _factor(
        student.get(task, {}).get(tasks[task].headline, math.nan),
        teachers[teacher].get(task, {}).get(tasks[task].headline, math.nan),
        sign=1 if tasks[task].higher_is_better else -1,
        full=full,
      )
      for name, (teacher, task) in terms.items()
    }

  return Adaptation(tuple(terms), factors)


def _factor(student, teacher, *, sign, full) -> float:
  if math.isnan(student) or math.isnan(teacher) or not teacher:
    return 1.0  # nothing to go by
  gap = sign * 100 * (teacher - student) / abs(teacher)
  return min(1.0, max(0.0, gap / full))
