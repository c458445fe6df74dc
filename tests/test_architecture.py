"""Imports point down, and what belongs into one file stands in one file."""

import ast
import functools
import graphlib
import importlib
import pathlib
import re

from fixtures.paths import REPOSITORY
import pytest

PACKAGE = REPOSITORY / 'mtl_kd_jax'

# From the top of the house to its ground: a module may import from its own
# floor and from those below it.
FLOORS = (
  ('__init__', '__main__', 'demo', 'hub', 'jobs', 'teaching', 'trainer'),
  ('exporting', 'run', 'trained', 'prediction', 'reports'),
  ('methods', 'config'),
  ('training',),
  (
    'distillation',
    'balancing',
    'models',
    'tasks',
    'datasets',
    'interop',
    'runtime',
  ),
  ('ops', 'labels', 'errors'),
)
ONLY_IN = {
  'orbax': {'runtime/checkpoint_io.py'},
  'matplotlib': {'reports'},
  'tensorboardX': {'runtime/trackers/tensorboard.py'},
  'wandb': {'runtime/trackers/wandb.py'},
  'huggingface_hub': {'interop/hub.py'},
  'mlflow': {'runtime/trackers/mlflow.py'},
  'absl': {
    '__main__.py',
    'jobs',
    'config',
    'datasets/loader.py',
  },  # grain's workers: loader
  'ml_collections': {'jobs', 'config', 'run.py', 'trainer.py', '__init__.py'},
  'tensorflow_datasets': {'datasets'},
  'grain': {'datasets'},
  'h5py': {'datasets'},
  'scipy': {'datasets', 'reports'},
  'tensorflow': set(),
  'gradio': {'demo/page.py'},
  'torch': {'interop/import_torch.py'},
  'safetensors': {'interop/import_torch.py', 'interop/export_torch.py'},
  'onnx': {'interop/onnx_writer.py'},
  'onnxruntime': {'exporting/formats.py'},
}
# Not runs/<config.name>, jax.config or the name of the balancer 'config'.
KEY = re.compile(
  r'--config|\bconfig\.(data|balancing|model|distill|optim|teacher)\b'
)
FILES = sorted(PACKAGE.rglob('*.py'))


@functools.cache
def nodes_of(path):
  """All nodes of a file's syntax tree."""
  return tuple(ast.walk(ast.parse(path.read_text())))


def imported(path):
  """The absolute names of all modules that a file imports."""
  for node in nodes_of(path):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def floor(module):
  """Index in FLOORS of the longest entry that the module falls under."""
  entries = [(e, i) for i, rooms in enumerate(FLOORS) for e in rooms]
  fits = [(e, i) for e, i in entries if (module + '.').startswith(e + '.')]
  return max(fits, key=lambda fit: len(fit[0]))[1] if fits else None


def relative(path):
  return path.relative_to(PACKAGE)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(relative(p)))
def test_imports_point_down(path):
  module = '.'.join(relative(path).with_suffix('').parts)
  module = module.removesuffix('.__init__')
  own = floor(module)
  assert own is not None, f'{module} has no floor: give it one in FLOORS'
  for name in imported(path):
    other = floor(name.removeprefix('mtl_kd_jax.'))
    if name.startswith('mtl_kd_jax.') and other is not None:
      assert other >= own, f'{module} imports {name}, which stands above it'


@pytest.mark.parametrize('library', ONLY_IN)
def test_a_library_stands_only_where_it_belongs(library):
  for path in FILES:
    tops = {name.split('.')[0] for name in imported(path)}
    if library in tops:
      places = {str(relative(path)), relative(path).parts[0]}
      assert places & ONLY_IN[library], f'{path} imports {library}'


def test_meshes_and_pmap_stand_in_one_file():
  words = ('Mesh(', 'NamedSharding(', 'jax.pmap(', 'shard_map(')
  for path in FILES:
    if path.name != 'parallel.py':
      found = [word for word in words if word in path.read_text()]
      assert not found, f'{path}: {found}'


def test_no_message_below_the_config_names_a_key_of_it():
  """Functions name their arguments; config/ translates."""
  above = ('config', 'methods', 'jobs', 'trainer.py', 'run.py')
  above += ('__init__.py', '__main__.py')
  for path in FILES:
    if relative(path).parts[0] in above:
      continue
    for node in nodes_of(path):
      if isinstance(node, ast.Constant) and isinstance(node.value, str):
        assert not KEY.search(node.value), f'{path}: {node.value[:80]}'


def test_no_key_is_defaulted_outside_the_configs():
  for path in FILES:
    assert 'config.get(' not in path.read_text(), path


def test_no_file_is_called_utils():
  assert not list(pathlib.Path(PACKAGE).rglob('*utils*.py'))


# What a package needs of its own floor and of those below; sideways, packages
# of a floor may use each other, but never in a circle.
def test_packages_do_not_import_each_other_in_a_circle():
  arrows = {}
  for path in FILES:
    own = relative(path).parts[0].removesuffix('.py')
    for name in imported(path):
      if name.startswith('mtl_kd_jax.'):
        other = name.split('.')[1]
        if other != own:
          arrows.setdefault(own, set()).add(other)
  list(graphlib.TopologicalSorter(arrows).static_order())


@pytest.mark.parametrize(
  'path',
  sorted((REPOSITORY / 'benchmarks').glob('*.py')),
  ids=lambda path: path.name,
)
def test_what_a_benchmark_imports_is_there(path):
  """Nothing else runs them."""
  for node in nodes_of(path):
    if isinstance(node, ast.ImportFrom) and PACKAGE.name in node.module:
      module = importlib.import_module(node.module)
      for alias in node.names:
        if not hasattr(module, alias.name):
          importlib.import_module(f'{node.module}.{alias.name}')
