"""What looks wrong in a data set, from what was read of it (survey.py)."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import itertools

import numpy as np

from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.inspect.profile import LabelFacts, SplitSurvey

# From here on depth in meters is no room and no street.
_FAR = 100.0
# Lines over planes that are needed, and the share of them that convinces.
_VOTES, _CONVINCING = 100, 0.8
# Correlation from which on normals are said to face away; they are at -0.6 in
# rooms. And the same for a single picture, of which that many may be odd.
_AWAY, _FRAME_AWAY, _ODD_FRAMES = 0.1, 0.3, 0.1
# Vectors of another length that are let pass.
_ODD_VECTORS = 0.001
# Chance from which on a class is not just missed by the samples.
_CHANCE = 0.001


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something that looks wrong.

  Attributes:
    where: e.g. 'train: depth'.
    what: what was seen.
    do: what it may be, and what to do.
  """

  where: str
  what: str
  do: str


def diagnose(
  dataset: Dataset, surveys: Mapping[str, SplitSurvey]
) -> list[Finding]:
  """Lists what looks wrong; a sound data set gives an empty list.

  Args:
    dataset: says what the labels should mean.
    surveys: split -> what was read of it.
  """
  findings = []
  for split, survey in surveys.items():
    findings += _unreadable(split, survey)
    findings += _sizes(dataset, split, survey)
    findings += _images(split, survey)
    for task, label in dataset.labels.items():
      facts = survey.labels[task]
      where = f'{split}: {task}'
      check = _CHECKS[label.quantity]
      if any(f.known for f in facts):
        findings += [*_broken(where, facts), *check(where, facts, label)]
      elif facts:
        findings.append(
          Finding(
            where,
            f'none of the {len(facts)} samples that were read has a label',
            'its metrics cannot be computed on this split; leave the task out '
            'of config.tasks, or complete the labels',
          )
        )
  findings += _shared(surveys)
  for task, label in dataset.labels.items():
    if label.quantity == 'class':
      findings += _absent(task, label, surveys)
  return findings


def _unreadable(split, survey) -> Iterator[Finding]:
  if survey.refused:
    index, message = next(iter(survey.refused.items()))
    yield Finding(
      split,
      f'{len(survey.refused)} of {len(survey.read)} samples cannot be read, '
      f'the first is number {index}',
      message,
    )


def _sizes(dataset, split, survey) -> Iterator[Finding]:
  sizes = {f.size for f in survey.images}
  if sizes - {tuple(dataset.image_size)}:
    shown = ', '.join(f'{h}x{w}' for h, w in sorted(sizes)[:4])
    height, width = dataset.image_size
    yield Finding(
      f'{split}: image',
      f'sizes {shown}',
      f'all images have to be {height}x{width} (height x width); resize them',
    )
  for task, facts in survey.labels.items():
    odd = sum(
      f.size != image.size
      for f, image in zip(facts, survey.images, strict=True)
    )
    if odd:
      yield Finding(
        f'{split}: {task}',
        f'{odd} labels have another size than their image',
        'make the label of the same frame and at the same size',
      )


def _images(split, survey) -> Iterator[Finding]:
  where = f'{split}: image'
  yield from _broken(where, survey.images)
  low = min((f.low for f in survey.images), default=0.0)
  high = max((f.high for f in survey.images), default=0.0)
  if high > 2:
    yield Finding(
      where,
      f'values up to {high:g}, as in bytes from 0 to 255',
      'divide by 255: networks expect 0 to 1',
    )
  elif low < -1e-3 or high > 1 + 1e-3:
    yield Finding(
      where,
      f'values from {low:.3g} to {high:.3g}',
      'bring them into 0 to 1; a mean and a deviation must not be taken out',
    )


def _broken(where, facts) -> Iterator[Finding]:
  broken = sum(f.broken for f in facts)
  if broken:
    samples = sum(f.broken > 0 for f in facts)
    yield Finding(
      where,
      f'{broken} NaN or infinite values in {samples} samples',
      'write missing labels as the table in docs/data.md says',
    )


def _classes(where, facts, label) -> Iterator[Finding]:
  known = set(range(len(label.classes)))
  outside = sorted(set().union(*(f.counts for f in facts)) - known)
  if outside:
    pixels = sum(f.counts.get(i, 0) for f in facts for i in outside)
    share = pixels / sum(f.known for f in facts)
    ids = ', '.join(map(str, outside[:8])) + (', ...' * (len(outside) > 8))
    yield Finding(
      where,
      f'ids outside 0 to {len(known) - 1}: {ids} ({share:.2%} of the pixels)',
      'map the ids to the classes; pixels that do not count are -1 (not 255)',
    )
  if any(f.fractions for f in facts):
    yield Finding(
      where,
      'classes that are no whole numbers',
      'resize labels to the nearest pixel: blending them makes up classes',
    )


def _depths(where, facts, label) -> Iterator[Finding]:
  yield from _negative(where, facts)
  median = np.median(np.concatenate([f.values for f in facts]))
  if label.unit == 'm' and median > _FAR:
    unit, factor = ('milli', 1000) if median > 300 else ('centi', 100)
    yield Finding(
      where,
      f'half of the pixels are beyond {median:.4g}, which should be meters',
      f'{unit}meters? Then divide by {factor}',
    )
  yield from _kind(where, facts, 'depth')


def _disparities(where, facts, label) -> Iterator[Finding]:
  del label
  yield from _negative(where, facts)
  yield from _kind(where, facts, 'disparity')


def _negative(where, facts) -> Iterator[Finding]:
  low = min(f.low for f in facts if f.known)
  if low < 0:
    yield Finding(
      where,
      f'values below 0, down to {low:g}',
      'missing pixels are exactly 0',
    )


def _kind(where, facts, expected) -> Iterator[Finding]:
  votes = np.array([f.planes for f in facts]).sum(0)
  other = votes[1] if expected == 'depth' else votes[0]
  if votes.sum() >= _VOTES and other > _CONVINCING * votes.sum():
    found = 'disparity' if expected == 'depth' else 'depth'
    yield Finding(
      where,
      f'behaves like {found}: on {other / votes.sum():.0%} of {votes.sum():,} '
      f'lines over planes it is {_GROWS[found]}',
      f'if it is {found}, it is no {expected}: convert it (depth = focal '
      'length x baseline / disparity), or declare what it is. The two are '
      'augmented in opposite ways',
    )


_GROWS = {
  'disparity': 'the values that lie on a straight line',
  'depth': 'the inverse values that lie on a straight line',
}


def _normals(where, facts, label) -> Iterator[Finding]:
  del label
  known, odd = sum(f.known for f in facts), sum(f.odd for f in facts)
  if odd > _ODD_VECTORS * known:
    colors = min(f.low for f in facts if f.known) >= 0
    yield Finding(
      where,
      f'{odd / known:.1%} of the vectors do not have length 1'
      + (', and none has a negative component' if colors else ''),
      'stored as colors? Then 2 x color - 1, and scale to length 1'
      if colors
      else 'scale them to length 1; blending them when resizing shortens them',
    )
    if colors:
      return  # which way colors face means nothing
  total, most = np.array([f.facing for f in facts]).sum(0)
  frames = [f.facing[0] / f.facing[1] for f in facts if f.facing[1] > 0]
  away = sum(c > _FRAME_AWAY for c in frames)
  if total > _AWAY * most:
    yield Finding(
      where,
      'face away from the camera: on the left of the pictures they point left',
      'turn them around; if only x points left, turn that: mirroring relies '
      'on the first component being the horizontal one',
    )
  elif len(frames) > 1 and away > _ODD_FRAMES * len(frames):
    yield Finding(
      where,
      f'face away from the camera in {away} of {len(frames)} samples',
      'turn those around',
    )


_CHECKS: Mapping[str, Callable[..., Iterator[Finding]]] = {
  'class': _classes,
  'depth': _depths,
  'disparity': _disparities,
  'normal': _normals,
}


def _shared(surveys) -> Iterator[Finding]:
  digests = {
    split: {f.digest: i for i, f in enumerate(survey.images)}
    for split, survey in surveys.items()
  }
  for one, two in itertools.combinations(surveys, 2):
    both = digests[one].keys() & digests[two].keys()
    if both:
      yield Finding(
        f'{one} and {two}',
        f'share {len(both)} of the frames that were read',
        'take them out of one of the splits: scores on seen frames mean '
        'nothing',
      )


def _absent(task, label, surveys) -> Iterator[Finding]:
  shares = {
    split: _frame_shares(survey.labels[task], len(label.classes))
    for split, survey in surveys.items()
    if any(f.known for f in survey.labels[task])
  }
  if not shares:
    return
  names = np.array(label.classes)
  nowhere = ~np.any(list(shares.values()), axis=0)
  if nowhere.any() and all(surveys[split].whole for split in shares):
    yield Finding(
      f'all splits: {task}',
      f'never seen: {", ".join(names[nowhere])}',
      'a class that does not occur is not scored: check the map of the ids',
    )
  for split, share in shares.items():
    others = [s for other, s in shares.items() if other != split]
    elsewhere = np.max([share, *others], axis=0)
    survey = surveys[split]
    # Of a class that is so frequent elsewhere, all samples read are without.
    chance = (1 - elsewhere) ** len(survey.images)
    missed = (share == 0) & ~nowhere & (survey.whole | (chance < _CHANCE))
    if missed.any():
      seen = ', '.join(
        f'{names[i]} (in {elsewhere[i]:.0%} of the samples elsewhere)'
        for i in np.flatnonzero(missed)
      )
      yield Finding(
        f'{split}: {task}',
        f'never seen: {seen}',
        'a class that is not in a split is not learned or not scored: check '
        'the map of the ids, or part the data otherwise',
      )


def _frame_shares(facts: list[LabelFacts], classes: int) -> np.ndarray:
  """In which share of the samples each class is seen."""
  seen = [[i in f.counts for i in range(classes)] for f in facts]
  return np.mean(seen, axis=0)
