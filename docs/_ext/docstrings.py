"""Docstrings are plain text; this makes them the markup that Sphinx expects.

A name in `backquotes` or a string is code, an indented block is shown as it
stands, and signs such as * and | mean nothing else.
"""

import re
from typing import Any

from sphinx.domains.python import PyObject

_CODE = re.compile(r"(`[^`]+`|(?<![\w'])'[^'\s]*'(?![\w']))")
_SPECIAL = re.compile(r'([*|\\]|(?<=\w)_(?!\w))')
_SECTION = re.compile(r'(Args|Attributes|Raises|Returns|Yields):$')
# What flax adds to the arguments of every module.
_OF_FLAX = re.compile(r', parent=<flax[^>]*>, name=None')
# The names of a section's entries are no prose; napoleon reads them.
_ENTRY = re.compile(r'(\s*\*{0,2}[\w.]+(?: \([^)]*\))?:\s)(.*)')


def setup(app: Any) -> dict[str, Any]:
  """Converts before napoleon (500) reads the sections."""
  app.connect('autodoc-process-docstring', _process, priority=400)
  app.connect('autodoc-process-signature', _shorten)
  for field in PyObject.doc_field_types:
    if field.name == 'variable':
      field.label = 'Attributes'
  return {'parallel_read_safe': True, 'parallel_write_safe': True}


def _process(app, what, name, obj, options, lines):
  del app, what, name, obj, options
  lines[:] = convert(lines)


def _shorten(app, what, name, obj, options, signature, returned):
  del app, what, name, obj, options
  if signature and _OF_FLAX.search(signature):
    return _OF_FLAX.sub('', signature), returned
  return None  # as it is


def convert(lines: list[str]) -> list[str]:
  """The lines of a docstring as reStructuredText."""
  converted, in_section, in_block = [], False, False
  for line in lines:
    indented = line.startswith(' ')
    if line and not indented:
      in_section = bool(_SECTION.match(line))
    if in_block and (indented or not line):
      converted.append(line)
      continue
    in_block = False
    if indented and not in_section and not (converted and converted[-1]):
      converted += ['::', '', line]
      in_block = True
      continue
    entry = _ENTRY.match(line) if in_section else None
    head, text = entry.groups() if entry else ('', line)
    converted.append(head + _escape(text))
  return converted


def _escape(text: str) -> str:
  return ''.join(
    f'``{part.strip("`")}``' if i % 2 else _SPECIAL.sub(r'\\\1', part)
    for i, part in enumerate(_CODE.split(text))
  )
