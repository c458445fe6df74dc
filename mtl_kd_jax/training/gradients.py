"""The gradient of a step: of the weighted sum of objectives.

A balancer that weighs losses needs this one backward pass. One that combines
gradients needs more: combined.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.models.network import BACKBONE
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.training.agreement import with_agreement
from mtl_kd_jax.training.forward import Forward, run_forward, total
from mtl_kd_jax.training.loss_terms import (
  LossTerm,
  labeled_flags,
  objectives,
  present_objectives,
)
from mtl_kd_jax.training.state import TrainState


class StepGradient(NamedTuple):
  """What a step needs beside the optimizers, of the global batch.

  Attributes:
    params: gradient with respect to the network's parameters.
    extras: the same of the extra networks.
    measured: float32 scalars by name (runtime/metric_keys.py).
    collections: the network's next collections.
    extra_collections: extra network -> its next collections.
    balancer_state: the balancer's next state.
  """

  params: dict[str, Any]
  extras: dict[str, Any]
  measured: dict[str, jax.Array]
  collections: dict[str, Any]
  extra_collections: dict[str, Any]
  balancer_state: Any


def weighted_gradient(
  state: TrainState,
  teachers: Any,
  batch: Mapping[str, jax.Array],
  *,
  balancer: Balancer,
  key: jax.Array,
  axis_name: str | None,
  **options: Any,
) -> StepGradient:
  """One backward pass of the weighted sum of the objectives.

  Args:
    state: the stage's state.
    teachers: outputs of the frozen teachers.
    batch: as in `train_step`.
    balancer: gives the weights.
    key: PRNG key of the step.
    axis_name: the mapped device axis, if any.
    **options: network, terms and extras, as in `run_forward`.
  """
  forward = with_agreement(
    run_forward(
      state, teachers, batch, key=key, axis_name=axis_name, **options
    ),
    axis_name,
  )
  losses = total(forward.objectives(), axis_name)
  weights, balancer_state = balancer.update(
    jax.lax.stop_gradient(losses),
    state.balancer_state,
    jax.random.fold_in(key, 0),
    present=present_objectives(forward.terms, batch, axis_name=axis_name),
  )
  cotangent = forward.vjp(
    {
      t.name: forward.weights[t.name]
      * (1 if t.objective is None else weights[t.objective])
      for t in forward.terms
    }
  )
  heads, extras = total((cotangent.heads, cotangent.extras), axis_name)
  return StepGradient(
    params=joined(forward.backbone_vjp(cotangent.features), heads),
    extras=extras,
    measured=measure_losses(forward, weights, losses, batch, axis_name)
    | {metric_keys.key(metric_keys.WEIGHT, n): w for n, w in weights.items()},
    collections=forward.collections,
    extra_collections=forward.extra_collections,
    balancer_state=balancer_state,
  )


def balancer_init(
  balancer: Balancer | GradientBalancer, terms: Sequence[LossTerm]
) -> Callable[[TrainState], Any]:
  """Makes the balancer's state from that of a stage without it."""
  names = objectives(terms)

  def init(state):
    # Like the gradients that it will combine, for rules that remember them.
    like = combined_params(state, balancer)
    return balancer.init(names, dict.fromkeys(names, like))

  return init


def combined_params(
  state: Any, balancer: Balancer | GradientBalancer
) -> dict[str, Any]:
  """The parameters whose gradients a balancer combines."""
  if isinstance(balancer, GradientBalancer) and balancer.all_parameters:
    extras = {n: variables['params'] for n, variables in state.extras.items()}
    return {'params': state.params, 'extras': extras}
  return state.params.get(BACKBONE, {})


def joined(backbone: Any, heads: Mapping[str, Any]) -> dict[str, Any]:
  """Like the network's parameters; a backbone may have none."""
  return ({BACKBONE: backbone} if backbone else {}) | heads


def measure_losses(
  forward: Forward,
  weights: Mapping[str, jax.Array],
  balanced: Mapping[str, jax.Array],
  batch: Mapping[str, jax.Array],
  axis_name: str | None,
) -> dict[str, jax.Array]:
  """What a step logs of its losses.

  Args:
    forward: what the batch gave.
    weights: objective -> weight.
    balanced: objective -> loss, of the global batch.
    batch: as in `train_step`.
    axis_name: the mapped device axis, if any.

  Returns:
    All losses by name, their sum, and which tasks had a label; float32 scalars.
  """
  losses = total(forward.losses, axis_name)
  balanced = sum(weights[n] * x for n, x in balanced.items())
  rest = sum(
    forward.weights[t.name] * losses[t.name]
    for t in forward.terms
    if t.objective is None
  )
  return (
    losses
    | {metric_keys.TOTAL: balanced + rest}
    | {
      metric_keys.key(metric_keys.FACTOR, name): jnp.float32(factor)
      for name, factor in forward.factors.items()
    }
    | labeled_flags(forward.terms, batch, axis_name=axis_name)
  )
