"""Measures one multi-task network against the single-task networks.

Both sides are run as they are exported: bytes in, finished outputs out,
BatchNorm folded. They are measured in turns, so that a machine that is busy for
a while slows down both.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.exporting.serving import Serving, make_serving
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.trained import TrainedNetwork

BATCH_SIZES = (1, 8)
_WARM_UP = 3
_MIN_ROUNDS, _MAX_ROUNDS = 20, 200
_SECONDS = 10.0  # for each batch size and device, after which rounds end

Side = Sequence[TrainedNetwork]


class Timing(NamedTuple):
  """The time that one batch takes.

  Attributes:
    median: in milliseconds.
    low: the first quartile.
    high: the third quartile.
    rounds: number of measurements.
    memory: MiB of weights, and of what the largest network needs beside them.
  """

  median: float
  low: float
  high: float
  rounds: int
  memory: float


@dataclasses.dataclass(frozen=True)
class Measured:
  """One side: a network, or several that are run one after the other.

  Attributes:
    parameters: their number.
    multiply_adds: for one picture, of convolutions and matrix products.
    timings: device -> batch size -> timing.
  """

  parameters: int
  multiply_adds: int
  timings: Mapping[str, Mapping[int, Timing]]


def measure(
  sides: Mapping[str, Side],
  *,
  devices: Mapping[str, jax.Device],
  batch_sizes: Sequence[int] = BATCH_SIZES,
  seconds: float = _SECONDS,
  rounds: tuple[int, int] = (_MIN_ROUNDS, _MAX_ROUNDS),
) -> dict[str, Measured]:
  """Measures sides against each other.

  Args:
    sides: name -> networks, which are run one after the other on the same
      pictures.
    devices: name -> device.
    batch_sizes: numbers of pictures.
    seconds: after which no round begins, beyond the first number of `rounds`.
    rounds: the least and the largest number of measurements.
  """
  servings = {
    name: [make_serving(n, outputs='finished') for n in networks]
    for name, networks in sides.items()
  }
  timings: dict[str, dict[str, dict[int, Timing]]] = {n: {} for n in sides}
  for label, device in devices.items():
    for batch_size in batch_sizes:
      programs = {
        name: _compile(sides[name], servings[name], device, batch_size)
        for name in sides
      }
      found = _time(programs, seconds=seconds, rounds=rounds)
      for name, timing in found.items():
        timings[name].setdefault(label, {})[batch_size] = timing
  return {
    name: Measured(
      sum(_parameters(n) for n in networks),
      sum(
        map(
          count_multiply_adds, servings[name], (n.image_size for n in networks)
        )
      ),
      timings[name],
    )
    for name, networks in sides.items()
  }


def only(trained: TrainedNetwork, task: str) -> TrainedNetwork:
  """The part of a network that predicts one task, as a network."""
  network = trained.network.only(task)
  _, like = abstract_init(network, trained.image_size)
  variables = _part(trained.variables, like)
  return dataclasses.replace(
    trained,
    name=f'{trained.name}_{task}',
    network=network,
    variables=variables,
    tasks={task: trained.tasks[task]},
  )


def count_multiply_adds(serving: Serving, image_size: tuple[int, int]) -> int:
  """Counts those of convolutions and matrix products, for one picture.

  They are counted in the traced program, with plain convolutions: padding
  counts, and what does not depend on the picture does not.

  Args:
    serving: the network.
    image_size: (height, width) in pixels.
  """
  height, width = image_size
  # All maps, and nothing else, have a symbolic side.
  shape = export.symbolic_shape(f'batch, {height}, {width}, 3')
  image = jax.ShapeDtypeStruct(shape, jnp.uint8)
  closed = jax.make_jaxpr(serving.function)(serving.variables, image)
  return _count(closed.jaxpr)


def _count(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    params = equation.params
    out = equation.outvars[0].aval
    sides = [side for side in out.shape if isinstance(side, int)]
    if len(sides) < len(out.shape):
      if equation.primitive.name == 'conv_general_dilated':
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params['dimension_numbers'].rhs_spec[0]]
        total += math.prod(sides) * math.prod(kernel) // outputs
      elif equation.primitive.name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        shape = equation.invars[0].aval.shape
        total += math.prod(sides) * math.prod(shape[i] for i in contracted)
    for value in params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += _count(inner)
  return total


class _Program(NamedTuple):
  run: Callable[[], Any]  # returns what is not yet computed
  memory: float


def _compile(networks, servings, device, batch_size) -> _Program:
  calls, weights, largest = [], 0, 0
  for trained, serving in zip(networks, servings, strict=True):
    size = (batch_size, *trained.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    variables, images = jax.device_put((serving.variables, images), device)
    options = compiler_options(device.platform)
    compiled = (
      jax.jit(serving.function, compiler_options=options)
      .lower(variables, images)
      .compile()
    )
    calls.append((compiled, variables, images))
    weights += sum(x.nbytes for x in jax.tree.leaves(variables))
    if needed := compiled.memory_analysis():
      beside = needed.temp_size_in_bytes + needed.output_size_in_bytes
      largest = max(largest, beside + images.nbytes)

  def run():
    return [compiled(*inputs) for compiled, *inputs in calls]

  return _Program(run, (weights + largest) / 2**20)


def _time(programs, *, seconds, rounds) -> dict[str, Timing]:
  for program in programs.values():
    for _ in range(_WARM_UP):
      jax.block_until_ready(program.run())
  times: dict[str, list[float]] = {name: [] for name in programs}
  least, most = rounds
  begin = time.perf_counter()
  for i in range(most):
    if i >= least and time.perf_counter() - begin > seconds:
      break
    # In the other order every second time: the first one may be slower.
    order: Iterable[str] = [*programs] if i % 2 else [*reversed(programs)]
    for name in order:
      start = time.perf_counter()
      jax.block_until_ready(programs[name].run())
      times[name].append(1000 * (time.perf_counter() - start))
  timings = {}
  for name, values in times.items():
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    timings[name] = Timing(
      median, low, high, len(values), programs[name].memory
    )
  return timings


def _parameters(trained: TrainedNetwork) -> int:
  return sum(x.size for x in jax.tree.leaves(trained.variables['params']))


def _part(tree, like):
  if not isinstance(like, Mapping):
    return tree
  return {key: _part(tree[key], part) for key, part in like.items()}
