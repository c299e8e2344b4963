"Rates, weight decay and groups: what a step gets, that nothing changed for runs without groups, and that runs with groups go on exactly after a stop or a kill."
import json, signal, subprocess, sys, textwrap
from pathlib import Path
import numpy as np
import pytest
import torch
from test_fit import Stop, env, error, held_out, net, same, x, y
from brainrecon.core.checkpoint import list_checkpoints
from brainrecon.core.checks import CheckpointError, ParameterError, UnknownError, seeded
from brainrecon.core.fit import Batches, Fit, decay_groups, fit_options, learning_rate
from brainrecon.core.rates import check_groups, decay_share, groups_mark

def layers(model): return [dict(params=list(model[0].parameters()), lr_scale=.1, weight_decay=0.), dict(params=list(model[3].parameters()), lr_scale=1.)]
def other_layers(model): return [{**g, 'lr_scale': .2*g['lr_scale']} for g in layers(model)]
how = dict(lr=1e-2, schedule='lin0', warmup=5, start=.005, floor=.1, weight_decay=.05, weight_decay_end=.2, ema=.9, device='cpu', log=None, groups=layers)
def batches(): return Batches(x, y, batch_size=16, seed=3)

def train(folder, stop_at=None, steps=60, **more):
    model, calls = net(), 0
    def stopping(m, batch):
        nonlocal calls
        calls += 1
        if calls == stop_at: raise Stop
        return error(m, batch)
    return model, Fit(model, stopping, folder=folder, **how | more).run(batches(), steps, held_out, every=10)

@pytest.mark.parametrize('more', [dict(), dict(accumulate=2), dict(schedule='cosine', groups=lambda m: decay_groups(m, .05, ('3.*',))), dict(groups=None)])
@pytest.mark.parametrize('stop_at', [3, 37])
def test_resume_with_groups_is_exact(tmp_path, more, stop_at):
    whole, rows = train(tmp_path/'whole', **more)
    with pytest.raises(Stop): train(tmp_path/'parts', stop_at*more.get('accumulate', 1), **more)
    again, rows_again = train(tmp_path/'parts', **more); assert same(whole, again) and rows == rows_again

script = textwrap.dedent('''
    import sys, time
    sys.path.insert(0, {tests!r})
    import test_rates as t
    def slow(model, batch): time.sleep(.01); return t.error(model, batch)
    model = t.net(); print('started', flush=True)
    t.Fit(model, slow, folder=sys.argv[1], **t.how).run(t.batches(), 60, t.held_out, every=4)
    t.torch.save(model.state_dict(), sys.argv[2])
''').format(tests=str(Path(__file__).parent))

def test_killed_with_groups(tmp_path):
    "Killed after its second checkpoint, started again: the weights of a run that nobody disturbed."
    (tmp_path/'run.py').write_text(script); out, folder = tmp_path/'end.pt', tmp_path/'run'
    start = lambda: subprocess.Popen([sys.executable, tmp_path/'run.py', folder, out], stdout=subprocess.PIPE, env=env)
    p = start(); p.stdout.readline()
    while len(list_checkpoints(folder)) < 2: assert p.poll() is None
    p.send_signal(signal.SIGKILL); p.wait(); p.stdout.close(); assert not out.exists()
    p = start(); p.communicate(timeout=120); assert p.returncode == 0
    whole = net(); Fit(whole, error, **how).run(batches(), 60, held_out, every=4); end = torch.load(out, weights_only=True)
    assert all(torch.equal(v, end[k]) for k, v in whole.state_dict().items())

def test_other_groups_are_refused(tmp_path):
    train(tmp_path)
    for groups in (other_layers, None):
        with pytest.raises(CheckpointError, match='groups'): train(tmp_path, groups=groups)
    with pytest.raises(CheckpointError, match='floor'): train(tmp_path, floor=.2)

def test_nothing_changed_for_runs_without_groups(tmp_path):
    "The settings in a checkpoint are those of before, and the weights are those of two groups made by hand."
    model = net(); Fit(model, error, lr=1e-2, weight_decay=.1, device='cpu', log=None, folder=tmp_path, clip=None).run(batches(), 8)
    config = json.loads(list_checkpoints(tmp_path)[-1].with_suffix('.json').read_text())['config']
    assert not {'floor', 'start', 'weight_decay_end', 'groups'} & set(config)
    hand, b = net(), batches(); o = fit_options(lr=1e-2)
    opt = torch.optim.AdamW([dict(params=[p for p in hand.parameters() if p.ndim >= 2], weight_decay=.1), dict(params=[p for p in hand.parameters() if p.ndim < 2], weight_decay=0.)], lr=1e-2, fused=True)
    from brainrecon.core.checks import rng
    with seeded(int(rng(0, 'fit', 0).integers(2**31))):
        for k in range(8):
            for g in opt.param_groups: g['lr'] = learning_rate(k, 8, o)
            sum(error(hand, b[k]).values()).backward(); opt.step(); opt.zero_grad()
    assert same(model, hand)

def test_each_group_has_its_rate_and_its_decay():
    seen = []
    class Watched(Fit):
        def update(self, s, batches, lr, pull=1.):
            n = super().update(s, batches, lr, pull); seen.append([(g['lr'], g['weight_decay']) for g in s.opt.param_groups]); return n
    Watched(net(), error, **how).run(batches(), 40); o = fit_options(**{k: v for k, v in how.items() if k not in ('groups', 'log')})
    for k, (slow, full) in enumerate(seen):
        lr, pull = learning_rate(k, 40, o), decay_share(k, 40, o); assert slow == (lr*.1, 0.) and full == (lr, .05*pull)
    assert abs(seen[-1][1][1] - .2) < 1e-12

@pytest.mark.parametrize('schedule', ['cosine', 'linear', 'constant', 'lin0'])
@pytest.mark.parametrize('steps, warmup, start, floor', [(50, 0, None, 0.), (50, 10, None, .1), (50, 10, 0., .1), (50, 1, .5, 1.), (1, 0, 0., 0.), (3, 3, .2, .1), (4, 9, .2, .1)])
def test_rates_stay_between_floor_and_peak(schedule, steps, warmup, start, floor):
    o = fit_options(lr=2., schedule=schedule, warmup=warmup, start=start, floor=floor); r = [learning_rate(k, steps, o)/2 for k in range(steps)]
    assert all(min(floor, start or 0.) - 1e-12 <= v <= 1 + 1e-12 for v in r) and np.all(np.diff(r[:min(warmup, steps)]) >= 0) and np.all(np.diff(r[warmup:]) <= 1e-12)
    if start is not None and warmup: assert abs(r[0] - start) < 1e-12
    if schedule == 'lin0' and steps > warmup + 1: assert abs(r[-1] - floor) < 1e-12

def test_frozen_weights_stand_in_no_group():
    model = net(); model[0].requires_grad_(False); g = check_groups(layers(model), model, fit_options()); assert len(g) == 1 and g[0]['names'] == ['3.weight', '3.bias']
    before = [p.clone() for p in model.parameters()]; Fit(model, error, **how).run(batches(), 5); after = list(model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after[:2])) and not torch.equal(before[2], after[2])

@pytest.mark.parametrize('groups, kind, says', [(lambda m: layers(m)[:1], ParameterError, '3.weight'), (lambda m: layers(m) + layers(m), ParameterError, 'repeat'), (lambda m: layers(net()), ParameterError, 'another model'),
    (lambda m: list(m.parameters()), ParameterError, 'list of dicts'), (lambda m: [{**g, 'lr': 1.} for g in layers(m)], UnknownError, 'lr_scale'), (lambda m: [{**g, 'lr_scale': -1} for g in layers(m)], ParameterError, 'lr_scale'),
    (lambda m: [{**g, 'weight_decay': 'much'} for g in layers(m)], ParameterError, 'weight_decay'), (lambda m: [{**g, 'lr_scale': float('nan')} for g in layers(m)], ParameterError, 'lr_scale'), ([], ParameterError, 'lambda model')])
def test_groups_that_cannot_be_meant(groups, kind, says):
    with pytest.raises(kind, match=says): Fit(net(), error, **how | dict(groups=groups)).run(batches(), 2)

@pytest.mark.parametrize('option', [dict(floor=2.), dict(floor='0.1'), dict(floor=None), dict(start=-.1), dict(start=True), dict(weight_decay_end=-1.), dict(weight_decay=0., weight_decay_end=.1)])
def test_options_that_cannot_be_meant(option):
    with pytest.raises(ParameterError): fit_options(**option)

def test_the_mark_knows_names_rates_and_decay():
    model = net(); marks = {groups_mark(check_groups(f(model), model, fit_options(weight_decay=w))) for f in (layers, other_layers) for w in (.1, .2)}; assert len(marks) == 4
