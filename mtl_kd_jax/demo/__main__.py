"""The command line of the demo."""

import argparse
import sys
import threading

import mtl_kd_jax
from mtl_kd_jax.demo.page import launch_page, make_page
from mtl_kd_jax.errors import InputError


def main(argv: list[str] | None = None) -> int:
  """Serves the page of a run; returns the exit code.

  Args:
    argv: the arguments; None for those of the command line.
  """
  parser = argparse.ArgumentParser(
    prog='python -m mtl_kd_jax.demo',
    description='Shows what the networks of a run predict for your pictures, '
    'on a page of this machine.',
  )
  parser.add_argument('--workdir', required=True, help='Folder of a run.')
  parser.add_argument(
    '--host',
    default='127.0.0.1',
    help='Address to listen on: by default, only this machine can connect; '
    '0.0.0.0 for all that reach it. There are no passwords.',
  )
  parser.add_argument(
    '--port', type=int, help='Port; by default the first free one from 7860.'
  )
  options = parser.parse_args(argv)
  try:
    run = mtl_kd_jax.load(options.workdir)
    page = make_page(run, title=f'{options.workdir}')
    address = launch_page(page, host=options.host, port=options.port)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'{address}  (end it with Ctrl-C)', flush=True)
  try:
    threading.Event().wait()
  except KeyboardInterrupt:
    page.close(verbose=False)
  return 0


if __name__ == '__main__':
  sys.exit(main())
