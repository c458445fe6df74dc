"""How large lambda should be, and what should set it, with five seeds.

    python launch.py --job=compare --config=configs/compare/lambdas.py

Its variations stand in mtl_kd_jax/config/comparisons/lambdas.py. Another
experiment: --config.base.data.name=nyuv2 --config.base.data.data_dir=FOLDER
"""

from mtl_kd_jax.config.comparisons.lambdas import get_config

__all__ = ['get_config']
