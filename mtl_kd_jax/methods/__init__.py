"""What is trained in which order: a method makes stages of an experiment.

To add one: a file with a `stages(experiment)`, and a line here; the tests run
over the registry.
"""

from mtl_kd_jax.config.experiment import Experiment
from mtl_kd_jax.config.keys import named_by_keys
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.methods import distill, multi_task, single_task
from mtl_kd_jax.methods.plan import Plan, make_plan

__all__ = ['METHODS', 'Plan', 'plan']

METHODS = {
  'distill': distill.stages,
  'multi_task': multi_task.stages,
  'single_task': single_task.stages,
}


def plan(experiment: Experiment) -> Plan:
  """The stages of the experiment's method, checked and in order.

  Raises:
    InputError: unknown method, or a stage that cannot be made.
  """
  name = experiment.config.method
  if name not in METHODS:
    with named_by_keys():
      raise InputError(
        expected=f'a known method: {", ".join(METHODS)}',
        found=repr(name),
        argument='method',
        do='correct the name',
      )
  return make_plan(METHODS[name](experiment))
