"""Says what memory the last stage of a config takes, on each device.

    python benchmarks/step_memory.py --config=configs/nyuv2.py:deeplab

and, to see what is shared by eight devices, or taken by two steps,

    ... --devices=8 --config.parallel.fsdp=True
    ... --steps=2

Data are not needed. Printed are, of a device,

  state        parameters, statistics and what optimizers keep
  teachers     their variables
  activations  what JAX keeps of the network between the way forward and the way
               back: config.remat and config.accumulate change it
  planned      what XLA plans for the whole step, with all of the above. Its CPU
               backend computes nothing again, whatever config.remat says
  peak         of the process, after --steps steps on random batches
"""

import math
import os
import pathlib
import resource
import sys

from absl import app, flags
from ml_collections import config_flags

sys.path[:0] = [
  str(pathlib.Path(__file__).parent),
  str(pathlib.Path(__file__).parents[1]),
]

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file.')
_DEVICES = flags.DEFINE_integer('devices', 1, 'On a CPU, that act as so many.')
_STEPS = flags.DEFINE_integer('steps', 0, 'Steps that are taken.')
_SIZE = flags.DEFINE_string('size', '', 'Of images, if not that of the data.')
flags.mark_flag_as_required('config')


def main(argv):
  del argv
  # Before JAX starts its backend.
  fake = f'--xla_force_host_platform_device_count={_DEVICES.value}'
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {fake}'
  for name, size in measure(_CONFIG.value).items():
    print(f'{name:12} {size / 2**20:8.0f} MiB', flush=True)


def measure(config):
  """The bytes of each kind."""
  import dataclasses

  import costs
  import jax

  from mtl_kd_jax import methods
  from mtl_kd_jax.config.build import build, open_dataset
  from mtl_kd_jax.runtime.platform import set_up

  set_up(multihost=False)
  jax.config.update('jax_enable_compilation_cache', False)
  dataset = open_dataset(config, data=False)
  if _SIZE.value:
    size = tuple(int(x) for x in _SIZE.value.split('x'))
    dataset = dataclasses.replace(dataset, image_size=size)
  plan = methods.plan(build(config, data=False, dataset=dataset))
  stage = plan.stages[-1]
  frozen = {
    teacher: plan[name].abstract_result
    for teacher, name in stage.inputs.items()
  }
  sizes = {
    'state': of_a_device(stage.abstract_state),
    'teachers': of_a_device(frozen),
  }
  batch = stage.parallel.abstract(
    {
      name: jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype)
      for name, x in dataset.missing_sample().items()
    }
  )
  kept = activations(
    stage.network,
    stage.abstract_state.variables,
    batch['image'],
    stage.computation,
  )
  sizes['activations'] = kept / stage.parallel.num_devices
  compiled = stage.train_step.function.lower(
    stage.abstract_state, frozen, batch
  ).compile()
  sizes['planned'] = costs.memory(compiled)
  if _STEPS.value:
    take_steps(compiled, stage, plan, batch, _STEPS.value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes['peak'] = peak * 2**10
  return sizes


def of_a_device(tree):
  """The bytes that one device holds of arrays, given their shapes."""
  import jax

  leaves = [x for x in jax.tree.leaves(tree) if hasattr(x.dtype, 'itemsize')]
  return sum(
    x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
    for x in leaves
  )


def activations(network, variables, image, computation):
  """The bytes that a network's way back needs, without its parameters."""
  import jax

  from mtl_kd_jax.training.computation import run_network

  collections = {k: x for k, x in variables.items() if k != 'params'}

  def call(variables, image, key):
    return network.apply(
      variables,
      image,
      train=True,
      mutable=list(collections),
      rngs={'params': key},
    )

  def way_back(params, collections, image):
    def forward(params):
      outputs, _ = run_network(
        call,
        {**collections, 'params': params},
        image,
        jax.random.key(0),
        computation=computation,
      )
      return outputs

    return jax.vjp(forward, params)[1]

  params = variables['params']
  kept = jax.eval_shape(way_back, params, collections, image)
  return _bytes(kept) - _bytes(params)


def _bytes(tree):
  import jax

  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def take_steps(step, stage, plan, batch, count):
  """Trains on random images without labels."""
  import jax
  import numpy as np

  rng = np.random.default_rng(0)
  arrays = {
    name: rng.random(x.shape, np.float32)
    if name == 'image'
    else np.zeros(x.shape, x.dtype)
    for name, x in batch.items()
  }
  batch, state = stage.parallel.shard(arrays), stage.init()
  frozen = {
    teacher: stage.parallel.whole(plan[name].init().result)
    for teacher, name in stage.inputs.items()
  }
  for _ in range(count):
    state, measured = step(state, frozen, batch)
    jax.block_until_ready((state, measured))


if __name__ == '__main__':
  app.run(main)
