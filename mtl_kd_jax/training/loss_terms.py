"""What a step descends on: which losses are balanced, and which are added.

An objective is what a balancer sees as one loss. How alignment losses enter:

  outside    L = balance(L_1 .. L_K) + sum_t lambda_t l^d_t, the paper's form
  task       L = balance(L_1 + lambda_1 l^d_1 .. )
  objective  L = balance(L_1 .. L_K, lambda_1 l^d_1 .. ), 2K objectives
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.tasks.base import Task

MODES = ('outside', 'task', 'objective')
LEVELS = ('parameters', 'features')


def alignment_name(task: str) -> str:
  """The name of a task's alignment where it is an objective of its own."""
  return f'alignment/{task}'


def objective_names(
  tasks: Sequence[str], *, distilled: bool, mode: str
) -> tuple[str, ...]:
  """The objectives of a stage.

  Args:
    tasks: the stage's tasks.
    distilled: whether there are alignment losses.
    mode: of `MODES`.

  Raises:
    InputError: unknown mode.
  """
  if mode not in MODES:
    raise InputError(
      expected=f'one of {", ".join(MODES)}',
      found=repr(mode),
      where='config.balancing.distillation',
      do="'outside' is the paper's",
    )
  own = map(alignment_name, tasks) if distilled and mode == 'objective' else ()
  return (*tasks, *own)


def owner(task: str, *, mode: str) -> str | None:
  """The objective that a task's alignment is part of; None for outside."""
  return {
    'outside': None,
    'task': task,
    'objective': alignment_name(task),
  }[mode]


def make_objectives(
  losses: Mapping[str, jax.Array],
  alignment: Mapping[str, jax.Array],
  *,
  mode: str,
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Sorts losses into objectives and what is added outside.

  Args:
    losses: task -> loss.
    alignment: task -> lambda_t l^d_t; {} without teachers.
    mode: of `MODES`.

  Returns:
    objective -> loss, and the sum of the rest.
  """
  objectives, outside = dict(losses), jnp.zeros(())
  for task, x in alignment.items():
    name = owner(task, mode=mode)
    if name is None:
      outside += x
    else:
      objectives[name] = objectives.get(name, 0) + x
  return objectives, outside


def present_objectives(
  names: Sequence[str],
  batch: Mapping[str, jax.Array],
  tasks: Mapping[str, Task],
  *,
  distilled: bool,
  mode: str,
  axis_name: str | None = None,
) -> dict[str, jax.Array]:
  """Which objectives the global batch has anything for, bool scalars.

  A task is there when a pixel of it is labeled; an alignment always is, since
  it needs no label.

  Args:
    names: the objectives.
    batch: task -> label.
    tasks: the tasks.
    distilled: whether there are alignment losses.
    mode: of `MODES`.
    axis_name: the mapped device axis, if any.
  """
  known = labeled(batch, tasks, axis_name=axis_name)
  always = jnp.ones(())
  if distilled and mode == 'task':
    known = {}
  return {n: known.get(f'labeled/{n}', always) > 0 for n in names}


def labeled(
  batch: Mapping[str, jax.Array],
  tasks: Mapping[str, Task],
  *,
  axis_name: str | None = None,
) -> dict[str, jax.Array]:
  """Whether the global batch has any label of a task, as 'labeled/<task>'.

  A mean loss of 0 is no news of a task without labels. Float32, 0 or 1.
  """
  known = {
    f'labeled/{name}': jnp.any(task.valid(batch[name])).astype(jnp.float32)
    for name, task in tasks.items()
  }
  return known if axis_name is None else jax.lax.pmax(known, axis_name)
