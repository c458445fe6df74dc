"""The notebooks run from the first cell to the last, and are in step."""

import ast
import json
import re

from fixtures.backbones import Tiny
from fixtures.paths import REPOSITORY
import jax
import pytest

from mtl_kd_jax import models

SOURCES = sorted((REPOSITORY / 'notebooks').glob('*.py'))
# What the cells tagged 'parameters' set, and what the test sets instead.
SMALLER = {
  'IMAGE_SIZE': (32, 32),
  'NUM_TRAIN': 8,
  'NUM_VAL': 4,
  'EPOCHS': 1,
  'NETWORK': {'backbone': 'tiny'},
  'TAPS': ('bottleneck', 'decoder'),
}
CELL = re.compile(
  r'^# %%(?P<markdown> \[markdown\])?(?: tags=(?P<tags>.*))?\n'
  r'(?P<text>(?:(?!# %%).*\n)*)',
  re.MULTILINE,
)
of_every_notebook = pytest.mark.parametrize(
  'path', SOURCES, ids=lambda p: p.stem
)


def cells(path):
  """Type, source and tags of all cells of a script in the percent format."""
  for cell in CELL.finditer(path.read_text()):
    text, tags = cell['text'].strip('\n'), json.loads(cell['tags'] or '[]')
    if cell['markdown']:
      text = re.sub(r'^# ?', '', text, flags=re.MULTILINE)
    yield 'markdown' if cell['markdown'] else 'code', text, tags


def execute(path):
  """Runs the cells of a notebook; returns what they leave behind."""
  scope = {'__name__': '__main__'}
  for kind, text, tags in cells(path):
    if kind == 'markdown':
      continue
    *body, last = ast.parse(text).body
    if not isinstance(last, ast.Expr):
      body, last = [*body, last], None
    exec(compile(ast.Module(body, []), path.name, 'exec'), scope)
    if last is not None:
      shown = eval(
        compile(ast.Expression(last.value), path.name, 'eval'), scope
      )
      show(shown)
    if 'parameters' in tags:
      scope |= {k: SMALLER[k] for k in SMALLER if k in scope}
  return scope


def show(value):
  """Makes what a notebook shows of the value of its last line."""
  for kind in ('png', 'markdown'):
    if hasattr(value, f'_repr_{kind}_'):
      assert getattr(value, f'_repr_{kind}_')()


def test_the_notebooks_run(tmp_path, monkeypatch):
  """In one process, and one folder: later ones read what is trained."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(models.BACKBONES, 'tiny', Tiny)
  with jax.numpy_rank_promotion('allow'):
    scopes = {path.stem[0]: execute(path) for path in SOURCES}
  assert list(scopes['1']['table'].rows) == [
    'single-task',
    'uniform',
    'distilled',
  ]
