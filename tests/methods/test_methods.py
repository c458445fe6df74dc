"""Methods make stages with dependencies; a plan checks and orders them."""

import dataclasses

from fixtures.configs import preview
from fixtures.stages import make_stage
from fixtures.toy import ALL_TASKS, TASKS, make_network, make_terms
import jax.numpy as jnp
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.methods import METHODS
from mtl_kd_jax.methods.plan import make_plan
from mtl_kd_jax.training.loss_terms import (
  LossTerm,
  check_terms,
  objectives,
  present_objectives,
  task_terms,
)
from mtl_kd_jax.training.stage import SINGLE_TASK

TEACHERS = tuple(f'teacher_{t}' for t in ('semantic', 'depth', 'normals'))


@pytest.mark.parametrize('name', METHODS)
def test_a_method_makes_stages_that_can_be_trained_in_their_order(
  name, shallow
):
  _, plan = preview('rooms', method=name)
  done = set()
  for stage in plan.stages:
    assert set(stage.inputs.values()) <= done
    assert set(stage.teachers) == set(stage.inputs)
    assert stage.network.channels.keys() == stage.tasks.keys()
    done.add(stage.name)
  single = [s for s in plan.stages if s.row == SINGLE_TASK]
  assert all(len(s.tasks) == 1 for s in single)


@pytest.mark.parametrize(
  'changes, names',
  [
    ({'method': 'distill'}, ('uniform', 'distilled')),
    ({'method': 'distill', 'baseline': False}, ('distilled',)),
    ({'method': 'multi_task'}, ('uniform', 'balanced')),
    ({'method': 'single_task'}, ()),
  ],
  ids=str,
)
def test_the_stages_of_a_method(changes, names, shallow):
  _, plan = preview('rooms', **changes)
  assert plan.names == (*TEACHERS, *names)
  assert {plan.rows[t] for t in TEACHERS} == {SINGLE_TASK}


def test_teachers_of_another_run_are_not_trained_here(tmp_path, shallow):
  _, plan = preview('rooms', **{'teacher.workdir': str(tmp_path)})
  for stage in plan.stages:
    elsewhere = tmp_path if stage.name in TEACHERS else None
    assert stage.trained_in == elsewhere


def test_networks_and_weights_are_made_once(monkeypatch, shallow):
  from mtl_kd_jax.config import experiment

  made, traced = [], []
  make, trace = experiment.models.make, experiment.feature_shapes
  monkeypatch.setattr(
    experiment.models, 'make', lambda *a, **k: made.append(a) or make(*a, **k)
  )
  monkeypatch.setattr(
    experiment, 'feature_shapes', lambda *a: traced.append(a) or trace(*a)
  )
  preview('rooms')
  assert len(made) == 4  # one student, three teachers
  assert len(traced) == 4


# ---- Plans -------------------------------------------------------------------


@pytest.fixture
def stages(toy_dataset):
  plain = {'teachers': {}, 'inputs': {}, 'extras': {}}
  terms = task_terms(TASKS)
  teachers = [
    make_stage(toy_dataset, terms=terms, **plain | {'name': f'teacher_{task}'})
    for task in TASKS
  ]
  return teachers, make_stage(toy_dataset)


def test_a_plan_puts_inputs_first_and_keeps_the_order_otherwise(stages):
  teachers, student = stages
  plan = make_plan([student, *teachers])
  assert plan.names == (*(t.name for t in teachers), 'distilled')
  plan = make_plan([*reversed(teachers), student])
  assert plan.names[0] == teachers[-1].name
  assert plan['distilled'] is student
  with pytest.raises(InputError, match='distilled'):
    _ = plan['uniform']


def test_plans_that_cannot_be_are_refused(stages):
  teachers, student = stages
  with pytest.raises(InputError, match='different names'):
    make_plan([*teachers, student, student])
  with pytest.raises(InputError, match='as input for teacher normals'):
    make_plan([*teachers[:-1], student])
  waiting = dataclasses.replace(
    teachers[0], inputs={'x': 'distilled'}, teachers={}
  )
  with pytest.raises(InputError, match='wait for each other'):
    make_plan([waiting, *teachers[1:], student])
  # Also an input that is no teacher, such as a network to merge.
  alone = dataclasses.replace(teachers[0], inputs={'x': 'elsewhere'})
  with pytest.raises(InputError, match='as input for teacher x'):
    make_plan([alone])


# ---- Terms -------------------------------------------------------------------


def nothing(output, teachers, batch, extras, *, axis_name=None):
  return jnp.zeros(())


@pytest.mark.parametrize(
  'terms, message',
  [
    ([LossTerm('a/b', nothing), LossTerm('a/b', nothing)], 'different names'),
    ([LossTerm('loss', nothing)], "'<kind>/<what>'"),
    ([LossTerm('a/b', nothing, tasks=('sky',))], 'read tasks of the network'),
    ([LossTerm('a/b', nothing, objective='depth/normals')], "without '/'"),
    ([LossTerm('a/b', nothing, tasks=('depth',))], 'none that reads'),
    ([LossTerm('a/b', nothing, tasks=tuple(TASKS))], 'with an objective'),
  ],
  ids=['twice', 'kind', 'task', 'objective', 'unread', 'none'],
)
def test_terms_that_do_not_fit_are_refused(terms, message):
  with pytest.raises(InputError, match=message) as error:
    check_terms(terms, tuple(TASKS))
  assert error.value.argument == 'terms'


@pytest.mark.parametrize(
  'placement, expected',
  [
    ('outside', set(TASKS)),
    ('task', set(TASKS)),
    ('objective', set(TASKS) | {f'alignment/{t}' for t in TASKS}),
  ],
)
def test_objectives_are_those_that_terms_name(placement, expected):
  terms = make_terms(distill=True, placement=placement)
  assert set(objectives(terms)) == expected
  check_terms(terms, tuple(make_network(TASKS).channels))


def test_an_objective_is_there_when_any_of_its_terms_is():
  batch = {
    'semantic': jnp.full((1, 2, 2), -1),
    'depth': jnp.ones((1, 2, 2, 1)),
    'normals': jnp.zeros((1, 2, 2, 3)),
  }
  outside = present_objectives(make_terms(distill=True, tasks=ALL_TASKS), batch)
  assert {n: bool(x) for n, x in outside.items()} == {
    'semantic': False,
    'depth': True,
    'normals': False,
  }
  # An alignment needs no label.
  inside = present_objectives(
    make_terms(distill=True, tasks=ALL_TASKS, placement='task'), batch
  )
  assert all(bool(x) for x in inside.values())
