"""A trained network."""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from flax.errors import ScopeParamShapeError
import jax
import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.prediction import Predictor, PredictsPictures
from mtl_kd_jax.reports.plots import plot_balance
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.training.evaluation import Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork(PredictsPictures):
  """A network with its variables.

  Attributes:
    name: of the stage that trained it.
    network: the module.
    variables: {'params', ...}.
    tasks: the tasks that it predicts.
    image_size: (height, width) in pixels, of the images it was trained on.
    metrics: task -> metric -> value on the split that was reported, if known.
    workdir: the folder of the run.
    recalibrated_over: the number of batches that the statistics of BatchNorm
      were computed over with these weights: 0 for the running means of
      training, None without BatchNorm.
  """

  name: str
  network: Network
  variables: Any
  tasks: Mapping[str, Task]
  image_size: tuple[int, int]
  metrics: Metrics | None = None
  workdir: pathlib.Path | None = None
  recalibrated_over: int | None = 0

  def apply(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Predicts images; pure, for `jax.jit(network.apply)`.

    Args:
      variables: as `self.variables`.
      images: float32 [b h w 3] in [0, 1]; sides are multiples of the network's
        stride.

    Returns:
      task -> float [b h w c], as the network gives it.
    """
    return self.network.apply(variables, images, train=False).predictions

  def plot_conflict(self) -> Any:
    """A figure of how the gradients of its tasks compared while it trained.

    Returns:
      A matplotlib figure; None where nothing was measured, as for one task.
    """
    if self.workdir is None:
      return None
    log = [e for e in read_log(self.workdir) if e['stage'] == self.name]
    return plot_balance(log, self.tasks)

  def __repr__(self) -> str:
    return f'TrainedNetwork({self.name!r}: {", ".join(self.tasks)})'

  @functools.cached_property
  def predictor(self) -> Predictor:
    """What `predict` uses: the network on one device of this machine."""
    options = compiler_options(jax.default_backend())
    compiled = jax.jit(self.apply, compiler_options=options)
    # Just trained, they are on all devices, which would all do the same.
    variables = jax.device_put(self.variables, jax.local_devices()[0])

    def call(images: np.ndarray) -> dict[str, jax.Array]:
      try:
        return compiled(variables, images)
      except (ScopeParamShapeError, TypeError, ValueError) as error:
        # Of a module that computes with its sizes.
        size = images.shape[1:3]
        if size == tuple(self.image_size) or isinstance(error, InputError):
          raise
        raise _other_size(size, self.image_size, error) from error

    return Predictor(
      call=call,
      tasks=self.tasks,
      image_size=self.image_size,
      stride=getattr(self.network.backbone, 'stride', 1),
    )


def _other_size(found, image_size, error: Exception) -> InputError:
  reason = f'{error}'.strip().partition('\n')[0]
  text = f'{found[0]} x {found[1]} (height x width): {reason[:200]}'
  return InputError(
    expected='a size that this network takes, such as that of its training, '
    f'{image_size[0]} x {image_size[1]}',
    found=text,
    argument='resize',
    do=f"resize='train' or tile=({image_size[0]}, {image_size[1]})",
  )
