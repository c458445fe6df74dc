"""The flags of single jobs.

They stand apart from the jobs, so that --help and a wrong flag need not wait
until JAX is imported. `JOBS` says which job has which.
"""

from absl import flags

# As in exporting/, which cannot be imported without JAX.
EXPORT_FORMATS = ('stablehlo', 'onnx', 'safetensors', 'saved')
DEFAULT_FORMATS = ('stablehlo', 'saved')
EXPORT_OUTPUTS = ('finished', 'raw')


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of all jobs.

  Args:
    values: what they are defined in.
  """
  _define_for_runs(values)
  _define_for_predict(values)
  _define_for_export(values)
  _define_for_import(values)


def _define_for_runs(values):
  flags.DEFINE_string(
    'cells',
    'all',
    "Job 'compare': which cells to train: all, none (only collect what is "
    'there), or a share, the i-th of n: i/n.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'split',
    None,
    "Job 'evaluate': the split to score. Default: the run's.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'all',
    False,
    "Job 'evaluate': tables of all metrics, such as the IoU of every class. "
    'The .json has them in any case.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'init',
    '',
    "Job 'data': the folder of pictures and labels to write a first config "
    'for; into the working directory, and nothing into the folder.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'samples',
    200,
    "Job 'inspect': how many samples to read of each split; 0 for all.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_string(
    'network',
    None,
    "Job 'import': the backbone, e.g. 'mtan'; --config.model.backbone for "
    "short. Jobs 'predict', 'export' and 'latency': the network of the run, "
    "e.g. 'distilled'.",
    flag_values=values,
  )
  flags.DEFINE_string(
    'out',
    None,
    "The folder to write to. Job 'predict': by default predictions; job "
    "'export': by default exports/<network> in the workdir.",
    flag_values=values,
  )


def _define_for_predict(values):
  flags.DEFINE_string(
    'images',
    None,
    "Job 'predict': a picture or video, a folder of them, a pattern such as "
    "'photos/**/*.jpg' (in quotes), or '-' for a list of paths on stdin.",
    flag_values=values,
  )
  flags.DEFINE_string(
    'resize',
    None,
    "Job 'predict': the size at which the network sees a picture: 'train' (the "
    "default without --tile), 'keep', or HEIGHTxWIDTH.",
    flag_values=values,
  )
  flags.DEFINE_string(
    'tile',
    None,
    "Job 'predict': the size of overlapping tiles, for large pictures: "
    'HEIGHTxWIDTH, or one number for both.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'white',
    None,
    "Job 'predict': the value that is white in pictures of more than 8 bits, "
    'such as 65535.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'batch_size',
    None,
    "Job 'predict': pictures or tiles that the network sees at once.",
    flag_values=values,
  )


def _define_for_export(values):
  flags.DEFINE_list(
    'to',
    list(DEFAULT_FORMATS),
    f"Job 'export': the formats to write: {', '.join(EXPORT_FORMATS)}.",
    flag_values=values,
  )
  flags.DEFINE_enum(
    'outputs',
    'finished',
    EXPORT_OUTPUTS,
    "Job 'export': what the programs give: class ids, measurements and unit "
    'normals, or the raw outputs of the network.',
    flag_values=values,
  )


def _define_for_import(values):
  flags.DEFINE_string(
    'torch',
    None,
    "Job 'import': the file of weights, .pth or .safetensors.",
    flag_values=values,
  )
  flags.DEFINE_string(
    'stage',
    None,
    "Job 'import': the stage that the weights become, e.g. 'distilled'. "
    'Default: the single-task network of every task.',
    flag_values=values,
  )
