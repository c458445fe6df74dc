"""--job=inspect: card and contact sheet, of sound and of spoiled data."""

from fixtures.datasets import OPTIONS, nyuv2_options
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.config import defaults as common
from mtl_kd_jax.datasets import DATASETS
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import inspect


@pytest.fixture(autouse=True)
def wide(monkeypatch):
  monkeypatch.setenv('COLUMNS', '160')
  for name in ('FORCE_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
    monkeypatch.delenv(name, raising=False)


def make_config(name, options):
  config = common.get_config()
  config.data.name = name
  config.data.data_dir = options.pop('data_dir')
  config.data[name].update(options)
  return config


def run(config, workdir, capsys, *, samples=0):
  """Runs the job; returns what it printed."""
  inspect.run(config, workdir, samples=samples)
  return capsys.readouterr().out


def lines(text, first):
  """The words of every line that begins with `first`."""
  found = [line.split() for line in text.splitlines()]
  return [words[1:] for words in found if words[:1] == [first]]


@pytest.mark.parametrize('name', DATASETS)
def test_every_dataset_has_a_card_and_a_sheet(name, tmp_path, capsys):
  folder, workdir = tmp_path / 'data', tmp_path / 'run'
  folder.mkdir()
  config = make_config(name, OPTIONS[name](folder))
  text = run(config, workdir, capsys)
  assert name in text and 'samples, all read' in text
  for word in ('train: ', 'val: ', 'median', 'without', 'written: '):
    assert word in text
  with Image.open(workdir / 'data.png') as picture:
    pixels = np.asarray(picture.convert('RGB'))
  assert min(pixels.shape[:2]) > 300 and pixels.std() > 20
  # Nothing but the picture: the folder is not claimed by a run.
  assert [p.name for p in workdir.iterdir()] == ['data.png']


def test_the_card_counts_right(tmp_path, capsys):
  config = make_config('nyuv2', nyuv2_options(tmp_path))
  np.save(tmp_path / 'train/normal/1.npy', np.zeros((32, 48, 3), np.float32))
  depth = np.zeros((32, 48, 1), np.float32)
  depth[:16] = np.linspace(1, 3, 16 * 48).reshape(16, 48, 1)
  for i in range(2):
    np.save(tmp_path / f'train/depth/{i}.npy', depth)
    label = np.full((32, 48), -1)
    label[:8], label[8:16] = 4, 11  # floor and wall
    np.save(tmp_path / f'train/label/{i}.npy', label)
  text = run(config, tmp_path / 'run', capsys)
  values = '1 1.04 2 2.96 3 m 50.0% none'.split()
  assert lines(text, 'depth')[0] == values
  train, val = lines(text, 'normals')
  assert train[-1] == '1/2' and val[-1] == 'none'
  shares = {i: lines(text, str(i))[0] for i in (0, 4, 11)}
  assert shares[0][:2] == ['bed', '–']
  assert shares[4][:2] == ['floor', '50.00%']
  assert shares[11][:2] == ['wall', '50.00%']


def test_what_the_loader_refuses_is_told_and_drawn(tmp_path, capsys):
  config = make_config('nyuv2', nyuv2_options(tmp_path))
  for path in (tmp_path / 'train/image').glob('*.npy'):
    np.save(path, (255 * np.load(path)).astype(np.uint8))
  for path in (tmp_path / 'train/label').glob('*.npy'):
    np.save(path, np.where(np.load(path) < 0, 255, np.load(path)))
  np.save(tmp_path / 'val/normal/0.npy', np.full((32, 48, 3), np.nan))
  (tmp_path / 'train/depth/1.npy').write_bytes(b'no array')
  text = run(config, tmp_path / 'run', capsys)
  for warning in (
    'train: image: values up to 25',
    'train: semantic: ids outside 0 to 12: 255',
    'train: 1 of 2 samples cannot be read, the first is number 1',
    f'{tmp_path / "train/depth/1.npy"}',
    'val: normals: none of the 1 samples that were read has a label',
  ):
    assert warning in text
  assert (tmp_path / 'run' / 'data.png').exists()


def test_standardized_images_are_not_drawn_black(tmp_path, capsys, monkeypatch):
  config = make_config('nyuv2', nyuv2_options(tmp_path))
  for path in (tmp_path / 'train/image').glob('*.npy'):
    image = np.linspace(-2.1, 2.6, 32 * 48 * 3).reshape(32, 48, 3)
    np.save(path, image.astype(np.float32))
  drawn = {}

  def draw(samples, *args, **kwargs):
    drawn.update(samples)

  monkeypatch.setattr(inspect, 'draw_samples', draw)
  text = run(config, tmp_path / 'run', capsys)
  assert 'train: image: values from -2.1 to 2.6' in text
  assert 'divide by 255' not in text
  assert drawn['train 0']['image'].max() > 1


def test_only_some_samples_are_read_when_asked(tmp_path, capsys):
  config = make_config('nyuv2', nyuv2_options(tmp_path))
  (tmp_path / 'train/depth/1.npy').write_bytes(b'never opened')
  text = run(config, tmp_path / 'run', capsys, samples=1)
  assert 'train: 2 samples, 1 read' in text
  assert 'cannot be read' not in text


def test_a_narrow_terminal_loses_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '80')
  config = make_config('nyuv2', nyuv2_options(tmp_path))
  text = run(config, tmp_path / 'run', capsys)
  assert '…' not in text
  assert lines(text, '12')[0][0] == 'window'
  assert max(map(len, text.splitlines()[:-2])) <= 80


def test_data_that_cannot_be_opened_are_one_message(tmp_path):
  config = make_config('nyuv2', {'data_dir': str(tmp_path / 'nothing')})
  with pytest.raises(InputError):
    inspect.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
