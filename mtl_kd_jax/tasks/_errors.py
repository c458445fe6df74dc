"""Losses and metrics of numbers, for maps and for whole images."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.tasks import _options, base

LOSSES = ('l1', 'l2', 'huber')


def make_loss(loss: str, delta: float) -> Callable:
  """(prediction [... c], label [... c]) -> float32 [...], the mean over c.

  Args:
    loss: 'l1', |p - y|; 'l2', (p - y)^2; or 'huber', which is half of (p - y)^2
      up to `delta` and grows evenly from there on (Huber 1964).
    delta: of 'huber', in the unit of the label.
  """
  _options.one_of('loss', loss, LOSSES)
  _options.factor('delta', delta)

  def of(prediction, label):
    error = jnp.abs(difference(prediction, label))
    if loss == 'l2':
      error = error**2
    elif loss == 'huber':
      near = jnp.minimum(error, delta)
      error = near * (error - 0.5 * near)
    return jnp.mean(error, axis=-1)

  return of


def difference(prediction, label):
  """Prediction - label [... c], 0 where any channel has no label."""
  known = ~jnp.isnan(label).any(axis=-1, keepdims=True)
  # Where there is no label, the product of NaN with a gradient of 0 is NaN.
  label = jnp.where(known, label, 0)
  return jnp.where(known, base.as_float32(prediction) - label, 0)


def valid(label):
  """Where all channels are numbers, bool [...]."""
  return ~jnp.isnan(label).any(axis=-1)


def statistics(prediction, label, valid):
  """Sums over the labels of a batch, of every channel."""
  known = valid[..., None]
  error = jnp.where(known, difference(prediction, label), 0)
  y = jnp.where(known, label, 0)
  axes = tuple(range(label.ndim - 1))
  return {
    'count': jnp.sum(valid),
    'absolute': jnp.sum(jnp.abs(error), axes),
    'squared': jnp.sum(error**2, axes),
    'label': jnp.sum(y, axes),
    'label_squared': jnp.sum(y**2, axes),
  }


def columns(unit: str) -> dict[str, base.Metric]:
  """The columns of `metrics`."""
  return {
    'abs_error': base.Metric('MAE', unit, False),
    'rmse': base.Metric('RMSE', unit, False, in_gain=False),
    'r2': base.detail('R²', '%', True),
  }


def metrics(statistics) -> dict[str, float]:
  """Mean absolute error, RMSE, and explained variance R², over channels.

  The errors are means over channels and labels. R² is the mean over channels of
  1 - mean (p - y)^2 / variance of y; channels that do not vary are left out.
  """
  count = float(statistics['count'])
  squared = np.asarray(statistics['squared'], np.float64)
  mean = np.asarray(statistics['label'], np.float64) / max(count, 1)
  of_label = np.asarray(statistics['label_squared'], np.float64)
  variance = of_label / max(count, 1) - mean**2
  varies = variance > 1e-6 * np.maximum(mean**2, 1e-12)
  r2 = 1 - squared[varies] / max(count, 1) / variance[varies]
  channels = len(squared)
  return {
    'abs_error': base.ratio(np.sum(statistics['absolute']) / channels, count),
    'rmse': base.ratio(squared.sum() / channels, count) ** 0.5,
    'r2': 100 * base.ratio(r2.sum(), len(r2)),
  }
