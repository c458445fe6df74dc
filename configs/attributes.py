"""Three questions about a picture: classes of images, without a download.

    python launch.py --config=configs/attributes.py

Its values, and what they mean, stand in
mtl_kd_jax/config/experiments/attributes.py.
"""

from mtl_kd_jax.config.experiments.attributes import get_config

__all__ = ['get_config']
