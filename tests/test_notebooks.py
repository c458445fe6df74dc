"""The notebooks run from the first cell to the last, and are in step."""

import ast
import json
import re

from fixtures.backbones import Tiny
from fixtures.paths import REPOSITORY
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import pytest

from mtl_kd_jax import models

SOURCES = sorted((REPOSITORY / 'notebooks').glob('[0-9]_*.py'))
# What the cells tagged 'parameters' set, and what the test sets instead.
SMALLER = {
  'IMAGE_SIZE': (32, 32),
  'NUM_TRAIN': 8,
  'NUM_VAL': 4,
  'TASKS': ('semantic', 'depth'),
  'EPOCHS': 1,
  'NETWORK': {'backbone': 'tiny'},
  'SMALL': {'backbone': 'tiny'},
  'LARGE': {'backbone': 'tiny'},
  'PHOTO_SIZE': (40, 60),
  'FORMATS': ('stablehlo',),  # CI does not install ONNX
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


def test_there_are_five():
  assert [path.stem[0] for path in SOURCES] == list('12345')


@of_every_notebook
def test_the_files_of_a_notebook_are_in_step(path):
  """After an edit: jupytext --update --to ipynb notebooks/*.py."""
  notebook = json.loads(path.with_suffix('.ipynb').read_text())
  stored = [
    (
      cell['cell_type'],
      ''.join(cell['source']),
      cell['metadata'].get('tags', []),
    )
    for cell in notebook['cells']
  ]
  assert stored == list(cells(path))
  # It was run as a whole, and what it shows is kept.
  counts = [c.get('execution_count') for c in notebook['cells']]
  counts = [count for count in counts if count is not None]
  assert counts == list(range(1, 1 + len(counts))) and len(counts) > 5
  outputs = [o for c in notebook['cells'] for o in c.get('outputs', ())]
  assert any('image/png' in o.get('data', {}) for o in outputs)
  assert not any(o['output_type'] == 'error' for o in outputs)


@of_every_notebook
def test_a_notebook_opens_in_colab(path):
  found = list(cells(path))
  assert f'/blob/main/notebooks/{path.stem}.ipynb)' in found[0][1]
  installing = [text for _, text, _ in found if "'pip'" in text]
  assert len(installing) == 1
  assert any('GPU or TPU' in text for kind, text, _ in found)
  folder = path.parent
  for _, text, _ in found:
    for link in re.findall(r'\]\((?!https:)([^)#]+)\)', text):
      assert (folder / link).exists(), link


def test_the_notebooks_run(tmp_path, monkeypatch, capsys):
  """In one process, and one folder: later ones read what is trained."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(models.BACKBONES, 'tiny', Tiny)
  with jax.numpy_rank_promotion('allow'):
    first, own, balance, kinds, export = map(execute, SOURCES)
  plt.close('all')
  rows = ['single-task', 'uniform', 'distilled']
  assert list(first['table'].rows) == rows
  # What the second notebook says of its data.
  shown = capsys.readouterr().out
  assert 'expected a file for each of 12 frames' in shown
  assert (
    shown.count('what looks wrong: 2')
    == shown.count('nothing looks wrong')
    == 1
  )
  assert own['data'].labels['depth'].unit == 'm'
  # What the third one says of balancers.
  cosines = {
    name: [float(jnp.vdot(g, d)) for g in balance['gradients'].values()]
    for name, d in balance['directions'].items()
  }
  assert cosines['the sum'][1] < 0
  assert all(min(x) > 0 for name, x in cosines.items() if name != 'the sum')
  assert set(kinds['run']) >= {'teacher_semantic', 'teacher_depth'}
  assert kinds['mutual'].network.channels.keys() == {'depth'}
  assert export['prediction'].depth.shape == (40, 60)
  assert export['outputs']['depth'].shape == (2, 32, 32)
  assert export['again'].format == 'stablehlo'
