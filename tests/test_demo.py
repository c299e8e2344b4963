"""The demo and the main job, whole: above chance on simulated recordings, and at chance when shuffled.

They run with the cache of the tests; everything in them is the real path, nothing is replaced. The demo is README's first command, letter by letter, in a clone of this tree and in an
environment made for it, over the packages that are here. Whoever has seen it goes on to first lines of Python. With packages from the index and
empty caches `brainrecon run check/04_journeys` goes all ways, also those too long for here: a first job and its page, a replayed stream, a page with sliders, a tutorial, the tests themselves, the site.
"""
import json, os, re, subprocess, sys
from pathlib import Path
import pytest
from brainrecon.jobs.journeys import readme
from brainrecon.jobs.run import run_job
from checkout import checkout

COMMAND = str(Path(sys.executable).with_name('brainrecon'))   # the command that a user types, of this environment

def brainrecon(*args, runs, **kw):
    return subprocess.run([COMMAND, *args], env={**os.environ, 'BRAINRECON_RUNS': str(runs)}, capture_output=True, text=True, timeout=1200, **kw)

def once(tmp_path_factory, *words):
    "A command, run once: where its runs are, and what it printed."
    runs = tmp_path_factory.mktemp('runs'); done = brainrecon(*words, runs=runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs, done.stdout

TAKEN = ['demo', 'python']     # journeys: three minutes

@pytest.fixture(scope='module')
def journeys(tmp_path_factory):
    "A stranger with README.md at hand: the job, its place kept."
    if os.name == 'nt': pytest.skip('README has other lines for Windows')
    at = tmp_path_factory.mktemp('journeys'); return run_job('check/04_journeys', out=at/'run', show=False, journeys=TAKEN, source=str(checkout(at/'source')), fresh=False, keep=True, cache=os.environ['BRAINRECON_CACHE'])

@pytest.fixture(scope='module')
def demo(journeys):
    "Where its run is, and what it printed."
    said = (journeys.folder/'place'/'said'/'02-demo.txt').read_text(encoding='utf-8'); return (journeys.folder/'place'/'brainrecon'/said.strip().splitlines()[-1].removeprefix('report: ')).parent, said

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "The main job with decoders that are trained in it, as in its recipe but for the seeds and a shorter training, and for MEG alone: the demo has the others."
    return once(tmp_path_factory, 'run', 'retrieval/01_decode', '--recipe', 'demo', 'seeds=0', 'kinds=meg', 'steps=80')

def scores(ran):
    "Of a run folder, or of the only one in a folder of runs."
    folder = ran[0] if (ran[0]/'scores.json').exists() else next(p for p in ran[0].iterdir() if p.is_dir())
    return json.loads((folder/'scores.json').read_text(encoding='utf-8')), folder


# --- the demo

def test_ends_with_one_report(demo):
    "The last line names a report that exists, holds all that it shows, and begins with the pictures side by side; the scores stand above it."
    lines = demo[1].strip().splitlines(); s, folder = scores(demo); page = (folder/'report.html').read_text(encoding='utf-8')
    assert lines[-1].startswith('report: ') and lines[-1].endswith('report.html') and 'src="http' not in page and '<script' not in page and page.count('data:image/png') == 7
    assert page.index('data:image/png') < page.index('>Scores<') and 'no person was recorded' in page
    assert any('chance 0.005  of 200' in l for l in lines) and 'The test set was read once in this run, once in all runs' in demo[1] and 'Unable to parse' not in demo[1]

@pytest.mark.parametrize('kind, system, least', [('EEG', 'AVDE', .3), ('EEG', 'HVF', .2), ('fMRI', 'AVDE', .8), ('fMRI', 'HVF', .6), ('fMRI', 'MindHier', .3)])
def test_systems_name_and_draw_what_they_never_met(demo, kind, system, least):
    "Named of 200 far above chance, the control at chance; drawings nearer to what was seen than those of the control, by pixels and by a judge."
    s, folder = scores(demo); rows = {(r['measure'], r['control']): r for r in s['rows'] if r['method'] == system and f'simulated {kind}' in r['what']}; top, control = rows['top1', False], rows.get(('top1', True))
    assert top['low'] > least > 40*top['chance'] and top['n'] == top['candidates'] == 200 and top['simulated'] and (control is None) == (system == 'MindHier') and (control is None or control['value'] < .025)
    for measure in ('pixcorr', 'lite2 two-way'):
        drawn, other = rows[measure, False], rows[measure, True]; assert drawn['n'] == 100 and drawn['value'] > other['high'] and drawn['low'] > other['value'] and (measure == 'pixcorr' or drawn['low'] > .5 and abs(other['value'] - .5) < .09), (drawn, other)
    for cost in ('parameters', 'milliseconds'): assert 0 < rows[cost, False]['value'] < 1e4

def test_the_demo_keeps_answers_drawings_and_figures(demo):
    s, folder = scores(demo); assert s['test_readings'] == 1 and s['first'] == ['side-by-side-eeg', 'side-by-side-fmri']
    assert {p.stem for p in (folder/'figures').glob('*.png')} == {'side-by-side-eeg', 'side-by-side-fmri', *(f'neighbours-{k}-{n}' for k, n in (('eeg', 'avde'), ('eeg', 'hvf'), ('fmri', 'avde'), ('fmri', 'hvf'), ('fmri', 'mindhier')))}
    assert len(list((folder/'predictions').glob('*.safetensors'))) == 9 and len([p for p in (folder/'drawings').iterdir() if p.name != 'shared']) == 10


# --- journeys

@pytest.mark.parametrize('name', TAKEN)
def test_journey(name, journeys, record_property):
    "It ends as the page says; what each line took is noted, and a quarter of an hour is the most: other tests are running."
    rows = [r for r in journeys.scores()['rows'] if re.match(rf'{name}(:|$)', r['what'])]; last = rows.pop(); assert last['measure'] == 'as the page says' and last['value'] == 1 and last['note'], last
    for r in rows: record_property(r['what'], r['value']); print(f'{r["what"]}: {r["value"]:g} s')
    assert rows and all(0 < r['value'] < 900 and r['setting'] == 'packages that were here' for r in rows) and rows[-1]['note'] == last['note'] and not any('exit status' in r['note'] for r in rows)

def test_the_first_command_is_that_of_the_page(journeys):
    "Set-up and demo in one line, and quick when it is run again, as README says."
    rows = [r for r in journeys.scores()['rows'] if r['what'].startswith('demo: ')]; line = readme['demo'].rpartition(' && ')
    assert [(r['what'], r['measure']) for r in rows] == 2*[(f'demo: {line[0]}', 'seconds, installing'), (f'demo: {line[2]}', 'seconds')] and rows[3]['value'] < 60 and rows[3]['value'] < rows[1]['value']

def test_what_journeys_ended_with(journeys):
    "A report, and numbers of the page; each in the environment that the first line made."
    rows = journeys.scores()['rows']; ended = {r['what']: r['note'] for r in rows if r['measure'] == 'as the page says'}; assert list(ended) == TAKEN and 'rows of AVDE, HVF and MindHier' in ended['demo']
    assert 'letter by letter' in ended['python']
    assert any('Commit ' in n for n in journeys.scores()['notes']) and (journeys.folder/'figures'/'journeys.png').exists() and (journeys.folder/'place'/'brainrecon'/'.venv'/'bin'/'brainrecon').exists()


# --- trained from nothing

def test_above_chance_and_lost_when_shuffled(trained):
    "200-way: the interval over concepts lies above chance; the shuffled control stays near it."
    rows = [r for r in scores(trained)[0]['rows'] if 'simulated MEG,' in r['what']]
    assert {(r['what'].split(',')[0], r['measure'], r['control']) for r in rows} == {(d, m, c) for d in ('ridge', 'contrastive') for m in ('top1', 'top5') for c in (False, True)}
    for r in rows:
        assert r['candidates'] == r['n'] == 200 and r['simulated'] and abs(r['chance'] - {'top1': 1, 'top5': 5}[r['measure']]/200) < 1e-9
        if r['control']: assert r['value'] < {'top1': 0.025, 'top5': 0.06}[r['measure']], r     # five and two standard errors above chance
        else: assert r['low'] > r['chance'], r
        assert len(r['seeds']) == 1

def test_run_folder_is_complete(trained):
    "Notebook, parameters, log, scores, decoders, figures and report; the test set read once."
    s, folder = scores(trained)
    assert s['test_readings'] == 1
    for name in ('notebook.ipynb', 'params.json', 'status.json', 'log.txt', 'scores.json', 'report.html'): assert (folder/name).stat().st_size > 100, name
    p = json.loads((folder/'params.json').read_text(encoding='utf-8'))
    assert all(k in json.dumps(p) for k in ('versions', 'commit', 'device', 'seeds'))
    assert len(list((folder/'decoders').rglob('*.safetensors'))) >= 4 and len(list((folder/'figures').glob('*.png'))) == 5 and len(list((folder/'predictions').glob('*.safetensors'))) >= 4

@pytest.mark.parametrize('change, words', [(['kinds=eeg,ecog'], 'ecog'), (['stepz=3'], 'steps'), (['subjects=[0]'], 'subject'), (["network='conv'", "kinds=['eeg']", 'window=[0.0,9.0]'], 'window')])
def test_bad_values_get_an_answer(tmp_path, change, words):
    "A wrong value ends with a message that names it and a code that is not zero."
    done = brainrecon('run', 'retrieval/01_decode', *change, runs=tmp_path)
    assert done.returncode in (1, 2) and words in done.stderr and 'Traceback' not in done.stderr, done.stdout[-1500:] + done.stderr[-1500:]
