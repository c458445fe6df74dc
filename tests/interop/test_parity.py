"""This project's networks and step against the same in PyTorch."""

import functools

from fixtures.samples import LABELS, random_batch
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip('torch')

from fixtures import torch_twin as twin

from mtl_kd_jax import models
from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.distillation import Teacher, make_adaptors, make_loss
from mtl_kd_jax.interop.import_torch import import_variables, torch_shapes
from mtl_kd_jax.models import Output, resnet, segnet
from mtl_kd_jax.models.features import taps_of, task_tap
from mtl_kd_jax.models.network import BACKBONE, abstract_init, feature_shapes
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.ops.pooling import max_pool, max_unpool
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import (
  ADAPTORS,
  ExtraNetwork,
  alignment_terms,
  task_terms,
)
from mtl_kd_jax.training.optim import make_adam, make_schedule
from mtl_kd_jax.training.state import NETWORK, TrainState
from mtl_kd_jax.training.step import train_step

SIZE = (32, 64)
TASKS = make_tasks(twin.TASKS, LABELS, dataset='toy')
TAPS = ('bottleneck', 'decoder')
TWINS = {
  'segnet': twin.segnet,
  'segnet_wide': twin.segnet,
  'segnet_deep': twin.segnet,
  'mtan': twin.mtan,
}


@pytest.fixture
def float64():
  """In float64 rounding errors are far below any other difference."""
  with jax.enable_x64(True):
    yield


def make(backbone, tasks=twin.TASKS, **options):
  """A network at width 1/16."""
  return models.make(
    backbone,
    {task: TASKS[task] for task in tasks},
    width=1 / 16,
    image_size=SIZE,
    **options,
  )


def weights_for(like, *, seed, single=False):
  """A random state dict with the names and shapes that `like` is made from."""
  shapes = torch_shapes(like, single=single)
  return twin.random_weights(shapes, seed)


def to_jax(weights, like):
  """Our variables with those weights, in float64."""
  arrays = {name: x.detach().numpy() for name, x in weights.items()}
  variables, _ = import_variables(arrays, like, where='a test')
  return jax.tree.map(jnp.float64, variables)


def to_torch(weights):
  return {
    name: x.double() if x.is_floating_point() else x
    for name, x in weights.items()
  }


def nchw(x):
  return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def nhwc(x):
  return np.moveaxis(x.detach().numpy(), 1, -1)


def make_batch(seed):
  """A batch for this project and the same for PyTorch, in float64."""
  batch = random_batch(2, SIZE, seed)
  ours = {
    name: x.astype(np.float64) if x.dtype == np.float32 else x
    for name, x in batch.items()
  }
  theirs = {name: nchw(x) for name, x in ours.items() if x.ndim == 4}
  theirs['semantic'] = torch.from_numpy(ours['semantic']).long()
  return ours, theirs


def close(x, y, tolerance=1e-7, err_msg=''):
  """Differences are measured by the largest number of an array, at least 1.

  Sums of many terms cancel in some of its elements and not in others, and in
  all of them where the gradient vanishes (a bias in front of BatchNorm).
  """
  largest = np.abs(y).max()
  np.testing.assert_allclose(
    x, y, rtol=0, atol=tolerance * max(largest, 1), err_msg=err_msg
  )


# Compiling takes longer than all the computing.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


# ---- Details that differ between the frameworks, in float32 ------------------


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_running_statistics_move_as_pytorchs():
  """Momentum 0.1 of the new, unbiased variance recorded, epsilon 1e-5."""
  w = {
    'n.weight': torch.from_numpy(draw(5)),
    'n.bias': torch.from_numpy(draw(5, seed=1)),
    'n.running_mean': torch.from_numpy(draw(5, seed=2)),
    'n.running_var': torch.from_numpy(draw(5, seed=3) ** 2),
  }
  variables = {
    'params': {'scale': w['n.weight'].numpy(), 'bias': w['n.bias'].numpy()},
    'batch_stats': {
      'mean': w['n.running_mean'].numpy().copy(),
      'var': w['n.running_var'].numpy().copy(),
    },
  }
  for i in range(3):
    x = 3 + draw(2, 2, 3, 5, seed=4 + i) * 0.01  # where epsilon shows
    y, variables_after = BatchNorm(use_running_average=False).apply(
      variables, x, mutable=['batch_stats']
    )
    variables |= variables_after
    close(y, nhwc(twin.norm(w, 'n', nchw(x), True)), 1e-4)
  close(variables['batch_stats']['mean'], w['n.running_mean'].numpy(), 1e-6)
  close(variables['batch_stats']['var'], w['n.running_var'].numpy(), 1e-6)
  evaluated = BatchNorm(use_running_average=True).apply(variables, x)
  close(evaluated, nhwc(twin.norm(w, 'n', nchw(x), False)), 1e-5)


def test_pooling_with_ties_takes_pytorchs_positions():
  # Many ties: values from {0, 1}, as a ReLU makes of zeros.
  x = np.random.default_rng(0).integers(0, 2, (2, 8, 12, 3)).astype(np.float32)
  value, position = max_pool(x)
  pooled, places = torch.nn.functional.max_pool2d(
    nchw(x), 2, 2, return_indices=True
  )
  np.testing.assert_array_equal(value, nhwc(pooled))
  y = draw(*value.shape)
  theirs = torch.nn.functional.max_unpool2d(nchw(y), places, 2, 2)
  np.testing.assert_array_equal(max_unpool(y, position), nhwc(theirs))


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(6, 8), (7, 5), (2, 3), (96, 128)], ids=str)
def test_resizing_is_pytorchs_interpolate(size, align_corners):
  x = draw(2, 3, 4, 5)
  theirs = torch.nn.functional.interpolate(
    nchw(x), size=size, mode='bilinear', align_corners=align_corners
  )
  ours = resize_bilinear(x, size, align_corners=align_corners)
  close(ours, nhwc(theirs), 1e-6)


def test_adams_weight_decay_is_added_to_the_gradient():
  x, gradients = draw(7), draw(5, 7, seed=1)
  tx = make_adam(0.1, weight_decay=0.3)
  ours, state = jnp.asarray(x), tx.init(x)
  theirs = torch.from_numpy(x.copy()).requires_grad_()
  optimizer = torch.optim.Adam([theirs], 0.1, weight_decay=0.3)
  for g in gradients:
    update, state = tx.update(jnp.asarray(g), state, ours)
    ours = optax.apply_updates(ours, update)
    theirs.grad = torch.from_numpy(g)
    optimizer.step()
  # optax's bias corrections are float32: 3e-5 of the first steps.
  close(ours, theirs.detach().numpy(), 1e-5)


def test_the_step_schedule_counts_epochs():
  steps_per_epoch, decay_every_epochs = 3, 2
  schedule = make_schedule(
    'step',
    0.1,
    steps_per_epoch=steps_per_epoch,
    epochs=6,
    decay_every_epochs=decay_every_epochs,
    decay_rate=0.5,
  )
  optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
  theirs = torch.optim.lr_scheduler.StepLR(optimizer, decay_every_epochs, 0.5)
  for step in range(6 * steps_per_epoch):
    expected = optimizer.param_groups[0]['lr']
    assert schedule(step) == pytest.approx(expected, rel=1e-6), step
    optimizer.step()
    if (step + 1) % steps_per_epoch == 0:
      theirs.step()


@pytest.mark.parametrize('unlabeled', [0, 0.5, 1], ids='share {}'.format)
def test_masked_losses_are_pytorchs(unlabeled):
  rng = np.random.default_rng(0)
  batch = random_batch(2, (4, 6))
  missing = rng.random((2, 4, 6)) < unlabeled
  for task, label in LABELS.items():
    batch[task][missing] = label.missing((1, 1))[0, 0]
  predictions = {t: draw(2, 4, 6, part.channels) for t, part in TASKS.items()}
  theirs = {
    name: torch.from_numpy(x).long() if x.ndim == 3 else nchw(x)
    for name, x in batch.items()
  }
  expected = twin.task_losses(
    {t: nchw(x) for t, x in predictions.items()}, theirs
  )
  losses = {
    term.objective: term.fn(Output(predictions, {}), {}, batch, {})
    for term in task_terms(TASKS)
  }
  assert losses.keys() == expected.keys()
  for task, x in losses.items():
    close(x, expected[task].item(), 1e-6, task)
  if unlabeled == 1:
    assert not any(losses.values())


@pytest.mark.parametrize('scale', [1e-4, 1.0], ids='scale {}'.format)
@pytest.mark.parametrize('size', [(3, 4), (6, 8)], ids=str)
def test_the_alignment_loss_is_pytorchs(size, scale):
  # At the smaller scale the epsilon counts; the student's map is the smaller.
  a, b = scale * draw(2, 3, 4, 5), scale * draw(2, *size, 5, seed=1)
  kernel = draw(5, 5, seed=2)
  theirs = twin.alignment(
    {'tap': torch.from_numpy(kernel.T[..., None, None].copy())},
    {'tap': nchw(a)},
    {'tap': nchw(b)},
  )
  loss = make_loss('feature_l2')
  close(loss(a @ kernel, b), theirs.item(), 1e-5)


# ---- Whole networks ----------------------------------------------------------


def scalar(outputs, module):
  """A function of all outputs that is symmetric in none of them."""
  return sum(module.sin(3 * x).sum() for x in outputs)


@pytest.mark.parametrize(
  'backbone, tasks, blocks',
  [
    ('segnet', twin.TASKS, segnet._BLOCKS),
    ('segnet_deep', ('depth',), (1,) * 5),
    # A mask is computed from the first map of a level and multiplies the last.
    ('mtan', ('normals',), (2,) * 5),
  ],
  ids=['segnet', 'segnet_deep', 'mtan'],
)
def test_outputs_statistics_and_gradients_are_pytorchs(
  backbone, tasks, blocks, float64, monkeypatch
):
  monkeypatch.setattr(segnet, '_BLOCKS', blocks)
  network = make(backbone, tasks)
  _, like = abstract_init(network, SIZE)
  single = backbone == 'mtan' and len(tasks) == 1
  weights = weights_for(like, seed=0, single=single)
  variables, w = to_jax(weights, like), to_torch(weights)
  ours, theirs = make_batch(0)

  def flat(output):
    features = {
      task_tap(tap, task): taps_of(output.features, task)[tap]
      for task in tasks
      for tap in TAPS
    }
    return output.predictions | features

  @jit
  def run(variables, image):
    def loss(params):
      output, updated = network.apply(
        variables | {'params': params},
        image,
        train=True,
        mutable=['batch_stats'],
      )
      outputs = flat(output)
      return scalar(outputs.values(), jnp), (outputs, updated)

    evaluated = flat(network.apply(variables, image, train=False))
    gradient, (trained, updated) = jax.grad(loss, has_aux=True)(
      variables['params']
    )
    return evaluated, trained, {'params': gradient, **updated}

  evaluated, trained, after = run(variables, ours['image'])

  def run_twin(train):
    predicted, features = TWINS[backbone](w, theirs['image'], train, tasks)
    return predicted | {
      task_tap(tap, task): features[task][tap] for task in tasks for tap in TAPS
    }

  expected = run_twin(False)
  assert expected.keys() == evaluated.keys()
  for name, x in evaluated.items():
    close(x, nhwc(expected[name]), err_msg=f'evaluated {name}')
  for name, x in w.items():
    if name.endswith(('.weight', '.bias')):
      x.requires_grad_()
  expected = run_twin(True)
  for name, x in trained.items():
    close(x, nhwc(expected[name]), err_msg=f'trained {name}')
  # In the order of ours, so that the sums are the same.
  scalar([expected[name] for name in trained], torch).backward()
  moved = {
    name: x.grad if x.requires_grad else x
    for name, x in w.items()
    if x.is_floating_point()
  }
  assert_same_variables(after, moved, like)


def assert_same_variables(ours, theirs, like, tolerance=1e-6):
  """Compares trees of this project with tensors by their PyTorch names."""
  arrays = {name: x.detach().numpy() for name, x in theirs.items()}
  wanted = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64), like
  )
  expected, _ = import_variables(arrays, wanted, where='a test')
  jax.tree_util.tree_map_with_path(
    lambda path, x, y: close(x, y, tolerance, jax.tree_util.keystr(path)),
    dict(ours),
    expected,
  )


@pytest.mark.parametrize('layers, output_stride', [(18, 16), (50, 8)])
def test_resnets_are_pytorchs(layers, output_stride, float64):
  network = make(
    f'resnet{layers}', ('depth',), head='aspp', output_stride=output_stride
  )
  _, full = abstract_init(network, SIZE)
  like = {kind: {BACKBONE: full[kind][BACKBONE]} for kind in full}
  weights = weights_for(like, seed=1)
  variables, w = to_jax(weights, like), to_torch(weights)
  ours, theirs = make_batch(1)
  backbone = network.backbone

  @jit
  def run(variables, image):
    variables = {kind: x[BACKBONE] for kind, x in variables.items()}

    def loss(params):
      features, updated = backbone.apply(
        variables | {'params': params},
        image,
        tasks=(),
        train=True,
        mutable=['batch_stats'],
      )
      return scalar(features.values(), jnp), (features, updated)

    evaluated = backbone.apply(variables, image, tasks=(), train=False)
    gradient, (trained, updated) = jax.grad(loss, has_aux=True)(
      variables['params']
    )
    after = {'params': gradient, **updated}
    return evaluated, trained, {k: {BACKBONE: x} for k, x in after.items()}

  evaluated, trained, after = run(variables, ours['image'])
  run_twin = functools.partial(
    twin.resnet, w, theirs['image'], layers=layers, output_stride=output_stride
  )
  for name, x in run_twin(False).items():
    close(evaluated[name], nhwc(x), err_msg=name)
  for name, x in w.items():
    if name.endswith(('.weight', '.bias')):
      x.requires_grad_()
  expected = run_twin(True)
  for name, x in expected.items():
    close(trained[name], nhwc(x), err_msg=name)
  scalar(expected.values(), torch).backward()
  moved = {n: x.grad if x.requires_grad else x for n, x in w.items()}
  assert_same_variables(after, moved, like)


# ---- Ten steps ---------------------------------------------------------------


LEARNING_RATE, ADAPTOR_LEARNING_RATE = 1e-4, 1e-2
STEPS_PER_EPOCH = 4  # the learning rate is halved after every epoch


def make_parts(backbone, tasks, batch_norm):
  """What `train_step` is given by keyword."""
  network = make(backbone, tasks)
  teachers = {t: Teacher(make(backbone, (t,)), batch_norm) for t in tasks}
  student = feature_shapes(network, SIZE)
  adaptors = make_adaptors(
    TAPS,
    student.all,
    {t: feature_shapes(x.network, SIZE).all for t, x in teachers.items()},
  )
  terms = task_terms({task: TASKS[task] for task in tasks}) + alignment_terms(
    adaptors,
    twin.LAMBDAS,
    make_loss('feature_l2'),
    head_taps=tuple(student.heads),
  )
  schedule = make_schedule(
    'step',
    LEARNING_RATE,
    steps_per_epoch=STEPS_PER_EPOCH,
    epochs=10,
    decay_every_epochs=1,
    decay_rate=0.5,
  )
  adaptor_tx = make_adam(ADAPTOR_LEARNING_RATE, weight_decay=5e-4)
  parts = {
    'network': network,
    'terms': terms,
    'tx': make_adam(schedule, weight_decay=0),
    'balancer': make_balancer('uniform'),
    'seed': 0,
    'teachers': teachers,
    'extras': {ADAPTORS: ExtraNetwork(adaptors.init, adaptor_tx)},
  }
  return parts, adaptors


def draw_adaptors(adaptors):
  """The same kernels for both: name -> kernel, and task -> tap -> kernel."""
  rng = np.random.default_rng(0)
  ours, theirs = {}, {}
  for task, alignment in adaptors.alignments.items():
    theirs[task] = {}
    for pair, channels in alignment.channels.items():
      kernel = rng.normal(size=(channels, channels)) / np.sqrt(channels)
      ours[f'{task}_{pair}'] = {'kernel': jnp.asarray(kernel)}
      turned = kernel.T[..., None, None].copy()
      theirs[task][pair.student] = torch.from_numpy(turned)
  return ours, theirs


def make_state(parts, variables, adaptors):
  """The state of the step before it begins."""
  params = variables['params']
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    collections={'batch_stats': variables['batch_stats']},
    extras={ADAPTORS: {'params': adaptors}},
    opt_state={
      NETWORK: parts['tx'].init(params),
      ADAPTORS: parts['extras'][ADAPTORS].tx.init(adaptors),
    },
    balancer_state=(),
  )
  init_balancer = balancer_init(parts['balancer'], parts['terms'])
  return state.replace(balancer_state=init_balancer(state))


@pytest.mark.parametrize(
  'backbone, tasks, batch_norm',
  [
    ('segnet', twin.TASKS, 'batch'),
    ('mtan', ('depth', 'normals'), 'running'),
  ],
)
def test_ten_distilled_steps_are_pytorchs(
  backbone, tasks, batch_norm, float64, shallow
):
  parts, adaptors = make_parts(backbone, tasks, batch_norm)
  _, like = abstract_init(parts['network'], SIZE)
  student = weights_for(like, seed=2)
  frozen, their_teachers = {}, {}
  for i, (task, teacher) in enumerate(parts['teachers'].items()):
    _, teacher_like = abstract_init(teacher.network, SIZE)
    single = backbone == 'mtan'
    weights = weights_for(teacher_like, seed=3 + i, single=single)
    frozen[task] = to_jax(weights, teacher_like)
    their_teachers[task] = to_torch(weights)
  kernels, their_kernels = draw_adaptors(adaptors)
  state = make_state(parts, to_jax(student, like), kernels)
  theirs = twin.DistilledStep(
    TWINS[backbone],
    to_torch(student),
    their_teachers,
    their_kernels,
    learning_rate=LEARNING_RATE,
    adaptor_learning_rate=ADAPTOR_LEARNING_RATE,
    batch_norm=batch_norm,
    step_size=1,
  )
  compiled = jit(functools.partial(train_step, **parts))
  for i in range(10):
    batch, their_batch = make_batch(10 + i)
    if i == 3:  # no label of a task at all
      batch['depth'][:] = 0
      their_batch['depth'][:] = 0
    state, measured = compiled(state, frozen, batch)
    expected = theirs.step(their_batch)
    for name, x in expected.items():
      close(measured[name], x.item(), 1e-6, f'{name}, step {i}')
    if (i + 1) % STEPS_PER_EPOCH == 0:
      theirs.epoch()
  assert_same_variables(state.variables, theirs.student, like, 1e-5)
  trained = state.extras[ADAPTORS]['params']
  for task, alignment in adaptors.alignments.items():
    for pair in alignment.channels:
      kernel = their_kernels[task][pair.student].detach().numpy()
      close(trained[f'{task}_{pair}']['kernel'], kernel[..., 0, 0].T, 1e-5)


def test_a_deeplab_network_agrees(monkeypatch, float64):
  """Predictions and aligned features of two tasks, by the running statistics.

  The parts in training: test_deeplab_parity.py, and the ResNets above.
  """
  monkeypatch.setattr(resnet, '_BLOCKS', {50: (1, 1, 1, 1)})
  tasks = ('semantic', 'normals')
  network = make('resnet50', tasks, head='aspp')
  _, like = abstract_init(network, SIZE)
  w = to_torch(weights_for(like, seed=0))
  ours, theirs = make_batch(0)
  output = jit(functools.partial(network.apply, train=False))(
    to_jax(w, like), ours['image']
  )
  found, features = twin.resnet50_deeplab(w, theirs['image'], False, tasks)
  for task in tasks:
    close(output.predictions[task], nhwc(found[task]), err_msg=task)
    for tap, x in taps_of(output.features, task).items():
      if tap in ('layer4', 'decoder'):
        close(x, nhwc(features[task][tap]), err_msg=f'{task} {tap}')
