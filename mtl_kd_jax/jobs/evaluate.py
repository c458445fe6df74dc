"""Scores the finished networks of a run again, on any split."""

import functools
import pathlib

from ml_collections import ConfigDict

from mtl_kd_jax.config.build import build
from mtl_kd_jax.config.experiment import Experiment, select_split
from mtl_kd_jax.config.scored import describe_data, differences
from mtl_kd_jax.errors import InputError, check_type
from mtl_kd_jax.reports.results import Rows, report_results
from mtl_kd_jax.run import Run
from mtl_kd_jax.runtime import buckets, checkpointing
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.metric_writer import MetricWriter
from mtl_kd_jax.runtime.parallel import is_main_process
from mtl_kd_jax.trained import TrainedNetwork
from mtl_kd_jax.training.evaluation import Evaluation, Metrics, evaluate
from mtl_kd_jax.training.step import eval_step


def default_config(workdir: pathlib.Path | None) -> ConfigDict | None:
  """The config of the run, under the keys of this version.

  A run that was trained on several hosts is evaluated on one.

  Raises:
    InputError: there is no such run, or its config is none.
  """
  if workdir is None:
    return None
  config = Run(workdir).config
  config.parallel.multihost = False
  return config


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  split: str | None = None,
  all: bool = False,
) -> Run:
  """Prints the table of a run and writes it beside the first one.

  The networks are those of the run, whatever the config says of networks.
  Those that are not finished, or cannot be opened, are left out and named.

  Args:
    config: names the data and devices.
    workdir: of the run. Its own results stay as they are: these go to
      results_<split>.json, results_<split>.md and predictions_<split>.png. But
      a network of the run without metrics, such as an imported one, gets them
      when the split is the one that the run reports.
    split: the split to score; None for `config.data.eval_split`.
    all: whether tables have all metrics.

  Returns:
    The run.

  Raises:
    InputError: there is no such run, none of its networks can be opened, or the
      data do not have its labels.
  """
  buckets.check_access(workdir, argument='workdir', write=True)
  trained = Run(workdir)
  stored = trained.config
  if split is not None:
    check_type(
      split,
      str,
      expected='the name of a split',
      argument='split',
      do="give one, such as 'val'",
    )
  if split:
    config.data.eval_split = split
  experiment = build(config)
  writer = MetricWriter(workdir, enabled=is_main_process())
  best = stored.select == 'best'
  rows, unfinished, errors = Rows(experiment.tasks), [], {}
  chosen: dict[str, bool] = {}  # stage -> whether it has a best checkpoint
  metrics = {}  # of networks of this run that had none
  for name, about in trained.plan.items():
    elsewhere = about.get('trained_in')
    network = running = None
    try:
      source = Run(elsewhere) if elsewhere else trained
      if name in source:
        network = source.network(name, best=best)
        if network.recalibrated_over:
          running = source.network(name, best=best, recalibrated=False)
    except InputError as error:
      errors[name] = error
      continue
    if network is None:
      unfinished.append(name)
      continue
    evaluation, metrics_running = _score(network, experiment, running)
    rows.add(
      about['row'],
      evaluation,
      network=name,
      recalibrated_over=network.recalibrated_over,
      running=metrics_running,
    )
    folder = workdirs.checkpoint_dir(source.workdir, name)
    chosen[name] = checkpointing.has_best(folder)
    if not elsewhere and network.metrics is None:
      metrics[name] = evaluation.metrics
  if not rows.metrics:
    if errors:
      raise next(iter(errors.values()))
    trained.network(unfinished[0])  # says what is finished
  scored = describe_data(config)
  if is_main_process():
    split = config.data.eval_split
    other = differences(scored, describe_data(stored, split))
    report_results(
      rows,
      workdir,
      writer.print,
      name=config.name,
      split=split,
      checkpoint=stored.select,
      chosen_on=select_split(stored),
      chosen=chosen,
      suffix=f'_{split}',
      all_metrics=all,
      notes=[
        f'Note: scored on other data than those of the run: '
        f'{"; ".join(other)}. Any other evaluation on split {split!r} replaces '
        'this one.'
      ]
      if other
      else (),
      config=config.to_dict(),
    )
    if scored == describe_data(stored):
      for name, values in metrics.items():
        workdirs.write_metrics(workdir, name, values)
  if unfinished:
    writer.print(f'not scored, since not finished: {", ".join(unfinished)}')
  for name, error in errors.items():
    writer.print(f'not scored, since it cannot be opened: {name}\n  {error}')
  return trained


def _score(
  trained: TrainedNetwork,
  experiment: Experiment,
  running: TrainedNetwork | None = None,
) -> tuple[Evaluation, Metrics | None]:
  """Scores a network, and its metrics with the running means if given."""
  parallel = experiment.parallel
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

  def score(variables, keep=0):
    return evaluate(
      step,
      parallel.replicate(variables),
      experiment.data.eval(),
      trained.tasks,
      parallel=parallel,
      keep=keep,
    )

  evaluation = score(trained.variables, experiment.num_pictures)
  return evaluation, running and score(running.variables).metrics
