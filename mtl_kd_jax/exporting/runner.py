"""Predicts pictures with network.stablehlo. Needs jax alone.

  python run_stablehlo.py PICTURE.npy [FOLDER]    # uint8 [h w 3] or [b h w 3]

writes <output>.npy for every output into the folder, by default the current
one. Files that are there are left as they are. metadata.json says what outputs
mean, and of what the sides of pictures are multiples ('stride').
"""

import pathlib
import sys

import jax.export
import numpy as np


def read_pictures(path):
  """Pictures, uint8 [b h w 3]; ends the process where they are none."""
  try:
    images = np.load(path)
  except (OSError, ValueError, EOFError) as error:
    sys.exit(f'error: expected a file .npy, found {path}: {error}')
  if images.dtype != np.uint8 or images.ndim not in (3, 4):
    found = f'{images.dtype} {list(images.shape)}'
    sys.exit(f'error: expected uint8 [h w 3] or [b h w 3], found {found}')
  return images.reshape(-1, *images.shape[-3:])


def main(picture, folder='.'):
  """Predicts, and writes what is predicted."""
  file = pathlib.Path(__file__).with_name('network.stablehlo')
  network = jax.export.deserialize(bytearray(file.read_bytes()))
  images = read_pictures(picture)
  options = {}
  if jax.default_backend() == 'gpu':
    # XLA of some versions ends the process over a ResNet otherwise.
    options['xla_gpu_enable_triton_gemm'] = False
  try:
    outputs = jax.jit(network.call, compiler_options=options)(images)
  except (TypeError, ValueError) as error:
    sys.exit(f'error: this network takes no {list(images.shape)}: {error}')
  paths = {name: pathlib.Path(folder, f'{name}.npy') for name in outputs}
  if there := [str(path) for path in paths.values() if path.exists()]:
    sys.exit(f'error: expected a folder without {", ".join(there)}')
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  for name, output in outputs.items():
    np.save(paths[name], output)
    print(f'{paths[name]}: {output.dtype} {list(output.shape)}')


if __name__ == '__main__':
  if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
  main(*sys.argv[1:])
