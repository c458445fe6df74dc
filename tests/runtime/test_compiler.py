"""Options of XLA that there are, on each platform, and that cost nothing."""

import pytest

from mtl_kd_jax.runtime import compiler
from mtl_kd_jax.runtime.compiler import compiler_options


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_this_version_of_xla_has_the_options(platform):
  assert compiler_options(platform) == compiler._OPTIONS[platform] != {}


def test_unknown_options_are_left_out(monkeypatch):
  monkeypatch.setitem(compiler._OPTIONS, 'other', {'xla_no_such_option': True})
  assert compiler_options('other') == {}
  assert compiler_options('tpu') == {}
