"""What is made of the measurements: shares, ratios and tables."""

import chips
from rich.console import Console
from rich.table import Table

from accelerator_parts.plan import JAX, TEACHERS, TORCH


def add_shares(results):
  """Adds to every cell what follows from its time, and the summary."""
  cells = results['cells']
  chip = _chip(results)
  results['chip'] = chip
  for cell in cells.values():
    if 'seconds' not in cell:
      continue
    cell['images_per_s'] = cell['batch'] / cell['seconds']
    ours = _find(cells, cell, rival=JAX) or {}
    flops, size = ours.get('flops'), ours.get('bytes')
    if not flops or size is None:  # it was not compiled
      continue
    cell['tflops_per_s'] = 1e-12 * flops / cell['seconds']
    peak = chip['flops'].get(cell['precision'])
    if peak and chip['bandwidth']:
      least = {'operations': flops / peak, 'bytes': size / chip['bandwidth']}
      cell['bound_by'] = max(least, key=least.get)
      cell['of_roofline'] = max(least.values()) / cell['seconds']
  results['summary'] = [
    _summary(cells, cell)
    for cell in cells.values()
    if cell['rival'] == JAX
    and cell['kind'] == 'distilled'
    and 'seconds' in cell
  ]


def _chip(results):
  """Peaks of the device: of the command line, or of the table."""
  options = results['options']
  device = results['about'].get(JAX, {}).get('device', '')
  chip = chips.find(device)
  flops = dict(chip.flops) if chip else {}
  for entry in filter(None, options['peak'].split(',')):
    name, _, value = entry.partition(':')
    flops[name] = 1e12 * float(value)
  bandwidth = chip.bandwidth if chip else 0
  if options['bandwidth']:
    bandwidth = 1e9 * options['bandwidth']
  return {'device': device, 'flops': flops, 'bandwidth': bandwidth}


def _find(cells, like, **changes):
  """The cell of the same work, but for changes."""
  keys = ('network', 'kind', 'batch', 'precision')
  wanted = {k: like[k] for k in keys} | changes
  for cell in cells.values():
    if all(cell[k] == x for k, x in wanted.items()):
      return cell
  return None


def _summary(cells, cell):
  """A distilled step beside PyTorch's, and the share of its teachers."""
  theirs = [
    other
    for other in cells.values()
    if other['rival'] == TORCH
    and 'seconds' in other
    and all(other[k] == cell[k] for k in ('network', 'batch'))
  ]
  same = [o for o in theirs if o['precision'] == cell['precision']]
  summary = {k: cell[k] for k in ('network', 'batch', 'precision')}
  for name, others in (('same_precision', same), ('any_precision', theirs)):
    if others:
      best = min(others, key=lambda x: x['seconds'])
      summary[f'of_torch_{name}'] = cell['seconds'] / best['seconds']
      summary[f'torch_{name}'] = ' '.join(
        (
          best['precision'],
          best['layout'],
          'compiled' if best['compiled'] else 'eager',
        )
      )
  teachers = _find(cells, cell, kind=TEACHERS)
  if teachers and 'seconds' in teachers:
    summary['teachers'] = teachers['seconds'] / cell['seconds']
  return summary


# ---- Tables ------------------------------------------------------------------


def show(results, console=None):
  """Prints everything."""
  console = console or Console(highlight=False, width=140)
  about = results['about']
  console.print(
    ', '.join(
      f'{rival}: ' + ', '.join(f'{k} {v}' for k, v in facts.items() if v != {})
      for rival, facts in about.items()
    )
  )
  for part, found in results['numbers'].items():
    console.print(f'\n{part} against the CPU, relative difference')
    _show_numbers(found, console)
  if results['cells']:
    console.print()
    console.print(_cells_table(results['cells']))
    for name, cell in results['cells'].items():
      if 'error' in cell:
        console.print(f'  {name}: {cell["error"]}')
  if results.get('summary'):
    console.print()
    console.print(_summary_table(results['summary']))
  if left_out := results['left_out']:
    console.print(f'\nNo time was left for {len(left_out)} cells.')
  console.print(f'Written to {results["options"]["out"]}.')


def _show_numbers(found, console):
  for name, value in found.items():
    if isinstance(value, dict):
      text = ', '.join(f'{k} {_numbers(v)}' for k, v in value.items())
    else:
      text = _numbers(value)
    console.print(f'  {name:16} {text}')


def _numbers(value):
  if isinstance(value, list):  # of ten steps: the first and the worst
    return f'{value[0]:.1e}..{max(value):.1e}'
  return f'{value:.1e}' if isinstance(value, float) else str(value)


def _cells_table(cells):
  table = Table(show_edge=False)
  table.add_column('work', no_wrap=True)
  for column in (
    'ms',
    'images/s',
    'GiB',
    'compile s',
    'TFLOP/s',
    'of roofline',
    'bound by',
  ):
    table.add_column(column, justify='right', no_wrap=True)
  for name, cell in cells.items():
    if 'seconds' not in cell:
      continue
    table.add_row(
      name + (' (alone)' if cell['alone'] else ''),
      f'{1e3 * cell["seconds"]:.1f}',
      f'{cell["images_per_s"]:.1f}',
      _or_blank(cell.get('memory'), lambda x: f'{x / 2**30:.2f}'),
      f'{cell["compile_s"]:.1f}',
      _or_blank(cell.get('tflops_per_s'), lambda x: f'{x:.2f}'),
      _or_blank(cell.get('of_roofline'), lambda x: f'{100 * x:.0f} %'),
      cell.get('bound_by', ''),
    )
  return table


def _summary_table(rows):
  table = Table(show_edge=False)
  for column in ('network', 'batch', 'precision'):
    table.add_column(column, no_wrap=True)
  table.add_column('/ PyTorch of this precision')
  table.add_column('/ best PyTorch')
  table.add_column("teachers' share", justify='right')
  for row in rows:
    table.add_row(
      row['network'],
      str(row['batch']),
      row['precision'],
      *(
        f'{row[f"of_torch_{k}"]:.2f} ({row[f"torch_{k}"]})'
        if f'of_torch_{k}' in row
        else ''
        for k in ('same_precision', 'any_precision')
      ),
      _or_blank(row.get('teachers'), lambda x: f'{100 * x:.0f} %'),
    )
  return table


def _or_blank(value, write):
  return '' if value is None else write(value)
