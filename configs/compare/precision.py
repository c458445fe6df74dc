"""float32 and bfloat16 on rendered rooms, side by side, with three seeds.

    python launch.py --job=compare --config=configs/compare/precision.py

Its variations stand in mtl_kd_jax/config/comparisons/precision.py.
"""

from mtl_kd_jax.config.comparisons.precision import get_config

__all__ = ['get_config']
