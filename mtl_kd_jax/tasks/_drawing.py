"""Draws what is no map: points, and words about a whole picture.

Pillow is imported when something is drawn: training does without it.
"""

from collections.abc import Sequence

import numpy as np

_SIDE = 240  # pixels of the longer side of what is written on, at least


def draw_points(
  points: np.ndarray, palette: np.ndarray, image: np.ndarray
) -> np.ndarray:
  """Points in the colors of a palette, on a darkened picture.

  Args:
    points: float [c 3]: x, y in pixels; those whose third number is not above 0
      are left out.
    palette: uint8 [c 3].
    image: float [h w 3] in [0, 1].

  Returns:
    uint8 [h w 3].
  """
  from PIL import Image, ImageDraw

  picture = Image.fromarray(_darkened(image))
  draw = ImageDraw.Draw(picture)
  radius = max(1.0, 0.02 * max(picture.size))
  for (x, y, known), color in zip(points, palette, strict=True):
    if known > 0:
      box = (x - radius, y - radius, x + radius, y + radius)
      draw.ellipse(box, fill=tuple(int(i) for i in color))
  return np.asarray(picture)


def draw_words(lines: Sequence[str], image: np.ndarray) -> np.ndarray:
  """Lines of text on a darkened picture, which is enlarged if it is small.

  Args:
    lines: what is written; those that do not fit are left out.
    image: float [h w 3] in [0, 1].

  Returns:
    uint8 [h w 3].
  """
  from PIL import Image, ImageDraw, ImageFont

  factor = max(1, round(_SIDE / max(image.shape[:2])))
  pixels = _darkened(image).repeat(factor, 0).repeat(factor, 1)
  picture = Image.fromarray(pixels)
  draw = ImageDraw.Draw(picture)
  size = max(9, round(0.085 * max(picture.size)))
  font = ImageFont.load_default(size)
  margin = size // 3
  shown = lines[: max(1, (picture.height - margin) // (size + margin))]
  for i, line in enumerate(shown):
    place = (margin, margin + i * (size + margin))
    draw.text(place, line, fill=(255, 255, 255), font=font)
  return np.asarray(picture)


def _darkened(image):
  return np.rint(255 * 0.4 * np.clip(image, 0, 1)).astype(np.uint8)
