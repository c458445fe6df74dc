"""Trains all cells of a comparison that are not finished, and reports.

<workdir>/comparison.json          the comparison
<workdir>/<variation>/seed_<n>/    a cell: an ordinary run
<workdir>/compare.md .csv .tex .json .png
"""

import json
import pathlib
import time
import warnings

from ml_collections import ConfigDict
from rich.console import Console

from mtl_kd_jax import methods
from mtl_kd_jax.config.build import build, open_dataset
from mtl_kd_jax.config.comparison import (
  Cell,
  make_cells,
  reference_of,
  stored_comparison,
)
from mtl_kd_jax.config.validate import check_keys
from mtl_kd_jax.errors import InputError, check_type
from mtl_kd_jax.jobs.cells import divergence_of, is_finished, train_cell
from mtl_kd_jax.jobs.claim import claim_of
from mtl_kd_jax.jobs.collect import collect
from mtl_kd_jax.jobs.progress import CellProgress
from mtl_kd_jax.reports.compare import Comparison
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.files import write_atomically
from mtl_kd_jax.runtime.lock import InUse

_FILE = 'comparison.json'
_WAIT = 5.0  # seconds between two looks at what another process trains


def default_config(workdir: pathlib.Path | None) -> ConfigDict | None:
  """The comparison that is in a folder."""
  if workdir is None or not (workdir / _FILE).exists():
    return None
  path = workdir / _FILE
  try:
    stored = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, RecursionError, ValueError) as error:
    raise InputError(
      expected='the config of a comparison',
      found=f'{error}',
      where=f'{path}',
      do='name the config: --config=...',
    ) from error
  return stored_comparison(stored, where=f'{path}')


def experiment_of(config: ConfigDict) -> ConfigDict:
  """The config of an experiment that is in that of a comparison."""
  check_type(
    config,
    ConfigDict,
    expected='the config of a comparison',
    argument='config',
    do="make one: mtl_kd_jax.get_config('compare/quickstart')",
  )
  if 'base' not in config or not isinstance(config.base, ConfigDict):
    raise InputError(
      expected='the config of a comparison, e.g. configs/compare/quickstart.py',
      found='one of a single experiment',
      where='--config',
      do='see mtl_kd_jax/config/comparison.py for what it has in it',
    )
  return config.base


def run(
  config: ConfigDict, workdir: pathlib.Path, *, cells: str = 'all'
) -> Comparison:
  """Trains cells, and reports what is there.

  Args:
    config: see config/comparison.py.
    workdir: of the comparison.
    cells: 'all', 'none', or 'i/n', a share of them.

  Returns:
    The comparison, as reported.

  Raises:
    InputError: config or folder cannot be used; before any training.
    Stopped: a signal asked for it; what was trained is saved.
  """
  buckets.check_access(workdir, argument='workdir', write=True)
  console, begun = Console(highlight=False), time.time()
  check_keys(experiment_of(config))
  everything = make_cells(config, workdir)
  reference_of(config)
  mine = _share(everything, cells)
  steps = _check(config, everything, workdir)
  _write_config(config, workdir)
  left = [c for c in mine if not _is_done(c, workdir)]
  console.print(
    f'{config.name}: {len(config.variations)} variations, {len(config.seeds)} '
    f'seeds; {len(mine) - len(left)} of {len(mine)} cells are done\n'
    f'workdir: {workdir}'
  )
  with CellProgress(console, {c: steps[c.row] for c in left}) as progress:
    _train(left, everything, workdir, progress)
  comparison = collect(config, everything, workdir)
  files = comparison.write(workdir)
  console.print(comparison)
  console.print(f'written to {workdir}: {", ".join(files)}', markup=False)
  console.print(f'finished in {time.time() - begun:.0f} s')
  return comparison


def _train(
  left: list[Cell],
  everything: list[Cell],
  workdir: pathlib.Path,
  progress: CellProgress,
) -> None:
  """Trains cells one after another, each after those that teach it."""
  teachers = {(c.row, c.seed): c for c in everything if c.teaches}
  left, busy = [*left], []
  while left:
    cell = next((c for c in left if _is_taught(c, workdir)), left[0])
    left.remove(cell)
    teacher = teachers[cell.single_task, cell.seed]
    if not _is_taught(cell, workdir):
      if divergence_of(workdir / teacher.folder):
        progress.skip(cell, 'its single-task networks diverged')
        continue
      if not _try(teacher, workdir, progress):
        progress.say(f'{_title(cell)} waits for its single-task networks')
        left.append(cell)
        time.sleep(_WAIT)
        continue
      if teacher in left:
        left.remove(teacher)
      left.insert(0, cell)
      continue
    if _is_done(cell, workdir):  # by another process, in the meantime
      progress.done(cell)
    elif not _try(cell, workdir, progress):
      busy.append(cell)
  for cell in busy:
    progress.skip(cell, 'another process trains it')


def _try(cell: Cell, workdir: pathlib.Path, progress: CellProgress) -> bool:
  """Trains a cell; False where another process is at it."""
  progress.start(cell)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('default')
      train_cell(
        cell, workdir, on_step=lambda *step: progress.step(cell, *step)
      )
  except InUse:
    return False
  progress.done(cell, divergence_of(workdir / cell.folder))
  return True


def _is_done(cell: Cell, workdir: pathlib.Path) -> bool:
  folder = workdir / cell.folder
  return is_finished(folder) or bool(divergence_of(folder))


def _is_taught(cell: Cell, workdir: pathlib.Path) -> bool:
  teachers = buckets.path_of(cell.config.teacher.workdir or workdir)
  return cell.teaches or is_finished(teachers)


def _title(cell: Cell) -> str:
  return f'{cell.row}, seed {cell.seed}'


def _share(everything: list[Cell], cells: str) -> list[Cell]:
  """The cells that --cells asks for."""
  if cells in ('all', 'none'):
    return everything if cells == 'all' else []
  i, _, n = str(cells).partition('/')
  if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
    raise InputError(
      expected="'all', 'none' or a share such as 2/8, from 1/8 to 8/8",
      found=repr(cells),
      where='--cells',
      argument='cells',
      do='correct it; in a SLURM array that begins with 0: '
      '--cells=$((SLURM_ARRAY_TASK_ID + 1))/$SLURM_ARRAY_TASK_COUNT',
    )
  return everything[int(i) - 1 :: int(n)]


def _check(
  config: ConfigDict, everything: list[Cell], workdir: pathlib.Path
) -> dict[str, int]:
  """Checks every cell before one is trained.

  Returns:
    Row -> optimizer steps of a cell.
  """
  if config.base.parallel.multihost:
    raise InputError(
      expected='cells of one process each',
      found='True',
      where='config.base.parallel.multihost',
      do='leave it False, and give each host its share: --cells=1/4',
    )
  if workdirs.is_workdir(workdir):
    raise InputError(
      expected='a folder for a comparison',
      found='the workdir of a run',
      where=f'{workdir}',
      argument='workdir',
      do='choose another',
    )
  steps: dict[str, int] = {}
  datasets: dict[str, object] = {}
  for cell in everything:
    if cell.row not in steps:
      key = cell.config.data.to_json_best_effort()
      if key not in datasets:
        datasets[key] = open_dataset(cell.config)
      experiment = build(cell.config, dataset=datasets[key])
      plan = methods.plan(experiment)
      steps[cell.row] = sum(
        stage.total_steps for stage in plan.stages if stage.trained_in is None
      )
    claim_of(workdir / cell.folder, cell.config)
  return steps


def _write_config(config: ConfigDict, workdir: pathlib.Path) -> None:
  document = {
    'name': config.name,
    'reference': config.reference,
    'seeds': list(config.seeds),
    'variations': [[name, dict(keys)] for name, keys in config.variations],
    'base': config.base.to_dict(),
  }
  try:
    # Without a lock: shares that start at once write the same.
    buckets.make_folder(workdir)
    write_atomically(workdir / _FILE, json.dumps(document, indent=2))
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=f'{error}',
      where=f'{workdir}',
      argument='workdir',
      do='choose another',
    ) from error
