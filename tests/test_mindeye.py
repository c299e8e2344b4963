"MindEye2 beyond its pages: whose map is whose, gradients, files that do not fit, the release's wiring written out again."
import math, re
from dataclasses import replace
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brainrecon.alignment.contrast import info_nce, mix_weights, mixco
from brainrecon.alignment.mindeye import MindEyePlan, cosine_anneal, flat_rows, mindeye_loss, mix_people, mix_targets
from brainrecon.core.checkpoint import save_weights
from brainrecon.core.checks import CheckpointError, LeakError, MissingWeights, ParameterError, ReconError, ShapeError, UnknownError, seeded
from brainrecon.data.trials import Trials
from brainrecon.decoders.mindeye import MindEyeDecoder
from brainrecon.decoders.retrieval import Gallery, load_decoder, shuffle_pairs
from brainrecon.encoders.mindeye import MindEye, MixerBackbone, PersonMaps, load_mindeye, mindeye_sizes
from brainrecon.metrics.retrieval import retrieve

small = dict(tokens=5, width=12, hidden=24)
same = lambda a, b: a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def made(voxels=(40, 33), seed=0, **changes):
    with seeded(seed): return MindEye(voxels, **{**small, **changes}).eval()

# ---- wiring

@pytest.mark.parametrize('responses, blocks', [(1, 4), (3, 4), (2, 1)])
def test_released_wiring_written_out(responses, blocks):
    "Two residuals as in `BrainNetwork.forward`, the second refreshed by the second network alone."
    with seeded(0): net, x = MixerBackbone(12, 3, 4, responses=responses, blocks=blocks, released=True).eval(), torch.randn(5, responses, 12)
    for p in net.parameters(): torch.nn.init.normal_(p, std=.3)
    y, one, two = x, x, x.permute(0, 2, 1)
    for a, b in zip(net.mixer_blocks1, net.mixer_blocks2): y = one = a(y) + one; two = b(y.permute(0, 2, 1)) + two; y = two.permute(0, 2, 1)
    assert torch.equal(net.mix(x), y)

@pytest.mark.parametrize('responses', [1, 3])
def test_one_sum_written_out(responses):
    with seeded(0): net, x = MixerBackbone(12, 3, 4, responses=responses, blocks=3).eval(), torch.randn(5, responses, 12)
    y = x
    for a, b in zip(net.mixer_blocks1, net.mixer_blocks2): y = y + a(y); y = y + b(y.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(net.mix(x), y, atol=1e-6)

@pytest.mark.parametrize('released', [True, False])
@pytest.mark.parametrize('responses', [1, 3])
def test_gradients_reach_what_takes_part(released, responses):
    "The rest gets nothing but rounding. Released with one response: the first networks. A norm over one number: its factor. Released with several: constants of the first networks, equal for all responses."
    with seeded(0):
        net = made(responses=responses, released=released); x = torch.randn(6, responses, 40)
        for p in net.backbone.parameters(): torch.nn.init.normal_(p, std=.3)
        out = net(x); (out.contrast*torch.randn_like(out.contrast)).sum().backward()
    dead = {k for k, p in net.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-5}; named = lambda pattern: {k for k, _ in net.named_parameters() if re.search(pattern, k)}
    want = named(r'blocks2\.\d+\.0\.weight') if responses == 1 else set()
    if released: want |= named('blocks1') if responses == 1 else named(r'blocks1\.\d+\.1\.3\.bias')
    assert dead == want | {'ridge.linears.1.weight', 'ridge.linears.1.bias'} and all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)

def test_dropout_only_in_training_and_only_between_two_maps():
    net, x = made(dropout=.5), torch.randn(3, 40); assert torch.equal(net(x).tokens, net(x).tokens)
    net.train(); assert not torch.equal(net(x).tokens, net(x).tokens) and sum(isinstance(m, torch.nn.Dropout) for m in net.modules()) == 8
    assert {m.p for m in MindEye(9, **small).modules() if isinstance(m, torch.nn.Dropout)} == {.15}

def test_a_trial_does_not_see_the_others():
    net, x = made(), torch.randn(5, 40)
    with torch.no_grad(): assert torch.allclose(net(x).contrast[1:3], net(x[1:3]).contrast, atol=1e-6) and net(x[:0]).tokens.shape == (0, 5, 12)

# ---- whose map

def test_people_by_name_by_count_and_by_number():
    maps, v, w = PersonMaps(dict(ann=7, bo=9, cy=9), 4), torch.randn(5, 9), torch.randn(2, 7)
    assert torch.equal(maps(w), maps.linears[0](w)[:, None]) and torch.equal(maps(v, 'cy'), maps.linears[2](v)[:, None])
    who = torch.tensor([2, 1, 1, 2, 1]); got = maps(v, who); want = torch.stack([maps.linears[i](r)[None] for i, r in zip(who, v)]); assert torch.allclose(got, want, atol=1e-6)
    assert maps(v[:0], who[:0]).shape == (0, 1, 4)
    for x, person, kind in ((v, None, ParameterError), (w[:, :5], None, ParameterError), (v, 'ann', ShapeError), (v, 'dee', UnknownError), (v, 1, UnknownError), (v, torch.tensor([0, 0, 0, 0, 0]), ShapeError), (v, torch.tensor([1, 1, 3, 1, 1]), ParameterError), (v, torch.tensor([1, -1, 1, 1, 1]), ParameterError),
        (v, torch.tensor([1, 1]), ShapeError), (v[0], 'bo', ShapeError), (v[:, None, None], 'bo', ShapeError), (v.long(), 'bo', ParameterError), (None, None, ParameterError), ({}, None, ParameterError), (dict(dee=v), None, UnknownError)):
        with pytest.raises(kind): maps(x, person)

def test_only_the_own_map_learns():
    net = made((40, 40, 33)); before = {k: v.clone() for k, v in net.state_dict().items()}; opt = torch.optim.SGD(net.parameters(), .1)
    net(torch.randn(4, 40), torch.tensor([1, 1, 1, 1])).contrast.square().sum().backward(); opt.step()
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert {k for k in moved if k.startswith('ridge')} == {'ridge.linears.1.weight', 'ridge.linears.1.bias'}

def test_one_person_needs_no_name():
    net = made(40); assert torch.equal(net(x := torch.randn(2, 40)).tokens, net(x, 0).tokens) and net.ridge.voxels == {'0': 40}
    with pytest.raises(ShapeError): net(torch.randn(2, 41))

@pytest.mark.parametrize('make', [lambda: MindEye(0, **small), lambda: MindEye('40', **small), lambda: MindEye([], **small), lambda: MindEye({}, **small), lambda: MindEye([40, 2.5], **small), lambda: MindEye(40, tokens=0), lambda: MindEye(40, **small, blocks=0), lambda: MindEye(40, **small, responses=0), lambda: MindEye(None, **small)])
def test_sizes_that_are_none(make):
    with pytest.raises(ParameterError): make()

# ---- published weights

def test_names_and_sizes_are_the_published_ones():
    with torch.device('meta'): net = MindEye([15724, 14278])
    state = net.state_dict(); block = [f'{i}.{p}' for i in ('0', '1.0', '1.3') for p in ('weight', 'bias')]
    want = {f'ridge.linears.{i}.{p}' for i in (0, 1) for p in ('weight', 'bias')} | {f'backbone.mixer_blocks{j}.{i}.{k}' for j in (1, 2) for i in range(4) for k in block}
    want |= {f'backbone.backbone_linear.{p}' for p in ('weight', 'bias')} | {f'backbone.clip_proj.{i}.{p}' for i in (0, 2, 3, 5, 6, 8) for p in ('weight', 'bias')}
    assert {*state} == want and state['backbone.backbone_linear.weight'].shape == (256*1664, 4096) and state['ridge.linears.0.weight'].shape == (4096, 15724) and state['backbone.mixer_blocks2.0.1.0.weight'].shape == (1, 1)
    assert mindeye_sizes(state) == dict(voxels=[15724, 14278], tokens=256, width=1664, hidden=4096, responses=1, blocks=4)

extra = {'backbone.blin1.weight': torch.ones(2), 'backbone.bnorm.bias': torch.ones(2), 'backbone.bupsampler.conv_in.weight': torch.ones(2), 'backbone.b_maps_projector.0.weight': torch.ones(2), 'diffusion_prior.net.learned_query': torch.ones(2)}

@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('sizes', [dict(), dict(voxels=17, responses=3, blocks=2, tokens=1), dict(voxels=[3]*12, blocks=1, width=7)])
def test_files_come_back_whole(tmp_path, suffix, sizes):
    net = made(**sizes); path = tmp_path/f'last.{suffix}'; state = {'module.' + k: v for k, v in (net.state_dict() | extra).items()}
    torch.save(dict(epoch=3, model_state_dict=state, optimizer_state_dict=dict(state={})), path) if suffix == 'pth' else save_weights(path, state)
    again, report = load_mindeye(path); assert same(net.state_dict(), again.state_dict()) and {*report.refused} == {*extra} and not report.new and not again.training and again.backbone.released
    assert not any(p.is_meta for p in again.parameters())

@pytest.mark.parametrize('how, word', [('absent', 'absent'), ('strange', 'unknown'), ('shape', 'another shape'), ('no ridge', 'ridge.linears.0.weight'), ('no projector', 'clip_proj'), ('gap', 'ridge.linears')])
def test_files_that_do_not_fit(how, word):
    state = dict(made((40, 33, 30)).state_dict())
    if how == 'absent': del state['backbone.mixer_blocks1.1.1.0.weight']
    if how == 'strange': state['backbone.stranger'] = torch.ones(1)
    if how == 'shape': state['backbone.clip_proj.8.weight'] = torch.ones(12, 11)
    if how == 'no ridge': state = {k: v for k, v in state.items() if 'ridge' not in k}
    if how == 'no projector': state = {k: v for k, v in state.items() if 'clip_proj' not in k}
    if how == 'gap': state = {k: v for k, v in state.items() if 'linears.1.' not in k}
    with pytest.raises(CheckpointError, match=word): load_mindeye(state)

def test_broken_and_absent_files(tmp_path):
    save_weights(tmp_path/'w.safetensors', made().state_dict()); (tmp_path/'cut.safetensors').write_bytes((tmp_path/'w.safetensors').read_bytes()[:300])
    with pytest.raises(MissingWeights): load_mindeye(tmp_path/'nowhere.pth')
    with pytest.raises(ReconError): load_mindeye(tmp_path/'cut.safetensors')
    for people in (['a'], ['a', 'a'], ['a', 'b', 'c']):
        with pytest.raises(ParameterError): load_mindeye(tmp_path/'w.safetensors', people=people)

# ---- losses

def test_the_plan_epoch_by_epoch():
    plan = MindEyePlan(); kinds = [plan.at(e) for e in range(150)]; assert [k for k, _ in kinds] == ['mixco']*49 + ['soft_clip']*101 and {t for k, t in kinds if k == 'mixco'} == {.006}
    for i, (_, t) in enumerate(kinds[49:]): assert math.isclose(t, .0075 + (.004 - .0075)/2*(1 + math.cos(math.pi*i/100)), rel_tol=1e-9)
    assert plan.at(150) == plan.at(10**6) == kinds[-1] and MindEyePlan(1).at(0) == ('soft_clip', .004) and MindEyePlan(2, share=.5).at(0)[0] == 'mixco' and MindEyePlan(9, share=1).at(8)[0] == 'mixco'

@pytest.mark.parametrize('options', [dict(epochs=0), dict(epochs=2.5), dict(share=-.1), dict(share=1.1), dict(share='a'), dict(mixed=0), dict(start=-1), dict(end=0), dict(end=None), dict(share=float('nan')), dict(start=float('nan'))])
def test_plans_that_cannot_be_meant(options):
    with pytest.raises(ParameterError): MindEyePlan(**options)
    with pytest.raises(ParameterError): MindEyePlan().at(-1)

def test_annealing():
    v = cosine_anneal(2, 1, 9); assert v[0] == 2 and v[-1] == 1 and (v.diff() < 0).all() and torch.allclose(v + v.flip(0), torch.full((9,), 3.).double()) and cosine_anneal(2, 1, 2).tolist() == [2, 1]
    for wrong in (dict(start='a', end=1, steps=3), dict(start=1, end=None, steps=3), dict(start=1, end=2, steps=1.5)):
        with pytest.raises(ParameterError): cosine_anneal(**wrong)

@pytest.mark.parametrize('tokens', [True, False])
def test_losses_with_gradients(tokens):
    "Rows of any length give the same; both kinds reach the responses and leave the pictures' numbers as they were."
    with seeded(0): z, y = torch.randn(9, 4, 5, requires_grad=True), torch.randn(9, 4, 5)
    a, b = (z, y) if tokens else (z.flatten(1), y.flatten(1)); _, perm, betas, _ = mixco(torch.zeros(9, 1), seed=2); before = y.clone()
    for how in (('soft_clip', .05), ('mixco', .05, perm, betas)):
        loss = mindeye_loss(a, b, *how); assert torch.allclose(loss, mindeye_loss(3*a, 7*b, *how), atol=1e-5) and torch.autograd.grad(loss, z, retain_graph=True)[0].any()
    assert torch.equal(y, before) and torch.allclose(flat_rows(y).norm(dim=1), torch.ones(9)) and flat_rows(y).shape == (9, 20)
    nobody = torch.arange(1, 10) % 9; assert torch.allclose(mindeye_loss(a, b, 'mixco', .05, nobody, torch.ones(9)), info_nce(a.flatten(1), b.flatten(1), 20), atol=1e-5)

def test_wrong_calls_of_the_loss():
    z = torch.randn(4, 3, 2); perm, betas = torch.arange(4), torch.ones(4)
    for a, b, how, kind in ((z, z[:3], ('soft_clip', .1), ShapeError), (z, z, ('soft', .1), ParameterError), (z, z, ('soft_clip', .1, perm, betas), ParameterError), (z, z, ('mixco', .1, perm), ParameterError), (z, z, ('mixco', .1), ParameterError), (z, z, ('soft_clip', 0), ParameterError), (z, z, ('mixco', .1, perm[:3], betas[:3]), ShapeError), (z[0, 0], z[0, 0], ('soft_clip', .1), ShapeError)):
        with pytest.raises(kind): mindeye_loss(a, b, *how)

def test_mixed_targets_follow_mixed_responses():
    with seeded(0): x = torch.randn(8, 3, 2)
    mixed, perm, betas, select = mixco(x, seed=4); assert torch.allclose(mix_targets(x, perm, betas), mixed) and torch.equal(mix_targets(x, perm, betas)[~select], x[~select])
    for wrong in ((perm[:3], betas), (perm, betas[:, None])):
        with pytest.raises(ShapeError): mix_targets(x, *wrong)

def test_people_are_mixed_among_themselves():
    x = dict(ann=torch.randn(6, 11), bo=torch.randn(4, 7), cy=torch.randn(5, 3, 2)); keep = {k: v.clone() for k, v in x.items()}; mixed, perm, betas, select = mix_people(x, seed=1); old = mix_people(x, seed=1, released=True); at = 0
    for who, rows in x.items():
        own = slice(at, at + len(rows)); assert sorted(perm[own].tolist()) == list(range(own.start, own.stop)) and torch.allclose(mixed[who], mix_targets(rows, perm[own] - at, betas[own]), atol=1e-6) and torch.equal(old[1][own], perm[own] - at); at += len(rows)
    assert torch.equal(betas == 1, ~select) and torch.equal(betas, old[2]) and same(x, keep) and not torch.equal(perm, mix_people(x, seed=2)[1]) and mix_weights(perm, betas).shape == (15, 15)
    for wrong in (x['ann'], [], {}, None):
        with pytest.raises(ParameterError): mix_people(wrong)

# ---- decoder

fast = dict(hidden=24, epochs=12, batch_size=32, lr=2e-3, warmer=10.); learns = dict(fast, hidden=64, epochs=30, lr=3e-3)

def world(people=(1,), n=(200, 30, 50), d=12, noise=.5, seed=0, kind='fmri'):
    "Things with features, and voxels that mix them, each person in another way."
    gen = np.random.default_rng(seed); things = [f'thing{i:03d}' for i in range(sum(n))]; z = gen.normal(size=(sum(n), d)).astype('float32'); g = Gallery(z, [f'{c}/0' for c in things], things)
    mixes = {s: np.random.default_rng(900 + s).normal(size=(d, 60))/d**.5 for s in people}; sides, at = [], 0
    for k in n:
        x = np.concatenate([z[at:at+k] @ mixes[s] + noise*gen.normal(size=(k, 60)) for s in people]).astype('float32'); names = [g.pictures[i] for _ in people for i in range(at, at + k)]
        table = dict(picture=names, concept=[p[:-2] for p in names], subject=np.repeat(people, k)); x = x if kind == 'fmri' else x.reshape(-1, 6, 10)
        sides.append(Trials(x, [f'c{i}' for i in range(x.shape[1])], table, kind, **({} if kind == 'fmri' else dict(sfreq=20)), provenance=dict(simulated=True))); at += k
    return *sides, g

def top1(d, test, g): some = g[g.rows(list(dict.fromkeys(test.pictures)))]; return retrieve(d.embed(test), d.place(some), test.pictures, some.pictures)['top1']

@pytest.mark.parametrize('how', [dict(), dict(released=True), dict(tokens=3), dict(tokens=3, layout='d n', w_mse=.5), dict(kind='eeg')])
def test_finds_and_at_chance_when_shuffled(how):
    how = dict(how); train, valid, test, g = world(kind=how.pop('kind', 'fmri'), d=24, noise=.3); d = MindEyeDecoder(**learns, **how).fit(train, valid, g, device='cpu'); lost = MindEyeDecoder(**learns, **how).fit(shuffle_pairs(train), valid, g, device='cpu')
    assert top1(d, test, g) > .3 and top1(lost, test, g) < .12, (top1(d, test, g), top1(lost, test, g))      # chance 1/50
    n = how.get('tokens', 1); assert d.embed(test).shape == (50, 24) and d.read(test).tokens.shape == (50, n, 24//n) and not d.model.training and not any(p.requires_grad for p in d.model.parameters())

def test_several_people_each_by_their_map():
    train, valid, test, g = world((1, 2), d=24, noise=.3); d = MindEyeDecoder(**learns).fit(train, valid, g, device='cpu'); assert d.model.ridge.people == ['1', '2'] and top1(d, test, g) > .25
    swapped = replace(test, table=test.table.assign(subject=3 - test.table.subject)); assert top1(d, swapped, g) < .15
    with pytest.raises(UnknownError, match='map of their own'): d.embed(replace(test, table=test.table.assign(subject=7)))
    one = test.table.subject == 2; half = Trials(test.x[one], test.names, test.table[one], test.kind, provenance=test.provenance); assert np.allclose(d.embed(half), d.embed(test)[one], atol=1e-5)

def test_files_seeds_and_layouts(tmp_path):
    train, valid, test, g = world(); how = dict(fast, epochs=3, tokens=3, layout='d n'); a, b, c = (MindEyeDecoder(seed=s, **how).fit(train, valid, g, device='cpu') for s in (0, 0, 1))
    assert np.array_equal(a.embed(test), b.embed(test)) and not np.allclose(a.embed(test), c.embed(test)); again = load_decoder(a.save(tmp_path/'d.safetensors'))
    assert np.array_equal(again.embed(test), a.embed(test)) and again.config == a.config and again.selection == a.selection and torch.equal(again.read(test).tokens, a.read(test).tokens) and np.array_equal(again.place(g), a.place(g))
    last = MindEyeDecoder(**how).fit(train, valid, g, device='cpu', keep='last'); assert last.selection == 'last epoch' and load_decoder(last.save(tmp_path/'l.safetensors')).selection == 'last epoch'
    z = torch.arange(24.).reshape(2, 12).numpy(); assert np.array_equal(a.uncut(a.cut(z)), z) and torch.equal(a.cut(z)[0, 0], torch.tensor([0., 3, 6, 9])) and torch.equal(MindEyeDecoder(tokens=3).cut(z)[0, 0], torch.arange(4.))

class Killed(Exception): pass

def test_a_killed_run_goes_on_exactly(tmp_path):
    "Stopped in the part with mixed responses and in the part with soft targets; partners come from the step."
    train, valid, test, g = world((1, 2), n=(90, 20, 20)); how = dict(fast, epochs=6, share=.5); whole = MindEyeDecoder(**how).fit(train, valid, g, device='cpu', folder=tmp_path/'whole'); each = 180//32
    for at in (each*2 - 2, each*4 + 1):
        d, calls = MindEyeDecoder(**how), []; loss = d.loss
        def stop(model, batch):
            calls.append(1)
            if len(calls) == at: raise Killed
            return loss(model, batch)
        d.loss = stop
        with pytest.raises(Killed): d.fit(train, valid, g, device='cpu', folder=tmp_path/f'k{at}')
        again = MindEyeDecoder(**how).fit(train, valid, g, device='cpu', folder=tmp_path/f'k{at}')
        assert np.array_equal(again.embed(test), whole.embed(test)) and [r['valid_identify'] for r in again.history] == [r['valid_identify'] for r in whole.history]

def test_what_an_epoch_asks():
    "Mixed first, soft afterwards, at the temperatures of the plan; targets follow the people's order."
    train, valid, test, g = world((1, 2), n=(40, 10, 10)); d = MindEyeDecoder(**dict(fast, epochs=4, share=.5, w_mse=1.)); d.prepare(train, valid, g); d.recording['people'] = ['1', '2']; d.build(); d.model.eval()
    d.data, d.each, d.steps = (d.flat(train), d.cut(d.z_scale(g.of(train))), d.owners(train)), 2, 8; rows = torch.tensor([50, 3, 41, 7]); x, z, who = (a[rows] for a in d.data)
    soft = d.loss(d.model, (rows, torch.tensor(5/7))); out = d.model(x, who); assert torch.allclose(soft['contrast'], mindeye_loss(out.contrast, z, *d.plan.at(2)), atol=1e-4) and torch.allclose(soft['mse'], F.mse_loss(out.tokens, z), atol=1e-5)
    hard = [d.loss(d.model, (rows, torch.tensor(s/7)))['contrast'] for s in (0, 1, 1)]; assert hard[1] == hard[2] != hard[0] and d.plan.at(1)[0] == 'mixco' and d.plan.at(2)[0] == 'soft_clip'

@pytest.mark.parametrize('options, kind', [(dict(layout='x'), UnknownError), *[(o, ParameterError) for o in (dict(hidden=0), dict(tokens=0), dict(blocks=0), dict(epochs=1.5), dict(batch_size=1), dict(lr=-1), dict(weight_decay=-1), dict(dropout=2), dict(warmer=-1), dict(warmer=float('inf')), dict(beta=0), dict(mixed=1.5), dict(w_mse='1'), dict(w_mse=-1), dict(share=2), dict(seed=-1))]])
def test_settings_that_cannot_be_meant(options, kind):
    with pytest.raises(kind): MindEyeDecoder(**options)

def test_galleries_and_splits_that_do_not_fit():
    train, valid, test, g = world(n=(40, 10, 10)); d = lambda **how: MindEyeDecoder(**dict(fast, **how))
    for call, kind in ((lambda: d(tokens=5).fit(train, valid, g), ShapeError), (lambda: d().fit(train, train[:5], g), LeakError), (lambda: d().fit(train, valid, None), ParameterError), (lambda: d().embed(test), UnknownError), (lambda: d().fit(train, valid, g, keep='first'), UnknownError), (lambda: d().fit(train.x, valid, g), ShapeError)):
        with pytest.raises(kind): call()
