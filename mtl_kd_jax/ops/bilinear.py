"""Bilinear operations that choose the form of their transposes.

JAX gets the gradient of a convolution by transposing it, and the transpose that
it picks is slow on XLA's CPU backend. `jax.custom_vjp` could replace it, but
then refuses forward mode, and with it Hessian-vector products. The operations
here are primitives, as JAX's own are: what is linear in each of two operands is
its own JVP, and its transposes are bilinear again. A family of operations that
are each other's transposes can be differentiated in both modes, and any number
of times.
"""

from collections.abc import Callable

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

Operation = Callable[..., jax.Array]

# name of a primitive -> the same function in few operations of JAX itself, for
# programs that are read by others than XLA.
DEFINITIONS: dict[str, Operation] = {}


def make_primitive(
  name: str,
  function: Operation,
  *,
  images: tuple[bool, bool],
  plain: Operation | None = None,
) -> Primitive:
  """Makes a primitive, to be differentiated after `set_transposes`.

  Args:
    name: Name of the primitive in a jaxpr.
    function: (a, b, **params) -> array. Linear in `a` and, if `b` is floating
      point, in `b`; the params are static. This is what is lowered.
    images: Whether the first axis of `a`, and of `b`, counts images that are
      computed independently, and so does the first axis of the result. Under
      `jax.vmap` more images then are a larger batch.
    plain: The same function in few operations, which is traced for the type of
      the result; `function` by default.

  Returns:
    The primitive, for `bind`.
  """
  primitive = Primitive(name)
  plain = plain or function
  DEFINITIONS[name] = plain

  def evaluate(a, b, **params):
    return jax.jit(function, static_argnames=(*params,))(a, b, **params)

  def infer_type(a, b, **params):
    # `jax.jit` caches the trace.
    traced = jax.jit(plain, static_argnames=(*params,)).trace(a, b, **params)
    return traced.jaxpr.out_avals[0]

  def batch(operands, axes, **params):
    mapped = [axis is not None for axis in axes]
    size = next(
      x.shape[axis]
      for x, axis in zip(operands, axes, strict=True)
      if axis is not None
    )
    if any(m and not i for m, i in zip(mapped, images, strict=True)):
      run = jax.vmap(lambda a, b: function(a, b, **params), in_axes=axes)
      return run(*operands), 0
    merged = [
      _merge(x, axis, size) if image else x
      for x, axis, image in zip(operands, axes, images, strict=True)
    ]
    result = primitive.bind(*merged, **params)
    return result.reshape(size, -1, *result.shape[1:]), 0

  primitive.def_impl(evaluate)
  primitive.def_abstract_eval(infer_type)
  lowering = mlir.lower_fun(function, multiple_results=False)
  mlir.register_lowering(primitive, lowering)
  batching.primitive_batchers[primitive] = batch
  return primitive


def set_transposes(
  primitive: Primitive, to_first: Operation, to_second: Operation | None = None
) -> None:
  """Makes a primitive differentiable.

  Args:
    primitive: From `make_primitive`.
    to_first: (cotangent, b, **params) -> cotangent of `a`.
    to_second: (a, cotangent, **params) -> cotangent of `b`; None if `b` is of
      integers or a constant.
  """
  ad.defbilinear(
    primitive,
    lambda cotangent, a, b, **params: to_first(cotangent, b, **params),
    lambda cotangent, a, b, **params: to_second(a, cotangent, **params),
  )


def equally_varying(*arrays: jax.Array) -> list[jax.Array]:
  """Marks arrays as varying over the same axes of a `jax.shard_map`.

  JAX's own functions do so: where weights are replicated and images are not,
  it is this cast whose transpose sums the weights' gradient over the devices.
  """
  axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  return [
    lax.pcast(x, tuple(frozenset().union(*axes) - own), to='varying')
    for x, own in zip(arrays, axes, strict=True)
  ]


def _merge(x, axis, size):
  """Moves a mapped axis into the batch, [.. n .. b ..] to [n*b ..]."""
  if axis is None:
    x = jnp.broadcast_to(x, (size, *x.shape))
  else:
    x = jnp.moveaxis(x, axis, 0)
  return x.reshape(-1, *x.shape[2:])
