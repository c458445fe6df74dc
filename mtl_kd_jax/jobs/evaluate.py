"""Scores the finished networks of a run again, on any split."""

import functools
import pathlib

from absl import flags
from ml_collections import ConfigDict

from mtl_kd_jax.config import defaults
from mtl_kd_jax.config.build import Experiment, build, select_split
from mtl_kd_jax.config.renames import complete, upgrade
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.reports.results import Rows, report_results
from mtl_kd_jax.run import Run
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.metric_writer import MetricWriter
from mtl_kd_jax.runtime.parallel import is_main_process
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.evaluation import Evaluation, evaluate
from mtl_kd_jax.training.step import eval_step

OPTIONS = ('split',)


def define_flags() -> None:
  """Defines the flags of this job."""
  flags.DEFINE_string(
    'split', None, "Job 'evaluate': the split to score. Default: the run's."
  )


def default_config(workdir: pathlib.Path | None) -> ConfigDict | None:
  """The config of the run, under the keys of this version."""
  if workdir is None:
    return None
  config = upgrade(workdirs.read_config(workdir))
  return ConfigDict(complete(config, defaults.get_config().to_dict()))


def run(
  config: ConfigDict, workdir: pathlib.Path, *, split: str | None = None
) -> Run:
  """Prints the table of a run and writes it beside the first one.

  The networks are those of the run, whatever the config says of networks.
  Stages that are not finished are left out, and named.

  Args:
    config: names the data and devices.
    workdir: of the run. Its own results stay as they are: these go to
      results_<split>.json, results_<split>.md and predictions_<split>.png.
    split: the split to score; None for `config.data.eval_split`.

  Returns:
    The run.

  Raises:
    InputError: there is no such run, none of its networks is finished, or the
      data do not have its labels.
  """
  trained = Run(workdir)
  if split:
    config.data.eval_split = split
  experiment = build(config)
  writer = MetricWriter(workdir, enabled=is_main_process())
  rows, missing = Rows(experiment.tasks), []
  for name, about in trained.plan.items():
    elsewhere = about.get('trained_in')
    source = Run(elsewhere) if elsewhere else trained
    if name in source:
      rows.add(about['row'], _score(source[name], experiment))
    else:
      missing.append(name)
  if len(missing) == len(trained.plan):
    trained.network(missing[0])  # says what is not finished
  if is_main_process():
    report_results(
      rows,
      workdir,
      writer.print,
      name=config.name,
      split=config.data.eval_split,
      checkpoint=trained.config.select,
      chosen_on=select_split(trained.config),
      suffix=f'_{config.data.eval_split}',
    )
  if missing:
    writer.print(f'not scored, since not finished: {", ".join(missing)}')
  return trained


def _score(trained: TrainedNetwork, experiment: Experiment) -> Evaluation:
  parallel, config = experiment.parallel, experiment.config
  for name, task in trained.tasks.items():
    there = experiment.tasks.get(name)
    if there is None or there.channels != task.channels:
      raise InputError(
        expected=f'data with the labels of {trained.name}: {name} with '
        f'{task.channels} channels',
        found='none' if there is None else f'{there.channels} channels',
        where=f'the data set {experiment.dataset.name}',
        do='name the data that the run was trained on',
      )
  step = parallel.compile_eval_step(
    functools.partial(
      eval_step,
      network=trained.network.with_axis(parallel.axis_name),
      tasks=trained.tasks,
      axis_name=parallel.axis_name,
    )
  )
  return evaluate(
    step,
    parallel.replicate(trained.variables),
    experiment.data.eval(),
    trained.tasks,
    parallel=parallel,
    keep=config.report.images,
  )
