"""latency.png: the time of a batch, of one network and of several."""

from collections.abc import Mapping
import pathlib
from typing import Any

from matplotlib.figure import Figure
import numpy as np

from mtl_kd_jax.reports.plots.style import (
  COLORS,
  INK,
  new_figure,
  report_style,
  save,
  style_axes,
)
from mtl_kd_jax.reports.plots.texts import literal


def draw_latency(sides: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes the figure of `plot_latency` to a file."""
  save(plot_latency(sides), path)


def plot_latency(sides: Mapping[str, Any]) -> Figure:
  """Plots medians as bars, with the quartiles; a plot for each device.

  Args:
    sides: name -> what was measured, with `timings`: device -> batch size ->
      (median, low, high, ...) in milliseconds.

  Returns:
    The figure.
  """
  devices = list(next(iter(sides.values())).timings)
  with report_style():
    figure = new_figure(3.6 * len(devices), 2.6, layout='constrained')
    axes = figure.subplots(1, len(devices), squeeze=False)[0]
    width = 0.8 / len(sides)
    for axis, device in zip(axes, devices, strict=True):
      style_axes(axis)
      for i, (name, side) in enumerate(sides.items()):
        timings = side.timings[device]
        x = np.arange(len(timings)) + (i - (len(sides) - 1) / 2) * width
        median, low, high = np.array([t[:3] for t in timings.values()]).T
        axis.bar(
          x,
          median,
          0.92 * width,
          yerr=(median - low, high - median),
          color=COLORS[i],
          ecolor=INK,
          error_kw={'linewidth': 1, 'capsize': 3},
          label=literal(name),
        )
        for place, value, top in zip(x, median, high, strict=True):
          axis.annotate(
            f'{value:.3g}',
            (place, top),
            xytext=(0, 2),
            textcoords='offset points',
            ha='center',
            fontsize=7,
            color=INK,
          )
      batches = list(timings)
      axis.set_xticks(range(len(batches)), [f'batch {n}' for n in batches])
      axis.grid(False, axis='x')
      axis.margins(y=0.12)
      axis.set_title(literal(device))
    axes[0].set_ylabel('milliseconds per batch')
    axes[0].legend(loc='upper left', fontsize=7)
  return figure
