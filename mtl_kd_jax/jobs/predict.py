"""Predicts pictures and videos with a network of a run."""

import pathlib
import sys

from ml_collections import ConfigDict
import numpy as np
from rich.console import Console

from mtl_kd_jax.config import get_config
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.exporting import ExportedNetwork, load
from mtl_kd_jax.prediction.batch import Outcome, predict_files
from mtl_kd_jax.prediction.folder import digest
from mtl_kd_jax.prediction.front import check_batch_size
from mtl_kd_jax.prediction.inputs import find_inputs
from mtl_kd_jax.prediction.pictures import check_white
from mtl_kd_jax.run import Run
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.trained import TrainedNetwork

_MOST_NAMED = 20


def default_config(workdir: pathlib.Path | None) -> ConfigDict:
  """The config of the run, which is predicted on one host.

  An exported folder has none, and needs none.

  Raises:
    InputError: there is no such run, or its config is none.
  """
  if workdir is None:
    raise InputError(
      expected='the workdir of a run',
      found='none',
      argument='workdir',
      do='name it',
    )
  opened = load(workdir)
  config = opened.config if isinstance(opened, Run) else get_config()
  config.parallel.multihost = False
  return config


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  images: str | None,
  out: str | None = None,
  network: str | None = None,
  resize: str | None = None,
  tile: str | None = None,
  white: int | None = None,
  batch_size: int | None = None,
) -> Outcome:
  """Writes what a network predicts for pictures and videos.

  Files that were predicted before, with the same network and settings, are
  skipped. Those that cannot be read are left out, and named at the end.

  Args:
    config: of the run; nothing is read from it.
    workdir: of the run, or an exported folder.
    images: see `find_inputs`.
    out: folder to write to; None for 'predictions'.
    network: name of the stage; None for the last one of those that predict the
      most tasks.
    resize: 'train', 'keep' or 'HEIGHTxWIDTH'; see `TrainedNetwork.predict`.
    tile: 'HEIGHTxWIDTH' or 'SIDE', or None for no tiles.
    white: value of white in pictures of more than 8 bits.
    batch_size: number of pictures or tiles that the network sees at once.

  Returns:
    What became of the files.

  Raises:
    InputError: the run, the network, a setting or the folder cannot be used;
      or, when all others are predicted, some files cannot be read.
  """
  del config
  if not images:
    raise InputError(
      expected='pictures',
      found='none',
      where='--images',
      do="name a file, a folder or a pattern: --images='photos/*.jpg'",
    )
  folder = paths.expand(out or 'predictions', argument='out')
  buckets.check_access(folder, argument='out', write=True)
  check_white(white)
  trained = _open_network(workdir, network)
  predictor = trained.predictor
  named = resize in ('train', 'keep')
  sizing = predictor.sizing(
    resize=resize if named else _size(resize, 'resize'),
    tile=_size(tile, 'tile'),
  )
  batch_size = check_batch_size(batch_size, sizing)
  inputs = find_inputs(images, lines=sys.stdin if images == '-' else ())
  console = Console(highlight=False)
  _say(
    console,
    f'{len(inputs)} file(s) with {trained.name} of {workdir}: '
    f'{", ".join(trained.tasks)}',
  )
  outcome = predict_files(
    predictor,
    inputs,
    folder,
    sizing=sizing,
    settings={
      'network': trained.name,
      'weights': _digest(trained),
      'resize': sizing.size or 'keep',
      'tile': sizing.tile,
      'white': white,
    },
    batch_size=batch_size,
    white=white,
    console=console,
  )
  _report(outcome, folder, console)
  return outcome


def _open_network(
  workdir: pathlib.Path, name: str | None
) -> TrainedNetwork | ExportedNetwork:
  """A network of a run, or of an exported folder."""
  opened = load(workdir)
  if isinstance(opened, Run):
    return choose_network(opened, name)
  return opened.network(name)


def _digest(network: TrainedNetwork | ExportedNetwork) -> str:
  if isinstance(network, ExportedNetwork):
    return digest(np.frombuffer(network.path.read_bytes(), np.uint8))
  return digest(network.variables)


def choose_network(run: Run, name: str | None) -> TrainedNetwork:
  """The network of that name; the last one of those of the most tasks."""
  counts = {stage: len(run.tasks(stage)) for stage in run}
  if name is not None or not counts:
    return run[name or next(iter(run.plan), '')]  # says what is finished
  most = max(counts.values())
  chosen = [stage for stage, count in counts.items() if count == most]
  if most == 1 and len(chosen) > 1:
    raise InputError(
      expected=f'the name of a network: {", ".join(counts)}',
      found='none, and there is none of several tasks',
      where='--network',
      do='name one of them',
    )
  return run[chosen[-1]]


def _size(text: str | None, flag: str) -> int | tuple[int, ...] | None:
  """The size of 'HEIGHTxWIDTH', or of 'SIDE'."""
  if text is None:
    return None
  sides = text.lower().split('x')
  allowed = (2,) if flag == 'resize' else (1, 2)
  numeric = all(side.strip().isdecimal() for side in sides)
  if not numeric or len(sides) not in allowed:
    names = "'train', 'keep', or " if flag == 'resize' else ''
    raise InputError(
      expected=f'{names}HEIGHTxWIDTH in pixels, such as 480x640',
      found=repr(text),
      where=f'--{flag}',
      do='correct it, or leave it out',
    )
  numbers = tuple(int(side) for side in sides)
  return numbers[0] if len(numbers) == 1 and flag == 'tile' else numbers


def _report(outcome: Outcome, folder: pathlib.Path, console: Console) -> None:
  """Says what was done; raises InputError where something was not."""
  done = f'{outcome.written} predicted'
  if outcome.skipped:
    done += f', {outcome.skipped} had been before'
  _say(console, f'{done}: {folder}')
  if not outcome.failed:
    return
  named = [f'{path}: {why}' for path, why in outcome.failed.items()]
  if len(named) > _MOST_NAMED:
    named[_MOST_NAMED:] = [f'and {len(named) - _MOST_NAMED} more']
  raise InputError(
    expected='pictures and videos that can be read',
    found=f'{len(outcome.failed)} that cannot; the others are predicted\n    '
    + '\n    '.join(named),
    where='--images',
    do='; '.join(outcome.advice).replace(' white=', ' --white=')
    + '; the same command then predicts these files alone',
  )


def _say(console: Console, text: str) -> None:
  console.print(text, markup=False, soft_wrap=True)
