"""The figure shows every difference in its direction, and what is missing."""

from fixtures.comparisons import better, make_comparison, make_scores, typical
import numpy as np
import pytest

from mtl_kd_jax.reports.compare.figure import plot_differences
from mtl_kd_jax.reports.plots.style import COLORS, GRAY

NAN = float('nan')


def panels(comparison):
  figure = plot_differences(comparison.analysis)
  return {axis.get_title(loc='left'): axis for axis in figure.axes}


def means(axis):
  """y -> (x, color) of the large dots."""
  return {
    line.get_ydata()[0]: (line.get_xdata()[0], line.get_color())
    for line in axis.lines
    if line.get_markersize() == 5 and len(line.get_xdata())
  }


def test_a_panel_for_each_headline_metric_and_delta_mtl():
  comparison = make_comparison(typical())
  shown = panels(comparison)
  assert list(shown) == ['ΔMTL', 'mIoU', 'AbsErr', 'Mean']
  labels = [x.get_text() for x in shown['ΔMTL'].get_yticklabels()]
  assert labels == ['single-task', 'distilled', 'nash_mtl']
  assert shown['AbsErr'].get_xlabel() == 'better by [m] →'
  analysis = comparison.analysis
  for column in analysis.columns:
    if column.headline:
      drawn = means(shown[column.title])
      for y, row in enumerate(analysis.others):
        difference = analysis.differences[column][row]
        color = (GRAY, COLORS[0], COLORS[1])[difference.direction]
        assert drawn[y] == (difference.summary.mean, color)
        (interval,) = [
          line.get_xdata()
          for line in shown[column.title].lines
          if list(line.get_ydata()) == [y, y]
        ]
        np.testing.assert_array_equal(interval, difference.summary.interval)
      # The first row is on top, and better is to the right.
      low, high = shown[column.title].get_xlim()
      assert low < 0 < high
      assert np.diff(shown[column.title].get_ylim()) < 0


def test_few_seeds_have_no_interval_and_no_color():
  axis = panels(make_comparison(typical(2)))['ΔMTL']
  assert {color for _, color in means(axis).values()} == {GRAY}
  solid = [x for x in axis.lines if x.get_linestyle() == '-']
  assert not any(list(x.get_ydata()) == [y, y] for x in solid for y in range(3))


def test_a_collapse_is_cut_off_and_written_beside_the_others():
  rows = {f'row{i}': [i, i + 1, i - 1] for i in range(6)}
  scores = make_scores(uniform=[0] * 3, bad=[-80, -81, -82], **rows)
  axis = panels(make_comparison(scores))['mIoU']
  assert axis.get_xlim()[0] > -5
  (text,) = [x.get_text() for x in axis.texts]
  assert '◀ -32.40' in text
  # A win of that size is shown in full.
  scores['bad'] = {s: better(80 + s) for s in range(3)}
  axis = panels(make_comparison(scores))['mIoU']
  assert axis.get_xlim()[1] > 32 and not axis.texts


def test_rows_and_panels_without_numbers():
  scores = typical()
  scores['late'] = {}
  for cells in scores.values():
    for metrics in cells.values():
      metrics['normals'] = dict.fromkeys(metrics['normals'], NAN)
  shown = panels(make_comparison(scores))
  assert list(shown) == ['mIoU', 'AbsErr']  # no ΔMTL without normals
  assert [x.get_text() for x in shown['mIoU'].texts] == [' –']
  assert 3 not in means(shown['mIoU'])


@pytest.mark.parametrize('scores', [{'uniform': {}}, {'uniform': {}, 'a': {}}])
def test_there_is_no_figure_of_nothing(scores):
  comparison = make_comparison(scores, seeds=(0, 1))
  assert plot_differences(comparison.analysis) is None
