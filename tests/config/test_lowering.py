"""Steps and balancers lower for GPUs and TPUs, where there are none.

They are traced and lowered, not compiled: what a platform has no rule for, or
what `jax.export` knows no stable call for, is found.
"""

import re

from fixtures.balancing_steps import GradientSteps, LossSteps, draw
from fixtures.configs import features_once, preview
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.training.computation import make_computation

__all__ = ['features_once']
pytestmark = pytest.mark.usefixtures('features_once')

PLATFORMS = ('cuda', 'tpu')
BATCH = 8
CASES = {
  'quickstart': {
    'tasks': ('semantic', 'depth'),
    'precision': 'bfloat16',
    'optim.ema': 0.9,
    'balancing.name': 'upgrad',
    'balancing.grad_wrt': 'features',
  },
  'nyuv2': {'balancing.name': 'mgda'},
  'nyuv2:mtan': {'tasks': ('depth', 'normals'), 'precision': 'bfloat16'},
  'nyuv2:deeplab': {'tasks': ('semantic', 'depth'), 'remat': True},
  'cityscapes': {
    'precision': 'bfloat16',
    'accumulate': 2,
    'balancing.name': 'famo',
    'optim.clip_norm': 1.0,
  },
}


def batch_of(stage, size=(64, 64)):
  """Shapes of a batch, without data."""
  labels = {
    name: task.label.missing(size) for name, task in stage.tasks.items()
  }
  arrays = {'image': np.zeros((*size, 3), np.float32), **labels}
  return {
    name: jax.ShapeDtypeStruct((BATCH, *x.shape), x.dtype)
    for name, x in arrays.items()
  }


def lowered(step, *arguments):
  exported = export.export(step, platforms=PLATFORMS)(*arguments)
  assert exported.platforms == PLATFORMS
  return exported.mlir_module()


@pytest.fixture
def as_elsewhere(monkeypatch):
  """Micro-batches in a loop, which there is not on CPUs."""

  def make(*args, **kwargs):
    return make_computation(*args, **kwargs)._replace(unrolled=False)

  monkeypatch.setattr('mtl_kd_jax.config.build.make_computation', make)


@pytest.mark.parametrize('name', CASES)
def test_the_steps_of_a_config_lower(name, shallow, as_elsewhere):
  changes = {'batch_size': BATCH, **CASES[name]}
  _, plan = preview(name, **changes)
  stage = plan['distilled']
  batch, state = batch_of(stage), stage.abstract_state
  frozen = {
    teacher: plan[name].abstract_state.variables
    for teacher, name in stage.inputs.items()
  }
  text = lowered(stage.train_step.function, state, frozen, batch)
  convolved = re.findall(r'stablehlo\.convolution.*-> tensor<\S+x(\w+)>', text)
  dtype = 'bf16' if changes.get('precision') == 'bfloat16' else 'f32'
  assert convolved and set(convolved) == {dtype}
  assert ('stablehlo.while' in text) == ('accumulate' in changes)
  if name in ('quickstart', 'nyuv2'):  # the other networks are in the steps
    text = lowered(stage.eval_step.function, state.result, batch)
    assert 'stablehlo.convolution' in text


@pytest.mark.parametrize(
  'name', balancing.BALANCERS | balancing.GRADIENT_BALANCERS
)
def test_a_balancer_lowers(name):
  options = {}
  if name == 'fixed':
    options['weights'] = {'semantic': 2.0, 'depth': 1.0, 'normals': 1.0}
  balancer = balancing.make(name, **options)
  present, losses = np.ones(3, bool), np.ones(3, np.float32)
  seed = jnp.uint32(0)
  if name in balancing.BALANCERS:
    steps = LossSteps(balancer, 3)
    arguments = losses, steps.init(), seed, present
  else:
    steps, j = GradientSteps(balancer, 3), np.float32(draw(3))
    arguments = j, losses, steps.init(), seed, present, np.stack([j, j])
  assert lowered(jax.jit(steps.update), *arguments)
