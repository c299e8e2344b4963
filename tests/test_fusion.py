"The fusion: mixes, names, layouts, released folders, gradients, broken input; UBP's loss and blur; the distance between clouds."
import copy, itertools, json, math
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brainrecon.alignment.contrast import info_nce
from brainrecon.alignment.fusion import (FusionEncoder, Mix, blur_kernels, blur_match, fovea, key_of, load_fusion, mmd, official_state, respelled, save_fusion, ubp_loss, ubp_similarity)
from brainrecon.core.checks import CheckpointError, FileError, FolderError, MissingWeights, ParameterError, ShapeError, UnknownError, UnsafeError, seeded

widths = {'RN50': 6, 'vae': 16, 'CLIP-ViT-B-32-laion2B-s34B-b79K': 5}
def made(b=4, seed=1, **how):
    "A fusion and parts for it; a latent keeps its axes."
    with seeded(seed): net = FusionEncoder(how.pop('widths', widths), 8, **how); parts = {n: torch.randn(b, w) for n, w in net.widths.items()}
    if net.widths.get('vae') == 16: parts['vae'] = parts['vae'].reshape(b, 4, 2, 2)
    return net, parts

# ---- the sum and its weights

@pytest.mark.parametrize('k', [1, 2, 3, 5, 7, 10, 49, 97])
def test_the_start_of_every_mix_is_the_sum_exactly(k):
    names = {f'e{i}': 3 for i in range(k)}; (a, parts), (b, _), (c, _) = (made(widths=names, **how) for how in ({}, dict(mix='learned'), dict(mix='person', persons=3)))
    for n in (b, c): n.load_state_dict(a.state_dict(), strict=False)
    want = a(parts); assert torch.equal(want, b(parts)) and all(torch.equal(want, c(parts, p)) for p in (None, 0, -1, torch.tensor([0, 1, 2, -1])))
    assert a.weights() == b.weights() == c.weights(2) == dict.fromkeys(names, 1.)

def test_weights_are_one_on_average_whatever_was_learned():
    mix = Mix('abc', 'person', persons=4)
    with torch.no_grad(), seeded(0): mix.logits.normal_(0, 50); mix.persons.normal_(0, 50)
    for p in (None, *range(4)): w = mix.weights(p); assert abs(sum(w.values()) - 3) < 1e-4 and min(w.values()) >= 0

def test_persons_have_weights_of_their_own_and_the_unknown_those_for_all():
    net, parts = made(mix='person', persons=3)
    with torch.no_grad(), seeded(0): net.mix.logits.normal_(); net.mix.persons.normal_()
    rows = [net({n: x[[i]] for n, x in parts.items()}, p) for i, p in enumerate((2, 0, -1, None))]; got = net(parts, torch.tensor([2, 0, -1, -1]))
    torch.testing.assert_close(got, torch.cat(rows)); assert torch.equal(net(parts), net(parts, -1)) and torch.equal(net(parts, 1), net(parts, torch.full((4,), 1))) and net.weights(0) != net.weights(1) != net.weights()
    assert torch.equal(net(parts, [2, 0, -1, -1]), got) and torch.equal(net(parts, np.array([2, 0, -1, -1])), got)

def test_the_centre_counts_more_at_the_start():
    for how in (dict(mix='learned'), dict(mix='person', persons=2)):
        w = made(centre='vae', **how)[0].weights(); assert w.pop('vae') > 1.5 and max(w.values()) < 1 and len(set(w.values())) == 1
    a, b = (Mix('ab', 'learned', centre='a', lead=x).weights()['a'] for x in (.5, 2.)); assert 1 < a < b

@pytest.mark.parametrize('how', [dict(mix='learned'), dict(mix='person', persons=3)])
def test_gradients_reach_the_weights_and_only_the_persons_who_are_there(how):
    net, parts = made(**how); person = torch.tensor([0, 0, 2, 2]) if 'persons' in how else None
    net(parts, person).pow(3).sum().backward(); assert net.mix.logits.grad.abs().sum() > 0
    if person is not None: g = net.mix.persons.grad.abs().sum(1); assert g[0] > 0 and g[2] > 0 and g[1] == 0
    net.zero_grad(); net(parts).pow(3).sum().backward(); assert person is None or net.mix.persons.grad is None

def test_gradients_are_those_of_small_steps():
    net, parts = made(b=2, mix='person', persons=2, adapter=True); net = net.double(); x = parts['RN50'].double().requires_grad_()
    with torch.no_grad(): net.mix.logits.copy_(torch.tensor([.3, -.2, .5])); net.mix.persons.normal_(generator=torch.Generator().manual_seed(0))
    f = lambda x, l: net.adapt(torch.func.functional_call(net, {'mix.logits': l}, ({**parts, 'RN50': x}, torch.tensor([0, 1]))))
    assert torch.autograd.gradcheck(f, (x, net.mix.logits.detach().clone().requires_grad_()))

# ---- names, orders, layouts

def test_neither_order_of_the_names_matters():
    net, parts = made(); want = net(parts)
    for names in itertools.permutations(widths):
        other, _ = made(widths={n: widths[n] for n in names}); assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values())) and list(other.state_dict()) == list(net.state_dict())
        assert torch.equal(want, other({n: parts[n] for n in names}))

odd_names = ['vit_base.augreg', 'timm:a.b.c/d@sample', 'a.b', 'ab', 'a..b', 'keys', 'items', 'forward', 'training', 'weight', 'proj_maps', 'müll.é', ' with space ', '.']
def test_any_name_will_do():
    net, _ = made(widths={n: 2 for n in odd_names}); with_ = {n: torch.randn(3, 2) for n in odd_names}; net(with_)
    assert len({key_of(n) for n in odd_names}) == len(odd_names) and all('.' not in key_of(n) for n in odd_names)
    official = official_state(net, ''); assert {k.removeprefix('proj_maps.').rpartition('.')[0] for k in official if k.startswith('proj_maps')} == set(odd_names)
    again, report = load_fusion(official); assert again.widths == net.widths and torch.equal(again(with_), net(with_)) and not report.new and not report.refused

@pytest.mark.parametrize('names', [['a.b', 'c'], list(widths), ['keys', 'x.y.z']])
def test_both_spellings_fill_a_network_inside_others(names):
    net, _ = made(widths={n: 3 for n in names}); official = official_state(net, ''); whole = torch.nn.ModuleDict(dict(deep=torch.nn.ModuleDict(dict(fusion=made(widths={n: 3 for n in names}, seed=2)[0]))))
    for state in (official, net.state_dict()):
        with torch.no_grad(): [p.zero_() for p in whole.parameters()]
        before = dict(state); whole.load_state_dict({f'deep.fusion.{k}': v for k, v in state.items()}, strict=True); assert before.keys() == state.keys()
        assert all(torch.equal(a, b) for a, b in zip(whole['deep']['fusion'].state_dict().values(), net.state_dict().values()))
    assert all(respelled(respelled(k), False) == k for k in net.state_dict()); twin = copy.deepcopy(whole['deep']['fusion'])
    with torch.no_grad(): [p.zero_() for p in twin.parameters()]
    twin.load_state_dict(official); assert all(torch.equal(a, b) for a, b in zip(twin.state_dict().values(), net.state_dict().values()))

def test_latents_are_laid_in_a_row_channel_by_channel():
    net, parts = made(); x = parts['vae']; assert torch.equal(net(parts), net({**parts, 'vae': x.flatten(1)})) and not torch.allclose(net(parts), net({**parts, 'vae': x.permute(0, 2, 3, 1)}))
    with torch.no_grad(): assert torch.equal(net(parts), net({n: v.numpy() for n, v in parts.items()}))

def test_keys_of_the_sum_are_those_of_the_release():
    net, _ = made(adapter=True, hidden=32); want = {f'proj_maps.{n}.{e}' for n in widths for e in ('weight', 'bias')} | {f'block.layers.0.{e}' for e in ('ff.w1.weight', 'ff.w2.weight', 'norm.weight', 'norm.bias')}
    assert set(net.state_dict()) == want | {'adapter.ff.w1.weight', 'adapter.ff.w2.weight'} and net.block.layers[0].norm.eps == 1e-6
    assert {p.shape for k, p in net.named_parameters() if 'ff.w1' in k} == {(32, 8)} and FusionEncoder(dict(a=2), 4).hidden == 4

def test_by_hand():
    net, parts = made(hidden=5, adapter=True, mix='learned'); s = net.state_dict()
    with torch.no_grad(): net.mix.logits.copy_(torch.tensor([.1, -.4, .9]))
    w = 3*torch.tensor([.1, -.4, .9]).softmax(0); z = sum(w[i]*(parts[n].flatten(1) @ s[f'proj_maps.{n}.weight'].T + s[f'proj_maps.{n}.bias']) for i, n in enumerate(sorted(widths)))
    mlp = lambda z, at: F.gelu(z @ s[f'{at}.ff.w1.weight'].T) @ s[f'{at}.ff.w2.weight'].T
    z = F.layer_norm(z + mlp(z, 'block.layers.0'), (8,), eps=1e-6); torch.testing.assert_close(net(parts), z); torch.testing.assert_close(net.adapt(z), z + mlp(z, 'adapter'))

def test_trials_do_not_see_one_another():
    net, parts = made(b=6); net.eval(); p = [3, 0, 5]; torch.testing.assert_close(net(parts)[p], net({n: x[p] for n, x in parts.items()}))
    assert net({n: x[:0] for n, x in parts.items()}).shape == (0, 8)

def test_half_precision():
    net, parts = made(mix='learned', adapter=True); want = net(parts); half = {n: x.half() for n, x in parts.items()}; got = net(half); assert got.dtype == torch.float32; torch.testing.assert_close(got, want, rtol=0, atol=.02)
    for kind in (torch.bfloat16, torch.float16):
        low = made(mix='learned', adapter=True)[0].to(kind); z = low(parts); assert z.dtype == low.adapt(z).dtype == kind and (z.float() - want).abs().max() < .1
    with torch.autocast('cpu', torch.bfloat16): z = net(parts)
    assert (z.float() - want).abs().max() < .1

def test_dropout_is_for_training_only():
    net, parts = made(dropout=.5); net.eval(); assert torch.equal(net(parts), net(parts)); net.train(); assert not torch.equal(net(parts), net(parts))
    assert FusionEncoder(**net.config).config == net.config and json.loads(json.dumps(net.config)) == net.config

# ---- files

class Theirs:
    "The folder as diffusers itself writes and reads it, by a model with the keys of the release."
    def __new__(cls, d, hidden, meta):
        from diffusers.configuration_utils import ConfigMixin, register_to_config
        from diffusers.models.modeling_utils import ModelMixin
        class FusionEncoderModel(ModelMixin, ConfigMixin):
            @register_to_config
            def __init__(self, hidden_size=1024, intermediate_size=4096, proj_meta=None, num_layers=1):
                super().__init__(); lin = lambda a, b: torch.nn.Linear(a, b, bias=False); ff = lambda: torch.nn.ModuleDict(dict(w1=lin(hidden_size, intermediate_size), w2=lin(intermediate_size, hidden_size)))
                layer = torch.nn.ModuleDict(dict(ff=ff(), norm=torch.nn.LayerNorm(hidden_size, eps=1e-6))); self.adapter = torch.nn.ModuleDict(dict(ff=ff()))
                self.vision_model = torch.nn.ModuleDict(dict(proj_maps=torch.nn.ModuleDict({n: torch.nn.Linear(w, hidden_size) for n, w in proj_meta.items()}), block=torch.nn.ModuleDict(dict(layers=torch.nn.ModuleList([layer])))))
        return FusionEncoderModel(d, hidden, meta)

def test_folders_of_diffusers_are_read_and_ours_are_read_by_it(tmp_path):
    pytest.importorskip('diffusers')
    with seeded(0): theirs = Theirs(8, 12, widths)
    theirs.save_pretrained(tmp_path/'prior'/'fusion_encoder'); net, report = load_fusion(tmp_path/'prior'); state = theirs.state_dict()
    assert net.config == FusionEncoder(widths, 8, hidden=12, adapter=True).config and not net.training and not report.new and not report.refused
    assert official_state(net).keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in official_state(net).items())
    save_fusion(net, tmp_path/'ours'); back = type(theirs).from_pretrained(tmp_path/'ours').state_dict(); assert back.keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in back.items())

@pytest.mark.parametrize('how', [{}, dict(adapter=True, hidden=20), dict(mix='learned', centre='vae', layers=2), dict(mix='person', persons=3, adapter=True, dropout=.2)])
def test_round_trip_through_a_folder_a_file_and_a_dict(tmp_path, how):
    net, parts = made(**how); net.eval(); person = 1 if 'persons' in how else None
    if net.mix.kind != 'sum':
        with torch.no_grad(), seeded(3): [p.normal_() for p in net.mix.parameters()]
    save_fusion(net, tmp_path/'x'); file = tmp_path/'x'/'diffusion_pytorch_model.safetensors'; torch.save(dict(model={f'module.{k}': v for k, v in official_state(net).items()}, epoch=3), tmp_path/'y.pth')
    for source in (tmp_path/'x', str(tmp_path/'x'), file, tmp_path/'y.pth', official_state(net), net.state_dict(), {f'fusion.{k}': v for k, v in net.state_dict().items()}):
        again, report = load_fusion(source); assert torch.equal(again(parts, person), net(parts, person)) and again.mix.kind == net.mix.kind and not report.new and not report.refused
    assert load_fusion(tmp_path/'x')[0].config == net.config
    if 'adapter' in how: assert torch.equal(load_fusion(net.state_dict())[0].adapt(net(parts)), net.adapt(net(parts)))

def test_the_side_of_the_brain_is_left_over_and_named():
    net, _ = made(); state = {**official_state(net), 'logit_scale': torch.tensor(2.66), 'brain_model.backbone.proj_in.bias': torch.zeros(8)}
    assert set(load_fusion(state)[1].refused) == {'logit_scale', 'brain_model.backbone.proj_in.bias'}
    for more in ('text_model.weight', 'vision_model.head.weight', 'adapter2.ff.w1.weight'):
        with pytest.raises(CheckpointError, match='unknown'): load_fusion({**state, more: torch.zeros(2)})

def changed(state, drop=(), **new): return {**{k: v for k, v in state.items() if k not in drop}, **new}
def test_broken_weights_are_named():
    net, _ = made(adapter=True); s = official_state(net); w1, w2, a1 = (f'vision_model.block.layers.0.ff.{w}.weight' for w in ('w1', 'w2', 'w1')); a1 = 'adapter.ff.w1.weight'; m = 'vision_model.proj_maps.vae.weight'
    cases = {'holds no fusion': {}, 'other axes': {**s, m: s[m].reshape(-1)}, w2: {**s, w2: torch.zeros(8, 9)}, a1: {**s, a1: torch.zeros(9, 8)}, 'proj_maps.vae.weight': {**s, m: torch.zeros(7, 16)},
        'absent': changed(s, ['vision_model.proj_maps.vae.bias']), 'proj_maps.vae.bias': changed(s, ['vision_model.proj_maps.vae.bias']), 'adapter.ff.w2.weight': changed(s, ['adapter.ff.w2.weight']), 'several': {**s, **official_state(net, 'second.')}, 'expected keys': changed(s, [w1])}
    for words, state in cases.items():
        with pytest.raises(CheckpointError) as e: load_fusion(state)
        assert words in str(e.value), (words, str(e.value))

@pytest.mark.parametrize('said, word', [(dict(hidden_size=9), 'hidden_size'), (dict(intermediate_size=4096), 'intermediate_size'), (dict(num_layers=2), 'num_layers'), (dict(proj_meta=dict(vae=16)), 'proj_meta'), (dict(proj_meta=['vae']), 'proj_meta'), (dict(proj_meta={**widths, 'vae': 17}), 'proj_meta')])
def test_settings_that_disagree_with_the_weights_are_refused(tmp_path, said, word):
    net, _ = made(adapter=True); save_fusion(net, tmp_path); config = json.loads((tmp_path/'config.json').read_text()); (tmp_path/'config.json').write_text(json.dumps({**config, **said}))
    with pytest.raises(CheckpointError, match=word): load_fusion(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps({**config, 'proj_meta': {**widths, 'vae': [4, 2, 2]}})); load_fusion(tmp_path)
    (tmp_path/'config.json').unlink(); load_fusion(tmp_path)

def test_broken_files(tmp_path):
    class Run:
        def __reduce__(self): return (print, ('ran',))
    net, _ = made(); save_fusion(net, tmp_path/'a'); f = tmp_path/'a'/'diffusion_pytorch_model.safetensors'; whole = f.read_bytes()
    with pytest.raises(MissingWeights): load_fusion(tmp_path/'nothing')
    with pytest.raises(MissingWeights): load_fusion(tmp_path)
    with pytest.raises(ParameterError): load_fusion(None)
    for cut in (whole[:len(whole)//2], whole[:20], b'', b'<html>no</html>'):
        f.write_bytes(cut)
        with pytest.raises((FolderError, CheckpointError, FileError)): load_fusion(tmp_path/'a')
    f.write_bytes(whole); (tmp_path/'a'/'config.json').write_text('{"hidden')
    with pytest.raises(FolderError, match='config.json'): load_fusion(tmp_path/'a')
    torch.save(dict(x=Run()), tmp_path/'p.pth')
    with pytest.raises(UnsafeError): load_fusion(tmp_path/'p.pth')

# ---- what is refused

wrong = dict(empty=(ParameterError, 'name of a picture encoder', lambda: FusionEncoder({})), nothing=(ParameterError, 'widths', lambda: FusionEncoder(None)), listed=(ParameterError, 'widths', lambda: FusionEncoder(['vae'])),
    no_name=(ParameterError, 'a text', lambda: FusionEncoder({'': 3})), percent=(ParameterError, 'percent', lambda: FusionEncoder({'a%2Eb': 3})), number=(ParameterError, 'a text', lambda: FusionEncoder({3: 3})), width=(ParameterError, "'vae'", lambda: FusionEncoder(dict(vae=0))), text=(ParameterError, "'vae'", lambda: FusionEncoder(dict(vae='16'))),
    d=(ParameterError, '`d=0`', lambda: FusionEncoder(dict(vae=2), 0)), hidden=(ParameterError, 'hidden', lambda: FusionEncoder(dict(vae=2), 4, hidden=0)), mix=(UnknownError, 'learned', lambda: FusionEncoder(dict(vae=2), 4, mix='lerned')),
    persons=(ParameterError, 'persons', lambda: FusionEncoder(dict(vae=2), 4, persons=3)), no_persons=(ParameterError, 'persons', lambda: FusionEncoder(dict(vae=2), 4, mix='person')), centre=(UnknownError, 'vae', lambda: FusionEncoder(dict(vae=2), 4, mix='learned', centre='va')),
    sum_centre=(ParameterError, 'centre', lambda: FusionEncoder(dict(vae=2), 4, centre='vae')), adapter=(ParameterError, 'adapter=True', lambda: made()[0].adapt(torch.ones(2, 8))), adapter_width=(ShapeError, 'width', lambda: made(adapter=True)[0].adapt(torch.ones(2, 9))))
@pytest.mark.parametrize('kind, words, call', wrong.values(), ids=wrong)
def test_settings_are_refused(kind, words, call):
    with pytest.raises(kind) as e: call()
    assert words in str(e.value) and str(e.value).count('\n') == 1

def test_parts_are_refused_by_name():
    net, parts = made(mix='person', persons=2); drop = lambda n: {k: v for k, v in parts.items() if k != n}
    for kind, words, given in ((UnknownError, "'vae'", drop('vae')), (UnknownError, 'picture encoder', {**parts, 'VAE': parts['vae']}), (ShapeError, "'vae' has 4 vectors of 15", {**parts, 'vae': torch.ones(4, 15)}), (ShapeError, "'vae' has 3 vectors", {**parts, 'vae': torch.ones(3, 16)}),
        (ShapeError, 'vae', {**parts, 'vae': torch.ones(16)}), (ShapeError, 'vae', {**parts, 'vae': torch.tensor(1.)}), (UnknownError, 'RN50', {}), (ParameterError, 'dict', list(parts.values())), (ParameterError, 'dict', parts['vae'])):
        with pytest.raises(kind) as e: net(given)
        assert words in str(e.value)
    for kind, person in ((UnknownError, 2), (UnknownError, -2), (UnknownError, torch.tensor([0, 1, 2, 0])), (ParameterError, 1.), (ParameterError, torch.tensor([True]*4)), (ParameterError, torch.zeros(4, 1, dtype=torch.long)), (ShapeError, torch.tensor([0, 1]))):
        with pytest.raises(kind): net(parts, person)

# ---- UBP

def vectors(b=7, d=6, seed=0):
    with seeded(seed): return torch.randn(b, d), torch.randn(b, d)

def test_ubp_differs_from_info_nce_in_scale_and_length_alone():
    e, z = vectors(); s = math.log(1/.07); soft = F.softplus(torch.tensor(s)).item(); assert abs(soft - 2.73) < .01 and abs(math.exp(s) - 14.29) < .01
    unit = F.normalize(e, dim=1); torch.testing.assert_close(ubp_loss(unit, z, s), info_nce(e, z, soft)); torch.testing.assert_close(ubp_loss(3*unit, z, s), info_nce(e, z, 3*soft)); torch.testing.assert_close(ubp_loss(e, 5*z, s), ubp_loss(e, z, s))
    assert not torch.allclose(ubp_loss(2*e, z, s), ubp_loss(e, z, s)) and ubp_similarity(e, z[:3], s).shape == (7, 3)

def test_ubp_gradients():
    e, z = (x.double().requires_grad_() for x in vectors(4, 3)); s = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ubp_loss, (e, z, s)); e, z = vectors(); assert ubp_loss(e.half(), z.half(), 1.).dtype == torch.float32
    for bad in (lambda: ubp_loss(e, z[:3], 1.), lambda: ubp_similarity(e, z[:, :3], 1.), lambda: ubp_loss(e[0], z, 1.)):
        with pytest.raises(ShapeError): bad()

def test_blur_match_by_hand():
    with seeded(0): sim, now = torch.rand(50), 3*torch.randn(50)
    got, level = blur_match(sim, now, .4, .2); want = .4*now + .6*sim; reach = 1.2815515655*want.std(); torch.testing.assert_close(got, want)
    assert torch.equal(level == 0, now > want.mean() + reach) and torch.equal(level == 2, now < want.mean() - reach) and level.dtype == torch.long and set(level.tolist()) == {0, 1, 2}

def test_blur_match_properties():
    with seeded(0): sim, now = torch.rand(40), torch.randn(40).requires_grad_()
    got, level = blur_match(sim, now); p = torch.randperm(40, generator=torch.Generator().manual_seed(1)); a, b = blur_match(sim[p], now[p]); torch.testing.assert_close(a, got[p]); assert torch.equal(b, level[p]) and not got.requires_grad
    a, b = blur_match(sim + 5, now + 5); torch.testing.assert_close(a, got + 5); assert torch.equal(b, level); assert torch.equal(blur_match(2*sim, 2*now)[1], level)
    assert torch.equal(blur_match(sim, now, gamma=1.)[0], now.detach()) and torch.equal(blur_match(sim, now, gamma=0.)[0], sim)
    few, many = ((blur_match(sim, now, alpha=a)[1] != 1).sum() for a in (.001, .5)); assert few < many
    assert blur_match(torch.ones(9), torch.ones(9))[1].tolist() == [1]*9
    for how in (dict(gamma=2), dict(gamma=-.1), dict(alpha=0), dict(alpha=1)):
        with pytest.raises(ParameterError): blur_match(sim, now, **how)
    for a, b in ((sim[:1], now[:1]), (sim[:3], now), (sim[None], now[None])):
        with pytest.raises(ShapeError): blur_match(a, b)

def opencv_like(img, k):
    "The published blur in float64, pixel by pixel, from its definition."
    s = .3*((k - 1)*.5 - 1) + .8; g = np.exp(-(np.arange(k) - k//2)**2/(2*s*s)); g /= g.sum(); x = np.pad(img, ((k//2,)*2, (k//2,)*2), mode='reflect')
    x = np.apply_along_axis(lambda r: np.convolve(r, g, 'valid'), 0, x); x = np.apply_along_axis(lambda r: np.convolve(r, g, 'valid'), 1, x); h, w = img.shape
    far = np.sqrt((h - h//2 - 1)**2 + (w - w//2 - 1)**2); m = np.array([[.5*np.exp(-3*min(1, np.sqrt((i - h//2)**2 + (j - w//2)**2)/far)) for j in range(w)] for i in range(h)]); return img*m + x*(1 - m)

@pytest.mark.parametrize('h, w, k', [(30, 40, 9), (33, 31, 15), (60, 60, 51)])
def test_fovea_by_definition(h, w, k):
    with seeded(0): img = torch.rand(2, 3, h, w, dtype=torch.float64)
    got = fovea(img, k).numpy(); np.testing.assert_allclose(got[1, 2], opencv_like(img[1, 2].numpy(), k), atol=1e-12); assert got.min() >= 0 and got.max() <= 1

def test_fovea_is_sharper_in_the_middle_and_with_a_smaller_kernel():
    with seeded(0): img = torch.rand(1, 3, 120, 120)
    sharp = lambda x: (x - x.mean()).abs().mean(); out = fovea(img, 31); assert sharp(out[..., 50:70, 50:70]) > 2*sharp(out[..., :20, :20])
    lost = [(fovea(img, k) - img).pow(2).mean() for k in (5, 15, 31, 51)]; assert lost == sorted(lost) and fovea(img.half().float(), 5).dtype == torch.float32
    assert blur_kernels == dict(paper=(45, 51, 57), released=(45, 45, 51))
    for k in (0, 50, 5.):
        with pytest.raises(ParameterError): fovea(img, k)
    for x in (img[0], img[..., :10]):
        with pytest.raises(ShapeError): fovea(x)

# ---- clouds

def test_mmd_is_zero_for_equal_clouds_and_grows_with_a_shift():
    with seeded(0): x, y = torch.randn(2, 200, 8)
    p = torch.randperm(200, generator=torch.Generator().manual_seed(0)); assert abs(mmd(x, x)) < 1e-6 and abs(mmd(x, x[p])) < 1e-6 and torch.isclose(mmd(x, y), mmd(y, x), atol=1e-6)
    far = [mmd(x, y + s).item() for s in (0, .3, 1, 3)]; assert far == sorted(far) and far[-1] < 2; torch.testing.assert_close(mmd(x + 100, y + 101), mmd(x, y + 1), rtol=1e-3, atol=1e-4); torch.testing.assert_close(mmd(5*x, 5*(y + 1)), mmd(x, y + 1))

def test_mmd_by_definition_with_other_counts():
    with seeded(0): x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    both = torch.cat([x, y]); far = torch.cdist(both, both)**2; width = far.sum()/(12*11); k = sum((-far/(width*s)).exp() for s in (.5, 2.))/2
    torch.testing.assert_close(mmd(x, y, (.5, 2.)), k[:7, :7].mean() + k[7:, 7:].mean() - 2*k[:7, 7:].mean())

def test_mmd_gradients_pull_the_clouds_together():
    with seeded(0): x = torch.randn(60, 4, requires_grad=True); y = torch.randn(60, 4) + 2
    before = mmd(x, y); before.backward(); assert x.grad.isfinite().all(); step = (x - 20*x.grad).detach(); assert mmd(step, y) < before
    same = torch.ones(5, 3, requires_grad=True); mmd(same, torch.ones(4, 3)).backward(); assert same.grad.isfinite().all() and mmd(x.detach().half(), y.half()).dtype == torch.float32
    for bad in (lambda: mmd(x[:0], y), lambda: mmd(x, y, ()), lambda: mmd(x, y, (1, 0))):
        with pytest.raises(ParameterError): bad()
    with pytest.raises(ShapeError): mmd(x, y[:, :2])
