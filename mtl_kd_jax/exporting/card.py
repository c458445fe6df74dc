"""The model card of an exported folder."""

import pathlib

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.reports.model_card import model_card
from mtl_kd_jax.reports.tables import Results, table
from mtl_kd_jax.run import Run
from mtl_kd_jax.runtime.files import write_atomically
from mtl_kd_jax.trained import TrainedNetwork

CARD = 'README.md'


def write_card(
  network: TrainedNetwork,
  folder: pathlib.Path,
  *,
  license: str = '',
  address: str = '',
) -> None:
  """Writes README.md: what the network is, its use, its results.

  Args:
    network: that is in the folder.
    folder: the folder.
    license: an identifier of the Hugging Face Hub, such as 'apache-2.0'; '' for
      none.
    address: what `mtl.load` opens; '' for a folder.
  """
  source = Run(network.workdir) if network.workdir else None
  data = source.config.data if source else None
  card = model_card(
    network,
    title=f'{source.config.name}: {network.name}' if source else network.name,
    dataset=data.name if data else '',
    split=data.eval_split if data else '',
    results=_results(network, source),
    license=license,
    address=address,
  )
  write_atomically(folder / CARD, card)


def _results(network: TrainedNetwork, source: Run | None) -> Results | None:
  """The table of the networks of a run that have been scored."""
  scored = {}
  for name in source or ():
    try:
      scored[name] = source[name]
    except InputError:  # damaged, or its module is not known
      continue
  scored.setdefault(network.name, network)
  networks = [x for x in scored.values() if x.metrics]
  return table(*networks) if networks else None
