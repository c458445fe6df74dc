"""Checkpoints: bit for bit, the best kept, damage survived, nothing lost."""

import dataclasses
import errno
import gc
import pathlib
import signal
import threading
import types
from typing import Any, NamedTuple
import warnings

from fixtures.launching import run_python
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import checkpointing, damage
from mtl_kd_jax.runtime.checkpointing import (
  Checkpoints,
  checksum,
  read_variables,
)
from mtl_kd_jax.training.state import TrainState


class Moments(NamedTuple):
  """Shaped like an optimizer's state."""

  count: Any
  mu: Any
  nu: Any


class Nothing(NamedTuple):
  """As optax.EmptyState."""


def make_state(seed):
  """Random numbers, which do not compress: every byte on disk matters."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  odd = np.array([-0.0, np.nan, np.inf, 1e-40, 1.1], np.float32)
  return {
    'step': jnp.int32(seed),
    'params': {'conv': {'kernel': draw(3, 3, 8, 16), 'bias': draw(16)}},
    'opt_state': (
      Moments(jnp.int32(seed), {'kernel': draw(20, 30)}, {}),
      Nothing(),
      {'adaptors': Moments(jnp.uint32(7), draw(2), draw(1))},
    ),
    'batch_stats': {},
    'balancer_state': (),
    'absent': None,
    'odd': jnp.asarray(odd),
    'flag': jnp.asarray(seed % 2 == 0),
  }


@pytest.fixture
def folder(tmp_path):
  yield tmp_path / 'stage'
  if (tmp_path / 'stage' / 'damaged').exists():
    gc.collect()  # of failed reads, which would complain in another test


@pytest.fixture
def opened(folder):
  """Opens the folder, as often as wanted; closes all in the end."""
  every = []

  def open_():
    every.append(Checkpoints(folder))
    return every[-1]

  yield open_
  for checkpoints in every:
    checkpoints.close()


def write(folder, steps):
  checkpoints = Checkpoints(folder)
  for step in steps:
    checkpoints.save(step, make_state(step))
  checkpoints.close()


def steps_in(folder):
  return sorted(int(p.name) for p in folder.iterdir())


def assert_identical(actual, expected):
  """Same structure, types, and bits: NaN equals NaN, and -0 is not 0."""
  assert actual is not None
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, e in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert (a.dtype, a.shape) == (e.dtype, e.shape)
    assert np.asarray(a).tobytes() == np.asarray(e).tobytes()


def largest_file(folder):
  return max(
    (p for p in folder.rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path):
  content = bytearray(path.read_bytes())
  if content:
    content[len(content) // 2] ^= 4
  path.write_bytes(content)


DAMAGE = {
  'truncated': truncate,
  'deleted': pathlib.Path.unlink,
  'one bit flipped': flip_bit,
}
every_damage = pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)


def test_a_state_is_read_back_bit_for_bit(opened):
  checkpoints = opened()
  assert checkpoints.latest_step is None
  checkpoints.save(3, make_state(3))
  checkpoints.wait()
  assert checkpoints.latest_step == 3
  assert_identical(checkpoints.restore_last(make_state(0)), make_state(3))
  checkpoints = opened()
  assert checkpoints.latest_step == 3
  assert_identical(checkpoints.restore_last(make_state(0)), make_state(3))


def test_low_precision_is_read_back_too(opened):
  checkpoints = opened()
  state = {'w': jnp.asarray([1.5, -0.0, jnp.nan], jnp.bfloat16)}
  checkpoints.save(1, state)
  checkpoints.wait()
  like = jax.tree.map(jnp.zeros_like, state)
  assert_identical(checkpoints.restore_last(like), state)


def test_shapes_are_enough_to_restore(opened):
  checkpoints = opened()
  checkpoints.save(1, make_state(1))
  checkpoints.wait()
  shapes = jax.eval_shape(lambda: make_state(0))
  assert_identical(checkpoints.restore_last(shapes), make_state(1))


@pytest.mark.skipif(jax.device_count() < 4, reason='4 devices are needed')
def test_devices_may_change_between_saving_and_restoring(opened):
  checkpoints = opened()
  four = NamedSharding(Mesh(np.array(jax.devices()), ('x',)), PartitionSpec())
  one = NamedSharding(Mesh(np.array(jax.devices()[:1]), ('x',)), four.spec)
  for step, (old, new) in enumerate([(four, one), (one, four)]):
    checkpoints.save(step, jax.device_put(make_state(step), old))
    checkpoints.wait()
    state = checkpoints.restore_last(jax.device_put(make_state(9), new))
    assert_identical(state, make_state(step))
    for leaf in jax.tree.leaves(state):
      assert leaf.sharding.device_set == new.device_set


def test_nothing_saved_is_none(opened):
  assert opened().restore_last(make_state(0)) is None
  assert opened().restore_best(make_state(0)) is None


def test_only_the_last_two_stay_and_the_best_although_older(folder, opened):
  checkpoints = opened()
  for step, score in ((1, 0.2), (2, 0.9), (3, 0.1), (4, 0.5), (5, 0.9)):
    checkpoints.save(step, make_state(step))
    checkpoints.save_if_best(step, make_state(step), score)
  checkpoints.wait()
  assert steps_in(folder / 'last') == [4, 5]
  assert steps_in(folder / 'best') == [2]
  for now in (checkpoints, opened()):
    assert_identical(now.restore_last(make_state(0)), make_state(5))
    assert_identical(now.restore_best(make_state(0)), make_state(2))


def test_a_better_score_at_an_earlier_step_replaces_the_best(opened):
  # A run that lost its last checkpoints goes through its steps again.
  checkpoints = opened()
  checkpoints.save_if_best(10, make_state(10), 0.5)
  checkpoints.save_if_best(8, make_state(8), 0.6)
  checkpoints.wait()
  assert_identical(checkpoints.restore_best(make_state(0)), make_state(8))


def test_scores_survive_reopening(opened):
  first = opened()
  first.save_if_best(1, make_state(1), -0.5)  # gains may well be negative
  first.wait()
  second = opened()
  second.save_if_best(2, make_state(2), -0.7)
  second.wait()
  assert_identical(second.restore_best(make_state(0)), make_state(1))
  second.save_if_best(3, make_state(3), -0.4)
  second.wait()
  assert_identical(opened().restore_best(make_state(0)), make_state(3))


def test_a_score_that_is_no_number_is_never_the_best(folder, opened):
  checkpoints = opened()
  checkpoints.save_if_best(1, make_state(1), float('nan'))
  checkpoints.wait()
  assert steps_in(folder / 'best') == []
  checkpoints.save_if_best(2, make_state(2), 0.1)
  checkpoints.save_if_best(3, make_state(3), float('nan'))
  checkpoints.save_if_best(4, make_state(4), 0.2)
  checkpoints.wait()
  assert steps_in(folder / 'best') == [4]


def test_without_a_best_the_last_is_restored(folder, opened):
  write(folder, (1, 2))
  assert_identical(opened().restore_best(make_state(0)), make_state(2))


def test_saving_a_step_twice_is_harmless(folder, opened):
  checkpoints = opened()
  checkpoints.save(1, make_state(1))
  checkpoints.save(1, make_state(1))
  checkpoints.wait()
  assert steps_in(folder / 'last') == [1]


@every_damage
def test_a_damaged_newest_falls_back_to_the_one_before(folder, opened, damage):
  write(folder, (1, 2, 3))
  path = largest_file(folder / 'last' / '3')
  damage(path)
  left = {p.name: p.read_bytes() for p in path.parent.iterdir()}
  checkpoints = opened()
  with pytest.warns(UserWarning, match=rf'{folder}/last/3 is damaged') as found:
    state = checkpoints.restore_last(make_state(0))
  assert len(found) == 1
  assert_identical(state, make_state(2))
  assert checkpoints.latest_step == 2
  # Kept, for whoever wants to look: moved, and as it was.
  moved = folder / 'damaged' / 'last-3'
  assert str(moved) in str(found[0].message)
  parent = moved / path.parent.relative_to(folder / 'last' / '3')
  assert {p.name: p.read_bytes() for p in parent.iterdir()} == left

  # The run goes on, and comes through that step again.
  checkpoints.save(3, make_state(33))
  checkpoints.wait()
  assert steps_in(folder / 'last') == [2, 3]
  for now in (checkpoints, opened()):
    assert_identical(now.restore_last(make_state(0)), make_state(33))


def test_whichever_file_is_damaged_only_whole_states_are_read(folder):
  write(folder, (1, 2))
  files = [p for p in (folder / 'last' / '2').rglob('*') if p.is_file()]
  outcomes = set()
  for path in files:
    content = path.read_bytes()
    flip_bit(path)
    checkpoints = Checkpoints(folder)
    with warnings.catch_warnings(record=True) as found:
      warnings.simplefilter('always')
      state = checkpoints.restore_last(make_state(0))
    checkpoints.close()
    damaged = folder / 'damaged' / 'last-2'
    expected = 1 if damaged.exists() else 2
    assert_identical(state, make_state(expected))
    told = [f for f in found if 'is damaged' in str(f.message)]
    assert len(told) == damaged.exists(), [str(f) for f in found]
    outcomes.add(expected)
    if damaged.exists():
      damaged.rename(folder / 'last' / '2')
    path.write_bytes(content)
  assert outcomes == {1, 2}


def test_the_same_step_damaged_twice_is_kept_twice(folder, opened):
  for _ in range(2):
    write(folder, (1, 2))
    truncate(largest_file(folder / 'last' / '2'))
    with pytest.warns(UserWarning, match='damaged'):
      opened().restore_last(make_state(0))
  assert len(list((folder / 'damaged').iterdir())) == 2


def test_all_damaged_is_none(folder, opened):
  write(folder, (1, 2))
  for step in (1, 2):
    truncate(largest_file(folder / 'last' / str(step)))
  checkpoints = opened()
  with pytest.warns(UserWarning) as found:
    assert checkpoints.restore_last(make_state(0)) is None
  newest, oldest = (str(warning.message) for warning in found)
  assert 'last/2 is damaged' in newest
  assert 'last/1 is damaged' in oldest
  assert checkpoints.latest_step is None
  assert len(list((folder / 'damaged').iterdir())) == 2


@pytest.mark.parametrize('damage', [truncate, pathlib.Path.unlink])
def test_reads_that_have_failed_print_nothing(folder, opened, damage, capfd):
  """They end in other threads, when the error has been raised already."""
  rng = np.random.default_rng(0)
  state = {f'{i}': jnp.asarray(rng.random((64, 64))) for i in range(40)}
  checkpoints = opened()
  checkpoints.save(1, state)
  checkpoints.wait()
  damage(largest_file(folder / 'last' / '1'))
  with pytest.warns(UserWarning, match='is damaged') as found:
    assert opened().restore_last(state) is None
  assert len(found) == 1
  gc.collect()
  assert capfd.readouterr() == ('', '')


def test_broken_descriptions_print_nothing(folder, opened, capfd):
  write(folder, (1,))
  for path in (folder / 'last' / '1').rglob('*'):
    if path.is_file():
      truncate(path)
  with pytest.warns(UserWarning, match='does not say what it holds'):
    assert opened().restore_last(make_state(0)) is None
  assert capfd.readouterr() == ('', '')


def test_waiting_for_the_last_save_is_not_warned_about(opened, caplog):
  manager = ocp.checkpoint_manager
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(manager, '_WAIT_FOR_PREV_SAVE_WARNING_THRESHOLD_SECS', -1)
    checkpoints = opened()
    for step in (1, 2):
      checkpoints.save(step, make_state(step))
      checkpoints.save_if_best(step, make_state(step), step)
  assert not caplog.records


@every_damage
def test_a_damaged_best_falls_back_to_the_last(folder, opened, damage):
  checkpoints = opened()
  checkpoints.save_if_best(1, make_state(1), 0.5)
  checkpoints.save(2, make_state(2))
  checkpoints.wait()
  damage(largest_file(folder / 'best' / '1'))
  with pytest.warns(UserWarning, match=rf'{folder}/best/1 is damaged'):
    state = opened().restore_best(make_state(0))
  assert_identical(state, make_state(2))
  assert (folder / 'damaged' / 'best-1').is_dir()


@pytest.mark.parametrize(
  'kind, fallback', [('last', 'an earlier one'), ('best', 'the newest')]
)
def test_a_warning_names_what_is_read_in_place_of_a_damaged_checkpoint(
  kind, fallback, folder, opened
):
  checkpoints = opened()
  for step in (1, 2):
    checkpoints.save(step, make_state(step))
  checkpoints.save_if_best(2, make_state(2), 0.5)
  checkpoints.wait()
  truncate(largest_file(folder / kind / '2'))
  with pytest.warns(UserWarning, match=f'falling back to {fallback}'):
    getattr(opened(), f'restore_{kind}')(make_state(0))


# ---- Several processes -------------------------------------------------------


@pytest.fixture
def several(monkeypatch):
  """Pretends to be one of two processes; returns what each has to say."""
  said = types.SimpleNamespace(here=[], other=iter(()), main=True, watch=None)

  def any_process(flag):
    said.here.append((flag, said.watch and said.watch()))
    return flag or next(said.other, False)

  monkeypatch.setattr(checkpointing, 'any_process', any_process)
  monkeypatch.setattr(checkpointing, 'is_main_process', lambda: said.main)
  return said


def test_nobody_looks_again_before_what_is_damaged_is_moved(
  folder, opened, several
):
  write(folder, (1, 2))
  truncate(largest_file(folder / 'last' / '2'))
  several.watch = (folder / 'last' / '2').exists
  with pytest.warns(UserWarning, match='last/2 is damaged'):
    opened().restore_last(make_state(0))
  # Whether it is damaged, that it is moved, and whether the next one is.
  assert several.here == [(True, True), (False, False), (False, False)]


def test_what_is_damaged_for_another_process_is_set_aside(
  folder, opened, several
):
  write(folder, (1, 2))
  several.other = iter([True])
  with pytest.warns(UserWarning, match='another process cannot read it'):
    state = opened().restore_last(make_state(0))
  assert_identical(state, make_state(1))


def test_the_main_process_alone_moves_what_is_damaged(folder, opened, several):
  write(folder, (1, 2))
  truncate(largest_file(folder / 'last' / '2'))
  several.main = False
  assert_identical(opened().restore_last(make_state(0)), make_state(1))
  assert (folder / 'last' / '2').exists()


@pytest.mark.parametrize('better', [True, False])
def test_the_main_process_decides_what_is_best(folder, opened, several, better):
  """Processes that disagreed would wait for each other in orbax."""
  several.main, several.other = False, iter([better])
  checkpoints = opened()
  checkpoints.save_if_best(1, make_state(1), 0.1 if better else 0.9)
  checkpoints.wait()
  assert [flag for flag, _ in several.here] == [False]
  assert steps_in(folder / 'best') == [1] * better


# ---- Machines that cannot read ----------------------------------------------


def files_with_content(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


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
    JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes'),
    wrapped(ValueError('RESOURCE_EXHAUSTED: out of memory')),
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
  for read in (
    lambda: checkpoints.restore_last(like),
    lambda: checkpoints.restore_best(like),
    lambda: read_variables(folder, like.variables, best=False),
  ):
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


def test_a_checkpoint_that_another_process_sets_aside_is_damaged_too(
  folder, opened, monkeypatch
):
  write(folder, (1, 2))
  truncate(largest_file(folder / 'last' / '2'))

  def vanish(directory):
    raise FileNotFoundError(errno.ENOENT, 'No such file', str(directory))

  monkeypatch.setattr(checkpointing, 'read_all', vanish)
  with pytest.warns(UserWarning, match='last/2 is damaged'):
    state = opened().restore_last(make_state(0))
  assert_identical(state, make_state(1))


KILLED = """
import os, signal, sys
import jax
from mtl_kd_jax.runtime.checkpointing import Checkpoints

rename = os.rename

def kill_instead(source, target, **options):
  if os.path.basename(target) == '2':
    os.kill(os.getpid(), signal.SIGKILL)
  rename(source, target, **options)

os.rename = kill_instead
checkpoints = Checkpoints(sys.argv[1])
for step in (1, 2):
  checkpoints.save(step, {'x': jax.numpy.full(1000, step)})
  checkpoints.wait()
"""


def test_a_save_that_was_killed_leaves_no_trace(folder, opened):
  # Killed at the last moment: all is written, but not under its name.
  code, _, stderr = run_python('-c', KILLED, folder)
  assert code == -signal.SIGKILL, stderr
  names = {p.name for p in (folder / 'last').iterdir()}
  assert '1' in names and '2' not in names and len(names) == 2
  checkpoints = opened()
  assert checkpoints.latest_step == 1
  like = {'x': jnp.zeros(1000, int)}
  state = checkpoints.restore_last(like)
  np.testing.assert_array_equal(state['x'], 1)
  checkpoints.save(2, {'x': jnp.full(1000, 2)})
  checkpoints.wait()
  assert steps_in(folder / 'last') == [1, 2]
  np.testing.assert_array_equal(checkpoints.restore_last(like)['x'], 2)


def test_what_happens_to_a_state_after_saving_is_not_saved(opened):
  checkpoints = opened()
  # Large, so that it is still being written when the next steps overwrite it.
  size = 2**21
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  device, host = jnp.zeros(size), np.zeros(size)
  for i in range(3):
    state = {'device': device, 'host': host}
    checkpoints.save(i, state)
    checkpoints.save_if_best(i, state, score=i)
    old = device
    for _ in range(5):
      device = step(device)
    host += 5
    if not old.is_deleted():  # where the compiler could not make use of it
      old.delete()
  checkpoints.wait()
  like = {'device': device, 'host': host}
  for state in (
    checkpoints.restore_last(like),
    checkpoints.restore_best(like),
  ):
    np.testing.assert_array_equal(state['device'], 10)
    np.testing.assert_array_equal(state['host'], 10)


def test_a_folder_that_cannot_be_made_is_the_users_to_correct(tmp_path):
  file = tmp_path / 'file'
  file.write_text('no folder')
  with pytest.raises(InputError) as error:
    Checkpoints(file / 'stage')
  assert str(file / 'stage') in error.value.where
  assert error.value.argument == 'workdir'
  assert file.read_text() == 'no folder'


def test_the_checksum_depends_on_every_bit_of_every_leaf():
  state = make_state(1)
  leaves, structure = jax.tree.flatten(state)
  sums = {checksum(state)}
  assert checksum(make_state(1)) in sums
  changed = 1
  for i, leaf in enumerate(leaves):
    content = np.asarray(leaf).tobytes()
    for at in {0, len(content) // 2, len(content) - 1} if content else ():
      other = bytearray(content)
      other[at] ^= 1
      array = np.frombuffer(bytes(other), np.asarray(leaf).dtype)
      array = array.reshape(leaf.shape)
      parts = [*leaves[:i], array, *leaves[i + 1 :]]
      sums.add(checksum(jax.tree.unflatten(structure, parts)))
      changed += 1
  assert len(sums) == changed > 20


def test_the_checksum_depends_on_the_order():
  a, b = np.arange(3.0), np.arange(3.0, 6.0)
  assert checksum((a, b)) != checksum((b, a))
  assert checksum({'a': a, 'b': b}) != checksum({'a': b, 'b': a})


def test_the_checksum_is_the_same_for_nested_dictionaries():
  state = make_train_state()
  plain = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
  assert checksum(plain) == checksum(state)


# ---- What a stage leaves to others ------------------------------------------


def make_train_state(tx=None):
  params = {'backbone': {'kernel': jnp.arange(6.0).reshape(2, 3)}}
  tx = tx or optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-3))
  return TrainState(
    step=jnp.int32(3),
    params=params,
    collections={'batch_stats': {'mean': jnp.full(3, 0.5)}},
    extras={'adaptors': {'params': {'kernel': jnp.ones((2, 2))}}},
    opt_state=tx.init(params),
    balancer_state=(),
  )


def finish(folder, **options):
  state = make_train_state(**options)
  checkpoints = Checkpoints(folder)
  checkpoints.save(2, jax.tree.map(jnp.zeros_like, state))
  assert not checkpoints.finished
  checkpoints.save(3, state, finished=True)
  checkpoints.save_if_best(2, jax.tree.map(jnp.ones_like, state), 1.0)
  checkpoints.close()
  assert checkpoints.finished
  return state


@pytest.mark.parametrize('tx', [None, optax.sgd(0.1)], ids=['adam', 'sgd'])
def test_variables_are_read_whatever_the_optimizer_was(folder, tx):
  state = finish(folder, tx=tx)
  before = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  like = state.variables
  assert_identical(read_variables(folder, like, best=False), like)
  best = read_variables(folder, like, best=True)
  assert_identical(best, jax.tree.map(jnp.ones_like, like))
  assert before == {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_only_a_finished_stage_gives_its_variables(folder):
  like = make_train_state().variables
  for found in ('none', 'an unfinished one, at step 4'):
    with pytest.raises(InputError, match='a finished stage') as error:
      read_variables(folder, like, best=False)
    assert error.value.found == found
    write(folder, (4,))
  assert not (folder / 'damaged').exists()


@every_damage
def test_damaged_variables_are_refused_and_left_in_place(folder, damage):
  like = finish(folder).variables
  damage(largest_file(folder / 'last' / '3' / 'state'))
  with pytest.raises(InputError, match='a checkpoint that can be read'):
    read_variables(folder, like, best=False)
  assert not (folder / 'damaged').exists()
  assert (folder / 'last' / '3').is_dir()


def test_only_folders_that_are_numbered_are_checkpoints(folder):
  like = finish(folder).variables
  assert checkpointing.has_best(folder)
  for name in ('²', '٣٣', '9.orbax-checkpoint-tmp', 'x'):
    (folder / 'last' / name).mkdir()
  (folder / 'last' / '7').write_text('a file')
  assert checkpointing.latest_step(folder) == 3
  assert_identical(read_variables(folder, like, best=False), like)


def test_a_stage_without_a_score_has_no_best(folder):
  write(folder, (1,))
  assert not checkpointing.has_best(folder)
  assert not checkpointing.has_best(folder / 'nowhere')


@pytest.mark.parametrize('text', ['', '[]', 'null', '7', '{"step', '[' * 10**5])
def test_a_checkpoint_that_does_not_say_what_it_is_is_not_finished(
  folder, opened, text
):
  finish(folder)
  (folder / 'last' / '3' / 'info' / 'metadata').write_text(text)
  (folder / 'best' / '2' / 'info' / 'metadata').write_text(text)
  assert not checkpointing.is_finished(folder)
  assert not opened().finished


def test_variables_of_another_network_are_refused_by_name(folder):
  like = finish(folder).variables
  other = {
    'params': {
      'backbone': {'kernel': jnp.zeros((2, 4))},
      'head_depth': {'bias': jnp.zeros(1)},
    },
    'batch_stats': like['batch_stats'],
  }
  with pytest.raises(InputError) as error:
    read_variables(folder, other, best=False)
  for part in ('params/head_depth/bias', 'backbone/kernel', '[2 3]', '[2 4]'):
    assert part in str(error.value)


def test_the_checksum_is_the_same_for_every_memory_layout():
  array = np.random.default_rng(0).random((4, 6))
  assert checksum({'x': np.asfortranarray(array)}) == checksum({'x': array})


def test_a_state_of_the_first_layout_still_gives_its_variables(folder):
  """Adaptors stood among the parameters, and statistics had a name."""
  network = {'backbone': {'kernel': jnp.arange(6.0).reshape(2, 3)}}
  state = {
    'step': jnp.int32(3),
    'params': {**network, 'adaptors': {'kernel': jnp.ones(4)}},
    'batch_stats': {'backbone': {'mean': jnp.full(3, 0.5)}},
    'opt_state': (jnp.zeros(2),),
    'balancer_state': (),
  }
  checkpoints = Checkpoints(folder)
  checkpoints.save(3, state, finished=True)
  checkpoints.close()
  like = {'params': network, 'batch_stats': state['batch_stats']}
  assert_identical(read_variables(folder, like, best=False), like)


def test_a_sound_checkpoint_of_another_state_is_refused_and_stays(folder):
  write(folder, (1, 2))
  before = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  other = make_state(0) | {'new': jnp.zeros(3)}
  other['params']['conv']['bias'] = jnp.zeros(17)
  checkpoints = Checkpoints(folder)
  with pytest.raises(InputError) as error:
    checkpoints.restore_last(other)
  checkpoints.close()
  assert 'missing: new [3]' in error.value.found
  assert 'params/conv/bias [16] in place of [17]' in error.value.found
  after = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  assert after == before


def test_the_checksum_is_not_computed_in_the_training_thread(
  folder, opened, monkeypatch
):
  threads = []

  def noting(state):
    threads.append(threading.current_thread())
    return checksum(state)

  monkeypatch.setattr(checkpointing, 'checksum', noting)
  checkpoints = opened()
  checkpoints.save(1, make_state(1))
  checkpoints.wait()
  assert threads and threading.main_thread() not in threads
  assert_identical(checkpoints.restore_last(make_state(0)), make_state(1))
