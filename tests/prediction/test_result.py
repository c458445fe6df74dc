"""What a prediction shows, and the files that it is saved as."""

import copy
import dataclasses
import json
import sys
import types

from fixtures.predictors import TASKS
import numpy as np
from PIL import Image, ImageShow
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction import Prediction
from mtl_kd_jax.prediction import write as writing
from mtl_kd_jax.prediction.write import read_record


def make_prediction(height=6, width=9, *, seed=0):
  rng = np.random.default_rng(seed)
  normals = rng.normal(size=(height, width, 3))
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  arrays = {
    'semantic': rng.integers(0, 3, (height, width), np.int32),
    'depth': rng.uniform(0.5, 9, (height, width)).astype(np.float32),
    'normals': normals.astype(np.float32),
  }
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  return Prediction(arrays, TASKS, image=image)


def read(path):
  with Image.open(path) as image:
    return np.array(image)


def test_what_is_saved_is_what_was_predicted(tmp_path):
  prediction = make_prediction()
  prediction['depth'][0, :3] = -0.2, 70, 1.2344
  folder = prediction.save(tmp_path / 'a' / 'kitchen')
  record = json.loads((folder / 'prediction.json').read_text())
  assert record['complete'] and record['picture'] is None
  assert (record['height'], record['width']) == (6, 9)
  assert sorted(record['files']) == sorted(
    p.name for p in folder.iterdir() if p.name != 'prediction.json'
  )
  tasks = record['tasks']
  for name, array in prediction.items():
    np.testing.assert_array_equal(np.load(folder / tasks[name]['array']), array)
    np.testing.assert_array_equal(
      read(folder / tasks[name]['colors']), prediction.render(name)
    )
  ids = read(folder / tasks['semantic']['ids'])
  assert ids.dtype == np.uint8
  np.testing.assert_array_equal(ids, prediction.semantic)
  assert tasks['semantic']['classes'] == ['a', 'b', 'c', 'd']
  assert tasks['depth']['unit'] == 'm'
  integers = tasks['depth']['integers']
  stored = read(folder / integers['file'])
  assert stored.dtype == np.uint16 and integers['too_large'] == 1
  assert stored[0, :3].tolist() == [0, 65535, 1234]  # mm
  np.testing.assert_allclose(
    stored[1:] * integers['step'], prediction.depth[1:], atol=0.00051
  )


def test_millimeters_are_kept_whatever_the_unit(tmp_path):
  arrays = {'depth': np.full((2, 3), 2500.4, np.float32)}
  depth = TASKS['depth']
  label = dataclasses.replace(depth.label, unit='mm')
  tasks = {'depth': dataclasses.replace(depth, label=label)}
  Prediction(arrays, tasks).save(tmp_path / 'a', overview=False)
  assert (read(tmp_path / 'a/depth_16bit.png') == 2500).all()
  record = read_record(tmp_path / 'a')
  assert record['tasks']['depth']['integers']['step'] == 1


@pytest.mark.parametrize('name', ['overview', 'depth_16bit'])
def test_files_of_tasks_have_different_names(name, tmp_path):
  one = np.ones((2, 3), np.float32)
  tasks = {'depth': TASKS['depth'], name: TASKS['depth']}
  prediction = Prediction({'depth': one, name: one}, tasks)
  with pytest.raises(InputError, match=f'{name}.png of'):
    prediction.save(tmp_path / 'a')
  assert not (tmp_path / 'a').exists()


def test_without_arrays_and_figure_only_pngs_are_written(tmp_path):
  prediction = make_prediction()
  prediction.save(tmp_path)
  prediction.save(
    tmp_path, raw=False, overview=False
  )  # replaces what was there
  assert {p.name for p in tmp_path.iterdir()} == {
    'prediction.json',
    'semantic.png',
    'semantic_ids.png',
    'depth.png',
    'depth_16bit.png',
    'normals.png',
  }


def test_files_that_are_not_of_a_prediction_stay(tmp_path):
  (tmp_path / 'depth.png').write_text('mine')
  with pytest.raises(InputError) as error:
    make_prediction().save(tmp_path)
  assert error.value.found == 'depth.png' and error.value.argument == 'folder'
  assert [p.name for p in tmp_path.iterdir()] == ['depth.png']
  assert (tmp_path / 'depth.png').read_text() == 'mine'
  (tmp_path / 'depth.png').rename(tmp_path / 'notes.txt')
  make_prediction().save(tmp_path)
  make_prediction().save(tmp_path)
  assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_what_was_interrupted_is_incomplete_and_replaced(tmp_path, monkeypatch):
  make_prediction().save(tmp_path)
  with monkeypatch.context() as patch:

    def killed(path, content):
      if path.name == 'normals.png':
        raise KeyboardInterrupt
      path.write_bytes(content)

    patch.setattr(writing, 'write_bytes_atomically', killed)
    with pytest.raises(KeyboardInterrupt):
      make_prediction(seed=1).save(tmp_path)
  assert read_record(tmp_path)['complete'] is False
  (tmp_path / 'depth.npy.host.1.tmp').write_bytes(b'half')
  other = make_prediction(seed=1)
  other.save(tmp_path)
  assert read_record(tmp_path)['complete'] is True
  np.testing.assert_array_equal(np.load(tmp_path / 'depth.npy'), other.depth)
  assert not list(tmp_path.glob('*.tmp'))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='folder that can be written to'):
    make_prediction().save(tmp_path / 'file' / 'a')


def test_colors_may_be_scaled_as_those_of_another_prediction():
  one, other = make_prediction(), make_prediction()
  other['depth'][:] = one.depth + 100
  np.testing.assert_array_equal(one.render('depth'), other.render('depth'))
  scaled = other.render('depth', like=one)  # all of it beyond the farthest
  farthest = one.render('depth')[one.depth == one.depth.max()]
  assert (scaled == farthest).all()


def test_the_figure_names_the_classes_that_occur_and_the_unit():
  figure = make_prediction().plot()
  titles = [axis.get_title(loc='center') for axis in figure.axes[:4]]
  assert titles == ['picture', 'semantic', 'depth', 'normals']
  (legend,) = figure.legends
  assert {t.get_text() for t in legend.get_texts()} == {'a', 'b', 'c'}
  texts = [t.get_text() for t in figure.axes[2].child_axes[0].texts]
  assert len(texts) == 2 and all(t.endswith(' m') for t in texts)


def test_a_prediction_is_shown_in_a_notebook_or_in_a_window(monkeypatch):
  shown = []
  shell = types.SimpleNamespace(kernel=object())
  ipython = types.SimpleNamespace(get_ipython=lambda: shell)
  display = types.SimpleNamespace(display=shown.append)
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, 'IPython', ipython)
    patch.setitem(sys.modules, 'IPython.display', display)
    make_prediction().show()
  assert shown.pop()._repr_png_().startswith(b'\x89PNG')
  monkeypatch.setattr(
    ImageShow, 'show', lambda image: bool(shown.append(image.size)) or True
  )
  make_prediction().show()
  assert shown[0][0] > shown[0][1] > 100
  monkeypatch.setattr(ImageShow, 'show', lambda image: False)
  with pytest.raises(InputError, match=r'prediction\.save'):
    make_prediction().show()


def test_a_prediction_without_its_picture_is_drawn_and_copied():
  prediction = copy.deepcopy(make_prediction())
  prediction.image = None
  assert len(prediction.plot().axes) == 3
