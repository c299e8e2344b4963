"""Tokenizer and quantiser: official names and counts, exact search, overrides, precision, gradients, dead codes, files, bad input."""
import json
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from brainrecon.core.checks import CheckpointError, MissingWeights, ParameterError, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.generators.quantiser import Quantiser, fit_codebook, kmeans_codebook, nearest, phi_table, revive
from brainrecon.generators.vqvae import VQVAE, load_vqvae, save_vqvae, to_signed, to_uint8, vqvae_256, vqvae_512

tiny = dict(vocab=24, z=4, ch=8, ch_mult=(1, 2), blocks=1, patch_nums=(1, 2, 4), norm_groups=4)

def made(seed=0, **how):
    with seeded(seed): return VQVAE(**{**tiny, **how}).eval()

def random(*shape, seed=0):
    with seeded(seed): return torch.randn(shape)

def pixels(*shape, seed=0): return random(*shape, seed=seed).clamp(-1, 1)


# ---- the official model, written down from its rules

def official_keys(c):
    "Name -> shape of every weight, from the description of the network and not from ours."
    out, widths, last, z = {}, [c['ch']*m for m in c['ch_mult']], len(c['ch_mult']) - 1, c['z']
    def conv(name, o, i, k=3): out.update({f'{name}.weight': (o, i, k, k), f'{name}.bias': (o,)})
    def norm(name, n): out.update({f'{name}.weight': (n,), f'{name}.bias': (n,)})
    def res(name, i, o):
        norm(f'{name}.norm1', i); conv(f'{name}.conv1', o, i); norm(f'{name}.norm2', o); conv(f'{name}.conv2', o, o)
        if i != o: conv(f'{name}.nin_shortcut', o, i, 1)
    def attn(name, n): norm(f'{name}.norm', n); conv(f'{name}.qkv', 3*n, n, 1); conv(f'{name}.proj_out', n, n, 1)
    for side, part, resize, order, n in (('encoder', 'down', 'downsample', range(last + 1), c['blocks']), ('decoder', 'up', 'upsample', range(last, -1, -1), c['blocks'] + 1)):
        width = widths[0] if side == 'encoder' else widths[-1]
        conv(f'{side}.conv_in', *((width, 3) if side == 'encoder' else (width, z)))
        for i in order:
            for j in range(n):
                res(f'{side}.{part}.{i}.block.{j}', width, widths[i]); width = widths[i]
                if i == last: attn(f'{side}.{part}.{i}.attn.{j}', width)
            if i != (last if side == 'encoder' else 0): conv(f'{side}.{part}.{i}.{resize}.conv', width, width)
        for name in ('block_1', 'block_2'): res(f'{side}.mid.{name}', widths[-1], widths[-1])
        attn(f'{side}.mid.attn_1', widths[-1]); norm(f'{side}.norm_out', width); conv(f'{side}.conv_out', *((z, width) if side == 'encoder' else (3, width)))
    out['quantize.ema_vocab_hit_SV'] = (len(c['patch_nums']), c['vocab']); out['quantize.embedding.weight'] = (c['vocab'], z)
    for i in range(4): conv(f'quantize.quant_resi.qresi_ls.{i}', z, z)
    conv('quant_conv', z, z); conv('post_quant_conv', z, z)
    return out

@pytest.mark.parametrize('config', [vqvae_256, vqvae_512], ids=['256', '512'])
def test_official_names_shapes_and_counts(config):
    with torch.device('meta'): model = VQVAE(**config)
    want, have = official_keys(config), {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert have == want and len(have) == 324
    count = lambda part: sum(p.numel() for p in part.parameters())
    assert [count(p) for p in (model, model.encoder, model.decoder, model.quantize, model.quant_conv, model.post_quant_conv)] == [108_948_355, 44_107_872, 64_653_923, 168_064, 9_248, 9_248]
    assert model.size == 16*config['patch_nums'][-1] and VQVAE(**tiny).state_dict().keys() == official_keys({**tiny}).keys()

def test_full_size_shapes():
    with torch.device('meta'):
        model = VQVAE(**vqvae_256); f = model.latent(torch.zeros(2, 3, 256, 256))
        assert f.shape == (2, 32, 16, 16) and model.decode(f).shape == (2, 3, 256, 256) and model.quantize.length == 680

def test_names_of_other_ways_to_share():
    names = lambda **how: {k for k in Quantiser(9, 4, (1, 2, 3), **how).state_dict() if k.endswith('weight')} - {'embedding.weight'}
    assert names(shared=1) == {'quant_resi.qresi.weight'} and names(shared=0) == {f'quant_resi.{i}.weight' for i in range(3)}
    assert names(quant_resi=0.) == names(quant_resi=1e-7, shared=0) == set() and names(quant_resi=-.5, shared=2) == {f'quant_resi.qresi_ls.{i}.weight' for i in range(2)}

@pytest.mark.parametrize('n, shared, want', [(10, 4, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]), (5, 4, [0, 1, 2, 2, 3]), (4, 4, [0, 1, 2, 3]), (1, 4, [0]), (1, 1, [0]), (6, 1, [0]*6), (7, 7, list(range(7)))])
def test_which_convolution_a_scale_uses(n, shared, want): assert phi_table(n, shared) == want

def test_the_smoothing_is_a_mixture():
    q = Quantiser(9, 4, (1, 2), quant_resi=-.3, shared=1); h = random(2, 4, 2, 2)
    torch.testing.assert_close(q.phis[0](h), .7*h + .3*F.conv2d(h, q.phis[0].weight, q.phis[0].bias, padding=1))


# ---- the nearest code

def test_nearest_is_exact_in_any_block_and_batch():
    z, codes = random(500, 16), random(100, 16, seed=1); codes[50:] = codes[:50] + 1e-6*random(50, 16, seed=2)     # pairs that a product in 32 bits confuses
    plain = torch.cdist(z.double(), codes.double(), compute_mode='donot_use_mm_for_euclid_dist').argmin(1)
    for memory in (None, 1, 700, 10**6): assert torch.equal(nearest(z, codes, memory=memory), plain)
    assert torch.equal(torch.cat([nearest(z[i:i+7], codes) for i in range(0, 500, 7)]), plain)

@pytest.mark.parametrize('cosine', [False, True])
def test_the_first_of_equals(cosine):
    z, codes = random(200, 8), random(13, 8, seed=1); one = nearest(z, codes, cosine)
    assert torch.equal(nearest(z, codes.repeat(40, 1), cosine), one)
    assert not nearest(z, torch.zeros(700, 8), cosine).any()                                 # all are equal
    assert torch.equal(nearest(z, codes.flip(0).repeat(3, 1), cosine), 12 - one)

def test_nearest_by_direction():
    z, codes = random(200, 8), random(30, 8, seed=1)*torch.arange(1., 31)[:, None]
    assert torch.equal(nearest(z, codes, cosine=True), F.cosine_similarity(z[:, None].double(), codes[None].double(), dim=-1).argmax(1))
    q = Quantiser(30, 8, (1, 2), normalise=True); f = random(2, 8, 2, 2)
    assert torch.equal(q.indices(f)[0][:, 0], nearest(f.mean((2, 3)), q.embedding.weight, cosine=True)) and nearest(z[:0], codes).shape == (0,)

def test_nearest_in_coarse_products():
    z, codes = random(300, 16), random(64, 16, seed=1); want = nearest(z, codes); old = torch.get_float32_matmul_precision()
    try: torch.set_float32_matmul_precision('medium'); got = nearest(z, codes)
    finally: torch.set_float32_matmul_precision(old)
    assert torch.equal(got, want)


# ---- scales: overrides, steps, nothing changed

@pytest.mark.parametrize('nums', [(4,), (2, 4), (1, 1, 4, 4), ((1, 2), (4, 3), (4, 6)), (1, 2, 3, 4, 5, 6, 8)], ids=str)
def test_any_scales(nums):
    with seeded(0): q = Quantiser(30, 5, nums)
    f = random(3, 5, *q.sizes[-1], seed=1); idx, maps = q.indices(f), q.maps(f)
    assert [i.shape for i in idx] == [(3, h*w) for h, w in q.sizes] and q.length == sum(h*w for h, w in q.sizes) and {i.dtype for i in idx} == {torch.int64}
    f_hat, seen = q.start(3), []
    for k, i in enumerate(idx):
        f_hat, after = q.step(k, f_hat, q.embed(i, k)); torch.testing.assert_close(f_hat, maps[k]); seen.append(after.flatten(2).mT)
    for a, b in zip(q.maps(idx), maps, strict=True): torch.testing.assert_close(a, b)
    teacher = q.teacher(idx); assert teacher.shape == (3, q.length - idx[0].shape[1], 5) and torch.equal(after, f_hat)
    if len(nums) > 1: torch.testing.assert_close(teacher, torch.cat(seen[:-1], 1))

def test_other_scales_than_its_own():
    q = made().quantize; f = random(2, 4, 4, 4); other = Quantiser(24, 4, (2, (1, 3), 3, 4, 4)); other.load_state_dict({**q.state_dict(), 'ema_vocab_hit_SV': other.ema_vocab_hit_SV})
    idx = q.indices(f, other.patch_nums); assert all(map(torch.equal, idx, other.indices(f)))          # as a model that was built with them, with its table of convolutions
    assert torch.equal(q.maps(idx, other.patch_nums)[-1], other.maps(idx)[-1])
    model = made(); x = pixels(2, 3, 16, 8); nums = (1, (8, 4)); assert model.image(model.indices(x, nums), nums).shape == x.shape and len(model.progress(model.indices(x, nums), nums)) == 2

def test_nothing_that_is_given_is_changed():
    model = made().train(); q, x, f = model.quantize, pixels(2, 3, 8, 8), random(2, 4, 4, 4); idx, f_hat, h = q.indices(f), q.start(2) + 1, random(2, 4, 2, 2)
    kept = [t.clone() for t in (x, f, f_hat, h, *idx)]; weights = {k: v.clone() for k, v in model.state_dict().items() if 'hit' not in k}
    with torch.no_grad(): model(x); model.latent(x); model.progress(idx); q(f); q.maps(f); q.teacher(idx); q.step(1, f_hat, h); q.usage(); model.decode(f)
    assert all(map(torch.equal, kept, (x, f, f_hat, h, *idx))) and all(t._version == 0 for t in (x, h))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in weights.items())
    maps = q.maps(f); maps[0].add_(1); assert torch.equal(q.maps(f)[1], maps[1])                     # the maps share no memory

def test_pictures_do_not_depend_on_the_batch():
    model, x = made(), pixels(5, 3, 8, 8); idx = model.indices(x)
    for i in range(5): assert all(torch.equal(a, b[i:i+1]) for a, b in zip(model.indices(x[i:i+1]), idx))


# ---- precision and gradients

def test_quantised_in_32_bits_whatever_the_rest():
    q = made().quantize; f = random(2, 4, 4, 4); idx, maps, (out, loss, _) = q.indices(f), q.maps(f), q(f)
    with torch.autocast('cpu', torch.bfloat16):
        assert all(map(torch.equal, q.indices(f), idx)) and all(map(torch.equal, q.maps(idx), maps)) and q.teacher(idx).dtype == torch.float32
        again, same, _ = q(f); assert torch.equal(again, out) and torch.equal(same, loss) and torch.equal(q.step(0, q.start(2), q.embed(idx[0], 0))[0], maps[0])
        rec, _, _ = made()(pixels(2, 3, 8, 8)); assert rec.dtype == torch.bfloat16
    coarse = made().to(torch.bfloat16); img = coarse.image(coarse.indices(pixels(2, 3, 8, 8))); assert img.dtype == torch.bfloat16 and coarse.quantize.maps(idx)[0].dtype == torch.float32

def test_gradients():
    q = made().quantize; f = random(2, 4, 4, 4).requires_grad_(); out, loss, _ = q(f); push = random(2, 4, 4, 4, seed=1)
    (out*push).sum().backward(); torch.testing.assert_close(f.grad, push); assert q.embedding.weight.grad is None; f.grad = None
    maps = q.maps(f.detach()); torch.testing.assert_close(loss, sum((1 + q.beta)*F.mse_loss(m, f) for m in maps)/3)
    loss.backward(); torch.testing.assert_close(f.grad, sum(2*q.beta/3/f.numel()*(f.detach() - m) for m in maps))
    used = torch.cat([i.flatten() for i in q.indices(f.detach())]).unique(); moved = q.embedding.weight.grad.abs().sum(1).nonzero().flatten(); assert torch.equal(used, moved)

@pytest.mark.parametrize('stem', [1, 2])
def test_every_weight_learns_and_a_few_pictures_are_learnt(stem):
    model = made(stem=stem, ch=16, vocab=64, shared=0).train(); opt = torch.optim.Adam(model.parameters(), 2e-3); first = None; assert model.size == 8*stem
    x = F.interpolate(random(6, 3, 2, 2), model.size, mode='bilinear').clamp(-1, 1)
    with seeded(0):
        for step in range(60):
            if step == 30: fit_codebook(model.quantize, model.latent(x), steps=5)
            rec, loss, idx = model(x, quantise=step >= 30); far = F.mse_loss(rec, x); first = first or float(far.detach())
            opt.zero_grad(); (far + loss).backward(); opt.step(); assert (idx is None) == (step < 30)
    assert F.mse_loss(model.eval()(x)[0], x) < first/4
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if not n.endswith('qkv.bias'))


# ---- usage and dead codes

def test_usage_is_counted_in_training_only_and_without_memory_outside_the_weights():
    q = Quantiser(24, 4, (1, 2, 4)); f = random(3, 4, 4, 4); q.eval(); q(f); assert not q.ema_vocab_hit_SV.any() and not len(q.dead())
    q.train(); q(f); hits = torch.stack([torch.bincount(i.flatten(), minlength=24) for i in q.indices(f)])
    torch.testing.assert_close(q.ema_vocab_hit_SV, .01*hits); torch.testing.assert_close(q.usage(1e-6), (hits > 0).float().mean(1))
    stopped = Quantiser(24, 4, (1, 2, 4)); stopped.load_state_dict(q.state_dict()); stopped.train(); g = random(3, 4, 4, 4, seed=1); q(g); stopped(g)
    assert torch.equal(q.ema_vocab_hit_SV, stopped.ema_vocab_hit_SV)                                # a training that was stopped goes on with the same numbers

def test_revival():
    def prepared():
        with seeded(0): q = Quantiser(64, 4, (1, 2, 4)).train()
        with torch.no_grad(): q.embedding.weight[32:] += 100
        q(f); return q
    f = random(8, 4, 4, 4); a, b, c = prepared(), prepared(), prepared(); gone = a.dead(); before = a.embedding.weight.clone(); assert set(range(32, 64)) <= set(gone.tolist())
    gen = lambda: torch.Generator().manual_seed(3); v = torch.cat([v.flatten(0, 1) for v in a.vectors(f)])
    assert revive(a, f, generator=gen()) == revive(b, v, generator=gen()) == len(gone) and torch.equal(a.embedding.weight, b.embedding.weight)
    assert all((row == v).all(1).any() for row in a.embedding.weight[gone]) and not len(a.dead())    # they are vectors that were looked up, and get time to be used
    stay = torch.tensor([i for i in range(64) if i not in gone]); assert torch.equal(a.embedding.weight[stay], before[stay])
    assert F.mse_loss(a.maps(f)[-1], f) < F.mse_loss(c.maps(f)[-1], f)
    few = len(c.dead()); assert revive(c, v[:5], generator=gen()) == 5 and len(c.dead()) == few - 5 and revive(Quantiser(64, 4, (1, 2, 4)), f) == 0

def test_kmeans():
    centres = 10*random(12, 6); x = centres.repeat_interleave(30, 0) + .1*random(360, 6, seed=1); codes = kmeans_codebook(x, 12, seed=0, steps=30)
    assert torch.equal(codes, kmeans_codebook(x, 12, seed=0, steps=30)) and not torch.equal(codes, kmeans_codebook(x, 12, seed=1, steps=30)) and codes.isfinite().all()
    far = [float((x - k[nearest(x, k)]).square().sum(1).mean()) for k in (kmeans_codebook(x, 12, steps=n) for n in (0, 1, 3, 30))]; assert far == sorted(far, reverse=True) and far[-1] < far[0]
    torch.testing.assert_close(kmeans_codebook(x, 1, steps=1)[0], x.mean(0)); one = kmeans_codebook(torch.ones(9, 3), 4, steps=3); assert torch.equal(one, torch.ones(4, 3))

def test_a_fitted_codebook_is_better():
    f = random(40, 4, 4, 4).cumsum(0)/6; q = Quantiser(24, 4, (1, 2, 4), quant_resi=0.); far = lambda: float(F.mse_loss(q.maps(f)[-1], f)); before = far()
    fit_codebook(q, f, per_scale=200); assert far() < before/2
    exact = q.vectors(f, exact=True); torch.testing.assert_close(exact[0][:, 0], f.mean((2, 3)))
    torch.testing.assert_close(sum(h for _, _, h in q.descend(f, exact=True)), f)                   # nothing is left with a codebook that holds every vector


# ---- pictures and files

def test_pictures_there_and_back():
    img = torch.arange(256, dtype=torch.uint8).repeat(3).view(8, 4, 8, 3).flip(0); x = to_signed(img); assert x.shape == (8, 3, 4, 8)
    assert (to_uint8(x) == img.numpy()).all() and (to_uint8(to_signed(img.numpy())) == img.numpy()).all() and to_signed(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 1, 2, 3)).flatten().tolist() == [-1, 1]*3
    assert (to_uint8(3*torch.ones(1, 3, 2, 2)) == 255).all()

def test_files(tmp_path):
    model, x = made(stem=2, patch_nums=(1, (2, 3), (4, 4)), normalise=True), pixels(2, 3, 16, 16); save_vqvae(model, tmp_path/'a.safetensors', dict(made='here'))
    back, report = load_vqvae(tmp_path/'a.safetensors'); assert back.config == model.config == json.loads(json.dumps(model.config)) and not back.training
    assert all(map(torch.equal, back.indices(x), model.indices(x))) and torch.equal(back(x)[0], model(x)[0]) and len(report.matched) == len(model.state_dict()) and not report.refused
    save_vqvae(model, tmp_path/'h.safetensors', half=True); half, _ = load_vqvae(tmp_path/'h.safetensors'); kind = next(half.parameters()).dtype
    assert kind == torch.float32 and (tmp_path/'h.safetensors').stat().st_size < .6*(tmp_path/'a.safetensors').stat().st_size and torch.equal(half.quant_conv.weight, model.quant_conv.weight.half().float())
    assert 'VQVAE(' in repr(VQVAE(**model.config)) and VQVAE(**model.config).config == model.config

def test_counts_of_usage_outgrow_16_bits(tmp_path):
    "They stay in 32 bits in our files and in a model of 16 bits; where a file has lost them, they start anew, and that is said."
    model, x, usage = made(), pixels(2, 3, 8, 8), 'quantize.ema_vocab_hit_SV'; hits = model.quantize.ema_vocab_hit_SV.fill_(1.)
    hits[1, 3] = 7e4; want = hits.clone(); save_vqvae(model, tmp_path/'a.safetensors', half=True); assert torch.equal(load_vqvae(tmp_path/'a.safetensors')[0].quantize.ema_vocab_hit_SV, want)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        small = made().to(kind); small.quantize.ema_vocab_hit_SV.copy_(want); small.float().to(kind); assert small.quantize.ema_vocab_hit_SV.dtype == torch.float32 and torch.equal(small.quantize.ema_vocab_hit_SV, want) and small.quantize.embedding.weight.dtype == kind
    small = model.half(); save_vqvae(small, tmp_path/'b.safetensors', half=True); assert torch.equal(load_vqvae(tmp_path/'b.safetensors')[0].quantize.ema_vocab_hit_SV, want)
    model = made(); torch.save({**model.state_dict(), usage: want.half()}, tmp_path/'lost.pth')
    with pytest.warns(UserWarning, match='lost.pth: 1 counts'): back, report = load_vqvae(tmp_path/'lost.pth', **tiny)
    assert not back.quantize.ema_vocab_hit_SV.any() and back.quantize.usage().eq(0).all() and report.new == [usage] and '1 counts are not finite' in report.refused[usage] and usage in str(report)
    assert (report.table().why == report.refused[usage]).sum() == 1 and torch.equal(back(x)[0], model(x)[0])
    other = {**tiny, 'patch_nums': (1, 2, 3, 4)}
    with pytest.warns(UserWarning, match='counted anew'): assert not load_vqvae(tmp_path/'lost.pth', **other)[0].quantize.ema_vocab_hit_SV.any()

@pytest.mark.parametrize('level', [None, 'model', 'state_dict'])
def test_official_files(tmp_path, level):
    model, x = made(), pixels(2, 3, 8, 8); state = model.state_dict(); torch.save({level: state} if level else state, tmp_path/'vae.pth')
    back, report = load_vqvae(tmp_path/'vae.pth', **tiny); assert torch.equal(back(x)[0], model(x)[0]) and not report.new
    other, report = load_vqvae(tmp_path/'vae.pth', **{**tiny, 'patch_nums': (1, 2, 3, 4)}); assert report.new == ['quantize.ema_vocab_hit_SV'] and other.quantize.ema_vocab_hit_SV.shape == (4, 24)

def test_files_that_do_not_fit(tmp_path):
    state = made().state_dict(); torch.save({**state, 'quant_conv.weight': torch.zeros(5, 4, 3, 3)}, tmp_path/'shape.pth'); torch.save({k: v for k, v in state.items() if k != 'quant_conv.bias'}, tmp_path/'less.pth'); torch.save({**state, 'more': torch.zeros(1)}, tmp_path/'more.pth')
    for name, words in (('shape', 'quant_conv.weight'), ('less', 'quant_conv.bias'), ('more', 'more')):
        with pytest.raises(CheckpointError, match=words): load_vqvae(tmp_path/f'{name}.pth', **tiny)
    from brainrecon.core.checkpoint import save_weights
    save_weights(tmp_path/'var.safetensors', made(), dict(kind='var', config={}))
    with pytest.raises(CheckpointError, match="holds 'var'"): load_vqvae(tmp_path/'var.safetensors')
    with pytest.raises(ValuesError, match='not finite'): model = made(); nn.init.constant_(model.quant_conv.weight, torch.nan); save_vqvae(model, tmp_path/'nan.safetensors')
    assert not (tmp_path/'nan.safetensors').exists()


# ---- bad input

@pytest.mark.parametrize('change, kind', [(dict(patch_nums=()), ParameterError), (dict(patch_nums=4), ParameterError), (dict(patch_nums=(1, 0, 4)), ParameterError), (dict(patch_nums=(1, 5, 4)), ParameterError), (dict(patch_nums=(1, (2, 3, 4), 4)), ParameterError),
    (dict(patch_nums=(1, 2.5, 4)), ParameterError), (dict(vocab=0), ParameterError), (dict(vocab=2.5), ParameterError), (dict(shared=-1), ParameterError), (dict(norm_groups=3), ParameterError), (dict(stem=0), ParameterError), (dict(blocks=0), ParameterError), (dict(ch_mult=(1, .5)), ParameterError), (dict(ch_mult=()), ParameterError)], ids=str)
def test_refused_settings(change, kind):
    with pytest.raises(kind): made(**change)

def test_refused_input():
    model = made(); q, x, f = model.quantize, pixels(2, 3, 8, 8), random(2, 4, 4, 4); idx = q.indices(f)
    for bad, kind, words in ((x[0], ShapeError, '4'), (x[:, :2], ShapeError, '3'), (x[..., :7], ShapeError, 'multiples of 2'), (x[..., :6], ShapeError, 'last scale'), (100*x, ValuesError, 'to_signed'), ((x > 0).byte(), ValuesError, 'to_signed'), (x*torch.nan, ValuesError, 'not finite')):
        with pytest.raises(kind, match=words): model.indices(bad)
    for bad, kind in ((idx[:2], ShapeError), ([idx[0], idx[1], idx[2][:, :9]], ShapeError), ([idx[0], idx[1][:1], idx[2]], ShapeError), ([i - 30 for i in idx], ValuesError), ([i + 30 for i in idx], ValuesError)):
        for use in (q.maps, q.teacher, model.image, model.progress):
            with pytest.raises(kind): use(bad)
    for k, bad, kind in ((1, q.embed(idx[0], 0), ShapeError), (3, f, UnknownError), (-1, f, UnknownError)):
        with pytest.raises(kind): q.step(k, q.start(2), bad)
    with pytest.raises(ShapeError): q.step(2, q.start(3), f)
    with pytest.raises(ShapeError): q.embed(idx[1], 2)
    with pytest.raises(ShapeError): nearest(random(3, 5), q.embedding.weight)
    with pytest.raises(ShapeError, match='for 24 codes'): kmeans_codebook(random(20, 4), 24)

def test_files_by_name_and_slips(tmp_path, monkeypatch):
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path)); name = 'var:vae_ch160v4096z32.pth'; model = made()
    with pytest.raises(MissingWeights, match='brainrecon data fetch var`'): load_vqvae(name, **tiny)
    (tmp_path/'var').mkdir(); torch.save(model.state_dict(), tmp_path/'var'/'vae_ch160v4096z32.pth')
    again, r = load_vqvae(name, **tiny); assert not r.new and torch.equal(again.quantize.embedding.weight, model.quantize.embedding.weight)
    with pytest.raises(ParameterError, match="(?s)it has: vocab, .*'norm_groups'"): load_vqvae(name, **tiny, norm_group=4)
    for nothing in (None, ''):
        with pytest.raises(ParameterError, match='a path'): load_vqvae(nothing)
    for how in (dict(vocab='24'), dict(z=0)):
        with pytest.raises(ParameterError, match='whole number'): made(**how)
