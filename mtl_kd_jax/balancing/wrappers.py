"""Wrappers of balancers: averaged, scaled or reused weights; normalization."""

import functools

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._arguments import (
  as_gradients,
  check_balancer,
  check_keys,
  check_losses,
  check_names,
)
from mtl_kd_jax.balancing._gram import inner_products, weighted_sum
from mtl_kd_jax.balancing._vectors import (
  SMALLEST_LOSS,
  in_order,
  keep_absent,
  make_step,
  presence,
  to_dict,
  to_vector,
)
from mtl_kd_jax.balancing.base import (
  Balancer,
  Combined,
  GradientBalancer,
  Reused,
)
from mtl_kd_jax.errors import InputError

NORMALIZATIONS = ('none', 'l2', 'loss', 'loss+')


def weight_ema(
  balancer: Balancer | GradientBalancer, decay: float
) -> Balancer | GradientBalancer:
  """Averages the weights over steps: w <- decay w + (1 - decay) w_new.

  The exponential moving average of CR-MOGM (Zhou et al. 2022), for any rule
  that gives weights. It starts at the first weights of each task. The factors
  on task-specific gradients are averaged too, so that a head descends on the
  same multiple of its loss as the shared parameters.

  Args:
    balancer: a `Balancer`, or a `GradientBalancer` that is linear.
    decay: in [0, 1).

  Raises:
    InputError: decay is out of range, or the balancer is not linear.
  """
  _checks.number(decay, 'decay', at_least=0, below=1)
  check_balancer(balancer, Balancer, GradientBalancer)
  combines = isinstance(balancer, GradientBalancer)
  means = ('mean', 'task_specific') if combines else ('mean',)
  keys = (*means, 'seen', 'inner')

  def init(names, gradients=None):
    inner = balancer.init(names, gradients)
    zeros = functools.partial(jnp.zeros, len(names))
    return {
      **{name: zeros(jnp.float32) for name in means},
      'seen': zeros(bool),
      'inner': inner,
    }

  def average(new, state, present):
    """Means of vectors by name, 0 where absent, and the state for them."""
    seen, old = state['seen'], {name: state[name] for name in new}
    means = jax.tree.map(
      lambda x, y: jnp.where(seen, decay * y + (1 - decay) * x, x), new, old
    )
    kept = keep_absent(means, old, present) | {'seen': seen | present}
    return {n: jnp.where(present, x, 0) for n, x in means.items()}, kept

  def observe(losses, state, *, present=None):
    check_keys(state, keys)
    inner = balancer.observe(losses, state['inner'], present=present)
    return state | {'inner': inner}

  def update_losses(losses, state, key, *, present=None):
    check_keys(state, keys)
    weights, inner = balancer.update(
      losses, state['inner'], key, present=present
    )
    present = presence(losses, present)
    means, kept = average({'mean': to_vector(weights)}, state, present)
    return to_dict(losses, means['mean']), kept | {'inner': inner}

  def update_gradients(losses, gradients, state, key, *, present=None, **extra):
    check_keys(state, keys)
    gradients = as_gradients(gradients, losses)
    combined, inner = balancer.update(
      losses, gradients, state['inner'], key, present=present, **extra
    )
    new = {
      'mean': to_vector(combined.weights),
      'task_specific': to_vector(combined.task_specific),
    }
    means, kept = average(new, state, presence(losses, present))
    combined = _combined(means['mean'], means['task_specific'], gradients)
    return combined, kept | {'inner': inner}

  functions = {
    'init': init,
    'on_metrics': _inner_on_metrics(balancer),
    'made_by': f'weight_ema({balancer.made_by}, {decay})',
  }
  if combines:
    _check_linear(balancer)
    return balancer._replace(update=update_gradients, reuse=None, **functions)
  return balancer._replace(
    update=update_losses, observe=balancer.observe and observe, **functions
  )


def mean_weight(
  balancer: Balancer | GradientBalancer, mean: float
) -> Balancer | GradientBalancer:
  """Scales the weights to this mean over the objectives of a step.

  How long a direction is, is left open by most rules, and by some it is fixed:
  that of Nash-MTL has norm 1, so that the weights are as large as gradients are
  short. What is added outside of the balancing, such as alignments, then counts
  for more or less, above all with gradients with respect to features, whose
  length says nothing of the parameters'. With a mean of 1 the losses have the
  scale of a sum without weights. The factors on task-specific gradients are
  scaled too, to the same mean. Weights that do not sum to more than 0 are left
  as they are. What other wrappers make of these weights, averages over steps
  with different labels, may have another mean.

  Args:
    balancer: a `Balancer`, or a `GradientBalancer` that is linear.
    mean: above 0.

  Raises:
    InputError: the mean is not above 0, or the balancer is not linear.
  """
  _checks.number(mean, 'mean', above=0)
  check_balancer(balancer, Balancer, GradientBalancer)

  def factor(weights, present):
    """What takes weights [K] to the mean."""
    # Those of tiny gradients are huge: their sum could overflow.
    largest = jnp.max(jnp.abs(weights))
    largest = jnp.where(largest > 0, largest, 1)
    sum_ = jnp.sum(weights / largest)
    scaled = mean * jnp.sum(present) / jnp.where(sum_ > 0, sum_, 1) / largest
    return jnp.where(sum_ > 0, scaled, 1)

  def update_losses(losses, state, key, *, present=None):
    weights, state = balancer.update(losses, state, key, present=present)
    by = factor(to_vector(weights), presence(losses, present))
    return {t: by * w for t, w in weights.items()}, state

  def update_gradients(losses, gradients, state, key, *, present=None, **extra):
    combined, state = balancer.update(
      losses, gradients, state, key, present=present, **extra
    )
    seen = presence(losses, present)
    shared = factor(to_vector(combined.weights), seen)
    specific = factor(to_vector(combined.task_specific), seen)
    return Combined(
      direction=jax.tree.map(
        lambda x: (shared * x).astype(x.dtype), combined.direction
      ),
      weights={t: shared * w for t, w in combined.weights.items()},
      task_specific={
        t: specific * w for t, w in combined.task_specific.items()
      },
    ), state

  # State, observe and on_metrics are those of the balancer itself.
  made_by = f'mean_weight({balancer.made_by}, {mean})'
  if not isinstance(balancer, GradientBalancer):
    return balancer._replace(update=update_losses, made_by=made_by)
  _check_linear(balancer)
  return balancer._replace(update=update_gradients, reuse=None, made_by=made_by)


def update_every(balancer: GradientBalancer, every: int) -> GradientBalancer:
  """Computes the weights in every n-th step and keeps them in between.

  `update` alone saves only the solver. `reuse` tells beforehand whether the
  gradients of single tasks are needed in this step. Where they are not, the
  step costs one backward pass. Weights that a rule sets in `on_metrics` take
  effect in the next full update.

  Args:
    balancer: one that is linear.
    every: n.

  Raises:
    InputError: n is below 1, or the balancer is not linear.
  """
  _checks.number(every, 'every', at_least=1, integer=True)
  _check_linear(balancer)
  keys = ('step', 'weights', 'task_specific', 'inner')

  def init(names, gradients=None):
    inner = balancer.init(names, gradients)
    ones = functools.partial(jnp.ones, len(names))
    return {
      'step': jnp.zeros((), jnp.int32),
      'weights': ones(jnp.float32),
      'task_specific': ones(jnp.float32),
      'inner': inner,
    }

  def reuse(state, names):
    check_keys(state, keys)
    _check_tasks(names, state['inner'])
    return Reused(
      due=state['step'] % every == 0,
      weights=to_dict(names, state['weights']),
      task_specific=to_dict(names, state['task_specific']),
      state=state | {'step': state['step'] + 1},
    )

  def update(losses, gradients, state, key, *, present=None, **extra):
    check_keys(state, keys)
    check_losses(losses, present)
    gradients = as_gradients(gradients, losses)
    seen = presence(losses, present)

    def full():
      combined, inner = balancer.update(
        losses, gradients, state['inner'], key, present=present, **extra
      )
      new = {
        'weights': to_vector(combined.weights),
        'task_specific': to_vector(combined.task_specific),
      }
      kept = keep_absent(new, {name: state[name] for name in new}, seen)
      return combined, {'step': state['step'] + 1, **kept, 'inner': inner}

    def reused():
      weights, task_specific = (
        jnp.where(seen, state[name], 0) for name in ('weights', 'task_specific')
      )
      combined = _combined(weights, task_specific, gradients)
      return combined, reuse(state, losses).state

    return jax.lax.cond(state['step'] % every == 0, full, reused)

  return balancer._replace(
    init=init,
    update=update,
    reuse=reuse,
    on_metrics=_inner_on_metrics(balancer),
    made_by=f'update_every({balancer.made_by}, {every})',
  )


def normalize_gradients(
  balancer: GradientBalancer, kind: str
) -> GradientBalancer:
  """Divides gradients by n_t before they are combined.

  n_t is |g_t| ('l2'), L_t ('loss') or L_t |g_t| ('loss+'), as in the code of
  Sener & Koltun 2018. The weights that come out are those of the gradients
  before normalization. (That code solves with normalized gradients and applies
  the result to the losses as they are; here, as in LibMTL, the normalized
  gradients are also combined.)

  Args:
    balancer: one that works on the whole batch.
    kind: 'none', 'l2', 'loss' or 'loss+'.

  Raises:
    InputError: unknown kind, or a balancer that splits the batch.
  """
  _checks.choice(kind, 'kind', NORMALIZATIONS)
  check_balancer(balancer, GradientBalancer)
  if kind == 'none':
    return balancer
  if balancer.num_minibatches > 1:
    raise InputError(
      expected='a balancer that works on the whole batch',
      found='one that splits it',
      argument='kind',
      do="leave the gradients as they are: 'none'",
    )

  def update(losses, gradients, state, key, *, present=None, **extra):
    check_losses(losses, present)
    gradients = as_gradients(gradients, losses)
    step = make_step(losses, present, key)
    n = jnp.ones_like(step.losses)
    if kind != 'l2':
      n = jnp.maximum(step.losses, SMALLEST_LOSS)
    if kind != 'loss':
      norms = inner_products(
        gradients, step.present, axis_name=extra.get('axis_name')
      ).norms
      n = n * jnp.where(norms > 0, norms, 1)
    by_task = to_dict(losses, n)
    scaled = {
      t: jax.tree.map(lambda x, t=t: (x / by_task[t]).astype(x.dtype), g)
      for t, g in gradients.items()
    }
    combined, state = balancer.update(
      losses, scaled, state, key, present=present, **extra
    )
    weights = {t: w / by_task[t] for t, w in combined.weights.items()}
    return combined._replace(weights=weights), state

  # State and on_metrics are those of the balancer itself.
  made_by = f'normalize_gradients({balancer.made_by}, {kind!r})'
  return balancer._replace(update=update, made_by=made_by)


def _combined(weights, task_specific, gradients):
  """The result of a step of given weights, in vectors."""
  return Combined(
    direction=weighted_sum(weights, in_order(gradients)),
    weights=to_dict(gradients, weights),
    task_specific=to_dict(gradients, task_specific),
  )


def _inner_on_metrics(balancer):
  """`on_metrics` of a balancer whose state is in state['inner']; or None."""
  if balancer.on_metrics is None:
    return None

  def on_metrics(metrics, state):
    return state | {'inner': balancer.on_metrics(metrics, state['inner'])}

  return on_metrics


def _check_tasks(names, inner):
  """Checks names against those in a state, below any number of wrappers."""
  while isinstance(inner, dict) and 'inner' in inner:
    inner = inner['inner']
  if isinstance(inner, dict) and 'names' in inner:
    check_names(names, inner['names'], 'names', 'init')


def _check_linear(balancer):
  check_balancer(balancer, GradientBalancer)
  if not balancer.linear:
    raise InputError(
      expected='a balancer whose direction is a weighted sum of gradients',
      found='one that is not linear',
      argument='balancer',
      do='leave this wrapper out, or choose another balancer',
    )
