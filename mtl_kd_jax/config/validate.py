"""Checks the values of a config that can be known wrong without data."""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
import numbers
from typing import Any

from ml_collections import ConfigDict

from mtl_kd_jax.config import defaults
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.errors import InputError, check_type
from mtl_kd_jax.runtime.trackers import check_trackers

_POSITIVE = (
  'epochs',
  'batch_size',
  'optim.learning_rate',
  'optim.decay_every_epochs',
  'optim.decay_rate',
  'optim.backbone_rate',
  'distill.learning_rate',
  'accumulate',
  'report.every_steps',
)
_NOT_NEGATIVE = (
  'seed',
  'optim.weight_decay',
  'optim.clip_norm',
  'optim.warmup_epochs',
  'distill.weight_decay',
  'data.num_workers',
  'checkpoint.every_epochs',
  'checkpoint.every_steps',
  'report.eval_every_epochs',
  'report.average_epochs',
  'report.images',
  'balancing.observe_every',
  'recalibrate',
)
_BY_TASK = ('data.sets', 'distill.weights', 'task')
# The steps are counted in int32, and seeds in int64.
_LARGEST, _LARGEST_SEED = 2**31 - 1, 2**63 - 1
# What may change between two runs of one experiment: it moves or shows the
# work, and has no influence on the result. A name with a dot at its end stands
# for a section. Not report.eval_every_epochs: the best checkpoint is one that
# was evaluated, and some balancers learn from evaluations.
_FREE = (
  'name',
  'remat',
  'checkpoint.',
  'report.average_epochs',
  'report.every_steps',
  'report.images',
  'report.trackers',
  'balancing.observe_every',
  'parallel.',
  'teacher.cache',
  'teacher.cache_dir',
  'data.data_dir',
  'data.manual_dir',
  'data.cityscapes.manual_dir',
  'data.num_workers',
  'data.check',
)


def may_change(key: str) -> bool:
  """Whether another value of a key leaves the result of a run as it is."""
  if key.startswith('data.sets.'):
    return key.endswith(('.data_dir', '.manual_dir'))
  return any(key == f or (f[-1] == '.' and key.startswith(f)) for f in _FREE)


def may_change_from(
  old: Mapping[str, Any],
  config: ConfigDict,
  *,
  schedules: Sequence[str] = ('optim',),
) -> Callable[[str], bool]:
  """`may_change` for a run that was started with another config.

  It may also be trained for more epochs, where every network has been trained
  so far as in a longer run. Only teachers differ: they have been trained to
  the end before their student began.

  Args:
    old: the config of the run, a nested dictionary.
    config: the new one.
    schedules: the sections of the learning rates that the run uses.

  Raises:
    InputError: more epochs are wanted, and a learning rate or lambda depends on
      their number.
  """
  epochs = old.get('epochs', config.epochs)
  if not isinstance(epochs, int) or config.epochs <= epochs:
    return may_change
  if 'distill' in schedules and config.distill.schedule_lambda != 'constant':
    raise InputError(
      expected=f'{epochs} epochs, as the run was started with: '
      'config.distill.schedule_lambda has brought lambda to 0 there',
      found=f'{config.epochs}',
      where='config.epochs',
      do='start a new run in another workdir',
    )
  for section in schedules:
    if config[section].schedule == 'cosine':
      raise InputError(
        expected=f'{epochs} epochs, as the run was started with: the cosine of '
        f'config.{section}.schedule has brought the learning rate to 0 there',
        found=f'{config.epochs}',
        where='config.epochs',
        do="start a new run in another workdir; one with schedules 'constant' "
        "or 'step' can be trained for longer",
      )
  return lambda key: key == 'epochs' or may_change(key)


def check_keys(config: ConfigDict) -> None:
  """Checks that a config has all keys; those that it has besides are ignored.

  Raises:
    InputError: it is no config, or that of a comparison; or a key of
      config/defaults.py is missing or None.
  """
  check_type(
    config,
    ConfigDict,
    expected='a config',
    argument='config',
    do="make one: mtl_kd_jax.get_config('quickstart')",
  )
  if 'base' in config and 'variations' in config:
    raise InputError(
      expected='the config of a single experiment',
      found='that of a comparison',
      where='config',
      do='train its variations with --job=compare, or mtl_kd_jax.compare(...)',
    )
  missing = list(_missing_keys(defaults.get_config(), config))
  if missing:
    raise InputError(
      expected='a config with every key of config/defaults.py',
      found=f'none of {", ".join(missing[:4])}'
      + (f' and {len(missing) - 4} others' if len(missing) > 4 else ''),
      where='config',
      do='start from mtl_kd_jax.get_config(), and change what differs',
    )


def _missing_keys(known, config, prefix=''):
  for name, default in known.items():
    section = isinstance(default, ConfigDict)
    value = config[name] if name in config else None
    absent = value is None and default is not None
    if name not in config or absent or section != isinstance(value, ConfigDict):
      if not (section and prefix == 'data.'):  # the options of a dataset
        yield f'{prefix}{name}'
    elif section and f'{prefix}{name}' not in _BY_TASK:
      yield from _missing_keys(default, config[name], f'{prefix}{name}.')


def check_values(config: ConfigDict) -> None:
  """Checks the numbers of a config, without opening anything.

  Raises:
    InputError: one of them is out of its range, or a key is missing, or the
      library of a tracker.
  """
  check_keys(config)
  for key in _POSITIVE:
    if not value(config, key) > 0:
      raise _bad(config, key, 'a number above 0')
  for key in _NOT_NEGATIVE:
    if not value(config, key) >= 0:
      raise _bad(config, key, '0 or more')
  for key in (*_POSITIVE, *_NOT_NEGATIVE):
    number = value(config, key)
    most = _LARGEST_SEED if key == 'seed' else _LARGEST
    if isinstance(number, int) and number > most:
      raise _bad(config, key, f'at most {most}')
    if not math.isfinite(number):
      raise _bad(config, key, 'a finite number')
  if config.select not in ('last', 'best'):
    raise _bad(config, 'select', "'last' or 'best'")
  if not 0 <= config.data.val_fraction < 1:
    raise _bad(config, 'data.val_fraction', 'a share from 0 to below 1')
  if config.data.val_fraction and config.data.select_split:
    raise _bad(
      config,
      'data.select_split',
      "'', for with data.val_fraction the held-out share chooses",
    )
  for key in ('optim.ema', 'optim.momentum'):
    if not 0 <= value(config, key) < 1:
      raise _bad(config, key, 'a share from 0 to below 1')
  if config.data.image_size and not config.data.sets:
    raise _bad(
      config,
      'data.image_size',
      f'() without data.sets; the size is data.{config.data.name}.image_size',
    )
  if not config.distill.taps:
    raise _bad(config, 'distill.taps', 'at least one feature')
  scales = config.data.scales
  if not scales or not all(map(_is_zoom, scales)):
    raise _bad(config, 'data.scales', 'zoom factors of 1 or more')
  for task, weight in config.distill.weights.items():
    if not isinstance(weight, numbers.Real) or not 0 <= weight < math.inf:
      key = f'distill.weights.{task}'
      raise _bad(config, key, 'a finite number of 0 or more')
  with named_by_keys('report'):
    check_trackers(config.report.trackers)


def check_steps(config: ConfigDict, steps_per_epoch: int) -> None:
  """Checks that the steps of a stage can be counted.

  Raises:
    InputError: there are too many.
  """
  most = _LARGEST // steps_per_epoch
  for key in ('epochs', 'optim.decay_every_epochs'):
    if value(config, key) > most:
      raise _bad(config, key, f'at most {most}, of {steps_per_epoch} steps')


def _is_zoom(scale) -> bool:
  return isinstance(scale, int | float) and 1 <= scale < math.inf


def value(config: ConfigDict, key: str) -> Any:
  """What stands under a key with dots, e.g. 'optim.learning_rate'."""
  return functools.reduce(lambda c, part: c[part], key.split('.'), config)


def _bad(config, key, expected):
  return InputError(
    expected=expected,
    found=repr(value(config, key)),
    where=f'config.{key}',
    do=f'correct it in the config file or with --config.{key}=...',
  )
