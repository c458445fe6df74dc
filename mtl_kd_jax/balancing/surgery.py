"""Gradient surgery: PCGrad, and GradVac that sets angles instead of 90 degrees.

Every gradient g_i is changed by the others, one after another in random order,
and the sum of the changed ones is the direction. Both stay in the span of the
gradients, so that coordinates [K] stand for vectors: row i of x are those of
the changed g_i in terms of unit gradients.
"""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import checks
from mtl_kd_jax.balancing.base import GradientBalancer
from mtl_kd_jax.balancing.gram import (
  Gram,
  combined,
  from_gram,
  in_order,
  inner_products,
  plain,
  weighted_sum,
)
from mtl_kd_jax.balancing.vectors import make_step

GROUPS = ('all', 'leaf')
REDUCTIONS = ('sum', 'mean')


def make_pcgrad(reduction: str = 'sum') -> GradientBalancer:
  """g_i loses its part along every g_j that it conflicts with (Yu et al. 2020).

  Args:
    reduction: 'sum' of the changed gradients, as in the paper, or 'mean'.

  Raises:
    InputError: unknown reduction.
  """
  checks.choice(reduction, 'reduction', REDUCTIONS)

  def rule(gram, step, state):
    def change(x, i, j):
      along = jnp.sum(x * gram.cosines[j], axis=1)  # <g_i, unit g_j>
      return x.at[i, j].add(-jnp.minimum(along, 0)), along

    x, _ = _operate(gram, step.key, change)
    w = _weights(x, gram)
    return plain(w / step.count if reduction == 'mean' else w), state

  return from_gram(rule)


def make_gradvac(beta: float = 0.01, groups: str = 'all') -> GradientBalancer:
  """g_i is turned toward g_j where their cosine is below its running mean.

  g_i += |g_i| (m sqrt(1 - c^2) - c sqrt(1 - m^2)) / (|g_j| sqrt(1 - m^2)) g_j
  for a cosine c below m, and m <- (1 - beta) m + beta c (Wang et al. 2021,
  algorithm 1). m begins at 0: the first step is PCGrad's.

  Args:
    beta: of the running mean. 0.01 in the paper, 0.5 in LibMTL and TorchJD.
    groups: whether cosines are of 'all' parameters or of each array ('leaf',
      the paper's all_matrix; the paper prefers finer groups than 'all').

  Raises:
    InputError: unknown groups, or beta out of range.
  """
  checks.number(beta, 'beta', least=0, most=1)
  checks.choice(groups, 'groups', GROUPS)

  def start(names, gradients=None):
    size = 1
    if groups == 'leaf':
      one = in_order(checks.needed(gradients, names))[0]
      size = len(jax.tree.leaves(one))
    return jnp.zeros((size, len(names), len(names)), jnp.float32)

  def update(
    losses, gradients, state, key, *, present=None, axis_name=None, **unused
  ):
    del unused
    step = make_step(losses, present, key)
    ordered = in_order(gradients)
    leaves, tree = zip(*map(jax.tree.flatten, ordered), strict=True)
    parts = list(zip(*leaves, strict=True)) if groups == 'leaf' else [ordered]
    grams = [
      inner_products(part, step.present, axis_name=axis_name) for part in parts
    ]
    gram = Gram(*map(jnp.stack, zip(*grams, strict=True)))
    weights, state = jax.vmap(
      lambda g, m: _vaccinate(g, m, step.key, step.present, beta)
    )(gram, state)
    if groups == 'all':
      direction = weighted_sum(weights[0], ordered)
    else:
      direction = jax.tree.unflatten(
        tree[0],
        [weighted_sum(w, p) for w, p in zip(weights, parts, strict=True)],
      )
    # Over groups there is no one weight; their mean is what is logged.
    mean = plain(jnp.mean(weights, axis=0))
    return combined(step, mean, direction), state

  return GradientBalancer(start, update, linear=groups == 'all')


def _vaccinate(gram, means, key, present, beta):
  """Weights [K] and running cosines [K K] of one group."""

  def change(x, i, j):
    along = jnp.sum(x * gram.cosines[j], axis=1)
    square = jnp.sum(x * jnp.matmul(x, gram.cosines, precision='highest'), 1)
    length = jnp.sqrt(jnp.maximum(square, 0))
    c = jnp.clip(along / jnp.where(length > 0, length, 1), -1, 1)
    m = means[i, j]
    rest = jnp.sqrt(jnp.maximum(1 - m * m, 1e-6))
    turn = length * (m * jnp.sqrt(1 - c * c) - c * rest) / rest
    active = (c < m) & present[i] & present[j] & (gram.norms[j] > 0)
    return x.at[i, j].add(jnp.where(active, turn, 0)), c

  x, cosines = _operate(gram, key, change)
  pair = (
    present[:, None] & present[None, :] & ~jnp.eye(present.size, dtype=bool)
  )
  pair &= (gram.norms > 0)[:, None] & (gram.norms > 0)[None, :]
  new = (1 - beta) * means + beta * cosines
  return _weights(x, gram), jnp.where(pair, new, means)


def _operate(gram, key, change):
  """Lets every task be changed by all others, each in an order of its own.

  Args:
    gram: of the gradients.
    key: PRNG key of the orders.
    change: (x [K K], i [K], j [K]) -> (x, cosine [K]), for pairs i and j.

  Returns:
    x [K K] in units of the largest norm, and what `change` returned [K K].
  """
  k = gram.norms.size
  i, order = jnp.arange(k), orders(key, k)
  x, seen = jnp.diag(gram.relative), jnp.zeros((k, k), jnp.float32)
  for turn in range(k - 1):
    j = order[:, turn]
    x, cosine = change(x, i, j)
    seen = seen.at[i, j].set(cosine)
  return x, seen


def orders(key: jax.Array, k: int) -> jax.Array:
  """For each task a random order of the others, int32 [K K-1]."""
  draws = jax.vmap(lambda key: jax.random.permutation(key, k - 1))(
    jax.random.split(key, k)
  )
  return draws + (draws >= jnp.arange(k)[:, None])


def _weights(x, gram):
  """The sum of the rows as weights of the gradients."""
  alive = gram.norms > 0
  return jnp.where(
    alive, jnp.sum(x, axis=0) / jnp.where(alive, gram.relative, 1), 0
  )
