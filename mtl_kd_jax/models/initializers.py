"""Initial values of kernels."""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]

# Kernels are slices of longer draws, of this length times a power of 8.
_MIN_DRAWN = 8**4


def _normal_of(fan: Callable[[int, int], float], scale: float) -> Initializer:
  """Draws kernels from N(0, scale / fan).

  The same numbers, to rounding, as those of
  `flax.linen.initializers.variance_scaling(..., distribution='normal')`.

  Args:
    fan: (inputs, outputs) -> what the variance is divided by. Both count the
      values in the kernel's window, as in He et al. 2015 (arXiv 1502.01852).
    scale: of the variance.
  """

  def draw(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
  ) -> jax.Array:
    """Draws a kernel [... inputs outputs], of this shape and dtype."""
    receptive = math.prod(shape[:-2])
    variance = scale / fan(receptive * shape[-2], receptive * shape[-1])
    deviation = np.sqrt(np.asarray(variance, dtype))
    return jax.device_put(_standard_normal(key, shape, dtype) * deviation)

  return draw


def _standard_normal(key, shape, dtype) -> Any:
  if isinstance(key, jax.core.Tracer):
    return jax.random.normal(key, shape, dtype)
  # JAX compiles a program for every shape, in half a second each. A longer draw
  # begins with the same numbers: the n-th is a function of the key and n.
  count = math.prod(shape)
  drawn = _MIN_DRAWN
  while drawn < count:
    drawn *= 8
  return np.asarray(jax.random.normal(key, (drawn,), dtype))[:count].reshape(
    shape
  )


# PyTorch's xavier_normal_, which the reference code uses. Flax's xavier_normal
# truncates the normal distribution.
xavier_normal = _normal_of(lambda inputs, outputs: (inputs + outputs) / 2, 1.0)

# As torchvision initializes its ResNets: dividing by the outputs preserves the
# variance of gradients through ReLUs, not that of activations.
kaiming_normal = _normal_of(lambda _, outputs: outputs, 2.0)
