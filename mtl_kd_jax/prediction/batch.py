"""Predicts many files into one folder, and goes on where it was stopped.

<out>/predictions.json    the network and settings that it belongs to
<out>/NAME/               the prediction of a picture (write.py)
<out>/NAME/000000/        that of a frame of a video, without figure and arrays
<out>/NAME/TASK.mp4       all frames in colors
<out>/NAME/video.json     written when the others are there
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import io
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from mtl_kd_jax.datasets import files, paths
from mtl_kd_jax.datasets.progress import show_progress
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.folder import (
  NUMBERS,
  VIDEO,
  claim,
  frame_folder,
  is_complete,
  read_json,
  remove_frames,
  source_of,
)
from mtl_kd_jax.prediction.inputs import Input
from mtl_kd_jax.prediction.pictures import read_picture
from mtl_kd_jax.prediction.predictor import Predictor
from mtl_kd_jax.prediction.result import Prediction
from mtl_kd_jax.prediction.sizing import Sizing
from mtl_kd_jax.prediction.video import (
  is_video,
  read_frames,
  read_info,
  write_video,
)
from mtl_kd_jax.prediction.write import read_record, write_prediction
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.files import write_atomically

_OTHER_FOLDER = 'choose another folder: --out=...'


@dataclasses.dataclass
class Outcome:
  """What became of the files.

  Attributes:
    written: how many were predicted.
    skipped: how many had been before.
    failed: path -> why it was not.
    advice: what can be done about these, each once.
  """

  written: int = 0
  skipped: int = 0
  failed: dict[str, str] = dataclasses.field(default_factory=dict)
  advice: list[str] = dataclasses.field(default_factory=list)

  def fail(self, path: pathlib.Path, found: str, do: str) -> None:
    """Notes why a file is not predicted, and what to do."""
    self.failed[paths.as_text(path)] = found
    if do not in self.advice:
      self.advice.append(do)


def predict_files(
  predictor: Predictor,
  inputs: Sequence[Input],
  out: pathlib.Path,
  *,
  sizing: Sizing,
  settings: Mapping[str, Any],
  batch_size: int,
  white: float | None,
  console: Console,
) -> Outcome:
  """Predicts pictures and videos; what cannot be read does not stop it.

  Args:
    predictor: the network.
    inputs: the files.
    out: folder of the predictions; made where it does not exist.
    sizing: of `predictor.sizing`.
    settings: what predictions depend on, in plain values. A folder belongs to
      one network and its settings.
    batch_size: see `Predictor.predict`.
    white: see `read_picture`.
    console: where progress is shown.

  Raises:
    InputError: the folder belongs to other settings or has other files in it,
      or cannot be written to.
  """
  claim(out, settings)
  outcome = Outcome()
  to_do = [x for x in inputs if _is_open(x, out, outcome)]
  pictures = [x for x in to_do if not is_video(x.path)]
  work = _Work(predictor, sizing, batch_size, white, out, outcome, console)
  if pictures:
    work.predict_pictures(pictures)
  for video in to_do:
    if is_video(video.path):
      try:
        work.predict_video(video)
        outcome.written += 1
      except _Unreadable as error:
        outcome.fail(video.path, error.reason.found, error.reason.do)
  return outcome


class _Unreadable(Exception):
  """An input cannot be read; unlike what cannot be written, that is no end."""

  def __init__(self, reason: InputError):
    super().__init__(f'{reason}')
    self.reason = reason


@dataclasses.dataclass
class _Work:
  """The arguments of `predict_files`, for each kind of file."""

  predictor: Predictor
  sizing: Sizing
  batch_size: int
  white: float | None
  out: pathlib.Path
  outcome: Outcome
  console: Console

  def predict_pictures(self, inputs: Sequence[Input]) -> None:
    """Predicts pictures into a folder each."""
    batch_size = min(self.batch_size, len(inputs))
    if self.sizing.tile:
      batch_size = self.batch_size
    read: deque[tuple[Input, dict[str, Any]]] = deque()
    left = len(inputs)

    def pictures():
      nonlocal left
      for x in inputs:
        try:
          # Before it is read: who changes it then gets a new prediction.
          source = source_of(x.path)
          pixels = read_picture(x.path, white=self.white)
        except (InputError, OSError) as error:
          self.outcome.fail(x.path, *_why(error))
          left -= 1
          continue
        read.append((x, source))
        yield pixels, x.path

    with show_progress('predicting pictures', self.console) as progress:
      for prediction in self.predictor.predict(
        pictures(), self.sizing, batch_size=batch_size
      ):
        x, source = read.popleft()
        more = {'source': source}
        write_prediction(prediction, self.out / x.name, more=more)
        self.outcome.written += 1
        left -= 1
        progress(len(inputs) - left, len(inputs))

  def predict_video(self, video: Input) -> None:
    """Predicts the frames of a video into a folder each, and videos of them."""
    folder, source = self.out / video.name, source_of(video.path)
    try:
      info = read_info(video.path)
    except InputError as error:
      raise _Unreadable(error) from error
    first: Prediction | None = None
    count = 0
    title = f'predicting {paths.as_text(video.path.name)}'
    with show_progress(title, self.console) as progress:
      for number, prediction in self._frames(video, folder, source):
        # The colors of the first frame are those of all: no flicker.
        first = first or prediction
        if prediction is not None:
          write_prediction(
            prediction,
            frame_folder(folder, number),
            raw=False,
            overview=False,
            like=first,
            more={'source': source, 'frame': number},
          )
        count = number + 1
        progress(count, max(count, info.frames or 0))
    if first is None:
      raise _Unreadable(_no_frames(video.path))
    remove_frames(folder, count)
    for task in self.predictor.tasks:
      write_video(
        (
          _read_png(frame_folder(folder, i) / f'{task}.png')
          for i in range(count)
        ),
        folder / f'{task}.mp4',
        rate=info.rate,
      )
    record = {
      'source': source,
      'frames': count,
      'frames_per_second': float(info.rate),
      'files': [f'{task}.mp4' for task in self.predictor.tasks],
    }
    write_atomically(folder / VIDEO, json.dumps(record, indent=2) + '\n')

  def _frames(
    self, video: Input, folder: pathlib.Path, source: Mapping[str, Any]
  ) -> Iterator[tuple[int, Prediction | None]]:
    """(number, prediction), or None for frames that are there already.

    The first one is predicted again in any case: it scales the colors.
    """
    numbers: deque[int] = deque()
    done: set[int] = set()

    def frames():
      stream = enumerate(_readable(read_frames(video.path)))
      for number, pixels in stream:
        if number and is_complete(frame_folder(folder, number), source):
          done.add(number)
          continue
        numbers.append(number)
        yield files.as_colors(pixels), video.path

    last = -1
    for prediction in self.predictor.predict(
      frames(), self.sizing, batch_size=self.batch_size
    ):
      last = numbers.popleft()
      yield last, prediction
    yield from ((number, None) for number in sorted(done) if number > last)


def _readable(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
  try:
    yield from frames
  except InputError as error:
    raise _Unreadable(error) from error


def _is_open(x: Input, out: pathlib.Path, outcome: Outcome) -> bool:
  """Whether a file is still to be predicted, and can be; notes it if not."""
  folder = out / x.name
  if found := paths.why_no_such_file(x.path):
    outcome.fail(x.path, found, 'correct the name, or leave it out')
    return False
  try:
    source = source_of(x.path)
  except OSError as error:  # removed just now
    outcome.fail(x.path, *_why(error))
    return False
  record = read_record(folder)
  complete = is_complete(folder, source)
  if is_video(x.path):
    record = read_json(folder / VIDEO)
    complete = record is not None and record.get('source') == source
    for frame in sorted(folder.glob(NUMBERS)):  # of a video that was stopped
      record = record or read_record(frame)
  if complete:
    outcome.skipped += 1
    return False
  there = paths.contents(folder) if folder.exists() else 'nothing'
  if there != 'nothing' and record is None:
    outcome.fail(
      x.path,
      f'its predictions would go to {paths.as_text(folder)}, which has other '
      f'files in it: {there}',
      _OTHER_FOLDER,
    )
    return False
  if other := _other_source(record or {}, source):
    outcome.fail(
      x.path,
      f'its predictions would replace those of {other}, in '
      f'{paths.as_text(folder)}',
      _OTHER_FOLDER,
    )
    return False
  return True


def _other_source(record: Mapping[str, Any], source: Mapping[str, Any]) -> str:
  """Another file that is still there, whose prediction it is; or ''."""
  of = record.get('source')
  path = of.get('path') if isinstance(of, Mapping) else None
  if not isinstance(path, str) or path == source['path']:
    return ''
  return path if buckets.path_of(path).exists() else ''


def _why(error: InputError | OSError) -> tuple[str, str]:
  """What was found, and what to do."""
  if isinstance(error, InputError):
    return error.found, error.do
  return error.strerror or f'{error}', 'leave it out, or predict it again'


def _read_png(path: pathlib.Path) -> np.ndarray:
  with Image.open(io.BytesIO(path.read_bytes())) as image:
    return np.array(image)


def _no_frames(path: pathlib.Path) -> InputError:
  return InputError(
    expected='a video with frames',
    found='none',
    where=paths.as_text(path),
    argument='images',
    do='leave it out',
  )
