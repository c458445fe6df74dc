"""A folder of predictions: whose it is, and what in it is complete."""

from collections.abc import Mapping
import contextlib
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.write import RECORD, read_record, remove_prediction
from mtl_kd_jax.runtime import bucket_copies, buckets
from mtl_kd_jax.runtime.files import write_atomically

NUMBERS = 6 * '[0-9]'  # the names of folders of frames
VIDEO = 'video.json'  # in the folder of a video
_SETTINGS = 'predictions.json'


def claim(out: pathlib.Path, settings: Mapping[str, Any]) -> None:
  """Makes a folder that of these settings, or checks that it is.

  Args:
    out: the folder.
    settings: in plain values.

  Raises:
    InputError: it belongs to other settings, has other files in it, or cannot
      be written to.
  """
  path = out / _SETTINGS
  new = json.loads(json.dumps(settings))  # tuples become lists, as when read
  old = read_json(path)
  if old is None:
    there = paths.contents(out) if out.exists() else 'nothing'
    if there != 'nothing':
      raise InputError(
        expected='a folder that is empty or new, or of predictions',
        found=there,
        where=paths.as_text(out),
        argument='out',
        do='choose another folder',
      )
    try:
      buckets.make_folder(out)
      write_atomically(path, json.dumps(new, indent=2) + '\n')
    except OSError as error:
      raise InputError(
        expected='a folder that can be written to',
        found=error.strerror or f'{error}',
        where=paths.as_text(out),
        argument='out',
        do='choose another folder',
      ) from error
  elif old != new:
    differing = [
      f'{key} was {old.get(key)!r} and is {new.get(key)!r}'
      for key in sorted(old.keys() | new.keys())
      if old.get(key) != new.get(key)
    ]
    raise InputError(
      expected='a folder of predictions of the same network and settings',
      found='; '.join(differing),
      where=f'{path}',
      argument='out',
      do='choose another folder, or remove this one',
    )


def is_complete(folder: pathlib.Path, source: Mapping[str, Any]) -> bool:
  """Whether a folder has the whole prediction of `source_of` a file."""
  record = read_record(folder) or {}
  return bool(record.get('complete')) and record.get('source') == source


def source_of(path: pathlib.Path) -> dict[str, Any]:
  """What tells a file from another, and from itself before it was changed."""
  status = path.stat()
  return {
    'path': bucket_copies.name_of(os.path.abspath(path)),
    'bytes': status.st_size,
    'modified': status.st_mtime_ns,
  }


def remove_frames(folder: pathlib.Path, count: int) -> None:
  """Removes frames beyond the last, of a video that has become shorter."""
  for frame in folder.glob(NUMBERS):
    if int(frame.name) >= count and remove_prediction(frame):
      (frame / RECORD).unlink()
      with contextlib.suppress(OSError):  # there are files of others in it
        frame.rmdir()


def frame_folder(folder: pathlib.Path, number: int) -> pathlib.Path:
  """The folder of a frame in that of its video."""
  return folder / f'{number:06}'


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """What a JSON file says; None where there is none, or no dictionary in it."""
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, RecursionError, ValueError):
    return None
  return content if isinstance(content, dict) else None


def digest(variables: Any) -> str:
  """Tells networks apart by every bit of their variables."""
  summed = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    summed.update(jax.tree_util.keystr(path).encode())
    summed.update(np.asarray(leaf).tobytes())
  return summed.hexdigest()[:16]
