"""Balancing and distillation on rendered rooms.

python launch.py --job=compare --config=configs/compare/quickstart.py
"""

from mtl_kd_jax.config import comparison
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
# Both features of the student to the teacher's last one (Li, Liu & Bilen, IJCV
# 2023), instead of each to its own (2020).
TO_LAST = ('layer4:decoder', 'decoder')


def get_config():
  """The config."""
  config = comparison.get_config(quickstart.get_config())
  config.variations = (
    ('uniform', {'method': 'multi_task'}),
    *(
      (name, {'method': 'multi_task', 'balancing.name': name})
      for name in BALANCERS
    ),
    ('distilled', {}),
    ('distilled to last', {'distill.taps': TO_LAST}),
    # The papers' lambda, which is one number for all of the training.
    ('constant', {'distill.adapt': 'none'}),
    ('constant to last', {'distill.adapt': 'none', 'distill.taps': TO_LAST}),
  )
  return config
