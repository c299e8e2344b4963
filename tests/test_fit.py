"The training loop goes on exactly after a stop, survives being killed, and gives the same on two processes as on one."
import json, os, random, signal, subprocess, sys, textwrap
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from brainrecon.core.checkpoint import list_checkpoints
from brainrecon.core.checks import CheckpointError, ParameterError, ReconError, seeded
from brainrecon.core.fit import Batches, Fit
from brainrecon.core.stop import StopAsked, listening

gen = np.random.default_rng(0)
x = gen.normal(size=(50, 6)).astype('float32'); y = gen.normal(size=(50, 2)).astype('float32')

def net(dropout=.2):
    with seeded(1): return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 2))

def error(model, batch): return dict(square=F.mse_loss(model(batch[0]), batch[1]), size=1e-3*model(batch[0]).square().mean())
def held_out(model): return dict(loss=F.mse_loss(model(torch.tensor(x[:20])), torch.tensor(y[:20])))
def same(a, b): return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))

class Stop(Exception): pass

def train(folder, stop_at=None, steps=60, loss=error, **more):
    model = net(); calls = 0; goes = more.get('accumulate', 1)
    def stopping(m, batch):
        nonlocal calls
        calls += 1
        if stop_at is not None and calls > stop_at*goes: raise Stop
        return loss(m, batch)
    options = dict(lr=1e-2, device='cpu', log=None, folder=folder) | more
    return model, Fit(model, stopping, **options).run(Batches(x, y, batch_size=16, seed=3), steps, held_out, every=10)

@pytest.mark.parametrize('options', [dict(), dict(ema=.9), dict(accumulate=3, warmup=15), dict(schedule='linear', ema=.95, accumulate=2, warmup=5), dict(precision='bf16')])
@pytest.mark.parametrize('stop_at', [3, 10, 37])
def test_resume_is_exact(tmp_path, options, stop_at):
    whole, rows = train(tmp_path/'whole', **options)
    with pytest.raises(Stop): train(tmp_path/'parts', stop_at, **options)
    again, rows_again = train(tmp_path/'parts', **options)
    assert same(whole, again) and rows == rows_again and rows.best == rows_again.best
    assert (tmp_path/'whole/log.jsonl').read_text() == (tmp_path/'parts/log.jsonl').read_text()
    a, b = (load_file(tmp_path/f/'best.safetensors') for f in ('whole', 'parts'))
    assert all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('options', [dict(), dict(ema=.9, accumulate=3)])
@pytest.mark.parametrize('stop_at', [1, 10, 37, 59])
def test_asked_to_stop_it_keeps_this_very_step(tmp_path, options, stop_at):
    "Between two looks as well: weights, rows and their means over the steps are those of an undisturbed run, to the last bit."
    whole, rows = train(tmp_path/'whole', **options); calls = 0
    def asked(m, batch):
        nonlocal calls
        calls += 1
        if calls == stop_at*options.get('accumulate', 1): os.kill(os.getpid(), signal.SIGUSR1 if stop_at % 2 else signal.SIGTERM)
        return error(m, batch)
    with listening(), pytest.raises(StopAsked, match=f'at step {stop_at} of 60; a checkpoint of this step was written'): train(tmp_path/'parts', loss=asked, **options)
    assert list_checkpoints(tmp_path/'parts')[-1].stem == f'step-{stop_at:08d}'
    again, rows_again = train(tmp_path/'parts', **options); assert same(whole, again) and rows == rows_again and (tmp_path/'whole/log.jsonl').read_text() == (tmp_path/'parts/log.jsonl').read_text()

@pytest.mark.parametrize('stop_at', [3, 17, 40])
def test_a_scaler_goes_on(tmp_path, monkeypatch, stop_at):
    "16 bits on a GPU scale the loss, and the scale grows as they go; here on a CPU, where accelerate has none of its own."
    from brainrecon.core import fit
    scalers = []
    class Scaling(fit.Accelerator):
        def __init__(self, *args, **how): super().__init__(*args, **how); self.scaler = torch.amp.GradScaler('cpu', init_scale=8., growth_interval=7); scalers.append(self.scaler)
    monkeypatch.setattr(fit, 'Accelerator', Scaling); whole, rows = train(tmp_path/'whole')
    with pytest.raises(Stop): train(tmp_path/'parts', stop_at)
    again, rows_again = train(tmp_path/'parts'); assert same(whole, again) and rows == rows_again
    assert len(scalers) == 3 and scalers[0].state_dict() == scalers[2].state_dict() and scalers[0].get_scale() == 8*2**(60//7)


def test_asked_to_stop_at_the_last_step_it_ends(tmp_path):
    calls = []
    def asked(m, batch): calls.append(1); len(calls) == 60 and os.kill(os.getpid(), signal.SIGTERM); return error(m, batch)
    with listening(): whole, rows = train(tmp_path/'whole', loss=asked)
    assert rows[-1]['step'] == 60

def test_asked_to_stop_without_a_folder():
    def asked(m, batch): os.kill(os.getpid(), signal.SIGTERM); return error(m, batch)
    with listening(), pytest.raises(StopAsked, match='nothing is kept'): Fit(net(), asked, device='cpu', log=None).run(Batches(x, y, batch_size=16), 9)

def test_resume_keeps_other_chance(tmp_path):
    def noisy(model, batch): return F.mse_loss(model(batch[0] + .01*np.random.normal() + .01*random.random()), batch[1])
    whole, _ = train(tmp_path/'whole', loss=noisy)
    with pytest.raises(Stop): train(tmp_path/'parts', 25, loss=noisy)
    assert same(whole, train(tmp_path/'parts', loss=noisy)[0])

def test_large_checkpoints_are_written_seldom(tmp_path, monkeypatch):
    "Writing that takes longer than the steps between is left out until the end; a run that breaks off in between comes to the same weights."
    import time
    from brainrecon.core import fit
    whole, rows = train(tmp_path/'whole'); written, save = [], fit.save_checkpoint
    def slow(folder, step, *args): written.append(step); time.sleep(.12); return save(folder, step, *args)
    monkeypatch.setattr(fit, 'save_checkpoint', slow); train(tmp_path/'small'); assert written == [10, 20, 30, 40, 50, 60]; written.clear()    # those of small models at every look, however slow the disk is
    monkeypatch.setattr(fit, 'light', 0)
    with pytest.raises(Stop): train(tmp_path/'parts', 37)
    assert written == [10] and len((tmp_path/'parts/log.jsonl').read_text().splitlines()) == 3 and len(list_checkpoints(tmp_path/'parts')) == 1
    again, rows_again = train(tmp_path/'parts'); assert written == [10, 20, 60] and same(whole, again) and rows == rows_again     # the first after a start is written: what it takes is not known yet
    for f in ('log.jsonl', 'best.safetensors'): assert (tmp_path/'whole'/f).read_bytes() == (tmp_path/'parts'/f).read_bytes()

def test_damaged_newest_falls_back(tmp_path):
    whole, _ = train(tmp_path/'whole')
    with pytest.raises(Stop): train(tmp_path/'parts', 35)
    newest = list_checkpoints(tmp_path/'parts')[-1]; newest.write_bytes(newest.read_bytes()[:100])
    said = []
    again, _ = train(tmp_path/'parts', log=said.append)
    assert same(whole, again) and newest.name in said[0] and 'damaged' in said[0]

def test_other_settings_are_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(CheckpointError, match='weight_decay: stored 0.01, asked 0.1'): train(tmp_path, weight_decay=.1)
    fresh = net(); Fit(fresh, error, lr=1e-2, weight_decay=.1, device='cpu', log=None, folder=tmp_path).run(Batches(x, y, batch_size=16, seed=3), 20, resume=False)
    assert [p.name for p in list_checkpoints(tmp_path)] == ['step-00000019.pt', 'step-00000020.pt']

def test_constant_schedule_can_be_made_longer(tmp_path):
    whole, _ = train(tmp_path/'whole', schedule='constant')
    train(tmp_path/'longer', steps=30, schedule='constant')
    again, _ = train(tmp_path/'longer', schedule='constant')
    assert same(whole, again)

def test_memory_mapped_and_resident_agree(tmp_path):
    np.save(tmp_path/'x.npy', x); np.save(tmp_path/'y.npy', y)
    weights = []
    for arrays, resident in (((x, y), False), ((x, y), True), ([np.load(tmp_path/f'{n}.npy', mmap_mode='r') for n in 'xy'], False), ((torch.tensor(x), torch.tensor(y)), True)):
        model = net(); Fit(model, error, device='cpu', log=None).run(Batches(*arrays, batch_size=16, device_resident=resident), 9); weights.append(model)
    assert all(same(weights[0], w) for w in weights)

def test_lines_and_folder_hold_what_they_say(tmp_path):
    said = []; _, rows = train(tmp_path, log=said.append)
    assert len(said) == 20 and said[-1].startswith('fit  step 60/60  loss ') and 'square' in said[-1] and 'valid loss' in said[-1] and 'trials/s' in said[-1]
    assert [json.loads(r) for r in (tmp_path/'log.jsonl').read_text().splitlines()] == list(rows)
    assert [r['step'] for r in rows] == [10, 20, 30, 40, 50, 60] and rows[0].keys() >= {'loss', 'square', 'size', 'lr', 'valid_loss'}

script = textwrap.dedent('''
    import sys, time
    sys.path.insert(0, {tests!r})
    import test_fit as t
    def slow(model, batch): time.sleep(.004); return t.error(model, batch)
    model = t.net()
    print('started', flush=True)
    t.Fit(model, slow, lr=1e-2, ema=.9, device='cpu', log=None, folder=sys.argv[1]).run(t.Batches(t.x, t.y, batch_size=16, seed=3), 200, t.held_out, every=4)
    t.torch.save(model.state_dict(), sys.argv[2])
''').format(tests=str(Path(__file__).parent))
env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}

def test_survives_being_killed(tmp_path):
    (tmp_path/'run.py').write_text(script); out = tmp_path/'end.pt'; dice = random.Random(0); kills = 0
    start = lambda folder: subprocess.Popen([sys.executable, tmp_path/'run.py', tmp_path/folder, out], stdout=subprocess.PIPE, env=env)
    while not out.exists():
        p = start('killed'); p.stdout.readline()
        try: p.wait(dice.uniform(.4, 1.2) if kills < 2 else 120)
        except subprocess.TimeoutExpired: p.send_signal(signal.SIGKILL); p.wait(); kills += 1
        else: assert p.returncode == 0
        p.stdout.close()
    whole = net(); Fit(whole, error, lr=1e-2, ema=.9, device='cpu', log=None).run(Batches(x, y, batch_size=16, seed=3), 200, held_out, every=4)
    end = torch.load(out, weights_only=True)
    assert kills and all(torch.equal(v, end[k]) for k, v in whole.state_dict().items())
    steps = [json.loads(r)['step'] for r in (tmp_path/'killed/log.jsonl').read_text().splitlines()]
    assert steps == list(range(4, 201, 4)) and not list((tmp_path/'killed').glob('.*'))

pair = textwrap.dedent('''
    import os, sys
    sys.path.insert(0, {tests!r})
    import test_fit as t
    model = t.net(0.)
    for name, options in (('plain', dict()), ('parts', dict(accumulate=2, ema=.9))):
        model = t.net(0.)
        rows = t.Fit(model, t.error, lr=1e-2, device='cpu', log=None, folder=sys.argv[1]+'/'+name, **options).run(t.Batches(t.x, t.y, batch_size=16, seed=3), 25, t.held_out, every=5)
        if os.environ.get('RANK', '0') == '0': t.torch.save((model.state_dict(), list(rows)), sys.argv[1]+f'/{{name}}.pt')
    if t.torch.distributed.is_initialized(): t.torch.distributed.destroy_process_group()
''').format(tests=str(Path(__file__).parent))

def test_two_processes_agree_with_one(tmp_path):
    (tmp_path/'pair.py').write_text(pair); (tmp_path/'one').mkdir(); (tmp_path/'two').mkdir()
    subprocess.run([sys.executable, tmp_path/'pair.py', tmp_path/'one'], check=True, env=env, timeout=120)
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', tmp_path/'pair.py', tmp_path/'two'], check=True, env=env, timeout=120)
    for name in ('plain', 'parts'):
        (one, rows1), (two, rows2) = (torch.load(tmp_path/n/f'{name}.pt', weights_only=True) for n in ('one', 'two'))
        assert max((one[k]-two[k]).abs().max().item() for k in one) < 1e-6
        assert all(abs(a[k]-b[k]) < 1e-5 for a, b in zip(rows1, rows2, strict=True) for k in a)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('precision', ['no', 'bf16', 'fp16'])
def test_gpu_resumes(tmp_path, precision):
    def on_gpu(model): device = next(model.parameters()).device; return dict(loss=F.mse_loss(model(torch.tensor(x[:20], device=device)), torch.tensor(y[:20], device=device)))
    def go(folder, stop_at=None):
        model = net(); calls = 0
        def stopping(m, batch):
            nonlocal calls
            calls += 1
            if calls == stop_at: raise Stop
            return error(m, batch)
        return model, Fit(model, stopping, lr=1e-2, ema=.9, precision=precision, device='cuda', log=None, folder=tmp_path/folder).run(Batches(x, y, batch_size=16, device_resident=True), 60, on_gpu, every=10)
    whole, _ = go('whole')
    with pytest.raises(Stop): go('parts', 33)
    again, _ = go('parts')
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole.parameters(), again.parameters()))


def nothing(model, batch): return None
def number(model, batch): return error(model, batch)['square'].item()
def unaveraged(model, batch): return model(batch[0])
def cut_off(model, batch): return model(batch[0]).detach().mean()
def no_terms(model, batch): return {}
batches = Batches(x, y, batch_size=16)

@pytest.mark.parametrize('loss, given, says', [
    (nothing, {}, 'None'), (number, {}, 'a float'), (unaveraged, {}, 'shape'), (cut_off, {}, 'no gradient'), (no_terms, {}, 'no terms'),
    (error, dict(steps=-2), 'steps=-2'), (error, dict(steps=2.5), 'steps=2.5'), (error, dict(every=0), 'every=0'), (error, dict(patience=-1), 'patience=-1'),
    (error, dict(batches=(x, y)), 'is a tuple'), (error, dict(batches=torch.utils.data.DataLoader(list(zip(x, y)))), 'is a DataLoader'),
    (error, dict(valid=.3), 'is a float'), (error, dict(valid=lambda m: .3), 'dict of scores'), (error, dict(valid=lambda m: dict(loss=torch.ones(2))), 'single number'),
    (error, dict(valid=held_out, monitor='top1'), 'monitored score')])
def test_what_cannot_be_fitted_is_refused_in_words(loss, given, says):
    with pytest.raises(ReconError, match=says): Fit(net(), loss, device='cpu', log=None).run(**dict(batches=batches, steps=2) | given)

@pytest.mark.parametrize('option', [dict(lr='1e-3'), dict(lr=True), dict(warmup=-1), dict(warmup=2.5), dict(accumulate=0), dict(betas=.9), dict(ema='0.9'), dict(seed='a')])
def test_options_of_a_wrong_type_are_refused(option):
    with pytest.raises(ParameterError, match=next(iter(option))): Fit(net(), error, **option)

def test_other_models_and_losses_are_refused():
    for model, loss in ((len, error), (net(), 'mse'), (net(), None)):
        with pytest.raises(ParameterError): Fit(model, loss)
    with pytest.raises(ParameterError, match='model.float'): Fit(net().double(), error, device='cpu', log=None).run(batches, 2)

@pytest.mark.parametrize('kind', ['numpy', 'torch', 'resident'])
def test_fractions_of_64_bits_are_given_out_in_32(kind):
    arrays = [x.astype('float64'), y.astype('float64')]
    if kind == 'torch': arrays = [torch.tensor(a) for a in arrays]
    a, b = net(), net()
    for model, given in ((a, arrays), (b, [x, y])):
        Fit(model, error, device='cpu', log=None).run(Batches(*given, batch_size=16, device_resident=kind == 'resident'), 3)
    assert same(a, b)
