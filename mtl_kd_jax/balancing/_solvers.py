"""Small convex problems, solved inside jit without leaving the device.

Problems with a sign or simplex constraint are solved exactly: for every set of
tasks that may be active (2^K of them, small and all at once) the optimality
conditions are linear equations, and the set that violates the rest of them
least is the answer. That stays exact for dependent gradients, where sets with
singular equations drop out, and costs milliseconds up to `MAX_TASKS` tasks.

Everything is written for unit vectors and their cosines (_gram.py): in these
variables, x_i = w_i |g_i|, the equations do not depend on the norms. Products
ask for the highest precision: the default is TF32 on GPUs and bfloat16 on TPUs,
with 3 or 2 digits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.balancing._gram import Gram
from mtl_kd_jax.errors import InputError

MAX_TASKS = 12
_NEWTON_STEPS = 60


def project_to_simplex(v: jax.Array, present: jax.Array) -> jax.Array:
  """The nearest point with sum 1 and no negative entry; 0 where absent.

  Args:
    v: float32 [K].
    present: bool [K], not all False.
  """
  v = jnp.where(present, v, -jnp.inf)
  v = v - jnp.max(v)
  down = -jnp.sort(-v)
  ranks = jnp.arange(1, v.size + 1, dtype=v.dtype)
  excess = (jnp.cumsum(jnp.maximum(down, -2)) - 1) / ranks
  # Entries that lie 1 below the largest are never in the support.
  rank = jnp.sum(down > jnp.maximum(excess, -1))
  return jnp.maximum(v - excess[rank - 1], 0)


def nonnegative_qp(a: jax.Array, b: jax.Array) -> jax.Array:
  """Solves min_u u^T A u / 2 - b^T u with u >= 0, exactly.

  Args:
    a: float32 [K K], symmetric, positive semidefinite.
    b: float32 [K R], one problem a column; bounded below.

  Returns:
    float32 [K R].
  """
  # Scaled to a unit diagonal, so that the violations are comparable.
  d = jnp.sqrt(jnp.diagonal(a))
  d = jnp.where(d > 0, d, 1)
  a, b = a / d[:, None] / d[None, :], b / d[:, None]
  sets = _supports(a.shape[0], empty=True)
  inside = sets.astype(a.dtype)
  u, good = _solve(_restricted(a, sets), inside[:, :, None] * b[None])
  gradient = jnp.einsum('ij,sjr->sir', a, u, precision='highest') - b[None]
  scale = 1 + jnp.max(jnp.abs(u), 1, keepdims=True)
  wrong = jnp.where(
    sets[:, :, None],
    jnp.maximum(-u, jnp.abs(gradient)),  # u >= 0, gradient = 0
    -gradient,  # u = 0, gradient >= 0
  )
  best = _least(jnp.max(wrong / scale, 1), good)
  u = jnp.take_along_axis(u, best[None, None, :], 0)[0]
  return jnp.maximum(u, 0) / d[:, None]


class SimplexPoint(NamedTuple):
  """A point of the simplex.

  Attributes:
    weights: float32 [K] >= 0, with sum 1.
    ratio: float32 scalar, see `simplex_minimum`.
  """

  weights: jax.Array
  ratio: jax.Array


def simplex_minimum(
  gram: Gram, present: jax.Array, radius: float = 0.0
) -> SimplexPoint:
  """Minimizes over the simplex, exactly.

  With the mean gradient g_0 and a radius r,

      min_w  w^T G 1 / K + r |g_0| sqrt(w^T G w)     (CAGrad), or
      min_w  w^T G w                                 (MGDA) where r is 0.

  On a set S of active tasks both have the optimality conditions

      G_S w + kappa (G 1 / K)_S = nu 1,  1^T w = 1,

  with kappa = |g_w| / (r |g_0|) in the first and 0 in the second. Their
  solution w = a + kappa b is linear in kappa, and since G_S a is a multiple of
  1 and b sums to 0, |g_w|^2 = a^T G a + kappa^2 b^T G b: kappa has a closed
  form.

  Args:
    gram: of the gradients.
    present: bool [K].
    radius: r, at least 0 and below 1.

  Returns:
    The minimum, and r |g_0| / |g_w| = 1 / kappa as the ratio (0 for r = 0).
  """
  c, k = gram.cosines, present.size
  # Norms are in units of the shortest present gradient. One of length 0 is
  # itself the minimum of the second problem.
  n = jnp.where(present, jnp.maximum(gram.relative, 1e-12), 1)
  unit = jnp.min(jnp.where(present, n, jnp.inf))
  r = jnp.where(present, unit / n, 0)
  share = jnp.where(present, gram.relative, 0) / jnp.maximum(present.sum(), 1)
  q = jnp.matmul(c, share / unit, precision='highest')
  sets = _supports(k) & present[None, :]
  a, b, nu, good = _stationary_points(c, r, q, sets)

  square = functools.partial(jnp.einsum, 'si,ij,sj->s', precision='highest')
  kappa = jnp.zeros(sets.shape[0], c.dtype)
  if radius > 0:
    mean = radius**2 * jnp.dot(share, q, precision='highest') / unit
    left = mean - square(b, c, b)
    # Below rounding error |g_w| is 0, and its direction is undefined.
    shortest = jnp.maximum(square(a, c, a), 1e-7)
    good &= left > 0
    kappa = jnp.sqrt(shortest / jnp.where(left > 0, left, 1))
  x = a + kappa[:, None] * b
  level = (nu[:, 0] + kappa * nu[:, 1])[:, None] * r[None, :]
  pull = jnp.matmul(x, c, precision='highest') + kappa[:, None] * q[None, :]
  slack = pull - level
  wrong = jnp.where(sets, jnp.maximum(-x, jnp.abs(slack)), -slack)
  wrong = jnp.where(present[None, :], wrong, 0)
  scale = jnp.max(jnp.abs(x), 1) + kappa * jnp.max(jnp.abs(q))
  best = _least(jnp.max(wrong, 1) / jnp.maximum(scale, 1e-30), good)
  w = jnp.maximum(x[best], 0) * r
  w = w / jnp.maximum(jnp.sum(w), 1e-30)
  ratio = jnp.where(kappa[best] > 0, 1 / kappa[best], 0)
  ratio = jnp.where(good[best], ratio, 0)  # the mean gradient is 0
  return SimplexPoint(w, ratio)


def _stationary_points(c, r, q, sets):
  """Solves the optimality conditions of `simplex_minimum` on every set.

  The bordered equations, with x = w |g| / unit in place of w:

      C_S x + kappa q_S = nu r_S,  r_S^T x = 1.

  Args:
    c: cosines, float32 [K K].
    r: unit / |g|, float32 [K].
    q: C |g| / (K unit), float32 [K].
    sets: bool [S K].

  Returns:
    a, b [S K] and nu [S 2] with x = a + kappa b and the multiplier nu[0] +
    kappa nu[1]; and whether the set has a solution, bool [S].
  """
  k, inside = q.size, sets.astype(c.dtype)
  border = inside * r[None, :]
  top = jnp.concatenate([_restricted(c, sets), border[:, :, None]], 2)
  bottom = jnp.pad(border, ((0, 0), (0, 1)))[:, None, :]
  right = jnp.zeros((sets.shape[0], k + 1, 2), c.dtype)
  right = right.at[:, k, 0].set(1).at[:, :k, 1].set(-inside * q[None, :])
  solution, good = _solve(jnp.concatenate([top, bottom], 1), right)
  a, b, nu = solution[:, :k, 0], solution[:, :k, 1], -solution[:, k, :]
  return a, b, nu, good.all(1)


def proportional_fairness(
  cosines: jax.Array, c: jax.Array, alpha: float, alive: jax.Array
) -> jax.Array:
  """Solves (C x)_i = c_i x_i^(-1/alpha), x > 0.

  The solution minimizes the strictly convex x^T C x / 2 - sum_i c_i psi(x_i),
  psi' = x^(-1/alpha): Newton's method, damped so that x stays positive and the
  residual decreases. The residual is below 1e-5 of c_i x_i^(-1/alpha) where C
  is well conditioned in float32; for dependent gradients, that of C + 1e-6 I.

  Args:
    cosines: float32 [K K], C.
    c: float32 [K], above 0 where alive.
    alpha: above 0.
    alive: bool [K]; the others get 0.
  """
  k, power = c.size, 1 / alpha
  a = cosines + 1e-6 * jnp.eye(k, dtype=cosines.dtype)
  c = jnp.where(alive, c, 1)
  halvings = 0.5 ** jnp.arange(12, dtype=cosines.dtype)

  def residual(x):
    # float32 resolves about one part in 1e6 of either term.
    return jnp.matmul(a, x, precision='highest') - c * x**-power

  def size(x, unit):
    return jnp.max(jnp.abs(residual(x)) / unit)

  def improve(carry):
    x, _, steps = carry
    unit = c * x**-power
    slope = a + jnp.diag(power * unit / x)
    move = -_solve(slope[None], residual(x)[None, :, None])[0][0, :, 0]
    most = jnp.minimum(1, 0.95 / jnp.maximum(jnp.max(-move / x), 1e-6))
    tries = x[None, :] + (most * halvings)[:, None] * move[None, :]
    sizes = jax.vmap(lambda y: size(y, unit))(tries)
    best = _least(sizes, jnp.isfinite(sizes))
    better = sizes[best] < size(x, unit)
    error = jnp.where(better, sizes[best], 0)  # 0: no further improvement
    return jnp.where(better, tries[best], x), error, steps + 1

  def unfinished(carry):
    _, error, steps = carry
    return (error > 1e-6) & (steps < _NEWTON_STEPS)

  # The solution for orthogonal gradients, brought to where x^T C x = x^T c ...
  x = c ** (1 / (1 + power))
  along = jnp.matmul(a, x, precision='highest')
  quadratic = jnp.dot(x, along, precision='highest')
  linear = jnp.sum(c * x ** (1 - power))
  x = x * (linear / jnp.maximum(quadratic, 1e-6)) ** (1 / (1 + power))
  x, _, _ = jax.lax.while_loop(unfinished, improve, (x, jnp.inf, 0))
  return jnp.where(alive, x, 0)


def solve_cosines(
  cosines: jax.Array, b: jax.Array, alive: jax.Array
) -> jax.Array:
  """The least-norm least-squares solution of C x = b, 0 where not alive.

  Directions in which C is below 1e-5 count as dependent.
  """
  values, vectors = jnp.linalg.eigh(cosines)
  inverse = jnp.where(values > 1e-5, 1 / jnp.where(values > 0, values, 1), 0)
  product = functools.partial(jnp.matmul, precision='highest')
  rotated = product(vectors.T, jnp.where(alive, b, 0))
  return jnp.where(alive, product(vectors, inverse * rotated), 0)


def _supports(k: int, *, empty: bool = False) -> jax.Array:
  """All sets of k tasks, bool [2^k (- 1) k].

  Raises:
    InputError: there are too many.
  """
  if k > MAX_TASKS:
    raise InputError(
      expected=f'at most {MAX_TASKS} objectives, for this balancer',
      found=f'{k}',
      argument='losses',
      do='choose a rule without sign constraints, e.g. nash_mtl or aligned_mtl',
    )
  numbers = np.arange(0 if empty else 1, 2**k)[:, None]
  return jnp.asarray((numbers >> np.arange(k)) & 1, bool)


def _restricted(a: jax.Array, sets: jax.Array) -> jax.Array:
  """A on every set and the identity elsewhere, [S K K]."""
  both = sets[:, :, None] & sets[:, None, :]
  return jnp.where(both, a[None], jnp.eye(a.shape[0], dtype=a.dtype)[None])


def _solve(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Solves [S N N] x = [S N R].

  Returns:
    x, and whether it is finite, bool [S R]. Where A is singular, x is 0 and not
    NaN, which a later maximum may drop.
  """
  x = jnp.linalg.solve(a, b)
  good = jnp.all(jnp.isfinite(x), axis=1)
  return jnp.where(good[:, None, :], x, 0), good


def _least(wrong: jax.Array, good: jax.Array) -> jax.Array:
  """Index of the smallest value among the good ones, along the first axis."""
  return jnp.argmin(jnp.where(good, wrong, jnp.inf), axis=0)
