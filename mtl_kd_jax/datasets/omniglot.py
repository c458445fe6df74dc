"""Omniglot: handwritten characters of fifty alphabets (Lake et al. 2015).

    <dir>/images_background/<alphabet>/character<nn>/<number>_<drawer>.png
    <dir>/images_evaluation/...

964 and 659 characters, each drawn once by twenty people, black on white,
105x105 pixels. The official halves have different characters, for learning
from one example. To learn to tell characters apart, splits are by who drew
them: all characters are in every split.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from mtl_kd_jax.datasets import files, paths, resize
from mtl_kd_jax.datasets.base import Dataset, Sample
from mtl_kd_jax.datasets.option_checks import check_size
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.labels import Label

# Alphabet -> its number of characters.
_BACKGROUND = {
  'Alphabet_of_the_Magi': 20,
  'Anglo-Saxon_Futhorc': 29,
  'Arcadian': 26,
  'Armenian': 41,
  'Asomtavruli_(Georgian)': 40,
  'Balinese': 24,
  'Bengali': 46,
  'Blackfoot_(Canadian_Aboriginal_Syllabics)': 14,
  'Braille': 26,
  'Burmese_(Myanmar)': 34,
  'Cyrillic': 33,
  'Early_Aramaic': 22,
  'Futurama': 26,
  'Grantha': 43,
  'Greek': 24,
  'Gujarati': 48,
  'Hebrew': 22,
  'Inuktitut_(Canadian_Aboriginal_Syllabics)': 16,
  'Japanese_(hiragana)': 52,
  'Japanese_(katakana)': 47,
  'Korean': 40,
  'Latin': 26,
  'Malay_(Jawi_-_Arabic)': 40,
  'Mkhedruli_(Georgian)': 41,
  'N_Ko': 33,
  'Ojibwe_(Canadian_Aboriginal_Syllabics)': 14,
  'Sanskrit': 42,
  'Syriac_(Estrangelo)': 23,
  'Tagalog': 17,
  'Tifinagh': 55,
}
_EVALUATION = {
  'Angelic': 20,
  'Atemayar_Qelisayer': 26,
  'Atlantean': 26,
  'Aurek-Besh': 26,
  'Avesta': 26,
  'Ge_ez': 26,
  'Glagolitic': 45,
  'Gurmukhi': 45,
  'Kannada': 41,
  'Keble': 26,
  'Malayalam': 47,
  'Manipuri': 40,
  'Mongolian': 30,
  'Old_Church_Slavonic_(Cyrillic)': 45,
  'Oriya': 46,
  'Sylheti': 28,
  'Syriac_(Serto)': 23,
  'Tengwar': 25,
  'Tibetan': 42,
  'ULOG': 26,
}
_ALL = {'images_background': _BACKGROUND, 'images_evaluation': _EVALUATION}
CHARACTERS = {
  'all': _ALL,
  'background': {'images_background': _BACKGROUND},
}
# Of the twenty who drew each character, by their numbers.
_DRAWERS = {'train': range(1, 15), 'val': range(15, 18), 'test': range(18, 21)}
_DRAWING = re.compile(r'\d+_(\d\d)\.png')
_PAGE = 'github.com/brendenlake/omniglot'


def make(
  *,
  data_dir: str | os.PathLike = '',
  image_size: tuple[int, int] = (32, 32),
  characters: str = 'all',
) -> Dataset:
  """Lists the drawings; they are read on access.

  Args:
    data_dir: the folder of the folders above.
    image_size: (height, width) that drawings are reduced to, in pixels.
    characters: 'all' 1623, or the 964 of the 'background' set.

  Returns:
    A dataset with the labels 'character' and 'alphabet' of an image. In the
    split 'train' are the drawings of the people 1 to 14, in 'val' 15 to 17, in
    'test' 18 to 20.

  Raises:
    InputError: an option cannot be used, or drawings are missing.
  """
  size, folders = check_size(image_size), _check_characters(characters)
  root = paths.expand(data_dir, argument='data_dir')
  found = '' if data_dir else 'no folder was named'
  for folder in folders:
    found = found or paths.why_no_folder(root / folder)
  if found:
    raise InputError(
      expected=f'the drawings of Omniglot: {", ".join(folders)}',
      found=found,
      argument='data_dir',
      where=paths.as_text(data_dir),
      do=f'download {", ".join(f"{f}.zip" for f in folders)} from the folder '
      f'python of {_PAGE}, unpack them, and name the folder in data_dir',
    )
  labels = _labels(folders)
  drawings = _list(root, folders, labels)
  return Dataset(
    name='omniglot',
    image_size=size,
    labels=labels,
    sources={
      split: functools.partial(
        _Drawings, [d for d in drawings if d.drawer in drawers], size
      )
      for split, drawers in _DRAWERS.items()
    },
  )


def preview(
  *, image_size: tuple[int, int] = (32, 32), characters: str = 'all'
) -> Dataset:
  """The characters, and the size that the options say."""
  labels = _labels(_check_characters(characters))
  return Dataset('omniglot', check_size(image_size), labels, sources={})


def _check_characters(characters: str) -> Mapping[str, Mapping[str, int]]:
  if characters not in CHARACTERS:
    raise InputError(
      expected=f'one of {", ".join(CHARACTERS)}',
      found=repr(characters),
      argument='characters',
      do="'all' are those of both archives",
    )
  return CHARACTERS[characters]


def _labels(folders: Mapping[str, Mapping[str, int]]) -> dict[str, Label]:
  counts = {
    k: n for alphabets in folders.values() for k, n in alphabets.items()
  }
  names = [
    f'{alphabet}/character{i:02d}'
    for alphabet, count in counts.items()
    for i in range(1, count + 1)
  ]
  return {
    'character': Label('image_class', classes=tuple(names)),
    'alphabet': Label('image_class', classes=tuple(counts)),
  }


class _Drawing(NamedTuple):
  """A file, by whom it was drawn, and the ids of its classes."""

  path: pathlib.Path
  drawer: int
  character: int
  alphabet: int


def _list(
  root: pathlib.Path, folders: Iterable[str], labels: Mapping[str, Label]
) -> list[_Drawing]:
  """All drawings, in the order of their files."""
  characters = {name: i for i, name in enumerate(labels['character'].classes)}
  alphabets = {name: i for i, name in enumerate(labels['alphabet'].classes)}
  drawings = []
  for folder in folders:
    for path in sorted((root / folder).glob('*/character*/*.png')):
      alphabet, character = path.parts[-3:-1]
      named = _DRAWING.fullmatch(path.name)
      name = f'{alphabet}/{character}'
      if named is None or name not in characters:
        raise files.bad_file(
          path,
          'a drawing of Omniglot, such as Greek/character01/0394_01.png',
          f'{name}/{path.name}',
          'unpack the archives again, into a folder of their own',
        )
      drawings.append(
        _Drawing(path, int(named[1]), characters[name], alphabets[alphabet])
      )
  if not drawings:
    raise files.bad_file(
      root,
      'drawings: images_background/Greek/character01/0394_01.png ...',
      'none',
      'unpack the archives again',
    )
  return drawings


class _Drawings:
  """The drawings of some people; picklable."""

  def __init__(self, drawings: Sequence[_Drawing], size: tuple[int, int]):
    self._drawings, self._size = drawings, size

  def __len__(self) -> int:
    return len(self._drawings)

  def __getitem__(self, index: int) -> Sample:
    drawing = self._drawings[index]
    image = files.as_colors(files.read_image(drawing.path))
    if image.shape[:2] != self._size:
      image = resize.area(image, self._size)
    return {
      'image': image,
      'character': np.array(drawing.character, np.int32),
      'alphabet': np.array(drawing.alphabet, np.int32),
    }
