"""config.distill -> terms and teachers, checked before anything is trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from mtl_kd_jax import distillation
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.config.tasks import lambdas
from mtl_kd_jax.distillation import Adaptors, Teacher
from mtl_kd_jax.models import Network
from mtl_kd_jax.models.network import FeatureShapes
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.adaptation import (
  BASELINE,
  COSINE,
  COSINE_ALL,
  Adaptation,
  by_gap,
  check_adaptation,
  check_baseline,
)
from mtl_kd_jax.training.choosing import check_choice
from mtl_kd_jax.training.loss_terms import (
  ADAPTORS,
  ExtraNetwork,
  LossTerm,
  alignment_terms,
)
from mtl_kd_jax.training.optim import make_decay


def make_distillation(
  config: ConfigDict,
  adaptors: Adaptors,
  teachers: Mapping[str, Network],
  *,
  tasks: Mapping[str, Task],
  head_taps: Sequence[str],
  tx: Any,
  steps: int,
  held_out: bool,
  features: Callable[[Network], FeatureShapes],
  baseline: Network | None = None,
) -> tuple[tuple[LossTerm, ...], dict[str, Any]]:
  """Makes what distillation adds to a stage.

  Args:
    config: of the run.
    adaptors: from the student's features to those of the teachers.
    teachers: task -> its teacher's network.
    tasks: the tasks.
    head_taps: the student's features that are computed by heads.
    tx: optimizer of the adaptors.
    steps: length of the stage.
    held_out: whether checkpoints are chosen on another split than the one that
      is reported.
    features: from a network to its shapes.
    baseline: the network that is trained without teachers, if there is one.

  Returns:
    Its terms, and the attributes `teachers`, `extras`, `adapt` and `rival` of
    the stage.

  Raises:
    InputError: an option that cannot be used.
  """
  values = config.distill
  choose, batch_norm = config.teacher.choose, config.teacher.batch_norm
  if choose == 'best' and not config.baseline:
    choose = 'single_task'  # there is no other
  with named_by_keys('teacher', {'baseline': 'baseline'}):
    chosen = check_choice(
      choose,
      held_out=held_out,
      baseline=baseline,
      teachers=teachers,
      features=features,
    )
    made = {task: Teacher(n, batch_norm) for task, n in teachers.items()}
  known = values.loss in distillation.LOSSES
  options = values[values.loss].to_dict() if known else {}
  with named_by_keys(f'distill.{values.loss}', {'loss': 'distill.loss'}):
    loss = distillation.make_loss(values.loss, **options)
  with named_by_keys('distill', {'schedule': 'distill.schedule_lambda'}):
    schedule = make_decay(
      values.schedule_lambda, steps=steps, lambda_until=values.lambda_until
    )
  adapt, parts = _make_adaptation(
    config, adaptors, tasks, held_out=held_out, baseline=baseline
  )
  with named_by_keys(keys={'placement': 'balancing.distillation'}):
    terms = alignment_terms(
      adaptors,
      lambdas(config, teachers),
      loss,
      placement=config.balancing.distillation,
      head_taps=head_taps,
      schedule=schedule,
      gated='task' if COSINE in parts else 'all' if COSINE_ALL in parts else '',
    )
  return terms, {
    'teachers': made,
    'extras': {ADAPTORS: adaptor_network(adaptors, tx)},
    'adapt': adapt,
    'rival': baseline if chosen else None,
  }


def _make_adaptation(
  config: ConfigDict,
  adaptors: Adaptors,
  tasks: Mapping[str, Task],
  *,
  held_out: bool,
  baseline: Network | None,
) -> tuple[Adaptation | None, frozenset[str]]:
  """What sets lambda from scores, and the parts of config.distill.adapt."""
  values, eval_every_epochs = config.distill, config.report.eval_every_epochs
  keys = {
    'baseline': 'baseline',
    'full': 'distill.full_gap',
    'eval_every_epochs': 'report.eval_every_epochs',
  }
  with named_by_keys('distill', keys):
    parts = check_adaptation(
      values.adapt, held_out=held_out, eval_every_epochs=eval_every_epochs
    )
    if not parts - {COSINE, COSINE_ALL}:
      return None, parts
    if BASELINE in parts:
      check_baseline(baseline)
    terms = {
      metric_keys.alignment(name): (alignment.teacher, alignment.task)
      for name, alignment in adaptors.alignments.items()
    }
    return by_gap(
      terms,
      tasks,
      full=values.full_gap,
      baseline=baseline if BASELINE in parts else None,
    ), parts


def adaptor_network(adaptors: Adaptors, tx: Any) -> ExtraNetwork:
  """Adaptors as the extra network of a stage."""

  def init(key: jax.Array, output: Any) -> Any:
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), output.features
    )
    return adaptors.lazy_init(key, shapes)

  return ExtraNetwork(init=init, tx=tx)
