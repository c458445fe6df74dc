"""Which folders stand for splits: by their names, or by what is in them."""

import collections
from collections.abc import Callable, Mapping, Sequence
import re

from mtl_kd_jax.datasets.guess.contents import PICTURE
from mtl_kd_jax.datasets.guess.tree import Parts

# Words that stand for splits in the names of folders: train, train2017,
# train_images.
_SPLITS = {
  'train': ('train', 'training'),
  'val': ('val', 'valid', 'validation', 'dev'),
  'test': ('test', 'testing'),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_WORD = re.compile(
  rf'(?<![a-z0-9])({"|".join(_SPLIT_OF)})(\d*)(?![a-z0-9])',
  flags=re.IGNORECASE,
)
_OF_PICTURES = re.compile('photo|picture|color|colour|image|img|rgb|left')
_OF_LABELS = re.compile('normal|depth|disp|seg|mask|label|anno')
_EXAMINED = 4  # folders in each of two that may be splits
_LOSSY = ('.jpg', '.jpeg')


def sounds_like_pictures(path: str) -> int:
  """1 where words in a path say that it is one of pictures; -1 of labels."""
  path = path.lower()
  return bool(_OF_PICTURES.search(path)) - bool(_OF_LABELS.search(path))


def split_of_word(word: str) -> str:
  """The split that a word stands for; '' for none."""
  match = _WORD.fullmatch(word)
  return _SPLIT_OF[match[1].lower()] if match else ''


def split_in(path: str, folders: Mapping[str, str]) -> tuple[str, str]:
  """The split that a path names, '' for none, and the path with {split} in it.

  Args:
    path: of a file or folder.
    folders: split -> what stands for it in names.
  """
  *parts, last = path.split('/')
  for split, name in folders.items():
    if name in parts:
      parts = ['{split}' if part == name else part for part in parts]
      return split, '/'.join([*parts, _with_field(last, name)])
  for split, name in folders.items():
    replaced = _with_field(path, name)
    if replaced != path:
      return split, replaced
  return '', path


def _with_field(path: str, name: str) -> str:
  # Not a part of a longer word.
  word = rf'(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])'
  return re.sub(word, '{split}', path)


def other_spelling(pattern: str, folders: Mapping[str, str]) -> str:
  """How a pattern spells a split otherwise than `folders`; '' if it does not.

  Args:
    pattern: of files, with {split} in place of what is in `folders`.
    folders: split -> what stands for it in names.
  """
  for part in pattern.split('/')[:-1]:
    match = _WORD.search(part)
    if not match or '{split}' in pattern:
      continue
    name = folders.get(_SPLIT_OF[match[1].lower()], match[0])
    alike = match[0].lower() == name.lower() or match[0] == part
    if name != match[0] and alike:
      return f'{name}, {match[0]}'
  return ''


def find_splits(
  found: Sequence[Parts], kind_of: Callable[[Sequence[str]], str]
) -> tuple[dict[str, str], list[str]]:
  """Finds what stands for splits in the names of folders.

  Args:
    found: paths of pictures and maps.
    kind_of: what files hold, as `guess_contents` says.

  Returns:
    Split -> name, {} for none; and what was assumed, in sentences.
  """
  whole: dict[str, dict[str, list[int]]] = {}
  partly: dict[str, dict[str, list[int]]] = {}
  places = collections.Counter(
    (parts[:-1], parts[-1].lower().endswith(_LOSSY)) for parts in found
  )
  for (folder, lossy), count in places.items():
    likely = lossy or sounds_like_pictures('/'.join(folder)) > 0
    for part in folder:
      if match := _WORD.search(part):
        names = whole if match[0] == part else partly
        votes = names.setdefault(_SPLIT_OF[match[1].lower()], {})
        vote = votes.setdefault(match[0], [0, 0])
        vote[0] += likely * count
        vote[1] += count
  if 'train' not in whole:  # names such as train_images
    for split, votes in whole.items():
      partly[split] = partly.get(split, {}) | votes
    whole = partly
  folders = {
    split: max(whole[split], key=lambda name: whole[split][name])
    for split in _SPLITS
    if split in whole
  }
  if 'train' not in folders:
    return _alike(found, kind_of), []
  if 'val' in folders:
    return folders, []
  if 'test' not in folders:
    return {}, ["folders: 'train' alone, so a part of it is the split val"]
  folders['val'] = folders.pop('test')
  return folders, [f"no folder is called 'val': {folders['val']!r} is scored"]


def _alike(found, kind_of) -> dict[str, str]:
  """Folders for splits where no name says so: two that hold the same folders.

  The one with more files is for training. {} where there are none, or where one
  of the two holds the labels of the other.
  """
  inner: dict[str, dict[Parts, list[Parts]]] = {}
  for parts in found:
    if len(parts) > 2:
      places = inner.setdefault(parts[0], {})
      places.setdefault(parts[1:-1], []).append(parts)
  same = len({frozenset(places) for places in inner.values()}) == 1
  if len(inner) != 2 or not same or len(next(iter(inner.values()))) < 2:
    return {}
  count = {
    name: sum(map(len, places.values())) for name, places in inner.items()
  }
  first, second = sorted(inner, key=lambda name: (-count[name], name))
  kinds = [
    [
      kind_of(['/'.join(parts) for parts in inner[name][place]]) == PICTURE
      for place in sorted(inner[first])[:_EXAMINED]
    ]
    for name in (first, second)
  ]
  if kinds[0] != kinds[1] or not any(kinds[0]):
    return {}
  return {'train': first, 'val': second}
