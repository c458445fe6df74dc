"""Imports point down, and what belongs into one file stands in one file."""

import ast
import pathlib

from conftest import REPOSITORY
import pytest

PACKAGE = REPOSITORY / 'mtl_kd_jax'

# From the top of the house to its ground: a module may import from its own
# storey and from those below it.
STOREYS = (
  ('jobs',),
  ('experiment',),
  ('config_values', 'balancing_values'),
  ('stage', 'tables', 'balance_summary', 'workdir'),
  (
    'train_step',
    'train_state',
    'task_gradients',
    'passes',
    'observation',
    'evaluation',
    'optim',
    'parallel',
    'checkpointing',
    'import_torch',
    'reporting',
    'plotting',
    'interrupts',
  ),
  ('distillation', 'models.network', 'datasets', 'objectives'),
  ('tasks', 'balancing', 'models'),
  (
    'labels',
    'step_means',
    'errors',
    'quiet',
    'allocator',
    'misfit',
    'torch_names',
  ),
)
ONLY_IN = {
  'orbax': {'checkpointing.py'},
  'matplotlib': {'plotting.py'},
  'tensorboardX': {'reporting.py'},
  'absl': {'jobs', 'experiment.py', 'datasets'},  # grain's workers: loader
  'ml_collections': {'jobs', 'experiment.py', 'config_values.py'},
  'tensorflow_datasets': {'datasets'},
  'grain': {'datasets'},
  'h5py': {'datasets'},
  'scipy': {'datasets'},
  'tensorflow': set(),
  'torch': {'import_torch.py'},
  'safetensors': {'import_torch.py'},
}
FILES = sorted(PACKAGE.rglob('*.py'))


def imported(path):
  """The absolute names of all modules that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def storey(module):
  """Index in STOREYS of the longest entry that the module falls under."""
  entries = [(e, i) for i, floor in enumerate(STOREYS) for e in floor]
  fits = [(e, i) for e, i in entries if (module + '.').startswith(e + '.')]
  return max(fits, key=lambda fit: len(fit[0]))[1] if fits else None


def relative(path):
  return path.relative_to(PACKAGE)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(relative(p)))
def test_imports_point_down(path):
  module = '.'.join(relative(path).with_suffix('').parts)
  module = module.removesuffix('.__init__')
  if module == '__init__':
    return
  own = storey(module)
  assert own is not None, f'{module} has no storey: give it one in STOREYS'
  for name in imported(path):
    other = storey(name.removeprefix('mtl_kd_jax.'))
    if name.startswith('mtl_kd_jax.') and other is not None:
      assert other >= own, f'{module} imports {name}, which stands above it'


@pytest.mark.parametrize('library', ONLY_IN)
def test_a_library_stands_only_where_it_belongs(library):
  for path in FILES:
    tops = {name.split('.')[0] for name in imported(path)}
    if library in tops:
      place = relative(path).parts[0]
      assert place in ONLY_IN[library], f'{path} imports {library}'


def test_meshes_and_pmap_stand_in_one_file():
  words = ('Mesh(', 'NamedSharding(', 'jax.pmap(', 'shard_map')
  for path in FILES:
    if path.name != 'parallel.py':
      found = [word for word in words if word in path.read_text()]
      assert not found, f'{path}: {found}'


def test_no_key_is_defaulted_outside_the_configs():
  for path in FILES:
    assert 'config.get(' not in path.read_text(), path


def test_no_file_is_called_utils():
  assert not list(pathlib.Path(PACKAGE).rglob('*utils*.py'))
