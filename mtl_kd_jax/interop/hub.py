"""Folders to and from the Hugging Face Hub; nothing here knows what is in them.

An address is hf://user/name or, for a branch, tag or commit,
hf://user/name@revision.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import importlib.util
import pathlib
import re
from typing import Any

from mtl_kd_jax.errors import InputError

# With one slash, it is what pathlib makes of it.
_ADDRESS = re.compile(r'hf:/{1,2}([^/@]+/[^/@]+?)/?(?:@(.+))?')


def is_address(path: Any) -> bool:
  """Whether a path means the Hub."""
  return str(path).startswith('hf:/')


def upload(
  folder: pathlib.Path,
  repo_id: str,
  *,
  files: Sequence[str],
  replaces: Callable[[str], bool],
  private: bool = True,
  message: str = 'Upload a network of mtl_kd_jax',
) -> str:
  """Makes a repository hold some files of a folder.

  Args:
    folder: the folder.
    repo_id: 'user/name'; made where it does not exist.
    files: what is pushed, relative to the folder.
    replaces: whether another file of the repository is deleted in the same
      commit, by its path.
    private: whether a repository that is made can be seen by its owner alone.
    message: of the commit.

  Returns:
    The address of the repository for a browser.

  Raises:
    InputError: huggingface_hub is missing, or the Hub refuses.
  """
  hub = library()
  with _refused(repo_id, 'log in (hf auth login), and check the name'):
    api = hub.HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    there = api.list_repo_files(url.repo_id)
    gone = sorted(path for path in {*there} - {*files} if replaces(path))
    operations = [hub.CommitOperationDelete(path) for path in gone]
    operations += [
      hub.CommitOperationAdd(path, folder / path) for path in files
    ]
    api.create_commit(
      url.repo_id, operations=operations, commit_message=message
    )
  return str(url)


def download(address: str) -> pathlib.Path:
  """Brings a repository into the cache of the Hub; only what is not there yet.

  Args:
    address: see above.

  Returns:
    The folder, which is not to be written to.

  Raises:
    InputError: it is no address, huggingface_hub is missing, or there is no
      such repository or no connection.
  """
  match = _ADDRESS.fullmatch(str(address))
  if not match:
    raise InputError(
      expected='an address hf://user/name, or hf://user/name@revision',
      found=repr(str(address)),
      argument='workdir',
      do='correct it',
    )
  repo_id, revision = match.groups()
  hub = library()
  with _refused(repo_id, 'check the name; for a private one: hf auth login'):
    api = hub.HfApi()
    return pathlib.Path(api.snapshot_download(repo_id, revision=revision))


def library() -> Any:
  """The module huggingface_hub; raises InputError where there is none."""
  if importlib.util.find_spec('huggingface_hub') is None:
    raise InputError(
      expected='the package huggingface_hub',
      found='none',
      argument='hf://',
      do='pip install huggingface_hub',
    )
  import huggingface_hub

  return huggingface_hub


@contextlib.contextmanager
def _refused(repo_id: str, do: str) -> Iterator[None]:
  try:
    yield
  except Exception as error:
    # Of the library, of what it connects with, and of the system.
    text = f'{type(error).__name__}: {error}'
    if error.__cause__ is not None:
      text += f' ({error.__cause__})'
    raise InputError(
      expected='a repository of the Hugging Face Hub that can be reached',
      found=' '.join(text.split())[:400],
      where=f'hf://{repo_id}',
      do=do,
    ) from error
