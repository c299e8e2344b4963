"The parts of MindHier's jobs with tiny networks: variants begin alike; stopped and resumed; wrong values refused; repetitions of NSD; the recipes against the published values. The jobs themselves: test_mindhier_encode, test_mindhier_runs, test_mindhier_ablations."
import numpy as np
import pytest
import torch
from brainrecon.core.checks import MissingWeights, ParameterError, ShapeError, UnknownError
from brainrecon.data.nsd_tree import write_nsd
from brainrecon.decoders.avde import packaged_avde
from brainrecon.decoders.hierarchy import as_level_gallery
from brainrecon.decoders.mindhier import start_switti
from brainrecon.encoders.hierarchy import HierarchyEncoder, Levels
from brainrecon.generators.switti import Switti, save_switti
from brainrecon.generators.vqvae import VQVAE, save_vqvae
from brainrecon.jobs.avde import part
from brainrecon.jobs.mindhier import Voxels, check_voxels, fit_lines, fit_sides, layers_of, open_painting, options_of, over_repeats, regions_of, side_file, sides_of
from brainrecon.jobs.mindhier_draw import Wishes, chosen_words, draw_as, mindhier_papers, tell_choices, variants_of
from brainrecon.jobs.parameters import find_job, read_yaml, resolve
from notebooks import ROOT

RECIPES, honest = ROOT/'nbs'/'08_jobs'/'recipes', 'held-out training concepts'
data = dict(exemplars=1, snr_fmri=-6., axes=32)
tiny = dict(side_hidden=[32], side_context=4, side_ff=32, side_epochs=2)


# The same start, the same budget

def test_variants_begin_alike():
    some = variants_of(['8+4m', '16+2m', '6m']); assert [v.name for v in some] == ['full', 'single', 'terminal', 'direction', 'layers-16-2m', 'layers-6m'] and [v.told for v in some] == [0, 1, 0, 0, 0, 0] and [v.loss for v in some] == ['cascade', 'terminal', 'terminal'] + ['cascade']*3 and [v.order == 'fine_to_coarse' for v in some] == [False]*3 + [True] + [False]*2
    vqvae, targets = packaged_avde()[0], dict(levels=4, tokens=17, width=32); nets = [start_switti(open_painting(depth=1, width=32, order=v.order, told=v.told, log=lambda t: None).begin(32, 4), vqvae, targets, 3)[0] for v in some[:4]]
    for n in nets[1:]:
        for k, v in nets[0].state_dict().items(): assert torch.equal(v, n.state_dict()[k]), k
    assert [n.config['levels'] for n in nets] == [4, 1, 4, 4] and nets[3].config['order'] == 'fine_to_coarse'


# Stopped and resumed

class Stop(Exception): "The machine went away."

def until(word, times=1):
    "A log that ends the process at a line."
    seen = []
    def log(text):
        seen.append(word in text)
        if sum(seen) >= times: raise Stop
    return log

@pytest.fixture(scope='module')
def small():
    source = Voxels(**data); recordings = source.load(lambda t: None); (key, splits), = recordings.items(); train, valid = source.sides(splits); shown, album = source.galleries(recordings, None)[key], source.albums(recordings, 64)[key]
    return dict(source=source, splits=splits, train=train[np.arange(0, len(train), 4)], valid=valid, shown=shown, album=album, used=source.used[key])

def both_stages(small, at, log=None):
    where = small['train'], small['valid']; sides = fit_sides(*where, small['shown'].learn, ['hierarchy'], [0], at/'sides', side=options_of(part(tiny | dict(side_heads=4, side_batch_size=32), 'side_')), log=log, device='cpu')
    return fit_lines(sides, *where, small['album'], small['shown'].learn, open_painting(depth=1, width=32, log=lambda t: None), at/'drawers', used=small['used'], teach=dict(steps=4, batch_size=16, every=2), sampling=dict(guidance=1., top_k=50), log=log, device='cpu')

def test_a_stopped_run_ends_as_a_whole_one(small, tmp_path):
    whole = both_stages(small, tmp_path/'whole')
    for word, times in (('step', 2), ('MindHier-seed0: ', 1), ('draw seed 0', 2), ('MindHier-seed0: ', 2)):     # in the first stage, after it, in the second, after it
        with pytest.raises(Stop): both_stages(small, tmp_path/'broken', until(word, times))
    again = both_stages(small, tmp_path/'broken'); assert [a.label for a in whole] == [b.label for b in again] == ['MindHier-seed0', 'MindHier-seed0-control']
    for a, b in zip(whole, again):
        for net in ('brain.model', 'switti'):
            x, y = (w.drawer.brain.model if net == 'brain.model' else w.drawer.switti for w in (a, b))
            for k, v in x.state_dict().items(): assert torch.equal(v, y.state_dict()[k]), (a.label, net, k)
    assert np.array_equal(*(w[0].drawer.draw(small['valid'][:2]) for w in (whole, again))) and not np.array_equal(*(w.drawer.draw(small['valid'][:2]) for w in whole)) and whole[1].drawer.brain.shuffled

def test_outputs_are_read_one_by_one(small, tmp_path):
    single = small['splits'].valid; few = single[np.isin(single.pictures, single.pictures[:3])]; mean = few.average(); (line, *_) = both_stages(small, tmp_path); d = line.drawer
    codes = d.code(few); want = np.stack([codes[few.pictures == p].mean(0) for p in mean.pictures]); assert np.allclose(over_repeats(codes, few, mean), want) and not np.allclose(want, d.code(mean))
    assert np.array_equal(draw_as(d, mean, few, 'voxels', 2, 5), d.draw(mean, 2, 5)) and np.array_equal(draw_as(d, mean, few, 'outputs', 2, 5)[:, :1], draw_as(d, mean, few, 'outputs', 1, 5))
    with pytest.raises(ParameterError, match='averages already'): over_repeats(codes, mean, mean)


# What was published

@pytest.fixture(scope='module')
def nsd(tmp_path_factory): at = tmp_path_factory.mktemp('nsd'); write_nsd(at); return at

@pytest.fixture(scope='module')
def published(tmp_path_factory):
    "A tokenizer, a Switti and a MindHier of other scales than the tokenizer's."
    at = tmp_path_factory.mktemp('published'); torch.manual_seed(0); same = dict(vocab=32, z=8, depth=2, width=32, heads=2, patch_nums=(1, 2, 4, 5))
    save_vqvae(VQVAE(vocab=32, z=8, ch=16, ch_mult=(1, 1), blocks=1, norm_groups=16, patch_nums=(1, 2, 3, 4)), at/'tokenizer.safetensors'); save_switti(Switti(**same), at/'switti.safetensors'); save_switti(Switti(**same, pooled_dim=32, context_dim=32, levels=4, pooler='fmri_pooler'), at/'mindhier.safetensors'); return at

def test_a_tokenizer_follows_the_generator(published):
    torch.save(Switti(vocab=32, z=8, depth=2, width=32, heads=2, patch_nums=(1, 2, 4, 5)).state_dict(), published/'switti.pth'); assert sides_of(published/'switti.pth') == sides_of(published/'switti.safetensors') == (1, 2, 4, 5)     # as published: the table of scales tells them
    tokenizer, switti, mindhier = (str(published/f'{n}.safetensors') for n in ('tokenizer', 'switti', 'mindhier')); quiet = dict(log=lambda t: None); targets = dict(levels=4, tokens=17, width=32)
    for how, sides in ((dict(generator=mindhier), (1, 2, 4, 5)), (dict(depth=2, width=32, warm=switti), (1, 2, 4, 5)), (dict(depth=2, width=32, warm=switti, scales=[1, 2, 3, 6]), (1, 2, 3, 6)), (dict(depth=2, width=32, scales=[1, 2, 6]), (1, 2, 6)), (dict(depth=2, width=32), (1, 2, 3, 4))):
        p = open_painting(tokenizer, **how, **quiet)
        if 'warm' in how: p.start |= dict(heads=2)
        net, _ = start_switti(p.begin(32, 4), p.vqvae, targets); assert tuple(p.vqvae.config['patch_nums']) == tuple(net.config['patch_nums']) == sides and p.vqvae.size == 2*sides[-1], how
    for how, says in ((dict(generator=mindhier, scales=[1, 2, 3, 5]), 'Leave scales out'), (dict(depth=2, warm=switti, scales=[1, 2, 5]), 'as many others'), (dict(generator=mindhier, told=1), 'Leave told out'), (dict(generator=mindhier, order='fine_to_coarse'), 'It was taught so')):
        with pytest.raises(ParameterError, match=says): open_painting(tokenizer, **how, **quiet)
    for how in (dict(generator=mindhier), dict(depth=1, scales=[1, 2])):
        with pytest.raises(ParameterError, match='Name a tokenizer'): open_painting(**how, **quiet)
    with pytest.raises(ParameterError, match='packaged generator'): open_painting(scales=[1, 2], **quiet)

def test_a_released_encoder_takes_the_place_of_stage_one(small, tmp_path):
    voxels, width = small['train'].x.shape[1], data['axes']; torch.manual_seed(0); net, less = (HierarchyEncoder(n, hidden=[32], context=4, width=width, tokens=17, text_tokens=0, levels=4, heads=8, ff=32).eval() for n in (voxels, voxels - 1))
    for i, n in enumerate((net, less)): torch.save(dict(model_state_dict=n.state_dict()), tmp_path/f'last-hierarchy-{i + 1}.pth')
    given, other = (side_file(str(tmp_path/'last-hierarchy-{subject}.pth'), i) for i in (1, 2)); where = small['train'], small['valid'], small['shown'].learn
    f, = fit_sides(*where, ['hierarchy'], [0], tmp_path/'sides', controls=False, given=given, device='cpu'); x = torch.from_numpy(small['valid'].x[:3]); want = net(x.flatten(1)); said = f.decoder.read(small['valid'][:3])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip((said.image, *said.levels), (want.image, *want.levels))) and f.decoder.selection == 'last epoch'
    line, = fit_lines([f], small['train'], small['valid'], small['album'], small['shown'].learn, open_painting(depth=1, width=32, log=lambda t: None), tmp_path/'drawers', used=small['used'], teach=dict(steps=2, batch_size=8, every=1), sampling=dict(guidance=1., top_k=50), device='cpu'); assert line.drawer.draw(small['valid'][:1]).shape == (1, 1, 64, 64, 3)
    g = small['shown'].learn; wide = as_level_gallery([np.zeros((len(g), 17, 48), 'float32')]*4, g.pictures, g.concepts)
    for file, gallery, says in ((other, g, 'voxels'), (given, wide, 'width 48')):
        with pytest.raises(ShapeError, match=says): fit_sides(*where[:2], gallery, ['hierarchy'], [0], tmp_path/'other', controls=False, given=file, device='cpu')
    with pytest.raises(ParameterError, match='Ask for those layers'): fit_sides(small['train'], small['valid'], wide, ['hierarchy'], [0], tmp_path/'other', controls=False, given=tmp_path/'sides'/'MindHier-seed0.safetensors', device='cpu')

def test_regions_of_a_person(small, nsd):
    t = next(iter(Voxels(data='nsd', root=str(nsd), valid=.2).load(lambda t: None).values())).train; own = regions_of('V1 early', t, 'nsd', str(nsd), 1); every = sorted(sum(own.values(), []))
    assert list(own) == ['V1', 'early', 'other'] and every == list(range(len(t.names))) and min(map(len, own.values())) > 0
    with pytest.raises(UnknownError, match='region'): regions_of('V9', t, 'nsd', str(nsd), 1)
    own = regions_of('V1 LO', small['train']); assert all(small['train'].names[i].startswith('V1-') for i in own['V1']) and len(own['V1']) == sum(n.startswith('V1-') for n in small['train'].names)


# Wrong values, before anything is loaded

def test_numbers_below_zero():
    assert options_of(dict(guidance=-1., top_k=-1, start=-1., clip=0, every=0, half='')) == dict(clip=None)
    assert options_of(dict(fast='yes', half='bfloat16')) == dict(fast=True, half='bfloat16') and options_of(dict(fast='auto', half='')) == dict(fast='auto')
    for wrong in (dict(fast='maybe'), dict(half='int8')):
        with pytest.raises(UnknownError): options_of(wrong)
    for name in ('epochs', 'weight_decay', 'dropout', 'steps', 'lr', 'warmup'):
        with pytest.raises(ParameterError, match=f'{name}=-5'): options_of({name: -5})

@pytest.mark.parametrize('changes, given, error, says', [
    (dict(kinds=['eeg']), {}, ParameterError, 'maps voxels'), (dict(data='things-eeg2'), {}, ParameterError, 'maps voxels'), (dict(data='nds'), {}, UnknownError, "Did you mean 'nsd'"), (dict(layers='8 + 4m'), {}, UnknownError, 'layer map'), (dict(layers='2 5'), {}, ParameterError, 'in order'),
    (dict(encoder='/at/home/mine.py:colours'), {}, ParameterError, r"encoder names a part of your own, 'mine.py:colours'"), ({}, dict(methods=['ridge', 'mine:Net']), ParameterError, 'methods names a part of your own'),
    (dict(axes=30), {}, ParameterError, 'heads divide'), (dict(exemplars=0), {}, ParameterError, 'exemplars=0'), (dict(exemplars=11), {}, ParameterError, 'exemplars=11'), ({}, dict(seeds=[]), ParameterError, 'seeds'), ({}, dict(methods=['ridge', 'ridge']), ParameterError, 'without repeats'),
    (dict(captions='nsd'), {}, ParameterError, 'axes=0 was expected'), (dict(packed='x'), {}, ParameterError, "encoder='packaged' was expected"), ({}, dict(given='a.pth', controls=True), ParameterError, 'no shuffled twin'), ({}, dict(given='a.pth', seeds=[0, 1]), ParameterError, 'no shuffled twin'), ({}, dict(given='a{subject}.pth'), MissingWeights, 'a1.pth is not on'),
    ({}, dict(repeats=['mean']), UnknownError, 'repeat'), ({}, dict(side=dict(epochs=0)), ParameterError, 'epochs'), ({}, dict(side=dict(loss='all')), UnknownError, 'loss'), ({}, dict(mindeye=dict(hidden=0)), ParameterError, 'hidden'), ({}, dict(draw_steps=-1), ParameterError, 'draw_steps')])
def test_wrong_values(changes, given, error, says):
    with pytest.raises(error, match=says): check_voxels(Voxels(**{'axes': 32, **changes}), **{'seeds': [0], 'side': dict(heads=4), **given})

@pytest.mark.parametrize('wrong', [dict(sampling=dict(top_p=3)), dict(sampling=dict(guidance=-2.)), dict(teach=dict(schedule='cos')), dict(teach=dict(lr=-1.)), dict(teach=dict(crop=.5)), dict(side=dict(epochs=0)), dict(crossed=1)])
def test_options_are_refused_before_anything_is_loaded(wrong):
    "A value that only the last stage would meet must not wait for it: the test set would be open by then."
    painting = open_painting('', '', 1, 32, log=lambda text: None, encoder='lite0'); assert painting.check() is painting
    with pytest.raises((ParameterError, UnknownError)): painting.check(**wrong)

def test_wrong_wishes():
    for given, error, says in ((dict(blend=-.1), ParameterError, 'blend'), (dict(samples=0), ParameterError, 'samples'), (dict(best_of=-2), ParameterError, 'best_of'), (dict(best_of=2, best_by='beauty'), UnknownError, 'beauty'), (dict(best_of=2, best_by='alexnet2'), MissingWeights, 'best_of=0'), (dict(preset='mindeye'), UnknownError, 'mindeye2')):
        with pytest.raises(error, match=says): Wishes(**given)
    assert Wishes(best_by='beauty').best_of == 0 and layers_of('2, 3 5') == [2, 3, 5]


# Real layouts and recipes

def test_repetitions_of_nsd_can_be_kept(nsd):
    how = dict(data='nsd', root=str(nsd), valid=.2)
    one, apart = (next(iter(Voxels(repeats=r, **how).load(lambda t: None).values())) for r in (['voxels'], ['voxels', 'outputs'])); a, b = (s.test.open('a test of the tests') for s in (one, apart))
    assert max(map(len, a.members)) > 1 == max(map(len, b.members)) and len(b) > len(a) and list(b.average().pictures) == list(a.pictures) and np.allclose(b.average().x, a.x, atol=1e-5) and np.array_equal(one.train.x, apart.train.x)

@pytest.mark.parametrize('name', sorted(p.stem for p in RECIPES.glob('mindhier-*.yml')))
def test_recipes_give_honest_runs(name):
    recipe = read_yaml(RECIPES/f'{name}.yml'); assert all(v['source'] for v in recipe['parameters'].values())
    v = {k: p.value for k, p in resolve(find_job(recipe['job']), name, {}).items()}; side, mindeye = (options_of(part(v, p)) for p in ('side_', 'mindeye_')); given = side.pop('weights', '')
    for m in v.get('maps', [v.get('layers')]): check_voxels(Voxels.of(v | dict(layers=m)), v['seeds'], v.get('methods', ['hierarchy']), v.get('repeats', ['voxels']), side=side, mindeye=mindeye, given=given, controls=v.get('controls', True))
    assert (v.get('controls', True) or v.get('side_weights')) and v.get('samples', 1) == 1
    if 'nsd' in name: assert ('not run here' in recipe['about'].lower()) and v['data'] == 'nsd' and v['copies'] == 'flag'
    if 'nsd' in name and 'cpu' not in name and 'encode' not in name: assert v['scales'] == [1, 2, 3, 4, 6, 9, 13, 18, 24, 32] and v['size'] == 512 and v['draw_start'] == .005 and v['draw_warmup'] > 0
    if name == 'mindhier-nsd': assert (v['side_hidden'], v['side_context'], v['side_ff'], v['side_epochs'], v['side_scale'], v['depth'], v['width'], v['size'], v['sample_guidance'], v['sample_top_k'], v['best_of'], v['subjects']) == ([4096, 2048], 100, 3072, 100, 'released', 30, 1920, 512, 6., 400, 4, [1, 2, 5, 7])

def test_the_papers_numbers_stand_apart():
    row = dict(measure='pixcorr', value=.2, control=False, simulated=True, data='embedded fmri', setting='within', candidates=None, status='measured here'); near, far = mindhier_papers([row], True)
    assert not near and {r['source'] for r in far} >= {'MindHier, Main Results', 'MindHier, Ablation Study: Encoder Design', 'MindHier, Ablation Study: CLIP Layer Mapping', 'MindHier, Ablation Study: Guidance Direction'} and all('not comparable' in r['note'] for r in far)
    rows = tell_choices([dict(row, flags=[], selection='x'), dict(row, flags=['BLENDED'], selection='')]); assert [r['selection'] for r in rows] == ['x', honest]
    rows = tell_choices([dict(row, flags=[], selection=honest, method='MindHier'), dict(row, flags=[], selection=honest, method='ridge')], chosen_words('last')); assert [r['selection'] for r in rows] == [honest + '; stage one: its last epoch', honest]
