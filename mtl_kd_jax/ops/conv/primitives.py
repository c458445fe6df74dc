"""A product of maps and weights, with forms of its own on CPUs and GPUs.

The three functions of a `Forms` are the partial gradients of one trilinear sum,
<convolve(x, kernel), g>, and so each is the transpose of the two others.
"""

import jax
from jax import lax

from mtl_kd_jax.ops.bilinear import (
  equally_varying,
  make_primitive,
  set_transposes,
)
from mtl_kd_jax.ops.conv.forms import Forms


def product(
  x: jax.Array,
  kernel: jax.Array,
  *,
  cpu: Forms,
  elsewhere: Forms,
  gpu: Forms | None = None,
) -> jax.Array:
  """Computes `convolve(x, kernel)`, differentiable in both modes.

  Args:
    x: Feature maps, floating point [b h w c].
    kernel: Weights, of the dtype of `x`.
    cpu: The forms of the value and of all derivatives on the CPU.
    elsewhere: The forms on other platforms.
    gpu: The forms on GPUs; None for those of `elsewhere`.

  Returns:
    Feature maps [b h w d].
  """
  x, kernel = equally_varying(x, kernel)
  gpu = gpu or elsewhere
  return _convolve.bind(x, kernel, cpu=cpu, gpu=gpu, elsewhere=elsewhere)


def _make(field, *, images):
  def function(a, b, *, cpu, gpu, elsewhere):
    plain = getattr(elsewhere, field)
    forms = {'cpu': cpu, 'cuda': gpu, 'rocm': gpu}
    ours = {k: getattr(v, field) for k, v in forms.items()}
    ours = {k: form for k, form in ours.items() if form != plain}
    if not ours:
      return plain(a, b)
    # Decided where the program is lowered, not by `jax.default_backend()`: a
    # step compiled for the CPU beside a GPU, or exported, gets its own form,
    # and the program holds only that one.
    return lax.platform_dependent(a, b, **ours, default=plain)

  def plain(a, b, *, cpu, gpu, elsewhere):
    del cpu, gpu
    return getattr(elsewhere, field)(a, b)

  return make_primitive(field, function, images=images, plain=plain)


_convolve = _make('convolve', images=(True, False))
_input_gradient = _make('input_gradient', images=(True, False))
_weight_gradient = _make('weight_gradient', images=(False, False))

set_transposes(
  _convolve,
  lambda g, kernel, **forms: _input_gradient.bind(g, kernel, **forms),
  lambda x, g, **forms: _weight_gradient.bind(x, g, **forms),
)
set_transposes(
  _input_gradient,
  lambda x, kernel, **forms: _convolve.bind(x, kernel, **forms),
  lambda g, x, **forms: _weight_gradient.bind(x, g, **forms),
)
set_transposes(
  _weight_gradient,
  lambda kernel, g, **forms: _input_gradient.bind(g, kernel, **forms),
  lambda x, kernel, **forms: _convolve.bind(x, kernel, **forms),
)
