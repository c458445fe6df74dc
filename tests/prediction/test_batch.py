"""Many files into one folder, which goes on where it was stopped."""

import fractions
import io
import json
import os
import pathlib
import shutil
import struct
import sys

from fixtures.predictors import FakePredictor, random_picture
import numpy as np
from PIL import Image
import pytest
from rich.console import Console

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction import batch, video
from mtl_kd_jax.prediction.inputs import find_inputs


@pytest.fixture
def photos(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for i, name in enumerate(('a.png', 'b.png', 'c.jpg')):
    path = tmp_path / 'photos' / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(random_picture(9, 14 + i, seed=i)).save(path)
  return tmp_path / 'photos'


def predict(images='photos/*', *, weights='1', batch_size=2, **sizes):
  predictor, console = FakePredictor(), Console(file=io.StringIO())
  outcome = batch.predict_files(
    predictor,
    find_inputs(images),
    pathlib.Path('out'),
    sizing=predictor.sizing(**sizes),
    settings={'weights': weights, 'size': sizes.get('resize')},
    batch_size=batch_size,
    white=None,
    console=console,
  )
  return predictor, outcome, console.file.getvalue()


def contents(folder):
  """Path -> (bytes, time of change) of every file."""
  return {
    str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
    for p in folder.rglob('*')
    if p.is_file()
  }


def test_what_cannot_be_read_does_not_stop_the_rest(photos):
  (photos / 'b.png').write_bytes(b'<html>')
  (photos / 'link.png').symlink_to('nowhere.png')
  predictor, outcome, shown = predict('photos/*')
  assert outcome.written == 2 and outcome.skipped == 0
  assert set(outcome.failed) == {'photos/b.png', 'photos/link.png'}
  assert 'web page' in outcome.failed['photos/b.png']
  assert predictor.shapes == [(2, 8, 12, 3)]
  depth = np.load('out/c/depth.npy')
  with Image.open(photos / 'c.jpg') as image:
    alone = next(
      FakePredictor().predict(
        [(np.float32(image) / np.float32(255), None)],
        predictor.sizing(),
        batch_size=1,
      )
    )
  np.testing.assert_allclose(depth, alone.depth, rtol=1e-6)
  assert 'predicting pictures: 3/3' in shown


def test_what_is_there_is_not_predicted_again(photos):
  predict()
  before = contents(pathlib.Path('out'))
  predictor, outcome, _ = predict()
  assert (outcome.written, outcome.skipped) == (0, 3)
  assert not predictor.shapes
  assert contents(pathlib.Path('out')) == before
  # Another picture of the same name, and one that was stopped half way.
  Image.fromarray(random_picture(5, 5)).save(photos / 'a.png')
  record = json.loads(pathlib.Path('out/b/prediction.json').read_text())
  pathlib.Path('out/b/prediction.json').write_text(
    json.dumps(record | {'complete': False})
  )
  pathlib.Path('out/b/depth.npy').unlink()
  _, outcome, _ = predict()
  assert (outcome.written, outcome.skipped) == (2, 1)
  assert np.load('out/a/depth.npy').shape == (5, 5)
  assert contents(pathlib.Path('out'))['c/depth.npy'] == before['c/depth.npy']
  assert np.load('out/b/depth.npy').shape == (9, 15)


def test_a_folder_belongs_to_one_network_and_its_settings(photos):
  predict()
  before = contents(pathlib.Path('out'))
  for options, found in (
    ({'weights': '2'}, "weights was '1' and is '2'"),
    ({'resize': (16, 16)}, 'size was None and is [16, 16]'),
  ):
    with pytest.raises(InputError) as error:
      predict(**options)
    assert error.value.found == found and error.value.argument == 'out'
  assert contents(pathlib.Path('out')) == before


def test_files_of_others_are_left_as_they_are(photos):
  pathlib.Path('out').mkdir()
  pathlib.Path('out/thesis.tex').write_text('mine')
  with pytest.raises(InputError, match=r'thesis\.tex'):
    predict()
  os.remove('out/thesis.tex')
  predict('photos/a.png')
  pathlib.Path('out/b').mkdir()
  pathlib.Path('out/b/depth.png').write_text('mine')
  _, outcome, _ = predict()
  assert (outcome.written, outcome.skipped) == (1, 1)
  assert 'out/b, which has other files' in outcome.failed['photos/b.png']
  assert pathlib.Path('out/b/depth.png').read_text() == 'mine'


def test_predictions_of_another_picture_are_left_as_they_are(photos):
  """Of the same name, in another folder; unless that one is gone."""
  other = photos.parent / 'others'
  other.mkdir()
  Image.fromarray(random_picture(6, 7)).save(other / 'a.png')
  predict('photos/a.png')
  before = contents(pathlib.Path('out'))
  _, outcome, _ = predict('others/a.png')
  (why,) = outcome.failed.values()
  assert str(photos / 'a.png') in why and outcome.written == 0
  assert contents(pathlib.Path('out')) == before
  (photos / 'a.png').unlink()
  assert predict('others/a.png')[1].written == 1


def test_a_picture_that_vanishes_does_not_stop_the_rest(photos, monkeypatch):
  source_of, calls = batch.source_of, []

  def vanishing(path):
    calls.append(path)
    if len(calls) == 5:  # after the three that are looked at before
      path.unlink()
    return source_of(path)

  monkeypatch.setattr(batch, 'source_of', vanishing)
  _, outcome, _ = predict()
  assert outcome.written == 2
  (why,) = outcome.failed.values()
  assert 'No such file' in why


def test_without_the_extra_a_video_says_what_to_install(photos, monkeypatch):
  monkeypatch.setitem(sys.modules, 'av', None)
  (photos / 'clip.mp4').write_bytes(b'')
  with pytest.raises(InputError, match=r'pip install .*\[video\]'):
    video.read_info(photos / 'clip.mp4')
  _, outcome, _ = predict()
  assert outcome.written == 3 and list(outcome.failed) == ['photos/clip.mp4']


# ---- Videos ------------------------------------------------------------------


@pytest.fixture
def clip(photos):
  pytest.importorskip('av')
  y, x = np.mgrid[:9, :15]
  frames = [
    np.stack([20 * y, 10 * x, np.full_like(x, 40 * i)], -1).astype(np.uint8)
    for i in range(5)
  ]
  path = photos / 'clip.mp4'
  video.write_video(frames, path, rate=fractions.Fraction(10))
  return path


def test_a_video_is_read_as_it_was_written(clip):
  assert video.read_info(clip) == (10, 5)
  frames = list(video.read_frames(clip))
  assert [f.shape for f in frames] == [(10, 16, 3)] * 5  # even sides
  blue = [f[..., 2].mean() for f in frames]
  np.testing.assert_allclose(blue, 40 * np.arange(5), atol=25)


def test_a_video_is_predicted_by_frames_and_goes_on(clip):
  predictor, outcome, _ = predict('photos/clip.mp4')
  assert outcome.written == 1 and predictor.shapes == [(2, 8, 12, 3)] * 3
  out = pathlib.Path('out/clip')
  assert [p.name for p in sorted(out.glob('0*'))] == [
    f'{i:06}' for i in range(5)
  ]
  assert not list(out.rglob('*.npy')) and not list(out.rglob('overview.png'))
  assert video.read_info(out / 'depth.mp4') == (10, 5)
  assert json.loads((out / 'video.json').read_text())['frames'] == 5
  predictor, outcome, _ = predict('photos/clip.mp4')
  assert outcome.skipped == 1 and not predictor.shapes
  # Stopped before the third and the last frame.
  (out / 'video.json').unlink()
  before = contents(out)
  for name in ('000002', '000004'):
    shutil.rmtree(out / name)
  predictor, outcome, _ = predict('photos/clip.mp4', batch_size=1)
  assert outcome.written == 1 and len(predictor.shapes) == 3  # and the first
  after = contents(out)
  assert after.keys() - before.keys() == {'video.json'}
  assert after['000001/depth.png'] == before['000001/depth.png']
  assert {n: b for n, (b, _) in after.items() if n in before} == {
    n: b for n, (b, _) in before.items()
  }


@pytest.mark.parametrize('damage', ['none', 'cut', 'empty'])
def test_a_video_that_cannot_be_read_is_named(damage, clip):
  content = clip.read_bytes()
  damaged = {
    'none': b'<html>',
    'cut': content[: len(content) // 2],
    'empty': b'',
  }
  clip.write_bytes(damaged[damage])
  _, outcome, _ = predict('photos/*')
  assert outcome.written == 3 and list(outcome.failed) == ['photos/clip.mp4']


def test_a_turned_video_is_upright(clip):
  """As telephones write one: the matrix of the track turns it clockwise."""
  (upright, *_) = video.read_frames(clip)
  content = bytearray(clip.read_bytes())
  matrix = content.index(b'tkhd') + 4 + 40
  one = 1 << 16
  assert struct.unpack_from('>9i', content, matrix)[::4] == (one, one, 1 << 30)
  struct.pack_into('>9i', content, matrix, 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
  clip.write_bytes(content)
  (turned, *_) = video.read_frames(clip)
  np.testing.assert_array_equal(turned, upright[::-1].swapaxes(0, 1))
