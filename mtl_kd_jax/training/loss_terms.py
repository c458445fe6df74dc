"""What a stage descends on: a sum of terms, some of which are balanced.

    L = balance(L_1 .. L_K) + sum of the terms without an objective

An objective is what a balancer sees as one loss: the weighted sum of the terms
that name it. Losses of tasks, distillation, consistency between tasks and
regularizers are all terms. Where distillation stands:

  outside    L = balance(L_1 .. L_K) + sum_t lambda_t l^d_t, the paper's form
  task       L = balance(L_1 + lambda_1 l^d_1 .. )
  objective  L = balance(L_1 .. L_K, lambda_1 l^d_1 .. ), 2K objectives
"""

from collections.abc import Callable, Mapping, Sequence
import inspect
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.distillation import Adaptors, KDLoss
from mtl_kd_jax.errors import InputError, what_is
from mtl_kd_jax.models.features import taps_of
from mtl_kd_jax.models.network import Output
from mtl_kd_jax.runtime import metric_keys
from mtl_kd_jax.tasks.base import Task, masked_mean

ADAPTORS = 'adaptors'  # the extra network that distillation adds
ALL_TASKS = '*'  # in place of the name of a term: the sum of all tasks
PLACEMENTS = ('outside', 'task', 'objective')

Batch = Mapping[str, jax.Array]


class LossTerm(NamedTuple):
  """One term of the sum that a stage descends on.

  Attributes:
    name: '<kind>/<what>', its name in the log; 'loss/depth', 'alignment/depth'.
    fn: (output, teachers, batch, extras, *, axis_name) -> float32 scalar.
      `output` holds the predictions and the heads' features of `tasks` alone,
      and all features of the backbone; `teachers` is {name: Output}, of frozen
      and of live networks; predictions of both are float32; `extras` is {name:
      variables} of the extra networks.
      Where devices are mapped the result is this device's share, whose sum over
      `axis_name` is the loss (`masked_mean` takes care of it).
    tasks: whose predictions and heads' features it reads.
    objective: the objective that it is part of; None for a term that is added
      as it is. A task's name, or 'alignment/<name>'.
    weight: factor on it, lambda.
    schedule: steps taken -> factor on the weight; None where it never changes.
    agrees_with: name of a term, or `ALL_TASKS`; the weight is times max(0,
      cosine) of the two gradients (agreement.py). '' for none.
    labeled: batch -> bool scalar, whether the batch (of this device) has what
      the term is about; None for always. An objective none of whose terms has
      anything in the global batch is left out of the balancing.
  """

  name: str
  fn: Callable[..., jax.Array]
  tasks: tuple[str, ...] = ()
  objective: str | None = None
  weight: float = 1.0
  schedule: Callable[[jax.Array], jax.Array] | None = None
  agrees_with: str = ''
  labeled: Callable[[Batch], jax.Array] | None = None


class ExtraNetwork(NamedTuple):
  """A network with an optimizer of its own, beside the one that is trained.

  Adaptors, mapping networks of consistency terms, live teachers: their
  variables live in the training state and are never part of the result.

  Attributes:
    init: (key, output) -> variables, {'params': ...} and other collections,
      where `output` has the shapes, [1 h w c], and dtypes of what the trained
      network returns; its values are 0.
    tx: optimizer of its parameters.
    apply: (variables, image, *, key) -> (Output, updated collections), for one
      that teaches: terms find its output among the teachers, and a gradient
      flows into it where they let it. None for one that terms apply themselves.
      Where devices are mapped it sees this device's images, and has to average
      what it updates over the devices.
  """

  init: Callable[..., Any]
  tx: Any
  apply: Callable[..., tuple[Output, Any]] | None = None


def task_terms(tasks: Mapping[str, Task]) -> tuple[LossTerm, ...]:
  """The mean loss of every task over its labeled pixels, 0 without any."""
  return tuple(_task_term(name, task) for name, task in tasks.items())


def _task_term(name: str, task: Task) -> LossTerm:
  def loss(output, teachers, batch, extras, *, axis_name=None):
    del teachers, extras
    return masked_mean(
      task.loss(output.predictions[name], batch[name]),
      task.valid(batch[name]),
      axis_name=axis_name,
    )

  return LossTerm(
    name=metric_keys.key(metric_keys.TASK_LOSS, name),
    fn=loss,
    tasks=(name,),
    objective=name,
    labeled=lambda batch: jnp.any(task.valid(batch[name])),
  )


def alignment_terms(
  adaptors: Adaptors,
  weights: Mapping[str, float],
  loss: KDLoss,
  *,
  placement: str = 'outside',
  head_taps: Sequence[str] = (),
  schedule: Callable[[jax.Array], jax.Array] | None = None,
  gated: str = '',
) -> tuple[LossTerm, ...]:
  """The distillation of every alignment, summed over its pairs of taps.

  Args:
    adaptors: the module whose parameters are the extra network `ADAPTORS`.
    weights: alignment -> lambda.
    loss: compares an adapted feature with the teacher's.
    placement: of `PLACEMENTS`.
    head_taps: the student's features that are computed by heads.
    schedule: of lambda, see `LossTerm`.
    gated: 'task', where an alignment has to agree with the loss of its task,
      'all' with the sum of those of all tasks, or ''.

  Raises:
    InputError: unknown placement.
  """
  if placement not in PLACEMENTS:
    raise InputError(
      expected=f'one of {", ".join(PLACEMENTS)}',
      found=repr(placement),
      argument='placement',
      do="'outside' is the paper's",
    )
  return tuple(
    _alignment_term(
      name,
      adaptors.only(name),
      float(weights[name]),
      loss,
      placement,
      head_taps,
    )._replace(
      schedule=schedule,
      agrees_with=_gate(gated, alignment.task),
    )
    for name, alignment in adaptors.alignments.items()
  )


def _gate(gated: str, task: str) -> str:
  """What the alignment of a task has to agree with."""
  if gated == 'task' and task:
    return metric_keys.key(metric_keys.TASK_LOSS, task)
  return ALL_TASKS if gated == 'all' else ''


def is_task(term: LossTerm) -> bool:
  """Whether a term is the loss of a task."""
  return metric_keys.kind_of(term.name) == metric_keys.TASK_LOSS


def _alignment_term(name, adaptors, weight, loss, placement, head_taps):
  alignment = adaptors.alignments[name]
  task = alignment.task

  def align(output, teachers, batch, extras, *, axis_name=None):
    del batch
    adapted = adaptors.apply(extras[ADAPTORS], output.features)[name]
    wanted = taps_of(teachers[alignment.teacher].features, task)
    return sum(
      loss(
        feature,
        jax.lax.stop_gradient(wanted[pair.teacher]),
        None,
        axis_name=axis_name,
      )
      for pair, feature in adapted.items()
    )

  of_heads = taps_of({tap: tap for tap in head_taps}, task).values()
  seen = {tap.partition('/')[0] for tap in of_heads}
  reads_head = any(pair.student in seen for pair in alignment.channels)
  return LossTerm(
    name=metric_keys.alignment(name),
    fn=align,
    tasks=(task,) if reads_head else (),
    objective={
      'outside': None,
      'task': task or None,
      'objective': metric_keys.alignment(name),
    }[placement],
    weight=weight,
  )


def objectives(terms: Sequence[LossTerm]) -> tuple[str, ...]:
  """The objectives of the terms, each once, in their order."""
  names = (term.objective for term in terms)
  return tuple(dict.fromkeys(n for n in names if n is not None))


def check_terms(terms: Sequence[LossTerm], tasks: Sequence[str]) -> None:
  """Checks that terms fit together and to the tasks of a network.

  Raises:
    InputError: two have one name or one has a name without a kind, one reads a
      task that the network does not have, a task is read by none, there is no
      objective, or one has a name that the log could not tell from others.
  """
  names = [term.name for term in terms]
  for term in terms:
    unknown = [t for t in term.tasks if t not in tasks]
    other = term.agrees_with
    objective = metric_keys.task_of(term.objective or '')
    if names.count(term.name) > 1:
      problem = ('terms of different names', f'{term.name} twice')
    elif not isinstance(term.name, str) or not all(term.name.partition('/')):
      problem = ("names of the form '<kind>/<what>'", repr(term.name))
    elif isinstance(term.tasks, str):
      problem = (
        'terms with a tuple of tasks',
        f'{term.name} with {term.tasks!r}',
      )
    elif not _is_finite(term.weight):
      problem = (
        'terms with finite weights',
        f'{term.name} with {what_is(term.weight)}',
      )
    elif not _takes_inputs(term.fn):
      problem = (
        'terms whose fn takes (output, teachers, batch, extras, *, axis_name)',
        f'{term.name}, whose fn does not',
      )
    elif unknown:
      problem = (
        f'terms that read tasks of the network: {", ".join(tasks)}',
        f'{term.name}, which reads {", ".join(unknown)}',
      )
    elif other not in ('', ALL_TASKS, *names) or other == term.name:
      problem = (
        f'terms that agree with another one: {", ".join(names)}',
        f'{term.name}, which is to agree with {other}',
      )
    elif '/' in objective:
      problem = (
        "objectives without '/', but for 'alignment/<name>'",
        f'{term.objective} of {term.name}',
      )
    else:
      continue
    raise _bad_terms(*problem)
  unread = set(tasks).difference(*(term.tasks for term in terms))
  if unread:
    raise _bad_terms(
      f'terms that read all tasks of the network: {", ".join(tasks)}',
      f'none that reads {", ".join(sorted(unread))}',
    )
  if not objectives(terms):
    raise _bad_terms('a term with an objective', 'none among the terms')


def _is_finite(weight) -> bool:
  number = isinstance(weight, numbers.Real | np.ndarray | jax.Array)
  return number and bool(np.isfinite(weight).all())


def _takes_inputs(fn) -> bool:
  """Whether a function can be called as those of terms are."""
  if not callable(fn):
    return False
  try:
    inspect.signature(fn).bind(*[None] * 4, axis_name=None)
  except TypeError:
    return False
  except ValueError:  # it says nothing of its arguments
    pass
  return True


def as_scalar(value: Any, name: str) -> jax.Array:
  """The value of a term; of half precision, or a number, as float32.

  Args:
    value: what its function returned.
    name: of the term.

  Raises:
    InputError: it is no scalar.
  """
  number = isinstance(value, numbers.Real)
  if not number and getattr(value, 'shape', None) != ():
    form = f'{getattr(value, "dtype", "")} {[*getattr(value, "shape", ())]}'
    raise InputError(
      expected=f'a scalar, the loss of the term {name}',
      found=form if hasattr(value, 'shape') else what_is(value),
      argument='terms',
      do='return the mean over the batch: masked_mean(...)',
    )
  value = jnp.asarray(value)
  return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _bad_terms(expected, found) -> InputError:
  return InputError(
    expected=expected, found=found, argument='terms', do='correct the terms'
  )


def present_objectives(
  terms: Sequence[LossTerm], batch: Batch, *, axis_name: str | None = None
) -> dict[str, jax.Array]:
  """Which objectives the global batch has anything for, bool scalars."""
  known = {
    name: jnp.stack(
      [
        jnp.ones((), bool) if term.labeled is None else term.labeled(batch)
        for term in terms
        if term.objective == name
      ]
    )
    for name in objectives(terms)
  }
  there = {
    name: jnp.any(flags).astype(jnp.int32) for name, flags in known.items()
  }
  if axis_name is not None:
    there = jax.lax.pmax(there, axis_name)
  return {name: flag > 0 for name, flag in there.items()}


def labeled_flags(
  terms: Sequence[LossTerm], batch: Batch, *, axis_name: str | None = None
) -> dict[str, jax.Array]:
  """Whether the global batch has any label of a task, as 'labeled/<task>'.

  A mean loss of 0 is no news of a task without labels. Float32, 0 or 1.
  """
  known = {
    metric_keys.key(
      metric_keys.LABELED, *metric_keys.objectives_of(term.name)
    ): term.labeled(batch).astype(jnp.float32)
    for term in terms
    if term.labeled is not None
    and metric_keys.kind_of(term.name) == metric_keys.TASK_LOSS
  }
  return known if axis_name is None else jax.lax.pmax(known, axis_name)
