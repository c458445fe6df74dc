"""results.html and compare.html: pages for a browser, each one whole file.

What a page shows is computed by pure functions, and then rendered by templates
that escape all texts. A page loads nothing: pictures, style and script are
inside.
"""

from collections.abc import Callable
import pathlib
from typing import Any

from mtl_kd_jax.runtime.files import write_atomically


def write_page(
  path: pathlib.Path, make: Callable[[], str], print: Callable[[Any], None]
) -> list[str]:
  """Writes a page, or says why there is none: no run fails because of it.

  Args:
    path: the file.
    make: returns its content.
    print: prints a string.

  Returns:
    The names of the files that were written: one or none.
  """
  try:
    write_atomically(path, make())
  except Exception as error:  # whatever it is, the numbers are worth more
    print(
      f'warning: {path.name} is not written ({type(error).__name__}: {error}); '
      'all other results are'
    )
    return []
  return [path.name]
