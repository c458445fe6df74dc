"""--job=inspect: card and contact sheet, of sound and of spoiled data."""

from fixtures.datasets import OPTIONS, nyuv2_options
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.config import defaults as common
from mtl_kd_jax.datasets import DATASETS
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import inspect
from mtl_kd_jax.labels import Label


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


# ---- Wrong and hostile inputs ------------------------------------------------


def folder_config(root, **changes):
  """A config of two frames, masks of two classes."""
  rng = np.random.default_rng(0)
  for split in ('train', 'val'):
    (root / split).mkdir(parents=True)
    for i in range(2):
      photo = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
      Image.fromarray(photo).save(root / split / f'{i}.jpg')
      mask = 255 * rng.integers(0, 2, (32, 48), dtype=np.uint8)
      Image.fromarray(mask).save(root / split / f'{i}.png')
  config = make_config('folder', {'data_dir': str(root)})
  folder = config.data.folder
  folder.image = '{split}/{frame}.jpg'
  folder.semantic.files = '{split}/{frame}.png'
  folder.semantic.classes = ('no [b]', 'thing [/]')
  folder.semantic.ids, folder.semantic.ignore = (0, 255), (-1,)
  config.data.update(changes)
  return config


def test_names_with_brackets_are_printed_as_they_are(tmp_path, capsys):
  text = run(folder_config(tmp_path / '[data]'), tmp_path / '[run]', capsys)
  assert 'no [b]' in text and 'thing [/]' in text
  assert 'nothing looks wrong' in text
  assert f'written: {tmp_path / "[run]"}' in text


def test_black_and_white_masks_are_recognized(tmp_path, capsys):
  config = folder_config(tmp_path / 'data')
  config.data.folder.semantic.ids = ()
  config.data.folder.semantic.ignore = (-1, 255)
  text = run(config, tmp_path / 'run', capsys)
  assert 'what looks wrong: 1' in text
  assert 'folder.semantic.ids = (0, 255)' in text
  assert 'folder.semantic.ignore = (-1,)' in text


def test_what_is_not_used_or_is_turned_is_noted(tmp_path, capsys):
  config = folder_config(tmp_path / 'data')
  (tmp_path / 'data/train/1.jpg').rename(tmp_path / 'data/train/1.tif')
  path = tmp_path / 'data/train/0.jpg'
  with Image.open(path) as photo:
    exif = photo.getexif()
    exif[0x0112] = 3
    photo.save(path, exif=exif)
  text = run(config, tmp_path / 'run', capsys)
  assert 'note: train: not used' in text and 'train/1.tif' in text
  assert 'note: train: semantic: not used' in text and 'train/1.png' in text
  assert 'note: train: 1 of 1 pictures have an EXIF orientation' in text


def test_a_folder_without_labels_is_drawn(tmp_path, capsys):
  config = folder_config(tmp_path / 'data')
  config.data.folder.semantic.files = ''
  text = run(config, tmp_path / 'run', capsys)
  assert 'nothing looks wrong' in text
  assert (tmp_path / 'run/data.png').exists()


def test_data_of_which_nothing_can_be_read_are_told(tmp_path, capsys):
  config = folder_config(tmp_path / 'data')
  config.data.folder.image_size = (32, 48)
  for path in (tmp_path / 'data').rglob('*.png'):
    path.write_bytes(b'')
  text = run(config, tmp_path / 'run', capsys)
  assert text.count('2 of 2 samples cannot be read') == 2
  assert 'an empty file' in text and 'written' not in text
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'value', [np.nan, np.inf, -np.inf, 1e300, -1e300, 3e38, 255, 1e-300]
)
def test_any_values_have_a_card(value, tmp_path, capsys):
  config = make_config('nyuv2', nyuv2_options(tmp_path))
  for kind, channels in (('image', 3), ('label', 0), ('depth', 1)):
    shape = (32, 48, channels)[: 3 if channels else 2]
    np.save(tmp_path / f'train/{kind}/0.npy', np.full(shape, value))
  np.save(tmp_path / 'train/normal/0.npy', np.full((32, 48, 3), value))
  text = run(config, tmp_path / 'run', capsys)
  assert 'what looks wrong' in text


@pytest.mark.parametrize('obstacle', ['a file', 'a folder'])
def test_a_sheet_that_cannot_be_written_is_one_message(obstacle, tmp_path):
  config = folder_config(tmp_path / 'data')
  if obstacle == 'a file':
    (tmp_path / 'run').write_bytes(b'')
  else:
    (tmp_path / 'run/data.png').mkdir(parents=True)
  with pytest.raises(InputError) as error:
    inspect.run(config, tmp_path / 'run')
  assert error.value.argument == 'workdir'


def test_a_picture_of_others_is_kept(tmp_path):
  config = folder_config(tmp_path / 'data')
  sheet = tmp_path / 'run/data.png'
  inspect.run(config, sheet.parent)
  inspect.run(config, sheet.parent)  # its own is drawn anew
  Image.new('RGB', (9, 9)).save(sheet)
  before = sheet.read_bytes()
  with pytest.raises(InputError, match='another workdir') as error:
    inspect.run(config, sheet.parent)
  assert error.value.argument == 'workdir' and sheet.read_bytes() == before
  (sheet.parent / 'config.json').write_text('{}')  # of a run: its own folder
  inspect.run(config, sheet.parent)
  assert sheet.read_bytes() != before


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(inspect, 'draw_samples', full)
  with pytest.raises(InputError, match='No space left') as error:
    inspect.run(folder_config(tmp_path / 'data'), tmp_path / 'run')
  assert error.value.argument == 'workdir'


def test_numbers_without_a_label_are_drawn_as_such():
  label = Label('image_regression')
  size, values = (32, 48), {'known': 7.0, 'missing': np.nan}
  samples = [
    {'image': np.zeros((*size, 3), np.float32), 'age': np.float32([value])}
    for value in values.values()
  ]
  dataset = Dataset('ages', size, {'age': label}, {'train': lambda: samples})
  tasks = dataset.tasks()
  drawn = [inspect._drawable(dataset, s, tasks) for s in samples]
  assert [d['age'].tolist() for d, _ in drawn[:1]] == [[7.0]]
  assert np.isnan(drawn[1][0]['age']).all()
  assert [notes['age'] for _, notes in drawn] == ['100% labeled', 'no label']
