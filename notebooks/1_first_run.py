# %% [markdown]
# # 1. A first run
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/mtl_kd_jax/blob/main/notebooks/1_first_run.ipynb)
#
# One network that predicts semantics, depth and surface normals is cheaper to
# run than three. But the tasks share its features, and some learn at the
# expense of others. Distillation (Li and Bilen 2020) gives each task a teacher:
# a network of its own, whose features the shared network learns to reproduce.
#
# This notebook trains all of them on rendered rooms, step by step, and compares
# them. It takes five to ten minutes on two CPU cores, and less on a GPU.

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
import numpy as np

import mtl_kd_jax as mtl
from mtl_kd_jax.reports import plots
from mtl_kd_jax.reports.verdict import verdict

# %% tags=["parameters"]
IMAGE_SIZE = (64, 96)  # height, width
NUM_TRAIN, NUM_VAL = 512, 128
TASKS = ('semantic', 'depth', 'normals')
EPOCHS = 6
NETWORK = {'backbone': 'resnet18', 'head': 'deeplabv3plus', 'width': 0.25}
TAPS = ('layer4', 'decoder')

# %% [markdown]
# ## Data
#
# The rooms are rendered on first use: class, depth and normal of every pixel
# are exact, and a few percent of the pixels have no label (gray). Colors and
# textures say nothing about the class, so the network has to use shape and
# context.

# %%
data = mtl.datasets.make(
  'scenes',
  image_size=IMAGE_SIZE,
  num_train=NUM_TRAIN,
  num_val=NUM_VAL,
  data_dir='runs/rooms',
)
tasks = data.tasks(*TASKS)
val = data.source('val')
samples = [val[i] for i in range(4)]
batch = {key: np.stack([s[key] for s in samples]) for key in samples[0]}
plots.plot_predictions(batch, {}, tasks)

# %% [markdown]
# ## Networks of single tasks
#
# `Trainer` trains one network after another in one folder. Run a cell again,
# and it continues where it was interrupted, or reads what is finished.
#
# The first three have one task each. They are needed twice: as the reference
# that sharing is measured against, and as the teachers.

# %%
net = mtl.models.make(tasks=tasks, **NETWORK)
fit = mtl.Trainer(
  data,
  workdir='runs/first',
  epochs=EPOCHS,
  learning_rate=3e-3,
  config={'data.flip': True, 'balancing.observe_every': 8},
)
teachers = {task: fit(net.only(task)) for task in tasks}

# %% [markdown]
# ## One network for all tasks
#
# `uniform` minimizes the plain sum of the three losses: the baseline that every
# method has to beat.

# %%
uniform = fit(net, 'uniform')

# %% [markdown]
# ## The distilled network
#
# The same network again, with the same losses. In addition, its features at two
# taps, mapped by small linear adaptors, should have the direction of each
# teacher's features. With `adapt='cosine'`, an alignment counts as far as its
# gradient agrees with that of its task. The adaptors are thrown away at the
# end: the result is as small and as fast as `uniform`.

# %%
distill = mtl.distill(
  teachers,
  taps=TAPS,
  weights={'semantic': 1.0, 'depth': 1.0, 'normals': 2.0},
  adapt='cosine',
)
distilled = fit(net, 'distilled', distill=distill)

# %% [markdown]
# ## What came of it

# %%
table = mtl.table(teachers, uniform, distilled)
table

# %% [markdown]
# How to read the table:
#
# - ↑ and ↓ say which direction is better. Metrics are over all labeled pixels
#   of the split `val`, which no network was trained on.
# - `single-task` is three networks, each scored on its own task.
# - ΔMTL is the mean relative gain over `single-task`, of one metric per task:
#   mIoU, AbsErr and the mean angle. Δm and Δp are two other conventions
#   ([docs/method.md](../docs/method.md)). They have different signs: ΔMTL and
#   Δp should be high, Δm low.
#
# In words:

# %%
print(verdict(table.rows, tasks))

# %% [markdown]
# One seed is not a result: another one moves ΔMTL by several points. With
# `mtl.compare` you train several, and get intervals
# ([docs/compare.md](../docs/compare.md)).
#
# The same in pictures. Each row is a room of `val`, and each task has a column
# for its label and for every network. Depth is dark where it is near.


# %%
def outputs(network):
  found = jax.jit(network.apply)(network.variables, batch['image'])
  return jax.device_get(found)


plots.plot_predictions(
  batch,
  {
    'single-task': {t: outputs(n)[t] for t, n in teachers.items()},
    'uniform': outputs(uniform),
    'distilled': outputs(distilled),
  },
  tasks,
)

# %% [markdown]
# The curves show the loss of each task in training, the loss of its alignment,
# and the metric on `val`. They become flat since the learning rate falls to 0;
# with more epochs, all networks get better.

# %%
run = mtl.load('runs/first')
rows = {stage: plan['row'] for stage, plan in run.plan.items()}
rows = {stage: row for stage, row in rows.items() if row in table.rows}
plots.plot_curves(run.log, tasks, split='val', rows=rows)

# %% [markdown]
# ## Use it
#
# The folder `runs/first` is all that is needed later: `mtl.load('runs/first')`
# opens it in another process. A picture may have any size; what is predicted
# has the size of the picture, in the units of the labels.

# %%
network = mtl.load('runs/first')['distilled']
prediction = network.predict(samples[0]['image'])
print(prediction)
print(f'The farthest pixel is {prediction.depth.max():.1f} m away.')

# %% [markdown]
# Next: your own data.
