"""The site of the documentation builds, and its reference lacks nothing."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import zlib

from fixtures.once import made_once
from fixtures.paths import REPOSITORY
from flax import traverse_util
import pytest
from test_readme import DOCS, PAGES, README, name_of, python_blocks

import mtl_kd_jax as mtl
from mtl_kd_jax import balancing, datasets, distillation, models, tasks
from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.jobs import JOBS

SUBMODULES = (
  balancing,
  datasets,
  distillation,
  importlib.import_module('mtl_kd_jax.methods'),
  models,
  importlib.import_module('mtl_kd_jax.reports.plots'),
  tasks,
)


# As CONTRIBUTING.md says, but for where it goes.
COMMAND = 'python -m sphinx -W --keep-going docs build/docs'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The folder of the site."""
  pytest.importorskip('furo')
  pytest.importorskip('myst_parser')

  def build(folder):
    arguments = COMMAND.replace('build/docs', str(folder)).split()
    done = subprocess.run(
      [sys.executable, *arguments[1:], '-q'],
      cwd=REPOSITORY,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return str(folder)

  return pathlib.Path(made_once(tmp_path_factory, 'site', build))


def test_contributors_are_told_how_to_build_it():
  assert f'\n{COMMAND}\n' in (REPOSITORY / 'CONTRIBUTING.md').read_text()


@pytest.fixture(scope='module')
def inventory(site):
  """The names that the site describes, by kind ('py:class', 'std:confval')."""
  content = (site / 'objects.inv').read_bytes()
  lines = zlib.decompress(content.split(b'\n', 4)[4]).decode().splitlines()
  names = {}
  for line in lines:
    name, kind = line.split()[:2]
    names.setdefault(kind, set()).add(name)
  return names


def described(inventory):
  """Everything in Python that the site describes."""
  return set().union(*(v for k, v in inventory.items() if k.startswith('py:')))


def test_every_public_name_is_in_the_reference(inventory):
  names = described(inventory)
  for name in mtl.__all__:
    if inspect.ismodule(getattr(mtl, name)):
      page = f'reference/{name}.md'
      assert page in DOCS, name
      assert DOCS[page].read_text().startswith(f'# mtl.{name}\n')
    else:
      assert f'mtl_kd_jax.{name}' in names, name


# Values; the pages name them in the text.
VALUES = {
  'BACKBONES',
  'BALANCERS',
  'DATASETS',
  'GRADIENT_BALANCERS',
  'HEADS',
  'IMAGE_HEADS',
  'KINDS',
  'LOSSES',
  'METHODS',
  'OUTPUT_STRIDES',
  'Sample',
  'TASKS',
}


@pytest.mark.parametrize('module', SUBMODULES, ids=lambda m: m.__name__)
def test_every_public_name_of_a_submodule_is_in_the_reference(
  module, inventory
):
  names = described(inventory)
  page = DOCS[f'reference/{module.__name__.split(".")[1]}.md'].read_text()
  for name in module.__all__:
    if name in VALUES:
      assert re.search(rf'`(\w+\.)?{name}`', page), name
    else:
      assert f'{module.__name__}.{name}' in names, name


def test_every_entry_of_a_registry_is_in_the_reference(inventory):
  names = described(inventory)
  registries = [
    balancing.BALANCERS,
    balancing.GRADIENT_BALANCERS,
    distillation.LOSSES,
    models.BACKBONES,
    models.HEADS,
    models.IMAGE_HEADS,
  ]
  made_by = [entry for registry in registries for entry in registry.values()]
  for kind in tasks.KINDS.values():
    made_by += [kind.describe, kind.make]
  for entry in made_by:
    entry = getattr(entry, 'func', entry)
    assert f'{entry.__module__}.{entry.__name__}' in names, entry
  for module in datasets.DATASETS.values():
    assert f'{module}.make' in names


def test_every_config_key_is_in_the_reference_and_nothing_else(inventory):
  keys = traverse_util.flatten_dict(
    get_config().to_dict(),
    keep_empty_nodes=True,
    is_leaf=lambda path, _: path == ('distill', 'weights'),  # one, by task
  )
  sections = {'data.nyuv2', 'data.sets', 'data.svhn', 'task'}  # without a key
  expected = {'.'.join(key) for key in keys} - sections
  assert inventory['std:confval'] == expected


def test_comments_and_defaults_of_keys_are_shown(site):
  page = (site / 'reference/config.html').read_text()
  text = re.sub(r'\s+', ' ', re.sub(r'<[^>]*>', '', page))
  assert 'Samples in a step, over all devices of all hosts.' in text
  assert 'a longer direction is shortened to this norm' in text
  assert re.search(r'optim\.learning_rate\S* Default: 0\.0001', text)
  assert re.search(r'balancing\.nash_mtl\.max_norm\S* Default: 1\.0', text)


def test_every_job_is_in_the_reference(site):
  page = (site / 'reference/command_line.html').read_text()
  text = re.sub(r'<[^>]*>', '', page)
  for name, job in JOBS.items():
    assert f'--job={name}' in text
    for flag in job.options:
      assert f'--{flag}' in text


SUFFIXES = ('.ipynb', '.py')


def test_the_notebooks_are_pages(site):
  folder = REPOSITORY / 'notebooks'
  stems = {p.stem for p in folder.glob('[0-9]_*') if p.suffix in SUFFIXES}
  built = {p.stem for p in (site / 'notebooks').glob('*.html')}
  assert stems == built


def test_the_home_page_has_the_numbers_of_the_readme(site):
  page = (site / 'index.html').read_text()
  (row,) = re.findall(r'^\| distilled \|(.*)\|$', README.read_text(), re.M)
  for number in row.split('|'):
    assert f'>{number.strip()}<' in page.replace('<p>', '').replace('</p>', '')


# ---- Python blocks -----------------------------------------------------------


def attribute(node):
  """'mtl.models.make' of the node of that expression, or ''."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute) and (of := attribute(node.value)):
    return f'{of}.{node.attr}'
  return ''


def resolve(name, scope):
  """What a dotted name of a block is, where it begins with an import."""
  first, *rest = name.split('.')
  found = scope[first]
  for part in rest:
    found = getattr(found, part)
  return found


def check_block(code):
  """Raises where a block names what this package does not have."""
  tree = ast.parse(code)
  scope = {'mtl': mtl}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and 'mtl_kd_jax' in node.module:
      exec(ast.unparse(node), scope)
  for node in ast.walk(tree):
    name = attribute(node.func) if isinstance(node, ast.Call) else ''
    if name.split('.')[0] in scope:
      called = resolve(name, scope)
      given = [k.arg for k in node.keywords]
      positional = [None] * len(node.args)
      if None not in given:
        inspect.signature(called).bind(*positional, **dict.fromkeys(given))
    name = attribute(node) if isinstance(node, ast.Attribute) else ''
    if name.split('.')[0] in scope:
      resolve(name, scope)


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_names_and_arguments_of_python_blocks_exist(page):
  for code in python_blocks(page):
    check_block(code)


@pytest.mark.parametrize(
  'code',
  [
    'mtl.loads("runs/a")',
    'mtl.load("runs/a", best=True)',
    'mtl.balancing.nothing',
    'from mtl_kd_jax import nothing',
    'from mtl_kd_jax import balancing\nbalancing.make()',
    'def f(:',
  ],
)
def test_a_wrong_block_is_found(code):
  errors = (AttributeError, ImportError, TypeError, SyntaxError)
  with pytest.raises(errors):
    check_block(code)


def test_the_block_for_users_of_torchjd_gives_their_numbers():
  (code,) = python_blocks(DOCS['coming_from.md'])
  expected = [
    float(x) for x in re.findall(r'# ([\d., ]+)$', code)[0].split(',')
  ]
  scope = {}
  exec(code, scope)
  assert scope['combined'].direction.tolist() == pytest.approx(
    expected, abs=1e-4
  )


def test_the_folder_of_the_tutorial_is_what_its_config_describes(
  tmp_path, monkeypatch
):
  draw, config, _, _ = python_blocks(DOCS['tutorials/own_data.md'])
  monkeypatch.chdir(tmp_path)
  exec(draw, {})
  scope = {}
  monkeypatch.syspath_prepend(str(REPOSITORY))
  exec(config, scope)
  data = scope['get_config']().data
  dataset = datasets.make('folder', data_dir='disks', **data.folder.to_dict())
  assert [len(dataset.source(s)) for s in ('train', 'val')] == [16, 8]
  sample = dataset.source('val')[0]
  assert set(sample['semantic'].flat) == {0, 1}
  assert sample['depth'].max() == 4
  assert sample['depth'][sample['semantic'] == 1].max() <= 3


# ---- Coming from other code --------------------------------------------------


def rows_of(header):
  """The cells of each row of the table that has this header."""
  text = DOCS['coming_from.md'].read_text()
  (table,) = re.findall(rf'^\| {header} \|.*\n((?:\|.*\n)*)', text, re.M)
  rows = [line.strip('| ').split(' | ') for line in table.splitlines()[1:]]
  return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize(
  'header, least', [('weighting', 24), ('aggregator', 20), ('scalarizer', 6)]
)
def test_balancers_that_the_tables_of_other_code_name_exist(header, least):
  known = balancing.BALANCERS | balancing.GRADIENT_BALANCERS
  rows = rows_of(header)
  assert len(rows) >= least
  for _, name, *arguments in rows:
    names = re.findall(r'`(\w+)`', name)
    assert names or name == '–'
    found = [n for n in names if n in known]
    assert found or hasattr(balancing, (names or ['make'])[0]), name
    for option in re.findall(r' is `(\w+)`', ''.join(arguments)):
      assert option in balancing.options(found[0]), (name, option)


# ---- Troubleshooting ---------------------------------------------------------


def strings(path):
  """All text of a file, the pieces of f-strings with ... between them."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.JoinedStr):
      pieces = [getattr(part, 'value', None) for part in node.values]
      yield ''.join(p if isinstance(p, str) else '...' for p in pieces)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


def test_messages_that_troubleshooting_explains_exist():
  text = DOCS['troubleshooting.md'].read_text()
  messages = re.findall(r'^\| expected ([^|]*) \|', text, re.M)
  assert len(messages) > 12
  package = sorted((REPOSITORY / 'mtl_kd_jax').rglob('*.py'))
  there = ' '.join(' '.join(strings(path)) for path in package)
  for message in messages:
    for piece in re.split(r'\.\.\.|[;,]', message):
      assert piece.strip() in there, (message, piece)


# ---- Files of the project ----------------------------------------------------


def test_the_citation_and_the_changelog_are_of_this_version():
  citation = (REPOSITORY / 'CITATION.cff').read_text()
  assert f'\nversion: {mtl.__version__}\n' in citation
  assert f'\n## {mtl.__version__}' in DOCS['changelog.md'].read_text()
