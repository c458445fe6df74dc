"""Lists the features of a config's networks: what can be aligned with what."""

from collections.abc import Mapping
import pathlib

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.experiment import STUDENT, TEACHER
from mtl_kd_jax.distillation import Adaptors
from mtl_kd_jax.models.features import taps_of

Shapes = Mapping[str, tuple[int, ...]]


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Prints the taps of the student and its teachers, and which are aligned.

  Args:
    config: see config/defaults.py. The data are opened only when it says where
      they are; the shapes are for the dataset's usual size otherwise.
    workdir: nothing is read from it or written to it.

  Raises:
    InputError: the config names networks or pairs that cannot be.
  """
  del workdir
  experiment = build(config, data=bool(config.data.data_dir))
  network = experiment.network(STUDENT)
  networks = {t: experiment.network(TEACHER, t) for t in experiment.tasks}
  adaptors = experiment.adaptors(network, networks)
  student = experiment.features(network).all
  teachers = {t: experiment.features(n).all for t, n in networks.items()}
  console = Console(highlight=False)
  height, width = experiment.dataset.image_size
  console.print(f'images of {height} x {width} pixels (height x width)\n')
  console.print(_taps(f'student: {_name(config.model)}', {'': student}))
  console.print(_taps(f'teachers: {_name(config.teacher.model)}', teachers))
  console.print(_pairs(adaptors, student, teachers))


def _name(model) -> str:
  return f'{model.backbone} x {model.width:g}, {model.head} heads'


def _taps(title: str, networks: Mapping[str, Shapes]) -> Table:
  """The features of one network, or of one per task."""
  rows = {}
  for network, shapes in networks.items():
    for name, shape in shapes.items():
      tap, _, task = name.partition('/')
      owners = rows.setdefault((tap, _shape(shape)), [])
      owners.append(task or network or 'all tasks')
  return _table(
    ('tap', 'shape', 'of'),
    [(*row, ', '.join(owners)) for row, owners in rows.items()],
    title,
  )


def _pairs(
  adaptors: Adaptors, student: Shapes, teachers: Mapping[str, Shapes]
) -> Table:
  rows = {}
  for task, alignment in adaptors.alignments.items():
    for pair in alignment.channels:
      source = taps_of(student, task)[pair.student]
      target = taps_of(teachers[task], task)[pair.teacher]
      adaptor = f'{source[-1]} to {target[-1]} channels'
      if source[1:3] != target[1:3]:
        adaptor += f', resized to {target[1]} x {target[2]}'
      rows.setdefault((pair.student, pair.teacher, adaptor), []).append(task)
  return _table(
    ('student tap', 'teacher tap', 'adaptor', 'of'),
    [(*row, ', '.join(tasks)) for row, tasks in rows.items()],
    'aligned (config.distill.taps)',
  )


def _table(columns, rows, title) -> Table:
  table = Table(
    *columns, title=title, title_justify='left', show_edge=False, min_width=60
  )
  for row in rows:
    table.add_row(*row)
  table.caption = ' '
  return table


def _shape(shape) -> str:
  return rf'\[{" ".join(("b", *map(str, shape[1:])))}]'
