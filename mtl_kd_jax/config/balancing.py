"""config.balancing -> a balancer, checked before anything is trained."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import FeatureShapes

# Of the wrappers: whatever is at fault, it is the key that asks for one.
_WRAPPER_ARGUMENTS = ('balancer', 'kind', 'decay', 'every')


def make_balancer(
  values: ConfigDict,
  *,
  objectives: Sequence[str],
  features: FeatureShapes,
  task_kinds: Mapping[str, str],
  steps_per_epoch: int,
  device_batch: int,
) -> Balancer | GradientBalancer:
  """Makes the balancer that a config describes.

  Args:
    values: config.balancing.
    objectives: what it balances.
    features: of the network.
    task_kinds: task -> 'classification' or 'regression'.
    steps_per_epoch: optimizer steps in an epoch.
    device_batch: samples of a batch on one device.

  Raises:
    InputError: a name or value that cannot be used, also with each other.
  """
  name = values.name
  with named_by_keys('balancing'):
    known = balancing.options(name)
  with named_by_keys(f'balancing.{name}'):
    balancer = balancing.make(
      name,
      steps_per_epoch=steps_per_epoch,
      task_kinds=task_kinds,
      **(values[name].to_dict() if known else {}),
    )
  _check_uses_gradients(balancer, values)
  if isinstance(balancer, GradientBalancer):
    _check_parts(balancer, values, device_batch)
    _check_features(balancer, values, features)
  for key, wrap, neutral in (
    ('normalize', balancing.normalize_gradients, 'none'),
    ('weight_ema', balancing.weight_ema, 0),
    ('update_every', balancing.update_every, 1),
  ):
    if values[key] != neutral:
      keys = dict.fromkeys(_WRAPPER_ARGUMENTS, f'balancing.{key}')
      with named_by_keys(keys=keys):
        balancer = wrap(balancer, values[key])
  with named_by_keys(f'balancing.{name}'):
    # Finds what objectives lack.
    balancer.init(objectives, {n: {} for n in objectives})
  return balancer


def _check_uses_gradients(balancer, values):
  if isinstance(balancer, GradientBalancer):
    return
  for key, neutral in (('normalize', 'none'), ('update_every', 1)):
    if values[key] != neutral:
      raise _bad(
        key, values[key], f'{neutral!r}, since {values.name} uses losses alone'
      )


def _check_parts(balancer, values, device_batch):
  if device_batch % balancer.num_minibatches:
    raise InputError(
      expected=f'a multiple of {balancer.num_minibatches} on each device: '
      f'{values.name} splits the batch into {balancer.num_minibatches} '
      'mini-batches',
      found=f'{device_batch} on each',
      where='config.batch_size, with config.balancing.name',
      do='change one of them',
    )


def _check_features(balancer, values, features):
  if values.grad_wrt != 'features':
    return
  task_specific = [tap for tap in features.backbone if '/' in tap]
  if task_specific:
    raise _bad(
      'grad_wrt',
      values.grad_wrt,
      "'parameters', since tasks have features of their own: "
      f'{task_specific[0]} ...',
    )
  if not balancer.on_features:
    raise _bad(
      'grad_wrt',
      values.grad_wrt,
      f"'parameters', since {values.name} as it is configured compares "
      'gradients of several batches or of single arrays',
    )


def _bad(key, found, expected):
  return InputError(
    expected=expected,
    found=repr(found),
    where=f'config.balancing.{key}',
    do=f'correct it in the config file or with --config.balancing.{key}=...',
  )
