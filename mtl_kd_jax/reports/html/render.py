"""Templates -> HTML."""

import pathlib
from typing import Any

import jinja2


def render(template: str, **content: Any) -> str:
  """Renders a template of this folder; all texts are escaped.

  Args:
    template: name of the file.
    **content: what it names; a `markupsafe.Markup` is not escaped.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,  # the files do not end in .html
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template(template).render(**content)
