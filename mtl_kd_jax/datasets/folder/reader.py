"""What reads the labels of one task of a folder."""

from collections.abc import Callable, Iterable
import pathlib
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets.folder import maps
from mtl_kd_jax.datasets.folder.rows import Row
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label


class Reader(NamedTuple):
  """How the labels of one task are read.

  Attributes:
    label: what they mean.
    from_file: path -> array, for labels of files; picklable.
    from_row: row -> array, for labels of a table; picklable.
    columns: of the table that `from_row` reads.
    why_absent: see `LabelMap`.
  """

  label: Label
  from_file: Callable[[pathlib.Path], np.ndarray] | None = None
  from_row: Callable[[Row], np.ndarray] | None = None
  columns: tuple[str, ...] = ()
  why_absent: Callable[[Iterable[pathlib.Path]], InputError | None] = (
    maps.no_reason
  )
