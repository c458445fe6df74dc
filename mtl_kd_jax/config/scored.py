"""What of a config decides which samples are scored, and by which labels."""

from collections.abc import Mapping
import json
from typing import Any

from ml_collections import ConfigDict

from mtl_kd_jax.config.validate import may_change
from mtl_kd_jax.datasets.holdout import HELD_OUT
from mtl_kd_jax.runtime.nested import flatten

# Of a data set: what only its training split depends on.
_OF_TRAINING = ('num_train', 'train')
# Of a task: how it is learned, not what its label is.
_OF_LEARNING = (
  'balance',
  'delta',
  'head',
  'loss',
  'ohem',
  'sigma',
  'taps',
  'weights',
)
_MOST, _LONGEST = 4, 60  # differences that are named, characters of a value


def describe_data(
  config: ConfigDict, split: str | None = None
) -> dict[str, Any]:
  """The keys that decide it, with their values; equal where samples are.

  Args:
    config: of a run.
    split: that is scored; None for the one that is reported.
  """
  data, split = config.data, split or config.data.eval_split
  values = config.copy_and_resolve_references().to_dict()
  values = json.loads(json.dumps(values, default=str))  # tuples are lists
  sets = values['data']['sets']
  names = {
    entry.get('name', data.name)
    for entry in sets.values()
    if isinstance(entry, dict)
  }
  described = {f'data.{n}': values['data'].get(n) for n in names or {data.name}}
  if sets:
    described |= {'data.sets': sets, 'data.image_size': list(data.image_size)}
  else:
    described['data.name'] = data.name
  of_training = split in (data.train_split, HELD_OUT)
  found = {'data.eval_split': split}
  for key, value in flatten(described).items():
    last = key.rpartition('.')[2]
    if not may_change(key) and (of_training or last not in _OF_TRAINING):
      found[key] = value
  if data.val_fraction and of_training:
    found |= {'data.val_fraction': data.val_fraction, 'seed': config.seed}
  return found | {
    key: value
    for key, value in flatten({'task': values['task']}).items()
    if not {*key.split('.')[2:3]} & {*_OF_LEARNING}
  }


def differences(
  found: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[str]:
  """In which keys two descriptions differ, the first ones in words."""
  keys = [
    key
    for key in sorted(found.keys() | expected.keys())
    if found.get(key) != expected.get(key)
  ]
  texts = [
    f'{key} {_text(found.get(key))} instead of {_text(expected.get(key))}'
    for key in keys[:_MOST]
  ]
  return texts + ['...'] * (len(keys) > _MOST)


def _text(value) -> str:
  text = 'none' if value is None else json.dumps(value, ensure_ascii=False)
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]} ...'
