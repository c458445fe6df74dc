"""The formats: how each is written, and how it is opened again."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib.util
import json
import pathlib
import shutil
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from mtl_kd_jax.datasets import paths
from mtl_kd_jax.errors import InputError, what_is
from mtl_kd_jax.exporting import metadata as described
from mtl_kd_jax.exporting.saved import write_saved
from mtl_kd_jax.exporting.serving import Serving
from mtl_kd_jax.interop import export_torch, onnx_writer
from mtl_kd_jax.models.network import Network, abstract_init
from mtl_kd_jax.run import Run, parse_description
from mtl_kd_jax.runtime.compiler import compiler_options
from mtl_kd_jax.trained import TrainedNetwork

# uint8 [b h w 3] -> name -> array
Program = Callable[[np.ndarray], dict[str, np.ndarray]]

FILES = {
  'stablehlo': 'network.stablehlo',
  'onnx': 'network.onnx',
  'safetensors': 'network.safetensors',
  'saved': 'saved',
}
PROGRAMS = ('stablehlo', 'onnx')
# Those that hold the weights, from which this package makes the network again.
WEIGHTS = ('saved', 'safetensors')
PLATFORMS = ('cpu', 'cuda', 'tpu')
RUNNER = 'run_stablehlo.py'
_EXTRAS = {'onnx': ('onnx', 'onnxruntime')}
_KEY = 'mtl_kd_jax'  # of the metadata inside artifacts


def check_installed(format_: str) -> None:
  """Raises InputError where a format needs packages that are not there."""
  missing = [
    package
    for package in _EXTRAS.get(format_, ())
    if importlib.util.find_spec(package) is None
  ]
  if missing:
    raise InputError(
      expected=f'the packages of the format {format_}',
      found=f'{" and ".join(missing)} not installed',
      argument='to',
      do=f'pip install {" ".join(missing)}, or in a clone: '
      f"pip install -e '.[{format_}]'",
    )


def write(
  format_: str,
  folder: pathlib.Path,
  trained: TrainedNetwork,
  serving: Serving | None,
  metadata: Mapping[str, Any],
) -> dict[str, Any]:
  """Writes a network in a format.

  Args:
    format_: of `FILES`.
    folder: where its file goes.
    trained: the network.
    serving: what is exported of it; needed for `PROGRAMS` alone.
    metadata: of the folder, stored in files that can.

  Returns:
    What the metadata say of the artifact.

  Raises:
    InputError: the network cannot be written so.
  """
  path = folder / FILES[format_]
  text = {_KEY: json.dumps(metadata)}
  if format_ == 'stablehlo' and serving:
    return _write_stablehlo(path, trained, serving)
  if format_ == 'onnx' and serving:
    (image,) = _images(trained, symbolic_sizes=False)
    model = onnx_writer.convert(
      serving.program,
      image,
      input_name=described.INPUT,
      output_names=[*trained.tasks],
      metadata=text,
    )
    path.write_bytes(model)
    return {'opset': onnx_writer.OPSET}
  if format_ == 'safetensors':
    export_torch.write_safetensors(path, torch_state(trained), text)
    return {}
  write_saved(trained, path)
  return {}


def torch_state(trained: TrainedNetwork) -> dict[str, np.ndarray]:
  """The weights by their names in PyTorch; InputError where it has none."""
  spec = trained.network.spec
  return export_torch.state_dict(
    trained.variables,
    backbone=spec.backbone if spec else 'the backbone',
    tasks=trained.tasks,
  )


def check_images(
  images: Any,
  image_size: tuple[int, int],
  *,
  stride: int | None,
  argument: str,
  do: str,
) -> None:
  """Checks what a program is given: uint8 [b h w 3], of sizes that it takes.

  Args:
    images: of the program.
    image_size: (height, width) in pixels, of the images it was trained on.
    stride: what sides have to be multiples of; None for a program that takes
      `image_size` alone.
    argument: names them in errors.
    do: what the user can do.

  Raises:
    InputError: they are no such images.
  """
  height, width = image_size
  shape, dtype = getattr(images, 'shape', ()), getattr(images, 'dtype', None)
  fits = len(shape) == 4 and shape[0] > 0 and shape[3] == 3
  if stride is None:
    fits, sides = fits and shape[1:3] == (height, width), ''
  else:
    fits = fits and not any(side % stride or not side for side in shape[1:3])
    height, width, sides = 'h', 'w', f'; h and w are multiples of {stride}'
  if not fits or dtype != np.uint8:
    raise InputError(
      expected=f'uint8 [n {height} {width} 3], n from 1{sides}',
      found=f'{dtype} {list(shape)}' if dtype else what_is(images),
      argument=argument,
      do=do,
    )


def open_program(format_: str, folder: pathlib.Path) -> Program:
  """Opens a program, to be run.

  Raises:
    InputError: it is not there or damaged, or a package is not installed.
  """
  check_installed(format_)
  path = folder / FILES[format_]
  try:
    content = path.read_bytes()
    opened = _open_stablehlo if format_ == 'stablehlo' else _open_onnx
    return opened(content)
  except Exception as error:  # the readers raise many types
    reason = f'{error}'.partition('\n')[0] or type(error).__name__
    raise InputError(
      expected=f'an artifact of the format {format_}',
      found=reason[:200],
      where=f'{path}',
      do='export the network again, with this version',
    ) from error


def open_weights(
  format_: str,
  folder: pathlib.Path,
  metadata: Mapping[str, Any],
  *,
  module: Network | None = None,
) -> TrainedNetwork:
  """Opens the weights, as a network of this package.

  Args:
    format_: of `WEIGHTS`.
    folder: the exported folder.
    metadata: of the folder.
    module: the network, for one that was not made by `models.make`.

  Raises:
    InputError: they are not there, damaged, or need `module`.
  """
  path, name = folder / FILES[format_], metadata['name']
  if format_ == 'saved':
    return Run(path).network(name, module=module)
  where = f'{folder / described.FILE}'
  description = parse_description(metadata['description'], where)
  network = module or description.network()
  _, like = abstract_init(network, description.image_size)
  return TrainedNetwork(
    name=name,
    network=network,
    variables=jax.tree.map(
      jnp.asarray,
      export_torch.read_safetensors(
        paths.local(path, argument='workdir', kind='file'), like
      ),
    ),
    tasks=description.make_tasks(),
    image_size=description.image_size,
    metrics=metadata.get('metrics'),
  )


def _images(trained, *, symbolic_sizes) -> list[jax.ShapeDtypeStruct]:
  """The input of a program, from the most to the least general."""
  height, width = trained.image_size
  stride = getattr(trained.network.backbone, 'stride', 1)
  shapes = [f'batch, {height}, {width}, 3']
  if symbolic_sizes:
    shapes.insert(0, f'batch, {stride}*height, {stride}*width, 3')
  return [
    jax.ShapeDtypeStruct(export.symbolic_shape(shape), jnp.uint8)
    for shape in shapes
  ]


def _write_stablehlo(path, trained, serving) -> dict[str, Any]:
  errors = []
  images = _images(trained, symbolic_sizes=True)
  for image in images:
    try:
      with _without_locations():
        exported = export.export(jax.jit(serving.program), platforms=PLATFORMS)(
          image
        )
      break
    except Exception as error:  # of a module that computes with its sizes
      errors.append(error)
  else:
    reason = f'{errors[-1]}'.strip().partition('\n')[0]
    raise InputError(
      expected='a network that does not depend on the size of the batch',
      found=reason[:200],
      argument='network',
      do='compute with shapes in ways that jax.export can follow',
    ) from errors[-1]
  path.write_bytes(exported.serialize())
  shutil.copyfile(
    pathlib.Path(__file__).with_name('runner.py'), path.with_name(RUNNER)
  )
  stride = getattr(trained.network.backbone, 'stride', 1)
  return {
    'platforms': [*PLATFORMS],
    'stride': None if errors else stride,
    'jax': jax.__version__,
  }


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
  """Programs do not say in which files of this machine they were traced."""
  option = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, option)
  jax.config.update(option, 0)
  try:
    yield
  finally:
    jax.config.update(option, before)


def _open_stablehlo(content) -> Program:
  call = jax.jit(
    export.deserialize(bytearray(content)).call,
    compiler_options=compiler_options(jax.default_backend()),
  )
  return lambda images: {t: np.asarray(x) for t, x in call(images).items()}


def _open_onnx(content) -> Program:
  import onnxruntime  # optional: only this format needs it

  session = onnxruntime.InferenceSession(
    content, providers=['CPUExecutionProvider']
  )
  names = [output.name for output in session.get_outputs()]

  def run(images):
    found = session.run(names, {described.INPUT: images})
    return dict(zip(names, found, strict=True))

  return run
