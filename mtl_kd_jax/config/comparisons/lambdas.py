"""Lambda: how large, how long, and what sets it.

python launch.py --job=compare --config=configs/compare/lambdas.py
"""

from mtl_kd_jax.config import comparison
from mtl_kd_jax.config.experiments import quickstart

# The lambdas of the paper.
PAPER = {'semantic': 1.0, 'depth': 1.0, 'normals': 2.0}
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def get_config():
  """The config."""
  base = quickstart.get_config()
  base.distill.weights = PAPER
  base.distill.adapt = 'none'
  # 'gap' and 'baseline' need a held-out split. All rows train on the same
  # samples.
  base.data.val_fraction = 0.125
  base.report.eval_every_epochs = 1
  config = comparison.get_config(base)
  config.name = 'compare_lambdas'
  config.variations = (
    ('uniform', {'method': 'multi_task'}),
    *((f'lambda x {factor:g}', _times(factor)) for factor in FACTORS),
    ('linear decay', {'distill.schedule_lambda': 'linear'}),
    ('cosine decay', {'distill.schedule_lambda': 'cosine'}),
    ('gap', {'distill.adapt': 'gap'}),
    ('gated', {'distill.adapt': 'cosine'}),
    ('baseline', {'distill.adapt': 'baseline'}),
    ('baseline, gated', {'distill.adapt': 'baseline+cosine'}),
  )
  return config


def _times(factor):
  return {f'distill.weights.{t}': factor * x for t, x in PAPER.items()}
