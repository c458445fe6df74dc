"""The table of parameters, which a run prints when it starts."""

from collections.abc import Mapping

from rich.table import Table


def parameter_table(networks: Mapping[str, Mapping[str, int]]) -> Table:
  """A table of the parameters of every network.

  Args:
    networks: name -> part, 'backbone' or another -> number of parameters.
  """
  parts = dict.fromkeys(part for counts in networks.values() for part in counts)
  table = Table(title='Parameters', title_justify='left')
  table.add_column('network')
  for column in (*parts, 'total'):
    table.add_column(column, justify='right')
  for name, counts in networks.items():
    row = [counts.get(part, 0) for part in parts]
    table.add_row(name, *(f'{n:,}' for n in (*row, sum(row))))
  return table
