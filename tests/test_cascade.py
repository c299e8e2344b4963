"MindHier's targets and loss: layers of any network, tokens of pictures, the five terms by their formulas, who is taught, the same run after a kill, and chance where the pairs are shuffled."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brainrecon.alignment.cascade import TokenAxes, cascade_mse, hierarchy_loss, layer_maps, level_targets, load_axes, mapped_layers, one_row, paper_targets, token_mse
from brainrecon.alignment.contrast import identify, soft_clip
from brainrecon.alignment.feature_cache import features
from brainrecon.alignment.targets import Standardise
from brainrecon.core.checks import CheckpointError, LeakError, ParameterError, ReconError, ShapeError, UnknownError, seeded
from brainrecon.core.fit import Batches, Fit
from brainrecon.data.pictures import load_pictures
from brainrecon.encoders.hierarchy import HierarchyEncoder, Levels
from brainrecon.encoders.vision import ClipEncoder, layer_part, load_encoder

def drawn(*shape, seed=0):
    with seeded(seed): return torch.randn(*shape)
def built(seed=0, **more):
    with seeded(seed): return HierarchyEncoder(20, **{**dict(tokens=5, text_tokens=3, width=16, heads=2, ff=24, hidden=(12, 8), context=6, dropout=0.), **more})

# ---- layers

@pytest.mark.parametrize('kind, want', [('8+4m', [12, 16, 20, 24]), ('16+2m', [18, 20, 22, 24]), ('6m', [6, 12, 18, 24])])
def test_the_papers_layers(kind, want): assert mapped_layers(kind) == want and mapped_layers(kind, 48, 4) == [2*g for g in want]

@pytest.mark.parametrize('kind', layer_maps)
@pytest.mark.parametrize('layers', [1, 4, 7, 12, 24, 32, 48])
@pytest.mark.parametrize('levels', [1, 2, 3, 4, 6, 8])
def test_layers_of_any_network(kind, layers, levels):
    try: at = mapped_layers(kind, layers, levels)
    except ParameterError: assert levels > 1 and layers*(1 - layer_maps[kind]) < 1.5*levels; return
    assert at[-1] == layers and at[0] >= 1 and len(set(at)) == levels and at == sorted(at)

@pytest.mark.parametrize('kind, layers, levels', [((1, 2), 7, 3), ((2, 1), 7, 2), ((0, 3), 7, 2), ((3, 8), 7, 2), ((1.5, 2), 7, 2), (('1', '2'), 7, 2), ((3, 3), 7, 2), ((), 7, 1), ('6m', 0, 4), ('6m', 7, 0), ('7m', 7, 4)])
def test_layers_that_are_none(kind, layers, levels):
    with pytest.raises((ParameterError, UnknownError)): mapped_layers(kind, layers, levels)

# ---- tokens of pictures

@pytest.mark.parametrize('text, want', [('block3', ('block3', 1)), ('block3@4', ('block3', 4)), ('block3@tokens', ('block3', 'tokens')), ('block3@tokens4', ('block3', 'tokens4')), ('pixels@tokens2', ('pixels', 'tokens2'))])
def test_names_of_layers(text, want): assert layer_part(text, ['block3', 'pooled', 'logits']) == want

@pytest.mark.parametrize('text', ['block3@token', 'block3@tokens0', 'block3@tokens-1', 'block3@tokens4x', 'pooled@tokens', 'logits@tokens4', 'block3@'[:-1] + '@0'])
def test_names_of_layers_that_are_none(text):
    with pytest.raises(ParameterError): layer_part(text, ['block3', 'pooled', 'logits'])

def test_tokens_of_a_convolution():
    e, p = load_encoder('lite0', size=96, device='cpu'), load_pictures('valid')[:3]; z = e(p, layers=['block3@tokens', 'block3@tokens3', 'block3@tokens1', 'pixels@tokens2', 'block3']); whole = e(p, layers='block3', grid=0)['block3']
    assert z['block3@tokens'].shape == (3, 1 + whole[0, 0].numel(), 80) and torch.equal(z['block3@tokens'][:, 1:], whole.flatten(2).transpose(1, 2)) and z['pixels@tokens2'].shape == (3, 5, 3)
    assert torch.equal(z['block3@tokens3'][:, 1:], F.adaptive_avg_pool2d(whole, 3).flatten(2).transpose(1, 2))
    for k in ('block3@tokens', 'block3@tokens3', 'block3@tokens1'): assert torch.allclose(z[k][:, 0], z['block3'], atol=1e-5)

def transformer(**more):
    vit = pytest.importorskip('open_clip.transformer').VisionTransformer
    with seeded(0):
        net = vit(32, 8, 24, 5, 2, 2., output_dim=10, **more)
        for p in net.parameters(): torch.nn.init.normal_(p, std=.3)
    return ClipEncoder(net, 'toy', 32, weights='toy')

def test_tokens_of_a_transformer_are_normed_and_projected():
    "The last block's first token is the embedding itself; earlier ones are what comes out of that block, through the same norm and projection."
    e, p = transformer(), load_pictures('valid')[:3]; names = [f'block{i}@tokens' for i in range(5)]; z = e(p, layers=[*names, 'block2@tokens2', 'pooled', 'block2@2'])
    assert all(z[n].shape == (3, 17, 10) for n in names) and torch.allclose(z['block4@tokens'][:, 0], z['pooled'], atol=1e-5) and z['block2@2'].shape == (3, 24, 2, 2)
    seen = []; hook = e.net.transformer.resblocks[2].register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad(): e.net(e.prepare(p.img)); hook.remove(); t = seen[0]; t = (t - t.mean(-1, keepdim=True))/(t.var(-1, unbiased=False, keepdim=True) + e.net.ln_post.eps).sqrt()*e.net.ln_post.weight + e.net.ln_post.bias
    assert torch.allclose(z['block2@tokens'], (t @ e.net.proj).detach(), atol=1e-4)
    rest = z['block2@tokens'][:, 1:].reshape(3, 2, 2, 2, 2, 10).mean((2, 4)).reshape(3, 4, 10)
    assert torch.allclose(z['block2@tokens2'], torch.cat([z['block2@tokens'][:, :1], rest], 1), atol=1e-5)

def test_a_network_that_gathers_its_tokens_is_refused():
    e = transformer(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2)
    with pytest.raises(ParameterError, match='gives no tokens'): e(load_pictures('valid')[:2], layers='block1@tokens')

def test_the_papers_network_has_these_layers_and_tokens():
    c = pytest.importorskip('open_clip').get_model_config(paper_targets['encoder'].split(':')[1].split('/')[0]); v = c['vision_cfg']
    assert c['embed_dim'] == 768 and v['layers'] == 24 and (v['image_size']//v['patch_size'])**2 + 1 == 257 and mapped_layers(paper_targets['layers'], v['layers'])[-1] == 24

def test_targets_of_a_transformer(tmp_path):
    e, p = transformer(), load_pictures('valid')[:3]; z = level_targets(p, 2, encoder=e, layers=(2, 5), grid=0, path=tmp_path/'f', log=None)
    assert [a.shape for a in z] == [(3, 17, 10)]*2 and np.allclose(z[1], e(p, layers='block4@tokens')['block4@tokens'], atol=1e-6) and np.allclose(z[0], features(p, e, 'block1@tokens', path=tmp_path/'g', log=None), atol=1e-6)
    with pytest.raises(UnknownError): level_targets(p, encoder='lite9')
    with pytest.raises(ParameterError): level_targets(p, grid=-1)
    with pytest.raises(ShapeError): level_targets(p.img)

# ---- axes

def levels_of(n, widths=(4, 7, 12), tokens=5, seed=0):
    gen = np.random.default_rng(seed); return [gen.normal(size=(n, tokens, d))@gen.normal(size=(d, d)) + 5*gen.normal(size=(tokens, d)) for d in widths]

def test_axes_keep_what_they_can(tmp_path):
    p = load_pictures('train')[:40]; z = levels_of(40); a = TokenAxes(7).fit(z, p); out = a(z)
    assert all(o.shape == (40, 5, 7) and o.dtype == np.float32 and np.abs(o.mean(0)).max() < 1e-4 for o in out) and not out[0][..., 4:].any()
    back = a.inverse(out); assert all(np.allclose(b, y, atol=1e-3) for b, y in zip(back[:2], z[:2])) and not np.allclose(back[2], z[2], atol=1e-2)
    for y, o, k in zip(z[:2], out, a.meta['kept']):       # distances are kept, up to one factor for the level
        d = lambda t: np.linalg.norm((t[:, None] - t[None]).reshape(40, 40, -1), axis=-1)[np.triu_indices(40, 1)]
        r = d(o)/d(y); assert r.std() < 1e-5*r.mean() and abs(k - 1) < 1e-9
    a.save(tmp_path/'a.safetensors'); b = load_axes(tmp_path/'a.safetensors'); assert b.meta == a.meta and all(np.array_equal(x, y) for x, y in zip(out, b(z))) and b.width == 7
    assert all(np.array_equal(x, y) for x, y in zip(out, TokenAxes(7).fit(z, p)(z)))

def test_axes_see_training_alone(tmp_path):
    p, q = load_pictures('train')[:10], load_pictures('test')[:10]
    with pytest.raises(LeakError): TokenAxes(3).fit(levels_of(10), q)
    a = TokenAxes(3).fit(levels_of(10), p); a.refuse(q.concepts)
    with pytest.raises(LeakError): a.refuse(p.concepts[:1])
    with pytest.raises(CheckpointError): TokenAxes(3)(levels_of(10))
    for bad in (levels_of(10)[:2], levels_of(10, (4, 7, 11)), levels_of(10, tokens=4), [z[0] for z in levels_of(10)]):
        with pytest.raises(ShapeError): a(bad)
    for bad in (levels_of(9), [levels_of(10)[0], levels_of(10, tokens=4)[1]]):
        with pytest.raises(ShapeError): TokenAxes(3).fit(bad, p)
    with pytest.raises(ParameterError): TokenAxes(0)
    Standardise().fit(levels_of(10)[0][:, 0], p).save(tmp_path/'s.safetensors')
    with pytest.raises(CheckpointError): load_axes(tmp_path/'s.safetensors')

# ---- the loss

def test_distance_is_its_formula():
    a, b = drawn(6, 5, 4).double(), drawn(6, 5, 4, seed=1).double(); u, v = (x.reshape(6, 20)/x.reshape(6, 20).pow(2).sum(1, keepdim=True).sqrt() for x in (a, b))
    assert torch.isclose(token_mse(a, b), (u - v).pow(2).sum(1).mean()) and torch.isclose(token_mse(a, b, 'released'), 200_000*(u - v).pow(2).mean()) and torch.isclose(token_mse(a, b, 3), 3*(u - v).pow(2).mean())
    assert torch.isclose(token_mse(a, b), 2 - 2*(u*v).sum(1).mean()) and torch.isclose(token_mse(a*drawn(6).abs()[:, None, None], b), token_mse(a, b)) and torch.allclose(one_row(a), u)
    near = a.clone(); near[:, 0] += b[:, 0]; loud = torch.cat([a[:, :1]*100, a[:, 1:]], 1); assert token_mse(near, a) > .1 and token_mse(torch.cat([loud[:, :1], near[:, 1:]], 1), loud) < 1e-9 and token_mse(torch.cat([loud[:, :1], b[:, 1:]], 1), loud) < .01 < token_mse(torch.cat([a[:, :1], b[:, 1:]], 1), a)      # the norm is over all tokens, not of each

@pytest.mark.parametrize('scale', [0, -1, True, 'counts'])
def test_scales_that_are_none(scale):
    with pytest.raises(ReconError): token_mse(drawn(2, 3, 4), drawn(2, 3, 4), scale)

@pytest.mark.parametrize('text', [False, True])
def test_terms_by_their_formulas(text):
    net, x = built(text_tokens=3*text), drawn(6, 20); out = net(x); aims, v, t, tau = [drawn(6, 5, 16, seed=i) for i in range(4)], drawn(6, 5, 16, seed=9), drawn(6, 3, 16, seed=8) if text else None, .05
    full = hierarchy_loss(out, aims, image=v, text=t, temperature=tau); names = ['mse_layers', 'mse_image', 'softclip_image'] + ['mse_text', 'softclip_text']*text; assert list(full) == names
    assert torch.isclose(full['mse_layers'], sum(token_mse(e, a) for e, a in zip(out.levels, aims))) and torch.isclose(full['mse_image'], token_mse(out.image, v)) and torch.isclose(full['softclip_image'], soft_clip(out.image.flatten(1), v.flatten(1), tau))
    end = hierarchy_loss(out, aims, image=v, text=t, kind='terminal', temperature=tau); assert list(end) == names[1:] and all(torch.equal(end[k], full[k]) for k in end)
    seed = hierarchy_loss(out, aims, image=v, text=t, kind='seed', temperature=tau); assert list(seed) == ['mse_layers', 'nce_image'] + ['nce_text']*text and torch.equal(seed['mse_layers'], full['mse_layers'])
    logits = F.normalize(out.levels[-1].flatten(1)) @ F.normalize(v.flatten(1)).T/tau; assert torch.isclose(seed['nce_image'], -logits.log_softmax(1).diagonal().mean())
    if text: logits = F.normalize(out.levels[-1].mean(1)) @ F.normalize(t.mean(1)).T/tau; assert torch.isclose(seed['nce_text'], -logits.log_softmax(1).diagonal().mean())
    assert torch.equal(hierarchy_loss(out, aims, text=t)['mse_image'], token_mse(out.image, aims[-1]))

def test_a_perfect_answer_costs_nothing_but_the_contrast():
    aims = [drawn(6, 5, 16, seed=i) for i in range(3)]; out = Levels(aims, aims[-1], None, aims[-1].mean(1)); terms = hierarchy_loss(out, aims); assert terms['mse_layers'] < 1e-6 > terms['mse_image'] and terms['softclip_image'] < 1e-3
    assert hierarchy_loss(Levels(aims, aims[-1].roll(1, 0), None, None), aims)['softclip_image'] > 10

def test_halves_must_fit():
    out, aims = built()(drawn(3, 20)), [drawn(3, 5, 16)]*4
    for bad in (lambda: hierarchy_loss(out, aims), lambda: hierarchy_loss(out._replace(text=None), aims, text=drawn(3, 3, 16)), lambda: hierarchy_loss(out, aims[:3], text=drawn(3, 3, 16)), lambda: hierarchy_loss(out, [a[:2] for a in aims], text=drawn(3, 3, 16)),
        lambda: hierarchy_loss(out, aims, text=drawn(3, 4, 16)), lambda: hierarchy_loss(out, aims, text=drawn(3, 3, 16), temperature=0), lambda: hierarchy_loss(out, aims, text=drawn(3, 3, 16), kind='Cascade'), lambda: cascade_mse(out.levels, aims[:1])):
        with pytest.raises(ReconError): bad()

@pytest.mark.parametrize('kind', ['cascade', 'terminal', 'seed'])
def test_every_form_teaches_what_it_names(kind):
    net, aims, t = built(), [drawn(6, 5, 16, seed=i).requires_grad_() for i in range(4)], drawn(6, 3, 16); before = {k: v.clone() for k, v in net.state_dict().items()}
    opt = torch.optim.SGD(net.parameters(), .1); terms = hierarchy_loss(net(drawn(6, 20)), [a.detach() for a in aims], text=t, kind=kind, temperature=.05); sum(terms.values()).backward(); opt.step()
    still = {k for k, v in net.state_dict().items() if torch.equal(v, before[k])}; idle = {k for k in still if not k.endswith(('in_proj_bias',))}
    assert idle == ({k for k in before if k.startswith(('image_proj', 'text_'))} - {k for k in before if k.endswith('in_proj_bias')} if kind == 'seed' else set()), idle

# ---- whole runs

def world(n=260, shuffled=False):
    "Responses that hold the targets under noise; shuffled: those of other pictures."
    z = drawn(n, 6); x = z @ drawn(6, 20, seed=1) + .3*drawn(n, 20, seed=2); aims = [(z @ drawn(6, 80, seed=3 + i)).reshape(n, 5, 16) for i in range(4)]
    at = torch.randperm(200, generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(200)
    return x, aims, Batches(x[:200].numpy(), *(a[:200][at].numpy() for a in aims), batch_size=40)

class Stop(Exception): "The run is killed here."

def run_of(batches, steps, stop=None, folder=None, **more):
    net, seen = built(**{**dict(text_tokens=0, hidden=(48, 24)), **more}), []
    def loss(net, batch):
        if len(seen) == stop: raise Stop
        seen.append(1); return hierarchy_loss(net(batch[0]), list(batch[1:]), temperature=.05)
    Fit(net, loss, lr=5e-3, device='cpu', log=None, folder=folder).run(batches, steps, every=4); return net

@pytest.mark.parametrize('shuffled', [False, True])
def test_learns_pairs_and_falls_to_chance_without_them(shuffled):
    x, aims, batches = world(shuffled=shuffled); net = run_of(batches, 250).eval()
    with torch.no_grad(): out = net(x[200:])
    scores = [identify(one_row(e), one_row(a[200:])) for e, a in zip((*out.levels, out.image), (*aims, aims[-1]))]
    assert all(.35 < s < .65 for s in scores) if shuffled else min(scores) > .8, scores

@pytest.mark.parametrize('stop', [3, 7])
def test_killed_and_resumed_is_the_same_run(tmp_path, stop):
    batches = lambda: world()[2]; how = dict(dropout=.1); whole = run_of(batches(), 12, folder=tmp_path/'a', **how)
    with pytest.raises(Stop): run_of(batches(), 12, stop, tmp_path/'b', **how)
    again = run_of(batches(), 12, folder=tmp_path/'b', **how); assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))

def test_half_the_bits_in_the_network_and_all_in_the_loss():
    kinds = []
    def loss(net, batch): out = net(batch[0]); kinds.append({t.dtype for t in (*out.levels, out.image, out.pooled)}); terms = hierarchy_loss(out, list(batch[1:])); assert all(v.dtype == torch.float32 and v.isfinite() for v in terms.values()); return terms
    Fit(built(text_tokens=0), loss, lr=1e-3, device='cpu', log=None, precision='bf16').run(world()[2], 3); assert kinds == [{torch.float32}]*3
    a, b = drawn(4, 5, 16).bfloat16(), drawn(4, 5, 16, seed=1).bfloat16(); assert torch.allclose(token_mse(a, b), token_mse(a.float(), b.float())) and token_mse(a, b).dtype == torch.float32
