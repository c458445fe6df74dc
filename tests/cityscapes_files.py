"""Writes small data sets in the official layout of Cityscapes."""

import io
import json
import zipfile

import numpy as np
from PIL import Image

PARTS = {
  'leftImg8bit': 'leftImg8bit.png',
  'gtFine': 'gtFine_labelIds.png',
  'disparity': 'disparity.png',
  'camera': 'camera.json',
}
CAMERA = {
  'extrinsic': {'baseline': 0.209313, 'pitch': 0.038, 'yaw': -0.0195},
  'intrinsic': {'fx': 2262.52, 'fy': 2265.3, 'u0': 1096.98, 'v0': 513.137},
}
FRAMES = (
  'train/aachen/aachen_000000_000019',
  'train/aachen/aachen_000001_000019',
  'train/bochum/bochum_000000_000313',
  'val/frankfurt/frankfurt_000000_000294',
)


def make_frame(seed, size=(64, 128)):
  """What the files of one frame hold: arrays, and the camera."""
  rng = np.random.default_rng(seed)
  disparity = rng.integers(1, 32258, size)
  disparity[rng.random(size) < 0.3] = 0
  return {
    'leftImg8bit': rng.integers(0, 256, (*size, 3)).astype(np.uint8),
    'gtFine': rng.integers(0, 34, size).astype(np.uint8),
    'disparity': disparity.astype(np.uint16),
    'camera': CAMERA,
  }


def encode(content):
  """A file's bytes: of an array as PNG, of anything else as JSON."""
  if not isinstance(content, np.ndarray):
    return json.dumps(content).encode()
  file = io.BytesIO()
  Image.fromarray(content).save(file, 'png')
  return file.getvalue()


def make_files(frames=FRAMES, size=(64, 128)):
  """Name inside the archive -> content, array or JSON."""
  return {
    f'{folder}/{frame}_{suffix}': content
    for seed, frame in enumerate(frames)
    for (folder, suffix), content in zip(
      PARTS.items(), make_frame(seed, size).values(), strict=True
    )
  }


def write_zips(folder, files):
  """Writes files into the four archives."""
  folder.mkdir(parents=True, exist_ok=True)
  for part in PARTS:
    names = [name for name in files if name.startswith(f'{part}/')]
    if not names:
      continue
    path = folder / f'{part}_trainvaltest.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('README', 'As in the official archives.')
      archive.writestr(f'{part}/', '')
      for name in names:
        archive.writestr(name, encode(files[name]))


def write_tree(folder, files):
  """Writes files as unpacking the archives would."""
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(content))
