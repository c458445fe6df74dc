"""Lambda that changes over a training."""

from fixtures.samples import random_batch
from fixtures.toy import SIZE, make_parts, make_teachers, make_terms
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_kd_jax.balancing import make_balancer
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.training.optim import make_decay

STEP, STEPS = 7, 10


@pytest.mark.parametrize(
  'balancer, placement',
  [('uniform', 'task'), ('mgda', 'outside')],
)
def test_a_step_is_that_of_a_lambda_as_large_as_it_is_then(balancer, placement):
  batch, frozen = random_batch(4, SIZE), make_teachers()
  decay = make_decay('linear', steps=STEPS)
  terms = make_terms(distill=True, placement=placement)

  def changed(change):
    return tuple(
      change(t) if metric_keys.kind_of(t.name) == 'alignment' else t
      for t in terms
    )

  def take(terms):
    step, state = make_parts(
      tx=optax.sgd(1.0), balancer=make_balancer(balancer), terms=terms
    )
    state = state.replace(step=jnp.int32(STEP))
    return jax.jit(step)(state, frozen, batch)

  scheduled = take(changed(lambda t: t._replace(schedule=decay)))
  smaller = take(changed(lambda t: t._replace(weight=t.weight * 0.3)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    scheduled,
    smaller,
  )
  whole = sum(scheduled[1][t.name] for t in terms)
  assert scheduled[1]['loss'] < whole


def test_it_falls_from_1_to_0_over_the_training():
  for name in ('linear', 'cosine'):
    decay = make_decay(name, steps=STEPS)
    values = [float(decay(jnp.int32(s))) for s in range(STEPS + 1)]
    assert values[0] == 1 and abs(values[-1]) < 1e-7
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values[5], 0.5, rtol=1e-6)
  assert make_decay('constant', steps=STEPS) is None
  with pytest.raises(InputError, match="'step'"):
    make_decay('step', steps=STEPS)
