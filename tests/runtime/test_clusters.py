"""Which processes are taken for one of several."""

import os

from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster
import pytest

from mtl_kd_jax.runtime import clusters, platform

SRUN = {'SLURM_JOB_ID': '7', 'SLURM_PROCID': '1', 'SLURM_STEP_NUM_TASKS': '4'}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
  for name in os.environ:
    if name.startswith(('SLURM_', 'OMPI_', 'TPU_', 'JAX_COORD', 'JAX_NUM_P')):
      monkeypatch.delenv(name)


@pytest.mark.parametrize(
  'variables, expected',
  [
    ({}, False),
    (SRUN, True),
    (SRUN | {'SLURM_STEP_NUM_TASKS': '1'}, False),
    # A batch script, and one of its commands without srun.
    ({'SLURM_JOB_ID': '7', 'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}, False),
    ({'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_MCA_orte_hnp_uri': '1.0;tcp'}, True),
    ({'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_MCA_orte_hnp_uri': '1.0;tcp'}, False),
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
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')  # of GKE
  assert clusters.has_other_hosts()
