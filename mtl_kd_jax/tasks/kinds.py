"""The kinds of tasks by name, and how a task is made of its description."""

from collections.abc import Mapping
import dataclasses
import functools
import importlib
import importlib.util
import inspect
from typing import Any, NamedTuple

from mtl_kd_jax.errors import InputError, hint
from mtl_kd_jax.labels import Label
from mtl_kd_jax.tasks import (
  binary,
  classes,
  depth,
  disparity,
  heatmap,
  image_classes,
  image_multilabel,
  image_regression,
  multilabel,
  normals,
  regression,
  vectors,
)
from mtl_kd_jax.tasks.augmentation import Augmentation
from mtl_kd_jax.tasks.base import Kind, Task

# To add one: a file with a `KIND`, and a line here.
KINDS: dict[str, Kind] = {
  'classes': classes.KIND,
  'binary': binary.KIND,
  'multilabel': multilabel.KIND,
  'depth': depth.KIND,
  'disparity': disparity.KIND,
  'regression': regression.KIND,
  'normals': normals.KIND,
  'vectors': vectors.KIND,
  'heatmap': heatmap.KIND,
  'image_classes': image_classes.KIND,
  'image_multilabel': image_multilabel.KIND,
  'image_regression': image_regression.KIND,
}

# Of a description, beside the options of its kind.
_COMMON = ('kind', 'head', 'taps')


class Description(NamedTuple):
  """What is said of one task, sorted by who reads it.

  Attributes:
    kind: its name; '' for the one that its label has.
    label: options of `Kind.describe`.
    options: options of `Kind.make`.
    head: of `models.HEADS`; '' for none in particular.
    taps: the features of it that are aligned; () for none in particular.
    others: what the data set may know.
  """

  kind: str = ''
  label: Mapping[str, Any] = {}
  options: Mapping[str, Any] = {}
  head: str = ''
  taps: tuple[str, ...] = ()
  others: Mapping[str, Any] = {}


def kind_of(label: Label) -> str:
  """The kind that learns a label, where nothing else is said."""
  return _kinds_by_quantity()[label.quantity]


def augmentation_of(label: Label) -> Augmentation:
  """What augmentation does to a label."""
  rule = KINDS[kind_of(label)].augmentation
  return rule if isinstance(rule, Augmentation) else rule[label.quantity]


@functools.cache
def _kinds_by_quantity() -> dict[str, str]:
  return {q: name for name, kind in KINDS.items() for q in kind.quantities}


def find_kind(name: str) -> Kind:
  """The kind of a name.

  Args:
    name: of `KINDS`; or 'module:NAME' of a `Kind`, or of a function
      `make(label)`, that can be imported.

  Raises:
    InputError: there is none.
  """
  if name in KINDS:
    return KINDS[name]
  module, _, attribute = str(name).partition(':')
  found = repr(name)
  if attribute:
    try:
      kind = getattr(importlib.import_module(module), attribute)
    except (AttributeError, ImportError, ValueError) as error:
      found = f'{name!r}: {error}'
    else:
      if isinstance(kind, Kind):
        return kind
      if callable(kind):
        return _kind_of_function(kind)
      found = f'{name!r}, a {type(kind).__name__}'
  raise InputError(
    expected=f"a kind of task: {', '.join(KINDS)}; or 'module:make'",
    found=found,
    argument='kind',
    do=f'correct it{hint(name, KINDS)} (docs/own_tasks.md)',
  )


def _kind_of_function(make) -> Kind:
  return Kind(tuple(_kinds_by_quantity()), _no_label, make, {})


def _no_label() -> Label:
  raise InputError(
    expected='a `Kind`, which says how labels are read',
    found='a function, which makes a task of a label that there is',
    argument='kind',
    do="name a Kind('module:NAME') to read files of a folder",
  )


def parse(description: Any) -> Description:
  """Sorts the entries of a description.

  Args:
    description: a mapping: 'kind', 'head', 'taps', the options of the kind, and
      others, which are left to the data set.

  Raises:
    InputError: it is none, or the kind is unknown.
  """
  if not hasattr(description, 'keys'):
    raise InputError(
      expected="the description of a task, such as {'kind': 'depth'}",
      found=repr(description),
      argument='kind',
      do='give a mapping (docs/own_tasks.md)',
    )
  given = dict(description)
  name = given.get('kind', '')
  of_label, of_task = {}, {}
  if name:
    kind = find_kind(name)
    of_label = inspect.signature(kind.describe).parameters
    of_task = [*inspect.signature(kind.make).parameters][1:]
  taps = given.get('taps', ())
  return Description(
    kind=name,
    label={k: v for k, v in given.items() if k in of_label},
    options={k: v for k, v in given.items() if k in of_task},
    head=given.get('head', ''),
    taps=(taps,) if isinstance(taps, str) else tuple(taps),
    others={
      k: v for k, v in given.items() if k not in (*_COMMON, *of_label, *of_task)
    },
  )


def options_of(name: str) -> list[str]:
  """All entries that a description of a kind may have, but for a data set's."""
  kind = find_kind(name)
  return [
    *_COMMON,
    *inspect.signature(kind.describe).parameters,
    *[*inspect.signature(kind.make).parameters][1:],
  ]


def make_task(name: str, label: Label, description: Description) -> Task:
  """Makes a task for a label.

  Args:
    name: of the task.
    label: what its label means.
    description: how it is learned.

  Raises:
    InputError: the kind does not learn such labels, or an option cannot be
      used.
  """
  kind_name = description.kind or kind_of(label)
  kind = find_kind(kind_name)
  if label.quantity not in kind.quantities:
    fit = kind_of(label)
    raise InputError(
      expected=f'a kind that learns labels of quantity {label.quantity}: {fit}',
      found=repr(kind_name),
      argument='kind',
      do=f'choose {fit!r}, or leave the kind out',
    )
  task = kind.make(label, **description.options)
  return dataclasses.replace(
    task,
    name=name,
    label=label,
    kind=kind_name,
    options=dict(description.options),
    head=description.head or task.head,
    augmentation=task.augmentation
    or (
      kind.augmentation if isinstance(kind.augmentation, Augmentation) else None
    ),
  )


def with_options(name: str, label: Label, description: Description) -> Label:
  """A label of a data set with what a description says of it.

  Args:
    name: of the task.
    label: of the data set.
    description: of the task; of a kind that learns this label.

  Raises:
    InputError: it says something else than the data set.
  """
  if not description.label:
    return label
  describe = find_kind(description.kind).describe
  known = {
    'classes': label.classes,
    'channels': label.channels or 1,
    'names': label.classes,
    'points': label.classes or label.channels,
    'maps': label.quantity == 'heatmap',
    'unit': label.unit,
  }
  taken = inspect.signature(describe).parameters
  described = describe(
    **{k: v for k, v in known.items() if k in taken} | {**description.label}
  )
  for field in ('quantity', 'classes', 'unit', 'num_channels'):
    own, other = getattr(label, field), getattr(described, field)
    if own != other:
      raise InputError(
        expected=f'a description that fits the labels of {name}: {field} '
        f'{own!r}',
        found=repr(other),
        argument=field if field in description.label else 'kind',
        do='leave it out: the data set says it',
      )
  return dataclasses.replace(
    label,
    pairs=described.pairs or label.pairs,
    colors=described.colors or label.colors,
  )


def find_own(name: str) -> Any:
  """`make` of a file in this folder that is named as a task; None for none."""
  if not name.isidentifier() or name in KINDS:
    return None
  module = f'{__package__}.{name}'
  if importlib.util.find_spec(module) is None:
    return None
  return getattr(importlib.import_module(module), 'make', None)
