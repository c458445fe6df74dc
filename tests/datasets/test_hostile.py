"""Wrong, damaged, huge, empty and hostile inputs, for every reader.

Each case damages tiny, sound data of one reader, and says what comes of it: one
error or note that names the cause, or samples that are right. What was given
stays as it is, and nothing in it is run.
"""

import hashlib
import io
import os

from hostile import CASES, READERS
import hostile_archives
import hostile_names
import hostile_pictures
import pytest
from rich.console import Console

from mtl_kd_jax import datasets
from mtl_kd_jax.datasets.check import check_dataset
from mtl_kd_jax.errors import InputError

# Each adds its cases.
_MODULES = (hostile_pictures, hostile_names, hostile_archives)


def read_all(reader, options):
  """Opens and checks a dataset, as training does; (samples, printed)."""
  dataset = datasets.make(reader, **options)
  console = Console(file=io.StringIO(), width=200)
  check_dataset(dataset, dataset.sources, console=console)
  sources = {split: dataset.source(split) for split in dataset.sources}
  samples = {s: [x[i] for i in range(len(x))] for s, x in sources.items()}
  return samples, console.file.getvalue()


def contents(root):
  """Path -> digest of every file that is not a prepared copy."""
  found = {}
  for path in sorted(root.rglob('*')):
    name = path.relative_to(root).as_posix()
    if path.is_file() and not name.startswith(('prepared', 'scenes')):
      number = os.open(path, os.O_RDONLY)  # unlike `open`, never patched
      found[name] = hashlib.sha1(os.read(number, 2**30)).hexdigest()
      os.close(number)
  return found


@pytest.mark.parametrize('name', CASES)
def test_it_ends_in_one_clear_message_or_right_samples(
  name, tmp_path, monkeypatch
):
  case = CASES[name]
  root = tmp_path / 'data'
  root.mkdir()
  options = READERS[case.reader](root)
  with monkeypatch.context() as patches:
    case.damage(root, options, patches)
    before = contents(root)
    if case.parts:
      with pytest.raises(InputError) as caught:
        read_all(case.reader, options)
      error = caught.value
      str(error).encode()  # can be printed
      for part in case.parts:
        assert part in str(error) or part == error.argument, error
      assert len(error.do) > 15
    else:
      samples, printed = read_all(case.reader, options)
      case.check(samples)
      for part in case.notes:
        assert part in printed
      if case.reader == 'folder' and not case.notes:
        assert not printed
  if 'while it is read' not in name:  # these cases are about changes
    assert contents(root) == before
  left = [path for path in root.rglob('*incomplete*')]
  assert not left
