"""Which files are meant, and what their predictions are called."""

import json
import os
import pathlib

import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.inputs import find_inputs


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('a.jpg', 'b.png', 'b.JPG', 'x/a.jpg', 'x/y/c.jpg', 'notes.txt'):
    path = pathlib.Path('photos', name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')
  pathlib.Path('photos/clip.mp4').write_bytes(b'')
  pathlib.Path('photos/.hidden.jpg').write_bytes(b'')


def names(images, lines=()):
  return {str(x.path): x.name for x in find_inputs(images, lines=lines)}


def test_a_folder_is_its_pictures_and_videos():
  assert names('photos') == {
    'photos/a.jpg': 'a',
    'photos/b.JPG': 'b.JPG',  # told apart from b.png
    'photos/b.png': 'b.png',
    'photos/clip.mp4': 'clip',
  }


def test_a_pattern_is_the_files_that_it_fits():
  assert names('photos/*.jpg') == {'photos/a.jpg': 'a'}
  assert names('photos/**/*.jpg') == {
    'photos/a.jpg': 'a',
    'photos/x/a.jpg': 'x/a',
    'photos/x/y/c.jpg': 'x/y/c',
  }
  assert 'photos/notes.txt' in names('photos/*')  # which is named at the end
  assert names('photos/[ab].*') == names('./photos/[ab].*')


def test_what_was_predicted_is_not_predicted():
  """By the same command, with a folder for it below the pattern."""
  picture, clip = (pathlib.Path('photos/x/out', n) for n in ('a', 'clip'))
  for folder, name, record in (
    (picture, 'overview.png', 'prediction.json'),
    (clip, 'depth.mp4', 'video.json'),
  ):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b'')
    (folder / record).write_text(json.dumps({'files': [name]}))
  (picture / 'mine.jpg').write_bytes(b'')
  found = [f'{x.path}' for x in find_inputs('photos/**/*.*')]
  assert {'photos/x/a.jpg', f'{picture}/mine.jpg'} <= {*found}
  assert not any('overview' in path or 'depth' in path for path in found)
  assert [x.name for x in find_inputs(f'{picture}')] == ['mine']
  # Who names nothing else means them.
  for images in (f'{clip}/depth.mp4', f'{clip}', 'photos/**/depth.mp4'):
    assert [x.path.name for x in find_inputs(images)] == ['depth.mp4']


def test_a_file_may_have_the_name_of_a_pattern():
  pathlib.Path('photos/[1].jpg').write_bytes(b'')
  assert names('photos/[1].jpg') == {'photos/[1].jpg': '[1]'}
  assert names('photos/a.jpg') == {'photos/a.jpg': 'a'}


def test_a_list_is_named_below_its_common_folder_and_each_once():
  lines = [
    'photos/x/a.jpg\n',
    '\n',
    'photos/x/y/c.jpg\r\n',
    'photos/nowhere.png',
  ]
  lines += [os.path.abspath('photos/x/a.jpg')]
  assert names('-', lines) == {
    'photos/x/a.jpg': 'x/a',
    'photos/x/y/c.jpg': 'x/y/c',
    'photos/nowhere.png': 'nowhere',
  }


def test_no_prediction_lies_in_the_folder_of_another():
  lines = ['p/a.jpg', 'p/a/b.jpg', 'p/a.jpg.png', 'p/A.png']
  found = names('-', lines)
  assert len({n.lower() for n in found.values()}) == 4
  folders = {
    str(f) for n in found.values() for f in pathlib.PurePath(n).parents
  }
  assert not folders & set(found.values())


@pytest.mark.parametrize(
  'images', ['nowhere.jpg', 'photos/*.gif', 'photos/x/y/z', '-', '']
)
def test_where_there_is_nothing_it_is_said(images):
  with pytest.raises(InputError) as error:
    find_inputs(images)
  assert error.value.argument == 'images' and 'none' in error.value.found
