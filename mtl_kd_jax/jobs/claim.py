"""Whether a folder can be, or stay, the workdir of a run with some config."""

from collections.abc import Callable, Sequence
import functools
import pathlib

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.config.renames import upgrade
from mtl_kd_jax.config.validate import may_change, may_change_from
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import workdir as workdirs


def claim_of(
  workdir: pathlib.Path,
  config: ConfigDict,
  *,
  schedules: Sequence[str] = ('optim',),
) -> Callable[[], None]:
  """Checks that a workdir is new, or can be continued with a config.

  Args:
    workdir: of the run.
    config: of the run.
    schedules: the sections of the learning rates that the run uses.

  Returns:
    Writes the config into it.

  Raises:
    InputError: it cannot be continued so.
  """
  _refuse_earlier_version(workdir)
  allowed, added = may_change, frozenset()
  if workdirs.is_workdir(workdir):
    old = workdirs.read_config(workdir)
    allowed = may_change_from(old, config, schedules=schedules)
    # The defaults of keys that a newer version added change nothing.
    added = _at_default(config) - flatten_dict(old, sep='.').keys()
  options = {
    'config': config.to_dict(),
    'may_change': lambda key: key in added or allowed(key),
  }
  workdirs.check(workdir, **options)
  return functools.partial(workdirs.claim, workdir, **options)


def _at_default(config: ConfigDict) -> set[str]:
  """The keys, with dots, whose values are those of config/defaults.py."""
  values, known = (
    flatten_dict(x.to_dict(), sep='.') for x in (config, get_config())
  )
  return {k for k in values if k in known and values[k] == known[k]}


def _refuse_earlier_version(workdir: pathlib.Path) -> None:
  if not workdirs.is_workdir(workdir):
    return
  config = workdirs.read_config(workdir)
  if upgrade(config) != config:
    raise InputError(
      expected='a workdir that this version started',
      found='one of an earlier version, whose checkpoints have another layout',
      where=f'{workdir}',
      argument='workdir',
      do='choose another folder. Its finished networks can be loaded, scored '
      'and taught with (--config.teacher.workdir), but nothing in it can be '
      'continued',
    )
