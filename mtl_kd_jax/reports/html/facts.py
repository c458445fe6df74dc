"""How a run was made: command, versions, hardware, times, config."""

from collections.abc import Mapping
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import time
from typing import Any, NamedTuple

import jax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.metric_keys import Log

_LIBRARIES = ('mtl_kd_jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy')


class StageTime(NamedTuple):
  """How long a stage took.

  Attributes:
    stage: its name.
    steps: of the optimizer.
    epochs: passes over the training split.
    duration: from its first line in the log to the last, e.g. '2 min 3 s'.
    ended: date and time of the last.
  """

  stage: str
  steps: int
  epochs: str
  duration: str
  ended: str


def describe_process() -> dict[str, str]:
  """The command of this process, its versions and its hardware."""
  devices = jax.devices()
  kind = devices[0].device_kind
  hosts = jax.process_count()
  return {
    'command': shlex.join(['python', *sys.argv]),
    'versions': ', '.join(
      [
        f'Python {platform.python_version()}',
        *filter(None, map(_version, _LIBRARIES)),
      ]
    ),
    'devices': f'{len(devices)} × {kind} ({devices[0].platform})'
    + (f' on {hosts} hosts' if hosts > 1 else ''),
    'machine': ', '.join(
      filter(
        None,
        (
          _processor(),
          f'{os.cpu_count()} cores',
          platform.platform(terse=True),
        ),
      )
    ),
    'written': _date(time.time()),
  }


def measure_times(log: Log) -> list[StageTime]:
  """How long every stage in the log took, where its lines have times."""
  lines: dict[str, list] = {}
  for line in log:
    if isinstance(line.get('time'), int | float):
      lines.setdefault(line['stage'], []).append(line)
  return [
    StageTime(
      stage,
      max(line['step'] for line in own),
      f'{max(line["epoch"] for line in own):g}',
      _duration(max(x['time'] for x in own) - min(x['time'] for x in own)),
      _date(max(x['time'] for x in own)),
    )
    for stage, own in lines.items()
  ]


def read_config(workdir: pathlib.Path) -> str:
  """The config of a workdir, as it is written down; '' where there is none."""
  try:
    return show_config(workdirs.read_config(workdir))
  except InputError:
    return ''


def show_config(config: Mapping[str, Any]) -> str:
  """A nested dictionary as JSON."""
  return json.dumps(config, indent=2, ensure_ascii=False, default=str)


def _version(library: str) -> str:
  try:
    return f'{library} {importlib.metadata.version(library)}'
  except importlib.metadata.PackageNotFoundError:  # e.g. not installed itself
    return ''


def _processor() -> str:
  """The name of the CPU, where the system tells it."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except (OSError, ValueError):
    return platform.processor()
  names = [x for x in text.splitlines() if x.startswith('model name')]
  return names[0].partition(':')[2].strip() if names else platform.machine()


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'


def _date(seconds: float) -> str:
  return time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(seconds))
