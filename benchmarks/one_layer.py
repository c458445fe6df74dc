"""Trains single convolutions on the data of a config, and scores them.

    python benchmarks/one_layer.py --config=configs/quickstart.py

Data that one layer can solve are too easy for a comparison of methods. Trains
one 7x7 convolution per task for as long as the config trains its networks, and
prints the metrics beside those in runs/<config.name>/results.json (or
--workdir), if a run has written them.
"""

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
from mtl_kd_jax.models import Network

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Default: runs/<config.name>.')
flags.mark_flag_as_required('config')


class OneLayer(nn.Module):
  """A backbone whose only feature is one 7x7 convolution of the image."""

  channels: int

  @nn.compact
  def __call__(self, image, *, tasks, train):
    """Convolves `image` [b h w 3]; `tasks` and `train` are unused."""
    del tasks, train
    return {'convolved': nn.Conv(self.channels, (7, 7))(image - 0.5)}


class Identity(nn.Module):
  """A head whose prediction is that feature."""

  channels: int

  def __call__(self, features, *, size, train):
    """Returns the feature [b h w channels]; `size` and `train` are unused."""
    del size, train
    return features['convolved'], {}


def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)
  experiment = build(_CONFIG.value)
  rows = {'one layer': {}}
  for name, task in experiment.tasks.items():
    network = Network(
      backbone=OneLayer(task.channels),
      channels={name: task.channels},
      head=Identity,
    )
    stage = experiment.stage(f'one_layer_{name}', network)
    state = stage.init()
    for batch in stage.data.train(0):
      state, _ = stage.train_step(state, {}, stage.parallel.shard(batch))
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
