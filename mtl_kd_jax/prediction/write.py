"""The files of a prediction.

| file             | of                | content                              |
|------------------|-------------------|--------------------------------------|
| overview.png     | all               | picture, predictions and legends     |
| TASK.png         | every task        | colors, for the eye                  |
| TASK.npy         | every task        | the array of `Prediction`            |
| TASK_ids.png     | classes           | class ids, 8 bits (16 from 257 on)   |
| TASK_16bit.png   | depth             | 16 bits; 1 is 1 mm, or 0.001 of      |
|                  |                   | units other than m, cm and mm        |
|                  | disparity         | 16 bits; 1 is 1/256 of the unit      |
| prediction.json  | all               | units, classes, size, and the files; |
|                  |                   | points, and what is said of pictures |

prediction.json is written first, and again when all other files are there. It
then says that it is "complete". No other file is there in part.
"""

from collections.abc import Callable, Iterable, Mapping
import glob
import io
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label
from mtl_kd_jax.reports.plots.style import png_of
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.files import write_atomically, write_bytes_atomically
from mtl_kd_jax.tasks import Task

if TYPE_CHECKING:
  from mtl_kd_jax.prediction.result import Prediction

RECORD = 'prediction.json'
_OVERVIEW = 'overview.png'
# quantity -> what 1 stands for in a PNG of 16 bits, in the unit of the label
_STEPS = {'depth': 0.001, 'disparity': 1 / 256}
_MILLIMETER = {'m': 0.001, 'cm': 0.1, 'mm': 1.0}
_MOST = 2**16 - 1


def write_prediction(
  prediction: 'Prediction',
  folder: pathlib.Path,
  *,
  raw: bool = True,
  overview: bool = True,
  like: 'Prediction | None' = None,
  more: Mapping[str, Any] | None = None,
) -> None:
  """Writes a prediction; see `Prediction.save`.

  Args:
    prediction: the prediction.
    folder: made where it does not exist.
    raw: whether to write .npy files.
    overview: whether to write a figure.
    like: see `Prediction.render`.
    more: further entries of prediction.json.

  Raises:
    InputError: there are other files of these names, or none can be written.
  """
  contents: dict[str, Callable[[], bytes]] = {}
  described = {}
  for name, task in prediction.tasks.items():
    array = prediction[name]
    picture = prediction.render(name, like=like)
    new, described[name] = _files_of(name, task, array, picture, raw)
    _check_names(name, new.keys() & {*contents, _OVERVIEW})
    contents |= new
  if overview:
    contents[_OVERVIEW] = lambda: png_of(prediction.plot())
  height, width = prediction.size
  record = {
    'complete': False,
    'picture': None if prediction.path is None else str(prediction.path),
    'height': height,
    'width': width,
    'tasks': described,
    **(more or {}),
    'files': [*contents],
  }
  try:
    buckets.make_folder(folder)
    _make_room(folder, contents)
    _write_record(folder, record)
    for name, content in contents.items():
      write_bytes_atomically(folder / name, content())
    _write_record(folder, record | {'complete': True})
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=error.strerror or f'{error}',
      where=paths.as_text(error.filename or folder),
      argument='folder',
      do='choose another folder, or make room on the disk',
    ) from error


def _check_names(task: str, taken: Iterable[str]) -> None:
  """Raises InputError where files of a task have names of others."""
  for name in taken:
    raise InputError(
      expected='tasks whose files have different names',
      found=f'{name} of {task}, which is that of another file, too',
      where=RECORD,
      do='read the arrays in Python, prediction[task]; to save them, give the '
      'task another name',
    )


def read_record(folder: pathlib.Path) -> dict[str, Any] | None:
  """What prediction.json says; None where there is none of ours."""
  try:
    record = json.loads((folder / RECORD).read_text(encoding='utf-8'))
  except (OSError, RecursionError, ValueError):
    return None
  ours = isinstance(record, dict) and isinstance(record.get('files'), list)
  return record if ours else None


def _write_record(folder: pathlib.Path, record: Mapping[str, Any]) -> None:
  write_atomically(folder / RECORD, json.dumps(record, indent=2) + '\n')


def remove_prediction(folder: pathlib.Path) -> bool:
  """Removes the files of a prediction, but for its record, if it is one."""
  record = read_record(folder)
  for name in record['files'] if record else ():
    if name == pathlib.Path(name).name:
      (folder / name).unlink(missing_ok=True)
      for part in folder.glob(f'{glob.escape(name)}.*.tmp'):
        part.unlink(missing_ok=True)  # of a process that was killed
  return record is not None


def _make_room(folder: pathlib.Path, names: Iterable[str]) -> None:
  """Removes an earlier prediction; refuses to touch other files."""
  if remove_prediction(folder):
    return
  there = [name for name in (*names, RECORD) if (folder / name).exists()]
  if there:
    raise InputError(
      expected='a folder without files of these names, or with a prediction '
      f'({RECORD})',
      found=paths.some(there),
      where=paths.as_text(folder),
      argument='folder',
      do='choose another folder, or remove the files',
    )


def _files_of(
  name: str, task: Task, array: np.ndarray, picture: np.ndarray, raw: bool
) -> tuple[dict[str, Callable[[], bytes]], dict[str, Any]]:
  """Name of a file -> its content; and what prediction.json says of a task."""
  label = task.label
  described: dict[str, Any] = {
    'quantity': label.quantity,
    'unit': label.unit,
    'colors': f'{name}.png',
  }
  contents = {f'{name}.png': lambda: _png(picture)}
  if raw:
    described['array'] = f'{name}.npy'
    contents[f'{name}.npy'] = lambda: _npy(array)
  if label.classes:
    described['classes'] = list(label.classes)
  if not task.is_map:
    described['values'] = np.round(array.astype(float), 6).tolist()
  if task.form.is_class:
    described['ids'] = f'{name}_ids.png'
    dtype = np.uint8 if len(label.classes) <= 256 else np.uint16
    contents[described['ids']] = lambda: _png(array.astype(dtype))
  if label.quantity in _STEPS:
    step = _step(label)
    described['integers'] = {
      'file': f'{name}_16bit.png',
      'step': step,
      'too_large': int((array > _MOST * step).sum()),
    }
    contents[f'{name}_16bit.png'] = lambda: _png(_as_integers(array, step))
  return contents, described


def _step(label: Label) -> float:
  """What 1 stands for in a PNG of 16 bits, in the unit of the label."""
  step = _STEPS[label.quantity]
  return (
    _MILLIMETER.get(label.unit, step) if label.quantity == 'depth' else step
  )


def _as_integers(array: np.ndarray, step: float) -> np.ndarray:
  return np.clip(np.rint(array / step), 0, _MOST).astype(np.uint16)


def _png(pixels: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
  file = io.BytesIO()
  np.save(file, array, allow_pickle=False)
  return file.getvalue()
