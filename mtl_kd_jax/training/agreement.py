"""Terms that count as far as their gradient agrees with that of another term.

Of an alignment and its task it is the gate of Du et al. 2018 (arXiv
1812.02224): lambda_t * max(0, cos(grad L_t, grad l^d_t)). They have one task.
Of an alignment and the sum of all tasks, it is the same where there are
several: what helps one task may harm the others, with which it shares features.
The gradients are of the whole batch: where few of its images have a label, the
cosine is small.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_kd_jax.balancing import Gram, inner_products
from mtl_kd_jax.training.forward import Cotangent, Forward, add
from mtl_kd_jax.training.loss_terms import ALL_TASKS, is_task


def with_agreement(forward: Forward, axis_name: str | None) -> Forward:
  """Weighs the terms that have to agree with another one.

  Args:
    forward: what a batch gave.
    axis_name: the mapped device axis, if any.

  Returns:
    The same, with their weights times max(0, cosine), or 1 where the other has
    no gradient in this batch; no gradient flows into these.
  """
  pairs = {t.name: t.agrees_with for t in forward.terms if t.agrees_with}
  if not pairs:
    return forward
  names = sorted({*pairs, *pairs.values()})
  tasks = [t.name for t in forward.terms if is_task(t)]
  gradients = {
    name: forward.vjp(
      dict.fromkeys(tasks, 1.0) if name == ALL_TASKS else {name: 1.0}
    )
    for name in names
  }

  def vjp(weights):
    # These have been through the heads already, and the way back is linear.
    known = [_scaled(gradients[n], w) for n, w in weights.items() if n in names]
    rest = {n: w for n, w in weights.items() if n not in names}
    if rest:
      known.append(forward.vjp(rest))
    return Cotangent(*(add(part) or {} for part in zip(*known, strict=True)))

  gram = shared_products(forward, gradients, axis_name)
  factors = dict(forward.factors)
  for name, other in pairs.items():
    i, j = names.index(name), names.index(other)
    # Without a gradient, as of a task without labels, nothing contradicts.
    agrees = jnp.where(gram.norms[j] > 0, gram.cosines[i, j], 1)
    factors[name] = factors.get(name, 1) * jnp.maximum(0, agrees)
  return forward._replace(factors=factors, vjp=vjp)


def _scaled(cotangent: Cotangent, weight: jax.Array) -> Cotangent:
  return jax.tree.map(lambda x: (weight * x).astype(x.dtype), cotangent)


def shared_products(
  forward: Forward,
  cotangents: Mapping[str, Cotangent],
  axis_name: str | None,
) -> Gram:
  """Lengths and angles of gradients with respect to what tasks share.

  That is all features of the backbone together (Sener & Koltun 2018). Where
  tasks have features of their own it is the backbone's parameters, which takes
  a backward pass for each gradient.

  Args:
    forward: what a batch gave.
    cotangents: name -> gradient.
    axis_name: the mapped device axis, if any.

  Returns:
    Of the gradients, in the order of their names.
  """
  gradients = [cotangents[name].features for name in sorted(cotangents)]
  if any('/' in tap for tap in forward.features):
    gradients = [forward.backbone_vjp(g) for g in gradients]
    axis_name = None  # parameters are replicated
  return inner_products(gradients, axis_name=axis_name)
