"""The passes that the gradients of single tasks are made of.

The backbone forward; and for each task its head and adaptors, forward and, for
each of the task's losses by itself, backward to the features.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.distillation.alignment import Distillation
from mtl_kd_jax.models.features import taps_of, task_tap
from mtl_kd_jax.tasks.base import Task, masked_mean
from mtl_kd_jax.training.loss_terms import owner
from mtl_kd_jax.training.optim import ADAPTORS
from mtl_kd_jax.training.state import BACKBONE, TrainState


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


class Passes(NamedTuple):
  """All but the backward pass of the backbone, for a batch.

  Attributes:
    features: tap -> float [b h w c], of the backbone.
    parts: the losses of all tasks.
    through: gradient with respect to the features -> gradient with respect to
      the backbone's parameters, of the global batch.
    batch_stats: BatchNorm's next statistics.
  """

  features: dict[str, jax.Array]
  parts: list[Part]
  through: Callable[[Any], Any]
  batch_stats: dict[str, Any]

  @property
  def by_objective(self) -> dict[str, dict[str, jax.Array]]:
    """Objective -> its gradient with respect to the features; sorted."""
    return self._sums(lambda part: part.features)

  @property
  def own_by_objective(self) -> dict[str, dict[str, Any]]:
    """The same with respect to heads and adaptors; shares, as in `Part`."""
    return self._sums(lambda part: part.own)

  @property
  def outside(self) -> dict[str, jax.Array] | None:
    """The gradient of what is not balanced; None where all is."""
    return add([p.features for p in self.parts if p.objective is None])

  def _sums(self, of):
    parts = [p for p in self.parts if p.objective is not None]
    return {
      name: add([of(p) for p in parts if p.objective == name])
      for name in sorted({p.objective for p in parts})
    }


def run_passes(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  asked: Any,
  *,
  network: nn.Module,
  tasks: Mapping[str, Task],
  distillation: Distillation | None,
  mode: str,
  axis_name: str | None,
) -> Passes:
  """Runs the backbone forward, and all heads forward and backward.

  Args:
    state: the stage's state.
    batch: as in `train_step`.
    asked: the teachers' features (`Distillation.ask`); None without teachers.
    network: the network.
    tasks: the tasks.
    distillation: needed with teachers.
    mode: how alignment losses enter (objectives.py).
    axis_name: the mapped device axis, if any.
  """
  features, pull, batch_stats = _encode(network, state, batch['image'])
  parts = []
  for name, task in tasks.items():
    taught = asked is not None
    found, updated = _decode(
      task,
      features,
      state,
      batch,
      {name: asked[name]} if taught else None,
      network=network,
      distillation=distillation.only(name) if taught else None,
      mode=mode,
      axis_name=axis_name,
    )
    parts += found
    batch_stats |= updated

  def through(cotangent):
    (gradient,) = pull(cotangent)
    return gradient if axis_name is None else jax.lax.psum(gradient, axis_name)

  return Passes(features, parts, through, batch_stats)


def _encode(network, state, image):
  """The features, their `vjp` and BatchNorm's next statistics."""
  stats = {k: v for k, v in state.batch_stats.items() if k == BACKBONE}

  def encode_with(params):
    features, updated = network.backbone.apply(
      {'params': params, 'batch_stats': stats.get(BACKBONE, {})},
      image,
      tasks=tuple(network.channels),
      train=True,
      mutable=['batch_stats'],
    )
    return dict(features), updated.get('batch_stats', {})

  features, pull, updated = jax.vjp(
    encode_with, state.params[BACKBONE], has_aux=True
  )
  return features, pull, {BACKBONE: updated} if stats else {}


def _decode(
  task, features, state, batch, asked, *, network, distillation, mode, axis_name
):
  """The parts of one task, with a distillation of it alone, and statistics."""
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


def add(trees: Iterable[Any]) -> Any:
  """Adds pytrees that may lack keys of each other; None for none."""
  result = None
  for tree in trees:
    if tree is None:
      continue
    if result is None:
      result = tree
    elif isinstance(tree, Mapping):
      result = {
        k: add([result.get(k), tree.get(k)]) for k in {**result, **tree}
      }
    else:
      result = result + tree
  return result
