"""What a run compiles ahead, and in which order."""

from fixtures.configs import preview
import jax
import pytest

from mtl_kd_jax.jobs.ahead import planned_compilations
from mtl_kd_jax.training.loop import Intervals
from mtl_kd_jax.training.stage import Stage

pytestmark = pytest.mark.usefixtures('shallow')
INTERVALS = Intervals(report=1, checkpoint=(0, 0), evaluate=1, measure=1)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
  """(place of a stage in the plan of the quickstart) -> what is compiled."""
  _, plan = preview('quickstart')
  done = []

  def compilations(stage, frozen, *, measures):
    assert frozen.keys() == stage.inputs.keys()
    for program in ('step', *(['conflict'] if measures else []), 'scores'):
      yield lambda program=program: done.append(f'{stage.name} {program}')

  monkeypatch.setattr(Stage, 'compilations', compilations)
  monkeypatch.setattr(Stage, 'init', lambda s: done.append(f'{s.name} draws'))

  def compile_all(place):
    done.clear()
    stage, following = [*plan.stages, None][place : place + 2]
    for task in planned_compilations(
      stage, following, plan, workdir=tmp_path, intervals=INTERVALS
    ):
      task()
    return list(done)

  return compile_all


def test_a_stage_comes_before_the_step_of_the_next_one(compiled):
  assert compiled(2) == [
    'teacher_normals step',
    'teacher_normals scores',
    'uniform draws',
    'uniform step',
  ]
  assert compiled(3) == [
    'uniform step',
    'uniform conflict',
    'uniform scores',
    'distilled draws',
    'distilled step',
  ]


def test_nothing_comes_after_the_last_stage(compiled):
  assert compiled(4) == [
    'distilled step',
    'distilled conflict',
    'distilled scores',
  ]


def test_an_accelerator_has_no_room_for_a_second_state(compiled, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert compiled(2)[2:] == ['uniform step']
