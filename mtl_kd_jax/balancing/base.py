"""The two contracts: how several losses, or their gradients, become one step.

Both are NamedTuples of pure functions, after optax.GradientTransformation. A
`Balancer` needs the losses alone, and its cost is negligible. A
`GradientBalancer` needs the gradient of every task. All inputs and outputs are
dictionaries keyed by task name.

The caller is responsible for two things. Losses and gradients are those of the
*global* batch (averaged over devices beforehand, since most rules are not
linear), and `present` tells which tasks have any label in it. A rule treats a
task without labels as if the task did not exist: its weight is 0 and its part
of the state is kept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Balancer(NamedTuple):
  """A rule that weights losses.

  Attributes:
    init: (task names, gradients=None) -> state, a pytree of arrays to be
      checkpointed. `gradients` is ignored; `GradientBalancer` has the same
      signature.
    update: (losses, state, key, *, present=None) -> (weights, state). `losses`
      is {task: float32 scalar}; no gradient flows through it. `present` is
      {task: bool scalar}, None for all. `weights` is {task: float32 scalar}:
      the step descends on sum_t weights[t] * losses[t].
    observe: (losses, state, *, present=None) -> state, for a rule that needs
      the losses of the same batch after the step; otherwise None.
    on_metrics: (metrics, state) -> state, for a rule that sets its weights
      between epochs from validation metrics; otherwise None. `metrics` is
      {task: {metric: float}} of the split on which checkpoints are selected.
      The training loop calls it on the host, outside of jit, after each
      evaluation. The state keeps its structure, shapes and dtypes.
    made_by: the call of `balancing.make` that made it, for the record.
  """

  init: Callable[..., Any]
  update: Callable[..., tuple[Any, Any]]
  observe: Callable[..., Any] | None = None
  on_metrics: Callable[[Any, Any], Any] | None = None
  made_by: str = ''


class Combined(NamedTuple):
  """The result of a gradient balancer for one step.

  Attributes:
    direction: a pytree like the gradient of one task. The step descends along
      it, in place of the gradient of a loss.
    weights: {task: float32 scalar}, so that direction = sum_t weights[t] *
      gradient of t. Where a rule has no such weights (`linear` is False) they
      are the closest equivalent, for logging.
    task_specific: {task: float32 scalar}, the factor on the gradient of the
      task's loss with respect to its task-specific parameters, e.g. its head.
  """

  direction: Any
  weights: dict[str, jax.Array]
  task_specific: dict[str, jax.Array]


class Reused(NamedTuple):
  """The weights that `update_every` keeps between two updates.

  Attributes:
    due: bool scalar, whether this step has to be a full `update`.
    weights: as in `Combined`, of the last full update.
    task_specific: as in `Combined`, of the last full update.
    state: the state after a step that reuses these weights.
  """

  due: jax.Array
  weights: dict[str, jax.Array]
  task_specific: dict[str, jax.Array]
  state: Any


class GradientBalancer(NamedTuple):
  """A rule that combines gradients.

  Attributes:
    init: (task names, gradients=None) -> state. `gradients` is as in `update`,
      or its shapes; only rules with a state per parameter read it.
    update: (losses, gradients, state, key, *, present=None, axis_name=None,
      values=None, probe=None) -> (Combined, state).
      `losses` and `present` are as in `Balancer`. `gradients` is {task: pytree
      of float arrays}, with respect to shared parameters or shared features.
      `axis_name` names a mapped device axis along which the gradients are split
      (features of a split batch): inner products are then summed over it.
      `values` is what the gradients are with respect to. `probe` is (i,
      shift) -> {task: gradients} on mini-batch i, at the parameters minus
      `shift` (None for no shift).
    linear: whether direction = sum_t weights[t] * gradients[t].
    num_minibatches: how many independent mini-batches it splits the batch into.
      `losses`, `gradients` and `present` are those of mini-batch 0, and `probe`
      gives the gradients of the others, which are 0 where a task has no label.
    all_parameters: whether `gradients` and `shift` cover all parameters, and
      not just the shared ones. Gradients with respect to the task-specific
      parameters of other tasks are then 0.
    on_features: whether the gradients may be with respect to features, which
      belong to different samples in every step.
    on_parameters: whether they may be with respect to parameters, which are the
      same for all samples and come without `values`.
    reuse: (state, task names) -> Reused; None for a rule that does a full
      update in every step.
    on_metrics: as in `Balancer`.
    made_by: as in `Balancer`.
  """

  init: Callable[..., Any]
  update: Callable[..., tuple[Combined, Any]]
  linear: bool = True
  num_minibatches: int = 1
  all_parameters: bool = False
  on_features: bool = True
  on_parameters: bool = True
  reuse: Callable[..., Reused] | None = None
  on_metrics: Callable[[Any, Any], Any] | None = None
  made_by: str = ''
