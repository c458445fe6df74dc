"""Measures training on a GPU or TPU, beside PyTorch, and checks its numbers.

    python benchmarks/accelerator.py                  # under eight minutes
    python benchmarks/accelerator.py --smoke          # tiny, on any machine
    python benchmarks/accelerator.py --networks=segnet --batches=8 --minutes=3

Needs JAX, Flax and optax, and PyTorch for the comparison; no data and no
network. Prints tables, and writes them to accelerator.json, also where the time
ends or a library fails in between:

  numbers   predictions, losses of ten steps and the direction of every balancer
            against the CPU of the same process
  steps     time, memory, compile time and share of the roofline of training
            steps; cells of a round take turns, so that a device whose speed
            drifts treats all alike
  PyTorch   the same distilled step: eager and torch.compile, channels_last,
            TF32 and bfloat16 autocast, in turns with ours

'tf32' is what JAX does with float32 on a GPU that has TF32, unless
JAX_DEFAULT_MATMUL_PRECISION says otherwise; 'float32' multiplies in float32.
The memory of ours is what XLA plans for the program, that of PyTorch what it
allocates at once in its second step. 'compile s' is XLA's part of the time
before the first step, and of PyTorch what the first takes longer than the
second. 'of roofline' is the time that the chip needs at least,
the longer one of operations / peak and bytes / bandwidth (chips.py), over the
time that was taken.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from accelerator_parts import report
from accelerator_parts.plan import JAX, PRECISIONS, TORCH, make_rounds
from accelerator_parts.workers import LATE, NO_FIT, Worker, WorkerLost
from batches import make_batch
import numpy as np

_BENCHMARKS = pathlib.Path(__file__).parent
_NUMBERS_SHARE = 0.2  # of the time, at most; in a smoke test, half
_TURNS = 4
# Seconds that a cell takes, before any of its kind has been measured: whether
# it is one of torch.compile, and how long such a one may compile at most.
_GUESSES = {False: 10.0, True: 60.0}
_PATIENCE = 180.0
_RESERVE = 5.0  # seconds to measure what is prepared when the time ends
# Of the device, for both libraries together; JAX takes it as it needs it.
_ENVIRONMENT = {
  'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  'XLA_CLIENT_MEM_FRACTION': '0.92',
  'XLA_PYTHON_CLIENT_MEM_FRACTION': '',  # its old name; JAX refuses both
  'TF_CPP_MIN_LOG_LEVEL': '2',
}


def parse_arguments(argv=None):
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--minutes', type=float, help='In all; 7.5, and 2 with --smoke.')
  add('--out', default='accelerator.json', help='Where to write the JSON.')
  add('--networks', default='segnet,deeplab,mtan')
  add('--batches', default='8,2,32', help='The first one is measured most.')
  add('--precisions', default=','.join(PRECISIONS))
  add('--kinds', default='', help='Kinds of step (steps.py); all by default.')
  add('--parts', default='outputs,directions,losses,steps')
  add('--rules', default='', help='Balancers to check; all by default.')
  add('--size', default='288x384', help='Height x width in pixels.')
  add('--width', type=float, default=1.0, help='Factor on the channels.')
  add('--batch_norm', default='running', choices=['running', 'batch'])
  add('--no_torch', action='store_true', help='Leave PyTorch out.')
  add('--no_torch_compile', action='store_true')
  add(
    '--peak', default='', help='TFLOP/s, e.g. float32:67,tf32:494,bfloat16:989.'
  )
  add('--bandwidth', type=float, default=0, help='Of the memory, GB/s.')
  add('--smoke', action='store_true', help='Shallow networks, small images.')
  options = parser.parse_args(argv)
  if options.minutes is None:
    options.minutes = 2 if options.smoke else 7.5
  if options.smoke:
    options.size, options.width, options.batches = '32x64', 1 / 16, '2'
    options.no_torch_compile = True
  return options


def main(argv=None):
  """Measures, and writes what there is."""
  options = parse_arguments(argv)
  with tempfile.TemporaryDirectory() as folder:
    session = Session(options, pathlib.Path(folder))
    try:
      session.run()
    finally:
      session.close()
      session.write()
  report.show(session.results)


class Session:
  """One run of the report.

  Attributes:
    results: what goes into the JSON.
  """

  def __init__(self, options, folder):
    """Starts nothing.

    Args:
      options: of the command line.
      folder: for files between the processes.
    """
    self._options, self._folder = options, folder
    self._begun = time.monotonic()
    self._size = [int(x) for x in options.size.split('x')]
    self._workers, self._shapes = {}, {}
    self._per_cell = dict(_GUESSES)
    self.results = {
      'options': vars(options),
      'about': {},
      'numbers': {},
      'cells': {},
      'left_out': [],
    }

  @property
  def left(self) -> float:
    """Seconds that are left."""
    return 60 * self._options.minutes - (time.monotonic() - self._begun)

  def _say(self, text):
    """What is done now; the tables come at the end."""
    spent = 60 * self._options.minutes - self.left
    print(f'{spent:6.0f} s  {text}', file=sys.stderr, flush=True)

  def run(self):
    """All parts, as far as the time goes."""
    options = self._options
    if not options.no_torch:
      self._about(TORCH)
    self._about(JAX)
    if 'jax' not in self.results['about'] or self._is_on_cpu():
      return
    self._numbers()
    if 'steps' not in options.parts.split(','):
      return
    rounds = self._rounds()
    for cells in rounds:
      if fit := self._that_fit(cells):
        self._measure(fit)
        self.write()

  def _rounds(self):
    options, known = self._options, self.results['about']['jax']['kinds']
    networks = options.networks.split(',')
    asked = [k for k in options.kinds.split(',') if k]
    rounds = make_rounds(
      networks,
      [int(b) for b in options.batches.split(',')],
      options.precisions.split(','),
      {n: [k for k in known[n] if not asked or k in asked] for n in networks},
      torch_compile=not options.no_torch_compile,
    )
    if TORCH in self.results['about']:
      return rounds
    ours = [[c for c in cells if c.rival == JAX] for cells in rounds]
    return [cells for cells in ours if cells]

  def _that_fit(self, cells):
    """The first cells of a round, as many as there may be time for."""
    count, left = 0, self.left - _RESERVE
    for cell in cells:
      left -= self._per_cell[cell.compiled]
      count += left >= 0
    self.results['left_out'] += [c.name for c in cells[count:]]
    return cells[:count]

  # ---- Parts -----------------------------------------------------------------

  def _about(self, rival):
    self._say(f'starting {rival}')
    if importlib.util.find_spec(rival) is None:
      self.results['about'][f'no {rival}'] = {'error': 'not installed'}
      return
    try:
      answer = self._worker(rival).ask('about', min(self.left, 120))
    except WorkerLost as error:
      answer = {'error': str(error)}
    key = rival if 'error' not in answer else f'no {rival}'
    self.results['about'][key] = answer

  def _is_on_cpu(self):
    """Whether JAX has no GPU or TPU, and nobody wants it to work without."""
    asked = self._options.smoke or os.environ.get('JAX_PLATFORMS') == 'cpu'
    if asked or self.results['about'][JAX]['platform'] != 'cpu':
      return False
    self._say(
      'JAX finds no GPU or TPU. Set JAX_PLATFORMS=cpu to measure this CPU; '
      '--smoke is quick'
    )
    return True

  def _numbers(self):
    options, numbers = self._options, self.results['numbers']
    networks = options.networks.split(',')
    shape = {'size': [32, 64] if options.smoke else [64, 96]}
    shape['width'] = 1 / 16 if options.smoke else 0.125
    shape['precisions'] = options.precisions.split(',')
    rules = [r for r in options.rules.split(',') if r]
    share = 0.5 if options.smoke else _NUMBERS_SHARE
    if 'steps' not in options.parts.split(','):
      share = 1.0
    until = (1 - share) * self.left
    for part, arguments in {
      'outputs': shape,
      'directions': {'rules': rules},
      'losses': {**shape, 'count': 10},
    }.items():
      if part not in options.parts.split(','):
        continue
      # One network at a time, so that what is done is kept.
      for name in networks if part != 'directions' else ['']:
        answer = {'error': LATE}
        if self.left > until:
          self._say(f'{part} {name}')
          answer = self._compare(until, part, [name], arguments)
        if 'error' in answer:
          answer = {name: answer}
        numbers.setdefault(part, {}).update(answer)
        self.write()

  def _compare(self, until, part, networks, arguments):
    try:
      return self._worker(JAX).ask(
        'numbers', self.left - until, part=part, networks=networks, **arguments
      )
    except WorkerLost as error:
      self._forget(JAX)
      return {'error': str(error)}

  def _measure(self, cells, *, again=False):
    """Prepares cells, lets them take turns, and records what came out."""
    begun = time.monotonic()
    self._say('preparing ' + ', '.join(c.name for c in cells))
    found = self._prepare(cells)
    self._say('measuring')
    ready = [c for c in cells if 'error' not in found[c.name]]
    for turn in range(_TURNS):
      for cell in ready:
        facts = found[cell.name]
        if 'error' not in facts and (self.left > 0 or turn == 0):
          self._turn(cell, facts)
    for cell in cells:
      facts = found[cell.name]
      if seconds := facts.get('turns'):
        facts['seconds'] = statistics.median(seconds)
      facts['alone'] = again
      self.results['cells'][cell.name] = cell.as_dict() | facts
    self._drop()
    if any('seconds' in found[c.name] for c in cells):
      spent = (time.monotonic() - begun) / len(cells)
      self._per_cell[cells[0].compiled] = spent
    if not again:
      for cell in self._that_fit(
        [c for c in cells if self._retry(found[c.name])]
      ):
        # The memory that the other library has taken is given back at its end.
        self.close()
        self._measure([cell], again=True)

  def _retry(self, facts):
    """Whether a cell may do better alone in new processes."""
    error = facts.get('error', '')
    limit = self.results['about'][JAX]['memory']
    fits = error == NO_FIT and (facts.get('memory') or 0) <= limit
    return fits or 'has ended' in error

  def _prepare(self, cells):
    """One library after the other: both choose kernels by their time."""
    found = {}
    for rival in (TORCH, JAX):
      own = [c for c in cells if c.rival == rival]
      if not own:
        continue
      asked = rival  # which of them is lost, if one is
      patience = self.left
      if own[0].compiled:
        patience = min(patience, _PATIENCE * len(own))
      # What is ready by then is measured.
      arguments = {
        'cells': [c.as_dict() for c in own],
        'seconds': patience - _RESERVE,
      }
      try:
        if rival == TORCH:
          asked = JAX
          arguments |= self._for_torch(own)
          asked = TORCH
        answer = self._worker(rival).ask('prepare', patience, **arguments)
        if 'error' in answer:
          answer = {c.name: dict(answer) for c in own}
        found |= answer
      except WorkerLost as error:
        found |= self._lost(asked, own, error)
    return found

  def _for_torch(self, cells):
    """What it cannot know: shapes of weights, and files with the batches."""
    for network in {c.network for c in cells} - self._shapes.keys():
      answer = self._worker(JAX).ask('shapes', self.left, network=network)
      if 'error' in answer:
        raise WorkerLost(f'no shapes of {network}: {answer["error"]}')
      self._shapes[network] = answer
    batches = {}
    for size in {c.batch for c in cells}:
      path = self._folder / f'batch_{size}.npz'
      if not path.exists():
        np.savez(path, **make_batch(tuple(self._size), size))
      batches[size] = str(path)
    return {'shapes': self._shapes, 'batches': batches}

  def _turn(self, cell, facts):
    if cell.rival not in self._workers:
      lost = f'{cell.rival} was lost in the work of another'
      facts['error'] = LATE if self.left <= 0 else lost
      return
    seconds = 0.05 if self._options.smoke else 0.4
    try:
      answer = self._worker(cell.rival).ask(
        'turn', max(self.left, _RESERVE), name=cell.name, seconds=seconds
      )
    except WorkerLost as error:
      facts |= self._lost(cell.rival, [cell], error)[cell.name]
      return
    if 'error' in answer:
      facts['error'] = answer['error']
    else:
      facts.setdefault('turns', []).append(answer['seconds'])

  def _drop(self):
    for rival, worker in [*self._workers.items()]:
      try:
        worker.ask('drop', min(max(self.left, 5), 30))
      except WorkerLost:
        self._forget(rival)

  # ---- Workers ---------------------------------------------------------------

  def _worker(self, rival) -> Worker:
    if rival not in self._workers:
      options = self._options
      given = {'size': self._size, 'batch_norm': options.batch_norm}
      if rival == JAX:
        given |= {'width': options.width, 'shallow': options.smoke}
      path = _BENCHMARKS / 'accelerator_parts' / f'{rival}_worker.py'
      self._workers[rival] = Worker(
        rival,
        [str(path), json.dumps(given)],
        environment=_ENVIRONMENT | self._platforms() | self._flags(),
      )
    return self._workers[rival]

  def _platforms(self):
    """The CPU, too, which numbers are compared with."""
    platforms = os.environ.get('JAX_PLATFORMS', '')
    if not platforms or 'cpu' in platforms.split(','):
      return {}
    return {'JAX_PLATFORMS': f'{platforms},cpu'}

  def _flags(self):
    """Tiny programs are compiled without optimizations."""
    if not self._options.smoke:
      return {}
    sys.path.insert(0, str(_BENCHMARKS.parent / 'tests'))
    from fixtures.xla_flags import AS_TEXT

    return {'XLA_FLAGS': AS_TEXT}

  def _lost(self, rival, cells, error):
    """What is recorded of cells whose process is gone."""
    self._forget(rival)
    text = LATE if self.left <= 0 else str(error)
    return {c.name: {'error': text} for c in cells}

  def _forget(self, rival):
    if rival in self._workers:
      self._workers.pop(rival).close()

  def close(self):
    """Ends the processes."""
    for rival in [*self._workers]:
      self._forget(rival)

  def write(self):
    """Writes what there is."""
    path = pathlib.Path(self._options.out)
    report.add_shares(self.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(self.results, indent=1), 'utf-8')
    partial.replace(path)


if __name__ == '__main__':
  main()
