"""The data doctor: what a data set holds, and what looks wrong with it."""

from collections.abc import Mapping
import functools
import pathlib

from ml_collections import ConfigDict
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from mtl_kd_jax.config.build import open_dataset
from mtl_kd_jax.datasets import paths
from mtl_kd_jax.datasets.base import Dataset
from mtl_kd_jax.datasets.inspect.doctor import Finding, diagnose
from mtl_kd_jax.datasets.inspect.profile import (
  SplitProfile,
  evenly_spaced,
  looks_like_bytes,
  profile_split,
  read_unchecked,
)
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.reports.plots import draw_samples
from mtl_kd_jax.reports.plots.style import is_ours
from mtl_kd_jax.runtime import buckets
from mtl_kd_jax.runtime.parallel import is_main_process
from mtl_kd_jax.runtime.workdir import is_workdir
from mtl_kd_jax.tasks import Task

_ROWS = 4  # of the contact sheet, for each split
_LONGEST_BAR = 24  # characters
_LARGE = 1e18  # its square is a float32


JOINS_HOSTS = True  # that are found, unless the config says


def run(
  config: ConfigDict, workdir: pathlib.Path, *, samples: int = 200
) -> None:
  """Reads the data, prints their card and draws data.png.

  Nothing that is read is refused: what the training would stop at, and what it
  would not notice, is listed at the end.

  Args:
    config: names the data; see config/defaults.py.
    workdir: where the contact sheet goes.
    samples: how many samples to read of each split; 0 for all.

  Raises:
    InputError: the data cannot be opened at all, or the folder has a data.png
      that is not of this job.
  """
  if not is_main_process():
    return
  path = workdir / 'data.png'
  there = not paths.why_no_file(path)
  if there and not is_workdir(workdir) and not is_ours(path):
    raise InputError(
      expected='a folder for data.png',
      found='a file of that name, which was not drawn here',
      where=f'{path}',
      argument='workdir',
      do='choose another workdir',
    )
  dataset = open_dataset(config)
  console = Console(highlight=False)
  profiles = {}
  for split in dataset.sources:
    with Progress(
      console=console, transient=True, disable=not console.is_terminal
    ) as bar:
      count = len(dataset.source(split))
      task = bar.add_task(
        f'reading {escape(split)}', total=min(count, samples or count)
      )
      profiles[split] = profile_split(
        dataset,
        split,
        max_samples=samples,
        progress=functools.partial(bar.advance, task),
      )
  findings = diagnose(dataset, profiles)
  _print_card(console, dataset, profiles, findings)
  if draw_sheet(dataset, profiles, path):
    console.print(f'written: {path}', soft_wrap=True, markup=False)


# ---- The card ----------------------------------------------------------------


def _print_card(console, dataset, profiles, findings) -> None:
  height, width = dataset.image_size
  console.rule(Text(dataset.name, 'bold'), align='left')
  console.print(f'{height} x {width} pixels (height x width)\n')
  for note in dataset.notes:
    _print_note(console, note)
  for split, found in profiles.items():
    console.print(_contents(dataset, split, found))
    for remark, count in found.remarks.items():
      read = len(found.indices)
      _print_note(console, f'{split}: {count} of {read} {remark}')
  for task, label in dataset.labels.items():
    if label.values:
      console.print(_histogram(task, label, profiles, console.width))
  _print_findings(console, findings)


def _print_note(console, text) -> None:
  console.print(f'note: {text}\n', markup=False, soft_wrap=True)


def _contents(dataset: Dataset, split: str, found: SplitProfile) -> Table:
  """A line for each map of a split."""
  read = 'all' if found.is_complete else f'{len(found.indices)}'
  table = Table(
    title=Text(f'{split}: {found.count} samples, {read} read', 'table.title'),
    title_justify='left',
    box=SIMPLE_HEAD,
    collapse_padding=True,
    pad_edge=False,
  )
  table.add_column('map')
  for column in ('lowest', '2 %', 'median', '98 %', 'highest'):
    table.add_column(column, justify='right', no_wrap=True)
  table.add_column('unit')
  table.add_column('valid\npixels', justify='right')
  table.add_column('without\na label', justify='right')
  lows = [f.low for f in found.images]
  highs = [f.high for f in found.images]
  table.add_row('image', *(_ends(lows, highs) if lows else ['–'] * 5))
  for task, label in dataset.labels.items():
    facts = found.labels[task]
    kinds = {'class': 'id', 'image_class': 'id', 'normal': 'unit'}
    unit = label.unit or kinds.get(label.quantity)
    # As `Text`: names may have brackets, which are markup in a `str`.
    values = (*_spread_of(facts, label), Text(unit or ''), *_shares(facts))
    table.add_row(Text(task), *values)
  return table


def _ends(lows, highs):
  return [_number(min(lows)), '', '', '', _number(max(highs))]


def _number(x: float) -> str:
  return f'{x:.3g}' if abs(x) < 1000 else f'{x:.0f}'


def _spread_of(facts, label) -> list[str]:
  known = [f for f in facts if f.known]
  if not known:
    return ['–'] * 5
  ends = _ends([f.low for f in known], [f.high for f in known])
  if label.dtype == np.float32 and label.quantity != 'normal':
    values = np.concatenate([f.values for f in known])
    inner = np.quantile(values, (0.02, 0.5, 0.98))
    ends[1:4] = map(_number, inner)
  return ends


def _shares(facts) -> list[str]:
  pixels = sum(f.pixels for f in facts)
  if not pixels:
    return ['–', '–']
  empty = sum(f.known == 0 for f in facts)
  share = sum(f.known for f in facts) / pixels
  return [f'{share:.1%}', f'{empty}/{len(facts)}' if empty else 'none']


def _histogram(task, label, profiles, width) -> Table:
  """The share of each class, or of each flag, in every split."""
  shares = {}
  for split, found in profiles.items():
    total = sum(f.known for f in found.labels[task])
    shares[split] = [
      sum(f.counts.get(i, 0) for f in found.labels[task]) / max(total, 1)
      for i in range(len(label.values))
    ]
  labeled = 'pixels' if label.is_map else 'pictures'
  table = Table(
    title=Text(f'{task}: share of the labeled {labeled}', 'table.title'),
    title_justify='left',
    box=SIMPLE_HEAD,
    collapse_padding=True,
    pad_edge=False,
  )
  table.add_column('id', justify='right')
  table.add_column('class')
  for split in profiles:
    table.add_column(Text(split))
  longest = max(map(max, shares.values()), default=0) or 1
  names = max(map(len, label.values))
  room = (width - names - 6) // len(profiles) - 12
  bar = max(4, min(_LONGEST_BAR, room))
  for i, name in enumerate(label.values):
    cells = [
      _bar(share[i], bar * share[i] / longest) for share in shares.values()
    ]
    table.add_row(str(i), Text(name), *cells)
  return table


def _bar(share: float, length: float) -> Text:
  whole, eighths = divmod(round(8 * length), 8)
  bar = '█' * whole + ' ▏▎▍▌▋▊▉'[eighths].strip()
  return Text(f'{share:6.2%} ' if share else '     – ').append(bar, 'cyan')


def _print_findings(console: Console, findings: list[Finding]) -> None:
  console.print()
  if not findings:
    console.print('[green]nothing looks wrong[/]\n')
    return
  console.print(f'[bold yellow]what looks wrong: {len(findings)}[/]\n')
  for finding in findings:
    line = Text('! ', style='yellow').append(finding.where, style='bold')
    console.print(line.append(f': {finding.what}', style='not bold'))
    console.print(Padding(Text(finding.do), (0, 0, 1, 2)))


# ---- The contact sheet -------------------------------------------------------


def draw_sheet(
  dataset: Dataset, profiles: Mapping[str, SplitProfile], path: pathlib.Path
) -> bool:
  """Draws some samples of every split; False when none can be drawn."""
  tasks = dataset.tasks() if dataset.labels else {}
  maps = [name for name in tasks if dataset.labels[name].is_map]
  samples, notes = {}, {}
  for split, found in profiles.items():
    source = dataset.source(split)
    good = [i for i in found.indices if i not in found.errors]
    for k in evenly_spaced(len(good), _ROWS):
      name = f'{split} {good[k]}'
      sample = read_unchecked(source, good[k])
      if all(sample[t].shape[:2] == sample['image'].shape[:2] for t in maps):
        samples[name], notes[name] = _drawable(dataset, sample, tasks)
  if not samples:
    return False
  legend = {
    dataset.labels[t].classes[i]: color
    for t, task in tasks.items()
    for i, color in enumerate(_palette(dataset.labels[t], task))
    if dataset.labels[t].quantity == 'class'
  }
  try:
    buckets.make_folder(path.parent)
    draw_samples(samples, tasks, path, notes=notes, legend=legend)
  except OSError as error:
    raise InputError(
      expected='a folder that can be written to',
      found=str(error),
      where=f'{path.parent}',
      argument='workdir',
      do='choose another workdir',
    ) from error
  return True


def _drawable(dataset, sample, tasks: Mapping[str, Task]):
  """A sample that can be drawn, whatever is wrong with it; and its notes."""
  image = _bounded(sample['image']).astype(np.float32)
  in_bytes = looks_like_bytes(image.min(), image.max())
  drawn = {'image': image / 255 if in_bytes else image}
  notes = {}
  for name in tasks:
    label, array = dataset.labels[name], np.array(_bounded(sample[name]))
    array[~label.known(sample[name])] = label.missing((1, 1)).flat[0]
    if label.quantity == 'class':
      inside = (array >= 0) & (array < len(label.classes))
      drawn[name] = np.where(inside, array, -1).astype(np.int32)
      drawn['outlines'] = _borders(drawn[name])
    elif label.dtype == np.int32:
      drawn[name] = array.astype(np.int32)
    else:
      drawn[name] = array.astype(np.float32)
    notes[name] = _note(label, drawn[name])
  return drawn, notes


def _bounded(array: np.ndarray) -> np.ndarray:
  """Without NaN, and so small that nothing overflows in float32."""
  return np.clip(np.nan_to_num(array.astype(np.float64)), -_LARGE, _LARGE)


def _note(label, array) -> str:
  known = label.known(array)
  if not known.any():
    return 'no label'
  if label.quantity in ('depth', 'disparity'):
    low, high = np.quantile(array[known], (0.02, 0.98))
    return f'dark {low:.3g} to light {high:.3g} {label.unit}'.rstrip()
  return f'{known.mean():.0%} labeled'


def _borders(classes: np.ndarray) -> np.ndarray:
  """Where a class ends, bool [h w]."""
  border = np.zeros(classes.shape, bool)
  border[:, 1:] |= classes[:, 1:] != classes[:, :-1]
  border[1:] |= classes[1:] != classes[:-1]
  return border


def _palette(label, task: Task) -> np.ndarray:
  ids = np.arange(len(label.classes), dtype=np.int32)[None]
  return task.render(ids, ids)[0] if label.quantity == 'class' else ids[:0]
