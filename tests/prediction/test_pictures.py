"""Pictures as networks are given them, from files, Pillow and NumPy."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.pictures import read_picture, resized


def test_a_larger_picture_is_averaged_and_not_sampled():
  """Every second pixel of this pattern is white, and its mean is gray."""
  pixels = np.zeros((64, 64, 3), np.float32)
  pixels[np.indices((64, 64)).sum(0) % 2 == 0] = 1
  small = resized(pixels, (32, 32))
  assert small.shape == (32, 32, 3)
  np.testing.assert_allclose(small[1:-1, 1:-1], 0.5, atol=1e-6)


RGB = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
GRAY = np.stack([RGB[..., 0]] * 3, -1)


def encoded(pixels, kind='PNG', mode=None, **options):
  image = Image.fromarray(pixels)
  if mode == 'P':
    image.putpalette([i // 3 for i in range(768)][::-1])
  file = io.BytesIO()
  (image.convert(mode) if mode else image).save(file, kind, **options)
  return file.getvalue()


def declared(side):
  """A small PNG whose header declares a huge gray image."""
  png = bytearray(encoded(RGB[..., 0]))
  png[16:24] = struct.pack('>II', side, side)
  png[29:33] = struct.pack('>I', zlib.crc32(png[12:29]))
  return bytes(png)


def animated(kind):
  more = [Image.fromarray(255 - RGB)]
  return encoded(RGB, kind, save_all=True, append_images=more)


DEEP = (RGB[..., 0].astype(np.uint16) + 1) * 100
TOO_DEEP = 'a gray image of 16 bits, with values from 100 to 8800'


@pytest.mark.parametrize(
  'name, content, found',
  [
    ('empty.png', b'', 'an empty file'),
    ('cut.png', encoded(RGB)[:50], 'truncated'),
    ('cut.jpg', encoded(GRAY, 'JPEG')[:-200], 'Truncated File Read'),
    ('bomb.png', declared(20_000), 'a larger one'),
    ('deep.png', encoded(DEEP), TOO_DEEP),
    ('animated.gif', animated('GIF'), 'another kind: GIF'),
    ('gif.png', animated('GIF'), 'another kind: GIF'),
    ('text.jpg', b'<html>404</html>', 'web page'),
    ('a.txt', b'text', 'another kind: unknown'),
    ('nan.npy', np.full((4, 4, 3), np.nan), 'NaN'),
    ('folder.png', None, 'a folder of that name'),
    ('.', None, 'a folder of that name'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_a_file_that_is_no_picture_is_refused(name, content, found, tmp_path):
  path = tmp_path / name
  if content is None:
    path.mkdir(exist_ok=True)
  elif isinstance(content, bytes):
    path.write_bytes(content)
  else:
    np.save(path, content)
  with pytest.raises(InputError) as error:
    read_picture(path)
  assert found in error.value.found
  assert error.value.where == str(path) and len(error.value.do) > 10


@pytest.mark.parametrize(
  'name, found',
  [
    ('nowhere.png', 'no such file'),
    ('', 'a folder of that name'),
    ('~nobody-of-this-name/x.jpg', "no user 'nobody-of-this-name'"),
    ('a\0b.png', 'null byte'),
    ('\ud800.png', 'surrogates'),
    ('x' * 5000 + '.png', 'too long'),
    ('/dev/zero', 'not a regular file'),
  ],
)
def test_a_path_that_leads_to_no_picture_is_refused(name, found):
  with pytest.raises(InputError) as error:
    read_picture(name)
  assert found in error.value.found
  str(error.value).encode()  # can be printed


@pytest.mark.parametrize(
  'content, expected',
  [
    (encoded(RGB), RGB),
    (encoded(RGB, mode='RGBA'), RGB),
    (encoded(GRAY, mode='L'), GRAY),
    (encoded(GRAY, mode='LA'), GRAY),
    (encoded(RGB[..., 0], mode='P'), 255 - GRAY),
    (encoded(RGB[..., 0], mode='P', transparency=b'\0\1'), 255 - GRAY),
    (encoded(255 * (GRAY > 40).astype(np.uint8), mode='1'), 255 * (GRAY > 40)),
    (encoded(GRAY, 'JPEG', quality=95), GRAY),
    (encoded(GRAY, 'JPEG', 'CMYK', quality=95), GRAY),
    (animated('PNG'), RGB),
  ],
  ids='rgb alpha L LA palette transparent 1 jpeg CMYK animated'.split(),
)
def test_a_picture_is_read_alike_from_a_file_and_of_pillow(
  content, expected, tmp_path
):
  path = tmp_path / 'a.png'  # its content decides
  path.write_bytes(content)
  pixels = read_picture(path)
  assert pixels.dtype == np.float32
  lossy = content.startswith(b'\xff\xd8')
  np.testing.assert_allclose(
    pixels, expected / 255, atol=0.02 if lossy else 1e-6
  )
  with Image.open(path) as image:
    np.testing.assert_array_equal(read_picture(image), pixels)
  np.save(tmp_path / 'a.npy', pixels)
  np.testing.assert_array_equal(read_picture(tmp_path / 'a.npy'), pixels)


def closed():
  image = Image.open(io.BytesIO(encoded(RGB)))
  image.close()
  return image


@pytest.mark.parametrize(
  'image, found',
  [
    (np.zeros((4, 4)), 'float64 [4, 4]'),
    (np.zeros((1, 4, 4, 3)), 'float64 [1, 4, 4, 3]'),
    (np.zeros((0, 4, 3), np.uint8), 'uint8 [0, 4, 3]'),
    (np.zeros((4, 4, 4), np.uint8), 'uint8 [4, 4, 4]'),
    (np.zeros((4, 4, 3), int), 'int64 [4, 4, 3]'),
    (np.zeros((4, 4, 3), bool), 'bool'),
    (np.zeros((4, 4, 3), complex), 'complex128'),
    (np.full((4, 4, 3), 'a'), '<U1 [4, 4, 3]'),
    (np.full((4, 4, 3), None), 'object [4, 4, 3]'),
    (np.full((4, 4, 3), 2.0), 'from 2 to 2'),
    (np.full((4, 4, 3), np.nan), 'NaN or infinite'),
    (np.full((4, 4, 3), np.inf), 'NaN or infinite'),
    ([], 'float64 [0]'),
    ([[1], [1, 2]], 'inhomogeneous'),
    (None, 'object []'),
    (b'a.png', '|S5 []'),
    (Image.new('RGB', (0, 4)), 'uint8 [4, 0, 3]'),
    (Image.fromarray(DEEP), TOO_DEEP),
    (Image.new('F', (4, 4), 0.5), 'a gray image of floats'),
    (Image.open(io.BytesIO(encoded(RGB)[:50])), 'truncated'),
    (closed(), 'closed'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_what_is_no_picture_is_refused(image, found):
  with pytest.raises(InputError) as error:
    read_picture(image)
  assert found in error.value.found and error.value.argument == 'image'


# ---- More than 8 bits --------------------------------------------------------


@pytest.mark.parametrize('form', ['png', 'tiff', 'npy', 'array', 'PIL'])
def test_where_white_is_said_deep_pictures_are_read(form, tmp_path):
  path = tmp_path / f'a.{form}'
  gray = np.stack([DEEP] * 3, -1)
  if form == 'npy':
    np.save(path, gray)
  elif form in ('png', 'tiff'):
    Image.fromarray(DEEP).save(path)
  given = {'array': gray, 'PIL': Image.fromarray(DEEP)}.get(form, path)
  with pytest.raises(InputError, match='white=65535'):
    read_picture(given)
  pixels = read_picture(given, white=8800)
  assert pixels.dtype == np.float32 and pixels.max() == 1
  np.testing.assert_allclose(pixels, gray / 8800, rtol=1e-6)
  with pytest.raises(InputError, match='white=4095 is too small'):
    read_picture(given, white=4095)


def test_white_of_bytes_is_255():
  pixels = read_picture(RGB, white=4095)
  np.testing.assert_array_equal(pixels, read_picture(RGB))
  assert pixels.max() == np.float32(89 / 255)


@pytest.mark.parametrize('kind', ['WEBP', 'BMP', 'TIFF'])
def test_other_formats_of_pictures_are_read(kind, tmp_path):
  path = tmp_path / 'a'
  options = {'lossless': True} if kind == 'WEBP' else {}
  path.write_bytes(encoded(RGB, kind, **options))
  np.testing.assert_allclose(read_picture(path), RGB / 255, atol=1e-6)


def test_alpha_is_dropped():
  """Also where it hides a pixel: the color under it is what counts."""
  clear = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
  np.testing.assert_allclose(
    read_picture(Image.fromarray(clear)), RGB / 255, atol=1e-6
  )


def test_a_telephone_photograph_of_another_kind_is_named(tmp_path):
  (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic')
  with pytest.raises(InputError, match='HEIC'):
    read_picture(tmp_path / 'a.heic')


def test_colors_of_16_bits_are_read_by_their_high_bytes(tmp_path):
  """PNG says that 65535 is white; Pillow reads 8 bits of each."""
  colors = (RGB.astype(np.uint16) << 8) + 7
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in colors)
  size = struct.pack('>IIBBBBB', 6, 5, 16, 2, 0, 0, 0)
  chunks = [(b'IHDR', size), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
  (tmp_path / 'a.png').write_bytes(
    b'\x89PNG\r\n\x1a\n'
    + b''.join(
      struct.pack('>I', len(data))
      + kind
      + data
      + struct.pack('>I', zlib.crc32(kind + data))
      for kind, data in chunks
    )
  )
  np.testing.assert_array_equal(
    read_picture(tmp_path / 'a.png'), read_picture(RGB)
  )
  # Of 12 bits, stored in 16.
  np.testing.assert_allclose(
    read_picture(tmp_path / 'a.png', white=40_000), colors / 40_000, rtol=1e-6
  )
  with (
    Image.open(tmp_path / 'a.png') as image,
    pytest.raises(InputError, match='the path of its file'),
  ):
    read_picture(image, white=40_000)


def test_colors_of_16_bits_in_a_tiff_are_refused(tmp_path):
  """Which Pillow would read by their high bytes, whatever is white."""
  colors = np.zeros((5, 6, 3), '<u2')
  tags = [
    *((256, 4, 6), (257, 4, 5), (258, 3, 16), (262, 3, 2)),
    *((273, 4, 8), (277, 3, 3), (278, 4, 5), (279, 4, colors.nbytes)),
  ]
  head = b'II*\0' + struct.pack('<I', 8 + colors.nbytes) + colors.tobytes()
  bits = len(head) + 2 + 12 * len(tags) + 4
  entries = b''.join(
    struct.pack(
      '<HHII', tag, kind, 3 if tag == 258 else 1, bits if tag == 258 else value
    )
    for tag, kind, value in tags
  )
  content = head + struct.pack('<H', len(tags)) + entries + b'\0' * 4
  (tmp_path / 'a.tif').write_bytes(content + struct.pack('<HHH', 16, 16, 16))
  for white in (None, 4095):
    with pytest.raises(InputError, match='more than 8 bits in a TIFF'):
      read_picture(tmp_path / 'a.tif', white=white)
