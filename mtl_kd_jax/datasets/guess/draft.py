"""What is guessed of a folder so far."""

from collections.abc import Container, Mapping
import dataclasses
import pathlib
import re
from typing import Any, NamedTuple

from mtl_kd_jax.datasets.guess.groups import Group


class Task(NamedTuple):
  """A task that files or columns seem to be for.

  Attributes:
    description: of config.task.
    why: the reason, a sentence.
  """

  description: dict[str, Any]
  why: str


@dataclasses.dataclass
class Draft:
  """A description of a folder that grows.

  Attributes:
    root: the folder.
    folders: split -> what stands for it in the names of folders.
    pictures: their files.
    options: of the data set 'folder'.
    tasks: name -> task.
    notes: what was left out or assumed, in sentences.
  """

  root: pathlib.Path
  folders: Mapping[str, str]
  pictures: Group
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  tasks: dict[str, Task] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def drop_test(self, why: str) -> None:
    """Leaves the pictures of the split test out."""
    self.folders = {s: f for s, f in self.folders.items() if s != 'test'}
    self.pictures = self.pictures.without('test')
    self.notes.append(f'the split test is not used ({why})')

  def allow_missing(self, name: str, count: int) -> None:
    """Lets pictures lack labels; `count` have those of `name`."""
    every = len(self.pictures.members)
    if count < every:
      self.options['allow_missing'] = True
      self.notes.append(
        f'{name}: {count} of {every} pictures have one, so allow_missing is on'
      )


def free_name(name: str, taken: Container[str]) -> str:
  """A name for a task that no other one has."""
  name = re.sub(r'\W+', '_', name).strip('_').lower() or 'labels'
  number, free = 1, name
  while free in taken or free == 'image':
    number += 1
    free = f'{name}_{number}'
  return free
