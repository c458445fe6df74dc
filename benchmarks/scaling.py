"""A model of the time of a step on 1 to 4096 chips, from what steps cost.

    python benchmarks/scaling.py                     # tables
    python benchmarks/scaling.py --figure=docs/scaling.png
    python benchmarks/scaling.py --check             # the model, on this CPU

Per chip, a step takes

  compute      operations / (share x peak) + bytes / (share x bandwidth of
               memory): convolutions are bound by the one, all else by the other
  all-reduce   of the float32 gradients: 2 (g - 1) / g bytes / link within a
               group of g chips, and then between groups, where each chip has a
               g-th of the bytes. Exact MGDA reduces the backbone's gradient of
               every task. `fsdp` moves as many bytes
  BatchNorm    two small reductions of every layer on the way forward, and as
               many on each way back; latency alone

one after another: what XLA overlaps is saved. Operations, bytes and parameters
are those that benchmarks/step_costs.py has counted; of bytes, before fusion,
`FUSED` remain. Peaks and links are those of chips.py. The shares and latencies
are assumptions, to be replaced by what benchmarks/accelerator.py measures.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import chips

COSTS = pathlib.Path(__file__).with_name('step_costs.json')
COUNTS = (1, 8, 64, 256, 512, 1024, 4096)
CHIPS = {'v5e': chips.V5E, 'H100': chips.H100}
# Of the bytes of a program of which nothing is fused; see docs/performance.md.
FUSED = 0.4
OF_PEAK, OF_BANDWIDTH = 0.5, 0.8
# Seconds until a small reduction is done: at least, for every hop of a torus,
# and once more between groups.
LATENCY, HOP, FAR = 5e-6, 1e-6, 30e-6
# CPU seconds to read and augment a frame of 288x384 with three labels.
FRAME = 0.011
PROCESSORS = {'v5e': 112, 'H100': 112}  # of a host
TASKS = 3


class Step(NamedTuple):
  """What a step spends on each chip, in seconds.

  Attributes:
    operations: on multiplying.
    memory: on reading and writing memory.
    reduce: on the all-reduce of gradients.
    norms: on BatchNorm's statistics.
    images: that all chips take in a second.
    data: share of a host's processors that read for its chips.
  """

  operations: float
  memory: float
  reduce: float
  norms: float
  images: float
  data: float

  @property
  def compute(self) -> float:
    """Of one chip by itself."""
    return self.operations + self.memory

  @property
  def seconds(self) -> float:
    """Of the step."""
    return self.compute + self.reduce + self.norms


def model(
  costs: dict,
  kind: str,
  name: str,
  count: int,
  *,
  batch: int,
  precision: str = 'bfloat16',
) -> Step:
  """The time of a step.

  Args:
    costs: of a network, of step_costs.json.
    kind: of the step.
    name: of the chip, of `CHIPS`.
    count: of chips.
    batch: images on each of them.
    precision: 'tf32' or 'bfloat16'.
  """
  chip = CHIPS[name]
  each = {k: v / costs['batch'] for k, v in costs['kinds'][kind].items()}
  size = each['unfused_bytes'] * FUSED * (0.5 if 'b' in precision[0] else 1)
  operations = batch * each['flops'] / (OF_PEAK * chip.flops[precision])
  memory = batch * size / (OF_BANDWIDTH * chip.bandwidth)
  exact = TASKS if kind == 'mgda' else 1
  heads = costs['parameters'] - costs['backbone_parameters']
  gradient = 4 * (exact * costs['backbone_parameters'] + heads)
  passes = 1 + (exact + 1 if kind == 'mgda' else 1)  # with that of alignments
  norms = 2 * passes * costs['norms'] * small_reduction(chip.links, count)
  step = Step(
    operations=operations,
    memory=memory,
    reduce=all_reduce(chip.links, count, gradient),
    norms=norms,
    images=0,
    data=0,
  )
  images = count * batch / step.seconds
  a_host = min(count, chip.links.host) * batch / step.seconds
  return step._replace(images=images, data=a_host * FRAME / PROCESSORS[name])


def all_reduce(links: chips.Links, count: int, size: float) -> float:
  """Seconds to sum `size` bytes over chips."""
  near = min(count, links.group)
  groups = count // near
  return (
    2 * (near - 1) / near * size / links.near
    + 2 * (groups - 1) / groups * size / near / links.far
  )


def small_reduction(links: chips.Links, count: int) -> float:
  """Seconds to sum a few numbers over chips."""
  if count == 1:
    return 0
  near = min(count, links.group)
  # To the middle of a torus and back; a switch is one hop.
  hops = 2 * math.sqrt(near) if links.torus else 2
  return LATENCY + HOP * hops + (FAR if count > near else 0)


# ---- Reports -----------------------------------------------------------------


def table(costs, network, kind, name, batch):
  """Rows of Markdown, for every number of chips."""
  lines = markdown(
    'chips',
    'compute ms',
    'all-reduce ms',
    'BatchNorm ms',
    'efficiency',
    'images/s',
    'processors that read',
  )
  for count in COUNTS:
    step = model(costs[network], kind, name, count, batch=batch)
    share = step.compute / step.seconds
    lines.append(
      f'| {count} | {1e3 * step.compute:.1f} | {1e3 * step.reduce:.1f} | '
      f'{1e3 * step.norms:.1f} | {100 * share:.0f} % | {step.images:.0f} | '
      f'{100 * step.data:.0f} % |'
    )
  return '\n'.join(lines)


def markdown(first, *others):
  """The head of a table."""
  columns = [first, *others]
  return [f'| {" | ".join(columns)} |', f'|---|{"---:|" * len(others)}']


def binding(costs, batch, kind='distilled', limit=0.1):
  """From where on a part takes more than a share of what computing takes."""
  lines = markdown(
    'network, chip',
    'compute ms',
    'of it memory',
    'all-reduce from',
    'BatchNorm from',
    'processors that read',
  )
  for network in costs:
    for name in CHIPS:
      steps = {
        n: model(costs[network], kind, name, n, batch=batch)
        for n in (2**i for i in range(13))
      }

      def first(part, steps=steps):
        over = [
          n for n, s in steps.items() if getattr(s, part) > limit * s.compute
        ]
        return f'{over[0]} chips' if over else 'never'

      one = steps[1]
      lines.append(
        f'| {network}, {name} | {1e3 * one.compute:.1f} | '
        f'{100 * one.memory / one.compute:.0f} % | {first("reduce")} | '
        f'{first("norms")} | {100 * steps[8].data:.0f} % |'
      )
  return '\n'.join(lines)


def kinds_table(costs, name, batch):
  """What the kinds of step cost on one chip, and on 256."""
  lines = markdown('step', 'TFLOP an image', 'ms on 1 chip', 'ms on 256 chips')
  for network, entry in costs.items():
    for kind, counted in entry['kinds'].items():
      one, many = (
        model(entry, kind, name, n, batch=batch).seconds for n in (1, 256)
      )
      lines.append(
        f'| {network}, {kind} | '
        f'{counted["flops"] / entry["batch"] / 1e12:.2f} | '
        f'{1e3 * one:.1f} | {1e3 * many:.1f} |'
      )
  return '\n'.join(lines)


def draw(costs, path, batches):
  """The parts of the distilled step by chips, of every network and chip."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  counts = [2**i for i in range(13)]
  parts = {'compute': '#4c78a8', 'reduce': '#f58518', 'norms': '#54a24b'}
  labels = ('compute', 'all-reduce of gradients', 'statistics of BatchNorm')
  rows = [(name, batch) for name in CHIPS for batch in batches]
  figure, axes = plt.subplots(
    len(rows),
    len(costs),
    figsize=(9, 1.7 * len(rows)),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  for row, (name, batch) in zip(axes, rows, strict=True):
    for axis, network in zip(row, costs, strict=True):
      steps = [
        model(costs[network], 'distilled', name, n, batch=batch) for n in counts
      ]
      axis.stackplot(
        counts,
        *([100 * getattr(s, p) / s.seconds for s in steps] for p in parts),
        labels=labels,
        colors=list(parts.values()),
      )
      axis.set_xscale('log', base=2)
      axis.set_xticks([1, 8, 64, 512, 4096], ['1', '8', '64', '512', '4096'])
      axis.set_xlim(1, 4096)
      axis.set_ylim(0, 100)
      axis.spines[['top', 'right']].set_visible(False)
    each = 'image' if batch == 1 else 'images'
    row[0].set_ylabel(f'{name}, {batch} {each}\n% of the step')
  for axis, network in zip(axes[0], costs, strict=True):
    axis.set_title(network)
  for axis in axes[-1]:
    axis.set_xlabel('chips')
  handles, names = axes[0, 0].get_legend_handles_labels()
  figure.legend(
    handles, names, loc='outside upper center', ncols=3, frameon=False
  )
  figure.savefig(path, dpi=120)


# ---- The check ---------------------------------------------------------------


def check(size=(96, 128), batch=2):
  """Predicts CPU time of steps from two small programs, and measures it.

  CPU time, since it hardly depends on what else runs. Operations and bytes are
  those of the compiled program.
  """
  import costs
  import jax
  import jax.numpy as jnp
  import steps

  from mtl_kd_jax.runtime.parallel import make_parallel
  from mtl_kd_jax.runtime.platform import set_up

  set_up(multihost=False)
  jax.config.update('jax_enable_compilation_cache', False)
  square, long = jnp.ones((2048, 2048)), jnp.ones(2**26)
  multiply, add = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)

  def calibrate():
    return (
      2 * 2048**3 / cpu_seconds(lambda: multiply(square)),
      2 * long.nbytes / cpu_seconds(lambda: add(long)),
    )

  for name, width in (('segnet', 0.5), ('deeplab', 0.25)):
    work = steps.make_work(
      name, 'multi', size=size, batch_size=batch, width=width
    )
    parallel = make_parallel('jit', batch_size=batch)
    step = parallel.compile_train_step(work.step)
    lowered = step.function.lower(work.state, work.frozen, work.batch)
    compiled = lowered.compile()
    state, frozen = parallel.replicate(steps.draw_state(work))
    given = parallel.replicate(steps.make_batch(size, batch))
    flops, bandwidth = calibrate()
    holder = [state]

    def run(holder=holder, frozen=frozen, given=given, compiled=compiled):
      holder[0], measured = compiled(holder[0], frozen, given)
      return holder[0], measured

    seconds = cpu_seconds(run)
    operations = costs.flops(lowered) / flops
    memory = costs.bytes_accessed(compiled) / bandwidth
    predicted = operations + memory
    assumed = operations / OF_PEAK + memory / OF_BANDWIDTH
    print(
      f'{name} x {width}: {1e-9 * flops:.0f} GFLOP/s, '
      f'{1e-9 * bandwidth:.1f} GB/s of a CPU second; predicted '
      f'{operations:.3f} + {memory:.3f} = {predicted:.3f} s, and '
      f'{assumed:.3f} s with the shares; measured {seconds:.3f} s, errors '
      f'{100 * (predicted / seconds - 1):+.0f} % and '
      f'{100 * (assumed / seconds - 1):+.0f} %',
      flush=True,
    )


def cpu_seconds(call, rounds=7):
  """The median CPU time of a call, of all threads."""
  import jax

  jax.block_until_ready(call())
  taken = []
  for _ in range(rounds):
    begun = time.process_time()
    jax.block_until_ready(call())
    taken.append(time.process_time() - begun)
  return statistics.median(taken)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--costs', default=str(COSTS))
  parser.add_argument('--batch', type=int, default=8, help='Images a chip.')
  parser.add_argument('--figure', default='', help='Where to draw it.')
  parser.add_argument('--check', action='store_true')
  options = parser.parse_args()
  if options.check:
    check()
    return
  costs = json.loads(pathlib.Path(options.costs).read_text())
  for batch in (options.batch, 1):
    print(f'{batch} images a chip\n\n{binding(costs, batch)}', end='\n\n')
  for name in CHIPS:
    print(f'{name}\n\n{kinds_table(costs, name, options.batch)}', end='\n\n')
  for network in costs:
    for name in CHIPS:
      rows = table(costs, network, 'distilled', name, options.batch)
      print(f'{network}, {name}\n\n{rows}', end='\n\n')
  if options.figure:
    draw(costs, options.figure, (options.batch, 1))


if __name__ == '__main__':
  main()
