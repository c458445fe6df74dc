"""Balancers that check what they are called with, for every rule in one place.

Rules work on vectors in the order of the task names, so that a call with other
names would mix up tasks without an error. Names, shapes and dtypes are known
when a function is traced: the checks cost nothing at run time.

What is not seen: values under the wrong name, and the state of another rule
that happens to have the same form.
"""

import jax

from mtl_kd_jax.balancing._arguments import (
  as_gradients,
  as_names,
  check_balancer,
  check_gradients,
  check_keys,
  check_losses,
  check_names,
  other_state,
  shapes,
)
from mtl_kd_jax.balancing.base import Balancer, GradientBalancer

_KEYS = ('names', 'rule')  # of a state


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

  Raises:
    InputError: it is no balancer.
  """
  check_balancer(balancer, Balancer, GradientBalancer)
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
    names = as_names(names)
    if gradients is not None:
      check_gradients(gradients, names)
    state = balancer.init(names, gradients)
    return {'names': dict.fromkeys(names), 'rule': state}

  def on_metrics(metrics, state):
    check_keys(state, _KEYS)
    return state | {'rule': balancer.on_metrics(metrics, state['rule'])}

  return balancer._replace(
    init=init, on_metrics=balancer.on_metrics and on_metrics, **functions
  )


def _loss_update(balancer):
  def update(losses, state, key, *, present=None):
    check_losses(losses, present)
    _check_state(state, losses, balancer)
    weights, rule = balancer.update(losses, state['rule'], key, present=present)
    return weights, state | {'rule': rule}

  return update


def _observe(balancer):
  def observe(losses, state, *, present=None):
    check_losses(losses, present)
    _check_state(state, losses, balancer)
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
    check_losses(losses, present)
    _check_tasks(state, losses)
    gradients = as_gradients(gradients, losses)
    _check_state(state, losses, balancer, gradients)

    def checked_probe(i, shift):
      return as_gradients(probe(i, shift), losses, 'probe')

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
    _check_tasks(state, names, 'names')
    kept = balancer.reuse(state['rule'], names)
    return kept._replace(state=state | {'rule': kept.state})

  return reuse


def _check_tasks(state, names, argument='losses'):
  check_keys(state, _KEYS)
  check_names(names, state['names'], argument, 'init')


def _check_state(state, names, balancer, gradients=None):
  _check_tasks(state, names)
  new = jax.eval_shape(lambda: balancer.init(tuple(sorted(names)), gradients))
  if shapes(state['rule']) != shapes(new):
    raise other_state('that of another one, or for gradients of other shapes')
