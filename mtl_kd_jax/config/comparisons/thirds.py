"""A dataset for each task: rooms in three disjoint thirds, one label each.

python launch.py --job=compare --config=configs/compare/thirds.py
"""

from mtl_kd_jax.config import comparison
from mtl_kd_jax.config.experiments import quickstart

NUM_TRAIN = 512  # rooms in all, as the quickstart has


def get_config():
  """The config."""
  config = comparison.get_config(thirds())
  config.name = 'compare_thirds'
  config.seeds = (0, 1, 2)
  config.variations = (
    ('uniform', {'method': 'multi_task'}),
    ('distilled', {}),
    ('gated', {'distill.adapt': 'cosine'}),
    # Of every room there is one label, so that a batch of 8 has 2 or 3 of each.
    ('imtl_h', {'method': 'multi_task', 'balancing.name': 'imtl_h'}),
    ('nash_mtl', {'method': 'multi_task', 'balancing.name': 'nash_mtl'}),
  )
  return config


def thirds():
  """The paper's method on rooms of which none has the labels of two tasks."""
  config = quickstart.papers_method()
  config.name = 'thirds'
  config.data.val_fraction = 0.0
  # Other seeds draw other rooms.
  config.data.sets = {
    task: {
      'scenes': {'seed': seed, 'num_train': rooms},
      'labels': {task: task},
    }
    for seed, (task, rooms) in enumerate(
      zip(config.tasks, _parts(NUM_TRAIN, len(config.tasks)), strict=True)
    )
  }
  return config


def _parts(total, number):
  """Whole numbers as equal as can be."""
  return [(total + i) // number for i in range(number)]
