"""What stands in the cells of a table: numbers, units and names, as text."""

import math
import re

from mtl_kd_jax.tasks.base import Metric

_DASH = '–'
# The decimals that the literature prints, by unit; 4 otherwise.
_DECIMALS = {'%': 2, '°': 2}
# What would be emphasis, code, a link or HTML in Markdown.
_MARKUP = re.compile(r'[*`\[\\]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])')
_LARGE = 1e7  # numbers from here on have an exponent


# With more tasks than these, columns are titled with their task in any case.
FEW_TASKS = 3


def number(value: float, column: Metric) -> str:
  """A metric with the decimals of its unit; a dash for NaN."""
  return _number(value, _DECIMALS.get(column.unit, 4))


def gain_number(value: float) -> str:
  """A gain in percent, with its sign; a dash for NaN."""
  return _number(value, 2, sign='+')


def unit_with_arrow(column: Metric) -> str:
  """E.g. 'm ↓'."""
  return f'{column.unit} {arrow(column)}'.strip()


def arrow(metric: Metric) -> str:
  """The direction in which a metric gets better."""
  return '↑' if metric.higher_is_better else '↓'


def one_line(text: str) -> str:
  """A name as it can be printed: names are the user's."""
  return ''.join(c if c.isprintable() else ' ' for c in str(text))


def escaped(text: str) -> str:
  """A name in a table of Markdown."""
  return one_line(text).replace('|', '\\|')


def as_markdown(text: str) -> str:
  """A text that contains names, without what Markdown would make of them."""
  return _MARKUP.sub(lambda match: f'\\{match[0]}', text)


def _number(value, decimals, *, sign='') -> str:
  if math.isnan(value):
    return _DASH
  kind = f'.{decimals}f' if abs(value) < _LARGE else '.4g'
  return f'{value:{sign}{kind}}'
