"""What is written beside artifacts, and inside them: metadata.json."""

from collections.abc import Mapping
import json
import math
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.run import describe_network
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.trained import TrainedNetwork

FILE = 'metadata.json'
INPUT = 'image'
# Of what is written; a reader refuses those of later versions.
VERSION = 1
_KIND = 'mtl_kd_jax.export'
_KEYS = ('name', 'outputs', 'description', 'artifacts', 'finished')


def make(trained: TrainedNetwork, *, outputs: str) -> dict[str, Any]:
  """What is known of a network before anything of it is written.

  Args:
    trained: the network.
    outputs: 'finished' or 'raw'.
  """
  size = [*trained.image_size]
  content = {
    'kind': _KIND,
    'version': VERSION,
    'name': trained.name,
    'input': {
      'name': INPUT,
      'dtype': 'uint8',
      'shape': ['batch', *size, 3],
      'axes': 'b h w c',
      'meaning': 'red, green, blue in 0..255; the network scales them',
    },
    'finished': outputs == 'finished',
    'outputs': {
      name: _output(task, size, outputs) for name, task in trained.tasks.items()
    },
    'description': describe_network(
      trained.network, trained.tasks, trained.image_size
    ),
    'metrics': finite(trained.metrics),
    'artifacts': {},
  }
  return json.loads(json.dumps(content))  # as it is read: without tuples


def finite(x: Any) -> Any:
  """With None for numbers that are not finite, which JSON does not have."""
  if isinstance(x, Mapping):
    return {key: finite(value) for key, value in x.items()}
  return None if isinstance(x, float) and not math.isfinite(x) else x


def _output(task: Task, size, outputs) -> dict[str, Any]:
  label, finished = task.label, outputs == 'finished'
  of_image = (1, task.channels) if task.of_image else (1, *size, task.channels)
  raw = np.zeros(of_image, np.float32)
  array = task.form.finish(raw) if finished else raw
  axes = 'b c' if task.of_image else 'b h w c'[: 2 * array.ndim - 1]
  output = {
    'dtype': array.dtype.name,
    'shape': ['batch', *array.shape[1:]],
    'axes': f'b {task.form.axes}' if finished and task.form.axes else axes,
    'meaning': task.form.meaning
    if finished
    else 'what the network gives, before argmax or scaling to length one',
    'quantity': label.quantity,
    'unit': label.unit,
  }
  if label.classes and task.form.is_class:
    ids = np.arange(len(label.classes), dtype=np.int32)[None]
    output['classes'] = [*label.classes]
    output['colors'] = task.render(ids, ids)[0].tolist()
  elif label.classes:
    output['classes'] = [*label.classes]
  return output


def read(folder: pathlib.Path) -> dict[str, Any]:
  """The metadata of an exported folder.

  Raises:
    InputError: it is none, or was written by a later version.
  """
  path = folder / FILE
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, RecursionError, ValueError) as error:
    raise _bad(path, f'{error}', 'export the network again') from error
  if not isinstance(content, Mapping) or content.get('kind') != _KIND:
    raise _bad(path, 'another file of that name', 'name an exported folder')
  version = content.get('version')
  if version != VERSION:
    newer = isinstance(version, int) and version > VERSION
    raise _bad(
      path,
      f'version {version!r} of the format; this package reads {VERSION}',
      'install a later version of mtl_kd_jax' if newer else 'export again',
    )
  missing = [key for key in _KEYS if key not in content]
  if missing:
    raise _bad(path, f'no {", ".join(missing)}', 'export the network again')
  return dict(content)


def is_exported(folder: pathlib.Path) -> bool:
  """Whether a folder looks like an exported one, of whatever version."""
  return (folder / FILE).is_file()


def _bad(path, found, do) -> InputError:
  return InputError(
    expected='the metadata of an exported network',
    found=found,
    where=f'{path}',
    argument='workdir',
    do=do,
  )
