"""Detects likely defects of a dataset from the profiles of its splits."""

from collections.abc import Iterator, Mapping
import itertools

from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.inspect.classes import absent, of_classes, of_flags
from mtl_kd_jax.datasets.inspect.finding import Check, Finding
from mtl_kd_jax.datasets.inspect.numbers import (
  of_heatmaps,
  of_numbers,
  of_points,
  of_vectors,
)
from mtl_kd_jax.datasets.inspect.profile import (
  ROUNDING,
  SplitProfile,
  looks_like_bytes,
)
from mtl_kd_jax.datasets.inspect.surfaces import (
  of_depth,
  of_disparity,
  of_normals,
)

_CHECKS: Mapping[str, Check] = {
  'class': of_classes,
  'binary': of_flags,
  'multilabel': of_flags,
  'depth': of_depth,
  'disparity': of_disparity,
  'normal': of_normals,
  'regression': of_numbers,
  'vector': of_vectors,
  'heatmap': of_heatmaps,
  'points': of_points,
  'image_class': of_classes,
  'image_multilabel': of_flags,
  'image_regression': of_numbers,
}


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
      if any(f.known for f in facts):
        findings += _non_finite(where, facts)
        found = _CHECKS[label.quantity](task, facts, label)
        findings += [Finding(where, *defect) for defect in found]
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
    if label.values:
      missing = list(absent(task, label, profiles))
      if missing and (reason := dataset.why_absent(task)):
        missing = [Finding(f'all splits: {task}', reason.found, reason.do)]
      findings += missing
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
    pairs = [
      (f.size, i.size) for f, i in zip(facts, profile.images, strict=True)
    ]
    mismatched = [(ours, size) for ours, size in pairs if ours != size]
    if mismatched:
      turned = all(ours == size[::-1] for ours, size in mismatched)
      yield Finding(
        f'{split}: {task}',
        f'{len(mismatched)} labels '
        + (
          'lie on their side'
          if turned
          else 'have another size than their image'
        ),
        'turn them as their images are: cameras may store photos lying, with a '
        'note (EXIF) how to turn them'
        if turned
        else 'use the label of the same frame, and resize it to the image',
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
