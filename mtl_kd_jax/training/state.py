"""What a stage carries from step to step, and all that it checkpoints."""

from collections.abc import Mapping
from typing import Any

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mtl_kd_jax.balancing import Balancer, GradientBalancer
from mtl_kd_jax.distillation.alignment import Distillation
from mtl_kd_jax.models.network import Output
from mtl_kd_jax.training.loss_terms import objective_names
from mtl_kd_jax.training.optim import ADAPTORS

BACKBONE = 'backbone'  # the key of the backbone in a network's variables


@struct.dataclass
class TrainState:
  """The state of one stage, a pytree of global, unreplicated arrays.

  Attributes:
    step: int32 scalar, number of optimizer steps taken.
    params: the network's parameters; a distilled student's adaptors stand
      among them under the key 'adaptors'.
    batch_stats: BatchNorm's running means and variances.
    opt_state: the optimizer's state.
    balancer_state: the balancer's state.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  balancer_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What the network is applied with; without the adaptors."""
    return {
      'params': network_params(self.params),
      'batch_stats': self.batch_stats,
    }


def network_params(params: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters that are part of the network: all but the adaptors."""
  return {key: p for key, p in params.items() if key != ADAPTORS}


def network_shapes(
  network: nn.Module, image_size: tuple[int, int]
) -> tuple[Output, dict[str, Any]]:
  """The shapes of a network's output and variables, without computing any.

  Args:
    network: the network.
    image_size: (height, width) in pixels, of one image.
  """
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  return jax.eval_shape(
    lambda x: network.init_with_output(jax.random.key(0), x, train=False), image
  )


def backbone_taps(
  network: nn.Module, image_size: tuple[int, int]
) -> tuple[str, ...]:
  """The names of what the backbone computes, for all tasks or for one."""
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  features, _ = jax.eval_shape(
    lambda x: network.backbone.init_with_output(
      jax.random.key(0), x, tasks=tuple(network.channels), train=False
    ),
    image,
  )
  return tuple(features)


def feature_shapes(
  network: nn.Module, image_size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
  """The shapes [1 h w c] of a network's features, without computing any."""
  output, _ = network_shapes(network, image_size)
  return {tap: x.shape for tap, x in output.features.items()}


def init_state(
  key: jax.Array,
  *,
  network: nn.Module,
  image_size: tuple[int, int],
  balancer: Balancer | GradientBalancer,
  tx: optax.GradientTransformation,
  distillation: Distillation | None = None,
  mode: str = 'outside',
  pretrained: Mapping[str, Any] | None = None,
) -> TrainState:
  """Draws the initial state of a stage.

  Args:
    key: PRNG key; with the same key a student and its baseline begin alike.
    network: the stage's network.
    image_size: (height, width) in pixels.
    balancer: the stage's balancer.
    tx: the stage's optimizer.
    distillation: adds adaptors to the parameters, when there are teachers.
    mode: how alignment losses enter the balancing (objectives.py).
    pretrained: {'params', 'batch_stats'} of the backbone, to begin with in
      place of what is drawn.
  """
  image = jnp.zeros((1, *image_size, 3), jnp.float32)
  output, variables = network.init_with_output(key, image, train=False)
  params = dict(variables['params'])
  batch_stats = dict(variables['batch_stats'])
  if pretrained is not None:
    params[BACKBONE] = pretrained['params']
    batch_stats[BACKBONE] = pretrained['batch_stats']
  if distillation is not None:
    adaptors = distillation.adaptors.init(
      jax.random.fold_in(key, 1), output.features
    )
    params[ADAPTORS] = adaptors['params']
  names = objective_names(
    tuple(network.channels), distilled=distillation is not None, mode=mode
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=tx.init(params),
    # Like the gradients that it will combine, for rules that remember them.
    balancer_state=balancer.init(
      names, dict.fromkeys(names, combined_params(params, balancer))
    ),
  )


def combined_params(
  params: Mapping[str, Any], balancer: Balancer | GradientBalancer
) -> Any:
  """The parameters whose gradients a balancer combines."""
  if isinstance(balancer, GradientBalancer) and balancer.all_parameters:
    return params
  return params[BACKBONE]
