"""The gradient of a step in which the gradients of tasks are combined.

The backbone runs forward once. Each head, with the adaptors of its task, runs
backward for its own task alone, to the features; from there the gradient of
every objective goes through the backbone by itself (level 'parameters'), or
they are combined first and go through it together (level 'features').

A rule that wants independent parts of the batch gets every n-th sample, which
are the same samples on any number of devices. The step is then one on part 0,
its losses and BatchNorm's statistics included.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import GradientBalancer
from mtl_kd_jax.balancing.gram import Gram, in_order, inner_products
from mtl_kd_jax.distillation.alignment import Distillation
from mtl_kd_jax.tasks.base import Task
from mtl_kd_jax.training.loss_terms import labeled, present_objectives
from mtl_kd_jax.training.passes import Part, Passes, add, run_passes
from mtl_kd_jax.training.state import BACKBONE, TrainState


class Mixed(NamedTuple):
  """The combined gradient, and what it was combined with.

  Attributes:
    gradient: like the backbone's parameters, of the global batch.
    weights: objective -> float32 scalar.
    own: objective -> float32 scalar, see `balancing.Combined`.
    state: the balancer's next state.
    gram: of the objectives' gradients, in the order of their names.
    due: float32 scalar, 1; 0 in a step that reuses weights, whose `gram` is
      without meaning.
  """

  gradient: Any
  weights: dict[str, jax.Array]
  own: dict[str, jax.Array]
  state: Any
  gram: Gram
  due: jax.Array


class StepGradient(NamedTuple):
  """What a step needs beside the optimizer, of the global batch.

  Attributes:
    gradient: like the parameters.
    losses: float32 scalars by name.
    batch_stats: BatchNorm's next statistics.
    balancer_state: the balancer's next state.
  """

  gradient: dict[str, Any]
  losses: dict[str, jax.Array]
  batch_stats: dict[str, Any]
  balancer_state: Any


def step_gradient(
  state: TrainState,
  asked: Any,
  batch: Mapping[str, jax.Array],
  *,
  network: nn.Module,
  tasks: Mapping[str, Task],
  balancer: GradientBalancer,
  key: jax.Array,
  distillation: Distillation | None,
  level: str,
  mode: str,
  axis_name: str | None,
) -> StepGradient:
  """Combines the gradients of all objectives (objectives.py).

  Args:
    state: the stage's state.
    asked: the teachers' features (`Distillation.ask`); None without teachers.
    batch: as in `train_step`.
    network: the network.
    tasks: the tasks.
    balancer: the rule.
    key: PRNG key of the step.
    distillation: needed with teachers.
    level: 'parameters' of the backbone, or its 'features'.
    mode: how alignment losses enter.
    axis_name: the mapped device axis, if any.
  """
  pieces = [
    jax.tree.map(lambda x, i=i: x[i :: balancer.parts], (dict(batch), asked))
    for i in range(balancer.parts)
  ]
  batch, asked = pieces[0]

  def total(tree):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)

  run = functools.partial(
    run_passes,
    network=network,
    tasks=tasks,
    distillation=distillation,
    mode=mode,
    axis_name=axis_name,
  )

  exact = functools.partial(
    _exact, params=state.params, balancer=balancer, total=total
  )

  def probe(part, shift):
    moved = state
    if shift is not None:
      shift = shift if balancer.all_parameters else {BACKBONE: shift}
      at = {k: state.params[k] for k in shift}
      at = jax.tree.map(jnp.subtract, at, shift)
      moved = state.replace(params=state.params | at)
    return exact(run(moved, *pieces[part]))

  passes = run(state, batch, asked)
  parts, names = passes.parts, tuple(passes.by_objective)
  losses = total(
    {n: sum(p.scale * p.loss for p in parts if p.objective == n) for n in names}
  )
  mixed = _mix(
    passes,
    losses,
    state.balancer_state,
    key,
    balancer=balancer,
    exact=exact,
    probe=probe,
    level=level,
    present=present_objectives(
      names,
      batch,
      tasks,
      distilled=asked is not None,
      mode=mode,
      axis_name=axis_name,
    ),
    axis_name=axis_name,
  )
  own = total(add([_scaled(p, mixed.own) for p in parts]))
  return StepGradient(
    {BACKBONE: mixed.gradient} | own,
    _report(parts, losses, mixed, total)
    | labeled(batch, tasks, axis_name=axis_name),
    dict(state.batch_stats) | passes.batch_stats,
    mixed.state,
  )


def _exact(passes, *, params, balancer, total) -> dict[str, Any]:
  """Objective -> gradient that a rule combines, of the global batch."""
  found = {n: passes.through(c) for n, c in passes.by_objective.items()}
  if not balancer.all_parameters:
    return found
  none = jax.tree.map(jnp.zeros_like, params)
  own = total(passes.own_by_objective)
  return {n: add([none, own[n], {BACKBONE: g}]) for n, g in found.items()}


def _mix(
  passes: Passes,
  losses: dict[str, jax.Array],
  state: Any,
  key: jax.Array,
  *,
  balancer: GradientBalancer,
  exact: Callable[[Passes], dict[str, Any]],
  probe: Callable[[int, Any], Any],
  level: str,
  present: dict[str, jax.Array],
  axis_name: str | None,
) -> Mixed:
  """Combines gradients with respect to features or, behind them, parameters.

  Args:
    passes: of the batch, or of its part 0.
    losses: objective -> loss.
    state: the balancer's.
    key: PRNG key of the step.
    balancer: the rule.
    exact: passes -> objective -> gradient with respect to parameters.
    probe: gradients on another part of the batch (`GradientBalancer`).
    level: 'parameters' or 'features'.
    present: objective -> bool scalar.
    axis_name: the mapped device axis, if any.
  """
  # Features are split over devices as the batch is; parameters are not.
  split = axis_name if level == 'features' else None
  cotangents, outside = passes.by_objective, passes.outside
  through = passes.through

  def whole():
    given = cotangents if level == 'features' else exact(passes)
    combined, after = balancer.update(
      losses,
      given,
      state,
      key,
      present=present,
      axis_name=split,
      values=passes.features if level == 'features' else None,
      probe=probe,
    )
    gradient = combined.direction
    if balancer.all_parameters:
      gradient = gradient[BACKBONE]
    if level == 'features':
      gradient = through(add([gradient, outside]))
    elif outside is not None:
      gradient = add([gradient, through(outside)])
    gram = inner_products(in_order(given), axis_name=split)
    return Mixed(
      gradient, combined.weights, combined.own, after, gram, jnp.ones(())
    )

  if balancer.reuse is None:
    return whole()
  kept = balancer.reuse(state, tuple(losses))

  def stale():
    weighted = [
      jax.tree.map(lambda x, w=kept.weights[n]: (w * x).astype(x.dtype), c)
      for n, c in cotangents.items()
    ]
    k = len(losses)
    gram = Gram(jnp.zeros(k), jnp.zeros((k, k)))
    gradient = through(add([*weighted, outside]))
    return Mixed(
      gradient, kept.weights, kept.own, kept.state, gram, jnp.zeros(())
    )

  return jax.lax.cond(kept.due, whole, stale)


def _scaled(part: Part, own: dict[str, jax.Array]) -> dict[str, Any]:
  """The gradient of a part with respect to what its task has for itself."""
  if part.objective is None:
    return part.own
  factor = own[part.objective]
  return jax.tree.map(lambda x: (factor * x).astype(x.dtype), part.own)


def _report(parts, losses, mixed, total) -> dict[str, jax.Array]:
  """Losses, weights, and lengths and angles of gradients, by name."""
  named = total({p.name: p.loss for p in parts})
  outside = [p for p in parts if p.objective is None]
  balanced = sum(mixed.weights[n] * x for n, x in losses.items())
  rest = sum(p.scale * named[p.name] for p in outside)
  named |= {'loss': balanced + rest, 'combined': mixed.due}
  names = sorted(losses)
  for i, n in enumerate(names):
    named[f'weight/{n}'] = mixed.weights[n]
    named[f'norm/{n}'] = mixed.gram.norms[i]
    for j in range(i):
      cosine = mixed.gram.cosines[j, i]
      named[f'cosine/{names[j]}/{n}'] = cosine
      named[f'conflict/{names[j]}/{n}'] = (cosine < 0).astype(jnp.float32)
  return named
