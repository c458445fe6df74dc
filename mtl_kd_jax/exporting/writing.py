"""Exports a network: writes, compares with the checkpoint, then renames."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.exporting import formats
from mtl_kd_jax.exporting import metadata as described
from mtl_kd_jax.exporting.comparison import (
  Difference,
  compare_all,
  made_pictures,
)
from mtl_kd_jax.exporting.reading import ExportedFolder
from mtl_kd_jax.exporting.serving import OUTPUTS, make_serving
from mtl_kd_jax.interop.fold_norms import cpu_device
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.trained import TrainedNetwork

DEFAULT = ('stablehlo', 'saved')


def export(
  network: TrainedNetwork,
  folder: pathlib.Path | str,
  *,
  to: Sequence[str] = DEFAULT,
  outputs: str = 'finished',
  pictures: np.ndarray | None = None,
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
    to: of 'stablehlo' (for JAX), 'onnx', 'safetensors' (weights for PyTorch)
      and 'saved' (for this package).
    outputs: of the programs: 'finished' for class ids, measurements and unit
      normals as `predict` returns them, 'raw' for what the network gives.
    pictures: uint8 [n h w 3] of the network's `image_size`, to compare on; None
      for rendered rooms and patterns.
    log: called with a line for every artifact.

  Returns:
    What was written, as `load` opens it.

  Raises:
    InputError: an argument cannot be used, a package is not installed, the
      folder has files in it, or an artifact differs from the network.
  """
  folder = paths.expand(folder, argument='folder')
  _check(network, folder, to, outputs)
  if pictures is None:
    pictures = made_pictures(network.image_size)
  _check_pictures(pictures, network.image_size)
  with _written_whole(folder) as temporary, jax.default_device(cpu_device()):
    metadata = described.make(network, outputs=outputs)
    serving = None
    if set(to) & set(formats.PROGRAMS):
      serving = make_serving(network, outputs=outputs)
      metadata['batch_norm'] = {'folded': serving.folded, 'kept': serving.kept}
    compare = functools.partial(_compare, network, temporary, metadata)
    raw = _predict(network, pictures, compiler_options('cpu'))
    artifacts = {}
    for name in dict.fromkeys(to):
      about = formats.write(name, temporary, network, serving, metadata)
      artifacts[name] = about | {'file': formats.FILES[name]}
      differences = compare(name, pictures, raw)
      if about.get('stride'):
        pictures_2 = _resized_pictures(network)
        fast = {'xla_backend_optimization_level': 0}
        raw_2 = _predict(network, pictures_2, fast)
        compare(name, pictures_2, raw_2)
      artifacts[name]['largest_difference'] = {
        task: difference.largest for task, difference in differences.items()
      }
      log(_line(name, temporary, differences))
    metadata['artifacts'] = artifacts
    text = json.dumps(metadata, indent=2)
    (temporary / described.FILE).write_text(text, encoding='utf-8')
  log(f'written to {folder}')
  return ExportedFolder(folder)


def _check(network, folder, to, outputs) -> None:
  if not isinstance(network, TrainedNetwork):
    raise InputError(
      expected="a trained network, such as mtl.load('runs/a')['distilled']",
      found=f'a {type(network).__name__}',
      argument='network',
      do='give a network of a run',
    )
  if isinstance(to, str) or not to or set(to) - formats.FILES.keys():
    raise InputError(
      expected=f'formats: {", ".join(formats.FILES)}',
      found=repr(to),
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
  for name in to:
    formats.check_installed(name)
  if 'safetensors' in to:
    formats.torch_state(network)
  if os.path.lexists(folder) and (found := _why_not_empty(folder)):
    raise InputError(
      expected='a new folder, or an empty one',
      found=found,
      where=f'{folder}',
      argument='folder',
      do='name another one, or remove what is there',
    )


def _why_not_empty(folder) -> str:
  if found := paths.why_no_folder(folder):
    return found
  if described.is_exported(folder):
    return 'an exported network, which is left as it is'
  return paths.contents(folder) if any(folder.iterdir()) else ''


def _check_pictures(pictures, size) -> None:
  shape = np.shape(pictures)
  dtype = getattr(pictures, 'dtype', None)
  if len(shape) != 4 or shape[1:] != (*size, 3) or dtype != np.uint8:
    raise InputError(
      expected=f'pictures, uint8 [n {size[0]} {size[1]} 3]',
      found=f'{dtype} {list(shape)}',
      argument='pictures',
      do='resize them, or leave them out',
    )


@contextlib.contextmanager
def _written_whole(folder: pathlib.Path):
  """A folder that gets its name when all is done; otherwise it is deleted."""
  temporary = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
  try:
    temporary.mkdir(parents=True)
    yield temporary
    if folder.exists():
      folder.rmdir()
    temporary.rename(folder)
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=f'{error}',
      where=f'{folder}',
      argument='folder',
      do='name another one, or make room',
    ) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _predict(network, pictures, options) -> dict[str, np.ndarray]:
  """What the checkpoint gives, task -> float32 [n h w c]."""
  apply = jax.jit(network.apply, compiler_options=options)
  images = pictures.astype(np.float32) / 255
  return {t: np.asarray(x) for t, x in apply(network.variables, images).items()}


def _resized_pictures(network) -> np.ndarray:
  """Pictures of another size than that of training."""
  stride = getattr(network.network.backbone, 'stride', 1)
  side = -(-32 // stride) * stride
  size = (side, side + stride)
  if size == tuple(network.image_size):
    size = (side + stride, side)
  return made_pictures(size)[1:]


def _compare(
  network, folder, metadata, name, pictures, raw
) -> dict[str, Difference]:
  """Opens an artifact again, runs it, and compares."""
  outputs = 'finished' if metadata['finished'] else 'raw'
  if name in formats.PROGRAMS:
    run = formats.open_program(name, folder)
  else:
    outputs = 'raw'
    opened = formats.open_weights(
      name, folder, metadata, module=network.network
    )
    _check_same_weights(name, opened.variables, network.variables)
    run = formats.as_raw(opened)
  found = run(pictures)
  differences = compare_all(network.tasks, found, raw, outputs=outputs)
  wrong = [f'{t}: {d.text}' for t, d in differences.items() if not d.accepted]
  if wrong:
    raise InputError(
      expected=f'the outputs of the network from {formats.FILES[name]}',
      found=f'differences: {"; ".join(wrong)}',
      argument='to',
      do=f'leave out {name!r}, and report this; nothing was written',
    )
  return differences


def _check_same_weights(name, found, expected) -> None:
  same = jax.tree.structure(found) == jax.tree.structure(expected) and all(
    np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    )
  )
  if not same:
    raise InputError(
      expected=f'the weights in {formats.FILES[name]} bit for bit',
      found='others',
      argument='to',
      do=f'leave out {name!r}, and report this; nothing was written',
    )


def _line(name, folder, differences: Mapping[str, Any]) -> str:
  path = folder / formats.FILES[name]
  files = [p for p in (path, *path.rglob('*')) if p.is_file()]
  size = sum(p.stat().st_size for p in files) / 2**20
  found = ', '.join(f'{t} {d.text}' for t, d in differences.items())
  return f'{name}: {path.name}, {size:.1f} MB; largest differences: {found}'
