"""From dictionaries by task to vectors [K] and back; the loss rules' adapter.

Rules are written in vectors over the tasks *in the order of their names*, which
is also how jit orders a dictionary. The order in which tasks were listed has no
influence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing.base import Balancer

# Where a rule divides by losses or takes their logarithm, smaller ones count as
# this.
SMALLEST_LOSS = 1e-8


def in_order(by_task: Mapping[str, Any]) -> list[Any]:
  """The values of a dictionary, in the order of the names."""
  return [by_task[t] for t in sorted(by_task)]


def to_vector(by_task: Mapping[str, Any], dtype=jnp.float32) -> jax.Array:
  """The values of a dictionary as a vector [K], in the order of the names."""
  return jnp.stack([jnp.asarray(x, dtype) for x in in_order(by_task)])


def to_dict(names: Sequence[str], vector: jax.Array) -> dict[str, jax.Array]:
  """The inverse of `to_vector`, for the same names in any order."""
  return {t: vector[i] for i, t in enumerate(sorted(names))}


def presence(
  names: Sequence[str], present: Mapping[str, Any] | None
) -> jax.Array:
  """`present` as bool [K]; all True for None."""
  if present is None:
    return jnp.ones(len(names), bool)
  return to_vector({t: present[t] for t in names}, bool)


def keep_absent(new: Any, old: Any, present: jax.Array) -> Any:
  """Takes the entries of present tasks from `new`, the others from `old`."""
  return jax.tree.map(lambda x, y: jnp.where(present, x, y), new, old)


def masked_mean(x: jax.Array, present: jax.Array) -> jax.Array:
  """Mean over the present tasks; 0 if there is none."""
  total = jnp.sum(jnp.where(present, x, 0))
  return total / jnp.maximum(jnp.sum(present), 1)


def among_present(w: jax.Array, present: jax.Array) -> jax.Array:
  """The weights w [K] among the present tasks alone, with sum 1.

  Equal weights where all of them are 0.
  """
  w = jnp.where(present, w, 0)
  total = jnp.sum(w)
  even = present.astype(w.dtype) / jnp.maximum(jnp.sum(present), 1)
  return jnp.where(total > 0, w / jnp.where(total > 0, total, 1), even)


def distinct_buffers(state: Any) -> Any:
  """Copies every array: a state is donated, and no buffer may occur twice."""
  return jax.tree.map(lambda x: jnp.array(x, copy=True), state)


class Step(NamedTuple):
  """The inputs of a step that every rule gets.

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


def make_step(
  losses: Mapping[str, Any],
  present: Mapping[str, Any] | None,
  key: jax.Array | None,
) -> Step:
  """Gathers dictionaries by task into vectors."""
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
    rule: (Step, state) -> (weights [K], state). The weights of absent tasks are
      replaced by 0.
    init: sorted names -> state.
    observe: (Step, state) -> state; the step has the losses after it.
  """

  def start(names, gradients=None):
    del gradients
    return distinct_buffers(init(tuple(sorted(names))))

  def update(losses, state, key, *, present=None):
    step = make_step(losses, present, key)
    weights, state = rule(step, state)
    return to_dict(losses, jnp.where(step.present, weights, 0)), state

  def after_step(losses, state, *, present=None):
    return observe(make_step(losses, present, None), state)

  return Balancer(start, update, after_step if observe else None)
