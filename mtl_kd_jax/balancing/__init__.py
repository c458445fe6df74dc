"""Balancing of many losses, usable without the rest of the project.

  balancer = balancing.make('nash_mtl')
  state = balancer.init(names)
  losses, gradients = balancing.task_gradients(loss_by_task, params, batch)
  combined, state = balancer.update(losses, gradients, state, key)
  # combined.direction takes the place of the gradient.

docs/balancing.md describes every rule. To add one: a file named as its key with
a function `make`, and a line in the registry below; the tests run over both
registries. Parameters of `make` are the options of the rule, with plain values
as defaults. Keyword-only parameters are no options: they are facts of the run,
see `make` below.
"""

from collections.abc import Mapping
import inspect
import typing
from typing import Any

from mtl_kd_jax.balancing import (
  aligned_mtl,
  auto_lambda,
  cagrad,
  config_conflict_free,
  db_mtl,
  dualproj,
  dwa,
  excess_mtl,
  fairgrad,
  famo,
  fixed,
  gls,
  graddrop,
  gradnorm,
  gradvac,
  imtl_g,
  imtl_h,
  imtl_l,
  mgda,
  moco,
  modo,
  nash_mtl,
  pcgrad,
  rlw,
  scale_invariant,
  sdmgrad,
  stch,
  uncertainty,
  uniform,
  upgrad,
)
from mtl_kd_jax.balancing._checked import checked
from mtl_kd_jax.balancing._gram import (
  Gram,
  Weights,
  from_gram,
  inner_products,
  shared_only,
)
from mtl_kd_jax.balancing._vectors import from_losses
from mtl_kd_jax.balancing.base import (
  Balancer,
  Combined,
  GradientBalancer,
  Reused,
)
from mtl_kd_jax.balancing.gradients import task_gradients
from mtl_kd_jax.balancing.wrappers import (
  mean_weight,
  normalize_gradients,
  update_every,
  weight_ema,
)
from mtl_kd_jax.errors import InputError, hint, what_is

__all__ = [
  'BALANCERS',
  'GRADIENT_BALANCERS',
  'Balancer',
  'Combined',
  'GradientBalancer',
  'Gram',
  'Reused',
  'Weights',
  'checked',
  'from_gram',
  'from_losses',
  'inner_products',
  'make',
  'make_balancer',
  'mean_weight',
  'normalize_gradients',
  'options',
  'shared_only',
  'task_gradients',
  'update_every',
  'weight_ema',
]

# From losses alone.
BALANCERS = {
  'uniform': uniform.make,
  'fixed': fixed.make,
  'uncertainty': uncertainty.make,
  'dwa': dwa.make,
  'rlw': rlw.make,
  'gls': gls.make,
  'scale_invariant': scale_invariant.make,
  'stch': stch.make,
  'imtl_l': imtl_l.make,
  'famo': famo.make,
}

# From the gradient of every task.
GRADIENT_BALANCERS = {
  'mgda': mgda.make,
  'pcgrad': pcgrad.make,
  'gradvac': gradvac.make,
  'graddrop': graddrop.make,
  'cagrad': cagrad.make,
  'imtl_g': imtl_g.make,
  'imtl_h': imtl_h.make,
  'gradnorm': gradnorm.make,
  'nash_mtl': nash_mtl.make,
  'fairgrad': fairgrad.make,
  'aligned_mtl': aligned_mtl.make,
  'upgrad': upgrad.make,
  'dualproj': dualproj.make,
  'config': config_conflict_free.make,
  'sdmgrad': sdmgrad.make,
  'modo': modo.make,
  'moco': moco.make,
  'db_mtl': db_mtl.make,
  'excess_mtl': excess_mtl.make,
  'auto_lambda': auto_lambda.make,
}


def make(
  name: str,
  *,
  steps_per_epoch: int | None = None,
  task_kinds: Mapping[str, str] | None = None,
  **values: Any,
) -> Balancer | GradientBalancer:
  """Makes a balancer that checks its arguments when it is traced.

  Args:
    name: key of `BALANCERS` or `GRADIENT_BALANCERS`.
    steps_per_epoch: optimizer steps in an epoch, for the rules whose `make`
      has this parameter. The others ignore it.
    task_kinds: task -> 'classification' or 'regression', likewise.
    **values: those options of `options(name)` that differ from their defaults;
      the docstring of the rule's `make` describes them.

  Raises:
    InputError: unknown name or option, or a value that cannot be used.
  """
  known = options(name)
  if unknown := sorted(set(values) - set(known)):
    raise InputError(
      expected=f'options of {name}: {", ".join(known) or "none"}',
      found=', '.join(unknown),
      argument=unknown[0],
      do='leave it out, or correct its name',
    )
  rule = (BALANCERS | GRADIENT_BALANCERS)[name]
  facts = {'steps_per_epoch': steps_per_epoch, 'task_kinds': task_kinds}
  accepted = inspect.signature(rule).parameters
  facts = {k: v for k, v in facts.items() if v is not None and k in accepted}
  given = ', '.join(f'{k}={v!r}' for k, v in sorted(values.items()))
  return checked(rule(**values, **facts))._replace(made_by=f'{name}({given})')


# The former name of `make`, for code that uses it.
make_balancer = make


def options(name: str) -> dict[str, Any]:
  """The options of a balancer with their defaults, from its signature.

  Defaults are plain values that a config can hold. That of a mapping by task is
  {}, which rules treat as None.

  Args:
    name: key of `BALANCERS` or `GRADIENT_BALANCERS`.

  Raises:
    InputError: unknown name.
  """
  known = BALANCERS | GRADIENT_BALANCERS
  if not isinstance(name, str) or name not in known:
    raise InputError(
      expected=f'a known balancer: {", ".join(known)}',
      found=what_is(name),
      argument='name',
      do=f'correct the name{hint(str(name), known)}',
    )
  parameters = inspect.signature(known[name], eval_str=True).parameters
  return {
    option: {} if _is_mapping(parameter.annotation) else parameter.default
    for option, parameter in parameters.items()
    if parameter.kind is not parameter.KEYWORD_ONLY
  }


def _is_mapping(annotation):
  kinds = typing.get_args(annotation) or (annotation,)
  return any(typing.get_origin(kind) is Mapping for kind in kinds)
