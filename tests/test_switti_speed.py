"Switti and MindHier drawn fast: the same pictures as the plain way, recorded drawings, the released way of listening, and the benchmark end to end."
import copy, math
import pytest
import torch
import torch.nn.functional as F
from brainrecon.core.checks import ParameterError, ReconError, UnknownError
from brainrecon.core.files import load_json
from brainrecon.generators import fast
from brainrecon.generators.fast import Brush, OneDNN, Quick, light, mapped_pair, mix_by_heads, picture_work
from brainrecon.generators.levels import Told, level_of_scale
from brainrecon.generators.sampling import draw_scales, sample
from brainrecon.generators.switti import Switti, generate, save_switti
from brainrecon.generators.var import sides_256, sides_512
from brainrecon.generators.vqvae import save_vqvae
from brainrecon.jobs.report import check_scores
from brainrecon.jobs.results import keep_result
from brainrecon.jobs.run import RunFailed, run_job
from brainrecon.jobs.switti_speed import Clock, alike, as_released, counts, random_switti, rows_of, sizes, timed_way, told_at_random
from notebooks import NBS
from test_fast import NoWaiting, same
from test_switti import brain, kinds, said, tiny, words

hows = (dict(guidance=4., top_k=10, top_p=.9), dict(guidance=0., top_k=1), dict(guidance=2., window=(1, 2), top_p=.8, ramp=False))

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('padded', [True, False])
def test_same_as_the_plain_way(kind, padded):
    m, q = tiny(**kinds[kind]), words(); told = said(m, 3, padded=padded); quick = Quick(m, q)     # two at a time: the last one alone
    for how in hows: same(sample(m, q, told, seed=1, **how), quick(told, seed=1, **how))
    closed = dict(guidance=2., window=(0, 0)); bare = Told(told.pooled, told.tokens, told.seen, told.size); same(sample(m, q, bare, **closed), quick(bare, **closed))    # nothing is compared, so `none` is not asked for
    with pytest.raises(ParameterError, match='none'): quick(bare, guidance=1.)
    mine = copy.copy(told); mine.none = said(m, 3, seed=8, padded=padded); same(sample(m, q, mine, **hows[0]), quick(mine, **hows[0]))   # another one for each picture

@pytest.mark.parametrize('kind', ['crop', 'ar', 'mindhier'])
def test_nothing_waits(kind):
    m, q = tiny(**kinds[kind]), words(); quick = Quick(m, q); c = m.both(m.condition(said(m, 2)))
    with torch.no_grad(), NoWaiting(): quick.once(c, torch.rand(2, m.length), guidance=2., top_k=9, top_p=.9, window=(1, 2))

@pytest.mark.parametrize('kind', ['crop', 'mindhier', 'mindhier_ar'])
def test_recorded_drawing(kind, monkeypatch):
    "What is recorded is a function of tensors alone: told other things it draws other pictures, the right ones."
    made = []
    class Played:
        def __init__(self, f, *inputs): self.f, self.inputs, self.times = f, [x.clone() for x in inputs], 0; made.append(self); f(*self.inputs)
        def __call__(self, *inputs):
            for a, b in zip(self.inputs, inputs, strict=True): a.copy_(b)
            self.times += 1; return self.f(*self.inputs)
    monkeypatch.setattr(fast, 'Recorded', Played); m, q = tiny(**kinds[kind]), words(); quick = Quick(m, q); quick.graph = True; how = dict(guidance=3., top_k=9, window=(1, 2))
    for seed in (1, 2): told = said(m, 5, seed=seed); same(sample(m, q, told, seed=seed, **how), quick(told, seed=seed, **how))
    assert [p.times for p in made] == [4, 2]                        # two pictures, one picture
    unmarked = said(m, 2, padded=False); same(sample(m, q, unmarked, **how), quick(unmarked, **how)); assert len(made) == 3   # without a mark of padding: another recording
    c = m.both(m.condition(said(m, 2))); tensors, again = m.tensors(c); other = again(*tensors)
    assert len(other) == 4 and other.none is None and (other.size is None) == (kind != 'crop') and torch.equal(other.seen, c.seen) and all(map(torch.equal, other.tokens, c.tokens))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU on this machine')
@pytest.mark.parametrize('kind', kinds)
def test_on_a_gpu(kind):
    m, q = tiny(**kinds[kind]).cuda(), words().cuda(); quick = Quick(m, q); how = dict(hows[0], seed=2)
    for seed in (1, 2): told = said(m, 3, seed=seed); same(sample(m, q, told, **how), quick(told, **how), 1e-3)
    assert quick.taped and Quick(m, q, torch.bfloat16)(told, **how).img.isfinite().all() and timed_way(m, q, told)['recorded'] > 0

def test_brush_and_generate(monkeypatch):
    m, q = tiny(**brain), words(); told = said(m, 3); brush = Brush(); want = generate(m, q, told, seed=4)
    assert not brush.pays(m, q) and torch.equal(generate(m, q, told, seed=4, draw=brush).img, want.img) and brush.quick is None
    same(generate(m, q, told, seed=4, draw=brush, fast=True), want); assert brush.quick.at_once == 2
    monkeypatch.setattr(fast, 'worth', picture_work(m, q)); other = Brush(); same(generate(m, q, told, seed=4, draw=other), want); assert other.quick is not None
    with torch.no_grad(): m.head.bias.add_(torch.linspace(-9, 9, 32)); same(generate(m, q, told, draw=brush, fast=True), generate(m, q, told))     # changed weights are noticed
    with pytest.raises(ParameterError): generate(m, q, told, draw=brush, fast=True, smooth=True)

def test_files_and_halves(tmp_path):
    m, q = tiny(**kinds['crop']), words(); told = said(m, 2); save_vqvae(q, tmp_path/'q.safetensors'); save_switti(m, tmp_path/'m.safetensors')
    pair = mapped_pair(tmp_path/'m.safetensors', tmp_path/'q.safetensors', Switti); same(Quick(*pair)(told, seed=1), sample(m, q, told, seed=1)); assert pair[0].config == m.config and pair[1].encoder is None
    with pytest.raises(ReconError, match='switti'): mapped_pair(tmp_path/'m.safetensors', tmp_path/'q.safetensors')
    small = light(m, torch.bfloat16); kinds_ = {n: p.dtype for n, p in small.named_parameters()}
    assert kinds_.pop('crop_embed.weight') == torch.float32 and set(kinds_.values()) == {torch.bfloat16}     # waves turn by many rounds: 16 bits would lose the angle
    with torch.no_grad(): a, b = m.modulation(m.condition(told)), small.modulation(m.condition(told)); assert torch.allclose(a[0][0][0], b[0][0][0].float(), atol=.1*a[0][0][0].std())
    drawn = Quick(m, q, torch.bfloat16)(told, seed=1); assert drawn.img.dtype == torch.float32 and drawn.img.isfinite().all()

# Attention in 16 bits

def test_attention_head_by_head():
    q, k, v = torch.randn(2, 3, 70, 8), torch.randn(2, 3, 64, 8), torch.randn(2, 64, 3, 8).transpose(1, 2); calls = []
    for mask in (None, torch.rand(2, 1, 1, 64) < .5, torch.rand(1, 1, 70, 64) < .5):
        for scale in (None, .2): assert torch.allclose(mix_by_heads(q, k, v, mask, scale), F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale), atol=1e-6)
    with pytest.MonkeyPatch.context() as m, torch.no_grad(), OneDNN():
        m.setattr(fast, 'mix_by_heads', lambda *a, **k: calls.append(1) or mix_by_heads(*a, **k)); half = [x.bfloat16() for x in (q, k, v)]
        for given, how in ((half, {}), (half, dict(attn_mask=torch.ones(2, 1, 1, 64, dtype=torch.bool)))): F.scaled_dot_product_attention(*given, **how)
        assert len(calls) == 2
        for given, how in (((q, k, v), {}), ([x[:, :, :9] for x in half], {}), (half, dict(attn_mask=torch.zeros(70, 64).bfloat16())), (half, dict(is_causal=True)), (half, dict(attn_mask=torch.ones(2, 3, 70, 64, dtype=torch.bool)))): F.scaled_dot_product_attention(*given, **how)
        assert len(calls) == 2     # 32 bits, few tokens, other masks: as ever

# The released way of listening

@pytest.mark.parametrize('how', [dict(), dict(levels=4), dict(levels=3, order='fine_to_coarse'), dict(use_ar=True), dict(rope=False)])
@pytest.mark.parametrize('padded', [True, False])
def test_the_released_way_gives_the_same_guesses(how, padded):
    m, q = tiny(**dict(brain, **how)), words(); told = said(m, 2, padded=padded); other = as_released(m); made = []
    for block in other.blocks: block.attention_y_norm.register_forward_hook(lambda *_: made.append(1))
    a, b = (list(draw_scales(v, q.quantize, told, [3, 4], guidance=3., top_k=9, window=(1, 3))) for v in (m, other))
    for s, t in zip(a, b, strict=True): torch.testing.assert_close(s.logits, t.logits, rtol=0, atol=1e-4); assert torch.equal(s.indices, t.indices)
    assert len(made) == 2*3 and all(p.data_ptr() == o.data_ptr() for p, o in zip(m.parameters(), other.parameters())); same(sample(m, q, told, **hows[0]), Quick(other, q)(told, **hows[0]))
    with torch.no_grad(): x = torch.randn(2, m.length - m.first, m.z); assert torch.equal(m(told, x), other(told, x))

def scale_work(k, depth=30, sides=sides_512, told=257):
    "10^9 operations of one scale, with guidance: products with the weights, the two kinds of attention, keys and values where a level is told for the first time."
    d, n = 64*depth, sides[k]**2; first = k == 0 or level_of_scale(10, 4)[k] != level_of_scale(10, 4)[k-1]
    return 2*2*(n*(depth*(6*d*d + 3*d*int(d*8/3)) + d*4096) + depth*2*d*n*(n + told) + first*depth*257*2*768*d)/1e9

def test_counts_of_the_released_size():
    full = counts(*sizes(30, 512)); mine, their = full['this library'], full['released']; keys = 2*2*30*4*257*2*768*1920/1e9
    for k in range(10):
        name, first = f'scale {k+1}', k in (0, 3, 5, 8); assert math.isclose(mine[name], scale_work(k), rel_tol=2e-3)
        assert math.isclose(their[name] - mine[name], keys - first*keys/4 + scale_work(k, told=1028) - scale_work(k), rel_tol=1e-3, abs_tol=1e-3)
    assert mine['decoder'] == their['decoder'] and mine['condition'] == their['condition'] and 15000 < sum(mine.values()) < 20000

# The benchmark

def test_random_networks():
    config = sizes(2, 256, 32)[0]; m, own = random_switti(config, seed=3), Switti(**config)
    assert {n: b.tolist() for n, b in m.named_buffers()} == {n: b.tolist() for n, b in own.named_buffers()} and m.config == own.config and not m.training and not any(p.requires_grad for p in m.parameters())
    for name, p in m.named_parameters():
        if p.ndim == 1: assert (p == ('norm' in name)).all(), name
        elif p.numel() > 2000: assert p.std().item() == pytest.approx(.7 if name.startswith(('pos_', 'lvl')) else p[0].numel()**-.5, rel=.1), name
    assert not torch.equal(m.blocks[0].attn.proj.weight, m.blocks[1].attn.proj.weight) and torch.equal(m.head.weight, random_switti(config, seed=3).head.weight) and not torch.equal(m.head.weight, random_switti(config, seed=4).head.weight)
    half = random_switti(config, 'bfloat16'); assert {p.dtype for p in half.parameters()} == {torch.bfloat16} and half.lvl_1L.dtype == torch.int64
    assert len(told_at_random(m, 3)) == 3 and len(told_at_random(m, 3).none) == 1 and told_at_random(m).tokens[3].shape == (1, 257, 768)

@pytest.mark.parametrize('given, error, says', [(dict(resolution=384), UnknownError, 'resolution'), (dict(resolution='512'), UnknownError, 'resolution'), (dict(depth=0), ReconError, 'depth'), (dict(channels=1.5), ReconError, 'channels')])
def test_refusals(given, error, says):
    with pytest.raises(error, match=says): sizes(**given)

def test_the_clock_and_the_rows():
    clock = Clock(); [clock.at(p) for p in ('a', 'b', 'a', None)]; assert list(clock.parts) == ['a', 'b'] and all(s >= 0 and c >= 0 for s, c in clock.parts.values())
    r = dict(seconds=3., cpu_seconds=2., parts=dict(a=(1., .5), b=(2., 1.5)), recorded=None, mb=7., indices=[[[1, 2]], [[3, 4]]]); rows = {x['measure']: x['value'] for x in rows_of('x', r, 2)}
    assert rows == {'seconds a picture': 1.5, 'processor seconds a picture': 1., 'private memory (MB)': 7., 'processor seconds a picture: a': .25, 'processor seconds a picture: b': .75}
    card = {x['measure']: x['value'] for x in rows_of('x', dict(r, recorded=.4), 2)}; assert card == {'seconds a picture, not recorded': 1.5, 'seconds a picture, recorded': .2, 'memory of the GPU (MB)': 7., 'seconds a picture: a': .5, 'seconds a picture: b': 1.}
    assert alike(r, dict(r, indices=[[[1, 0]], [[3, 4]]])) == .75; check_scores(dict(title='x', rows=rows_of('x', r, 2)))

def test_the_benchmark_runs_small(tmp_path):
    run = run_job('benchmark/07_switti', out=tmp_path/'run', depth=1, resolution=256, precision='float32', channels=32, samples=2, plain=True, threads=1, device='cpu')
    rows = run.scores()['rows']; by = {(r['what'].rsplit(': ', 1)[-1], r['measure']): r for r in rows}; ways = ('this library', 'released way of listening', 'plain loop')
    for way in ways: assert by[way, 'processor seconds a picture']['value'] > 0
    for way in ways[:2]: assert len([1 for w, m in by if w == way and m.startswith('processor seconds a picture: ')]) == 14 and abs(sum(r['value'] for (w, m), r in by.items() if w == way and m.startswith('processor seconds a picture: ')) - by[way, 'processor seconds a picture']['value']) < 1e-6
    assert by[ways[0], '10^9 operations a picture: scale 10']['value'] < by[ways[1], '10^9 operations a picture: scale 10']['value'] and '100.0% of the tokens' in by[ways[1], 'seconds a picture']['note'] and '100.0% of the tokens' in by[ways[2], 'seconds a picture']['note']
    assert {r['status'] for r in rows} == {'measured here', 'reported by the paper', 'not run'} and sorted(p.name for p in (tmp_path/'run'/'figures').glob('*.png')) == ['by-scale.png', 'work.png']
    kept = load_json(keep_result(tmp_path/'run', tmp_path/'kept.json', 'a machine')); assert kept['values']['depth'] == 1 and kept['machine'] == 'a machine' and len(kept['scores']['rows']) == len(rows)
    with pytest.raises(RunFailed): run_job('benchmark/07_switti', out=tmp_path/'bad', depth=1, resolution=256, precision='int8', channels=32, device='cpu')

def test_the_kept_result_is_whole():
    kept = load_json(NBS/'08_jobs'/'results'/'switti-cpu.json'); v, rows = kept['values'], kept['scores']['rows']; check_scores(kept['scores'])
    mine = [r for r in rows if r['what'].endswith('this library') and r['status'] == 'measured here']; by = {r['measure']: r['value'] for r in mine}; sides = dict([(256, sides_256), (512, sides_512)])[v['resolution']]
    assert kept['job'] == 'benchmark/07_switti' and all(f"depth {v['depth']}, {v['resolution']} pixels, {v['precision']}" in r['what'] for r in mine)
    for k in range(10): assert by[f'10^9 operations a picture: scale {k+1}'] == pytest.approx(scale_work(k, v['depth'], sides), rel=2e-3)
    assert sum(x for m, x in by.items() if m.startswith('processor seconds a picture: ')) == pytest.approx(by['processor seconds a picture']) and [r['value'] for r in rows if r['status'] == 'not run'] == [None]
