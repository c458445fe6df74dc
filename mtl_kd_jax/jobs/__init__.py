"""What `--job=NAME` runs. To add one: a file with `run`, and a line here."""

from mtl_kd_jax.jobs import evaluate, import_weights, taps, train
from mtl_kd_jax.jobs import inspect as data

JOBS = {
  'train': train.run,
  'evaluate': evaluate.run,
  'import': import_weights.run,
  'taps': taps.run,
  'data': data.run,
}
