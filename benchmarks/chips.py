"""What chips can do at most, by the kind of device that JAX reports.

Numbers are the vendors', for dense products (without sparsity), of one chip:

  H100, H200  nvidia.com/en-us/data-center/h100 and /h200; the links are those
              of a DGX H100 (docs.nvidia.com/dgx): NVLink within eight, one
              400 Gb/s port each beyond
  A100        nvidia.com/en-us/data-center/a100
  L4, 4090    nvidia.com/en-us/data-center/l4; Ada architecture white paper
  TPU v5e     docs.cloud.google.com/tpu/docs/v5e
"""

import dataclasses
from typing import NamedTuple


class Links(NamedTuple):
  """How chips are connected, bytes/s of one chip in one direction.

  Attributes:
    near: within a group: NVLink, or the interconnect of a TPU slice.
    far: between groups, over the data center's network.
    group: chips in a group.
    torus: whether a group is a 2D torus; one switch otherwise.
    host: chips that one host feeds.
  """

  near: float
  far: float
  group: int
  torus: bool
  host: int


@dataclasses.dataclass(frozen=True)
class Chip:
  """The peaks of one chip.

  Attributes:
    name: a part of its `device_kind`.
    flops: precision -> floating-point operations/s, of 'float32', 'tf32' and
      'bfloat16'. A TPU has no unit for float32 and TF32: by default JAX rounds
      their products to bfloat16.
    bandwidth: of its memory, bytes/s.
    memory: bytes.
    links: None where nothing here asks for them.
  """

  name: str
  flops: dict[str, float]
  bandwidth: float
  memory: float
  links: Links | None = None


def _flops(float32, tf32, bfloat16):
  """From TFLOP/s."""
  return {
    'float32': 1e12 * float32,
    'tf32': 1e12 * tf32,
    'bfloat16': 1e12 * bfloat16,
  }


_NVLINK = Links(near=450e9, far=50e9, group=8, torus=False, host=8)
H100 = Chip('H100 80GB HBM3', _flops(67, 494.5, 989), 3.35e12, 80e9, _NVLINK)
V5E = Chip(
  'TPU v5 lite',
  _flops(197, 197, 197),
  819e9,
  16e9,
  Links(near=200e9, far=3.125e9, group=256, torus=True, host=8),
)
# The more special name first.
CHIPS = (
  H100,
  Chip('H100 PCIe', _flops(51, 378, 756), 2.0e12, 80e9),
  Chip('H200', _flops(67, 494.5, 989), 4.8e12, 141e9, _NVLINK),
  Chip('A100-SXM4-80GB', _flops(19.5, 156, 312), 2.039e12, 80e9),
  Chip('A100-SXM4-40GB', _flops(19.5, 156, 312), 1.555e12, 40e9),
  Chip('A100', _flops(19.5, 156, 312), 1.935e12, 80e9),
  Chip('L4', _flops(30.3, 60.5, 121), 0.3e12, 24e9),
  Chip('RTX 4090', _flops(82.6, 82.6, 165.2), 1.008e12, 24e9),
  V5E,
)


def find(device_kind: str) -> Chip | None:
  """The chip of a kind of device; None for one that is not in the table."""
  words = device_kind.split()
  for chip in CHIPS:
    # 'L4' is no part of 'L40S'.
    if all(word in words for word in chip.name.split()):
      return chip
  return None
