"""What README and docs say is there, is there."""

import re

from fixtures.paths import REPOSITORY
import pytest

PAGES = [REPOSITORY / 'README.md', *(REPOSITORY / 'docs').glob('*.md')]


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


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_config_keys_that_a_page_names_exist(page):
  from mtl_kd_jax.config.defaults import get_config

  config = get_config()
  for key in re.findall(
    r'config\.([a-z_][a-z0-9_.]*[a-z0-9_])', page.read_text()
  ):
    if key in ('data.scenes', 'json', 'name'):
      continue
    node = config
    for part in key.split('.'):
      assert part in node, f'{page.name} names config.{key}'
      node = node[part]
