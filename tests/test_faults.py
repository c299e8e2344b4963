"""Faults: a training job that is killed with -9 in the middle of a checkpoint's write, that runs out of room, and whose newest checkpoint is damaged ends with the weights, the courses and the scores of an undisturbed run, bit for bit.

A sample: one job and every kind of fault (test_hvf_draw_job.py kills one that reads the test and draws). All jobs, killed twenty times each: `brainrecon run check/01_faults`. The commands are those that a user types, with tiny sizes; nothing is replaced.
"""
import json, os, re, subprocess, sys, textwrap
from pathlib import Path
import pytest
from brainrecon.core.files import NoRoom, full_disk
from brainrecon.jobs.fault_runs import attempts_of, checked_run, closed, fault_rows, job_line, jobs_to_break, lot_of, needed, trained, undisturbed, undisturbed_at
from brainrecon.jobs.faults import Watch, alike, at_look, compared_files, cut, damage, differences_of, fill_disk, finish, harms
from brainrecon.jobs.parameters import find_job, resolve
from brainrecon.jobs.report import check_scores
from brainrecon.core.checks import rng
from notebooks import ROOT

HERE = ROOT/'nbs'/'08_jobs'
linux = pytest.mark.skipif(sys.platform != 'linux', reason='sizes of files are limited from outside on Linux alone')


@pytest.fixture(scope='module')
def whole(tmp_path_factory): return tmp_path_factory.mktemp('whole')

def steps_at(training): return sorted(int(p.stem.removeprefix('step-')) for p in training.glob('step-*.json'))

def writes(training): return lambda watch: any(at == training and steps_at(watch.folder/at) for at, _ in watch.writing())     # not the first one: a checkpoint is there to go on from

def attempts_in(folder): return (folder/'log.txt').read_text(encoding='utf-8').split('--- attempt ')[1:]


# Every fault, one after the other, in one run

@linux
def test_one_run_survives_every_fault(whole, tmp_path):
    "Killed at a write, no room for anything, no room for large files, the newest checkpoint damaged; then left alone."
    job = 'build/03_avde'; info = undisturbed(job, whole, log=lambda t: None); at, said = tmp_path/'broken', tmp_path/'broken.txt'; line = job_line(job, at, whole); assert info['looks'] >= 10 and info['trainings'] == 3
    killed = cut(line, at, said, when=writes('training/tokenizer/words')); assert killed.kind == 'write' and 'tokenizer/words' in killed.wrote and attempts_of(at) == ['running']
    (at/'.status-1-ab12.part.json').write_text('{')     # what a kill may leave of any file
    for large, file in (False, r'[\w.-]+'), (True, 'step-|best'):
        code, words = fill_disk(line, at, said, 1, large); assert code and re.search(f"there is no room left to write '({file})", words) and 'Make room' in words and 'Traceback' not in words, words[-3000:]
        assert not [n for n in compared_files(at) if '.part' in n], 'something was left'; assert json.loads((at/'params.json').read_text())['job'] == job
    assert attempts_of(at) == ['running', 'running', 'failed'] and 'no room left' in json.loads((at/'status.json').read_text())['error']     # the second could not even be noted
    assert cut(line, at, said, when=lambda watch: watch.spare({'training/generator': 10**6})); generator = at/'training'/'generator'; steps = steps_at(generator); assert len(steps) == 2
    path = damage(generator, harms[1]); assert path.name == f'step-{steps[1]:08d}.pt'
    finish(line, said); log = attempts_in(at)[-1]; assert f'checkpoint {path.name} is damaged' in log and f'generator  goes on from step {steps[0]}\n' in log
    assert differences_of(undisturbed_at(whole, job), at) == [] and attempts_of(at) == ['running', 'running', 'failed', 'running', 'finished']


def test_what_is_not_the_same_is_found(whole, tmp_path):
    "A byte of an array, a row, a score, a file that was left: the comparison sees each."
    import shutil
    import numpy as np, torch
    from safetensors.numpy import load_file, save_file
    job = 'build/03_avde'; info = undisturbed(job, whole, log=lambda t: None); one = undisturbed_at(whole, job)
    def spoiled(name, do): at = tmp_path/name; shutil.copytree(one, at); do(at); return differences_of(one, at)
    def weights(at): p = at/'packed'/'scale.safetensors'; a = load_file(p); k = next(k for k, v in a.items() if v.dtype.kind == 'f'); a[k] = np.nextafter(a[k], a[k] + 1); save_file(a, p)
    def state(at): p = sorted((at/'training'/'generator').glob('*.pt'))[-1]; s = torch.load(p, weights_only=True); s['chance'][0]['torch'][-1] ^= 1; torch.save(s, p)
    def score(at): p = at/'scores.json'; s = json.loads(p.read_text()); s['rows'][0]['value'] += 1e-12; p.write_text(json.dumps(s))
    assert spoiled('none', lambda at: None) == [] and checked_run(job, whole, tmp_path/'none', [], info) == []
    p = tmp_path/'none'/'status.json'; s = json.loads(p.read_text()); s['attempts'][-1]['state'] = 'failed'; p.write_text(json.dumps(s)); assert checked_run(job, whole, tmp_path/'none', [], info) == ["status.json: ['failed']"]
    assert spoiled('weights', weights) == ['packed/scale.safetensors: differs'] and [d.endswith('.pt: differs') for d in spoiled('state', state)] == [True] and spoiled('score', score) == ['scores.json: differs']
    assert spoiled('left', lambda at: (at/'training'/'.x.part.pt').touch()) == ['training/.x.part.pt: only in the disturbed run']
    assert spoiled('row', lambda at: (at/'training'/'generator'/'log.jsonl').open('a').write('{}\n')) == ['training/generator/log.jsonl: differs']
    assert alike([float('nan')], [float('nan')]) and not alike(torch.zeros(2), torch.zeros(2, dtype=torch.float64)) and not alike([1], (1,)) and not alike(torch.zeros(1), -torch.zeros(1))


def test_what_a_kill_leaves_of_an_old_checkpoint_goes(tmp_path):
    "Killed between a fingerprint and its checkpoint, which are removed one after the other, a file would be left for ever."
    import torch
    from brainrecon.core.batches import Batches
    from brainrecon.core.checkpoint import list_checkpoints, save_checkpoint
    from brainrecon.core.fit import Fit
    files = lambda at: sorted(p.name for p in at.glob('step-*')); at = tmp_path/'saved'; wanted = ['step-00000003.json', 'step-00000003.pt', 'step-00000004.json', 'step-00000004.pt']
    for step in (1, 2): save_checkpoint(at, step, dict(a=torch.ones(1)))
    list_checkpoints(at)[0].with_suffix('.json').unlink()
    for step in (3, 4): save_checkpoint(at, step, dict(a=torch.ones(1)))
    assert files(at) == wanted
    def run(): return Fit(torch.nn.Linear(2, 1), lambda net, b: net(b[0]).square().mean(), folder=tmp_path/'fit', device='cpu', log=None).run(Batches(torch.ones(8, 2), batch_size=4), 4, every=1)
    run(); (tmp_path/'fit'/'step-00000002.pt').write_bytes((tmp_path/'fit'/'step-00000003.pt').read_bytes()); run(); assert files(tmp_path/'fit') == wanted     # after its last write, too


# A full disk, in the words of each library

WRITERS = textwrap.dedent("""
    import sys
    from pathlib import Path
    import numpy as np, torch
    from safetensors.numpy import save_file
    from brainrecon.core.checkpoint import save_checkpoint, save_weights
    from brainrecon.core.files import NoRoom, atomic, save_arrays, save_json
    at, big = Path(sys.argv[1]), np.random.default_rng(0).standard_normal(400_000)
    if sys.argv[2] == 'limit':
        import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    def numpy_file():
        with atomic(at/'a.npy') as tmp: np.save(tmp, big)
    def text():
        with atomic(at/'a.txt') as tmp: tmp.write_text('a'*3_000_000)
    for write in (numpy_file, text, lambda: save_arrays(at/'a.safetensors', a=big), lambda: save_weights(at/'w.safetensors', dict(a=torch.from_numpy(big))), lambda: save_checkpoint(at, 3, dict(a=torch.from_numpy(big))), lambda: save_json(at/'a.json', big.tolist())):
        try: write(); print('written')
        except NoRoom as e: print(e.came)
    print(sorted(p.name for p in at.iterdir()))
""")

def says_so(text):
    lines = text.strip().splitlines(); assert [re.search(r"no room left to write '(.*?)'", l)[1] for l in lines[:-1]] == ['a.npy', 'a.txt', 'a.safetensors', 'w.safetensors', 'step-00000003.pt', 'a.json'], text
    assert lines[-1] == '[]', 'something was left'

@linux
def test_no_room_by_a_limit(tmp_path):
    done = subprocess.run([sys.executable, '-c', WRITERS, str(tmp_path), 'limit'], capture_output=True, text=True); assert done.returncode == 0, done.stderr[-2000:]
    says_so(done.stdout)

@linux
def test_no_room_on_a_small_disk(tmp_path):
    "A disk of its own of one megabyte, where the system lets a user mount one."
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path}'
    if subprocess.run(['unshare', '-Urm', 'sh', '-c', mount], capture_output=True).returncode: pytest.skip('no disk can be mounted here')
    done = subprocess.run(['unshare', '-Urm', 'sh', '-c', f'{mount} && exec "$@"', 'sh', sys.executable, '-c', WRITERS, str(tmp_path), 'disk'], capture_output=True, text=True); assert done.returncode == 0, done.stderr[-2000:]
    says_so(done.stdout)

def test_other_errors_are_no_full_disk():
    assert not any(map(full_disk, [OSError(13, 'Permission denied'), RuntimeError('shapes differ'), ValueError('os error 28'), OSError('os error 280')])) and full_disk(OSError(28, 'x')) and issubclass(NoRoom, ValueError)


# The table

@pytest.mark.parametrize('job', jobs_to_break)
def test_values_of_the_table_are_those_of_the_job(job):
    values = jobs_to_break[job]; got = resolve(find_job(job, HERE), None, values, HERE)
    as_given = lambda k, v: got[k].value in (v, os.path.abspath(v)) if isinstance(v, str) and v[:1] == '{' else got[k].value == v      # the folder of another run, seen from here
    assert all(as_given(k, v) for k, v in values.items()) and all(n in jobs_to_break for n in needed(job)) and ('device' in values or job.startswith('build/'))

def test_every_job_that_trains_is_in_the_table():
    "Whichever job notebook or function of a job reaches `Fit` stands in the table; jobs that do not train are named here."
    idle = {'avde/04_evaluate', 'avde/06_scales', 'build/01_pictures', 'build/02_semantics', 'data/01_prepare', 'data/02_look', 'evaluate/01_pictures', 'report/01_compare', 'demo/01_demo', 'stream/01_replay'}     # the last has a ridge in one step
    idle |= {'build/06_sides'}      # trains by the means of avde/01_align and hvf/03_reconstruct, which stand in the table
    some = {f'{p.parent.name}/{p.stem}' for p in HERE.glob('*/*.ipynb') if p.parent.name not in ('benchmark', 'check')}
    assert some - idle - {j for j in some if j.startswith(('sweep/', 'paper/'))} == set(trained) | set(closed)

def test_a_difference_is_an_error():
    from brainrecon.jobs.fault_runs import check_faults
    from brainrecon.jobs.faults import FaultFailed
    cuts = lambda *kinds: [dict(kind=k, looks=1) for k in kinds]; one = dict(job='avde/01_align', fault='killed', n=12, same=12, runs=3, odd=[], info=dict(looks=4), cuts=cuts(*['moment']*11, 'write')); check_faults([one])
    with pytest.raises(FaultFailed, match='weights.npy: differs'): check_faults([one, dict(one, fault='damaged', odd=['weights.npy: differs'])])
    with pytest.raises(FaultFailed, match='no kill came while'): check_faults([dict(one, cuts=cuts(*['moment']*12))])
    check_faults([dict(one, job='encoding/01_voxels', cuts=cuts(*['moment']*12)), dict(one, n=4, cuts=cuts(*['moment']*4))])      # that one writes none; a sample of four may miss
    (row,) = fault_rows([dict(job='avde/01_align', fault='damaged', n=0, same=0, odd=[])]); assert row['status'] == 'not run' and row['value'] is None


def test_kills_and_rows():
    info = dict(seconds=12., looks=3); lots = [lot_of(info, k, rng(0, k)) for k in range(60)]; after = [l['after'] for l in lots[::3]]; assert after == [lot_of(info, k, rng(0, k))['after'] for k in range(0, 60, 3)]
    assert all(('when' in l) == (k % 3 > 0) for k, l in enumerate(lots)) and 0 <= min(after) < 3 and 9 < max(after) <= 12 and set(lot_of(dict(seconds=12., looks=0), 2, rng(0))) == {'after'}
    watch = Watch('.'); watch.rows, watch.first, watch.writing = dict(a=2), 1, lambda: ['x']; assert at_look(2)(watch) and not at_look(3)(watch) and at_look(3, write=True)(watch) and not at_look(4, write=True)(watch)
    watch.first = 2; assert not at_look(1)(watch) and at_look(1, write=True)(watch); watch.writing = lambda: []; assert not at_look(1, write=True)(watch)
    rows = fault_rows([dict(job='avde/01_align', fault='killed', n=4, same=3, runs=2, odd=['a: differs'], cuts=[dict(kind='write'), *[dict(kind='moment')]*3])]); s = check_scores(dict(title='t', rows=rows))
    assert s['rows'][0]['value'] == .75 and s['rows'][0]['n'] == 4 and '1 of 4' in s['rows'][0]['note'] and 'a: differs' in s['rows'][0]['note']
