# %% [markdown]
# # 5. Predict and export
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/mtl_kd_jax/blob/main/notebooks/5_predict_and_export.ipynb)
#
# What is left of a training is one network, without teachers and adaptors. This
# notebook predicts photos with it, saves what it predicts, and exports it for
# programs that know nothing of this library. It takes two minutes on two CPU
# cores, or one if the first notebook was run here before.

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
  library = 'mtl_kd_jax[onnx] @ git+https://github.com/OWNER/mtl_kd_jax'
  pip = [sys.executable, '-m', 'pip', 'install', '-q']
  subprocess.run([*pip, jax_package, library], check=True)

# %%
import pathlib
import shutil

import jax
import numpy as np
from PIL import Image

import mtl_kd_jax as mtl
from mtl_kd_jax.datasets.scenes.dataset import render
from mtl_kd_jax.reports import plots

# %% tags=["parameters"]
IMAGE_SIZE = (64, 96)  # height, width
NUM_TRAIN, NUM_VAL = 512, 128
TASKS = ('semantic', 'depth', 'normals')
EPOCHS = 6
NETWORK = {'backbone': 'resnet18', 'head': 'deeplabv3plus', 'width': 0.25}
PHOTO_SIZE = (480, 720)
FORMATS = ('stablehlo', 'onnx', 'saved')

# %% [markdown]
# ## A network
#
# That of the first notebook: read if it was run here, trained if not. With a
# finished run, one line is enough: `mtl.load('runs/first')['distilled']`.

# %%
data = mtl.datasets.make(
  'scenes',
  image_size=IMAGE_SIZE,
  num_train=NUM_TRAIN,
  num_val=NUM_VAL,
  data_dir='runs/rooms',
)
fit = mtl.Trainer(
  data,
  workdir='runs/first',
  epochs=EPOCHS,
  learning_rate=3e-3,
  config={'data.flip': True, 'balancing.observe_every': 8},
)
network = fit(mtl.models.make(tasks=data.tasks(*TASKS), **NETWORK), 'uniform')

# %% [markdown]
# And photos, here of rooms that it never saw. Take your own instead: PNG, JPEG,
# WebP or TIFF of any size.

# %%
photos = pathlib.Path('runs/photos')
photos.mkdir(parents=True, exist_ok=True)
for i in range(3):
  room = render(seed=1, split='val', index=i, size=PHOTO_SIZE)
  pixels = np.uint8(255 * room['image'] + 0.5)
  Image.fromarray(pixels).save(photos / f'room_{i}.jpg', quality=92)

# %% [markdown]
# ## One picture
#
# A prediction has the size of its picture, and the units of the labels.

# %%
prediction = network.predict(photos / 'room_0.jpg')
prediction

# %%
prediction.plot()

# %% [markdown]
# Underneath are arrays. What does the network see, and how far away?

# %%
classes = prediction.tasks['semantic'].label.classes
for i in np.unique(prediction.semantic):
  where = prediction.semantic == i
  depth = np.median(prediction.depth[where])
  print(f'{classes[i]:8} {where.mean():4.0%} of the picture, {depth:.1f} m')

# %% [markdown]
# ## The size at which it is seen
#
# The picture was reduced to the size of the training, and the maps enlarged
# again. That is the safe choice: things look as large as those that were
# learned from. `resize` shows the network more pixels, and `tile` cuts a large
# picture into overlapping pieces and blends what is predicted for them. Both
# are for networks that know things at several sizes (`data.scales` zooms in
# training), and tiles for pictures that show more of the same, such as aerial
# ones. This network knows one size alone, and gets lost at others:

# %%
height, width = IMAGE_SIZE
ways = {
  'as trained': {},
  'twice as large': {'resize': (2 * height, 2 * width)},
  'tiles': {'tile': (2 * height, 2 * width)},
}
seen = {
  way: network.predict(photos / 'room_0.jpg', **options)
  for way, options in ways.items()
}
label = render(seed=1, split='val', index=0, size=PHOTO_SIZE)
plots.plot_predictions(
  {key: x[None] for key, x in label.items()},
  {
    way: {'semantic': p.semantic[None], 'depth': p.depth[None, ..., None]}
    for way, p in seen.items()
  },
  {task: network.tasks[task] for task in ('semantic', 'depth')},
)

# %% [markdown]
# ## Many pictures
#
# A folder or a list is predicted in batches, while it is iterated over. `save`
# writes arrays, maps as PNG, and an overview. `launch.py --job=predict` does
# the same, for videos too.

# %%
for prediction in network.predict(photos):
  prediction.save(pathlib.Path('runs/predictions', prediction.path.stem))

print(*sorted(pathlib.Path('runs/predictions/room_0').iterdir()), sep='\n')

# %% [markdown]
# ## Export
#
# A program that runs the network should not need this library, nor the code of
# the network. `export` writes the network alone: pictures go in as bytes, and
# outputs have names, units and labels.
#
# - `stablehlo` is a program for JAX on CPUs, GPUs and TPUs.
# - `onnx` is one for ONNX Runtime, and so for most other languages and devices
#   (`pip install -e '.[onnx]'`).
# - `saved` has weights and description, to be opened here again.
# - `safetensors` has weights by their names in PyTorch, for SegNet, MTAN and
#   the backbone of a ResNet.
#
# Each file is run and compared with the network before it is kept.

# %%
folder = pathlib.Path('runs/exported')
shutil.rmtree(folder, ignore_errors=True)
mtl.export(network, folder, to=FORMATS)

# %% [markdown]
# ## Run it without the library
#
# These lines need JAX and the folder alone (`run_stablehlo.py` beside the file
# has the same). Its pictures have the size of the training, and any number of
# them is predicted at once.

# %%
content = (folder / 'network.stablehlo').read_bytes()
program = jax.export.deserialize(bytearray(content))
photo = Image.open(photos / 'room_0.jpg').resize((width, height))
pictures = np.stack([np.asarray(photo)] * 2)
outputs = program.call(pictures)
{name: (x.dtype.name, x.shape) for name, x in outputs.items()}

# %% [markdown]
# The same with ONNX Runtime:

# %%
if 'onnx' in FORMATS:
  import onnxruntime

  session = onnxruntime.InferenceSession(folder / 'network.onnx')
  names = [output.name for output in session.get_outputs()]
  results = session.run(names, {session.get_inputs()[0].name: pictures})
  for name, x in zip(names, results, strict=True):
    agree = np.isclose(x, outputs[name], atol=1e-3).mean()
    print(f'{name}: {x.dtype} {list(x.shape)}, {agree:.2%} equal to JAX')

# %% [markdown]
# ## Open it here again
#
# `mtl.load` opens an exported folder like a run. What is opened predicts
# pictures of any size, also where it is a program.

# %%
again = mtl.load(folder).network(format='stablehlo')
again.predict(photos / 'room_1.jpg').plot()

# %% [markdown]
# To try pictures with the mouse, `python -m mtl_kd_jax.demo
# --workdir=runs/first` opens a page ([docs/demo.md](../docs/demo.md)).
