"""The gradient of a step whose balancer combines gradients.

It gets the gradient of every objective by itself: each runs backward through
the heads that it reads, to the features; from there it goes through the
backbone by itself (`grad_wrt` 'parameters'), or all are combined first and go
through it together ('features').

A rule that wants n mini-batches gets every n-th sample of each process for
each: the same samples on any number of its devices. The step is then one on
mini-batch 0, its losses and BatchNorm's statistics included.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import (
  Balancer,
  GradientBalancer,
  Gram,
  inner_products,
)
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import BACKBONE
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.training.agreement import with_agreement
from mtl_kd_jax.training.forward import (
  Cotangent,
  Forward,
  add,
  run_forward,
  total,
)
from mtl_kd_jax.training.gradients import (
  StepGradient,
  combined_params,
  joined,
  measure_losses,
)
from mtl_kd_jax.training.loss_terms import present_objectives
from mtl_kd_jax.training.state import TrainState

GRAD_WRT = ('parameters', 'features')


def check_grad_wrt(
  balancer: Balancer | GradientBalancer,
  grad_wrt: str,
  features: Iterable[str] = (),
) -> None:
  """Checks what a balancer's gradients are to be with respect to.

  Args:
    balancer: the balancer; one of losses combines no gradients.
    grad_wrt: of `GRAD_WRT`.
    features: the names of the backbone's features, where they are known.

  Raises:
    InputError: unknown, or impossible with this balancer or these features.
  """
  own = [tap for tap in features if '/' in tap]
  what = balancer.made_by or 'this balancer'
  if grad_wrt not in GRAD_WRT:
    problem = "'parameters', which is exact, or 'features', which is cheaper"
  elif not isinstance(balancer, GradientBalancer):
    return
  elif grad_wrt == 'parameters':
    if balancer.on_parameters:
      return
    problem = f"'features', since {what} needs their values"
  elif own:
    problem = f"'parameters', since tasks have features of their own: {own[0]}"
  elif not balancer.on_features:
    problem = (
      f"'parameters', since {what} compares gradients of several batches or of "
      'single arrays'
    )
  else:
    return
  raise InputError(
    expected=problem,
    found=repr(grad_wrt),
    argument='grad_wrt',
    do='change it, or choose another balancer',
  )


def check_minibatches(
  balancer: Balancer | GradientBalancer, device_batch: int, accumulate: int = 1
) -> None:
  """Checks that a batch can be split as a balancer wants it.

  Args:
    balancer: the balancer.
    device_batch: samples of a batch on one device.
    accumulate: micro-batches that each of its mini-batches is computed in.

  Raises:
    InputError: it cannot be.
  """
  n = getattr(balancer, 'num_minibatches', 1)
  if device_batch % (n * accumulate):
    raise InputError(
      expected=f'a multiple of {n * accumulate} samples on each device: '
      f'{balancer.made_by or "this balancer"} splits the batch into {n} '
      'mini-batches'
      + (f', each computed in {accumulate} pieces' if accumulate > 1 else ''),
      found=f'{device_batch} on each',
      argument='batch_size',
      do='change it, or choose another balancer',
    )


def combined_gradient(
  state: TrainState,
  teachers: Any,
  batch: Mapping[str, jax.Array],
  *,
  balancer: GradientBalancer,
  key: jax.Array,
  grad_wrt: str,
  axis_name: str | None,
  **options: Any,
) -> StepGradient:
  """Combines the gradients of all objectives.

  Args:
    state: the stage's state.
    teachers: outputs of the frozen teachers.
    batch: as in `train_step`.
    balancer: the rule.
    key: PRNG key of the step.
    grad_wrt: what the gradients are with respect to, of `GRAD_WRT`.
    axis_name: the mapped device axis, if any.
    **options: network, terms and extras, as in `run_forward`.
  """
  n = balancer.num_minibatches
  samples = [
    jax.tree.map(lambda x, i=i: x[i::n], (dict(batch), teachers))
    for i in range(n)
  ]

  def run(*inputs):
    forward = run_forward(*inputs, key=key, axis_name=axis_name, **options)
    return with_agreement(forward, axis_name)

  def exact(forward):
    cotangents = _by_objective(forward)
    return _exact(forward, cotangents, state, balancer, axis_name)

  def probe(i, shift):
    moved = state if shift is None else _shifted(state, shift, balancer)
    minibatch, outputs = samples[i]
    return exact(run(moved, outputs, minibatch))

  batch, teachers = samples[0]
  forward = run(state, teachers, batch)
  losses = total(forward.objectives(), axis_name)
  outside = None
  if any(term.objective is None for term in forward.terms):
    outside = forward.objective_vjp(None)
  cotangents = _by_objective(forward)
  mixed = _combine(
    forward,
    cotangents,
    outside,
    state,
    jax.random.fold_in(key, 0),
    balancer=balancer,
    grad_wrt=grad_wrt,
    losses=losses,
    probe=probe,
    present=present_objectives(forward.terms, batch, axis_name=axis_name),
    axis_name=axis_name,
  )
  specific = [
    _scaled((cotangent.heads, cotangent.extras), mixed.task_specific[name])
    for name, cotangent in cotangents.items()
  ]
  if outside is not None:
    specific.append((outside.heads, outside.extras))
  heads, extras = total(tuple(map(add, zip(*specific, strict=True))), axis_name)
  return StepGradient(
    params=joined(mixed.gradient, heads),
    extras=extras,
    measured=measure_losses(forward, mixed.weights, losses, batch, axis_name)
    | _gradients(mixed),
    collections=forward.collections,
    extra_collections=forward.extra_collections,
    balancer_state=mixed.state,
  )


class _Mixed(NamedTuple):
  """The combined gradient, and what it was combined with.

  Attributes:
    gradient: like the backbone's parameters, of the global batch.
    weights: objective -> float32 scalar.
    task_specific: objective -> float32 scalar, see `balancing.Combined`.
    state: the balancer's next state.
    gram: of the objectives' gradients, in the order of their names.
    due: float32 scalar, 1; 0 in a step that reuses weights, whose `gram` is
      without meaning.
  """

  gradient: Any
  weights: dict[str, jax.Array]
  task_specific: dict[str, jax.Array]
  state: Any
  gram: Gram
  due: jax.Array


def _by_objective(forward: Forward) -> dict[str, Cotangent]:
  names = {t.objective for t in forward.terms if t.objective is not None}
  return {name: forward.objective_vjp(name) for name in sorted(names)}


def _exact(forward, cotangents, state, balancer, axis_name) -> dict[str, Any]:
  """Objective -> gradient that a rule combines, of the global batch."""
  shared = {n: forward.backbone_vjp(c.features) for n, c in cotangents.items()}
  if not balancer.all_parameters:
    return shared
  zeros = jax.tree.map(jnp.zeros_like, combined_params(state, balancer))
  specific = total(
    {n: (c.heads, c.extras) for n, c in cotangents.items()}, axis_name
  )
  return {
    n: add(
      [
        zeros,
        {
          'params': joined(gradient, specific[n][0]),
          'extras': specific[n][1],
        },
      ]
    )
    for n, gradient in shared.items()
  }


def _combine(
  forward: Forward,
  cotangents: dict[str, Cotangent],
  outside: Cotangent | None,
  state: TrainState,
  key: jax.Array,
  *,
  balancer: GradientBalancer,
  grad_wrt: str,
  losses: dict[str, jax.Array],
  probe: Callable[[int, Any], Any],
  present: dict[str, jax.Array],
  axis_name: str | None,
) -> _Mixed:
  """Combines gradients with respect to features or, behind them, parameters."""
  on_features = grad_wrt == 'features'
  # Features are split over devices as the batch is; parameters are not.
  split = axis_name if on_features else None
  of_features = {n: c.features for n, c in cotangents.items()}
  rest = None if outside is None else outside.features

  def combine():
    given = of_features
    if not on_features:
      given = _exact(forward, cotangents, state, balancer, axis_name)
    combined, after = balancer.update(
      losses,
      given,
      state.balancer_state,
      key,
      present=present,
      axis_name=split,
      values=forward.features if on_features else None,
      probe=probe,
    )
    gradient = combined.direction
    if on_features:
      gradient = forward.backbone_vjp(add([gradient, rest]))
    else:
      if balancer.all_parameters:
        gradient = gradient['params'].get(BACKBONE, {})
      if rest is not None:
        gradient = add([gradient, forward.backbone_vjp(rest)])
    gram = inner_products([given[n] for n in sorted(given)], axis_name=split)
    return _Mixed(
      gradient,
      combined.weights,
      combined.task_specific,
      after,
      gram,
      jnp.ones((), jnp.float32),
    )

  if balancer.reuse is None:
    return combine()
  kept = balancer.reuse(state.balancer_state, tuple(losses))

  def reuse():
    weighted = [_scaled(c, kept.weights[n]) for n, c in of_features.items()]
    k = len(losses)
    return _Mixed(
      forward.backbone_vjp(add([*weighted, rest])),
      kept.weights,
      kept.task_specific,
      kept.state,
      Gram(*(jnp.zeros(shape, jnp.float32) for shape in ((k,), (k, k)))),
      jnp.zeros((), jnp.float32),
    )

  return jax.lax.cond(kept.due, combine, reuse)


def _shifted(state, shift, balancer) -> TrainState:
  """The state with parameters moved by minus `shift`."""
  if not balancer.all_parameters:
    shift = {'params': joined(shift, {}), 'extras': {}}

  def moved(params, by):
    return {
      **params,
      **{k: jax.tree.map(jnp.subtract, params[k], by[k]) for k in by},
    }

  return state.replace(
    params=moved(state.params, shift['params']),
    extras={
      name: {
        **variables,
        'params': jax.tree.map(
          jnp.subtract, variables['params'], shift['extras'][name]
        ),
      }
      if name in shift['extras']
      else variables
      for name, variables in state.extras.items()
    },
  )


def _gradients(mixed: _Mixed) -> dict[str, jax.Array]:
  """Weights, and lengths and angles of gradients, by name."""
  key = metric_keys.key
  named = {metric_keys.COMBINED: mixed.due}
  names = sorted(mixed.weights)
  for i, n in enumerate(names):
    named[key(metric_keys.WEIGHT, n)] = mixed.weights[n]
    named[key(metric_keys.NORM, n)] = mixed.gram.norms[i]
    for j in range(i):
      cosine = mixed.gram.cosines[j, i]
      named[key(metric_keys.COSINE, names[j], n)] = cosine
      conflict = (cosine < 0).astype(jnp.float32)
      named[key(metric_keys.CONFLICT, names[j], n)] = conflict
  return named


def _scaled(tree, factor):
  return jax.tree.map(lambda x: (factor * x).astype(x.dtype), tree)
