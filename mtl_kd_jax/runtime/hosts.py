"""What the processes of a run settle before they compute together.

They talk through JAX's key-value store, which needs no device. A process whose
partner is gone does not wait here for good: see peers.py.
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import pathlib
import platform
import socket
from typing import Any

import jax

# JAX has no public interface to its key-value store.
from jax._src import distributed

from mtl_kd_jax.errors import InputError

_FOLDER = 'mtl_kd_jax'
_POLL_MS = 5_000
_BARRIER_MS = 300_000
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
_SHOWN = 5  # differences

# All processes count alike: they take the same steps.
_numbers = itertools.count()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
  """Lets the main process through first, and the others when it has left.

  So work is done once, of which all find the result. Does nothing for a single
  process.
  """
  state = distributed.global_state
  if state.client is None or state.num_processes == 1:
    yield
    return
  key = f'{_FOLDER}/first/{next(_numbers)}'
  if state.process_id:
    while _get(state.client, key) is None:
      pass
    yield
    return
  try:
    yield
  finally:  # where it failed, the others say why they do
    state.client.key_value_set(key, 'left')


def check_same(values: Mapping[str, Any]) -> None:
  """Checks that all processes of a run do the same, with the same code.

  Does nothing for a single process.

  Args:
    values: what should be equal in all processes, by its name.

  Raises:
    InputError: a process differs from the main one; in all processes.
  """
  state = distributed.global_state
  if state.client is None or state.num_processes == 1:
    return
  mine = {name: repr(value) for name, value in (values | _versions()).items()}
  folder = f'{_FOLDER}/same/{next(_numbers)}'
  if state.process_id == 0:
    state.client.key_value_set(f'{folder}/main', json.dumps(mine))
  while (text := _get(state.client, f'{folder}/main')) is None:
    pass
  main = json.loads(text)
  differing = [
    f'{name} is {mine.get(name, "absent")}, not {main.get(name, "absent")}'
    for name in sorted(mine.keys() | main.keys())
    if mine.get(name) != main.get(name)
  ]
  if differing:
    more = len(differing) - _SHOWN
    differing[_SHOWN:] = [f'and {more} more'] if more > 0 else []
    found = f'process {state.process_id} on {socket.gethostname()}: '
    state.client.key_value_set(
      f'{folder}/differ/{state.process_id}', found + '; '.join(differing)
    )
  state.client.wait_at_barrier(folder.replace('/', '_'), _BARRIER_MS)
  found = dict(state.client.key_value_dir_get(f'{folder}/differ'))
  if found:
    lines = sorted(found.values())
    raise InputError(
      expected='the same command and code on all hosts, as in process 0',
      found='\n    '.join(lines[:_SHOWN]),
      do='start the same command on all hosts, from the same version; for runs '
      'that have nothing to do with each other, do not let them join',
      argument='multihost',
    )


def _get(client, key) -> str | None:
  try:
    return client.blocking_key_value_get(key, _POLL_MS)
  except jax.errors.JaxRuntimeError as error:
    if f'{error}'.startswith('DEADLINE_EXCEEDED'):
      return None
    raise


def _versions() -> dict[str, str]:
  """Of the code that all processes have to share."""
  versions = {n: importlib.metadata.version(n) for n in _PACKAGES}
  versions['Python'] = '.'.join(platform.python_version_tuple()[:2])
  package = pathlib.Path(__file__).parents[1]
  code = hashlib.sha256()
  for file in sorted(package.rglob('*.py')):
    code.update(file.relative_to(package).as_posix().encode())
    code.update(file.read_bytes())
  versions['the code of mtl_kd_jax'] = code.hexdigest()[:12]
  return versions
