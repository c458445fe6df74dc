"""What a device computes, beside the CPU of the same process.

The CPU multiplies in float32. Differences of arrays are lengths, relative to
that of what the CPU computes. Those of SegNet and MTAN are larger than rounding
makes them: where two pixels are nearly alike, the larger one, which pooling
remembers the place of, may be the other.
"""

from concurrent.futures import ThreadPoolExecutor
import functools

from batches import make_batch
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import steps

from accelerator_parts.plan import PRECISIONS, TOGETHER
from accelerator_parts.workers import describe
from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import GradientBalancer
from mtl_kd_jax.models.precision import as_dtype, with_dtype
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.runtime.parallel import AXIS, Parallel
from mtl_kd_jax.training.computation import Computation

_BATCH = 2
_TASKS = tuple(steps.TASKS)
_MATMUL = {'float32': 'highest', 'tf32': 'tensorfloat32', 'bfloat16': None}
_DTYPES = {'bfloat16': jnp.bfloat16}


def outputs(device, networks, *, size, width, precisions=PRECISIONS):
  """Network -> precision -> the difference of the worst task's prediction."""
  image = make_batch(size, _BATCH)['image']
  found = {}
  for name in networks:
    network = steps.make_network(name, width=width)
    variables = steps.draw_variables(
      steps.shapes_of(network, size), np.random.default_rng(0)
    )

    def predict(variables, image, dtype, network=network):
      ready = with_dtype(variables, dtype)
      output = network.apply(ready, as_dtype(image, dtype), train=False)
      return as_dtype(output.predictions, jnp.float32)

    run = functools.partial(_run, predict, variables, image)
    found[name] = _against_cpu(
      run,
      device,
      precisions,
      lambda x, expected: max(
        _difference(x[task], expected[task]) for task in expected
      ),
    )
  return found


def _run(predict, variables, image, device, precision):
  dtype = _DTYPES.get(precision)
  with jax.default_matmul_precision(_MATMUL[precision]):
    compiled = _jit(functools.partial(predict, dtype=dtype), device)
    return jax.device_get(compiled(*jax.device_put((variables, image), device)))


def losses(device, networks, *, size, width, count, precisions=PRECISIONS):
  """Network -> precision -> difference of the loss in each of `count` steps."""
  found = {}
  for name in networks:
    found[name] = _against_cpu(
      functools.partial(_losses, name, size, width, count),
      device,
      precisions,
      lambda losses, expected: [
        abs(x - y) / abs(y) for x, y in zip(losses, expected, strict=True)
      ],
    )
  return found


def _losses(name, size, width, count, device, precision):
  work = steps.make_work(
    name,
    'distilled',
    size=size,
    batch_size=_BATCH,
    width=width,
    computation=Computation(dtype=_DTYPES.get(precision)),
  )
  parallel = Parallel('jit', Mesh(np.array([device]), (AXIS,)))
  state, frozen = parallel.replicate(steps.draw_state(work))
  batches = [
    parallel.replicate(make_batch(size, _BATCH, seed=i)) for i in range(2)
  ]
  step = parallel.compile_train_step(work.step)
  found = []
  with jax.default_matmul_precision(_MATMUL[precision]):
    for i in range(count):
      state, measured = step(state, frozen, batches[i % 2])
      found.append(float(measured['loss']))
  return found


def directions(device, networks, *, rules=(), entries=4096):
  """Rule -> difference of its direction, or of its weights; of two updates.

  Of three conflicting gradients of different lengths. Rules that decide by
  signs or draw numbers may come out different by rounding.
  """
  del networks
  known = balancing.BALANCERS | balancing.GRADIENT_BALANCERS

  def difference(name):
    expected = _update(name, _cpu(), entries)
    return _difference(_update(name, device, entries), expected)

  names = [*(rules or known)]
  found = _at_once(difference, *((name,) for name in names))
  return {n: _told(x) for n, x in zip(names, found, strict=True)}


def _update(name, device, entries):
  """The direction of a rule after two updates, or its weights, as a vector."""
  options = {'weights': dict.fromkeys(_TASKS, 2.0)} if name == 'fixed' else {}
  kinds = dict.fromkeys(_TASKS, 'regression')
  balancer = balancing.make(
    name, steps_per_epoch=1, task_kinds=kinds, **options
  )
  rng = np.random.default_rng(1)
  shared = rng.standard_normal(entries, np.float32)
  gradients = {
    task: 3.0**i * (rng.standard_normal(entries, np.float32) - 0.3 * shared)
    for i, task in enumerate(_TASKS)
  }
  losses = {task: np.float32(1 + i) for i, task in enumerate(_TASKS)}

  def update(losses, gradients, state):
    key = jax.random.key(0)
    if not isinstance(balancer, GradientBalancer):
      weights, state = balancer.update(losses, state, key)
      return jnp.stack([weights[t] for t in _TASKS]), state
    combined, state = balancer.update(
      losses,
      gradients,
      state,
      key,
      probe=lambda part, shift: jax.tree.map(
        lambda g: jnp.roll(g, part), gradients
      ),
    )
    return combined.direction, state

  with jax.default_device(device):
    state = balancer.init(_TASKS, gradients)
    compiled = _jit(update, device)
    for _ in range(2):
      result, state = compiled(losses, gradients, state)
    return np.asarray(result)


def _cpu():
  return jax.devices('cpu')[0]


def _jit(function, device):
  """As the library compiles for this kind of device."""
  return jax.jit(function, compiler_options=compiler_options(device.platform))


def _against_cpu(call, device, precisions, difference):
  """Precision -> how far a call on the device is from that on the CPU.

  Or the error that there was.
  """
  expected, *others = _at_once(
    call, (_cpu(), 'float32'), *((device, p) for p in precisions)
  )
  if isinstance(expected, Exception):
    raise expected
  return {
    p: _told(x) if isinstance(x, Exception) else difference(x, expected)
    for p, x in zip(precisions, others, strict=True)
  }


def _at_once(call, *arguments):
  """The results of a function, or exceptions.

  What it compiles is compiled in parallel.
  """

  def tried(given):
    try:
      return call(*given)
    except Exception as error:
      return error

  with ThreadPoolExecutor(TOGETHER) as pool:
    return [*pool.map(tried, arguments)]


def _told(result):
  return describe(result) if isinstance(result, Exception) else result


def _difference(x, y):
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  length = np.linalg.norm(y)
  return float(np.linalg.norm(x - y) / (length if length > 0 else 1))
