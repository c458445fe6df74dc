"""Balancing and distillation on rendered rooms.

python launch.py --job=compare --config=configs/compare/quickstart.py
"""

from mtl_kd_jax.config import comparison
from mtl_kd_jax.config.comparisons.lambdas import (
  NASH,
  TO_LAST,
  baseline_gated,
  best_gated,
  constant,
)
from mtl_kd_jax.config.experiments import quickstart

# One of each family that the field compares with.
BALANCERS = (
  'uncertainty',
  'dwa',
  'gradnorm',
  'mgda',
  'pcgrad',
  'cagrad',
  'imtl_h',
  'nash_mtl',
  'upgrad',
)


def get_config():
  """The config."""
  config = comparison.get_config(quickstart.papers_method())
  config.variations = (
    ('uniform', {'method': 'multi_task'}),
    *(
      (name, {'method': 'multi_task', 'balancing.name': name})
      for name in BALANCERS
    ),
    *((f'lambda x {x:g}', constant(x)) for x in (0.5, 1.0, 2.0, 4.0)),
    ('lambda x 1, to last', constant(1.0) | TO_LAST),
    ('gated', {'distill.adapt': 'cosine'}),
    ('gated, to last', {'distill.adapt': 'cosine'} | TO_LAST),
    ('baseline, gated', baseline_gated()),
    ('best, gated', best_gated()),
    ('imtl_h, gated', {'distill.adapt': 'cosine', 'balancing.name': 'imtl_h'}),
    ('cagrad, best, gated', best_gated() | {'balancing.name': 'cagrad'}),
    ('nash_mtl, gated', {'distill.adapt': 'cosine'} | NASH),
    ('nash_mtl, best, gated', best_gated() | NASH),
  )
  return config
