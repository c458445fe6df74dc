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

from mtl_kd_jax.config.experiments.nyuv2 import VARIANTS, get_config

__all__ = ['VARIANTS', 'get_config']
