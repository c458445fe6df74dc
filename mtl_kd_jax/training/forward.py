"""The forward pass of training, with the ways back that gradients take.

The only place that runs the network in training: encoder, heads, live teachers
and loss terms run forward once, each with its `vjp`. What comes of it are the
losses, and `Forward.vjp`: the gradient of any weighted sum of terms. A plain
step vjps the sum of all at once; a step that combines gradients vjps every
objective by itself, which runs a head backward only for the terms that read it;
and measuring conflicts vjps without taking a step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.models.network import BACKBONE, Network, Output, head_name
from mtl_kd_jax.models.precision import with_dtype
from mtl_kd_jax.tasks.base import as_float32
from mtl_kd_jax.training.computation import (
  PLAIN,
  Computation,
  run_network,
)
from mtl_kd_jax.training.loss_terms import ExtraNetwork, LossTerm, as_scalar
from mtl_kd_jax.training.state import AdaptedState, TrainState


class Cotangent(NamedTuple):
  """The gradient of a sum of terms; this device's share, where mapped.

  Attributes:
    features: with respect to the backbone's features, tap -> [b h w c].
    heads: with respect to the parameters that are not the backbone's, by their
      key in the network's variables.
    extras: with respect to the parameters of the extra networks.
  """

  features: dict[str, jax.Array]
  heads: dict[str, Any]
  extras: dict[str, Any]


class Forward(NamedTuple):
  """What a batch gave, and the ways back.

  Attributes:
    terms: the terms.
    losses: term -> float32 scalar, without weight; shares, where mapped.
    factors: term -> what becomes of its weight in this step, for those whose
      weight changes over a training.
    features: tap -> float [b h w c], of the backbone.
    collections: the network's next collections, e.g. 'batch_stats'.
    extra_collections: extra network -> its next collections, of live teachers.
    vjp: term -> factor, to the `Cotangent` of the sum of factor * loss.
    backbone_vjp: gradient with respect to the features -> with respect to the
      backbone's parameters, of the global batch.
  """

  terms: tuple[LossTerm, ...]
  losses: dict[str, jax.Array]
  factors: dict[str, Any]
  features: dict[str, jax.Array]
  collections: dict[str, Any]
  extra_collections: dict[str, Any]
  vjp: Callable[[Mapping[str, Any]], Cotangent]
  backbone_vjp: Callable[[Any], Any]

  @property
  def weights(self) -> dict[str, Any]:
    """Term -> its weight in this step."""
    return {t.name: t.weight * self.factors.get(t.name, 1) for t in self.terms}

  def objectives(self) -> dict[str, jax.Array]:
    """Objective -> the weighted sum of its terms; shares, where mapped."""
    sums: dict[str, Any] = {}
    for term in self.terms:
      if term.objective is not None:
        value = self.weights[term.name] * self.losses[term.name]
        sums[term.objective] = sums.get(term.objective, 0) + value
    return sums

  def objective_vjp(self, name: str | None) -> Cotangent:
    """Of one objective; None: of all terms that belong to none."""
    return self.vjp(
      {t.name: self.weights[t.name] for t in self.terms if t.objective == name}
    )


class _Inputs(NamedTuple):
  """What a term reads and a gradient can flow into; or such a gradient."""

  predictions: dict[str, jax.Array]
  features: dict[str, jax.Array]
  extras: dict[str, Any]
  live: dict[str, Output]


def run_forward(
  state: TrainState,
  teachers: Mapping[str, Output],
  batch: Mapping[str, jax.Array],
  *,
  network: Network,
  terms: Sequence[LossTerm],
  extras: Mapping[str, ExtraNetwork],
  key: jax.Array,
  axis_name: str | None,
  computation: Computation = PLAIN,
) -> Forward:
  """Runs everything forward.

  Args:
    state: parameters and collections.
    teachers: outputs of the frozen teachers.
    batch: 'image' float32 [b h w 3], and a label per task.
    network: the network.
    terms: what it descends on.
    extras: the extra networks.
    key: PRNG key of the step, which dropout and the like draw with.
    axis_name: the mapped device axis, if any.
    computation: in which precision, and in how many micro-batches.
  """
  image = batch['image']
  key = jax.random.fold_in(key, 1)  # the balancer has 0, teachers have 2
  if axis_name is not None:  # every device drops its own
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
  run = _Runner(
    network, state.params, dict(state.collections), image, key, computation
  )
  features, features_vjp = run.encode()
  predictions, head_features, head_vjps = {}, {}, {}
  for task in network.channels:
    (predictions[task], head_features[task]), head_vjps[task] = run.decode(
      features, task
    )
  live, live_vjps, extra_collections = _run_live(
    extras, state, image, key, computation
  )

  frozen = {n: _for_terms(output) for n, output in teachers.items()}
  losses, term_vjps = {}, {}
  for term in terms:
    inputs = _Inputs(
      predictions={t: predictions[t] for t in term.tasks},
      features=features | _merged(head_features[t] for t in term.tasks),
      extras={n: variables['params'] for n, variables in state.extras.items()},
      live=live,
    )

    def loss_of(inputs, term=term):
      try:
        value = term.fn(
          _for_terms(Output(inputs.predictions, inputs.features)),
          {**frozen, **{n: _for_terms(x) for n, x in inputs.live.items()}},
          batch,
          {
            n: with_dtype({**state.extras[n], 'params': p}, computation.dtype)
            for n, p in inputs.extras.items()
          },
          axis_name=axis_name,
        )
      except KeyError as error:
        raise _not_declared(term, error, network.channels) from error
      return as_scalar(value, term.name)

    losses[term.name], term_vjps[term.name] = jax.vjp(loss_of, inputs)

  def vjp(factors):
    given = _add_inputs(
      term_vjps[name](jnp.asarray(factor, losses[name].dtype))[0]
      for name, factor in factors.items()
    )
    of_features = [{tap: given.features.get(tap) for tap in features}]
    of_heads = []
    for task, prediction in given.predictions.items():
      computed = {tap: given.features[tap] for tap in head_features[task]}
      params, taps = head_vjps[task]((prediction, computed))
      of_heads.append(params)
      of_features.append(taps)
    of_extras = [given.extras]
    for name, network_vjp in live_vjps.items():
      of_extras.append({name: network_vjp(given.live[name])[0]})
    return Cotangent(
      add(of_features), add(of_heads) or {}, add(of_extras) or {}
    )

  def backbone_vjp(cotangent):
    (gradient,) = features_vjp(cotangent)
    return total(gradient, axis_name)

  return Forward(
    tuple(terms),
    losses,
    _factors(terms, state),
    features,
    run.collections,
    extra_collections,
    vjp,
    backbone_vjp,
  )


def _for_terms(output: Output) -> Output:
  """An output as terms read it: losses need the range of float32."""
  predictions = jax.tree.map(as_float32, output.predictions)
  return output._replace(predictions=predictions)


def _not_declared(
  term: LossTerm, error: KeyError, tasks: Iterable[str]
) -> Exception:
  """What to raise for a term that reads the prediction of a further task."""
  task = error.args[0] if error.args else ''
  if task not in tasks or task in term.tasks:
    return error
  return InputError(
    expected=f'predictions that the term {term.name} names as its tasks: '
    f'{", ".join(term.tasks) or "none"}',
    found=f'that of {task}',
    argument='terms',
    do=f'add it: LossTerm(..., tasks={(*term.tasks, task)!r})',
  )


def _factors(terms: Sequence[LossTerm], state: TrainState) -> dict[str, Any]:
  factors = dict(state.factors) if isinstance(state, AdaptedState) else {}
  for term in terms:
    if term.schedule is not None:
      factors[term.name] = term.schedule(state.step) * factors.get(term.name, 1)
  return factors


class _Runner:
  """Runs the parts of a network one after another, handing collections on."""

  def __init__(self, network, params, collections, image, key, computation):
    self.network, self.params, self.image = network, params, image
    self.collections, self.key = collections, key
    self._computation, self._calls = computation, 0

  def encode(self):
    """The features, and their `vjp` to the backbone's parameters."""

    def encode_with(backbone):
      return self._apply({BACKBONE: backbone}, self.image, method='encode')

    features, vjp, self.collections = jax.vjp(
      encode_with, self.params.get(BACKBONE, {}), has_aux=True
    )
    return features, vjp

  def decode(self, features, task):
    """(Prediction, features of the head), and their `vjp`."""
    others = {head_name(t) for t in self.network.channels if t != task}
    params = {
      k: p for k, p in self.params.items() if k != BACKBONE and k not in others
    }
    size = self.image.shape[1:3]

    def decode_with(params, features):
      return self._apply(
        params, features, task=task, size=size, method='decode'
      )

    output, vjp, self.collections = jax.vjp(
      decode_with, params, features, has_aux=True
    )
    return output, vjp

  def _apply(self, params, inputs, **kwargs):
    self._calls += 1

    def call(variables, inputs, key):
      return self.network.apply(
        variables,
        inputs,
        train=True,
        mutable=list(self.collections),
        # A stream that a module asks for by another name is made of this one.
        rngs={'params': key},
        **kwargs,
      )

    output, updated = run_network(
      call,
      {'params': params, **self.collections},
      inputs,
      jax.random.fold_in(self.key, self._calls),
      computation=self._computation,
    )
    return output, {**self.collections, **updated}


def _run_live(extras, state, image, key, computation):
  """Outputs of the extra networks that teach, their `vjp`s and collections."""
  live, vjps, collections = {}, {}, {}
  for i, (name, extra) in enumerate(sorted(extras.items())):
    if extra.apply is None:
      continue
    variables = state.extras[name]

    def run(params, extra=extra, variables=variables, i=i):
      return run_network(
        lambda variables, image, key: extra.apply(variables, image, key=key),
        {**variables, 'params': params},
        image,
        jax.random.fold_in(key, 2**16 + i),
        computation=computation,
      )

    live[name], vjps[name], collections[name] = jax.vjp(
      run, variables['params'], has_aux=True
    )
  return live, vjps, collections


def _add_inputs(gradients: Iterable[_Inputs]) -> _Inputs:
  parts = zip(*gradients, strict=True)
  sums = [add(part) or {} for part in parts]
  return _Inputs(*sums) if sums else _Inputs({}, {}, {}, {})


def total(tree: Any, axis_name: str | None) -> Any:
  """Sums the shares of all mapped devices."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def add(trees: Iterable[Any]) -> Any:
  """Adds pytrees that may lack keys of each other; None for none."""
  result = None
  for tree in trees:
    if tree is None:
      continue
    if result is None:
      result = tree
    elif isinstance(tree, Mapping):
      result = {
        k: add([result.get(k), tree.get(k)]) for k in {**result, **tree}
      }
    else:
      result = jax.tree.map(jnp.add, result, tree)
  return result


def _merged(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  merged: dict[str, Any] = {}
  for mapping in mappings:
    merged |= mapping
  return merged
