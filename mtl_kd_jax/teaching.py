"""What teaches a network that a `Trainer` trains: `distill`, and its checks."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import os
from typing import Any

from mtl_kd_jax.errors import InputError, check_type, hint
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.adaptation import BASELINE
from mtl_kd_jax.training.choosing import needs_baseline


@dataclasses.dataclass(frozen=True)
class Distill:
  """What `distill` was given; an argument of the call of a `Trainer`.

  Attributes:
    teachers: task -> its teacher.
    settings: key of the config -> value.
    baseline: the network that was trained without teachers, or None.
  """

  teachers: Mapping[str, TrainedNetwork]
  settings: Mapping[str, Any]
  baseline: TrainedNetwork | None = None

  @property
  def frozen(self) -> dict[str, TrainedNetwork]:
    """All that is read of it: teachers, and the baseline."""
    baseline = {} if self.baseline is None else {BASELINE: self.baseline}
    return {**self.teachers, **baseline}

  def check(self, tasks: Iterable[str], labels: Iterable[str]) -> None:
    """Checks that this teaches a network.

    Args:
      tasks: of the network.
      labels: of the data.

    Raises:
      InputError: there is no teacher, or one of no task of the network, or one
        that does not predict its task; a weight of no label; or a baseline that
        does not predict all tasks, or that nothing follows.
    """
    tasks, labels = [*tasks], [*labels]
    unknown = [t for t in self.teachers if t not in tasks]
    if unknown or not self.teachers:
      raise InputError(
        expected=f'a teacher for some of the tasks: {", ".join(tasks)}',
        found=', '.join(unknown) or 'none',
        argument='distill',
        do='give teachers by task: distill({task: network})',
      )
    for task, teacher in self.teachers.items():
      if task not in teacher.tasks:
        raise InputError(
          expected=f'a teacher that predicts {task}',
          found=f'{teacher.name}, which predicts {", ".join(teacher.tasks)}',
          argument=f'teachers.{task}',
          do=f'give the network that was trained for {task}',
        )
    # Those of tasks that have no teacher, or are not learned, do nothing.
    for name in self.settings['distill.weights']:
      if name not in labels:
        raise InputError(
          expected=f'weights of tasks that there are: {", ".join(labels)}',
          found=repr(name),
          argument='weights',
          do=f'correct the name{hint(str(name), labels)}',
        )
    if self.baseline is not None:
      self._check_baseline(self.baseline, tasks)

  def _check_baseline(self, baseline, tasks) -> None:
    adapt, choose = (
      self.settings[key] for key in ('distill.adapt', 'teacher.choose')
    )
    if not needs_baseline(str(adapt), choose):
      raise InputError(
        expected="adapt='baseline' or choose='best', which need a baseline",
        found=f'adapt={adapt!r}, choose={choose!r}',
        argument='baseline',
        do='leave the baseline out',
      )
    if missing := [t for t in tasks if t not in baseline.tasks]:
      raise InputError(
        expected=f'a network that predicts {", ".join(tasks)}',
        found=f'one without {", ".join(missing)}',
        argument='baseline',
        do='give the network that was trained without teachers',
      )


def distill(
  teachers: Mapping[str, TrainedNetwork],
  *,
  taps: Sequence[str] = ('decoder',),
  weights: Mapping[str, float] | None = None,
  loss: str = 'feature_l2',
  placement: str = 'outside',
  choose: str = 'single_task',
  batch_norm: str = 'running',
  cache: str = 'none',
  cache_dtype: str = 'float32',
  cache_dir: str | os.PathLike[str] = 'runs/teacher_cache',
  learning_rate: float = 1e-2,
  schedule: str = 'constant',
  weight_decay: float = 5e-4,
  schedule_lambda: str = 'constant',
  lambda_until: float = 1.0,
  adapt: str = 'none',
  full_gap: float = 10.0,
  baseline: TrainedNetwork | None = None,
  **loss_options: Any,
) -> Distill:
  """Says how a network is distilled from the networks of single tasks.

  Args:
    teachers: task -> its teacher.
    taps: the features that are aligned: 'tap', of that name in student and
      teacher, or 'student tap:teacher tap'.
    weights: task -> lambda, the factor on its alignment loss; 1 for those that
      are not there.
    loss: of `distillation.LOSSES`.
    placement: whether alignment losses are added 'outside' of the balancing
      (the paper), inside the loss of their 'task', or each as an 'objective'.
    choose: 'single_task' to be taught by these teachers, or 'best' by the
      better one of each and the baseline, on the split that checkpoints are
      chosen on.
    batch_norm: statistics that teachers normalize with: their own 'running'
      ones, or those of the student's 'batch', as the paper's code does.
    cache: whether the teachers' outputs for a frame are computed once and kept,
      in 'memory' or on 'disk', or in every step: 'none'.
    cache_dtype: of what is kept, 'float32' or 'bfloat16'.
    cache_dir: the folder of 'disk', which runs share.
    learning_rate: of the adaptors' own Adam.
    schedule: of that rate: 'constant', 'cosine' or 'step'.
    weight_decay: of the adaptors, added to the gradient.
    schedule_lambda: 'constant', or 'linear' or 'cosine', to 0.
    lambda_until: the share of the training after which these are at 0.
    adapt: what lambda follows: 'none'; 'baseline', how far that is behind the
      teacher on the split that checkpoints are chosen on; 'gap', how far the
      student is, while it trains; 'cosine', how far a task and its alignment
      agree in each step, or 'cosine_all', all tasks and the alignment; or two,
      'baseline+cosine', for the product.
    full_gap: with 'baseline' and 'gap', the percent from which on lambda is
      whole.
    baseline: the network that was trained without teachers, for 'baseline' and
      'best'.
    **loss_options: options of the loss.

  Returns:
    What a `Trainer` is called with as `distill`; the call checks the values.

  Raises:
    InputError: teachers, weights or taps do not come in that form, or a network
      is no trained one.
  """
  taps = (taps,) if isinstance(taps, str) else taps
  _check_form(teachers, weights, taps, baseline)
  weights = dict(weights or dict.fromkeys(teachers, 1.0))
  return Distill(
    dict(teachers),
    {
      'distill.taps': tuple(taps),
      'distill.weights': weights,
      'distill.loss': loss,
      'distill.learning_rate': learning_rate,
      'distill.schedule': schedule,
      'distill.weight_decay': weight_decay,
      'distill.schedule_lambda': schedule_lambda,
      'distill.lambda_until': lambda_until,
      'distill.adapt': adapt,
      'distill.full_gap': full_gap,
      'balancing.distillation': placement,
      'teacher.choose': choose,
      'teacher.batch_norm': batch_norm,
      'teacher.cache': cache,
      'teacher.cache_dtype': cache_dtype,
      'teacher.cache_dir': str(cache_dir),
      **{f'distill.{loss}.{k}': v for k, v in loss_options.items()},
    },
    baseline,
  )


def _check_form(teachers, weights, taps, baseline) -> None:
  by_task = 'give teachers by task: distill({task: network})'
  check_type(
    teachers,
    Mapping,
    expected='trained networks by task',
    argument='teachers',
    do=by_task,
  )
  networks = {f'teachers.{task}': x for task, x in teachers.items()}
  if baseline is not None:
    networks['baseline'] = baseline
  for argument, network in networks.items():
    check_type(
      network,
      TrainedNetwork,
      expected='a trained network',
      argument=argument,
      do="give what a Trainer returns, or mtl.load('runs/a')['teacher_depth']",
    )
  if weights is not None:
    check_type(
      weights,
      Mapping,
      expected='the lambda of every task',
      argument='weights',
      do="give them by task: {'depth': 1.0}",
    )
  check_type(
    taps,
    Sequence,
    expected='the names of features',
    argument='taps',
    do="give them in a tuple: ('decoder',)",
  )
