"""What the C library does with memory that is freed, and how much there is."""

import ctypes
import gc
import pathlib
import platform
import re

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
  """Tells glibc not to give freed memory back to the system.

  XLA's CPU backend allocates the whole scratch space of a step anew, and by
  default glibc fetches it from the system every time: tens of thousands of page
  faults, a fifth of a small step. Call it before anything is computed. Peak
  memory grows by about a tenth. On a GPU or TPU the scratch space is not the
  C library's, and nothing is gained.

  Returns:
    Whether it took effect; False where the C library is not glibc.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  settings = (
    (_M_MMAP_MAX, 0),
    (_M_TRIM_THRESHOLD, -1),  # never; the largest int is but 2 GiB
  )
  return all(mallopt(name, value) for name, value in settings)


def release_freed_memory() -> None:
  """Gives freed memory back to the system, also after `keep_freed_memory`.

  Call it after a stage: compiling its programs leaves unused memory between
  what is still in use. Does nothing where the C library is not glibc.
  """
  gc.collect()  # cycles of references hold programs
  trim_memory()


def trim_memory() -> None:
  """The same without a search for cycles, which stops all other threads."""
  if platform.libc_ver()[0] == 'glibc':
    ctypes.CDLL(None).malloc_trim(0)


def available_memory() -> int | None:
  """Bytes that this process can still use; None where it cannot be told."""
  found = []
  try:
    text = pathlib.Path('/proc/meminfo').read_text()
    (kilobytes,) = re.findall(r'^MemAvailable:\s+(\d+) kB', text, re.MULTILINE)
    found.append(int(kilobytes) * 1024)
  except (OSError, ValueError):
    pass  # not Linux
  try:  # the limit of a container
    group = pathlib.Path('/sys/fs/cgroup')
    limit = int((group / 'memory.max').read_text())
    used = int((group / 'memory.current').read_text())
    text = (group / 'memory.stat').read_text()
    # Of files that were read; the system takes it back where it is needed.
    (kept,) = re.findall(r'^inactive_file (\d+)', text, re.MULTILINE)
    found.append(limit - used + int(kept))
  except (OSError, ValueError):
    pass  # there is none
  return max(0, min(found)) if found else None
