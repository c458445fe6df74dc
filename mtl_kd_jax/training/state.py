"""What a stage carries from step to step, and all that it checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class TrainState:
  """The state of one stage, a pytree of global, unreplicated arrays.

  Attributes:
    step: int32 scalar, number of optimizer steps taken.
    params: the network's parameters.
    collections: the network's other variables, e.g. {'batch_stats': ...}; {}
      for a network that has none.
    extras: name -> variables {'params', ...} of the extra networks, such as
      adaptors (loss_terms.py). Never part of the trained network.
    opt_state: 'network' and the names of the extra networks -> state of the
      optimizer; and 'averaged' -> the moving average of the network's
      variables, where there is one.
    balancer_state: the balancer's state.
  """

  step: jax.Array
  params: Any
  collections: Any
  extras: Any
  opt_state: Any
  balancer_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What the network is applied with."""
    return {'params': self.params, **self.collections}

  @property
  def result(self) -> dict[str, Any]:
    """What is scored and kept: averaged variables, where there are any."""
    return self.opt_state.get(AVERAGED, self.variables)


@struct.dataclass
class AdaptedState(TrainState):
  """The state of a stage whose weights of terms follow its scores.

  A class of its own, so that checkpoints of all others keep their layout.

  Attributes:
    factors: term -> float32 scalar, factor on its weight (adaptation.py).
  """

  factors: Any


NETWORK = 'network'  # the key of the network's optimizer
AVERAGED = 'averaged'  # the key of the moving average of its variables


def init_state(
  key: jax.Array,
  *,
  network: nn.Module,
  image_size: tuple[int, int],
  tx: Any,
  init_balancer: Any,
  extras: Mapping[str, Any] | None = None,
  pretrained: Mapping[str, Any] | None = None,
  adapted: Sequence[str] = (),
  averaged: bool = False,
) -> TrainState:
  """Draws the initial state of a stage.

  Args:
    key: PRNG key; with the same key a student and its baseline begin alike.
    network: the stage's network.
    image_size: (height, width) in pixels.
    tx: optimizer of the network.
    init_balancer: (state without the balancer's) -> the balancer's state.
    extras: the extra networks.
    pretrained: variables of the network's parts, {'params': {'backbone': ...},
      ...}, in place of what is drawn.
    adapted: the terms with factors, which begin at 1.
    averaged: whether a moving average of the variables is kept.
  """
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  outputs = []

  def call(network, image):
    output = network(image, train=False)
    outputs.append(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), output))

  # It draws, and nothing else: `init` runs forward besides, an operation at a
  # time, and XLA compiles each of them for each new shape.
  variables = network.lazy_init(key, image, method=call)
  (output,) = outputs
  variables = {kind: dict(tree) for kind, tree in variables.items()}
  for kind, parts in (pretrained or {}).items():
    variables[kind] |= parts
  params = variables.pop('params')
  extra_variables, opt_state = {}, {NETWORK: tx.init(params)}
  if averaged:  # copies, for a step gives its buffers up
    opt_state[AVERAGED] = jax.tree.map(
      jnp.copy, {'params': params, **variables}
    )
  for i, (name, extra) in enumerate(sorted((extras or {}).items()), start=1):
    extra_variables[name] = extra.init(jax.random.fold_in(key, i), output)
    opt_state[name] = extra.tx.init(extra_variables[name]['params'])
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    collections=variables,
    extras=extra_variables,
    opt_state=opt_state,
    balancer_state=(),
  )
  state = state.replace(balancer_state=init_balancer(state))
  if not adapted:
    return state
  factors = {name: jnp.ones((), jnp.float32) for name in adapted}
  return AdaptedState(**vars(state), factors=factors)
