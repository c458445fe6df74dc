"""The one training step and the one evaluation step; both pure.

They know nothing of devices. Under `jax.jit` the batch is a global array and
`axis_name` stays None. Under `jax.pmap` every device sees its part of the batch
and `axis_name` names the axis: losses are then shares whose sum over devices is
the mean over the global batch.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.distillation.alignment import Distillation
from mtl_kd_jax.tasks.base import Statistics, Task, masked_mean
from mtl_kd_jax.training.gradients import StepGradient, step_gradient
from mtl_kd_jax.training.loss_terms import (
  labeled,
  make_objectives,
  present_objectives,
)
from mtl_kd_jax.training.optim import ADAPTORS
from mtl_kd_jax.training.state import TrainState, network_params

Batch = Mapping[str, jax.Array]


def train_step(
  state: TrainState,
  teachers: Mapping[str, Any],
  batch: Batch,
  *,
  network: nn.Module,
  tasks: Mapping[str, Task],
  balancer: Balancer | GradientBalancer,
  tx: optax.GradientTransformation,
  seed: int,
  distillation: Distillation | None = None,
  level: str = 'parameters',
  mode: str = 'outside',
  axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one optimizer step.

  It descends on L = sum_t w_t L_t + sum_t lambda_t l^d_t (Li & Bilen 2020),
  where the balancer gives w_t, or combines the gradients of the tasks. Without
  teachers it is plain single-task or multi-task training.

  Args:
    state: the stage's state.
    teachers: task -> frozen variables of its teacher; {} for no distillation.
    batch: 'image' float32 [b h w 3], and a label per task (datasets/base.py).
    network: the stage's network.
    tasks: the tasks it is trained on.
    balancer: gives the weights w_t, or the direction.
    tx: the optimizer.
    seed: of the run; the step's random key is folded from it.
    distillation: how teachers are asked; needed when `teachers` is not empty.
    level: what a gradient balancer combines: gradients with respect to the
      backbone's 'parameters', or to its 'features'.
    mode: how alignment losses enter (objectives.py); 'outside' is the paper's.
    axis_name: the mapped device axis, if any.

  Returns:
    The next state, and float32 scalars by name: 'loss/<task>',
    'labeled/<task>' (1 if the batch has any label of the task, else 0),
    'alignment/<task>', 'loss' (the sum L), 'gradient_norm' and
    'weight/<objective>'. Of a gradient balancer also 'norm/<objective>',
    'cosine/<objective>/<objective>' and 'conflict/...' (1 where that is below
    0), of what it combined; and 'combined', 0 in a step that reuses weights,
    in which they are without meaning.
  """
  asked = distillation.ask(teachers, batch['image']) if teachers else None
  how = {
    'network': network,
    'tasks': tasks,
    'balancer': balancer,
    'key': jax.random.fold_in(jax.random.key(seed), state.step),
    'distillation': distillation,
    'mode': mode,
    'axis_name': axis_name,
  }
  if isinstance(balancer, GradientBalancer):
    found = step_gradient(state, asked, batch, level=level, **how)
  else:
    found = _weighted_gradient(state, asked, batch, **how)
  updates, opt_state = tx.update(found.gradient, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  balancer_state = found.balancer_state
  if not isinstance(balancer, GradientBalancer) and balancer.observe:
    balancer_state = _observe(params, state, asked, batch, found, **how)
  next_state = TrainState(
    step=state.step + 1,
    params=params,
    batch_stats=found.batch_stats,
    opt_state=opt_state,
    balancer_state=balancer_state,
  )
  norm = optax.tree.norm(found.gradient)
  return next_state, found.losses | {'gradient_norm': norm}


def _weighted_gradient(
  state, asked, batch, *, balancer, key, axis_name, mode, tasks, **parts
) -> StepGradient:
  """One backward pass of the weighted sum of the objectives."""

  def objective(params):
    named, objectives, outside, batch_stats = _losses(
      params,
      state,
      asked,
      batch,
      tasks=tasks,
      mode=mode,
      axis_name=axis_name,
      **parts,
    )
    weights, balancer_state = balancer.update(
      jax.lax.stop_gradient(_total(objectives, axis_name)),
      state.balancer_state,
      key,
      present=present_objectives(
        tuple(objectives),
        batch,
        tasks,
        distilled=asked is not None,
        mode=mode,
        axis_name=axis_name,
      ),
    )
    loss = sum(weights[n] * x for n, x in objectives.items()) + outside
    return loss, (named | {'loss': loss}, weights, batch_stats, balancer_state)

  gradients, (losses, weights, batch_stats, balancer_state) = jax.grad(
    objective, has_aux=True
  )(state.params)
  # Shares add up, so gradients are summed over devices and never averaged.
  gradients, losses = _total((gradients, losses), axis_name)
  losses |= {f'weight/{n}': w for n, w in weights.items()}
  losses |= labeled(batch, tasks, axis_name=axis_name)
  return StepGradient(gradients, losses, batch_stats, balancer_state)


def _losses(
  params, state, asked, batch, *, network, tasks, distillation, mode, axis_name
):
  """All losses by name, the objectives, the rest, BatchNorm's statistics."""
  output, updated = network.apply(
    {'params': network_params(params), 'batch_stats': state.batch_stats},
    batch['image'],
    train=True,
    mutable=['batch_stats'],
  )
  losses = task_losses(output.predictions, batch, tasks, axis_name=axis_name)
  alignment, scaled = {}, {}
  if asked is not None:
    alignment = distillation.losses(
      params[ADAPTORS], output.features, asked, axis_name=axis_name
    )
    scaled = {t: distillation.weights[t] * x for t, x in alignment.items()}
  objectives, outside = make_objectives(losses, scaled, mode=mode)
  named = {f'loss/{t}': x for t, x in losses.items()}
  named |= {f'alignment/{t}': x for t, x in alignment.items()}
  return named, objectives, outside, updated['batch_stats']


def _observe(
  params, state, asked, batch, found, *, balancer, key, axis_name, **parts
):
  """Shows a balancer the losses of the same batch after the step."""
  del key
  _, objectives, _, _ = _losses(
    params, state, asked, batch, axis_name=axis_name, **parts
  )
  return balancer.observe(
    _total(objectives, axis_name),
    found.balancer_state,
    present=present_objectives(
      tuple(objectives),
      batch,
      parts['tasks'],
      distilled=asked is not None,
      mode=parts['mode'],
      axis_name=axis_name,
    ),
  )


def eval_step(
  variables: Mapping[str, Any],
  batch: Batch,
  *,
  network: nn.Module,
  tasks: Mapping[str, Task],
  axis_name: str | None = None,
) -> tuple[dict[str, Statistics], dict[str, jax.Array]]:
  """Predicts one batch and sums up how well.

  Args:
    variables: {'params', 'batch_stats'} of the network.
    batch: as in `train_step`.
    network: the network.
    tasks: the tasks to score.
    axis_name: the mapped device axis, if any.

  Returns:
    task -> sufficient statistics of the global batch; and task -> prediction
    [b h w c], in the layout of the batch.
  """
  output = network.apply(variables, batch['image'], train=False)
  statistics = {}
  for name, task in tasks.items():
    prediction, label = output.predictions[name], batch[name]
    valid = task.valid(label)
    statistics[name] = task.statistics(prediction, label, valid)
  return _total(statistics, axis_name), output.predictions


def task_losses(
  predictions: Mapping[str, jax.Array],
  batch: Batch,
  tasks: Mapping[str, Task],
  *,
  axis_name: str | None = None,
) -> dict[str, jax.Array]:
  """The mean loss of every task over its labeled pixels, 0 without any.

  Args:
    predictions: task -> float [b h w c].
    batch: task -> label (datasets/base.py).
    tasks: the tasks.
    axis_name: the mapped device axis; the losses are then shares.
  """
  return {
    name: masked_mean(
      task.loss(predictions[name], batch[name]),
      task.valid(batch[name]),
      axis_name=axis_name,
    )
    for name, task in tasks.items()
  }


def _total(tree, axis_name):
  """Sums the shares of all devices."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)
