"""Names in figures: they are the user's, and no formulas."""


def literal(text: object) -> str:
  """A text that matplotlib shows as it is, also with dollar signs."""
  return str(text).replace('$', r'\$')
