"""Reads every sample once, so that bad files are found before training."""

from collections.abc import Iterable
from concurrent import futures

from rich.console import Console
from rich.progress import track

from mtl_kd_jax.datasets.base import Dataset


def check_dataset(
  dataset: Dataset, splits: Iterable[str], *, console: Console
) -> None:
  """Reads all samples of some splits, with a few threads.

  Args:
    dataset: its sources validate what they read.
    splits: names of the splits.
    console: shows a progress bar if it is a terminal.

  Raises:
    InputError: of the first bad sample, in the order of the split.
  """
  for split in dict.fromkeys(splits):
    source = dataset.source(split)
    with futures.ThreadPoolExecutor(4) as pool:
      samples = pool.map(source.__getitem__, range(len(source)))
      progress = track(
        samples,
        f'checking {dataset.name} {split}',
        total=len(source),
        console=console,
        transient=True,
        disable=not console.is_terminal,
      )
      for _ in progress:
        pass
