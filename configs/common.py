"""All keys with their defaults: the base of a config of your own.

mtl_kd_jax/config/defaults.py documents every key with its meaning, unit and
allowed values.
"""

from mtl_kd_jax.config.defaults import get_config

__all__ = ['get_config']
