# %% [markdown]
# # 4. Teachers of another kind
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/mtl_kd_jax/blob/main/notebooks/4_teachers_of_another_kind.ipynb)
#
# A teacher need not be a twin of the student that is trained in the same run.
# It may come from another run, be larger, have another architecture, come from
# PyTorch, or learn along with the student. Adaptors make it possible: a linear
# map from the student's channels to the teacher's, and a resize where the maps
# differ in size.
#
# This notebook teaches a small network in all of these ways. It takes about ten
# minutes on two CPU cores, less if the first notebook was run here before.

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
import pathlib
import shutil

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import safetensors.numpy

import mtl_kd_jax as mtl
from mtl_kd_jax.interop.import_torch import torch_shapes
from mtl_kd_jax.jobs import import_weights
from mtl_kd_jax.tasks.base import masked_mean

# %% tags=["parameters"]
IMAGE_SIZE = (64, 96)  # height, width
NUM_TRAIN, NUM_VAL = 512, 128
TASKS = ('semantic', 'depth', 'normals')
EPOCHS = 6
NETWORK = {'backbone': 'resnet18', 'head': 'deeplabv3plus', 'width': 0.25}
TAPS = ('layer4', 'decoder')
SMALL = {'backbone': 'resnet18', 'head': 'fpn', 'width': 0.125}
LARGE = {'backbone': 'resnet18', 'head': 'deeplabv3plus', 'width': 0.5}

# %% [markdown]
# ## From another run
#
# The single-task networks of the first notebook. If it was run here, the same
# lines read them; if not, they train them.

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
settings = {
  'epochs': EPOCHS,
  'learning_rate': 3e-3,
  'config': {'data.flip': True, 'balancing.observe_every': 8},
}
fit = mtl.Trainer(data, workdir='runs/first', **settings)
for task in tasks:
  fit(net.only(task))

run = mtl.load('runs/first')
teachers = {task: run[f'teacher_{task}'] for task in tasks}
run

# %% [markdown]
# The student has half of their channels, and lighter heads. It is trained in a
# run of its own, once without teachers and once with them.

# %%
small = mtl.models.make(tasks=tasks, **SMALL)
fit = mtl.Trainer(data, workdir='runs/students', **settings)
uniform = fit(small, 'uniform')
distill = mtl.distill(teachers, taps=TAPS, adapt='cosine')
distilled = fit(small, 'distilled', distill=distill)
mtl.table(teachers, uniform, distilled)

# %% [markdown]
# So small a network does not come near its teachers, but it gets nearer in
# every task.
#
# ## How much each teacher counts
#
# A teacher may be worse than the student becomes, or want other features than
# the task does. `adapt` sets λ anew while the student learns:
#
# - `'none'` is the paper: λ stays as it is.
# - `'cosine'` multiplies λ by the cosine of the gradients of a task and of its
#   alignment, and by 0 where they conflict.
# - `'gap'` looks at the score on held-out data: a task in which the student is
#   ahead of its teacher is left alone (`config={'data.val_fraction': 0.1}`).
#
# `schedule_lambda='linear'` lets λ fall to 0, so that teachers are imitated
# first and overtaken later. What became of λ here:

# %%
lines = [x for x in mtl.load('runs/students').log if x['stage'] == 'distilled']
figure, axis = plt.subplots(figsize=(8, 2.6), layout='constrained')
for task in tasks:
  key = f'factor/alignment/{task}'
  points = [(x['step'], x[key]) for x in lines if key in x]
  axis.plot(*zip(*points, strict=True), label=task)
axis.set(xlabel='step', ylabel='factor on λ')
_ = axis.legend(loc='upper left', bbox_to_anchor=(1, 1))
# %% [markdown]
# The teacher of depth counts for nearly nothing: what it wants of the features
# is not what the task needs. That of normals counts the most.
#
# ## A larger teacher
#
# A teacher is trained once and thrown away, so it may be as large as you can
# afford. This one has twice the channels, for semantics alone. The other two
# tasks keep theirs: every task can have a teacher of another size.

# %%
large = mtl.models.make(tasks=tasks, **LARGE)
mixed = {**teachers, 'semantic': fit(large.only('semantic'), 'large_semantic')}
by_large = fit(
  small, 'by_large', distill=mtl.distill(mixed, taps=TAPS, adapt='cosine')
)
mtl.table(teachers, uniform, distilled, by_large)

# %% [markdown]
# Where the student has no room for more, a larger teacher adds little: a
# difference of one point is within what another seed changes.
#
# ## From PyTorch
#
# Weights that the paper's code saved (SegNet or MTAN, `.pth` or `.safetensors`)
# become a run with `launch.py --job=import`, or here with `import_weights`. No
# code in such a file is run, and every entry of it is used or reported.
#
# You have a file; here one is made that has their names and random numbers.

# %%
segnet = mtl.models.make('segnet', tasks, width=0.0625)
variables = jax.eval_shape(
  lambda: segnet.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
)
rng = np.random.default_rng(0)
theirs = {
  name: np.float32(rng.uniform(0.01, 0.1, shape))
  for name, shape in torch_shapes(variables).items()
}
safetensors.numpy.save_file(theirs, 'runs/theirs.safetensors')
print(*list(theirs)[:3], '...', sep='\n')

# %% [markdown]
# The config says which network the weights belong to. Of a network with several
# heads, every task gets a teacher with its own.

# %%
config = mtl.get_config('quickstart')
config.tasks, config.data.scenes.image_size = TASKS, IMAGE_SIZE
config.model.backbone, config.model.head = 'segnet', 'dense'
config.model.width = 0.0625
config.distill.taps = ('bottleneck', 'decoder')
workdir = pathlib.Path('runs/imported')
shutil.rmtree(workdir, ignore_errors=True)  # an import replaces nothing itself
imported = import_weights.run(config, workdir, torch='runs/theirs.safetensors')
imported['teacher_depth']

# %% [markdown]
# It is a network like any other: it predicts, it can be evaluated, and it
# teaches. The names of its features differ from those of a ResNet, so the pairs
# that are aligned are written as `student:teacher`. (This one has nothing to
# teach, and so trains nobody.)

# %%
distill = mtl.distill(
  {**teachers, 'depth': imported['teacher_depth']},
  taps=('layer4:bottleneck', 'decoder'),
)

# %% [markdown]
# ## A teacher that learns along
#
# The last teacher is no finished network. Two networks for depth learn
# together, and each is pulled toward what the other predicts (deep mutual
# learning, Zhang et al. 2018). `ExtraNetwork` is a network that is trained
# along, with an optimizer of its own. `LossTerm` is a term of the loss: here
# one in which the peer learns its task, and one for each direction of teaching.

# %%
peer = net.only('depth')


def init_peer(key, output):
  return peer.init(key, jnp.zeros((1, *IMAGE_SIZE, 3)), train=False)


def apply_peer(variables, image, *, key):
  collections = [name for name in variables if name != 'params']
  return peer.apply(variables, image, train=True, mutable=collections)


def peer_learns(output, teachers, batch, extras, *, axis_name=None):
  task, label = tasks['depth'], batch['depth']
  error = task.loss(teachers['peer'].predictions['depth'], label)
  return masked_mean(error, task.valid(label), axis_name=axis_name)


def difference(one, other, axis_name):
  """Mean distance of `one` from `other`, which gets no gradient."""
  error = jnp.abs(one - jax.lax.stop_gradient(other))[..., 0]
  everywhere = jnp.ones(error.shape, bool)
  return masked_mean(error, everywhere, axis_name=axis_name)


def peer_teaches(output, teachers, batch, extras, *, axis_name=None):
  other = teachers['peer'].predictions['depth']
  return difference(output.predictions['depth'], other, axis_name)


def student_teaches(output, teachers, batch, extras, *, axis_name=None):
  one = teachers['peer'].predictions['depth']
  return difference(one, output.predictions['depth'], axis_name)


mutual = fit(
  small.only('depth'),
  'mutual',
  terms=[
    mtl.LossTerm('peer/depth', peer_learns),
    mtl.LossTerm('peer_teaches/depth', peer_teaches, tasks=('depth',)),
    mtl.LossTerm('student_teaches/depth', student_teaches, tasks=('depth',)),
  ],
  extras={'peer': mtl.ExtraNetwork(init_peer, optax.adam(3e-3), apply_peer)},
)
mtl.table(uniform, distilled, mutual)

# %% [markdown]
# Alone with its peer, the student lacks what the other tasks teach a shared
# network about depth: on these data, sharing is worth more than a peer.
#
# Only the student is kept: the peer, like the adaptors, is not part of the
# result. [docs/python.md](../docs/python.md) describes terms and extra
# networks, [docs/method.md](../docs/method.md) the features that can be
# aligned.
