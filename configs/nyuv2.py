"""NYU-v2, 13 classes, depth and normals: the settings of the papers.

    python launch.py --config=configs/nyuv2.py --config.data.data_dir=FOLDER
    python launch.py --config=configs/nyuv2.py:url --config.data.data_dir=FOLDER

Each reads the .npy dump of the literature, or with --config.data.name=nyuv2_mat
the official archive (docs/data.md has the differences).

kd4mtl  Li & Bilen 2020, the default: SegNet, bottleneck aligned with bottleneck
        and decoder with decoder, no augmentation.
mtan    the same with MTAN, whose tasks have features of their own.
url     Universal Representations (Li, Liu & Bilen 2023): both features of the
        SegNet aligned with the teacher's decoder, augmentation.
deeplab the setting of LibMTL's tables: ResNet-50 of output stride 8 and
        DeepLabV3 heads. Name ImageNet weights, as torchvision has them, with
        --config.model.pretrained=FILE; without, it begins from scratch.

795 training and 654 test frames of 288x384, 200 epochs, Adam 1e-4 halved after
100 epochs, lambda 1, 1, 2. There is no validation split: 'val' is the test
split, so the last checkpoint is reported and not the best, and beside it the
mean over the last 10 epochs. To choose checkpoints on a share of training:
--config.data.val_fraction=0.1 --config.select=best. Expected numbers and
what they can be compared with stand in docs/method.md. Shortened, for a look:
--config.epochs=10 --config.model.width=0.25
"""

from mtl_kd_jax.config.experiments.nyuv2 import VARIANTS, get_config

__all__ = ['VARIANTS', 'get_config']
