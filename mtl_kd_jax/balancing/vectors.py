"""From dictionaries by task to vectors [K] and back; the loss rules' adapter.

Rules are written in vectors over the tasks *in the order of their names*, which
is also how jit orders a dictionary. So nothing depends on the order in which
tasks were written down.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing.base import Balancer

# Losses are not counted as smaller, where a rule divides by them or takes their
# logarithm.
SMALLEST_LOSS = 1e-8


def to_vector(by_task: Mapping[str, Any], dtype=jnp.float32) -> jax.Array:
  """The values of a dictionary as a vector [K], in the order of the names."""
  return jnp.stack([jnp.asarray(by_task[t], dtype) for t in sorted(by_task)])


def to_dict(names, vector: jax.Array) -> dict[str, jax.Array]:
  """The inverse of `to_vector`, for the same names in any order."""
  return {t: vector[i] for i, t in enumerate(sorted(names))}


def presence(names, present: Mapping[str, Any] | None) -> jax.Array:
  """`present` as bool [K]; all True for None."""
  if present is None:
    return jnp.ones(len(names), bool)
  return to_vector({t: present[t] for t in names}, bool)


def keep_absent(new: Any, old: Any, present: jax.Array) -> Any:
  """Takes the entries of present tasks from `new`, the others from `old`."""
  return jax.tree.map(lambda x, y: jnp.where(present, x, y), new, old)


def own_buffers(state: Any) -> Any:
  """Copies every array: a state is donated, and no buffer can be twice."""
  return jax.tree.map(lambda x: jnp.array(x, copy=True), state)


def masked_softmax(x: jax.Array, present: jax.Array) -> jax.Array:
  """Softmax over the present tasks; 0 for the others, and if there is none."""
  x = jnp.where(present, x, -jnp.inf)
  x = jnp.exp(x - jnp.where(present.any(), jnp.max(x), 0))
  return x / jnp.maximum(jnp.sum(x), jnp.finfo(x.dtype).tiny)


def masked_mean(x: jax.Array, present: jax.Array) -> jax.Array:
  """Mean over the present tasks; 0 if there is none."""
  total = jnp.sum(jnp.where(present, x, 0))
  return total / jnp.maximum(jnp.sum(present), 1)


class Step(NamedTuple):
  """What every rule is told of a step.

  Attributes:
    names: the tasks, sorted: the order of all vectors.
    losses: float32 [K] without gradient, 1 where absent.
    present: bool [K].
    key: PRNG key.
  """

  names: tuple[str, ...]
  losses: jax.Array
  present: jax.Array
  key: jax.Array | None

  @property
  def count(self) -> jax.Array:
    """The number of present tasks, float32, at least 1."""
    return jnp.maximum(jnp.sum(self.present), 1).astype(jnp.float32)


def make_step(losses, present, key) -> Step:
  """Gathers what comes by task into vectors."""
  present = presence(losses, present)
  vector = jax.lax.stop_gradient(to_vector(losses))
  vector = jnp.where(present, vector, 1)
  return Step(tuple(sorted(losses)), vector, present, key)


def from_losses(
  rule: Callable[..., tuple[jax.Array, Any]],
  init: Callable[[tuple[str, ...]], Any] = lambda names: (),
  observe: Callable[..., Any] | None = None,
) -> Balancer:
  """Makes a balancer of a rule in vectors.

  Args:
    rule: (Step, state) -> (weights [K], state). Weights are without effect
      where a task is absent.
    init: sorted names -> state.
    observe: (Step, state) -> state; the step has the losses after it.
  """

  def start(names, gradients=None):
    del gradients
    return own_buffers(init(tuple(sorted(names))))

  def update(losses, state, key, *, present=None):
    step = make_step(losses, present, key)
    weights, state = rule(step, state)
    return to_dict(losses, jnp.where(step.present, weights, 0)), state

  def look(losses, state, *, present=None):
    return observe(make_step(losses, present, None), state)

  return Balancer(start, update, look if observe else None)
