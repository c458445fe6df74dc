"""Every key with its default: where a config of your own starts from.

The keys, with their meaning, unit and allowed values, stand in
mtl_kd_jax/config/defaults.py.
"""

from mtl_kd_jax.config.defaults import get_config

__all__ = ['get_config']
