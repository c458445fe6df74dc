"""Counts what the full-size steps cost, by lowering them; nothing is compiled.

    python benchmarks/step_costs.py --out=benchmarks/step_costs.json

For the networks of configs/nyuv2.py at 288x384 and batch 2: operations, and
bytes before anything is fused, as they are lowered for a TPU; parameters; and
the values that BatchNorm exchanges between devices. benchmarks/scaling.py makes
a model of it.
"""

import argparse
import json
import math
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import steps

from mtl_kd_jax.models.network import feature_shapes
from mtl_kd_jax.runtime.parallel import make_parallel

SIZE, BATCH = (288, 384), 2


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', default='benchmarks/step_costs.json')
  parser.add_argument('--networks', default=','.join(steps.NETWORKS))
  options = parser.parse_args()
  path = pathlib.Path(options.out)
  counted = json.loads(path.read_text()) if path.exists() else {}
  for name in options.networks.split(','):
    entry = counted.setdefault(name, {'kinds': {}})
    entry |= {'size': SIZE, 'batch': BATCH} | count_network(name)
    for kind in steps.kinds_of(name):
      if kind not in entry['kinds']:
        begun = time.monotonic()
        entry['kinds'][kind] = count_step(name, kind)
        print(
          name, kind, entry['kinds'][kind], f'{time.monotonic() - begun:.0f}'
        )
        path.write_text(json.dumps(counted, indent=1) + '\n', 'utf-8')


def count_network(name):
  """Parameters of the multi-task network, and what of it devices exchange."""
  network = steps.make_network(name)
  shapes = feature_shapes(network, SIZE)
  params = steps.shapes_of(network, SIZE)['params']
  stats = steps.shapes_of(network, SIZE)['batch_stats']
  return {
    'parameters': _numbers(params),
    'backbone_parameters': _numbers(params['backbone']),
    'norms': len(shapes.norms),
    'norm_channels': _numbers(stats) // 2,
  }


def count_step(name, kind):
  """Operations and bytes of one step."""
  work = steps.make_work(name, kind, size=SIZE, batch_size=BATCH)
  parallel = make_parallel('jit', batch_size=BATCH)
  step = parallel.compile_train_step(work.step)
  traced = step.function.trace(work.state, work.frozen, work.batch)
  cost = traced.lower(lowering_platforms=('tpu',)).cost_analysis()
  return {'flops': cost['flops'], 'unfused_bytes': cost['bytes accessed']}


def _numbers(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


if __name__ == '__main__':
  main()
