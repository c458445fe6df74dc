"""The training loop: stopping and going on, and what happens when it breaks."""

import contextlib
import dataclasses
import functools
import os
import signal
import warnings

from fixtures.samples import RandomSource
from fixtures.stages import (
  INTERVALS,
  make_stage,
  run,
  score,
  train_batches,
  with_data,
)
import jax
import numpy as np
import pytest

from mtl_kd_jax.balancing import make_balancer, weight_ema
from mtl_kd_jax.errors import InputError, NotFiniteError
from mtl_kd_jax.runtime.buckets import make_folder, path_of
from mtl_kd_jax.runtime.checkpointing import Checkpoints
from mtl_kd_jax.runtime.metric_keys import OBSERVED
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.runtime.preemption import Stopped
from mtl_kd_jax.training import loop
from mtl_kd_jax.training.stage import Stage


@dataclasses.dataclass
class Interrupting:
  """A source during whose reading something happens, once."""

  source: RandomSource
  after: int
  what: object
  reads: int = 0

  def __len__(self):
    return len(self.source)

  def __getitem__(self, index):
    self.reads += 1
    if self.reads == self.after:
      self.what()
    return self.source[index]


def assert_identical(a, b):
  same = jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)
  assert all(jax.tree.leaves(same)), same


@pytest.fixture(scope='module')
def uninterrupted(toy_dataset, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  return run(make_stage(toy_dataset), workdir), workdir


def test_a_stage_logs_what_it_did(uninterrupted):
  state, workdir = uninterrupted
  assert int(state.step) == 9
  log = read_log(workdir)
  evaluations = [e['step'] for e in log if e['kind'] == 'eval']
  assert evaluations == [3, 6, 9]
  losses = [e for e in log if e['kind'] == 'train']
  assert losses[-1]['step'] == 9 and 'alignment/depth' in losses[-1]


@pytest.mark.parametrize(
  'signum, place',
  [(signal.SIGTERM, ''), (signal.SIGINT, ''), (signal.SIGTERM, 'gs://test/a')],
)
def test_stopped_and_resumed_is_bit_identical(
  signum, place, uninterrupted, toy_dataset, tmp_path, bucket
):
  workdir = path_of(place or tmp_path / 'a')
  make_folder(workdir)
  kill = functools.partial(os.kill, os.getpid(), signum)
  source = Interrupting(toy_dataset.source('train'), 21, kill)
  with pytest.raises(Stopped, match='the state is saved') as stopped:
    run(make_stage(toy_dataset, source=source), workdir)
  assert stopped.value.signum == signum
  step = Checkpoints(workdir / 'checkpoints').latest_step
  assert 0 < step < 9
  assert_identical(run(make_stage(toy_dataset), workdir), uninterrupted[0])
  # The log tells one story: no step twice, none missing.
  steps = [e['step'] for e in read_log(workdir) if e['kind'] == 'eval']
  assert steps == [3, 6, 9]


def test_hosts_that_are_told_once_stop(toy_dataset, tmp_path, monkeypatch):
  """JAX's service says so at one number, and not again."""

  class Preemption(contextlib.nullcontext):
    signum = None
    answers = iter([False, False, True] + [False] * 9)

    def __enter__(self):
      return self

    def requested(self, *, sync):
      return next(self.answers)

  monkeypatch.setattr(loop, 'Preemption', Preemption)
  with pytest.raises(Stopped, match='after step 3 of 9') as stopped:
    run(make_stage(toy_dataset), tmp_path)
  assert stopped.value.signum == signal.SIGTERM
  assert Checkpoints(tmp_path / 'checkpoints').latest_step == 3


def test_a_balancer_goes_on_where_it_was_and_looking_changes_nothing(
  toy_dataset, tmp_path
):
  balancer = weight_ema(make_balancer('nash_mtl'), 0.9)
  stage = make_stage(toy_dataset, epochs=2, balancer=balancer)
  observed = dataclasses.replace(INTERVALS, measure=2)
  kill = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
  source = Interrupting(toy_dataset.source('train'), 17, kill)
  stopped = with_data(stage, train=train_batches(toy_dataset, source, epochs=2))
  with pytest.raises(Stopped):
    run(stopped, tmp_path / 'stopped', intervals=observed)
  step = Checkpoints(tmp_path / 'stopped' / 'checkpoints').latest_step
  assert 0 < step < 6
  resumed = run(stage, tmp_path / 'stopped', intervals=observed)
  whole = run(stage, tmp_path / 'whole', intervals=INTERVALS)
  assert np.any(whole.balancer_state['mean'] != 0)
  assert_identical(resumed, whole)
  log = read_log(tmp_path / 'stopped')
  looks = [e for e in log if e['kind'] == OBSERVED]
  assert [e['step'] for e in looks] == [2, 4, 6]
  assert all(-1 <= e['cosine/depth/alignment/depth'] <= 1 for e in looks)
  assert all(e['norm/alignment/depth'] > 0 for e in looks)


def test_resuming_from_a_damaged_checkpoint_is_bit_identical(
  uninterrupted, toy_dataset, tmp_path
):
  kill = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
  source = Interrupting(toy_dataset.source('train'), 30, kill)
  with pytest.raises(Stopped):
    run(make_stage(toy_dataset, source=source), tmp_path)
  newest = max(
    (tmp_path / 'checkpoints' / 'last').iterdir(), key=lambda p: int(p.name)
  )
  files = [p for p in (newest / 'state').rglob('*') if p.is_file()]
  largest = max(files, key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:50])
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    state = run(make_stage(toy_dataset), tmp_path)
  assert any('is damaged' in str(w.message) for w in caught)
  assert_identical(state, uninterrupted[0])


@dataclasses.dataclass
class Killed:
  """Evaluation batches during whose n-th reading the process dies."""

  stage: Stage
  n: int
  reads: int = 0

  def __call__(self):
    self.reads += 1
    if self.reads == self.n:
      raise KeyboardInterrupt
    return self.stage.data.eval()


AVERAGING = dataclasses.replace(INTERVALS, average=range(6, 10, 3))


def scores(workdir):
  """(step, kind) -> what was logged, without the time."""
  lines = [e for e in read_log(workdir) if e['kind'] != 'train']
  keys = [(e['step'], e['kind']) for e in lines]
  assert len(set(keys)) == len(keys)
  return {
    key: {k: v for k, v in e.items() if '/' in k}
    for key, e in zip(keys, lines, strict=True)
  }


@pytest.mark.parametrize('n', [2, 4])
def test_what_a_killed_run_did_not_score_is_scored_by_the_next(
  n, uninterrupted, toy_dataset, tmp_path
):
  """Evaluations of steps 3, 6 and 9, of which 6 and 9 on two splits."""
  stage = make_stage(toy_dataset)
  # Two splits that happen to be the same: each is read for itself.
  killing = Killed(stage, n)
  killed = with_data(stage, eval=killing, select=killing)
  with pytest.raises(KeyboardInterrupt):
    run(killed, tmp_path, intervals=AVERAGING)
  whole = with_data(stage, select=stage.data.eval)
  state = run(whole, tmp_path, intervals=AVERAGING)
  assert_identical(state, uninterrupted[0])
  logged = scores(tmp_path)
  expected = scores(uninterrupted[1])
  assert sorted(logged) == [
    (3, 'eval'),
    (6, 'eval'),
    (6, 'test'),
    (9, 'eval'),
    (9, 'test'),
  ]
  for (step, _), metrics in logged.items():
    assert metrics == expected[step, 'eval']
  bests = [
    Checkpoints(folder / 'checkpoints').restore_best(stage.init())
    for folder in (tmp_path, uninterrupted[1])
  ]
  assert_identical(*jax.device_get(bests))


def test_one_split_is_read_once_for_both_scores(toy_dataset, tmp_path):
  stage = make_stage(toy_dataset)
  counting = Killed(stage, n=-1)
  stage = with_data(stage, eval=counting)
  run(stage, tmp_path, intervals=AVERAGING)
  assert counting.reads == 3
  logged = scores(tmp_path)
  assert len(logged) == 5
  assert logged[9, 'test'] == logged[9, 'eval']


def test_checkpoints_are_chosen_on_the_selection_split(toy_dataset, tmp_path):
  stage = make_stage(toy_dataset)

  def nearer():  # the score is then highest in another epoch
    for batch in stage.data.eval():
      yield batch | {'depth': 0.95 * batch['depth']}

  stage = with_data(stage, select=nearer)
  run(stage, tmp_path, intervals=AVERAGING)
  logged = {
    key: score(e['depth/abs_error']) for key, e in scores(tmp_path).items()
  }
  assert logged[6, 'test'] > logged[9, 'test'], 'chosen on the reported split'
  assert max((3, 6, 9), key=lambda step: logged[step, 'eval']) == 3
  state = Checkpoints(tmp_path / 'checkpoints').restore_best(stage.init())
  assert int(state.step) == 3


def test_a_finished_stage_is_only_read(uninterrupted, toy_dataset):
  state, workdir = uninterrupted
  stage = make_stage(toy_dataset)

  def no_more(start):
    raise AssertionError('trained again')

  stage = with_data(stage, train=no_more)
  assert_identical(run(stage, workdir), state)


def test_a_broken_loss_stops_with_stage_step_and_term(toy_dataset, tmp_path):
  class Poisoned(Interrupting):
    def __getitem__(self, index):
      sample = dict(super().__getitem__(index))
      if self.reads >= self.after:
        sample['depth'] = np.full_like(sample['depth'], np.inf)
      return sample

  source = Poisoned(toy_dataset.source('train'), 27, lambda: None)
  with pytest.raises(NotFiniteError) as error:
    run(make_stage(toy_dataset, source=source), tmp_path)
  message = str(error.value)
  assert 'loss/depth = inf' in message
  assert 'stage distilled, step' in message
  # Terms that are sound are not accused, and neither is the sum of all.
  assert 'semantic' not in message and 'loss =' not in message
  # The last checkpoint is from before, sound, and enough to go on with.
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  stage = make_stage(toy_dataset)
  state = checkpoints.restore_last(stage.init())
  assert 0 < int(state.step) < 9
  assert f'The checkpoint of step {int(state.step)} is intact' in message
  finite = jax.tree.map(lambda x: np.isfinite(x).all(), state.params)
  assert all(jax.tree.leaves(finite))


def test_the_best_checkpoint_is_the_one_with_the_highest_score(
  uninterrupted, toy_dataset
):
  _, workdir = uninterrupted
  log = [e for e in read_log(workdir) if e['kind'] == 'eval']
  best = max(log, key=lambda e: score(e['depth/abs_error']))['step']
  assert best != log[-1]['step']
  checkpoints = Checkpoints(workdir / 'checkpoints')
  state = checkpoints.restore_best(make_stage(toy_dataset).init())
  assert int(state.step) == best


def test_a_checkpoint_of_another_stage_is_refused_and_stays(
  uninterrupted, toy_dataset
):
  """A mismatch is not damage: nothing is moved, and the error says what."""
  _, workdir = uninterrupted
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  other = make_stage(toy_dataset, balancer=make_balancer('famo'))
  with pytest.raises(InputError, match='balancer_state') as error:
    run(other, workdir)
  assert 'it is left as it is' in error.value.do
  kept = {p: p.stat().st_mtime_ns for p in before if p.is_file()}
  assert kept == {p: before[p] for p in kept}
  assert not (workdir / 'checkpoints' / 'damaged').exists()
