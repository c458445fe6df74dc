"""Networks are traced with open batch sizes, heights and widths."""

import jax
from jax import export
import jax.numpy as jnp
import pytest

from mtl_kd_jax.models import make

TASKS = {'semantic': 5, 'depth': 1}


@pytest.mark.parametrize(
  'backbone, head',
  [
    ('segnet', 'dense'),
    ('mtan', 'dense'),
    ('resnet18', 'deeplabv3plus'),
    ('resnet50', 'aspp'),
    ('resnet34', 'fpn'),
  ],
)
def test_every_network_takes_any_multiple_of_its_stride(
  backbone, head, shallow
):
  network = make(backbone, TASKS, head=head, width=1 / 16, output_stride=16)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  _, variables = jax.eval_shape(
    lambda x: network.init_with_output(jax.random.key(0), x, train=False), image
  )
  stride = network.backbone.stride
  shape = export.symbolic_shape(f'b, {stride}*h, {stride}*w, 3')
  output = jax.eval_shape(
    lambda v, x: network.apply(v, x, train=False).predictions,
    variables,
    jax.ShapeDtypeStruct(shape, jnp.float32),
  )
  for task, channels in TASKS.items():
    assert output[task].shape == (*shape[:3], channels)
