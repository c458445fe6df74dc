"""Checks of what a balancer is called with, for every rule in one place.

Rules work on vectors in the order of the task names, so that a call with other
names would mix up tasks without an error. Names, shapes and dtypes are known
when a function is traced: the checks cost nothing at run time.

What is not seen: values under the wrong name, and a state whose structure was
rebuilt by hand.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing.base import Balancer, GradientBalancer
from mtl_kd_jax.errors import InputError


def checked(
  balancer: Balancer | GradientBalancer,
) -> Balancer | GradientBalancer:
  """The same balancer, which checks its arguments.

  Its state is {'names': {task: None}, 'rule': state}. None is a pytree without
  leaves: the names are part of the tree structure, which jit, checkpoints and
  `jax.tree` keep, and there is no array for them.

  Args:
    balancer: one whose states do not know their tasks.

  Returns:
    A balancer of the same kind; its functions raise InputError.
  """
  if isinstance(balancer, GradientBalancer):
    functions = {
      'update': _gradient_update(balancer),
      'reuse': balancer.reuse and _reuse(balancer),
    }
  else:
    functions = {
      'update': _loss_update(balancer),
      'observe': balancer.observe and _observe(balancer),
    }

  def init(names, gradients=None):
    names = tuple(sorted(names))
    if not names or len(set(names)) < len(names):
      raise InputError(
        expected='one or more different tasks',
        found=', '.join(names) or 'none',
        argument='names',
        do='name every task once',
      )
    if gradients is not None:
      check_gradients(gradients, names)
    state = balancer.init(names, gradients)
    return {'names': dict.fromkeys(names), 'rule': state}

  def on_metrics(metrics, state):
    return state | {'rule': balancer.on_metrics(metrics, state['rule'])}

  return balancer._replace(
    init=init, on_metrics=balancer.on_metrics and on_metrics, **functions
  )


def _loss_update(balancer):
  def update(losses, state, key, *, present=None):
    _check_state(state, losses)
    check_losses(losses, present)
    weights, rule = balancer.update(losses, state['rule'], key, present=present)
    return weights, state | {'rule': rule}

  return update


def _observe(balancer):
  def observe(losses, state, *, present=None):
    _check_state(state, losses)
    check_losses(losses, present)
    rule = balancer.observe(losses, state['rule'], present=present)
    return state | {'rule': rule}

  return observe


def _gradient_update(balancer):
  def update(
    losses,
    gradients,
    state,
    key,
    *,
    present=None,
    axis_name=None,
    values=None,
    probe=None,
  ):
    _check_state(state, losses)
    check_losses(losses, present)
    check_gradients(gradients, losses)

    def checked_probe(i, shift):
      other = probe(i, shift)
      check_gradients(other, losses, 'probe')
      return other

    combined, rule = balancer.update(
      losses,
      gradients,
      state['rule'],
      key,
      present=present,
      axis_name=axis_name,
      values=values,
      probe=probe and checked_probe,
    )
    return combined, state | {'rule': rule}

  return update


def _reuse(balancer):
  def reuse(state, names):
    _check_state(state, names)
    kept = balancer.reuse(state['rule'], names)
    return kept._replace(state=state | {'rule': kept.state})

  return reuse


def check_losses(
  losses: Mapping[str, Any], present: Mapping[str, Any] | None
) -> None:
  """Checks that every loss is a scalar, and has an entry in `present`.

  Raises:
    InputError: otherwise.
  """
  for task, loss in losses.items():
    if jnp.shape(loss) != ():
      raise InputError(
        expected='a scalar loss for each task',
        found=f'shape {jnp.shape(loss)} for {task}',
        argument='losses',
        do='pass the mean over the batch, of shape ()',
      )
  if present is not None:
    _check_names(present, losses, 'present', 'the losses')


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
  _check_names(gradients, names, argument, 'the losses')
  first, *others = sorted(gradients)
  for task in (first, *others):
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients[task]):
      dtype = getattr(leaf, 'dtype', None) or jnp.result_type(leaf)
      if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
          expected='gradients of a floating-point dtype',
          found=f'{dtype} in {task}{jax.tree_util.keystr(path)}',
          argument=argument,
          do='differentiate with respect to floating-point parameters alone',
        )
  for task in others:
    if _shapes(gradients[task]) != _shapes(gradients[first]):
      raise InputError(
        expected='gradients of the same structure and shapes for all tasks',
        found=f'others for {task} than for {first}',
        argument=argument,
        do='pass the gradients of all tasks with respect to the same arrays',
      )


def _shapes(tree):
  return jax.tree.structure(tree), [jnp.shape(x) for x in jax.tree.leaves(tree)]


def _check_state(state, names):
  if not isinstance(state, dict) or set(state) != {'names', 'rule'}:
    raise InputError(
      expected='a state from init of this balancer',
      found=f'a {type(state).__name__}',
      argument='state',
      do='pass what init or the last update returned',
    )
  _check_names(names, state['names'], 'losses', 'init')


def _check_names(given, expected, argument, source):
  if set(given) != set(expected):
    raise InputError(
      expected=f'the tasks of {source}: {", ".join(sorted(expected))}',
      found=', '.join(sorted(given)) or 'none',
      argument=argument,
      do='pass all of them, and no others; leave out a task without labels '
      'by present={task: False}',
    )
