"""Trackers: where else a run logs, beside metrics.jsonl.

To add one: a file with a `Tracker`, and a line here; the tests run over the
registry. A library that a tracker needs is imported only when it is opened.
"""

from collections.abc import Sequence
import importlib.util

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime.trackers.base import Tracker
from mtl_kd_jax.runtime.trackers.mlflow import MLflow
from mtl_kd_jax.runtime.trackers.tensorboard import TensorBoard
from mtl_kd_jax.runtime.trackers.wandb import WeightsAndBiases

TRACKERS: dict[str, type[Tracker]] = {
  'tensorboard': TensorBoard,
  'wandb': WeightsAndBiases,
  'mlflow': MLflow,
}
# May be named with them: metrics.jsonl, which is always written.
ALWAYS = 'jsonl'


def check_trackers(names: Sequence[str]) -> None:
  """Checks that trackers can be used, before any time is spent.

  Args:
    names: of `TRACKERS`; 'jsonl' among them changes nothing.

  Raises:
    InputError: one is unknown, named twice, or its library is not installed.
  """
  known = [ALWAYS, *TRACKERS]
  if isinstance(names, str) or not all(name in known for name in names):
    raise InputError(
      expected=f'names of trackers: {", ".join(known)}',
      found=repr(names if isinstance(names, str) else tuple(names)),
      argument='trackers',
      do="correct them: ('tensorboard', 'wandb')",
    )
  for name in names:
    if names.count(name) > 1:
      raise InputError(
        expected='each tracker once',
        found=f'{name!r} {names.count(name)} times',
        argument='trackers',
        do='name it once',
      )
    if name != ALWAYS and not is_installed(TRACKERS[name]):
      raise InputError(
        expected=f'the library of the tracker {name!r}',
        found=f'no package {TRACKERS[name].LIBRARY}',
        argument='trackers',
        do=f'pip install {TRACKERS[name].LIBRARY}; or leave {name!r} out',
      )


def is_installed(tracker: type[Tracker]) -> bool:
  """Whether the library of a tracker can be imported."""
  return importlib.util.find_spec(tracker.LIBRARY) is not None
