"The runner, the command line and the job notebooks, end to end."
import json, os, re, signal, socket, subprocess, sys, time
from pathlib import Path
import nbformat, pytest
from notebooks import ROOT
from brainrecon.core.checks import FolderError, ParameterError, UnknownError
from brainrecon.core.files import load_json
from brainrecon.jobs.cli import main
from brainrecon.jobs.doctor import check_device, doctor, print_doctor
from brainrecon.jobs.parameters import find_job, load_recipe, read_job, resolve
from brainrecon.jobs import run as run_module
from brainrecon.jobs.records import at_work
from brainrecon.jobs.run import RunFailed, locked, run_job

root = Path(__file__).parent.parent
real = sorted(p for p in (root/'nbs'/'08_jobs').glob('*/*.ipynb') if not p.parent.name.startswith('.'))
command = [sys.executable, '-c', 'import sys; from brainrecon.jobs.cli import main; sys.exit(main())']

coin = ['''flips = 100   # of the coin
bias  = 0.5   # how often it shows its head
sides = ['head', 'tail']  # what it can show
word  = 'a'   # any text
out   = ''    # run folder''', '''import os, random, sys
sys.modules['ipywidgets'] = None     # as where they are not installed
import matplotlib.pyplot as plt
from tqdm.auto import tqdm
from brainrecon.jobs.run import start''', '''run = start(out)
assert os.path.samefile('.', out)
for i in tqdm(range(5)): pass
run.log('flipping')
heads = sum(random.random() < bias for _ in range(flips))
fig, ax = plt.subplots(figsize=(2, 1)); ax.plot([0, heads])
run.figure(fig, 'heads', 'Heads & tails.')''', '''run.log(word)
run.scores(dict(title='How often <heads>?', rows=[dict(what='a coin', measure='share', value=heads/flips, simulated=True)]))''']

resume = ['''steps = 4   # in all
out = ''    # run folder''', 'from brainrecon.jobs.run import start', '''run = start(out)
at = run.path('checkpoints', 'step.txt')
first = int(at.read_text()) if at.exists() else 0
for step in range(first, steps):
    at.write_text(str(step+1))
    if step == 1: raise RuntimeError('the power went out')''', '''run.scores(dict(title='Steps', rows=[dict(what=f'began at {first}', measure='steps', value=steps, simulated=True)]))''']

silent = ["out = ''  # run folder", 'done = True']
sleeper = ["out = ''  # run folder", "import os, time\nfrom brainrecon.jobs.run import start\nrun = start(out)\nprint('kernel', os.getpid(), flush=True)", 'time.sleep(100)']


def write(path, cells):
    "A job notebook; the first cell holds its parameters."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# A game\n\n> Is it fair?'), *map(nbformat.v4.new_code_cell, cells)])
    nb.cells[1].metadata['tags'] = ['parameters']
    path.parent.mkdir(parents=True, exist_ok=True); nbformat.write(nb, path)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder of small jobs, and an empty place for runs."
    at = tmp_path_factory.mktemp('home')
    for name, cells in dict(coin=coin, resume=resume, silent=silent, sleeper=sleeper).items(): write(at/'jobs'/'games'/f'{name}.ipynb', cells)
    (at/'jobs'/'recipes').mkdir()
    (at/'jobs'/'recipes'/'bent.yml').write_text('job: games/coin\nparameters:\n  bias: {value: 9e-1, source: "a magician"}\n')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('BRAINRECON_JOBS', str(at/'jobs')); m.setenv('BRAINRECON_TRUST', str(at/'jobs')); m.setenv('BRAINRECON_RUNS', str(at/'runs'))
        m.setenv('BRAINRECON_CACHE', str(at/'cache')); m.delenv('BRAINRECON_DEBUG', raising=False)
        yield at


def cli(*words): return subprocess.run([*command, *words], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope='module')
def finished(home):
    "One finished run, started from the command line."
    done = cli('run', 'games/coin', '--recipe', 'bent', 'flips=20', '--out', str(home/'a{b}c'), 'word=say "\\n" {x}')
    assert done.returncode == 0, done.stderr
    return done, home/'a{b}c'


@pytest.mark.parametrize('name, recipe, given, error, says', [
    ('games/coin', None, dict(flip=3), ParameterError, "Did you mean 'flips'"),
    ('games/coin', None, dict(flips=0.5), ParameterError, 'whole number'),
    ('games/coin', None, dict(flips=True), ParameterError, 'whole number'),
    ('games/coin', None, dict(bias='half'), ParameterError, 'number'),
    ('games/coin', None, dict(sides=['head', 1]), ParameterError, 'list of texts'),
    ('games/coin', 'bend', {}, UnknownError, "Did you mean 'bent'"),
    ('games/coin', '../recipes/bent', {}, UnknownError, 'does not exist'),
    ('games/resume', 'bent', {}, ParameterError, 'is for the job'),
    ('../jobs/games/coin', None, {}, UnknownError, 'does not exist'),
    ('games/../games/coin', None, {}, UnknownError, 'does not exist'),
])
def test_refused_before_anything_is_made(home, tmp_path, monkeypatch, name, recipe, given, error, says):
    monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path/'runs'))
    with pytest.raises(error, match=re.escape(says)): run_job(name, recipe, **given)
    assert not (tmp_path/'runs').exists()


def test_a_finished_run_holds_everything(finished):
    done, at = finished
    names = {p.name for p in at.iterdir()}
    assert names >= {'notebook.ipynb', 'attempt-01.ipynb', 'params.json', 'status.json', 'log.txt', 'scores.json', 'report.html', 'figures'}
    assert 'lock.json' not in names
    params = load_json(at/'params.json')
    assert params['values'] == dict(flips=20, bias=0.9, sides=['head', 'tail'], word='say "\\n" {x}', out='') and params['recipe'] == 'bent'
    assert params['came_from'] == dict(flips='given', bias='recipe', sides='default', word='given', out='default')
    assert params['sources'] == dict(bias='a magician') and params['device'] and params['started']
    assert {'python', 'torch', 'numpy', 'brainrecon'} <= set(params['versions'])
    status = load_json(at/'status.json')
    assert status['state'] == 'finished' and len(status['attempts']) == 1
    nb = nbformat.read(at/'notebook.ipynb', 4)
    tags = [t for c in nb.cells for t in c.metadata.get('tags', [])]
    assert tags == ['parameters', 'injected-parameters']


def test_lines_are_shown_and_kept_without_bars(finished):
    done, at = finished
    log = (at/'log.txt').read_text()
    for text in (done.stdout, log): assert 'flipping' in text and 'say "\\n" {x}' in text and 'it/s' not in text and '\r' not in text and '<Figure' not in text and 'Warning' not in text
    assert 'share  ' in done.stdout and 'simulated data' in done.stdout
    assert done.stdout.rstrip().endswith(f'report: {at/"report.html"}')
    assert 'IPKernelApp' not in done.stderr


def test_report_is_one_honest_page(finished):
    page = (finished[1]/'report.html').read_text()
    assert '<h1>How often &lt;heads&gt;? (simulated data)</h1>' in page and 'no person was recorded' in page
    assert 'data:image/png;base64,' in page and 'Heads &amp; tails.' in page and 'a magician' in page
    assert 'http' not in page and '<script' not in page and str(finished[1]) not in page


def test_a_finished_run_returns_at_once(finished, capsys):
    began = time.time()
    run = run_job('games/coin', 'bent', finished[1], flips=20, word='say "\\n" {x}')
    assert run.attempt == 1 and time.time()-began < 2 and 'finished before' in capsys.readouterr().out


def test_another_run_is_kept_out_of_a_folder(finished, home):
    with pytest.raises(FolderError, match='flips=20.*flips=21'): run_job('games/coin', 'bent', finished[1], flips=21, word='say "\\n" {x}')
    with pytest.raises(FolderError, match="of 'games/coin'"): run_job('games/resume', out=finished[1])
    (home/'mine').mkdir(); (home/'mine'/'letter.txt').touch()
    with pytest.raises(FolderError, match='no run'): run_job('games/coin', out=home/'mine')


def test_a_failed_run_goes_on_where_it_stopped(home):
    failed = cli('run', 'games/resume', 'steps=5')
    assert failed.returncode == 1 and 'Traceback' not in failed.stderr
    assert 'the same command goes on from what the folder holds' in failed.stderr and 'another run' in failed.stderr
    assert 'cell [4]' in failed.stderr and 'RuntimeError: the power went out' in failed.stderr
    at, = (home/'runs').glob('games-resume-steps_5-*')
    status = load_json(at/'status.json')
    assert status['state'] == 'failed' and 'power' in status['error'] and not (at/'report.html').exists()
    assert any(o.output_type == 'error' for c in nbformat.read(at/'notebook.ipynb', 4).cells for o in c.get('outputs', []))
    run = run_job('games/resume', steps=5, show=False)
    assert run.folder == at.resolve() and run.finished and run.attempt == 2 and run.scores()['rows'][0]['what'] == 'began at 2'
    assert 'error' in [o.output_type for c in nbformat.read(at/'attempt-01.ipynb', 4).cells for o in c.get('outputs', [])]
    assert 'error' not in [o.output_type for c in nbformat.read(at/'notebook.ipynb', 4).cells for o in c.get('outputs', [])]
    with pytest.raises(FolderError, match='at work'), locked(at), locked(at): pass


def test_a_job_without_scores_has_failed(home):
    with pytest.raises(RunFailed, match='without scores'): run_job('games/silent', out=home/'silent', show=False)
    assert load_json(home/'silent'/'status.json')['state'] == 'failed'


def test_a_second_worker_is_refused_and_a_dead_one_replaced(home):
    at = home/'locks'; at.mkdir()
    code = 'import sys, time; from brainrecon.jobs.run import locked\nwith locked(sys.argv[1]): print("in", flush=True); time.sleep(60)'
    with subprocess.Popen([sys.executable, '-c', code, str(at)], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == 'in\n'
        with pytest.raises(FolderError, match=f'process {worker.pid} on {re.escape(socket.gethostname())}'), locked(at): pass
        worker.kill()
    assert load_json(at/'lock.json')['pid'] == worker.pid    # it had no time to tidy up
    with locked(at): assert load_json(at/'lock.json')['pid'] == os.getpid()
    assert not (at/'lock.json').exists()


def test_what_another_machine_left_is_taken_over_when_it_is_gone(home, monkeypatch):
    "A killed job that a scheduler starts again elsewhere: at once if it is the same job, otherwise after a long silence; a sign of life keeps others out."
    at = home/'moved'; at.mkdir(); note = at/'lock.json'
    def left(age=0., **more): note.write_text(json.dumps(dict(pid=1, host='node17', since='x', **more))); old = time.time() - age; os.utime(note, (old, old))
    monkeypatch.delenv('SLURM_JOB_ID', raising=False); left()
    with pytest.raises(FolderError, match='(?s)node17.*taken for dead'), locked(at): pass
    assert at_work(at); left(age=301); assert not at_work(at)
    with locked(at): assert load_json(note)['pid'] == os.getpid()
    monkeypatch.setenv('SLURM_JOB_ID', '77'); left(slurm='77')
    with locked(at): assert load_json(note)['slurm'] == '77'
    left(slurm='78')
    with pytest.raises(FolderError, match='node17'), locked(at): pass
    note.unlink(); monkeypatch.setattr(run_module, 'beat', .02)
    with locked(at): os.utime(note, (1, 1)); time.sleep(.5); assert note.stat().st_mtime > 2     # it gives signs of life
    assert not note.exists() and not list(at.glob('.clock*'))


@pytest.mark.skipif(os.name == 'nt', reason='signals are sent differently there')
@pytest.mark.parametrize('name, code, says, state', [('SIGINT', 130, 'interrupted', 'stopped'), ('SIGTERM', 75, 'stopped: the run was asked to stop (SIGTERM, did not leave within 1 s and was ended)', 'stopped'), ('SIGUSR1', 75, 'stopped: the run was asked to stop (SIGUSR1, did not leave', 'stopped')])
def test_a_run_that_is_broken_off_says_so_and_leaves_no_process(home, name, code, says, state):
    "This job does not look whether it is asked to stop, so it is ended."
    with subprocess.Popen([*command, 'run', 'games/sleeper', '--out', str(home/f'sleeper-{name}')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, 'BRAINRECON_GRACE': '1'}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as p:      # a test run in the background has Ctrl-C switched off
        line = next(l for l in p.stdout if l.startswith('kernel'))
        p.send_signal(getattr(signal, name)); p.wait(30); said = p.stderr.read()
        assert p.returncode == code and says in said and 'Traceback' not in said, said
    told = load_json(home/f'sleeper-{name}'/'status.json'); assert told['state'] == state and told['attempts'][-1]['state'] == state
    for _ in range(50):
        try: os.kill(int(line.split()[1]), 0); time.sleep(.1)
        except ProcessLookupError: break
    else: pytest.fail('the process of the notebook is still alive')

@pytest.mark.skipif(os.name == 'nt', reason='signals are sent differently there')
def test_the_notebook_does_not_outlive_a_killed_command(home):
    with subprocess.Popen([*command, 'run', 'games/sleeper', '--out', str(home/'left')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        line = next(l for l in p.stdout if l.startswith('kernel')); p.kill(); p.wait(30)
    for _ in range(80):
        try: os.kill(int(line.split()[1]), 0); time.sleep(.1)
        except ProcessLookupError: break
    else: pytest.fail('the process of the notebook is still alive')
    assert load_json(home/'left'/'status.json')['state'] == 'running'


@pytest.mark.parametrize('words, code, says', [
    (['run', 'games/coin', 'flips=many'], 2, 'error: `flips`'), (['run', 'games/com'], 2, 'Did you mean'),
    (['run', 'games/coin', '--recipee', 'bent'], 2, 'not understood'),
    (['demo', 'steps=3'], 2, 'brainrecon run demo/01_demo steps=3'), ([], 2, 'required'), (['jobs', 'games/coin'], 0, ''), (['--version'], 0, '')])
def test_exit_codes(home, words, code, says):
    done = cli(*words)
    assert done.returncode == code and says in done.stderr and 'Traceback' not in done.stderr


def test_a_recipe_may_end_either_way(tmp_path, monkeypatch):
    from brainrecon.core.checks import UnknownError
    from brainrecon.jobs.parameters import find_job, resolve
    monkeypatch.delenv('BRAINRECON_JOBS', raising=False); job = find_job('check/03_short')
    for end in ('yml', 'yaml'): (tmp_path/f'mine.{end}').write_text('job: check/03_short\nparameters:\n  value: 7\n'); assert resolve(job, tmp_path/f'mine.{end}')['value'].value == 7
    for end in ('yml', 'yaml'): pytest.raises(UnknownError, resolve, job, f'{tmp_path}/yours.{end}').match('no recipe file')


def test_doctor_refuses_a_device_that_is_not_there(monkeypatch, capsys):
    for name in ('foo', 'cuda:x', 'cuda:99'):
        monkeypatch.setenv('BRAINRECON_DEVICE', name)
        assert print_doctor(check_device()) == 1 and 'export BRAINRECON_DEVICE=cpu' in capsys.readouterr().out
        assert 'bad' in [f.state for f in doctor() if f.name == 'device asked for']
    monkeypatch.delenv('BRAINRECON_DEVICE'); assert check_device() == []


def test_data_make_prepares_what_its_help_says(monkeypatch):
    made = []
    monkeypatch.setattr('brainrecon.jobs.cli.make_data', lambda kinds, subject: made.append((tuple(kinds), subject)))
    assert main(['data', 'make']) == main(['data', 'make', '--kind', 'meg', '--subject', '2']) == 0
    assert made == [(('eeg', 'meg', 'fmri'), 1), (('meg',), 2)]


def test_the_command_starts_without_torch(home):
    code = 'import sys; from brainrecon.jobs.cli import main; main(["jobs"]); sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


@pytest.mark.parametrize('path', real, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_job_notebooks(path):
    job = read_job(path)
    assert job.title and job.about and all(p.comment for p in job.parameters)
    cells = json.loads(path.read_text())['cells']; code = [c for c in cells if c['cell_type'] == 'code']
    assert len(code) <= 15 and all(c.get('execution_count') is None and not c['outputs'] for c in code)
    assert not any('default_exp' in ''.join(c['source']) or '| export' in ''.join(c['source']) for c in code)
    assert not any(re.search(r'^(def|class) ', ''.join(c['source']), re.M) for c in code)
    assert (path.parent/'.notest').exists(), 'an empty .notest keeps nbdev_test from running jobs with their defaults'


@pytest.mark.parametrize('path', sorted((root/'nbs'/'08_jobs'/'recipes').glob('*.yml')), ids=lambda p: p.stem)
def test_recipes(path):
    from brainrecon.jobs.parameters import find_job, read_yaml, recipe_jobs
    at = root/'nbs'/'08_jobs'; found = read_yaml(path); used = set()
    for name in recipe_jobs(found):
        job = find_job(name, at); got = load_recipe(path.stem, job, at); used |= set(got)
        assert found.get('about') and resolve(job, path.stem, at=at) and got, name
    assert used == set(found['parameters'])


def test_folders_are_those_of_the_caller(tmp_path, monkeypatch):
    "A job works in its run folder; a relative `root` is meant from where the command was typed."
    monkeypatch.chdir(tmp_path); job = find_job('retrieval/01_decode', ROOT/'nbs'/'08_jobs')
    got = resolve(job, None, dict(root='my data', pictures=''))
    assert got['root'].value == str(tmp_path/'my data') and got['pictures'].value == '' and resolve(job)['root'].value == ''
    (tmp_path/'runs'/'mine').mkdir(parents=True); (tmp_path/'embedded').mkdir(); job = find_job('hvf/03_reconstruct', ROOT/'nbs'/'08_jobs')      # what may be a name, too, is a path where there is one
    assert [resolve(job, None, dict(prior=v))['prior'].value for v in ('runs/mine', 'fusion-prior-h14', 'runs/other')] == [str(tmp_path/'runs'/'mine'), 'fusion-prior-h14', 'runs/other'] and resolve(job, None, dict(autoencoder='embedded'))['autoencoder'].value == 'embedded'
