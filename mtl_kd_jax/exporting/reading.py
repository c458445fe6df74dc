"""Opens what was exported, and any other run."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.exporting import formats
from mtl_kd_jax.exporting import metadata as described
from mtl_kd_jax.exporting.comparison import as_bytes
from mtl_kd_jax.interop import hub
from mtl_kd_jax.models.network import Network
from mtl_kd_jax.prediction import Predictor, PredictsPictures
from mtl_kd_jax.run import Run, parse_description
from mtl_kd_jax.tasks import Task
from mtl_kd_jax.trained import TrainedNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedNetwork(PredictsPictures):
  """A network as a program: StableHLO or ONNX, without its weights apart.

  Attributes:
    name: of the stage that trained it.
    format: 'stablehlo' or 'onnx'.
    tasks: the tasks that it predicts.
    image_size: (height, width) in pixels, of the images it was trained on.
    metadata: of the exported folder.
    path: the file of the program.
    program: uint8 [b h w 3] -> task -> array, unchecked; see `run`.
  """

  name: str
  format: str
  tasks: Mapping[str, Task]
  image_size: tuple[int, int]
  metadata: Mapping[str, Any]
  path: pathlib.Path
  program: formats.Program

  @property
  def stride(self) -> int | None:
    """What sides are multiples of; None where `image_size` alone is taken."""
    return self.metadata['artifacts'][self.format].get('stride')

  def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Runs the program.

    Args:
      images: uint8 [b h w 3]; sides as `stride` says.

    Returns:
      task -> array, as `metadata['outputs']` says.

    Raises:
      InputError: they are no such images.
    """
    formats.check_images(
      images,
      self.image_size,
      stride=self.stride,
      argument='images',
      do='give such an array, or let `predict` resize pictures',
    )
    return self.program(images)

  @functools.cached_property
  def predictor(self) -> Predictor:
    """What `predict` uses; pictures are rounded to bytes."""

    def call(images):
      outputs = self.run(as_bytes(images))
      if not self.metadata['finished']:
        return outputs
      return {
        t: _as_raw(self.tasks[t], x, images.shape[1:3])
        for t, x in outputs.items()
      }

    return Predictor(call, self.tasks, self.image_size, self.stride)

  def __repr__(self) -> str:
    tasks = ', '.join(self.tasks)
    return f'ExportedNetwork({self.name!r}: {tasks}; {self.format})'


def _as_raw(task: Task, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Something that is finished to `x`, and can be resized: float [b h w c]."""
  if task.form.unfinish is not None:
    return task.form.unfinish(np.asarray(x), size)
  return x[..., None] if x.ndim == 3 else x


class ExportedFolder(Mapping[str, TrainedNetwork | ExportedNetwork]):
  """What `export` wrote: a mapping with one network, by its name.

  Attributes:
    folder: the folder.
    metadata: the contents of metadata.json.
  """

  def __init__(self, folder: pathlib.Path | str):
    """Opens an exported folder.

    Raises:
      InputError: it is none, or of a later version.
    """
    self.folder = paths.expand(folder, argument='workdir')
    self.metadata = described.read(self.folder)

  @property
  def formats(self) -> tuple[str, ...]:
    """The formats that are there."""
    return tuple(self.metadata['artifacts'])

  def network(
    self,
    name: str | None = None,
    *,
    format: str | None = None,
    module: Network | None = None,
  ) -> TrainedNetwork | ExportedNetwork:
    """The network.

    Args:
      name: its name; None for the one that there is.
      format: one of `formats`; None for weights where there are some, which
        give a `TrainedNetwork`, and else for a program.
      module: the network, for weights of one that was not made by
        `models.make`.

    Raises:
      InputError: there is no such network or format, or it cannot be opened.
    """
    if name not in (None, self.metadata['name']):
      raise InputError(
        expected=f'the network of this folder: {self.metadata["name"]}',
        found=repr(name),
        where=f'{self.folder}',
        argument='name',
        do='name that one, or export the other one',
      )
    order = (*formats.WEIGHTS, *formats.PROGRAMS)
    if format is None:
      format = next((f for f in order if f in self.formats), None)
    if format not in self.formats or format not in order:
      raise InputError(
        expected=f'a format that is there: {", ".join(self.formats)}',
        found=repr(format),
        where=f'{self.folder}',
        argument='format',
        do='name one of these, or export the network again',
      )
    if format in formats.WEIGHTS:
      return formats.open_weights(
        format, self.folder, self.metadata, module=module
      )
    description = parse_description(
      self.metadata['description'], f'{self.folder / described.FILE}'
    )
    return ExportedNetwork(
      name=self.metadata['name'],
      format=format,
      tasks=description.make_tasks(),
      image_size=description.image_size,
      metadata=self.metadata,
      path=self.folder / formats.FILES[format],
      program=formats.open_program(format, self.folder),
    )

  def __getitem__(self, name: str) -> TrainedNetwork | ExportedNetwork:
    return self.network(name)

  def __contains__(self, name: object) -> bool:
    return name == self.metadata['name']

  def __iter__(self) -> Iterator[str]:
    return iter([self.metadata['name']])

  def __len__(self) -> int:
    return 1

  def __repr__(self) -> str:
    return (
      f'ExportedFolder({str(self.folder)!r}): {self.metadata["name"]} as '
      f'{", ".join(self.formats)}'
    )


def load(workdir: pathlib.Path | str) -> Run | Any:
  """Opens a run, an import, an exported folder, or what is finished of a run.

  Args:
    workdir: the folder; or hf://user/name, a repository of the Hugging Face Hub
      that `mtl_kd_jax.hub.push` made.

  Returns:
    A mapping from names to networks: a `Run`, or an `ExportedFolder`.

  Raises:
    InputError: it is neither, or the repository cannot be reached.
  """
  if hub.is_address(workdir):
    folder = hub.download(workdir)
  else:
    folder = paths.expand(workdir, argument='workdir')
  if described.is_exported(folder):
    return ExportedFolder(folder)
  return Run(folder)
