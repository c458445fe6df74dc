"""config.balancing -> a balancer, checked before anything is trained."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.errors import InputError

# Of the wrappers. At fault is the key that enables one, never its argument.
_WRAPPER_ARGUMENTS = ('balancer', 'kind', 'mean', 'decay', 'every')


def make_balancer(
  values: ConfigDict,
  *,
  objectives: Sequence[str],
  task_kinds: Mapping[str, str],
  steps_per_epoch: int,
) -> Balancer | GradientBalancer:
  """Makes the balancer that a config describes.

  Args:
    values: config.balancing.
    objectives: what it balances.
    task_kinds: task -> 'classification' or 'regression'.
    steps_per_epoch: optimizer steps in an epoch.

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
  for key, wrap, neutral in (
    ('normalize', balancing.normalize_gradients, 'none'),
    ('mean_weight', balancing.mean_weight, 0),
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


def _bad(key, found, expected):
  return InputError(
    expected=expected,
    found=repr(found),
    where=f'config.balancing.{key}',
    do=f'correct it in the config file or with --config.balancing.{key}=...',
  )
