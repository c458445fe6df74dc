"""A dataset for each task, with and without distillation.

    python launch.py --job=compare --config=configs/compare/thirds.py

Its variations stand in mtl_kd_jax/config/comparisons/thirds.py.
"""

from mtl_kd_jax.config.comparisons.thirds import get_config

__all__ = ['get_config']
