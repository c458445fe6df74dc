"""What README and docs name exists, and the examples of the guide run."""

import functools
import hashlib
import json
import pathlib
import re
import shlex

from absl import flags
from fixtures.backbones import Tiny
from fixtures.paths import REPOSITORY
from flax import traverse_util
import jax
from ml_collections import config_flags
import numpy as np
from PIL import Image
import pytest

import mtl_kd_jax
from mtl_kd_jax import models
from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.config.experiments import quickstart
from mtl_kd_jax.config.renames import RENAMED
from mtl_kd_jax.config.stored import from_stored
from mtl_kd_jax.config.validate import may_change
from mtl_kd_jax.jobs import JOBS
from mtl_kd_jax.jobs.flags import define_flags

README = REPOSITORY / 'README.md'
_DOCS = REPOSITORY / 'docs'
# Pages of notebooks are written while the site is built.
DOCS = {
  str(p.relative_to(_DOCS)): p
  for p in sorted(_DOCS.rglob('*.md'))
  if p.parent.name != 'notebooks'
}
PAGES = [README, REPOSITORY / 'CONTRIBUTING.md', *DOCS.values()]
# Configs show in their docstrings how they are started.
CONFIGS = sorted((REPOSITORY / 'configs').glob('[!_]*.py'))
# Files that a page has its reader make.
OF_THE_READER = ('configs/disks.py', 'mtl_kd_jax/tasks/NAME.py')
# A file, methods of ConfigDict, and the key of an example.
NO_KEYS = ('json', 'unlocked', 'to_dict', 'distill.weights.edges')


def name_of(page):
  return str(page.relative_to(REPOSITORY))


of_every_page = pytest.mark.parametrize('page', PAGES, ids=name_of)


def python_blocks(page):
  return re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)


# ---- Files -------------------------------------------------------------------


@of_every_page
def test_files_that_a_page_names_exist(page):
  text = page.read_text()
  named = re.findall(
    r'`((?:configs|docs|mtl_kd_jax|benchmarks|tests)/[^`*<{]+)`', text
  )
  named += re.findall(r'\]\((?!https?:)([^)#]+)\)', text)
  for name in named:
    name = name.partition(':')[0]  # configs/nyuv2.py:url is a variant
    if name in OF_THE_READER:
      continue
    base = page.parent if not (REPOSITORY / name).exists() else REPOSITORY
    assert (base / name).exists(), f'{page.name} names {name}'


def test_the_map_names_every_part_of_the_package_and_nothing_else():
  (section,) = re.findall(
    r'\n## Map\n\n(.*?)\n## ', DOCS['architecture.md'].read_text(), re.DOTALL
  )
  named = set()
  for line in section.rstrip().splitlines():
    name, indent = line.split()[0], len(line) - len(line.lstrip())
    path = pathlib.Path('mtl_kd_jax' if indent > 4 else '') / name
    assert (REPOSITORY / path).exists(), path
    named.add(path)
  parts = {
    p.relative_to(REPOSITORY)
    for p in (REPOSITORY / 'mtl_kd_jax').iterdir()
    if (p / '__init__.py').exists() or p.suffix == '.py'
  }
  assert parts - named == {pathlib.Path('mtl_kd_jax/__init__.py')}


def test_the_test_command_is_that_of_ci():
  command = (REPOSITORY / '.ci' / 'run').read_text().strip().splitlines()[-1]
  assert 'pytest' in command
  assert f'\n    {command}\n' in README.read_text()


# ---- Config keys -------------------------------------------------------------


config_once = functools.cache(get_config)


comparison_once = functools.cache(
  lambda: mtl_kd_jax.config.get_config('compare/quickstart')
)


def assert_is_key(key, page):
  """Of an experiment or of a comparison."""
  first = key.partition('.')[0]
  node = config_once() if first in config_once() else comparison_once()
  for part in key.split('.'):
    assert part in node, f'{page.name} names {key}'
    node = node[part]


@of_every_page
def test_config_keys_that_a_page_names_exist(page):
  text = page.read_text()
  # Not config.md, or the module mtl_kd_jax.config.
  of_config = r'(?<![\w.])config\.(?!md\b|py\b)([a-z_][a-z0-9_.]*[a-z0-9_])'
  for key in re.findall(of_config, text):
    if key not in NO_KEYS and not key.startswith(('task.', 'data.sets.')):
      assert_is_key(key, page)
  # Also without 'config.', but for the table of what they were called once.
  text = re.sub(r'\| `[^`]*` \|(?= `[^`]*` \|\n)', '', text)
  # Those of 'task' are the reader's.
  sections = '|'.join(
    k for k, v in config_once().items() if hasattr(v, 'keys') and k != 'task'
  )
  for key in re.findall(rf'`((?:{sections})\.[a-z][a-z0-9_.]*)[`=]', text):
    if pathlib.Path(key).suffix not in ('.md', '.png'):
      assert_is_key(key, page)


def test_renamed_keys_are_listed():
  rows = re.findall(
    r'\| `(\S+)` \| `(\S+)` \|\n', DOCS['method.md'].read_text()
  )
  assert {old: new for old, new in rows if '.' in old} == RENAMED


# ---- Commands ----------------------------------------------------------------


def commands(page):
  """The command lines of a page."""
  text = page.read_text().replace('\\\n', '')
  found = re.findall(
    r'^ {4}(?:.* && )?(python launch\.py .*)$', text, re.MULTILINE
  )
  found += re.findall(r'`(python launch\.py [^`]*)`', text)
  # Within a line of a shell, that may go on or be quoted.
  for block in re.findall(r'```bash\n(.*?)```', text, re.DOTALL):
    found += re.findall(r"(python launch\.py [^&'\n]*)", block)
  # Flags alone stand for those of any config.
  found += [
    f'python launch.py --config=configs/common.py {options}'
    for options in re.findall(r'^ {4}(--config\..*)$', text, re.MULTILINE)
  ]
  return found


def parse(command, page, folder):
  """Parses a command line as launch.py does; raises where that exits."""
  _, _, *argv = shlex.split(command, comments=True)
  documented = [b for b in python_blocks(page) if 'def get_config()' in b]
  if documented:  # the config file that the page describes
    path = folder / 'mine.py'
    path.write_text(documented[0])
    argv = [re.sub(r'configs/(mine|disks)\.py', str(path), a) for a in argv]
  argv = ['launch.py', *argv]
  parsed = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', flag_values=parsed, lock_config=True, sys_argv=argv
  )
  flags.DEFINE_string('workdir', None, '', flag_values=parsed)
  flags.DEFINE_enum('job', 'train', list(JOBS), '', flag_values=parsed)
  define_flags(parsed)
  rest = parsed(argv)
  assert rest == ['launch.py'], f'{command}: not flags: {rest[1:]}'
  return parsed


def check(command, page, folder):
  parsed = parse(command, page, folder)
  this = JOBS[parsed.job]
  for job in JOBS.values():
    for option in job.options:
      assert option in this.options or not parsed[option].present, command
  if parsed.config is None:
    assert not this.needs_config, command
  else:
    experiment_of = getattr(this.module(), 'experiment_of', lambda c: c)
    assert experiment_of(parsed.config).batch_size > 0  # it could be opened


# ml_collections loads config files in a way that Python 3.12 has deprecated.
with_config_files = pytest.mark.filterwarnings(
  'ignore:the load_module:DeprecationWarning'
)


@with_config_files
@pytest.mark.parametrize('page', PAGES + CONFIGS, ids=name_of)
def test_commands_parse(page, tmp_path, monkeypatch):
  monkeypatch.chdir(REPOSITORY)
  for command in commands(page):
    check(command, page, tmp_path)


def test_the_pages_have_commands():
  counts = {name: len(commands(page)) for name, page in DOCS.items()}
  assert counts['running.md'] > 10 and counts['tpu.md'] == 1, counts
  assert counts['data/nyuv2.md'] + counts['data/cityscapes.md'] > 3, counts
  assert len(commands(README)) >= 2


@with_config_files
@pytest.mark.parametrize(
  'arguments, message',
  [
    ('--config=configs/quickstart.py --config.epoch=3', 'epoch'),
    ('--config=configs/quickstart.py --config.data.workers=1', 'workers'),
    ('--config=configs/quickstart.py --config.epochs=few', 'few'),
    ('--config=configs/nowhere.py', 'nowhere'),
    ('--config=configs/nyuv2.py:large', 'large'),
    ('--config=configs/quickstart.py --job=date', 'date'),
    ('--config=configs/quickstart.py --split=val', 'split'),
    ('--config=configs/quickstart.py --sample=3', 'sample'),
    ('--config=configs/quickstart.py now', 'now'),
    ('--workdir=runs/a', 'needs_config'),
  ],
)
def test_a_wrong_command_does_not_parse(
  arguments, message, tmp_path, monkeypatch
):
  monkeypatch.chdir(REPOSITORY)
  with pytest.raises(Exception, match=message):
    check(f'python launch.py {arguments}', README, tmp_path)


def test_the_numbers_are_those_of_the_quickstart_as_it_is():
  """Where this fails, run benchmarks/readme_numbers.py as it says."""
  shown = json.loads((REPOSITORY / 'docs' / 'quickstart.json').read_text())
  assert '\n'.join(shown['table']) in README.read_text()
  then = from_stored(shown['config'], where='docs/quickstart.json')
  now = quickstart.get_config()
  flat = [
    {
      '/'.join(path): value
      for path, value in traverse_util.flatten_dict(config.to_dict()).items()
      if not may_change('.'.join(path))
    }
    for config in (then, now)
  ]
  assert flat[0] == flat[1]
  assert '`python benchmarks/readme_numbers.py --workdir=' in README.read_text()
  picture = (REPOSITORY / 'docs' / 'quickstart.png').read_bytes()
  assert shown['picture'] == hashlib.sha256(picture).hexdigest()


# ---- Measured numbers --------------------------------------------------------

_NUMBER = r'(?:\d[\d.]*|two|three|four|five|six|seven|eight|nine|ten)'
# What only a measurement tells: times, memory, speed, and shares of a step.
MEASURED = re.compile(
  # But for limits, which are set.
  rf'(?<!within )(?<![\d.]){_NUMBER} (?:s|ms|seconds|minutes|hours|\w+/s)\b'
  rf'|{_NUMBER} [MG]i?B of memory'
  rf'|\b{_NUMBER} times (?:a|as|that)\b'
  r'|\d % of (?:a|an|the)(?: \w+)? (?:step|time)\b'
  r'|\d of (?:a|an|the|that)(?: \w+)? (?:step|of)\b'
  r'|(?:third|quarter|fifth|tenth) of (?:a|the) (?:step|time)\b'
  r'|On a real frame'
)
# What measures: a run alone says nothing of its time and memory.
COMMAND = re.compile(
  r'time -v python launch\.py|python (?:-m (?:pytest tests|timeit)|benchmarks/)'
)


def sections(text):
  """The text of each heading, as paragraphs; a list item is one."""
  for section in re.split(r'^#+ .*\n', text, flags=re.MULTILINE):
    paragraphs = re.split(r'\n\n|\n(?=- |\d\. )', section)
    yield [' '.join(p.split()) for p in paragraphs if p.strip()]


def without_command(text):
  """Paragraphs with a measured number, and no command beside it.

  A command beside a table also covers what is said of the table below it.
  """
  found = []
  for paragraphs in sections(text):
    of_table = False
    for i, paragraph in enumerate(paragraphs):
      beside = COMMAND.search(' '.join(paragraphs[max(i - 1, 0) : i + 2]))
      of_table = of_table or bool(beside and paragraph.startswith('|'))
      if MEASURED.search(paragraph) and not (beside or of_table):
        found.append(paragraph)
  return found


@of_every_page
def test_measured_numbers_have_their_command_beside_them(page):
  assert without_command(page.read_text()) == []


@pytest.mark.parametrize(
  'text',
  [
    'The run takes four to eight minutes on two cores.',
    'It needs 2 GB of memory.',
    'A frame takes about 0.1 s of one core.',
    'One step costs 2.26 times a uniform one.',
    'One more forward pass, a third of a step.',
    'A measurement costs 0.6 of a distilled step.',
    'A rule is below 1 % of a step.',
    'It reads 900 images/s.',
  ],
)
def test_a_measured_number_alone_is_found(text):
  assert without_command(f'# A\n\n{text}\n') == [text]
  command = '    python benchmarks/data.py\n'
  assert without_command(f'# A\n\n{text}\n\n{command}') == []
  elsewhere = f'{command}\n# A\n\n{text}\n\n# B\n\n{command}'
  assert without_command(elsewhere) == [text]


def test_the_pages_have_measured_numbers():
  counts = {name_of(p): len(MEASURED.findall(p.read_text())) for p in PAGES}
  assert counts['README.md'] >= 2 and counts['docs/balancing.md'] >= 5, counts


@of_every_page
def test_flags_of_benchmarks_exist(page):
  text = page.read_text().replace('\\\n', '')
  for name, arguments in re.findall(
    r'python benchmarks/(\w+)\.py([^`\n]*)', text
  ):
    source = (REPOSITORY / 'benchmarks' / f'{name}.py').read_text()
    for flag in re.findall(r'--(\w+)', arguments.partition('#')[0]):
      assert f"'{flag}'" in source or f"'--{flag}'" in source, (name, flag)


# ---- Python ------------------------------------------------------------------


def test_every_public_name_is_described():
  text = DOCS['python.md'].read_text()
  for name in mtl_kd_jax.__all__:
    assert f'`mtl.{name}`' in text, name


# What the pages do, and what the test does.
SMALLER = {
  "'resnet10', tasks, head='fpn'": "'tiny', tasks",
  "taps=('layer4', 'decoder')": "taps=('bottleneck', 'decoder')",
  'epochs=5': 'epochs=1',
  '(64, 96)': '(16, 16)',
  'num_train=512': "num_train=8, num_val=4, data_dir='data'",
  'for task in tasks}': "for task in ('depth',)}",  # as good as three of them
  "mtl.get_config('quickstart')": 'small_config()',
}


def small_config():
  config = get_config()
  config.tasks, config.epochs, config.batch_size = ('depth',), 1, 8
  config.model.backbone = 'tiny'
  config.data.data_dir = 'data'
  scenes = config.data.scenes
  scenes.image_size, scenes.num_train, scenes.num_val = (16, 16), 8, 4
  return config


def test_the_example_of_the_readme_runs():
  """It is that of docs/python.md, line for line."""
  (example,) = python_blocks(README)
  lines = example.strip().splitlines()
  assert len([line for line in lines if line]) < 15
  there = '\n'.join(python_blocks(DOCS['python.md']))
  for line in filter(None, lines):
    assert f'{line.partition("  #")[0]}\n' in re.sub('  #.*', '', there)


def test_the_examples_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(models.BACKBONES, 'tiny', Tiny)
  picture = np.zeros((40, 60, 3), np.uint8)
  Image.fromarray(picture).save('kitchen.jpg')
  scope = {'__name__': 'example', 'small_config': small_config}
  unused = set(SMALLER)
  for code in python_blocks(DOCS['python.md']):
    unused -= {old for old in unused if old in code}
    for old, new in SMALLER.items():
      code = code.replace(old, new)
    with jax.numpy_rank_promotion('allow'):
      exec(compile(code, 'docs/python.md', 'exec'), scope)
  assert not unused
  assert scope['depth'].shape == scope['prediction'].semantic.shape == (40, 60)
  assert scope['outputs']['depth'].shape == (2, 16, 16, 1)
  run = mtl_kd_jax.load('runs/a')
  trained = {'smooth', 'consistent', 'taught_by_peer', 'weighted', 'small'}
  assert trained <= set(run)
  logged = {key for line in run.log for key in line}
  assert {
    'smoothness/depth',
    'consistency/depth_normals',
    'peer/depth',
    'mutual/depth',
  } <= logged
  assert list(scope['merged']) == ['average']
