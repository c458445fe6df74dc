"""A backbone and a head per task, with all features by name."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import math
from typing import Any, NamedTuple

from flax.core import FrozenDict
import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.features import taps_of, task_tap
from mtl_kd_jax.ops.norm import BatchNorm

BACKBONE = 'backbone'  # the key of the backbone in a network's variables


class Output(NamedTuple):
  """What a network returns; nothing is hooked or sown.

  Attributes:
    predictions: task -> float [b h w c]; [b c] where a task says something of
      the image as a whole.
    features: tap -> float [b h w c]: 'bottleneck' is shared by the tasks,
      'decoder/depth' is depth's own (features.py).
  """

  predictions: dict[str, jax.Array]
  features: dict[str, jax.Array]


class NetworkSpec(NamedTuple):
  """How a network was made, by names and numbers; see `models.make`.

  Attributes:
    backbone: of `models.BACKBONES`.
    head: of `models.HEADS`.
    width: factor on the channels.
    output_stride: image side over side of the coarsest map.
  """

  backbone: str
  head: str
  width: float
  output_stride: int


class Network(nn.Module):
  """A network for one task or several.

  Its variables are 'params' and whatever collections its parts have, such as
  'batch_stats'; in training it draws random numbers where its parts do.

  Attributes:
    backbone: maps images to named features.
    channels: task -> channels of its prediction.
    head: makes the head of a task, `head(channels)`. The head is called with
      the features that the task sees, and returns its prediction and the
      features that it computed on the way.
    spec: how it was made; None for a network that was put together by hand.
    heads: task -> the same as `head`, for tasks with another one.
  """

  backbone: nn.Module
  channels: Mapping[str, int]
  head: Callable[..., nn.Module]
  spec: NetworkSpec | None = None
  heads: Mapping[str, Callable[..., nn.Module]] = FrozenDict()

  def setup(self):
    """Makes the heads, under the names that their variables have."""
    for task, channels in self.channels.items():
      make = self.heads.get(task, self.head)
      setattr(self, head_name(task), make(channels))

  def __call__(self, image: jax.Array, *, train: bool) -> Output:
    """Predicts every task.

    Args:
      image: float32 [b h w 3] in [0, 1].
      train: whether parts behave as in training: BatchNorm uses, and records,
        the statistics of this batch; dropout drops.
    """
    features = self.encode(image, train=train)
    predictions = {}
    for task in self.channels:
      predictions[task], task_specific = self.decode(
        features, task, size=image.shape[1:3], train=train
      )
      features |= task_specific
    return Output(predictions, features)

  def encode(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """The features of the backbone: tap -> float [b h w c]."""
    tasks = tuple(self.channels)
    return dict(self.backbone(image, tasks=tasks, train=train))

  def decode(
    self,
    features: Mapping[str, jax.Array],
    task: str,
    *,
    size: tuple[int, int],
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The prediction of one task.

    Args:
      features: of `encode`.
      task: the task.
      size: (height, width) of the image.
      train: as in `__call__`.

    Returns:
      The prediction, float [b h w c], and the features of the head, named as in
      `Output.features`.
    """
    head = getattr(self, head_name(task))
    prediction, computed = head(taps_of(features, task), size=size, train=train)
    return prediction, {task_tap(tap, task): x for tap, x in computed.items()}

  def only(self, *tasks: str) -> 'Network':
    """The same network for some of its tasks, e.g. the one of a single task."""
    unknown = [t for t in map(str, tasks) if t not in self.channels]
    if unknown or not tasks:
      raise InputError(
        expected=f'tasks of the network: {", ".join(self.channels)}',
        found=', '.join(unknown) or 'none',
        argument='tasks',
        do="name some of those, each by itself: only('depth', 'normals')",
      )
    return self.clone(channels={t: self.channels[t] for t in tasks})

  def with_axis(self, axis_name: str | None) -> 'Network':
    """The same network for a batch split over a mapped device axis."""
    return self.clone(
      backbone=self.backbone.clone(axis_name=axis_name),
      head=functools.partial(self.head, axis_name=axis_name),
      heads={
        task: functools.partial(make, axis_name=axis_name)
        for task, make in self.heads.items()
      },
    )

  def with_remat(self) -> 'Network':
    """The same network; on the way back its backbone computes again.

    Raises:
      InputError: the backbone cannot.
    """
    if not hasattr(self.backbone, 'remat'):
      raise InputError(
        expected="a backbone with an attribute 'remat', which says whether its "
        'blocks are wrapped in flax.linen.remat',
        found=type(self.backbone).__name__,
        argument='remat',
        do='add it to the backbone, or do without',
      )
    return self.clone(backbone=self.backbone.clone(remat=True))


def head_name(task: str) -> str:
  """The key of a task's head in a network's variables."""
  return f'head_{task}'


def abstract_init(
  network: nn.Module, image_size: tuple[int, int]
) -> tuple[Output, dict[str, Any]]:
  """The shapes of a network's output and variables; nothing is computed.

  Args:
    network: the network.
    image_size: (height, width) in pixels, of one image.
  """
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  return jax.eval_shape(
    lambda x: network.init_with_output(jax.random.key(0), x, train=False), image
  )


class NormInput(NamedTuple):
  """What a BatchNorm is given.

  Attributes:
    values: how many of each channel, of one image; the least, where the layer
      is called more than once.
    axis_name: the mapped device axis over which it takes statistics, if any.
  """

  values: int
  axis_name: str | None = None


@contextlib.contextmanager
def recorded_norms() -> Iterator[dict[str, NormInput]]:
  """Records every BatchNorm that is called: its path -> its input.

  What is called has to be traced for a single image.
  """
  recorded: dict[str, NormInput] = {}

  def record(call, args, kwargs, context):
    module = context.module
    if (
      isinstance(module, (BatchNorm, nn.BatchNorm))
      and context.method_name == '__call__'
    ):
      x = args[0] if args else kwargs['x']
      path, values = '/'.join(module.path), math.prod(x.shape[:-1])
      if path in recorded:
        values = min(values, recorded[path].values)
      recorded[path] = NormInput(values, module.axis_name)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    yield recorded


@dataclasses.dataclass(frozen=True)
class FeatureShapes:
  """The shapes [1 h w c] of a network's features, and those of its variables.

  Attributes:
    backbone: tap -> shape, of those that the backbone computes.
    heads: tap -> shape, of those that the heads compute.
    output: the output for one image, of `jax.ShapeDtypeStruct`.
    norms: path of a BatchNorm -> what it is given.
    variables: 'params' and the other collections, of `jax.ShapeDtypeStruct`.
  """

  backbone: Mapping[str, tuple[int, ...]]
  heads: Mapping[str, tuple[int, ...]]
  output: Output
  norms: Mapping[str, NormInput]
  variables: Mapping[str, Any]

  @property
  def all(self) -> dict[str, tuple[int, ...]]:
    """Both."""
    return {**self.backbone, **self.heads}


def feature_shapes(
  network: nn.Module, image_size: tuple[int, int]
) -> FeatureShapes:
  """The shapes of a network's features; nothing is computed.

  Args:
    network: the network.
    image_size: (height, width) in pixels.
  """
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)

  def parts(module, x):
    encoded, computed, predictions = module.encode(x, train=False), {}, {}
    for task in module.channels:
      predictions[task], task_specific = module.decode(
        encoded, task, size=image_size, train=False
      )
      computed |= task_specific
    return encoded, computed, predictions

  def run(x):
    return network.init_with_output(jax.random.key(0), x, method=parts)

  with recorded_norms() as norms:
    (encoded, computed, predictions), variables = jax.eval_shape(run, image)
  return FeatureShapes(
    *(
      {tap: x.shape for tap, x in taps.items()} for taps in (encoded, computed)
    ),
    output=Output(predictions, {**encoded, **computed}),
    norms=norms,
    variables=variables,
  )
