"""BatchNorm with the running variance of PyTorch.

Flax records the variance of the batch divided by n, PyTorch the unbiased one,
divided by n - 1. At a bottleneck of a few pixels they differ by percents, and
so do the predictions of networks that use the running statistics.
"""

import functools
import math

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp


class BatchNorm(nn.Module):
  """Normalizes each channel over batch and space (Ioffe & Szegedy 2015).

  Attributes:
    use_running_average: whether to normalize with the running statistics and
      leave them unchanged; otherwise with those of the batch, which update the
      running statistics.
    axis_name: the mapped device axis over which statistics are taken; None
      when the batch is not split by hand.
    momentum: share of the old running value that an update keeps; one minus
      PyTorch's momentum.
    epsilon: added to the variance.
  """

  use_running_average: bool
  axis_name: str | None = None
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b ... c] to the same shape and dtype.

    A batch of a single value per channel normalizes to the bias, and its
    variance is 0; PyTorch raises an error.
    """
    channels = x.shape[-1:]
    spec = (channels, jnp.float32)
    scale = self.param('scale', nn.initializers.ones, *spec)
    bias = self.param('bias', nn.initializers.zeros, *spec)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, *spec)
    running_var = self.variable('batch_stats', 'var', jnp.ones, *spec)
    if self.use_running_average:
      mean, var = running_mean.value, running_var.value
    else:
      initializing = self.is_initializing()
      axis_name = None if initializing else self.axis_name
      mean, var = _statistics(x, axis_name)
      if not initializing:
        count = math.prod(x.shape[:-1])
        if axis_name is not None:
          count *= lax.axis_size(axis_name)
        keep, take = self.momentum, 1 - self.momentum
        unbiased = var * (count / max(count - 1, 1))
        running_mean.value = keep * running_mean.value + take * mean
        running_var.value = keep * running_var.value + take * unbiased
    return _normalize(x, mean, var, scale, bias, self.epsilon)


# Networks have dozens of these layers, of few shapes. `jax.jit` traces,
# differentiates and lowers each shape once.


@functools.partial(jax.jit, static_argnames='axis_name')
def _statistics(x, axis_name):
  """Mean and variance, float [c], of the global batch of x [b ... c]."""
  axes = tuple(range(x.ndim - 1))
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  # E[y^2] - E[y]^2 takes one pass over the map. y is x less the mean of a
  # sample of its pixels: with x itself the difference would cancel to noise
  # where the mean is large compared to the deviation.
  sample = x[(slice(None), *(slice(None, None, 8),) * (x.ndim - 2))]
  shift = lax.stop_gradient(jnp.mean(sample, axes))
  if axis_name is not None:
    shift = lax.pmean(shift, axis_name)
  y = x - jnp.expand_dims(shift, axes)
  mean, mean_square = jnp.mean(y, axes), jnp.mean(y**2, axes)
  if axis_name is not None:
    mean, mean_square = lax.pmean((mean, mean_square), axis_name)
  return mean + shift, jnp.maximum(mean_square - mean**2, 0)


@functools.partial(jax.jit, static_argnames='epsilon')
def _normalize(x, mean, var, scale, bias, epsilon):
  """Maps x [b ... c] to its shape and dtype; all others are float [c]."""
  gain = scale * lax.rsqrt(var + epsilon)
  axes = tuple(range(x.ndim - 1))
  gain, mean, bias = (jnp.expand_dims(v, axes) for v in (gain, mean, bias))
  return ((x - mean) * gain + bias).astype(x.dtype)
