"""GradVac: gradients are turned toward the usual angle between their tasks."""

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import _checks
from mtl_kd_jax.balancing._gram import (
  Gram,
  combined,
  inner_products,
  shared_only,
  weighted_sum,
)
from mtl_kd_jax.balancing._surgery import operate, summed_weights
from mtl_kd_jax.balancing._vectors import in_order, make_step
from mtl_kd_jax.balancing.base import GradientBalancer

GROUPS = ('all', 'leaf')


def make(beta: float = 0.01, groups: str = 'all') -> GradientBalancer:
  """g_i is turned toward g_j where their cosine is below its running mean.

  g_i += |g_i| (m sqrt(1 - c^2) - c sqrt(1 - m^2)) / (|g_j| sqrt(1 - m^2)) g_j
  for a cosine c below m, and m <- (1 - beta) m + beta c (Wang et al. 2021,
  algorithm 1). m starts at 0: the first step is that of PCGrad.

  Args:
    beta: of the running mean. 0.01 in the paper, 0.5 in LibMTL and TorchJD.
    groups: whether cosines are of 'all' parameters or of each array ('leaf',
      the paper's all_matrix; the paper prefers finer groups than 'all'). With
      'leaf' there is a state for each array, and gradients have to be with
      respect to parameters.

  Raises:
    InputError: unknown groups, or beta out of range.
  """
  _checks.number(beta, 'beta', at_least=0, at_most=1)
  _checks.choice(groups, 'groups', GROUPS)

  def init(names, gradients=None):
    size = 1
    if groups == 'leaf':
      one = in_order(_checks.required(gradients, 'gradients'))[0]
      size = len(jax.tree.leaves(one))
    return jnp.zeros((size, len(names), len(names)), jnp.float32)

  def update(
    losses,
    gradients,
    state,
    key,
    *,
    present=None,
    axis_name=None,
    values=None,
    probe=None,
  ):
    del values, probe
    step = make_step(losses, present, key)
    ordered = in_order(gradients)
    leaves, tree = zip(*map(jax.tree.flatten, ordered), strict=True)
    by_group = [ordered]
    if groups == 'leaf':
      by_group = list(zip(*leaves, strict=True))
    grams = [
      inner_products(group, step.present, axis_name=axis_name)
      for group in by_group
    ]
    gram = Gram(*map(jnp.stack, zip(*grams, strict=True)))
    weights, state = jax.vmap(
      lambda g, m: _vaccinate(g, m, step.key, step.present, beta)
    )(gram, state)
    directions = [
      weighted_sum(w, group) for w, group in zip(weights, by_group, strict=True)
    ]
    direction = directions[0]
    if groups == 'leaf':
      direction = jax.tree.unflatten(tree[0], directions)
    # Over groups there is no single weight; their mean is logged.
    mean = shared_only(jnp.mean(weights, axis=0))
    return combined(step, mean, direction), state

  whole = groups == 'all'
  return GradientBalancer(init, update, linear=whole, on_features=whole)


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

  x, cosines = operate(gram, key, change)
  alive = present & (gram.norms > 0)
  pair = alive[:, None] & alive[None, :] & ~jnp.eye(present.size, dtype=bool)
  new = (1 - beta) * means + beta * cosines
  return summed_weights(x, gram), jnp.where(pair, new, means)
