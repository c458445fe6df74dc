"""A picture of the kind that a run was trained on."""

from typing import Any

import numpy as np
from PIL import Image

from mtl_kd_jax.config.build import open_dataset
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.reports.plots.style import image_bytes

_HEIGHT = 384  # pixels, of a rendered room
# Data that are first prepared on disk, which takes minutes.
_PREPARED = ('cityscapes',)


def example_of(run: Any) -> Image.Image | None:
  """A picture that no network of the run was trained on.

  Args:
    run: as `mtl_kd_jax.load` returns it.

  Returns:
    The first one of the split that the run reports; None where the data are not
    here.
  """
  config = getattr(run, 'config', None)
  if config is None or config.data.name in _PREPARED:
    return None
  if config.data.name == 'scenes':
    pixels = _room(config)
  else:
    try:
      pixels = open_dataset(config).source(config.data.eval_split)[0]['image']
    except InputError:
      return None
  return Image.fromarray(image_bytes(np.asarray(pixels)))


def _room(config) -> np.ndarray:
  """Larger than it was in training: a room is the same at every size."""
  from mtl_kd_jax.datasets.scenes.dataset import render  # needs TFDS

  height, width = config.data.scenes.image_size
  size = (_HEIGHT, round(_HEIGHT * width / height))
  return render(config.data.scenes.seed, 'val', 0, size)['image']
