"""How a job is started: its folder, its hosts, and messages about flags."""

import pathlib
import types

from fixtures.launching import launch
import pytest

from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import command_line


@pytest.fixture
def job(monkeypatch):
  """A job that notes its workdir; nothing of JAX is set up."""
  monkeypatch.setattr(command_line, 'set_up', lambda *, multihost: None)
  seen = types.SimpleNamespace(workdirs=[])
  seen.run = lambda config, workdir: seen.workdirs.append(workdir)
  return seen


@pytest.mark.parametrize(
  'workdir, expected',
  [
    ('~/runs/a', '{home}/runs/a'),
    ('runs/~a', 'runs/~a'),
    ('~nobody-of-this-name/a', '~nobody-of-this-name/a'),
    (None, 'runs/mine'),
  ],
)
def test_the_home_directory_may_be_abbreviated(
  workdir, expected, job, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  config = get_config()
  config.name = 'mine'
  command_line.run_job(job, config, workdir)
  assert job.workdirs == [pathlib.Path(expected.format(home=tmp_path))]


def test_only_errors_about_the_workdir_name_its_flag(job):
  def run(argument):
    def fail(config, workdir):
      raise InputError(
        expected='a', found='b', where='c', do='d', argument=argument
      )

    job.run = fail
    with pytest.raises(command_line.Exit) as end:
      command_line.run_job(job, get_config(), 'runs/a')
    assert end.value.code == 2
    return str(end.value)

  assert run('workdir').endswith('d; on the command line: --workdir=FOLDER')
  assert run('stages').endswith('  to do:  d')


def test_hosts_that_are_not_known_are_one_message(monkeypatch):
  monkeypatch.setenv('JAX_NUM_PROCESSES', 'two')
  config = get_config()
  config.parallel.multihost = True
  with pytest.raises(command_line.Exit) as end:
    command_line.run_job(types.SimpleNamespace(), config, None)
  assert end.value.code == 2
  for part in ('JAX_NUM_PROCESSES=two', 'where:  config.parallel.multihost'):
    assert part in str(end.value)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('--config.epochs=3',), 'try python launch.py --config='),
    (('--job', 'evaluate', '--workdir', '{}'), 'the workdir of an earlier run'),
    (('--job=import', '--config.model.widht', '1'), 'Did you mean "width"'),
    (('--job=import', '--config.epochs=many'), 'many'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_overrides_need_a_config_that_has_them(arguments, message, tmp_path):
  """Without --config they change the one that the job has then."""
  arguments = [a.format(tmp_path / 'run') for a in arguments]
  code, stdout, stderr = launch(*arguments, '--config.seed=1')
  assert code in (1, 2) and message in stderr
  assert 'Unknown command line flag' not in stderr
  assert 'Traceback' not in stderr + stdout
  assert not list(tmp_path.iterdir())
