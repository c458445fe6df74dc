"""BatchNorm folded into the layers before it, for inference.

With running statistics, BatchNorm is a factor and an offset per channel. Where
it reads the result of a convolution or a dense layer, and nothing else does,
the factor goes into the kernel and the offset into the bias.
"""

from collections.abc import Callable, Mapping
import copy
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.models.network import Network
from mtl_kd_jax.ops.norm import BatchNorm

Predictions = Mapping[str, jax.Array]
Path = tuple[str, ...]

_NORMS = (BatchNorm, nn.BatchNorm)
# Of the largest number of an output, in float64.
_EXACT = 1e-9
_SIDE = 32  # of the images that are compared, at least


class Folded(NamedTuple):
  """A network for inference.

  Attributes:
    apply: (variables, float [b h w 3] in [0, 1]) -> task -> float [b h w c].
    variables: of `apply`.
    folded: number of BatchNorms that are folded.
    kept: number of those that are not.
  """

  apply: Callable[[Any, jax.Array], Predictions]
  variables: dict[str, Any]
  folded: int
  kept: int


def fold_norms(
  network: Network, variables: Any, *, image_size: tuple[int, int]
) -> Folded:
  """Folds every BatchNorm of a network that can be, exactly.

  The folded network is compared with the network in float64, where rounding is
  far below any other difference. Where they differ, as they do if something
  else reads the result of a convolution too, nothing is folded.

  Args:
    network: the network.
    variables: its variables.
    image_size: (height, width) in pixels, of the images it was trained on. They
      are compared on smaller ones where the network takes these.
  """
  stride = getattr(network.backbone, 'stride', 1)
  side = -(-_SIDE // stride) * stride
  small = (side, 2 * side)
  try:
    norms, layers = _find(network, variables, small)
    image_size = small
  except Exception:  # of a module that computes with its sizes
    norms, layers = _find(network, variables, image_size)
  exact = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
  folded, kept = _fold(exact, layers, norms), len(norms) - len(layers)
  apply, plain = _make_apply(network, layers), _make_apply(network, {})
  if not layers or not _agree((apply, folded), (plain, exact), image_size):
    return Folded(plain, variables, 0, len(norms))
  folded = jax.tree.map(np.float32, folded)
  return Folded(apply, folded, len(layers), kept)


def _find(network, variables, image_size) -> tuple[dict, dict[Path, Path]]:
  """The BatchNorms by their paths, and of those to fold the layers before."""
  norms: dict[Path, nn.Module] = {}
  results: list[tuple[Any, Path]] = []  # kept, or an id could be used again
  readers: dict[Path, list[Path]] = {}  # of a layer, once for each call
  sources: dict[Path, set[Path | None]] = {}

  def record(call, args, kwargs, context):
    module = context.module
    result = call(*args, **kwargs)
    if context.method_name != '__call__':
      return result
    if isinstance(module, (nn.Conv, nn.Dense)):
      results.append((result, module.path))
      readers.setdefault(module.path, [])
    elif isinstance(module, _NORMS):
      x = args[0] if args else kwargs['x']
      source = next((path for y, path in results if y is x), None)
      norms[module.path] = module
      sources.setdefault(module.path, set()).add(source)
      if source is not None:
        readers[source].append(module.path)
    return result

  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  with nn.intercept_methods(record):
    jax.eval_shape(
      lambda v, x: network.apply(v, x, train=False), variables, image
    )
  calls = [path for _, path in results]
  layers = {}
  for norm, found in sources.items():
    (source, *others) = found
    if source is None or others or getattr(norms[norm], 'axis', -1) != -1:
      continue
    if readers[source] == [norm] * calls.count(source):
      layers[norm] = source
  return norms, layers


def _fold(variables, layers, norms) -> dict[str, Any]:
  """The variables with scaled kernels, and with offsets as BatchNorms' biases.

  A layer that has a bias takes the offset itself.
  """
  folded = copy.deepcopy(dict(variables))
  params = folded['params']
  for path, source in layers.items():
    norm, layer = _get(params, path), _get(params, source)
    statistics = _remove(folded['batch_stats'], path)
    gain = norm.get('scale', 1) / np.sqrt(
      statistics['var'] + norms[path].epsilon
    )
    offset = norm.get('bias', 0) - statistics['mean'] * gain
    layer['kernel'] = layer['kernel'] * gain
    _remove(params, path)
    if 'bias' in layer:
      layer['bias'] = layer['bias'] * gain + offset
    else:
      _set(params, path, {'bias': offset})
  return {kind: tree for kind, tree in folded.items() if tree}


def _make_apply(network, layers):
  def replace(call, args, kwargs, context):
    module = context.module
    if module.path not in layers or context.method_name != '__call__':
      return call(*args, **kwargs)
    x = args[0] if args else kwargs['x']
    if not module.has_variable('params', 'bias'):
      return x
    bias = module.get_variable('params', 'bias')
    return x + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))

  def apply(variables, images):
    with nn.intercept_methods(replace):
      return network.apply(variables, images, train=False).predictions

  return apply


def _agree(first, second, image_size) -> bool:
  """Whether two pairs (apply, variables) are the same function."""
  image = np.random.default_rng(0).uniform(size=(1, *image_size, 3))
  with jax.enable_x64(True), jax.default_device(cpu_device()):
    # Compiling takes longer than the computation.
    fast = {'xla_backend_optimization_level': 0}
    outputs = [
      jax.jit(apply, compiler_options=fast)(variables, image)
      for apply, variables in (first, second)
    ]
  return all(
    np.abs(outputs[0][task] - x).max() <= _EXACT * max(1, np.abs(x).max())
    for task, x in outputs[1].items()
  )


def cpu_device() -> jax.Device:
  """The CPU; the first device where JAX is kept from it."""
  try:
    return jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return jax.local_devices()[0]


def _get(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def _set(tree, path, value) -> None:
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = value


def _remove(tree, path):
  """Takes out a part, and what becomes empty without it."""
  *above, last = path
  part = _get(tree, above).pop(last)
  while above and not _get(tree, above):
    *above, last = above
    _get(tree, above).pop(last)
  return part
