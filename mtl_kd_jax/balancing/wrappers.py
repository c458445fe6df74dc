"""Around a balancer: weights smoothed or reused, gradients normalized."""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import (
  Balancer,
  Combined,
  GradientBalancer,
  Reused,
)
from mtl_kd_jax.balancing.gram import in_order, inner_products, weighted_sum
from mtl_kd_jax.balancing.vectors import (
  SMALLEST_LOSS,
  keep_absent,
  make_step,
  presence,
  to_dict,
  to_vector,
)
from mtl_kd_jax.errors import InputError

NORMALIZATIONS = ('none', 'l2', 'loss', 'loss+')


def smoothed(balancer, beta: float):
  """The weights become their running mean: w <- beta w + (1 - beta) w_new.

  CR-MOGM (Zhou et al. 2022), for any method that gives weights. The mean
  begins at the first weights of each task.

  Args:
    balancer: a `Balancer`, or a `GradientBalancer` that is linear.
    beta: in [0, 1).

  Raises:
    InputError: beta is out of range, or the balancer has no weights.
  """
  checks.number(beta, 'smoothing', least=0, below=1)

  def start(names, gradients=None):
    zeros = jnp.zeros(len(names), jnp.float32)
    return {
      'mean': zeros,
      'seen': jnp.zeros(len(names), bool),
      'inner': balancer.init(names, gradients),
    }

  def smooth(weights, state, present):
    present = presence(weights, present)
    new, old = to_vector(weights), state['mean']
    mean = jnp.where(state['seen'], beta * old + (1 - beta) * new, new)
    kept = {
      'mean': keep_absent(mean, old, present),
      'seen': state['seen'] | present,
    }
    return jnp.where(present, mean, 0), kept

  if isinstance(balancer, GradientBalancer):
    _check_linear(balancer, 'smoothing')

    def update(losses, gradients, state, key, *, present=None, **extra):
      got, inner = balancer.update(
        losses, gradients, state['inner'], key, present=present, **extra
      )
      mean, kept = smooth(got.weights, state, present)
      direction = weighted_sum(mean, in_order(gradients))
      result = Combined(direction, to_dict(losses, mean), got.own)
      return result, kept | {'inner': inner}

    return balancer._replace(init=start, update=update, reuse=None)

  def weigh(losses, state, key, *, present=None):
    weights, inner = balancer.update(
      losses, state['inner'], key, present=present
    )
    mean, kept = smooth(weights, state, present)
    return to_dict(losses, mean), kept | {'inner': inner}

  def observe(losses, state, *, present=None):
    inner = balancer.observe(losses, state['inner'], present=present)
    return state | {'inner': inner}

  return Balancer(start, weigh, observe if balancer.observe else None)


def refreshed(balancer: GradientBalancer, every: int) -> GradientBalancer:
  """The weights are computed in every n-th step and kept in between.

  `update` then saves only the solver. `reuse` tells beforehand whether the
  gradients of single tasks are needed at all: without them, a step costs one
  backward pass.

  Args:
    balancer: one that is linear.
    every: n.

  Raises:
    InputError: n is below 1, or the balancer has no weights.
  """
  checks.number(every, 'refresh_every', least=1)
  _check_linear(balancer, 'refresh_every')

  def start(names, gradients=None):
    weights, own = (jnp.ones(len(names), jnp.float32) for _ in range(2))
    return {
      'step': jnp.zeros((), jnp.int32),
      'weights': weights,
      'own': own,
      'inner': balancer.init(names, gradients),
    }

  def reuse(state, names):
    return Reused(
      due=state['step'] % every == 0,
      weights=to_dict(names, state['weights']),
      own=to_dict(names, state['own']),
      state=state | {'step': state['step'] + 1},
    )

  def update(losses, gradients, state, key, *, present=None, **extra):
    seen = presence(losses, present)
    ordered = in_order(gradients)

    def whole():
      got, inner = balancer.update(
        losses, gradients, state['inner'], key, present=present, **extra
      )
      kept = {
        'step': state['step'] + 1,
        'weights': keep_absent(to_vector(got.weights), state['weights'], seen),
        'own': keep_absent(to_vector(got.own), state['own'], seen),
        'inner': inner,
      }
      return got, kept

    def stale():
      kept = reuse(state, losses)
      shared, own = (
        jnp.where(seen, to_vector(w), 0) for w in (kept.weights, kept.own)
      )
      direction = weighted_sum(shared, ordered)
      got = Combined(direction, to_dict(losses, shared), to_dict(losses, own))
      return got, kept.state

    return jax.lax.cond(state['step'] % every == 0, whole, stale)

  return balancer._replace(init=start, update=update, reuse=reuse)


def normalized(balancer: GradientBalancer, kind: str) -> GradientBalancer:
  """Gradients are divided by n_t before they are combined.

  n_t is |g_t| ('l2'), L_t ('loss') or L_t |g_t| ('loss+'), as in the code of
  Sener & Koltun 2018. The weights that come out are those of the gradients as
  they were. (That code solves with normalized gradients and applies the result
  to the losses as they are; here, as in LibMTL, what is combined is what was
  solved with.)

  Args:
    balancer: one that works on one part of the batch.
    kind: 'none', 'l2', 'loss' or 'loss+'.

  Raises:
    InputError: unknown kind, or a balancer that asks for other parts.
  """
  checks.choice(kind, 'normalize', NORMALIZATIONS)
  if kind == 'none':
    return balancer
  if balancer.parts > 1:
    raise InputError(
      expected='a balancer that works on the whole batch',
      found='one that splits it',
      where='option normalize of the balancer',
      do='leave the gradients as they are: none',
    )

  def update(losses, gradients, state, key, *, present=None, **extra):
    step = make_step(losses, present, key)
    n = jnp.ones_like(step.losses)
    if kind != 'l2':
      n = jnp.maximum(step.losses, SMALLEST_LOSS)
    if kind != 'loss':
      norms = inner_products(
        in_order(gradients), step.present, axis_name=extra.get('axis_name')
      ).norms
      n = n * jnp.where(norms > 0, norms, 1)
    by_task = to_dict(losses, n)
    scaled = {
      t: jax.tree.map(lambda x, t=t: (x / by_task[t]).astype(x.dtype), g)
      for t, g in gradients.items()
    }
    got, state = balancer.update(
      losses, scaled, state, key, present=present, **extra
    )
    weights = {t: w / by_task[t] for t, w in got.weights.items()}
    return got._replace(weights=weights), state

  return balancer._replace(update=update)


def _check_linear(balancer, option):
  if not balancer.linear:
    raise InputError(
      expected='a balancer whose direction is a weighted sum of gradients',
      found='one that has no weights',
      where=f'option {option} of the balancer',
      do='leave the option away, or choose another balancer',
    )
