"""Damaged checkpoints are set aside by training, and left by others."""

import gc
import json
import pathlib
import warnings

from fixtures.checkpoints import (
  DAMAGE,
  as_of_an_earlier_version,
  assert_identical,
  files_with_content,
  finish,
  flip_bit,
  largest_file,
  make_state,
  steps_in,
  truncate,
  write,
)
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import checkpointing
from mtl_kd_jax.runtime.checkpointing import Checkpoints, read_variables

every_damage = pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)


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
  with pytest.warns(UserWarning, match='last/1 is damaged'):
    assert opened().restore_last(make_state(0)) is None
  assert capfd.readouterr() == ('', '')


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


@every_damage
def test_damaged_variables_are_refused_and_left_in_place(folder, damage):
  like = finish(folder).variables
  damage(largest_file(folder / 'last' / '3' / 'state'))
  with pytest.raises(InputError, match='as it was written'):
    read_variables(folder, like, best=False)
  assert not (folder / 'damaged').exists()
  assert (folder / 'last' / '3').is_dir()


# ---- What a checkpoint says of itself ----------------------------------------

INFO = pathlib.Path('info', 'metadata')


def changed_score(path):
  """Other JSON, which no decoder objects to."""
  info = json.loads(path.read_text())
  path.write_text(json.dumps(info | {'score': 0.1, 'finished': False}))


def of_text(text):
  return lambda path: path.write_text(text)


BROKEN = {
  'deleted': pathlib.Path.unlink,
  'changed': changed_score,
  'empty': of_text(''),
  'half': of_text('{"step'),
  'a list': of_text('[]'),
  'null': of_text('null'),
  'deep': of_text('[' * 10**5),
}
every_broken_info = pytest.mark.parametrize(
  'damage', BROKEN.values(), ids=BROKEN
)


@every_broken_info
def test_a_damaged_description_is_no_unfinished_stage(folder, damage):
  like = finish(folder).variables
  damage(folder / 'last' / '3' / INFO)
  before = files_with_content(folder)
  for read in (
    checkpointing.is_finished,
    lambda folder: read_variables(folder, like, best=False),
    lambda folder: Checkpoints(folder).finished,
  ):
    with pytest.raises(InputError, match='a damaged one: info/metadata') as e:
      read(folder)
    assert e.value.where == f'{folder}/last/3'
  assert files_with_content(folder) == before


@every_broken_info
def test_training_falls_back_from_a_damaged_description(folder, opened, damage):
  state = finish(folder)
  damage(folder / 'last' / '3' / INFO)
  checkpoints = opened()
  with pytest.warns(UserWarning, match=r'last/3 is damaged \(info/metadata'):
    assert int(checkpoints.restore_last(state).step) == 0
  assert checkpoints.latest_step == 2 and not checkpoints.finished
  assert (folder / 'damaged' / 'last-3').is_dir()


@every_broken_info
def test_a_best_with_a_damaged_score_is_set_aside(folder, opened, damage):
  finish(folder)
  damage(folder / 'best' / '2' / INFO)
  with pytest.warns(UserWarning, match=r'best/2 is damaged \(info/metadata'):
    checkpoints = opened()
  assert (folder / 'damaged' / 'best-2').is_dir()
  checkpoints.save_if_best(4, make_state(4), 0.5)
  checkpoints.wait()
  assert_identical(checkpoints.restore_best(make_state(0)), make_state(4))


# ---- Checksums of files ------------------------------------------------------


@pytest.mark.parametrize('broken', ['', '[]', '{"files": {}, "checksum": 1}'])
def test_broken_checksums_of_files_alone_are_no_damage(folder, opened, broken):
  write(folder, (1, 2))
  (folder / 'last' / '2' / 'checksums.json').write_text(broken)
  assert_identical(opened().restore_last(make_state(0)), make_state(2))


def test_broken_checksums_of_files_that_cannot_be_read_are(folder, opened):
  """As after a power failure, which empties the files written last."""
  write(folder, (1, 2))
  for path in files_with_content(folder / 'last' / '2'):
    path.write_bytes(b'')
  with pytest.warns(UserWarning, match='last/2 is damaged'):
    state = opened().restore_last(make_state(0))
  assert_identical(state, make_state(1))


def test_checkpoints_of_earlier_versions_have_a_checksum_of_arrays(
  folder, opened
):
  write(folder, (1, 2))
  as_of_an_earlier_version(folder)
  assert_identical(opened().restore_last(make_state(0)), make_state(2))
  flip_bit(largest_file(folder / 'last' / '2' / 'state' / 'ocdbt.process_0'))
  with pytest.warns(UserWarning, match='numbers do not match its checksum'):
    state = opened().restore_last(make_state(0))
  assert_identical(state, make_state(1))


def test_what_breaks_a_library_is_unknown_damage_in_earlier_versions(
  folder, opened
):
  write(folder, (1, 2))
  as_of_an_earlier_version(folder)
  truncate(folder / 'last' / '2' / 'state' / '_METADATA')
  before = files_with_content(folder)
  with pytest.raises(InputError, match='move the folder away') as error:
    opened().restore_last(make_state(0))
  assert error.value.where == f'{folder}/last/2'
  assert files_with_content(folder) == before
