"""The keys of the config, read from the file that defines them."""

import ast
from collections.abc import Iterator, Mapping
import dataclasses
import inspect
import re
from typing import Any

from mtl_kd_jax import balancing, distillation
from mtl_kd_jax.config import defaults

# What a comment says in plain text and the page shows as code.
_CODE = re.compile(
  r"'[^'\s]*'(?:\(\))?|--[\w.=-]+|\{\w+\}|\w+/<\w+>"
  r'|\b[a-z_]{2,}(?:\.(?:[a-z_]+|<\w+>))+\b|\b\w+_\w+\b|\([\d., ]*,[\d., ]*\)'
)
_SPECIAL = re.compile(r'([*_<>\[\]\\])')


@dataclasses.dataclass
class Key:
  """A key, or a section of keys, with what defaults.py says of it.

  Attributes:
    name: with dots, from the top of the config.
    comment: what it means.
    default: its value; None for a section.
  """

  name: str
  comment: str
  default: Any = None
  is_section: bool = False


def read_keys() -> list[Key]:
  """All keys and sections, in the order of the file.

  Raises:
    ValueError: a key has no comment.
  """
  config = defaults.get_config()
  found = list(_assigned(inspect.getsource(defaults)))
  keys = {}
  for name, comment in found:
    value = _value(config, name)
    is_section = hasattr(value, 'keys') and not value
    is_section |= any(key.startswith(f'{name}.') for key, _ in found)
    if not comment and not is_section:
      raise ValueError(f'{name} has no comment in {defaults.__file__}')
    keys[name] = Key(name, comment, value, is_section)
  for section, options in _options():
    for option, text in options.items():
      name = f'{section}.{option}'
      own = keys.pop(name, None)  # what the file says of this key beyond
      comment = f'{text} {own.comment}' if own else text
      keys[name] = Key(name, comment, _value(config, name))
  return list(keys.values())


def as_markup(comment: str) -> str:
  """A comment as Markdown."""
  parts, start = [], 0
  for match in _CODE.finditer(comment):
    parts.append(_SPECIAL.sub(r'\\\1', comment[start : match.start()]))
    parts.append(f'`{match[0]}`')
    start = match.end()
  return ''.join([*parts, _SPECIAL.sub(r'\\\1', comment[start:])])


def _assigned(source: str) -> Iterator[tuple[str, str]]:
  """(name, comment above it) of every key that the file sets."""
  lines = source.splitlines()
  prefixes = {'config': ''}  # variable -> the section that it holds
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.FunctionDef):
      continue
    for statement in node.body:
      if not isinstance(statement, ast.Assign):
        continue
      names = [ast.unparse(target) for target in statement.targets]
      dotted = [name for name in names if '.' in name]
      if not dotted:
        continue
      variable, _, rest = dotted[0].partition('.')
      name = prefixes[variable] + rest
      prefixes |= {n: f'{name}.' for n in names if n.isidentifier()}
      yield name, _comment_above(lines, statement.lineno - 1)


def _comment_above(lines, index) -> str:
  comment = []
  while index and lines[index - 1].strip().startswith('#'):
    index -= 1
    comment.append(lines[index].strip().removeprefix('#').strip())
  return re.sub(r'(?<=\w)- (?=\w)', '-', ' '.join(reversed(comment)))


def _options() -> Iterator[tuple[str, Mapping[str, str]]]:
  """The options of balancers and losses, which their functions describe."""
  rules = balancing.BALANCERS | balancing.GRADIENT_BALANCERS
  for name, make in rules.items():
    yield f'balancing.{name}', _described(make, balancing.options(name))
  for name, make in distillation.LOSSES.items():
    yield f'distill.{name}', _described(make, distillation.loss_options(name))


def _described(make, options) -> dict[str, str]:
  text = inspect.getdoc(make)
  (section,) = re.findall(r'^Args:\n((?:  .*\n|\n)*)', f'{text}\n', re.M) or [
    ''
  ]
  entries = re.findall(r'^  (\w+): (.*(?:\n    .*)*)', section, re.M)
  found = {name: ' '.join(meaning.split()) for name, meaning in entries}
  return {option: found[option].replace('`', '') for option in options}


def _value(config, name) -> Any:
  for part in name.split('.'):
    config = config[part]
  return config
