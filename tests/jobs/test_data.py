"""--job=data: a first config for a folder of one's own, and what it guesses."""

import csv
import json

from fixtures.configs import plan_of
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.balancing import GradientBalancer
from mtl_kd_jax.config.build import open_dataset
from mtl_kd_jax.config.from_file import from_file
from mtl_kd_jax.datasets.guess import guess_folder
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import data

SIZE = (48, 64)


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The working directory, beside the folder that is looked at."""
  here = tmp_path / 'here'
  here.mkdir()
  monkeypatch.chdir(here)
  return here


def save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def photo(rng, path):
  save(path, rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def opened(name):
  return open_dataset(from_file(f'{name}.py'))


def test_folders_of_maps_are_found_by_their_values(tmp_path, here, capsys):
  rng, root = np.random.default_rng(0), tmp_path / 'My street'
  for split, count in (('training', 6), ('validation', 2)):
    for i in range(count):
      photo(rng, root / split / 'rgb' / f'{i:04d}.jpg')
      ids = rng.integers(0, 5, SIZE).astype(np.uint8)
      ids[:3] = 255
      save(root / split / 'labels' / f'{i:04d}.png', ids)
      depth = rng.integers(500, 9000, SIZE, dtype=np.uint16)
      save(root / split / 'depth' / f'{i:04d}.png', depth)
      flow = rng.normal(size=(*SIZE, 2)).astype(np.float32)
      (root / split / 'flow').mkdir(exist_ok=True)
      np.save(root / split / 'flow' / f'{i:04d}.npy', flow)
  before = sorted(p for p in root.rglob('*'))
  data.run(None, None, init=str(root))
  assert 'can be read so' in ' '.join(capsys.readouterr().out.split())
  assert sorted(p for p in root.rglob('*')) == before  # nothing is written
  config = from_file('my_street.py')
  assert config.task.labels.classes == tuple(f'class_{i}' for i in range(5))
  assert config.task.depth.scale == 0.001
  assert config.data.folder.train == 'training'
  dataset = opened('my_street')
  assert dataset.image_size == (64, 64)
  kinds = {name: label.quantity for name, label in dataset.labels.items()}
  assert kinds == {'labels': 'class', 'depth': 'depth', 'flow': 'vector'}
  sample = dataset.source('val')[1]
  assert 0.5 < sample['depth'].max() < 9  # meters
  assert sample['labels'].min() == -1

  config.batch_size = 4
  _, plan = plan_of(config)
  assert isinstance(plan['distilled'].balancer, GradientBalancer)
  assert plan['distilled'].rival


def test_names_in_one_folder_are_told_apart_by_their_ends(tmp_path, here):
  rng, root = np.random.default_rng(0), tmp_path / 'photos'
  rows = []
  for i in range(20):
    photo(rng, root / f'{i:03d}.png')
    mask = np.where(rng.random(SIZE) < 0.5, 255, 0).astype(np.uint8)
    save(root / f'{i:03d}_mask.png', mask)
    rows.append(
      {
        'file': f'{i:03d}.png',
        'weather': ('sun', 'rain')[i % 2],
        'wet': i % 2,
        'degrees': 10 + i / 3,
        'nose_x': i,
        'nose_y': 2 * i,
      }
    )
  with open(root / 'about.csv', 'w', newline='') as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  data.run(None, None, init=str(root))
  config = from_file('photos.py')
  kinds = {name: config.task[name].kind for name in config.tasks}
  assert kinds == {
    'mask': 'binary',
    'points': 'heatmap',
    'attributes': 'image_multilabel',
    'weather': 'image_classes',
    'degrees': 'image_regression',
  }
  dataset = opened('photos')
  counts = [len(dataset.source(split)) for split in ('train', 'val')]
  assert counts == [18, 2]
  sample = dataset.source('val')[0]  # the tenth
  assert sample['weather'] == 0 and sample['attributes'].tolist() == [1]
  assert dataset.labels['weather'].classes == ('rain', 'sun')


def test_annotations_of_coco_are_found(tmp_path, here):
  rng, root = np.random.default_rng(0), tmp_path / 'coco'
  for split in ('train', 'val'):
    content = {
      'images': [
        {'id': i, 'file_name': f'{i}.jpg', 'height': SIZE[0], 'width': SIZE[1]}
        for i in range(3)
      ],
      'categories': [{'id': 4, 'name': 'dog', 'keypoints': ['a', 'b']}],
      'annotations': [
        {
          'image_id': i,
          'category_id': 4,
          'segmentation': [[0, 0, 30, 0, 30, 30]],
          'keypoints': [5, 6, 2, 7, 8, 2],
        }
        for i in range(3)
      ],
    }
    for i in range(3):
      photo(rng, root / split / f'{i}.jpg')
    (root / f'annotations_{split}.json').write_text(json.dumps(content))
  data.run(None, None, init=str(root))
  dataset = opened('coco')
  assert dataset.labels['objects'].classes == ('background', 'dog')
  sample = dataset.source('train')[2]
  assert set(np.unique(sample['objects'])) == {0, 1}
  assert (sample['keypoints'][:, 2] == 1).all()


def test_colors_are_taken_for_classes(tmp_path):
  rng, root = np.random.default_rng(0), tmp_path
  colors = np.array([(128, 64, 128), (0, 0, 142), (70, 70, 70)], np.uint8)
  for i in range(3):
    photo(rng, root / 'rgb' / f'{i}.png')
    save(root / 'seg' / f'{i}.png', colors[rng.integers(0, 3, SIZE)])
    normals = rng.normal(size=(*SIZE, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    save(
      root / 'normals' / f'{i}.png',
      np.rint(127.5 * (normals + 1)).astype(np.uint8),
    )
  folder = guess_folder(root)
  assert folder.options['image'] == 'rgb/{frame}.png'
  assert folder.tasks['seg'].description['palette']['color_00008e'] == (
    0,
    0,
    142,
  )
  assert folder.tasks['normals'].description['kind'] == 'normals'
  assert folder.frames == ('0', '1', '2')


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda root: None, 'no folder was named'),
    (lambda root: root / 'none', 'no such'),
    (lambda root: root, 'pictures: .jpg'),
    (
      lambda root: photo(np.random.default_rng(0), root / 'a.png') or root,
      'label maps',
    ),
  ],
)
def test_what_cannot_be_guessed_is_told(tmp_path, here, make, message):
  root = tmp_path / 'empty'
  root.mkdir()
  folder = make(root)
  with pytest.raises(InputError, match=message):
    data.run(None, None, init=str(folder or ''))
  assert not [*here.iterdir()]


def test_no_config_is_overwritten(tmp_path, here):
  rng, root = np.random.default_rng(0), tmp_path / 'mine'
  for i in range(3):
    photo(rng, root / 'image' / f'{i}.png')
    save(root / 'mask' / f'{i}.png', np.eye(*SIZE, dtype=np.uint8))
  (here / 'mine.py').write_text('kept')
  with pytest.raises(InputError, match='there already'):
    data.run(None, None, init=str(root))
  assert (here / 'mine.py').read_text() == 'kept'


# ---- Public layouts ----------------------------------------------------------


def test_towns_of_carla_are_splits_and_depth_has_24_bits(
  tmp_path, here, capsys
):
  rng, root = np.random.default_rng(0), tmp_path / 'carla'
  colors = np.uint8([[0, 0, 0], [128, 64, 128], [0, 0, 142]])
  ramp = np.linspace(0.004, 0.04, SIZE[1]) * (256**3 - 1)
  for town, count in (('Town02', 2), ('Town01', 5)):
    for i in range(count):
      photo(rng, root / town / 'rgb' / f'{i:04d}.png')
      ids = rng.integers(0, 3, SIZE)
      save(root / town / 'seg' / f'{i:04d}.png', colors[ids])
      digits = np.int64(ramp + rng.integers(0, 9999, SIZE))
      depth = np.stack([digits, digits >> 8, digits >> 16], axis=-1) & 255
      save(root / town / 'depth' / f'{i:04d}.png', np.uint8(depth))
  palette = 'road,128,64,128\nvehicle,0,0,142\nUnlabeled,0,0,0\ntree,9,9,9\n'
  (root / 'palette.txt').write_text(palette)
  data.run(None, None, init=str(root))
  said = ' '.join(capsys.readouterr().out.split())  # titles may wrap
  assert "'Town01' for train, 'Town02' for val" in said and '7 pictures' in said
  config = from_file('carla.py')
  assert config.task.seg.classes == ('road', 'vehicle')
  dataset = opened('carla')
  assert len(dataset.source('train')) == 5 and len(dataset.source('val')) == 2
  sample = dataset.source('train')[0]
  assert set(np.unique(sample['seg'])) == {-1, 0, 1}
  assert 4 < sample['depth'].min() < sample['depth'].max() < 42


def test_years_in_the_names_of_splits_and_names_of_key_points(tmp_path, here):
  rng, root = np.random.default_rng(0), tmp_path / 'coco'
  points = ['nose', 'left_eye', 'right_eye']
  for split, count in (('train2017', 4), ('val2017', 2)):
    images, annotations = [], []
    for i in range(count):
      photo(rng, root / split / f'{i:012d}.jpg')
      images.append(
        {'id': i, 'file_name': f'{i:012d}.jpg', 'height': 48, 'width': 64}
      )
      annotations.append(
        {
          'id': i,
          'image_id': i,
          'category_id': 1,
          'iscrowd': 0,
          'segmentation': [[9, 9, 30, 9, 30, 30]],
          'keypoints': [20, 12, 2, 24, 10, 2, 0, 0, 0],
        }
      )
    (root / 'annotations').mkdir(exist_ok=True)
    (root / f'annotations/person_{split}.json').write_text(
      json.dumps(
        {
          'images': images,
          'annotations': annotations,
          'categories': [{'id': 1, 'name': 'person', 'keypoints': points}],
        }
      )
    )
  data.run(None, None, init=str(root))
  task = from_file('coco.py').task.keypoints
  assert task.points == tuple(points)
  assert task.pairs == (('left_eye', 'right_eye'),)
  dataset = opened('coco')
  assert len(dataset.source('train')) == 4 and len(dataset.source('val')) == 2


def test_a_column_of_the_table_tells_splits_apart(tmp_path, here):
  rng, root = np.random.default_rng(0), tmp_path / 'faces'
  lines = ['image_id,split,hat,beard']
  for i in range(12):
    photo(rng, root / 'img' / f'{i:06d}.jpg')
    split = 'train' if i < 8 else 'val'
    lines.append(f'{i:06d}.jpg,{split},{i % 2},{i % 3 == 0:d}')
  photo(rng, root / 'img' / '999999.jpg')
  (root / 'attributes.csv').write_text('\n'.join(lines))
  data.run(None, None, init=str(root))
  config = from_file('faces.py')  # a single task: nothing to balance or choose
  assert (config.balancing.name, config.data.val_fraction) == ('uniform', 0)
  dataset = opened('faces')
  assert len(dataset.source('train')) == 8 and len(dataset.source('val')) == 4
  np.testing.assert_array_equal(dataset.source('val')[1]['attributes'], [1, 1])
  (note,) = dataset.notes
  assert 'no row of a split names them (1)' in note and '999999' in note


# ---- What is written ---------------------------------------------------------


def street(root):
  rng = np.random.default_rng(0)
  for i in range(3):
    photo(rng, root / 'rgb' / f'{i}.png')
    save(root / 'mask' / f'{i}.png', np.eye(*SIZE, dtype=np.uint8))


@pytest.mark.parametrize('name', ['back\\x \\U folder', 'a """b""" c"'])
def test_any_name_of_a_folder_gives_a_config(name, tmp_path, here, capsys):
  street(tmp_path / name)
  path = data.run(None, None, init=str(tmp_path / name))
  assert 'can be read so' in ' '.join(capsys.readouterr().out.split())
  assert from_file(str(path)).data.data_dir == str(tmp_path / name)


@pytest.mark.parametrize('written', [0, 2])
def test_a_directory_that_is_full_is_one_message(
  written, tmp_path, here, monkeypatch
):
  street(tmp_path / 'mine')
  write, done = data.write_atomically, []

  def full(path, text):
    if len(done) == written:
      raise OSError(28, 'No space left on device')
    done.append(path)
    write(path, text)

  monkeypatch.setattr(data, 'write_atomically', full)
  with pytest.raises(InputError, match='No space left'):
    data.run(None, None, init=str(tmp_path / 'mine'))
  assert not [*here.iterdir()]  # nothing, or all of it
