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

from mtl_kd_jax.config.experiments.cityscapes import VARIANTS, get_config

__all__ = ['VARIANTS', 'get_config']
