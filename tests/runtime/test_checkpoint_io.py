"""The checksum of a state."""

import dataclasses

from fixtures.checkpoints import make_state, make_train_state
import jax
import numpy as np

from mtl_kd_jax.runtime.checkpointing import checksum


def test_the_checksum_depends_on_every_bit_of_every_leaf():
  state = make_state(1)
  leaves, structure = jax.tree.flatten(state)
  sums = {checksum(state)}
  assert checksum(make_state(1)) in sums
  changed = 1
  for i, leaf in enumerate(leaves):
    content = np.asarray(leaf).tobytes()
    for at in {0, len(content) // 2, len(content) - 1} if content else ():
      other = bytearray(content)
      other[at] ^= 1
      array = np.frombuffer(bytes(other), np.asarray(leaf).dtype)
      array = array.reshape(leaf.shape)
      parts = [*leaves[:i], array, *leaves[i + 1 :]]
      sums.add(checksum(jax.tree.unflatten(structure, parts)))
      changed += 1
  assert len(sums) == changed > 20


def test_the_checksum_depends_on_the_order():
  a, b = np.arange(3.0), np.arange(3.0, 6.0)
  assert checksum((a, b)) != checksum((b, a))
  assert checksum({'a': a, 'b': b}) != checksum({'a': b, 'b': a})


def test_the_checksum_is_the_same_for_nested_dictionaries():
  state = make_train_state()
  plain = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
  assert checksum(plain) == checksum(state)


def test_the_checksum_is_the_same_for_every_memory_layout():
  array = np.random.default_rng(0).random((4, 6))
  assert checksum({'x': np.asfortranarray(array)}) == checksum({'x': array})
