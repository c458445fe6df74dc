"""What is counted and written down of one network and of several."""

import json

from fixtures.drawn import draw_variables
from fixtures.toy import SIZE, TASKS, make_network
import jax

from mtl_kd_jax.exporting.latency import measure, only
from mtl_kd_jax.reports.latency import report_latency
from mtl_kd_jax.trained import TrainedNetwork

CHANNELS = {name: task.channels for name, task in TASKS.items()}


def make_trained():
  network = make_network(TASKS)
  variables = draw_variables(network, SIZE)
  return TrainedNetwork('distilled', network, variables, TASKS, SIZE)


def test_a_network_is_measured_against_several(tmp_path):
  student = make_trained()
  sides = {
    '2 networks': [only(student, task) for task in TASKS],
    'distilled': [student],
  }
  measured = measure(
    sides,
    devices={'CPU': jax.devices()[0]},
    batch_sizes=(2,),
    seconds=0,
    rounds=(2, 3),
  )
  several, one = measured.values()
  # A 3x3 convolution to 6 channels at a quarter of the sides, one of these and
  # the picture to 8, and the heads, 3x3 in one; biases are no products.
  pixels = SIZE[0] * SIZE[1]
  backbone = pixels // 16 * 9 * 3 * 6 + pixels * 9 * 9 * 8
  heads = pixels * 9 * 8 * sum(CHANNELS.values())
  assert one.multiply_adds == backbone + heads
  assert several.multiply_adds == 2 * backbone + heads
  shared = 9 * 3 * 6 + 9 * 9 * 8 + 2 * (6 + 8)  # with BatchNorm's
  own = sum(9 * 8 * 8 + 8 + (8 + 1) * c for c in CHANNELS.values())
  assert one.parameters == shared + own
  assert several.parameters == 2 * shared + own
  for side in measured.values():
    assert list(side.timings['CPU']) == [2]
    for timing in side.timings['CPU'].values():
      assert timing.rounds == 2
      assert 0 < timing.low <= timing.median <= timing.high
      assert timing.memory > 4 * side.parameters / 2**20

  text = report_latency(
    measured, tmp_path, image_size=SIZE, about={'jax': jax.__version__}
  )
  assert text == (tmp_path / 'latency.md').read_text()
  assert f'| distilled | {one.parameters / 1e6:.2f} M |' in text
  content = json.loads((tmp_path / 'latency.json').read_text())
  assert content['networks']['distilled']['multiply_adds'] == one.multiply_adds
  assert (tmp_path / 'latency.png').read_bytes().startswith(b'\x89PNG')
