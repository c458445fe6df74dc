"""NYU-v2, 13 classes, depth and normals: the settings of the papers.

    python launch.py --config=configs/nyuv2.py --config.data.data_dir=FOLDER
    python launch.py --config=configs/nyuv2.py:url --config.data.data_dir=FOLDER

Each reads the .npy dump that papers use, or the official archive with
--config.data.name=nyuv2_mat (docs/data.md describes the differences).

kd4mtl   (default) Li & Bilen 2020: SegNet, bottleneck aligned with bottleneck
         and decoder with decoder, no augmentation.
mtan     The same with MTAN, which has task-specific features.
url      Universal Representations (Li, Liu & Bilen 2023): both features of the
         SegNet aligned with the teacher's decoder, with augmentation.
deeplab  The setting of LibMTL's tables: ResNet-50 with output stride 8 and
         DeepLabV3 heads. --config.model.pretrained=FILE loads torchvision's
         ImageNet weights; without it, the backbone is initialized randomly.

795 training and 654 test frames of 288x384, 200 epochs, Adam with learning rate
1e-4, halved after 100 epochs, lambda 1, 1, 2. There is no validation split:
'val' is the test split. The last checkpoint is reported, not the best, and also
the mean over the last 10 epochs. To select checkpoints on a held-out part of
the training split: --config.data.val_fraction=0.1 --config.select=best.
docs/method.md lists published numbers and what they are comparable with. For a
quick test: --config.epochs=10 --config.model.width=0.25
"""

from mtl_kd_jax.config import defaults

VARIANTS = ('kd4mtl', 'mtan', 'url', 'deeplab')


def get_config(variant='kd4mtl'):
  """The config of a variant; raises ValueError for an unknown one."""
  if variant not in VARIANTS:
    raise ValueError(f'{variant!r} is none of {", ".join(VARIANTS)}')
  config = defaults.get_config()
  config.name = 'nyuv2' if variant == 'kd4mtl' else f'nyuv2_{variant}'
  config.epochs = 200
  config.batch_size = 2

  config.data.name = 'nyuv2'
  config.data.num_workers = 2

  config.model.backbone = 'mtan' if variant == 'mtan' else 'segnet'
  config.model.width = 1.0

  config.optim.learning_rate = 1e-4
  config.optim.schedule = 'step'
  config.optim.decay_every_epochs = 100
  config.optim.decay_rate = 0.5

  # The papers' code never switches its teachers to evaluation.
  config.teacher.batch_norm = 'batch'
  config.distill.weights = {'semantic': 1.0, 'depth': 1.0, 'normals': 2.0}
  config.distill.taps = ('bottleneck', 'decoder')
  config.distill.learning_rate = 1e-1
  config.distill.weight_decay = 5e-4

  config.checkpoint.every_epochs = 1
  config.report.eval_every_epochs = 5
  config.report.every_steps = 20

  if variant in ('url', 'deeplab'):
    config.data.scales = (1.0, 1.2, 1.5)
    config.data.flip = True
    config.distill.learning_rate = 1e-2
    config.distill.schedule = 'cosine'
  if variant == 'url':
    config.distill.taps = ('bottleneck:decoder', 'decoder:decoder')
    # Their norm has a floor of 1e-12 in place of an epsilon, which differs only
    # for features shorter than 1e-5.
    config.distill.feature_l2.epsilon = 1e-12
  if variant == 'deeplab':
    config.batch_size = 8
    config.model.backbone = 'resnet50'
    config.model.head = 'aspp'
    config.model.output_stride = 8
    config.optim.weight_decay = 1e-5
    config.distill.taps = ('layer4', 'decoder')
    config.teacher.batch_norm = 'running'
  return config
