"""Which processes are taken for one of several."""

import contextlib
import os

import jax
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster
import pytest

from mtl_kd_jax.errors import InputError
from mtl_kd_jax.runtime import clusters, platform

# Beginnings of the variables that are read.
READ = (
  *('SLURM_', 'OMPI_', 'TPU_', 'CUDA_VISIBLE', 'ROCR_VISIBLE'),
  *('JAX_COORDINATOR', 'JAX_NUM_PROCESSES', 'JAX_LOCAL_DEVICE'),
)
SRUN = {'SLURM_JOB_ID': '7', 'SLURM_PROCID': '1', 'SLURM_STEP_NUM_TASKS': '4'}
OMPI = {'OMPI_MCA_orte_hnp_uri': '1.0;tcp'}
ONE = {'SLURM_STEP_TASKS_PER_NODE': '1', 'SLURM_NODEID': '0'}
EIGHT = {
  'SLURM_STEP_TASKS_PER_NODE': '8',
  'SLURM_NODEID': '0',
  'SLURM_GPUS_PER_TASK': 'h100:2',
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
  for name in os.environ:
    if name.startswith(READ):
      monkeypatch.delenv(name)


@pytest.mark.parametrize(
  'variables, expected',
  [
    ({}, False),
    (SRUN, True),
    (SRUN | {'SLURM_STEP_NUM_TASKS': '1'}, False),
    # A batch script, and one of its commands without srun.
    ({'SLURM_JOB_ID': '7', 'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}, False),
    (OMPI | {'OMPI_COMM_WORLD_SIZE': '2'}, True),
    (OMPI | {'OMPI_COMM_WORLD_SIZE': '1'}, False),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': '2'}, True),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': '1'}, False),
    # Elsewhere than on a TPU, they say nothing.
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, False),
  ],
  ids=str,
)
def test_what_is_started_with_others(variables, expected, monkeypatch):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  joined = []
  monkeypatch.setattr(platform, '_join_hosts', lambda: joined.append(True))
  platform.set_up(multihost=None)
  assert bool(joined) == clusters.has_other_hosts() == expected


@pytest.mark.parametrize(
  'variables, expected',
  [
    # Task 0 of one on a node, and of two on the last of three nodes.
    ({'SLURM_STEP_TASKS_PER_NODE': '1(x2)', 'SLURM_NODEID': '1'}, 'all'),
    ({'SLURM_STEP_TASKS_PER_NODE': '1(x2),2', 'SLURM_NODEID': '2'}, '0'),
    ({'SLURM_STEP_TASKS_PER_NODE': '2,1', 'SLURM_NODEID': '1'}, 'all'),
    ({'SLURM_STEP_TASKS_PER_NODE': '8', 'SLURM_NODEID': '0'}, '0'),
    ({}, '0'),
    # --gpus-per-task binds them, in all but old versions.
    (EIGHT | {'CUDA_VISIBLE_DEVICES': '0,1'}, 'all'),
    (EIGHT | {'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, '0'),
    (EIGHT | {'SLURM_GPUS_PER_TASK': '1'}, '0'),
    # Bound by other means.
    (EIGHT | {'SLURM_GPUS_PER_TASK': '', 'CUDA_VISIBLE_DEVICES': '5'}, 'all'),
    ({'ROCR_VISIBLE_DEVICES': '5'}, 'all'),
    ({'ROCR_VISIBLE_DEVICES': '4,5'}, '0'),
    (OMPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}, 'all'),
    (OMPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '2'}, '0'),
    # Who says what a process is to see is right.
    (ONE | {'JAX_LOCAL_DEVICE_IDS': '0'}, '0'),
    (ONE | {'JAX_CUDA_VISIBLE_DEVICES': '0,1'}, '0,1'),
  ],
  ids=str,
)
def test_a_task_sees_all_gpus_that_are_for_it_alone(
  variables, expected, monkeypatch
):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  # JAX's own names, and what it does with them under schedulers.
  names = 'jax_cuda_visible_devices', 'jax_rocm_visible_devices'
  before = [jax.config._read(name) for name in names]

  def initialize(**options):
    assert 'local_device_ids' not in options
    # A scheduler may have to fetch what it starts.
    assert options['initialization_timeout'] == 300 + 60
    for name in names:
      jax.config.update(name, '0')

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  monkeypatch.setattr(platform.peers, 'watch', lambda: None)
  context = contextlib.nullcontext
  monkeypatch.setattr(platform.coordinator, 'in_own_process', context)
  monkeypatch.setattr(platform.peers, 'joining', context)
  try:
    platform._join_hosts()
    assert jax.config._read('jax_cuda_visible_devices') == expected
  finally:
    for name, value in zip(names, before, strict=True):
      jax.config.update(name, value)


@pytest.mark.parametrize(
  'metadata, expected',
  [
    ({'worker-network-endpoints': 'a,b,c,d', 'agent-worker-number': '1'}, True),
    ({'worker-network-endpoints': 'x:y:10.0.0.1'}, False),
    ({}, None),
  ],
)
def test_the_hosts_of_a_tpu_slice(metadata, expected, monkeypatch):
  def get(key):
    if not metadata:
      raise ConnectionError('no metadata')
    return metadata.get(key, ''), 200

  monkeypatch.setattr(cloud_tpu_init, 'running_in_cloud_tpu_vm', True)
  monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
  monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', get)
  if expected is None:
    with pytest.warns(UserWarning, match='no metadata'):
      assert not clusters.has_other_hosts()
    return
  assert clusters.has_other_hosts() == expected
  monkeypatch.setenv('JAX_PLATFORMS', '')
  assert clusters.is_part_of_tpu_slice() == expected
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')  # of GKE
  assert clusters.has_other_hosts()
  # A host alone would wait for the others.
  with pytest.raises(InputError, match='begin together'):
    platform.set_up(multihost=False)
  for name, value in (
    ('JAX_PLATFORMS', 'cpu'),
    ('TPU_PROCESS_BOUNDS', '1,1,1'),
  ):
    with monkeypatch.context() as patch:
      patch.setenv(name, value)
      platform.set_up(multihost=False)
