"""One network per task: the teachers, and what others are compared with."""

from mtl_kd_jax.config.build import TEACHER, Experiment, source_of_teachers
from mtl_kd_jax.training.stage import SINGLE_TASK, Stage


def stages(experiment: Experiment) -> list[Stage]:
  """A stage per task; only read where config.teacher.workdir names a run."""
  return [
    experiment.stage(
      stage_name(task),
      experiment.network(TEACHER, task),
      section=TEACHER,
      row=SINGLE_TASK,
      trained_in=source_of_teachers(experiment.config),
    )
    for task in experiment.tasks
  ]


def stage_name(task: str) -> str:
  """The name of the stage that trains the network of a single task."""
  return f'teacher_{task}'
