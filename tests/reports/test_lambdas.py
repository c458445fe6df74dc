"""The sentence on a lambda that changed."""

from mtl_kd_jax.reports.lambdas import describe_lambdas


def test_the_mean_of_every_lambda_that_changed():
  log = [
    {'stage': 'uniform', 'kind': 'train', 'step': 1, 'loss': 1.0},
    *(
      {
        'stage': 'distilled',
        'kind': 'train',
        'step': step,
        'loss': 1.0,
        'factor/alignment/depth': depth,
        'factor/alignment/normals': 1.0,
      }
      for step, depth in ((1, 1.0), (3, 0.5), (4, 0.0))
    ),
    {'stage': 'distilled', 'kind': 'eval', 'step': 4},
  ]
  (sentence,) = describe_lambdas(log)
  assert sentence.startswith("Lambda of 'distilled'")
  assert sentence.endswith('depth 0.50, normals 1.00.')
  assert not list(describe_lambdas(log[:1]))


def test_what_is_damaged_in_a_log_is_left_out():
  def line(step, **factors):
    named = {f'factor/alignment/{task}': x for task, x in factors.items()}
    return {'stage': 's', 'kind': 'train', 'step': step, **named}

  log = [
    line(1, depth=None, normals=0.5),
    line(2, depth=1.0),
    line(2, depth=9.0),  # the same step
    line(4, depth=0.25),
  ]
  (sentence,) = describe_lambdas(log)
  assert sentence.endswith('depth 0.50, normals 0.50.')
  assert not list(describe_lambdas([line(0, depth=1.0)]))
  assert not list(describe_lambdas([line(1, depth=None)]))
