"MindHier's encoder: released names and counts, several people, regions, who is taught by what, and files whole, cut and strange."
import itertools
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brainrecon.core.checkpoint import save_weights
from brainrecon.core.checks import CheckpointError, MissingWeights, ParameterError, ReconError, ShapeError, UnknownError, UnsafeError, seeded
from brainrecon.encoders.hierarchy import BranchDecoder, HierarchyEncoder, VoxelMap, hierarchy_sizes, load_hierarchy, save_hierarchy

small = dict(tokens=5, text_tokens=3, width=16, heads=2, ff=24, hidden=(12, 8), context=6, dropout=0.)
def built(voxels=20, seed=0, **more):
    with seeded(seed): return HierarchyEncoder(voxels, **{**small, **more}).eval()
def drawn(*shape, seed=0):
    with seeded(seed): return torch.randn(*shape)
def state(net): return {k: v.clone() for k, v in net.state_dict().items()}
def changed(before, net): return {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}

# ---- names and counts of the release

layer = {f'{a}.{p}' for a in ('self_attn', 'multihead_attn') for p in ('in_proj_weight', 'in_proj_bias', 'out_proj.weight', 'out_proj.bias')} | {f'{m}.{p}' for m in ('linear1', 'linear2', 'norm1', 'norm2', 'norm3') for p in ('weight', 'bias')}
branches = {f'{part}_decoder.decoder.layers.{i}.{k}' for part in ('image', 'text') for i in range(4) for k in layer} | {f'{part}_decoder.query' for part in ('image', 'text')} | {f'{part}_proj.{p}' for part in ('image', 'text') for p in ('weight', 'bias')}

def test_full_size_has_the_published_names_shapes_and_count():
    with torch.device('meta'): net = HierarchyEncoder(15724)
    s = net.state_dict(); assert sum(p.numel() for p in net.parameters()) == 307_292_160
    assert set(s) == branches | {'fMRI_encoder.pos_embed'} | {f'fMRI_encoder.proj.{i}.{p}' for i in (0, 2, 4) for p in ('weight', 'bias')}
    shapes = {'fMRI_encoder.pos_embed': (1, 100, 768), 'fMRI_encoder.proj.0.weight': (4096, 15724), 'fMRI_encoder.proj.2.weight': (2048, 4096), 'fMRI_encoder.proj.4.weight': (76800, 2048), 'image_decoder.query': (257, 768), 'text_decoder.query': (77, 768),
        'image_decoder.decoder.layers.3.linear1.weight': (3072, 768), 'text_decoder.decoder.layers.0.self_attn.in_proj_weight': (2304, 768), 'image_proj.weight': (768, 768)}
    assert {k: tuple(s[k].shape) for k in shapes} == shapes

def test_several_people_have_the_published_names():
    with torch.device('meta'): net = HierarchyEncoder([15724, 14278])
    s = net.state_dict(); assert set(s) - branches == {'fMRI_encoder.pos_embed'} | {f'fMRI_encoder.{k}.{p}' for k in ('ridge.0', 'ridge.1', 'proj.1', 'proj.3') for p in ('weight', 'bias')}
    assert s['fMRI_encoder.ridge.1.weight'].shape == (4096, 14278) and s['fMRI_encoder.proj.1.weight'].shape == (2048, 4096)

@pytest.mark.parametrize('hidden', [(7,), (7, 5), (7, 5, 6)])
@pytest.mark.parametrize('several', [False, True])
def test_the_map_is_its_formula(hidden, several):
    with seeded(0): net, x = VoxelMap([9, 4], 3, 2, hidden, several).double(), torch.randn(5, 9, dtype=torch.float64)
    h = x
    if several: h = F.gelu(h @ net.ridge[0].weight.T + net.ridge[0].bias)
    maps = [m for m in net.proj if isinstance(m, torch.nn.Linear)]
    for i, m in enumerate(maps): h = h @ m.weight.T + m.bias; h = F.gelu(h) if i < len(maps) - 1 else h
    assert torch.allclose(net([(0, x)]), h.reshape(5, 3, 2) + net.pos_embed, atol=1e-12)

def test_levels_are_the_layers_of_torchs_own_decoder():
    "Sequence first, as the release has it, gives the same."
    with seeded(0): net = BranchDecoder(5, 16, 3, 2, 24).eval()
    layer = torch.nn.TransformerDecoderLayer(16, 2, 24, .1, 'gelu', batch_first=False); whole = torch.nn.TransformerDecoder(layer, 3).eval(); whole.load_state_dict(net.decoder.state_dict())
    memory = drawn(4, 6, 16); want = whole(net.query[:, None].repeat(1, 4, 1), memory.transpose(0, 1)).transpose(0, 1)
    assert torch.allclose(net(memory)[-1], want, atol=1e-5) and len(net(memory)) == 3

def test_blocks_start_apart():
    with seeded(0): net = BranchDecoder(5, 16, 3, 2, 24)
    for a, b in itertools.combinations(net.decoder['layers'], 2): assert not torch.equal(a.linear1.weight, b.linear1.weight)

@pytest.mark.parametrize('sizes', [dict(), dict(levels=1), dict(levels=6, text_levels=2), dict(tokens=1, text_tokens=1), dict(text_tokens=0), dict(hidden=(3,)), dict(hidden=[5, 4, 3]), dict(context=1), dict(width=3, heads=3)])
def test_any_sizes(sizes):
    net, x = built(**sizes), drawn(4, 20); out, c = net(x), net.config
    assert len(out.levels) == c['levels'] and all(e.shape == (4, c['tokens'], c['width']) for e in (*out.levels, out.image)) and out.pooled.shape == (4, c['width'])
    assert out.text is None if not c['text_tokens'] else out.text.shape == (4, c['text_tokens'], c['width'])
    again = HierarchyEncoder(**c).eval(); again.load_state_dict(net.state_dict()); assert torch.equal(again(x).image, out.image) and again.config == c
    one = net(x[2:3]); assert torch.allclose(one.image[0], out.image[2], atol=1e-5)

def test_dropout_only_in_training():
    net, x = built(dropout=.5), drawn(4, 20); assert torch.equal(net(x).image, net(x).image); net.train(); assert not torch.equal(net(x).image, net(x).image)

def test_other_kinds_of_numbers():
    net, x = built(), drawn(4, 20); assert torch.equal(net(x.double()).image, net(x).image)
    assert torch.equal(net(list(x)).image, net(x).image)
    with pytest.raises(ParameterError, match='floating'): net(x.long())
    with pytest.raises(ParameterError, match='torch tensor'): built({'a': 20})(np.zeros((2, 20), 'float32'))

@pytest.mark.parametrize('sizes', [dict(voxels=0), dict(voxels='20'), dict(voxels=2.5), dict(voxels=[]), dict(voxels=[20, 0]), dict(voxels={'a': None}), dict(voxels={1: 20, '1': 20}), dict(tokens=0), dict(width=15), dict(levels=0), dict(heads=0), dict(hidden=()), dict(hidden=8), dict(hidden=(8, 0)), dict(hidden=('8',)), dict(context=0), dict(text_tokens=-1)])
def test_sizes_that_are_none(sizes):
    with pytest.raises(ParameterError): built(**sizes)

# ---- who is taught by what, to the bit

def step(net, loss): opt = torch.optim.SGD(net.parameters(), .1); opt.zero_grad(); loss.backward(); opt.step()

@pytest.mark.parametrize('level', range(4))
def test_a_target_teaches_what_lies_before_it(level):
    net, x = built(), drawn(4, 20); before = state(net); step(net, net(x).levels[level].pow(2).sum() + net(x).levels[level][:, :, 0].sum())
    moved = changed(before, net); later = {k for k in before if k.startswith(('text', 'image_proj')) or any(k.startswith(f'image_decoder.decoder.layers.{i}.') for i in range(level + 1, 4))}
    assert not moved & later and all(any(k.startswith(p) for k in moved) for p in ('fMRI_encoder.proj.0', 'image_decoder.query', f'image_decoder.decoder.layers.{level}.'))

def test_picture_and_text_teach_their_own_half():
    for own, other in (('image', 'text'), ('text', 'image')):
        net, x = built(), drawn(4, 20); before = state(net); step(net, getattr(net(x), own).pow(2).sum()); moved = changed(before, net)
        assert not any(k.startswith(other) for k in moved) and any(k.startswith(f'{own}_proj') for k in moved) and 'fMRI_encoder.pos_embed' in moved

def test_a_person_teaches_only_the_own_map():
    net = built({'a': 20, 'b': 15, 'c': 15}); before = state(net); step(net, net(drawn(3, 15), 'c').image.pow(2).sum()); moved = changed(before, net)
    assert not any('ridge.0' in k or 'ridge.1' in k for k in moved) and {'fMRI_encoder.ridge.2.weight', 'fMRI_encoder.proj.1.weight'} <= moved

def test_a_region_reads_and_teaches_only_the_own_part():
    net = built(regions=dict(early=range(8), late=range(8, 17))); x = drawn(4, 20).requires_grad_()
    for r, (start, end) in net.fMRI_encoder.spans.items():
        g = torch.autograd.grad(net.fMRI_encoder([(0, x)])[:, start:end].pow(2).sum(), x)[0]; own = list(range(8) if r == 'early' else range(8, 17))
        assert (g[:, own] != 0).any(0).all() and not g[:, [i for i in range(20) if i not in own]].any()
    assert net.fMRI_encoder.spans == dict(early=(0, 3), late=(3, 6))

# ---- people

def test_people_in_one_batch_in_any_order():
    net = built({'a': 20, 'b': 15, 'c': 15}); x = {'a': drawn(3, 20), 'b': drawn(3, 15, seed=1), 'c': drawn(3, 15, seed=2)}; alone = {p: net(v, p).image for p, v in x.items()}
    for who in itertools.permutations('aabcc'):
        at = {p: iter(range(3)) for p in x}; rows = [(p, next(at[p])) for p in who]
        out = net([x[p][i] for p, i in rows], list(who)).image
        assert torch.allclose(out, torch.stack([alone[p][i] for p, i in rows]), atol=1e-5)
    two = net(torch.cat([x['b'][:1], x['c'][:1]]), ['b', 'c']).image; assert torch.allclose(two, torch.cat([alone['b'][:1], alone['c'][:1]]), atol=1e-5)

def test_people_by_number():
    "Names are texts; a number, also in a tensor, is read as its text."
    net, x = built({1: 20, 2: 20, 7: 15}), drawn(2, 20); assert torch.equal(net(x, 2).image, net(x, '2').image) and torch.allclose(net(x, torch.tensor([2, 1])).image, torch.cat([net(x[:1], 2).image, net(x[1:], 1).image]), atol=1e-5)
    assert torch.equal(built([20, 15])(x, torch.tensor(0)).image, built([20, 15])(x).image)
    for person in (0, '3', torch.tensor(0), None, [1, 3]):
        with pytest.raises((UnknownError, ParameterError)): net(x, person)
    with pytest.raises(ShapeError): net(x, 7)
    with pytest.raises(ShapeError): net(drawn(2, 3, 20), 1)
    with pytest.raises(ShapeError): net([])

def test_one_person_does_not_ask():
    net, x = built(), drawn(2, 20); assert torch.equal(net(x, torch.tensor([3, 4])).image, net(x).image)
    with pytest.raises(ShapeError, match='21 voxels'): net(drawn(2, 21))

# ---- regions

def test_regions_by_places_and_by_masks():
    mask = np.arange(20) < 8; a = built(regions=dict(V1=np.arange(8), rest=range(8, 20))); b = built(regions=dict(V1=mask, rest=~mask)); x = drawn(3, 20)
    assert torch.equal(a(x).image, b(x).image) and a.config == b.config and a.config['regions']['V1'] == list(range(8))

def test_order_within_a_region_is_kept_and_the_rest_is_not_read():
    net, x = built(regions=dict(V1=[5, 2, 9])), drawn(3, 20); y = x.clone(); y[:, [i for i in range(20) if i not in (5, 2, 9)]] = 7
    assert torch.equal(net(x).image, net(y).image); part = net.fMRI_encoder.parts['V1']; assert part.rows0.tolist() == [5, 2, 9]

def test_regions_of_several_people():
    net = built({'a': 20, 'b': 15}, regions=dict(a=dict(V1=range(5), V2=range(5, 20)), b=dict(V2=range(3), V1=range(3, 15)))); out = net([drawn(20), drawn(15)])
    assert out.image.shape == (2, 5, 16) and net.fMRI_encoder.parts['V1'].ridge[1].in_features == 12 and net.config['regions']['b']['V2'] == [0, 1, 2]
    with pytest.raises(UnknownError): built({'a': 20, 'b': 15}, regions=dict(a=dict(V1=[0])))
    for bad in ([1], {}, dict(a=dict(V1=[0]), b=[0]), dict(a={}, b={}), dict(V1=[0]), 3):
        with pytest.raises(ParameterError): built({'a': 20, 'b': 15}, regions=bad)

@pytest.mark.parametrize('regions', [{}, [1, 2], dict(V1=[20]), dict(V1=[-1]), dict(V1=[1, 1]), dict(V1=[.5]), dict(V1=['x']), dict(V1=[[1]]), dict(V1=np.ones(19, bool)), dict(V1=np.zeros(20, bool)), {1: [0]}, {'': [0]}, {f'r{i}': [i] for i in range(7)}])
def test_regions_that_are_none(regions):
    with pytest.raises(ReconError): built(regions=regions)

# ---- files

def test_the_published_file(tmp_path):
    net, x = built(), drawn(3, 20); path = tmp_path/'last-hierarchy-vitl.pth'
    torch.save(dict(epoch=99, model_state_dict={f'module.{k}': v for k, v in net.state_dict().items()}, optimizer=dict(state={}, lr=1e-4), loss=[.1]), path)
    again, report = load_hierarchy(path, heads=2); assert torch.equal(again(x).image, net(x).image) and torch.equal(again(x).text, net(x).text) and not again.training
    assert len(report.matched) == len(net.state_dict()) and not (report.new or report.refused or report.renamed)
    assert not torch.allclose(load_hierarchy(path)[0](x).image, again(x).image, atol=1e-3)    # 8 heads are another network

@pytest.mark.parametrize('sizes', [dict(), dict(voxels=[20, 15]), dict(text_tokens=0), dict(levels=2, text_levels=3), dict(hidden=(9,)), dict(hidden=(9, 8, 7), voxels=[20]), dict(context=1, tokens=1)])
def test_sizes_are_read_off_the_weights(sizes):
    net = built(**sizes); got = hierarchy_sizes(net.state_dict()); want = {k: v for k, v in net.config.items() if k in got}
    if net.several: want['voxels'] = list(want['voxels'].values())
    if not want['text_tokens']: want.pop('text_levels'), got.pop('text_levels')
    assert got == want

def test_half_the_bits_and_without_text(tmp_path):
    net, x = built(), drawn(3, 20); save_weights(tmp_path/'w.safetensors', {k: v.half() for k, v in net.state_dict().items()})
    again, report = load_hierarchy(tmp_path/'w.safetensors', heads=2, text=False)
    assert next(again.parameters()).dtype == torch.float32 and again(x).text is None and torch.allclose(again(x).image, net(x).image, atol=2e-2) and all(k.startswith('text_') for k in report.refused) and report.refused

@pytest.mark.parametrize('how', [dict(), dict(voxels={'a': 20, 'b': 15}), dict(regions=dict(V1=[3, 1], V2=range(9, 20))), dict(voxels={1: 20, 2: 15}, regions={1: dict(V1=[3, 1]), 2: dict(V1=[0])}), dict(text_tokens=0, dropout=.3)])
def test_our_file_brings_everything(tmp_path, how):
    net = built(**how); save_hierarchy(tmp_path/'w.safetensors', net, dict(steps=3)); again, report = load_hierarchy(tmp_path/'w.safetensors'); x = drawn(3, 20)
    assert again.config == net.config and again.people == net.people and torch.equal(again(x).image, net(x).image) and not report.new and not report.refused
    assert all(p.device.type == 'cpu' for p in [*again.parameters(), *again.buffers()])

@pytest.mark.parametrize('change, words', [(lambda s: s.pop('image_decoder.query'), 'image_decoder.query is absent'), (lambda s: s.pop('fMRI_encoder.proj.0.weight'), 'no hierarchical|does not fit'), (lambda s: s.pop('text_proj.bias'), 'absent: 1'),
    (lambda s: s.pop('image_decoder.decoder.layers.1.norm2.weight'), 'absent: 1'), (lambda s: s.update(extra=torch.ones(1)), 'unknown: 1'), (lambda s: s.update({'image_proj.weight': torch.ones(3, 3)}), 'of another shape: 1'), (lambda s: s.pop('fMRI_encoder.proj.4.weight'), 'absent: 1|no hierarchical|does not fit')])
def test_weights_that_do_not_fit(change, words):
    s = state(built()); change(s)
    with pytest.raises(CheckpointError, match=words): load_hierarchy(s, heads=2)

def test_files_that_are_none(tmp_path):
    with pytest.raises(MissingWeights): load_hierarchy(tmp_path/'none.pth')
    whole = tmp_path/'w.pth'; torch.save(dict(model_state_dict=built().state_dict()), whole); (tmp_path/'cut.pth').write_bytes(whole.read_bytes()[:2000]); (tmp_path/'text.pth').write_text('weights')
    for name in ('cut.pth', 'text.pth'):
        with pytest.raises(ReconError): load_hierarchy(tmp_path/name)
    import os, pickle
    class Evil:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/ran',)
    torch.save(dict(model_state_dict=built().state_dict(), more=Evil()), tmp_path/'evil.pth'); pickle.dump(Evil(), open(tmp_path/'bare.pth', 'wb'))
    for name in ('evil.pth', 'bare.pth'):
        with pytest.raises((UnsafeError, ReconError)): load_hierarchy(tmp_path/name)
    assert not (tmp_path/'ran').exists()
    save_weights(tmp_path/'other.safetensors', {'a': torch.ones(1)}, dict(kind='fusion'))
    with pytest.raises(CheckpointError, match='fusion'): load_hierarchy(tmp_path/'other.safetensors')
