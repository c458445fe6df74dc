"""Settings of the documentation: `python -m sphinx -W docs build/docs`.

No page needs the network while it is built. What can be read from the code is:
docstrings, registries, the keys of the config, and flags (_ext/generated.py).
"""

import pathlib
import sys
import warnings

_DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(_DOCS.parent), str(_DOCS / '_ext')]
# Libraries that the package imports may be deprecated in parts; -W is about
# these pages.
warnings.simplefilter('ignore', DeprecationWarning)

import mtl_kd_jax  # noqa: E402

project = 'mtl_kd_jax'
author = 'the mtl_kd_jax authors'
copyright = author
release = version = mtl_kd_jax.__version__
smartquotes_action = 'D'  # dashes, and no quotes

extensions = [
  'myst_parser',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx_copybutton',
  'docstrings',
  'generated',
  'notebooks',
]
exclude_patterns = ['_ext', '_static', 'Thumbs.db']

# ---- Markdown ----------------------------------------------------------------

myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 3
highlight_language = 'text'  # of indented blocks; others name theirs

# ---- Docstrings --------------------------------------------------------------

autoclass_content = 'both'
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False

# ---- HTML --------------------------------------------------------------------

html_theme = 'furo'
html_title = 'mtl_kd_jax'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
  'light_css_variables': {
    'color-brand-primary': '#0b6e69',
    'color-brand-content': '#0b6e69',
  },
  'dark_css_variables': {
    'color-brand-primary': '#4fd1c5',
    'color-brand-content': '#4fd1c5',
  },
}
pygments_style = 'friendly'
pygments_dark_style = 'github-dark'
