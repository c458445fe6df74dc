"""Inner products, also of gradients that are split over devices."""

import functools

from fixtures.balancing_steps import cosine
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import inner_products

NAMES = ('semantic', 'depth', 'normals')


@pytest.mark.parametrize(
  'name, options',
  [
    ('imtl_g', {}),  # stands for all rules of from_gram
    ('gradvac', {'groups': 'leaf'}),
    ('graddrop', {}),
    ('graddrop', {'over_batch': True}),
  ],
)
def test_features_may_be_split_over_devices(name, options):
  """Two taps of eight samples, whole and on a mapped axis of four."""
  balancer = balancing.make(name, **options)
  rng = np.random.default_rng(0)
  losses = {t: jnp.float32(1) for t in NAMES}
  taps = {'low': (8, 2, 3), 'high': (8, 5)}

  def features():
    return {k: jnp.float32(rng.normal(size=s)) for k, s in taps.items()}

  values, gradients = features(), {t: features() for t in NAMES}
  state = balancer.init(NAMES, gradients)

  def update(values, gradients, axis_name=None):
    return balancer.update(
      losses,
      gradients,
      state,
      jax.random.key(0),
      values=values,
      axis_name=axis_name,
    )[0]

  whole = jax.jit(update)(values, gradients)
  split = jax.tree.map(
    lambda x: x.reshape(4, 2, *x.shape[1:]), (values, gradients)
  )
  mapped = jax.jit(
    jax.vmap(functools.partial(update, axis_name='batch'), axis_name='batch')
  )(*split)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      np.reshape(x, y.shape), y, rtol=1e-3, atol=1e-5
    ),
    mapped.direction,
    whole.direction,
  )
  for t, w in whole.weights.items():
    np.testing.assert_allclose(mapped.weights[t], w, rtol=1e-3, atol=1e-6)


def test_inner_products_of_half_precision_are_added_in_float32():
  rng = np.random.default_rng(0)
  j = rng.normal(size=(2, 40_000)) + 0.1
  halves = [jnp.asarray(row, jnp.bfloat16) for row in j]
  gram = jax.jit(inner_products)(halves)
  exact = np.stack([np.float64(x) for x in halves])
  np.testing.assert_allclose(
    gram.norms, np.linalg.norm(exact, axis=1), rtol=1e-5
  )
  np.testing.assert_allclose(
    gram.cosines[0, 1], cosine(exact[:1], exact[1])[0], atol=1e-6
  )
  # Squares of these overflow, and of those vanish.
  gram = jax.jit(inner_products)([jnp.full(9, 1e30), jnp.full(9, 1e-30)])
  np.testing.assert_allclose(gram.norms, [3e30, 3e-30], rtol=1e-5)
  np.testing.assert_allclose(gram.cosines, np.ones((2, 2)), rtol=1e-5)


def test_a_dictionary_is_taken_in_the_order_of_its_names():
  rng = np.random.default_rng(0)
  by_task = {t: jnp.float32(rng.normal(size=5)) for t in NAMES}
  ordered = [by_task[t] for t in sorted(NAMES)]
  product = jax.jit(inner_products)
  for x, y in zip(product(by_task), product(ordered), strict=True):
    np.testing.assert_array_equal(x, y)
