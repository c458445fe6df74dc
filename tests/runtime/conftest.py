"""Folders of checkpoints."""

import gc

import pytest

from mtl_kd_jax.runtime.checkpointing import Checkpoints


@pytest.fixture
def folder(tmp_path):
  yield tmp_path / 'stage'
  if (tmp_path / 'stage' / 'damaged').exists():
    gc.collect()  # of failed reads, which would complain in another test


@pytest.fixture
def opened(folder):
  """Opens the folder, as often as wanted; closes all in the end."""
  every = []

  def open_():
    every.append(Checkpoints(folder))
    return every[-1]

  yield open_
  for checkpoints in every:
    checkpoints.close()
