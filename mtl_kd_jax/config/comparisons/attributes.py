"""Classes of images: uniform, and distilled in several ways.

python launch.py --job=compare --config=configs/compare/attributes.py
"""

from mtl_kd_jax.config import comparison
from mtl_kd_jax.config.experiments import attributes


def get_config():
  """The config."""
  config = comparison.get_config(attributes.get_config())
  config.seeds = (0, 1, 2)
  config.variations = (
    ('uniform', {'method': 'multi_task'}),
    ('distilled', {}),
    ('gated', {'distill.adapt': 'cosine'}),
    (
      'distilled, maps',
      {'task': {t: {'taps': ('layer4',)} for t in attributes.TASKS}},
    ),
  )
  return config
