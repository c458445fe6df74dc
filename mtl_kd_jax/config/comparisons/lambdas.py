"""Lambda: how large, how long, and what sets it.

python launch.py --job=compare --config=configs/compare/lambdas.py
"""

from mtl_kd_jax.config import comparison
from mtl_kd_jax.config.experiments import quickstart

# The lambdas of the paper.
PAPER = {'semantic': 1.0, 'depth': 1.0, 'normals': 2.0}
# Both features of the student to the teacher's last one (Li, Liu & Bilen, IJCV
# 2023), instead of each to its own (2020).
TO_LAST = {'distill.taps': ('layer4:decoder', 'decoder')}
NASH = {'balancing.name': 'nash_mtl'}
ONE_LABEL = {'data.label_fraction': 'one'}


def get_config():
  """The config."""
  base = quickstart.papers_method()
  base.report.eval_every_epochs = 1  # for 'gap'
  config = comparison.get_config(base)
  config.name = 'compare_lambdas'
  config.variations = (
    ('uniform', {'method': 'multi_task'}),
    *((f'lambda x {x:g}', constant(x)) for x in (0.5, 1.0, 2.0, 4.0)),
    ('lambda x 1, to last', constant(1.0) | TO_LAST),
    ('linear decay', constant(1.0) | {'distill.schedule_lambda': 'linear'}),
    ('gap', {'distill.adapt': 'gap'}),
    ('gated', {'distill.adapt': 'cosine'}),
    ('baseline, gated', baseline_gated()),
    ('best, gated', best_gated()),
    ('nash_mtl', {'method': 'multi_task'} | NASH),
    ('nash_mtl, best, gated', best_gated() | NASH),
    ('one label, uniform', {'method': 'multi_task'} | ONE_LABEL),
    ('one label, lambda x 1', constant(1.0) | ONE_LABEL),
    ('one label, baseline, gated', baseline_gated() | ONE_LABEL),
    ('one label, best, gated', best_gated() | ONE_LABEL),
    ('one label, nash_mtl, best, gated', best_gated() | NASH | ONE_LABEL),
  )
  return config


def constant(factor):
  """Overrides: so many times the paper's lambdas, which stay as they are."""
  return {f'distill.weights.{t}': factor * x for t, x in PAPER.items()}


def baseline_gated():
  """Overrides: no alignment of tasks in which uniform is ahead."""
  return {'distill.adapt': 'baseline+cosine', 'distill.full_gap': 5.0}


def best_gated():
  """Overrides: the better one of a task's own network and uniform teaches."""
  return {'distill.adapt': 'cosine', 'teacher.choose': 'best'}
