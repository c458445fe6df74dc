"""One network per task: the teachers, and what others are compared with."""

from mtl_kd_jax.config.experiment import TEACHER, Experiment, source_of_teachers
from mtl_kd_jax.training.stage import SINGLE_TASK, Stage, single_task_name


def stages(experiment: Experiment) -> list[Stage]:
  """A stage per task; only read where config.teacher.workdir names a run."""
  return [
    experiment.stage(
      single_task_name(task),
      experiment.network(TEACHER, task),
      section=TEACHER,
      row=SINGLE_TASK,
      trained_in=source_of_teachers(experiment.config),
    )
    for task in experiment.tasks
  ]
