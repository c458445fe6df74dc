# %% [markdown]
# # 2. Your own data
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/mtl_kd_jax/blob/main/notebooks/2_your_own_data.ipynb)
#
# Pictures and label maps in folders need no code, only a description: where the
# files are, and what their numbers mean. Most trouble with new data is in the
# second part. A depth in millimeters that is taken for meters raises no error;
# the network just learns badly.
#
# This notebook makes such a folder, describes it with two mistakes, and has
# them found before anything is trained. It takes two minutes on two CPU cores.

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

import numpy as np
from PIL import Image

import mtl_kd_jax as mtl
from mtl_kd_jax.jobs import inspect
from mtl_kd_jax.reports import plots

# %% tags=["parameters"]
IMAGE_SIZE = (64, 96)  # height, width
NUM_TRAIN, NUM_VAL = 512, 128
EPOCHS = 6
NETWORK = {'backbone': 'resnet18', 'head': 'deeplabv3plus', 'width': 0.25}

# %% [markdown]
# ## A folder of pictures
#
# Rendered rooms stand in for your pictures. They are stored as cameras and
# labeling tools do it: photos as JPEG, class ids as PNG with 0 for unlabeled
# pixels, and depth as 16-bit PNG in millimeters. The depth camera was off in
# every third frame: its file is not there.

# %%
rooms = mtl.datasets.make(
  'scenes',
  image_size=IMAGE_SIZE,
  num_train=NUM_TRAIN,
  num_val=NUM_VAL,
  data_dir='runs/rooms',
)
folder = pathlib.Path('runs/my_pictures')


def save(array, *parts, **options):
  path = folder.joinpath(*parts)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path, **options)


for split in ('train', 'val'):
  source = rooms.source(split)
  for i in range(len(source)):
    sample, frame = source[i], f'{i:04}'
    photo = np.uint8(255 * sample['image'] + 0.5)
    save(photo, split, 'photo', f'{frame}.jpg', quality=95)
    ids = np.uint8(sample['semantic'] + 1)
    save(ids, split, 'ids', f'{frame}.png')
    if i % 3:
      millimeters = np.uint16(1000 * sample['depth'][..., 0] + 0.5)
      save(millimeters, split, 'depth_mm', f'{frame}.png')

print(*sorted(folder.rglob('*0001.*')), sep='\n')

# %% [markdown]
# ## Describe it
#
# `{split}` and `{frame}` in a pattern stand for the split and the name of a
# frame. What is not said has a default, and some defaults are wrong here.

# %%
classes = rooms.labels['semantic'].classes
description = {
  'image': '{split}/photo/{frame}.jpg',
  'semantic': {
    'files': '{split}/ids/{frame}.png',
    'classes': classes,
    'ids': tuple(range(1, 1 + len(classes))),
    'ignore': (0,),
  },
  'depth': {'files': '{split}/depth_mm/{frame}.png'},
}
try:
  mtl.datasets.make('folder', data_dir=folder, **description)
except mtl.InputError as error:
  print(error)

# %% [markdown]
# The first mistake is an error: frames without a map are not expected. A
# missing file is more often a wrong pattern than a missing label, so you have
# to say that it is meant. Such a frame is unlabeled for that task alone, and
# still teaches the others: it counts neither in the loss nor in the metrics.

# %%
description['allow_missing'] = True
data = mtl.datasets.make('folder', data_dir=folder, **description)
data

# %% [markdown]
# ## Inspect it
#
# The data open now, and could be trained on. Look at them first. This is what
# `launch.py --job=inspect` runs: it reads samples as they are stored, and
# prints ranges, units, how much is labeled, and what looks wrong.

# %%
config = mtl.get_config()
config.tasks = ('semantic', 'depth')
config.data.name, config.data.data_dir = 'folder', str(folder)
config.data.folder.update(description)
workdir = pathlib.Path('runs/inspected')
inspect.run(config, workdir)

# %% [markdown]
# The last lines name the second mistake: a median depth of thousands of meters
# is no room. The files hold millimeters. `scale` turns a stored number into the
# `unit` of the tables, meters by default. (Two more units to know: a distance
# *along the ray* has to be converted to z before, and inverse depth or
# disparity is another `quantity`.)

# %%
description['depth']['scale'] = 0.001
config.data.folder.update(description)
inspect.run(config, workdir)

# %% [markdown]
# Numbers do not show everything. Labels that are shifted, mirrored or belong to
# another picture are seen at once: the last column draws the borders of the
# classes over the image. The gray maps are those that are not there.

# %%
Image.open(workdir / 'data.png')

# %% [markdown]
# ## Train on it
#
# One network for both tasks. For the whole method, with teachers and tables,
# use the steps of the first notebook, or `mtl.train(config, 'runs/mine')`.

# %%
data = mtl.datasets.make('folder', data_dir=folder, **description)
tasks = data.tasks()
fit = mtl.Trainer(data, 'runs/mine', epochs=EPOCHS, learning_rate=3e-3)
network = fit(mtl.models.make(tasks=tasks, **NETWORK))
mtl.table(network)

# %% [markdown]
# Depth has errors in meters, as the description says. Here are pictures of
# `val` with their labels, and what the network says of them. It also fills in
# the maps that are missing.

# %%
val = data.source('val')
samples = [val[i] for i in range(4)]
batch = {key: np.stack([s[key] for s in samples]) for key in samples[0]}
predictions = [network.predict(sample['image']) for sample in samples]
shown = {
  'semantic': np.stack([p.semantic for p in predictions]),
  'depth': np.stack([p.depth for p in predictions])[..., None],
}
plots.plot_predictions(batch, {'network': shown}, tasks)

# %% [markdown]
# [docs/data/folder.md](../docs/data/folder.md) and
# [docs/own_tasks.md](../docs/own_tasks.md) have all that a description can say,
# and [docs/data.md](../docs/data.md) every defect that inspecting finds. Next:
# balance and conflict.
