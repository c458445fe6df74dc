"""The whole method on rendered rooms, in minutes on two CPU cores.

    python launch.py --config=configs/quickstart.py

Needs no download and no GPU: a ResNet-10 of a quarter of the channels with
feature pyramids as heads, 280 steps a network. docs/results.md has the numbers
of five seeds, and how these settings were chosen.
"""

from mtl_kd_jax.config import defaults


def get_config():
  """The config: what did best on rooms and on real frames."""
  config = papers_method()
  # So that it ends within minutes.
  config.model.backbone = 'resnet10'
  config.epochs = 5
  config.balancing.name = 'nash_mtl'
  # Alignments count as far as they agree with their task.
  config.distill.adapt = 'cosine'
  # The network that is ahead on held-out rooms teaches.
  config.teacher.choose = 'best'
  return config


def papers_method():
  """The paper's method on the same rooms: a ResNet-18, and an epoch longer.

  docs/results.md compares other methods with it.
  """
  config = defaults.get_config()
  config.name = 'quickstart'
  config.epochs = 6
  config.batch_size = 8

  config.data.name = 'scenes'
  config.data.scenes.image_size = (64, 96)
  config.data.scenes.num_train = 512
  config.data.scenes.num_val = 128
  config.data.val_fraction = 1 / 8
  config.data.flip = True

  config.model.backbone = 'resnet18'
  config.model.head = 'fpn'
  config.model.width = 0.25
  config.model.output_stride = 8

  config.optim.learning_rate = 3e-3
  config.optim.schedule = 'cosine'
  config.distill.taps = ('layer4', 'decoder')
  config.distill.learning_rate = 1e-2

  config.report.average_epochs = 0
  config.report.eval_every_epochs = 2
  return config
