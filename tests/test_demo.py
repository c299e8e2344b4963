"""The main job, whole: above chance on simulated EEG, MEG and fMRI, at chance when shuffled, and the same result after a kill.

These run the README's demo with the cache of the tests; everything in them is the real path, nothing is replaced.
"""
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest

COMMAND = str(Path(sys.executable).with_name('brainrecon'))   # the command that a user types, of this environment

def brainrecon(*args, runs, **kw):
    return subprocess.run([COMMAND, *args], env={**os.environ, 'BRAINRECON_RUNS': str(runs)}, capture_output=True, text=True, timeout=1200, **kw)

@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    "The demo, run once: where its runs are, and what it printed."
    runs = tmp_path_factory.mktemp('runs'); done = brainrecon('demo', runs=runs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs, done.stdout

def test_ends_with_report_and_scores(demo):
    "The last line names a report that exists, and the scores stand above it."
    _, text = demo
    reports = [Path(l.removeprefix('report: ')) for l in text.splitlines() if l.startswith('report: ')]
    assert len(reports) == 3 and text.strip().splitlines()[-1] == f'report: {reports[2]}' and all(p.is_file() for p in reports)
    for page in (p.read_text(encoding='utf-8') for p in reports): assert 'imulated' in page and 'src="http' not in page
    assert 'chance 0.005  of 200' in text and 'The test set was read once in this run, once in all runs' in text and 'Unable to parse' not in text

def scores(demo, job='retrieval'):
    (folder,) = [p for p in demo[0].iterdir() if p.is_dir() and p.name.startswith(job)]
    return json.loads((folder/'scores.json').read_text(encoding='utf-8')), folder

@pytest.mark.parametrize('kind', ['EEG', 'MEG', 'fMRI'])
def test_above_chance_and_lost_when_shuffled(demo, kind):
    "200-way: the interval over concepts lies above chance; the shuffled control stays near it."
    rows = [r for r in scores(demo)[0]['rows'] if f'simulated {kind},' in r['what']]
    assert {(r['what'].split(',')[0], r['measure'], r['control']) for r in rows} == {(d, m, c) for d in ('ridge', 'contrastive') for m in ('top1', 'top5') for c in (False, True)}
    for r in rows:
        assert r['candidates'] == r['n'] == 200 and r['simulated'] and abs(r['chance'] - {'top1': 1, 'top5': 5}[r['measure']]/200) < 1e-9
        if r['control']: assert r['value'] < {'top1': 0.025, 'top5': 0.06}[r['measure']], r     # five and two standard errors above chance
        else: assert r['low'] > r['chance'], r
        assert len(r['seeds']) == (1 if r['what'].startswith('ridge') and not r['control'] else 3)

def test_drawings_are_of_what_was_seen(demo):
    "The packaged AVDE: the reader names held-out pictures, and its drawings are nearer to what was seen than chance, the control's and the mean."
    s, folder = scores(demo, 'avde'); rows = {(r['measure'], r['control'], 'ceiling' in r['what']): r for r in s['rows'] if r['what'].startswith('AVDE')}
    assert rows['top1', False, False]['low'] > .2 and rows['top1', True, False]['value'] < .025 and s['test_readings'] == 1
    for measure, chance in (('lite2 two-way', .5), ('pixcorr', 0.)):
        drawn, control = rows[measure, False, False], rows[measure, True, False]
        assert drawn['low'] > chance and drawn['low'] > control['high'] and drawn['simulated'], (drawn, control)
    assert abs(rows['lite2 two-way', True, False]['value'] - .5) < .06
    assert len(list((folder/'figures').glob('*.png'))) >= 6 and list((folder/'drawings').rglob('*'))

def test_levels_are_read_and_drawn(demo):
    "The packaged MindHier, which is not trained here: it names and draws things that it never met; drawings from other responses are at chance."
    s, folder = scores(demo, 'mindhier'); rows = {(r['measure'], r['control'], 'another' in r['what']): r for r in s['rows'] if r['what'].startswith('MindHier') and 'themselves' not in r['what']}
    assert rows['top1', False, False]['low'] > .3 and s['test_readings'] == 1 and all(rows[f'two-way, level {k}', False, False]['low'] > .85 for k in range(1, 5))
    for measure, chance in (('lite2 two-way', .5), ('pixcorr', 0.)):
        drawn, other = rows[measure, False, False], rows[measure, True, True]
        assert drawn['low'] > chance and drawn['low'] > other['high'] and drawn['simulated'], (drawn, other)
    assert abs(rows['lite2 two-way', True, True]['value'] - .5) < .06 and any(p.name.startswith('scales') for p in (folder/'figures').glob('*.png'))

def test_run_folder_is_complete(demo):
    "Notebook, parameters, log, scores, decoders, figures and report; the test set read once."
    s, folder = scores(demo)
    assert s['test_readings'] == 1
    for name in ('notebook.ipynb', 'params.json', 'status.json', 'log.txt', 'scores.json', 'report.html'): assert (folder/name).stat().st_size > 100, name
    p = json.loads((folder/'params.json').read_text(encoding='utf-8'))
    assert all(k in json.dumps(p) for k in ('versions', 'commit', 'device', 'seeds'))
    assert len(list((folder/'decoders').rglob('*.safetensors'))) >= 30 and len(list((folder/'figures').glob('*.png'))) == 7 and len(list((folder/'predictions').glob('*.safetensors'))) >= 30

def test_second_time_is_quick(demo):
    "A finished run says so and prints the same scores."
    started = time.monotonic(); again = brainrecon('demo', runs=demo[0])
    assert again.returncode == 0 and 'finished before' in again.stdout and again.stdout.strip().splitlines()[-1] == demo[1].strip().splitlines()[-1]
    assert time.monotonic() - started < 60

def test_killed_run_goes_on_to_the_same_scores(tmp_path):
    "kill -9 in the middle of training; the same command ends with the scores of an undisturbed run."
    small = ['run', 'retrieval/01_decode', "kinds=['fmri']", 'seeds=[0,1]', "decoders=['contrastive']", 'steps=60', 'controls=False']
    whole = brainrecon(*small, runs=tmp_path/'whole'); assert whole.returncode == 0, whole.stderr[-2000:]
    process = subprocess.Popen([COMMAND, *small], env={**os.environ, 'BRAINRECON_RUNS': str(tmp_path/'cut')}, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if 'contrastive seed 1' in line and 'step' in line: break
    os.killpg(process.pid, signal.SIGKILL); process.wait(); process.stdout.close()
    assert not list((tmp_path/'cut').rglob('scores.json'))
    resumed = brainrecon(*small, runs=tmp_path/'cut'); assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert 'goes on in' in resumed.stdout and 'already trained' in resumed.stdout
    read = lambda at: json.loads(next(at.rglob('scores.json')).read_text(encoding='utf-8'))['rows']
    assert read(tmp_path/'whole') == read(tmp_path/'cut')

@pytest.mark.parametrize('change, words', [(['kinds=eeg,ecog'], 'ecog'), (['stepz=3'], 'steps'), (['subjects=[0]'], 'subject'), (["network='conv'", "kinds=['eeg']", 'window=[0.0,9.0]'], 'window')])
def test_bad_values_get_an_answer(tmp_path, change, words):
    "A wrong value ends with a message that names it and a code that is not zero."
    done = brainrecon('run', 'retrieval/01_decode', *change, runs=tmp_path)
    assert done.returncode in (1, 2) and words in done.stderr and 'Traceback' not in done.stderr, done.stdout[-1500:] + done.stderr[-1500:]
