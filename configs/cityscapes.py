r"""Cityscapes, 7 categories and inverse depth: the setting of most papers.

    python launch.py --config=configs/cityscapes.py --config.data.manual_dir=DIR
    python launch.py --config=configs/cityscapes.py:npy \
      --config.data.data_dir=FOLDER

Its values, and what they mean, stand in
mtl_kd_jax/config/experiments/cityscapes.py.
"""

from mtl_kd_jax.config.experiments.cityscapes import VARIANTS, get_config

__all__ = ['VARIANTS', 'get_config']
