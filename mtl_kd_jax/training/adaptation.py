"""Lambda that follows how far a network is behind its teachers.

With a constant lambda, a student imitates its teachers also in tasks in which
it is better than they are. Here each lambda is

  lambda_t * min(1, gap_t / full)

with gap_t the percentage by which a network's headline metric is behind the
teacher's on held-out data; 0 where it is ahead. The network is the student, as
it trains, or the baseline: the same network, trained without teachers. The
baseline shows from the first step on what the task can do without; a student
that is half trained is behind every teacher.
"""

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.tasks.base import Task
from mtl_kd_jax.training.evaluation import Metrics

# Those of the cosine are in agreement.py: they change in every step.
GAP, BASELINE = 'gap', 'baseline'
COSINE, COSINE_ALL = 'cosine', 'cosine_all'
_CHOICES = (
  'none',
  GAP,
  BASELINE,
  COSINE,
  COSINE_ALL,
  f'{GAP}+{COSINE}',
  f'{GAP}+{COSINE_ALL}',
  f'{BASELINE}+{COSINE}',
  f'{BASELINE}+{COSINE_ALL}',
)


class Adaptation(NamedTuple):
  """Factors on the weights of terms, from scores on held-out samples.

  Attributes:
    terms: the names of the terms.
    factors: (metrics of a network, teacher -> its metrics, all on the split
      that checkpoints are chosen on) -> {term: factor}.
    baseline: the network that is scored, once, before the first step; it is
      the input `BASELINE` of the stage. None for the student: its factors begin
      at 1, and are set anew whenever it is scored.
  """

  terms: tuple[str, ...]
  factors: Callable[[Metrics, Mapping[str, Metrics]], dict[str, float]]
  baseline: Network | None = None


def check_adaptation(
  adapt: str, *, held_out: bool, eval_every_epochs: int
) -> frozenset[str]:
  """Checks that lambda can be adapted as asked.

  Args:
    adapt: 'none', `GAP`, `BASELINE`, `COSINE` or `COSINE_ALL`, or one of the
      first two and one of the last, joined by a '+'.
    held_out: whether checkpoints are chosen on another split than the one that
      is reported.
    eval_every_epochs: how often the student is scored; 0 for never.

  Returns:
    Its parts.

  Raises:
    InputError: unknown, or nothing to compare student and teachers on or at.
  """
  if adapt not in _CHOICES:
    raise InputError(
      expected=f'one of {", ".join(_CHOICES)}',
      found=repr(adapt),
      argument='adapt',
      do="'none' is the paper's",
    )
  parts = frozenset(adapt.split('+')) - {'none'}
  if parts & {GAP, BASELINE}:
    check_held_out(held_out, adapt, argument='adapt')
  if GAP in parts and not eval_every_epochs:
    raise InputError(
      expected="a number of epochs, after which 'gap' looks at the scores",
      found='0',
      argument='eval_every_epochs',
      do='score every epoch',
    )
  return parts


def check_held_out(held_out: bool, value: str, *, argument: str) -> None:
  """Checks that there are samples on which networks can be compared.

  Args:
    held_out: whether checkpoints are chosen on another split than the one that
      is reported.
    value: of the option that compares networks.
    argument: its name.

  Raises:
    InputError: there are none.
  """
  if not held_out:
    raise InputError(
      expected='samples that are neither trained on nor reported, on which '
      f'{value!r} compares networks',
      found='the split that is reported',
      argument=argument,
      do='hold out a share of training with data.val_fraction=0.1, or name a '
      'split in data.select_split',
    )


def check_baseline(baseline: Network | None) -> None:
  """Checks that there is a baseline; raises InputError where there is none."""
  if baseline is None:
    raise InputError(
      expected='a baseline to compare with the teachers: the same network, '
      'trained without them',
      found='none',
      argument='baseline',
      do='train one',
    )


def by_gap(
  terms: Mapping[str, tuple[str, str]],
  tasks: Mapping[str, Task],
  *,
  full: float = 10.0,
  baseline: Network | None = None,
) -> Adaptation:
  """Lambda by how far a network is behind its teachers.

  Args:
    terms: name of an alignment's term -> (teacher, task).
    tasks: the tasks; their headline metrics are compared.
    full: percent of the teacher's metric that the network is behind by, from
      which on lambda is whole.
    baseline: see `Adaptation`.

  Raises:
    InputError: `full` is not above 0.
  """
  if not (full > 0 and math.isfinite(full)):
    raise InputError(
      expected='percent above 0',
      found=repr(full),
      argument='full',
      do='with 10, half of lambda is left where a network is 5 % behind',
    )

  def factors(network, teachers):
    return {
      name: _factor(
        network.get(task, {}).get(tasks[task].headline, math.nan),
        teachers[teacher].get(task, {}).get(tasks[task].headline, math.nan),
        sign=1 if tasks[task].higher_is_better else -1,
        full=full,
      )
      for name, (teacher, task) in terms.items()
    }

  return Adaptation(tuple(terms), factors, baseline)


def _factor(network, teacher, *, sign, full) -> float:
  if math.isnan(network) or math.isnan(teacher) or not teacher:
    return 1.0  # nothing to go by
  gap = sign * 100 * (teacher - network) / abs(teacher)
  return min(1.0, max(0.0, gap / full))
