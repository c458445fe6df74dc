"""What a type checker has to see of the public names; it is never run."""

import pathlib
from typing import Any, assert_type

from ml_collections import ConfigDict
import numpy as np
from PIL import Image

import mtl_kd_jax as mtl


def front_door(workdir: pathlib.Path, picture: Image.Image) -> None:
  config = mtl.get_config('quickstart')
  assert_type(config, ConfigDict)
  assert_type(mtl.train(config, workdir), mtl.Run)
  assert_type(mtl.evaluate('runs/a', split='val'), mtl.Run)
  # Or an ExportedFolder.
  assert_type(mtl.load(workdir), mtl.Run | Any)
  run = mtl.Run(workdir)
  network = run['distilled']
  assert_type(network, mtl.TrainedNetwork)
  prediction = network.predict(picture)
  assert_type(prediction, mtl.Prediction)
  assert_type(prediction.depth, np.ndarray)
  assert_type(prediction['depth'], np.ndarray)
  assert_type(prediction.save('out'), pathlib.Path)
  assert_type(prediction.tasks['semantic'].label.classes, tuple[str, ...])
  # The path of a folder gives several.
  assert_type(network.predict('kitchen.jpg'), mtl.Prediction | Any)
  several = network.predict(['a.jpg', picture, np.zeros((4, 4, 3))])
  assert_type(several, mtl.Predictions)
  assert_type(several[0], mtl.Prediction)
  assert_type(several[1:], mtl.Predictions)
  exported = mtl.export(network, 'out', to=['stablehlo'])
  assert_type(exported, mtl.ExportedFolder)
  opened = exported['distilled']
  assert_type(opened, mtl.TrainedNetwork | mtl.ExportedNetwork)
  assert_type(opened.predict(picture), mtl.Prediction)


def step_by_step() -> None:
  data = mtl.datasets.make('scenes', image_size=(64, 96))
  tasks = data.tasks('semantic', 'depth')
  net = mtl.models.make('resnet18', tasks, head='deeplabv3plus')
  fit = mtl.Trainer(data, workdir='runs/a', epochs=6)
  teachers = {task: fit(net.only(task)) for task in tasks}
  assert_type(teachers, dict[str, mtl.TrainedNetwork])
  distill = mtl.distill(teachers, taps=('layer4',), adapt='cosine')
  assert_type(distill, mtl.Distill)
  balancer = mtl.balancing.make('nash_mtl')
  distilled = fit(net, 'distilled', distill=distill, balancer=balancer)
  print(mtl.table(teachers, distilled))


def mistakes(run: mtl.Run) -> None:
  """Each ignored error has to be one: `warn_unused_ignores`."""
  mtl.load(3)  # type: ignore[arg-type]
  print(mtl.nothing)  # type: ignore[attr-defined]
  run['distilled'].predict('a.jpg', size=3)  # type: ignore[call-overload]
