"""The metrics of a network of one convolution on the data of a config.

    python benchmarks/one_layer.py --config=configs/quickstart.py

Data that one layer can solve are too easy for a comparison of methods. Trains a
single 7x7 convolution per task for as long as the config trains its networks,
and prints its metrics beside those in runs/<config.name>/results.json (or
--workdir), if a run has written them.
"""

import dataclasses
import json
import pathlib
import sys

from absl import app, flags, logging
import flax.linen as nn
from ml_collections import config_flags
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mtl_kd_jax.config.build import build
from mtl_kd_jax.models.network import Output

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Default: runs/<config.name>.')
flags.mark_flag_as_required('config')


class OneLayer(nn.Module):
  """One 7x7 convolution from the image to the prediction."""

  channels: dict[str, int]

  @nn.compact
  def __call__(self, image, *, train):
    """Predicts from `image` [b h w 3]; `train` is unused."""
    del train
    return Output(
      {
        task: nn.Conv(channels, (7, 7), name=f'head_{task}')(image - 0.5)
        for task, channels in self.channels.items()
      },
      {},
    )


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  experiment = build(_CONFIG.value)
  rows = {'one layer': {}}
  for task in experiment.tasks:
    stage = experiment.teacher(task)
    network = OneLayer(dict(stage.network.channels))
    stage = dataclasses.replace(stage, network=network)
    state = stage.init()
    for batch in stage.train_batches(0):
      batch = experiment.parallel.shard(batch)
      state, _ = stage.train_step(state, {}, batch)
    rows['one layer'] |= stage.evaluate(state.variables).metrics
  workdir = pathlib.Path(_WORKDIR.value or f'runs/{experiment.config.name}')
  if (workdir / 'results.json').exists():
    results = json.loads((workdir / 'results.json').read_text('utf-8'))
    rows |= {name: row['metrics'] for name, row in results['rows'].items()}
  _report(experiment.tasks, rows)


def _report(tasks, rows):
  table = Table(show_edge=False)
  table.add_column('network')
  for task in tasks.values():
    column = task.columns[task.headline]
    table.add_column(f'{column.title}\n{column.unit}', justify='right')
  for name, metrics in rows.items():
    values = (metrics[t][task.headline] for t, task in tasks.items())
    table.add_row(name, *(f'{value:.3f}' for value in values))
  Console().print(table)


if __name__ == '__main__':
  app.run(main)
