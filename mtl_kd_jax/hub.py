"""Gives a network away: a folder with a model card, and the Hugging Face Hub.

  mtl.hub.push(run['distilled'], 'user/rooms', license='apache-2.0')
  mtl.load('hf://user/rooms')['distilled'].predict('kitchen.jpg')

A saved folder is a run of one network: the student alone, with its config, its
metrics and README.md. Nothing in it names a folder of the machine that it was
trained on.
"""

from collections.abc import Mapping
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.interop import hub
from mtl_kd_jax.reports.model_card import model_card
from mtl_kd_jax.reports.tables import Results, table
from mtl_kd_jax.run import Run, write_run
from mtl_kd_jax.runtime import workdir as workdirs
from mtl_kd_jax.runtime.files import write_atomically
from mtl_kd_jax.trained import TrainedNetwork

_CARD = 'README.md'
# Keys whose values are folders or files of the machine.
_PATHS = ('data_dir', 'manual_dir', 'normals_dir', 'workdir', 'pretrained')
_ABSOLUTE = re.compile(r'[/\\~]|[A-Za-z]:[/\\]|\.\.[/\\]')


def save(
  network: TrainedNetwork,
  folder: pathlib.Path | str,
  *,
  license: str = '',
) -> list[str]:
  """Writes a network into a folder that `mtl.load` opens, with a model card.

  Args:
    network: of a run.
    folder: a new or an empty one.
    license: an identifier of the Hub, such as 'apache-2.0'; '' for none.

  Returns:
    The files, relative to the folder.

  Raises:
    InputError: the folder is not empty, or cannot be written to.
  """
  folder = paths.expand(folder, argument='folder')
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise InputError(
      expected='a new or an empty folder',
      found='something else',
      where=f'{folder}',
      argument='folder',
      do='choose another',
    )
  with tempfile.TemporaryDirectory() as temporary:
    # Checkpoints name the folder that they were written in.
    written = pathlib.Path(temporary, 'network')
    files = _write(network, written, license=license, address='')
    shutil.copytree(written, folder, dirs_exist_ok=True)
  return files


def _write(
  network: TrainedNetwork, folder: pathlib.Path, *, license: str, address: str
) -> list[str]:
  """Writes a new folder; returns its files."""
  source = Run(network.workdir) if network.workdir else None
  config = _public(source.config.to_dict()) if source else {}
  # The chosen checkpoint is the only one.
  config |= {'tasks': list(network.tasks), 'select': 'last'}
  write_run(folder, config, {network.name: network})
  if network.metrics:
    workdirs.write_metrics(folder, network.name, network.metrics)
  data = source.config.data if source else None
  card = model_card(
    network,
    title=f'{source.config.name}: {network.name}' if source else network.name,
    dataset=data.name if data else '',
    split=data.eval_split if data else '',
    results=_results(network, source),
    license=license,
    address=address,
  )
  write_atomically(folder / _CARD, card)
  (folder / '.lock').unlink(missing_ok=True)  # names this host
  return files_of(folder)


def push(
  source: TrainedNetwork | pathlib.Path | str,
  repo_id: str,
  *,
  license: str = '',
  private: bool = True,
) -> str:
  """Makes a repository of the Hub hold a network, or a folder.

  Args:
    source: a network, which is saved as `save` does; or a folder that `save` or
      an export wrote, all of whose files are pushed. No workdir of a training:
      its logs and config name folders of this machine.
    repo_id: 'user/name'; made where it does not exist.
    license: see `save`; a folder has its own card.
    private: whether a repository that is made can be seen by its owner alone.

  Returns:
    The address of the repository for a browser.

  Raises:
    InputError: huggingface_hub is missing, the Hub refuses, or there is nothing
      to push.
  """
  hub.library()  # before anything is written
  if isinstance(source, TrainedNetwork):
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary, 'network')
      files = _write(source, folder, license=license, address=f'hf://{repo_id}')
      return hub.upload(folder, repo_id, files=files, private=private)
  folder = paths.expand(source, argument='source')
  files = files_of(folder) if folder.is_dir() else []
  if not files or (folder / 'metrics.jsonl').exists():
    raise InputError(
      expected='a network, or a folder that holds one to give away',
      found='the workdir of a training' if files else 'no folder with files',
      where=f'{folder}',
      argument='source',
      do="give the network: push(mtl.load(FOLDER)['distilled'], ...)",
    )
  return hub.upload(folder, repo_id, files=files, private=private)


def pull(address: str) -> pathlib.Path:
  """The folder of a repository, in the cache of the Hub.

  Args:
    address: hf://user/name, or hf://user/name@revision.

  Raises:
    InputError: as `mtl.load` for such an address.
  """
  return hub.download(address)


def files_of(folder: pathlib.Path) -> list[str]:
  """All files of a folder but hidden ones, relative to it, sorted."""
  return sorted(
    p.relative_to(folder).as_posix()
    for p in folder.rglob('*')
    if p.is_file()
    and not any(x.startswith('.') for x in p.relative_to(folder).parts)
  )


def _results(network: TrainedNetwork, source: Run | None) -> Results | None:
  """The table of the networks of a run that have been scored."""
  scored = {network.name: network} if network.metrics else {}
  for name in source or ():
    try:
      other = source[name]
    except InputError:  # damaged, or its module is not known
      continue
    if other.metrics:
      scored.setdefault(name, other)
  return table(*scored.values()) if scored else None


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config without folders and files of this machine."""
  return {
    key: _public(value)
    if isinstance(value, Mapping)
    else ''
    if key in _PATHS
    else _without_paths(value)
    for key, value in config.items()
  }


def _without_paths(value: Any) -> Any:
  if isinstance(value, tuple | list):
    return [_without_paths(x) for x in value]
  is_path = isinstance(value, str | os.PathLike) and _ABSOLUTE.match(str(value))
  return '' if is_path else value
