"""Scripts for SLURM, read by bash and run with stand-ins for its commands; the same commands handed in through submitit, really run.

The stand-ins write down what they were called with. What the real SLURM does with a signal and a requeue was tried by hand; these tests hold
the script to what was seen there: a running job is called RUNNING, one that its owner ended is not, and a job of an array is meant by both numbers.
"""
import argparse, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
from brainrecon.core.checks import MissingExtra, ParameterError
from brainrecon.jobs import cluster
from brainrecon.jobs.cluster import Cluster, Command, as_script, grid, obey_run, obey_slurm, run_commands, slurm_asked, submit
from brainrecon.jobs.cli import make_parser

NASTY = ["it's", 'a "b" c', '$HOME', '`id`', '$(id)', 'a;b', 'a|b>c', '*', '~', '', ' ', '\\', 'a\tb', '!x', '#', '-n', '%A', 'ä→', "';exit 9;'", '${x:-y}', 'end)', ';;', 'esac']
SAY = 'import json, sys; print(json.dumps(sys.argv[1:]))'


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    "A folder of stand-ins at the front of PATH; what they were called with stands in `calls`."
    at = tmp_path/'fake'; at.mkdir(); calls, state = tmp_path/'calls', tmp_path/'state'; calls.write_text(''); state.write_text('RUNNING')
    def put(name, body): p = at/name; p.write_text(f'#!/bin/bash\necho {name} "$@" >> {calls}\n{body}\n'); p.chmod(0o755)
    put('scontrol', f'[ "$1" != show ] || echo "JobId=7 JobState=$(cat {state}) Reason=None"')
    put('sbatch', 'echo Submitted batch job 41')
    put('srun', 'while [ "${1#-}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done; exec "$@"')
    monkeypatch.setenv('PATH', f'{at}{os.pathsep}{os.environ["PATH"]}')
    for k in [k for k in os.environ if k.startswith(('SLURM', 'SUBMITIT'))]: monkeypatch.delenv(k)
    said = lambda word='requeue': [l for l in calls.read_text().splitlines() if word in l]
    return argparse.Namespace(said=said, state=state, put=put, calls=calls)


def small(tmp_path, **more): return Cluster(**dict(folder=str(tmp_path), environment={k: os.environ[k] for k in ('PYTHONPATH', 'BRAINRECON_CACHE') if k in os.environ}) | more)

def bash(text, tmp_path, **env):
    "The exit code and the words of a script, as a batch shell runs it."
    at = tmp_path/'job.sh'; at.write_text(text)
    assert subprocess.run(['bash', '-n', str(at)], capture_output=True, text=True).stderr == ''
    got = subprocess.run(['bash', str(at)], capture_output=True, text=True, timeout=30, env={**os.environ, **env})
    return got.returncode, got.stdout, got.stderr


# the script

def test_every_word_arrives_as_it_was_written(tmp_path, slurm):
    "For each index of an array the command gets its very words, whatever is in them."
    commands = [[sys.executable, '-c', SAY, n, f'a={n}', '--', n*2] for n in NASTY]
    text = as_script(commands, small(tmp_path, folder=str(tmp_path), partition='p', account='a', gpus=2, at_once=3, more=('qos=long',)))
    for i, c in enumerate(commands):
        code, out, err = bash(text, tmp_path, SLURM_ARRAY_TASK_ID=str(i), SLURM_JOB_ID='7'); assert (code, err, json.loads(out)) == (0, '', c[3:])
    assert bash(text, tmp_path, SLURM_ARRAY_TASK_ID=str(len(commands)))[0] == 2 and not slurm.said()
    lines = [l for l in text.splitlines() if l.startswith('#SBATCH')]; assert text.startswith('#!/bin/bash\n#SBATCH') and len(set(lines)) == len(lines)
    for word in (f'array=0-{len(NASTY)-1}%3', 'requeue', 'signal=B:USR1@120', 'gres=gpu:2', 'partition=p', 'account=a', 'qos=long', 'time=4:00:00', 'mem=8192M', 'open-mode=append'): assert f'#SBATCH --{word}' in lines

def test_one_command_is_no_array(tmp_path, slurm):
    text = as_script([[sys.executable, '-c', SAY, 'x']], small(tmp_path)); assert '--array' not in text and '--gres' not in text and '--partition' not in text
    assert bash(text, tmp_path)[:2] == (0, '["x"]\n')

@pytest.mark.parametrize('bad', [dict(partition='a b'), dict(name='x\n#SBATCH --mail-user=y'), dict(name='a/b'), dict(account='$(id)'), dict(more=('qos',)), dict(more=('a=b c',)), dict(hours=0), dict(hours=float('nan')), dict(hours=.02), dict(gpus=-1), dict(cpus=0),
    dict(memory=0), dict(tries=-1), dict(notice=1)])
def test_what_slurm_would_misread_is_refused(bad):
    with pytest.raises(ParameterError): Cluster(**bad)

def test_no_line_can_be_smuggled_in(tmp_path):
    for c in ([['a', 'b\nrm -rf /']], [['a\r']], [['a\0']], []):
        with pytest.raises(ParameterError): as_script(c, small(tmp_path))
    with pytest.raises(ParameterError): as_script([['a']], small(tmp_path, folder='/a\nrm'))

def test_surroundings(tmp_path, slurm, monkeypatch):
    "The very Python, the folders, no network, nothing secret."
    monkeypatch.setenv('HF_TOKEN', 'secret'); monkeypatch.setenv('BRAINRECON_DATA', "relative/it's"); there = tmp_path/'a b'; there.mkdir(); monkeypatch.chdir(tmp_path)
    ask = 'import json, os, sys; print(json.dumps([sys.executable, os.getcwd(), os.environ["BRAINRECON_DATA"], os.environ.get("BRAINRECON_OFFLINE"), os.environ.get("HF_HUB_OFFLINE")]))'
    text = as_script([['python', '-c', ask]], Cluster(folder=str(there))); monkeypatch.delenv('BRAINRECON_DATA'); assert 'secret' not in text and 'export HF_HUB_OFFLINE=1' in text
    assert json.loads(bash(text, tmp_path)[1]) == [str(Path(sys.executable).with_name('python')), str(there), str(tmp_path/"relative/it's"), '1', '1']
    text = as_script([['python', '-c', ask]], Cluster(folder=str(there), network=True, environment=dict(BRAINRECON_DATA='x'))); assert 'export HF_HUB_OFFLINE' not in text
    code, out, err = bash(as_script([['true']], Cluster(folder=str(tmp_path/'gone'))), tmp_path); assert code == 1


# how it ends

STOPS = 'import os, signal, sys, time\nf = open(sys.argv[1], "a")\ndef stop(n, _): f.write(f"saved {n} "); f.flush(); time.sleep(.3); sys.exit(75)\nfor n in (signal.SIGUSR1, signal.SIGTERM): signal.signal(n, stop)\nf.write("ready "); f.flush()\nwhile True: time.sleep(.05)'

@pytest.mark.parametrize('code', [0, 1, 2, 3, 130, 137, 138, 143])
def test_other_codes_end_the_job(tmp_path, slurm, code):
    assert bash(as_script([['sh', '-c', f'exit {code}']], small(tmp_path)), tmp_path, SLURM_JOB_ID='7')[0] == code and slurm.calls.read_text() == ''

@pytest.mark.parametrize('env, id', [(dict(SLURM_JOB_ID='7'), '7'), (dict(SLURM_JOB_ID='7', SLURM_ARRAY_JOB_ID='7', SLURM_ARRAY_TASK_ID='0'), '7_0'), (dict(SLURM_JOB_ID='9', SLURM_ARRAY_JOB_ID='7', SLURM_ARRAY_TASK_ID='1', SLURM_RESTART_COUNT='19'), '7_1')])
def test_75_goes_back_into_the_queue(tmp_path, slurm, env, id):
    code, out, _ = bash(as_script([['sh', '-c', 'exit 75']]*2, small(tmp_path)), tmp_path, **env)
    assert code == 75 and slurm.said() == [f'scontrol requeue {id}'] and 'queued again' in out

@pytest.mark.parametrize('state', ['CANCELLED', 'COMPLETING', 'TIMEOUT', ''])
def test_a_job_that_was_ended_stays_so(tmp_path, slurm, state):
    slurm.state.write_text(state); assert bash(as_script([['sh', '-c', 'exit 75']], small(tmp_path)), tmp_path, SLURM_JOB_ID='7')[0] == 75 and not slurm.said()

def test_not_for_ever_and_not_outside(tmp_path, slurm):
    text = as_script([['sh', '-c', 'exit 75']], small(tmp_path, tries=2))
    assert bash(text, tmp_path, SLURM_JOB_ID='7', SLURM_RESTART_COUNT='2')[0] == 75 and not slurm.said()
    assert bash(text, tmp_path)[0] == 75 and not slurm.said()       # by hand, without SLURM
    bash(text, tmp_path, SLURM_JOB_ID='7', SLURM_RESTART_COUNT='1'); assert len(slurm.said()) == 1

def started(text, tmp_path, **env):
    at = tmp_path/'job.sh'; at.write_text(text); return subprocess.Popen(['bash', str(at)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, 'SLURM_JOB_ID': '7', **env})

def wait_for(test, seconds=15):
    until = time.monotonic() + seconds
    while not test(): assert time.monotonic() < until, 'it never came'; time.sleep(.02)

@pytest.mark.parametrize('names', [('USR1',), ('TERM',), ('USR1', 'TERM'), ('USR1', 'USR1', 'USR1')])
def test_a_signal_reaches_the_command(tmp_path, slurm, names):
    "The command saves, the script waits for it however many signals come, and the job goes back once."
    note = tmp_path/'note'; stops = tmp_path/'stops.py'; stops.write_text(STOPS); p = started(as_script([[sys.executable, str(stops), str(note)]], small(tmp_path)), tmp_path); wait_for(lambda: note.exists() and 'ready' in note.read_text())
    for n in names: p.send_signal(getattr(signal, f'SIG{n}')); time.sleep(.05)
    out, _ = p.communicate(timeout=20)
    assert p.returncode == 75 and f'saved {int(getattr(signal, f"SIG{names[0]}"))}' in note.read_text() and slurm.said() == ['scontrol requeue 7'] and out.count('passed on') == len(names)

def test_a_signal_before_the_command_listens(tmp_path, slurm):
    "It is ended by the signal itself, and comes again; the same end without a signal is an end."
    p = started(as_script([['sleep', '30']], small(tmp_path)), tmp_path); time.sleep(.5); p.send_signal(signal.SIGUSR1); p.communicate(timeout=10)
    assert p.returncode == 75 and len(slurm.said()) == 1
    assert bash(as_script([['sh', '-c', 'kill -USR1 $$']], small(tmp_path)), tmp_path, SLURM_JOB_ID='7')[0] == 138 and len(slurm.said()) == 1

def test_a_signal_at_any_moment(tmp_path, slurm):
    "While the script begins, between two of its lines, while the command starts: it arrives, and the job goes back once."
    text = as_script([['bash', '-c', 'trap "exit 75" USR1; while :; do sleep .02; done']], small(tmp_path)).replace('signals=0 asked', 'echo here; signals=0 asked').replace("trap 'pass_on TERM' TERM", "trap 'pass_on TERM' TERM; echo listens")
    for k in range(20):
        slurm.calls.write_text(''); p = started(text, tmp_path)
        while 'listens' not in p.stdout.readline(): pass
        time.sleep(.001*k); p.send_signal(signal.SIGUSR1); p.communicate(timeout=10); assert p.returncode == 75 and slurm.said() == ['scontrol requeue 7'], k

def test_a_command_that_finishes_after_the_signal(tmp_path, slurm):
    note = tmp_path/'note'; p = started(as_script([['bash', '-c', f'trap "" USR1; echo > {note}; sleep .5; exit 0']], small(tmp_path)), tmp_path); wait_for(note.exists); p.send_signal(signal.SIGUSR1); p.communicate(timeout=10)
    assert p.returncode == 0 and not slurm.said()


def test_a_command_that_does_not_save_in_time(tmp_path, slurm):
    "The job goes back before the time is over, and goes on from the last checkpoint; once, however many signals come."
    note = tmp_path/'note'; p = started(as_script([['bash', '-c', f'trap "" USR1; echo > {note}; sleep 2.5; exit 0']], small(tmp_path, notice=21)), tmp_path); wait_for(note.exists)
    for _ in range(3): p.send_signal(signal.SIGUSR1); time.sleep(.1)
    out, _ = p.communicate(timeout=10); assert slurm.said() == ['scontrol requeue 7'] and 'did not save in time' in out


# commands and words

def test_grid():
    assert grid(['a=1,2', 'b=[0,1],2']) == [['a=1', 'b=[0,1]'], ['a=1', 'b=2'], ['a=2', 'b=[0,1]'], ['a=2', 'b=2']] and grid([]) == [[]]
    for bad in (['a'], ['=1'], ['a='], ['a=1', 'a=2']):
        with pytest.raises(ParameterError): grid(bad)

def test_every_point_has_a_folder_of_its_own():
    c = run_commands('retrieval/01_decode', 'demo', ['steps=5'], ['subjects=1,2', 'seeds=[0,1],2'], 'out here', ['--processes', '2'])
    assert len(c) == 4 and len({w[w.index('--out')+1] for w in c}) == 4 and all(w[:5] == ['brainrecon', 'run', 'retrieval/01_decode', '--recipe', 'demo'] and w[w.index('--processes')+1] == '2' and 'steps=5' in w for w in c)
    for bad in (dict(given=['seeds=1'], axes=['seeds=1,2']), dict(axes=['seed=1,2']), dict(axes=['seeds=x'])):
        with pytest.raises(ParameterError): run_commands('retrieval/01_decode', **bad)

def words(*text):
    return make_parser().parse_known_args(['run', *text])

def test_nothing_but_the_script_is_printed(capsys, tmp_path, slurm, monkeypatch):
    "What a `>` catches is the script; nothing is run and nothing is handed in."
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data'))
    args, rest = words('retrieval/01_decode', 'steps=5', '--slurm', '--gpus', '1', '--sbatch', 'qos=long', '--array', 'subjects=1,2', 'seeds=0'); assert slurm_asked(args) and obey_run(args, rest) == 0
    out, err = capsys.readouterr(); assert out == as_script(run_commands('retrieval/01_decode', None, ['steps=5'], ['subjects=1,2', 'seeds=0']), Cluster('retrieval-01_decode', gpus=1, more=('qos=long',))) and '2 jobs' in err and slurm.calls.read_text() == '' and 'absent' not in err
    args.processes, args.gpus = 2, 2; obey_run(args, rest); assert 'run retrieval/01_decode --processes 2 steps=5 subjects=1' in capsys.readouterr().out
    args, rest = words('avde/01_align', '--recipe', 'avde-things-eeg2', '--slurm', '--array', 'subjects=1,2'); obey_run(args, rest); out, err = capsys.readouterr()
    assert 'subject 1, avde-200' in err and 'subject 2, avde-200' in err and 'labram-base:labram-base.pth' in err and 'absent' not in out
    args, rest = words('avde/01_align', '--recipe', 'avde-things-eeg2', '--slurm', '--network'); obey_run(args, rest); assert 'absent' not in capsys.readouterr().err
    assert not any(tmp_path.glob('runs/*'))

def test_the_command_is_read_before_large_libraries():
    "The words cost no seconds; the list of what a job needs is behind them."
    from brainrecon.jobs.cluster import need_words, obey_need
    code = 'import sys, brainrecon.jobs.cluster as c; assert not {"torch", "pandas", "submitit"} & set(sys.modules)'; assert subprocess.run([sys.executable, '-c', code]).returncode == 0
    p = argparse.ArgumentParser(); sub = p.add_subparsers(); need_words(lambda name, text, **how: sub.add_parser(name, help=text, **how)); args, rest = p.parse_known_args(['need', 'retrieval/01_decode', '--recipe', 'demo', 'steps=5'])
    assert obey_need(args, rest) == 0
    with pytest.raises(ParameterError): obey_need(args, ['stepz=5'])

def test_words_that_contradict():
    for text in (('j', '--hours', '2'), ('j', '--array', 'a=1'), ('j', '--network'), ('j', '--gpus', '0')):
        with pytest.raises(ParameterError, match='without `--slurm`'): slurm_asked(words(*text)[0])
    assert not slurm_asked(words('j')[0])
    with pytest.raises(ParameterError, match='--again'): obey_run(words('retrieval/01_decode', '--slurm', '--again')[0], [])

def test_without_submitit_or_slurm(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda *a, **k: None)
    with pytest.raises(ParameterError, match='login node'): submit([['true']])
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(MissingExtra, match=r'brainrecon\[slurm\]'): submit([['true']], local=True)


# handed in through submitit

def test_an_array_is_handed_in_and_runs(tmp_path, slurm, monkeypatch):
    "submitit's own script, read by bash and run with a stand-in for `srun`, as SLURM would for each index; the command learns what it must."
    monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path/'runs')); say = 'import os, sys; print("said", sys.argv[1], os.environ["BRAINRECON_OFFLINE"], os.getcwd())'
    jobs = submit([[sys.executable, '-c', say, w] for w in ('first', "it's second")], small(tmp_path, partition='p', account='a', gpus=1, at_once=1, hours=2, memory=4, more=('qos=long',), notice=60))
    assert [j.job_id for j in jobs] == ['41_0', '41_1'] and [l.split()[0] for l in slurm.said('batch')] == ['sbatch']
    script = Path(slurm.said('sbatch')[0].split()[1]); script = script if script.exists() else next((tmp_path/'runs'/'slurm').glob('*.sh')); text = script.read_text()
    for word in ('array=0-1%1', 'requeue', 'signal=USR2@60', 'gpus-per-node=1', 'partition=p', 'account=a', 'qos=long', 'time=120', 'mem=4GB'): assert f'#SBATCH --{word}' in text, word
    for i, w in enumerate(('first', "it's second")):
        env = dict(SLURM_JOB_ID=f'5{i}', SLURM_ARRAY_JOB_ID='41', SLURM_ARRAY_TASK_ID=str(i), SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_JOB_NUM_NODES='1', SLURM_NODEID='0', SLURM_LOCALID='0')
        got = subprocess.run(['bash', str(script)], capture_output=True, text=True, timeout=60, env={**os.environ, **env}); assert got.returncode == 0, got.stderr
        assert f'said {w} 1 {tmp_path}' in got.stdout and jobs[i].result() == 0

COMES_AGAIN = '''import os, signal, sys, time
n = len(open(sys.argv[1]).read()) if os.path.exists(sys.argv[1]) else 0; open(sys.argv[1], "a").write("x")
assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
if n: print("goes on", n); sys.exit(0)
def stop(*_): open(sys.argv[1] + ".saved", "w").write("saved"); sys.exit(75)
signal.signal(signal.SIGTERM, stop); os.kill(os.getppid(), signal.SIGUSR2)
time.sleep(30); sys.exit(3)'''

def test_stopped_in_time_saves_and_comes_again(tmp_path, slurm, monkeypatch):
    "submitit is told to make room while the command runs; the command ends by itself with 75; a command fails; one never gets further."
    monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path/'runs')); note = tmp_path/'note'; once = f'test -e {tmp_path}/once || {{ touch {tmp_path}/once; exit 75; }}'; never = f'echo >> {tmp_path}/never; exit 75'
    a, b, c, d = submit([[sys.executable, '-c', COMES_AGAIN, str(note)], ['sh', '-c', once], ['sh', '-c', 'echo why; exit 4'], ['sh', '-c', never]], small(tmp_path, hours=.1, notice=30, tries=1, at_once=4), local=True)
    assert a.result() == 0 and note.read_text() == 'xx' and note.with_suffix('.saved').read_text() == 'saved' and 'goes on 1' in a.stdout()
    assert b.result() == 0 and 'ended with code 4' in str(c.exception()) and 'why' in c.stdout() and d.exception() is not None and (tmp_path/'never').read_text() == '\n\n'

def test_jobs_really_run_over_seeds(tmp_path, monkeypatch, capsys):
    "The same words on this machine: a run folder for each seed, finished, without a network; then the error of one that cannot."
    monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path/'runs')); monkeypatch.chdir(tmp_path)
    quick = ['decoders=ridge', 'draws=100', 'device=cpu', 'controls=no', 'repetitions=no']
    args, rest = words('retrieval/01_decode', *quick, '--local', '--hours', '0.1', '--at-once', '2', '--array', 'seeds=3,4')
    if not shutil.which('brainrecon', path=os.path.dirname(sys.executable)): pytest.skip('the command is not installed beside this Python')
    assert obey_run(args, rest) == 0 and '2 of 2 ended well' in capsys.readouterr().err
    done = [p.parent for p in (tmp_path/'runs').glob('*/status.json')]
    assert sorted(json.loads((d/'params.json').read_text())['values']['seeds'] for d in done) == [[3], [4]] and all(json.loads((d/'status.json').read_text())['state'] == 'finished' for d in done)
    assert obey_slurm(args, [['false']]) == 1 and '0 of 1' in capsys.readouterr().err

def test_a_command_that_cannot_save_in_time_comes_again_all_the_same(tmp_path):
    "`checkpoint` waits as long as it may, and not longer."
    c = Command({'PATH': os.path.dirname(sys.executable)}, str(tmp_path), tries=3, notice=1); c.child = subprocess.Popen(['sh', '-c', 'trap "" TERM; sleep 20'])
    try: again = c.checkpoint(['x']); assert again is not None and again.function.tries == 2 and again.function.child is None and again.args == (['x'],)
    finally: c.child.kill(); c.child.wait()
    c.child = subprocess.Popen(['sh', '-c', 'exit 2']); wait_for(c.ended); assert c.checkpoint(['x']) is None       # it failed by itself
    c.tries, c.child = 0, subprocess.Popen(['sh', '-c', 'exit 75']); wait_for(c.ended); assert c.checkpoint(['x']) is None      # often enough


# ---- what would fight in the queue is refused before it

@pytest.mark.parametrize('words, says', [
    (['--array', 'value=1,2', 'out=x'], 'one folder for each run'), (['--out', 'a', 'out=b'], 'one folder for each run'), (['--array', 'value=1,1'], 'share one folder'),
    (['--array', 'shared=a b,a_b', '--out', 'o'], 'share one folder'), (['--processes', '-3'], 'from 1'), (['--accelerate', 'nonsense'], 'accelerate config'), (['--accelerate', 'fsdp'], 'with one process'), (['--processes', '4', '--gpus', '1'], 'GPU for each'),
    (['--offline', '--network'], 'opposite'), (['--sbatch', 'signal=B:TERM@5'], 'more'), (['--sbatch', 'array=0-99'], 'more'), (['--jobs', 'nowhere'], 'no folder of jobs'),
    (['--nodes', '2'], '`--out`'), (['--nodes', '2', '--out', 'a', '--accelerate', 'fsdp', '--processes', '2'], 'one machine'), (['--nodes', '0'], 'from 1'), (['--nodes', '2', '--out', 'a', '--submit'], 'sbatch')])
def test_what_would_fight_in_the_queue_is_refused(words, says, capsys, monkeypatch, tmp_path):
    from brainrecon.jobs.cli import main
    monkeypatch.chdir(tmp_path); code = main(['run', 'check/03_short', *words, '--slurm']); said = capsys.readouterr(); assert code == 2 and says in said.err and not said.out, said.err

def test_a_wrong_option_is_told_before_anything_is_read(capsys, monkeypatch):
    from brainrecon.jobs import needs
    from brainrecon.jobs.cli import main
    monkeypatch.setattr(needs, 'needs', lambda *a: pytest.fail('the data were looked at first'))
    for words in (['--hours', '-2'], ['--accelerate', 'nonsense'], ['--processes', '-1']): assert main(['run', 'avde/05_swap', '--slurm', *words]) == 2 and capsys.readouterr().err.startswith('error: ')

def test_own_jobs_stay_own_jobs_in_a_script(tmp_path, capsys):
    import shutil
    from brainrecon.jobs.cli import main
    from brainrecon.jobs.parameters import find_job
    (tmp_path/'mine'/'games').mkdir(parents=True); shutil.copy(find_job('check/03_short').path, tmp_path/'mine'/'games'/'short.ipynb')
    assert main(['run', 'games/short', 'value=7', '--jobs', str(tmp_path/'mine'), '--slurm']) == 0; said = capsys.readouterr().out; assert f'--jobs {tmp_path/"mine"}' in said and 'games/short' in said and 'value=7' in said

def test_what_own_jobs_need_is_listed(tmp_path, capsys):
    import shutil
    from brainrecon.jobs.cli import main
    from brainrecon.jobs.parameters import find_job
    (tmp_path/'mine'/'games').mkdir(parents=True); shutil.copy(find_job('retrieval/01_decode').path, tmp_path/'mine'/'games'/'name.ipynb')
    assert main(['need', 'games/name', '--jobs', str(tmp_path/'mine')]) == 0 and 'all that it needs is here' in capsys.readouterr().out
    assert main(['need', 'games/name', '--jobs', str(tmp_path/'mine'), 'data=things-eeg2', f'root={tmp_path}']) == 1 and 'ABSENT' in capsys.readouterr().out
    sweep = tmp_path/'both.yml'; sweep.write_text(f'runs:\n- {{job: retrieval/01_decode}}\n- {{job: retrieval/01_decode, values: {{data: things-eeg2, root: {tmp_path}}}}}\n'); capsys.readouterr()
    assert main(['need', str(sweep)]) == 1 and capsys.readouterr().out.count('retrieval/01_decode') == 2 and main(['need', str(sweep), 'data=x']) == 2
    assert main(['sweep', str(sweep), '--slurm']) == 0 and 'absent: things-eeg2' in (said := capsys.readouterr().err) and 'makes the page' in said and 'asks for 8 GB, 2 processors, no GPU' in said
    assert main(['need', 'games/name']) == 2 and main(['jobs', '--jobs', str(tmp_path/'yours')]) == 2 and 'no folder of jobs' in capsys.readouterr().err

def test_the_decoder_and_drawer_of_a_stream_are_looked_for(tmp_path, monkeypatch, capsys):
    "Files from where one stands; of two with one name each is told; what the job makes itself is no file."
    from brainrecon.jobs.cli import main
    from brainrecon.jobs.needs import needs
    from brainrecon.jobs.parameters import find_job, resolve
    monkeypatch.chdir(tmp_path); (tmp_path/'mine.safetensors').write_bytes(b'x'); job = 'stream/01_replay'
    told = lambda *given: {n.why: n.here for n in needs(job, given=given) if n.why in ('decoder', 'drawer')}
    assert told('decoder=mine.safetensors', 'drawer=mine.safetensors') == dict(decoder=True) and told('decoder=mine.safetensors', 'drawer=other/mine.safetensors') == dict(decoder=True, drawer=False)     # a thing is told once
    assert told('drawer=linear') == {} and told('drawer=gone.safetensors') == dict(drawer=False) == told('drawer=avde') and told('drawer=mine.safetensors') == dict(drawer=True)
    assert resolve(find_job(job), None, dict(drawer='mine.safetensors', method='ridge'))['drawer'].value == str(tmp_path/'mine.safetensors')        # the job works elsewhere
    assert main(['need', job, 'drawer=gone.safetensors']) == 1 and 'ABSENT  gone.safetensors' in capsys.readouterr().out

def test_several_machines_start_a_launcher_each(tmp_path, slurm):
    "Each word arrives at each launcher; where a signal of this job belongs is said in the script."
    slurm.put('srun', 'while [ "${1#-}" != "$1" ]; do shift; done; shift 2; printf "%s\\n" "$@"'); slurm.put('scontrol', 'echo node-a; echo node-b')
    text = as_script([['brainrecon', 'run', 'a/b', '--out', "it's here", '--processes', '3', "x=[a b,$c]"]], small(tmp_path, nodes=2, gpus=4)); code, out, err = bash(text, tmp_path, SLURM_JOB_ID='2007', SLURM_JOB_NODELIST='node-[a-b]'); assert (code, err) == (0, '')
    assert out.splitlines() == ['torch.distributed.run', '--nnodes=2', '--nproc-per-node=3', '--rdzv-backend=c10d', '--rdzv-endpoint=node-a:29507', '--rdzv-id=2007', '-m', 'brainrecon.jobs.launch', 'a/b', 'x=[a b,$c]', '--out', "it's here"]
    assert {'#SBATCH --nodes=2', '#SBATCH --ntasks=2', '#SBATCH --gres=gpu:4'} <= set(text.splitlines()) and 'export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90' in text and 'export BRAINRECON_GRACE=90' in text and '--nproc-per-node=4' in as_script([['brainrecon', 'run', 'a/b', '--out', 'o']], small(tmp_path, nodes=2, gpus=4))
    (tmp_path/"it's here"/'processes').mkdir(parents=True); note = tmp_path/"it's here"/'processes'/'rank-0.json'; slurm.put('scontrol', f'[ "$2" != job ] || echo JobState=RUNNING')
    slurm.put('srun', 'trap "exit 1" TERM; echo ready; while :; do sleep .02; done')
    for state, ends in ('stopped', 75), ('failed', 1):
        note.write_text(json.dumps(dict(state=state), indent=1)); p = started(text, tmp_path, SLURM_JOB_NODELIST='x')
        while 'ready' not in p.stdout.readline(): pass
        p.send_signal(signal.SIGUSR1); p.communicate(timeout=20); assert p.returncode == ends and len(slurm.said()) == 1
    with pytest.raises(ParameterError, match='brainrecon run'): as_script([['sleep', '1']], small(tmp_path, nodes=2))
    with pytest.raises(ParameterError, match='BRAINRECON_TRUST'): as_script([['brainrecon', 'run', 'a/b', '--jobs', 'mine', '--out', 'o']], small(tmp_path, nodes=2))
