"""How long the gradients of tasks and alignments are, and how they agree.

Measured on a step before it is taken, for any balancer. With respect to the
features that tasks share no gradient runs through the backbone, so that it
costs less than a step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mtl_kd_jax.distillation import Teacher
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.training.agreement import shared_products
from mtl_kd_jax.training.computation import PLAIN, Computation
from mtl_kd_jax.training.forward import run_forward
from mtl_kd_jax.training.loss_terms import (
  ExtraNetwork,
  LossTerm,
  labeled_flags,
)
from mtl_kd_jax.training.state import TrainState
from mtl_kd_jax.training.step import teacher_outputs


def measure_conflict(
  state: TrainState,
  frozen: Mapping[str, Any],
  batch: Mapping[str, jax.Array],
  *,
  network: Network,
  terms: Sequence[LossTerm],
  seed: int,
  teachers: Mapping[str, Teacher] | None = None,
  extras: Mapping[str, ExtraNetwork] | None = None,
  axis_name: str | None = None,
  computation: Computation = PLAIN,
) -> dict[str, jax.Array]:
  """Measures the gradients of a batch; changes nothing.

  They are those of L_t and, named 'alignment/<task>', of lambda_t l^d_t, with
  respect to all features of the backbone together (Sener & Koltun 2018). Where
  tasks have features of their own they are with respect to its parameters,
  which takes a backward pass for each of them.

  Args:
    state: the stage's state before the step.
    frozen: as in `train_step`.
    batch: as in `train_step`.
    network: the network.
    terms: as in `train_step`; those of tasks and alignments are measured.
    seed: of the run.
    teachers: name -> frozen network.
    extras: the extra networks.
    axis_name: the mapped device axis, if any.
    computation: in which precision, and in how many micro-batches.

  Returns:
    float32 scalars: 'norm/<name>'; 'cosine/<task>/<task>' of all pairs;
    'cosine/<task>/alignment/<task>' of each task with its own alignment; and
    'labeled/<task>'. Of a task without a label all are 0, but for the norm of
    its alignment.
  """
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  terms = [term for term in terms if _objective(term)]
  shared = {'axis_name': axis_name, 'computation': computation}
  forward = run_forward(
    state,
    teacher_outputs(
      teachers, frozen, batch['image'], key, cached=batch, **shared
    ),
    batch,
    network=network,
    terms=terms,
    extras=extras or {},
    key=key,
    **shared,
  )
  gradients = {
    _objective(t): forward.vjp({t.name: forward.weights[t.name]}) for t in terms
  }
  names = sorted(gradients)
  gram = shared_products(forward, gradients, axis_name)
  place = {name: i for i, name in enumerate(names)}
  measured = {
    metric_keys.key(metric_keys.NORM, n): gram.norms[i]
    for n, i in place.items()
  }
  for one, other in _pairs(names):
    cosine = gram.cosines[place[one], place[other]]
    measured[metric_keys.key(metric_keys.COSINE, one, other)] = cosine
  return measured | labeled_flags(terms, batch, axis_name=axis_name)


def _objective(term: LossTerm) -> str | None:
  """The name that a term is measured by; None for one that is not."""
  kind = metric_keys.kind_of(term.name)
  if kind == metric_keys.TASK_LOSS:
    return metric_keys.objectives_of(term.name)[0]
  return term.name if kind == metric_keys.ALIGNMENT else None


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
  """All pairs of tasks, and each task with its own alignment."""
  tasks = [n for n in names if not metric_keys.is_alignment(n)]
  aligned = [(t, metric_keys.alignment(t)) for t in tasks]
  return [(a, b) for a in tasks for b in tasks if a < b] + [
    pair for pair in aligned if pair[1] in names
  ]
