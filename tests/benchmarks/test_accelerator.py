"""The report for GPUs and TPUs, here of the CPU, says what it should."""

from importlib import metadata
import json
import os
import subprocess
import sys

from fixtures.paths import REPOSITORY
import jax
import jax.numpy as jnp
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

sys.path.insert(0, str(REPOSITORY / 'benchmarks'))

import accelerator
from accelerator_parts import numbers_vs_cpu, report
from accelerator_parts.plan import JAX, TEACHERS, TORCH, Cell, make_rounds
from accelerator_parts.workers import Worker, WorkerLost
import chips
import costs

NEEDED = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'torch')
# Read by every Python that starts with its folder in PYTHONPATH.
BARE = """
import sys
class Lacking:
  def find_spec(self, name, path=None, target=None):
    if name in {lacking!r}:
      raise ModuleNotFoundError(f'{{name}} is not on a bare machine')
sys.meta_path.insert(0, Lacking())
"""


def lacking_on_a_bare_machine():
  """Top-level modules that are installed here, but not with `NEEDED`."""
  needed, wanted = set(), [*NEEDED]
  while wanted:
    name = canonicalize_name(wanted.pop())
    if name in needed:
      continue
    needed.add(name)
    try:
      requires = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
      continue  # for another system, or another Python
    wanted += [
      r.name
      for r in map(Requirement, requires)
      if not r.marker or r.marker.evaluate({'extra': ''})
    ]
  return {
    module
    for module, names in metadata.packages_distributions().items()
    if not needed & {canonicalize_name(n) for n in names}
    and module != 'mtl_kd_jax'
  }


def test_a_tiny_report_is_written_on_a_bare_machine(tmp_path):
  lacking = lacking_on_a_bare_machine()
  assert {'PIL', 'grain', 'ml_collections', 'tensorboardX'} <= lacking
  assert not {'jax', 'numpy', 'orbax', 'yaml'} & lacking
  (tmp_path / 'sitecustomize.py').write_text(BARE.format(lacking=lacking))
  path = tmp_path / 'report.json'
  arguments = '--smoke --networks=segnet --kinds=multi --precisions=bfloat16'
  ran = subprocess.run(
    [
      sys.executable,
      REPOSITORY / 'benchmarks' / 'accelerator.py',
      *arguments.split(),
      '--no_torch',
      '--minutes=8',
      '--rules=upgrad',
      '--parts=directions,steps',
      '--peak=bfloat16:1',
      '--bandwidth=10',
      f'--out={path}',
    ],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': str(tmp_path)},
  )
  assert ran.returncode == 0, ran.stderr
  results = json.loads(path.read_text())
  assert results['numbers'] == {'directions': {'upgrad': 0}}  # one device
  (name,) = results['cells']
  cell = results['cells'][name]
  assert name == 'segnet b2 multi bfloat16 jax' in ran.stdout
  assert 'error' not in cell
  assert len(cell['turns']) == 4 and min(cell['turns']) > 0
  assert cell['images_per_s'] == pytest.approx(2 / cell['seconds'])
  assert cell['memory'] > 0 and cell['compile_s'] > 0
  least = max(cell['flops'] / 1e12, cell['bytes'] / 1e10)
  assert cell['of_roofline'] == pytest.approx(least / cell['seconds'])


def test_rounds_begin_with_what_tells_most():
  networks, batches = ('segnet', 'mtan'), (8, 2)
  kinds = {n: ('single', 'distilled') for n in networks}
  rounds = make_rounds(networks, batches, ('float32', 'tf32'), kinds)
  cells = [cell for cells in rounds for cell in cells]
  assert len({cell.name for cell in cells}) == len(cells)
  first = rounds[0]
  assert first[0] == Cell(JAX, 'segnet', 'distilled', 8, 'tf32')
  assert {c.rival for c in first} == {JAX, TORCH}
  forms = {
    (layout, compiled)
    for layout in ('nhwc', 'nchw')
    for compiled in (False, True)
  }
  theirs = [c for c in cells if c.rival == TORCH]
  assert {(c.layout, c.compiled) for c in theirs} == forms
  # What compiles for minutes has a round of its own, soon after.
  assert all(len({c.compiled for c in cells}) == 1 for cells in rounds)
  assert [c.compiled for cells in rounds[:4] for c in cells[:1]] == [
    False,
    False,
    True,
    True,
  ]
  assert {
    (c.network, c.kind, c.batch, c.precision) for c in cells if c.rival == JAX
  } >= {
    (n, kind, b, p)
    for n in networks
    for kind in kinds[n]
    for b in batches
    for p in ('float32', 'tf32')
  }


def test_a_worker_that_ends_or_hangs_is_lost():
  ends = Worker('a', ['-c', 'import sys; input(); sys.exit(3)'])
  with pytest.raises(WorkerLost, match='exit code 3'):
    ends.ask('anything', 60)
  with pytest.raises(WorkerLost, match='has ended'):
    ends.ask('more', 60)
  ends.close()
  hangs = Worker('b', ['-c', 'import time; time.sleep(600)'])
  with pytest.raises(WorkerLost, match='no answer from b'):
    hangs.ask('anything', 0.1)


def make_cell(*place, seconds, flops=4e12, **more):
  cell = Cell(*place).as_dict()
  return cell | {'seconds': seconds, 'flops': flops, 'bytes': 1e9} | more


def test_shares_and_ratios():
  place = ('segnet', 'distilled', 8, 'tf32')
  cells = [
    make_cell(JAX, *place, seconds=0.02),
    make_cell(TORCH, *place, 'nchw', seconds=0.05, flops=None),
    make_cell(TORCH, *place, 'nhwc', True, seconds=0.04, flops=None),
    make_cell(TORCH, *place[:3], 'bfloat16', 'nhwc', seconds=0.01, flops=None),
    make_cell(JAX, 'segnet', TEACHERS, 8, 'tf32', seconds=0.003, flops=1e12),
  ]
  results = {
    'options': {'peak': '', 'bandwidth': 0},
    'about': {'jax': {'device': 'NVIDIA H100 80GB HBM3'}},
    'cells': {cell['name']: cell for cell in cells},
  }
  report.add_shares(results)
  ours, theirs = cells[:2]
  assert ours['bound_by'] == 'operations'
  assert ours['of_roofline'] == pytest.approx(4 / 494.5 / 0.02)
  assert theirs['of_roofline'] == pytest.approx(4 / 494.5 / 0.05)
  assert results['summary'] == [
    {
      'network': 'segnet',
      'batch': 8,
      'precision': 'tf32',
      'of_torch_same_precision': pytest.approx(0.5),
      'torch_same_precision': 'tf32 nhwc compiled',
      'of_torch_any_precision': pytest.approx(2),
      'torch_any_precision': 'bfloat16 nhwc eager',
      'teachers': pytest.approx(0.15),
    }
  ]


@pytest.mark.parametrize(
  'kind, name',
  [
    ('NVIDIA H100 80GB HBM3', 'H100 80GB HBM3'),
    ('NVIDIA H100 PCIe', 'H100 PCIe'),
    ('NVIDIA A100-SXM4-40GB', 'A100-SXM4-40GB'),
    ('TPU v5 lite', 'TPU v5 lite'),
    ('NVIDIA L40S', None),
    ('cpu', None),
  ],
)
def test_a_chip_is_found_by_its_kind(kind, name):
  assert getattr(chips.find(kind), 'name', None) == name


def test_operations_are_counted(monkeypatch):
  """A product of [5 7] and [7 3], and its sum with something."""
  x, y = jnp.ones((5, 7)), jnp.ones((7, 3))
  traced = jax.jit(lambda x, y: x @ y + 1).trace(x, y)
  lowered = traced.lower()
  assert costs.flops(lowered) == 2 * 5 * 7 * 3 + 5 * 3
  # As on a GPU, whose plug-in does not count.
  on_gpu = traced.lower(lowering_platforms=('cuda',))
  monkeypatch.setattr(on_gpu._lowering, 'cost_analysis', lambda: None)
  assert on_gpu.cost_analysis() is None
  assert costs.flops(on_gpu) == 2 * 5 * 7 * 3 + 5 * 3
  compiled = lowered.compile()
  assert costs.bytes_accessed(compiled) >= 4 * (5 * 7 + 7 * 3 + 5 * 3)
  assert costs.memory(compiled) >= 4 * (5 * 7 + 7 * 3 + 5 * 3)


PROGRAM = """
ENTRY %main {
  %x = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %k.1 = bf16[3,3,4,6]{3,2,1,0} parameter(1), metadata={op_name="k"}
  %c = (bf16[2,8,8,6], u8[16]) custom-call(%x, %k.1), \
custom_call_target="__cudnn$conv"
  %y = bf16[2,8,8,6]{3,2,1,0} get-tuple-element(%c), index=0
  ROOT %z = (f32[3]{0}, pred[]) custom-call(%y), custom_call_target="Other"
}
"""


def test_bytes_of_library_calls_are_operands_and_results():
  x, kernel, y = 2 * 2 * 8 * 8 * 4, 2 * 3 * 3 * 4 * 6, 2 * 2 * 8 * 8 * 6
  assert costs.library_bytes(PROGRAM) == x + kernel + y + 16


def test_a_step_that_did_not_compile_has_no_share():
  place = ('segnet', 'distilled', 8, 'tf32')
  ours = Cell(JAX, *place).as_dict() | {'flops': 1e12, 'error': 'no kernel'}
  theirs = make_cell(TORCH, *place, 'nchw', seconds=0.05, flops=None)
  results = {
    'options': {'peak': '', 'bandwidth': 0},
    'about': {'jax': {'device': 'NVIDIA H200'}},
    'cells': {cell['name']: cell for cell in (ours, theirs)},
  }
  report.add_shares(results)
  assert theirs['images_per_s'] == pytest.approx(160)
  assert 'of_roofline' not in theirs and results['summary'] == []


def test_numbers_of_a_precision_that_fails_do_not_end_the_others(monkeypatch):
  def run(device, precision):
    del device
    if precision == 'tf32':
      raise ValueError('no such kernel')
    return {'float32': 2.0, 'bfloat16': 3.0}[precision]

  found = numbers_vs_cpu._against_cpu(
    run, None, ('float32', 'tf32', 'bfloat16'), lambda x, expected: x - expected
  )
  assert found == {
    'float32': 0.0,
    'tf32': 'ValueError: no such kernel',
    'bfloat16': 1.0,
  }


def test_a_cpu_is_measured_only_if_asked_for(tmp_path, monkeypatch):
  """Full-size steps on a CPU would take all the time, and say nothing."""
  path = tmp_path / 'report.json'
  options = accelerator.parse_arguments(['--no_torch', f'--out={path}'])
  session = accelerator.Session(options, tmp_path)
  session.results['about'][JAX] = {'platform': 'cpu'}
  monkeypatch.setattr(session, '_about', lambda rival: None)
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  session.run()
  assert session.results['numbers'] == session.results['cells'] == {}
  assert session._platforms() == {}
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert not session._is_on_cpu()
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  assert session._platforms() == {'JAX_PLATFORMS': 'cuda,cpu'}


def test_cells_are_left_out_where_the_time_ends(tmp_path):
  options = accelerator.parse_arguments(['--minutes=1.1'])
  session = accelerator.Session(options, tmp_path)
  place = ('segnet', 'distilled', 8, 'tf32')
  ours = [Cell(JAX, *place[:2], b, 'tf32') for b in range(7)]
  compiled = Cell(TORCH, *place, 'nhwc', True)
  assert session._that_fit(ours) == ours[:6]
  session._per_cell[True] = 100
  assert session._that_fit([compiled]) == []
  assert session.results['left_out'] == [
    cell.name for cell in (*ours[6:], compiled)
  ]
