"""Two processes that share every batch, compared with one: all trainings of this library, the job with its runner, weights divided among processes.

What is trained on agrees to 1e-6 at every look; what held-out data give to 1e-3, and a share that counts pairs to one pair of 132; at least 99.5 of a hundred weights
to 2e-6, none being further off than 2e-4. Left out are weights on which no loss depends: a bias before a batch normalisation (and the mean that this keeps), the bias
of an attention's keys, the factor of a norm over one number. Their gradient is rounding alone, and the optimiser, which divides by its size, takes full steps along it.
"""
import json, os, re, signal, socket, subprocess, sys
from pathlib import Path
import numpy as np
import psutil
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.numpy import load_file
from brainrecon.core.checks import ParameterError, ShapeError, seeded
from brainrecon.core.together import AsOne, Share, added, own_rows, together
from brainrecon.jobs.launch import accelerate_file, configurations, launch_line, wanted

HERE = Path(__file__).parent; SCRIPT = str(HERE/'together_cases.py'); COMMAND = str(Path(sys.executable).with_name('brainrecon'))
env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
names = re.findall(r'@case\ndef (\w+)', (HERE/'together_cases.py').read_text(encoding='utf-8'))
divided = ['generator', 'switti', 'fusion_prior']     # large generators, at a tiny size
free = re.compile(r'(tsconv\.[04]|backbone\.[01267]|space\.0|^0|to_k|in_proj|qkv|k_norm|key_projection)[._]?bias$|running_mean$|mixer_blocks2\.\d+\.0\.weight$')

def run(line, **more):
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, env=env | more); assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-4000:]; return done.stdout
def many(count, *words): return [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(count), SCRIPT, *map(str, words)]
def rows(at): return [json.loads(line) for f in sorted(at.rglob('log.jsonl')) for line in f.read_text(encoding='utf-8').splitlines()]

@pytest.fixture(scope='module')
def ends(tmp_path_factory):
    at = tmp_path_factory.mktemp('ends'); run([sys.executable, SCRIPT, str(at/'one')]); run(many(2, at/'two')); return at

@pytest.mark.parametrize('name', names)
def test_two_processes_train_as_one(ends, name):
    one, two = rows(ends/'one'/name), rows(ends/'two'/name); assert one and len(one) == len(two)
    for a, b in zip(one, two):
        assert a.keys() == b.keys() and a['step'] == b['step']
        for k in a: assert abs(a[k] - b[k]) <= (.01 if k == 'valid_identify' else 1e-3 if k.startswith('valid_') else 1e-6)*max(1, abs(a[k])), (name, a['step'], k, a[k], b[k])
    a, b = (torch.load(ends/w/name/'end.pt', weights_only=True) for w in ('one', 'two')); assert a.keys() == b.keys()
    for k in a:
        if free.search(k) or not a[k].is_floating_point(): continue
        off = (a[k].double() - b[k].double()).abs(); off = off[a[k].isfinite()]; assert not len(off) or (off.max() < 2e-4 and (off <= 2e-6).double().mean() > .995), (name, k, float(off.max()))

def test_three_processes_with_nothing_left_for_one(tmp_path, ends):
    "Batches of 33 rows in parts of 11, and a last one of two rows for three processes."
    (tmp_path/'small.py').write_text(f'''
import os, sys; sys.path.insert(0, {str(HERE)!r})
import numpy as np, torch, torch.nn as nn
from brainrecon.alignment.contrast import info_nce
from brainrecon.core.checks import seeded
from brainrecon.core.fit import Batches, Fit
torch.set_num_threads(1); gen = np.random.default_rng(0); x, z = gen.normal(size=(23, 6)).astype('float32'), gen.normal(size=(23, 4)).astype('float32')
with seeded(0): net = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(.3), nn.Linear(16, 4))
rows = Fit(net, lambda m, b: info_nce(m(b[0]), b[1]), lr=1e-2, device='cpu', log=None).run(Batches(x, z, batch_size=7), 8, every=1)
if os.environ.get('RANK', '0') == '0': torch.save(([r['loss'] for r in rows], net.state_dict()), sys.argv[1])
if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
''')
    line = many(3, tmp_path/'three.pt'); line[line.index(SCRIPT)] = str(tmp_path/'small.py'); run([sys.executable, str(tmp_path/'small.py'), str(tmp_path/'one.pt')]); run(line)
    (one, a), (three, b) = (torch.load(tmp_path/f'{n}.pt', weights_only=True) for n in ('one', 'three')); assert np.allclose(one, three, rtol=0, atol=2e-6) and all(torch.allclose(a[k].double(), b[k].double(), atol=1e-5) for k in a)


def test_one_process_begins_and_two_go_on(tmp_path):
    "Asked to stop in its middle, and continued by another number of processes; the other way round, too."
    (tmp_path/'half.py').write_text(f'''
import os, signal, sys; sys.path.insert(0, {str(HERE)!r})
import numpy as np, torch, torch.nn as nn, torch.nn.functional as F
from brainrecon.core.checks import seeded
from brainrecon.core.fit import Batches, Fit
from brainrecon.core.stop import StopAsked, listen
torch.set_num_threads(1); listen(); gen = np.random.default_rng(0); x, y = gen.normal(size=(40, 6)).astype('float32'), gen.normal(size=(40, 2)).astype('float32'); calls = []
with seeded(0): net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(.3), nn.Linear(16, 2))
def loss(m, b):
    calls.append(1)
    if len(calls) == int(sys.argv[2]) and os.environ.get('RANK', '0') == '0': os.kill(os.getpid(), signal.SIGTERM)
    return F.mse_loss(m(b[0]), b[1])
try: rows = Fit(net, loss, lr=1e-2, ema=.9, device='cpu', log=None, folder=sys.argv[1]).run(Batches(x, y, batch_size=10), 12, every=5)
except StopAsked as e: print(str(e).splitlines()[0])
else: os.environ.get('RANK', '0') == '0' and torch.save(net.state_dict(), sys.argv[1] + '/end.pt')
if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
''')
    def go(count, at, stop): line = [sys.executable, str(tmp_path/'half.py')] if count == 1 else many(2)[:-1] + [str(tmp_path/'half.py')]; return run([*line, str(tmp_path/at), str(stop)])
    go(1, 'whole', 0)
    for first, second in ((1, 2), (2, 1)):
        at = f'{first}-{second}'; assert 'at step 7 of 12' in go(first, at, 7); go(second, at, 0); a, b = (torch.load(tmp_path/n/'end.pt', weights_only=True) for n in ('whole', at)); assert all(torch.allclose(a[k], b[k], rtol=0, atol=2e-6) for k in a)
        one, two = rows(tmp_path/'whole'), rows(tmp_path/at); assert all(abs(p[k] - q[k]) < 1e-6 for p, q in zip(one, two, strict=True) for k in p)


# ---- weights divided among processes

@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    at = tmp_path_factory.mktemp('parts'); conf = dict(configurations['fsdp'], use_cpu=True); conf['fsdp_config'] = dict(conf['fsdp_config'], fsdp_min_num_params=500); (at/'fsdp.json').write_text(json.dumps(conf))
    line = [sys.executable, '-m', 'accelerate.commands.launch', '--config_file', str(at/'fsdp.json'), '--num_processes', '2', '--main_process_port', '0', '--cpu', SCRIPT]
    run([*line, str(at/'two'), *divided]); return at, line

@pytest.mark.parametrize('name', divided)
def test_divided_weights_train_as_whole_ones(ends, parts, name):
    one, two = rows(ends/'one'/name), rows(parts[0]/'two'/name); assert len(one) == len(two) and all(abs(a[k] - b[k]) <= 2e-6*max(1, abs(a[k])) for a, b in zip(one, two) for k in a if not k.startswith('valid_'))
    a, b = (torch.load(p/name/'end.pt', weights_only=True) for p in (ends/'one', parts[0]/'two')); assert a.keys() == b.keys()
    for k in a:
        if free.search(k): continue
        off = (a[k].double() - b[k].double()).abs()[a[k].isfinite()]; assert not len(off) or (off.max() < 2e-4 and (off <= 2e-6).double().mean() > .99), (name, k, float(off.max()))


# ---- the pieces

def test_rows_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ShapeError, match='first axis'): Share((3, 2), 0).times(4)

def test_alone_nothing_changes():
    x = torch.randn(4, 3, requires_grad=True); assert together(x) is x and own_rows(x) is x and added(x) is x

@pytest.mark.parametrize('sizes', [(3, 3), (3, 2), (2, 2, 1), (1, 0)])
@pytest.mark.parametrize('what', [lambda x: F.dropout(x, .5), lambda x: F.dropout2d(x[..., None, None].expand(-1, -1, 2, 2), .5), lambda x: torch.rand_like(x), lambda x: torch.randn(len(x), 2), lambda x: torch.randint(3, 9, (len(x),)), lambda x: x.new_empty(len(x), 1).bernoulli_(.5), lambda x: F.dropout(x.repeat(2, 1).view(2, len(x), 4).transpose(0, 1).reshape(-1, 4), .3)])
def test_chance_is_that_of_the_whole_batch(what, sizes):
    n, at = sum(sizes), 0; x = torch.arange(4.*n).view(n, 4) + 1
    with seeded(7): whole = what(x)
    for r, k in enumerate(sizes):
        with seeded(7), AsOne(Share(sizes, r)): part = what(x[at:at+k] if k else x[:1])
        m = len(whole)//n; assert not k or torch.equal(part, whole[at*m:(at+k)*m]); at += k

def test_chance_follows_the_order_in_memory():
    x = torch.arange(24.).view(6, 4).t().contiguous().t() + 1
    with seeded(7): whole = F.dropout(x, .5)
    for r in range(2):
        with seeded(7), AsOne(Share((3, 3), r)): assert torch.equal(F.dropout(x[3*r:3*r+3], .5), whole[3*r:3*r+3])

@pytest.mark.parametrize('dropout', [.3, 0.])
def test_attention_drops_the_same(dropout):
    with seeded(0): net = nn.TransformerDecoderLayer(8, 2, 16, dropout, batch_first=True).train(); x, m = torch.randn(6, 5, 8), torch.randn(6, 3, 8)
    with seeded(1): whole = net(x, m)
    for r in range(2):
        with seeded(1), AsOne(Share((3, 3), r)): assert torch.allclose(net(x[3*r:3*r+3], m[3*r:3*r+3]), whole[3*r:3*r+3], atol=1e-6)


# ---- the job

ALIGN = "avde/01_align encoders=labram align_options=[labram.patch=80,labram.width=80,labram.depth=2,labram.heads=4,labram.mlp_ratio=1,labram.drop_path=.3] layer=pooled align_targets=scaled align_batch_size=32 align_steps=40 align_every=4 align_lr=.003 draws=100 seeds=0 controls=False device=cpu".split()

@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    "The folder in which two processes that were left in peace have run the job, as `two`, and what they said."
    at = tmp_path_factory.mktemp('pair'); return at, run([COMMAND, 'run', *ALIGN, '--processes', '2', '--out', str(at/'two')], BRAINRECON_RUNS=str(at/'runs'))

def test_a_job_in_two_processes_gives_the_table_of_one(pair):
    "The command that a user types: the notebook starts the processes, opens the test once, and scores what they have trained."
    tmp_path, said = pair; runs = dict(BRAINRECON_RUNS=str(tmp_path/'runs')); run([COMMAND, 'run', *ALIGN, '--out', str(tmp_path/'one')], **runs)
    assert '2 processes train together' in said and said.index('align seed 0  step 40/40') < said.index('2 processes have trained') < said.index('labram-seed0: already aligned')
    one, two = (json.loads((tmp_path/n/'scores.json').read_text(encoding='utf-8'))['rows'] for n in ('one', 'two')); assert one and len(one) == len(two)
    for a, b in zip(one, two): assert all(a[k] == b[k] if not isinstance(a[k], float) else abs(a[k] - b[k]) <= 1e-6 for k in a)
    assert [len(v) for v in json.loads((tmp_path/'two'/'test_readings.json').read_text()).values()] == [1]
    a, b = (load_file(tmp_path/n/'predictions'/'eeg-s01-labram-seed0.safetensors') for n in ('one', 'two')); assert np.abs(a['query'] - b['query']).max() < 5e-6
    told = json.loads((tmp_path/'two'/'processes'/'rank-0.json').read_text()); assert told == dict(state='trained', error='', processes=2)
    said = run([COMMAND, 'run', *ALIGN, '--processes', '2', '--accelerate', 'fsdp', '--out', str(tmp_path/'fsdp')], **runs); three = json.loads((tmp_path/'fsdp'/'scores.json').read_text(encoding='utf-8'))['rows']
    assert 'by accelerate with fsdp' in said and json.loads((tmp_path/'fsdp'/'accelerate.json').read_text())['distributed_type'] == 'FSDP'
    for a, b in zip(one, three, strict=True): assert all(a[k] == b[k] if not isinstance(a[k], float) else abs(a[k] - b[k]) <= 1e-6 for k in a), (a, b)

def finished_by_launcher(at, said):
    status = json.loads((at/'status.json').read_text()); assert status['state'] == 'finished' and len(status['attempts']) == 1 and 'labram-seed0: already aligned' in said and (at/'report.html').exists()
    assert json.loads((at/'processes'/'rank-0.json').read_text()) == dict(state='trained', error='', processes=2)

def test_several_machines(tmp_path, monkeypatch):
    "The script for two machines, here both this one, each with a torchrun of its own: told to stop, all save that very step and the job goes back into the queue; it comes again, and one of them scores."
    fake, calls = tmp_path/'fake', tmp_path/'calls'; fake.mkdir()
    for name, text in dict(scontrol='case "$2" in hostnames) echo localhost;; job) echo JobState=RUNNING;; *) echo "$@" >> CALLS;; esac', srun='''while [ "${1#-}" != "$1" ]; do case "$1" in --nodes=*) n=${1#*=};; esac; shift; done
pids=; for i in $(seq $n); do "$@" & pids="$pids $!"; done; trap 'kill -TERM $pids' TERM
code=0; for p in $pids; do while :; do wait $p; c=$?; kill -0 $p 2>/dev/null || break; done; [ $c = 0 ] || code=$c; done; exit $code''').items(): (fake/name).write_text('#!/bin/bash\n' + text.replace('CALLS', str(calls))); (fake/name).chmod(0o755)
    at = tmp_path/'runs'/'mine'; printed = run([COMMAND, 'run', *ALIGN, '--out', str(at), '--slurm', '--nodes', '2'], BRAINRECON_RUNS=str(tmp_path/'runs')); script = tmp_path/'job.sh'; script.write_text(printed)
    with socket.socket() as s: s.bind(('localhost', 0)); port = s.getsockname()[1]
    around = env | dict(PATH=f'{fake}:{os.environ["PATH"]}', SLURM_JOB_ID='7', SLURM_JOB_NODELIST='n[1-2]'); script.write_text(printed.replace('port=$((29500 + SLURM_JOB_ID % 1000))', f'port={port}'))
    with subprocess.Popen(['bash', str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=around) as p:
        said = ''
        for t in p.stdout:
            said += t
            if re.search(r'align seed 0  step +(8|9|1\d)/40', t): break
        p.send_signal(signal.SIGUSR1); said += p.stdout.read()
    assert p.returncode == 75 and calls.read_text().startswith('requeue'), said; step = int(max(at.glob('readers/*/*/step-*.pt')).stem[5:]); assert 0 < step < 40
    done = subprocess.run(['bash', str(script)], capture_output=True, text=True, env=around, timeout=300); assert done.returncode == 0 and f'goes on from step {step}' in done.stdout, done.stdout + done.stderr; finished_by_launcher(at, done.stdout)

def test_a_killed_process_ends_the_run_and_the_next_start_goes_on(tmp_path, pair):
    "kill -9 of the second process: nobody waits for it for ever, and two processes that go on end as two that were left in peace, to the last bit."
    line = [COMMAND, 'run', *ALIGN, '--processes', '2', '--out']; runs = dict(BRAINRECON_RUNS=str(tmp_path/'runs'))
    with subprocess.Popen([*line, str(tmp_path/'cut')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env | runs) as p:
        next(t for t in p.stdout if re.search(r'align seed 0  step +(8|9|1\d)/40', t))
        second = [q for q in psutil.Process(p.pid).children(recursive=True) if 'brainrecon.jobs.launch' in q.cmdline() and q.environ().get('RANK') == '1']; assert len(second) == 1; second[0].kill(); p.stdout.read(); said = p.stderr.read()
    assert p.returncode == 1 and 'training in 2 processes failed' in said, said
    again = run([*line, str(tmp_path/'cut')], **runs); assert re.search(r'goes on from step (4|8|12|16|20)\b', again)
    f = 'readers/eeg-s01/labram-seed0.safetensors'; a, b = load_file(pair[0]/'two'/f), load_file(tmp_path/'cut'/f); assert a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)
    assert (pair[0]/'two/readers/eeg-s01/labram-seed0/log.jsonl').read_text() == (tmp_path/'cut/readers/eeg-s01/labram-seed0/log.jsonl').read_text()

def test_an_error_in_one_process_is_told(tmp_path):
    bad = [w if not w.startswith('align_lr') else 'align_lr=1e20' for w in ALIGN]; done = subprocess.run([COMMAND, 'run', *bad, '--processes', '2', '--out', str(tmp_path/'run')], capture_output=True, text=True, timeout=300, env=env | dict(BRAINRECON_RUNS=str(tmp_path/'runs')))
    assert done.returncode == 1 and 'training in 2 processes failed' in done.stderr and 'finite' in done.stderr, done.stderr

def test_what_cannot_be_started(tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match='from 1'): launch_line(tmp_path, 0)
    with pytest.raises(ParameterError, match='accelerate config'): accelerate_file('nowhere.yaml', tmp_path)
    monkeypatch.setenv('BRAINRECON_ACCELERATE', 'fsdp'); monkeypatch.delenv('BRAINRECON_PROCESSES', raising=False)
    with pytest.raises(ParameterError, match='with one process'): wanted()
    monkeypatch.setenv('BRAINRECON_PROCESSES', '2'); assert wanted() == (2, 'fsdp')
    assert json.loads(accelerate_file('fsdp', tmp_path).read_text())['distributed_type'] == 'FSDP' and 'accelerate.commands.launch' in launch_line(tmp_path, 2, 'fsdp')

def test_drawings_of_a_job_do_not_depend_on_how_many_drew_them(tmp_path):
    "The table of a job that draws and judges, alone and with the rows dealt out."
    from brainrecon.jobs.fault_runs import job_line
    for n in '12': said = run([*job_line('reconstruction/01_baselines', tmp_path/n), 'drawers=linear', '--processes', n], BRAINRECON_RUNS=str(tmp_path/'runs'))
    assert '2 processes' in said; one, two = (json.loads((tmp_path/n/'scores.json').read_text(encoding='utf-8'))['rows'] for n in '12'); assert len(one) == len(two) == 3
    for a, b in zip(one, two): assert all(a[k] == b[k] if not isinstance(a[k], float) else abs(a[k] - b[k]) <= 1e-6 for k in a), (a, b)

def how_many(rows): return np.full(len(rows), len(rows))

def test_rows_that_are_worked_through_together_stay_together():
    from brainrecon.core.pool import over_rows, pool_of, whole
    with pool_of(3): many, few = over_rows(how_many, np.arange(100)), over_rows(how_many, np.arange(13))
    assert many.tolist() == [32]*32 + [32]*32 + [36]*36 and whole == 16 and few.tolist() == [4]*4 + [5]*5 + [4]*4      # too few to keep sixteen together: shared evenly

def test_drawings_are_dealt_out():
    "Three processes, a number of rows that they do not divide: each row is drawn as alone, up to rounding."
    from brainrecon.core.pool import pool_of, pools
    from brainrecon.data.embedded import load_embedded
    from brainrecon.decoders.mindhier import packaged_mindhier
    d, test = packaged_mindhier(device='cpu'), load_embedded('fmri', 1, snr_db=-6., exemplars=2).valid.average()[:13]; one = d.draw(test, 2, 5)
    with pool_of(3): assert pools; many = d.draw(test, 2, 5)
    assert not pools and one.shape == many.shape == (13, 2, 128, 128, 3) and (one != many).mean() < 1e-3 and np.abs(one.astype(int) - many).mean() < .05
    test = load_embedded('fmri', 1, snr_db=-6., exemplars=2).valid.average()[:36]; torch.set_num_threads(1); one = d.draw(test, 1, 5)
    with pool_of(2): many = d.draw(test, 1, 5)
    assert np.array_equal(one, many), 'enough rows for each: the same batches, and the same pictures'

