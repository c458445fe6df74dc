"""Reads every sample once, so that bad data are found before training."""

from collections.abc import Iterable, Mapping
from concurrent import futures
import dataclasses
import functools

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.base import Dataset, Sample, Source
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label


def check_dataset(
  dataset: Dataset, splits: Iterable[str], *, console: Console
) -> None:
  """Reads all samples of some splits, with a few threads.

  Prints what is no error and should be known: files that are not used, and
  classes that have no pixel in a split.

  Args:
    dataset: its sources validate what they read.
    splits: names of the splits.
    console: shows a progress bar if it is a terminal.

  Raises:
    InputError: of the first bad sample, in the order of the split; or the
      labels have a meaning that cannot be meant.
  """

  def note(text):
    console.print(f'note: {text}', markup=False, soft_wrap=True)

  for text in dataset.notes:
    note(text)
  for split in dict.fromkeys(splits):
    source = dataset.source(split)
    tally = _Tally(len(source))
    # No `rich.progress.track`: an error would leave its thread to be ended when
    # garbage is collected. In the start of another thread, that waits forever.
    progress = Progress(
      console=console, transient=True, disable=not console.is_terminal
    )
    with futures.ThreadPoolExecutor(4) as pool, progress:
      examine = functools.partial(_examine, dataset, split, source)
      title = escape(f'checking {dataset.name} {split}')
      bar = progress.add_task(title, total=len(source))
      for remarks, pixels in pool.map(examine, range(len(source))):
        tally.add(remarks, pixels)
        progress.advance(bar)
    for text, count in tally.remarks.items():
      note(f'{split}: {count} of {tally.samples} {text}')
    for name, absent in tally.absent(dataset).items():
      if reason := dataset.why_absent(name):
        raise reason
      label = dataset.labels[name]
      what = 'pixel' if label.is_map else 'picture'
      note(
        f'{split}: {len(absent)} of the {len(label.values)} classes of '
        f'{name} have no {what}: {paths.some(absent, most=12)}'
      )


@dataclasses.dataclass
class _Tally:
  """What was found in a split, sample by sample."""

  samples: int
  remarks: dict[str, int] = dataclasses.field(default_factory=dict)
  pixels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def add(self, remarks: Iterable[str], pixels: Mapping[str, np.ndarray]):
    """Adds what `_examine` found in a sample."""
    for text in remarks:
      self.remarks[text] = self.remarks.get(text, 0) + 1
    for name, counts in pixels.items():
      self.pixels[name] = self.pixels.get(name, 0) + counts

  def absent(self, dataset: Dataset) -> dict[str, list[str]]:
    """Label name -> its classes without a pixel, where there are any."""
    found = {}
    for name, counts in self.pixels.items():
      classes = zip(dataset.labels[name].values, counts, strict=True)
      absent = [each for each, pixels in classes if not pixels]
      if absent:
        found[name] = absent
    return found


def _examine(
  dataset: Dataset, split: str, source: Source, index: int
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
  """Checks a sample; its remarks, and the number of pixels of every class."""
  if hasattr(source, 'examine'):
    sample, remarks = source.examine(index)
  else:
    sample, remarks = source[index], ()
  check_sample(dataset, sample, where=f'sample {index} of {split}')
  pixels = {
    name: _count(sample[name], label)
    for name, label in dataset.labels.items()
    if label.values
  }
  return remarks, pixels


def _count(array: np.ndarray, label: Label) -> np.ndarray:
  """How often each of `Label.values` occurs."""
  if label.num_channels:  # 0 or 1 of each
    return (array > 0).reshape(-1, label.num_channels).sum(axis=0)
  ids = array.ravel().astype(np.intp) + 1
  return np.bincount(ids, minlength=len(label.values) + 1)[1:]


def check_sample(dataset: Dataset, sample: Sample, *, where: str) -> None:
  """Checks that a sample has the form that base.py describes.

  Args:
    dataset: says what it should be.
    sample: the sample.
    where: it is from, for messages.

  Raises:
    InputError: it lacks an array, or one of them has another form.
  """
  if not isinstance(sample, Mapping):
    sample = {}
  size = tuple(dataset.image_size)
  forms = {'image': ((*size, 3), np.dtype(np.float32), 0)}
  for name, label in dataset.labels.items():
    values = 2 if label.num_channels else len(label.values)
    integers = label.dtype == np.int32
    dtype = np.dtype(label.dtype)
    forms[name] = label.shape(size), dtype, values if integers else 0
  for name, (shape, dtype, classes) in forms.items():
    found = _misfit(sample.get(name), shape, dtype)
    if not found and name == 'image' and not np.isfinite(sample[name]).all():
      found = 'NaN or infinite values'
    if not found and classes:
      found = _outside(sample[name], classes)
    if found:
      kind = 'integers' if dtype.kind == 'i' else 'floats'
      in_range = f' from -1 to {classes - 1}' if classes else ''
      raise InputError(
        expected=f'{name}: {kind}{in_range}, an array {list(shape)}',
        found=found,
        where=f'{where} of {dataset.name}',
        do='correct the source, or the labels and the image_size of the '
        'Dataset (docs/data.md, the tables)',
      )


def _misfit(array, shape, dtype) -> str:
  if array is None:
    return 'none'
  if not isinstance(array, np.ndarray):
    return type(array).__name__
  kinds = 'iu' if dtype.kind == 'i' else dtype.kind
  if array.shape != shape or array.dtype.kind not in kinds:
    return f'{array.dtype} {list(array.shape)}'
  return ''


def _outside(classes, count) -> str:
  low, high = int(classes.min()), int(classes.max())
  return f'{low} to {high}' if low < -1 or high >= count else ''
