"The parts of MindHier's jobs with tiny networks: variants begin alike; stopped and resumed; wrong values refused; repetitions of NSD; the recipes against the published values. The jobs themselves: test_mindhier_encode, test_mindhier_runs, test_mindhier_ablations."
import numpy as np
import pytest
import torch
from brainrecon.core.checks import MissingWeights, ParameterError, UnknownError
from brainrecon.data.nsd_tree import write_nsd
from brainrecon.decoders.avde import packaged_avde
from brainrecon.decoders.mindhier import start_switti
from brainrecon.jobs.avde import part
from brainrecon.jobs.mindhier import Voxels, check_voxels, fit_lines, fit_sides, layers_of, open_painting, options_of, over_repeats
from brainrecon.jobs.mindhier_draw import Wishes, draw_as, mindhier_papers, tell_choices, variants_of
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


# Wrong values, before anything is loaded

@pytest.mark.parametrize('changes, given, error, says', [
    (dict(kinds=['eeg']), {}, ParameterError, 'maps voxels'), (dict(data='things-eeg2'), {}, ParameterError, 'maps voxels'), (dict(data='nds'), {}, UnknownError, "Did you mean 'nsd'"), (dict(layers='8 + 4m'), {}, UnknownError, 'layer map'), (dict(layers='2 5'), {}, ParameterError, 'in order'),
    (dict(axes=30), {}, ParameterError, 'heads divide'), (dict(exemplars=0), {}, ParameterError, 'exemplars=0'), (dict(exemplars=11), {}, ParameterError, 'exemplars=11'), ({}, dict(seeds=[]), ParameterError, 'seeds'), ({}, dict(methods=['ridge', 'ridge']), ParameterError, 'without repeats'),
    ({}, dict(repeats=['mean']), UnknownError, 'repeat'), ({}, dict(side=dict(epochs=0)), ParameterError, 'epochs'), ({}, dict(side=dict(loss='all')), UnknownError, 'loss'), ({}, dict(mindeye=dict(hidden=0)), ParameterError, 'hidden'), ({}, dict(draw_steps=-1), ParameterError, 'draw_steps')])
def test_wrong_values(changes, given, error, says):
    with pytest.raises(error, match=says): check_voxels(Voxels(**{'axes': 32, **changes}), **{'seeds': [0], 'side': dict(heads=4), **given})

def test_wrong_wishes():
    for given, error, says in ((dict(blend=-.1), ParameterError, 'blend'), (dict(samples=0), ParameterError, 'samples'), (dict(best_of=-2), ParameterError, 'best_of'), (dict(best_of=2, best_by='beauty'), UnknownError, 'beauty'), (dict(best_of=2, best_by='alexnet2'), MissingWeights, 'best_of=0'), (dict(preset='mindeye'), UnknownError, 'mindeye2')):
        with pytest.raises(error, match=says): Wishes(**given)
    assert Wishes(best_by='beauty').best_of == 0 and layers_of('2, 3 5') == [2, 3, 5]


# Real layouts and recipes

def test_repetitions_of_nsd_can_be_kept(tmp_path):
    write_nsd(tmp_path); how = dict(data='nsd', root=str(tmp_path), valid=.2)
    one, apart = (next(iter(Voxels(repeats=r, **how).load(lambda t: None).values())) for r in (['voxels'], ['voxels', 'outputs'])); a, b = (s.test.open('a test of the tests') for s in (one, apart))
    assert max(map(len, a.members)) > 1 == max(map(len, b.members)) and len(b) > len(a) and list(b.average().pictures) == list(a.pictures) and np.allclose(b.average().x, a.x, atol=1e-5) and np.array_equal(one.train.x, apart.train.x)

@pytest.mark.parametrize('name', sorted(p.stem for p in RECIPES.glob('mindhier-*.yml')))
def test_recipes_give_honest_runs(name):
    recipe = read_yaml(RECIPES/f'{name}.yml'); assert all(v['source'] for v in recipe['parameters'].values())
    v = {k: p.value for k, p in resolve(find_job(recipe['job']), name, {}).items()}; side, mindeye = (options_of(part(v, p)) for p in ('side_', 'mindeye_'))
    for m in v.get('maps', [v.get('layers')]): check_voxels(Voxels.of(v | dict(layers=m)), v['seeds'], v.get('methods', ['hierarchy']), v.get('repeats', ['voxels']), side=side, mindeye=mindeye)
    assert v.get('controls', True) and v.get('samples', 1) == 1
    if 'nsd' in name: assert ('not run here' in recipe['about'].lower()) and v['data'] == 'nsd' and v['copies'] == 'flag'
    if name == 'mindhier-nsd': assert (v['side_hidden'], v['side_context'], v['side_ff'], v['side_epochs'], v['side_scale'], v['depth'], v['width'], v['size'], v['sample_guidance'], v['sample_top_k'], v['best_of'], v['subjects']) == ([4096, 2048], 100, 3072, 100, 'released', 30, 1920, 512, 6., 400, 4, [1, 2, 5, 7])

def test_the_papers_numbers_stand_apart():
    row = dict(measure='pixcorr', value=.2, control=False, simulated=True, data='embedded fmri', setting='within', candidates=None, status='measured here'); near, far = mindhier_papers([row], True)
    assert not near and {r['source'] for r in far} >= {'MindHier, Main Results', 'MindHier, Ablation Study: Encoder Design', 'MindHier, Ablation Study: CLIP Layer Mapping', 'MindHier, Ablation Study: Guidance Direction'} and all('not comparable' in r['note'] for r in far)
    rows = tell_choices([dict(row, flags=[], selection='x'), dict(row, flags=['BLENDED'], selection='')]); assert [r['selection'] for r in rows] == ['x', honest]
