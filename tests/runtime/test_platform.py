"""The C library is asked to keep freed memory, where it can be."""

import platform
import subprocess
import sys

from fixtures.paths import REPOSITORY
import pytest

PROGRAM = """
import resource
import numpy as np
from mtl_kd_jax.runtime.platform import keep_freed_memory
if {keep}:
  assert keep_freed_memory()
for _ in range(20):
  np.ones(2**24, np.uint8)  # 16 MiB, 4096 pages, touched and freed
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
  np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='the setting is of glibc'
)
def test_freed_memory_is_not_fetched_again():
  def page_faults(keep):
    program = PROGRAM.format(keep=keep)
    return int(
      subprocess.check_output(
        [sys.executable, '-c', program], cwd=REPOSITORY, text=True
      )
    )

  assert page_faults(keep=True) < page_faults(keep=False) / 5
