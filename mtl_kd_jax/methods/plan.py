"""Stages with their dependencies, in an order in which they can be trained."""

from collections.abc import Sequence
import dataclasses
import graphlib

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.training.stage import Stage


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a method trains.

  Attributes:
    stages: in an order in which each stands after its inputs.
  """

  stages: tuple[Stage, ...]

  def __getitem__(self, name: str) -> Stage:
    """The stage of a name; raises InputError where there is none."""
    for stage in self.stages:
      if stage.name == name:
        return stage
    raise InputError(
      expected=f'a stage: {", ".join(self.names)}',
      found=repr(name),
      argument='stage',
      do='correct the name',
    )

  @property
  def names(self) -> tuple[str, ...]:
    """The names of the stages."""
    return tuple(stage.name for stage in self.stages)

  @property
  def rows(self) -> dict[str, str]:
    """Stage -> its row of the result table, in the order of the stages."""
    return {stage.name: stage.row or stage.name for stage in self.stages}


def make_plan(stages: Sequence[Stage]) -> Plan:
  """Checks stages, and sorts them by their inputs.

  Raises:
    InputError: two stages have one name, an input is no stage, a teacher has no
      input, or stages wait for each other.
  """
  by_name = {stage.name: stage for stage in stages}
  if len(by_name) < len(stages):
    raise _bad('stages of different names', ', '.join(s.name for s in stages))
  for stage in stages:
    for name in {**stage.teachers, **stage.inputs}:
      if stage.inputs.get(name) not in by_name:
        raise _bad(
          f'a stage as input for teacher {name} of {stage.name}: '
          f'{", ".join(by_name)}',
          f'{stage.inputs.get(name)}',
        )
  waits = {s.name: sorted(set(s.inputs.values())) for s in stages}
  try:
    graphlib.TopologicalSorter(waits).prepare()
  except graphlib.CycleError as error:
    found = ' -> '.join(error.args[1])
    raise _bad('stages that do not wait for each other', found) from error
  # In the order given, as far as the inputs let it: it is the table's.
  ready, ordered = set(), []
  while len(ordered) < len(stages):
    for stage in stages:
      if stage.name not in ready and set(waits[stage.name]) <= ready:
        ready.add(stage.name)
        ordered.append(stage)
  return Plan(tuple(ordered))


def _bad(expected, found):
  return InputError(
    expected=expected, found=found, argument='stages', do='correct the method'
  )
