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
