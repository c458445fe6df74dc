"""The two contracts: how several losses, or their gradients, become one step.

Both are NamedTuples of pure functions, after optax.GradientTransformation. A
`Balancer` needs the losses alone and costs nothing. A `GradientBalancer` needs
the gradient of every task. Tasks are dictionary keys in all that goes in and
comes out.

Two things are the caller's: losses and gradients are those of the *global*
batch (averaged over devices before they come here, since no rule is linear),
and `present` tells which tasks have a label in it at all. A task without one is
left out of the rule as if there were no such task: its weight is 0 and what the
state knows of it stays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Balancer(NamedTuple):
  """A rule that weighs losses.

  Attributes:
    init: (task names, gradients=None) -> state, a pytree of arrays that is
      checkpointed; `gradients` is there for the sake of `GradientBalancer`.
    update: (losses, state, key, *, present=None) -> (weights, state). `losses`
      is {task: float32 scalar}; no gradient flows through it. `present` is
      {task: bool scalar}, None for all. `weights` is {task: float32 scalar}:
      the step descends on sum_t weights[t] * losses[t].
    observe: (losses, state, *, present=None) -> state, for a rule that looks at
      the losses of the same batch after the step; None where there is nothing
      to look at.
  """

  init: Callable[..., Any]
  update: Callable[..., tuple[Any, Any]]
  observe: Callable[..., Any] | None = None


class Combined(NamedTuple):
  """What a gradient balancer makes of the gradients of a step.

  Attributes:
    direction: a pytree like the gradient of one task; the step descends along
      it, in place of the gradient of a loss.
    weights: {task: float32 scalar}, so that direction = sum_t weights[t] *
      gradient of t. Where a rule has no such weights (`linear` is False) they
      are the nearest it has, to be logged.
    own: {task: float32 scalar}, the factor on the gradient of the task's loss
      with respect to what the task has for itself, e.g. its head.
  """

  direction: Any
  weights: dict[str, jax.Array]
  own: dict[str, jax.Array]


class Reused(NamedTuple):
  """What a balancer that is refreshed every n steps keeps in between.

  Attributes:
    due: bool scalar, whether this step has to be a whole `update`.
    weights: as in `Combined`, of the last whole update.
    own: as in `Combined`, of the last whole update.
    state: the state after a step that reuses these.
  """

  due: jax.Array
  weights: dict[str, jax.Array]
  own: dict[str, jax.Array]
  state: Any


class GradientBalancer(NamedTuple):
  """A rule that combines gradients.

  Attributes:
    init: (task names, gradients=None) -> state. `gradients` is as in `update`,
      or its shapes; only rules with a state per parameter read it.
    update: (losses, gradients, state, key, *, present=None, axis_name=None,
      values=None, probe=None) -> (Combined, state).
      `losses` and `present` are as in `Balancer`. `gradients` is {task: pytree
      of arrays}, with respect to shared parameters or to shared features.
      `axis_name` names a mapped device axis along which the gradients are split
      (features of a split batch): inner products are then summed over it.
      `values` is what the gradients are with respect to. `probe` is (part,
      shift) -> {task: gradients} on another independent part of the batch, at
      the parameters minus `shift` (None for no shift).
    linear: whether direction = sum_t weights[t] * gradients[t].
    parts: into how many independent parts the batch is split: `gradients` are
      those of part 0, and `probe` gives the others.
    all_parameters: whether `gradients` and `shift` run over all parameters, and
      not over the shared ones alone: what a task has for itself too, where the
      gradients of all others are 0.
    on_features: whether the rule may be given gradients with respect to
      features, which belong to other samples in every step.
    reuse: (state, task names) -> Reused; None for a rule that is whole in every
      step.
  """

  init: Callable[..., Any]
  update: Callable[..., tuple[Combined, Any]]
  linear: bool = True
  parts: int = 1
  all_parameters: bool = False
  on_features: bool = True
  reuse: Callable[..., Reused] | None = None
