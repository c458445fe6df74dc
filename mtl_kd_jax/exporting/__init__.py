"""A trained network in files that run without this package, and back.

writing.py    `export`: writes, compares with the checkpoint, then renames
reading.py    `load`, and what an exported folder holds
formats.py    each format: how it is written, and how it is run
serving.py    the function that is exported: bytes in, finished outputs out
metadata.py   metadata.json: inputs, outputs, labels, units
comparison.py pictures to compare on, and how large differences may be
runner.py     a script that is copied beside an artifact; needs jax alone
"""

from mtl_kd_jax.exporting.reading import ExportedFolder, ExportedNetwork, load
from mtl_kd_jax.exporting.writing import export

__all__ = ['ExportedFolder', 'ExportedNetwork', 'export', 'load']
