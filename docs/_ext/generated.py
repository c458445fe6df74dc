"""Parts of pages that are made from the code while the pages are built.

A page has a line `<!-- generated: config_keys -->`; it is replaced by what the
function of that name returns.
"""

from collections.abc import Iterable
import inspect
import pathlib
import re
from typing import Any

from absl import flags
import config_keys

from mtl_kd_jax import balancing, datasets, distillation, models, tasks
from mtl_kd_jax.config.renames import RENAMED
from mtl_kd_jax.jobs import JOBS
from mtl_kd_jax.jobs.flags import define_flags

_DOCS = pathlib.Path(__file__).parents[1]
_PLACE = re.compile(r'^<!-- generated: (\w+) -->$', re.MULTILINE)


def setup(app: Any) -> dict[str, Any]:
  """Fills pages in when they are read."""
  app.connect('source-read', _fill_in)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}


def _fill_in(app, page, source):
  del app, page
  source[0] = _PLACE.sub(lambda match: _PARTS[match[1]](), source[0])


def config_sections() -> str:
  """Every key, section by section."""
  text, section = [], ''
  for key in config_keys.read_keys():
    head, _, rest = key.name.partition('.')
    if head != section and (rest or key.is_section):
      section = head
      text.append(f'## `{head}`\n')
    if key.is_section:
      if rest:
        text.append(f'### `{key.name}`\n')
      if key.comment:
        text.append(f'{config_keys.as_markup(key.comment)}\n')
      continue
    text.append(_key(key))
  return '\n'.join(text)


def _key(key) -> str:
  default = key.default
  if hasattr(default, 'to_dict'):
    default = default.to_dict()
  return '\n'.join(
    [
      f'::::{{confval}} {key.name}',
      f':default: `{default!r}`',
      '',
      config_keys.as_markup(key.comment),
      '::::',
      '',
    ]
  )


def loss_balancers() -> str:
  """The rules on losses."""
  return _registry(balancing.BALANCERS)


def gradient_balancers() -> str:
  """The rules on gradients."""
  return _registry(balancing.GRADIENT_BALANCERS)


def distillation_losses() -> str:
  """The losses that compare features."""
  return _registry(distillation.LOSSES)


def all_kinds() -> str:
  """The kinds of tasks: what describes their labels, and what makes them."""
  return '\n'.join(
    f'### `{name}`\n\n'
    + _auto('autofunction', f'{kind.describe.__module__}.describe')
    + '\n'
    + _auto('autofunction', f'{kind.make.__module__}.make')
    for name, kind in tasks.KINDS.items()
  )


def all_datasets() -> str:
  """The registered datasets."""
  return '\n'.join(
    f'## `{name}`\n\n{_auto("autofunction", f"{module}.make")}'
    for name, module in datasets.DATASETS.items()
  )


def backbones() -> str:
  """The registered backbones; several are one class."""
  return _classes(models.BACKBONES)


def heads() -> str:
  """The registered heads."""
  return _classes({**models.HEADS, **models.IMAGE_HEADS})


def flags_of_jobs() -> str:
  """The flags of each job, from their definitions."""
  text = []
  for name, job in JOBS.items():
    summary = inspect.getdoc(job.module()).partition('\n\n')[0]
    text.append(f'## `--job={name}`\n\n{config_keys.as_markup(summary)}\n')
    text += [f'{_flag(flag)}\n' for flag in _flags(job)]
  return '\n'.join(text)


def renamed_keys() -> str:
  """Old and new names of keys."""
  rows = [f'| `{old}` | `{new}` |' for old, new in RENAMED.items()]
  return '\n'.join(['| old key | new key |', '|---|---|', *rows])


def notebook_pages() -> str:
  """The pages of notebooks, for a toctree."""
  return '\n'.join(_pages('notebooks/*.md'))


def other_guides() -> str:
  """The pages that no toctree of index.md names, for one."""
  named = (_DOCS / 'index.md').read_text().splitlines()
  return '\n'.join(p for p in _pages('*.md') if p not in [*named, 'index'])


def _pages(pattern) -> list[str]:
  found = sorted(_DOCS.glob(pattern))
  return [str(path.relative_to(_DOCS).with_suffix('')) for path in found]


def _flags(job) -> list[flags.Flag]:
  """The flags of a job, without defining them for this process."""
  values = flags.FlagValues()
  define_flags(values)
  return [values[name] for name in sorted(job.options)]


def _flag(flag) -> str:
  default = 'none' if flag.default is None else f'`{flag.default}`'
  help_text = re.sub(r"^Job '\w+': |^\w+: ", '', flag.help)
  return (
    f'`--{flag.name}` (default: {default})\n'
    f': {config_keys.as_markup(help_text[0].upper() + help_text[1:])}\n'
  )


def _registry(registry) -> str:
  """A heading for each key, and the function that makes the thing."""
  return '\n'.join(
    f'### `{key}`\n\n'
    f'{_auto("autofunction", f"{make.__module__}.{make.__name__}")}'
    for key, make in registry.items()
  )


def _classes(registry) -> str:
  """A heading for each class, with the keys that it is registered under."""
  by_class = {}
  for key, entry in registry.items():
    cls = getattr(entry, 'func', entry)
    given = getattr(entry, 'keywords', {})
    by_class.setdefault(cls, {})[key] = given
  text = []
  for cls, keys in by_class.items():
    text.append('### ' + ', '.join(f'`{key}`' for key in keys) + '\n')
    text += list(_given(keys))
    text.append(_auto('autoclass', f'{cls.__module__}.{cls.__name__}'))
  return '\n'.join(text)


def _given(keys) -> Iterable[str]:
  for key, given in keys.items():
    if given:
      values = ', '.join(f'`{k}={v!r}`' for k, v in given.items())
      yield f'`{key}` is the class below with {values}.\n'


def _auto(directive, name) -> str:
  return f'```{{eval-rst}}\n.. {directive}:: {name}\n```\n'


_PARTS = {
  part.__name__: part
  for part in (
    all_datasets,
    all_kinds,
    backbones,
    config_sections,
    distillation_losses,
    flags_of_jobs,
    gradient_balancers,
    heads,
    loss_balancers,
    notebook_pages,
    other_guides,
    renamed_keys,
  )
}
