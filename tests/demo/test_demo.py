"""The page of the demo: what it shows, and that it starts."""

import base64
import html
import io
import re
import sys

from fixtures.launching import start_interpreter
from fixtures.samples import LABELS
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax import demo
from mtl_kd_jax.config import get_config
from mtl_kd_jax.datasets.scenes.dataset import render
from mtl_kd_jax.demo.__main__ import main
from mtl_kd_jax.demo.example import example_of
from mtl_kd_jax.demo.page import make_page, show_predictions
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction import Prediction
from mtl_kd_jax.tasks import make_tasks

TASKS = make_tasks(('semantic', 'depth', 'normals'), LABELS, dataset='x')


class Network:
  """Predicts the same for every picture, at its size."""

  def __init__(self, *tasks, depth=2.0):
    self.tasks, self.depth, self.seen = tasks, depth, []

  def predict(self, image):
    self.seen.append(image.size)
    width, height = image.size
    columns = np.arange(width, dtype=np.float32)
    maps = {
      'semantic': np.full((height, width), 1, np.int32),
      'depth': np.broadcast_to(self.depth + columns / width, (height, width)),
      'normals': np.full((height, width, 3), (0, 0, -1), np.float32),
    }
    maps['semantic'][: height // 4] = 0
    return Prediction(
      {t: maps[t] for t in self.tasks}, {t: TASKS[t] for t in self.tasks}
    )


RUN = {
  'teacher_depth': Network('depth', depth=4.0),
  'distilled': Network('semantic', 'depth', 'normals'),
}
PICTURE = np.zeros((40, 60, 3), np.uint8)


def sections(view):
  """Name of the task -> its part of the page."""
  _, *parts = re.split(r'<div class="task">', view)
  return {re.search(r'role="heading"[^>]*>([^<]+)', p)[1]: p for p in parts}


def pictures(part):
  """Network -> its picture, uint8 [h w 3]."""
  found = re.findall(
    r'src="data:image/\w+;base64,([^"]+)".*?class="network">([^<]+)',
    part,
    re.DOTALL,
  )
  return {
    name: np.array(
      Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB')
    )
    for data, name in found
  }


def test_each_task_shows_the_networks_that_have_it_side_by_side():
  parts = sections(
    show_predictions(RUN, iter(['distilled', 'teacher_depth']), PICTURE)
  )
  shown = {task: list(pictures(part)) for task, part in parts.items()}
  assert shown == {
    'depth': ['teacher_depth', 'distilled'],  # in the order of the run
    'semantic': ['distilled'],
    'normals': ['distilled'],
  }
  only = sections(show_predictions(RUN, ['teacher_depth'], PICTURE))
  assert list(only) == ['depth']


def test_depth_has_one_scale_with_units_for_all_networks():
  part = sections(show_predictions(RUN, RUN, PICTURE))['depth']
  # 2 to 3 and 4 to 5 meters, without 2 % at either end.
  ends = re.findall(r'<span>([\d.]+) m</span>', part)
  assert [float(x) for x in ends] == pytest.approx([2.04, 4.94], abs=0.02)
  found = pictures(part)
  brightness = {n: x.astype(float).sum(-1).mean() for n, x in found.items()}
  assert brightness['teacher_depth'] > 1.5 * brightness['distilled']


def test_classes_that_occur_are_named_the_largest_first():
  part = sections(show_predictions(RUN, ['distilled'], PICTURE))['semantic']
  named = re.findall(r'background: (#\w+)"></span><span>([^<]+)', part)
  classes = LABELS['semantic'].classes
  assert [name for _, name in named] == [classes[1], classes[0]]
  (shown,) = pictures(part).values()
  for (color, _), pixel in zip(named, (shown[-1, 0], shown[0, 0]), strict=True):
    assert color == '#{:02x}{:02x}{:02x}'.format(*pixel)


def test_a_large_photograph_is_reduced_before_it_is_predicted(tmp_path):
  network = Network('depth')
  Image.new('RGB', (3000, 2000)).save(tmp_path / 'a.jpg')
  show_predictions({'a': network}, ['a'], tmp_path / 'a.jpg')
  assert network.seen == [(1024, 683)]


@pytest.mark.parametrize(
  'names, picture, message',
  [
    (['distilled'], None, 'Predictions appear here'),
    ([], PICTURE, 'Choose a network'),
    (['distilled'], np.zeros((4, 4), complex), 'expected a path'),
  ],
)
def test_what_cannot_be_shown_is_said(names, picture, message):
  view = show_predictions(RUN, names, picture)
  assert message in view and 'class="predictions"' not in view


def test_what_a_file_says_is_not_taken_for_html(tmp_path):
  path = tmp_path / '<b>.png'
  path.write_bytes(b'no picture')
  view = show_predictions(RUN, ['distilled'], path)
  assert '<b>' not in view and html.escape('<b>.png') in view


class Opened(dict):
  """A run with a config."""

  def __init__(self, networks, config):
    super().__init__(networks)
    self.config = config


def test_the_example_is_a_room_that_was_not_trained_on():
  config = get_config('quickstart')
  example = np.array(example_of(Opened(RUN, config)))
  assert example.shape == (384, 576, 3)
  small = np.array(Image.fromarray(example).resize((96, 64), Image.BOX))
  expected = 255 * render(0, 'val', 0, (64, 96))['image']
  assert np.abs(small - expected).mean() < 8
  other = 255 * render(0, 'val', 1, (64, 96))['image']
  assert np.abs(small - other).mean() > 20


def test_without_data_there_is_no_example(tmp_path):
  config = get_config('nyuv2')
  config.data.data_dir = str(tmp_path / 'nowhere')
  assert example_of(Opened(RUN, config)) is None
  assert example_of(RUN) is None


def test_without_gradio_the_command_that_installs_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(InputError, match=r"pip install -e '\.\[demo\]'"):
    make_page(RUN, title='runs/a')


def test_what_is_no_run_is_one_message(tmp_path, capsys):
  assert main([f'--workdir={tmp_path}']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: expected') and str(tmp_path) in error
  assert 'Traceback' not in error


def test_the_package_says_how_it_is_started():
  assert 'python -m mtl_kd_jax.demo --workdir=' in demo.__doc__


# In a process of its own: gradio leaves sockets and threads behind.
SERVE = """
import sys
sys.path[:0] = ['tests', 'tests/demo']
from gradio_client import Client
from mtl_kd_jax.demo.page import launch_page, make_page
from mtl_kd_jax.errors import InputError
from test_demo import RUN
page = make_page(RUN, title='runs/a')
address = launch_page(page, host='127.0.0.1', port=None)
print(address, page.share_url, page.analytics_enabled)
client = Client(address, verbose=False, analytics_enabled=False)
print(client.predict(None, ['distilled'], api_name='/predict'))
try:
  port = int(address.strip('/').rpartition(':')[2])
  launch_page(make_page(RUN, title='b'), host='127.0.0.1', port=port)
except InputError as error:
  print(error)
try:
  make_page({}, title='runs/b')
except InputError as error:
  print(error)
page.close(verbose=False)
"""


def test_the_page_is_served_on_this_machine_alone():
  pytest.importorskip('gradio')
  process = start_interpreter('-c', SERVE)
  out, error = process.communicate(timeout=300)
  assert process.returncode == 0, error
  address, share_url, analytics = out.splitlines()[0].split()
  assert re.fullmatch(r'http://127\.0\.0\.1:\d+/', address)
  assert (share_url, analytics) == ('None', 'False')
  assert 'Predictions appear here' in out
  assert f'where:  {address.strip("/").removeprefix("http://")}' in out
  assert 'expected a run with a network that is finished' in out
