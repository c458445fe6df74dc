"""Knowledge distillation for multi-task learning (Li & Bilen 2020).

One network per task is trained first, and frozen. Then the multi-task network
descends on the losses of its tasks and on its distance, through small adaptors,
from the features of the frozen ones.
"""

from mtl_kd_jax.config.experiment import STUDENT, TEACHER, Experiment
from mtl_kd_jax.methods import single_task
from mtl_kd_jax.methods.multi_task import UNIFORM, baseline
from mtl_kd_jax.training.adaptation import BASELINE
from mtl_kd_jax.training.choosing import needs_baseline
from mtl_kd_jax.training.loss_terms import task_terms
from mtl_kd_jax.training.stage import Stage, single_task_name

DISTILLED = 'distilled'


def stages(experiment: Experiment) -> list[Stage]:
  """Single-task networks, the baseline, and the distilled network."""
  network, tasks = experiment.network(STUDENT), experiment.tasks
  teachers = {task: experiment.network(TEACHER, task) for task in tasks}
  without_teachers = baseline(experiment)
  alignments, attributes = experiment.distill(
    network,
    teachers,
    baseline=without_teachers[0].network if without_teachers else None,
  )
  terms = task_terms(tasks) + alignments
  inputs = {task: single_task_name(task) for task in tasks}
  config = experiment.config
  if without_teachers and needs_baseline(
    config.distill.adapt, config.teacher.choose
  ):
    inputs[BASELINE] = UNIFORM
  distilled = experiment.stage(
    DISTILLED,
    network,
    terms=terms,
    balancer=experiment.balancer(terms),
    grad_wrt=experiment.config.balancing.grad_wrt,
    section=STUDENT,
    inputs=inputs,
    **attributes,
  )
  return [*single_task.stages(experiment), *without_teachers, distilled]
