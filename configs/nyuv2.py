"""NYU-v2 in the settings of the papers, and their variants.

    python launch.py --config=configs/nyuv2.py --config.data.data_dir=FOLDER
    python launch.py --config=configs/nyuv2.py:url --config.data.data_dir=FOLDER

Its values, and what they mean, stand in
mtl_kd_jax/config/experiments/nyuv2.py.
"""

from mtl_kd_jax.config.experiments.nyuv2 import VARIANTS, get_config

__all__ = ['VARIANTS', 'get_config']
