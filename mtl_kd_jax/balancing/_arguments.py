"""Checks of the arguments that balancers are called with.

All that is checked is known when a function is traced.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.balancing.base import Balancer, GradientBalancer
from mtl_kd_jax.errors import InputError, check_type, what_is


def check_balancer(
  balancer: Any, *kinds: type[Balancer] | type[GradientBalancer]
) -> None:
  """Checks that something is a balancer of one of the kinds.

  Raises:
    InputError: it is not.
  """
  check_type(
    balancer,
    kinds,
    expected=f'a {" or ".join(kind.__name__ for kind in kinds)}',
    argument='balancer',
    do="make one: balancing.make('mgda')",
  )


def as_names(names: Iterable[str]) -> tuple[str, ...]:
  """The names of tasks, sorted.

  Raises:
    InputError: they are not one or more different strings.
  """
  # A string is a sequence too: of its letters.
  several = isinstance(names, Iterable) and not isinstance(names, str)
  listed = list(names) if several else [names]
  different = len(set(map(str, listed))) == len(listed) > 0
  if not (several and different and all(isinstance(n, str) for n in listed)):
    raise InputError(
      expected='a sequence of one or more different names of tasks',
      found=', '.join(sorted(map(str, listed))) or 'none',
      argument='names',
      do='name every task once',
    )
  return tuple(sorted(listed))


def check_names(
  given: Iterable[str], expected: Iterable[str], argument: str, source: str
) -> None:
  """Checks that the names of tasks are those of `source`.

  Raises:
    InputError: they are not; with both lists.
  """
  if set(given) != set(expected):
    raise InputError(
      expected=f'the tasks of {source}: {", ".join(sorted(expected))}',
      found=', '.join(sorted(map(str, given))) or 'none',
      argument=argument,
      do='pass all of them, and no others; leave out a task without labels '
      'by present={task: False}',
    )


def check_losses(
  losses: Mapping[str, Any], present: Mapping[str, Any] | None
) -> None:
  """Checks that every loss is a scalar, and has a flag in `present`.

  Raises:
    InputError: otherwise.
  """
  check_by_task(losses, 'losses')
  for task, loss in losses.items():
    if not _is_scalar(loss, jnp.floating, jnp.integer):
      raise InputError(
        expected='a scalar loss for each task, a real number',
        found=f'{_describe(loss)} for {task}',
        argument='losses',
        do='pass the mean over the batch, of shape ()',
      )
  if present is None:
    return
  check_by_task(present, 'present')
  check_names(present, losses, 'present', 'the losses')
  for task, flag in present.items():
    if not _is_scalar(flag, jnp.bool_, jnp.integer):
      raise InputError(
        expected='a bool of shape () for each task',
        found=f'{_describe(flag)} for {task}',
        argument='present',
        do='pass whether the task has any label in the batch',
      )


def check_gradients(
  gradients: Mapping[str, Any],
  names: Iterable[str],
  argument: str = 'gradients',
) -> None:
  """Checks the names, structures, shapes and dtypes of gradients by task.

  Raises:
    InputError: they are of other tasks than `names`, differ in structure or
      shape, or hold something else than real floating-point arrays.
  """
  check_by_task(gradients, argument)
  check_names(gradients, names, argument, 'the losses')
  first, *others = sorted(gradients)
  for task in (first, *others):
    _check_leaves(gradients[task], task, argument)
  for task in others:
    if shapes(gradients[task]) != shapes(gradients[first]):
      raise InputError(
        expected='gradients of the same structure and shapes for all tasks',
        found=f'others for {task} than for {first}',
        argument=argument,
        do='pass the gradients of all tasks with respect to the same arrays',
      )


def as_gradients(
  gradients: Mapping[str, Any],
  names: Iterable[str],
  argument: str = 'gradients',
) -> dict[str, Any]:
  """Checks gradients as `check_gradients` does; returns them as JAX arrays."""
  check_gradients(gradients, names, argument)
  return jax.tree.map(jnp.asarray, dict(gradients))


def check_by_task(values: Any, argument: str) -> None:
  """Checks that values are given by task.

  Raises:
    InputError: they are not.
  """
  if not isinstance(values, Mapping):
    raise InputError(
      expected='a dictionary by task',
      found=what_is(values),
      argument=argument,
      do='name the task of every value: {task: value}',
    )


def check_keys(state: Any, keys: Collection[str]) -> None:
  """Checks that a state is a dictionary with these keys.

  Raises:
    InputError: it is not.
  """
  if not isinstance(state, dict):
    raise other_state(what_is(state))
  if set(state) != set(keys):
    raise other_state(f'a dictionary of {", ".join(map(str, state)) or "none"}')


def other_state(found: str) -> InputError:
  """The error about a state that is not one of this balancer."""
  return InputError(
    expected='a state from init of this balancer',
    found=found,
    argument='state',
    do='pass what init or the last update returned',
  )


def shapes(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
  """The structure and the shapes of a pytree."""
  return jax.tree.structure(tree), [jnp.shape(x) for x in jax.tree.leaves(tree)]


def _check_leaves(tree, task, argument):
  # None is no leaf to JAX. It stands where a gradient was left out.
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: x is None
  )
  for path, leaf in leaves:
    dtype = getattr(leaf, 'dtype', None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
      raise InputError(
        expected='gradients that are arrays of a floating-point dtype',
        found=f'{_describe(leaf)} in {task}{jax.tree_util.keystr(path)}',
        argument=argument,
        do='differentiate with respect to floating-point arrays alone, and '
        'leave out everything else',
      )


def _is_scalar(x, *kinds) -> bool:
  if isinstance(x, bool | int | float):
    x = np.asarray(x)
  return getattr(x, 'shape', None) == () and any(
    jnp.issubdtype(x.dtype, kind) for kind in kinds
  )


def _describe(x) -> str:
  if hasattr(x, 'dtype') and hasattr(x, 'shape'):
    return f'{x.dtype} of shape {x.shape}'
  return 'None' if x is None else f'a {type(x).__name__}'
