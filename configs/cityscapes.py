r"""Cityscapes, 7 categories and inverse depth: the setting of the tables.

    python launch.py --config=configs/cityscapes.py --config.data.manual_dir=DIR
    python launch.py --config=configs/cityscapes.py:npy \
      --config.data.data_dir=FOLDER

archives  the default. DIR holds leftImg8bit_trainvaltest.zip,
          gtFine_trainvaltest.zip and disparity_trainvaltest.zip as they are
          handed out at www.cityscapes-dataset.com (docs/data.md).
npy       FOLDER is the .npy dump of the literature.

2975 training and 500 validation frames of 128x256, 200 epochs in batches of 8,
Adam 1e-4 halved after 100 epochs, lambda 1, augmentation: what the tables since
CAGrad share. (Li & Bilen's lambda and learning rate for Cityscapes are not
published; these are NYU-v2's.) The labels of the test split are not public, so
'val' is what the literature reports, and the last checkpoint is scored and not
the best. Single-task SegNets are reported with 74 % mIoU and an absolute error
of 0.0125. Shortened, for a look:
--config.epochs=10 --config.model.width=0.25

More classes: --config.data.cityscapes.classes=19
Meters: --config.data.cityscapes.depth=depth (needs camera_trainvaltest.zip)
"""

from mtl_kd_jax.config.experiments.cityscapes import VARIANTS, get_config

__all__ = ['VARIANTS', 'get_config']
