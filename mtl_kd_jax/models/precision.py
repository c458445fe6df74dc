"""Half precision with float32 parameters (Micikevicius et al. 2018).

Parameters, statistics of BatchNorm, losses, optimizers and balancing stay
float32. What is cast is what a network computes with: copies of its parameters,
its input, and so all of its features. The cast is part of the function that is
differentiated: gradients of parameters come back in float32. BatchNorm computes
in float32 what it returns in the dtype that it is given.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def with_dtype(
  variables: Mapping[str, Any], dtype: jnp.dtype | None
) -> dict[str, Any]:
  """The variables that a network computes with.

  Args:
    variables: {'params', and other collections, which are not cast}.
    dtype: of the computation; None for that of the parameters.
  """
  return {**variables, 'params': as_dtype(variables['params'], dtype)}


def as_dtype(tree: Any, dtype: jnp.dtype | None) -> Any:
  """Casts the floating-point arrays of a pytree; None leaves them."""
  if dtype is None:
    return tree
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    tree,
  )
