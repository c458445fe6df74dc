"""Half precision beside float32: a short training, with three seeds.

python launch.py --job=compare --config=configs/compare/precision.py
"""

from mtl_kd_jax.config import comparison
from mtl_kd_jax.config.experiments import quickstart

_BFLOAT16 = {'precision': 'bfloat16'}


def get_config():
  """The config."""
  base = quickstart.papers_method()
  base.epochs = 3
  base.data.scenes.num_train = 256
  config = comparison.get_config(base)
  config.name = 'compare_precision'
  config.seeds = (0, 1, 2)
  uniform, gated = {'method': 'multi_task'}, {'distill.adapt': 'cosine'}
  # A rule that takes the lengths and angles of gradients at their word.
  mgda = {'balancing.name': 'mgda', 'balancing.distillation': 'objective'}
  config.variations = (
    ('uniform', uniform),
    ('uniform, bfloat16', uniform | _BFLOAT16),
    ('gated', gated),
    ('gated, bfloat16', gated | _BFLOAT16),
    ('mgda', mgda),
    ('mgda, bfloat16', mgda | _BFLOAT16),
  )
  return config
