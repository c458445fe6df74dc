r"""Cityscapes, 7 categories and inverse depth: the setting of most papers.

    python launch.py --config=configs/cityscapes.py --config.data.manual_dir=DIR
    python launch.py --config=configs/cityscapes.py:npy \
      --config.data.data_dir=FOLDER

archives  (default) DIR contains leftImg8bit_trainvaltest.zip,
          gtFine_trainvaltest.zip and disparity_trainvaltest.zip, as downloaded
          from www.cityscapes-dataset.com (docs/data.md).
npy       FOLDER is the .npy dump that papers use.

2975 training and 500 validation frames of 128x256, 200 epochs with batch size
8, Adam with learning rate 1e-4, halved after 100 epochs, lambda 1,
augmentation: the setting that papers since CAGrad have in common. (Li & Bilen's
lambda and learning rate for Cityscapes are not published; these are NYU-v2's.)
The labels of the test split are not public, so papers report 'val', and the
last checkpoint is evaluated, not the best. Published single-task SegNets reach
74 % mIoU and an absolute error of 0.0125. For a quick test:
--config.epochs=10 --config.model.width=0.25

More classes: --config.data.cityscapes.classes=19
Meters: --config.data.cityscapes.depth=depth (needs camera_trainvaltest.zip)
"""

from mtl_kd_jax.config import defaults

VARIANTS = ('archives', 'npy')


def get_config(variant='archives'):
  """The config of a variant; raises ValueError for an unknown one."""
  if variant not in VARIANTS:
    raise ValueError(f'{variant!r} is none of {", ".join(VARIANTS)}')
  config = defaults.get_config()
  config.name = 'cityscapes' if variant == 'archives' else 'cityscapes_npy'
  config.tasks = ('semantic', 'depth')
  config.epochs = 200
  config.batch_size = 8

  config.data.name = config.name
  config.data.cityscapes.image_size = (128, 256)
  config.data.cityscapes.classes = 7
  config.data.cityscapes.depth = 'inverse_depth'
  config.data.cityscapes_npy.classes = 7
  # As in all comparable papers. Here inverse depth is multiplied by the zoom;
  # their code divides it.
  config.data.scales = (1.0, 1.2, 1.5)
  config.data.flip = True
  config.data.num_workers = 2

  config.model.backbone = 'segnet'
  config.model.width = 1.0

  config.optim.learning_rate = 1e-4
  config.optim.schedule = 'step'
  config.optim.decay_every_epochs = 100
  config.optim.decay_rate = 0.5

  # The papers' code never switches its teachers to evaluation.
  config.teacher.batch_norm = 'batch'
  config.distill.weights = {'semantic': 1.0, 'depth': 1.0}
  config.distill.taps = ('bottleneck', 'decoder')
  config.distill.learning_rate = 1e-1
  config.distill.weight_decay = 5e-4

  config.checkpoint.every_epochs = 1
  config.report.eval_every_epochs = 5
  config.report.every_steps = 20
  return config
