"""What a run takes of the log of another run that trained its teachers."""

import json
import types

import pytest

from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.jobs.introduction import notes_on_longer, read_plan_log
from mtl_kd_jax.runtime import workdir as workdirs


def claimed(folder, **scenes):
  config = get_config()
  config.data.scenes.update(scenes)
  workdirs.claim(folder, config.to_dict())
  lines = [
    {'stage': stage, 'kind': kind, 'step': 1, 'epoch': 1.0}
    for stage in ('teacher', 'other')
    for kind in ('train', 'eval', 'test')
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)
  return config


def plan_of(folder):
  stage = {'name': 'teacher', 'row': 'single-task', 'inputs': {}, 'tasks': {}}
  stage = types.SimpleNamespace(**stage, trained_in=folder)
  return types.SimpleNamespace(stages=[stage])


@pytest.mark.parametrize('damaged', [False, True])
def test_scores_of_other_data_are_left_out_and_that_is_said(damaged, tmp_path):
  run, same, other = (tmp_path / name for name in ('run', 'same', 'other'))
  config = claimed(run)
  claimed(same, num_train=7)
  claimed(other, seed=7)
  if damaged:
    (other / 'config.json').write_text('{}')
  (run / 'metrics.jsonl').unlink()
  experiment = types.SimpleNamespace(config=config, average_epochs=1)

  def read(folder):
    plan = plan_of(folder)
    log = read_plan_log(plan, run)
    assert {e['stage'] for e in log} == {'teacher'}
    notes = notes_on_longer(experiment, plan, log)
    return [e['kind'] for e in log], notes

  assert read(same) == (['train', 'eval', 'test'], [])
  kinds, (note,) = read(other)
  assert kinds == ['train'] and f'{other}' in note
  how = (
    'config cannot be read' if damaged else 'data.scenes.seed 7 instead of 0'
  )
  assert how in note and 'no means over their last epochs' in note
