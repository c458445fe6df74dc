"""How many values BatchNorm sees in a step, and when those are too few."""

from collections.abc import Mapping

from mtl_kd_jax.errors import InputError

# The variance of n values has the relative error sqrt(2 / (n - 1)): 80 % here.
_FEW = 4


def check_normalization(normalized: Mapping[str, int], samples: int) -> None:
  """Checks that no BatchNorm of a network normalizes single values.

  Such a layer gives its bias in training, whatever it is given. Its running
  variance goes to 0, so that it multiplies by hundreds in evaluation, silently.

  Args:
    normalized: see `FeatureShapes.normalized`.
    samples: of a step, over all devices.

  Raises:
    InputError: one does.
  """
  for path, values in normalized.items():
    if values * samples < 2:
      raise InputError(
        expected='two or more values of each channel for every BatchNorm in '
        'training',
        found=f'one for {path}: {samples} sample in a step, 1 x 1 pixel',
        argument='batch_size',
        do='take more samples in a step (after a balancer has split the batch)',
      )


def few_values(normalized: Mapping[str, int], samples: int) -> str:
  """A sentence where BatchNorm normalizes few values, or ''."""
  values = {path: n * samples for path, n in normalized.items()}
  few = [path for path, n in values.items() if n <= _FEW]
  if not few:
    return ''
  more = f' and {len(few) - 1} others' if len(few) > 1 else ''
  return (
    f'BatchNorm {few[0]}{more} normalizes {min(values.values())} values of '
    'each channel in a step. Statistics of so few are noise, and evaluation '
    'uses others; a larger batch or image helps'
  )
