"""Formats of maps alone: OpenEXR, Middlebury's flow, colors of 16 bits."""

import shutil
import struct
import sys
import zlib

from hostile import png_chunk
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax import datasets
from mtl_kd_jax.datasets import decode_maps, files
from mtl_kd_jax.datasets.guess.contents import guess_contents
from mtl_kd_jax.errors import InputError

H, W = 6, 8
RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(1, 9, (H, W)).astype(np.float32)
DIRECTIONS = RNG.normal(size=(H, W, 3)).astype(np.float32)
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=-1, keepdims=True)
FLOW = RNG.normal(scale=3, size=(H, W, 2)).astype(np.float32)
KNOWN = RNG.random((H, W)) > 0.3
DEEP = RNG.integers(0, 2**16, (H, W, 3)).astype(np.uint16)


def exr(path, **channels):
  """Writes a file of these channels; '_' in their names is a dot."""
  library = pytest.importorskip('OpenEXR')
  header = {'type': library.scanlineimage}
  # The library takes no account of strides when it writes.
  named = {
    name.replace('_', '.'): np.ascontiguousarray(c)
    for name, c in channels.items()
  }
  with library.File(header, named) as file:
    file.write(str(path))
  return path


def flo(path, flow, known=KNOWN):
  stored = np.where(known[..., None], flow, 1e10).astype('<f4')
  height, width = known.shape
  path.write_bytes(struct.pack('<4sii', b'PIEH', width, height) + bytes(stored))
  return path


def png(path, array, *, orientation=1):
  """Writes uint16 [h w c]; row i has the filter i % 5, as encoders mix them."""
  height, width, count = array.shape
  size = 2 * count
  rows = array.astype('>u2').view(np.uint8).reshape(height, -1).astype(int)
  lines = []
  for i, row in enumerate(rows):
    up = rows[i - 1] if i else np.zeros_like(row)
    left, corner = (np.r_[np.zeros(size, int), x[:-size]] for x in (row, up))
    guess = left + up - corner
    near = np.stack([left, up, corner])
    paeth = np.take_along_axis(
      near, np.abs(near - guess).argmin(axis=0)[None], axis=0
    )[0]
    predicted = (0, left, up, (left + up) // 2, paeth)[i % 5]
    lines.append(bytes([i % 5]) + bytes(((row - predicted) % 256).tolist()))
  kind = {2: 4, 3: 2, 4: 6}[count]
  header = struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)
  tags = Image.Exif()
  tags[0x0112] = orientation
  path.write_bytes(
    b'\x89PNG\r\n\x1a\n'
    + png_chunk(b'IHDR', header)
    + png_chunk(b'eXIf', tags.tobytes()[6:])
    + png_chunk(b'IDAT', zlib.compress(b''.join(lines)))
    + png_chunk(b'IEND', b'')
  )
  return path


def as_kitti(flow, known):
  stored = np.rint(flow * 64 + 2**15)
  return np.concatenate([stored * known[..., None], known[..., None]], axis=-1)


def read(path, kind, **entries):
  """The label of a folder with one picture, whose file this is."""
  root = path.parent
  picture = np.zeros((H, W, 3), np.uint8)
  shutil.copy(path, root / f'1_{path.name}')
  for split in ('train', 'val'):
    (root / split).mkdir(exist_ok=True)
    Image.fromarray(picture).save(root / split / '1.png')
  dataset = datasets.make(
    'folder',
    data_dir=root,
    image='{split}/{frame}.png',
    maps={'it': {'kind': kind, 'files': f'{{frame}}_{path.name}', **entries}},
  )
  return dataset.source('train')[0]['it']


def refuses(path, found, do='', **options):
  with pytest.raises(InputError) as error:
    files.read_array(path, finite=False, **options)
  assert found in error.value.found and do in error.value.do
  assert path.name in error.value.where


# ---- OpenEXR -----------------------------------------------------------------


@pytest.mark.parametrize('names', ['Z', 'depth_V', 'RGB', 'RGBA'])
def test_depth_in_exr_is_one_channel_or_the_same_three_times(tmp_path, names):
  one = names in ('Z', 'depth_V')
  channels = {n: DEPTH for n in ([names] if one else names)}
  if 'A' in channels:
    channels['A'] = np.ones_like(DEPTH)
  path = exr(tmp_path / 'map.exr', **channels)
  np.testing.assert_array_equal(read(path, 'depth')[..., 0], DEPTH)


def test_channels_of_exr_stand_in_the_order_of_vectors(tmp_path):
  for names in ('XYZ', 'RGB', 'rgb', 'RGBA'):
    named = dict(zip(names, np.moveaxis(DIRECTIONS, -1, 0), strict=False))
    # Three of four, and alpha, which is no component.
    named |= {'A': np.zeros_like(DEPTH)} if 'A' in names else {}
    path = exr(tmp_path / 'map.exr', **named)
    np.testing.assert_array_equal(read(path, 'normals'), DIRECTIONS)
  path = exr(tmp_path / 'map.exr', flow_U=FLOW[..., 0], flow_V=FLOW[..., 1])
  np.testing.assert_array_equal(read(path, 'vectors'), FLOW)


def test_half_precision_infinity_and_whole_numbers_of_exr(tmp_path):
  half = DEPTH.astype(np.float16)
  half[0, 0] = np.inf
  found = read(exr(tmp_path / 'half.exr', Z=half), 'depth')[..., 0]
  assert found[0, 0] == 0
  np.testing.assert_array_equal(found[1:], half[1:].astype(np.float32))
  ids = RNG.integers(0, 3, (H, W)).astype(np.uint32)
  path = exr(tmp_path / 'ids.exr', id=ids)
  found = read(path, 'classes', classes=('a', 'b', 'c'))
  np.testing.assert_array_equal(found, ids)


def test_different_colors_are_no_depth(tmp_path):
  path = exr(tmp_path / 'map.exr', R=DEPTH, G=DEPTH, B=DEPTH + 1)
  with pytest.raises(InputError) as error:
    read(path, 'depth')
  assert '[6, 8, 3]' in error.value.found


def test_an_exr_file_of_something_else_is_refused(tmp_path, monkeypatch):
  library = pytest.importorskip('OpenEXR')
  path = exr(tmp_path / 'map.exr', Z=DEPTH)
  whole = path.read_bytes()
  two = exr(tmp_path / 'a.exr', a_R=DEPTH, b_G=DEPTH)
  refuses(two, 'several layers: a.R, b.G', 'one in each file')
  parts = [
    library.Part({'type': library.scanlineimage, 'name': n}, {'Z': DEPTH})
    for n in 'ab'
  ]
  with library.File(parts) as file:
    file.write(str(tmp_path / 'parts.exr'))
  refuses(tmp_path / 'parts.exr', '2 parts', 'one in each file')
  window = np.array([0, 0], np.int32), np.array([W, H], np.int32)
  with library.File({'displayWindow': window}, {'Z': DEPTH}) as file:
    file.write(str(tmp_path / 'part.exr'))
  refuses(tmp_path / 'part.exr', 'a part of the picture')
  path.write_bytes(whole[:-30])
  refuses(path, '')
  path.write_bytes(whole[:40])
  refuses(path, '')
  path.write_bytes(b'\x89PNG')
  refuses(path, 'another kind: PNG')
  path.write_bytes(whole)
  monkeypatch.setattr(decode_maps, 'MAX_PIXELS', H * W - 1)
  refuses(path, '6 x 8, more than 47 pixels')
  monkeypatch.setitem(sys.modules, 'OpenEXR', None)
  refuses(path, 'no library', "pip install 'mtl_kd_jax[exr]'")


# ---- Flow --------------------------------------------------------------------


def test_flow_of_middlebury_and_kitti_is_in_pixels(tmp_path):
  expected = np.where(KNOWN[..., None], FLOW, np.nan)
  found = read(flo(tmp_path / 'flow.flo', FLOW), 'vectors')
  np.testing.assert_array_equal(found, expected)
  path = png(tmp_path / 'flow.png', as_kitti(FLOW, KNOWN))
  found = read(path, 'vectors', encoding='kitti')
  np.testing.assert_allclose(found, expected, atol=0.5 / 64 + 1e-6)


def test_flow_that_is_none_is_refused(tmp_path, monkeypatch):
  path = flo(tmp_path / 'flow.flo', FLOW)
  whole = path.read_bytes()
  for content, found in (
    (whole[:-4], 'cut short'),
    (whole[:8], 'a damaged header'),
    (whole[:4] + struct.pack('<ii', -1, 5), 'a damaged header'),
    (whole[:4] + struct.pack('<ii', 2**30, 2**30), 'pixels'),
    (b'', 'an empty file'),
    (b'P6', 'another kind'),
  ):
    path.write_bytes(content)
    refuses(path, found)
  colors = png(tmp_path / 'flow.png', DEEP)
  with pytest.raises(InputError, match='the last of which is 0 or 1'):
    read(colors, 'vectors', encoding='kitti')
  with pytest.raises(InputError, match="'' or 'kitti'"):
    read(colors, 'vectors', encoding='rgb24')


# ---- Colors of 16 bits -------------------------------------------------------


@pytest.mark.parametrize('count', [3, 4])
def test_maps_keep_all_16_bits(tmp_path, count):
  array = np.concatenate([DEEP, DEEP], axis=-1)[..., :count]
  path = png(tmp_path / 'map.png', array)
  np.testing.assert_array_equal(files.read_array(path), array)
  turned = png(tmp_path / 'turned.png', array, orientation=3)
  np.testing.assert_array_equal(files.read_array(turned), array[::-1, ::-1])
  picture = files.read_array(path, colors=True)
  np.testing.assert_array_equal(picture, DEEP >> 8)


def test_directions_of_16_bits_are_finer_than_those_of_8(tmp_path):
  stored = np.rint((DIRECTIONS + 1) / 2 * (2**16 - 1)).astype(np.uint16)
  found = read(png(tmp_path / 'map.png', stored), 'normals')
  np.testing.assert_allclose(found, DIRECTIONS, atol=3e-5)


def test_maps_of_which_bits_would_be_lost_are_refused(tmp_path):
  path = png(tmp_path / 'alpha.png', DEEP[..., :2])
  refuses(path, 'channels of more than 8 bits in a PNG', '.npy')
  path = tmp_path / 'map.tif'
  tags = b''.join(
    struct.pack('<HHII', *tag)
    for tag in (
      (256, 3, 1, W),
      (257, 3, 1, H),
      (258, 3, 3, 122),  # bits, where they stand
      (259, 3, 1, 1),
      (262, 3, 1, 2),
      (273, 4, 1, 128),
      (277, 3, 1, 3),
      (278, 3, 1, H),
      (279, 4, 1, DEEP.nbytes),
    )
  )
  head = b'II*\0' + struct.pack('<IH', 8, 9) + tags + bytes(4)
  path.write_bytes(head + struct.pack('<3H', 16, 16, 16) + DEEP.tobytes())
  refuses(path, 'channels of more than 8 bits in a TIFF', '.npy')


def test_a_first_config_knows_them(tmp_path):
  def guess(path):
    found = guess_contents([path])
    assert found.size == (H, W)
    return found.kind, found.description

  known = np.ones_like(KNOWN)
  kitti = png(tmp_path / 'kitti.png', as_kitti(FLOW, KNOWN))
  assert guess(kitti) == ('vectors', {'encoding': 'kitti'})
  assert guess(flo(tmp_path / 'flow.flo', FLOW, known)) == ('vectors', {})
  stored = np.rint((DIRECTIONS + 1) / 2 * (2**16 - 1)).astype(np.uint16)
  assert guess(png(tmp_path / 'deep.png', stored)) == ('normals', {})
  xyz = dict(zip('XYZ', np.moveaxis(DIRECTIONS, -1, 0), strict=True))
  assert guess(exr(tmp_path / 'xyz.exr', **xyz)) == ('normals', {})
  assert guess(exr(tmp_path / 'z.exr', Z=DEPTH)) == ('depth', {'unit': 'm'})
  same = exr(tmp_path / 'same.exr', R=DEPTH, G=DEPTH, B=DEPTH)
  assert guess(same) == ('depth', {'unit': 'm'})
