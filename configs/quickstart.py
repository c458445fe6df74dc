"""The whole method on rendered rooms, in minutes on two CPU cores.

    python launch.py --config=configs/quickstart.py

Its values, and what they mean, stand in
mtl_kd_jax/config/experiments/quickstart.py.
"""

from mtl_kd_jax.config.experiments.quickstart import get_config

__all__ = ['get_config']
