"""The page that goes with a network that is given away: README.md."""

from collections.abc import Mapping, Sequence
import json
import math
from typing import Any

import jax
import numpy as np

from mtl_kd_jax.reports.cells import escaped, one_line
from mtl_kd_jax.reports.tables import Results
from mtl_kd_jax.tasks import Task

# Of the Hub: quantity of a label -> its task.
_HUB_TASKS = {
  'class': 'image-segmentation',
  'depth': 'depth-estimation',
  'disparity': 'depth-estimation',
  'binary': 'image-segmentation',
  'multilabel': 'image-segmentation',
  'heatmap': 'keypoint-detection',
  'points': 'keypoint-detection',
  'image_class': 'image-classification',
  'image_multilabel': 'image-classification',
}
_OTHER_TASK = 'image-to-image'


def model_card(
  network: Any,
  *,
  title: str,
  dataset: str = '',
  split: str = '',
  results: Results | None = None,
  license: str = '',
  address: str = '',
) -> str:
  """The Markdown of a model card, with metadata for the Hub.

  Args:
    network: a `TrainedNetwork`, that is described.
    title: of the page.
    dataset: that it was trained on; '' where that is not known.
    split: of the dataset, that it was scored on; '' where that is not known.
    results: the table of its run; None for none.
    license: an identifier of the Hub, such as 'apache-2.0'; '' for none.
    address: what `mtl.load` opens; '' for a folder.
  """
  parts = [
    _metadata(network, title=title, dataset=dataset, license=license),
    f'# {escaped(one_line(title))}',
    _description(network, dataset),
    '## Use',
    _use(network, address),
    '## Predictions',
    _predictions(network.tasks),
  ]
  if results is not None:
    on = f', on split `{split}` of {dataset}' if split and dataset else ''
    table = results.markdown().partition('\n')[2].strip()
    parts += ['## Results', f'All networks of the run{on}.', table]
  return '\n\n'.join(parts) + '\n'


def _metadata(network, *, title, dataset, license) -> str:
  """Front matter: JSON, value by value, which is YAML too."""
  tasks = network.tasks.values()
  kinds = [_HUB_TASKS.get(t.label.quantity, _OTHER_TASK) for t in tasks]
  fields: dict[str, Any] = {
    'library_name': 'mtl_kd_jax',
    'pipeline_tag': kinds[0],
    'tags': [
      *dict.fromkeys(kinds),
      *network.tasks,
      'multi-task-learning',
      'knowledge-distillation',
      'jax',
      'flax',
    ],
  }
  if license:
    fields['license'] = license
  if dataset:
    fields['datasets'] = [dataset]
  numbers = {
    task.name: _finite((network.metrics or {}).get(task.name, {}))
    for task in tasks
  }
  fields['metrics'] = [*dict.fromkeys(m for n in numbers.values() for m in n)]
  if dataset and fields['metrics']:
    fields['model-index'] = [
      {
        'name': title,
        'results': [
          {
            'task': {'type': kind, 'name': task.name},
            'dataset': {'type': dataset, 'name': dataset},
            'metrics': [
              {
                'type': name,
                'name': ' '.join(filter(None, [task.name, _title(task, name)])),
                'value': value,
              }
              for name, value in numbers[task.name].items()
            ],
          }
          for kind, task in zip(kinds, tasks, strict=True)
          if numbers[task.name]
        ],
      }
    ]
  lines = [f'{key}: {json.dumps(value)}' for key, value in fields.items()]
  return '\n'.join(['---', *lines, '---'])


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
  return {
    name: x for name, x in metrics.items() if x is not None and math.isfinite(x)
  }


def _title(task: Task, metric: str) -> str:
  column = task.columns[metric]
  unit = f' ({column.unit})' if column.unit else ''
  return f'{column.title}{unit}'


def _description(network, dataset) -> str:
  count = sum(x.size for x in jax.tree.leaves(network.variables['params']))
  height, width = network.image_size
  spec = network.network.spec
  made = f'`{spec.backbone}`, head `{spec.head}`, ' if spec else ''
  on = f' on {escaped(dataset)}' if dataset else ''
  return (
    f'One network for {_list([*network.tasks])}: {made}{count:,} parameters, '
    f'trained{on} with images of {height} x {width} pixels by '
    'mtl_kd_jax (multi-task learning by knowledge distillation, in JAX and '
    'Flax).'
  )


def _use(network, address) -> str:
  task = next(iter(network.tasks))
  return (
    '```python\n'
    'import mtl_kd_jax as mtl\n\n'
    f'network = mtl.load({address or "FOLDER"!r})[{network.name!r}]\n'
    "prediction = network.predict('picture.jpg')  # of any size\n"
    f'prediction.{task}  # NumPy, of the size of the picture\n'
    f'prediction.render({task!r})  # uint8 [h w 3], colors\n'
    '```'
  )


def _predictions(tasks: Mapping[str, Task]) -> str:
  lines = ['| task | what | unit |', '| --- | --- | --- |']
  for name, task in tasks.items():
    label = task.label
    what = f'{_form(task)}, {task.form.meaning}'
    lines.append(f'| `{name}` | {what} | {escaped(label.unit) or "–"} |')
  text = '\n'.join(lines)
  for name, task in tasks.items():
    if task.label.classes:
      classes = ', '.join(
        f'{i} {escaped(c)}' for i, c in enumerate(task.label.classes)
      )
      text += f'\n\nClasses of `{name}`: {classes}.'
  return text


def _form(task: Task) -> str:
  """Type and axes of what users get, e.g. 'float32 `[h w]`'."""
  size = (1,) if task.of_image else (1, 1)
  array = task.form.finish(np.zeros((*size, task.channels), np.float32))
  axes = task.form.axes or ' '.join(
    ['h', 'w', f'{task.channels}'][: array.ndim]
  )
  return f'{array.dtype} `[{axes}]`'


def _list(words: Sequence[str]) -> str:
  *most, last = words
  return f'{", ".join(most)} and {last}' if most else last
