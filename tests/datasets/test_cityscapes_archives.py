"""Damaged archives are named, and no partly prepared files remain."""

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib

from array_record.python import array_record_module
from fixtures import cityscapes_files
from fixtures.paths import REPOSITORY
import numpy as np
import pytest
from rich.console import Console

from mtl_kd_jax.datasets.cityscapes import builder as cityscapes_builder
from mtl_kd_jax.datasets.cityscapes import dataset as cityscapes
from mtl_kd_jax.datasets.progress import show_progress
from mtl_kd_jax.errors import InputError

SIZE = (16, 32)
OPTIONS = {'image_size': (8, 16)}
BOCHUM = 'train/bochum/bochum_000000_000313'
IMAGE = f'leftImg8bit/{BOCHUM}_leftImg8bit.png'
LABELS = f'gtFine/{BOCHUM}_gtFine_labelIds.png'
DISPARITY = f'disparity/{BOCHUM}_disparity.png'
CAMERA = f'camera/{BOCHUM}_camera.json'


def silent(done, total):
  pass


def open_in(folder, progress=silent, **options):
  return cityscapes.make(
    manual_dir=str(folder),
    data_dir=str(folder / 'prepared'),
    progress=progress,
    **OPTIONS | options,
  )


def records(folder):
  """All files of TFDS in its directory."""
  path = folder / 'prepared'
  return [p for p in path.rglob('*') if 'lock' not in p.name and p.is_file()]


def expect_error(folder, *parts, **options):
  """The error. It contains `parts`, and no files remain."""
  with pytest.raises(InputError) as error:
    open_in(folder, **options)
  for part in parts:
    assert part in str(error.value), part
  assert len(error.value.do) > 15
  assert records(folder) == []
  return error.value


def changed(content):
  """A copy of the array with one pixel of the id 34."""
  return np.where(
    np.arange(content.size).reshape(content.shape) == 9, 34, content
  )


# case -> file, its content -> a damaged one, parts of the message
DAMAGES = {
  'image of another size': (IMAGE, lambda a: a[:-1], ('16x32', '15x32')),
  'image that is gray': (IMAGE, lambda a: a[..., 0], ('color', "'L'")),
  'image with alpha': (
    IMAGE,
    lambda a: np.concatenate([a, a[..., :1]], -1),
    ('color', 'RGBA'),
  ),
  'labels of another size': (LABELS, lambda a: a[:, :-1], ('16x31',)),
  'labels of the training': (
    LABELS,
    lambda a: np.where(a > 18, 255, a).astype(np.uint8),
    ('labelTrainIds', 'gtFine_trainvaltest.zip'),
  ),
  'labels with id 34': (
    LABELS,
    lambda a: changed(a).astype(np.uint8),
    ('0 to 33', '34'),
  ),
  'labels in color': (LABELS, lambda a: np.stack([a] * 3, -1), ("'RGB'",)),
  'labels of instances': (
    LABELS,
    lambda a: a.astype(np.uint16) * 1000,
    ("'I;16'",),
  ),
  'disparity of 8 bit': (
    DISPARITY,
    lambda a: (a >> 8).astype(np.uint8),
    ('16 bits', 'disparity_trainvaltest.zip'),
  ),
  'disparity of another size': (DISPARITY, lambda a: a[1:], ('15x32',)),
  'camera without a baseline': (
    CAMERA,
    lambda c: c['intrinsic'],
    ('baseline',),
  ),
  'camera with text': (
    CAMERA,
    lambda c: c | {'extrinsic': {'baseline': 'long'}},
    ('baseline',),
  ),
  'camera without a focal length': (
    CAMERA,
    lambda c: c | {'intrinsic': {'fx': 0}},
    ('above 0',),
  ),
}


@pytest.mark.parametrize('write', ['zips', 'tree'])
@pytest.mark.parametrize('case', DAMAGES)
def test_a_damaged_file_is_named(tmp_path, case, write):
  name, damage, parts = DAMAGES[case]
  files = cityscapes_files.make_files(size=SIZE)
  good = files[name]
  files[name] = damage(good)
  getattr(cityscapes_files, f'write_{write}')(tmp_path, files)
  error = expect_error(tmp_path, *parts)
  assert name in error.where and str(tmp_path) in error.where
  # Once it is restored, the next run prepares everything.
  files[name] = good
  getattr(cityscapes_files, f'write_{write}')(tmp_path, files)
  assert len(open_in(tmp_path).source('train')) == 3


@pytest.mark.parametrize('name', [IMAGE, LABELS, DISPARITY])
def test_a_truncated_image_is_named(tmp_path, name):
  cityscapes_files.write_tree(tmp_path, cityscapes_files.make_files(size=SIZE))
  path = tmp_path / name
  whole = path.read_bytes()
  for length in (0, 20, len(whole) // 2):
    path.write_bytes(whole[:length])
    assert expect_error(tmp_path).where == str(path)


@pytest.mark.parametrize('name', [IMAGE, LABELS, DISPARITY, CAMERA])
def test_a_frame_without_one_of_its_files_is_named(tmp_path, name):
  files = cityscapes_files.make_files(size=SIZE)
  del files[name]
  cityscapes_files.write_zips(tmp_path, files)
  folder, split = name.split('/')[:2]
  error = expect_error(tmp_path, '1 of 3', 'bochum_000000_000313')
  assert f'{folder}/{split}' in error.where
  assert f'{folder}_trainvaltest.zip' in error.where


@pytest.mark.parametrize('part', cityscapes_files.PARTS)
@pytest.mark.parametrize('share', [0, 0.5, 0.99])
def test_a_truncated_archive_is_named(tmp_path, part, share):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))
  path = tmp_path / f'{part}_trainvaltest.zip'
  whole = path.read_bytes()
  path.write_bytes(whole[: int(share * len(whole))])
  error = expect_error(tmp_path, 'complete zip archive', 'download it again')
  assert error.where == str(path)


def test_damage_inside_an_archive_is_named(tmp_path):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))
  path = tmp_path / 'disparity_trainvaltest.zip'
  content = bytearray(path.read_bytes())
  start = content.index(DISPARITY.encode()) + len(DISPARITY) + 40
  content[start : start + 20] = bytes(20)
  path.write_bytes(content)
  error = expect_error(tmp_path, f'download {path.name} again')
  assert DISPARITY in error.where and str(path) in error.where


def test_an_archive_of_other_files_is_named(tmp_path):
  files = cityscapes_files.make_files(size=SIZE)
  fine = [name for name in files if name.startswith('gtFine')]
  for name in fine:
    files[name.replace('labelIds', 'labelTrainIds')] = files.pop(name)
  cityscapes_files.write_zips(tmp_path, files)
  expect_error(tmp_path, '_gtFine_labelIds.png', 'gtFine_trainvaltest.zip')


def test_training_ids_in_all_files_are_detected(tmp_path):
  files = cityscapes_files.make_files(size=SIZE)
  rng = np.random.default_rng(0)
  for name in files:
    if name.startswith('gtFine'):  # mostly road, building, some car and sky
      ids = rng.choice(
        [0, 1, 2, 8, 10, 13], SIZE, p=(4, 1, 2, 1, 1, 1) / np.float64(10)
      )
      files[name] = ids.astype(np.uint8)
  cityscapes_files.write_zips(tmp_path, files)
  expect_error(tmp_path, 'training ids', 'gtFine_trainvaltest.zip')


def test_disparities_converted_to_8_bits_are_detected(tmp_path):
  files = cityscapes_files.make_files(size=SIZE)
  for name in files:
    if name.startswith('disparity'):
      files[name] >>= 8
  cityscapes_files.write_zips(tmp_path, files)
  expect_error(
    tmp_path, 'as if converted to 8 bits', 'disparity_trainvaltest.zip'
  )


def test_a_size_that_does_not_divide_the_images_is_an_error(tmp_path):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))
  for size in ((12, 16), (8, 24), (32, 64)):
    expect_error(tmp_path, '16x32', image_size=size)


def test_an_image_that_declares_a_huge_size_is_not_decoded(tmp_path):
  cityscapes_files.write_tree(tmp_path, cityscapes_files.make_files(size=SIZE))
  path = tmp_path / LABELS
  content = bytearray(path.read_bytes())
  content[16:24] = struct.pack('>II', 12000, 6000)  # the header's size
  content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
  path.write_bytes(content)
  # Decoding would fail with an error about its content.
  assert expect_error(tmp_path, '6000x12000').where == str(path)


# ---- Interruptions ----------------------------------------------------------


def test_an_interruption_leaves_no_files_and_the_next_run_starts_over(tmp_path):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))

  def interrupt(done, total):
    if done == 3:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    open_in(tmp_path, interrupt)
  assert records(tmp_path) == []
  calls = []
  dataset = open_in(tmp_path, lambda *call: calls.append(call))
  assert calls == [(done, 4) for done in range(1, 5)]
  assert len(dataset.source('train')) == 3


_KILLED = """
import pathlib, sys, time
from mtl_kd_jax.datasets.cityscapes import dataset as cityscapes
folder = pathlib.Path(sys.argv[1])

def progress(done, total):
  if done == 3:
    (folder / 'ready').touch()
    time.sleep(60)

cityscapes.make(
  image_size=(8, 16), manual_dir=str(folder),
  data_dir=str(folder / 'prepared'), progress=progress)
"""


def test_files_of_a_killed_run_are_deleted(tmp_path):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))
  environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
  process = subprocess.Popen(
    [sys.executable, '-c', _KILLED, str(tmp_path)], env=environment
  )
  try:
    deadline = time.monotonic() + 60
    while not (tmp_path / 'ready').exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.05)
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  left = [p for p in records(tmp_path) if 'incomplete' in str(p)]
  assert left, 'the killed run left no files: the test is void'
  assert len(open_in(tmp_path).source('train')) == 3
  assert not [p for p in records(tmp_path) if 'incomplete' in str(p)]


def test_many_frames_keep_their_order_over_several_files(tmp_path, monkeypatch):
  frames = [f'train/ulm/ulm_{i:06}' for i in range(23)] + ['val/ulm/ulm_000099']
  files = cityscapes_files.make_files(frames, SIZE)
  cityscapes_files.write_zips(tmp_path, files)
  monkeypatch.setattr(cityscapes_builder, '_SHARD_BYTES', 5 * 8 * 16 * 8)
  dataset = open_in(tmp_path, image_size=SIZE)
  assert len(list(tmp_path.rglob('*train.array_record*'))) == 23
  dataset = open_in(tmp_path)
  assert len(list(tmp_path.rglob('*8x16*/*/*train.array_record*'))) == 5
  source = dataset.source('train')
  for i, frame in enumerate(frames[:-1]):
    middle = files[f'disparity/{frame}_disparity.png'].reshape(8, 2, 16, 2)
    known = np.ma.masked_equal(middle, 0)
    mean = known.mean((1, 3)).filled(0) / 65535
    mean = np.where(known.count((1, 3)) >= 2, mean, 0)
    np.testing.assert_allclose(source[i]['depth'][..., 0], mean, rtol=1e-6)


def test_damaged_records_are_named(tmp_path):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))
  open_in(tmp_path)
  next((tmp_path / 'prepared').rglob('*val.array_record*')).write_bytes(
    bytes(9)
  )
  with pytest.raises(InputError, match='delete that folder') as error:
    open_in(tmp_path)
  assert '8x16_disparity_camera' in error.value.where


def test_progress_is_shown(tmp_path, capsys):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))
  open_in(tmp_path, None)
  shown = capsys.readouterr()
  assert shown.out == '' and '4/4' in shown.err
  assert 'preparing cityscapes 8x16' in shown.err
  open_in(tmp_path, None)
  assert capsys.readouterr() == ('', '')


def test_a_bar_is_drawn_on_a_terminal():
  file = io.StringIO()
  console = Console(file=file, force_terminal=True, width=80)
  with show_progress('preparing', console) as progress:
    progress(7, 14)
  assert '7/14' in file.getvalue() and 'preparing' in file.getvalue()


def test_the_error_for_a_full_disk_says_what_is_needed(tmp_path, monkeypatch):
  cityscapes_files.write_zips(tmp_path, cityscapes_files.make_files(size=SIZE))

  def full(self, record):
    raise RuntimeError('write() failed: No space left on device')  # as it does

  monkeypatch.setattr(array_record_module.ArrayRecordWriter, 'write', full)
  threads = threading.enumerate()
  error = expect_error(tmp_path, 'No space left', '4 MB to spare')
  assert error.argument == 'data_dir'
  # Ended now, not when what the error holds is garbage and collected: in the
  # start of another thread, that waits forever.
  assert threading.enumerate() == threads
