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
from mtl_kd_jax.distillation.alignment import (
  Distillation,
  alignment_loss,
  make_adaptors,
)

from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.interop.import_torch import import_variables, torch_shapes
from mtl_kd_jax.models.features import taps_of, task_tap
from mtl_kd_jax.models.network import make_network
from mtl_kd_jax.ops.norm import BatchNorm
from mtl_kd_jax.ops.pooling import max_pool, max_unpool
from mtl_kd_jax.ops.resize import resize_bilinear
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.optim import (
  make_adam,
  make_schedule,
  make_student_optimizer,
)
from mtl_kd_jax.training.state import TrainState, feature_shapes, network_shapes
from mtl_kd_jax.training.step import task_losses, train_step

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
  """In float64 the two can be told apart from rounding."""
  with jax.enable_x64(True):
    yield


def make(backbone, tasks=twin.TASKS, **options):
  """A network at width 1/16."""
  options = {
    'head': 'dense',
    'width': 1 / 16,
    'output_stride': 8,
    'channels': {task: TASKS[task].channels for task in tasks},
    'image_size': SIZE,
  } | options
  return make_network(backbone=backbone, **options)


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
  """The same batch for both, in float64."""
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
  steps_per_epoch, step_epochs = 3, 2
  schedule = make_schedule(
    'step',
    0.1,
    steps_per_epoch=steps_per_epoch,
    epochs=6,
    step_epochs=step_epochs,
    step_factor=0.5,
  )
  optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
  theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_epochs, 0.5)
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
  losses = task_losses(predictions, batch, TASKS)
  for task, x in losses.items():
    close(x, expected[task].item(), 1e-6, task)
  if unlabeled == 1:
    assert not any(losses.values())


@pytest.mark.parametrize('scale', [1e-4, 1.0], ids='scale {}'.format)
def test_the_alignment_loss_is_pytorchs(scale):
  # At the smaller scale the epsilon counts.
  a, b = scale * draw(2, 3, 4, 5), scale * draw(2, 3, 4, 5, seed=1)
  kernel = draw(5, 5, seed=2)
  theirs = twin.alignment(
    {'tap': torch.from_numpy(kernel.T[..., None, None].copy())},
    {'tap': nchw(a)},
    {'tap': nchw(b)},
  )
  close(alignment_loss(a @ kernel, b), theirs.item(), 1e-5)


# ---- Whole networks ----------------------------------------------------------


def scalar(outputs, module):
  """A function of all outputs that is symmetric in none of them."""
  return sum(module.sin(3 * x).sum() for x in outputs)


@pytest.mark.parametrize(
  'backbone, tasks',
  [
    ('segnet', twin.TASKS),
    ('segnet_deep', ('depth',)),
    ('mtan', ('normals',)),
  ],
)
def test_outputs_statistics_and_gradients_are_pytorchs(
  backbone, tasks, float64
):
  network = make(backbone, tasks)
  _, like = network_shapes(network, SIZE)
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

  def ask(train):
    predicted, features = TWINS[backbone](w, theirs['image'], train, tasks)
    return predicted | {
      task_tap(tap, task): features[task][tap] for task in tasks for tap in TAPS
    }

  expected = ask(False)
  assert expected.keys() == evaluated.keys()
  for name, x in evaluated.items():
    close(x, nhwc(expected[name]), err_msg=f'evaluated {name}')
  for name, x in w.items():
    if name.endswith(('.weight', '.bias')):
      x.requires_grad_()
  expected = ask(True)
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
  """Compares trees of ours with tensors by their names in PyTorch."""
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
  _, full = network_shapes(network, SIZE)
  like = {kind: {'backbone': full[kind]['backbone']} for kind in full}
  weights = weights_for(like, seed=1)
  variables, w = to_jax(weights, like), to_torch(weights)
  ours, theirs = make_batch(1)
  backbone = network.backbone

  @jit
  def run(variables, image):
    variables = {kind: x['backbone'] for kind, x in variables.items()}

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
    return evaluated, trained, {k: {'backbone': x} for k, x in after.items()}

  evaluated, trained, after = run(variables, ours['image'])
  ask = functools.partial(
    twin.resnet, w, theirs['image'], layers=layers, output_stride=output_stride
  )
  for name, x in ask(False).items():
    close(evaluated[name], nhwc(x), err_msg=name)
  for name, x in w.items():
    if name.endswith(('.weight', '.bias')):
      x.requires_grad_()
  expected = ask(True)
  for name, x in expected.items():
    close(trained[name], nhwc(x), err_msg=name)
  scalar(expected.values(), torch).backward()
  moved = {n: x.grad if x.requires_grad else x for n, x in w.items()}
  assert_same_variables(after, moved, like)


# ---- Ten steps ---------------------------------------------------------------


LEARNING_RATE = 1e-4
STEPS_PER_EPOCH = 4  # the learning rate is halved after every epoch


def make_step(backbone, tasks, batch_norm):
  """Our step, and its parts."""
  network = make(backbone, tasks)
  teachers = {task: make(backbone, (task,)) for task in tasks}
  distillation = Distillation(
    teachers=teachers,
    adaptors=make_adaptors(
      TAPS,
      feature_shapes(network, SIZE),
      {task: feature_shapes(n, SIZE) for task, n in teachers.items()},
    ),
    weights={task: twin.LAMBDAS[task] for task in tasks},
    batch_norm=batch_norm,
  )
  schedule = make_schedule(
    'step',
    LEARNING_RATE,
    steps_per_epoch=STEPS_PER_EPOCH,
    epochs=10,
    step_epochs=1,
    step_factor=0.5,
  )
  tx = make_student_optimizer(
    make_adam(schedule, weight_decay=0), make_adam(1e-2, weight_decay=5e-4)
  )
  step = functools.partial(
    train_step,
    network=network,
    tasks={task: TASKS[task] for task in tasks},
    balancer=make_balancer('uniform'),
    tx=tx,
    seed=0,
    distillation=distillation,
  )
  return step, network, distillation, tx


@pytest.mark.parametrize(
  'backbone, tasks, batch_norm',
  [
    ('segnet', twin.TASKS, 'batch'),
    ('mtan', ('depth', 'normals'), 'running'),
  ],
)
def test_ten_distilled_steps_are_pytorchs(backbone, tasks, batch_norm, float64):
  step, network, distillation, tx = make_step(backbone, tasks, batch_norm)
  _, like = network_shapes(network, SIZE)
  student = weights_for(like, seed=2)
  variables = to_jax(student, like)
  teachers, their_teachers = {}, {}
  for i, (task, teacher) in enumerate(distillation.teachers.items()):
    _, teacher_like = network_shapes(teacher, SIZE)
    single = backbone == 'mtan'
    weights = weights_for(teacher_like, seed=3 + i, single=single)
    teachers[task] = to_jax(weights, teacher_like)
    their_teachers[task] = to_torch(weights)
  adaptors = {}
  rng = np.random.default_rng(0)
  for task, pairs in distillation.adaptors.channels.items():
    for pair, channels in pairs.items():
      kernel = rng.normal(size=(channels, channels)) / np.sqrt(channels)
      adaptors[f'{task}_{pair}'] = {'kernel': jnp.asarray(kernel)}
  their_adaptors = {
    task: {
      pair.student: torch.from_numpy(
        np.asarray(adaptors[f'{task}_{pair}']['kernel'])
        .T[..., None, None]
        .copy()
      )
      for pair in pairs
    }
    for task, pairs in distillation.adaptors.channels.items()
  }
  params = {**variables['params'], 'adaptors': adaptors}
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables['batch_stats'],
    opt_state=tx.init(params),
    balancer_state=(),
  )
  theirs = twin.DistilledStep(
    TWINS[backbone],
    to_torch(student),
    their_teachers,
    their_adaptors,
    learning_rate=LEARNING_RATE,
    adaptor_learning_rate=1e-2,
    batch_norm=batch_norm,
    step_size=1,
  )
  compiled = jit(step)
  for i in range(10):
    batch, their_batch = make_batch(10 + i)
    if i == 3:  # no label of a task at all
      batch['depth'][:] = 0
      their_batch['depth'][:] = 0
    state, losses = compiled(state, teachers, batch)
    expected = theirs.step(their_batch)
    for name, x in expected.items():
      close(losses[name], x.item(), 1e-6, f'{name}, step {i}')
    if (i + 1) % STEPS_PER_EPOCH == 0:
      theirs.epoch()
  assert_same_variables(state.variables, theirs.student, like, 1e-5)
  for task, taps in their_adaptors.items():
    for pair in distillation.adaptors.channels[task]:
      close(
        state.params['adaptors'][f'{task}_{pair}']['kernel'],
        taps[pair.student].detach().numpy()[..., 0, 0].T,
        1e-5,
      )
