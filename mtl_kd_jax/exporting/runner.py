"""Predicts pictures with network.stablehlo. Needs jax alone.

  python run_stablehlo.py PICTURE.npy [FOLDER]    # uint8 [h w 3] or [b h w 3]

writes <output>.npy for every output into the folder, by default the current
one. Files that are there are left as they are. metadata.json says what outputs
mean, and of what the sides of pictures are multiples ('stride').
"""

import pathlib
import re
import sys

import jax.export
import numpy as np


def read_pictures(path):
  """Pictures, uint8 [b h w 3]; ends the process where they are none."""
  try:
    images = np.load(path)
  except (OSError, ValueError, EOFError) as error:
    sys.exit(f'error: expected a file .npy, found {path}: {error}')
  if not isinstance(images, np.ndarray):
    images.close()
    sys.exit(f'error: expected one array, found several: {path}')
  picture = images.dtype == np.uint8 and images.ndim in (3, 4)
  if not picture or images.shape[-1] != 3 or not images.size:
    found = f'{images.dtype} {list(images.shape)}'
    sys.exit(f'error: expected uint8 [h w 3] or [b h w 3], found {found}')
  return images.reshape(-1, *images.shape[-3:])


def check_sides(found, taken):
  """Ends the process where the network takes no pictures of such sides."""
  for name, side, expected in zip(
    ('height', 'width'), found, taken, strict=True
  ):
    if isinstance(expected, int):
      fits, text = side == expected, f'of {expected}'
    else:  # such as 8*height
      stride = int((re.match(r'\d+', f'{expected}') or '1')[0])
      fits, text = side % stride == 0, f'that is a multiple of {stride}'
    if not fits:
      sys.exit(f'error: this network takes a {name} {text}, found {side}')


def main(picture, folder='.'):
  """Predicts, and writes what is predicted."""
  file = pathlib.Path(__file__).with_name('network.stablehlo')
  network = jax.export.deserialize(bytearray(file.read_bytes()))
  images = read_pictures(picture)
  check_sides(images.shape[1:3], network.in_avals[0].shape[1:3])
  options = {}
  if jax.default_backend() == 'gpu':
    # XLA of some versions ends the process over a ResNet otherwise.
    options['xla_gpu_enable_triton_gemm'] = False
  try:
    outputs = jax.jit(network.call, compiler_options=options)(images)
  except (TypeError, ValueError) as error:
    sys.exit(f'error: this network cannot be run: {error}')
  paths = {name: pathlib.Path(folder, f'{name}.npy') for name in outputs}
  if there := [str(path) for path in paths.values() if path.exists()]:
    sys.exit(f'error: expected a folder without {", ".join(there)}')
  try:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for name, output in outputs.items():
      np.save(paths[name], output)
      print(f'{paths[name]}: {output.dtype} {list(output.shape)}')
  except OSError as error:
    sys.exit(f'error: expected a folder that can be written to: {error}')


if __name__ == '__main__':
  if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
  main(*sys.argv[1:])
