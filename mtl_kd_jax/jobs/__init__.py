"""What --job runs. To add one: a file with `run`, and a line here.

A job is a module with

  run(config, workdir, **options)   raises InputError for what cannot be used
  define_flags()                    optional: its own command-line flags ...
  OPTIONS                           ... whose values `run` is called with
  default_config(workdir)           optional: the config without --config; None
                                    for none
  experiment_of(config)             optional: the config of an experiment in one
                                    of another kind
"""

from mtl_kd_jax.jobs import (
  compare,
  data,
  evaluate,
  export,
  import_weights,
  inspect,
  latency,
  predict,
  taps,
  train,
)

JOBS = {
  'train': train,
  'evaluate': evaluate,
  'predict': predict,
  'export': export,
  'latency': latency,
  'compare': compare,
  'import': import_weights,
  'taps': taps,
  'inspect': inspect,
  'data': data,
}
