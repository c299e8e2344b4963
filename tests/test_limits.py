"What is said when memory runs out, what presets hold in memory, and how cost grows: counted, measured in processes of their own, and fitted."
import json, os, re, resource, signal, subprocess, sys
from pathlib import Path
import numpy as np, nbformat, pytest, torch
from notebooks import ROOT
from brainrecon.core.memory import MemoryLack, asked_for, lacked_memory, memory_lack, memory_named, memory_there, size_words, smaller_batch
from brainrecon.encoders.hierarchy import HierarchyEncoder
from brainrecon.generators.levels import Told
from brainrecon.generators.switti import Switti, switti_configs
from brainrecon.jobs.parameters import find_job, recipes, resolve
from brainrecon.core.files import load_json
from brainrecon.jobs.run import RunFailed, run_job
from brainrecon.jobs.scaling import fit_power, plan_rows, pretraining_plan
from brainrecon.jobs.presets import kept_bytes, lighter, machine_of, memory_advice, parts_advice, preset_rows, stages, training_bytes

def job_at(folder, cell):
    "A job of one's own with two recipes."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# A game\n\n> Is it too large?'), *map(nbformat.v4.new_code_cell, ["data = 'd'  # set\nbatch_size = 64  # examples\naccumulate = 2  # parts\nout = ''  # run folder", 'from brainrecon.jobs.run import start\nrun = start(out)', cell])])
    nb.cells[1].metadata['tags'] = ['parameters']; (folder/'games').mkdir(parents=True); nbformat.write(nb, folder/'games'/'big.ipynb'); (folder/'recipes').mkdir()
    for name, text in (('big', 'batch_size: 64'), ('big-24gb', 'accumulate: 16'), ('big-cpu', 'batch_size: 8'), ('huge', 'batch_size: 512')): (folder/'recipes'/f'{name}.yml').write_text(f'job: games/big\nparameters:\n  {text}\n')
    return folder


@pytest.mark.parametrize('cell, says', [('import os; os.kill(os.getpid(), 9)', 'process of the notebook died'), ('import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)); bytearray(2**34)', 'MemoryError'), ("raise RuntimeError('CUDA out of memory. Tried to allocate 20.50 GiB.')", '22.0 GB more were asked for')])
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits and kills are tried on Linux')
def test_a_run_says_what_to_take_instead(tmp_path, cell, says):
    at = job_at(tmp_path/'jobs', cell)
    with pytest.raises(RunFailed) as e: run_job('games/big', 'big', tmp_path/'run', at=at, show=False)
    text = str(e.value); assert says in text and '`brainrecon run games/big --recipe big-24gb` and `brainrecon run games/big --recipe big-cpu`' in text and 'huge' not in text and '`accumulate=4` (the same updates, 16 at a time instead of 32)' in text, text
    assert ('ended by the system, usually because the memory was not enough' in text) == ('died' in text) and 'are free now' in text
    assert 'big-24gb' in load_json(tmp_path/'run'/'status.json')['error']


limited = '''import resource, sys
{imports}
at = int(open('/proc/self/statm').read().split()[0])*resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (at + {room}, at + {room}))
from brainrecon.core.memory import memory_named, smaller_batch
try:
    with memory_named('align seed 0, step 1', do=smaller_batch(64)): {work}
except Exception as e: print(type(e).__name__, '|', e, '|', type(e.__cause__).__name__, '|', e.facts['where'])
'''


def child(work, imports='', room=2**28):
    "What a process says that may not grow by more than `room`."
    done = subprocess.run([sys.executable, '-c', limited.format(work=work, imports=imports, room=room)], capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('work, imports, cause, asked', [('bytearray(2**32)', 'import brainrecon.core.memory', 'MemoryError', ''), ('np.ones(2**30)', 'import numpy as np, brainrecon.core.memory', 'MemoryError', '8.6 GB'),
    ('torch.ones(2**30)', 'import torch, brainrecon.core.memory', 'RuntimeError', '4.3 GB')])
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the limit of a process is tried on Linux')
def test_a_real_lack_of_memory_is_named(work, imports, cause, asked):
    said = child(work, imports); assert said.startswith('MemoryLack | align seed 0, step 1: memory ran out') and f'| {cause} |' in said and asked in said, said
    assert '`accumulate=2`' in said and 'of the shell (ulimit -v)' in said and 'were free' in said


def test_other_errors_pass():
    for e in (KeyError('x'), RuntimeError('shapes differ'), OSError(28, 'No space left on device'), KeyboardInterrupt()):
        with pytest.raises(type(e)) as got:
            with memory_named('x'): raise e
        assert got.value is e
    first = MemoryLack('a;', 'b.', '', 'c.')
    with pytest.raises(MemoryLack) as got:
        with memory_named('x'): raise first
    assert got.value is first      # named once


@pytest.mark.parametrize('text, n', [('CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0', int(1.5*2**30)), ("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes. Error code 12", 2**32),
    ('Unable to allocate 7.28 TiB for an array with shape (1000000,)', int(7.28*2**40)), ('Tried to allocate 512.00 MiB.', 512*2**20), ('out of memory', None), ('', None)])
def test_what_was_asked_for(text, n): assert asked_for(text) == n


def test_advice_for_a_batch_can_be_followed():
    "The number of parts divides the batch, is larger than before, and a part holds at least one example."
    for batch in (2, 3, 7, 15, 16, 64, 96, 1024):
        for now in (k for k in range(1, batch + 1) if batch % k == 0):
            m = re.search(r'`accumulate=(\d+)`: (\d+) example', smaller_batch(batch, now))
            if batch//now < 2: assert not m; continue
            assert int(m[1]) > now and batch % int(m[1]) == 0 and int(m[2])*int(m[1]) == batch


too_large = """import resource, torch
from brainrecon.core.batches import Batches
from brainrecon.core.fit import Fit
net = torch.nn.Sequential(torch.nn.Linear(4, 20_000), torch.nn.ReLU(), torch.nn.Linear(20_000, 1)); work = lambda m, b: m(b[0]).square().mean()
Fit(net, work, log=None, device='cpu').run(Batches(torch.zeros(64, 4), batch_size=2), 1)
at = int(open('/proc/self/statm').read().split()[0])*resource.getpagesize(); resource.setrlimit(resource.RLIMIT_AS, (at + 2**28, at + 2**28))
try: Fit(net, work, log=None, device='cpu', name='align seed 0').run(Batches(torch.zeros(8192, 4), batch_size=8192), 1)
except Exception as e: print(type(e).__name__, '|', e)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the limit of a process is tried on Linux')
def test_a_training_that_is_too_large_says_which_batch_to_take():
    done = subprocess.run([sys.executable, '-c', too_large], capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONPATH': str(ROOT)}); assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('MemoryLack | align seed 0, step 1: memory ran out when 655.4 MB more') and '`accumulate=2`: 4096 examples' in done.stdout, done.stdout


# --- presets

def test_lighter_recipes_ask_for_less_and_end():
    "Following the advice never goes in a circle: of two recipes, each cannot be lighter than the other with the same numbers."
    for name in ('mindhier/02_generate', 'hvf/02_prior'):
        job = find_job(name)
        for r in recipes(job):
            for other in lighter(job, r): assert other != r and other in recipes(job) and machine_of(other)[1] <= machine_of(r)[1]
    for name, r in ('avde/03_generate', 'avde-things-eeg2'), ('avde/03_generate', 'avde-eeg-imagenet'), ('hvf/01_retrieve', 'hvf-things-eeg2'): assert not [o for o in lighter(find_job(name), r) if 'embedded' in o], 'simulated recordings in the place of real ones'
    counts = lambda r: max(s['all'] for s in preset_rows('hvf/01_retrieve', r)); assert counts('hvf-things-eeg2-cpu') > counts('hvf-things-eeg2') and 'hvf-things-eeg2-cpu' not in lighter(find_job('hvf/01_retrieve'), 'hvf-things-eeg2')
    job = find_job('avde/05_swap'); assert 'no recipe of this job asks for less' in memory_advice(job, 'avde-things-eeg2', resolve(job, 'avde-things-eeg2'))
    assert machine_of('a-b-24gb') == ('a-b', 24.) and machine_of('a-cpu') == ('a', 0.) and machine_of('a') == ('a', float('inf'))


def test_a_recipe_is_counted_or_says_why():
    for name, some in (('mindhier/02_generate', list(recipes(find_job('mindhier/02_generate')))), ('hvf/01_retrieve', ['hvf-embedded', 'hvf-samga']), ('hvf/02_prior', ['hvf-prior-embedded']), ('retrieval/01_decode', ['demo'])):
        for r in some:
            for row in preset_rows(name, r): assert row.get('why') or row['all'] == sum(row[k] for k in ('weights', 'gradients', 'optimiser', 'copies', 'kept for the way back')) > 0


SIZED = [(j, n, int(m[1])) for j in stages for n, about in recipes(find_job(j)).items() if (m := re.search(r'one GPU of (\d+) GB', about))]

@pytest.mark.parametrize('job, recipe, gb', SIZED, ids=[f'{n}-{j.split("/")[1]}' for j, n, _ in SIZED])
def test_a_recipe_for_a_gpu_counts_less_than_the_gpu_has(job, recipe, gb):
    rows = [r['all']/1e9 for r in preset_rows(job, recipe) if 'all' in r]; assert rows and max(rows) < .92*gb, rows      # the system and what a kernel needs come on top

def test_counts_without_content_are_those_with_content():
    "The same call on the meta device and on the CPU keeps the same bytes; twice the batch keeps twice as much of what grows with it."
    make = lambda: HierarchyEncoder(200, tokens=17, text_tokens=5, width=32, heads=4, ff=64, hidden=(64,), context=8).eval()
    with torch.device('meta'): empty = make()
    for b in (2, 6): assert kept_bytes(empty, torch.empty(b, 200, device='meta')) == kept_bytes(make(), torch.randn(b, 200))


counted = '''import os, re, sys, torch
from brainrecon.jobs.presets import kept_bytes, training_bytes
from brainrecon.generators.switti import Switti, switti_configs
from brainrecon.generators.levels import Told
torch.set_num_threads(1)
most = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])*1024
config = switti_configs['mindhier'] | dict(depth=3, width=256, heads=4, patch_nums=(1, 2, 4, 8, 12))
net = Switti(**config).eval(); b = 8; told = Told(torch.randn(b, 768), [torch.randn(b, 40, 768) for _ in range(4)]); x = torch.randn(b, net.length - 1, 32)
def small(): t = Told(torch.randn(1, 768), [torch.randn(1, 4, 768) for _ in range(4)]); net(t, torch.randn(1, net.length - 1, 32)).sum().backward(); net.zero_grad()
opt = torch.optim.AdamW(net.parameters(), fused=True); small(); before = int(open('/proc/self/statm').read().split()[1])*4096
count = training_bytes(sum(p.numel() for p in net.parameters()), kept_bytes(net, told, x, fused=False)); open('/proc/self/clear_refs', 'w').write('5')
net(told, x).square().mean().backward(); opt.step()
print(count['all'] - count['weights'], most() - before)
'''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the largest memory is read from /proc')
def test_counts_are_near_what_a_process_takes():
    done = subprocess.run([sys.executable, '-c', counted], capture_output=True, text=True, timeout=200, env={**os.environ, 'OMP_NUM_THREADS': '1', 'MALLOC_MMAP_THRESHOLD_': '65536', 'PYTHONPATH': str(ROOT)}); assert done.returncode == 0, done.stderr
    said, took = map(int, done.stdout.split()); print(said/1e6, took/1e6); assert .9 < took/said < 1.5


# --- scaling

def test_the_scaling_job_runs(tmp_path):
    run = run_job('benchmark/08_scaling', out=tmp_path/'run', show=False, methods=['ridge'], trials=[50, 100, 200], voxels=[], full=False, updates=2, timed=['hvf/01_retrieve hvf-things-eeg2-cpu'], presets=['hvf/01_retrieve hvf-things-eeg2', 'retrieval/01_decode demo'])
    rows = run.scores()['rows']; assert {r['status'] for r in rows} == {'measured here', 'not run'} and [r['measure'] for r in rows].count('exponent') == 2 and {'seconds an update of one part', 'memory measured (GB)', 'memory counted (GB)'} <= {r['measure'] for r in rows}
    for r in rows:
        if r['measure'] == 'exponent': assert r['low'] <= r['value'] <= r['high'] and r['n'] == 3 and r['over'] == 'sizes' and '50 to 200' in r['note']
        if r['measure'] == 'hours of training': assert r['value'] is None and 'not measured' in r['note']
    assert (run.folder/'figures'/'scaling.png').is_file() and (run.folder/'plan.csv').is_file() and not (run.folder/'data').exists()


@pytest.mark.parametrize('power', [0., .5, 1., 2.3])
def test_exponents_are_found_again(power):
    x = 2.**np.arange(3, 9); f = fit_power(x, 7*x**power); assert abs(f['exponent'] - power) < 1e-9 and abs(f['factor'] - 7) < 1e-6 and abs(f['local'] - power) < 1e-9 and (f['first'], f['last'], f['n']) == (8, 256, 6)


def test_the_plan_is_multiplication_and_says_so():
    p = pretraining_plan(dict(fuse=dict(seconds=3., examples=30, note='n'), hierarchy=None), dict(fuse=2, hierarchy=5)); row = p[p.set == 'things-eeg2'].iloc[0]
    assert abs(row.hours - 661600*2*.1/3600) < 1e-9 and row.updates == -(-661600*2//30) and p[p.method == 'hierarchy'].hours.isna().all()
    for r in plan_rows(p): assert r['status'] == 'not run' and r['value'] is None and ('extrapolated' in r['note'] or 'not measured' in r['note'])
