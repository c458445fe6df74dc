"""latency.md and latency.json: one network against several."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, Protocol

from mtl_kd_jax.reports.cells import escaped
from mtl_kd_jax.reports.plots.latency import draw_latency
from mtl_kd_jax.runtime.files import write_atomically


class Side(Protocol):
  """One side of the comparison, see `exporting.latency.Measured`."""

  parameters: int
  multiply_adds: int
  timings: Mapping[str, Mapping[int, Any]]


def report_latency(
  sides: Mapping[str, Side],
  workdir: pathlib.Path,
  *,
  image_size: tuple[int, int],
  about: Mapping[str, Any],
) -> str:
  """Writes latency.md, latency.json and latency.png.

  Args:
    sides: the name of the single-task networks, and of the one network, in this
      order -> what was measured.
    workdir: where to write.
    image_size: (height, width) in pixels.
    about: what was measured on, for the record.

  Returns:
    The text of latency.md.
  """
  text = latency_text(sides, image_size=image_size, about=about)
  content = {
    'image_size': [*image_size],
    **about,
    'networks': {
      name: {
        'parameters': side.parameters,
        'multiply_adds': side.multiply_adds,
        'timings': {
          device: {n: t._asdict() for n, t in timings.items()}
          for device, timings in side.timings.items()
        },
      }
      for name, side in sides.items()
    },
  }
  write_atomically(workdir / 'latency.json', json.dumps(content, indent=2))
  draw_latency(sides, workdir / 'latency.png')
  write_atomically(workdir / 'latency.md', text)
  return text


def latency_text(
  sides: Mapping[str, Side],
  *,
  image_size: tuple[int, int],
  about: Mapping[str, Any],
) -> str:
  """The table in Markdown, with what its numbers are."""
  several, one = sides.values()
  columns = [
    (device, batch)
    for device, timings in one.timings.items()
    for batch in timings
  ]
  head = ['network', 'parameters', 'multiply-adds']
  head += [f'{device}, batch {n}: ms' for device, n in columns]
  head += [f'{device}, batch {n}: MiB' for device, n in columns]
  rows = [[escaped(name), *_cells(s, columns)] for name, s in sides.items()]
  ratios = [
    f'{a / b:.2f}'
    for a, b in zip(
      _numbers(several, columns), _numbers(one, columns), strict=True
    )
  ]
  rows.append(['ratio', *ratios])
  lines = [head, ['---'] + ['---:'] * (len(head) - 1), *rows]
  table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  height, width = image_size
  described = ', '.join(f'{key} {value}' for key, value in about.items())
  return (
    f'# Latency\n\n{table}\n\n![Latency](latency.png)\n\n'
    f'Pictures of {height} x {width} pixels. Latency is the time of a whole '
    'batch, from bytes to finished outputs: the median, with the quartiles in '
    'parentheses. The single-task networks are run one after the other. Both '
    'sides were measured in turns, after a warm-up. Multiply-adds are those of '
    'convolutions and matrix products for one picture, counted in the program '
    'with padding; memory is all weights, and what XLA reports that the '
    f'largest network needs beside them.\n\n{described}.\n'
  )


def _cells(side: Side, columns) -> list[str]:
  timings = [side.timings[device][n] for device, n in columns]
  return [
    f'{side.parameters / 1e6:.2f} M',
    f'{side.multiply_adds / 1e9:.3f} G',
    *(f'{t.median:.3g} ({t.low:.3g}–{t.high:.3g})' for t in timings),
    *(f'{t.memory:.1f}' for t in timings),
  ]


def _numbers(side: Side, columns) -> list[float]:
  timings = [side.timings[device][n] for device, n in columns]
  return [
    side.parameters,
    side.multiply_adds,
    *(t.median for t in timings),
    *(t.memory for t in timings),
  ]
