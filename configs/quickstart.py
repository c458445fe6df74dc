"""The whole method on rendered rooms, in minutes on two CPU cores.

    python launch.py --config=configs/quickstart.py

Needs no download and no GPU. The first run takes four to eight minutes and 2 GB
on two cores, rendering and compiling included. After so few steps BatchNorm's
running statistics can be far off, above all the uniform network's: relative to
single-task (ΔMTL), three runs gave it -14, -36 and -39 %, and the distilled one
-11, -21 and -6 %. They show that all works, not which is better.
For better networks: --config.epochs=40 --config.model.width=0.5
"""

from mtl_kd_jax.config.experiments.quickstart import get_config

__all__ = ['get_config']
