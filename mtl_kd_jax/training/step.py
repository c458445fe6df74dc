"""The one training step and the one evaluation step; both pure.

They know nothing of devices. Under `jax.jit` the batch is a global array and
`axis_name` stays None. Under `jax.pmap` every device sees its part of the batch
and `axis_name` names the axis: losses are then shares whose sum over devices is
the mean over the global batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.distillation import Teacher
from mtl_kd_jax.distillation.cached import from_arrays
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.tasks.base import Statistics, Task
from mtl_kd_jax.training.agreement import with_agreement
from mtl_kd_jax.training.combined import combined_gradient
from mtl_kd_jax.training.computation import (
  PLAIN,
  Computation,
  run_network,
)
from mtl_kd_jax.training.forward import run_forward, total
from mtl_kd_jax.training.gradients import weighted_gradient
from mtl_kd_jax.training.loss_terms import (
  ExtraNetwork,
  LossTerm,
  present_objectives,
)
from mtl_kd_jax.training.state import AVERAGED, NETWORK, TrainState

Batch = Mapping[str, jax.Array]


def train_step(
  state: TrainState,
  frozen: Mapping[str, Any],
  batch: Batch,
  *,
  network: Network,
  terms: Sequence[LossTerm],
  tx: optax.GradientTransformation,
  balancer: Balancer | GradientBalancer,
  seed: int,
  teachers: Mapping[str, Teacher] | None = None,
  extras: Mapping[str, ExtraNetwork] | None = None,
  grad_wrt: str = 'parameters',
  axis_name: str | None = None,
  computation: Computation = PLAIN,
  ema: float = 0.0,
  gather: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one optimizer step.

  It descends on the sum of the terms, of which those with an objective are
  balanced (loss_terms.py). The method of Li & Bilen (2020) is one instance, and
  plain single-task or multi-task training another.

  Args:
    state: the stage's state.
    frozen: teacher -> its variables, which never change.
    batch: 'image' float32 [b h w 3], and a label per task (datasets/base.py);
      it may have outputs of the teachers (distillation/cached.py).
    network: the stage's network.
    terms: what it descends on.
    tx: optimizer of the network.
    balancer: gives weights of objectives, or combines their gradients.
    seed: of the run; the step's random key is folded from it.
    teachers: name -> frozen network.
    extras: name -> network with an optimizer of its own, trained along.
    grad_wrt: what a gradient balancer combines: gradients with respect to the
      backbone's 'parameters', or to its 'features'.
    axis_name: the mapped device axis, if any.
    computation: in which precision, and in how many micro-batches.
    ema: decay of the moving average of the network's variables; 0 for none.
    gather: makes parameters whole that devices share.

  Returns:
    The next state, and float32 scalars by name (runtime/metric_keys.py): every
    term without its weight, their sum 'loss', 'gradient_norm', 'weight/...'
    and 'labeled/...'; of a gradient balancer also 'norm/...', 'cosine/...' and
    'conflict/...' of what it combined, and 'combined', 0 in a step that reuses
    weights, in which they are without meaning.
  """
  extras = extras or {}
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  shared = {'axis_name': axis_name, 'computation': computation}
  outputs = teacher_outputs(
    teachers, frozen, batch['image'], key, cached=batch, **shared
  )
  options = {'network': network, 'terms': terms, 'extras': extras, **shared}
  whole = state.replace(
    params=gather(state.params), extras=gather(state.extras)
  )
  # --- Gradient ---------------------------------------------------------------
  if isinstance(balancer, GradientBalancer):
    gradient = combined_gradient(
      whole,
      outputs,
      batch,
      balancer=balancer,
      key=key,
      grad_wrt=grad_wrt,
      **options,
    )
  else:
    gradient = weighted_gradient(
      whole, outputs, batch, balancer=balancer, key=key, **options
    )
  # --- Update -----------------------------------------------------------------
  params, opt_state = _updated(
    tx, gradient.params, state.opt_state[NETWORK], state.params
  )
  opt_states, extra_variables = {NETWORK: opt_state}, {}
  if ema:
    opt_states[AVERAGED] = _averaged(
      state.opt_state[AVERAGED],
      {'params': params, **gradient.collections},
      decay=ema,
      step=state.step,
    )
  for name, extra in extras.items():
    variables = state.extras[name]
    moved, opt_states[name] = _updated(
      extra.tx,
      gradient.extras[name],
      state.opt_state[name],
      variables['params'],
    )
    updated = gradient.extra_collections.get(name, {})
    extra_variables[name] = {**variables, **updated, 'params': moved}
  next_state = state.replace(
    step=state.step + 1,
    params=params,
    collections=gradient.collections,
    extras=extra_variables,
    opt_state=opt_states,
    balancer_state=gradient.balancer_state,
  )
  # --- What the balancer learns from the losses after the step ----------------
  if isinstance(balancer, Balancer) and balancer.observe is not None:
    before = state.replace(
      params=gather(next_state.params), extras=gather(extra_variables)
    )
    after = with_agreement(
      run_forward(before, outputs, batch, key=key, **options), axis_name
    )
    next_state = next_state.replace(
      balancer_state=balancer.observe(
        total(after.objectives(), axis_name),
        gradient.balancer_state,
        present=present_objectives(terms, batch, axis_name=axis_name),
      )
    )
  norm = optax.tree.norm((gradient.params, gradient.extras))
  return next_state, gradient.measured | {metric_keys.GRADIENT_NORM: norm}


def teacher_outputs(
  teachers: Mapping[str, Teacher] | None,
  frozen: Mapping[str, Any],
  image: jax.Array,
  key: jax.Array | None = None,
  *,
  axis_name: str | None = None,
  computation: Computation = PLAIN,
  cached: Batch | None = None,
) -> dict[str, Any]:
  """Runs the frozen teachers.

  Args:
    teachers: name -> teacher.
    frozen: name -> its variables.
    image: float32 [b h w 3].
    key: PRNG key of the step, for teachers that draw numbers.
    axis_name: the mapped device axis, if any.
    computation: in which precision, and in how many micro-batches.
    cached: a batch that may have outputs in it, see distillation/cached.py; a
      teacher with some is not run, and what it lacks is read by no term.

  Returns:
    Name -> `Output`.
  """
  key = jax.random.key(0) if key is None else key
  key = jax.random.fold_in(key, 2)  # the balancer has 0, the network has 1
  if axis_name is not None:
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
  outputs = {}
  for i, (name, teacher) in enumerate(sorted((teachers or {}).items())):
    if (known := from_arrays(cached or {}, name)) is not None:
      outputs[name] = known
      continue

    def call(variables, image, key, teacher=teacher):
      return teacher.outputs(variables, image, key=key), {}

    outputs[name], _ = run_network(
      call,
      frozen[name],
      image,
      jax.random.fold_in(key, i),
      computation=computation,
    )
  return outputs


def eval_step(
  variables: Mapping[str, Any],
  batch: Batch,
  *,
  network: nn.Module,
  tasks: Mapping[str, Task],
  axis_name: str | None = None,
) -> tuple[dict[str, Statistics], dict[str, jax.Array]]:
  """Predicts one batch and sums up how well.

  Args:
    variables: 'params' and the other collections of the network.
    batch: as in `train_step`.
    network: the network.
    tasks: the tasks to score.
    axis_name: the mapped device axis, if any.

  Returns:
    task -> sufficient statistics of the global batch; and task -> prediction
    [b h w c], in the layout of the batch.
  """
  output = network.apply(variables, batch['image'], train=False)
  statistics = {}
  for name, task in tasks.items():
    prediction, label = output.predictions[name], batch[name]
    valid = task.valid(label)
    statistics[name] = task.statistics(prediction, label, valid)
  return total(statistics, axis_name), output.predictions


def _averaged(average, variables, *, decay, step):
  """The next moving average.

  The decay is smaller at first, min(decay, (1 + t) / (10 + t)): the variables
  of the first steps are soon forgotten. What is not a real number, such as a
  count, is the newest.
  """
  t = step.astype(jnp.float32)
  decay = jnp.minimum(decay, (1 + t) / (10 + t))

  def moved(new, old):
    real = jnp.issubdtype(new.dtype, jnp.floating)
    return optax.incremental_update(new, old, 1 - decay) if real else new

  return jax.tree.map(moved, variables, average)


def _updated(tx, gradient, opt_state, params):
  updates, opt_state = tx.update(gradient, opt_state, params)
  return optax.apply_updates(params, updates), opt_state
