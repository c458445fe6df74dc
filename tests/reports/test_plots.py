"""Figures show every number and picture they are given, without pyplot."""

import io

from fixtures.samples import LABELS, random_batch
import matplotlib
from matplotlib import pyplot
from matplotlib.text import Text
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.labels import Label
from mtl_kd_jax.reports.plots import (
  draw_balance,
  draw_curves,
  draw_predictions,
  draw_samples,
  plot_balance,
  plot_curves,
  plot_prediction,
  plot_predictions,
)
from mtl_kd_jax.reports.plots.style import COLORS, GRAY, new_figure, png_of
from mtl_kd_jax.tasks import make_tasks
from mtl_kd_jax.training.stage import SINGLE_TASK

TASKS = make_tasks(LABELS, LABELS, dataset='toy')
UNLABELED = (90, 90, 90)
# Names that mean nothing to the code.
ROWS = {f'alone_{t}': SINGLE_TASK for t in TASKS} | {
  'x': 'first',
  'y': 'taught',
}


def make_log(epochs=3, steps=3, stages=tuple(ROWS)):
  """Single-task networks, one for all tasks, and a distilled one."""
  rng = np.random.default_rng(0)
  log = []
  for stage in stages:
    tasks = [t for t in TASKS if stage in (f'alone_{t}', 'x', 'y')]
    for step in range(1, epochs * steps + 1):
      line = {'stage': stage, 'step': step, 'epoch': step / steps}
      values = {f'loss/{t}': rng.random() for t in tasks}
      if stage == 'y':
        values |= {f'alignment/{t}': rng.random() for t in tasks}
      log.append(line | {'kind': 'train', 'loss': 1.0} | values)
      if step % steps == 0:
        names = [f'{t}/{m}' for t in tasks for m in TASKS[t].columns]
        metrics = {name: rng.random() for name in names}
        log.append(line | {'kind': 'eval'} | metrics)
        other = {name: x + 1 for name, x in metrics.items()}
        log.append(line | {'kind': 'test'} | other)
  return log


def make_balance_log(steps=5, tasks=('semantic', 'depth'), aligned=('depth',)):
  """Weights, and gradients of some tasks and alignments."""
  rng = np.random.default_rng(0)
  objectives = [*tasks, *(f'alignment/{t}' for t in aligned)]
  log = []
  for step in range(1, steps + 1):
    line = {'stage': 'y', 'step': step, 'epoch': step / steps}
    weights = {f'weight/{t}': rng.random() for t in tasks}
    log.append(line | {'kind': 'train'} | weights)
    seen = {f'norm/{x}': rng.random() + 0.1 for x in objectives}
    for i, one in enumerate(objectives):
      for other in objectives[i + 1 :]:
        seen[f'cosine/{one}/{other}'] = rng.uniform(-1, 1)
    log.append(line | {'kind': 'balance'} | seen)
  return log


def read(path):
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB'))


def share(picture, color):
  """The share of pixels that have exactly this color."""
  return (picture == np.array(color, np.uint8)).all(-1).mean()


def colored(picture):
  return np.ptp(picture.astype(int), axis=-1) > 60


def lines_by_title(figure):
  """Title of the axes -> its lines that have a label, by label."""
  found = {}
  for axis in figure.axes:
    lines = [x for x in axis.lines if not x.get_label().startswith('_')]
    found[axis.get_title(loc='left')] = lines
  return found


def points_of(log, stage, kind, name, x):
  lines = [e for e in log if (e['stage'], e['kind']) == (stage, kind)]
  return [(e[x], e[name]) for e in lines if e.get(name) is not None]


@pytest.fixture
def pyplot_in_use():
  """The figure, backend and settings of a user: none of them may change."""
  pyplot.rcParams['font.size'] = 17
  figure = pyplot.figure()
  backend = matplotlib.get_backend()
  settings = matplotlib.rcParams.copy()
  numbers = pyplot.get_fignums()
  yield
  assert matplotlib.get_backend() == backend
  assert matplotlib.rcParams == settings
  assert pyplot.get_fignums() == numbers
  assert pyplot.gcf() is figure and not figure.axes
  pyplot.close(figure)
  pyplot.rcdefaults()


# ---- Curves -----------------------------------------------------------------


def test_curves_show_every_number_of_the_log():
  log = make_log()
  for line in log:  # JSON's null, where nothing was labeled
    if line['epoch'] == 2 and 'normals/mean_angle' in line:
      line['normals/mean_angle'] = None
  figure = plot_curves(log, TASKS, split='val', rows=ROWS)
  axes = lines_by_title(figure)
  assert len(axes) == 9
  assert "semantic: mIoU [%] ↑, split 'val'" in axes
  for title, lines in axes.items():
    task = TASKS[title.partition(':')[0]]
    kind, name, stages = 'train', f'loss/{task.name}', list(ROWS)
    if 'alignment' in title:
      name, stages = f'alignment/{task.name}', ['y']
    elif 'split' in title:
      kind, name = 'eval', f'{task.name}/{task.headline}'
    stages = [s for s in stages if s in (f'alone_{task.name}', 'x', 'y')]
    for line, stage in zip(lines, stages, strict=True):
      assert line.get_label() == ROWS[stage]
      expected = points_of(log, stage, kind, name, 'epoch')
      np.testing.assert_array_equal(line.get_xydata(), expected)


def test_a_row_has_one_color_and_single_task_networks_are_gray():
  lines = lines_by_title(plot_curves(make_log(), TASKS, split='', rows=ROWS))
  colors = {
    (line.get_label(), line.get_color()) for x in lines.values() for line in x
  }
  assert colors == {
    (SINGLE_TASK, GRAY),
    ('first', COLORS[0]),
    ('taught', COLORS[1]),
  }


def test_stages_without_a_row_and_alignments_without_teachers_are_left_out():
  rows = {'alone_depth': 'a', 'x': 'b'}
  figure = plot_curves(make_log(), TASKS, split='val', rows=rows)
  axes = lines_by_title(figure)
  assert len(axes) == 6 and not any('alignment' in title for title in axes)
  labels = {line.get_label() for lines in axes.values() for line in lines}
  assert labels == {'a', 'b'}
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ['a', 'b']


def test_long_curves_are_smoothed_over_nine_points():
  log = make_log(epochs=10, stages=['x'])
  figure = plot_curves(log, {'depth': TASKS['depth']}, split='', rows=ROWS)
  faint, smooth = figure.axes[0].lines
  raw = np.array(points_of(log, 'x', 'train', 'loss/depth', 'epoch'))
  np.testing.assert_array_equal(faint.get_xydata(), raw)
  np.testing.assert_array_equal(smooth.get_xdata(), raw[:, 0])
  expected = np.convolve(raw[:, 1], np.full(9, 1 / 9), mode='valid')
  np.testing.assert_allclose(smooth.get_ydata()[4:-4], expected)
  assert smooth.get_ydata()[0] == pytest.approx(raw[:5, 1].mean())


def test_curves_are_drawn(tmp_path, pyplot_in_use):
  tasks = {'depth': TASKS['depth']}
  path = tmp_path / 'curves.png'
  draw_curves(make_log(), tasks, path, split='val', rows=ROWS)
  picture = read(path)
  height, width, _ = picture.shape
  assert 200 < height < 1000 and 800 < width < 3000
  assert 0.002 < 1 - share(picture, (255, 255, 255)) < 0.5
  assert colored(picture).sum() > 500


def test_names_are_no_formulas(pyplot_in_use):
  """Not even where they are some that cannot be read."""
  bad, rng = r'$\frac$', np.random.default_rng(0)
  labels = dict.fromkeys((bad, 'depth'), Label('depth', unit=bad))
  tasks = make_tasks(labels, labels, dataset='toy')
  log = make_balance_log(tasks=(bad, 'depth'), aligned=())
  log = [{**line, 'stage': bad, f'loss/{bad}': 1.0} for line in log]
  image, one = rng.random((1, 8, 8, 3)), rng.random((1, 8, 8, 1))
  figures = [
    plot_curves(log, tasks, split=bad, rows={bad: bad}),
    plot_balance(log, tasks),
    plot_predictions(
      {'image': image, bad: one, 'depth': one}, {bad: {bad: one}}, tasks
    ),
    plot_prediction(None, {bad: one[0, ..., 0]}, {bad: image[0]}, tasks),
  ]
  for figure in figures:
    png_of(figure)
    texts = [x.get_text() for x in figure.findobj(Text)]
    assert any(r'\$\frac\$' in x for x in texts)


def test_an_empty_log_is_drawn(tmp_path, pyplot_in_use):
  path = tmp_path / 'curves.png'
  draw_curves([], {'depth': TASKS['depth']}, path, split='val', rows={})
  assert not colored(read(path)).any()


# ---- Balance ----------------------------------------------------------------


def test_everything_in_the_log_of_the_balance_is_shown():
  log = make_balance_log()
  figure = plot_balance(log, TASKS)
  by_label = {
    'weight': {'semantic': 'weight/semantic', 'depth': 'weight/depth'},
    'gradient norm': {
      'semantic': 'norm/semantic',
      'depth': 'norm/depth',
      'align. depth': 'norm/alignment/depth',
    },
    'cosine': {
      'semantic · depth': 'cosine/semantic/depth',
      'depth · its alignment': 'cosine/depth/alignment/depth',
      'semantic · align. depth': 'cosine/semantic/alignment/depth',
    },
  }
  assert [axis.get_ylabel() for axis in figure.axes] == list(by_label)
  for axis, names in zip(figure.axes, by_label.values(), strict=True):
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert set(legend) == names.keys()
    lines = {line.get_label(): line for line in axis.lines}
    for label, name in names.items():
      kind = 'train' if name.startswith('weight') else 'balance'
      expected = points_of(log, 'y', kind, name, 'step')
      np.testing.assert_array_equal(lines[label].get_xydata(), expected)
  weight, norm, _ = figure.axes
  assert norm.get_yscale() == 'log' and weight.get_ylim()[0] == 0


def test_all_pairs_of_objectives_look_different():
  log = make_balance_log(tasks=tuple(TASKS), aligned=tuple(TASKS))
  (_, norm, cosine) = plot_balance(log, TASKS).axes
  for axis, count in ((norm, 6), (cosine, 15)):
    lines = [x for x in axis.lines if not x.get_label().startswith('_')]
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(lines) == len(looks) == count
  for line in norm.lines:
    *prefix, task = line.get_label().split()
    assert line.get_color() == COLORS[list(TASKS).index(task)]
    assert line.get_linestyle() == ('--' if prefix else '-')


def test_each_stage_with_gradients_of_two_objectives_is_a_column():
  log = make_balance_log()
  log += [line | {'stage': 'x'} for line in log]
  alone = {
    'stage': 'alone_depth',
    'kind': 'train',
    'step': 1,
    'norm/depth': 1.0,
  }
  figure = plot_balance([*log, alone], TASKS)
  titles = [axis.get_title(loc='left') for axis in figure.axes]
  assert [title for title in titles if title] == ['y', 'x']


def test_a_balance_without_weights_or_cosines_has_no_axes_for_them():
  log = [e for e in make_balance_log() if e['kind'] == 'balance']
  for line in log:
    for name in list(line):
      if name.startswith('cosine'):
        del line[name]
  (axis,) = plot_balance(log, TASKS).axes
  assert axis.get_ylabel() == 'gradient norm'


def test_without_gradients_there_is_no_figure_of_the_balance(tmp_path):
  log = [e for e in make_balance_log() if e['kind'] == 'train']
  assert plot_balance(log, TASKS) is None
  assert not draw_balance(log, TASKS, tmp_path / 'none.png')
  assert not list(tmp_path.iterdir())


def test_the_settings_of_the_user_do_not_matter(tmp_path, pyplot_in_use):
  """Not even if a notebook draws a figure, long after it was made."""
  log = make_balance_log()
  assert draw_balance(log, TASKS, tmp_path / 'balance.png')
  drawn = read(tmp_path / 'balance.png')
  assert colored(drawn).sum() > 500
  file = io.BytesIO()
  with matplotlib.rc_context({'xtick.color': 'red', 'grid.alpha': 0.9}):
    plot_balance(log, TASKS).savefig(file)
  np.testing.assert_array_equal(read(file), drawn)


def test_a_notebook_without_pyplot_shows_a_figure():
  picture = read(io.BytesIO(new_figure(2, 1)._repr_png_()))
  assert picture.shape == (150, 300, 3)


# ---- Predictions and samples ------------------------------------------------


def random_predictions(images, size):
  rng = np.random.default_rng(1)
  return {
    name: rng.normal(size=(images, *size, task.channels)).astype(np.float32)
    for name, task in TASKS.items()
  }


def always(class_id, size):
  logits = np.zeros((1, *size, TASKS['semantic'].channels), np.float32)
  logits[..., class_id] = 1
  return {'semantic': logits}


def test_every_network_and_label_is_shown(tmp_path, pyplot_in_use):
  size = (24, 32)
  task = TASKS['semantic']
  label = np.zeros((1, *size), np.int32)
  label[:, :, : size[1] // 2] = -1
  colors = task.render(np.array([[0, 1, 2, 3]]), label[0])[0]
  draw_predictions(
    {'image': np.full((1, *size, 3), 0.2, np.float32), 'semantic': label},
    {'one': always(1, size), 'two': always(2, size), 'without': {}},
    {'semantic': task},
    tmp_path / 'predictions.png',
  )
  picture = read(tmp_path / 'predictions.png')
  one, two = share(picture, colors[1]), share(picture, colors[2])
  assert one > 0.05
  assert two == pytest.approx(one, rel=0.1)
  # The label is half empty, and the image is the darkest of all.
  assert share(picture, colors[0]) == pytest.approx(one / 2, rel=0.15)
  assert share(picture, UNLABELED) == pytest.approx(one / 2, rel=0.15)
  assert share(picture, (51, 51, 51)) == pytest.approx(one, rel=0.1)
  # A network without the task has a pale picture in its place.
  assert share(picture, (242, 242, 242)) == pytest.approx(one, rel=0.1)
  assert share(picture, colors[3]) == 0


def test_only_tasks_with_labels_of_the_samples_have_columns():
  samples = random_batch(2, (16, 24), seed=0)
  del samples['semantic'], samples['normals']
  predictions = {'alone': {'depth': samples['depth']}, 'other': {}}
  figure = plot_predictions(samples, predictions, TASKS)
  headings = {axis.get_title() for axis in figure.axes}
  assert headings >= {'image', 'label', 'alone', 'other'}
  assert len(figure.axes) == 2 * (1 + 3)
  texts = [text.get_text() for axis in figure.axes for text in axis.texts]
  assert 'depth' in texts and 'semantic' not in texts


def test_predictions_far_outside_the_labels_are_drawn(tmp_path):
  size = (40, 16)
  wild = random_predictions(2, size)
  wild['depth'] *= 1e6
  wild['normals'][:] = 0
  path = tmp_path / 'predictions.png'
  draw_predictions(random_batch(2, size), {'wild': wild}, TASKS, path)
  height, width, _ = read(path).shape
  # Two portraits above each other; seven pictures side by side.
  assert height / width == pytest.approx((2 * 1.5 * 40 / 16 + 0.5) / (7 * 1.5))


def test_samples_without_any_label_are_drawn(tmp_path):
  size = (24, 32)
  labels = {t: label.missing(size)[None] for t, label in LABELS.items()}
  draw_predictions(
    {'image': np.zeros((1, *size, 3), np.float32), **labels},
    {'one': random_predictions(1, size)},
    TASKS,
    tmp_path / 'predictions.png',
  )
  assert share(read(tmp_path / 'predictions.png'), UNLABELED) > 0.1


def test_a_contact_sheet_has_all_labels_outlines_and_legend(tmp_path):
  size = (24, 32)
  task = TASKS['semantic']
  colors = task.render(np.array([[0, 1, 2, 3]]), None)[0]
  outlines = np.zeros(size, bool)
  outlines[:12] = True
  sample = {
    'image': np.full((*size, 3), 0.2, np.float32),
    'semantic': np.full(size, 1, np.int32),
    'outlines': outlines,
  }
  draw_samples(
    {'val 3': sample},
    {'semantic': task},
    tmp_path / 'data.png',
    notes={'val 3': {'semantic': '100 % labeled'}},
    legend={'a class': colors[2]},
  )
  picture = read(tmp_path / 'data.png')
  image = share(picture, (51, 51, 51))
  assert image > 0.1
  assert share(picture, colors[1]) == pytest.approx(image, rel=0.1)
  # Half of the last picture is outlined, and the rest of it is darkened.
  assert share(picture, (25, 25, 25)) == pytest.approx(image / 2, rel=0.1)
  assert 0 < share(picture, colors[2]) < image / 10
