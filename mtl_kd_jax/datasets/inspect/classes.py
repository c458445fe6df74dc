"""What looks wrong with classes and flags, of pixels and of pictures."""

from collections.abc import Iterator, Mapping

import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.inspect.finding import Defect, Finding, range_of
from mtl_kd_jax.datasets.inspect.profile import LabelProfile, SplitProfile
from mtl_kd_jax.labels import Label

# Probability below which the samples did not miss a class by chance.
_SIGNIFICANCE = 0.001
# Share of one class of pictures, or of 'yes', above which little is learned.
_NEARLY_ALL = 0.95


def of_classes(task, facts, label) -> Iterator[Defect]:
  """Ids without a class, blended ids, and pictures of one class."""
  known = set(range(len(label.classes)))
  outside = sorted(set().union(*(f.counts for f in facts)) - known)
  if outside:
    pixels = sum(f.counts.get(i, 0) for f in facts for i in outside)
    share = pixels / sum(f.known for f in facts)
    ids = paths.some([f'{i:.10g}' for i in outside], most=8)
    yield Defect(
      f'ids outside 0 to {len(known) - 1}: {ids} ({share:.2%} of the '
      f'{"pixels" if label.is_map else "pictures"})',
      'map the ids to classes; ignored pixels are -1 (not 255)'
      if label.is_map
      else 'map the ids to classes; pictures without a class have -1',
    )
  if any(f.fractions for f in facts):
    yield Defect(
      'classes that are not whole numbers',
      'resize labels by nearest pixel: interpolation creates false classes',
    )
  if not label.is_map:
    yield from _one_class(task, facts, label)


def _one_class(task, facts, label) -> Iterator[Defect]:
  counts = [
    sum(f.counts.get(i, 0) for f in facts) for i in range(len(label.classes))
  ]
  share = max(counts) / max(sum(counts), 1)
  if _NEARLY_ALL < share < 1:  # 1 is reported as the absence of the others
    name = label.classes[int(np.argmax(counts))]
    yield Defect(
      f'{share:.1%} of the pictures are {name}',
      f'always to say so scores {share:.1%}: look at the mean accuracy of '
      f'classes (--all), and give rare ones more weight, config.task.{task} '
      "has an entry 'weights'",
    )


def of_flags(task, facts, label) -> Iterator[Defect]:
  """Values besides 0 and 1, and flags that are nearly always set."""
  low, high = range_of(facts)
  if low < 0 or high > 1 or any(f.fractions for f in facts):
    yield Defect(
      f'values from {low:g} to {high:g}, not 0 and 1 alone',
      'store 0 for no, 1 for yes and -1 for unlabeled; of files in a folder, '
      f"config.task.{task} has entries 'threshold', above which a value means "
      "yes, and 'ignore'",
    )
  elif label.quantity == 'binary':
    share = sum(f.counts.get(1, 0) for f in facts) / sum(f.known for f in facts)
    if _NEARLY_ALL < share < 1:
      yield Defect(
        f'{share:.1%} of the pixels are {label.values[1]}',
        'if 0 and 1 are exchanged, exchange them: F1 and average precision are '
        'about the rare case, which is to be 1',
      )


def absent(
  task: str, label: Label, profiles: Mapping[str, SplitProfile]
) -> Iterator[Finding]:
  """Classes that occur in no split, or in some splits alone."""
  shares = {
    split: _frequencies(profile.labels[task], len(label.values))
    for split, profile in profiles.items()
    if any(f.known for f in profile.labels[task])
  }
  if not shares:
    return
  names = np.array(label.values)
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
