"""Networks to and from the Hugging Face Hub.

  mtl.hub.push(run['distilled'], 'user/rooms', license='apache-2.0')
  mtl.load('hf://user/rooms')['distilled'].predict('kitchen.jpg')

What is pushed is an exported folder: the student alone, with a model card.
Nothing in it names a folder of the machine that it was trained on.
"""

import pathlib
import re
import tempfile

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, what_is
from mtl_kd_jax.exporting import export
from mtl_kd_jax.exporting import metadata as described
from mtl_kd_jax.exporting.card import CARD, write_card
from mtl_kd_jax.exporting.formats import FILES, RUNNER
from mtl_kd_jax.interop import hub
from mtl_kd_jax.trained import TrainedNetwork

# What `export` writes but for the card, at the top of the folder.
_WRITTEN = {*FILES.values(), RUNNER, described.FILE}
_SAVED = {'config.json', 'plan.json', 'checkpoints'}  # in the folder 'saved'
# What `load` takes after hf://.
_REPOSITORY = re.compile(r'[\w.-]+/[\w.-]+', re.ASCII)


def push(
  source: TrainedNetwork | pathlib.Path | str,
  repo_id: str,
  *,
  license: str = '',
  private: bool = True,
) -> str:
  """Makes a repository of the Hub hold a network.

  What an earlier push left of other formats is deleted in the same commit.
  Files that no export writes are left alone; README.md is replaced.

  Args:
    source: a network, which is exported as 'saved'; or a folder that `export`
      wrote, with nothing else in it. No workdir: its logs and config name
      folders of this machine.
    repo_id: 'user/name'; made where it does not exist.
    license: an identifier of the Hub, such as 'apache-2.0'; '' for none. A
      folder has its own card.
    private: whether a repository that is made can be seen by its owner alone.

  Returns:
    The address of the repository for a browser.

  Raises:
    InputError: huggingface_hub is missing, the Hub refuses, `repo_id` is not
      such a name, or there is nothing to push, or more than export wrote.
  """
  if not isinstance(repo_id, str) or not _REPOSITORY.fullmatch(repo_id):
    raise InputError(
      expected="the name of a repository, 'user/name'",
      found=what_is(repo_id),
      argument='repo_id',
      do='give both parts: your name on the Hub, and one for the network',
    )
  hub.library()  # before anything is written
  if isinstance(source, TrainedNetwork):
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary, 'network')
      export(source, folder, to=['saved'], log=lambda line: None)
      write_card(source, folder, license=license, address=f'hf://{repo_id}')
      return _upload(folder, repo_id, private)
  folder = paths.local(source, argument='source')
  if not described.is_exported(folder):
    raise InputError(
      expected='a network, or a folder that export wrote',
      found='another folder' if folder.is_dir() else 'no folder',
      where=f'{folder}',
      argument='source',
      do="give the network: push(mtl.load(FOLDER)['distilled'], ...)",
    )
  described.read(folder)  # refuses another program's file of that name
  if others := [f for f in files_of(folder) if not _is_written(f)]:
    raise InputError(
      expected='a folder with what export wrote, and nothing else',
      found=paths.some(others),
      where=f'{folder}',
      argument='source',
      do='move these elsewhere; they would be published',
    )
  return _upload(folder, repo_id, private)


def _upload(folder: pathlib.Path, repo_id: str, private: bool) -> str:
  return hub.upload(
    folder,
    repo_id,
    files=files_of(folder),
    replaces=lambda path: path.partition('/')[0] in _WRITTEN,
    private=private,
  )


def _is_written(file: str) -> bool:
  """Whether `export` writes a file of that name, relative to its folder."""
  top, _, rest = file.partition('/')
  if top == FILES['saved']:
    return rest.partition('/')[0] in _SAVED
  return file in {*_WRITTEN, CARD}


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
