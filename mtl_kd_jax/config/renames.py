"""Keys of earlier versions, and what they are called now."""

from collections.abc import Mapping
from typing import Any

RENAMED = {
  'balancing.level': 'balancing.grad_wrt',
  'balancing.refresh_every': 'balancing.update_every',
  'balancing.smoothing': 'balancing.weight_ema',
  'data.keep_labels': 'data.label_fraction',
  'data.workers': 'data.num_workers',
  'data.folder.partial': 'data.folder.allow_missing',
  'distill.epsilon': 'distill.feature_l2.epsilon',
  'optim.step_epochs': 'optim.decay_every_epochs',
  'optim.step_factor': 'optim.decay_rate',
}


def renamed_key(key: str) -> str | None:
  """The key that one of an earlier version is now; None for any other.

  Args:
    key: with dots, or the last part of one that is unique among the old ones.
  """
  if key in RENAMED:
    return RENAMED[key]
  fits = [new for old, new in RENAMED.items() if old.split('.')[-1] == key]
  return fits[0] if len(fits) == 1 else None


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """A nested config with the keys of an earlier version renamed."""
  config = _copy(config)
  for old, new in RENAMED.items():
    group, _, last = old.rpartition('.')
    section = _at(config, group)
    if section is not None and last in section:
      *path, name = new.split('.')
      target = config
      for part in path:
        target = target.setdefault(part, {})
      target.setdefault(name, section.pop(last))
  return config


def _copy(tree):
  if isinstance(tree, Mapping):
    return {k: _copy(v) for k, v in tree.items()}
  return tree


def _at(config, key):
  for part in key.split('.'):
    found = isinstance(config, Mapping) and part in config
    config = config[part] if found else None
  return config if isinstance(config, dict) else None
