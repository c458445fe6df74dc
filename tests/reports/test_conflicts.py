"""The paragraph on balance finds what made-up logs were made to show."""

from mtl_kd_jax.reports.conflicts import summarize_balance

TASKS = ('depth', 'normals', 'semantic')


def make_log(stage='distilled', *, weights=(1, 1, 1), norms=(1, 2, 8), n=10):
  """Depth and normals conflict in every second step; others never."""
  log = []
  for step in range(1, n + 1):
    line = {'stage': stage, 'step': step, 'epoch': step / 5}
    given = zip(TASKS, weights, strict=True)
    log.append(line | {'kind': 'train'} | {f'weight/{t}': w for t, w in given})
    seen = {f'norm/{t}': x for t, x in zip(TASKS, norms, strict=True)}
    seen |= {
      'cosine/depth/normals': -0.5 if step % 2 else 0.1,
      'cosine/depth/semantic': 0.2,
      'cosine/normals/semantic': 0.3,
      'cosine/depth/alignment/depth': 0.4,
    }
    seen |= {f'norm/alignment/{t}': seen[f'norm/{t}'] / 2 for t in TASKS}
    log.append(line | {'kind': 'balance'} | seen)
  return log


def test_the_dominating_gradient_and_the_conflicts_are_named():
  text = summarize_balance(make_log(), TASKS)
  assert text.startswith(
    "Balance of 'distilled': over 10 observed steps, the gradient of semantic "
    'dominated. Its median norm was 8.0 times that of depth, the shortest, and '
    'it was the longest in 100 % of them.'
  )
  assert 'depth and normals in 50 % (mean cosine -0.20)' in text
  assert 'depth and semantic' not in text and '; no others.' in text
  assert 'No task conflicted with its alignment' in text
  assert 'equal for all tasks' in text


def test_nothing_is_said_of_conflicts_of_tasks_that_share_no_image():
  """Their gradients have no feature in common: every cosine is 0."""
  log = [
    line | {k: 0.0 for k in line if k.count('/') == 2 and 'cosine' in k}
    for line in make_log()
  ]
  text = summarize_balance(log, TASKS)
  assert 'nothing is known about conflicts between tasks' in text
  assert 'No two tasks' not in text
  assert 'No task conflicted with its alignment' in text


def test_norms_of_alignments_are_relative_to_those_of_their_tasks():
  text = summarize_balance(make_log(), TASKS)
  assert 'of its task: depth 0.5, normals 0.5, semantic 0.5' in text
  plain = [
    {k: x for k, x in line.items() if 'alignment' not in k}
    for line in make_log()
  ]
  assert 'alignment' not in summarize_balance(plain, TASKS)


def test_a_task_in_conflict_with_its_alignment_is_named():
  log = [
    line | {k: -0.2 for k in line if k == 'cosine/depth/alignment/depth'}
    for line in make_log()
  ]
  text = summarize_balance(log, TASKS)
  assert (
    'Conflicts of a task with its alignment, by share of steps: depth in 100 %'
  ) in text
  assert text.count('Conflicts between tasks, by share of steps') == 1


def test_the_effect_of_the_weights_is_named():
  text = summarize_balance(make_log(weights=(4, 2, 1)), TASKS)
  assert 'depth 4, normals 2, semantic 1; they reduced this ratio' in text
  assert (
    'of semantic, was 2.0 times as long as the shortest, of depth, instead of '
    '8.0 times'
  ) in text
  assert 'they increased this ratio' in summarize_balance(
    make_log(weights=(1, 1, 2)), TASKS
  )
  text = summarize_balance(make_log(weights=(0, 1, 2)), TASKS)
  assert 'the gradient of depth had no effect at all' in text


def test_even_gradients_do_not_dominate():
  text = summarize_balance(make_log(norms=(1, 1.1, 1.2)), TASKS)
  assert 'no gradient dominated' in text and 'was 1.2 times that' in text


def test_every_stage_with_gradients_has_its_paragraph():
  log = make_log('uniform') + make_log('distilled')
  log += [{'stage': 'teacher_depth', 'kind': 'train', 'step': 1, 'loss': 1.0}]
  text = summarize_balance(log, TASKS)
  assert text.count('Balance of') == text.count('\n\n') + 1 == 2
  assert summarize_balance([], TASKS) == ''
  unseen = [e for e in log if e['kind'] == 'train']
  assert summarize_balance(unseen, TASKS) == ''


def test_combined_gradients_are_described_where_none_were_observed():
  """Its lines are means, with the share of conflicts beside them."""
  log = [
    {'stage': 's', 'kind': 'train', 'step': 10, 'norm/depth': 3.0}
    | {'norm/normals': 1.0, 'weight/depth': 1.0, 'weight/normals': 3.0}
    | {'cosine/depth/normals': 0.1, 'conflict/depth/normals': 0.25}
  ]
  text = summarize_balance(log, TASKS)
  assert 'over 1 logged line' in text
  assert 'depth and normals in 25 % (mean cosine +0.10)' in text
  assert '1.0 times as long as the shortest' in text


def test_missing_numbers_are_left_out():
  log = make_log()
  for line in log[1::4]:  # observations without a label of depth
    line.update({k: None for k in line if 'depth' in k})
  text = summarize_balance(log, TASKS)
  # All steps in which depth and normals conflict.
  assert 'depth and normals' not in text and '8.0 times' in text
