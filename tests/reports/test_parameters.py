"""The table of parameters counts every part of every network."""

import io
import re

from rich.console import Console

from mtl_kd_jax.reports.parameters import parameter_table


def numbers(words):
  return [int(word.replace(',', '')) for word in words]


def test_the_parameter_table_counts_every_part():
  backbone = 3 * 3 * 8 * 16 + 16
  teacher = {'backbone': backbone, 'heads': 17}
  student = {'backbone': backbone, 'heads': 85, 'adaptors': 15000}
  table = parameter_table({'teacher': teacher, 'student': student})
  out = io.StringIO()
  Console(file=out, width=200).print(table)
  rows = {
    words[0]: words[1:]
    for line in out.getvalue().splitlines()
    if (words := re.findall(r'[\w,]+', line))
  }
  assert rows['network'] == ['backbone', 'heads', 'adaptors', 'total']
  assert numbers(rows['teacher']) == [backbone, 17, 0, backbone + 17]
  assert numbers(rows['student']) == [
    backbone,
    85,
    15000,
    backbone + 85 + 15000,
  ]
