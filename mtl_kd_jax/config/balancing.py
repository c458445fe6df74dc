"""config.balancing -> a balancer, checked before anything is trained."""

from collections.abc import Callable, Sequence
from typing import Any

from mtl_kd_jax.balancing import (
  Balancer,
  GradientBalancer,
  make_balancer,
  normalized,
  refreshed,
  smoothed,
)
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.training.loss_terms import LEVELS, objective_names


def make_configured_balancer(
  values: Any,
  *,
  tasks: Sequence[str],
  features: Callable[[], Sequence[str]],
  steps_per_epoch: int,
  device_batch: int,
) -> Balancer | GradientBalancer:
  """Makes the balancer of the distilled network.

  Args:
    values: config.balancing.
    tasks: the tasks that are learned.
    features: names the backbone's features, which takes a second or more.
    steps_per_epoch: optimizer steps in an epoch.
    device_batch: samples of a batch on one device.

  Raises:
    InputError: a name or value that cannot be used, also with each other.
  """
  name = values.name
  options = _options(values, name, steps_per_epoch)
  balancer = make_balancer(name, **options)
  gradients = isinstance(balancer, GradientBalancer)
  if values.level not in LEVELS:
    raise _bad('level', values.level, f'one of {", ".join(LEVELS)}')
  if not gradients and (values.normalize != 'none' or values.refresh_every > 1):
    key = 'normalize' if values.normalize != 'none' else 'refresh_every'
    raise _bad(key, values[key], f'none, since {name} uses losses alone')
  if gradients:
    _check_gradients(balancer, values, features, device_batch)
    balancer = normalized(balancer, values.normalize)
  if values.smoothing != 0:
    balancer = smoothed(balancer, values.smoothing)
  if values.refresh_every != 1:
    balancer = refreshed(balancer, values.refresh_every)
  names = objective_names(tasks, distilled=True, mode=values.distillation)
  balancer.init(names, {n: {} for n in names})  # finds what tasks lack
  return balancer


def _options(values, name, steps_per_epoch):
  """The options of config.balancing.<name>, {} where there are none."""
  if name not in values or not hasattr(values[name], 'to_dict'):
    return {}
  options = values[name].to_dict()
  if name == 'dwa' and options['window'] == 0:
    options['window'] = steps_per_epoch
  return options


def _check_gradients(balancer, values, features, device_batch):
  """Raises InputError where a stage cannot give what a rule needs."""
  name = values.name
  if device_batch % balancer.parts:
    raise InputError(
      expected=f'a multiple of {balancer.parts} on each device: {name} splits '
      f'the batch into {balancer.parts} independent parts',
      found=f'{device_batch} on each',
      where='config.batch_size, with config.balancing.name',
      do='change one of them',
    )
  if values.level == 'features':
    own = [tap for tap in features() if '/' in tap]
    if own:
      raise _bad(
        'level',
        values.level,
        f"'parameters', since tasks have features of their own: {own[0]} ...",
      )
    if name == 'gradvac' and values.gradvac.groups != 'all':
      raise _bad(
        'gradvac.groups',
        values.gradvac.groups,
        "'all', with level = 'features'",
      )
    if not balancer.on_features:
      raise _bad(
        'level',
        values.level,
        f"'parameters', since {name} compares gradients of several batches, "
        'and features are of other samples in each',
      )


def _bad(key, found, expected):
  return InputError(
    expected=expected,
    found=repr(found),
    where=f'config.balancing.{key}',
    do=f'correct it in the config file or with --config.balancing.{key}=...',
  )
