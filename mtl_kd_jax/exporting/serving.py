"""The function that is exported: bytes in, outputs in the form of labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.interop.fold_norms import fold_norms
from mtl_kd_jax.prediction.outputs import finish
from mtl_kd_jax.trained import TrainedNetwork

OUTPUTS = ('finished', 'raw')


class Serving(NamedTuple):
  """A network as it is exported.

  Attributes:
    function: (variables, uint8 [b h w 3]) -> task -> array.
    variables: of the function.
    folded: number of BatchNorms that are folded into convolutions.
    kept: number of those that are not.
  """

  function: Callable[[Any, jax.Array], dict[str, jax.Array]]
  variables: Any
  folded: int
  kept: int

  def program(self, images: jax.Array) -> dict[str, jax.Array]:
    """The function with its variables, which become a part of it."""
    return self.function(self.variables, images)


def make_serving(trained: TrainedNetwork, *, outputs: str) -> Serving:
  """Makes the function that is exported, of the network alone.

  Args:
    trained: the network.
    outputs: 'finished' for class ids, measurements and unit normals as
      `predict` returns them; 'raw' for what the network gives, float32
      [b h w c].
  """
  network = fold_norms(
    trained.network, trained.variables, image_size=trained.image_size
  )

  def function(variables, images):
    images = images.astype(jnp.float32) / 255  # as the data sets do
    predictions = network.apply(variables, images)
    if outputs == 'raw':
      return {name: predictions[name] for name in trained.tasks}
    return {
      name: finish(task, predictions[name])
      for name, task in trained.tasks.items()
    }

  return Serving(function, network.variables, network.folded, network.kept)
