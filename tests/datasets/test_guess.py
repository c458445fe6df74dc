"""What a folder is taken for, and what is said of the rest."""

import functools
import json
import os

import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.datasets.guess import guess_folder, tree
from mtl_kd_jax.errors import InputError

SIZE = (16, 24)
SPLITS = ('train', 'val')


def save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, array)
  else:
    Image.fromarray(array).save(path)


def make(kind, seed=0):
  """Pixels of a file."""
  rng = np.random.default_rng(seed)
  if kind == 'photo':
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
  if kind == 'gray':
    return np.add.outer(np.arange(16) * 8, np.arange(24) * 5).astype(np.uint8)
  if kind == 'depth':
    return rng.integers(500, 9000, SIZE, dtype=np.uint16)
  if kind == 'normals':
    vectors = rng.normal(size=(*SIZE, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.rint(127.5 * (vectors + 1)).astype(np.uint8)
  if kind == 'binary':
    return 255 * rng.integers(0, 2, SIZE, dtype=np.uint8)
  assert kind == 'ids'
  return rng.integers(0, 4, SIZE, dtype=np.uint8)


def fill(root, count=4, **kinds):
  """Folder, with __ for / -> kind and ending, of files 0000 and so on."""
  for folder, (kind, ending) in kinds.items():
    for i in range(count):
      path = root / folder.replace('__', '/') / f'{i:04d}{ending}'
      save(path, make(kind, i))


def kinds(folder):
  return {name: t.description['kind'] for name, t in folder.tasks.items()}


def note(folder, start):
  """The only note that begins so."""
  (found,) = [n for n in folder.notes if n.startswith(start)]
  return found


# ---- What cannot be read -----------------------------------------------------


def test_a_broken_file_does_not_drop_its_group(tmp_path):
  fill(tmp_path, 12, rgb=('photo', '.jpg'), depth=('depth', '.png'))
  (tmp_path / 'depth/0000.png').write_bytes(b'')
  folder = guess_folder(tmp_path)
  assert kinds(folder) == {'depth': 'depth'}
  assert 'an empty file' in note(folder, 'depth/0000.png')


def test_others_are_read_where_the_first_ones_are_broken(tmp_path):
  fill(tmp_path, 12, rgb=('photo', '.jpg'), depth=('depth', '.png'))
  fill(tmp_path, 12, mask=('ids', '.png'))
  for i in range(0, 12, 2):
    (tmp_path / f'depth/{i:04d}.png').write_bytes(b'')
  for path in (tmp_path / 'mask').iterdir():
    path.write_bytes(b'')
  folder = guess_folder(tmp_path)
  assert kinds(folder) == {'depth': 'depth'}
  assert 'cannot be read: an empty file' in note(folder, 'mask/')


def test_links_to_folders_are_followed_once(tmp_path):
  root, away = tmp_path / 'root', tmp_path / 'away'
  fill(root, rgb=('photo', '.jpg'))
  fill(away, depth=('depth', '.png'))
  os.symlink(away / 'depth', root / 'depth')
  os.symlink(root, root / 'rgb/again')
  folder = guess_folder(root)
  assert kinds(folder) == {'depth': 'depth'}
  assert 'the same folder' in note(folder, 'rgb/again/')


def test_too_many_files_are_an_error(tmp_path, monkeypatch):
  fill(tmp_path, rgb=('photo', '.jpg'))
  monkeypatch.setattr(tree, '_MOST_FILES', 3)
  with pytest.raises(InputError, match='up to 3 files'):
    guess_folder(tmp_path)


def test_names_that_no_config_can_have_are_noted(tmp_path):
  fill(tmp_path, rgb=('photo', '.jpg'), mask=('ids', '.png'))
  folder = os.fsencode(tmp_path / 'rgb')
  try:
    os.rename(folder + b'/0000.jpg', folder + b'/caf\xe9.jpg')
  except OSError:
    pytest.skip('names are UTF-8 here')
  save(tmp_path / 'a{b}/0000.png', make('ids'))
  folder = guess_folder(tmp_path)
  assert folder.frames == ('0001', '0002', '0003')
  assert 'not UTF-8' in note(folder, r'rgb/caf\xe9.jpg')
  assert 'braces' in note(folder, 'a{b}')


def test_other_endings_are_noted(tmp_path):
  fill(tmp_path, rgb=('photo', '.jpg'), mask=('ids', '.png'))
  fill(tmp_path, 3, more=('ids', '.bmp'))
  (tmp_path / 'table.tsv').write_text('a\tb\n')
  (tmp_path / 'box').mkdir()
  for i in range(2):
    (tmp_path / f'box/{i}.json').write_text('[1]')
  (tmp_path / 'bad.json').write_text('{')
  folder = guess_folder(tmp_path)
  assert '3 files, not used' in note(folder, 'more/*.bmp')
  assert 'not used' in note(folder, 'table.tsv')
  assert '2 files, not used (no annotations' in note(folder, 'box/*.json')
  assert 'cannot be read' in note(folder, 'bad.json')


# ---- Which are the pictures, and which are theirs ----------------------------


@pytest.mark.parametrize('missing', [(0, 0, 0), (127, 127, 127)])
def test_normals_with_many_missing_pixels_are_no_pictures(tmp_path, missing):
  fill(tmp_path, photo=('photo', '.png'), mask=('ids', '.png'))
  for i in range(4):
    normals = make('normals', i)
    normals[:, :8] = missing
    save(tmp_path / f'normals/{i:04d}.png', normals)
  folder = guess_folder(tmp_path)
  assert folder.options['image'] == 'photo/{frame}.png'
  assert kinds(folder) == {'mask': 'classes', 'normals': 'normals'}
  invalid = folder.tasks['normals'].description.get('invalid', (0, 0, 0))
  assert invalid == missing


def test_words_decide_which_of_two_are_the_pictures(tmp_path):
  fill(tmp_path, depth_shown=('photo', '.png'), photo=('photo', '.png'))
  fill(tmp_path, mask=('ids', '.png'))
  assert guess_folder(tmp_path).options['image'] == 'photo/{frame}.png'


def test_gray_pictures_are_no_ids(tmp_path):
  fill(tmp_path, scan=('gray', '.png'), mask=('ids', '.png'))
  folder = guess_folder(tmp_path)
  assert folder.options['image'] == 'scan/{frame}.png'
  fill(tmp_path, rgb=('photo', '.jpg'))  # of colors: they are the pictures
  folder = guess_folder(tmp_path)
  assert folder.options['image'] == 'rgb/{frame}.jpg'
  assert 'gray of 8 bits' in note(folder, 'scan/')


def test_folders_in_folders_are_parts_of_the_names(tmp_path):
  for scene in ('bath', 'kitchen'):
    for top in (('rgb', 'photo'), ('seg', 'ids'), ('depth', 'depth')):
      fill(tmp_path, **{f'{top[0]}__{scene}': (top[1], '.png')})
  folder = guess_folder(tmp_path)
  assert folder.options['image'] == 'rgb/{frame}.png'
  assert folder.frames[0] == 'bath/0000' and folder.count == 8
  files = {t.description['files'] for t in folder.tasks.values()}
  assert files == {'seg/{frame}.png', 'depth/{frame}.png'}


def test_two_folders_of_scenes_are_no_splits(tmp_path):
  for scene in ('bath', 'kitchen'):
    fill(tmp_path, **{f'images__{scene}': ('photo', '.png')})
    fill(tmp_path, **{f'labels__{scene}': ('ids', '.png')})
  folder = guess_folder(tmp_path)
  assert folder.options['image'] == 'images/{frame}.png'
  assert not any(n.startswith('splits') for n in folder.notes)


def test_labels_of_other_scenes_are_not_learned(tmp_path):
  for scene in ('bath', 'kitchen', 'office'):
    fill(tmp_path, **{f'{scene}__rgb': ('photo', '.jpg')})
    fill(tmp_path, **{f'{scene}__depth': ('depth', '.png')})
  folder = guess_folder(tmp_path)
  ((name, task),) = folder.tasks.items()
  assert name == 'depth'
  scene = folder.options['image'].split('/')[0]
  assert task.description['files'] == f'{scene}/depth/{{frame}}.png'
  (others,) = [n for n in folder.notes if '/depth/' in n]
  assert '8 files, not used (of pictures of another folder)' in others


def test_rooms_are_no_tails(tmp_path):
  for name in ('living_room', 'dining_room', 'bed_room', 'kitchen', 'hall'):
    save(tmp_path / f'rgb/{name}.jpg', make('photo'))
    save(tmp_path / f'mask/{name}.png', make('ids'))
  folder = guess_folder(tmp_path)
  assert folder.count == 5 and 'living_room' in folder.frames


def test_other_sizes_are_told(tmp_path):
  fill(tmp_path, rgb=('photo', '.jpg'), mask=('ids', '.png'))
  for i in range(4):
    save(tmp_path / f'half/{i:04d}.png', make('ids')[::2, ::2])
  folder = guess_folder(tmp_path)
  assert kinds(folder) == {'mask': 'classes'}
  assert '8 x 12 pixels' in note(folder, 'half/')


def test_why_files_are_not_used(tmp_path):
  fill(tmp_path, 10, rgb=('photo', '.jpg'), mask=('ids', '.png'))
  fill(tmp_path, 3, few=('ids', '.png'))
  save(tmp_path / 'rgb/0010.JPG', make('photo'))
  folder = guess_folder(tmp_path)
  assert '3 of 10 pictures have one' in note(folder, 'few/')
  assert 'another ending: rename' in note(folder, 'rgb/{frame}.JPG')
  assert 'allow_missing' not in folder.options
  fill(tmp_path, 6, few=('ids', '.png'))
  folder = guess_folder(tmp_path)
  assert folder.options['allow_missing'] is True and 'few' in folder.tasks
  assert '6 of 10 pictures have one' in note(folder, 'few/')


# ---- Arrays ------------------------------------------------------------------


def test_arrays_of_bool_of_points_and_without_a_label(tmp_path):
  fill(tmp_path, rgb=('photo', '.jpg'))
  for i in range(4):
    save(tmp_path / f'edge/{i:04d}.npy', make('ids', i) > 1)
    save(tmp_path / f'joints/{i:04d}.npy', np.float32([[1, 2], [3, i]]))
    save(tmp_path / f'void/{i:04d}.npy', np.full(SIZE, -1))
    save(tmp_path / f'many/{i:04d}.npy', np.ones((i + 1, 2)))
  folder = guess_folder(tmp_path)
  assert kinds(folder) == {'edge': 'binary', 'joints': 'heatmap'}
  assert folder.tasks['joints'].description['points'] == 2
  assert 'no label' in note(folder, 'void/')
  assert 'different lengths' in note(folder, 'many/')


# ---- Splits ------------------------------------------------------------------


def test_a_split_that_is_spelled_in_two_ways(tmp_path):
  for split in SPLITS:
    fill(tmp_path, **{f'images__{split.title()}': ('photo', '.png')})
    fill(tmp_path, **{f'masks__{split.title()}': ('ids', '.png')})
    fill(tmp_path, **{f'labels__{split}': ('ids', '.png')})
  folder = guess_folder(tmp_path)
  assert folder.options['train'] == 'Train'
  assert kinds(folder) == {'masks': 'classes'}
  reason = 'folders of a split are spelled differently: Train, train'
  assert reason in note(folder, 'labels/train/')


def test_a_word_of_a_split_in_a_longer_name(tmp_path):
  for split in SPLITS:
    fill(tmp_path, **{f'mask_valid__{split}': ('binary', '.png')})
    fill(tmp_path, **{f'rgb__{split}': ('photo', '.jpg')})
  folder = guess_folder(tmp_path)
  assert (folder.options['train'], folder.options['val']) == SPLITS
  (task,) = folder.tasks.values()
  assert task.description['files'] == 'mask_valid/{split}/{frame}.png'


def test_splits_without_val(tmp_path):
  for split in ('train', 'test'):
    fill(tmp_path, **{f'{split}__rgb': ('photo', '.jpg')})
    fill(tmp_path, **{f'{split}__mask': ('ids', '.png')})
  folder = guess_folder(tmp_path)
  assert folder.options['val'] == 'test' and 'test' not in folder.options
  assert "'test' is scored" in note(folder, 'no folder')
  for path in (tmp_path / 'test').rglob('*.*'):
    path.unlink()
  folder = guess_folder(tmp_path)  # train alone: lists hold some out
  assert folder.options['image'] == 'train/rgb/{frame}.jpg'
  assert len(folder.frames) == 4
  assert 'alone' in note(folder, 'folders')


def test_a_test_split_without_labels_is_left_out(tmp_path):
  for split in (*SPLITS, 'test'):
    fill(tmp_path, **{f'{split}__rgb': ('photo', '.jpg')})
  for split in SPLITS:
    fill(tmp_path, **{f'{split}__mask': ('ids', '.png')})
  folder = guess_folder(tmp_path)
  assert 'test' not in folder.options and folder.count == 8
  assert 'allow_missing' not in folder.options
  assert 'no labels' in note(folder, 'the split test')


# ---- Tables and annotations --------------------------------------------------


def write_table(path, header, line, frames):
  path.write_text('\n'.join([header, *map(line, frames)]))


def test_tables_in_folders_of_splits(tmp_path):
  for split in SPLITS:
    fill(tmp_path, 6, **{f'{split}__rgb': ('photo', '.jpg')})
    write_table(
      tmp_path / split / 'labels.csv',
      'file,sky',
      lambda i: f'{i:04d}.jpg,{("sun", "rain")[i % 2]}',
      range(6),
    )
  folder = guess_folder(tmp_path)
  assert folder.options['rows'] == '{split}/labels.csv'
  assert kinds(folder) == {'sky': 'image_classes'}


def test_columns_of_one_name_and_those_that_fit_nothing(tmp_path):
  fill(tmp_path, 6, rgb=('photo', '.jpg'))
  (tmp_path / 't.jsonl').write_text(
    '\n'.join(
      json.dumps(
        {
          'file': f'{i:04d}.jpg',
          'light level': i * 1.5,
          'light-level': i + 100,
          'points': i + 0.5,
          'a_x': i,
          'a_y': i,
          'said': f'text {i}',
          'box': [1, 2],
        }
      )
      for i in range(6)
    )
  )
  folder = guess_folder(tmp_path)
  columns = {
    t.description.get('column'): name for name, t in folder.tasks.items()
  }
  assert columns['light level'] == 'light_level'
  assert columns['light-level'] == 'light_level_2'
  assert kinds(folder)['points'] == 'heatmap'
  assert columns['points'] == 'points_2'
  assert '6 different words' in note(folder, 't.jsonl, column said')
  assert 'lists' in note(folder, 't.jsonl, column box')


def test_other_separators_are_told(tmp_path):
  fill(tmp_path, rgb=('photo', '.jpg'), mask=('ids', '.png'))
  write_table(
    tmp_path / 't.csv', 'file;sky', lambda i: f'{i:04d}.jpg;sun', range(4)
  )
  assert "separated by ';'?" in note(guess_folder(tmp_path), 't.csv')


def test_rows_for_some_of_the_pictures(tmp_path):
  fill(tmp_path, 6, rgb=('photo', '.jpg'))
  write_table(tmp_path / 't.csv', 'file,n', lambda i: f'{i:04d},{i}', range(4))
  folder = guess_folder(tmp_path)
  assert folder.options['allow_missing'] is True
  assert '4 of 6' in note(folder, 't.csv')


def with_split(root, words):
  write_table(
    root / 't.csv',
    'file,split,n',
    lambda i: f'{i:04d}.jpg,{words[i > 3]},{i}',
    range(6),
  )


@pytest.mark.parametrize(
  'words', [('Train', 'Val'), ('training', 'validation'), ('train', 'test')]
)
def test_words_of_a_column_of_splits(tmp_path, words):
  fill(tmp_path, 6, rgb=('photo', '.jpg'))
  with_split(tmp_path, words)
  options = guess_folder(tmp_path).options
  assert (options['train'], options['val']) == words and 'test' not in options


def test_a_column_of_splits_that_says_something_else(tmp_path):
  fill(tmp_path, rgb=('photo', '.jpg'), mask=('ids', '.png'))
  (tmp_path / 't.jsonl').write_text(
    '\n'.join(
      f'{{"file": "{i:04d}", "split": [1], "n": {i}}}' for i in range(4)
    )
  )
  folder = guess_folder(tmp_path)
  assert kinds(folder) == {'mask': 'classes'}
  assert 'not train and val' in note(folder, 't.jsonl')
  (tmp_path / 't.jsonl').unlink()
  write_table(
    tmp_path / 't.csv',
    'file,split',
    lambda i: f'{i:04d},{SPLITS[i > 2]}',
    range(4),
  )
  folder = guess_folder(tmp_path)  # a table without labels changes nothing
  assert 'no column' in note(folder, 't.csv') and 'train' not in folder.options


def test_a_column_of_splits_does_not_rename_folders(tmp_path):
  for split in ('train2017', 'val2017'):
    fill(tmp_path, 6, **{split: ('photo', '.jpg')})
    fill(tmp_path, 6, **{f'masks__{split}': ('ids', '.png')})
  with_split(tmp_path, SPLITS)
  folder = guess_folder(tmp_path)
  assert folder.options['train'] == 'train2017'
  assert 'the folders are called train2017' in note(folder, 't.csv')


def write_coco(path, frames, **annotation):
  content = {
    'images': [
      {'id': i, 'file_name': f'{i:04d}.jpg', 'height': 16, 'width': 24}
      for i in range(frames)
    ],
    'categories': [{'id': 1, 'name': 'cat'}],
    'annotations': [
      {'image_id': i, 'category_id': 1, 'bbox': [1, 2, 3, 4], **annotation}
      for i in range(frames)
    ],
  }
  path.write_text(json.dumps(content))


def test_boxes_are_not_drawn(tmp_path):
  fill(tmp_path, rgb=('photo', '.jpg'))
  write = functools.partial(write_coco, tmp_path / 'boxes.json', 4)
  write()
  folder = guess_folder(tmp_path)
  assert kinds(folder) == {'objects': 'image_multilabel'}
  assert '0 of 4 annotations have a segmentation' in folder.tasks['objects'].why
  write(segmentation=[[1, 2, 3, 4, 5, 9]])
  assert kinds(guess_folder(tmp_path)) == {'objects': 'classes'}


def test_annotations_that_cannot_be_used_are_told(tmp_path):
  for split in ('train2017', 'val2017', 'test2017'):
    fill(tmp_path, **{split: ('photo', '.jpg')})
    write_coco(tmp_path / f'captions_{split}.json', 4)
  for path in tmp_path.glob('captions*'):
    path.write_text('{"images": [], "annotations": []}')
  for split in ('train2017', 'val2017'):
    path = tmp_path / f'instances_{split}.json'
    write_coco(path, 4, segmentation=[[1, 2, 3, 4, 5, 9]])
  folder = guess_folder(tmp_path)
  assert folder.options['coco'] == 'instances_{split}.json'
  assert 'categories' in note(folder, 'captions_{split}.json')
  assert 'test' not in folder.options  # it has no annotations
