"""Predicts a picture with network.stablehlo. Needs jax alone.

  python run_stablehlo.py picture.npy    # uint8 [h w 3] or [b h w 3]

writes <output>.npy for every output. metadata.json says what they mean.
"""

import pathlib
import sys

import jax.export
import numpy as np

if __name__ == '__main__':
  file = pathlib.Path(__file__).with_name('network.stablehlo')
  network = jax.export.deserialize(bytearray(file.read_bytes()))
  images = np.load(sys.argv[1])
  images = images.reshape(-1, *images.shape[-3:])
  options = {}
  if jax.default_backend() == 'gpu':
    # XLA of some versions ends the process over a ResNet otherwise.
    options['xla_gpu_enable_triton_gemm'] = False
  call = jax.jit(network.call, compiler_options=options)
  for name, output in call(images).items():
    np.save(f'{name}.npy', output)
    print(f'{name}.npy: {output.dtype} {list(output.shape)}')
