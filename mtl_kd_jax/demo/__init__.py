"""A local page that shows what the networks of a run predict for a picture.

  python -m mtl_kd_jax.demo --workdir=runs/quickstart

example.py   a picture of the kind that a run was trained on
view.py      predictions side by side, as HTML
page.py      the page; the only file that imports gradio
"""
