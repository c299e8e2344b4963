"Drawing fast: the same tokens and pictures as the plain way, whatever the network; nothing that waits; counts equal to those of the papers."
import json, os
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from brainrecon.core.checks import CheckpointError, ParameterError, ReconError, ValuesError, seeded
from brainrecon.generators import fast
from brainrecon.generators.fast import Brush, OneDNN, Quick, QuickDecoder, corner_weights, draw_scales_at_once, drawing_cost, enlarged, has_onednn, light, mapped, mapped_pair, picture_work
from brainrecon.generators.sampling import sample
from brainrecon.generators.var import VAR, save_var, var_configs
from brainrecon.generators.vqvae import VQVAE, save_vqvae, vqvae_256
from brainrecon.jobs.generation_speed import compared, difference_rows, lively, timed_draws, write_networks

shape = dict(vocab=40, z=8, patch_nums=(1, 2, 3, 4))

def pair(vqvae=dict(), seed=0, **var):
    with seeded(seed), torch.no_grad(): return lively(VAR(**{**shape, **dict(depth=3, width=48, heads=3, num_classes=10), **var})), lively(VQVAE(**{**shape, 'ch': 8, 'norm_groups': 4, **vqvae}))

@pytest.fixture(scope='module')
def networks(): return pair()

def same(a, b, tol=2e-5):
    assert all(torch.equal(x, y) for x, y in zip(a.indices, b.indices, strict=True)) and (a.img - b.img).abs().max() < tol and (a.f_hat - b.f_hat).abs().max() < tol and a.img.shape == b.img.shape

@pytest.mark.parametrize('var, vqvae', [(dict(), dict()), (dict(shared_aln=True, qk_norm=False), dict(shared=1)), (dict(num_classes=None, d_embed=7, depth=2, heads=4), dict(stem=2, ch_mult=(1, 2))), (dict(mlp_ratio=2.), dict(ch_mult=(2,), shared=0))])
def test_same_as_the_plain_way(var, vqvae):
    v, q = pair(vqvae, **var); cond = torch.randn(3, 7) if v.d_embed else torch.tensor([1, 9, 4])
    for how in (dict(guidance=4., top_k=10, top_p=.9), dict(guidance=0., top_k=1), dict(guidance=1., ramp=False, seeds=[5, 5, 7])): same(sample(v, q, cond, **how), Quick(v, q)(cond, **how))

def test_batches_and_trace(networks):
    cond = torch.arange(5); how = dict(seed=2, guidance=3., top_k=12, trace=True); want = sample(*networks, cond, **how)
    for n in (1, 2, 5, 16): got = Quick(*networks, at_once=n)(cond, **how); same(want, got); assert len(got.trace) == 4 and all((a - b).abs().max() < 2e-5 for a, b in zip(want.trace, got.trace))
    assert Quick(*networks)(cond[:2]).trace is None and torch.equal(Quick(*networks)(cond[3:], seeds=[8, 9]).indices[-1], Quick(*networks)(cond[[4, 3]], seeds=[9, 8]).indices[-1].flip(0))

def test_golden_tokens():
    from golden_var import build, build_vqvae, filled
    from test_goldens import folder, read
    files = sorted(folder.glob('avde_var.safetensors')) if folder.is_dir() else []
    if not files: pytest.skip('no golden files')
    t, meta = read(files[0]); c = meta['config']; under = lambda p: {k.removeprefix(p): v for k, v in t.items() if k.startswith(p)}
    q = Quick(filled(build(c['config'], c['vae']), under('param/')), filled(build_vqvae(c['vae']), under('param_vae/')))
    for g in c['config']['cfgs']:
        got = q(torch.from_numpy(t['input/label']), guidance=float(g), top_k=1); at = f'output/gen_cfg{float(g):g}_'
        assert all(np.array_equal(i, t[f'{at}idx_{k}']) for k, i in enumerate(got.indices)) and np.abs(got.img.numpy() - t[f'{at}img']).max() < 1e-4

def test_networks_are_left_alone(networks):
    v, q = networks; v.train(); before = {k: (p.data_ptr(), p.dtype, p.requires_grad) for m in networks for k, p in m.named_parameters()}
    for half in (None, torch.bfloat16): Quick(v, q, half)(torch.arange(2))
    assert before == {k: (p.data_ptr(), p.dtype, p.requires_grad) for m in networks for k, p in m.named_parameters()} and v.training and q.encoder is not None; v.eval()
    mine = Quick(v, q); assert all(p.data_ptr() == b.data_ptr() for p, b in zip(mine.var.parameters(), v.parameters())) and mine.vqvae.encoder is None     # nothing is copied

class NoWaiting(TorchDispatchMode):
    "Refuses everything that a GPU would have to answer before the program goes on."
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        name = f._overloadpacket.__name__; assert name not in ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'equal', 'masked_select', 'unique', '_unique2'), f'{name} waits'
        assert not (name == 'index' and any(t is not None and t.dtype == torch.bool for t in args[1])), 'a mask as index waits'
        return f(*args, **(kwargs or {}))

@pytest.mark.parametrize('how', [dict(guidance=4., top_k=9, top_p=.9), dict(guidance=0., top_k=1), dict(guidance=2., ramp=False)])
def test_nothing_waits(networks, how):
    v, q = networks; quick = Quick(v, q); c = v.condition(torch.arange(2)); noise = torch.rand(2, v.length)
    with torch.no_grad(), NoWaiting(): quick.once(torch.cat([c, v.unconditional(2)]) if how['guidance'] else c, noise, **how)

def test_recorded_drawing(networks, monkeypatch):
    "What is recorded is a function of two tensors alone: played again with other contents it draws other pictures, the right ones."
    made = []
    class Played:
        def __init__(self, f, *inputs): self.f, self.inputs, self.times = f, [x.clone() for x in inputs], 0; made.append(self); f(*self.inputs)
        def __call__(self, *inputs):
            for a, b in zip(self.inputs, inputs): a.copy_(b)
            self.times += 1; return self.f(*self.inputs)
    monkeypatch.setattr(fast, 'Recorded', Played); quick = Quick(*networks, at_once=2); quick.graph = True
    how = dict(guidance=2., top_k=7, seed=1); same(sample(*networks, torch.arange(5), **how), quick(torch.arange(5), **how)); assert [m.times for m in made] == [2, 1]      # two pictures, one picture
    same(sample(*networks, torch.arange(4) + 5, seed=4, **{k: how[k] for k in ('guidance', 'top_k')}), quick(torch.arange(4) + 5, seed=4, guidance=2., top_k=7)); assert [m.times for m in made] == [4, 1]
    quick(torch.arange(2), guidance=0.); assert len(made) == 3

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU on this machine')
def test_on_a_gpu(networks):
    import copy
    v, q = (copy.deepcopy(m).cuda() for m in networks); how = dict(guidance=4., top_k=10, top_p=.9, seed=3); quick = Quick(v, q)
    same(sample(v, q, torch.arange(5).cuda(), **how), quick(torch.arange(5).cuda(), **how), 1e-3); again = quick(torch.arange(5).cuda(), **how); assert quick.taped and again.img.isfinite().all()
    assert Quick(v, q, torch.float16)(torch.arange(3).cuda(), **how).img.isfinite().all()

def test_corners_are_the_same_numbers():
    with seeded(0), torch.no_grad():
        for c, d, h, w in ((3, 5, 4, 7), (8, 8, 1, 1), (2, 2, 1, 3)):
            conv = torch.nn.Conv2d(c, d, 3, padding=1); x = torch.randn(2, c, h, w); want = conv(F.interpolate(x, scale_factor=2, mode='nearest'))
            assert torch.allclose(enlarged(x, corner_weights(conv), conv.bias), want, atol=1e-6)

def test_decoder(networks):
    f = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        got, want = QuickDecoder(networks[1])(f), (networks[1].decode(f) + 1)/2; assert torch.allclose(got, want, atol=1e-5) and got.is_contiguous() and 0 <= got.min() and got.max() <= 1
        wide = QuickDecoder(networks[1])(100*torch.randn(1, 8, 3, 5)); assert wide.shape == (1, 3, 48, 80) and wide.min() == 0 and wide.max() == 1

@pytest.mark.skipif(not has_onednn(), reason='PyTorch without oneDNN')
def test_onednn():
    x, w, b = torch.randn(2, 7, 33), torch.randn(20, 33), torch.randn(20); calls = []; was = fast.onednn_linear
    fast.onednn_linear = lambda *a, **k: calls.append(a) or was(*a, **k)
    try:
        with torch.no_grad(), OneDNN(): assert torch.allclose(F.linear(x, w, b), x @ w.T + b, atol=1e-4) and torch.allclose(F.linear(x, w), x @ w.T, atol=1e-4) and torch.allclose(F.linear(x[0], w, bias=b), x[0] @ w.T + b, atol=1e-4)
        n = len(calls); assert n == 3
        with torch.no_grad(): F.linear(x, w)
        with torch.no_grad(), OneDNN(): assert F.linear(x[0, 0], w, b).shape == (20,)
        with OneDNN(): F.linear(x, w.requires_grad_()).sum().backward(); F.linear(x.double(), w.double().detach())
        assert len(calls) == n and w.grad is not None
    finally: fast.onednn_linear = was

def test_without_onednn(networks, monkeypatch):
    want = Quick(*networks)(torch.arange(2), top_k=4); monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
    q = Quick(*networks); assert not q.onednn; same(q(torch.arange(2), top_k=4), want)

# Which way is taken

def test_small_drawings_are_plain_and_large_ones_quick(networks, monkeypatch):
    v, q = networks; cond = torch.arange(3); how = dict(seed=3, guidance=2., top_k=9, trace=True); want = sample(v, q, cond, **how); brush = Brush()
    got = brush(v, q, cond, **how); assert not brush.pays(v, q) and brush.quick is None and torch.equal(got.img, want.img) and torch.equal(got.f_hat, want.f_hat) and all(torch.equal(a, b) for a, b in zip(got.trace, want.trace))
    monkeypatch.setattr(fast, 'worth', picture_work(v, q)); same(brush(v, q, cond, **how), want); assert brush.pays(v, q) and brush.quick is not None and brush.quick.half is None
    kept = brush.quick; brush(v, q, cond, **how); assert brush.quick is kept; brush(v, q, cond, batch=1); assert brush.quick.at_once == 1
    assert torch.equal(brush(v, q, cond, fast=False, **how).img, want.img) and torch.equal(brush(v, q, cond, smooth=True, **how).img, sample(v, q, cond, smooth=True, **how).img)
    with torch.device('meta'): assert picture_work(VAR(**var_configs['d16']), VQVAE(**vqvae_256)) == pytest.approx(991, abs=1)

@pytest.mark.parametrize('change', ['in place', 'loaded', 'through data', 'another tensor'])
def test_changed_weights_are_noticed(networks, change):
    import copy
    v, q = (copy.deepcopy(m).requires_grad_(False) for m in networks); brush = Brush(); cond = torch.arange(2); before = brush(v, q, cond, fast=True).img; conv = q.decoder.up[1].upsample.conv
    if change == 'in place': conv.weight.mul_(1.5)
    elif change == 'loaded': q.load_state_dict({k: t*1.5 if 'upsample' in k else t for k, t in q.state_dict().items()})
    elif change == 'through data': conv.weight.data.mul_(1.5)
    else: conv.weight = torch.nn.Parameter(conv.weight*1.5)
    after = brush(v, q, cond, fast=True); assert not torch.equal(after.img, before); same(after, sample(v, q, cond))
    half = brush(v, q, cond, half='bfloat16'); v.head.bias.add_(torch.linspace(-9, 9, 40)); assert not torch.equal(half.indices[-1], brush(v, q, cond, half='bfloat16').indices[-1]) and brush.quick.half == torch.bfloat16

def test_nothing_of_it_is_copied_or_kept(networks):
    import copy, pickle
    brush = Brush(); brush(*networks, torch.arange(2), fast=True); assert copy.deepcopy(brush).quick is None and len(pickle.dumps(brush)) < 200 and pickle.loads(pickle.dumps(brush)).quick is None
    brush.clear(); assert brush.quick is None and brush(*networks, torch.arange(2), fast=True).img.shape == (2, 3, 64, 64)

def test_bad_wishes(networks):
    for bad in (dict(fast='very'), dict(fast=None), dict(fast=False, half='float16'), dict(half='int8'), dict(fast=True, smooth=True), dict(half='float16', smooth=True), dict(fast=True, batch=0), dict(fast=True, batch=-1), dict(batch=0)):
        with pytest.raises(ReconError): Brush()(*networks, torch.arange(2), **bad)

def test_recordings_are_few(networks, monkeypatch):
    "Each holds memory of the card."
    monkeypatch.setattr(fast, 'Recorded', lambda f, *inputs: lambda *given: f(*given)); quick = Quick(*networks, at_once=9); quick.graph = True
    for n in range(1, 8): quick(torch.arange(n), top_k=3)
    assert len(quick.taped) == 4 and [k[0] for k in quick.taped] == [4, 5, 6, 7]

def test_difference_of_half_precision(tmp_path, networks):
    "What the benchmark says of 16 bits, on a CPU and on a GPU."
    from brainrecon.jobs.metric_speed import Watch
    from brainrecon.jobs.report import check_scores
    def draw(half):
        def f(labels, top_k, top_p): s = Quick(*networks, half)(torch.tensor(labels) % 10, top_k=top_k, top_p=top_p); return [i.tolist() for i in s.indices], s.img
        return f
    full, half = (dict(result=tmp_path/f'{n}.json') for n in ('full', 'half')); timed_draws(draw(None), full['result'], 1, 1, 'cpu', Watch().__enter__()); timed_draws(draw(torch.bfloat16), half['result'], 1, 1, 'cpu', Watch().__enter__())
    same_share, img = difference_rows('16 bits', full, half, 'a card'); c = compared(full['result'], half['result'])
    assert same_share['value'] == c['same'] <= 1 and img['value'] == c['img'] > 0 and same_share['note'].startswith('a card; against float32, 30 greedy tokens') and ('first other one at scale' in img['note']) == (c['first'] is not None)
    assert [r['value'] for r in difference_rows('x', full, full)] == [1., 0.]; check_scores(dict(title='x', rows=[same_share, img]))

def test_counts():
    with torch.device('meta'): v, q = VAR(**var_configs['d16']), VQVAE(**vqvae_256)
    t = drawing_cost(v, q); adaln = sum(p.numel() for n, p in v.named_parameters() if 'ada_lin' in n and p.ndim > 1); assert 100e6 < adaln < 103e6
    assert abs(t.GFLOP.drop('decoder').sum() + 9*2*2*adaln/1e9 - 600.8) < .1 and abs(t.GFLOP['decoder'] - 393.7) < .05      # counted in the released code
    assert t.GB['scale 1'] > 4*sum(p.numel() for p in v.blocks[0].ffn.parameters())*16/1e9 and t['FLOP a byte'].between(0, 200).all() and (t.calls > 0).all()

def test_counts_of_batches(networks):
    v, q = networks; t, half, three = drawing_cost(v, q), drawing_cost(v, q, guided=False), drawing_cost(v, q, 3)
    assert abs(half.GFLOP.drop(['decoder', 'quantiser']).sum()/t.GFLOP.drop(['decoder', 'quantiser']).sum() - .5) < .01 and half.GFLOP['decoder'] == t.GFLOP['decoder'] and abs(three.GFLOP.sum()/t.GFLOP.sum() - 3) < 1e-6

def test_count_is_that_of_torch(networks):
    v, q = networks
    with torch.no_grad(), FlopCounterMode(display=False) as counter: _, maps, _ = draw_scales_at_once(v, q.quantize, torch.randn(2, 48), torch.rand(1, v.length), 1., 5, .9); q.decode(maps[-1])
    assert round(drawing_cost(v, q).GFLOP.sum()*1e9) == counter.get_total_flops()

@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
def test_half(networks, half):
    v, q = networks; small = Quick(v, q, half); idx = sample(v, q, torch.arange(3), top_k=1).indices; x = q.quantize.teacher(idx)
    assert {p.dtype for p in small.var.parameters()} == {half} and small.vqvae.quantize.embedding.weight.dtype == torch.float32 and small.vqvae.decoder.conv_in.weight.dtype == half
    with torch.no_grad(): a, b = v(torch.arange(3), x).softmax(-1), small.var(torch.arange(3), x.to(half)).softmax(-1)
    assert .5*(a - b).abs().sum(-1).mean() < (.005 if half == torch.float16 else .04)
    drawn = small(torch.arange(3), top_k=5, seed=1); assert drawn.img.dtype == torch.float32 and 0 <= drawn.img.min() and drawn.img.max() <= 1

def test_mapped_weights_are_not_copied(tmp_path):
    v, q = pair(width=512, heads=8, depth=2); save_var(v, tmp_path/'v.safetensors'); save_vqvae(q, tmp_path/'q.safetensors'); want = Quick(v, q)(torch.arange(2), top_k=6)
    from brainrecon.jobs.loading import private_mb
    before = private_mb(); vm, qm = mapped_pair(tmp_path/'v.safetensors', tmp_path/'q.safetensors'); grown = private_mb() - before
    if Path('/proc/self/status').is_file(): assert grown < .5*sum(p.numel()*4 for p in v.parameters())/1e6
    assert not any(p.requires_grad for p in vm.parameters()) and not vm.training and qm.encoder is None and qm.size == q.size; same(Quick(vm, qm)(torch.arange(2), top_k=6), want)
    for make, kind, file in ((VAR, 'var', 'q'), (VQVAE, 'vqvae', 'v')):
        with pytest.raises(CheckpointError, match='expected'): mapped(make, kind, tmp_path/f'{file}.safetensors')
    from safetensors.torch import load_file, save_file
    state = load_file(tmp_path/'v.safetensors'); state.pop('head.bias'); save_file(state, tmp_path/'cut.safetensors', dict(meta=json.dumps(dict(kind='var', config=v.config))))
    with pytest.raises(CheckpointError, match='head.bias'): mapped(VAR, 'var', tmp_path/'cut.safetensors')

def test_bad_input(networks):
    v, q = networks; quick = Quick(v, q)
    for bad in (dict(half=torch.float64), dict(graph=True)):
        with pytest.raises(ParameterError): Quick(v, q, **bad)
    for bad in (dict(guidance=-1), dict(top_k=-1), dict(top_p=2), dict(seeds=[1]), dict(seeds=[-1, 2])):
        with pytest.raises(ReconError): quick(torch.arange(2), **bad)
    with pytest.raises(ReconError): quick(torch.tensor([99]))
    with pytest.raises(ReconError): Quick(v, pair(dict(vocab=41))[1])(torch.arange(2))
    broken = light(v); broken.head = torch.nn.Linear(48, 40); torch.nn.init.constant_(broken.head.bias, float('inf'))
    with pytest.raises(ValuesError, match='finite'): Quick(broken, q)(torch.arange(2))

def test_speed_files(tmp_path, networks):
    from brainrecon.jobs.metric_speed import Watch
    def draw(labels, top_k, top_p): s = Quick(*networks)(torch.tensor(labels) % 10, top_k=top_k, top_p=top_p); return [i.tolist() for i in s.indices], s.img
    for name in 'ab': timed_draws(draw, tmp_path/f'{name}.json', 2, 2, 'cpu', Watch().__enter__())
    r = json.loads((tmp_path/'a.json').read_text()); assert len(r['seconds']) == len(r['cpu_seconds']) == 2 and min(r['seconds']) > 0 and r['private_mb'] > 0 and r['gpu_mb'] is None
    assert compared(tmp_path/'a.json', tmp_path/'b.json') == dict(same=1., first=None, img=0., tokens=30)
    b = json.loads((tmp_path/'b.json').read_text()); b['tokens'][2][0][4] += 1; (tmp_path/'b.json').write_text(json.dumps(b)); c = compared(tmp_path/'a.json', tmp_path/'b.json'); assert c['first'] == 3 and np.isclose(c['same'], 29/30)

def test_released_code(tmp_path, monkeypatch):
    "The same tokens as the released code, where a checkout of it is named by BRAINRECON_VAR."
    import sys
    from brainrecon.core.files import load_json
    from brainrecon.jobs.measure import measured
    if not (at := os.environ.get('BRAINRECON_VAR')): pytest.skip('BRAINRECON_VAR names no checkout of FoundationVision/VAR')
    write_networks(tmp_path, dict(vocab=1024, z=8, patch_nums=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16), depth=2, num_classes=1000), dict(vocab=1024, z=8, ch=32))
    for who, more in (('ours', {}), ('theirs', dict(reference=at))): measured(f'brainrecon.jobs.generation_speed:{who}', folder=tmp_path, result=tmp_path/f'{who}.json', **more)
    c = compared(tmp_path/'ours.json', tmp_path/'theirs.json'); assert c['same'] == 1 and c['img'] < 1e-3 and len(load_json(tmp_path/'theirs.json')['tokens']) == 10
