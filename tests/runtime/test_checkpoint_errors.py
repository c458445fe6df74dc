"""Sound checkpoints that cannot be read stay as and where they are."""

import errno
import pathlib
import types

from fixtures.checkpoints import (
  as_of_an_earlier_version,
  files_with_content,
  finish,
  make_state,
  write,
)
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import checkpointing, damage
from mtl_kd_jax.runtime.checkpointing import Checkpoints, read_variables


def reads(checkpoints, folder, like):
  return (
    lambda: checkpoints.restore_last(like),
    lambda: checkpoints.restore_best(like),
    lambda: read_variables(folder, like.variables, best=False),
  )


# ---- Machines ----------------------------------------------------------------


class JaxRuntimeError(RuntimeError):
  """As JAX raises it."""


def wrapped(error):
  """As orbax raises what tensorstore has raised."""
  outer = Exception('Encountered error while reading array index')
  outer.__cause__ = error
  return outer


@pytest.mark.parametrize('method', ['metadata', 'restore'])
@pytest.mark.parametrize(
  'error',
  [
    MemoryError(),
    PermissionError(errno.EACCES, 'Permission denied'),
    OSError(errno.EIO, 'Input/output error'),
    OSError(errno.ENOTCONN, 'Transport endpoint is not connected'),
    ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer'),
    OSError(errno.EDQUOT, 'Disk quota exceeded'),
    TimeoutError('Timed out while waiting for a barrier.'),
    JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes'),
    wrapped(ValueError('RESOURCE_EXHAUSTED: out of memory')),
    wrapped(ValueError('UNAVAILABLE: connection lost')),
    wrapped(ValueError('PERMISSION_DENIED: no access')),
    wrapped(OSError(errno.ESTALE, 'Stale file handle')),
  ],
  ids=lambda e: f'{type(e).__name__} {e.__cause__ or e}'[:40],
)
def test_an_error_of_the_machine_is_no_damage(
  error, method, folder, monkeypatch
):
  like = finish(folder)
  before = files_with_content(folder)

  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(ocp.StandardCheckpointer, method, fail)
  checkpoints = Checkpoints(folder)
  for read in reads(checkpoints, folder, like):
    with pytest.raises(type(error)) as raised:
      read()
    assert raised.value is error
  checkpoints.close()
  assert files_with_content(folder) == before


def test_an_error_of_the_machine_that_orbax_hides_is_found(
  folder, opened, monkeypatch
):
  """It logs that a file cannot be opened, and returns no metadata."""
  write(folder, (1, 2))
  before = files_with_content(folder)
  nothing = types.SimpleNamespace(item_metadata=None)
  monkeypatch.setattr(
    ocp.StandardCheckpointer, 'metadata', lambda *args: nothing
  )

  def refuse(path, mode):
    raise PermissionError(errno.EACCES, 'Permission denied', path)

  monkeypatch.setattr(damage, 'open', refuse, raising=False)
  with pytest.raises(PermissionError):
    opened().restore_last(make_state(0))
  assert files_with_content(folder) == before


def test_a_description_that_the_machine_cannot_read_says_nothing(
  folder, opened, monkeypatch
):
  """It is neither that of an unfinished stage, nor one without a score."""
  like = finish(folder)
  checkpoints, before = opened(), files_with_content(folder)
  read_bytes = pathlib.Path.read_bytes

  def fail(path):
    if path.name == 'metadata':
      raise OSError(errno.EIO, 'Input/output error')
    return read_bytes(path)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'read_bytes', fail)
    for read in (
      *reads(checkpoints, folder, like),
      lambda: checkpointing.is_finished(folder),
      lambda: checkpoints.finished,
      lambda: Checkpoints(folder),
    ):
      with pytest.raises(OSError, match='Input/output error'):
        read()
  assert files_with_content(folder) == before


# ---- Libraries ---------------------------------------------------------------


@pytest.mark.parametrize('method', ['metadata', 'restore'])
@pytest.mark.parametrize(
  'error',
  [
    NotImplementedError('a format of a later version'),
    TypeError('restore() got an unexpected keyword'),
    wrapped(ValueError('DATA_LOSS: an unknown codec')),
    FileNotFoundError(errno.ENOENT, 'No such file', 'a new file'),
  ],
  ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize('listed', [True, False], ids=['', 'earlier version'])
def test_a_library_that_fails_is_no_damage(
  listed, error, method, folder, monkeypatch
):
  like = finish(folder)
  if not listed:
    as_of_an_earlier_version(folder)
  before = files_with_content(folder)

  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(ocp.StandardCheckpointer, method, fail)
  checkpoints = Checkpoints(folder)
  for read in reads(checkpoints, folder, like):
    with pytest.raises(InputError, match='left as it is') as raised:
      read()
    assert f'{error}' in raised.value.found
    assert ('are as they were written' in raised.value.found) == listed
    assert ('move the folder away' in raised.value.do) != listed
  checkpoints.close()
  assert files_with_content(folder) == before


def test_a_library_that_finds_nothing_is_no_damage(folder, monkeypatch, opened):
  like = finish(folder)
  before = files_with_content(folder)
  nothing = types.SimpleNamespace(item_metadata=None)
  monkeypatch.setattr(
    ocp.StandardCheckpointer, 'metadata', lambda *args: nothing
  )
  for read in reads(opened(), folder, like):
    with pytest.raises(InputError, match='does not find what it holds'):
      read()
  assert files_with_content(folder) == before


def test_a_library_that_reads_other_numbers_is_no_damage(
  folder, monkeypatch, opened
):
  like = finish(folder)
  before = files_with_content(folder)
  restore = ocp.StandardCheckpointer.restore

  def double(*args):
    return jax.tree.map(lambda x: 2 * x, restore(*args))

  monkeypatch.setattr(ocp.StandardCheckpointer, 'restore', double)
  for read in reads(opened(), folder, like):
    with pytest.raises(InputError, match='numbers do not match its checksum'):
      read()
  assert files_with_content(folder) == before


# ---- Other states ------------------------------------------------------------


def test_a_sound_checkpoint_of_another_state_is_refused_and_stays(folder):
  write(folder, (1, 2))
  before = files_with_content(folder)
  other = make_state(0) | {'new': jnp.zeros(3)}
  other['params']['conv']['bias'] = jnp.zeros(17)
  checkpoints = Checkpoints(folder)
  with pytest.raises(InputError) as error:
    checkpoints.restore_last(other)
  checkpoints.close()
  assert 'missing: new [3]' in error.value.found
  assert 'params/conv/bias [16] in place of [17]' in error.value.found
  assert files_with_content(folder) == before


def test_a_sound_checkpoint_of_other_dtypes_is_refused_and_stays(
  folder, opened
):
  write(folder, (1, 2))
  before = files_with_content(folder)
  other = make_state(0)
  other['params']['conv']['bias'] = jnp.zeros(16, jnp.bfloat16)
  with pytest.raises(InputError) as error:
    opened().restore_last(other)
  assert error.value.found == (
    '1 of another dtype: params/conv/bias float32 in place of bfloat16'
  )
  assert files_with_content(folder) == before
