"""The balancers' rules once more, in float64 NumPy, from the papers' equations.

Nothing of the library is used: a rule here is a class with a state, told the
gradients as a matrix J [K P] and the losses [K], with all tasks present. Small
problems go to SciPy's general solvers.
"""

import numpy as np
from scipy import optimize


class Adam:
  """Kingma & Ba 2015, algorithm 1; weight decay is added to the gradient."""

  def __init__(self, x, rate, decay=0.0):
    self.x, self.rate, self.decay = np.array(x, float), rate, decay
    self.m = np.zeros_like(self.x)
    self.v = np.zeros_like(self.x)
    self.t = 0

  def step(self, g):
    g = g + self.decay * self.x
    self.t += 1
    self.m = 0.9 * self.m + 0.1 * g
    self.v = 0.999 * self.v + 0.001 * g * g
    m = self.m / (1 - 0.9**self.t)
    v = self.v / (1 - 0.999**self.t)
    self.x = self.x - self.rate * m / (np.sqrt(v) + 1e-8)


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def onto_simplex(v):
  """By bisection on the threshold."""
  low, high = v.min() - 1, v.max()
  for _ in range(200):
    middle = (low + high) / 2
    if np.maximum(v - middle, 0).sum() > 1:
      low = middle
    else:
      high = middle
  return np.maximum(v - high, 0)


def nearest_in_cone(gram, floor):
  """argmin v^T G v with v >= floor, by NNLS on a root of G."""
  values, vectors = np.linalg.eigh(gram)
  root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
  return floor + optimize.nnls(root, -root @ floor)[0]


def shortest_on_simplex(j):
  """argmin |J^T w|^2, by NNLS: w is proportional to argmin |J^T v|^2 + (1 -
  sum v)^2."""
  j = j / np.abs(j).max()
  a = np.vstack([j.T, np.ones(len(j))])
  v = optimize.nnls(a, np.append(np.zeros(j.shape[1]), 1.0))[0]
  return v / v.sum()


# ---- Losses -----------------------------------------------------------------
# step(losses, key) -> weights; observe(losses after the step)


class Uniform:
  def __init__(self, k):
    self.k = k

  def step(self, losses):
    return np.ones(self.k)


class Uncertainty:
  """d/dL and d/ds of the sum that is minimised, by its form."""

  def __init__(self, k, form, classification=()):
    self.form = form
    self.factor = np.full(k, 0.5)
    self.factor[list(classification)] = 1.0
    self.adam = Adam(np.zeros(k), 1e-4)

  def step(self, losses):
    s = self.adam.x
    weights = self.factor * np.exp(-s)
    regular = 0.5 if self.form != 'liebel' else np.exp(s) / (1 + np.exp(s))
    self.adam.step(-weights * losses + regular)
    return weights


class DWA:
  def __init__(self, k, window, temperature=2.0):
    self.k, self.window, self.temperature = k, window, temperature
    self.losses = []

  def step(self, losses):
    n, w = len(self.losses), self.window
    self.losses.append(losses)
    if n < 2 * w:
      return np.ones(self.k)
    epoch = n // w
    last = np.mean(self.losses[(epoch - 1) * w : epoch * w], axis=0)
    before = np.mean(self.losses[(epoch - 2) * w : (epoch - 1) * w], axis=0)
    return self.k * softmax(last / before / self.temperature)


class GLS:
  def __init__(self, k):
    self.k = k

  def step(self, losses):
    return np.prod(losses) ** (1 / self.k) / (self.k * losses)


class ScaleInvariant:
  def __init__(self, k):
    pass

  def step(self, losses):
    return 1 / losses


class STCH:
  """By finite differences of the scalar that is minimised."""

  def __init__(self, k, form, mu=1.0, warmup=0):
    self.k, self.form, self.mu, self.warmup = k, form, mu, warmup
    self.seen = []

  def total(self, losses):
    if self.form == 'paper':
      return self.mu * np.log(np.exp(losses / self.mu).sum())
    x = np.log(losses / np.mean(self.seen, axis=0))
    return self.k * self.mu * np.log(np.exp(x / self.mu).sum())

  def step(self, losses):
    warm = self.form == 'log' and len(self.seen) < self.warmup
    if warm or not self.seen:
      self.seen.append(losses)
    if warm:
      return 1 / losses
    shift = 1e-6 * np.eye(self.k)
    return np.array(
      [(self.total(losses + h) - self.total(losses - h)) / 2e-6 for h in shift]
    )


class IMTLL:
  def __init__(self, k):
    self.adam = Adam(np.zeros(k), 1e-4)

  def step(self, losses):
    weights = np.exp(self.adam.x)
    self.adam.step(weights * losses - 1)
    return weights


class FAMO:
  def __init__(self, k):
    self.adam = Adam(np.zeros(k), 0.025, decay=1e-3)

  def step(self, losses):
    z = softmax(self.adam.x)
    self.before = losses
    return z / losses / (z / losses).sum()

  def observe(self, losses):
    z = softmax(self.adam.x)
    jacobian = np.diag(z) - np.outer(z, z)
    self.adam.step(jacobian @ (np.log(self.before) - np.log(losses)))


# ---- Gradients --------------------------------------------------------------
# step(J, losses, orders, probe) -> (direction [P], own [K])


class Gradients:
  def __init__(self, k):
    self.k = k

  def step(self, j, losses, **extra):
    return self.weights(j) @ j, np.ones(self.k)


class MGDA(Gradients):
  def weights(self, j):
    return shortest_on_simplex(j)


class Surgery(Gradients):
  """PCGrad, and GradVac where the cosines have running means."""

  def __init__(self, k, vaccine=False, beta=0.01):
    self.k, self.vaccine, self.beta = k, vaccine, beta
    self.means = np.zeros((k, k))

  def step(self, j, losses, orders, **extra):
    total = np.zeros(j.shape[1])
    for i in range(self.k):
      g = j[i].copy()
      for other in orders[i]:
        o = j[other]
        cosine = g @ o / np.linalg.norm(g) / np.linalg.norm(o)
        if self.vaccine:
          m = self.means[i, other]
          if cosine < m:
            rest = np.sqrt(1 - m**2)
            turn = m * np.sqrt(1 - cosine**2) - cosine * rest
            g = g + np.linalg.norm(g) * turn / (np.linalg.norm(o) * rest) * o
          self.means[i, other] += self.beta * (cosine - m)
        elif cosine < 0:
          g = g - (g @ o) / (o @ o) * o
      total += g
    return total, np.ones(self.k)


class GradDrop(Gradients):
  def step(self, j, losses, uniform, **extra):
    purity = 0.5 * (1 + j.sum(0) / np.abs(j).sum(0))
    keep = ((purity > uniform) & (j > 0)) | ((purity < uniform) & (j < 0))
    return (keep * j).sum(0), np.ones(self.k)


class CAGrad(Gradients):
  """The primal problem: the best worst case within the ball."""

  c = 0.4

  def step(self, j, losses, **extra):
    mean = j.mean(0)
    radius = self.c * np.linalg.norm(mean)
    # In the span of J, d = g_0 + radius Q y with |y| <= 1; t is the worst case.
    q = np.linalg.qr(j.T)[0]
    a, offset = j @ q * radius, j @ mean
    scale = np.abs(a).max()
    a, offset = a / scale, offset / scale
    start = np.append(np.zeros(q.shape[1]), offset.min())
    result = optimize.minimize(
      lambda x: -x[-1],
      start,
      jac=lambda x: np.append(np.zeros(len(x) - 1), -1.0),
      constraints=[
        {
          'type': 'ineq',
          'fun': lambda x: offset + a @ x[:-1] - x[-1],
          'jac': lambda x: np.hstack([a, -np.ones((self.k, 1))]),
        },
        {
          'type': 'ineq',
          'fun': lambda x: 1 - x[:-1] @ x[:-1],
          'jac': lambda x: np.append(-2 * x[:-1], 0.0),
        },
      ],
      method='SLSQP',
      options={'ftol': 1e-14, 'maxiter': 1000},
    )
    d = mean + radius * q @ result.x[:-1]
    return d / (1 + self.c**2), np.ones(self.k)


class IMTLG(Gradients):
  def weights(self, j):
    """The paper's closed form, anchored at the first gradient."""
    u = j / np.linalg.norm(j, axis=1, keepdims=True)
    d, du = j[0] - j[1:], u[0] - u[1:]
    rest = np.linalg.solve(du @ d.T, du @ j[0])
    return np.append(1 - rest.sum(), rest)


class IMTLH(IMTLG):
  def __init__(self, k):
    super().__init__(k)
    self.scaling = IMTLL(k)

  def step(self, j, losses, **extra):
    own = self.scaling.step(losses)
    j = own[:, None] * j
    return self.weights(j) @ j, own


class GradNorm(Gradients):
  def __init__(self, k, alpha=1.5):
    super().__init__(k)
    self.adam, self.alpha, self.first = Adam(np.ones(k), 0.025), alpha, None

  def step(self, j, losses, **extra):
    w, n = self.adam.x.copy(), np.linalg.norm(j, axis=1)
    self.first = losses if self.first is None else self.first
    pace = losses / self.first
    target = (w * n).mean() * (pace / pace.mean()) ** self.alpha

    def total(w):
      return np.abs(w * n - target).sum()

    h = 1e-5 * np.eye(self.k)
    # In units of the largest norm, which Adam's epsilon is negligible to.
    slope = np.array([total(w + x) - total(w - x) for x in h]) / 2e-5 / n.max()
    self.adam.step(slope)
    self.adam.x *= self.k / self.adam.x.sum()
    return w @ j, w


class Fair(Gradients):
  """Solves G w = w^(-1 / alpha) in logarithms."""

  def __init__(self, k, alpha=1.0, max_norm=0.0):
    super().__init__(k)
    self.alpha, self.max_norm = alpha, max_norm

  def step(self, j, losses, **extra):
    scale = np.linalg.norm(j, axis=1)
    gram = j @ j.T

    def residual(y):
      w = np.exp(y) / scale
      return np.log(np.maximum(gram @ w, 1e-300)) + np.log(w) / self.alpha

    def strict(y):
      w = np.exp(y) / scale
      return (gram @ w) * w ** (1 / self.alpha) - 1

    start = np.zeros(self.k)
    # The strictly convex problem whose stationary point it is, to begin with.
    power = 1 - 1 / self.alpha

    def potential(y):
      w = np.exp(y) / scale
      psi = np.log(w).sum() if power == 0 else (w**power).sum() / power
      return w @ gram @ w / 2 - psi

    start = optimize.minimize(potential, start, method='BFGS').x
    y = optimize.least_squares(strict, start, xtol=1e-15, ftol=1e-15).x
    assert np.abs(strict(y)).max() < 1e-6
    d = np.exp(y) / scale @ j
    if self.max_norm:
      d = d * min(1, self.max_norm / np.linalg.norm(d))
    return d, np.ones(self.k)


class Aligned(Gradients):
  """By the singular values of J, and not by those of G."""

  def __init__(self, k, scale='min'):
    super().__init__(k)
    self.scale = scale

  def step(self, j, losses, **extra):
    u, s, v = np.linalg.svd(j, full_matrices=False)
    sigma = {
      'min': s.min(),
      'median': np.sort(s)[(len(s) - 1) // 2],
      'rmse': np.sqrt((s**2).mean()),
    }[self.scale]
    return np.full(self.k, 1 / self.k) @ (sigma * u @ v), np.ones(self.k)


class UPGrad(Gradients):
  def weights(self, j):
    gram = j @ j.T
    gram = gram / np.trace(gram) + 1e-4 * np.eye(self.k)
    floors = np.eye(self.k) / self.k
    return sum(nearest_in_cone(gram, floor) for floor in floors)


class DualProj(Gradients):
  def weights(self, j):
    gram = j @ j.T
    gram = gram / np.trace(gram) + 1e-4 * np.eye(self.k)
    return nearest_in_cone(gram, np.full(self.k, 1 / self.k))


class ConFIG(Gradients):
  def step(self, j, losses, **extra):
    u = j / np.linalg.norm(j, axis=1, keepdims=True)
    d = np.linalg.pinv(u) @ np.ones(self.k)
    d = d / np.linalg.norm(d)
    return (j @ d).sum() * d, np.ones(self.k)


class SDMGrad(Gradients):
  def __init__(self, k, pull=0.3, steps=20):
    super().__init__(k)
    self.w, self.pull, self.steps = np.full(k, 1 / k), pull, steps

  def step(self, j, losses, probe, **extra):
    first, second = probe(1, None), probe(2, None)
    norms = np.linalg.norm(np.vstack([first, second]), axis=1)
    cross = first @ second.T / norms.mean() ** 2
    p = np.full(self.k, 1 / self.k)
    for _ in range(self.steps):
      self.w = onto_simplex(self.w - cross @ (self.w + self.pull * p))
    d = (self.w + self.pull * p) @ j / (1 + self.pull)
    return d, np.ones(self.k)


class MoDo(Gradients):
  def __init__(self, k):
    super().__init__(k)
    self.w = np.full(k, 1 / k)

  def step(self, j, losses, probe, **extra):
    cross = probe(1, None) @ probe(2, None).T
    self.w = onto_simplex(self.w - 1e-3 * cross @ self.w)
    return self.w @ j, np.ones(self.k)


class MoCo(Gradients):
  def __init__(self, k, projection=softmax):
    super().__init__(k)
    self.w, self.y, self.t = np.full(k, 1 / k), 0.0, 0
    self.projection = projection

  def step(self, j, losses, **extra):
    self.t += 1
    g = j / np.linalg.norm(j, axis=1, keepdims=True) * losses[:, None]
    self.y = self.y - 0.5 / np.sqrt(self.t) * (self.y - g)
    pull = self.y @ self.y.T @ self.w
    self.w = self.projection(self.w - 0.1 / np.sqrt(self.t) * pull)
    return self.w @ self.y, np.ones(self.k)


class DBMTL(Gradients):
  def __init__(self, k, beta=0.9):
    super().__init__(k)
    self.beta, self.y = beta, 0.0

  def step(self, j, losses, **extra):
    g = j / losses[:, None]
    self.y = self.beta * self.y + (1 - self.beta) * g
    n = np.linalg.norm(self.y, axis=1)
    return (n.max() / n) @ self.y, 1 / losses


class ExcessMTL(Gradients):
  def __init__(self, k, rate=0.01):
    super().__init__(k)
    self.rate, self.w, self.s, self.first = rate, np.ones(k), 0.0, None

  def step(self, j, losses, **extra):
    self.s = self.s + j**2
    excess = (j**2 / np.sqrt(self.s)).sum(1)
    self.first = excess if self.first is None else self.first
    self.w = self.w * np.exp(self.rate * excess / self.first)
    self.w = self.k * self.w / self.w.sum()
    return self.w @ j, self.w


class AutoLambda(Gradients):
  def __init__(self, k, step_size=1e-4):
    super().__init__(k)
    self.adam, self.step_size = Adam(np.full(k, 0.1), 1e-4), step_size

  def step(self, j, losses, probe, **extra):
    ahead = probe(1, self.step_size * self.adam.x @ j).sum(0)
    self.adam.step(-self.step_size * j @ ahead)
    return self.adam.x @ j, self.adam.x
