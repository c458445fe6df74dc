"""Labels that are drawn from annotations in the format of COCO."""

import json

import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax import datasets
from mtl_kd_jax.errors import InputError

SIZE = (12, 20)
CATEGORIES = [
  {'id': 1, 'name': 'person', 'keypoints': ['nose', 'hand']},
  {'id': 7, 'name': 'car'},
  {'id': 9, 'name': 'dog'},
]


def rectangle(top, bottom, left, right):
  return [left, top, right, top, right, bottom, left, bottom]


def annotation(image, category, top, bottom, left, right, **others):
  return {
    'image_id': image,
    'category_id': category,
    'segmentation': [rectangle(top, bottom, left, right)],
    'area': (bottom - top) * (right - left),
  } | others


ANNOTATIONS = [
  annotation(10, 1, 4, 6, 8, 11, keypoints=[9, 5, 2, 0, 0, 0]),
  annotation(10, 7, 2, 8, 5, 15),  # around the person, who is drawn over it
  annotation(11, 9, 0, 3, 0, 4),
]


@pytest.fixture
def folder(tmp_path):
  write(tmp_path, ANNOTATIONS)
  return tmp_path


def write(folder, annotations, categories=CATEGORIES):
  images = [
    {'id': i, 'file_name': f'{i}.png', 'height': SIZE[0], 'width': SIZE[1]}
    for i in (10, 11)
  ]
  content = {
    'images': images,
    'categories': categories,
    'annotations': annotations,
  }
  for split in ('train', 'val'):
    pictures = folder / split / 'image'
    pictures.mkdir(parents=True, exist_ok=True)
    for image in images:
      Image.new('RGB', SIZE[::-1]).save(pictures / image['file_name'])
    (folder / f'{split}.json').write_text(json.dumps(content))


def open_folder(folder, maps, **options):
  described = {n: {'source': 'coco', **d} for n, d in maps.items()}
  return datasets.make(
    'folder', data_dir=folder, coco='{split}.json', maps=described, **options
  )


def drawn(value, *boxes, over=None):
  array = np.zeros(SIZE, int) if over is None else over
  for top, bottom, left, right in boxes:
    array[top:bottom, left:right] = value
  return array


STREET = {'kind': 'classes', 'classes': ('other', 'car', 'living')}


def test_objects_are_drawn_small_ones_over_large_ones(folder):
  categories = {'car': 'car', 'living': ('person', 'dog')}
  maps = {'street': {**STREET, 'categories': categories}}
  source = open_folder(folder, maps).source('train')
  first = drawn(2, (4, 6, 8, 11), over=drawn(1, (2, 8, 5, 15)))
  np.testing.assert_array_equal(source[0]['street'], first)
  np.testing.assert_array_equal(source[1]['street'], drawn(2, (0, 3, 0, 4)))


def test_any_kind_is_made_of_annotations(folder):
  maps = {
    'people': {'kind': 'binary', 'categories': ('person',)},
    'things': {'kind': 'binary'},
    'layers': {'kind': 'multilabel', 'classes': ('car', 'person')},
    'there': {'kind': 'image_multilabel', 'classes': ('dog', 'car')},
    'pose': {'kind': 'heatmap', 'points': 2, 'categories': ('person',)},
  }
  first, second = [open_folder(folder, maps).source('val')[i] for i in (0, 1)]
  np.testing.assert_array_equal(first['people'], drawn(1, (4, 6, 8, 11)))
  np.testing.assert_array_equal(second['things'], drawn(1, (0, 3, 0, 4)))
  np.testing.assert_array_equal(
    first['layers'][..., 0], drawn(1, (2, 8, 5, 15))
  )
  np.testing.assert_array_equal(
    first['layers'][..., 1], drawn(1, (4, 6, 8, 11))
  )
  assert first['there'].tolist() == [0, 1] and second['there'].tolist() == [
    1,
    0,
  ]
  assert first['pose'].tolist() == [[9, 5, 1], [0, 0, 0]]  # numbers of pixels
  assert not second['pose'].any()


def test_labels_are_resized_with_their_picture(folder):
  maps = {
    'things': {'kind': 'binary', 'categories': ('car',)},
    'pose': {'kind': 'heatmap', 'points': 2},
  }
  dataset = open_folder(folder, maps, image_size=(6, 10))
  sample = dataset.source('train')[0]
  assert sample['things'].sum() == 3 * 5
  np.testing.assert_allclose(sample['pose'][0], [4.25, 2.25, 1])


@pytest.mark.parametrize('kind', ['polygons', 'runs', 'box'])
def test_the_area_may_be_left_out(folder, kind):
  """Then small objects are drawn over large ones, too."""
  small, large = (
    annotation(10, 1, 4, 6, 8, 11),
    annotation(10, 7, 0, *SIZE[:1], 0, SIZE[1]),
  )
  for item, box in ((small, [8, 4, 3, 2]), (large, [0, 0, *SIZE[::-1]])):
    del item['area']
    if kind == 'box':
      item['bbox'] = box
    if kind == 'runs':
      mask = (
        drawn(1, (4, 6, 8, 11)) if item is small else drawn(1, (0, 12, 0, 20))
      )
      counts, _ = encoded(mask)
      item['segmentation'] = {'size': list(SIZE), 'counts': counts}
  write(folder, [small, large])
  maps = {
    'street': {**STREET, 'categories': {'car': 'car', 'living': 'person'}}
  }
  sample = open_folder(folder, maps).source('train')[0]
  expected = drawn(2, (4, 6, 8, 11), over=drawn(1, (0, 12, 0, 20)))
  np.testing.assert_array_equal(sample['street'], expected)


def test_boxes_say_what_is_there_and_nothing_of_pixels(folder):
  boxes = [{**a, 'bbox': [1, 1, 3, 3]} for a in ANNOTATIONS]
  for box in boxes:
    del box['segmentation']
  write(folder, boxes)
  there = {'kind': 'image_multilabel', 'classes': ('dog', 'car', 'person')}
  maps = {'there': {**there, 'categories': {'car': 'car', 'person': 'person'}}}
  sample = open_folder(folder, maps).source('train')[0]
  assert sample['there'].tolist() == [0, 1, 1]
  with pytest.raises(InputError, match='the shapes of objects') as error:
    open_folder(folder, {'a': {'kind': 'binary'}}).source('train')[0]
  assert 'image_multilabel' in error.value.do


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('kind', ['binary', 'heatmap'])
def test_pictures_have_the_size_that_was_annotated(folder, kind, turned):
  maps = {'it': {'kind': kind, **({'points': 2} if kind == 'heatmap' else {})}}
  for picture in folder.glob('*/image/10.png'):
    exif = Image.Exif()
    if turned:
      exif[274] = 6
    size = SIZE[::-1] if turned else (SIZE[1] // 2, SIZE[0] // 2)
    Image.new('RGB', size).save(picture, exif=exif)
  with pytest.raises(InputError, match='12 x 20 pixels') as error:
    open_folder(folder, maps, image_size=SIZE).source('train')[0]
  assert ('EXIF orientation 6' in error.value.found) == turned
  there = {'it': {'kind': 'image_multilabel', 'classes': ('car',)}}
  open_folder(folder, there, image_size=SIZE).source('train')[0]


def encoded(mask):
  """Run lengths as COCO writes them, from their definition."""
  flat = mask.T.ravel()
  edges = np.flatnonzero(np.diff(np.r_[0, flat, 1 - flat[-1]]))
  counts = np.diff(np.r_[0, edges]).tolist()
  text = ''
  for i, count in enumerate(counts):
    number = count - counts[i - 2] if i > 2 else count
    more = True
    while more:
      digit = number & 0x1F
      number >>= 5
      more = number != (-1 if digit & 0x10 else 0)
      text += chr(48 + digit + (0x20 if more else 0))
  return counts, text


@pytest.mark.parametrize('compressed', [False, True])
def test_run_lengths_are_read(folder, compressed):
  mask = (np.random.default_rng(0).random(SIZE) < 0.4).astype(int)
  counts, text = encoded(mask)
  shape = {'size': list(SIZE), 'counts': text if compressed else counts}
  item = annotation(10, 9, 0, 0, 0, 0, segmentation=shape, iscrowd=1)
  write(folder, [item])
  source = open_folder(folder, {'things': {'kind': 'binary'}}).source('train')
  np.testing.assert_array_equal(source[0]['things'], mask)


def test_they_are_those_of_its_own_library(folder):
  masks = pytest.importorskip('pycocotools.mask')
  mask = (np.random.default_rng(1).random(SIZE) < 0.1).astype(np.uint8)
  counts = masks.encode(np.asfortranarray(mask))['counts'].decode()
  assert counts == encoded(mask.astype(int))[1]


@pytest.mark.parametrize(
  'maps, message',
  [
    ({'depth': {'kind': 'depth'}}, 'annotations of COCO have labels for'),
    ({'a': {'kind': 'binary', 'categories': ('cat',)}}, "'cat'"),
    ({'a': {'kind': 'binary', 'threshold': 3}}, "'threshold'"),
    ({'a': {'kind': 'binary', 'source': 'voc'}}, "'voc'"),
    ({'a': {**STREET, 'categories': {'cars': 'car'}}}, "'cars'"),
    ({'a': {'kind': 'heatmap', 'points': 3}}, '3 points of person'),
    (
      {'a': {'kind': 'binary', 'files': '{frame}.png'}},
      'read from the columns',
    ),
  ],
)
def test_what_annotations_cannot_give_is_refused(folder, maps, message):
  with pytest.raises(InputError, match=message):
    open_folder(folder, maps).source('train')[0]


@pytest.mark.parametrize(
  'annotations, message',
  [
    ([{'image_id': 10}], "KeyError: 'category_id'"),
    ([annotation(10, 3, 0, 1, 0, 1)], 'the id of a category'),
    ([annotation(99, 7, 0, 1, 0, 1)], 'image 99'),
    (
      [annotation(10, 7, 0, 1, 0, 1, segmentation=[[1, 2, 3]])],
      'three or more x, y',
    ),
    (
      [
        annotation(
          10, 7, 0, 1, 0, 1, segmentation={'size': [2, 2], 'counts': [4]}
        )
      ],
      'run lengths of 12 x 20',
    ),
    ([annotation(10, 7, 0, 1, 0, 1, segmentation=[1, 2, 3, 4])], r'\[\[x, y'),
    (
      [annotation(10, 7, 0, 1, 0, 1, segmentation=[[1, 2, 3, 4, 5, None]])],
      'three or more x, y',
    ),
    (
      [annotation(10, 7, 0, 1, 0, 1, segmentation={'size': list(SIZE)})],
      'run lengths of 12 x 20',
    ),
    (
      [
        annotation(
          10,
          7,
          0,
          1,
          0,
          1,
          area=1,
          segmentation={'size': list(SIZE), 'counts': [-1, 241]},
        )
      ],
      'run lengths of 12 x 20',
    ),
  ],
)
def test_damaged_annotations_are_named(folder, annotations, message):
  write(folder, annotations)
  with pytest.raises(InputError, match=message) as error:
    open_folder(folder, {'a': {'kind': 'binary'}}).source('train')[0]
  assert 'train.json' in error.value.where


def test_a_file_that_is_missing_is_named(folder):
  (folder / 'val.json').unlink()
  with pytest.raises(InputError, match='no such file') as error:
    open_folder(folder, {'a': {'kind': 'binary'}})
  assert error.value.where.endswith('val.json')
  with pytest.raises(InputError, match='annotations of COCO, of a'):
    datasets.make(
      'folder',
      data_dir=folder,
      maps={'a': {'kind': 'binary', 'source': 'coco'}},
    )
