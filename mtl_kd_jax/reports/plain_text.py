"""What rich prints, as plain text."""

import io
import shutil
from typing import Any

from rich.console import Console


def plain_text(renderable: Any) -> str:
  """As wide as the terminal, but at least 100 characters."""
  width = max(100, shutil.get_terminal_size((100, 24)).columns)
  file = io.StringIO()
  # In a notebook, rich would show it there and leave the file empty.
  console = Console(
    file=file, width=width, color_system=None, force_jupyter=False
  )
  console.print(renderable)
  lines = file.getvalue().strip().splitlines()
  return '\n'.join(line.rstrip() for line in lines)
