"""MLflow: a server, or a database and folder on this machine."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import time

from mtl_kd_jax.runtime.nested import flatten
from mtl_kd_jax.runtime.trackers.base import Description, Line, Tracker

_STATUS = {'finished': 'FINISHED', 'stopped': 'KILLED', 'failed': 'FAILED'}
# Of MLflow: metrics and parameters in a request, characters of a value.
_MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 6000


class MLflow(Tracker):
  """A run of MLflow.

  MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are MLflow's own. Without the
  first, it is what MLflow takes by default: mlflow.db in the folder that the
  run is started in.
  """

  LIBRARY = 'mlflow'
  HELP = (
    'correct MLFLOW_TRACKING_URI, e.g. sqlite:////home/me/mlflow.db, and see '
    'whether the server answers'
  )

  def __init__(self, about: Description, run_id: str | None):
    """Opens a run in the store that MLflow's own variables name."""
    import mlflow
    from mlflow import entities

    self._entities = entities
    uri = mlflow.get_tracking_uri()
    self.where = re.sub('//[^/@]*@', '//', uri)  # without a password
    # Not the run that is active in this process, which may be the caller's.
    self._client = mlflow.MlflowClient(tracking_uri=uri)
    if run_id:
      self._client.get_run(run_id)  # raises where there is none
      self._client.update_run(run_id, status='RUNNING')
    else:
      run_id = self._new_run(about)
    self.run_id = run_id

  def _new_run(self, about: Description) -> str:
    name = os.environ.get('MLFLOW_EXPERIMENT_NAME') or 'mtl_kd_jax'
    experiment = self._client.get_experiment_by_name(name)
    run = self._client.create_run(
      experiment.experiment_id
      if experiment
      else self._client.create_experiment(name),
      run_name=about.name,
      tags={'group': about.group} if about.group else {},
    )
    params = [
      self._entities.Param(_allowed(key), str(value)[:_LONGEST])
      for key, value in flatten(about.config).items()
    ]
    for i in range(0, len(params), _MOST_PARAMS):
      self._client.log_batch(
        run.info.run_id, params=params[i : i + _MOST_PARAMS]
      )
    return run.info.run_id

  def log(self, lines: Sequence[Line]) -> None:
    """Adds metrics; every one has the steps of its stage."""
    self._add(
      (f'{line.stage}/{line.kind}/{name}', x, line.time, line.step)
      for line in lines
      for name, x in line.values.items()
    )

  def report(
    self, results: Mapping[str, float], files: Sequence[pathlib.Path]
  ) -> None:
    """Adds metrics, and the files as artifacts."""
    self._add((name, x, time.time(), 0) for name, x in results.items())
    for path in files:
      self._client.log_artifact(self.run_id, str(path))

  def close(self, status: str) -> None:
    """Says how the run ended."""
    self._client.set_terminated(self.run_id, status=_STATUS[status])

  def _add(self, metrics) -> None:
    metrics = [
      self._entities.Metric(_allowed(name), x, int(1000 * seconds), step)
      for name, x, seconds, step in metrics
    ]
    for i in range(0, len(metrics), _MOST_METRICS):
      self._client.log_batch(
        self.run_id, metrics=metrics[i : i + _MOST_METRICS]
      )


def _allowed(name: str) -> str:
  """The name with what MLflow takes in it."""
  return re.sub(r'[^\w\-./: ]', '_', name)[:250]
