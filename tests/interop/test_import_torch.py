"""Weights from PyTorch: every entry finds its place, and nothing is run."""

import builtins
import functools
import importlib
import json
import pathlib
import pickle
import sys

from fixtures.paths import SHARED_DATA
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop.import_torch import (
  import_variables,
  read_backbone,
  read_state_dict,
  torch_shapes,
)
from mtl_kd_jax.interop.torch_names import describe
from mtl_kd_jax.models import make
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.runtime.mismatch import shapes_by_name

REFERENCE = SHARED_DATA.parent / 'reference/kd4mtl_state_dict_shapes.json'
CHANNELS = {'semantic': 13, 'depth': 1, 'normals': 3}
SIZE = (64, 96)
STANDARD = (64, 128, 256, 512, 512)
WIDE = (64, 128, 256, 512, 1024)
NARROW = 1 / 16


# ---- The reference's rule, and torchvision's ---------------------------------


def conv(name, o, i, size, *, bias=True):
  shapes = {f'{name}.weight': (o, i, size, size)}
  return shapes | ({f'{name}.bias': (o,)} if bias else {})


def norm(name, c):
  leaves = ('weight', 'bias', 'running_mean', 'running_var')
  return {f'{name}.{leaf}': (c,) for leaf in leaves} | {
    f'{name}.num_batches_tracked': ()
  }


def block(name, o, i, size=3, *, depth=1):
  """Convolution '.0', BatchNorm '.1', an activation, then '.3' and '.4'."""
  shapes = {}
  for place in (0, 3)[:depth]:
    shapes |= conv(f'{name}.{place}', o, i, size) | norm(
      f'{name}.{place + 1}', o
    )
    i = o
  return shapes


def scaled(filters, width):
  """Channels of the levels in the encoder, and those that the decoder makes."""
  f = [round(c * width) for c in filters]
  return f, [f[0], *f[:-1]]


def trunk(filters, width=1.0, *, depth=1):
  down, up = scaled(filters, width)
  shapes = {}
  for level in range(5):
    i = down[level - 1] if level else 3
    shapes |= block(f'encoder_block.{level}', down[level], i, depth=depth)
    shapes |= block(
      f'decoder_block.{level}', up[level], down[level], depth=depth
    )
    for side, c in (('enc', down[level]), ('dec', up[level])):
      for place in ('',) if level < 2 else ('.0', '.1'):
        name = f'conv_block_{side}.{level}{place}'
        shapes |= block(name, c, c, depth=depth)
  return shapes


def heads(channels, f, names=('pred_task1', 'pred_task2', 'pred_task3')):
  shapes = {}
  for name, c in zip(names, channels, strict=True):
    shapes |= conv(f'{name}.0', f, f, 3) | conv(f'{name}.1', c, f, 1)
  return shapes


def segnet_shapes(filters=STANDARD, width=1.0, *, depth=1):
  return (
    {'logsigma_dist': (6,)}
    | trunk(filters, width, depth=depth)
    | heads(CHANNELS.values(), round(64 * width))
  )


def mtan_shapes(width=1.0, *, single=None):
  """Of three tasks, or, with channels as `single`, of one."""
  down, up = scaled(STANDARD, width)
  shapes = {'logsigma': (3,)} | trunk(STANDARD, width)
  for task in range(1 if single else 3):
    for level in range(5):
      d, u = down[level], up[level]
      for side, o, i in (
        ('encoder', d, 2 * d if level else d),
        ('decoder', u, d + u),
      ):
        shapes |= block(f'{side}_att.{task}.{level}', o, i, 1)
        # The second convolution is the first's size.
        shapes |= conv(f'{side}_att.{task}.{level}.3', o, o, 1)
        shapes |= norm(f'{side}_att.{task}.{level}.4', o)
  for level in range(5):
    o = down[min(level + 1, 4)]
    shapes |= block(f'encoder_block_att.{level}', o, down[level])
    shapes |= block(f'decoder_block_att.{level}', up[level], down[level])
  if single:
    return shapes | heads([single], down[0], ['pred_task'])
  return shapes | heads(CHANNELS.values(), down[0])


def resnet_shapes(layers, width):
  """As torchvision has them, with a classifier."""
  base = round(64 * width)
  blocks = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
  }[layers]
  wide = layers == 50
  shapes = conv('conv1', base, 3, 7, bias=False) | norm('bn1', base)
  i = base
  for layer, count in enumerate(blocks, start=1):
    planes = base * 2 ** (layer - 1)
    o = 4 * planes if wide else planes
    for b in range(count):
      name = f'layer{layer}.{b}'
      convs = (
        [(planes, i, 1), (planes, planes, 3), (o, planes, 1)]
        if wide
        else [(planes, i, 3), (planes, planes, 3)]
      )
      for n, (co, ci, size) in enumerate(convs, start=1):
        shapes |= conv(f'{name}.conv{n}', co, ci, size, bias=False)
        shapes |= norm(f'{name}.bn{n}', co)
      if b == 0 and (layer > 1 or wide):
        shapes |= conv(f'{name}.downsample.0', o, i, 1, bias=False)
        shapes |= norm(f'{name}.downsample.1', o)
      i = o
  return shapes | {'fc.weight': (1000, i), 'fc.bias': (1000,)}


def test_the_rule_is_the_references():
  if not REFERENCE.is_file():
    pytest.skip('no shapes of the reference here')
  reference = json.loads(REFERENCE.read_text())
  for name, shapes in (('segnet', segnet_shapes()), ('mtan', mtan_shapes())):
    expected = {n: tuple(shape) for n, shape in reference[name].items()}
    assert shapes == expected, name


# ---- Networks and files to import --------------------------------------------


@functools.cache  # tracing takes longer than everything else here
def shapes_of(backbone, tasks, width=1.0, head='dense'):
  """The shapes of the variables of a network."""
  channels = {task: CHANNELS[task] for task in tasks}
  network = make(backbone, channels, head=head, width=width, image_size=SIZE)
  return abstract_init(network, SIZE)[1]


def numbered(shapes):
  """A file whose n-th entry holds the number n throughout, in no memory."""
  return {
    name: np.broadcast_to(np.float32(n), shape)
    for n, (name, shape) in enumerate(shapes.items())
  }


def drawn(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: np.asarray(rng.normal(size=shape), np.float32)
    for name, shape in shapes.items()
  }


def flat(variables):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in jax.tree_util.tree_leaves_with_path(variables)
  }


def origins(variables, shapes):
  """Path of a variable -> name of the entry of a `numbered` file it got."""
  names = list(shapes)
  return {path: names[int(x.flat[0])] for path, x in flat(variables).items()}


def refusal(function, *args, **kwargs):
  with pytest.raises(InputError) as caught:
    function(*args, **kwargs)
  if function is not import_variables:  # they only read files
    assert caught.value.argument == 'path'
  return caught.value


# ---- Whole files -------------------------------------------------------------


@pytest.mark.parametrize(
  'backbone, shapes, tasks, width, unneeded',
  [
    (
      'segnet',
      segnet_shapes(),
      ('depth',),
      1.0,
      ('pred_task1.', 'pred_task3.'),
    ),
    ('segnet', segnet_shapes(), tuple(CHANNELS), 1.0, ()),
    ('mtan', mtan_shapes(), tuple(CHANNELS), 1.0, ()),
    ('mtan', mtan_shapes(single=3), ('normals',), 1.0, ()),
    (
      'mtan',
      mtan_shapes(NARROW),
      ('normals', 'semantic'),  # in another order than the reference's
      NARROW,
      ('encoder_att.1.', 'decoder_att.1.', 'pred_task2.'),
    ),
    (
      'segnet_wide',
      segnet_shapes(WIDE, NARROW),
      tuple(CHANNELS),
      NARROW,
      (),
    ),
    (
      'segnet_deep',
      segnet_shapes(width=NARROW, depth=2),
      ('semantic',),
      NARROW,
      ('pred_task2.', 'pred_task3.'),
    ),
  ],
  ids=[
    'segnet teacher',
    'segnet',
    'mtan',
    'single-task mtan',
    'mtan two of three',
    'segnet_wide',
    'segnet_deep teacher',
  ],
)
def test_every_entry_is_used_or_named(backbone, shapes, tasks, width, unneeded):
  like = shapes_of(backbone, tasks, width)
  variables, ignored = import_variables(numbered(shapes), like, where='file')
  assert shapes_by_name(variables) == shapes_by_name(like)
  used = list(origins(variables, shapes).values())
  assert len(set(used)) == len(used)
  assert {*used, *ignored} == {*shapes}
  assert not {*used} & {*ignored}
  assert {*ignored} == {
    name
    for name in shapes
    if name.endswith('num_batches_tracked')
    or name.startswith(('logsigma', *unneeded))
  }


@pytest.mark.parametrize('layers', [18, 34, 50])
def test_a_resnet_begins_with_torchvisions_weights(layers, tmp_path):
  shapes = resnet_shapes(layers, NARROW)
  weights = drawn(shapes)
  path = tmp_path / 'resnet.safetensors'
  safetensors.numpy.save_file(weights, path)
  like = shapes_of(f'resnet{layers}', ('depth',), NARROW, head='aspp')
  backbone = {kind: like[kind]['backbone'] for kind in like}
  variables = read_backbone(path, like)
  assert shapes_by_name(variables) == shapes_by_name(backbone)
  for x in jax.tree.leaves(variables):
    assert x.dtype == np.float32
  last = variables['params']['layer4_1']
  np.testing.assert_array_equal(
    last['conv2']['kernel'],
    np.einsum('oiyx->yxio', weights['layer4.1.conv2.weight']),
  )
  np.testing.assert_array_equal(
    variables['params']['layer2_0']['downsample_conv']['kernel'],
    weights['layer2.0.downsample.0.weight'][:, :, 0, 0].T,
  )
  np.testing.assert_array_equal(
    variables['batch_stats']['layer2_0']['downsample_norm']['var'],
    weights['layer2.0.downsample.1.running_var'],
  )


def test_a_collection_without_a_part_of_the_backbone_is_left_out(tmp_path):
  shapes = resnet_shapes(18, NARROW)
  path = tmp_path / 'resnet.safetensors'
  safetensors.numpy.save_file(drawn(shapes), path)
  like = shapes_of('resnet18', ('depth',), NARROW, head='aspp')
  whole = read_backbone(path, like)
  more = {**like, 'cache': {'head_depth': like['batch_stats']['head_depth']}}
  variables = read_backbone(path, more)
  jax.tree.map(np.testing.assert_array_equal, variables, whole)


def test_the_names_of_a_resnet_are_all_used():
  shapes = resnet_shapes(50, NARROW)
  like = shapes_of('resnet50', ('depth',), NARROW, head='aspp')
  like = {kind: {'backbone': like[kind]['backbone']} for kind in like}
  variables, ignored = import_variables(numbered(shapes), like, where='file')
  used = origins(variables, shapes)
  assert {*used.values(), *ignored} == {*shapes}
  assert {name for name in ignored if 'num_batches' not in name} == {
    'fc.weight',
    'fc.bias',
  }


# ---- Single entries ----------------------------------------------------------


def test_entries_go_where_the_table_says():
  shapes = mtan_shapes(NARROW)
  like = shapes_of('mtan', tuple(CHANNELS), NARROW)
  variables, _ = import_variables(numbered(shapes), like, where='file')
  found = origins(variables, shapes)
  expected = {
    'encoder_0_0/conv/kernel': 'encoder_block.0.0.weight',
    'encoder_4_0/norm/scale': 'encoder_block.4.1.weight',
    'encoder_0_1/conv/bias': 'conv_block_enc.0.0.bias',
    'encoder_1_1/norm/bias': 'conv_block_enc.1.1.bias',
    'encoder_2_1/conv/kernel': 'conv_block_enc.2.0.0.weight',
    'encoder_2_2/norm/scale': 'conv_block_enc.2.1.1.weight',
    'decoder_3_0/conv/kernel': 'decoder_block.3.0.weight',
    'decoder_1_1/conv/kernel': 'conv_block_dec.1.0.weight',
    'decoder_4_2/conv/kernel': 'conv_block_dec.4.1.0.weight',
    'attention_encoder_3/conv/kernel': 'encoder_block_att.3.0.weight',
    'attention_decoder_0/norm/scale': 'decoder_block_att.0.1.weight',
    'mask_encoder_2_semantic/conv_0/kernel': 'encoder_att.0.2.0.weight',
    'mask_encoder_0_depth/norm_0/bias': 'encoder_att.1.0.1.bias',
    'mask_decoder_4_normals/conv_1/bias': 'decoder_att.2.4.3.bias',
    'mask_decoder_1_depth/norm_1/scale': 'decoder_att.1.1.4.weight',
  }
  for path, name in expected.items():
    assert found[f'params/backbone/{path}'] == name
  statistics = {
    'encoder_2_2/norm/mean': 'conv_block_enc.2.1.1.running_mean',
    'mask_decoder_1_depth/norm_1/var': 'decoder_att.1.1.4.running_var',
  }
  for path, name in statistics.items():
    assert found[f'batch_stats/backbone/{path}'] == name
  assert found['params/head_semantic/conv/kernel'] == 'pred_task1.0.weight'
  assert found['params/head_depth/out/kernel'] == 'pred_task2.1.weight'
  assert found['params/head_normals/out/bias'] == 'pred_task3.1.bias'


def test_the_deep_form_has_two_convolutions_in_a_block():
  shapes = segnet_shapes(width=NARROW, depth=2)
  like = shapes_of('segnet_deep', ('depth',), NARROW)
  variables, _ = import_variables(numbered(shapes), like, where='file')
  found = origins(variables, shapes)
  for path, name in {
    'encoder_3_2/conv/kernel': 'conv_block_enc.3.1.0.weight',
    'encoder_3_2/norm/scale': 'conv_block_enc.3.1.1.weight',
    'encoder_3_2/conv_1/kernel': 'conv_block_enc.3.1.3.weight',
    'encoder_3_2/norm_1/scale': 'conv_block_enc.3.1.4.weight',
    'decoder_0_0/conv_1/bias': 'decoder_block.0.3.bias',
  }.items():
    assert found[f'params/backbone/{path}'] == name


def test_a_single_task_mtan_becomes_the_requested_task():
  shapes = mtan_shapes(NARROW, single=1)
  like = shapes_of('mtan', ('depth',), NARROW)
  variables, _ = import_variables(numbered(shapes), like, where='file')
  found = origins(variables, shapes)
  mask = 'params/backbone/mask_encoder_2_depth/conv_0/kernel'
  assert found[mask] == 'encoder_att.0.2.0.weight'
  assert found['params/head_depth/out/kernel'] == 'pred_task.1.weight'


def test_axes_are_transposed():
  shapes = segnet_shapes(width=NARROW)
  weights = drawn(shapes)
  like = shapes_of('segnet', ('semantic',), NARROW)
  variables, _ = import_variables(weights, like, where='file')
  params, stats = variables['params'], variables['batch_stats']

  kernel = params['backbone']['encoder_1_0']['conv']['kernel']  # [h w i o]
  source = weights['encoder_block.1.0.weight']  # [o i h w]
  assert kernel.shape == (3, 3, 4, 8)
  assert kernel.dtype == np.float32
  assert kernel[0, 2, 3, 7] == source[7, 3, 0, 2]
  assert kernel[2, 1, 0, 5] == source[5, 0, 2, 1]

  matrix = params['head_semantic']['out']['kernel']  # [i o]
  source = weights['pred_task1.1.weight']  # [o i 1 1]
  assert matrix.shape == (4, 13)
  assert matrix[3, 12] == source[12, 3, 0, 0]
  assert matrix[1, 2] == source[2, 1, 0, 0]

  name = 'conv_block_dec.2.1.1'
  norm = params['backbone']['decoder_2_2']['norm']
  np.testing.assert_array_equal(norm['scale'], weights[f'{name}.weight'])
  np.testing.assert_array_equal(norm['bias'], weights[f'{name}.bias'])
  norm = stats['backbone']['decoder_2_2']['norm']
  np.testing.assert_array_equal(norm['mean'], weights[f'{name}.running_mean'])
  np.testing.assert_array_equal(norm['var'], weights[f'{name}.running_var'])


# ---- Files that do not fit ---------------------------------------------------


def test_a_mismatch_names_the_first_entries_and_their_number():
  shapes = segnet_shapes(width=NARROW)
  like = shapes_of('segnet', tuple(CHANNELS), NARROW)
  del shapes['encoder_block.2.0.bias']
  shapes['surplus.weight'] = (5, 6)
  shapes['pred_task1.1.weight'] = (40, 4, 1, 1)
  shapes['pred_task1.1.bias'] = (40,)
  error = refusal(import_variables, numbered(shapes), like, where='my.pth')
  assert '1 missing: encoder_block.2.0.bias [16]' in error.found
  assert '1 unexpected: surplus.weight [5 6]' in error.found
  assert '2 misshaped: ' in error.found
  assert 'pred_task1.1.weight [40 4 1 1] in place of [13 4 1 1]' in error.found
  assert f'of {len(shapes)} entries' in error.found
  assert error.argument == 'weights'
  assert 'my.pth' in error.where
  assert 'segnet of width 0.0625' in error.where
  assert 'semantic 40, depth 1, normals 3' in error.where


def test_a_long_list_of_mismatches_is_cut_short():
  like = shapes_of('segnet', tuple(CHANNELS), NARROW)
  error = refusal(import_variables, numbered({'x': (1,)}), like, where='file')
  assert '168 missing: ' in error.found
  assert error.found.count('[') == 3 + 1
  assert 'none of the known networks' in error.where


@pytest.mark.parametrize(
  'shapes, backbone, what',
  [
    (mtan_shapes(NARROW), 'segnet', 'unexpected'),
    (segnet_shapes(width=NARROW), 'mtan', 'missing'),
    (segnet_shapes(width=NARROW), 'segnet_deep', 'missing'),
    (segnet_shapes(width=NARROW, depth=2), 'segnet', 'unexpected'),
    (segnet_shapes(width=NARROW), 'segnet_wide', 'misshaped'),
    (segnet_shapes(width=2 * NARROW), 'segnet', 'misshaped'),
    (resnet_shapes(18, NARROW), 'segnet', 'missing'),
  ],
)
def test_another_network_is_refused(shapes, backbone, what):
  like = shapes_of(backbone, tuple(CHANNELS), NARROW)
  error = refusal(import_variables, numbered(shapes), like, where='file')
  assert what in error.found


@pytest.mark.parametrize('of, into', [(34, 18), (18, 34), (50, 34), (34, 50)])
def test_another_resnet_is_refused(of, into, tmp_path):
  path = tmp_path / 'resnet.safetensors'
  safetensors.numpy.save_file(drawn(resnet_shapes(of, NARROW)), path)
  like = shapes_of(f'resnet{into}', ('depth',), NARROW, head='aspp')
  error = refusal(read_backbone, path, like)
  assert str(path) in error.where
  assert f'resnet{of} of width 0.0625' in error.where


@pytest.mark.parametrize('channels', [1, 13])
def test_a_single_task_does_not_serve_several(channels):
  shapes = mtan_shapes(NARROW, single=channels)
  like = shapes_of('mtan', tuple(CHANNELS), NARROW)
  error = refusal(import_variables, numbered(shapes), like, where='file')
  assert 'missing: ' in error.found
  assert f'pred_task {channels}' in error.where


def test_a_single_task_of_other_channels_is_refused():
  shapes = mtan_shapes(NARROW, single=13)
  like = shapes_of('mtan', ('depth',), NARROW)
  error = refusal(import_variables, numbered(shapes), like, where='file')
  assert 'pred_task.1.bias [13] in place of [1]' in error.found


@pytest.mark.parametrize('name', ['pred_task2.2.weight', 'encoder_att.1.0.6.x'])
def test_a_further_layer_of_a_wanted_task_is_not_dropped(name):
  shapes = mtan_shapes(NARROW) | {name: (1, 1, 1, 1)}
  like = shapes_of('mtan', ('depth',), NARROW)
  error = refusal(import_variables, numbered(shapes), like, where='file')
  assert f'1 unexpected: {name} [1 1 1 1]' in error.found
  like = shapes_of('mtan', ('normals',), NARROW)
  _, ignored = import_variables(numbered(shapes), like, where='file')
  assert name in ignored


@pytest.mark.parametrize('backbone', ['segnet', 'mtan'])
def test_two_tasks_of_one_name_are_refused(backbone):
  network = make(backbone, {'edges': 1, 'parts': 1}, width=NARROW)
  like = abstract_init(network, SIZE)[1]
  weights = numbered(mtan_shapes(NARROW))
  error = refusal(import_variables, weights, like, where='file')
  assert error.argument == 'like'
  assert 'edges' in error.found and 'parts' in error.found
  with pytest.raises(InputError) as caught:
    torch_shapes(like)
  assert caught.value.argument == 'like'
  # One of them alone may be any task.
  like = abstract_init(network.only('edges'), SIZE)[1]
  assert 'pred_task4.1.bias' in torch_shapes(like)
  assert 'pred_task.1.bias' in torch_shapes(like, single=True)


def test_a_resnet_without_heads_does_not_become_a_network():
  like = shapes_of('resnet18', ('depth',), NARROW, head='aspp')
  weights = numbered(resnet_shapes(18, NARROW))
  error = refusal(import_variables, weights, like, where='file')
  assert 'missing: ' in error.found and 'head_depth.' in error.found
  assert error.argument == 'weights'
  assert 'pretrained' in error.do


# ---- What a file looks like --------------------------------------------------


@pytest.mark.parametrize(
  'shapes, network, width',
  [
    (segnet_shapes(), 'segnet', 1),
    (segnet_shapes(WIDE, 0.5), 'segnet_wide', 0.5),
    (segnet_shapes(depth=2), 'segnet_deep', 1),
    (mtan_shapes(0.25), 'mtan', 0.25),
  ],
)
def test_a_file_of_the_reference_is_recognized(shapes, network, width):
  assert describe(numbered(shapes)) == (network, width, CHANNELS)


@pytest.mark.parametrize('layers', [10, 18, 34, 50])
def test_a_resnet_is_recognized(layers):
  found = describe(numbered(resnet_shapes(layers, 0.5)))
  assert found == (f'resnet{layers}', 0.5, {})
  assert str(found) == f'resnet{layers} of width 0.5'


def test_a_single_task_mtan_is_recognized_without_its_task():
  found = describe(numbered(mtan_shapes(single=3)))
  assert found == ('mtan', 1, {'pred_task': 3})
  assert str(found) == 'mtan of width 1, channels of heads: pred_task 3'


def test_another_file_is_not_recognized():
  assert describe({}) == (None, None, {})
  scalar = {'encoder_block.0.0.weight': np.float32(0)}
  assert describe(scalar).network == 'segnet'  # and does not fail


# ---- Reading .safetensors ----------------------------------------------------


def save_safetensors(path, **arrays):
  safetensors.numpy.save_file(arrays, path)
  return path


def test_safetensors_are_read_as_float32(tmp_path):
  values = np.array([1.0, -0.5], np.float32)
  path = save_safetensors(
    tmp_path / 'x.SAFETENSORS',
    **{
      'module.single': values,
      'module.half': values.astype(np.float16),
      'module.double': values.astype(np.float64),
      'module.brain': values.astype(ml_dtypes.bfloat16),
      'module.count': np.array([3]),
    },
  )
  weights = read_state_dict(path)
  for name in ('single', 'half', 'double', 'brain'):
    assert weights[name].dtype == np.float32
    np.testing.assert_array_equal(weights[name], values)
  assert weights['count'].dtype == np.int64


@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_are_refused(bad, tmp_path):
  path = save_safetensors(
    tmp_path / 'x.safetensors', good=np.ones(2), bad=np.array([1, bad])
  )
  error = refusal(read_state_dict, path)
  assert 'NaN or infinity in bad' in error.found


def test_a_file_without_tensors_is_refused(tmp_path):
  error = refusal(read_state_dict, save_safetensors(tmp_path / 'x.safetensors'))
  assert 'no tensor' in error.found
  assert 'state_dict' in error.do


@pytest.mark.parametrize('kept', [0, 4, 20, 0.5, -1])
def test_damaged_safetensors_are_refused(kept, tmp_path):
  path = save_safetensors(tmp_path / 'x.safetensors', a=np.ones((50, 50)))
  content = path.read_bytes()
  kept = int(kept * len(content)) if isinstance(kept, float) else kept
  path.write_bytes(content[:kept])
  error = refusal(read_state_dict, path)
  assert 'SafetensorError' in error.found
  assert 'copy the file again' in error.do


def test_numbers_that_numpy_lacks_are_refused(tmp_path):
  header = {'a': {'dtype': 'F8_E4M3', 'shape': [2], 'data_offsets': [0, 2]}}
  header = json.dumps(header).encode()
  path = tmp_path / 'x.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + b'ab')
  assert 'float8' in refusal(read_state_dict, path).found


def test_a_path_without_a_file_is_refused(tmp_path):
  error = refusal(read_state_dict, tmp_path / 'none.pth')
  assert (error.found, error.do) == ('no such file', 'correct the path')
  assert refusal(read_state_dict, tmp_path).found == 'a folder of that name'


# ---- Without PyTorch ---------------------------------------------------------


def test_without_pytorch_the_error_names_the_alternatives(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'torch', None)  # `import torch` fails
  path = tmp_path / 'x.pth'
  path.write_bytes(b'anything')
  error = refusal(read_state_dict, path)
  assert 'not installed' in error.found
  assert '[torch]' in error.do
  assert '.safetensors' in error.do
  good = save_safetensors(tmp_path / 'x.safetensors', a=np.ones(2))
  assert [*read_state_dict(good)] == ['a']


def test_importing_the_module_does_not_import_pytorch(monkeypatch):
  imported = set()

  def spy(name, *args, original=builtins.__import__, **kwargs):
    imported.add(name.partition('.')[0])
    return original(name, *args, **kwargs)

  for name in [n for n in sys.modules if n.split('.')[0] == 'mtl_kd_jax']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setattr(builtins, '__import__', spy)
  importlib.import_module('mtl_kd_jax.interop.import_torch')
  assert 'safetensors' in imported
  assert 'torch' not in imported


# ---- Reading .pth ------------------------------------------------------------


@pytest.fixture
def torch():
  return pytest.importorskip('torch')


@pytest.fixture(params=[True, False], ids=['zip', 'before 1.6'])
def save(request, tmp_path, torch):
  """Saves as PyTorch does, in either of its formats."""

  def save(content, name='x.pth'):
    path = tmp_path / name
    torch.save(content, path, _use_new_zipfile_serialization=request.param)
    return path

  return save


@pytest.mark.parametrize('name', ['x.pth', 'x.pt', 'best.pth.tar'])
def test_a_state_dict_is_read(name, save, torch):
  model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
  weights = read_state_dict(save(model.state_dict(), name))
  assert weights.keys() == model.state_dict().keys()
  np.testing.assert_array_equal(
    weights['0.weight'], model[0].weight.detach().numpy()
  )
  assert weights['1.num_batches_tracked'].shape == ()


def test_a_checkpoint_of_the_reference_is_read(save, torch):
  model = torch.nn.DataParallel(torch.nn.Linear(2, 3))
  # The state dict of an Adam; making one would import half of PyTorch.
  adam = {
    'state': {0: {'step': torch.tensor(1.0), 'exp_avg': torch.ones(3, 2)}},
    'param_groups': [
      {'lr': 1e-3, 'betas': (0.9, 0.999), 'foreach': None, 'params': [0, 1]}
    ],
  }
  weights = read_state_dict(
    save(
      {
        'epoch': 7,
        'state_dict': model.state_dict(),
        'best_loss': np.float32(0.5),
        'optimizer': adam,
      }
    )
  )
  assert {name: x.shape for name, x in weights.items()} == {
    'weight': (3, 2),
    'bias': (3,),
  }


def test_numbers_of_an_older_numpy_are_read(tmp_path, torch):
  path = tmp_path / 'x.pth'
  torch.save(
    {'state_dict': {'a': torch.ones(2)}, 'best_loss': np.float64(0.5)},
    path,
    _use_new_zipfile_serialization=False,
  )
  content = path.read_bytes()
  assert b'numpy._core.multiarray' in content
  path.write_bytes(content.replace(b'numpy._core', b'numpy.core'))
  assert [*read_state_dict(path)] == ['a']


def test_tensors_are_read_as_float32(save, torch):
  values = torch.tensor([1.0, -0.5])
  parts = {
    'half': values.half(),
    'brain': values.bfloat16(),
    'double': values.double(),
    'parameter': torch.nn.Parameter(values),
  }
  weights = read_state_dict(save(parts))
  assert weights.keys() == parts.keys()
  for x in weights.values():
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [1.0, -0.5])


def test_a_tensor_that_is_not_finite_is_refused(save, torch):
  path = save({'a': torch.ones(2), 'b': torch.tensor([1, float('nan')])})
  assert 'NaN or infinity in b' in refusal(read_state_dict, path).found


@pytest.mark.parametrize(
  'make',
  [
    lambda torch: {},
    lambda torch: {'epoch': 3},
    lambda torch: {'state_dict': {}},
    lambda torch: {'model': {'a': torch.ones(2)}},
    lambda torch: [torch.ones(2)],
    lambda torch: torch.ones(2),
  ],
)
def test_a_file_without_a_state_dict_is_refused(make, save, torch):
  error = refusal(read_state_dict, save(make(torch)))
  assert 'no tensor' in error.found
  assert 'state_dict' in error.do


def test_tensors_that_numpy_lacks_are_refused(save, torch):
  error = refusal(read_state_dict, save({'a': torch.eye(2).to_sparse()}))
  assert 'Sparse' in error.found


@pytest.mark.parametrize('kept', [0, 10, 300, 0.5, 0.9, -1])
def test_a_damaged_file_is_refused(kept, save, torch):
  path = save({f'layer{i}': torch.ones(50, 50) for i in range(5)})
  content = path.read_bytes()
  kept = int(kept * len(content)) if isinstance(kept, float) else kept
  path.write_bytes(content[:kept])
  error = refusal(read_state_dict, path)
  assert 'copy the file again' in error.do


@pytest.mark.parametrize('text', ['', '<!DOCTYPE html>', 'some other file\n'])
def test_another_kind_of_file_is_refused(text, tmp_path, torch):
  path = tmp_path / 'x.pth'
  path.write_text(text)
  error = refusal(read_state_dict, path)
  assert 'weights_only' not in str(error)  # no advice to do without protection
  assert str(path) in error.where


# ---- Files that hold code ----------------------------------------------------


class Malicious:
  """Whoever unpickles it writes a file."""

  def __init__(self, trace: pathlib.Path):
    self.trace = trace

  def __reduce__(self):
    return exec, (f'open({str(self.trace)!r}, "w").close()',)


def test_code_is_refused_and_not_run(save, tmp_path, torch):
  trace = tmp_path / 'was_run'
  path = save({'extra': Malicious(trace), 'state_dict': {'a': torch.ones(2)}})
  error = refusal(read_state_dict, path)
  assert not trace.exists()
  assert 'exec' in error.found
  assert 'the file was refused, and none of it was run' in error.found
  assert 'save only model.state_dict()' in error.do
  assert 'weights_only' not in str(error)  # no advice to do without protection
  # It is what it pretends to be.
  torch.load(path, weights_only=False)
  assert trace.exists()


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_is_refused_and_not_run(protocol, tmp_path, torch):
  trace = tmp_path / 'was_run'
  path = tmp_path / 'x.pth'
  content = pickle.dumps(Malicious(trace), protocol)
  path.write_bytes(content)
  error = refusal(read_state_dict, path)
  assert not trace.exists()
  assert 'save only model.state_dict()' in error.do
  pickle.loads(content)
  assert trace.exists()


def test_code_among_the_numbers_of_numpy_is_not_run(tmp_path, torch):
  """What is allowed for a `best_loss` does not let anything else in."""
  trace = tmp_path / 'was_run'

  class Number:
    def __reduce__(self):
      scalar = np._core.multiarray.scalar
      return scalar, (np.dtype(object), Malicious(trace))

  path = tmp_path / 'x.pth'
  torch.save({'state_dict': {'a': torch.ones(2)}, 'best_loss': Number()}, path)
  assert 'save only model.state_dict()' in refusal(read_state_dict, path).do
  assert not trace.exists()


def test_what_is_allowed_is_allowed_for_one_file_only(save, torch):
  before = set(torch.serialization.get_safe_globals())
  read_state_dict(save({'a': torch.ones(2), 'best_loss': np.float32(1)}))
  assert set(torch.serialization.get_safe_globals()) == before


def test_a_whole_model_is_refused(save, torch):
  error = refusal(read_state_dict, save(torch.nn.Linear(2, 3)))
  assert 'torch.nn.modules.linear.Linear' in error.found
  assert 'save only model.state_dict()' in error.do
