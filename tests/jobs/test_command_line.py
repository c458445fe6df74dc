"""How a job is started: its folder, its hosts, and messages about flags."""

import pathlib

from fixtures.launching import job_that, launch
import pytest

from mtl_kd_jax.config.defaults import get_config
from mtl_kd_jax.errors import InputError
from mtl_kd_jax.jobs import command_line


@pytest.fixture
def job(monkeypatch):
  """A job that notes its workdir; nothing of JAX is set up."""
  monkeypatch.setattr(command_line, 'set_up', lambda *, multihost: None)
  job = job_that(lambda config, workdir: job.workdirs.append(workdir))
  job.workdirs = []
  return job


@pytest.mark.parametrize(
  'workdir, expected',
  [
    ('~/runs/a', '{home}/runs/a'),
    ('runs/~a', 'runs/~a'),
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


@pytest.mark.parametrize(
  'name, workdir, message',
  [
    ('mine', '', 'an empty one'),
    ('mine', '~nobody-of-this-name/a', "no user 'nobody-of-this-name'"),
    ('mine', 'a\0b', 'null byte'),
    ('mine', 'http://host/run', 'or in a bucket: gs://'),
    ('mine', 'FTP://host/run', 'found:  FTP://host/run'),
    ('', None, 'where:  config.name'),
    ('../a', None, "found:  '../a'"),
    ('..', None, "found:  '..'"),
    ('a\0b', None, 'where:  config.name (runs/a\\x00b)'),
  ],
)
def test_what_no_folder_can_be_called_is_refused(name, workdir, message, job):
  config = get_config()
  config.name = name
  with pytest.raises(command_line.Exit) as end:
    command_line.run_job(job, config, workdir)
  assert end.value.code == 2 and message in str(end.value)
  assert not job.workdirs


def test_only_errors_about_the_workdir_name_its_flag(monkeypatch):
  monkeypatch.setattr(command_line, 'set_up', lambda *, multihost: None)

  def run(argument, where='a/config.json'):
    def fail(config, workdir):
      raise InputError(
        expected='a', found='b', where=where, do='d', argument=argument
      )

    with pytest.raises(command_line.Exit) as end:
      command_line.run_job(job_that(fail), get_config(), 'runs/a')
    assert end.value.code == 2
    return str(end.value)

  assert run('workdir').endswith('d; on the command line: --workdir=FOLDER')
  assert run('stages').endswith('  to do:  d')
  assert run('workdir', 'config.teacher.workdir (a)').endswith('  to do:  d')


def test_hosts_that_are_not_known_are_one_message(monkeypatch):
  monkeypatch.setenv('JAX_NUM_PROCESSES', 'two')
  config = get_config()
  config.parallel.multihost = True
  with pytest.raises(command_line.Exit) as end:
    command_line.run_job(job_that(None), config, None)
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
  assert code == 2 and message in stderr
  assert 'Unknown command line flag' not in stderr
  assert 'Traceback' not in stderr + stdout
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('--flagfile=/nowhere',), "No such file or directory: '/nowhere'"),
    (('--flagfile',), '--flagfile with no argument'),
    (('--flagfile={}/binary',), "can't decode byte 0xff"),
    (('--flagfile={}/flags',), 'flag --config.epochs=abc'),
    (('--workdir=',), '--workdir=FOLDER'),
    (('--config.epochs=1e400',), "int() with base 10: '1e400'"),
    (('--config.epochs',), 'Missing value'),
    (('--config.epochs.x=1',), 'epochs.x'),
    (('--config.seed=1' + '0' * 5000,), '0 ...'),
    (('--config.data.scenes.image_size=(3',), "found:  ('(3',)"),
    (('--config.data.scales=(1',), 'zoom factors'),
    (('--config.data=3',), 'Failed to parse'),
    (("--config.data={{'name': 'scenes'}}",), 'none of data.check'),
    (('--config.tasks[9]=depth',), 'index out of range'),
    (('--config.=3',), 'invalid syntax'),
    (('--undefok=foo', '--bar=1'), "flag 'bar'"),
    (('--undefok',), 'Missing value'),
  ],
  ids=lambda x: x[0][:40] if isinstance(x, tuple) else '',
)
def test_a_command_line_that_cannot_be_read_is_one_message(
  arguments, message, tmp_path
):
  (tmp_path / 'binary').write_bytes(b'--job=\xff')
  (tmp_path / 'flags').write_text('# mine\n--config.epochs=abc\n')
  arguments = [a.format(tmp_path) for a in arguments]
  code, stdout, stderr = launch(
    '--config=configs/common.py', '--job=taps', *arguments
  )
  assert code == 2 and message in stderr and not stdout
  assert 3 <= len(stderr.splitlines()) <= 4 and len(stderr) < 1000


def test_flags_may_stand_in_a_file_and_in_any_order(tmp_path):
  (tmp_path / 'flags').write_text('--config.epochs=0\n--job=taps\n')
  code, _, stderr = launch(
    f'--flagfile={tmp_path}/flags',
    '--undefok=foo',
    '--foo=1',
    '--config=configs/common.py',
  )
  assert code == 2 and 'config.epochs' in stderr and 'above 0' in stderr


def test_of_a_key_that_is_given_twice_the_last_value_counts(tmp_path):
  """As one beside a flag file; entries of tuples are not joined."""
  (tmp_path / 'flags').write_text("--config.tasks=('depth', 'nosuch')\n")
  code, stdout, stderr = launch(
    f'--flagfile={tmp_path}/flags',
    '--config=configs/quickstart.py',
    "--config.tasks=('semantic', 'normals')",
    '--config.tasks=normals',
    '--config.method=single_task',
    '--job=taps',
  )
  assert code == 0, stderr
  assert 'normals' in stdout
  assert 'semantic' not in stdout and 'depth' not in stdout
