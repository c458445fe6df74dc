"""What a scheduler says of this process and the others that it has started.

Nothing is guessed: a process that waits for others that nobody has started is
worse than one that has to be told of them. Nothing is asked of a network but
on a TPU, and there of the machine's own metadata.
"""

import os
import re
import warnings

# JAX has no public interface to what it knows of schedulers.
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster


def has_other_hosts() -> bool:
  """Whether JAX would find other processes, started together with this one."""
  if os.environ.get('JAX_COORDINATOR_ADDRESS'):
    return os.environ.get('JAX_NUM_PROCESSES') != '1'
  return _count_tasks() > 1 or _count_tpu_hosts() > 1


def _count_tasks() -> int:
  """The tasks of a step of Slurm (srun), or the processes of Open MPI."""
  tasks = 1
  # Only srun sets that of the step: a batch script by itself is one process,
  # however many tasks its job may have.
  if 'SLURM_PROCID' in os.environ:
    tasks = _number('SLURM_STEP_NUM_TASKS')
  if 'OMPI_MCA_orte_hnp_uri' in os.environ:
    tasks = max(tasks, _number('OMPI_COMM_WORLD_SIZE'))
  return tasks


def has_what_it_sees() -> bool:
  """Whether all GPUs that this process sees are for it alone.

  They are if a scheduler has started no other task of the step on this machine,
  or has bound each task to GPUs of its own. False where it does not say.
  """
  bound = os.environ.get('SLURM_GPUS_PER_TASK', '').rpartition(':')[2]
  names = 'CUDA_VISIBLE_DEVICES', 'ROCR_VISIBLE_DEVICES'
  seen = next(filter(None, map(os.environ.get, names)), '').split(',')
  are_bound = seen != [''] and f'{len(seen)}' in (bound, '1')
  return are_bound or _is_alone_on_host()


def is_part_of_tpu_slice() -> bool:
  """Whether the chips of this machine are some of a larger slice.

  Its hosts then have to begin together, whatever each of them is to do. False
  where they are said to be by themselves, or are not used.
  """
  alone = os.environ.get('TPU_PROCESS_BOUNDS') == '1,1,1'
  platforms = (os.environ.get('JAX_PLATFORMS') or 'tpu').split(',')
  return not alone and 'tpu' in platforms and _count_tpu_hosts() > 1


def _is_alone_on_host() -> bool:
  if 'OMPI_MCA_orte_hnp_uri' in os.environ:
    return os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1'
  # The tasks of each node, as '2(x3),1'.
  counts = []
  for entry in os.environ.get('SLURM_STEP_TASKS_PER_NODE', '').split(','):
    if found := re.fullmatch(r'(\d+)(?:\(x(\d+)\))?', entry):
      counts += [int(found[1])] * int(found[2] or 1)
  node = os.environ.get('SLURM_NODEID', '')
  known = node.isdecimal() and int(node) < len(counts)
  return known and counts[int(node)] == 1


def _number(variable) -> int:
  value = os.environ.get(variable, '')
  return int(value) if value.isdecimal() else 1


def _count_tpu_hosts() -> int:
  """The hosts of the TPU slices that this machine is a part of."""
  if not getattr(cloud_tpu_init, 'running_in_cloud_tpu_vm', False):
    return 1
  try:
    for cluster in (
      cloud_tpu_cluster.GkeTpuCluster,
      cloud_tpu_cluster.GceTpuCluster,
    ):
      if cluster.is_env_present():
        return cluster.get_process_count()
  except Exception as error:  # of requests, or of another version of JAX
    warnings.warn(
      'cannot find out how many hosts the TPU slice has: '
      f'{type(error).__name__}: {error}. Taking this one for all',
      stacklevel=3,
    )
  return 1
