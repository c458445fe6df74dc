"""Outputs of frozen teachers, computed once for each frame.

Augmentation may mirror frames, or leave them as they are: then every epoch
shows teachers what they have seen before. Batches bring their outputs along
(distillation/cached.py), and the step does not run them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.datasets.base import Sample, Source
from mtl_kd_jax.datasets.frame_arrays import (
  ArrayType,
  FrameWriter,
  InMemory,
  Layout,
  OnDisk,
  fingerprint,
  open_frames,
)
from mtl_kd_jax.distillation.cached import as_arrays, from_arrays
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import abstract_init
from mtl_kd_jax.runtime.hosts import check_same, main_process_first
from mtl_kd_jax.runtime.lock import InUse, exclusive
from mtl_kd_jax.runtime.memory import available_memory
from mtl_kd_jax.runtime.parallel import any_process
from mtl_kd_jax.training.forward import run_forward
from mtl_kd_jax.training.step import teacher_outputs

if TYPE_CHECKING:  # which has one of these
  from mtl_kd_jax.training.stage import Stage

KINDS = ('none', 'memory', 'disk')
DTYPES = ('float32', 'bfloat16')

Batches = Iterator[Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class TeacherCache:
  """How the outputs of a stage's teachers are kept; made by `make_cache`.

  Attributes:
    kind: 'memory', for this run, or 'disk', for all that follow.
    dtype: of `DTYPES`.
    folder: of 'disk': holds a folder for each set of teachers and frames.
    mirrored: whether frames are mirrored at random.
    source: () -> the frames.
    missing: a sample like those of the source.
    frames: () -> batches of all frames, once and in order, of which each host
      has its share; the last is padded.
    train: (steps taken, `Attach`) -> the remaining training batches.
  """

  kind: str
  dtype: str
  folder: pathlib.Path
  mirrored: bool
  source: Callable[[], Source]
  missing: Sample
  frames: Callable[[], Batches]
  train: Callable[[int, Any], Batches]

  def check(self, stage: Stage) -> str:
    """Says how large it will be.

    Args:
      stage: whose teachers are meant; they need not be trained.

    Raises:
      InputError: there is not so much room.
    """
    layout = self._layout(stage)
    if self.kind == 'disk':
      _check_folder(self.folder)
      if not any(_has_layout(path, layout) for path in self.folder.iterdir()):
        _check_disk(self.folder, layout)
    else:
      _check_memory(layout)
    place = 'in memory' if self.kind == 'memory' else f'in {self.folder}'
    mirrored = ' and their mirror images' if self.mirrored else ''
    return (
      f'{stage.name}: the outputs of its teachers for {layout.frames} frames'
      f'{mirrored} are computed once and kept {place}: '
      f'{_in_words(layout.nbytes)}, {self.dtype}'
    )

  def batches(
    self, stage: Stage, frozen: Mapping[str, Any], start: int
  ) -> Batches:
    """The remaining training batches, with the outputs of the teachers.

    Args:
      stage: whose teachers they are.
      frozen: teacher -> its variables.
      start: steps taken.

    Raises:
      InputError: what is on disk belongs to others, or there is no room.
    """
    layout = self._layout(stage)
    if self.kind == 'disk':
      return self.train(start, self._on_disk(stage, frozen, layout))
    _check_memory(layout)
    store = InMemory(layout)
    self._fill(store, stage, frozen, layout)
    return self.train(start, store)

  def _layout(self, stage: Stage) -> Layout:
    return Layout(
      len(self.source()),
      self.mirrored,
      {
        name: ArrayType(array.shape[1:], self.dtype)
        for name, array in stage.teacher_arrays.items()
      },
    )

  def _on_disk(self, stage, frozen, layout) -> OnDisk:
    about = {
      'teachers': _identify(stage, frozen, layout),
      'frames': fingerprint(self.source()),
    }
    described = json.dumps([about, layout.describe()], sort_keys=True)
    name = hashlib.sha256(described.encode()).hexdigest()[:16]
    check_same({'what the cache of teachers is for': name})
    folder = self.folder / name
    cached = open_frames(folder, layout, about)
    # Hosts may share the folder, or have one each; another run may write there.
    while any_process(cached is None):
      with contextlib.ExitStack() as stack:
        with main_process_first():
          alone = cached is None and _enters(stack, folder)
          cached = open_frames(folder, layout, about)
        store = None
        if alone and cached is None:
          _check_disk(self.folder, layout)
          store = stack.enter_context(FrameWriter(folder, layout, about))
        if any_process(store is not None):
          self._fill(store, stage, frozen, layout)
        else:
          time.sleep(1)
      cached = open_frames(folder, layout, about)
    return cached

  def _fill(self, store, stage, frozen, layout) -> None:
    """Computes all, by all hosts; one without a `store` keeps nothing."""

    def outputs(frozen, batch):
      arrays = as_arrays(
        teacher_outputs(stage.teachers, frozen, batch['image'])
      )
      dtype = jnp.dtype(self.dtype)
      return {}, {name: arrays[name].astype(dtype) for name in layout.arrays}

    parallel = stage.parallel
    compiled = parallel.compile_eval_step(outputs)
    left = layout.frames
    for batch in self.frames():
      images = batch['image']
      made = []
      for mirror in layout.orientations:
        seen = np.ascontiguousarray(images[:, :, ::-1]) if mirror else images
        _, arrays = compiled(frozen, parallel.shard({'image': seen}))
        made.append(parallel.local(arrays))
      if jax.process_count() > 1:
        images, made = multihost_utils.process_allgather(
          (images, made), tiled=True
        )
      if store is None:
        continue
      for i, image in enumerate(images[:left]):  # without what pads
        for arrays in made:
          store.append(image, {name: x[i] for name, x in arrays.items()})
      left -= len(images)


def make_cache(
  cache: str,
  *,
  cache_dtype: str,
  cache_dir: pathlib.Path,
  batch_norm: str,
  scales: Sequence[float],
  num_workers: int,
  **options: Any,
) -> TeacherCache | None:
  """Makes a cache of teachers' outputs; None for none.

  Args:
    cache: of `KINDS`.
    cache_dtype: of `DTYPES`; what is read is float32 again.
    cache_dir: the folder of caches on disk.
    batch_norm: of the teachers.
    scales: of augmentation.
    num_workers: processes that read.
    **options: further attributes of `TeacherCache`.

  Raises:
    InputError: an unknown value, or outputs that are not the same in every
      epoch.
  """
  for name, value, known in (
    ('cache', cache, KINDS),
    ('cache_dtype', cache_dtype, DTYPES),
  ):
    if value not in known:
      raise _wrong(name, f'one of {", ".join(known)}', value, 'correct it')
  if cache == 'none':
    if cache_dtype != 'float32':
      raise _wrong(
        'cache_dtype', "'float32' without a cache", cache_dtype, 'correct it'
      )
    return None
  no_cache = "or set cache to 'none'"
  if batch_norm == 'batch':
    raise _wrong(
      'batch_norm',
      "'running', with a cache: by the statistics of a 'batch', outputs depend "
      'on the other frames in it',
      batch_norm,
      f"use 'running', {no_cache}",
    )
  if any(scale != 1 for scale in scales):
    raise _wrong(
      'scales',
      '(1.0,), with a cache: random crops never come again',
      tuple(scales),
      f'use (1.0,), {no_cache}',
    )
  if cache == 'memory' and num_workers:
    raise _wrong(
      'num_workers',
      '0, with a cache in memory, of which every worker would have its own',
      num_workers,
      "use 0, or a cache on 'disk'",
    )
  return TeacherCache(cache, cache_dtype, cache_dir, **options)


def arrays_read(
  stage: Stage, missing: Sample
) -> dict[str, jax.ShapeDtypeStruct]:
  """The outputs of teachers that terms read, by their names in a batch.

  Args:
    stage: the stage.
    missing: a sample like those that it is trained on.

  Returns:
    Name -> shape [1 h w c]; nothing is computed.
  """
  size = stage.data.image_size
  outputs = {
    name: abstract_init(teacher.network, size)[0]
    for name, teacher in stage.teachers.items()
  }
  arrays = as_arrays(outputs)
  batch = {
    name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
    for name, x in missing.items()
  }

  def losses(arrays, state, batch):
    return run_forward(
      state,
      {name: from_arrays(arrays, name) for name in stage.teachers},
      batch,
      network=stage.network.with_axis(None),
      terms=stage.terms,
      extras=stage.extras,
      key=jax.random.key(0),
      axis_name=None,
    ).losses

  program = jax.make_jaxpr(losses)(arrays, stage.abstract_state, batch).jaxpr
  read = {id(x) for e in program.eqns for x in e.invars}
  inputs = zip(sorted(arrays), program.invars, strict=False)
  return {name: arrays[name] for name, x in inputs if id(x) in read}


def _identify(stage, frozen, layout) -> dict[str, Any]:
  """What tells teachers from others: their weights and what they compute."""
  size = stage.data.image_size
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  identity = {}
  for name, teacher in stage.teachers.items():

    def arrays(variables, image, name=name, teacher=teacher):
      made = as_arrays({name: teacher.outputs(variables, image)})
      return {n: made[n] for n in layout.arrays if n in made}

    program = jax.make_jaxpr(arrays)(frozen[name], image)
    text = re.sub(' at 0x[0-9a-f]+', '', str(program))
    digest = hashlib.sha256(text.encode())
    for constant in _constants(program):  # which the text has no numbers of
      digest.update(np.ascontiguousarray(constant))
    leaves = jax.tree.leaves_with_path(jax.device_get(frozen[name]))
    for path, leaf in leaves:
      digest.update(f'{path} {leaf.dtype} {leaf.shape}'.encode())
      digest.update(np.ascontiguousarray(leaf))
    identity[name] = digest.hexdigest()
  return identity


def _constants(program) -> Iterator[Any]:
  """The arrays that a jaxpr, and those in it, are closed over."""
  yield from getattr(program, 'consts', ())
  for equation in getattr(program, 'jaxpr', program).eqns:
    for value in jax.tree.leaves(
      [*equation.params.values()], is_leaf=_is_program
    ):
      if _is_program(value):
        yield from _constants(value)


def _is_program(value) -> bool:
  return hasattr(value, 'eqns')


def _has_layout(folder, layout) -> bool:
  """Whether a folder may hold what is needed: nothing may have to be added."""
  try:
    about = json.loads((folder / 'about.json').read_text(encoding='utf-8'))
    return about['layout'] == layout.describe()
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _enters(stack: contextlib.ExitStack, folder: pathlib.Path) -> bool:
  """Whether this process is the only one that writes there, from now on."""
  try:
    stack.enter_context(exclusive(folder))
  except InUse:
    return False
  return True


def _check_folder(folder: pathlib.Path) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError('no permission to write')
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=f'{error}',
      where=f'{folder}',
      argument='cache_dir',
      do='name another folder',
    ) from error


def _check_disk(folder: pathlib.Path, layout: Layout) -> None:
  free = shutil.disk_usage(folder).free
  if layout.nbytes > free:
    raise _too_large(layout, f'{_in_words(free)} free in {folder}', 'cache_dir')


def _check_memory(layout: Layout) -> None:
  free = available_memory()
  if free is not None and layout.nbytes > free:
    raise _too_large(layout, f'{_in_words(free)} of memory left', 'cache')


def _too_large(layout: Layout, found: str, argument: str) -> InputError:
  return InputError(
    expected=f'room for the outputs of the teachers: '
    f'{_in_words(layout.nbytes)}, for {layout.frames} frames',
    found=found,
    argument=argument,
    do="use cache_dtype='bfloat16' for half the size, fewer or coarser taps, "
    "another place, or cache='none'",
  )


def _in_words(nbytes: int) -> str:
  """As in '1.2 GB'."""
  size, unit = nbytes / 1e6, 'MB'
  if size >= 1000:
    size, unit = size / 1000, 'GB'
  return f'{size:.1f} {unit}'


def _wrong(argument: str, expected: str, found: Any, do: str) -> InputError:
  return InputError(
    expected=expected, found=repr(found), argument=argument, do=do
  )
