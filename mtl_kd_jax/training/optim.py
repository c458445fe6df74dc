"""Schedules and optax chains."""

from collections.abc import Callable
from typing import Any

import optax

from mtl_kd_jax.errors import InputError

SCHEDULES = ('constant', 'step', 'cosine')


def make_schedule(
  name: str,
  learning_rate: float,
  *,
  steps_per_epoch: int,
  epochs: int,
  decay_every_epochs: int = 100,
  decay_rate: float = 0.5,
) -> Callable[[int], float]:
  """Makes a learning-rate schedule, step -> learning rate.

  Args:
    name: 'constant'; 'step', times `decay_rate` after every
      `decay_every_epochs` whole epochs (PyTorch's StepLR, stepped at the end of
      an epoch); or 'cosine', from `learning_rate` to 0 over the run.
    learning_rate: the initial one.
    steps_per_epoch: optimizer steps in an epoch.
    epochs: length of the run.
    decay_every_epochs: see 'step'.
    decay_rate: see 'step'.

  Raises:
    InputError: unknown name.
  """
  if name == 'constant':
    return optax.constant_schedule(learning_rate)
  if name == 'step':
    # In whole numbers: optax's staircase divides floats, and compiled it can
    # come out one step late.
    period = decay_every_epochs * steps_per_epoch
    return lambda step: learning_rate * decay_rate ** (step // period)
  if name == 'cosine':
    return optax.cosine_decay_schedule(learning_rate, epochs * steps_per_epoch)
  raise InputError(
    expected=f'a known schedule: {", ".join(SCHEDULES)}',
    found=repr(name),
    argument='schedule',
    do='correct the name',
  )


def make_decay(
  name: str, *, steps: int, lambda_until: float = 1.0
) -> Callable[[Any], Any] | None:
  """Makes a factor on lambda that falls from 1 to 0, by step.

  Args:
    name: 'constant', which does not fall; 'linear'; or 'cosine'.
    steps: length of the training.
    lambda_until: the share of it, above 0, after which the factor is 0.

  Returns:
    Steps taken -> factor; None for 'constant'.

  Raises:
    InputError: unknown name, or a share that is none.
  """
  if not 0 < lambda_until <= 1:
    raise InputError(
      expected='a share of the training, above 0 and up to 1',
      found=repr(lambda_until),
      argument='lambda_until',
      do='0.5 is half of it',
    )
  steps = max(1, round(lambda_until * steps))
  if name == 'constant':
    return None
  if name == 'linear':
    return optax.linear_schedule(1.0, 0.0, steps)
  if name == 'cosine':
    return optax.cosine_decay_schedule(1.0, steps)
  raise InputError(
    expected='a known schedule: constant, linear, cosine',
    found=repr(name),
    argument='schedule',
    do='correct the name',
  )


def make_adam(
  learning_rate: float | Callable[[int], float], *, weight_decay: float
) -> optax.GradientTransformation:
  """Adam whose weight decay is added to the gradient, as torch.optim.Adam's.

  That is not AdamW: the decay passes through Adam's normalization.
  """
  adam = optax.adam(learning_rate)
  if weight_decay == 0:
    return adam
  return optax.chain(optax.add_decayed_weights(weight_decay), adam)
