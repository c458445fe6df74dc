"""Exports a network: writes, compares with the checkpoint, then renames."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, check_type
from mtl_kd_jax.exporting import formats
from mtl_kd_jax.exporting import metadata as described
from mtl_kd_jax.exporting.card import write_card
from mtl_kd_jax.exporting.comparison import (
  Difference,
  compare_all,
  made_pictures,
)
from mtl_kd_jax.exporting.reading import ExportedFolder
from mtl_kd_jax.exporting.serving import OUTPUTS, make_serving
from mtl_kd_jax.interop.fold_norms import cpu_device
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.bucket_copies import upload
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.trained import TrainedNetwork

DEFAULT = ('stablehlo', 'saved')


def export(
  network: TrainedNetwork,
  folder: pathlib.Path | str,
  *,
  to: Sequence[str] | str = DEFAULT,
  outputs: str = 'finished',
  pictures: np.ndarray | Callable[[], np.ndarray | None] | None = None,
  license: str = '',
  log: Callable[[str], None] = print,
) -> ExportedFolder:
  """Writes a network in formats that run without this package.

  The network alone is written, without adaptors and teachers. In the programs,
  BatchNorm is folded into convolutions where that is exact, and pictures are
  scaled inside. Every artifact is run on pictures and compared with the network
  before the folder gets its name; one that differs is an error, and nothing is
  left of it.

  Args:
    network: such as `run['distilled']`.
    folder: where the files go; new or empty.
    to: one or several of 'stablehlo' (for JAX), 'onnx', 'safetensors' (weights
      for PyTorch) and 'saved' (for this package).
    outputs: of the programs: 'finished' for class ids, measurements and unit
      normals as `predict` returns them, 'raw' for what the network gives.
    pictures: uint8 [n h w 3] of the network's `image_size`, to compare on; or
      what returns them, called when all else is checked. None for rendered
      rooms and patterns.
    license: for the model card, an identifier of the Hugging Face Hub such as
      'apache-2.0'; '' for none.
    log: called with a line for every artifact.

  Returns:
    What was written, as `load` opens it.

  Raises:
    InputError: an argument cannot be used, a package is not installed, the
      folder has files in it, or an artifact differs from the network.
  """
  folder = paths.expand(folder, argument='folder')
  to = _check(network, folder, to, outputs)
  if callable(pictures):
    pictures = pictures()
  if pictures is None:
    pictures = made_pictures(network.image_size)
  formats.check_images(
    pictures,
    network.image_size,
    stride=None,
    argument='pictures',
    do='resize them, or leave them out',
  )
  with _written_whole(folder) as temporary, jax.default_device(cpu_device()):
    metadata = described.make(network, outputs=outputs)
    serving = None
    if set(to) & set(formats.PROGRAMS):
      serving = make_serving(network, outputs=outputs)
      metadata['batch_norm'] = {'folded': serving.folded, 'kept': serving.kept}
    checkpoint = _Checkpoint(network, compiler_options(cpu_device().platform))
    # Compiling takes longer than the computation, on few small pictures.
    fast = {'xla_backend_optimization_level': 0}
    checkpoint_2 = _Checkpoint(network, fast)
    artifacts = {}
    for name in to:
      about = formats.write(name, temporary, network, serving, metadata)
      artifacts[name] = about | {'file': formats.FILES[name]}
      differences = _compare(checkpoint, name, temporary, metadata, pictures)
      if about.get('stride'):
        smaller = _smaller_pictures(network)
        _compare(checkpoint_2, name, temporary, metadata, smaller)
      artifacts[name]['largest_difference'] = {
        task: difference.largest for task, difference in differences.items()
      }
      log(_line(name, temporary, differences))
    metadata['artifacts'] = artifacts
    text = json.dumps(metadata, indent=2)
    (temporary / described.FILE).write_text(text, encoding='utf-8')
    write_card(network, temporary, license=license)
  log(f'written to {folder}')
  return ExportedFolder(folder)


def _check(network, folder, to, outputs) -> list[str]:
  """Checks arguments; returns the formats, each of them once."""
  check_type(
    network,
    TrainedNetwork,
    expected="a trained network, such as mtl.load('runs/a')['distilled']",
    argument='network',
    do='give a network of a run',
  )
  names = [to]
  if isinstance(to, Iterable) and not isinstance(to, str):
    names = [*to]
  known = [isinstance(x, str) and x in formats.FILES for x in names]
  if not names or not all(known):
    raise InputError(
      expected=f'formats: {", ".join(formats.FILES)}',
      found=repr(to)[:99],
      argument='to',
      do='name one or several of these',
    )
  if outputs not in OUTPUTS:
    raise InputError(
      expected=' or '.join(map(repr, OUTPUTS)),
      found=repr(outputs),
      argument='outputs',
      do='choose one of them',
    )
  for name in names:
    formats.check_installed(name)
  if 'safetensors' in names:
    formats.torch_state(network)
  buckets.check_access(folder, argument='folder', write=True)
  there = folder.exists() or os.path.lexists(folder)
  # Nothing that is made can be called '..'.
  if (there or folder.name == '..') and (found := _why_not_empty(folder)):
    raise InputError(
      expected='a new folder, or an empty one',
      found=found,
      where=f'{folder}',
      argument='folder',
      do='name another one, or remove what is there',
    )
  return [*dict.fromkeys(names)]


def _why_not_empty(folder) -> str:
  if found := paths.why_no_folder(folder):
    return found
  if described.is_exported(folder):
    return 'an exported network, which is left as it is'
  if not any(folder.iterdir()):
    return ''
  found = paths.contents(folder)
  return 'hidden files' if found == 'nothing' else found


@contextlib.contextmanager
def _written_whole(folder: pathlib.Path):
  """A folder that gets its name when all is done; otherwise it is deleted.

  A folder that is there stays, as it may be the current one, and is filled. So
  is a bucket. The metadata come last, without which there is no exported
  network.
  """
  if buckets.is_bucket(folder):
    with tempfile.TemporaryDirectory(prefix='mtl_kd_jax-') as here:
      yield pathlib.Path(here)
      with _reported(folder):
        upload(pathlib.Path(here), folder, last=described.FILE)
    return
  there = folder.exists()
  if there:
    temporary = folder / f'.{os.getpid()}.tmp'
  else:
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
  try:
    with _reported(folder):
      temporary.mkdir(parents=True)
      yield temporary
      if there:
        _move_contents(temporary, folder)
      else:
        temporary.rename(folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _move_contents(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  if [*folder.iterdir()] != [temporary]:
    raise FileExistsError('others have written to it in the meantime')
  for path in sorted(
    temporary.iterdir(), key=lambda path: path.name == described.FILE
  ):
    path.rename(folder / path.name)


@contextlib.contextmanager
def _reported(folder):
  try:
    yield
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=f'{error}',
      where=f'{folder}',
      argument='folder',
      do='name another one, or make room',
    ) from error


class _Checkpoint:
  """The network that artifacts are compared with."""

  def __init__(self, network: TrainedNetwork, options: Mapping[str, Any]):
    self.network = network
    self._apply = jax.jit(network.apply, compiler_options=options)

  def predict(self, pictures, variables=None) -> dict[str, np.ndarray]:
    """Raw outputs of uint8 [n h w 3], task -> float32 [n h w c]."""
    colors = pictures.astype(np.float32) / 255
    variables = self.network.variables if variables is None else variables
    return {t: np.asarray(x) for t, x in self._apply(variables, colors).items()}


def _smaller_pictures(network) -> np.ndarray:
  """Pictures of another size than that of training."""
  stride = getattr(network.network.backbone, 'stride', 1)
  side = -(-32 // stride) * stride
  size = (side, side + stride)
  if size == tuple(network.image_size):
    size = (side + stride, side)
  return made_pictures(size)[1:]


def _compare(
  checkpoint, name, folder, metadata, pictures
) -> dict[str, Difference]:
  """Opens an artifact again, runs it, and compares."""
  network, outputs = checkpoint.network, 'raw'
  if name in formats.PROGRAMS:
    outputs = 'finished' if metadata['finished'] else 'raw'
    found = formats.open_program(name, folder)(pictures)
  else:
    module = network.network if network.network.spec is None else None
    opened = formats.open_weights(name, folder, metadata, module=module)
    if not _same(opened, network):
      raise _differs(name, 'other weights, or another network')
    found = checkpoint.predict(pictures, opened.variables)
  raw = checkpoint.predict(pictures)
  differences = compare_all(network.tasks, found, raw, outputs=outputs)
  wrong = [f'{t}: {d.text}' for t, d in differences.items() if not d.accepted]
  if wrong:
    raise _differs(name, f'differences: {"; ".join(wrong)}')
  return differences


def _same(opened: TrainedNetwork, network: TrainedNetwork) -> bool:
  """Whether weights are equal bit for bit, and networks are made alike."""
  found, expected = opened.variables, network.variables
  return (
    opened.network.spec == network.network.spec
    and jax.tree.structure(found) == jax.tree.structure(expected)
    and all(jax.tree.leaves(jax.tree.map(np.array_equal, found, expected)))
  )


def _differs(name: str, found: str) -> InputError:
  return InputError(
    expected=f'the outputs of the network from {formats.FILES[name]}',
    found=found,
    argument='to',
    do=f'leave out {name!r}, and report this; nothing was written',
  )


def _line(name, folder, differences: Mapping[str, Any]) -> str:
  path = folder / formats.FILES[name]
  files = [p for p in (path, *path.rglob('*')) if p.is_file()]
  size = sum(p.stat().st_size for p in files) / 2**20
  found = ', '.join(f'{t} {d.text}' for t, d in differences.items())
  return f'{name}: {path.name}, {size:.1f} MB; largest differences: {found}'
