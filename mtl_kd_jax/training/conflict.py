"""How long the gradients of tasks and alignments are, and how they agree.

A look at a step before it is taken, for any balancer. With respect to the
features that tasks share no gradient runs through the backbone, so that it
costs less than a step.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from mtl_kd_jax.balancing.gram import in_order, inner_products
from mtl_kd_jax.distillation.alignment import Distillation
from mtl_kd_jax.tasks.base import Task
from mtl_kd_jax.training.loss_terms import alignment_name, labeled
from mtl_kd_jax.training.passes import run_passes
from mtl_kd_jax.training.state import TrainState


def observe_step(
  state: TrainState,
  teachers: Mapping[str, Any],
  batch: Mapping[str, jax.Array],
  *,
  network: nn.Module,
  tasks: Mapping[str, Task],
  distillation: Distillation | None = None,
  axis_name: str | None = None,
) -> dict[str, jax.Array]:
  """Measures the gradients of a batch; changes nothing.

  They are those of L_t and, named 'alignment/<task>', of lambda_t l^d_t, with
  respect to all features of the backbone together (Sener & Koltun 2018). Where
  tasks have features of their own they are with respect to its parameters,
  which takes a backward pass for each of them.

  Args:
    state: the stage's state before the step.
    teachers: as in `train_step`.
    batch: as in `train_step`.
    network: the network.
    tasks: the tasks.
    distillation: needed with teachers.
    axis_name: the mapped device axis, if any.

  Returns:
    float32 scalars: 'norm/<name>'; 'cosine/<task>/<task>' of all pairs;
    'cosine/<task>/alignment/<task>' of each task with its own alignment; and
    'labeled/<task>'. What concerns a task without a label is 0.
  """
  asked = distillation.ask(teachers, batch['image']) if teachers else None
  passes = run_passes(
    state,
    batch,
    asked,
    network=network,
    tasks=tasks,
    distillation=distillation,
    mode='objective',
    axis_name=axis_name,
  )
  gradients, split = passes.by_objective, axis_name
  if any('/' in tap for tap in passes.features):
    gradients = {n: passes.through(g) for n, g in gradients.items()}
    split = None  # parameters are whole on every device
  gram = inner_products(in_order(gradients), axis_name=split)
  pairs = [(a, b) for a in sorted(tasks) for b in sorted(tasks) if a < b]
  if asked is not None:
    pairs += [(t, alignment_name(t)) for t in sorted(tasks)]
  place = {name: i for i, name in enumerate(sorted(gradients))}
  seen = {f'norm/{n}': gram.norms[i] for n, i in place.items()}
  seen |= {
    f'cosine/{a}/{b}': gram.cosines[place[a], place[b]] for a, b in pairs
  }
  return seen | labeled(batch, tasks, axis_name=axis_name)
