"""Three questions about a picture: classes of images, without a download.

    python launch.py --config=configs/attributes.py

How many solids stand in a rendered room, what pattern its walls have, and from
which side the light comes. The heads are linear, over features that are
averaged over the image; these features are aligned. docs/results.md has the
numbers.
"""

from mtl_kd_jax.config.experiments import quickstart

TASKS = ('count', 'pattern', 'light')


def get_config():
  """The config."""
  config = quickstart.papers_method()
  config.name = 'attributes'
  config.tasks = TASKS
  config.data.scenes.attributes = True
  config.data.scenes.num_train = 2048
  config.data.scenes.num_val = 512
  config.data.val_fraction = 0.0
  config.batch_size = 16
  config.epochs = 8
  config.distill.weights = dict.fromkeys(TASKS, 1.0)
  return config
