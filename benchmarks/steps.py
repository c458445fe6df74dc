"""Training steps as the shipped configs have them, put together without one.

The networks are those of configs/nyuv2.py: 'kd4mtl' (segnet), 'mtan' and
'deeplab' (ResNet-50, output stride 8). Only parts below the config are used, so
that nothing but JAX, Flax and optax has to be installed; and no number is drawn
with JAX, so that nothing is compiled but what is to be measured.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from batches import make_batch
import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax import balancing, distillation, models
from mtl_kd_jax.distillation import Teacher
from mtl_kd_jax.labels import Label
from mtl_kd_jax.models.network import Network, feature_shapes
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.computation import PLAIN, Computation
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import (
  ADAPTORS,
  ExtraNetwork,
  alignment_terms,
  task_terms,
)
from mtl_kd_jax.training.optim import make_adam
from mtl_kd_jax.training.state import TrainState, init_state
from mtl_kd_jax.training.step import teacher_outputs, train_step

LABELS = {
  'semantic': Label('class', classes=tuple(map(str, range(13)))),
  'depth': Label('depth', unit='m'),
  'normals': Label('normal'),
}
TASKS = make_tasks(LABELS, LABELS, dataset='synthetic')
LAMBDAS = {'semantic': 1.0, 'depth': 1.0, 'normals': 2.0}


class Recipe(NamedTuple):
  """What a network is made of, and which of its features are aligned."""

  backbone: str
  head: str
  taps: tuple[str, ...]


NETWORKS = {
  'segnet': Recipe('segnet', 'dense', ('bottleneck', 'decoder')),
  'mtan': Recipe('mtan', 'dense', ('bottleneck', 'decoder')),
  'deeplab': Recipe('resnet50', 'aspp', ('layer4', 'decoder')),
}
# One task; all, uniformly weighted; with teachers; with teachers, and MGDA on
# the gradient of every task, or on those with respect to the shared features.
KINDS = ('single', 'multi', 'distilled', 'mgda', 'mgda_features')


class Work(NamedTuple):
  """A training step, and the shapes of what it is given.

  Attributes:
    step: (state, frozen, batch) -> (state, measured).
    teach: (frozen, batch) -> the features of the teachers that losses use.
    state: of `jax.ShapeDtypeStruct`, as all of these.
    frozen: teacher -> its variables.
    batch: image and labels.
    init_balancer: the state -> the balancer's.
  """

  step: Callable[..., Any]
  teach: Callable[..., Any]
  state: TrainState
  frozen: dict[str, Any]
  batch: dict[str, Any]
  init_balancer: Callable[..., Any]


def kinds_of(network: str) -> tuple[str, ...]:
  """The kinds of step that there are with a network."""
  # The tasks of an MTAN share no features that gradients could be taken of.
  return KINDS[:-1] if network == 'mtan' else KINDS


def make_network(name: str, tasks=tuple(TASKS), *, width: float = 1.0):
  """A network of `NETWORKS`, for some of the tasks."""
  recipe = NETWORKS[name]
  return models.make(
    recipe.backbone,
    {task: TASKS[task] for task in tasks},
    head=recipe.head,
    width=width,
  )


def make_work(
  name: str,
  kind: str,
  *,
  size: tuple[int, int],
  batch_size: int,
  width: float = 1.0,
  batch_norm: str = 'running',
  computation: Computation = PLAIN,
) -> Work:
  """Puts a step together; nothing is computed.

  Args:
    name: of `NETWORKS`.
    kind: of `kinds_of(name)`.
    size: (height, width) of the images in pixels.
    batch_size: images in a batch.
    width: factor on the channels.
    batch_norm: mode of the teachers.
    computation: in which precision, and in how many micro-batches.
  """
  names = ('semantic',) if kind == 'single' else tuple(TASKS)
  network = make_network(name, names, width=width)
  terms = task_terms({task: TASKS[task] for task in names})
  teachers, extras = {}, {}
  if kind in ('distilled', 'mgda', 'mgda_features'):
    alone = {task: make_network(name, (task,), width=width) for task in names}
    teachers = {t: Teacher(net, batch_norm) for t, net in alone.items()}
    aligned, extras = _distillation(name, network, alone, size)
    terms += aligned
  combines = kind in ('mgda', 'mgda_features')
  balancer = balancing.make('mgda' if combines else 'uniform')
  tx = make_adam(1e-4, weight_decay=0)
  init_balancer = balancer_init(balancer, terms)
  step = functools.partial(
    train_step,
    network=network,
    terms=terms,
    tx=tx,
    balancer=balancer,
    seed=0,
    teachers=teachers,
    extras=extras,
    grad_wrt='features' if kind == 'mgda_features' else 'parameters',
    computation=computation,
  )
  state = jax.eval_shape(
    functools.partial(
      init_state,
      network=network,
      image_size=size,
      tx=tx,
      init_balancer=init_balancer,
      extras=extras,
    ),
    jax.random.key(0),
  )
  frozen = {task: shapes_of(t.network, size) for task, t in teachers.items()}
  taps = NETWORKS[name].taps

  def teach(frozen, batch):
    outputs = teacher_outputs(
      teachers, frozen, batch['image'], computation=computation
    )
    # The compiler leaves out what no loss uses, as it does in the step.
    return {
      (task, tap): x
      for task, output in outputs.items()
      for tap, x in output.features.items()
      if tap.partition('/')[0] in taps
    }

  batch = jax.eval_shape(
    lambda: jax.tree.map(jnp.asarray, make_batch(size, batch_size))
  )
  return Work(step, teach, state, frozen, batch, init_balancer)


def _distillation(name, network, alone, size):
  """Terms and the extra network of the adaptors."""
  shapes = feature_shapes(network, size)
  adaptors = distillation.make_adaptors(
    NETWORKS[name].taps,
    shapes.all,
    {task: feature_shapes(net, size).all for task, net in alone.items()},
  )
  terms = alignment_terms(
    adaptors,
    LAMBDAS,
    distillation.make_loss('feature_l2'),
    head_taps=tuple(shapes.heads),
  )

  def init(key, output):
    return adaptors.init(key, output.features)

  return terms, {ADAPTORS: ExtraNetwork(init, make_adam(1e-1, weight_decay=0))}


def shapes_of(network: Network, size: tuple[int, int]) -> dict[str, Any]:
  """The shapes of a network's variables."""
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  key = jax.random.key(0)
  return jax.eval_shape(lambda x: network.init(key, x, train=False), image)


# ---- Numbers -----------------------------------------------------------------


def draw_state(work: Work, seed: int = 0) -> tuple[TrainState, dict[str, Any]]:
  """A state and variables of teachers, NumPy arrays; the same for a seed."""
  rng = np.random.default_rng(seed)
  state = work.state.replace(
    step=np.zeros((), np.int32),
    params=draw_variables(work.state.params, rng),
    collections=draw_variables(work.state.collections, rng),
    extras=draw_variables(work.state.extras, rng),
    opt_state=jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), work.state.opt_state
    ),
  )
  state = state.replace(balancer_state=work.init_balancer(state))
  return state, draw_variables(work.frozen, rng)


def draw_variables(shapes: Any, rng: np.random.Generator) -> Any:
  """Kernels as He et al. initialize them, and neutral normalizations."""

  def draw(path, x):
    leaf = path[-1].key
    if leaf == 'kernel':
      scale = np.sqrt(2 / np.prod(x.shape[:-1]))
      return scale * rng.standard_normal(x.shape, np.float32)
    neutral = 1 if leaf in ('scale', 'var') else 0
    return np.full(x.shape, neutral, x.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)
