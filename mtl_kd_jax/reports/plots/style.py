"""What all figures share: fonts, colors, lines and pictures on axes.

Figures are made without pyplot, whose global state (backend, current figure,
settings) belongs to the user. They look the same whatever the settings are.
"""

from collections.abc import Iterable, Iterator
import contextlib
import io

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import matplotlib.style
import numpy as np
from PIL import Image

from mtl_kd_jax.runtime import buckets

# Colors that readers with any color vision can tell apart: those of Okabe and
# Ito but for yellow, which is too pale for a line, and four of Paul Tol's.
COLORS = (
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#cc79a7',
  '#e69f00',
  '#56b4e9',
  '#882255',
  '#999933',
  '#332288',
  '#44aa99',
)
GRAY = '#8a8a8a'

INK, _FRAME = '#404040', '#b0b0b0'
_STYLE = {
  'font.size': 8,
  'axes.titlesize': 9,
  'axes.titlelocation': 'left',
  'axes.edgecolor': _FRAME,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'legend.frameon': False,
  'lines.solid_capstyle': 'round',
}
# Written into every picture, by which those of the library are known again.
SOFTWARE = 'mtl_kd_jax'
# A line of at most so many points is drawn as it is; a longer one is smoothed.
_FEW_POINTS = 20


class ReportFigure(Figure):
  """A figure that a notebook shows, also where pyplot was never imported."""

  def _repr_png_(self) -> bytes:
    return png_of(self)


def png_of(figure: Figure) -> bytes:
  """A figure as a PNG file."""
  file = io.BytesIO()
  save(figure, file)
  return file.getvalue()


@contextlib.contextmanager
def report_style() -> Iterator[None]:
  """Figures that are made in this block have the style of the reports."""
  with matplotlib.style.context(['default', _STYLE]):
    yield


def save(figure: Figure, file: 'buckets.Path | io.BytesIO') -> None:
  """Writes a figure as a PNG file; also in a bucket."""
  if not isinstance(file, io.BytesIO) and buckets.is_bucket(file):
    buckets.write(file, png_of(figure))
    return
  with report_style():
    figure.savefig(file, format='png', metadata={'Software': SOFTWARE})


def is_ours(file: 'buckets.Path') -> bool:
  """Whether a file is a picture that `save` wrote."""
  try:
    content = (
      buckets.read(file) if buckets.is_bucket(file) else file.read_bytes()
    )
    with Image.open(io.BytesIO(content or b''), formats=('PNG',)) as picture:
      return picture.info.get('Software') == SOFTWARE
  except Exception:  # the parsers raise many types for files of others
    return False


def new_figure(
  width: float, height: float, *, layout: str | None = None
) -> ReportFigure:
  """An empty figure of `width` x `height` inches."""
  return ReportFigure(figsize=(width, height), dpi=150, layout=layout)


def style_axes(axis: Axes) -> None:
  """Sets what matplotlib would look up late, in the settings of the user.

  Ticks are made when a figure is drawn, outside of `report_style`.
  """
  axis.grid(True, color='#e8e8e8', alpha=1, linewidth=0.6, linestyle='-')
  axis.tick_params(
    which='both', color=_FRAME, labelcolor=INK, labelsize=7.5, direction='out'
  )


def add_line(
  axis: Axes,
  points: Iterable[tuple[float, float]],
  *,
  label: str,
  color: str,
  linestyle: str = '-',
  markers: bool = False,
  faint: bool = True,
) -> None:
  """Draws one line; a long one smoothed, with its points faint behind it.

  Args:
    axis: where to draw.
    points: (x, y), at least one.
    label: for the legend.
    color: of the line.
    linestyle: of matplotlib.
    markers: whether to mark every point, and not to smooth. A short line is
      marked in any case.
    faint: whether to draw the points behind a smoothed line.
  """
  x, y = np.array(list(points), float).T
  style = {'color': color, 'linestyle': linestyle}
  if len(y) > _FEW_POINTS and not markers:
    if faint:
      axis.plot(x, y, alpha=0.25, linewidth=0.7, **style)
    y = _smooth(y)
  marker = 'o' if markers or len(y) <= _FEW_POINTS else None
  axis.plot(
    x, y, label=label, linewidth=1.5, marker=marker, markersize=2.5, **style
  )


def _smooth(y: np.ndarray, window: int = 9) -> np.ndarray:
  """A centered running mean whose window shrinks at both ends."""
  half = min(window, len(y)) // 2
  return np.array(
    [y[max(0, i - half) : i + half + 1].mean() for i in range(len(y))]
  )


def legend_entries(axes: Iterable[Axes]) -> dict[str, Artist]:
  """Label -> handle of all lines on the axes, each label once."""
  entries = {}
  for axis in axes:
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
      entries.setdefault(label, handle)
  return entries


def add_picture(axis: Axes, picture: np.ndarray) -> None:
  """Fills the axes with a picture, uint8 [h w 3], without a frame."""
  axis.imshow(picture, interpolation='nearest', aspect='auto')
  axis.set(xticks=[], yticks=[])
  axis.spines[:].set_visible(False)


def image_bytes(image: np.ndarray) -> np.ndarray:
  """A float image [h w 3] in [0, 1] as uint8."""
  return np.clip(255 * image, 0, 255).astype(np.uint8)
