"""What processes settle beforehand, with a store that threads share."""

from concurrent import futures
import sys
import threading
import time
import types

import jax
from jax._src import distributed
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import buckets, host_log, hosts


class Store:
  """JAX's key-value store, as far as it is used."""

  def __init__(self, processes):
    self.values, self.changed = {}, threading.Condition()
    self.barrier = threading.Barrier(processes)

  def key_value_set(self, key, value):
    with self.changed:
      assert key not in self.values
      self.values[key] = value
      self.changed.notify_all()

  def blocking_key_value_get(self, key, milliseconds):
    with self.changed:
      if self.changed.wait_for(lambda: key in self.values, 0.02):
        return self.values[key]
    raise jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: not there')

  def key_value_dir_get(self, folder):
    return [(k, v) for k, v in self.values.items() if k.startswith(folder)]

  def wait_at_barrier(self, name, milliseconds):
    self.barrier.wait(10)


@pytest.fixture
def in_processes(monkeypatch):
  """Calls a function in a thread for each process; returns what they return."""

  def call(function, count=3):
    of_thread = threading.local()
    store, numbers = Store(count), [iter(range(9)) for _ in range(count)]

    class State:
      client, num_processes = store, count
      process_id = property(lambda self: of_thread.index)

    monkeypatch.setattr(distributed, 'global_state', State(), raising=True)
    # Each process counts for itself.
    monkeypatch.setattr(hosts, '_numbers', types.SimpleNamespace())
    monkeypatch.setattr(
      hosts, 'next', lambda _: next(numbers[of_thread.index]), raising=False
    )

    def run(index):
      of_thread.index = index
      return function(index)

    with futures.ThreadPoolExecutor(count) as pool:
      return [pool.submit(run, i) for i in range(count)]

  return call


def test_the_main_process_is_the_first(in_processes):
  order = []

  def work(index):
    with hosts.main_process_first():
      if index == 0:
        time.sleep(0.1)
      order.append(index)

  for future in in_processes(work):
    future.result()
  assert order[0] == 0 and sorted(order) == [0, 1, 2]


def test_where_the_main_process_fails_nobody_waits(in_processes):
  def work(index):
    with hosts.main_process_first():
      if index == 0:
        raise KeyError('mine')
      return index

  first, *others = in_processes(work)
  with pytest.raises(KeyError, match='mine'):
    first.result()
  assert [future.result() for future in others] == [1, 2]


def test_processes_that_are_the_same(in_processes):
  values = {'config.epochs': 3, 'config.tasks': ('a', 'b')}
  for future in in_processes(lambda index: hosts.check_same(values)):
    assert future.result() is None


def test_processes_that_differ_end_all_of_them(in_processes):
  def work(index):
    values = {'config.epochs': 3, '--workdir': 'a'}
    if index == 1:
      values = {'config.epochs': 4, '--workdir': 'a', 'config.new': 1}
    hosts.check_same(values)

  for future in in_processes(work):
    with pytest.raises(InputError) as error:
      future.result()
    assert error.value.argument == 'multihost'
    assert error.value.found.startswith('process 1 on ')
    assert 'config.epochs is 4, not 3; config.new is 1' in error.value.found
    assert 'workdir' not in error.value.found


def test_the_code_is_compared_too(in_processes, monkeypatch):
  versions = iter([{'the code of mtl_kd_jax': 'a'}] * 2 + [{'jax': 'b'}])
  monkeypatch.setattr(hosts, '_versions', lambda: next(versions))
  for future in in_processes(lambda index: hosts.check_same({})):
    with pytest.raises(InputError, match='the code of mtl_kd_jax'):
      future.result()


def test_one_process_asks_nobody():
  hosts.check_same({'a': 1})
  with hosts.main_process_first():
    pass


@pytest.mark.parametrize('in_bucket', [False, True])
def test_each_process_has_a_log(
  in_bucket, bucket, tmp_path, monkeypatch, capsys
):
  workdir = buckets.path_of(bucket if in_bucket else tmp_path / 'run')
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with host_log.host_log(workdir):
    print('printed')
    print('warned', file=sys.stderr)
  with pytest.raises(KeyError), host_log.host_log(workdir):
    raise KeyError('mine')
  with host_log.host_log(workdir):
    print('again')
    host_log.flush()  # as a process that ends at once
  assert capsys.readouterr() == ('printed\nagain\n', 'warned\n')
  lines = (workdir / 'logs' / 'process_1.txt').read_text().splitlines()
  assert lines[1:3] == ['printed', 'warned'] and lines[-1] == 'again'
  assert "KeyError: 'mine'" in lines
  assert 'process 1 of 2 on' in lines[0] and '4 devices' in lines[0]
