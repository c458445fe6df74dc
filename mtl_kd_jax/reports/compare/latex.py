"""compare.tex: tables for a paper, with booktabs."""

import re

from mtl_kd_jax.reports.cells import one_line
from mtl_kd_jax.reports.compare.grids import Grid
from mtl_kd_jax.reports.compare.page import Page

_HEAD = r"""% Needs \usepackage{booktabs}, and for tables that are too wide
% \usepackage{graphicx}: \resizebox{\linewidth}{!}{...} around a tabular."""
_SPECIAL = {
  '\\': r'\textbackslash{}',
  '{': r'\{',
  '}': r'\}',
  '#': r'\#',
  '$': r'\$',
  '%': r'\%',
  '&': r'\&',
  '_': r'\_',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '<': r'$<$',
  '>': r'$>$',
  '|': r'$|$',
  '"': r'\textquotedbl{}',
  '[': '{[}',  # at the start of a line it would be an argument of \\
  ']': '{]}',
  '*': '{*}',
  '–': '--',
  '°': r'$^\circ$',
  '±': r'$\pm$',
  '×': r'$\times$',
  '²': r'$^2$',
  '√': r'$\surd$',
  '↑': r'$\uparrow$',
  '↓': r'$\downarrow$',
  '→': r'$\to$',
  '≤': r'$\le$',
  '≥': r'$\ge$',
  'Δ': r'$\Delta$',
  'Σ': r'$\Sigma$',
  'α': r'$\alpha$',
  'β': r'$\beta$',
  'γ': r'$\gamma$',
  'δ': r'$\delta$',
  'ε': r'$\varepsilon$',
  'η': r'$\eta$',
  'θ': r'$\theta$',
  'λ': r'$\lambda$',
  'μ': r'$\mu$',
  'π': r'$\pi$',
  'ρ': r'$\rho$',
  'σ': r'$\sigma$',
  'τ': r'$\tau$',
}
_MINUS = re.compile(r'(?<!\S)-(?=\d)')


def make_latex(page: Page) -> str:
  """A page as LaTeX: its tables, each with title and remarks as comments."""
  remarks = [*page.verdicts, *page.missing, *page.notes]
  remarks += [f'{key}: {value}' for key, value in page.facts.items()]
  parts = [_HEAD, f'% {page.title}']
  parts += [f'% {grid.title}\n{_tabular(grid)}' for grid in page.grids]
  parts.append('\n'.join(f'% {one_line(text)}' for text in remarks))
  return '\n\n'.join(parts) + '\n'


def escape_latex(text: str) -> str:
  """A text that stands for itself in LaTeX."""
  return ''.join(_SPECIAL.get(c, c) for c in one_line(text))


def _tabular(grid: Grid) -> str:
  columns = len(grid.headings)
  titles, units = zip(*grid.headings, strict=True)
  lines = [
    rf'\begin{{tabular}}{{l{"r" * columns}}}',
    r'\toprule',
    _line(['', *map(escape_latex, titles)]),
    _line(['', *map(escape_latex, units)]),
    r'\midrule',
  ]
  for row, cells in grid.rows.items():
    bold = [(row, i) in grid.bold for i in range(columns)]
    cells = [_cell(x, b) for x, b in zip(cells, bold, strict=True)]
    lines.append(_line([escape_latex(row), *cells]))
  lines += [r'\bottomrule', r'\end{tabular}']
  return '\n'.join(lines)


def _cell(text: str, bold: bool) -> str:
  """A number, with minus signs that are not hyphens."""
  text = '$-$'.join(map(escape_latex, _MINUS.split(text)))
  return rf'\textbf{{{text}}}' if bold else text


def _line(cells) -> str:
  return rf'{" & ".join(cells)} \\'
