"Scale maps: a known answer is found, nothing is found where nothing is, and bad input is named."
import numpy as np
import pytest
from scipy.stats import spearmanr
from brainrecon.core.checks import ChannelError, ShapeError, UnknownError, ValuesError
from brainrecon.core.show import Chart
from brainrecon.data.simulated_meeg import ch17, ch63
from brainrecon.metrics.rsa import rdm
from brainrecon.metrics.scale_maps import (beyond, corrected, distances, halves, order, region_of, regions_of, samples_of, scale_features, scale_map,
    show_scale_map, windows_of)

times, names = np.arange(-20, 50)/100, ['O1', 'Oz', 'O2', 'T7', 'T8', 'Fz']

def planted(b=60, seed=0, noise=1.):
    "Two scales; the first drives the back of the head from 0.1 s, the second the temples from 0.3 s."
    g = np.random.default_rng(seed); coarse, fine = g.normal(size=(b, 6)), g.normal(size=(b, 6)); x = noise*g.normal(size=(b, 6, 70))
    for f, chans, (a, e) in ((coarse, [0, 1, 2], (.1, .2)), (fine, [3, 4], (.3, .4))):
        at = np.flatnonzero((times >= a - 1e-9) & (times < e - 1e-9)); x[np.ix_(range(b), chans, at)] += 2*np.einsum('bf,fct->bct', f, g.normal(size=(6, len(chans), len(at))))
    return dict(coarse=coarse, fine=fine), x

@pytest.fixture(scope='module')
def found(): return scale_map(*planted(), names, times, permutations=200)

def test_planted(found):
    best = found.peaks().set_index('scale')
    assert tuple(best.loc['coarse', ['region', 'from']]) == ('occipital', .1) and tuple(best.loc['fine', ['region', 'from']]) == ('temporal', .3)
    hit = found.table().query('p < .05'); assert len(hit) == 2 and (best.p < .01).all()
    o = order(found); assert .1 < o['low'] <= o['value'] <= o['high'] < .3 and o['scales'] == ['coarse', 'fine']
    assert order(found, ('occipital', 'temporal'))['low'] > .5 and order(found, ('temporal', 'occipital'))['high'] < -.5
    assert isinstance(found.show(), Chart) and isinstance(show_scale_map(found, 'title', .5), Chart) and '2 of 42' in repr(found)

def test_cell_is_the_correlation_of_distances(found):
    scales, x = planted(); i, j = np.triu_indices(60, 1); rows = samples_of(times, (.1, .2)); s, y = scales['coarse'], x[:, :3][:, :, rows].reshape(60, -1)
    want = spearmanr(rdm(s - s.mean(0))[i, j], rdm(y - y.mean(0))[i, j]).statistic
    assert np.isclose(found.r[0, 0, 3], want) and found.windows[3] == (.1, .2) and list(found.regions.items()) == [('occipital', 3), ('temporal', 2), ('frontal', 1)]

def test_shuffled_drawings_find_nothing():
    (scales, x), g = planted(30), np.random.default_rng(1); hits = 0
    for seed in range(12):
        o = g.permutation(30); m = scale_map({k: v[o] for k, v in scales.items()}, x, names, times, permutations=60, draws=0, width=.2, seed=seed); hits += bool((m.p < .05).any())
    assert hits <= 3        # about one of twelve is to be expected

def test_same_seed_same_map(found):
    again = scale_map(*planted(), names, times, permutations=200); assert np.array_equal(again.p, found.p) and np.array_equal(again.again, found.again)
    other = scale_map(*planted(), names, times, permutations=200, seed=1); assert np.array_equal(other.r, found.r) and not np.array_equal(other.p, found.p)

def test_order_of_drawings_does_not_matter(found):
    scales, x = planted(); o = np.random.default_rng(2).permutation(60)
    m = scale_map({k: v[o] for k, v in scales.items()}, x[o], names, times, permutations=0, draws=0); assert np.allclose(m.r, found.r) and m.p is None
    units = scale_map({k: 1e3*v + 5 for k, v in scales.items()}, 1e-6*x, names, times, permutations=0); assert np.allclose(units.r, found.r)

def test_beyond_coarser():
    g = np.random.default_rng(0); a = g.normal(size=(20, 5)); t = np.stack([distances(v, 'correlation') for v in (a, a + .3*g.normal(size=a.shape), g.normal(size=(20, 5)))])
    i, j = np.triu_indices(20, 1); v = beyond(t, 'abc')[:, i, j]; assert np.allclose(v @ v.T, np.eye(3), atol=1e-9) and np.allclose(v[0], t[0, i, j])
    with pytest.raises(ValuesError, match='coarser'): beyond(t[[0, 1, 0]], 'abc')

def test_a_scale_that_only_repeats_is_empty_beyond_coarser():
    scales, x = planted(); g = np.random.default_rng(3); repeat = scales['coarse'] + .01*g.normal(size=(60, 6))
    both = scale_map(dict(a=scales['coarse'], b=repeat), x, names, times, permutations=200); assert (both.p[1] < .05).any()
    rest = scale_map(dict(a=scales['coarse'], b=repeat), x, names, times, permutations=200, given='coarser'); assert (rest.p[0] < .05).any() and not (rest.p[1] < .05).any()
    assert order(rest)['value'] is None and 'fewer than two' in order(rest)['note']

def test_amplitude_is_no_order():
    "A scale that is weaker, but at the same moment, is not later."
    g = np.random.default_rng(0); a = g.normal(size=(80, 6)); x = g.normal(size=(80, 6, 70)); x[:, :3, 30:40] += 2*np.einsum('bf,fct->bct', a, g.normal(size=(6, 3, 10)))
    m = scale_map(dict(strong=a, weak=a + 1.2*g.normal(size=a.shape)), x, names, times, permutations=200); assert m.r[0].max() > 1.3*m.r[1].max()
    o = order(m); assert o['scales'] == ['strong', 'weak'] and abs(o['value']) < .03

def test_before_onset_is_noted():
    scales, x = planted(); x[:, :3, :10] += np.einsum('bf,fct->bct', scales['coarse'], np.random.default_rng(0).normal(size=(6, 3, 10)))*3
    assert any('BEFORE' in n for n in scale_map(scales, x, names, times, permutations=100).notes)

def test_same_trials_are_noted(): assert 'noise is shared' in ' '.join(scale_map(*planted(), names, times, permutations=0, drawn_from='same trials').notes)

def test_corrected():
    g = np.random.default_rng(0); null = g.normal(size=(999, 2, 3, 4)); r = np.zeros((2, 3, 4)); r[1, 2, 3] = 10
    p = corrected(r, null); assert p[1, 2, 3] == 1/1000 and (np.delete(p.ravel(), -1) > .9).all()
    assert np.allclose(corrected(100*r, 100*null), p)      # the unit of a correlation is no matter

def test_regions():
    import mne, warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); every = mne.channels.make_standard_montage('standard_1005').ch_names
    assert [n for n in every if not region_of(n)] == ['M1', 'M2', 'A1', 'A2']
    assert {r: len(i) for r, i in regions_of(ch63).items()} == dict(occipital=8, temporal=10, parietal=9, central=21, frontal=15)
    assert list(regions_of(ch17)) == ['occipital', 'parietal'] and region_of('T3') == region_of('T7') and region_of('t6') == region_of('P8')
    assert regions_of(['A', 'B', 'C9x'], dict(left=['A'], right=['C9x', 'B']))['right'].tolist() == [2, 1]
    for bad in (dict(names=['O1', 'MEG001']), dict(names=['O1', 'O1']), dict(names=['O1'], regions=dict(back=['O2'])), dict(names=['O1'], regions={}), dict(names=['O1'], regions=dict(a=[])), dict(names=['EOG'], unknown='drop')):
        with pytest.raises(ChannelError) as e: regions_of(bad.pop('names'), **bad)
        assert e.value.came and e.value.expected and e.value.do
    with pytest.raises(UnknownError): regions_of(['O1'], unknown='keep')

def test_windows():
    assert windows_of(times) == [(-.2, -.1), (-.1, 0), (0, .1), (.1, .2), (.2, .3), (.3, .4), (.4, .5)] and windows_of(np.arange(200)/200)[-1] == (.9, 1.)
    assert sum(len(samples_of(times, w)) for w in windows_of(times)) == len(times) and windows_of(np.arange(-15, 20)/100)[0] == (-.1, 0)
    for bad in (times[::-1], np.array([0.]), np.array([0, np.nan, 1])):
        with pytest.raises(ValuesError, match='rise'): windows_of(bad)
    for width in (0, -1, 5, 1e-3):
        with pytest.raises(ValuesError, match='width'): windows_of(times, width)

def test_features_of_frames():
    trace = np.random.default_rng(0).random((5, 3, 8, 8, 3)); f = scale_features(trace, size=4); assert list(f) == ['scale 1', 'scale 2', 'scale 3'] and f['scale 1'].shape == (5, 48)
    assert np.allclose(f['scale 2'].reshape(5, 3, 4, 4), trace[:, 1].reshape(5, 4, 2, 4, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2), atol=1e-6)
    added = scale_features(trace, 'added', size=4); assert np.allclose(added['scale 3'], f['scale 3'] - f['scale 2']) and np.allclose(added['scale 1'], f['scale 1'])
    assert np.allclose(scale_features((255*trace).astype('uint8'), size=4)['scale 1'], f['scale 1'], atol=1/255)
    with pytest.raises(UnknownError): scale_features(trace, 'before')

@pytest.mark.parametrize('change, kind, words', [
    (dict(scales=lambda s: {}), ShapeError, 'too few'), (dict(scales=lambda s: [v[:-1] for v in s.values()]), ShapeError, 'same order'), (dict(scales=lambda s: [v[:, 0] for v in s.values()]), ShapeError, 'features'),
    (dict(scales=lambda s: [np.full((60, 3), np.inf)]), ValuesError, 'finite'), (dict(scales=lambda s: [np.ones((60, 3))]), ValuesError, 'constant'), (dict(x=lambda x: x[:, :5]), ShapeError, 'channels'),
    (dict(x=lambda x: np.where(x > 3, np.nan, x)), ValuesError, 'finite'), (dict(times=times[:-1]), ShapeError, 'times'), (dict(windows=[(1, 2)]), ValuesError, 'no sample'), (dict(given='finer'), UnknownError, 'condition'),
    (dict(distance='manhattan'), UnknownError, 'distance'), (dict(drawn_from='noise'), UnknownError, 'source')])
def test_bad_input(change, kind, words):
    scales, x = planted(); change = dict(change); scales, x = change.pop('scales', lambda s: s)(scales), change.pop('x', lambda x: x)(x)
    with pytest.raises(kind, match=words): scale_map(scales, x, names, change.pop('times', times), permutations=5, **change)

def test_one_feature_needs_euclidean():
    scales, x = planted()
    with pytest.raises(ValuesError): scale_map([scales['coarse'][:, :1]], x, names, times, permutations=0)
    assert np.isfinite(scale_map([scales['coarse'][:, :1]], x, names, times, distance='euclidean', permutations=0).r).all()

def test_halves_share_no_trial():
    import pandas as pd
    from brainrecon.data.trials import Trials
    row = pd.DataFrame([dict(picture=f'p{p}', concept=f'p{p}', subject=1, session=1, repetition=r) for r in range(5) for p in range(6)]).assign(trial=np.arange(30))
    t = Trials(np.random.default_rng(0).normal(size=(30, 2, 4)).astype('float32'), ['O1', 'O2'], row, 'eeg', 100.); a, b = halves(t); assert list(a.pictures) == list(b.pictures) and len(a) == 6
    one, two = ({m for held in h.members for m in held} for h in (a, b)); assert not one & two and len(one | two) == 30
    assert not np.array_equal(halves(t, 1)[0].x, a.x)
    with pytest.raises(ShapeError, match='single trial'): halves(a)
