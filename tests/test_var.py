"""The next-scale transformer and drawing with it: official keys, shapes and counts; memory against all scales at once; seeds, company, guidance, files, bad input."""
import copy
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brainrecon.core.checks import CheckpointError, MissingWeights, ParameterError, ReconError, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.generators.sampling import blend, choose, draw_scales, filter_logits, guidance_at, guided, picture_noise, picture_seeds, sample
from brainrecon.generators.var import VAR, config_from, fill_var, initialise, load_var, save_var, sides_from, var_configs
from brainrecon.generators.vqvae import VQVAE

sides = (1, 2, 3)
kinds = dict(embedding=dict(d_embed=5), classes=dict(num_classes=7), shared=dict(d_embed=5, shared_aln=True, qk_norm=False))

def tiny(seed=0, **how):
    "A network whose gates are open, so that everything in it shows."
    with seeded(seed):
        var = VAR(**dict(vocab=32, z=4, patch_nums=sides, depth=2, width=32, heads=2) | (how or kinds['embedding'])); initialise(var, gates=1., rest=1., head=3.)
        for name, p in var.named_parameters():
            if name.endswith('bias'): torch.nn.init.normal_(p, std=.2)
    return var.eval()

def words(patch_nums=sides, seed=0):
    with seeded(seed):
        vqvae = VQVAE(vocab=32, z=4, ch=8, ch_mult=(1, 2), blocks=1, patch_nums=patch_nums, norm_groups=4); torch.nn.init.normal_(vqvae.quantize.embedding.weight)
    return vqvae.eval()

def conditions(var, n, seed=1):
    with seeded(seed): return torch.randn(n, var.d_embed) if var.d_embed else torch.randint(var.num_classes, (n,))

# ---- size

def official_keys(c, d_embed=None):
    "Keys and shapes of the released files, by the rule of their names."
    n = sum(p*p for p in c['patch_nums']); d, depth, k = 64*c['depth'], c['depth'], len(c['patch_nums'])
    out = dict(pos_start=(1, 1, d), pos_1LC=(1, n, d), lvl_1L=(1, n), attn_bias_for_masking=(1, 1, n, n)) | {'word_embed.weight': (d, 32), 'word_embed.bias': (d,), 'lvl_embed.weight': (k, d),
        'head_nm.ada_lin.1.weight': (2*d, d), 'head_nm.ada_lin.1.bias': (2*d,), 'head.weight': (4096, d), 'head.bias': (4096,)}
    out |= {'embed_proj.weight': (d, d_embed), 'embed_proj.bias': (d,)} if d_embed else {'class_emb.weight': (1001, d)}
    if c['shared_aln']: out |= {'shared_ada_lin.1.weight': (6*d, d), 'shared_ada_lin.1.bias': (6*d,)}
    block = {'attn.scale_mul_1H11': (1, depth, 1, 1), 'attn.q_bias': (d,), 'attn.v_bias': (d,), 'attn.zero_k_bias': (d,), 'attn.mat_qkv.weight': (3*d, d), 'attn.proj.weight': (d, d), 'attn.proj.bias': (d,),
        'ffn.fc1.weight': (4*d, d), 'ffn.fc1.bias': (4*d,), 'ffn.fc2.weight': (d, 4*d), 'ffn.fc2.bias': (d,)}
    block |= dict(ada_gss=(1, 1, 6, d)) if c['shared_aln'] else {'ada_lin.1.weight': (6*d, d), 'ada_lin.1.bias': (6*d,)}
    return out | {f'blocks.{i}.{name}': shape for i in range(depth) for name, shape in block.items()}

@pytest.mark.parametrize('name', var_configs)
def test_released_sizes_have_the_official_keys(name):
    config = var_configs[name]
    with torch.device('meta'): var = VAR(**config)
    state = var.state_dict(); assert {k: tuple(v.shape) for k, v in state.items()} == official_keys(config)
    assert all(v.is_meta for v in state.values()) and state['lvl_1L'].dtype == torch.int64
    assert var.heads == var.width//64 == config['depth'] and var.length == (2240 if name == 'd36' else 680)

def test_counts_are_the_published_ones():
    with torch.device('meta'):
        by_class, by_brain = VAR(**var_configs['d16']), VAR(**var_configs['d16'] | dict(num_classes=None, d_embed=1024))
        count = lambda m: sum(p.numel() for p in m.parameters())
        assert (count(by_class), len(by_class.state_dict())) == (310_283_520, 220) and (count(by_brain), len(by_brain.state_dict())) == (310_308_096, 221)
        assert {k: tuple(v.shape) for k, v in by_brain.state_dict().items()} == official_keys(var_configs['d16'], 1024)
        assert by_brain(torch.empty(2, 1024), torch.empty(2, 679, 32)).shape == (2, 680, 4096)
        assert abs(count(by_brain) + count(VQVAE()) + 6_025_761 - 425.3e6) < .05e6     # LaBraM-base with 1024 outputs

# ---- first weights

def test_first_weights_follow_the_rule():
    c, depth = 64, 4; std = (3*c)**-.5
    with seeded(0): var, shared = (VAR(vocab=512, z=32, patch_nums=(1, 2, 4), depth=depth, width=c, num_classes=400, shared_aln=s) for s in (False, True))
    for p, want in ((var.class_emb.weight, std), (var.pos_1LC, std), (var.head.weight, .02*std), (var.word_embed.weight, std), (var.head_nm.ada_lin[1].weight, .5*std)): assert abs(p.std()/want - 1) < .06
    for block in var.blocks:
        gates, rest = block.ada_lin[1].weight.split([2*c, 4*c])
        for p, want in ((gates, 1e-5*std), (rest, .5*std), (block.attn.proj.weight, std/(2*depth)**.5), (block.ffn.fc2.weight, std/(2*depth)**.5), (block.ffn.fc1.weight, std)): assert abs(p.std()/want - 1) < .06
        assert block.attn.scale_mul_1H11.allclose(torch.tensor(4.).log())
    six = torch.cat([b.ada_gss[0, 0] for b in shared.blocks], 1)
    assert abs(six[:2].std()/(1e-5*c**-.5) - 1) < .15 and abs(six[2:].std()/(.5*c**-.5) - 1) < .1
    assert all(not p.any() for m in (var, shared) for n, p in m.named_parameters() if n.endswith('bias'))
    var.eval(); loss = F.cross_entropy(var([1, 2], torch.randn(2, 20, 32)).flatten(0, 1), torch.randint(512, (42,))); assert abs(loss - np.log(512)) < .02

def test_other_networks_keep_their_first_weights():
    kinds = (torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Conv2d, torch.nn.Embedding, torch.nn.BatchNorm2d); before = [m.reset_parameters for m in kinds]
    with seeded(3): a = torch.nn.Linear(9, 9).weight
    tiny()
    with seeded(3): assert torch.equal(a, torch.nn.Linear(9, 9).weight)
    assert before == [m.reset_parameters for m in kinds]

# ---- who sees what

@pytest.mark.parametrize('kind', kinds)
def test_coarse_scales_do_not_see_fine_ones_and_all_weights_learn(kind):
    var = tiny(**kinds[kind]); cond = conditions(var, 3)
    with seeded(2): x = torch.randn(3, 13, 4, requires_grad=True)
    for k, (a, e) in enumerate(var.spans):
        g, = torch.autograd.grad(var(cond, x)[:, a:e].square().sum(), x); seen = g.abs().sum((0, 2)) > 0
        assert seen.tolist() == [i + 1 < e for i in range(13)]
    logits = var(cond, x); F.cross_entropy(logits.flatten(0, 1), torch.arange(42) % 32).backward()
    assert [n for n, p in var.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    other = cond.roll(1, 0) if var.d_embed else (cond + 1) % 7
    assert (var(other, x) - logits).abs().amax(2).min() > 1e-4     # the condition reaches every place

@pytest.mark.parametrize('kind', kinds)
def test_the_memory_gives_what_all_scales_at_once_give(kind):
    "Draw, then show the drawn codes to the network all at once: the guesses are those that were drawn from."
    var, vqvae = tiny(**kinds[kind]), words(); cond = conditions(var, 3)
    for guidance in (0, 2.5):
        steps = list(draw_scales(var, vqvae.quantize, cond, [5, 6, 7], guidance=guidance, top_k=20, top_p=.9)); x = vqvae.quantize.teacher([s.indices for s in steps])
        with torch.no_grad(): known, free = var(cond, x), var(cond, x, drop=[True]*3)
        for s, (a, e) in zip(steps, var.spans):
            t = guidance_at(guidance, s.k, 3); torch.testing.assert_close(s.logits, (1+t)*known[:, a:e] - t*free[:, a:e], rtol=0, atol=1e-4)
        assert torch.cat([s.logits for s in steps], 1).std() > .5

def test_a_scale_that_failed_leaves_nothing_behind():
    var, cond = tiny(), torch.ones(2, 5)
    with torch.no_grad():
        c = var.condition(cond); how, memory, clean = var.modulation(c), var.cache(2), var.cache(2); x = var.start(c); later = var.enter(torch.ones(2, 4, 2, 2), 1)
        var.advance(x, 0, how, memory); var.advance(x, 0, how, clean)
        hook = var.blocks[1].register_forward_pre_hook(lambda *_: 1/0)
        with pytest.raises(ZeroDivisionError): var.advance(later + 1, 1, how, memory)
        hook.remove(); assert torch.equal(var.advance(later, 1, how, memory), var.advance(later, 1, how, clean)) and memory.n == clean.n == 5
    place = memory.kv.data_ptr(); keys, _ = memory.put(0, torch.ones(2, 2, 9, 16), torch.ones(2, 2, 9, 16)); assert keys.data_ptr() == place and keys.shape[2] == 14

def test_conditions_are_left_out_in_training_only():
    var = tiny(**kinds['embedding'] | dict(cond_drop=.5, drop_path=0.)); cond = conditions(var, 64); x = torch.zeros(64, 13, 4)
    with torch.no_grad():
        known, free = var(cond, x), var(cond, x, drop=torch.ones(64, dtype=torch.bool)); torch.testing.assert_close(free, var(torch.zeros(64, 5), x))
        assert torch.equal(known, var(cond, x)); var.train()
        with seeded(0): mixed = var(cond, x)
        left = (mixed - free).abs().amax((1, 2)) < 1e-5; kept = (mixed - known).abs().amax((1, 2)) < 1e-5
        assert (left ^ kept).all() and 16 < left.sum() < 48
        torch.testing.assert_close(var(cond, x, drop=[False]*64), known)

def test_steps_are_left_out_in_training_only():
    var = tiny(**kinds['embedding'] | dict(cond_drop=0., drop_path=.5)); cond, x = conditions(var, 2), torch.zeros(2, 13, 4); assert [b.drop for b in var.blocks] == [0., .5]
    with torch.no_grad():
        a = var(cond, x); var.train(); b = [var(cond, x) for _ in range(6)]
        assert not all(torch.equal(y, b[0]) for y in b) and torch.equal(var.eval()(cond, x), a)
    with torch.device('meta'): assert VAR(**var_configs['d24']).blocks[-1].drop == pytest.approx(.1) and VAR(**var_configs['d16']).config['drop_path'] == pytest.approx(.1*16/24)

def test_half_precision_keeps_the_answer_in_32_bits():
    var, cond = tiny(), torch.ones(2, 5); x = torch.randn(2, 13, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = var(cond, x)
        with torch.autocast('cpu', torch.bfloat16): got, memory = var(cond, x), var.cache(2)
    assert got.dtype == torch.float32 and memory.kv.dtype == torch.bfloat16 and 0 < (got - want).abs().mean() < .05*want.std()
    with torch.autocast('cpu', torch.bfloat16): drawn = sample(var, words(), cond)
    assert drawn.img.dtype == torch.float32 and drawn.img.isfinite().all()

@pytest.mark.parametrize('kind', kinds)
def test_start_and_words_stay_in_32_bits_under_mixed_precision(kind):
    "As in the released training, where mixed precision is switched off for them; here also in drawing."
    var = tiny(**kinds[kind]); cond, x = conditions(var, 2), torch.randn(2, 13, 4, generator=torch.Generator().manual_seed(0)); seen, entering = [], []
    var.word_embed.register_forward_hook(lambda m, i, o: seen.append(o)); var.blocks[0].register_forward_pre_hook(lambda m, i: entering.append(i[0]))
    def once():
        with torch.no_grad(): c = var.condition(cond); var(cond, x); return c, var.start(c), var.enter(x[:, :4].mT.unflatten(2, (2, 2)), 1), seen[-2], entering[-1]
    want = once()
    with torch.autocast('cpu', dtype=torch.bfloat16): got = once(); rounded = F.linear(x, var.word_embed.weight)
    assert rounded.dtype == torch.bfloat16 and [v.dtype for v in got] == [torch.float32]*5 and all(map(torch.equal, got, want))

@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('kind', kinds)
def test_weights_in_16_bits(kind, half):
    "Whatever comes in is rounded to match, the answer has 32 bits; drawing works beside a tokenizer of either kind; it learns."
    var, vqvae = tiny(**kinds[kind]), words(); cond, x = conditions(var, 3), torch.randn(3, 13, 4, generator=torch.Generator().manual_seed(0)); small = copy.deepcopy(var).to(half)
    with torch.no_grad():
        want, got = var(cond, x), small(cond, x); assert got.dtype == torch.float32 and 0 < (got - want).abs().mean() < .05*want.std() and torch.equal(small(cond, x.to(half)), got) and {p.dtype for p in small.parameters()} == {half}
        if var.d_embed: assert torch.equal(small(cond.to(half), x), got) and small.condition(cond.double()).dtype == half
    for tokenizer in (vqvae, copy.deepcopy(vqvae).to(half)):
        for how in (dict(), dict(guidance=0), dict(smooth=True, top_k=5)):
            steps = list(draw_scales(small, tokenizer.quantize, cond, [1, 2, 3], **how)); drawn = sample(small, tokenizer, cond, seeds=[1, 2, 3], **how)
            assert drawn.img.dtype == drawn.f_hat.dtype == steps[-1].logits.dtype == torch.float32 and drawn.img.isfinite().all() and all(torch.equal(a, s.indices) for a, s in zip(drawn.indices, steps))
    steps = list(draw_scales(small, vqvae.quantize, cond, [1, 2, 3], guidance=0)); torch.testing.assert_close(torch.cat([s.logits for s in steps], 1), small(cond, vqvae.quantize.teacher([s.indices for s in steps])).detach(), rtol=0, atol=.1*float(want.std()))
    F.cross_entropy(small(cond, x).flatten(0, 1), torch.arange(42) % 32).backward(); assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())

def test_scales_that_are_not_square(tmp_path):
    oblong = (1, (2, 3), (3, 4)); var, vqvae = tiny(d_embed=5, patch_nums=oblong), words(oblong); cond = conditions(var, 2); got = sample(var, vqvae, cond, top_k=5, trace=True)
    assert var.length == vqvae.quantize.length == 19 and var.spans == [(0, 1), (1, 7), (7, 19)] and got.img.shape == (2, 3, 6, 8) and [i.shape[1] for i in got.indices] == [1, 6, 12]
    with torch.no_grad(): known, free = (var(cond, vqvae.quantize.teacher(got.indices), drop=[d]*2) for d in (False, True))
    for s, (a, e) in zip(draw_scales(var, vqvae.quantize, cond, picture_seeds(2), top_k=5), var.spans): t = guidance_at(1.5, s.k, 3); torch.testing.assert_close(s.logits, (1+t)*known[:, a:e] - t*free[:, a:e], rtol=0, atol=1e-4)
    save_var(var, tmp_path/'v.safetensors'); again, _ = load_var(tmp_path/'v.safetensors'); assert again.config == var.config and torch.equal(sample(again, vqvae, cond, top_k=5).img, got.img)
    same = tiny(d_embed=5, patch_nums=[(1, 1), 2, [3, 3]]); assert torch.equal(sample(same, words(), cond).img, sample(tiny(), words(), cond).img)
    torch.save(var.state_dict(), tmp_path/'v.pth'); assert load_var(tmp_path/'v.pth', patch_nums=oblong)[0].patch_nums == oblong
    with pytest.raises(CheckpointError, match='(?s)sides of its 3 scales.*patch_nums='): load_var(tmp_path/'v.pth')

# ---- drawing

@pytest.mark.parametrize('kind', kinds)
def test_a_picture_is_the_same_in_any_company(kind):
    var, vqvae = tiny(**kinds[kind]), words(); cond = conditions(var, 9); seeds = picture_seeds(9, 4); how = dict(guidance=2., top_k=25, top_p=.9)
    every = sample(var, vqvae, cond, seeds=seeds, batch=4, **how); assert len({tuple(i.tolist()) for i in every.indices[2]}) == 9
    for rows, batch in (([3], 1), ([8, 3, 0], 16), ([5, 5, 3], 2)):
        got = sample(var, vqvae, cond[rows], seeds=[seeds[r] for r in rows], batch=batch, **how)
        for a, b in zip(got.indices, every.indices): assert torch.equal(a, b[rows])
        torch.testing.assert_close(got.img, every.img[rows], rtol=0, atol=1e-5)
    again = sample(var, vqvae, cond, seed=4, **how); assert all(torch.equal(a, b) for a, b in zip(again.indices, every.indices))
    soft, alone = sample(var, vqvae, cond[:4], seeds=seeds[:4], smooth=True), sample(var, vqvae, cond[2:3], seeds=seeds[2:3], smooth=True)
    torch.testing.assert_close(soft.img[2:3], alone.img, rtol=0, atol=1e-5)

def test_drawing_leaves_the_random_state_and_the_networks_alone():
    var, vqvae = tiny().train(), words().train(); vqvae.decoder.eval(); was = torch.get_rng_state(); npy = np.random.get_state()[1].copy(); cond = torch.ones(2, 5)
    a, b = (sample(var, vqvae, cond) for _ in range(2)); assert torch.equal(a.img, b.img) and not a.img.requires_grad
    assert torch.equal(was, torch.get_rng_state()) and np.array_equal(npy, np.random.get_state()[1]) and var.training and vqvae.training and not vqvae.decoder.training and torch.equal(cond, torch.ones(2, 5))

def test_the_trace_is_the_picture_after_each_scale():
    var, vqvae = tiny(), words(); got = sample(var, vqvae, conditions(var, 3), batch=2, trace=True); want = vqvae.progress(got.indices)
    assert len(got.trace) == 3 and torch.equal(got.trace[-1], got.img) and got.img.shape == (3, 3, 6, 6) and [tuple(i.shape) for i in got.indices] == [(3, 1), (3, 4), (3, 9)]
    for a, b in zip(got.trace, want): torch.testing.assert_close(a, (b+1)/2, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.f_hat, vqvae.quantize.maps(got.indices)[-1]); assert sample(var, vqvae, conditions(var, 1)).trace is None

def test_without_guidance_half_of_the_work():
    var, vqvae = tiny(), words(); rows = []; var.blocks[0].register_forward_hook(lambda m, i, o: rows.append(len(o)))
    for g in (0, 1.5): sample(var, vqvae, torch.ones(4, 5), guidance=g)
    assert rows == [4]*3 + [8]*3

def test_guidance_grows_over_the_scales():
    assert [guidance_at(4., k, 5) for k in range(5)] == [0, 1, 2, 3, 4] and guidance_at(4., 1, 5, ramp=False) == guidance_at(4., 0, 1) == 4.
    known, free = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.randn(2, 3, 4); both = torch.cat([known, free])
    torch.testing.assert_close(guided(both, 2.), 3*known - 2*free); assert torch.equal(guided(both, 0.), known)

def test_one_scale_and_several_first_places():
    for patch_nums in ((3,), (2, 3)):
        var = tiny(**kinds['embedding'] | dict(patch_nums=patch_nums)); vqvae = words(patch_nums); got = sample(var, vqvae, torch.ones(2, 5), smooth=patch_nums == (3,))
        x = vqvae.quantize.teacher(got.indices); assert got.img.shape == (2, 3, 6, 6) and var(torch.ones(2, 5), x).shape == (2, var.length, 32)

def test_filters():
    logits = torch.tensor([[1., 5., 3., 3., 2.]]); was = logits.clone()
    left = lambda *how: filter_logits(logits, *how)[0].isfinite().tolist()
    assert left(1) == [0, 1, 0, 0, 0] and left(2) == [0, 1, 1, 1, 0] and left(5) == left(99) == left() == left(0, 1.) == [1]*5    # ties stay
    assert left(0, 1e-6) == [0, 1, 0, 0, 0] and left(2, .9)[1] and left(99, .999) == left(0, .999) and torch.equal(logits, was)
    assert left(1, .5) == [0, 1, 0, 0, 0] and left(2, 1.) == [0, 1, 1, 1, 0]

def test_choices_follow_the_chances_and_never_take_what_is_struck_out():
    logits = torch.tensor([-torch.inf, 0., -torch.inf, 1., -torch.inf]); u = picture_noise([1], 30_000); got = choose(logits.expand(1, 30_000, 5), u); assert 0 <= u.min() and u.max() < 1
    share = torch.bincount(got[0], minlength=5)/30_000; torch.testing.assert_close(share, logits.softmax(0), rtol=0, atol=.012)
    ends = choose(logits.expand(1, 2, 5), torch.tensor([[0., 1-2**-24]])); assert ends.tolist() == [[1, 3]]

def test_mixtures_become_codes():
    vqvae = words(); logits = 30*torch.eye(32)[None, :9]; got = blend(logits, vqvae.quantize, 2, [1], 3)
    torch.testing.assert_close(got, vqvae.quantize.embed(torch.arange(9)[None], 2), rtol=0, atol=1e-3)

# ---- files

def test_classes_become_an_embedding_with_an_account(tmp_path):
    theirs = tiny(**kinds['classes']); path = tmp_path/'var.pth'
    for state in (theirs.state_dict(), dict(trainer=dict(var_wo_ddp=theirs.state_dict())), dict(model={k: v.half() if v.is_floating_point() else v for k, v in theirs.state_dict().items()})):
        torch.save(state, path); var, report = load_var(path); assert len(report.matched) == len(theirs.state_dict()) and not report.new and not report.refused
        brain, report = load_var(path, d_embed=11); assert report.new == ['embed_proj.weight', 'embed_proj.bias'] and list(report.refused) == ['class_emb.weight'] and len(report.matched) == len(var.state_dict()) - 1
        assert '2 new (embed_proj.weight, embed_proj.bias), 1 refused (class_emb.weight)' in str(report) and not brain.training
    x = torch.zeros(2, 13, 4)
    with torch.no_grad(): torch.testing.assert_close(var([1, 6], x), theirs([1, 6], x), rtol=0, atol=.2)
    shared = tiny(**kinds['shared']); got = {k: v for k, v in shared.config.items() if k not in ('cond_drop', 'drop_path', 'num_classes')}
    assert config_from(shared.state_dict(), heads=2) == got and config_from(theirs.state_dict())['num_classes'] == 7

def test_own_files_come_back(tmp_path):
    x = torch.zeros(2, 13, 4)
    for kind, how in kinds.items():
        var = tiny(**how); cond = conditions(var, 2); path = tmp_path/f'{kind}.safetensors'; save_var(var, path, dict(made='here')); again, report = load_var(path)
        with torch.no_grad():
            assert again.config == var.config and torch.equal(again(cond, x), var(cond, x))
            save_var(var, path, half=True); assert path.stat().st_size < 45_000*2.2; torch.testing.assert_close(load_var(path)[0](cond, x), var(cond, x), rtol=0, atol=.05)
    with pytest.raises(CheckpointError, match='of another shape'): load_var(tmp_path/'embedding.safetensors', vocab=33)
    with pytest.raises(ReconError): load_var(tmp_path/'absent.pth')
    torch.save({'encoder.conv_in.weight': torch.ones(2)}, tmp_path/'vae.pth')
    with pytest.raises(CheckpointError, match='next-scale'): load_var(tmp_path/'vae.pth')

def test_heads_are_asked_for_where_nothing_tells_them(tmp_path):
    "Without sharpness of each head, every divisor of the width would fit, and all but one draw wrongly."
    var, x = tiny(d_embed=5, qk_norm=False, width=64, heads=4), torch.zeros(2, 13, 4); cond = conditions(var, 2); torch.save(var.state_dict(), tmp_path/'var.pth')
    for how in (dict(), dict(d_embed=9), dict(heads=None)):
        with pytest.raises(CheckpointError, match='heads=') as e: load_var(tmp_path/'var.pth', **how)
        assert 'scale_mul_1H11' in str(e.value) and e.value.do and e.value.why
    with torch.no_grad(): assert torch.equal(load_var(tmp_path/'var.pth', heads=4)[0](cond, x), var(cond, x)) and not load_var(tmp_path/'var.pth', heads=1)[0](cond, x).allclose(var(cond, x), atol=1e-3)
    save_var(var, tmp_path/'own.safetensors'); assert load_var(tmp_path/'own.safetensors')[0].heads == 4    # our own files say it
    torch.save(tiny(num_classes=7).state_dict(), tmp_path/'known.pth'); assert load_var(tmp_path/'known.pth')[0].heads == 2

made = dict(lvl_1L=('lvl_1L',), attn_bias_for_masking=('attn_bias_for_masking',), zero_k_bias=('blocks.0.attn.zero_k_bias', 'blocks.1.attn.zero_k_bias'))

@pytest.mark.parametrize('gone', [('lvl_1L',), ('attn_bias_for_masking',), ('zero_k_bias',), tuple(made)], ids='+'.join)
@pytest.mark.parametrize('d_embed', [None, 11])
def test_what_follows_from_the_sizes_may_be_absent(tmp_path, gone, d_embed):
    var = tiny(**kinds['classes']); names = [k for g in gone for k in made[g]]; x = torch.zeros(2, 13, 4); torch.save({k: v for k, v in var.state_dict().items() if k not in names}, tmp_path/'bare.pth')
    again, report = load_var(tmp_path/'bare.pth', d_embed=d_embed); whole = var.state_dict(); assert again.patch_nums == sides and sorted(report.rebuilt) == sorted(names) and report.new == ['embed_proj.weight', 'embed_proj.bias']*bool(d_embed)
    assert all(torch.equal(v, whole[k]) for k, v in again.state_dict().items() if 'embed_proj' not in k) and f'{len(names)} rebuilt from the sizes ({names[0]}' in str(report)
    rows = report.table().set_index('ours'); assert (rows.what[names] == 'rebuilt').all() and len(report.table()) == len(whole) + 2*bool(d_embed)
    if not d_embed:
        with torch.no_grad(): assert torch.equal(again([1, 6], x), var([1, 6], x))

@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float32])
def test_a_table_of_scales_that_is_no_whole_numbers(tmp_path, kind):
    var = tiny(**kinds['classes']); torch.save({k: v.to(kind) for k, v in var.state_dict().items()}, tmp_path/'half.pth'); again, report = load_var(tmp_path/'half.pth')
    assert torch.equal(again.lvl_1L, var.lvl_1L) and again.lvl_1L.dtype == torch.int64 and report.rebuilt == {'lvl_1L': f'{kind} in the file'} and len(report.matched) == len(var.state_dict()) - 1 and not report.new
    assert torch.equal(again.attn_bias_for_masking, var.attn_bias_for_masking)

def test_sides_of_scales():
    "From the table, from who may look at whom, from the only list that fits; released ones by their size; asked for otherwise."
    for name, c in var_configs.items():
        n = sum(p*p for p in c['patch_nums']); state = {'pos_start': torch.empty(1, 1, 1), 'pos_1LC': torch.empty(1, n, 1), 'lvl_embed.weight': torch.empty(len(c['patch_nums']), 1), 'head.weight': torch.empty(4096, 1)}
        assert sides_from(state) == c['patch_nums']
        with pytest.raises(CheckpointError, match='patch_nums='): sides_from(state | {'head.weight': torch.empty(4095, 1)})
    for nums in ((1, 2, 3), (2, 3), (3,), (1, 1, 1, 5), (1, 3, 3, 3)):
        state = tiny(d_embed=5, patch_nums=nums).state_dict(); assert sides_from(state) == nums; del state['lvl_1L']; assert sides_from(state) == nums; del state['attn_bias_for_masking']
        if sum(n*n for n in nums) != 28: assert sides_from(state) == nums; continue
        with pytest.raises(CheckpointError, match='a single way'): sides_from(state)
        assert config_from(state, patch_nums=nums)['patch_nums'] == nums

def test_files_with_other_scales_are_refused(tmp_path):
    var = tiny(d_embed=5, patch_nums=(1, 1, 1, 5)); state = var.state_dict(); other = tiny(d_embed=5, patch_nums=(1, 3, 3, 3)); before = other.head.weight.clone()
    for gone in ((), ('lvl_1L',), ('attn_bias_for_masking',)):
        with pytest.raises(CheckpointError, match='other scales'): fill_var(other, {k: v + 1 if k == 'head.weight' else v for k, v in state.items() if k not in gone})
        assert torch.equal(other.head.weight, before)
    torch.save(state, tmp_path/'var.pth')
    with pytest.raises(CheckpointError, match='other scales'): load_var(tmp_path/'var.pth', patch_nums=(1, 3, 3, 3))

def test_an_embedding_of_another_width_gets_a_fresh_start(tmp_path):
    "Weight and offset of the map are both new, and both of theirs are named as not used; without the wish, nothing is taken."
    var = tiny(); save_var(var, tmp_path/'own.safetensors'); torch.save(var.state_dict(), tmp_path/'theirs.pth'); both = ['embed_proj.weight', 'embed_proj.bias']; assert var.embed_proj.bias.any()
    for file in ('own.safetensors', 'theirs.pth'):
        wide, report = load_var(tmp_path/file, d_embed=9); assert wide.d_embed == 9 and report.new == both and sorted(report.refused) == sorted(both) and not wide.embed_proj.bias.any() and torch.equal(wide.head.weight, var.head.weight)
        same, report = load_var(tmp_path/file, d_embed=5); assert not report.new and not report.refused and torch.equal(same.embed_proj.bias, var.embed_proj.bias)
    given = tiny(d_embed=9); fill_var(given, var.state_dict(), start=True); assert not torch.equal(given.embed_proj.bias, var.embed_proj.bias) and torch.equal(given.head.weight, var.head.weight)
    with pytest.raises(CheckpointError, match='embed_proj.weight'): fill_var(tiny(d_embed=9), var.state_dict())
    with pytest.raises(CheckpointError, match='absent'): fill_var(tiny(d_embed=9), {k: v for k, v in var.state_dict().items() if 'embed_proj' not in k}, start=True)

# ---- bad input

def bad():
    x, e, c = torch.zeros(2, 13, 4), torch.ones(2, 5), kinds['classes']
    yield 'both', ParameterError, 'exactly one', lambda: tiny(d_embed=5, num_classes=7)
    yield 'heads', ShapeError, 'equal heads', lambda: tiny(d_embed=5, heads=3)
    for nums in ((1, 5, 4), (1, 0, 2), (1, 2.5), 4, (), (1, (2, 3, 4))): yield f'scales {nums}', ParameterError, f'`patch_nums` is {nums!r}', lambda nums=nums: tiny(d_embed=5, patch_nums=nums)
    yield 'labels', UnknownError, 'class 7 does not exist', lambda: tiny(**c)([0, 7], x)
    yield 'negative label', UnknownError, 'class -1', lambda: tiny(**c)([0, -1], x)
    yield 'float labels', ParameterError, 'whole numbers', lambda: tiny(**c)(torch.ones(2), x)
    yield 'embedding for classes', ShapeError, '`cond`', lambda: tiny(**c)(e, x)
    yield 'width', ShapeError, 'expected 5', lambda: tiny()(torch.ones(2, 6), x)
    yield 'one trial', ShapeError, 'first axis', lambda: tiny()(torch.ones(5), x)
    yield 'rows of x', ShapeError, '`x`', lambda: tiny()(e, x[:1])
    yield 'places', ShapeError, 'expected 13', lambda: tiny()(e, x[:, 1:])
    yield 'codes', ParameterError, 'codes 32', lambda: sample(tiny(vocab=32, d_embed=5), words_of(33), e)
    yield 'scales', ParameterError, 'scales', lambda: sample(tiny(), words((1, 3)), e)
    yield 'seeds', ShapeError, 'for 2 pictures', lambda: sample(tiny(), words(), e, seeds=[1, 2, 3])
    yield 'kind of seeds', ParameterError, 'whole numbers', lambda: sample(tiny(), words(), e, seeds=[.5, 1])
    yield 'guidance', ParameterError, 'guidance', lambda: sample(tiny(), words(), e, guidance=float('nan'))
    yield 'top_k', ParameterError, 'top_k', lambda: sample(tiny(), words(), e, top_k=1.5)
    yield 'top_p', ParameterError, 'top_p', lambda: sample(tiny(), words(), e, top_p=95)
    yield 'batch', ParameterError, 'batch', lambda: sample(tiny(), words(), e, batch=0)
    yield 'nan', ValuesError, 'trial 1', lambda: sample(tiny(), words(), torch.tensor([[1.]*5, [float('inf')]*5]))
    yield 'damaged', ValuesError, 'scale 0', lambda: sample(broken(), words(), e)
    yield 'order', ParameterError, 'each scale follows', lambda: skipped()
    yield 'another batch', ShapeError, 'expected 3', lambda: skipped(0, 3)
    yield 'label', ShapeError, '`cond`', lambda: sample(tiny(**c), words(), 3)

def words_of(vocab): return VQVAE(vocab=vocab, z=4, ch=8, ch_mult=(1, 2), blocks=1, patch_nums=sides, norm_groups=4)

def broken():
    var = tiny(); var.head.weight.data[0] = torch.nan; return var

def skipped(k=1, b=2):
    var = tiny(); c = var.condition(torch.ones(2, 5)); return var.advance(var.start(c), k, var.modulation(c), var.cache(b))

@pytest.mark.parametrize('name, kind, text, do', list(bad()), ids=lambda v: v if isinstance(v, str) and ' ' not in v else '')
def test_bad_input_says_what_to_do(name, kind, text, do):
    with pytest.raises(kind) as e: do()
    assert text in str(e.value) and e.value.came and e.value.expected and e.value.do, f'{name}: {e.value}'

@pytest.mark.parametrize('how, text', [(dict(d_embed='5'), 'Write `d_embed=5`'), (dict(d_embed=0), 'd_embed'), (dict(num_classes=-1, d_embed=None), 'num_classes'), (dict(depth=0), 'depth'), (dict(vocab='32'), 'vocab'), (dict(z=0), 'z'), (dict(heads=0), 'heads'), (dict(width=32.), 'width')])
def test_sizes_are_whole_numbers(how, text):
    with pytest.raises(ParameterError, match=f'(?s)whole number from 1.*{text}'): VAR(**dict(vocab=32, z=4, patch_nums=sides, depth=2, width=32, heads=2, d_embed=5) | how)

def test_files_by_name_and_slips(tmp_path, monkeypatch):
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path)); var = tiny()
    for part in ('d16', 'd30'):
        with pytest.raises(MissingWeights, match='brainrecon data fetch var' + ' --part d30'*(part == 'd30') + '`'): load_var(f'var:var_{part}.pth')
    (tmp_path/'var').mkdir(); torch.save(var.state_dict(), tmp_path/'var'/'var_d30.pth')
    again, r = load_var('var:var_d30.pth', heads=2); assert not r.new and not r.refused and torch.equal(again.head.weight, var.head.weight)
    for d_embed in ('5', 0):
        with pytest.raises(ParameterError, match='d_embed'): load_var('var:var_d30.pth', d_embed=d_embed)
    with pytest.raises(ParameterError, match="(?s)it has: .*cond_drop.*'heads'"): load_var('var:var_d30.pth', haeds=2)
    with pytest.raises(ParameterError, match='a path'): load_var(None)
    with pytest.raises(UnknownError, match='var_d30.pth'): load_var('var:var_d31.pth')
