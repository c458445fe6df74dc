"""Trains a cell of a comparison, and knows how it stands.

<folder of the cell>/cell.json   how long it took, on what, and whether it
                                 diverged
<folder of the cell>/log.txt     what it would have printed
"""

from collections.abc import Callable
import importlib.metadata
import json
import pathlib
import platform
import time
from typing import Any

import jax
from rich.console import Console

from mtl_kd_jax.config.comparison import Cell
from mtl_kd_jax.errors import NotFiniteError
from mtl_kd_jax.jobs import train
from mtl_kd_jax.runtime.files import appended, write_atomically
from mtl_kd_jax.runtime.lock import exclusive
from mtl_kd_jax.runtime.metric_writer import MetricWriter

_RECORD, _RESULTS = 'cell.json', 'results.json'
_WIDTH = 120  # characters of a line in log.txt
_LONGEST = 1e12  # seconds that can be believed


def is_finished(folder: pathlib.Path) -> bool:
  """Whether a cell has been trained to its end."""
  return (folder / _RESULTS).exists()


def record_of(folder: pathlib.Path) -> dict[str, Any]:
  """What is known of the training of a cell; {} where nothing is.

  Without what is damaged: it has no influence on what is trained.
  """
  try:
    record = json.loads((folder / _RECORD).read_text())
  except (OSError, RecursionError, ValueError):
    return {}
  if not isinstance(record, dict):
    return {}
  return {k: x for k, x in record.items() if _is_entry(k, x)}


def divergence_of(folder: pathlib.Path) -> str:
  """Where a cell diverged; '' where it did not."""
  return str(record_of(folder).get('diverged') or '')


def train_cell(
  cell: Cell, workdir: pathlib.Path, *, on_step: Callable[[str, int], None]
) -> None:
  """Trains a cell to its end, or until it diverges; alone in its folder.

  Args:
    cell: the cell.
    workdir: of the comparison.
    on_step: see `MetricWriter`.

  Raises:
    InUse: another process trains it.
    InputError, Stopped: as `train.run`.
  """
  folder, begun = workdir / cell.folder, time.monotonic()
  with exclusive(folder):
    record = record_of(folder)
    record |= {
      'devices': f'{jax.device_count()} {jax.devices()[0].device_kind}',
      'versions': _versions(),
    }
    before = float(record.get('seconds', 0))
    with appended(folder / 'log.txt') as log:
      writer = MetricWriter(
        folder,
        console=Console(file=log, width=_WIDTH, highlight=False),
        on_step=on_step,
        group=cell.comparison,
      )
      try:
        train.run(cell.config, folder, writer=writer)
      except NotFiniteError as error:
        record['diverged'] = str(error).splitlines()[0]
      finally:
        record['seconds'] = before + time.monotonic() - begun
        write_atomically(folder / _RECORD, json.dumps(record, indent=2))
  # Compiled programs of this cell are of no use to the next.
  jax.clear_caches()


def _is_entry(key, value) -> bool:
  if key == 'seconds':
    return isinstance(value, int | float) and 0 <= value < _LONGEST
  return isinstance(value, str)


def _versions() -> str:
  names = ('jax', 'jaxlib', 'flax', 'optax')
  versions = [f'{name} {importlib.metadata.version(name)}' for name in names]
  return ', '.join([f'Python {platform.python_version()}', *versions])
