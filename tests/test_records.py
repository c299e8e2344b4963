"Run records: what is there is told as it is, and nothing is removed that was not meant, not a run, or at work."
import json, os, signal, subprocess, sys, time
from datetime import datetime
from pathlib import Path
import pytest
from brainrecon.core.checks import FolderError, ParameterError, UnknownError
from brainrecon.core.files import load_json, save_json
from brainrecon.jobs.records import at_work, checkpoints_of, clean, compare_records, find_records, plan_clean, read_record, remove, state_of, Waste

OLD = '2020-01-01T00:00:00+00:00'


def make(runs, name, state='finished', ended=OLD, **more):
    at = runs/name
    save_json(at/'params.json', dict(job='games/coin', recipe='', values=dict(flips=3, out=''), **more)); (at/'deep'/'er').mkdir(parents=True)
    save_json(at/'status.json', dict(state=state, error='', seconds=2., attempts=[dict(number=1, started=OLD, ended='' if state == 'running' else ended, state=state, seconds=2.)]))
    if state == 'finished': save_json(at/'scores.json', dict(rows=[dict(what='a coin', measure='share', value=.5)]))
    for f in ('step-00000002.pt', 'step-00000002.json', 'best.safetensors', 'step-2.pt', 'step-00000002'): (at/'deep'/'er'/f).write_bytes(b'x'*100)
    return at


def tree(at): return {p.relative_to(at).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(at.rglob('*'))}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    at = tmp_path/'runs'; at.mkdir(); monkeypatch.setenv('BRAINRECON_RUNS', str(at)); return at


holder = '''
import sys, time
from brainrecon.jobs.run import locked
with locked(sys.argv[1]): print('held', flush=True); time.sleep(60)
'''


@pytest.fixture
def held(runs):
    "A run that another process is at work in."
    at = make(runs, 'busy', 'running')
    with subprocess.Popen([sys.executable, '-c', holder, str(at)], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == 'held\n'
        yield at, p
        p.kill()


def test_a_run_at_work_is_left_alone_and_a_killed_one_is_told(held, runs):
    at, p = held
    assert state_of(at) == 'running' and at_work(at)
    waste, left = plan_clean(['busy']); assert not waste and 'at work' in left[0]
    assert remove([Waste(at, 'by force', 1)]) == 0 and at.exists()
    p.kill(); p.wait()
    assert (at/'lock.json').exists() and state_of(at) == 'killed' and read_record(at).error
    assert clean(['busy'], yes=True) == 0 and not at.exists()


def test_a_lock_of_another_machine_counts_as_work(runs):
    at = make(runs, 'far', 'running'); save_json(at/'lock.json', dict(pid=1, host='elsewhere'))
    assert state_of(at) == 'running' and not plan_clean(['far'])[0]


def test_dry_changes_nothing(runs, capsys):
    for name, state in dict(a='finished', b='failed', c='running', d='stopped').items(): make(runs, name, state)
    before = tree(runs); clean(); clean(['a', 'b'])
    assert {k: v for k, v in tree(runs).items() if not k.endswith('.lock')} == before and 'nothing was removed' in capsys.readouterr().out


def test_only_checkpoints_of_finished_runs_and_old_failures_go(runs):
    a, b, c = make(runs, 'a'), make(runs, 'b', 'failed'), make(runs, 'c', 'failed', ended=time.strftime('%Y-%m-%dT%H:%M:%S+00:00', time.gmtime()))
    (runs/'notes').mkdir(); (runs/'notes'/'step-00000002.pt').write_text('mine'); (runs/'test_readings.json').write_text('[]')
    clean(yes=True)
    assert not b.exists() and c.exists() and (runs/'notes'/'step-00000002.pt').exists() and (runs/'test_readings.json').exists()
    assert {p.name for p in (a/'deep'/'er').iterdir()} == {'best.safetensors', 'step-2.pt'} and not checkpoints_of(read_record(a))
    assert (a/'scores.json').exists() and (a/'params.json').exists()


def test_links_and_other_folders_are_never_followed(runs, tmp_path):
    outside = make(tmp_path, 'outside'); (runs/'linked').symlink_to(outside)
    a = make(runs, 'a'); (a/'deep'/'to').symlink_to(outside); (a/'deep'/'step-00000009.pt').symlink_to(outside/'params.json')
    before = tree(outside)
    assert [r.name for r in find_records()] == ['a']
    clean(yes=True); clean(['a'], yes=True)
    assert tree(outside) == before and not a.exists()
    for path in (outside, runs, tmp_path, runs/'..'/'outside', runs/'linked', outside/'params.json'):
        with pytest.raises(FolderError, match='no run below'): remove([Waste(path, 'wrong', 1)])
    assert tree(outside) == before


@pytest.mark.parametrize('pattern', ['../outside', '/', '..', 'none*', ''])
def test_a_pattern_cannot_leave_the_folder(runs, tmp_path, pattern):
    make(tmp_path, 'outside'); make(runs, 'a')
    if pattern == '': assert [r.name for r in find_records([pattern])] == ['a']
    else:
        with pytest.raises(UnknownError): clean([pattern], yes=True)
    assert (tmp_path/'outside').exists()


@pytest.mark.parametrize('name, text', [('status.json', '{"state": '), ('status.json', '[]'), ('scores.json', '[1]'), ('params.json', ''), ('status.json', '\x00')])
def test_a_damaged_run_is_named_and_kept(runs, capsys, name, text):
    at = make(runs, 'bent'); (at/name).write_text(text); make(runs, 'good')
    found = {r.name: r.state for r in find_records()}
    assert found == dict(bent='unreadable', good='finished')
    clean(yes=True); assert checkpoints_of(read_record(at)) and 'bent cannot be read' in capsys.readouterr().out


def test_what_differs(runs):
    a = make(runs, 'x-a', versions=dict(torch='1')); b = make(runs, 'x-b', versions=dict(torch='2'), commit='abc', dirty=True)
    save_json(b/'scores.json', dict(rows=[dict(what='a coin', measure='share', value=.25), dict(what='a die', measure='share', value=None)])); d = load_json(b/'status.json'); d['attempts'][0]['peak_mb'] = 512.; save_json(b/'status.json', d)
    made, scores, cost = compare_records([read_record(p) for p in (a, b)])
    assert made == [dict(what='commit', a='-', b='abc with changes'), dict(what='version torch', a='1', b='2')]
    assert scores == [dict(what='a coin, share', a='0.5', b='0.25')] and cost == [dict(what='peak_MB', a='-', b='512')]


def test_a_state_narrows_and_a_name_is_whole(runs):
    "`clean failed` keeps the age limit; a part of a name, and an age that makes no sense, are refused."
    for n in ('old-one', 'new-one'): make(runs, n, 'failed', datetime.now().astimezone().isoformat())
    make(runs, 'never-failed')
    assert not plan_clean(['failed'])[0] and {w.path.name for w in plan_clean(['failed'], days=0)[0]} >= {'old-one', 'new-one'} and 'never-failed' not in {w.path.name for w in plan_clean(['failed'], days=0)[0]}
    assert [w.path.name for w in plan_clean(['old-*'])[0]] == ['old-one']
    with pytest.raises(UnknownError): plan_clean(['one'])
    for bad in (-1., float('nan'), float('inf')):
        with pytest.raises(ParameterError, match='days'): plan_clean((), days=bad)
    with pytest.raises(ParameterError, match='whatever its age'): plan_clean(['old-one'], days=3)
