"""Balancing of many losses, usable without the rest of the project.

Two registries, by name. To add a balancer: a file with a `make`, and a line
here; the tests run over both registries. docs/balancing.md describes them all.

  balancer = make_balancer('nash_mtl')
  state = balancer.init(names)
  losses, gradients = task_gradients(loss_by_task, params, batch)
  combined, state = balancer.update(losses, gradients, state, key)
  # combined.direction takes the place of the gradient.
"""

import inspect

from mtl_kd_jax.balancing import (
  aligned,
  auto_lambda,
  cagrad,
  conflict_free,
  db_mtl,
  dual_cone,
  dwa,
  excess,
  fairness,
  famo,
  geometric,
  graddrop,
  gradnorm,
  imtl,
  mgda,
  moco,
  rlw,
  sampled,
  stch,
  surgery,
  uncertainty,
  uniform,
)
from mtl_kd_jax.balancing.base import (
  Balancer,
  Combined,
  GradientBalancer,
  Reused,
)
from mtl_kd_jax.balancing.gradients import task_gradients
from mtl_kd_jax.balancing.wrappers import normalized, refreshed, smoothed
from mtl_kd_jax.errors import InputError

__all__ = [
  'BALANCERS',
  'GRADIENT_BALANCERS',
  'Balancer',
  'Combined',
  'GradientBalancer',
  'Reused',
  'make_balancer',
  'normalized',
  'refreshed',
  'smoothed',
  'task_gradients',
]

# From losses alone.
BALANCERS = {
  'uniform': uniform.make,
  'fixed': uniform.make_fixed,
  'uncertainty': uncertainty.make,
  'dwa': dwa.make,
  'rlw': rlw.make,
  'gls': geometric.make_gls,
  'scale_invariant': geometric.make_scale_invariant,
  'stch': stch.make,
  'imtl_l': imtl.make_l,
  'famo': famo.make,
}

# From the gradient of every task.
GRADIENT_BALANCERS = {
  'mgda': mgda.make,
  'pcgrad': surgery.make_pcgrad,
  'gradvac': surgery.make_gradvac,
  'graddrop': graddrop.make,
  'cagrad': cagrad.make,
  'imtl_g': imtl.make_g,
  'imtl_h': imtl.make_h,
  'gradnorm': gradnorm.make,
  'nash_mtl': fairness.make_nash,
  'fairgrad': fairness.make_fairgrad,
  'aligned_mtl': aligned.make,
  'upgrad': dual_cone.make_upgrad,
  'dualproj': dual_cone.make_dualproj,
  'config': conflict_free.make,
  'sdmgrad': sampled.make_sdmgrad,
  'modo': sampled.make_modo,
  'moco': moco.make,
  'db_mtl': db_mtl.make,
  'excess_mtl': excess.make,
  'auto_lambda': auto_lambda.make,
}


def make_balancer(name: str, **options) -> Balancer | GradientBalancer:
  """Makes a balancer.

  Args:
    name: of `BALANCERS` or `GRADIENT_BALANCERS`.
    **options: what its `make` takes.

  Raises:
    InputError: unknown name or option, or a value that cannot be used.
  """
  known = BALANCERS | GRADIENT_BALANCERS
  if name not in known:
    raise InputError(
      expected=f'a known balancer: {", ".join(known)}',
      found=repr(name),
      where='config.balancing.name',
      do='correct the name',
    )
  taken = inspect.signature(known[name]).parameters
  required = {k for k, p in taken.items() if p.default is p.empty}
  if not required <= set(options) <= set(taken):
    raise InputError(
      expected=f'options of {name}: {", ".join(taken) or "none"}',
      found=', '.join(options) or 'none',
      where=f'config.balancing.{name}',
      do=f'give those that it has; required: {", ".join(required) or "none"}',
    )
  return known[name](**options)
