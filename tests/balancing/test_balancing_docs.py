"""The examples of docs/balancing.md run, are short, and train."""

import inspect
import re

from fixtures.paths import REPOSITORY
import jax
import numpy as np
import pytest

from mtl_kd_jax.balancing import (
  BALANCERS,
  GRADIENT_BALANCERS,
  make_balancer,
  refreshed,
  smoothed,
)

PAGE = (REPOSITORY / 'docs' / 'balancing.md').read_text()
EXAMPLES = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


@pytest.mark.parametrize('code', EXAMPLES, ids=['jax', 'flax'])
def test_an_example_trains(code):
  lines = [line for line in code.splitlines() if line and 'import' not in line]
  assert len(lines) < 20
  with jax.numpy_rank_promotion('allow'):
    scope = {'__name__': 'example'}
    exec(compile(code, 'docs/balancing.md', 'exec'), scope)
  x, labels = scope['x'], scope['labels']
  zero = {t: float(np.mean(np.square(y))) for t, y in labels.items()}
  after = {t: float(v) for t, v in scope['values'].items()}
  assert any(after[t] < 0.9 * zero[t] for t in labels), (x.shape, zero, after)
  assert all(np.isfinite(list(after.values())))


@pytest.mark.parametrize('name', BALANCERS | GRADIENT_BALANCERS)
def test_a_new_state_may_be_donated(name):
  """No array in it stands for two, bare or with all that goes around it."""
  balancer = make_balancer(name)
  gradients = {t: np.zeros(3, np.float32) for t in ('a', 'b')}
  states = [balancer.init(('a', 'b'), gradients)]
  if getattr(balancer, 'linear', False):
    wrapped = refreshed(smoothed(balancer, 0.5), 2)
    states.append(wrapped.init(('a', 'b'), gradients))
  for state in states:
    leaves = jax.tree.leaves(state)
    places = {x.unsafe_buffer_pointer() for x in leaves}
    assert len(places) == len(leaves)


@pytest.mark.parametrize('name', BALANCERS | GRADIENT_BALANCERS)
def test_a_balancer_and_its_options_are_described(name):
  rules = PAGE.split('## What it costs')[0]
  rows = [x for x in rules.splitlines() if x.startswith(f'| `{name}`')]
  assert len(rows) == 1
  make = (BALANCERS | GRADIENT_BALANCERS)[name]
  assert make_balancer(name)
  for option in inspect.signature(make).parameters:
    assert f'`{option}`' in rows[0], option
