"""Puts the numbers and pictures of a finished quickstart into the README.

    python launch.py --config=configs/quickstart.py
    python benchmarks/readme_numbers.py --workdir=runs/quickstart

Writes the table of the README, docs/quickstart.png, and docs/quickstart.json:
the config that the numbers are of, the table, and the SHA-256 of the picture. A
test fails where the config of the code, the README or the picture differs. It
cannot see that code has changed: run both commands after a change of what is
computed.
"""

import argparse
import hashlib
import json
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
TABLE = re.compile(r'^\| network \|.*?(?=\n\n)', re.MULTILINE | re.DOTALL)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  workdir = parser.parse_args().workdir
  table = TABLE.search((workdir / 'results.md').read_text())[0]
  readme = REPOSITORY / 'README.md'
  text, count = TABLE.subn(lambda _: table, readme.read_text(), count=1)
  if count != 1:
    raise SystemExit('expected a table in README.md, found none')
  readme.write_text(text)
  docs = REPOSITORY / 'docs'
  config = json.loads((workdir / 'config.json').read_text())
  config['data'].pop('data_dir')
  picture = (workdir / 'predictions.png').read_bytes()
  (docs / 'quickstart.png').write_bytes(picture)
  content = {
    'config': config,
    'table': table.splitlines(),
    'picture': hashlib.sha256(picture).hexdigest(),
  }
  (docs / 'quickstart.json').write_text(json.dumps(content, indent=2) + '\n')


if __name__ == '__main__':
  main()
