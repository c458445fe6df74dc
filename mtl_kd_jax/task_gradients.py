"""The gradient of a step in which the gradients of tasks are combined.

The backbone runs forward once. Each head, with the adaptors of its task, runs
backward for its own task alone, to the features; from there the gradient of
every objective goes through the backbone by itself (level 'parameters'), or
they are combined first and go through it together (level 'features').
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import GradientBalancer
from mtl_kd_jax.balancing.gram import Gram, in_order, inner_products
from mtl_kd_jax.distillation import Distillation
from mtl_kd_jax.models.taps import taps_of, task_tap
from mtl_kd_jax.objectives import owner, present_objectives
from mtl_kd_jax.optim import ADAPTORS
from mtl_kd_jax.tasks.base import Task, masked_mean
from mtl_kd_jax.train_state import BACKBONE, TrainState


class Part(NamedTuple):
  """A loss of one task and its gradients; shares, where devices are mapped.

  Attributes:
    name: 'loss/<task>' or 'alignment/<task>'.
    objective: what it is part of; None when it is added outside.
    loss: float32 scalar, without lambda.
    scale: its lambda.
    own: gradient of scale * loss, with respect to the task's head and adaptors.
    features: the same, with respect to the backbone's features.
  """

  name: str
  objective: str | None
  loss: jax.Array
  scale: float
  own: dict[str, Any]
  features: dict[str, jax.Array]


class Mixed(NamedTuple):
  """The combined gradient, and what it was combined with.

  Attributes:
    gradient: like the backbone's parameters, of the global batch.
    weights: objective -> float32 scalar.
    own: objective -> float32 scalar, see `balancing.Combined`.
    state: the balancer's next state.
    gram: of the objectives' gradients, in the order of their names; zeros in a
      step that reuses weights.
  """

  gradient: Any
  weights: dict[str, jax.Array]
  own: dict[str, jax.Array]
  state: Any
  gram: Gram


class StepGradient(NamedTuple):
  """What a step needs beside the optimiser, of the global batch.

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

  def total(tree):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)

  features, pull, updated = _encode(network, state, batch['image'])
  parts, batch_stats = [], dict(state.batch_stats) | updated
  for name, task in tasks.items():
    teacher = None if asked is None else {name: asked[name]}
    own, updated = _decode(
      task,
      features,
      state,
      batch,
      network=network,
      distillation=distillation.only(name) if teacher else None,
      asked=teacher,
      mode=mode,
      axis_name=axis_name,
    )
    parts, batch_stats = parts + own, batch_stats | updated

  names = sorted({p.objective for p in parts if p.objective is not None})
  losses = total(
    {n: sum(p.scale * p.loss for p in parts if p.objective == n) for n in names}
  )
  mixed = _mix(
    {n: _sum([p.features for p in parts if p.objective == n]) for n in names},
    _sum([p.features for p in parts if p.objective is None]),
    losses,
    state.balancer_state,
    key,
    balancer=balancer,
    through=lambda cotangent: total(pull(cotangent)[0]),
    level=level,
    present=present_objectives(
      names,
      batch,
      tasks,
      distilled=asked is not None,
      mode=mode,
      axis_name=axis_name,
    ),
    features=features,
    axis_name=axis_name,
  )
  own = total(_sum([_scaled(p, mixed.own) for p in parts]))
  return StepGradient(
    {BACKBONE: mixed.gradient} | own,
    _report(parts, losses, mixed, total),
    batch_stats,
    mixed.state,
  )


def _encode(network, state, image):
  """The backbone's features, how gradients go back, and its statistics."""
  stats = {k: v for k, v in state.batch_stats.items() if k == BACKBONE}

  def encode(params):
    features, updated = network.backbone.apply(
      {'params': params, 'batch_stats': stats.get(BACKBONE, {})},
      image,
      tasks=tuple(network.channels),
      train=True,
      mutable=['batch_stats'],
    )
    return dict(features), updated.get('batch_stats', {})

  features, pull, updated = jax.vjp(
    encode, state.params[BACKBONE], has_aux=True
  )
  return features, pull, {BACKBONE: updated} if stats else {}


def _decode(
  task: Task,
  features: dict[str, jax.Array],
  state: TrainState,
  batch: Mapping[str, jax.Array],
  *,
  network: nn.Module,
  distillation: Distillation | None,
  asked: Any,
  mode: str,
  axis_name: str | None,
) -> tuple[list[Part], dict[str, Any]]:
  """The parts of one task, and the statistics of its head."""
  name, head = task.name, f'head_{task.name}'
  stats = state.batch_stats.get(head, {})
  own = {head: state.params[head]}
  if distillation is not None:
    own[ADAPTORS] = {
      k: state.params[ADAPTORS][k] for k in distillation.adaptor_names
    }

  def decode(own, features):
    (prediction, heads), updated = network.head(
      network.channels[name], name=head
    ).apply(
      {'params': own[head], 'batch_stats': stats},
      taps_of(features, name),
      size=batch['image'].shape[1:3],
      train=True,
      mutable=['batch_stats'],
    )
    loss = masked_mean(
      task.loss(prediction, batch[name]),
      task.valid(batch[name]),
      axis_name=axis_name,
    )
    losses = {f'loss/{name}': loss}
    if distillation is not None:
      seen = features | {task_tap(tap, name): x for tap, x in heads.items()}
      losses[f'alignment/{name}'] = distillation.losses(
        own[ADAPTORS], seen, asked, axis_name=axis_name
      )[name]
    return losses, updated.get('batch_stats', {})

  losses, pull, updated = jax.vjp(decode, own, features, has_aux=True)
  parts = []
  for part in losses:
    aligned = part != f'loss/{name}'
    scale = float(distillation.weights[name]) if aligned else 1.0
    one = {p: jnp.full_like(x, scale * (p == part)) for p, x in losses.items()}
    objective = owner(name, mode=mode) if aligned else name
    parts.append(Part(part, objective, losses[part], scale, *pull(one)))
  return parts, {head: updated} if stats else {}


def _mix(
  cotangents: dict[str, dict[str, jax.Array]],
  outside: dict[str, jax.Array] | None,
  losses: dict[str, jax.Array],
  state: Any,
  key: jax.Array,
  *,
  balancer: GradientBalancer,
  through: Callable[[Any], Any],
  level: str,
  present: dict[str, jax.Array],
  features: dict[str, jax.Array],
  axis_name: str | None,
) -> Mixed:
  """Combines gradients with respect to features or, behind them, parameters.

  Args:
    cotangents: objective -> gradient with respect to the features.
    outside: the same of what is not balanced, or None.
    losses: objective -> loss.
    state: the balancer's.
    key: PRNG key of the step.
    balancer: the rule.
    through: gradient with respect to features -> to the backbone's parameters.
    level: 'parameters' or 'features'.
    present: objective -> bool scalar.
    features: the backbone's.
    axis_name: the mapped device axis, if any.
  """
  # Features are split over devices as the batch is; parameters are not.
  split = axis_name if level == 'features' else None

  def whole():
    given = cotangents
    if level == 'parameters':
      given = {name: through(c) for name, c in cotangents.items()}
    combined, after = balancer.update(
      losses,
      given,
      state,
      key,
      present=present,
      axis_name=split,
      values=features if level == 'features' else None,
    )
    gradient = combined.direction
    if level == 'features':
      gradient = through(_sum([gradient, outside]))
    elif outside is not None:
      gradient = _sum([gradient, through(outside)])
    gram = inner_products(in_order(given), axis_name=split)
    return Mixed(gradient, combined.weights, combined.own, after, gram)

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
    gradient = through(_sum([*weighted, outside]))
    return Mixed(gradient, kept.weights, kept.own, kept.state, gram)

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
  named |= {'loss': balanced + rest}
  names = sorted(losses)
  for i, n in enumerate(names):
    named[f'weight/{n}'] = mixed.weights[n]
    named[f'norm/{n}'] = mixed.gram.norms[i]
    for j in range(i):
      named[f'cosine/{names[j]}/{n}'] = mixed.gram.cosines[j, i]
  return named


def _sum(trees):
  """Adds pytrees that may lack keys of each other; None for none."""
  result = None
  for tree in trees:
    if tree is None:
      continue
    if result is None:
      result = tree
    elif isinstance(tree, Mapping):
      result = {
        k: _sum([result.get(k), tree.get(k)]) for k in {**result, **tree}
      }
    else:
      result = result + tree
  return result
