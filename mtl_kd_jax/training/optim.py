"""Schedules and optax chains."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import BACKBONE

SCHEDULES = ('constant', 'step', 'cosine')
OPTIMIZERS = ('adam', 'adamw', 'sgd')
DECAY_ON = ('all', 'kernels')


def make_schedule(
  name: str,
  learning_rate: float,
  *,
  steps_per_epoch: int,
  epochs: int,
  decay_every_epochs: int = 100,
  decay_rate: float = 0.5,
  warmup_epochs: float = 0,
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
    warmup_epochs: the first ones, in which the schedule is multiplied with a
      factor that grows in every step, up to 1 at their end.

  Raises:
    InputError: unknown name, or a warm-up as long as the run.
  """
  if not 0 <= warmup_epochs < epochs:
    raise InputError(
      expected=f'a number of epochs from 0 to below {epochs}, the length of '
      'the run',
      found=repr(warmup_epochs),
      argument='warmup_epochs',
      do='shorten the warm-up',
    )
  schedule = _make_schedule(
    name,
    learning_rate,
    steps_per_epoch=steps_per_epoch,
    epochs=epochs,
    decay_every_epochs=decay_every_epochs,
    decay_rate=decay_rate,
  )
  if not (steps := round(warmup_epochs * steps_per_epoch)):
    return schedule
  # The first step is one of the warm-up, too: not of rate 0.
  return lambda step: schedule(step) * jnp.minimum(1, (step + 1) / steps)


def _make_schedule(
  name,
  learning_rate,
  *,
  steps_per_epoch,
  epochs,
  decay_every_epochs,
  decay_rate,
):
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


def make_optimizer(
  name: str,
  learning_rate: float | Callable[[int], float],
  *,
  weight_decay: float = 0.0,
  decay_on: str = 'all',
  momentum: float = 0.9,
  clip_norm: float = 0.0,
  backbone_rate: float = 1.0,
) -> optax.GradientTransformation:
  """The optimizer of a network.

  Args:
    name: 'adam'; 'adamw', whose weight decay does not pass through its
      normalization; or 'sgd', with momentum (PyTorch's).
    learning_rate: a number or a schedule.
    weight_decay: added to the gradient as weight_decay * parameter, of 'adam'
      and 'sgd'; of 'adamw', parameters shrink by learning rate * weight_decay.
    decay_on: what decays: 'all' parameters, or 'kernels' alone and no biases
      and normalizations.
    momentum: of 'sgd'.
    clip_norm: gradients longer than this, over all parameters, are scaled to
      it; 0 for none.
    backbone_rate: factor on the learning rate of the backbone.

  Raises:
    InputError: unknown name or choice.
  """
  for argument, value, known in (
    ('name', name, OPTIMIZERS),
    ('decay_on', decay_on, DECAY_ON),
  ):
    if value not in known:
      raise InputError(
        expected=f'one of {", ".join(known)}',
        found=repr(value),
        argument=argument,
        do='correct the name',
      )
  mask = None if decay_on == 'all' else _kernels
  before, after = [], []
  if clip_norm:
    before.append(optax.clip_by_global_norm(clip_norm))
  if weight_decay and name != 'adamw':
    before.append(optax.add_decayed_weights(weight_decay, mask))
  if backbone_rate != 1:
    after.append(optax.masked(optax.scale(backbone_rate), _backbone))
  if name == 'adamw':
    rule = optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask)
  elif name == 'sgd':
    rule = optax.sgd(learning_rate, momentum=momentum or None)
  else:
    rule = optax.adam(learning_rate)
  # One by itself stays as it is, and so does the layout of its state.
  steps = [*before, rule, *after]
  return optax.chain(*steps) if len(steps) > 1 else rule


def _kernels(params: Any) -> Any:
  """Which parameters are kernels: those that are no vectors."""
  return jax.tree.map(lambda x: x.ndim > 1, params)


def _backbone(params: Mapping[str, Any]) -> dict[str, Any]:
  """Which parameters are the backbone's."""
  return {
    part: jax.tree.map(lambda _, part=part: part == BACKBONE, tree)
    for part, tree in params.items()
  }
