"""How many values BatchNorm sees in a step, and when those are too few."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import (
  FeatureShapes,
  NormInput,
  Output,
  recorded_norms,
)
from mtl_kd_jax.runtime.parallel import Parallel
from mtl_kd_jax.training.loss_terms import ExtraNetwork

# The variance of n values has the relative error sqrt(2 / (n - 1)): 80 % here.
_FEW = 4


class NormCount(NamedTuple):
  """What a BatchNorm normalizes over in a training step.

  Attributes:
    path: of the layer.
    samples: how many.
    where: 'in a step', or 'on a device'.
    values: how many of each channel.
  """

  path: str
  samples: int
  where: str
  values: int


def count_values(
  norms: Mapping[str, NormInput],
  batch_size: int,
  *,
  parallel: Parallel,
  prefix: str = '',
) -> list[NormCount]:
  """Counts what every BatchNorm of a network sees in a training step.

  Args:
    norms: see `FeatureShapes.norms`.
    batch_size: samples of a step that the network sees, over all devices.
    parallel: the devices. A layer without the mapped axis sees those of its
      device alone.
    prefix: of the paths.
  """
  counts = []
  for path, norm in norms.items():
    samples, where = batch_size, 'in a step'
    if norm.axis_name != parallel.axis_name and parallel.axis_name:
      samples, where = batch_size // parallel.num_devices, 'on a device'
    path = f'{prefix}{path}'.rstrip('/')  # a layer by itself has no path
    counts.append(NormCount(path, samples, where, norm.values * samples))
  return counts


def extra_norms(
  extra: ExtraNetwork, shapes: FeatureShapes
) -> dict[str, NormInput]:
  """What every BatchNorm of an extra network is given; nothing is computed.

  Args:
    extra: the extra network, of which `init` is traced.
    shapes: of the network that is trained.
  """

  def init(key: jax.Array, output: Output):
    return extra.init(key, output)

  with recorded_norms() as norms:
    jax.eval_shape(init, jax.random.key(0), shapes.output)
  return norms


def check_normalization(counts: Iterable[NormCount]) -> None:
  """Checks that no BatchNorm normalizes single values.

  Such a layer gives its bias in training, whatever it is given. Its running
  variance goes to 0, so that it multiplies by hundreds in evaluation, silently.

  Args:
    counts: of all networks that normalize with the statistics of the batch.

  Raises:
    InputError: one does.
  """
  for count in counts:
    if count.values < 2:
      raise InputError(
        expected='two or more values of each channel for every BatchNorm in '
        'training',
        found=f'one for {count.path}: {count.samples} sample {count.where}, '
        '1 x 1 pixel',
        argument='batch_size',
        do='take more samples in a step (after a balancer has split the batch)'
        if count.where == 'in a step'
        else 'take more samples, or give the layer the axis_name of the '
        'mapped devices',
      )


def few_values(counts: Iterable[NormCount]) -> str:
  """A sentence where BatchNorm normalizes few values, or ''."""
  few = [count for count in counts if count.values <= _FEW]
  if not few:
    return ''
  more = f' and {len(few) - 1} others' if len(few) > 1 else ''
  least = min(count.values for count in few)
  return (
    f'BatchNorm {few[0].path}{more} normalizes {least} values of each channel '
    f'{few[0].where}. Statistics of so few are noise, and evaluation uses '
    'others; a larger batch or image helps'
  )
