"""Where the time of a step goes, read from programs and traces."""

import gzip
import json
import sys

from fixtures.paths import REPOSITORY
import jax
import jax.numpy as jnp
import pytest

sys.path.insert(0, str(REPOSITORY / 'benchmarks'))

import step_profile

from mtl_kd_jax.runtime.compiler import compiler_options


@pytest.mark.parametrize('options', [{}, compiler_options('cpu')])
def test_products_are_found_in_programs(options):
  """As XLA has them, and in the fusions that it hands to a library."""

  def f(x, y, z):
    return jnp.einsum('nab,nbc->nac', x, y).sum() + (y[0] @ z).sum()

  x, y, z = jnp.ones((4, 70, 30)), jnp.ones((4, 30, 50)), jnp.ones((50, 90))
  text = jax.jit(f, compiler_options=options).lower(x, y, z).compile().as_text()
  program = step_profile.read_program(text)
  assert set(program.products.values()) == {
    2 * 4 * 70 * 50 * 30,
    2 * 30 * 50 * 90,
  }
  assert program.products.keys() <= program.results.keys()
  assert 'f32[4,70,50]' in program.results.values()
  assert {program.shapes[n] for n in program.products} == {
    'f32[4,70,30] f32[4,30,50]',
    'f32[30,50] f32[50,90]',
  }


def test_a_trace_is_summed(tmp_path):
  events = [
    {'ph': 'X', 'name': 'dot.1', 'dur': 2000},
    {'ph': 'X', 'name': 'dot.1', 'dur': 1000},
    {'ph': 'M', 'name': 'thread_name'},
  ]
  file = tmp_path / 'plugins' / 'machine.trace.json.gz'
  file.parent.mkdir()
  file.write_bytes(gzip.compress(json.dumps({'traceEvents': events}).encode()))
  assert step_profile.read_trace(tmp_path) == {'dot.1': pytest.approx(0.003)}
