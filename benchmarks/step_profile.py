"""Says what a distilled step spends its time on, on the CPU.

    python benchmarks/step_profile.py --case=segnet_96x128_step

The steps are those of versus_torch.py, under JAX's profiler. Printed are the
time to compile; the matrix products, into which most convolutions are written
(ops/conv): how many operations they are, and how fast, beside a large product
in the same process; and the rest by its kind and result. Operations that run
side by side count for each. XLA's own products, in contrast to YNNPACK's, may
return before they are done: some of their time is in no line.
"""

import argparse
import collections
import gzip
import json
import math
import pathlib
import re
import statistics
import sys
import tempfile
import time
from typing import NamedTuple

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import versus_torch

_LARGE = 2048  # rows and columns


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  cases = [case for case in versus_torch.CASES if case.endswith('_step')]
  add('--case', default=cases[0], choices=cases, help='Network and size.')
  add('--steps', type=int, default=3, help='Profiled steps.')
  add('--shown', type=int, default=12, help='Lines of each table.')
  options = parser.parse_args()
  flags.FLAGS([sys.argv[0]])  # those of versus_torch.py as they are

  import jax

  network, size, _ = options.case.split('_')
  stage, frozen, batch = versus_torch.set_up_jax(
    network, tuple(map(int, size.split('x')))
  )
  frozen = {teacher: make() for teacher, make in frozen.items()}
  state = stage.init()
  step = compile_step(stage.train_step.function, (state, frozen, batch))
  seconds = []
  for _ in range(2):
    state, _ = jax.block_until_ready(step(state, frozen, batch))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(options.steps):
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, frozen, batch))
        seconds.append(time.perf_counter() - begun)
    taken = read_trace(pathlib.Path(folder))
  print(f'{options.case}: {1e3 * statistics.median(seconds):.0f} ms')
  report(
    {name: total / options.steps for name, total in taken.items()},
    read_program(step.as_text()),
    large_product(stage.parallel.compiler_options),
    shown=options.shown,
  )


def compile_step(function, arguments):
  """Compiles it, and prints what that took."""
  begun = time.perf_counter()
  lowered = function.lower(*arguments)
  traced, computed = time.perf_counter(), time.process_time()
  step = lowered.compile()
  taken, computed = time.perf_counter() - traced, time.process_time() - computed
  instructions = re.findall(r'^ +(?:ROOT )?%\S+ = ', step.as_text(), re.M)
  print(
    f'traced in {traced - begun:.0f} s, compiled in {taken:.0f} s '
    f'({computed:.0f} s of processor time): {len(instructions)} instructions'
  )
  return step


def read_trace(folder):
  """Operation -> seconds, of all its runs."""
  (file,) = folder.rglob('*.trace.json.gz')
  events = json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
  taken = collections.Counter()
  for event in events:
    if event.get('ph') == 'X':
      taken[event['name']] += event['dur'] / 1e6
  return taken


_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.-]+) .*\{$')
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$'
)


class Program(NamedTuple):
  """What is read of a compiled program.

  Attributes:
    results: operation -> shape of its result.
    products: operation -> floating-point operations of the matrix product that
      it is, or of those in its fusion.
    shapes: the same -> of what the last of these multiplies.
  """

  results: dict[str, str]
  products: dict[str, int]
  shapes: dict[str, str]


def read_program(text):
  """Reads the text of a compiled program."""
  results, calls = {}, {}
  products, factors = collections.Counter(), {}
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      computation, shapes = match[1], {}
    if not (match := _INSTRUCTION.match(line)):
      continue
    name, shape, kind, rest = match.groups()
    results[name] = shapes[name] = shape.partition('{')[0]
    if called := re.search(r'calls=%?([\w.-]+)', rest):
      calls[name] = called[1]
    if kind == 'dot':
      operands = re.findall(r'%([\w.-]+)', rest.partition(')')[0])
      lhs, rhs = (shapes[operand] for operand in operands)
      axes = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', rest)[1]
      summed = [_sides(lhs)[int(axis)] for axis in axes.split(',') if axis]
      count = 2 * math.prod(_sides(shapes[name])) * math.prod(summed)
      for place in (name, computation):
        products[place] += count
        factors[place] = f'{lhs} {rhs}'
  for name, computation in calls.items():
    if computation in products:
      products[name] += products[computation]
      factors[name] = factors[computation]
  products = {n: products[n] for n in results.keys() & products.keys()}
  return Program(results, products, factors)


def _sides(shape):
  """'f32[2,3]' -> [2, 3]."""
  return [int(x) for x in re.findall(r'\d+', shape.partition('[')[2])]


def large_product(options):
  """Operations/s of a product of two large matrices."""
  import jax
  import jax.numpy as jnp

  multiply = jax.jit(jnp.matmul, compiler_options=options)
  x = jnp.ones((_LARGE, _LARGE))
  jax.block_until_ready(multiply(x, x))
  seconds = []
  for _ in range(9):
    begun = time.perf_counter()
    jax.block_until_ready(multiply(x, x))
    seconds.append(time.perf_counter() - begun)
  return 2 * _LARGE**3 / statistics.median(seconds)


def report(taken, program, fastest, *, shown):
  """Prints the tables."""
  of_products, of_others = collections.Counter(), collections.Counter()
  counts, operations = collections.Counter(), collections.Counter()
  for name in program.results.keys() & taken.keys():
    if name in program.products:
      kind = program.shapes[name]
      of_products[kind] += taken[name]
      operations[kind] += program.products[name]
    else:
      kind = re.sub(r'[.\d]+(clone)?$', '', name)
      kind = f'{kind} {program.results[name]}'
      of_others[kind] += taken[name]
    counts[kind] += 1
  products, others = sum(of_products.values()), sum(of_others.values())
  count = sum(operations.values())
  print(
    f'products: {1e3 * products:.0f} ms, {count / 1e9:.0f} GFLOP, '
    f'{count / products / 1e9:.0f} GFLOP/s; at the {fastest / 1e9:.0f} GFLOP/s '
    f'of a large one: {1e3 * count / fastest:.0f} ms\n'
    f'all others: {1e3 * others:.0f} ms\n'
  )
  for kind, total in of_products.most_common(shown):
    print(
      f'{1e3 * total:8.1f} ms {counts[kind]:5} products '
      f'{operations[kind] / total / 1e9:6.0f} GFLOP/s  {kind}'
    )
  print()
  for kind, total in of_others.most_common(shown):
    print(f'{1e3 * total:8.1f} ms {counts[kind]:5} {kind}')


if __name__ == '__main__':
  main()
