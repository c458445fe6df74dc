"""Times the forms of convolutions beside XLA's own, on a CPU or a GPU.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --layers=2x36x48x2048x256x12 --rounds=9

A layer is batch x height x width x inputs x outputs x dilation, with 3x3 taps.
The limits in mtl_kd_jax/ops/conv/forms.py come from such measurements. Rounds
take turns. Printed are medians: the form that is chosen for this size on the
device, and XLA's own.
"""

import pathlib
import statistics
import sys
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mtl_kd_jax.ops.conv import forms, padding
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.runtime.platform import set_up

LAYERS = [
  '2x96x128x64x64x1',
  '2x48x64x128x128x1',
  '2x72x96x256x256x1',
  '2x36x48x512x512x1',
  '2x36x48x512x512x2',
  '2x36x48x512x512x4',
  '2x36x48x2048x256x12',
  '2x36x48x2048x256x24',
  '2x36x48x2048x256x36',
]
PARTS = {
  'convolve': 'forward',
  'input_gradient': 'input gradient',
  'weight_gradient': 'weight gradient',
}

_LAYERS = flags.DEFINE_list('layers', LAYERS, 'Which layers.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed calls of each.')


def main(argv):
  del argv
  set_up(multihost=False)
  table = Table(show_edge=False)
  table.add_column('layer', no_wrap=True)
  for part in PARTS.values():
    table.add_column(f'{part}\nms', justify='right')
    table.add_column('XLA\nms', justify='right')
  for layer in _LAYERS.value:
    table.add_row(layer, *measure(*map(int, layer.split('x'))))
  Console(width=100).print(table)


def measure(b, h, w, c, d, dilation):
  """The cells of a layer's row."""
  ours, xla, taps = forms_of((b, h, w, c), d, dilation)
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  x, kernel, g = draw(b, h, w, c), draw(*taps, c, d), draw(b, h, w, d)
  operands = {
    'convolve': (x, kernel),
    'input_gradient': (g, kernel),
    'weight_gradient': (x, g),
  }
  cells = []
  for part in PARTS:
    form, own = getattr(ours, part), getattr(xla, part)
    if form == own:
      cells += ['', f'{time_by_turns([own], operands[part])[0]:.3g}']
    else:
      taken = time_by_turns([form, own], operands[part])
      cells += [f'{t:.3g}' for t in taken]
  return cells


def forms_of(shape, features, dilation):
  """The forms of a layer, XLA's own, and the taps that read the map."""
  on_cpu = jax.default_backend() == 'cpu'
  if dilation == 1:
    ours = forms.choose(shape, features, jnp.float32)
    return ours if on_cpu else forms.DIRECT, forms.DIRECT, (3, 3)
  dilations = (dilation, dilation)
  taps = tuple(
    read.end - read.first
    for read in (
      padding.taps_on_map(
        side, 3, stride=1, dilation=dilation, padding=dilations
      )
      for side in shape[1:3]
    )
  )
  kernel = {'dilations': dilations, 'taps': taps}
  if on_cpu:
    ours = forms.choose_dilated(shape, features, jnp.float32, **kernel)
  else:
    ours = forms.choose_dilated_on_gpu(shape, features, **kernel)
  return ours, forms.direct_dilated(**kernel), taps


def time_by_turns(functions, operands):
  """Median milliseconds of each."""
  programs = [
    jax.jit(f, compiler_options=compiler_options(jax.default_backend()))
    .lower(*operands)
    .compile()
    for f in functions
  ]
  times = [[] for _ in programs]
  for _ in range(1 + _ROUNDS.value):
    for program, seconds in zip(programs, times, strict=True):
      begun = time.perf_counter()
      jax.block_until_ready(program(*operands))
      seconds.append(time.perf_counter() - begun)
  return [1e3 * statistics.median(seconds[1:]) for seconds in times]


if __name__ == '__main__':
  app.run(main)
