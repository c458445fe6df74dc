"""Every option of every balancer, for configs/common.py.

docs/balancing.md says what they do, and where the defaults are from.
"""

from ml_collections import ConfigDict


def add_options(balancing: ConfigDict) -> None:
  """Adds config.balancing.<name> for every balancer that has options."""
  _add_losses(balancing)
  _add_gradients(balancing)
  _add_tracked(balancing)
  _add_sampled(balancing)


def _add_losses(balancing):
  # task -> weight; {} for 1.
  balancing.fixed = ConfigDict({'weights': {}})
  balancing.uncertainty = uncertainty = ConfigDict()
  # 'half' (MTAN's code), 'kendall' or 'liebel'.
  uncertainty.form = 'half'
  # 'kendall': task -> 'classification' or 'regression'.
  uncertainty.kinds = ConfigDict(
    {
      'semantic': 'classification',
      'depth': 'regression',
      'normals': 'regression',
    }
  )
  # log sigma^2 at the start, and Adam's learning rate on it.
  uncertainty.init = 0.0
  uncertainty.learning_rate = 1e-4
  balancing.dwa = dwa = ConfigDict()
  # Steps over which losses are averaged; 0 for an epoch.
  dwa.window = 0
  # Higher is closer to equal weights.
  dwa.temperature = 2.0
  balancing.stch = stch = ConfigDict()
  # 'log' (as the released code) or 'paper'.
  stch.form = 'log'
  # Smoothness of the maximum.
  stch.mu = 1.0
  # 'log': steps whose mean losses are the unit.
  stch.warmup = 0
  # task -> weight; {} for 1.
  stch.preference = ConfigDict()
  # 'paper': below every loss.
  stch.ideal = 0.0
  # Adam's learning rate on the logarithms of the weights.
  balancing.imtl_l = ConfigDict({'learning_rate': 1e-4})
  balancing.famo = famo = ConfigDict()
  # Adam's learning rate on the weights' logits, and their L2 weight decay.
  famo.learning_rate = 0.025
  famo.weight_decay = 1e-3
  # Below every loss.
  famo.least_loss = 0.0


def _add_gradients(balancing):
  # 'sum' (paper) or 'mean'.
  balancing.pcgrad = ConfigDict({'reduction': 'sum'})
  # beta of the running cosines; groups: 'all' parameters, or each array
  # ('leaf').
  balancing.gradvac = ConfigDict({'beta': 0.01, 'groups': 'all'})
  # leak: task -> part that is never dropped, {} for 0; over_batch: one mask for
  # all samples, with level = 'features'.
  balancing.graddrop = ConfigDict({'leak': {}, 'over_batch': False})
  # Radius in [0, 1); rescale: 'none', 'square' or 'linear'.
  balancing.cagrad = ConfigDict({'c': 0.4, 'rescale': 'square'})
  # Adam's learning rate on the logarithms of the losses' scales.
  balancing.imtl_h = ConfigDict({'learning_rate': 1e-4})
  # alpha: how strongly slow tasks are favored; Adam's learning rate.
  balancing.gradnorm = ConfigDict({'alpha': 1.5, 'learning_rate': 0.025})
  # The direction is shortened to this norm; 0 for never.
  balancing.nash_mtl = ConfigDict({'max_norm': 1.0})
  # 1 proportional fairness, 2 least delay, large max-min.
  balancing.fairgrad = ConfigDict({'alpha': 1.0})
  # 'min', 'median' or 'rmse'; task -> weight, {} for 1/K.
  balancing.aligned_mtl = ConfigDict({'scale': 'min', 'preference': {}})
  # epsilon on the diagonal of G / trace G; task -> weight, {} for 1/K.
  balancing.upgrad = ConfigDict({'epsilon': 1e-4, 'preference': {}})
  balancing.dualproj = ConfigDict({'epsilon': 1e-4, 'preference': {}})
  # task -> weight, {} for 1.
  balancing.config = ConfigDict({'preference': {}})


def _add_tracked(balancing):
  balancing.moco = moco = ConfigDict()
  # Rates of the gradients and the weights, and the powers of their decay.
  moco.beta, moco.beta_sigma = 0.5, 0.5
  moco.gamma, moco.gamma_sigma = 0.1, 0.5
  # Pull toward equal weights.
  moco.rho = 0.0
  # 'softmax' (released code) or 'simplex' (paper).
  moco.projection = 'softmax'
  # Gradients as long as their losses.
  moco.rescale = True
  # beta of the running mean, 0 for none, and the power of its decay.
  balancing.db_mtl = ConfigDict({'beta': 0.9, 'sigma': 0.0})
  # Step of the weights.
  balancing.excess_mtl = ConfigDict({'learning_rate': 0.01})


def _add_sampled(balancing):
  # These split the batch into independent parts: three, auto_lambda two.
  balancing.sdmgrad = sdmgrad = ConfigDict()
  # Pull toward the mean or, with a preference (task -> weight, {} for 1/K),
  # toward that.
  sdmgrad.lambda_ = 0.3
  sdmgrad.preference = ConfigDict()
  # Of the weights: steps in each step of the network, and their length.
  sdmgrad.steps = 20
  sdmgrad.learning_rate = 1.0
  # Step of the weights, and pull toward equal ones.
  balancing.modo = ConfigDict({'learning_rate': 1e-3, 'rho': 0.0})
  balancing.auto_lambda = auto_lambda = ConfigDict()
  # Adam's learning rate on the weights, and the weights at the start.
  auto_lambda.learning_rate = 1e-4
  auto_lambda.init = 0.1
  # The network's learning rate in the look ahead.
  auto_lambda.step_size = 1e-4
  # Tasks whose loss the weights lower; () for all.
  auto_lambda.primary = ()
