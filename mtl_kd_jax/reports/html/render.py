"""Templates -> HTML."""

import pathlib
from typing import Any

import jinja2

_FOLDER = pathlib.Path(__file__).parent


def render(
  template: str, *, folder: pathlib.Path = _FOLDER, **content: Any
) -> str:
  """Renders a template; all texts are escaped.

  Args:
    template: name of the file.
    folder: where it is.
    **content: what it names; a `markupsafe.Markup` is not escaped.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(folder),
    autoescape=True,  # the files do not end in .html
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template(template).render(**content)
