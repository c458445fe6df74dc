"""The pictures are drawn, show what they should, and leave pyplot alone."""

from fixtures.samples import LABELS, random_batch
import matplotlib
from matplotlib import pyplot
import numpy as np
from PIL import Image
import pytest

from mtl_kd_jax.reports.plots import draw_balance, draw_curves, draw_predictions
from mtl_kd_jax.tasks import make_tasks

TASKS = make_tasks(LABELS, LABELS, dataset='toy')
GRAY = (90, 90, 90)  # of pixels without a label


def make_log(epochs=3, steps=10):
  """Lines as of a run: teachers, the baseline, and the distilled network."""
  log = []
  for stage in (*(f'teacher_{t}' for t in TASKS), 'uniform', 'distilled'):
    tasks = [t for t in TASKS if stage in (f'teacher_{t}', *NETWORKS)]
    for step in range(1, epochs * steps + 1):
      line = {'stage': stage, 'step': step, 'epoch': step / steps}
      values = {f'loss/{t}': 1 / step for t in tasks}
      if stage == 'distilled':
        values |= {f'alignment/{t}': 2 / step for t in tasks}
      log.append(line | {'kind': 'train', 'loss': 1.0} | values)
      if step % steps == 0:
        metrics = {f'{t}/{m}': step for t in tasks for m in TASKS[t].columns}
        log.append(line | {'kind': 'eval'} | metrics)
  return log


NETWORKS = ('uniform', 'distilled')


def read(path):
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB'))


def share(picture, color):
  """Which part of the picture has exactly this color."""
  return (picture == np.array(color, np.uint8)).all(-1).mean()


def draw(path, images=2, size=(24, 32), **predictions):
  batch = random_batch(images, size)
  labels = {task: batch[task] for task in TASKS}
  for name in NETWORKS:
    predictions.setdefault(name, random_predictions(images, size))
  draw_predictions(batch['image'], labels, predictions, TASKS, path)
  return read(path)


def random_predictions(images, size):
  rng = np.random.default_rng(1)
  return {
    name: rng.normal(size=(images, *size, task.channels)).astype(np.float32)
    for name, task in TASKS.items()
  }


@pytest.fixture
def pyplot_in_use():
  """A user's figure, back end and style: none of them may change."""
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


def test_curves_are_drawn(tmp_path, pyplot_in_use):
  draw_curves(make_log(), TASKS, tmp_path / 'curves.png', split='val')
  picture = read(tmp_path / 'curves.png')
  height, width, _ = picture.shape
  assert 500 < height < 3000 and 800 < width < 3000
  assert 0.002 < 1 - share(picture, (255, 255, 255)) < 0.5
  # In more than one color: curves, and not only axes and text.
  colored = np.ptp(picture.astype(int), axis=-1) > 60
  assert colored.sum() > 500


def test_an_empty_log_gives_a_picture_too(tmp_path, pyplot_in_use):
  draw_curves([], TASKS, tmp_path / 'curves.png', split='val')
  picture = read(tmp_path / 'curves.png')
  assert picture.shape[0] > 100 and picture.shape[1] > 100
  assert (np.ptp(picture.astype(int), axis=-1) < 60).all()


def test_every_kind_of_line_is_seen(tmp_path):
  log, tasks = make_log(), {'depth': TASKS['depth']}
  draw_curves(log, tasks, tmp_path / 'all.png', split='val')
  whole = read(tmp_path / 'all.png')
  for prefix in ('loss/', 'alignment/', 'depth/'):
    less = [
      {k: x for k, x in line.items() if not k.startswith(prefix)}
      for line in log
    ]
    draw_curves(less, tasks, tmp_path / 'less.png', split='val')
    assert not np.array_equal(read(tmp_path / 'less.png'), whole), prefix


def make_balance_log():
  """Weights, and gradients of two tasks and of one alignment."""
  log = []
  for step in range(1, 6):
    line = {'stage': 'distilled', 'step': step, 'epoch': step / 5}
    weights = {'weight/depth': 1 / step, 'weight/normals': step}
    log.append(line | {'kind': 'train'} | weights)
    seen = {'norm/depth': step, 'norm/normals': 1.0}
    seen |= {'cosine/depth/normals': -0.5, 'norm/alignment/depth': 2.0}
    seen |= {'cosine/depth/alignment/depth': 0.1 * step}
    log.append(line | {'kind': 'balance'} | seen)
  return log


def test_everything_that_is_known_of_the_balance_is_seen(
  tmp_path, pyplot_in_use
):
  log = make_balance_log()
  assert draw_balance(log, TASKS, tmp_path / 'all.png')
  whole = read(tmp_path / 'all.png')
  keys = {k for line in log for k in line if '/' in k}
  assert len(keys) == 7
  for key in sorted(keys):
    less = [{k: x for k, x in line.items() if k != key} for line in log]
    path = tmp_path / 'less.png'
    path.unlink(missing_ok=True)
    draw_balance(less, TASKS, path)
    assert not path.exists() or not np.array_equal(read(path), whole), key


def test_without_gradients_there_is_no_picture_of_the_balance(tmp_path):
  log = [e for e in make_balance_log() if e['kind'] == 'train']
  assert not draw_balance(log, TASKS, tmp_path / 'none.png')
  assert not list(tmp_path.iterdir())


def test_a_short_run_and_missing_numbers_are_drawn(tmp_path):
  log = make_log(epochs=1, steps=1)
  for line in log:
    if line['kind'] == 'eval':  # JSON's null, where nothing was labeled
      line.update({k: None for k in line if k.startswith('normals/')})
  draw_curves(log, TASKS, tmp_path / 'curves.png', split='val')
  assert read(tmp_path / 'curves.png').std() > 1


def test_one_task_is_enough_for_curves(tmp_path):
  tasks = {'depth': TASKS['depth']}
  draw_curves(make_log(), tasks, tmp_path / 'one.png', split='val')
  draw_curves(make_log(), TASKS, tmp_path / 'three.png', split='val')
  one, three = read(tmp_path / 'one.png'), read(tmp_path / 'three.png')
  assert one.shape[0] < three.shape[0] and one.shape[1] == three.shape[1]


def test_predictions_are_drawn(tmp_path, pyplot_in_use):
  picture = draw(tmp_path / 'predictions.png')
  height, width, _ = picture.shape
  assert 200 < height < 4000 and 400 < width < 4000
  assert picture.std() > 20
  assert share(picture, (255, 255, 255)) < 0.6


def test_every_network_and_label_is_seen(tmp_path):
  size = (24, 32)
  task = TASKS['semantic']
  label = np.zeros((1, *size), np.int32)
  label[:, :, : size[1] // 2] = -1

  def always(class_id):
    logits = np.zeros((1, *size, task.channels), np.float32)
    logits[..., class_id] = 1
    return {'semantic': logits}

  colors = task.render(np.array([[0, 1, 2, 3]]), label[0])[0]
  draw_predictions(
    np.full((1, *size, 3), 0.2, np.float32),
    {'semantic': label},
    {'one': always(1), 'two': always(2)},
    {'semantic': task},
    tmp_path / 'predictions.png',
  )
  picture = read(tmp_path / 'predictions.png')
  one, two = share(picture, colors[1]), share(picture, colors[2])
  assert one > 0.05
  assert two == pytest.approx(one, rel=0.1)
  # The label is half empty, and the image is the darkest of all.
  assert share(picture, colors[0]) == pytest.approx(one / 2, rel=0.15)
  assert share(picture, GRAY) == pytest.approx(one / 2, rel=0.15)
  assert share(picture, (51, 51, 51)) == pytest.approx(one, rel=0.1)
  assert share(picture, colors[3]) == 0


def test_predictions_far_outside_the_labels_are_drawn(tmp_path):
  wild = random_predictions(2, (24, 32))
  wild['depth'] *= 1e6
  wild['normals'][:] = 0
  draw(tmp_path / 'predictions.png', wild=wild)


def test_frames_without_any_label_are_drawn(tmp_path):
  size = (24, 32)
  labels = {t: label.missing(size)[None] for t, label in LABELS.items()}
  draw_predictions(
    np.zeros((1, *size, 3), np.float32),
    labels,
    {'one': random_predictions(1, size)},
    TASKS,
    tmp_path / 'predictions.png',
  )
  picture = read(tmp_path / 'predictions.png')
  assert share(picture, GRAY) > 0.1


def test_one_image_of_another_shape_is_drawn(tmp_path):
  picture = draw(tmp_path / 'tall.png', images=1, size=(40, 16))
  assert picture.std() > 20
