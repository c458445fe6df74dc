"""The page: a picture goes in, and predictions of the chosen networks come out.

Nothing leaves this machine: no telemetry, no shared link, and by default no
other machine can connect.
"""

from collections.abc import Iterable
import html
import os
import socket
from typing import Any

import numpy as np
from PIL import Image

from mtl_kd_jax.demo.example import example_of
from mtl_kd_jax.demo.view import make_view
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.prediction.pictures import read_picture

_LONGEST_SIDE = 1024  # pixels; a picture is not shown larger
_HOW = 'Drop a picture, and choose networks. Nothing leaves this machine.'
_HINT = 'Predictions appear here.'


def show_predictions(run: Any, names: Iterable[str], picture: Any) -> str:
  """What the page shows.

  Args:
    run: network -> `TrainedNetwork`, as `mtl_kd_jax.load` returns it.
    names: of the networks to show.
    picture: path, PIL image or array of a picture; None for none yet.

  Returns:
    HTML: predictions side by side, or a message.
  """
  # In the order of the run, however they were clicked.
  chosen = set(names)
  names = [name for name in run if name in chosen]
  if picture is None:
    return _message(_HINT)
  if not names:
    return _message('Choose a network.')
  try:
    pixels = np.rint(255 * read_picture(picture)).astype(np.uint8)
    small = Image.fromarray(pixels)
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    predictions = {name: run[name].predict(small) for name in names}
  except InputError as error:
    # Not where a browser's file was stored.
    name = os.path.basename(f'{picture}')
    return _message(f'{error}'.replace(f'{picture}', name))
  return make_view(predictions)


def make_page(run: Any, *, title: str) -> Any:
  """The page, as gradio's `Blocks`; see `launch_page`.

  Args:
    run: network -> `TrainedNetwork`.
    title: what is above it.

  Raises:
    InputError: gradio is not installed, or the run has no network.
  """
  gradio = _gradio()
  run = _Opened(run)
  names = list(run)
  if not names:
    raise InputError(
      expected='a run with a network that is finished',
      found='none',
      where=title,
      argument='workdir',
      do='train it to its end first',
    )
  example = example_of(run.run)
  with gradio.Blocks(title=title, analytics_enabled=False) as page:
    gradio.Markdown(f'## {title}\n\n{_HOW}')
    with gradio.Row(equal_height=False):
      with gradio.Column(scale=1, min_width=300):
        picture = gradio.Image(
          label='Picture',
          type='filepath',
          sources=['upload', 'webcam', 'clipboard'],
          height=260,
        )
        # The file as it is: `read_picture` says what is wrong with it.
        picture.preprocess = lambda file: file and file.path
        # The last one is what the run was made for.
        chosen = gradio.CheckboxGroup(names, value=names[-1:], label='Networks')
        if example is not None:
          button = gradio.Button('Show an example', size='md')
          button.click(lambda: example, outputs=picture, api_name=False)
      with gradio.Column(scale=3, min_width=300):
        view = gradio.HTML(_message(_HINT))
    gradio.on(
      [picture.change, chosen.change],
      lambda picture, names: show_predictions(run, names, picture),
      inputs=[picture, chosen],
      outputs=view,
      api_name='predict',
      concurrency_limit=1,
    )
  return page


def launch_page(page: Any, *, host: str, port: int | None) -> str:
  """Serves a page until the process is interrupted; returns its address.

  Args:
    page: from `make_page`.
    host: '127.0.0.1' for this machine alone, '0.0.0.0' for all that reach it.
    port: the port; None for the first free one from 7860.

  Raises:
    InputError: the port is taken, or the host is not one of this machine.
  """
  gradio = _gradio()
  if port is not None:
    _check_free(host, port)
  try:
    _, address, _ = page.launch(
      server_name=host,
      server_port=port,
      share=False,
      quiet=True,
      prevent_thread_lock=True,
      ssr_mode=False,
      footer_links=[],
      theme=gradio.themes.Default(primary_hue='teal'),
    )
  except OSError as error:
    raise _cannot_listen(host, port, error) from error
  return address


class _Opened(dict):
  """A run whose networks are read once, when they are first chosen."""

  def __init__(self, run: Any):
    super().__init__(dict.fromkeys(run))
    self.run = run

  def __getitem__(self, name: str) -> Any:
    if super().__getitem__(name) is None:
      self[name] = self.run[name]
    return super().__getitem__(name)


def _gradio() -> Any:
  # Read when it is imported.
  os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
  os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'
  try:
    import gradio  # optional: only this page needs it
  except ImportError as error:
    raise InputError(
      expected='gradio, which the page is made with',
      found='it is not installed',
      where='python -m mtl_kd_jax.demo',
      do="pip install -e '.[demo]'",
    ) from error
  return gradio


def _check_free(host: str, port: int) -> None:
  try:
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind((host, port))
  except (OSError, OverflowError) as error:
    raise _cannot_listen(host, port, error) from error


def _cannot_listen(host, port, error) -> InputError:
  return InputError(
    expected='an address of this machine with a free port',
    found=f'{error}',
    where=f'{host}:{port or "7860 and the ports after it"}',
    argument='port',
    do='name another port or host',
  )


def _message(text: str) -> str:
  return (
    '<p style="white-space: pre-wrap; color: var(--body-text-color-subdued)">'
    f'{html.escape(text)}</p>'
  )
