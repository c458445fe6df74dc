"""Draws what lambda does, from finished comparisons.

    python benchmarks/lambda_curve.py rooms=runs/compare frames=runs/frames \
        --out=docs/lambda.png

Each comparison needs rows 'uniform' and 'lambda x <factor>'; their difference
in the gain is drawn by factor, with its 95 % interval over seeds (Student's t),
and rows with a gate, where there are any, are drawn beside it.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mtl_kd_jax.reports.compare.statistics import paired_difference
from mtl_kd_jax.reports.plots.style import (
  COLORS,
  GRAY,
  new_figure,
  report_style,
  save,
  style_axes,
)

REFERENCE, CURVE = 'uniform', 'lambda x '
BESIDE = ('gated', 'nash_mtl, best, gated')


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('comparisons', nargs='+', help='NAME=FOLDER')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  named = [entry.partition('=')[::2] for entry in arguments.comparisons]
  with report_style():
    figure = new_figure(3.4 * len(named), 2.7, layout='constrained')
    axes = figure.subplots(1, len(named), squeeze=False, sharey=True)[0]
    for axis, (name, folder) in zip(axes, named, strict=True):
      style_axes(axis)
      draw(axis, name, gains(pathlib.Path(folder)))
    axes[0].set_ylabel('ΔMTL − uniform, points')
    save(figure, arguments.out)


def gains(folder):
  """Row -> seed -> gain in percent."""
  rows = json.loads((folder / 'compare.json').read_text())['rows']
  return {
    name: row['metrics']['gain']['delta_mtl']['seeds']
    for name, row in rows.items()
  }


def draw(axis, name, rows):
  """One comparison."""
  factors = sorted(
    float(row.removeprefix(CURVE))
    for row in rows
    if row.removeprefix(CURVE).replace('.', '').isdecimal()
  )
  curve = [difference(rows, f'{CURVE}{factor:g}') for factor in factors]
  places = range(1, len(factors) + 1)
  axis.axhline(0, color=GRAY, linewidth=0.8)
  axis.plot([0, *places], [0, *(d[0] for d in curve)], color=COLORS[0])
  for x, (mean, low, high) in zip(places, curve, strict=True):
    axis.errorbar(
      x, mean, [[mean - low], [high - mean]], fmt='o', color=COLORS[0]
    )
  beside = [row for row in BESIDE if row in rows]
  for i, row in enumerate(beside):
    mean, low, high = difference(rows, row)
    axis.errorbar(
      len(factors) + 1.3 + 1.5 * i,
      mean,
      [[mean - low], [high - mean]],
      fmt='s',
      color=COLORS[2],
    )
  axis.set_xticks(
    [0, *places, *(len(factors) + 1.3 + 1.5 * i for i in range(len(beside)))],
    [
      '0',
      *(f'{f:g}' for f in factors),
      *(b.replace(', ', ',\n') for b in beside),
    ],
  )
  axis.set_xlabel("λ, in units of the paper's")
  axis.set_title(name)


def difference(rows, row):
  """Mean and ends of the interval of the paired difference to uniform."""
  found = paired_difference(rows[row], rows[REFERENCE], higher_is_better=True)
  return (found.summary.mean, *found.summary.interval)


if __name__ == '__main__':
  main()
