"""One network for all tasks, without teachers."""

from mtl_kd_jax.config.experiment import STUDENT, Experiment
from mtl_kd_jax.methods import single_task
from mtl_kd_jax.training.loss_terms import task_terms
from mtl_kd_jax.training.stage import Stage

UNIFORM, BALANCED = 'uniform', 'balanced'


def stages(experiment: Experiment) -> list[Stage]:
  """Single-task networks, the baseline, and the network that is balanced."""
  network, terms = experiment.network(STUDENT), task_terms(experiment.tasks)
  balanced = experiment.stage(
    BALANCED,
    network,
    balancer=experiment.balancer(terms),
    grad_wrt=experiment.config.balancing.grad_wrt,
    section=STUDENT,
  )
  return [*single_task.stages(experiment), *baseline(experiment), balanced]


def baseline(experiment: Experiment) -> list[Stage]:
  """The uniformly weighted network, where config.baseline asks for it."""
  if not experiment.config.baseline:
    return []
  network = experiment.network(STUDENT)
  return [experiment.stage(UNIFORM, network, section=STUDENT)]
