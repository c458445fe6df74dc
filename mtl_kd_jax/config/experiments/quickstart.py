"""The whole method on rendered rooms, in minutes on two CPU cores.

    python launch.py --config=configs/quickstart.py

Needs no download and no GPU. The first run takes four to eight minutes and 2 GB
of memory on two cores, including rendering and compilation. After so few steps
the running statistics of BatchNorm can be far off, above all those of the
uniform network. In six runs its gain over single-task networks (ΔMTL) was -14,
-36, -39, -15, -17 and -15 %, and that of the distilled network -11, -21, -6,
-4, -25 and -15 %. This shows that everything works, not which method is better.
For better networks: --config.epochs=40 --config.model.width=0.5
"""

from mtl_kd_jax.config import defaults


def get_config():
  """The config."""
  config = defaults.get_config()
  config.name = 'quickstart'
  config.epochs = 4
  config.batch_size = 8

  config.data.name = 'scenes'
  config.data.scenes.image_size = (64, 96)
  config.data.scenes.num_train = 512
  config.data.scenes.num_val = 64
  config.data.flip = True

  config.model.width = 0.25

  config.optim.learning_rate = 5e-3
  config.optim.schedule = 'cosine'
  config.distill.learning_rate = 1e-2

  config.report.average_epochs = 0
  return config
