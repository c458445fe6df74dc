"""The moving average of a network's variables is what a stage results in."""

from fixtures.samples import random_batch
from fixtures.stages import make_stage, run
from fixtures.toy import SIZE, make_parts, make_teachers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.runtime.checkpointing import read_variables
from mtl_kd_jax.runtime.metric_log import SELECTION, read_log, values_of
from mtl_kd_jax.training.state import AVERAGED
from mtl_kd_jax.training.step import _averaged


def test_it_is_the_average_of_what_was():
  step, state = make_parts(tx=optax.sgd(0.1), ema=0.2)
  expected = jax.tree.map(np.float64, jax.device_get(state.variables))
  step = jax.jit(step)
  for i in range(4):
    state, _ = step(state, make_teachers(), random_batch(8, SIZE, seed=i))
    decay = min(0.2, (1 + i) / (10 + i))
    expected = jax.tree.map(
      lambda e, v, d=decay: d * e + (1 - d) * np.float64(v),
      expected,
      jax.device_get(state.variables),
    )
  assert state.result is state.opt_state[AVERAGED]
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6),
    jax.device_get(state.result),
    expected,
  )
  last = state.params['head_depth']['out']['kernel']
  averaged = state.result['params']['head_depth']['out']['kernel']
  assert not np.allclose(last, averaged, rtol=1e-3)


def test_counts_are_the_newest():
  """Of a network of one's own; they have no mean."""
  variables = {'count': jnp.int32(7), 'x': jnp.float32(1)}
  average = {'count': jnp.int32(6), 'x': jnp.float32(0)}
  got = _averaged(average, variables, decay=0.75, step=jnp.int32(1000))
  assert got == {'count': 7, 'x': 0.25}
  assert got['count'].dtype == jnp.int32


def test_a_run_keeps_and_scores_it(toy_dataset, tmp_path):
  stage = make_stage(toy_dataset, epochs=1, ema=0.9)
  state = run(stage, tmp_path)
  kept = read_variables(tmp_path / 'checkpoints', state.variables, best=False)
  jax.tree.map(np.testing.assert_array_equal, kept, state.opt_state[AVERAGED])
  # So networks are read, to be evaluated, exported or to teach.
  assert not np.array_equal(
    kept['params']['head_depth']['out']['kernel'],
    state.params['head_depth']['out']['kernel'],
  )
  logged = [x for x in read_log(tmp_path) if x['kind'] == SELECTION]
  expected, others = (
    stage.evaluate(x, select=True).metrics['depth']['abs_error']
    for x in (kept, state.variables)
  )
  found = values_of(logged[-1])['depth/abs_error']
  assert found == pytest.approx(expected, rel=1e-5)
  assert found != pytest.approx(others, rel=1e-3)
