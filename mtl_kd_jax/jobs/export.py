"""Writes a network of a run in files that run without this package."""

from collections.abc import Sequence
import pathlib

from ml_collections import ConfigDict
import numpy as np

from mtl_kd_jax.config.build import open_dataset
from mtl_kd_jax.config.experiment import select_split
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.exporting import ExportedFolder, export
from mtl_kd_jax.exporting.comparison import as_bytes
from mtl_kd_jax.exporting.writing import DEFAULT
from mtl_kd_jax.jobs import predict
from mtl_kd_jax.run import Run
from mtl_kd_jax.trained import TrainedNetwork

_NUM_PICTURES = 4

default_config = predict.default_config


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  to: Sequence[str] = DEFAULT,
  outputs: str = 'finished',
  network: str | None = None,
  out: str | None = None,
) -> ExportedFolder:
  """Exports a network of a run.

  Args:
    config: of the run; names the data whose pictures are compared on.
    workdir: of the run, in which nothing changes but for the new folder.
    to: the formats; see `export`.
    outputs: 'finished' or 'raw'.
    network: name of the stage; None for the last one of those that predict the
      most tasks.
    out: the folder to write to; None for exports/<network> in the workdir.

  Returns:
    The exported folder.

  Raises:
    InputError: as `export`, or the run does not have the network.
  """
  trained = predict.choose_network(Run(workdir), network)
  folder = out or workdir / 'exports' / trained.name

  def pictures():
    found, source = _pictures(config, trained)
    print(f'{trained.name} of {workdir}, compared on {source}')
    return found

  return export(trained, folder, to=to, outputs=outputs, pictures=pictures)


def _pictures(
  config: ConfigDict, trained: TrainedNetwork
) -> tuple[np.ndarray | None, str]:
  """Pictures of the run's data where they are there, and what they are."""
  made = None, 'rendered rooms and patterns'
  split, size = select_split(config), trained.image_size
  if config.data.name == 'scenes':
    # Imported here because preparing data needs libraries that load slowly.
    from mtl_kd_jax.datasets.scenes.dataset import render

    # The same pictures as those of the data, which may not be prepared here.
    seed = config.data.scenes.seed
    images = [
      render(seed, 'val', i, size)['image'] for i in range(_NUM_PICTURES)
    ]
    return as_bytes(np.stack(images)), 'rooms of the run'
  try:
    dataset = open_dataset(config)
    split = split if split in dataset.sources else next(iter(dataset.sources))
    source = dataset.source(split)
    count = min(_NUM_PICTURES, len(source))
    images = [source[i]['image'] for i in range(count)]
  except InputError:  # the data are on another machine
    return made
  if not images or images[0].shape[:2] != tuple(size):
    return made
  return as_bytes(np.stack(images)), f'{count} pictures of {config.data.name}'
