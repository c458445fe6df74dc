"""NYU-v2, 13 classes, depth and normals: the paper's setting (Li & Bilen 2020).

    python launch.py --config=configs/nyuv2.py --config.data.data_dir=FOLDER

795 training and 654 test frames of 288x384, SegNet, 200 epochs of batch 2, Adam
1e-4 halved after 100 epochs, lambda 1, 1, 2, no augmentation. There is no
validation split: 'val' is the test split, so the last checkpoint is reported
and not the best. Expected numbers and what they can be compared with stand in
docs/method.md. Shortened, for a look:
--config.epochs=10 --config.model.width=0.25
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 'nyuv2'
  config.epochs = 200
  config.batch_size = 2

  config.data.name = 'nyuv2'
  config.data.workers = 2

  config.model.backbone = 'segnet'
  config.model.width = 1.0

  config.optim.learning_rate = 1e-4
  config.optim.schedule = 'step'
  config.optim.step_epochs = 100
  config.optim.step_factor = 0.5

  # The paper's code never freezes its teachers' statistics.
  config.teacher.batch_norm = 'batch'
  config.distill.weights = {'semantic': 1.0, 'depth': 1.0, 'normals': 2.0}
  config.distill.learning_rate = 1e-1
  config.distill.weight_decay = 5e-4

  config.checkpoint.every_epochs = 1
  config.report.eval_every_epochs = 5
  config.report.every_steps = 20
  return config
