"""What --job runs. To add one: a file with `run`, and an entry in `JOBS`.

A job is a module, imported when it is run, with

  run(config, workdir, **options)   raises InputError for what cannot be used
  default_config(workdir)           optional: the config without --config; None
                                    for none
  experiment_of(config)             optional: the config of an experiment in one
                                    of another kind

Its flags are defined in flags.py.
"""

import importlib
from types import ModuleType
from typing import NamedTuple


class Job(NamedTuple):
  """A job, as the command line knows it before it is imported.

  Attributes:
    file: name of its module in this folder.
    options: the flags whose values `run` is called with.
    needs_config: whether it cannot do without --config: it has no
      `default_config`.
  """

  file: str
  options: tuple[str, ...] = ()
  needs_config: bool = False

  def module(self) -> ModuleType:
    """The module, with all that it imports."""
    return importlib.import_module(f'{__name__}.{self.file}')


JOBS = {
  'train': Job('train', needs_config=True),
  'evaluate': Job('evaluate', ('split', 'all')),
  'predict': Job(
    'predict',
    ('images', 'out', 'network', 'resize', 'tile', 'white', 'batch_size'),
  ),
  'export': Job('export', ('to', 'outputs', 'network', 'out')),
  'latency': Job('latency', ('network',)),
  'compare': Job('compare', ('cells',)),
  'import': Job('import_weights', ('torch', 'stage', 'network')),
  'taps': Job('taps', needs_config=True),
  'inspect': Job('inspect', ('samples',), needs_config=True),
  'data': Job('data', ('init',)),
}
