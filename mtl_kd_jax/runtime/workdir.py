"""The folder of a run: what belongs to whom in it, written down as JSON.

<workdir>/.lock          who is in it (lock.py)
<workdir>/config.json    the config it was started with
<workdir>/plan.json      its stages, and their rows in the table
<workdir>/checkpoints/<stage>/
  stage.json             what the stage is
  metrics.json           metrics of its network on the split that is reported
  metrics_selected.json  the same on the split that selects checkpoints
  last/ best/ damaged/   checkpointing.py
"""

from collections.abc import Callable, Mapping
import json
from typing import TYPE_CHECKING, Any

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.files import write_atomically
from mtl_kd_jax.runtime.nested import flatten

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path

_CONFIG, _PLAN = 'config.json', 'plan.json'
_STAGE = 'stage.json'
_METRICS, _SELECTED = 'metrics.json', 'metrics_selected.json'


def check(
  workdir: 'Path',
  config: Mapping[str, Any],
  *,
  may_change: Callable[[str], bool] = lambda key: False,
  stored: Mapping[str, Any] | None = None,
) -> None:
  """Checks that a workdir is new, or was started with this config.

  Args:
    workdir: the folder; it need not exist.
    config: nested dictionary.
    may_change: key with dots -> whether another value of it is no difference.
    stored: the config that the workdir was started with; None for what
      `read_config` reads.

  Raises:
    InputError: the workdir belongs to another config.
  """
  if not is_workdir(workdir):
    return
  stored = read_config(workdir) if stored is None else stored
  differing = _differences(stored, config, may_change)
  if differing:
    raise InputError(
      expected='the config that this workdir was started with',
      found='; '.join(differing),
      where=f'{workdir / _CONFIG}',
      argument='workdir',
      do='choose another workdir, or give the old values to continue this one',
    )


def claim(
  workdir: 'Path',
  config: Mapping[str, Any],
  *,
  may_change: Callable[[str], bool] = lambda key: False,
  stored: Mapping[str, Any] | None = None,
) -> None:
  """Writes the config into the workdir, or checks that it is the same.

  Args:
    workdir: made when it does not exist.
    config: as in `check`.
    may_change: as in `check`.
    stored: as in `check`.

  Raises:
    InputError: as `check`, or the workdir cannot be written to.
  """
  check(workdir, config, may_change=may_change, stored=stored)
  _write(workdir / _CONFIG, config)


def is_workdir(workdir: 'Path') -> bool:
  """Whether a folder belongs to a run."""
  return (workdir / _CONFIG).exists()


def read_config(workdir: 'Path') -> dict[str, Any]:
  """The config of a workdir, as a nested dictionary.

  Raises:
    InputError: it is no workdir, or its config cannot be read.
  """
  try:
    config = json.loads((workdir / _CONFIG).read_text(encoding='utf-8'))
    if not isinstance(config, dict):
      raise ValueError(f'{_CONFIG} holds no config')
    return config
  except (OSError, RecursionError, ValueError) as error:
    raise InputError(
      expected='the workdir of an earlier run',
      found=f'{error}',
      where=f'{workdir}',
      argument='workdir',
      do='name the workdir of a run, or train one first',
    ) from error


def write_plan(workdir: 'Path', stages: Mapping[str, Any]) -> None:
  """Writes down the stages of a run: name -> what is known of it beforehand.

  Raises:
    InputError: the workdir cannot be written to.
  """
  entries = [{'name': name, **about} for name, about in stages.items()]
  _write(workdir / _PLAN, {'stages': entries})


def read_plan(workdir: 'Path') -> dict[str, dict[str, Any]] | None:
  """The stages of a run, in their order; None where nothing is written.

  Raises:
    InputError: what is written cannot be read.
  """
  path = workdir / _PLAN
  if not path.exists():
    return None
  stages = _read(path).get('stages')
  if not isinstance(stages, list):
    raise _unreadable(path, 'no list of stages')
  for entry in stages:
    if not _is_planned(entry):
      found = f'{json.dumps(entry)[:80]}, no stage with a name and a row'
      raise _unreadable(path, found)
  return {
    entry['name']: {k: entry[k] for k in entry if k != 'name'}
    for entry in stages
  }


def _is_planned(entry) -> bool:
  return (
    isinstance(entry, dict)
    and _is_name(entry.get('name'))
    and isinstance(entry.get('row'), str)
    and isinstance(entry.get('trained_in'), str | None)
  )


def _is_name(name) -> bool:
  """Whether a name can be that of a folder, and of no other place."""
  return (
    isinstance(name, str)
    and name.isprintable()
    and len(name.encode()) <= 200
    and name not in ('', '.', '..')
    and not set(name) & set('/\\')
  )


def checkpoint_dir(workdir: 'Path', stage: str) -> 'Path':
  """Where a stage keeps its checkpoints."""
  return workdir / 'checkpoints' / stage


def stage_names(workdir: 'Path') -> list[str]:
  """The stages that have a folder, sorted."""
  return sorted(
    p.name for p in (workdir / 'checkpoints').glob('*') if p.is_dir()
  )


def check_name(stage: str) -> None:
  """Raises InputError where a stage cannot have this name."""
  if not _is_name(stage):
    raise InputError(
      expected='a name of a stage that can be a folder',
      found=f'{stage!r}'[:100],
      argument='name',
      do='choose another, without slashes, of at most 200 bytes',
    )


def claim_stage(
  workdir: 'Path', stage: str, description: Mapping[str, Any]
) -> None:
  """Writes down what a stage is, or checks that it is the same.

  Args:
    workdir: of the run.
    stage: name of the stage.
    description: nested dictionary.

  Raises:
    InputError: the stage was another one, or cannot be written.
  """
  check_name(stage)
  path = checkpoint_dir(workdir, stage) / _STAGE
  if path.exists():
    differing = _differences(_read(path), description, lambda key: False)
    if differing:
      raise InputError(
        expected=f'the stage {stage!r} as it was started',
        found='; '.join(differing),
        where=f'{path}',
        do='give it another name, or choose another workdir',
      )
    return
  if path.parent.exists() and any(path.parent.iterdir()):
    raise InputError(
      expected=f'a folder that describes the stage {stage!r}',
      found='checkpoints without stage.json, as an older version wrote them',
      where=f'{path.parent}',
      do='finish that run with the version that started it, or choose another '
      'workdir; its networks can be read as they are',
    )
  _write(path, description)


def read_stage(workdir: 'Path', stage: str) -> dict[str, Any] | None:
  """What a stage is; None where nothing is written of it.

  Raises:
    InputError: what is written cannot be read.
  """
  path = checkpoint_dir(workdir, stage) / _STAGE
  return _read(path) if path.exists() else None


def write_metrics(
  workdir: 'Path',
  stage: str,
  metrics: Mapping[str, Any],
  *,
  selected: bool = False,
) -> None:
  """Writes down how the network of a stage scored.

  Args:
    workdir: of the run.
    stage: name of the stage.
    metrics: task -> metric -> value.
    selected: whether they are of the split that selects checkpoints, instead of
      the one that is reported.

  Raises:
    InputError: the workdir cannot be written to.
  """
  _write(_metrics_path(workdir, stage, selected), metrics)


def read_metrics(
  workdir: 'Path', stage: str, *, selected: bool = False
) -> dict[str, Any] | None:
  """How the network of a stage scored; None where nothing is written.

  Args:
    workdir: of the run.
    stage: name of the stage.
    selected: see `write_metrics`.

  Raises:
    InputError: what is written cannot be read.
  """
  path = _metrics_path(workdir, stage, selected)
  if not path.exists():
    return None
  metrics = _read(path)
  for task, values in metrics.items():
    if not isinstance(values, dict) or not all(
      map(_is_number, values.values())
    ):
      found = f'{task}: {json.dumps(values)[:80]}, no numbers by their names'
      raise _unreadable(path, found)
  return metrics


def _is_number(value) -> bool:
  return value is None or isinstance(value, int | float)


def _metrics_path(workdir, stage, selected) -> 'Path':
  return checkpoint_dir(workdir, stage) / (_SELECTED if selected else _METRICS)


def _read(path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, RecursionError, ValueError) as error:
    raise _unreadable(path, f'{error}') from error
  if not isinstance(content, dict):
    raise _unreadable(path, f'a {type(content).__name__}, no dictionary')
  return content


def _unreadable(path, found) -> InputError:
  return InputError(
    expected='a JSON file of a run',
    found=found,
    where=f'{path}',
    do='restore the file, or remove it with the folder that it is in',
  )


def _write(path, content) -> None:
  try:
    buckets.make_folder(path.parent)
    # In its own order: that of the tasks is the order of a table's columns.
    text = json.dumps(_plain(content), indent=2)
    write_atomically(path, text)
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=str(error),
      where=f'{path.parent}',
      argument='workdir',
      do='choose another workdir',
    ) from error


def _differences(old, new, may_change) -> list[str]:
  old, new = flatten(_plain(old)), flatten(_plain(new))
  return [
    f'{key} was {_value(old, key)} and is {_value(new, key)}'
    for key in sorted(old.keys() | new.keys())
    if not may_change(key) and _value(old, key) != _value(new, key)
  ]


def _value(flat, key) -> str:
  return repr(flat[key]) if key in flat else 'absent'


def _plain(config):
  return json.loads(json.dumps(config))  # tuples become lists, as when read
