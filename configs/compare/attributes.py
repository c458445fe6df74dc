"""Classes of images: uniform, and distilled in several ways.

    python launch.py --job=compare --config=configs/compare/attributes.py

Its variations stand in mtl_kd_jax/config/comparisons/attributes.py.
"""

from mtl_kd_jax.config.comparisons.attributes import get_config

__all__ = ['get_config']
