"""What README and docs name exists, and their Python examples run."""

import re

from fixtures.paths import REPOSITORY
import pytest

PAGES = [REPOSITORY / 'README.md', *(REPOSITORY / 'docs').glob('*.md')]
PYTHON = REPOSITORY / 'docs' / 'python.md'
# With a flag that is no key: config.json is a file of a run.
NOT_KEYS = ('config.json',)


def blocks(page, language='python'):
  return re.findall(rf'```{language}\n(.*?)```', page.read_text(), re.DOTALL)


def test_there_are_pages():
  assert {'README.md', 'python.md', 'method.md'} <= {p.name for p in PAGES}


# ---- Files, keys and commands ------------------------------------------------


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_files_that_a_page_names_exist(page):
  text = page.read_text()
  named = re.findall(
    r'`((?:configs|docs|mtl_kd_jax|benchmarks|tests)/[^`*<{]+)`', text
  )
  named += re.findall(r'\]\((?!https?:)([^)#]+)\)', text)
  for name in named:
    name = name.partition(':')[0]  # configs/nyuv2.py:url is a variant
    base = page.parent if not (REPOSITORY / name).exists() else REPOSITORY
    assert (base / name).exists(), f'{page.name} names {name}'


def test_the_map_of_the_readme_names_files_and_folders_that_exist():
  (text,) = re.findall(r'## Map\n\n(.*?)\n## ', README, re.DOTALL)
  folder, named = '', set()
  for line in text.splitlines():
    if not line.strip():
      continue
    indent = len(line) - len(line.lstrip())
    path = line.split()[0]
    if indent == 4:
      folder = path if path.endswith('/') else ''
    full = path if indent == 4 else folder + path
    assert (REPOSITORY / full).exists(), full
    named.add(full.rstrip('/'))
  package = REPOSITORY / 'mtl_kd_jax'
  for entry in package.iterdir():
    if (entry / '__init__.py').exists() or entry.suffix == '.py':
      assert f'mtl_kd_jax/{entry.name}' in named | {'mtl_kd_jax/__init__.py'}
