"""What is measured, in which order."""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

JAX, TORCH = 'jax', 'torch'
LAYOUTS = ('nhwc', 'nchw')  # of PyTorch's maps
PRECISIONS = ('float32', 'tf32', 'bfloat16')
# Programs that are compiled at once.
TOGETHER = max(1, min(8, (os.cpu_count() or 1) // 2))
TEACHERS = 'teachers'  # the kind of work that is their forward pass alone


@dataclasses.dataclass(frozen=True)
class Cell:
  """One kind of work in one library.

  Attributes:
    rival: `JAX` or `TORCH`.
    network: of `steps.NETWORKS`.
    kind: of `steps.KINDS`, or `TEACHERS`.
    batch: images in a batch.
    precision: of `PRECISIONS`.
    layout: of PyTorch's maps, 'nchw' or 'nhwc' (channels_last).
    compiled: whether by torch.compile.
  """

  rival: str
  network: str
  kind: str
  batch: int
  precision: str
  layout: str = ''
  compiled: bool = False

  @property
  def name(self) -> str:
    """Names it in the report."""
    form = 'compiled' if self.compiled else 'eager'
    return ' '.join(
      (
        self.network,
        f'b{self.batch}',
        self.kind,
        self.precision,
        *((self.rival, self.layout, form) if self.layout else (self.rival,)),
      )
    )

  def as_dict(self) -> dict[str, Any]:
    """What a worker is sent."""
    return dataclasses.asdict(self) | {'name': self.name}


def make_rounds(
  networks: Sequence[str],
  batches: Sequence[int],
  precisions: Sequence[str],
  kinds: dict[str, Sequence[str]],
  *,
  torch_compile: bool = True,
) -> list[list[Cell]]:
  """Rounds of cells that take turns, the most informative first.

  Args:
    networks: the networks, the most important first.
    batches: their batch sizes, the most important first.
    precisions: of `PRECISIONS`.
    kinds: network -> kinds of step.
    torch_compile: whether PyTorch's steps are measured compiled, too.
  """
  fast = [p for p in precisions if p != 'float32'] or list(precisions)
  main, *others = batches

  def rivals(network, batch, precisions):
    """Our distilled step, and PyTorch's without compiling."""
    if 'distilled' not in kinds[network]:
      return []
    return [Cell(JAX, network, 'distilled', batch, p) for p in precisions] + [
      Cell(TORCH, network, 'distilled', batch, p, layout)
      for layout in LAYOUTS
      for p in precisions
    ]

  def compiled(network, layouts, precisions):
    """PyTorch's; each takes about a minute to compile."""
    if 'distilled' not in kinds[network] or not torch_compile:
      return []
    return [
      Cell(TORCH, network, 'distilled', main, p, layout, True)
      for layout in layouts
      for p in precisions
    ]

  def ours(network, batch, precisions, kinds):
    return [
      Cell(JAX, network, kind, batch, p) for kind in kinds for p in precisions
    ]

  def rest(network):
    return [k for k in kinds[network] if k != 'distilled']

  rounds = []
  for network in networks:  # beside PyTorch; and the teachers' share
    cells = rivals(network, main, fast)
    if 'distilled' in kinds[network]:
      cells += ours(network, main, fast, [TEACHERS])
    rounds.append(cells)
  # By themselves: what takes too long to compile ends its round.
  for network in networks:
    rounds.append(compiled(network, LAYOUTS[:1], fast[-1:]))
  for network in networks:  # what balancing costs
    rounds.append(ours(network, main, fast[:1], rest(network)))
  for batch in others:
    for network in networks:
      rounds.append(rivals(network, batch, fast))
  if 'float32' in precisions and fast != ['float32']:
    for network in networks:
      rounds.append(rivals(network, main, ['float32']))
  for network in networks:
    rounds.append(ours(network, main, fast[1:], rest(network)))
  for network in networks:
    rounds.append(
      compiled(network, LAYOUTS[:1], fast[:-1])
      + compiled(network, LAYOUTS[1:], fast)
    )
  for batch in others:
    for network in networks:
      cells = ours(network, batch, fast, [*rest(network), TEACHERS])
      rounds.append(cells)
  if 'float32' in precisions and fast != ['float32']:
    for network in networks:
      rounds.append(ours(network, main, ['float32'], rest(network)))
      for batch in others:
        rounds.append(ours(network, batch, ['float32'], kinds[network]))
  return [cells for cells in rounds if cells]
