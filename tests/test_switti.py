"""Switti, Switti AR and MindHier: official keys and counts, levels by scale, memory against all scales at once, the table that asking by level replaces, what learns, company and windows, files, warm starts, bad input."""
import copy
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from brainrecon.core.batches import Batches
from brainrecon.core.checks import CheckpointError, MissingWeights, ParameterError, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.core.fit import Fit
from brainrecon.generators.levels import Told, level_of_scale
from brainrecon.generators.sampling import draw_scales, guidance_at, sample
from brainrecon.generators.scales import NextScale
from brainrecon.generators.switti import Switti, crop_condition, generate, load_switti, save_switti, sides_1024, switti_config, switti_configs, turned, turns, warm_start
from brainrecon.generators.training import generator_groups
from brainrecon.generators.var import VAR, initialise, sides_256, sides_512
from brainrecon.generators.vqvae import VQVAE

sides = (1, 2, 3)
text = dict(pooled_dim=5, context_dim=6); brain = dict(text, levels=2, pooler='fmri_pooler')
kinds = dict(switti=text, crop=dict(text, use_crop_cond=True), ar=dict(text, use_ar=True), mindhier=brain, mindhier_ar=dict(brain, use_ar=True), fine=dict(brain, order='fine_to_coarse'), places=dict(text, rope=False, use_swiglu_ffn=False))

def tiny(seed=0, **how):
    "A network whose gates are open and whose every part says something."
    with seeded(seed):
        m = Switti(**dict(vocab=32, z=4, patch_nums=sides, depth=2, width=32, heads=2) | (how or text)); initialise(m, gates=1., rest=1., head=3.)
        for name, p in m.named_parameters():
            if name.endswith('bias') or 'crop_cond' in name: nn.init.normal_(p, std=.2)
            if 'norm' in name: nn.init.uniform_(p, .5, 1.5)
    return m.eval()

def words(patch_nums=sides, seed=0):
    with seeded(seed):
        vqvae = VQVAE(vocab=32, z=4, ch=8, ch_mult=(1, 2), blocks=1, patch_nums=patch_nums, norm_groups=4); nn.init.normal_(vqvae.quantize.embedding.weight)
    return vqvae.eval()

def said(m, n, seed=1, padded=True, tokens=3):
    "Something to tell, with what is told where nothing is known."
    c = m.config
    def one(n):
        seen = torch.ones(n, tokens, dtype=torch.bool); seen[0, -1] = n == 1
        return Told(torch.randn(n, c['pooled_dim']), [torch.randn(n, tokens, c['context_dim']) for _ in range(c['levels'])], seen if padded else None, torch.tensor([[600, 512 + 9*i] for i in range(n)]) if c['use_crop_cond'] else None)
    with seeded(seed): told = one(n); told.none = one(1)
    return told

def entering(n, m, seed=2):
    with seeded(seed): return torch.randn(n, m.length - m.first, m.z)

# ---- size

def official_keys(c):
    "Keys and shapes of the released files, by the rule of their names."
    d, depth, sides = 64*c['depth'], c['depth'], c['patch_nums']; n = sum(p*p for p in sides); up = int(d*8/3); pooled, ctx = c.get('pooled_dim', 1280), c.get('context_dim', 2048)
    out = {f'{c.get("pooler", "text_pooler")}.weight': (d, pooled), f'{c.get("pooler", "text_pooler")}.bias': (d,), 'word_embed.weight': (d, 32), 'word_embed.bias': (d,), 'pos_start': (1, 1, d), 'lvl_embed.weight': (len(sides), d), 'lvl_1L': (1, n), 'attn_bias_for_masking': (1, 1, n, n),
        'head_nm.ada_lin.1.weight': (2*d, d), 'head_nm.ada_lin.1.bias': (2*d,), 'head.weight': (4096, d), 'head.bias': (4096,)}
    block = {'attn.to_qkv.weight': (3*d, d), 'attn.to_qkv.bias': (3*d,), 'attn.proj.weight': (d, d), 'attn.proj.bias': (d,), 'cross_attn.to_q.weight': (d, d), 'cross_attn.to_q.bias': (d,), 'cross_attn.to_kv.weight': (2*d, ctx), 'cross_attn.to_kv.bias': (2*d,),
        'cross_attn.proj.weight': (d, d), 'cross_attn.proj.bias': (d,), 'ffn.up_proj.weight': (up, d), 'ffn.gate_proj.weight': (up, d), 'ffn.down_proj.weight': (d, up), 'ada_lin.1.weight': (6*d, d), 'ada_lin.1.bias': (6*d,), 'attention_y_norm.weight': (ctx,)}
    block |= {f'{a}_norm{i}.weight': (d,) for a in ('self_attention', 'cross_attention', 'ffn') for i in (1, 2)}
    if c.get('use_crop_cond'): block |= dict(crop_cond_scales=(1, d)); out |= {'crop_embed.weight': (d//8,), 'crop_proj.weight': (d, d), 'crop_proj.bias': (d,)}
    return out | {f'blocks.{i}.{name}': shape for i in range(depth) for name, shape in block.items()}

@pytest.mark.parametrize('name', switti_configs)
def test_released_sizes_have_the_official_keys(name):
    with torch.device('meta'): m = Switti(**switti_configs[name])
    assert {k: tuple(v.shape) for k, v in m.state_dict().items()} == official_keys(switti_configs[name])
    assert m.heads == 30 and m.width == 1920 and m.length == 2240 and m.state_dict()['lvl_1L'].dtype == torch.int64

def test_counts_are_the_published_ones():
    with torch.device('meta'):
        m = Switti(**switti_configs['mindhier']); assert sum(p.numel() for p in m.parameters()) == 2_318_294_656
        told = Told(torch.empty(1, 768), [torch.empty(1, 257, 768) for _ in range(4)])
        assert Switti(**switti_configs['mindhier'] | dict(patch_nums=sides_256, depth=2, heads=2)).eval()(told, torch.empty(1, 679, 32)).shape == (1, 680, 4096)
    assert sum(n*n for n in sides_512) == 2240 and sum(n*n for n in sides_1024) == 9451

# ---- levels

def test_levels_by_the_formula():
    for K in range(1, 14):
        for M in range(1, 9):
            h = level_of_scale(K, M); assert h == [M - (M*(k - 1))//K for k in range(1, K + 1)] and h[0] == M and sorted(h, reverse=True) == h and level_of_scale(K, M, 'fine_to_coarse') == [M + 1 - i for i in h]
    assert level_of_scale(10, 4) == [4, 4, 4, 3, 3, 2, 2, 2, 1, 1]

def by_table(m, told, x):
    "The same network with all levels in one row and a table of who may hear what."
    rows = m.ear_mask(told.tokens[0].shape[1]); row = told.tokens if m.config['order'] != 'deep_to_coarse' else told.tokens[::-1]; context = torch.cat(row, 1)
    other = copy.deepcopy(m)
    for block in other.blocks:
        def forward(x, heard, seen, ask=block.cross_attn, norm=block.attention_y_norm):
            b, n, d = x.shape; cut = lambda y: y.view(b, -1, m.heads, d//m.heads).transpose(1, 2); k, v = ask.to_kv(norm(context)).chunk(2, -1); same = lambda y: F.layer_norm(y, (d,), eps=1e-6)
            return ask.proj(F.scaled_dot_product_attention(cut(same(ask.to_q(x))), cut(same(k)), cut(v), attn_mask=rows).transpose(1, 2).reshape(b, n, d))
        block.cross_attn.forward = forward
    return other(told, x)

@pytest.mark.parametrize('order', ['deep_to_coarse', 'fine_to_coarse', 'released'])
@pytest.mark.parametrize('levels', [1, 2, 3, 5])
def test_asking_by_level_is_the_table(order, levels):
    m = tiny(**dict(brain, levels=levels, order=order)); told, x = said(m, 2, padded=False), entering(2, m)
    with torch.no_grad(): torch.testing.assert_close(m(told, x), by_table(m, told, x), rtol=0, atol=1e-4)

def test_the_published_fault_by_name_only():
    m, sides10 = tiny(**dict(brain, levels=4, order='released', patch_nums=sides_512)), sides_512; right = tiny(**dict(brain, levels=4, patch_nums=sides10))
    assert m.runs() == tiny(**dict(brain, levels=4, order='fine_to_coarse', patch_nums=sides10)).runs() and [right.runs(k)[0][2] for k in range(10)] == level_of_scale(10, 4) and all(len(right.runs(k)) == 1 for k in range(10))
    assert m.runs(9) == [(0, 14, 4), (14, 66, 3), (66, 640, 2), (640, 1024, 1)]     # the last scale hears all four
    assert right.config['order'] == 'deep_to_coarse'

def test_a_level_reaches_its_scales_only():
    m = tiny(**dict(brain, levels=3)); told, x = said(m, 2), entering(2, m)
    for t in told.tokens: t.requires_grad_()
    for k, (a, e) in enumerate(m.spans):
        g = torch.autograd.grad(m(told, x)[:, a:e].square().sum(), told.tokens, allow_unused=True); assert [v is not None and bool(v.abs().sum() > 0) for v in g] == [i == 2 - k for i in range(3)]

# ---- who sees what

@pytest.mark.parametrize('kind', kinds)
def test_scales_see_what_they_may_and_all_weights_learn(kind):
    m = tiny(**kinds[kind]); told, x = said(m, 3), entering(3, m).requires_grad_()
    for k, (a, e) in enumerate(m.spans):
        g, = torch.autograd.grad(m(told, x)[:, a:e].square().sum(), x); seen = g.abs().sum((0, 2)) > 0
        assert seen.tolist() == [(0 if m.back else a) <= i + 1 < e for i in range(13)]
    F.cross_entropy(m(told, x).flatten(0, 1), torch.arange(42) % 32).backward()
    assert [n for n, p in m.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all() or not p.grad.abs().sum() > 0)] == [] and [n for n, p in m.named_parameters() if not p.requires_grad] == ['crop_embed.weight']*(kind == 'crop')

@pytest.mark.parametrize('kind', kinds)
def test_the_drawing_gives_what_all_scales_at_once_give(kind):
    m, vqvae = tiny(**kinds[kind]), words(); told = said(m, 3)
    for guidance, window in ((0, None), (2.5, None), (2.5, (1, 2))):
        steps = list(draw_scales(m, vqvae.quantize, told, [5, 6, 7], guidance=guidance, top_k=20, top_p=.9, window=window)); x = vqvae.quantize.teacher([s.indices for s in steps])
        with torch.no_grad(): known, free = m(told, x), m(told, x, drop=[True]*3)
        for s, (a, e) in zip(steps, m.spans): t = guidance_at(guidance, s.k, 3, window=window); torch.testing.assert_close(s.logits, (1+t)*known[:, a:e] - t*free[:, a:e], rtol=0, atol=2e-4)
        assert torch.cat([s.logits for s in steps], 1).std() > .3

def test_keys_of_a_level_are_made_once_and_forgotten():
    m, vqvae = tiny(**dict(brain, levels=2, patch_nums=(1, 2, 3, 4))), words((1, 2, 3, 4)); told = said(m, 2, padded=False); made = []
    for block in m.blocks: block.attention_y_norm.register_forward_hook(lambda *_: made.append(1))
    with torch.no_grad():
        c = m.condition(told); how, memory, f = m.modulation(c), m.cache(2), vqvae.quantize.start(2); x = m.start(c)
        for k in range(4):
            m.advance(x, k, how, memory); assert len(made) == 2*(1 + k//2) and len(how[3].kept) == 2
            f, seen = vqvae.quantize.step(k, f, vqvae.quantize.embed(torch.zeros(2, (k+1)**2, dtype=torch.int64), k)); x = m.enter(seen, k+1) if k < 3 else x
    assert memory.kv.numel() == 0 and memory.n == 30 and tiny(**kinds['ar']).cache(2).kv.numel() > 0

def test_a_window_saves_the_second_half():
    m, vqvae = tiny(**brain), words(); told = said(m, 2); rows = []
    m.blocks[0].register_forward_pre_hook(lambda _, i: rows.append(len(i[0])))
    for guidance, window in ((3., None), (3., (1, 2)), (3., (0, 0)), (0., (0, 3))): list(draw_scales(m, vqvae.quantize, told, [1, 2], guidance=guidance, window=window))
    assert rows == [4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2]

def test_padding_is_not_heard():
    m = tiny(**text); told, x = said(m, 2), entering(2, m); other = Told(told.pooled, [told.tokens[0].clone()], told.seen); other.tokens[0][0, -1] = 9.
    heard = Told(told.pooled, [told.tokens[0].clone()], told.seen); heard.tokens[0][1, -1] = 9.
    with torch.no_grad(): a, b, c = m(told, x), m(other, x), m(heard, x)
    assert torch.equal(a, b) and torch.equal(a[0], c[0]) and not torch.equal(a[1], c[1])
    short = Told(told.pooled[:1], [told.tokens[0][:1, :2]])
    with torch.no_grad(): torch.testing.assert_close(m(short, x[:1])[0], a[0], rtol=0, atol=1e-5)

@pytest.mark.parametrize('which', ['told', 'none'])
def test_padding_that_only_one_side_marks(which):
    m, vqvae = tiny(**text), words(); told = said(m, 2); full = said(m, 2)
    (told if which == 'told' else told.none).seen = None; (full if which == 'told' else full.none).seen = torch.ones(2 if which == 'told' else 1, 3, dtype=torch.bool)
    a, b = (list(draw_scales(m, vqvae.quantize, t, [1, 2], guidance=2.)) for t in (told, full)); assert all(torch.equal(s.logits, t.logits) for s, t in zip(a, b))

def test_conditions_are_left_out_in_training_only():
    m = tiny(**dict(brain, cond_drop=.5)); told, x = said(m, 64), entering(64, m)
    with torch.no_grad():
        known, free = m(told, x), m(told, x, drop=torch.ones(64, dtype=torch.bool)); silent = Told(told.none.pooled.expand(64, -1), [t.expand(64, -1, -1) for t in told.none.tokens], told.none.seen.expand(64, -1)); torch.testing.assert_close(free, m(silent, x))
        assert torch.equal(known, m(told, x)); m.train()
        with seeded(0): mixed = m(told, x)
        left = (mixed - free).abs().amax((1, 2)) < 1e-4; kept = (mixed - known).abs().amax((1, 2)) < 1e-4; assert (left ^ kept).all() and 16 < left.sum() < 48
        bare = Told(told.pooled, told.tokens, told.seen)
        with pytest.raises(ParameterError, match='none'): m(bare, x)
        with pytest.raises(ParameterError, match='none'): m.eval()(bare, x, drop=[True]*64)
        assert torch.equal(m(bare, x, drop=[False]*64), known)

def test_turns_tell_distances():
    cos, sin = turns((1, (2, 3), 4), 16); assert cos.shape == (1 + 6 + 16, 8) and torch.equal(cos[0], torch.ones(8)) and torch.allclose(cos**2 + sin**2, torch.ones_like(cos))
    corner = lambda a, e, at: torch.stack([cos[a:e][at], sin[a:e][at]]); torch.testing.assert_close(corner(1, 7, -1), corner(7, 23, -1))     # the last corner of each scale is one place
    with seeded(0): q = torch.randn(1, 2, 23, 16)
    torch.testing.assert_close(turned(q, (cos, sin)).norm(dim=-1), q.norm(dim=-1))

def test_crops():
    assert crop_condition(torch.tensor([[512, 512], [600, 512], [1024, 2048], [300, 451]])).tolist() == [[512, 512, 0, 0], [600, 512, 44, 0], [512, 1024, 0, 256], [512, 769, 0, 128]]
    m = tiny(**kinds['crop']); told, x = said(m, 2), entering(2, m); own = Told(told.pooled, told.tokens, told.seen); square = Told(told.pooled, told.tokens, told.seen, torch.full((2, 2), 512))
    with torch.no_grad(): a, b, c = m(told, x), m(own, x), m(square, x)
    assert torch.equal(b, c) and (a - b).abs().amax((1, 2)).min() > 1e-5

# ---- drawing

@pytest.mark.parametrize('kind', ['crop', 'ar', 'mindhier'])
def test_a_picture_is_the_same_in_any_company(kind):
    m, vqvae = tiny(**kinds[kind]), words(); told = said(m, 7); seeds = list(range(7)); every = generate(m, vqvae, told, seeds=seeds, batch=4, guidance=2.)
    assert len({tuple(i.tolist()) for i in every.indices[2]}) == 7 and every.img.shape == (7, 3, 6, 6)
    for rows, batch in (([3], 1), ([6, 3, 0], 16), ([5, 5, 3], 2)):
        got = generate(m, vqvae, told[rows], seeds=[seeds[r] for r in rows], batch=batch, guidance=2.)
        for a, b in zip(got.indices, every.indices): assert torch.equal(a, b[rows])
        torch.testing.assert_close(got.img, every.img[rows], rtol=0, atol=1e-5)
    assert all(map(torch.equal, generate(m, vqvae, told, seed=1, greedy=True).indices, generate(m, vqvae, told, seed=2, greedy=True).indices))
    assert all(map(torch.equal, generate(m, vqvae, told, seed=1, guidance=6., top_k=400, top_p=.95).indices, sample(m, vqvae, told, seed=1, guidance=6., top_k=400, top_p=.95, window=(1, 3)).indices))

@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
def test_weights_in_16_bits(half):
    m = tiny(**brain); told, x = said(m, 3), entering(3, m); small = copy.deepcopy(m).to(half)
    with torch.no_grad():
        want, got = m(told, x), small(told, x); assert got.dtype == torch.float32 and 0 < (got - want).abs().mean() < .06*want.std()
        with torch.autocast('cpu', torch.bfloat16): mixed = m(told, x)
        assert mixed.dtype == torch.float32 and 0 < (mixed - want).abs().mean() < .06*want.std()
    drawn = generate(small, words(), told); assert drawn.img.isfinite().all()

def test_it_learns_from_the_levels_alone():
    "The guesses of a tiny network become those of the pictures, through the levels alone: what is pooled is the same for all."
    m = tiny(**dict(brain, cond_drop=0.)); told, x = said(m, 4, padded=False), entering(4, m); told.pooled = torch.zeros_like(told.pooled); x = x[:1].expand(4, -1, -1)
    with seeded(0): truth = torch.randint(32, (4, 14))
    opt = torch.optim.Adam(m.train().parameters(), 1e-2); before = None
    for _ in range(60): loss = F.cross_entropy(m(told, x).flatten(0, 1), truth.flatten()); before = before or loss.item(); opt.zero_grad(); loss.backward(); opt.step()
    assert before > 2.5 and loss.item() < .5

class Stop(Exception): pass

def fitted(folder, stop=None, **how):
    "Trained by the shared loop; conditions are left out by chance."
    m = tiny(**dict(brain, cond_drop=.3)); q = words().quantize; g = np.random.default_rng(0); n = 24; said_ = g.standard_normal((n, 2, 3, 6)).astype('float32'); truth = torch.from_numpy(g.integers(32, size=(n, 14))); calls = []
    none = Told(torch.zeros(1, 5), [torch.zeros(1, 3, 6)]*2)
    def loss(model, batch):
        t, i = batch; calls.append(1); w = truth[i]
        if len(calls) == stop: raise Stop
        with torch.no_grad(): x = q.teacher(list(w.split([1, 4, 9], 1)))
        return F.cross_entropy(model(Told(t[:, 1].mean(1)[:, :5], list(t.unbind(1)), none=none), x).flatten(0, 1), w.flatten())
    Fit(m, loss, folder=folder, name='switti', log=None, lr=1e-3, groups=generator_groups(.05), seed=3, device='cpu', **how).run(Batches(said_, np.arange(n), batch_size=8, seed=1), 9, every=3)
    return m

def test_a_run_that_was_stopped_ends_at_the_same_weights(tmp_path):
    whole = fitted(tmp_path/'a')
    with pytest.raises(Stop): fitted(tmp_path/'b', stop=6)
    again = fitted(tmp_path/'b'); first = tiny(**brain).state_dict(); assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    still = {k for k, v in whole.state_dict().items() if torch.equal(v, first[k])}; assert still == {'lvl_1L', 'attn_bias_for_masking'}

# ---- files

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(trainer=dict(switti_wo_ddp=s, vae_local={'x': torch.ones(1)})), lambda s: {f'hierarchy_ar.{k}': v for k, v in s.items()} | {'fMRI_encoder.pos_embed': torch.ones(1)}], ids=['plain', 'trainer', 'whole'])
def test_official_files(kind, wrap, tmp_path):
    m = tiny(**kinds[kind]); told, x = said(m, 2), entering(2, m); torch.save(wrap(m.state_dict()), tmp_path/'s.pth'); more = dict(levels=2) if 'pooler' in kinds[kind] else {}; more |= dict(order='fine_to_coarse') if kind == 'fine' else {}
    again, report = load_switti(tmp_path/'s.pth', heads=2, **more); assert not report.new and len(report.matched) == len(m.state_dict()) and list(report.refused) in ([], ['fMRI_encoder.pos_embed']) and again.config == m.config and not again.training
    with torch.no_grad(): assert torch.equal(again(told, x), m(told, x))
    save_switti(m, tmp_path/'s.safetensors', dict(made='here')); again, report = load_switti(tmp_path/'s.safetensors'); assert again.config == m.config and not report.new
    with torch.no_grad(): assert torch.equal(again(told, x), m(told, x))

def test_files_that_say_less(tmp_path):
    m = tiny(**text); state = {k: v for k, v in m.state_dict().items() if k not in ('lvl_1L', 'attn_bias_for_masking')}; torch.save(state, tmp_path/'s.pth')
    for how, word in ((dict(), 'heads'), (dict(heads=2), 'patch_nums'), (dict(heads=2, patch_nums=sides), 'use_ar')):
        with pytest.raises(CheckpointError, match=word): load_switti(tmp_path/'s.pth', **how)
    again, report = load_switti(tmp_path/'s.pth', heads=2, patch_nums=sides, use_ar=False); assert list(report.rebuilt) == ['lvl_1L', 'attn_bias_for_masking'] and torch.equal(again.attn_bias_for_masking, m.attn_bias_for_masking) and 'rebuilt' in str(report)
    halved = {k: v.half() for k, v in m.state_dict().items()}; torch.save(halved, tmp_path/'h.pth'); assert torch.equal(load_switti(tmp_path/'h.pth', heads=2)[0].lvl_1L, m.lvl_1L)
    released = tiny(**dict(text, width=None, heads=None, depth=1)); torch.save(released.state_dict(), tmp_path/'r.pth'); assert load_switti(tmp_path/'r.pth')[0].heads == 1
    torch.save(m.state_dict(), tmp_path/'s.pth')
    for how in (dict(use_ar=True), dict(patch_nums=(3, 2, 1, 4)[:2] + (3,)), dict(patch_nums=(2, 1, 3))):
        with pytest.raises((CheckpointError, ParameterError)): load_switti(tmp_path/'s.pth', heads=2, **how)
    with pytest.raises(MissingWeights): load_switti(tmp_path/'absent.pth')
    with pytest.raises(ParameterError, match='heads'): load_switti(tmp_path/'s.pth', haeds=2)
    with pytest.raises(CheckpointError, match='Switti or MindHier'): switti_config({'blocks.0.attn.mat_qkv.weight': torch.ones(1)})
    var = VAR(vocab=32, z=4, patch_nums=sides, depth=1, width=32, heads=2, d_embed=5); torch.save(var.state_dict(), tmp_path/'v.pth')
    with pytest.raises(CheckpointError): load_switti(tmp_path/'v.pth')

def test_a_warm_start_keeps_all_but_the_ears(tmp_path):
    old = tiny(3, **kinds['crop']); torch.save(old.state_dict(), tmp_path/'s.pth'); m = tiny(4, **dict(brain, pooled_dim=7, context_dim=9)); before = copy.deepcopy(m.state_dict()); report = warm_start(m, tmp_path/'s.pth'); after = m.state_dict()
    new = {k for k in after if k.startswith('fmri_pooler') or 'to_kv.weight' in k or 'attention_y_norm' in k}; made = {'lvl_1L', 'attn_bias_for_masking'}
    assert set(report.new) == new and set(report.rebuilt) == made and all(torch.equal(after[k], before[k]) for k in new) and all(torch.equal(after[k], old.state_dict()[k]) for k in after if k not in new)
    assert set(report.refused) >= {k for k in old.state_dict() if 'crop' in k or 'text_pooler' in k or 'to_kv.weight' in k} and len(report.table()) >= len(after)
    same = tiny(5, **text); report = warm_start(same, tmp_path/'s.pth'); assert not [k for k in report.new if 'to_kv' in k]     # what still fits is kept
    ar = tiny(6, **kinds['ar']); warm_start(ar, tmp_path/'s.pth'); assert ar.back and torch.equal(ar.attn_bias_for_masking, tiny(**kinds['ar']).attn_bias_for_masking)
    for how in (dict(depth=3), dict(width=16), dict(vocab=33), dict(use_swiglu_ffn=False)):
        other = tiny(**brain | how); was = copy.deepcopy(other.state_dict())
        with pytest.raises(CheckpointError): warm_start(other, tmp_path/'s.pth')
        assert all(torch.equal(v, was[k]) for k, v in other.state_dict().items())

# ---- bad input

def test_bad_input():
    m, vqvae = tiny(**brain), words(); told, x = said(m, 2), entering(2, m); t = told.tokens
    for bad, kind, word in ((told.pooled, ParameterError, 'Told'), (None, ParameterError, 'Told'), (Told(told.pooled[:1], t), ShapeError, 'tokens\\[0\\]'), (Told(told.pooled, t[:1]), ShapeError, '2 levels|expected 2'), (Told(told.pooled, [t[0], t[1][..., :3]]), ShapeError, 'tokens\\[1\\]'),
        (Told(told.pooled, t, told.seen[:, :2]), ShapeError, 'seen'), (Told(told.pooled, t, told.seen & False), ShapeError, 'every token'), (Told(told.pooled[0], t), ShapeError, 'axes'), (Told(told.pooled, t, size=torch.ones(2)), ShapeError, 'size'), (Told(told.pooled, t, none=told[[0, 0, 0]]), ShapeError, 'none'),
        (Told(told.pooled, t, none=Told(told.pooled, t[:1])), ShapeError, 'levels')):
        for call in (lambda: m(bad, x), lambda: generate(m, vqvae, bad)):
            with pytest.raises(kind, match=word): call()
    with pytest.raises(ValuesError, match='pooled'): generate(m, vqvae, Told(told.pooled*torch.nan, t, none=told.none))
    with pytest.raises(ShapeError, match='empty'): generate(m, vqvae, told[:0])
    with pytest.raises(ParameterError, match='none'): generate(m, vqvae, Told(told.pooled, t))
    assert generate(m, vqvae, Told(told.pooled, t), guidance=0).img.isfinite().all()
    for window in (3, (1,), (2, 1), (-1, 2), (0., 2), 'all'):
        with pytest.raises(ParameterError, match='window'): generate(m, vqvae, told, window=window)
    with pytest.raises(ParameterError, match='scales'): generate(m, words((1, 3)), told)
    for how, kind in ((dict(order='deep'), UnknownError), (dict(levels=0), ParameterError), (dict(depth='2'), ParameterError), (dict(heads=16), ShapeError), (dict(heads=3), ShapeError), (dict(patch_nums=()), ParameterError), (dict(pooler='x'), UnknownError), (dict(use_crop_cond=True, width=36, heads=3), ShapeError)):
        with pytest.raises(kind): tiny(**brain | how)
    assert issubclass(Switti, NextScale) and issubclass(VAR, NextScale)

# ---- what it costs, and the quick way

def test_cost_by_scale():
    "Of the released scales, in a network of fewer blocks: the last one is nearly half of the work."
    from brainrecon.generators.fast import drawing_cost
    with torch.device('meta'): m, vqvae = Switti(**switti_configs['mindhier'] | dict(depth=4, width=1920)).eval(), VQVAE(vocab=4096, z=32, ch=32, patch_nums=sides_512); told = Told(torch.empty(2, 768), [torch.empty(2, 257, 768) for _ in range(4)])
    cost = drawing_cost(m, vqvae, c=told); work = cost.GFLOP[[f'scale {k + 1}' for k in range(10)]].to_numpy()
    assert (np.diff(work[5:]) > 0).all() and .4 < work[-1]/work.sum() < .5

def test_the_quick_way_draws_the_same():
    from brainrecon.generators.fast import Quick
    for kind in ('crop', 'ar', 'mindhier'):
        m, vqvae = tiny(**kinds[kind]), words(); told = said(m, 3); how = dict(guidance=2., top_k=20, top_p=.9, window=(1, 2), seed=3); a, b = sample(m, vqvae, told, **how), Quick(m, vqvae, onednn=False)(told, **how)
        assert all(map(torch.equal, a.indices, b.indices)); torch.testing.assert_close(a.img, b.img, rtol=0, atol=1e-4)
