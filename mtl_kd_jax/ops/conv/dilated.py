"""Dilated convolutions of stride 1, to maps of the same size.

XLA's CPU backend is slow at those of DeepLab. Two other forms:

  phases      every d-th pixel meets its like alone: a map is d x d smaller
              ones, each convolved with the plain kernel
  rectangles  every tap is a matrix product over the pixels for which it reads
              the map; with dilations near its size, half of the taps or more
              read padding, which XLA multiplies, too

The kernel may have one tap along an axis, where the others are left out
(padding.py). Functions are made once for each dilation: programs are cached by
their identity.
"""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp

from mtl_kd_jax.ops.conv.direct import Operations, Pair
from mtl_kd_jax.ops.conv.pointwise import weight_gradient_flat


@functools.cache
def by_phases(dilations: Pair, plain: Operations) -> Operations:
  """Convolves the phases of maps with a 3x3 kernel.

  Args:
    dilations: distances of taps, in pixels.
    plain: what to convolve them by.
  """

  def split(x):
    b, h, w, c = x.shape
    high, wide = dilations
    _, rows, columns, _ = phase_shape(x.shape, dilations)
    # Zeros at the end are what padding holds.
    below, right = rows * high - h, columns * wide - w
    x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
    x = x.reshape(b, rows, high, columns, wide, c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, rows, columns, c)

  def merge(phases, shape):
    b, h, w, _ = shape
    high, wide = dilations
    _, rows, columns, c = phases.shape
    x = phases.reshape(b, high, wide, rows, columns, c)
    x = x.transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(b, rows * high, columns * wide, c)[:, :h, :w]

  def convolve(x, kernel):
    return merge(plain[0](split(x), kernel), x.shape)

  def input_gradient(g, kernel):
    return merge(plain[1](split(g), kernel), g.shape)

  def weight_gradient(x, g):
    return plain[2](split(x), split(g))

  return convolve, input_gradient, weight_gradient


@functools.cache
def by_rectangles(dilations: Pair, taps: Pair) -> Operations:
  """Multiplies every tap with the part of the map that it reads.

  Args:
    dilations: distances of taps, in pixels.
    taps: sides of the kernel, odd.
  """

  def spans(shape):
    axes = zip(shape[1:3], dilations, taps, strict=True)
    return [_spans(*axis) for axis in axes]

  def convolve(x, kernel):
    y = [
      _in_place(
        x[:, r.inputs, c.inputs] @ kernel[r.tap, c.tap], r.outputs, c.outputs, x
      )
      for r, c in itertools.product(*spans(x.shape))
    ]
    return sum(y)

  def input_gradient(g, kernel):
    x = [
      _in_place(
        jnp.einsum(
          'bhwd,cd->bhwc', g[:, r.outputs, c.outputs], kernel[r.tap, c.tap]
        ),
        r.inputs,
        c.inputs,
        g,
      )
      for r, c in itertools.product(*spans(g.shape))
    ]
    return sum(x)

  def weight_gradient(x, g):
    kernel = [
      weight_gradient_flat(x[:, r.inputs, c.inputs], g[:, r.outputs, c.outputs])
      for r, c in itertools.product(*spans(x.shape))
    ]
    return jnp.stack(kernel).reshape(*taps, x.shape[-1], g.shape[-1])

  return convolve, input_gradient, weight_gradient


def phase_shape(shape: tuple[int, ...], dilations: Pair) -> tuple[int, ...]:
  """The shape of the phases of maps [b h w c], all along the first axis."""
  b, h, w, c = shape
  high, wide = dilations
  return b * high * wide, -(-h // high), -(-w // wide), c


def share_read(shape: tuple[int, ...], dilations: Pair, taps: Pair) -> float:
  """The share of all taps of all outputs that read the map, not padding."""
  share = 1.0
  for side, d, k in zip(shape[1:3], dilations, taps, strict=True):
    read = sum(s.inputs.stop - s.inputs.start for s in _spans(side, d, k))
    share *= read / (side * k)
  return share


class _Span(NamedTuple):
  """Along an axis: a tap, the inputs that it reads, and for which outputs."""

  tap: int
  inputs: slice
  outputs: slice


def _spans(side: int, dilation: int, taps: int) -> list[_Span]:
  """Those of all taps; every one reads the map."""
  spans = []
  for tap in range(taps):
    shift = (tap - taps // 2) * dilation
    inputs = slice(max(shift, 0), side + min(shift, 0))
    outputs = slice(inputs.start - shift, inputs.stop - shift)
    spans.append(_Span(tap, inputs, outputs))
  return spans


def _in_place(part, rows, columns, like):
  """A part of a map [b h w c] in one of zeros, of the sides of another."""
  around = [
    (at.start, side - at.stop)
    for at, side in zip((rows, columns), like.shape[1:3], strict=True)
  ]
  return jnp.pad(part, ((0, 0), *around, (0, 0)))
