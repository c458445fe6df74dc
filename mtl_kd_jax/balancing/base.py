"""The balancer contract: how the losses of several tasks become one."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Balancer(NamedTuple):
  """Two pure functions, after optax.GradientTransformation.

  Attributes:
    init: (task names) -> state, a pytree of arrays that is checkpointed.
    update: (losses, state, key) -> (weights, state). `losses` is {task:
      float32 scalar}, means over the *global* batch, so that a weight never
      depends on how many devices there are; no gradient flows through it.
      `weights` is {task: float32 scalar}: the step descends on
      sum_t weights[t] * losses[t].
  """

  init: Callable[[tuple[str, ...]], Any]
  update: Callable[[Any, Any, Any], tuple[Any, Any]]
