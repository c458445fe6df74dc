"""The two ways in which a run ends early through no fault of the code.

Both are caught in one place, the command line, which prints the message alone.
Everything else is a defect and keeps its traceback.
"""


class InputError(ValueError):
  """Something that the user gave (config, data, folder) cannot be used.

  The message has always the same four parts, so that nobody has to guess:
  what was expected, what was found, where, and what to do about it.
  """

  def __init__(self, *, expected: str, found: str, where: str, do: str):
    """Builds the message.

    Args:
      expected: what would have been right.
      found: what there was instead.
      where: the config key, file or folder it was found in.
      do: what the user can do now.
    """
    super().__init__(
      f'expected {expected}\n'
      f'  found:  {found}\n'
      f'  where:  {where}\n'
      f'  to do:  {do}'
    )
    self.expected, self.found, self.where, self.do = expected, found, where, do

  def __reduce__(self):
    # Exceptions of loader processes travel to the main process by pickle.
    return _rebuild_input_error, (
      self.expected,
      self.found,
      self.where,
      self.do,
    )


def _rebuild_input_error(expected, found, where, do):
  return InputError(expected=expected, found=found, where=where, do=do)


class NotFiniteError(ArithmeticError):
  """A loss or gradient became infinite or NaN; training has stopped."""
