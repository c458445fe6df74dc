"""The model of step time, and that the page shows what it says."""

import json
import sys

from fixtures.paths import REPOSITORY
import pytest

sys.path.insert(0, str(REPOSITORY / 'benchmarks'))

import chips
import scaling

NVLINK, TORUS = chips.H100.links, chips.V5E.links


@pytest.fixture(scope='module')
def costs():
  return json.loads(scaling.COSTS.read_text())


def test_an_all_reduce_takes_what_a_ring_does():
  size = 1e9
  assert scaling.all_reduce(NVLINK, 1, size) == 0
  assert scaling.all_reduce(NVLINK, 8, size) == pytest.approx(
    2 * 7 / 8 * 1e9 / 450e9
  )
  # Each chip of a host sends its eighth to the other hosts.
  assert scaling.all_reduce(NVLINK, 16, size) == pytest.approx(
    2 * 7 / 8 * 1e9 / 450e9 + 2 * 1 / 2 * 1e9 / 8 / 50e9
  )


def test_small_reductions_wait_for_hops():
  assert scaling.small_reduction(TORUS, 1) == 0
  assert scaling.small_reduction(TORUS, 64) == pytest.approx(5e-6 + 16e-6)
  assert scaling.small_reduction(NVLINK, 16) == pytest.approx(
    5e-6 + 2e-6 + 3e-5
  )


def test_a_step_is_the_sum_of_its_parts(costs):
  counted = costs['segnet']
  each = {k: x / 2 for k, x in counted['kinds']['distilled'].items()}
  step = scaling.model(counted, 'distilled', 'H100', 8, batch=4)
  assert step.operations == pytest.approx(4 * each['flops'] / (0.5 * 989e12))
  halved = 0.4 * each['unfused_bytes'] / 2
  assert step.memory == pytest.approx(4 * halved / (0.8 * 3.35e12))
  assert step.norms == pytest.approx(4 * 26 * 7e-6)
  assert step.images == pytest.approx(32 / step.seconds)
  exact = scaling.model(counted, 'mgda', 'H100', 8, batch=4)
  assert exact.norms == pytest.approx(2.5 * step.norms)  # five passes, not two
  assert 2.9 < exact.reduce / step.reduce < 3


def rows_of(text):
  """First cell -> the others, of all tables."""
  rows = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
    if line.startswith('| ')
  ]
  return {row[0]: row[1:] for row in rows}


def test_the_page_has_the_numbers_of_the_model(costs):
  shown = rows_of((REPOSITORY / 'docs' / 'performance.md').read_text('utf-8'))
  eight, one = (rows_of(scaling.binding(costs, batch=n)) for n in (8, 1))
  for network in costs:
    for name in scaling.CHIPS:
      step = scaling.model(costs[network], 'distilled', name, 1, batch=8)
      row = f'{network}, {name}'
      compute, memory, reduce, norms, data = eight[row]
      assert compute == f'{1e3 * step.compute:.1f}'
      assert memory == f'{100 * step.memory / step.compute:.0f} %'
      of_one = one[row][2:4]
      expected = [compute, memory, reduce, of_one[0], norms, of_one[1], data]
      assert shown[row] == expected
    for kind in costs[network]['kinds']:
      steps = [
        scaling.model(costs[network], kind, name, n, batch=8)
        for name in scaling.CHIPS
        for n in (1, 256)
      ]
      expected = [f'{1e3 * step.seconds:.1f}' for step in steps]
      assert shown[f'{network}, {kind}'][1:] == expected
