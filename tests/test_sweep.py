"Sweeps: refused whole or run whole; a failure, a signal or a death takes no other run with it, and the same command goes on."
import io, json, os, re, signal, subprocess, sys, time
from pathlib import Path
import psutil, pytest
from test_jobs import resume, write
from brainrecon.core.checks import ParameterError, UnknownError
from brainrecon.core.files import load_json, save_json
from brainrecon.jobs import sweep_run
from brainrecon.jobs.parameters import find_job, jobs_folder, resolve
from brainrecon.jobs.run import fingerprint, folder_name
from brainrecon.jobs.sweep import check_wanted, earlier, expand, expected, make_plan, place_of, plan_words, read_sweep, sweep_of, total_time, wanted
from brainrecon.jobs.sweep_run import Screen, Sweep, Worker, carry_out, finish, graphics_cards, run_sweep, sweep_folder

coin = ['''flips = 100   # of the coin
bias  = 0.5   # how often it shows its head
sides = ['head', 'tail']  # what it can show
wait  = 0.    # seconds
out   = ''    # run folder''', '''import json, os, time
from pathlib import Path''', '''if flips > 1000: raise ValueError('nobody flips so often')
if flips == 666: os.kill(os.getpid(), 9)
Path('began.txt').write_text('x')
print('kernel', os.getpid(), flush=True)
time.sleep(wait)
Path('scores.json').write_text(json.dumps(dict(title='A coin', rows=[dict(what='a coin', measure='share', value=flips/1000, simulated=True)])))''']

command = [sys.executable, '-c', '''
import argparse, sys
from brainrecon.jobs.sweep_run import obey_sweep, sweep_words
p = argparse.ArgumentParser(); sub = p.add_subparsers()
sweep_words(lambda name, text, **kw: sub.add_parser(name, help=text, **kw))
args, rest = p.parse_known_args(['sweep', *sys.argv[1:]]); sys.exit(obey_sweep(args, rest))
''']


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name, cells in dict(coin=coin, resume=resume).items(): write(tmp_path/'jobs'/'games'/f'{name}.ipynb', cells)
    (tmp_path/'jobs'/'recipes').mkdir(); (tmp_path/'jobs'/'sweeps').mkdir()
    (tmp_path/'jobs'/'recipes'/'bent.yml').write_text('job: games/coin\nparameters:\n  bias: {value: 9e-1, source: "a magician"}\n')
    monkeypatch.setenv('BRAINRECON_JOBS', str(tmp_path/'jobs')); monkeypatch.setenv('BRAINRECON_TRUST', str(tmp_path/'jobs')); monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path/'runs')); monkeypatch.delenv('BRAINRECON_TRACKER', raising=False)
    return tmp_path


def until(what, seconds=40):
    end = time.time() + seconds
    while not (got := what()):
        assert time.time() < end, 'it did not come'
        time.sleep(.05)
    return got


def states(book): return {r['run'].partition(' ')[2]: r['state'] for r in load_json(book)['runs']}


# --- what is asked for

@pytest.mark.parametrize('text, error, says', [
    ('runs: [{job: games/coin, values: {flip: 3}}]', ParameterError, "Did you mean 'flips'"),
    ('runs: [{job: games/coin}, {job: games/coyn}]', UnknownError, 'games/coin'),
    ('runs: [{job: games/coin, recipe: bend}]', UnknownError, 'bent'),
    ('runs: [{job: games/coin, recipe: ../../bent}]', Exception, 'bent'),
    ('runs: [{job: games/coin, values: {flips: many}}]', ParameterError, 'whole number'),
    ('runs: [{job: games/coin}]\nover: {flips: [1, 1]}', ParameterError, 'twice'),
    ('runs: [{job: games/coin}]\nover: {flips: []}', ParameterError, 'at least one'),
    ('runs: [{job: games/coin, values: {out: /tmp/x}}]', ParameterError, 'out'),
    ('runs: [{job: games/coin, values: {sides: ["a,b"]}}]', ParameterError, 'command line'),
    ('runs: {job: games/coin}', ParameterError, 'right form'), ('[]', ParameterError, 'right form'), ('runs: []', ParameterError, 'right form'), ('x: [', ParameterError, 'cannot be read'),
    ('runs: [{job: games/coin, jobs: 3}]', UnknownError, 'jobs'), ('runs: [{job: games/coin}]\nruns: []', ParameterError, 'twice'), ('!!python/object/apply:os.getpid []', ParameterError, 'cannot be read'),
])
def test_all_is_refused_before_anything_is_made(home, text, error, says):
    (home/'mine.yml').write_text(text)
    with pytest.raises(error, match=re.escape(says)): read_sweep(home/'mine.yml')
    assert not (home/'runs').exists()


def test_a_plan_makes_nothing(home, capsys):
    name, title, found = sweep_of('games/coin', 'bent', ['wait=0'], ['flips=1,2', 'sides=head,[head,tail]'])
    assert [w.given for w in found] == [dict(wait=0., flips=f, sides=s) for f in (1, 2) for s in (['head'], ['head', 'tail'])]
    assert run_sweep(name, title, found, only_plan=True) == 0 and not (home/'runs').exists()
    assert capsys.readouterr().out.count('unknown') >= 8


def test_values_of_an_entry_win(home):
    spec = dict(values=dict(bias=.25), over=dict(flips=[1, 2]), runs=[dict(job='games/coin'), dict(job='games/coin', values=dict(bias='1e-1', flips=9)), dict(job='games/resume')])
    assert [w.given for w in expand(spec)] == [dict(bias=.25, flips=1), dict(bias=.25, flips=2), dict(bias=.1, flips=9), {}]


@pytest.mark.parametrize('recipe, given, named', [(None, {}, ''), (None, dict(data='embedded'), ''), (None, dict(seeds=[0, 1, 2], draws=7), '-draws_7'), ('demo', dict(average=True), ''), (None, dict(draws=7), '-draws_7')])
def test_what_is_so_anyway_names_no_other_folder(tmp_path, recipe, given, named):
    "`brainrecon run` and `brainrecon sweep` call a run the same, whether or not a value that it has anyway was said."
    job = find_job('retrieval/01_decode'); usual = {n: p.value for n, p in resolve(job, recipe).items()}; given = {n: v for n, v in given.items() if n in usual}
    values = resolve(job, recipe, given); name = folder_name(job, recipe, values); told = {n: v for n, v in given.items() if v != usual[n]}
    assert name == f'retrieval-01_decode{"-demo"*bool(recipe)}{named}-{fingerprint(job, values)}' and name == folder_name(job, recipe, resolve(job, recipe, told)) == place_of(wanted(job.name, recipe or '', given), tmp_path).name
    assert {n for n, p in values.items() if p.came_from == 'given'} == set(told)


def test_what_was_measured_is_told_and_nothing_else(home):
    w = wanted('games/coin', '', dict(flips=5)); assert expected(w, earlier(home/'runs'))['seconds'] is None
    def done(name, job='games/coin', **values):
        at = home/'runs'/name; base = {n: p.value for n, p in w.values.items()} | values
        save_json(at/'params.json', dict(job=job, values=base)); save_json(at/'status.json', dict(state='finished', seconds=30., attempts=[dict(seconds=30., peak_mb=700.)])); return earlier(home/'runs')
    assert expected(w, done('a', flips=6))['seconds'] is None and expected(w, done('b', job='games/resume'))['seconds'] is None
    assert expected(w, done('c', out='elsewhere')) == dict(seconds=30., peak_mb=700., about=False, basis='c')
    steps = wanted('games/resume', '', dict(steps=2))
    save_json(home/'runs'/'d'/'params.json', dict(job='games/resume', values=dict(steps=8, out=''))); save_json(home/'runs'/'d'/'status.json', dict(state='finished', seconds=40., attempts=[]))
    assert expected(steps, earlier(home/'runs')) == dict(seconds=10., peak_mb=None, about=True, basis='d')


def test_kept_costs_tell_a_plan_what_runs_take(home):
    from brainrecon.jobs.results import keep_costs
    w = wanted('games/coin', '', dict(flips=5)); assert run_sweep('x', '', [w], report=False) == 0; at = place_of(w, home/'runs'); status = load_json(at/'status.json'); save_json(at/'status.json', status | dict(seconds=40.))
    keep_costs([at], home/'jobs'/'costs'/'mine.json', 'a laptop'); other = wanted('games/coin', '', dict(flips=5, bias=.5)); told = expected(other, earlier(home/'elsewhere'))
    assert told == dict(seconds=40., peak_mb=status['attempts'][0]['peak_mb'], about=False, basis='mine, kept, a laptop') and told['peak_mb'] > 10


def test_total_time_is_that_of_the_slowest_place(home):
    plan = make_plan([wanted('games/coin', '', dict(flips=i)) for i in range(5)], home/'runs')
    for p, s in zip(plan, (10, 20, 30, None, 5)): p.takes['seconds'] = s
    plan[4].state = 'finished'
    assert total_time(plan, 2) == (40, 1) and total_time(plan, 1) == (60, 1) and total_time(plan, 9) == (30, 1) and '1 of unknown length' in plan_words(plan, 2)


def test_every_sweep_of_the_library_can_be_planned(monkeypatch, tmp_path):
    monkeypatch.delenv('BRAINRECON_JOBS', raising=False); files = sorted((jobs_folder()/'sweeps').glob('*.yml')); assert {p.stem for p in files} >= {'paper-table', 'paper-table-quick'}
    for p in files: name, title, found = read_sweep(p.stem); assert found and title and make_plan(found, tmp_path)
    for w in read_sweep('paper-table')[2]:      # three seeds of everything that is trained; what comes trained has none, and no shuffled twin
        if 'seeds' in w.values: assert w.values['seeds'].value == [0, 1, 2] and w.values.get('controls', w.values['seeds']).value and not ('side_weights' in w.values and w.values['side_weights'].value), w.label


# --- running

def test_one_failure_stops_no_other_and_is_tried_again_alone(home, capsys):
    name, title, found = sweep_of('games/coin', '', [], ['flips=1,2000,666'])
    assert run_sweep(name, title, found, parallel=3, report=False) == 1
    book = next((home/'runs').glob('sweep-*/sweep.json')); assert states(book) == {'flips=1': 'finished', 'flips=2000': 'failed', 'flips=666': 'failed'}
    said = capsys.readouterr().out; assert 'nobody flips so often' in said and 'the process of the notebook died' in said and str(found and place_of(found[1], home/'runs')) in said
    assert load_json(place_of(found[0], home/'runs')/'status.json')['attempts'][0]['peak_mb'] > 10 and load_json(book)['runs'][0]['peak_mb'] > 10
    assert run_sweep(name, title, found[:1], report=False) == 0      # finished before: nothing runs
    assert run_sweep(name, title, found, parallel=2, report=False) == 1
    assert {w.given['flips']: len(load_json(place_of(w, home/'runs')/'status.json')['attempts']) for w in found} == {1: 1, 2000: 2, 666: 2}


@pytest.mark.parametrize('sign, code', [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_all_and_the_same_command_goes_on(home, sign, code):
    words = [*command, 'games/coin', '--parallel', '2', '--no-report', '--over', 'flips=1,2,3', f'wait={30 if code else 0}']
    p = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: len(list((home/'runs').glob('games-*/began.txt'))) == 2)
    family = psutil.Process(p.pid).children(recursive=True); assert len(family) >= 4       # two runners, two kernels
    p.send_signal(sign); said = p.communicate(timeout=60)[0]
    assert p.returncode == code and 'the same command goes on' in said, said
    assert not psutil.wait_procs(family, timeout=10)[1]
    book = next((home/'runs').glob('sweep-*/sweep.json')); assert sorted(states(book).values()) == ['stopped', 'stopped', 'waiting']
    for at in (home/'runs').glob('games-*'): save_json(at/'params.json', load_json(at/'params.json')); assert not (at/'lock.json').exists()


def test_it_goes_on_where_it_was_killed(home):
    "The sweep and its runs are killed; what they had done is not done again."
    run = dict(job='games/resume', values=dict(steps=5)); (home/'jobs'/'sweeps'/'two.yml').write_text(json.dumps(dict(runs=[dict(run), dict(job='games/coin', values=dict(wait=60.))])))
    p = subprocess.Popen([*command, 'two', '--parallel', '2'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: list((home/'runs').glob('games-coin*/began.txt')) and [r['state'] for r in load_json(next((home/'runs').glob('sweep-*/sweep.json')))['runs']] == ['failed', 'running'])
    family = [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]
    for q in family: q.kill()
    p.wait(); assert not psutil.wait_procs(family, timeout=10)[1]
    found = expand(dict(runs=[run, dict(job='games/coin', values=dict(wait=60.))])); plan = make_plan(found, home/'runs')
    assert [q.state for q in plan] == ['goes on', 'goes on'] and sweep_folder('two', found, home/'runs')[1][found[0].mark] == str(plan[0].folder)
    assert run_sweep('one', '', found[:1], report=False) == 0 and load_json(plan[0].folder/'scores.json')['rows'][0]['what'] == 'began at 2'


def test_a_run_that_stopped_in_time_is_no_failure(home, monkeypatch, capsys):
    "Code 75 of a run is handed on, so that a scheduler starts the sweep again; a failure beside it counts more."
    monkeypatch.setattr(sweep_run, 'start_words', [sys.executable, '-c', "import sys; sys.exit(3 if 'flips=2' in sys.argv else 75)"])
    name, title, found = sweep_of('games/coin', '', [], ['flips=1,2'])
    assert run_sweep(name, title, found[:1]) == 75 and run_sweep(name, title, found) == 1 and 'it said nothing' in capsys.readouterr().out


def test_a_run_at_work_elsewhere_is_waited_for(home):
    found = [wanted('games/coin', '', dict(wait=2.))]
    p = subprocess.Popen([*sweep_run.start_words, 'run', 'games/coin', 'wait=2'], stdout=subprocess.DEVNULL)
    until(lambda: list((home/'runs').glob('games-coin*/began.txt')))
    assert make_plan(found, home/'runs')[0].state == 'at work' and run_sweep('x', '', found, report=False) == 0
    assert p.wait(10) == 0 and len(load_json(place_of(found[0], home/'runs')/'status.json')['attempts']) == 1


def test_a_run_that_does_not_fit_is_not_started(home, capsys):
    plan = make_plan([wanted('games/coin', '', dict(flips=i)) for i in range(3)], home/'runs')
    for p, mb in zip(plan, (900., 60., 60.)): p.takes['peak_mb'] = mb
    s = Sweep(home/'runs'/'sweep-x', 'x', '', plan, 3, budget_mb=100.); most = []
    s.show = lambda: None
    step = s.step; s.step = lambda: (most.append(len(s.of('running'))), step())[1]
    assert carry_out(s, .02) == 0 and finish(s, 0, False) == 1
    assert [w.state for w in s.workers] == ['too large', 'finished', 'finished'] and max(most) == 1 and not plan[0].folder.exists()     # one after the other: two of 60 are more than 100
    assert '900 MB' in capsys.readouterr().out


def test_again_is_anew_and_then_goes_on_with_the_new_ones(home, monkeypatch):
    name, title, found = sweep_of('games/coin', '', [], ['flips=1,2']); seen = []
    def pretend(s):
        seen.append([(w.planned.folder.name, w.state) for w in s.workers]); s.save()
        for w in s.workers: save_json(w.planned.folder/'params.json', {}); save_json(w.planned.folder/'status.json', dict(state='finished'))
        return 0
    monkeypatch.setattr(sweep_run, 'carry_out', pretend); kept = [place_of(w, home/'runs').name for w in found]
    for again in (False, True, False): assert run_sweep(name, title, found, again=again, report=False) == 0
    assert seen == [[(n, 'waiting') for n in kept], [(n + '-2', 'waiting') for n in kept], [(n + '-2', 'before') for n in kept]]
    assert len(list((home/'runs').glob('sweep-*/sweep.json'))) == 2


def test_a_table_in_place(home):
    class Terminal(io.StringIO):
        def isatty(self): return True
    plan = make_plan([wanted('games/coin', '', dict(flips=i)) for i in range(40)], home/'runs'); s = Sweep(home/'x', 'x', '', plan, 2); out = Terminal()
    for w in s.workers[:30]: w.state, w.took = 'finished', 3.
    screen = Screen(s, out); screen.live = True; screen.show([]); first = out.getvalue(); screen.show([])
    lines = first.splitlines(); size = sweep_run.shutil.get_terminal_size()
    assert len(lines) <= size.lines - 1 and all(len(re.sub('\x1b.*?[AJ]', '', l)) < size.columns for l in lines) and '30 finished, 10 waiting' in lines[-1]
    assert f'\x1b[{len(lines)}A' in out.getvalue()[len(first):]


def test_every_run_is_told_how_to_start(home, tmp_path, monkeypatch):
    "Processes and a network that is not to be used belong to each command; GPUs are dealt out in turn, one for each process."
    cards = tmp_path/'bin'/'nvidia-smi'; cards.parent.mkdir(); cards.write_text('#!/bin/sh\nprintf "GPU-a\\nGPU-b\\nGPU-c\\nGPU-d\\n"\n'); cards.chmod(0o755)
    monkeypatch.setenv('PATH', f'{cards.parent}:{os.environ["PATH"]}'); monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False); assert graphics_cards() == ['GPU-a', 'GPU-b', 'GPU-c', 'GPU-d']
    plan = make_plan([wanted('games/coin', '', dict(flips=i)) for i in range(2)], home/'runs'); how = ['--processes', '2', '--offline']; s = Sweep(home/'x', 'x', '', plan, 2, how=how); given = []
    assert [w.words for w in s.workers] == [['run', 'games/coin', '--out', str(p.folder), *how, *p.wanted.words[2:]] for p in plan]
    monkeypatch.setattr(Worker, 'start', lambda w, env: given.append(env)); s.room = lambda w: True; s.step()
    assert [e['CUDA_VISIBLE_DEVICES'] for e in given] == ['GPU-a,GPU-b', 'GPU-c,GPU-d'] and {int(e['OMP_NUM_THREADS']) for e in given} == {max(1, min(sweep_run.processors()//4, int(os.environ.get('OMP_NUM_THREADS') or 99)))}
    assert Sweep(home/'x', 'x', '', plan, 1).cards == []      # one at a time has them all
    cards.write_text('#!/bin/sh\necho No devices were found\n'); assert graphics_cards() == []
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', ''); assert graphics_cards() == []


@pytest.mark.parametrize('given, says', [(['--slurm', '--plan'], 'Leave `--slurm` away'), (['--submit', '--parallel', '2'], '`--at-once`'), (['--slurm', '--budget', '4'], '`--memory`'), (['--slurm', '--again'], '`--out`'), (['--budget', '-3'], 'gigabytes'),
    (['--parallel', '0'], 'from 1'), (['--processes', '-1'], 'from 1'), (['--accelerate', 'x'], 'accelerate'), (['--slurm', '--hours', '-1'], 'hours'), (['--gpus', '1'], 'without `--slurm`')])
def test_words_that_would_do_nothing_are_refused(home, given, says, capsys):
    from brainrecon.jobs.cli import main
    assert main(['sweep', 'games/coin', '--over', 'flips=1,2', *given]) == 2 and says in capsys.readouterr().err and not (home/'runs').exists()


def test_own_jobs_are_executed_when_asked_alone(home, monkeypatch, capsys):
    from brainrecon.jobs.cli import main
    monkeypatch.delenv('BRAINRECON_TRUST'); words = ['sweep', 'games/coin', '--over', 'flips=1,2']
    assert main([*words, '--plan']) == 0 and main(words) == 2 and main([*words, '--slurm']) == 2 and capsys.readouterr().err.count('BRAINRECON_TRUST') == 2 and not list((home/'runs').glob('games-*'))


def test_a_script_for_a_cluster_holds_the_same_commands(home):
    done = subprocess.run([*command, 'games/coin', '--over', 'flips=1,2', '--slurm'], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for f in (1, 2): assert re.search(rf'brainrecon run games/coin --out \S*games-coin-flips_{f}-\w{{8}} flips={f};;', done.stdout)
    assert '#SBATCH --array=0-1' in done.stdout and not (home/'runs').exists()
