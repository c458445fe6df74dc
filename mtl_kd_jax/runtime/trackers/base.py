"""What a tracker does."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
  from mtl_kd_jax.runtime.buckets import Path


class Description(NamedTuple):
  """What a tracker is told of a run.

  Attributes:
    workdir: of the run.
    name: of the run.
    config: of the run, a nested dictionary.
    group: what runs of a comparison have in common; '' for none.
  """

  workdir: 'Path'
  name: str
  config: Mapping[str, Any]
  group: str = ''


class Line(NamedTuple):
  """What a line of metrics.jsonl says.

  Attributes:
    stage: its stage.
    kind: 'train', or what was measured: 'eval', 'test', 'balance'.
    step: of the stage.
    time: of writing, in seconds since 1970.
    values: finite ones, by name.
    number: of lines that the tracker got before, over all stages.
  """

  stage: str
  kind: str
  step: int
  time: float
  values: Mapping[str, float]
  number: int


class Tracker:
  """One run in a tracker: a workdir, with all stages that train in it.

  Any method may raise what it likes: the run then goes on without the tracker.

  Attributes:
    LIBRARY: the module that it needs.
    REWINDS: whether `begin` takes back what was logged after its step. Others
      are given each line once, also where a run that continues takes steps
      again.
    HELP: what to do where it cannot be opened.
    run_id: what `__init__` needs to continue the same run.
    where: the address or folder to look at.
  """

  LIBRARY: str
  REWINDS = False
  HELP: str
  run_id: str
  where: str

  def __init__(self, about: Description, run_id: str | None):
    """Opens a new run, or the one of an id to continue it."""
    raise NotImplementedError

  def lacks(self, stage: str) -> bool:
    """Whether it has nothing of a stage; asked where it `REWINDS`."""
    return False

  def begin(self, stage: str, step: int) -> None:
    """A stage begins, or continues after a step."""

  def log(self, lines: Sequence[Line]) -> None:
    """Adds lines; several at once where a tracker catches up."""
    raise NotImplementedError

  def end(self, stage: str) -> None:
    """A stage has ended, or was interrupted."""

  def report(
    self, results: Mapping[str, float], files: Sequence[pathlib.Path]
  ) -> None:
    """Adds results, by '<stage>/result/<task>/<metric>', tables and figures.

    The files are there for as long as this runs.
    """

  def close(self, status: str) -> None:
    """Ends, as 'finished', 'stopped' (to be continued) or 'failed'."""
