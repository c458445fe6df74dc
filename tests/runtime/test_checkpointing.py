"""Checkpoints: bit for bit, the best kept, also by several processes."""

import signal
import threading
import types

from fixtures.checkpoints import (
  assert_identical,
  files_with_content,
  finish,
  largest_file,
  make_state,
  make_train_state,
  steps_in,
  truncate,
  write,
)
from fixtures.launching import run_python
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import checkpoint_io, checkpointing
from mtl_kd_jax.runtime.checkpointing import Checkpoints, read_variables


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


def test_waiting_for_the_last_save_is_not_warned_about(opened, caplog):
  manager = ocp.checkpoint_manager
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(manager, '_WAIT_FOR_PREV_SAVE_WARNING_THRESHOLD_SECS', -1)
    checkpoints = opened()
    for step in (1, 2):
      checkpoints.save(step, make_state(step))
      checkpoints.save_if_best(step, make_state(step), step)
  assert not caplog.records


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
  # A checkpoint has its checksums before it has its name.
  assert len(list(folder.glob('last/*/checksums.json'))) == 2
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


# ---- What a stage leaves to others ------------------------------------------


@pytest.mark.parametrize('tx', [None, optax.sgd(0.1)], ids=['adam', 'sgd'])
def test_variables_are_read_whatever_the_optimizer_was(folder, tx):
  state = finish(folder, tx=tx)
  before = files_with_content(folder)
  like = state.variables
  assert_identical(read_variables(folder, like, best=False), like)
  best = read_variables(folder, like, best=True)
  assert_identical(best, jax.tree.map(jnp.ones_like, like))
  assert files_with_content(folder) == before


def test_only_a_finished_stage_gives_its_variables(folder):
  like = make_train_state().variables
  for found in ('none', 'an unfinished one, at step 4'):
    with pytest.raises(InputError, match='a finished stage') as error:
      read_variables(folder, like, best=False)
    assert error.value.found == found
    write(folder, (4,))
  assert not (folder / 'damaged').exists()


@pytest.mark.parametrize('error', [FileNotFoundError('gone'), None])
def test_a_best_that_is_replaced_while_it_is_read_is_read_again(
  error, folder, monkeypatch
):
  """By training, which nobody is to wait for."""
  like = finish(folder).variables
  (before,) = (folder / 'best').iterdir()
  after = before.with_name('9')
  read = checkpointing.read_unknown

  def replaced_meanwhile(path, sharding):
    if not after.exists():
      before.rename(after)
      if error:
        raise error
    return read(path, sharding)

  monkeypatch.setattr(checkpointing, 'read_unknown', replaced_meanwhile)
  best = read_variables(folder, like, best=True)
  assert_identical(best, jax.tree.map(jnp.ones_like, like))
  assert not (folder / 'damaged').exists()


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


@pytest.mark.parametrize('name', ['checksum', 'write_checksums'])
def test_checksums_are_not_computed_in_the_training_thread(
  name, opened, monkeypatch
):
  threads = []
  compute = getattr(checkpoint_io, name)

  def noting(argument):
    threads.append(threading.current_thread())
    return compute(argument)

  monkeypatch.setattr(checkpoint_io, name, noting)
  checkpoints = opened()
  checkpoints.save(1, make_state(1))
  checkpoints.wait()
  assert threads and threading.main_thread() not in threads
  assert_identical(checkpoints.restore_last(make_state(0)), make_state(1))
