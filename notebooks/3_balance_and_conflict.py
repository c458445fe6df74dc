# %% [markdown]
# # 3. Balance and conflict
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/mtl_kd_jax/blob/main/notebooks/3_balance_and_conflict.ipynb)
#
# Every task pulls the shared parameters in a direction of its own. Where one
# gradient is much longer than the others, its task is learned at their expense.
# Where two point apart, a step for one undoes a step for the other. A balancer
# changes the weights of the losses, or combines the gradients in another way
# than adding them.
#
# This notebook measures both in a network, shows what balancers do, and uses
# them in plain JAX and in training. It takes five to ten minutes on two CPU
# cores, or two if the first notebook was run here before: then its networks are
# read.

# %% [markdown]
# ## Install
#
# On Colab, choose a GPU or TPU under *Runtime → Change runtime type* first. The
# cell does nothing where the library is installed.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec('mtl_kd_jax') is None:
  jax_package = 'jax[cuda12]'  # for a TPU, 'jax[tpu]'; for neither, 'jax'
  library = 'git+https://github.com/OWNER/mtl_kd_jax'
  pip = [sys.executable, '-m', 'pip', 'install', '-q']
  subprocess.run([*pip, jax_package, library], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import mtl_kd_jax as mtl
from mtl_kd_jax import balancing
from mtl_kd_jax.reports.conflicts import summarize_balance

# %% tags=["parameters"]
IMAGE_SIZE = (64, 96)  # height, width
NUM_TRAIN, NUM_VAL = 512, 128
TASKS = ('semantic', 'depth', 'normals')
EPOCHS = 6
NETWORK = {'backbone': 'resnet18', 'head': 'deeplabv3plus', 'width': 0.25}

# %% [markdown]
# ## Measure first
#
# The sum of the losses is the baseline. While it is trained, the gradients of
# the tasks are compared in every eighth step (`balancing.observe_every`).

# %%
data = mtl.datasets.make(
  'scenes',
  image_size=IMAGE_SIZE,
  num_train=NUM_TRAIN,
  num_val=NUM_VAL,
  data_dir='runs/rooms',
)
tasks = data.tasks(*TASKS)
net = mtl.models.make(tasks=tasks, **NETWORK)
fit = mtl.Trainer(
  data,
  workdir='runs/first',
  epochs=EPOCHS,
  learning_rate=3e-3,
  config={'data.flip': True, 'balancing.observe_every': 8},
)
uniform = fit(net, 'uniform')
uniform.plot_conflict()

# %% [markdown]
# Above, the lengths of the gradients with respect to the shared parameters, on
# a logarithmic axis. Below, the cosine of the angle between each two: 1 where
# they agree, 0 where they have nothing to do with each other, and negative
# where they conflict. In words:

# %%
log = mtl.load('runs/first').log
log = [line for line in log if line['stage'] == 'uniform']
print(summarize_balance(log, tasks))

# %% [markdown]
# So there is no conflict here. But the gradient of semantics is several times
# as long as that of normals, and the sum mostly follows the longest.
#
# ## What balancers do
#
# Two gradients in a plane, one four times as long as the other, and in
# conflict. Each balancer makes one direction of them; the step goes against it.

# %%
gradients = {'long': jnp.array([2.0, 0.4]), 'short': jnp.array([-0.3, 0.4])}
losses = {'long': jnp.array(1.0), 'short': jnp.array(1.0)}
directions = {'the sum': sum(gradients.values())}
for name in ('mgda', 'cagrad', 'upgrad', 'nash_mtl'):
  balancer = balancing.make(name)
  state = balancer.init(gradients)
  combined, state = balancer.update(losses, gradients, state, jax.random.key(0))
  directions[name] = combined.direction

figure, axes = plt.subplots(1, 5, figsize=(12, 2.2), layout='constrained')
for axis, (name, direction) in zip(axes, directions.items(), strict=True):
  unit = direction / jnp.linalg.norm(direction)
  arrows = (*gradients.values(), unit)
  for (dx, dy), color in zip(arrows, ('C0', 'C1', 'black'), strict=True):
    axis.arrow(0, 0, dx, dy, color=color, width=0.03, length_includes_head=True)
  gains = [f'{t} {jnp.vdot(g, unit):+.2f}' for t, g in gradients.items()]
  axis.set(title=name, xlabel='\n'.join(gains), aspect='equal')
  axis.set(xlim=(-0.5, 2.1), ylim=(-0.1, 1.1), xticks=[], yticks=[])

# %% [markdown]
# The gradients are blue (long) and orange (short); the direction is black, here
# of length one. Below stands how fast each loss falls along it. The sum follows
# the long gradient, and the other loss *rises*. `mgda` lets both fall equally
# fast, which favors the short gradient. `upgrad` takes from each gradient what
# conflicts with the other, and keeps their lengths. `nash_mtl` does not look at
# the lengths: it halves the angle.
#
# ## In plain JAX
#
# `balancing` is a library of pure functions, as optax is, and needs nothing
# else of this project. Two functions are to be learned by one small network.
# One loss is in meters and the other in millimeters: a million times larger.

# %%
x = jax.random.normal(jax.random.key(0), (256, 8))
labels = {
  'meters': jnp.sin(x[:, :4].sum(1)),
  'millimeters': 1000 * jnp.sin(x[:, 4:].sum(1)),
}


def losses_of(params):
  outputs = jnp.tanh(x @ params['in']) @ params['out']
  predictions = {'meters': outputs[:, 0], 'millimeters': 1000 * outputs[:, 1]}
  return {t: jnp.mean((predictions[t] - y) ** 2) for t, y in labels.items()}


def train(balancer, steps=300):
  optimizer = optax.adam(1e-2)

  @jax.jit
  def step(params, opt_state, state, key):
    losses, gradients = balancing.task_gradients(losses_of, params)
    combined, state = balancer.update(losses, gradients, state, key)
    updates, opt_state = optimizer.update(combined.direction, opt_state)
    return optax.apply_updates(params, updates), opt_state, state, losses

  keys = jax.random.split(jax.random.key(1))
  params = {
    'in': 0.4 * jax.random.normal(keys[0], (8, 16)),
    'out': 0.4 * jax.random.normal(keys[1], (16, 2)),
  }
  opt_state, state, history = optimizer.init(params), balancer.init(labels), []
  for i in range(steps):
    params, opt_state, state, losses = step(
      params, opt_state, state, jax.random.key(i)
    )
    history.append(losses)
  return jax.device_get(history)


figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), sharey=True)
for axis, name in zip(axes, ('mgda', 'upgrad', 'nash_mtl'), strict=True):
  history = train(balancing.make(name))
  for task in labels:
    axis.semilogy([x[task] / history[0][task] for x in history], label=task)
  axis.set(title=name, xlabel='step', ylabel='loss / first loss')
  axis.label_outer()
_ = axes[0].legend()
# %% [markdown]
# `upgrad` keeps the lengths of the gradients, and the task in meters learns
# nearly nothing: what stood in its way was no conflict. The sum does the same.
# `mgda` errs on the other side. Where losses differ in scale, a rule that does
# not depend on it helps.
#
# ## In training
#
# `Trainer` takes a balancer as it is. Gradients are then computed for every
# task, which makes a step more expensive
# ([docs/balancing.md](../docs/balancing.md) has the costs).

# %%
balanced = fit(net, 'nash_mtl', balancer=balancing.make('nash_mtl'))
balanced.plot_conflict()

# %% [markdown]
# The weights are the first plot now. They undo the lengths: normals, with the
# shortest gradient, get the largest weight.
#
# Did it help? The single-task networks are the reference (if you ran the first
# notebook, they are read).

# %%
teachers = {task: fit(net.only(task)) for task in tasks}
mtl.table(teachers, uniform, balanced)

# %% [markdown]
# It did: with `uniform`, semantics and normals pay for depth. With `nash_mtl`,
# normals are as good as alone and the others better. That is one seed, on these
# data: [docs/balancing.md](../docs/balancing.md) names studies in which no rule
# beats weights that were searched for as long. Compare over seeds before you
# choose one.
#
# What to try depends on what was measured:
#
# - Nothing dominates, and there is hardly a conflict: leave the sum alone.
# - One gradient dominates: `scale_invariant` or `uncertainty`, which need the
#   losses alone and cost nothing, or `nash_mtl`.
# - Pairs conflict in many steps: `upgrad`, `cagrad`, `nash_mtl`.
# - Tasks are worse than alone, whatever the weights: teachers, as in the first
#   notebook. A balancer and distillation can be combined: `fit(net,
#   distill=..., balancer=...)`.
#
# [docs/balancing.md](../docs/balancing.md) describes all balancers, their costs
# and their options. Next: teachers of another kind.
