"""Schedules and optax chains; the adaptors' own optimizer."""

from collections.abc import Callable

import optax

from mtl_kd_jax.errors import InputError

ADAPTORS = 'adaptors'  # the key of the adaptors in a student's params


def make_schedule(
  name: str,
  learning_rate: float,
  *,
  steps_per_epoch: int,
  epochs: int,
  step_epochs: int,
  step_factor: float,
  where: str = 'config.optim',
) -> Callable[[int], float]:
  """Makes a learning-rate schedule, step -> learning rate.

  Args:
    name: 'constant'; 'step', times `step_factor` after every `step_epochs`
      whole epochs (PyTorch's StepLR, stepped at the end of an epoch); or
      'cosine', from `learning_rate` to 0 over the run.
    learning_rate: the initial one.
    steps_per_epoch: optimizer steps in an epoch.
    epochs: length of the run.
    step_epochs: see 'step'.
    step_factor: see 'step'.
    where: the config's part with the name, for messages.

  Raises:
    InputError: unknown name.
  """
  if name == 'constant':
    return optax.constant_schedule(learning_rate)
  if name == 'step':
    # In whole numbers: optax's staircase divides floats, and compiled it can
    # come out one step late.
    period = step_epochs * steps_per_epoch
    return lambda step: learning_rate * step_factor ** (step // period)
  if name == 'cosine':
    return optax.cosine_decay_schedule(learning_rate, epochs * steps_per_epoch)
  raise InputError(
    expected='a known schedule: constant, step, cosine',
    found=repr(name),
    where=f'{where}.schedule',
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


def make_student_optimizer(
  network: optax.GradientTransformation, adaptors: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Routes the adaptors' parameters to their own optimizer."""

  def labels(params):
    return {key: 'adaptors' if key == ADAPTORS else 'network' for key in params}

  return optax.partition({'network': network, 'adaptors': adaptors}, labels)
