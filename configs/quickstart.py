"""The whole method on rendered rooms, in minutes on two CPU cores.

    python launch.py --config=configs/quickstart.py

Needs no download and no GPU. The first run takes four to eight minutes and 2 GB
of memory on two cores, including rendering and compilation. After so few steps
the running statistics of BatchNorm can be far off, above all those of the
uniform network. In three runs its gain over single-task networks (ΔMTL) was
-14, -36 and -39 %, and that of the distilled network -11, -21 and -6 %. This
shows that everything works, not which method is better.
For better networks: --config.epochs=40 --config.model.width=0.5
"""

from mtl_kd_jax.config.experiments.quickstart import get_config

__all__ = ['get_config']
