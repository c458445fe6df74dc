"""Frames of videos, read and written with PyAV, which is an extra."""

from collections.abc import Iterable, Iterator
import contextlib
import fractions
import importlib
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets

_SUFFIXES = ('.mp4', '.mov', '.m4v', '.avi', '.mkv', '.webm', '.mpg', '.mpeg')
_CODECS = ('libx264', 'mpeg4')  # the first that PyAV was built with


class VideoInfo(NamedTuple):
  """What a video says of itself.

  Attributes:
    rate: frames per second.
    frames: their number, which may be an estimate; None if it says nothing.
  """

  rate: fractions.Fraction
  frames: int | None


def is_video(path: pathlib.Path) -> bool:
  """Whether a file has the name of a video, and is not hidden."""
  hidden = path.name.startswith('.')
  return path.suffix.lower() in _SUFFIXES and not hidden


def read_info(path: pathlib.Path) -> VideoInfo:
  """What a video says of itself.

  Raises:
    InputError: it is none, or PyAV is not installed.
  """
  with _opened(path) as (_, stream):
    rate = stream.average_rate or stream.guessed_rate or fractions.Fraction(25)
    frames = stream.frames
    if not frames and stream.duration and stream.time_base:
      frames = round(stream.duration * stream.time_base * rate)
    return VideoInfo(fractions.Fraction(rate), frames or None)


def read_frames(path: pathlib.Path) -> Iterator[np.ndarray]:
  """The frames of a video, uint8 [h w 3], upright.

  Raises:
    InputError: it is none, it is damaged, or PyAV is not installed.
  """
  with _opened(path) as (container, stream):
    for frame in container.decode(stream):
      pixels = frame.to_ndarray(format='rgb24')
      # Degrees counterclockwise, as telephones write them.
      yield np.rot90(pixels, round(getattr(frame, 'rotation', 0) / 90))


def write_video(
  frames: Iterable[np.ndarray], path: pathlib.Path, *, rate: fractions.Fraction
) -> None:
  """Writes frames, uint8 [h w 3], as MP4; the whole file or nothing.

  Args:
    frames: of one size.
    path: the file.
    rate: frames per second.
  """
  av = _av()
  codec = next(c for c in _CODECS if c in av.codecs_available)
  if buckets.is_bucket(path):
    with tempfile.TemporaryDirectory(prefix='mtl_kd_jax-') as temporary:
      here = pathlib.Path(temporary, path.name)
      write_video(frames, here, rate=rate)
      buckets.write(path, here.read_bytes())
    return
  unfinished = path.with_name(f'{path.stem}.tmp{path.suffix}')
  stream: Any = None
  try:
    with av.open(str(unfinished), 'w') as container:
      for pixels in frames:
        h, w = pixels.shape[:2]
        # Colors are stored for blocks of 2 x 2 pixels.
        even = np.pad(pixels, ((0, h % 2), (0, w % 2), (0, 0)), mode='edge')
        if stream is None:
          stream = container.add_stream(codec, rate=rate)
          stream.height, stream.width = even.shape[:2]
          stream.pix_fmt = 'yuv420p'
        frame = av.VideoFrame.from_ndarray(even, format='rgb24')
        container.mux(stream.encode(frame))
      if stream is not None:
        container.mux(stream.encode())
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Any, Any]]:
  """The container and its video stream."""
  av = _av()
  if found := paths.why_no_file(path):
    raise _no_video(path, found)
  try:
    with av.open(str(path)) as container:
      if not container.streams.video:
        raise _no_video(path, 'a file without pictures, such as sound')
      stream = container.streams.video[0]
      stream.thread_type = 'AUTO'
      yield container, stream
  except (av.FFmpegError, OSError) as error:
    found = getattr(error, 'strerror', None) or f'{error}'
    raise _no_video(path, found) from error


def _av() -> Any:
  try:
    return importlib.import_module('av')
  except ImportError as error:
    raise InputError(
      expected='PyAV, which reads videos',
      found=f'{error}',
      argument='images',
      do="pip install 'mtl_kd_jax[video]', or pip install av",
    ) from error


def _no_video(path: pathlib.Path, found: str) -> InputError:
  return InputError(
    expected='a video that can be read',
    found=found,
    where=paths.as_text(path),
    argument='images',
    do='convert the file, or leave it out',
  )
