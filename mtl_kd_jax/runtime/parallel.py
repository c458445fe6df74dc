"""Where arrays live: the only file that knows meshes, placement and pmap.

Two ways to run the same pure steps over all devices:

  jit   the default: one global batch, sharded over the devices; the compiler
        inserts the communication.
  pmap  every device runs the step on its part of the batch, and the step sums
        over the axis `AXIS` itself.

Teachers are whole, unstacked arrays in both, and so is the state, so that
checkpoints are the same and one mode can continue what the other started.

With `fsdp`, under jit, the devices share the state: each holds a part of every
large array, of parameters as well as of what an optimizer keeps beside them
(Rajbhandari et al. 2020, ZeRO). Parameters are gathered for the step and
dropped after it. A checkpoint is the same again.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.runtime.program import Program

AXIS = 'batch'
MODES = ('jit', 'pmap')
# Numbers in an array that devices share: smaller ones are not worth a message.
_MIN_SHARED = 2**12


@dataclasses.dataclass(frozen=True)
class Parallel:
  """Places arrays and compiles steps; made by `make_parallel`.

  Attributes:
    mode: 'jit' or 'pmap'.
    mesh: all devices of all processes along `AXIS`.
    fsdp: whether the devices share the state.
    axis_name: what the steps and BatchNorm are to be given.
  """

  mode: str
  mesh: Mesh
  fsdp: bool = False

  @property
  def axis_name(self) -> str | None:
    """The mapped axis: `AXIS` under pmap, None under jit."""
    return AXIS if self.mode == 'pmap' else None

  @property
  def num_devices(self) -> int:
    """Number of devices over all processes."""
    return self.mesh.size

  @property
  def replicated(self) -> NamedSharding:
    """The placement of an array that every device holds whole."""
    return self._sharding()

  def replicate(self, tree: Any) -> Any:
    """Puts host or device arrays whole on every device."""
    return jax.device_put(tree, self.replicated)

  def place(self, state: Any) -> Any:
    """Puts a training state on the devices, each array as `state_sharding`."""
    return jax.device_put(state, self.state_sharding(state))

  def state_sharding(self, state: Any) -> Any:
    """The placement of every array of a training state.

    Args:
      state: pytree of arrays or their shapes.
    """
    return jax.tree.map(lambda x: self._part_sharding(x.shape), state)

  def _part_sharding(self, shape: tuple[int, ...]) -> NamedSharding:
    """Split along its longest axis that the devices can share evenly."""
    n = self.num_devices
    sides = [side if side % n == 0 else 0 for side in shape]
    if not self.fsdp or n == 1 or max(sides, default=0) == 0:
      return self.replicated
    if math.prod(shape) < _MIN_SHARED:
      return self.replicated
    axes: list[str | None] = [None] * len(shape)
    axes[sides.index(max(sides))] = AXIS
    return self._sharding(*axes)

  def gather(self, tree: Any) -> Any:
    """Within a step: makes shared arrays whole on every device."""
    if not self.fsdp:
      return tree
    return jax.lax.with_sharding_constraint(tree, self.replicated)

  def shard(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts a batch on the devices.

    Args:
      batch: this process's share, arrays [b/processes ...].

    Returns:
      jit: global arrays [b ...], sharded over the devices. pmap: arrays
      [local devices, b/devices ...].
    """
    if self.mode == 'pmap':
      n = jax.local_device_count()
      return {k: x.reshape(n, -1, *x.shape[1:]) for k, x in batch.items()}
    sharding = self._sharding(AXIS)
    return {
      k: jax.make_array_from_process_local_data(sharding, x)
      for k, x in batch.items()
    }

  def abstract(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes of what `shard` returns.

    Args:
      batch: arrays [b/processes ...], or their shapes.
    """
    local, hosts = jax.local_device_count(), jax.process_count()

    def spec(x):
      b, *sides = x.shape
      if self.mode == 'pmap':
        return jax.ShapeDtypeStruct((local, b // local, *sides), x.dtype)
      return jax.ShapeDtypeStruct(
        (b * hosts, *sides), x.dtype, sharding=self._sharding(AXIS)
      )

    return {name: spec(x) for name, x in batch.items()}

  def compile_train_step(self, step: Callable, state: Any = None) -> Program:
    """Compiles (state, frozen, batch) -> (state, measured).

    The old state is given up (donated) under jit.

    Args:
      step: the step.
      state: the state, or its shapes; needed where devices share it.
    """
    if self.mode == 'pmap':
      return Program(
        jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=(None, None))
      )
    replicated, split = self.replicated, self._sharding(AXIS)
    placed = self.state_sharding(state) if self.fsdp else replicated
    return Program(
      jax.jit(
        step,
        in_shardings=(placed, replicated, split),
        out_shardings=(placed, replicated),
        donate_argnums=0,
        compiler_options=self.compiler_options,
      )
    )

  def compile_measurement(self, step: Callable) -> Program:
    """Compiles (state, frozen, batch) -> scalars; the state is kept."""
    if self.mode == 'pmap':
      return Program(
        jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None)
      )
    replicated, split = self.replicated, self._sharding(AXIS)
    return Program(
      jax.jit(
        self._gathering(step),
        in_shardings=(None if self.fsdp else replicated, replicated, split),
        out_shardings=replicated,
        compiler_options=self.compiler_options,
      )
    )

  def compile_eval_step(self, step: Callable) -> Program:
    """Compiles (variables, batch) -> (statistics, predictions)."""
    if self.mode == 'pmap':
      return Program(
        jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=(None, 0))
      )
    replicated, split = self.replicated, self._sharding(AXIS)
    return Program(
      jax.jit(
        self._gathering(step),
        in_shardings=(None if self.fsdp else replicated, split),
        out_shardings=(replicated, split),
        compiler_options=self.compiler_options,
      )
    )

  def _gathering(self, step: Callable) -> Callable:
    """The step, given its first argument whole."""
    if not self.fsdp:
      return step
    return lambda tree, *args: step(self.gather(tree), *args)

  def whole(self, tree: Any) -> Any:
    """Puts arrays that devices share whole on every device."""
    return _gather_to(self.replicated)(tree) if self.fsdp else tree

  def saveable(self, tree: Any) -> Any:
    """The same, where a process cannot see all parts; every one calls this."""
    return self.whole(tree) if jax.process_count() > 1 else tree

  def local(self, batch: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """This process's share of an array split over the batch, [b ...]."""
    if self.mode == 'pmap':
      return {
        k: np.asarray(x).reshape(-1, *x.shape[2:]) for k, x in batch.items()
      }
    return {k: _addressable(x) for k, x in batch.items()}

  @property
  def compiler_options(self) -> dict[str, str | bool]:
    """What `jax.jit` is given on these devices."""
    return compiler_options(self.mesh.devices.flat[0].platform)

  def _sharding(self, *axes: str) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec(*axes))


@functools.cache
def _gather_to(sharding: NamedSharding) -> Callable[[Any], Any]:
  return jax.jit(lambda tree: tree, out_shardings=sharding)


def make_parallel(
  mode: str, *, batch_size: int, fsdp: bool = False
) -> Parallel:
  """Takes all devices of all processes.

  Args:
    mode: 'jit' or 'pmap'.
    batch_size: of the global batch.
    fsdp: whether they share the training state, in mode 'jit'.

  Raises:
    InputError: unknown mode, `fsdp` in mode 'pmap', processes with different
      numbers of devices, or a batch that cannot be split evenly over them.
  """
  if mode not in MODES:
    raise InputError(
      expected=f'one of {", ".join(MODES)}',
      found=repr(mode),
      argument='mode',
      do="use 'jit', unless you need 'pmap'",
    )
  if fsdp and mode != 'jit':
    raise InputError(
      expected="False, since in mode 'pmap' every device holds the whole state",
      found=repr(fsdp),
      argument='fsdp',
      do="set it to False, or the mode to 'jit'",
    )
  devices = jax.devices()
  n = len(devices)
  processes = jax.process_count()
  if processes > 1 and n != processes * jax.local_device_count():
    raise InputError(
      expected='as many devices in every process',
      found=f'{jax.local_device_count()} of {n} here',
      where=f'process {jax.process_index()} of {processes}',
      do='start processes with the same number of devices',
    )
  if batch_size < 1 or batch_size % n:
    fit = max(1, round(batch_size / n)) * n
    raise InputError(
      expected=f'a positive multiple of {n}, the number of '
      f'{devices[0].platform} devices',
      found=f'{batch_size}',
      argument='batch_size',
      do=f'set it to e.g. {fit}',
    )
  return Parallel(mode, Mesh(np.array(devices), (AXIS,)), fsdp)


def is_main_process() -> bool:
  """Whether this process writes the reports."""
  return jax.process_index() == 0


def any_process(flag: bool) -> bool:
  """Whether the flag is set in any process; all of them must call this."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def _addressable(x: jax.Array) -> np.ndarray:
  shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
  return np.concatenate([np.asarray(s.data) for s in shards])
