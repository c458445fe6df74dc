"""The dense prediction head."""

from collections.abc import Mapping

import flax.linen as nn
from flax.linen.dtypes import promote_dtype
import jax
import jax.numpy as jnp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.initializers import xavier_normal
from mtl_kd_jax.ops.conv import conv3x3_to_few


class DenseHead(nn.Module):
  """A 3x3 and a 1x1 convolution, without activation (Li & Bilen 2020).

  Both are linear, so they are applied as one 3x3 convolution. The result and
  all gradients are the same, without a hidden map for every task, which would
  be as large as the largest of the backbone.

  Attributes:
    channels: channels of the prediction.
    width: unused; the inner channels are those of the feature.
    axis_name: unused.
  """

  channels: int
  width: float = 1.0
  axis_name: str | None = None

  taps = ('decoder',)  # the features that it reads

  @nn.compact
  def __call__(
    self,
    features: Mapping[str, jax.Array],
    *,
    size: tuple[int, int],
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Predicts from 'decoder', which has the size of the image.

    Args:
      features: tap -> float [b h w f].
      size: (height, width) of the image.
      train: unused.

    Returns:
      The prediction [b h w channels], and no features.

    Raises:
      InputError: 'decoder' has another size than the image.
    """
    del train
    x = features['decoder']
    if x.shape[1:3] != size:
      raise InputError(
        expected=f"a feature 'decoder' of the size {size} of the image",
        found=f'{x.shape[1:3]}',
        argument='features',
        do='resize it in the backbone, or choose a head that resizes its '
        'prediction, e.g. aspp',
      )
    f = x.shape[-1]
    inner, inner_bias = Affine((3, 3, f, f), name='conv')()
    outer, outer_bias = Affine((f, self.channels), name='out')()
    kernel = jnp.einsum('hwio,oc->hwic', inner, outer)
    bias = inner_bias @ outer + outer_bias
    x, kernel, bias = promote_dtype(x, kernel, bias)
    return conv3x3_to_few(x, kernel) + bias[None, None, None], {}


class Affine(nn.Module):
  """The parameters of a convolution that is applied in another form.

  Attributes:
    shape: of the kernel; the last is the number of outputs.
  """

  shape: tuple[int, ...]

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    """Returns kernel and bias."""
    return (
      self.param('kernel', xavier_normal, self.shape, jnp.float32),
      self.param('bias', nn.initializers.zeros, self.shape[-1:], jnp.float32),
    )
