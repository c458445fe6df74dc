"""The examples of docs/balancing.md run, are short, and train."""

import re

from fixtures.paths import REPOSITORY
import jax
import numpy as np
import pytest

from mtl_kd_jax import balancing
from mtl_kd_jax.balancing import BALANCERS, GRADIENT_BALANCERS

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
def test_a_balancer_is_described_with_its_options_and_defaults(name):
  rules = PAGE.split('## What it costs')[0]
  rows = [x for x in rules.splitlines() if x.startswith(f'| `{name}`')]
  assert len(rows) == 1
  for option, default in balancing.options(name).items():
    assert f'`{option}`' in rows[0], option
    if isinstance(default, bool | str):
      assert f'`{option}` {default}' in rows[0], option
    elif isinstance(default, int | float):
      written = re.findall(rf'`{option}` ([-.e\d]*\d)', rows[0])
      assert default in map(float, written), option
