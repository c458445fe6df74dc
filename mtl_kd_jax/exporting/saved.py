"""A network by itself, as a run that names nothing of its machine."""

from collections.abc import Mapping
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any

from mtl_kd_jax.exporting.metadata import finite
from mtl_kd_jax.run import Run, write_run
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.damage import CHECKSUMS, write_checksums
from mtl_kd_jax.trained import TrainedNetwork

# Keys whose values are folders or files of the machine.
_PATHS = ('data_dir', 'manual_dir', 'normals_dir', 'workdir', 'pretrained')
# Also with a drive, and in a bucket or elsewhere.
_ABSOLUTE = re.compile(r'[/\\~]|[\w+.-]+:[/\\]|\.\.[/\\]')
# Of orbax; names the folder that a checkpoint was written in.
_COMMITTED = 'commit_success.txt'


def write_saved(network: TrainedNetwork, folder: pathlib.Path) -> None:
  """Writes a run of one network, to be given away.

  It has the config of the run that trained the network, without folders and
  files; the chosen checkpoint, which is the only one; and its metrics.

  Args:
    network: the network.
    folder: a new one.
  """
  config = {}
  if network.workdir is not None:
    config = _public(Run(network.workdir).config.to_dict())
  config |= {'tasks': list(network.tasks), 'select': 'last'}
  with tempfile.TemporaryDirectory() as temporary:
    # Checkpoints name the folder that they are written in.
    written = pathlib.Path(temporary, 'network')
    write_run(written, config, {network.name: network})
    if network.metrics:
      metrics = finite(network.metrics)
      workdirs.write_metrics(written, network.name, metrics)
    (written / '.lock').unlink(missing_ok=True)  # names this host
    for file in written.rglob(_COMMITTED):
      file.write_text('')  # that it is there is all that is asked of it
    for file in written.rglob(CHECKSUMS):
      write_checksums(file.parent)
    shutil.copytree(written, folder)


def _public(value: Any) -> Any:
  """A config, or a part of one, without folders and files of this machine."""
  if isinstance(value, Mapping):
    return {
      key: '' if key in _PATHS and not isinstance(x, Mapping) else _public(x)
      for key, x in value.items()
    }
  if isinstance(value, tuple | list):
    return [_public(x) for x in value]
  is_path = isinstance(value, str | os.PathLike) and _ABSOLUTE.match(str(value))
  return '' if is_path else value
