"""A comparison: variations of one experiment, each with several seeds.

  config.base         the experiment
  config.variations   (name, {key with dots: value}), ...
  config.seeds        (0, 1, 2)
  config.reference    the variation that all others are compared with

Its cells are ordinary runs. Single-task networks are a variation of their own,
trained once for each seed, and teach all others. Where overrides change them (a
wider teacher, another data set), there is one more for each kind.
"""

from collections.abc import Mapping
import copy
import dataclasses
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from mtl_kd_jax.config.overrides import override
from mtl_kd_jax.config.stored import from_stored
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.training.choosing import needs_baseline
from mtl_kd_jax.training.stage import SINGLE_TASK

# Keys that single-task networks do not depend on.
_NOT_OF_SINGLE_TASK = (
  'balancing.',
  'baseline',
  'distill.',
  'method',
  'model.',  # teacher.model is what they are
  'name',
  'report.',
  'task.',  # but see `_identity`
  'teacher.batch_norm',
  'teacher.cache',
  'teacher.cache_dtype',
  'teacher.cache_dir',
  'teacher.choose',
)
# Files in the folder of a comparison, or what makes a folder one of a run.
_FILES = (
  'compare.csv',
  'compare.html',
  'compare.json',
  'compare.md',
  'compare.png',
  'compare.tex',
  'comparison.json',
  'config.json',
)
_FIXED = ('seed', 'teacher.workdir', 'name')


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """One run of a comparison.

  Attributes:
    row: of the table: the name of its variation, or of single-task networks.
    seed: of the run.
    config: of the run.
    single_task: the row of the networks that teach it and that its gains are
      relative to; its own for those.
    comparison: the name of the comparison.
  """

  row: str
  seed: int
  config: ConfigDict
  single_task: str
  comparison: str

  @property
  def folder(self) -> pathlib.Path:
    """Of the run, in the folder of the comparison."""
    return folder_of(self.row, self.seed)

  @property
  def teaches(self) -> bool:
    """Whether it is one of single-task networks."""
    return self.row == self.single_task


def folder_of(row: str, seed: int) -> pathlib.Path:
  """The folder of a cell, in that of the comparison."""
  return pathlib.Path(row) / f'seed_{seed}'


def get_config(base: ConfigDict) -> ConfigDict:
  """A comparison without variations; locked.

  Args:
    base: the experiment.
  """
  config = ConfigDict()
  config.name = f'compare_{base.name}'
  config.base = base
  config.variations = ()
  config.seeds = (0, 1, 2, 3, 4)
  config.reference = ''  # the first variation
  return config.lock()


def make_cells(config: ConfigDict, workdir: pathlib.Path) -> list[Cell]:
  """The cells, seed by seed: single-task networks first.

  Args:
    config: see `get_config`.
    workdir: of the comparison.

  Raises:
    InputError: no seed or variation, a name or seed that comes twice or cannot
      be that of a folder, or an override of what is no key.
  """
  seeds, variations = _seeds(config), _variations(config)
  made = {n: _vary(config.base, n, keys) for n, keys in variations.items()}
  kinds = _single_task_kinds(config.base, made)
  cells = []
  for seed in seeds:
    for row, experiment in kinds.items():
      cells.append(_cell(config, row, seed, experiment, row))
    for name, experiment in made.items():
      row = _kind_of(experiment, kinds)
      teachers = buckets.absolute(workdir) / folder_of(row, seed)
      cell = _cell(config, name, seed, experiment, row)
      cell.config.teacher.workdir = str(teachers)
      cells.append(cell)
  return cells


def reference_of(config: ConfigDict) -> str:
  """The variation that the others are compared with.

  Raises:
    InputError: there is none of that name.
  """
  names = [*_variations(config)]
  reference = config.reference or names[0]
  if reference not in names:
    raise _wrong('reference', f'one of {", ".join(names)}', reference)
  return reference


def stored_comparison(stored: Mapping[str, Any], *, where: str) -> ConfigDict:
  """The config of a comparison as it was written to JSON.

  Raises:
    InputError: it is none.
  """
  try:
    config = get_config(from_stored(stored['base'], where=where))
    config.name, config.reference = stored['name'], stored['reference']
    config.seeds = tuple(stored['seeds'])
    config.variations = tuple(
      (name, dict(x)) for name, x in stored['variations']
    )
    return config
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(
      expected='the config of a comparison',
      found=f'{type(error).__name__}: {error}',
      where=where,
      do='name the config: --config=...',
    ) from error


def _seeds(config) -> tuple[int, ...]:
  seeds = config.seeds
  whole = [isinstance(s, int) and s >= 0 for s in seeds]
  if not seeds or not all(whole) or len(set(seeds)) < len(seeds):
    raise _wrong('seeds', 'one or more different whole numbers', seeds)
  return tuple(seeds)


def _variations(config) -> dict[str, dict[str, Any]]:
  """Name -> its overrides, checked."""
  variations: dict[str, dict[str, Any]] = {}
  for entry in config.variations:
    try:
      name, keys = entry
      keys = dict(keys)
    except (TypeError, ValueError):
      raise _wrong(
        'variations', "pairs of a name and overrides: ('mgda', {...})", entry
      ) from None
    if not _can_be_a_folder(name) or name.startswith(SINGLE_TASK):
      raise _wrong(
        'variations',
        f'names that can be those of folders beside {", ".join(_FILES)}, other '
        f'than {SINGLE_TASK}',
        name,
      )
    if name in variations:
      raise _wrong('variations', 'a name for each', f'{name!r} twice')
    variations[name] = keys
  if not variations:
    raise _wrong('variations', 'one or more', 'none')
  return variations


def _can_be_a_folder(name) -> bool:
  return (
    isinstance(name, str)
    and 0 < len(name.encode()) <= 100
    and name.isprintable()
    and name[0] != '.'
    and name.lower() not in _FILES
    and not set(name) & set('/\\:')
  )


def _vary(base: ConfigDict, name: str, keys: Mapping[str, Any]) -> ConfigDict:
  for key in keys:
    if key in _FIXED:
      raise _wrong(
        'variations',
        'overrides of other keys: seeds, names and the folders of teachers are '
        "the comparison's",
        f'{key} in {name!r}',
      )
  # With references still in it: where a variation widens the networks, its
  # teachers are as wide.
  config = copy.deepcopy(base)
  override(config, keys, argument=f'variations ({name})')
  if 'baseline' not in keys:
    # Baselines are rows of their own, but where something follows one.
    config.baseline = config.method == 'distill' and needs_baseline(
      config.distill.adapt, config.teacher.choose
    )
  return config.copy_and_resolve_references().lock()


def _single_task_kinds(
  base: ConfigDict, made: Mapping[str, ConfigDict]
) -> dict[str, ConfigDict]:
  """Row -> the experiment of its single-task networks."""
  kinds = {SINGLE_TASK: _of_single_task(_vary(base, '', {}))}
  for name, config in made.items():
    config = _of_single_task(config)
    if all(_identity(config) != _identity(k) for k in kinds.values()):
      kinds[f'{SINGLE_TASK} of {name}'] = config
  used = {_kind_of(config, kinds) for config in made.values()}
  return {row: k for row, k in kinds.items() if row in used}


def _kind_of(config: ConfigDict, kinds: Mapping[str, ConfigDict]) -> str:
  mine = _identity(_of_single_task(config))
  return next(row for row, k in kinds.items() if _identity(k) == mine)


def _of_single_task(config: ConfigDict) -> ConfigDict:
  config = config.copy_and_resolve_references()
  config.method, config.baseline = 'single_task', False
  return config


def _identity(config: ConfigDict) -> str:
  """What single-task networks depend on, as text."""
  kept: dict[str, Any] = {}
  for section, value in config.to_dict().items():
    values = value.items() if isinstance(value, dict) else [('', value)]
    for key, x in values:
      path = f'{section}.{key}' if key else section
      if not any(
        path == k or (k[-1] == '.' and path.startswith(k))
        for k in _NOT_OF_SINGLE_TASK
      ):
        kept[path] = x
  # Nor on what of them is aligned.
  for task, description in config.task.to_dict().items():
    rest = {key: x for key, x in description.items() if key != 'taps'}
    kept |= {f'task.{task}': rest} if rest else {}
  return json.dumps(kept, sort_keys=True, default=str)


def _cell(config, row, seed, experiment, single_task) -> Cell:
  mine = experiment.copy_and_resolve_references()
  with mine.unlocked():
    mine.seed = seed
    mine.name = f'{config.name}: {row}, seed {seed}'
  return Cell(row, seed, mine, single_task, config.name)


def _wrong(key: str, expected: str, found: Any) -> InputError:
  return InputError(
    expected=expected,
    found=f'{found}',
    where=f'config.{key}',
    argument=key,
    do='correct the config of the comparison',
  )
