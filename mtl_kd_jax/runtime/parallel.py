"""Where arrays live: the only file that knows meshes, placement and pmap.

Two ways to run the same pure steps over all devices:

  jit   the default: one global batch, sharded over the devices; the compiler
        inserts the communication.
  pmap  every device runs the step on its part of the batch, and the step sums
        over the axis `AXIS` itself.

State and teachers are whole, unstacked arrays in both, so that checkpoints are
the same and one mode can continue what the other started.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.compiler import compiler_options

AXIS = 'batch'
MODES = ('jit', 'pmap')


@dataclasses.dataclass(frozen=True)
class Parallel:
  """Places arrays and compiles steps; made by `make_parallel`.

  Attributes:
    mode: 'jit' or 'pmap'.
    mesh: all devices of all processes along `AXIS`.
    axis_name: what the steps and BatchNorm are to be given.
  """

  mode: str
  mesh: Mesh

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

  def compile_train_step(self, step: Callable) -> Callable:
    """Compiles (state, frozen, batch) -> (state, measured).

    The old state is given up (donated) under jit.
    """
    if self.mode == 'pmap':
      return jax.pmap(
        step, AXIS, in_axes=(None, None, 0), out_axes=(None, None)
      )
    replicated, split = self.replicated, self._sharding(AXIS)
    return jax.jit(
      step,
      in_shardings=(replicated, replicated, split),
      out_shardings=(replicated, replicated),
      donate_argnums=0,
      compiler_options=self.compiler_options,
    )

  def compile_measurement(self, step: Callable) -> Callable:
    """Compiles (state, frozen, batch) -> scalars; the state is kept."""
    if self.mode == 'pmap':
      return jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None)
    replicated, split = self.replicated, self._sharding(AXIS)
    return jax.jit(
      step,
      in_shardings=(replicated, replicated, split),
      out_shardings=replicated,
      compiler_options=self.compiler_options,
    )

  def compile_eval_step(self, step: Callable) -> Callable:
    """Compiles (variables, batch) -> (statistics, predictions)."""
    if self.mode == 'pmap':
      return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=(None, 0))
    replicated, split = self.replicated, self._sharding(AXIS)
    return jax.jit(
      step,
      in_shardings=(replicated, split),
      out_shardings=(replicated, split),
      compiler_options=self.compiler_options,
    )

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


def make_parallel(mode: str, *, batch_size: int) -> Parallel:
  """Takes all devices of all processes.

  Args:
    mode: 'jit' or 'pmap'.
    batch_size: of the global batch.

  Raises:
    InputError: unknown mode, or a batch that cannot be split evenly over the
      devices.
  """
  if mode not in MODES:
    raise InputError(
      expected=f'one of {", ".join(MODES)}',
      found=repr(mode),
      argument='mode',
      do="use 'jit', unless you need 'pmap'",
    )
  devices = jax.devices()
  n = len(devices)
  if batch_size < 1 or batch_size % n:
    fit = max(1, round(batch_size / n)) * n
    raise InputError(
      expected=f'a positive multiple of {n}, the number of '
      f'{devices[0].platform} devices',
      found=f'{batch_size}',
      argument='batch_size',
      do=f'set it to e.g. {fit}',
    )
  return Parallel(mode, Mesh(np.array(devices), (AXIS,)))


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
