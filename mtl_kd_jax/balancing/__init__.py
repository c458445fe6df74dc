"""The balancers, by name. To add one: a file with `make()`, and a line here."""

from mtl_kd_jax.balancing import uniform
from mtl_kd_jax.balancing.base import Balancer
from mtl_kd_jax.errors import InputError

BALANCERS = {'uniform': uniform.make}


def make_balancer(name: str) -> Balancer:
  """Makes a balancer; raises InputError when the name is unknown."""
  if name not in BALANCERS:
    raise InputError(
      expected=f'a known balancer: {", ".join(BALANCERS)}',
      found=repr(name),
      where='config.balancing.name',
      do='correct the name',
    )
  return BALANCERS[name]()
