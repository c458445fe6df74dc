"""Detects likely defects of a dataset from the profiles of its splits."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import itertools

import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.inspect.profile import (
  ROUNDING,
  LabelProfile,
  SplitProfile,
  looks_like_bytes,
)

# A larger median depth in meters is neither that of rooms nor of streets.
_MAX_MEDIAN_DEPTH = 100.0
# Lines on planes that are needed, and the fraction of them that must agree.
_MIN_VOTES, _MAJORITY = 100, 0.8
# Correlation above which normals face away; in rooms it is about -0.6. The same
# for a single sample, and the fraction of such samples that is tolerated.
_AWAY, _SAMPLE_AWAY, _TOLERATED_SAMPLES = 0.1, 0.3, 0.1
# Fraction of vectors with a wrong length that is tolerated.
_TOLERATED_VECTORS = 0.001
# Probability below which the samples did not miss a class by chance.
_SIGNIFICANCE = 0.001


@dataclasses.dataclass(frozen=True)
class Finding:
  """A likely defect.

  Attributes:
    where: split and label, e.g. 'train: depth'.
    what: what was found.
    do: the likely cause, and what to do about it.
  """

  where: str
  what: str
  do: str


def diagnose(
  dataset: Dataset, profiles: Mapping[str, SplitProfile]
) -> list[Finding]:
  """Lists likely defects; the list is empty if there are none.

  Args:
    dataset: says what the labels should mean.
    profiles: split -> its profile.
  """
  findings = []
  for split, profile in profiles.items():
    findings += _read_errors(split, profile)
    findings += _sizes(dataset, split, profile)
    findings += _images(split, profile)
    for task, label in dataset.labels.items():
      facts = profile.labels[task]
      where = f'{split}: {task}'
      check = _CHECKS.get(label.quantity, _any_values)
      if any(f.known for f in facts):
        findings += [*_non_finite(where, facts), *check(where, facts, label)]
      elif facts:
        findings.append(
          Finding(
            where,
            f'none of the {len(facts)} samples that were read has a label',
            'its metrics cannot be computed on this split; add the labels, or '
            'do not learn the task',
          )
        )
  findings += _shared(profiles)
  for task, label in dataset.labels.items():
    if label.quantity == 'class':
      absent = list(_absent(task, label, profiles))
      if absent and (reason := dataset.why_absent(task)):
        absent = [Finding(f'all splits: {task}', reason.found, reason.do)]
      findings += absent
  return findings


def _read_errors(split, profile) -> Iterator[Finding]:
  if profile.errors:
    index, message = next(iter(profile.errors.items()))
    yield Finding(
      split,
      f'{len(profile.errors)} of {len(profile.indices)} samples cannot be '
      f'read, the first is number {index}',
      message,
    )


def _sizes(dataset, split, profile) -> Iterator[Finding]:
  sizes = {f.size for f in profile.images}
  if sizes - {tuple(dataset.image_size)}:
    shown = ', '.join(f'{h}x{w}' for h, w in sorted(sizes)[:4])
    height, width = dataset.image_size
    yield Finding(
      f'{split}: image',
      f'sizes {shown}',
      f'resize all images to {height}x{width} (height x width)',
    )
  for task, facts in profile.labels.items():
    if not dataset.labels[task].is_map:
      continue
    mismatched = sum(
      f.size != image.size
      for f, image in zip(facts, profile.images, strict=True)
    )
    if mismatched:
      yield Finding(
        f'{split}: {task}',
        f'{mismatched} labels have another size than their image',
        'use the label of the same frame, and resize it to the image',
      )


def _images(split, profile) -> Iterator[Finding]:
  where = f'{split}: image'
  yield from _non_finite(where, profile.images)
  low = min((f.low for f in profile.images), default=0.0)
  high = max((f.high for f in profile.images), default=0.0)
  if looks_like_bytes(low, high):
    yield Finding(
      where,
      f'values up to {high:g}, as in bytes from 0 to 255',
      'divide by 255: networks expect 0 to 1',
    )
  elif low < -ROUNDING or high > 1 + ROUNDING:
    yield Finding(
      where,
      f'values from {low:.3g} to {high:.3g}',
      'scale them to 0 to 1, and do not standardize them',
    )


def _non_finite(where, facts) -> Iterator[Finding]:
  count = sum(f.non_finite for f in facts)
  if count:
    samples = sum(f.non_finite > 0 for f in facts)
    yield Finding(
      where,
      f'{count} NaN or infinite values in {samples} samples',
      'store missing labels as the table in docs/data.md says',
    )


def _classes(where, facts, label) -> Iterator[Finding]:
  known = set(range(len(label.classes)))
  outside = sorted(set().union(*(f.counts for f in facts)) - known)
  if outside:
    pixels = sum(f.counts.get(i, 0) for f in facts for i in outside)
    share = pixels / sum(f.known for f in facts)
    ids = paths.some([f'{i:.10g}' for i in outside], most=8)
    yield Finding(
      where,
      f'ids outside 0 to {len(known) - 1}: {ids} ({share:.2%} of the pixels)',
      'map the ids to classes; ignored pixels are -1 (not 255)',
    )
  if any(f.fractions for f in facts):
    yield Finding(
      where,
      'classes that are not whole numbers',
      'resize labels by nearest pixel: interpolation creates false classes',
    )


def _depths(where, facts, label) -> Iterator[Finding]:
  yield from _negative(where, facts)
  median = np.median(np.concatenate([f.values for f in facts]))
  if label.unit == 'm' and median > _MAX_MEDIAN_DEPTH:
    unit, factor = ('milli', 1000) if median > 300 else ('centi', 100)
    yield Finding(
      where,
      f'the median is {median:.4g}, which should be meters',
      f'if these are {unit}meters, divide by {factor}',
    )
  yield from _quantity(where, facts, 'depth')


def _disparities(where, facts, label) -> Iterator[Finding]:
  del label
  yield from _negative(where, facts)
  yield from _quantity(where, facts, 'disparity')


def _negative(where, facts) -> Iterator[Finding]:
  low = min(f.low for f in facts if f.known)
  if low < 0:
    yield Finding(
      where,
      f'values below 0, down to {low:g}',
      'missing pixels are exactly 0',
    )


def _quantity(where, facts, expected) -> Iterator[Finding]:
  votes = np.array([f.planes for f in facts]).sum(0)
  other = votes[1] if expected == 'depth' else votes[0]
  if votes.sum() >= _MIN_VOTES and other > _MAJORITY * votes.sum():
    found = 'disparity' if expected == 'depth' else 'depth'
    yield Finding(
      where,
      f'behaves like {found}: on {other / votes.sum():.0%} of {votes.sum():,} '
      f'lines on planes {_STRAIGHT[found]} are on a straight line',
      f'if it is {found}, convert it (depth = focal length x baseline / '
      'disparity), or declare the label as what it is. The two are augmented '
      'in opposite ways',
    )


_STRAIGHT = {'disparity': 'the values', 'depth': 'the inverse values'}


def _normals(where, facts, label) -> Iterator[Finding]:
  del label
  known = sum(f.known for f in facts)
  wrong = sum(f.wrong_length for f in facts)
  if wrong > _TOLERATED_VECTORS * known:
    colors = min(f.low for f in facts if f.known) >= 0
    yield Finding(
      where,
      f'{wrong / known:.1%} of the vectors do not have length 1'
      + (', and none has a negative component' if colors else ''),
      'if they are stored as colors, convert them by 2 x color - 1, and scale '
      'them to length 1'
      if colors
      else 'scale them to length 1; interpolation shortens them',
    )
    if colors:
      return  # the direction of colors means nothing
  total, bound = np.array([f.facing for f in facts]).sum(0)
  samples = [f.facing[0] / f.facing[1] for f in facts if f.facing[1] > 0]
  away = sum(c > _SAMPLE_AWAY for c in samples)
  if total > _AWAY * bound:
    yield Finding(
      where,
      'face away from the camera: at the left of the images they point left',
      'negate them; if only x points left, negate x: mirroring relies on the '
      'first component being horizontal',
    )
  elif len(samples) > 1 and away > _TOLERATED_SAMPLES * len(samples):
    yield Finding(
      where,
      f'face away from the camera in {away} of {len(samples)} samples',
      'negate the normals of these samples',
    )


def _any_values(where, facts, label) -> Iterator[Finding]:
  del where, facts, label  # nothing is known of other quantities
  yield from ()


_CHECKS: Mapping[str, Callable[..., Iterator[Finding]]] = {
  'class': _classes,
  'depth': _depths,
  'disparity': _disparities,
  'normal': _normals,
}


def _shared(profiles) -> Iterator[Finding]:
  digests = {
    split: {f.digest: i for i, f in enumerate(profile.images)}
    for split, profile in profiles.items()
  }
  for one, two in itertools.combinations(profiles, 2):
    both = digests[one].keys() & digests[two].keys()
    if both:
      yield Finding(
        f'{one} and {two}',
        f'share {len(both)} of the frames that were read',
        'remove them from one of the splits: metrics on training frames are '
        'meaningless',
      )


def _absent(task, label, profiles) -> Iterator[Finding]:
  shares = {
    split: _frequencies(profile.labels[task], len(label.classes))
    for split, profile in profiles.items()
    if any(f.known for f in profile.labels[task])
  }
  if not shares:
    return
  names = np.array(label.classes)
  nowhere = ~np.any(list(shares.values()), axis=0)
  if nowhere.any() and all(profiles[split].is_complete for split in shares):
    yield Finding(
      f'all splits: {task}',
      f'absent: {", ".join(names[nowhere])}',
      'a class that does not occur has no score: check the mapping of ids',
    )
  for split, share in shares.items():
    others = [s for other, s in shares.items() if other != split]
    elsewhere = np.max([share, *others], axis=0)
    profile = profiles[split]
    # That all of the samples lack a class of this frequency.
    chance = (1 - elsewhere) ** len(profile.images)
    missed = (
      (share == 0) & ~nowhere & (profile.is_complete | (chance < _SIGNIFICANCE))
    )
    if missed.any():
      seen = ', '.join(
        f'{names[i]} (in {elsewhere[i]:.0%} of the samples elsewhere)'
        for i in np.flatnonzero(missed)
      )
      yield Finding(
        f'{split}: {task}',
        f'absent: {seen}',
        'a class that a split lacks is not learned, or has no score: check the '
        'mapping of ids, or split the data in another way',
      )


def _frequencies(facts: list[LabelProfile], classes: int) -> np.ndarray:
  """The fraction of samples that contain each class."""
  seen = [[i in f.counts for i in range(classes)] for f in facts]
  return np.mean(seen, axis=0)
