"""Balancing and distillation on rendered rooms, with five seeds.

    python launch.py --job=compare --config=configs/compare/quickstart.py

Its variations stand in mtl_kd_jax/config/comparisons/quickstart.py.
"""

from mtl_kd_jax.config.comparisons.quickstart import get_config

__all__ = ['get_config']
