"""What benchmarks/balancing.py times: steps, passes and solvers, compiled."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_kd_jax import models
from mtl_kd_jax.balancing import (
  Balancer,
  GradientBalancer,
  make_balancer,
)
from mtl_kd_jax.labels import Label
from mtl_kd_jax.models.network import BACKBONE
from mtl_kd_jax.runtime.parallel import Parallel, make_parallel
from mtl_kd_jax.tasks import Task, make_tasks
from mtl_kd_jax.training.gradients import balancer_init
from mtl_kd_jax.training.loss_terms import LossTerm, task_terms
from mtl_kd_jax.training.optim import make_adam
from mtl_kd_jax.training.state import TrainState, init_state
from mtl_kd_jax.training.step import train_step

LABELS = {
  'semantic': Label('class', classes=tuple(map(str, range(13)))),
  'depth': Label('depth', unit='m'),
  'normals': Label('normal'),
}
PROBLEMS = 32  # that a call of a solver takes


@dataclasses.dataclass(frozen=True)
class Problem:
  """What the steps of K tasks have in common.

  Attributes:
    tasks: name -> task.
    network: the network.
    terms: the losses of the tasks.
    tx: the optimizer.
    parallel: compiles the step as a run does.
    state: the initial state, with that of `uniform`.
    batch: on the devices.
  """

  tasks: dict[str, Task]
  network: models.Network
  terms: tuple[LossTerm, ...]
  tx: optax.GradientTransformation
  parallel: Parallel
  state: TrainState
  batch: dict[str, jax.Array]


class Work(NamedTuple):
  """Something compiled: (state, *inputs) -> (next state, results)."""

  compiled: jax.stages.Compiled
  state: Any
  inputs: tuple[Any, ...]


def make_problem(
  k: int, *, size: tuple[int, int], width: float, batch_size: int
) -> Problem:
  """A SegNet with K tasks: semantic segmentation, depth and normals by turns.

  Args:
    k: number of tasks.
    size: (height, width) of the images in pixels.
    width: factor on the channels.
    batch_size: images in a batch.
  """
  kinds = list(make_tasks(LABELS, LABELS, dataset='synthetic').values())
  tasks = {}
  for i in range(k):
    kind = kinds[i % len(kinds)]
    name = f'{kind.name}_{i}'
    tasks[name] = dataclasses.replace(kind, name=name)
  network = models.make('segnet', tasks, width=width, image_size=size)
  terms = task_terms(tasks)
  tx = make_adam(1e-4, weight_decay=0)
  state = init_state(
    jax.random.key(0),
    network=network,
    image_size=size,
    tx=tx,
    init_balancer=balancer_init(make_balancer('uniform'), terms),
  )
  parallel = make_parallel('jit', batch_size=batch_size)
  batch = parallel.shard(_make_batch(tasks, (batch_size, *size)))
  return Problem(tasks, network, terms, tx, parallel, state, batch)


def make_step(
  problem: Problem, balancer: Balancer | GradientBalancer, grad_wrt: str
) -> Work:
  """The training step of a run, with a state of its own to give up."""
  state = jax.tree.map(jnp.copy, problem.state)
  init_balancer = balancer_init(balancer, problem.terms)
  state = problem.parallel.replicate(
    state.replace(balancer_state=init_balancer(state))
  )
  step = problem.parallel.compile_train_step(
    functools.partial(
      train_step,
      network=problem.network,
      terms=problem.terms,
      tx=problem.tx,
      balancer=balancer,
      seed=0,
      grad_wrt=grad_wrt,
    )
  )
  compiled = step.function.lower(state, {}, problem.batch).compile()
  return Work(compiled, state, ({}, problem.batch))


def make_passes(problem: Problem) -> tuple[Work, Work]:
  """The backbone's forward pass, and that with one backward pass."""
  backbone = problem.network.backbone
  others = {
    kind: tree[BACKBONE] for kind, tree in problem.state.collections.items()
  }

  def features(params, image):
    output, _ = backbone.apply(
      {'params': params, **others},
      image,
      tasks=tuple(problem.tasks),
      train=True,
      mutable=list(others),
    )
    return output

  def forward(params, image):
    return params, features(params, image)

  def backward(params, image):
    output, vjp = jax.vjp(lambda p: features(p, image), params)
    return params, (output, vjp(output))

  params = jax.tree.map(jnp.copy, problem.state.params[BACKBONE])
  image, options = problem.batch['image'], problem.parallel.compiler_options
  works = []
  for f in (forward, backward):
    lowered = jax.jit(f, compiler_options=options).lower(params, image)
    works.append(Work(lowered.compile(), params, (image,)))
  return tuple(works)


def make_solver(
  balancer: Balancer | GradientBalancer, names: Sequence[str]
) -> Work:
  """`update` on `PROBLEMS` random problems of K gradients of K entries each."""
  k, key = len(names), jax.random.key(1)
  names = sorted(names)
  # With something in common, and lengths that differ about tenfold.
  draws = jax.random.normal(key, (PROBLEMS, k, k + 1))
  scale = jnp.exp(jax.random.normal(jax.random.fold_in(key, 1), (k, 1)))
  rows = scale * (draws[:, :, :k] + draws[:, :, k:])
  losses = dict(zip(names, jnp.linspace(0.5, 2, k), strict=True))
  combines = isinstance(balancer, GradientBalancer)

  def solve(state, rows):
    def one(state, row):
      if not combines:
        near = {t: x * (1 + row[0, 0] ** 2) for t, x in losses.items()}
        weights, state = balancer.update(near, state, key)
        return state, weights
      gradients = dict(zip(names, row, strict=True))
      # The other parts of the batch: the same gradients, by turns.
      combined, state = balancer.update(
        losses,
        gradients,
        state,
        key,
        probe=lambda part, shift: dict(
          zip(names, jnp.roll(row, part, axis=1), strict=True)
        ),
      )
      return state, combined

    return jax.lax.scan(one, state, rows)

  shapes = dict.fromkeys(names, jnp.zeros(k)) if combines else None
  state = balancer.init(names, shapes)
  return Work(jax.jit(solve).lower(state, rows).compile(), state, (rows,))


def _make_batch(tasks: Mapping[str, Task], shape) -> dict[str, np.ndarray]:
  """Random images and labels [b h w c]; every task has labels of its own."""
  rng = np.random.default_rng(0)
  batch = {'image': rng.random((*shape, 3), np.float32)}
  for name in tasks:
    kind = name.split('_')[0]
    if kind == 'semantic':
      batch[name] = rng.integers(0, 13, shape).astype(np.int32)
    elif kind == 'depth':
      batch[name] = 5 * rng.random((*shape, 1), np.float32) + 0.1
    else:
      x = rng.normal(size=(*shape, 3)).astype(np.float32)
      batch[name] = x / np.linalg.norm(x, axis=-1, keepdims=True)
  return batch
