"""The gradients of several losses from one forward pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def task_gradients(
  losses: Callable[..., Any], params: Any, *args: Any, has_aux: bool = False
) -> tuple[Any, ...]:
  """The losses and the gradient of each, {task: pytree like params}.

  The forward pass runs once, and the backward pass once for each task. They run
  one after another: under vmap they would need K times the memory.

  Args:
    losses: (params, *args) -> {task: scalar}, or (that, aux) with `has_aux`.
    params: pytree of floats, the parameters that the tasks share.
    *args: further arguments of `losses`.
    has_aux: whether `losses` returns auxiliary data as well.

  Returns:
    (losses, gradients), or (losses, gradients, aux).
  """

  def of_params(params):
    return losses(params, *args)

  values, vjp, *aux = jax.vjp(of_params, params, has_aux=has_aux)
  gradients = {}
  for task in values:
    one = {t: jnp.full_like(x, t == task) for t, x in values.items()}
    (gradients[task],) = vjp(one)
  return values, gradients, *aux
