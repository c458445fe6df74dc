"""Starts a job: python launch.py --config=configs/quickstart.py.

--help lists the jobs. The same without a clone: python -m mtl_kd_jax.
"""

from absl import flags

from mtl_kd_jax import __main__ as command

__doc__ = command.__doc__  # what --help shows

if __name__ == '__main__':
  flags.adopt_module_key_flags(command)
  command.start()
