"""Of two networks, the better one teaches."""

import dataclasses
import math

from fixtures.configs import plan_of
from fixtures.drawn import draw_variables
from fixtures.samples import random_batch
from fixtures.stages import make_stage, run
from fixtures.toy import ALL_TASKS, SIZE, TASKS, make_network, make_teachers
from flax import traverse_util
import jax
import numpy as np
import pytest

from mtl_kd_jax import models
from mtl_kd_jax.config import get_config
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.runtime.metric_log import read_log
from mtl_kd_jax.training import stage as stage_module
from mtl_kd_jax.training.choosing import contests, part_of


@pytest.mark.parametrize(
  'task, metric, teacher, baseline, wins',
  [
    ('semantic', 'miou', 40.0, 41.0, True),
    ('semantic', 'miou', 40.0, 40.0, False),
    ('depth', 'abs_error', 0.5, 0.4, True),  # lower is better
    ('depth', 'abs_error', 0.5, 0.6, False),
    ('depth', 'abs_error', math.nan, 0.4, False),
    ('normals', 'mean_angle', 20.0, math.nan, False),
  ],
)
def test_the_headline_decides(task, metric, teacher, baseline, wins):
  found = contests(
    {task: {metric: baseline}}, {task: {task: {metric: teacher}}}, ALL_TASKS
  )
  assert found[task].baseline_wins is wins


@pytest.mark.parametrize('backbone', ['segnet', 'mtan', 'resnet18'])
def test_every_network_has_those_of_its_tasks(backbone):
  network = models.make(backbone, TASKS, width=0.125)
  (_, variables), (_, wanted) = (
    abstract_init(n, (32, 32)) for n in (network, network.only('depth'))
  )
  part = part_of(variables, wanted)
  assert jax.tree.structure(part) == jax.tree.structure(wanted)
  others = set(traverse_util.flatten_dict(variables['params'], sep='/'))
  others -= set(traverse_util.flatten_dict(wanted['params'], sep='/'))
  assert others and not any('depth' in name for name in others)


def test_a_task_of_a_network_is_the_network_of_this_task():
  network, alone = make_network(), make_network(('depth',))
  image = random_batch(1, SIZE)['image']
  variables = draw_variables(network, SIZE)
  _, wanted = abstract_init(alone, SIZE)
  part = part_of(variables, wanted)
  one = alone.apply(part, image, train=False).predictions
  all_ = network.apply(variables, image, train=False).predictions
  assert set(one) == {'depth'}
  np.testing.assert_array_equal(one['depth'], all_['depth'])


def test_what_is_not_there_is_no_part():
  _, large = abstract_init(make_network(), SIZE)
  _, small = abstract_init(make_network(('depth',)), SIZE)
  assert part_of(small, large) is None
  wider = jax.tree.map(lambda x: jax.ShapeDtypeStruct((9,), x.dtype), small)
  assert part_of(large, wider) is None


def test_the_student_is_that_of_the_teachers_that_were_better(
  toy_dataset, tmp_path
):
  """Bit for bit, as if it had been given them."""
  stage = make_stage(toy_dataset)
  baseline = make_stage(toy_dataset).init().variables
  # A stage whose programs it shares.
  chosen = dataclasses.replace(stage, rival=stage.network)
  vars(chosen)['train_step'] = stage.train_step
  compared = contests(
    stage.score_frozen(stage.network, baseline),
    stage.score_teachers(make_teachers()),
    TASKS,
  )
  wins = {task for task, contest in compared.items() if contest.baseline_wins}
  assert 0 < len(wins) < len(TASKS)
  state = run(chosen, tmp_path / 'chosen', inputs={'baseline': baseline})
  teachers = make_teachers()
  given = {t: part_of(baseline, teachers[t]) for t in wins}
  expected = run(stage, tmp_path / 'given', inputs=given)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state, expected)))
  (line,) = [
    e for e in read_log(tmp_path / 'chosen') if e['kind'] == 'teachers'
  ]
  for task, contest in compared.items():
    assert line[f'teacher/{task}'] == pytest.approx(contest.teacher)
    assert line[f'baseline/{task}'] == pytest.approx(contest.baseline)


def test_what_is_known_is_not_scored_again(toy_dataset, monkeypatch):
  stage = make_stage(toy_dataset)
  stage = dataclasses.replace(stage, rival=stage.network)

  def scored(*unused, **options):
    raise AssertionError('scored')

  monkeypatch.setattr(stage_module, 'evaluate', scored)
  shared = make_stage(toy_dataset).init().variables
  frozen = {**make_teachers(), 'baseline': shared}
  # In every task the network of all is better, but in normals.
  headlines = {t: task.headline for t, task in TASKS.items()}
  signs = {t: 1 if x.higher_is_better else -1 for t, x in TASKS.items()}
  known = {t: {t: {m: 2.0}} for t, m in headlines.items()}
  known['baseline'] = {
    t: {m: 2.0 + signs[t] * (-1 if t == 'normals' else 1)}
    for t, m in headlines.items()
  }
  chosen, scores, compared = stage.choose_teachers(frozen, known)
  assert not compared['normals'].baseline_wins
  assert chosen['normals'] is frozen['normals']
  assert scores['normals'] == known['normals']
  for task in TASKS.keys() - {'normals'}:
    assert compared[task].baseline_wins
    expected = part_of(shared, frozen[task])
    assert all(
      jax.tree.leaves(jax.tree.map(np.array_equal, chosen[task], expected))
    )
    # The scores are those of the network that teaches now.
    assert scores[task] == {task: known['baseline'][task]}
  assert stage.score_teachers(chosen, scores) == {
    t: scores[t] for t in stage.teachers
  }


def with_choice(**changes):
  config = get_config('quickstart')
  config.teacher.choose = 'best'
  config.data.val_fraction = 0.1
  for key, value in changes.items():
    config.update_from_flattened_dict({key.replace('__', '.'): value})
  return config


@pytest.mark.usefixtures('shallow')
def test_a_config_chooses():
  _, plan = plan_of(with_choice(), data=False)
  distilled = plan['distilled']
  assert distilled.rival is plan['uniform'].network
  assert distilled.inputs['baseline'] == 'uniform'


@pytest.mark.usefixtures('shallow')
def test_without_a_baseline_there_is_no_choice():
  _, plan = plan_of(with_choice(baseline=False), data=False)
  distilled = plan['distilled']
  assert distilled.rival is None
  assert 'uniform' not in {stage.name for stage in plan.stages}
  assert set(distilled.inputs) == set(distilled.teachers)


@pytest.mark.parametrize(
  'changes, argument',
  [
    ({'teacher__choose': 'worst'}, 'choose'),
    ({'data__val_fraction': 0.0}, 'choose'),
    ({'teacher__model__width': 0.5}, 'choose'),
    ({'teacher__model__head': 'aspp'}, 'choose'),
    ({'teacher__model__output_stride': 16}, 'choose'),
  ],
)
@pytest.mark.usefixtures('shallow')
def test_a_choice_that_there_is_none_is_refused(changes, argument):
  with pytest.raises(InputError) as error:
    plan_of(with_choice(**changes), data=False)
  assert error.value.argument == argument
