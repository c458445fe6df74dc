"""Disparity, or inverse depth: as depth, but what is near has large values.

Zooming in brings a scene nearer, and *multiplies* disparity (some published
code divides it, as depth).
"""

import dataclasses
import functools

import numpy as np

from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import _options, base, depth
from mtl_kd_jax.tasks.augmentation import of_maps


def describe(*, unit: str = '') -> Label:
  """Describes a map of disparity, or of inverse depth.

  Args:
    unit: that of the values, for the tables.
  """
  return Label('disparity', unit=_options.text('unit', unit))


def make(label: Label) -> base.Task:
  """Makes the task; loss and metrics are those of depth."""
  return dataclasses.replace(
    depth.make(label),
    render=functools.partial(depth.render, far_is_large=False),
    form=base.Form(meaning='inverse depth'),
    colors=depth.colors(('far', 'near')),
  )


def _nearer(values, scale):
  return values * np.float32(scale)


KIND = base.Kind(
  quantities=('disparity',),
  describe=describe,
  make=make,
  augmentation=of_maps(zoomed=_nearer),
)
