"""What the keys of the log say, and means over steps."""

from mtl_kd_jax.runtime.metric_keys import mean_of_steps, objectives_of


def test_names_of_objectives_are_read_from_keys():
  assert objectives_of('norm/alignment/depth') == ('alignment/depth',)
  assert objectives_of('cosine/depth/alignment/depth') == (
    'depth',
    'alignment/depth',
  )
  assert objectives_of('cosine/alignment/a/alignment/b') == (
    'alignment/a',
    'alignment/b',
  )


def test_a_mean_leaves_out_steps_that_do_not_count():
  steps = [
    {'labeled/a': 1.0, 'labeled/b': 0.0, 'combined': 1.0},
    {'labeled/a': 1.0, 'labeled/b': 1.0, 'combined': 1.0},
    {'labeled/a': 1.0, 'labeled/b': 1.0, 'combined': 0.0},
  ]
  for i, step in enumerate(steps):
    step |= {'norm/a': 1.0 + i, 'cosine/a/b': i / 4, 'weight/b': 2.0 * i}
    step |= {'loss': float(i)}
  mean = mean_of_steps(steps)
  assert mean == {
    'norm/a': 1.5,
    'cosine/a/b': 0.25,
    'weight/b': 3.0,
    'loss': 1.0,
  }
  reused = mean_of_steps(steps[2:])
  assert reused['norm/a'] != reused['norm/a']  # NaN, null in the log
