"""Encoding: scores of predicted responses against SciPy, scikit-learn and the published code; a model that finds a known map, and nothing in shuffled pairs."""
import tracemalloc
import numpy as np
import pytest
from scipy.stats import kstest, pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import explained_variance_score, r2_score
from brainrecon.core.checks import ChannelError, CheckpointError, FolderError, LeakError, ParameterError, ShapeError, UnknownError, ValuesError
from brainrecon.data.trials import Trials
from brainrecon.decoders.encoding import EncodingModel, best_penalties, load_encoding, make_galleries, save_encoding
from brainrecon.decoders.retrieval import Gallery, shuffle_pairs
from brainrecon.metrics.encoding import (brain_correlation, ceilings, choose_voxels, in_ceiling_units, pattern_r, predicted_voxels, score_responses,
    synthesis_scores, voxel_interval, voxelwise)
from brainrecon.metrics.reliability import noise_ceiling

KEYS = ('r', 'R2', 'explained variance')

def tables(n=50, v=20, seed=0, offset=0., q=.5):
    "Measured and predicted responses that share a part."
    g = np.random.default_rng(seed); s = g.normal(size=(n, v)); return s*q + g.normal(size=(n, v)) + offset, s*q + .5*g.normal(size=(n, v)) + offset

def values(a, b, **how): return {k: voxelwise(a, b, **how)[k]['values'] for k in KEYS}

# ---- one number a voxel

@pytest.mark.parametrize('n,v,offset', [(2, 1, 0), (7, 3, 0), (50, 20, 1000.), (200, 5, -3e5)])
def test_voxelwise_agrees_with_libraries(n, v, offset):
    a, b = tables(n, v, n, offset); got = values(a, b)
    for i in range(v):
        assert abs(got['r'][i] - pearsonr(a[:, i], b[:, i])[0]) < 1e-8
    assert np.allclose(got['R2'], r2_score(a, b, multioutput='raw_values'), atol=1e-8) and np.allclose(got['explained variance'], explained_variance_score(a, b, multioutput='raw_values'), atol=1e-8)

def test_a_perfect_prediction():
    a, _ = tables(); got = values(a, a)
    assert all(np.allclose(got[k], 1) for k in KEYS) and np.allclose(pattern_r(a, a)['values'], 1) and abs(voxelwise(a, -a)['r']['mean'] + 1) < 1e-12

@pytest.mark.parametrize('seed', range(5))
def test_orders_and_blocks_change_nothing(seed):
    a, b = tables(40, 17, seed); g = np.random.default_rng(seed); rows, cols = g.permutation(40), g.permutation(17); once = values(a, b)
    for k in KEYS:
        assert np.allclose(values(a[rows], b[rows])[k], once[k]) and np.allclose(values(a[:, cols], b[:, cols])[k], once[k][cols])
        for size in (1, 40, 130, 10**6): assert np.allclose(values(a, b, size=size)[k], once[k], rtol=0, atol=1e-13)      # sums of a block may round differently
    p = pattern_r(a, b)['values']
    assert np.allclose(pattern_r(a[rows], b[rows])['values'], p[rows]) and np.allclose(pattern_r(a[:, cols], b[:, cols])['values'], p) and np.allclose(pattern_r(a, b, size=1)['values'], p, rtol=0, atol=1e-13)

def test_what_each_score_forgives():
    a, b = tables(100, 30); one = values(a, b)
    assert (one['R2'] <= one['explained variance'] + 1e-12).all() and (one['explained variance'] <= one['r']**2 + 1e-12).all()
    wrong = values(a, 3*b + 7)
    assert np.allclose(wrong['r'], one['r']) and (wrong['R2'] < 0).all() and (values(a, -b)['R2'] < 0).any()
    shifted = values(a, b + 7); assert np.allclose(shifted['explained variance'], one['explained variance']) and (shifted['R2'] < one['R2']).all()
    assert np.allclose(voxelwise(a, np.tile(a.mean(0), (100, 1)))['R2']['values'], 0)      # the mean, said every time

def test_scores_fall_with_noise():
    g = np.random.default_rng(0); s, noise = g.normal(size=(300, 40)), g.normal(size=(300, 40)); means = []
    for level in (.1, .5, 1, 2, 5): got = voxelwise(s, s + level*noise); means.append([got[k]['mean'] for k in KEYS] + [pattern_r(s, s + level*noise)['mean'], -synthesis_scores(s, s + level*noise)['MSE']['mean']])
    assert (np.diff(means, axis=0) < 0).all()

@pytest.mark.parametrize('kind', ['float32', 'float64', 'int16'])
def test_undefined_is_named_and_not_zero(kind):
    a, b = (np.round(100*x).astype(kind) for x in tables(30, 6)); a[:, 1], b[:, 4] = 7, -3; s = voxelwise(a, b, regions=dict(left=[0, 1, 2], right=[4], none=[]))
    assert s['r']['undefined_at'] == [1, 4] and s['R2']['undefined_at'] == s['explained variance']['undefined_at'] == [1] and s['r']['undefined'] == 2
    assert abs(s['r']['mean'] - np.nanmean(s['r']['values'])) < 1e-12 and s['r']['regions']['left']['undefined'] == 1
    assert np.isnan(s['r']['regions']['right']['median']) and s['r']['regions']['none']['voxels'] == 0 and s['r']['n'] == 30

def test_a_voxel_that_is_constant_up_to_rounding():
    a, b = tables(60, 2); flat = (1000 + 1e-5*a).astype('float32'); assert np.ptp(flat, 0).max() < 1e-3
    assert voxelwise(flat, b)['r']['undefined'] == 2 and voxelwise(1000 + 1e-5*a, b)['r']['undefined'] == 0      # in float64 the same signal is real

def test_summaries_and_regions():
    a, b = tables(80, 12); s = voxelwise(a, b, above=.3, regions=dict(a=np.arange(12) < 4, b=[11, 4]))['r']; r = s['values']
    assert np.allclose([s['mean'], s['median'], s['share']], [r.mean(), np.median(r), (r > .3).mean()]) and s['above'] == .3
    assert np.allclose([s['regions']['a']['mean'], s['regions']['b']['median']], [r[:4].mean(), np.median(r[[11, 4]])])

def test_wide_tables_stay_on_disk(tmp_path):
    "Forty thousand voxels: memory holds a block, not the table, and the numbers are the same."
    n, v = 100, 40_000; g = np.random.default_rng(0); maps = [np.lib.format.open_memmap(tmp_path/f'{k}.npy', 'w+', 'float32', (n, v)) for k in 'ab']
    for m in maps: m[:] = g.normal(size=(n, v)).astype('float32')
    tracemalloc.start(); s = voxelwise(*maps, size=2**18); p = pattern_r(*maps, size=2**18); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert peak < 40e6, f'{peak/1e6:.0f} MB for tables of {n*v*8/1e6:.0f} MB in double precision'
    some = slice(39_990, None); assert np.allclose(s['r']['values'][some], values(maps[0][:, some], maps[1][:, some])['r']) and p['n'] == n

# ---- one number a picture

def test_pattern_r_agrees_with_scipy():
    a, b = tables(9, 40); got = pattern_r(a, b)['values']; assert np.allclose(got, [pearsonr(x, y)[0] for x, y in zip(a, b)])
    at, m = [3, 5, 8, 30], np.linspace(0, 4, 40); got = pattern_r(a, b, at=at, minus=m); assert np.allclose(got['values'], [pearsonr((x - m)[at], (y - m)[at])[0] for x, y in zip(a, b)]) and got['how']['voxels'] == 4
    b[2] = 5; assert pattern_r(a, b)['undefined'] == 1 and np.isfinite(pattern_r(a, b)['mean'])

def test_a_mean_map_drives_pattern_r_alone():
    a, b = tables(60, 80); m = 50*np.random.default_rng(1).normal(size=80)
    assert np.allclose(values(a + m, b + m)['r'], values(a, b)['r']) and pattern_r(a + m, b + m)['mean'] > .99 and np.allclose(pattern_r(a + m, b + m, minus=m)['values'], pattern_r(a, b)['values'], atol=1e-9)
    assert pattern_r(a, b)['chance'] is None and pattern_r(a, b, minus=m)['chance'] == 0

def test_brain_correlation_takes_the_plain_mean_of_what_is_there():
    g = np.random.default_rng(0); x = g.normal(size=(12, 3, 30)); b = g.normal(size=(12, 30)); x[0, 2], x[1, 1:] = np.nan, np.nan
    mean = np.stack([x[0, :2].mean(0), x[1, 0], *x[2:].mean(1)]); got = brain_correlation(x, b, dict(V1=[0, 3, 4, 9], rest=np.arange(10, 30)))
    assert np.allclose(got['V1']['values'], pattern_r(mean, b, at=[0, 3, 4, 9])['values']) and got['rest']['measure'] == 'brain correlation' and list(brain_correlation(mean, b)) == ['all voxels']

def published(recon, fmri):
    "SynBrain's scores, written down again pair by pair."
    n, r, _ = fmri.shape; x, y = np.repeat(recon, r, 0), fmri.reshape(n*r, -1); pairs = list(zip(x, y)); xc, yc = x - x.mean(0), y - y.mean(0); norm = np.linalg.norm
    return dict(MSE=np.mean([((a - b)**2).mean() for a, b in pairs]), r=np.mean([pearsonr(a, b)[0] for a, b in pairs]), cosine=np.mean([a @ b/norm(a)/norm(b) for a, b in pairs]),
        wrong=norm(xc @ yc.T)**2/(norm(xc @ xc.T)*norm(yc @ yc.T) + 1e-8), linear=norm(xc.T @ yc)**2/(norm(xc.T @ xc)*norm(yc.T @ yc) + 1e-8))

@pytest.mark.parametrize('n,r,v', [(6, 3, 11), (20, 1, 4), (5, 2, 60)])
def test_synthesis_agrees_with_the_published_code(n, r, v):
    g = np.random.default_rng(n); s = g.normal(size=(n, v)); x, b = s[:, None] + g.normal(size=(n, r, v)) + 1, s + g.normal(size=(n, v)); got, want = synthesis_scores(x, b), published(b, x)
    assert np.allclose([got[k]['mean'] for k in ('MSE', 'pattern r', 'pattern cosine')], [want[k] for k in ('MSE', 'r', 'cosine')], atol=1e-12)
    assert np.allclose([got['CKA between voxels (SynBrain)'], got['linear CKA']], [want['wrong'], want['linear']], atol=1e-10)
    small = synthesis_scores(x, b, size=7); assert np.allclose(small['linear CKA'], got['linear CKA']) and np.allclose(small['MSE']['values'], got['MSE']['values'])
    shifted = synthesis_scores(x, np.roll(b, 1, 0)); assert np.isclose(shifted['CKA between voxels (SynBrain)'], got['CKA between voxels (SynBrain)']), 'it does not see which picture was shown'

def test_averages_score_higher_than_single_trials_and_say_so():
    g = np.random.default_rng(0); s = g.normal(size=(60, 40)); x = s[:, None] + 2*g.normal(size=(60, 3, 40)); one, mean = synthesis_scores(x, s), synthesis_scores(x.mean(1), s)
    assert mean['pattern r']['mean'] > 1.3*one['pattern r']['mean'] and 'single trials' in one['against'] and 'single' not in mean['against'] and one['MSE']['better'] == 'lower'

# ---- ceilings, choices, intervals

def test_units_of_the_ceiling():
    "With signal and noise known, a perfect model of the signal scores about 1."
    g = np.random.default_rng(0); s = g.normal(size=(600, 1, 40)); x = s + g.normal(size=(600, 3, 40))*np.linspace(.5, 3, 40); c = noise_ceiling(x); u = in_ceiling_units(voxelwise(x.mean(1), s[:, 0]), c)
    assert abs(u['mean'] - 1) < .05 and u['used'] == int((c['percent'] >= 5).sum()) and u['left_out'] + u['used'] == 40 and u['how']['trials'] == 3
    assert (choose_voxels(c, 40) == np.flatnonzero(c['percent'] >= 40)).all() and len(choose_voxels([0., 50.], 0)) == 1

@pytest.mark.parametrize('given,error', [(dict(r=dict(measure='voxelwise r')), LeakError), (dict(measure='voxelwise r', values=[1.]), LeakError), ([-.2, .4], ValuesError), ([.1, .4], ValuesError), ([50., 101.], ValuesError), ([[50.]], ValuesError), ([np.nan], ValuesError)])
def test_voxels_are_not_chosen_by_a_score(given, error):
    with pytest.raises(error): choose_voxels(given)

def test_a_known_skill_lies_in_its_interval():
    "Eighty experiments with correlated noise; the interval of the mean holds the truth in about 95 of 100."
    q, held = .25, 0; mix = np.eye(40) + .2*np.random.default_rng(1).normal(size=(40, 40)); mix /= np.sqrt((mix**2).sum(1, keepdims=True))
    for seed in range(80):
        g = np.random.default_rng(seed); s = g.normal(size=(120, 40)); y = q*s + np.sqrt(1 - q*q)*g.normal(size=(120, 40)) @ mix.T; m = voxel_interval(y, s, summary='mean', draws=300, seed=seed)['all voxels']; held += m['low'] <= q <= m['high']
        assert m['low'] <= m['value'] <= m['high']
    assert held >= 70, held      # fewer happen less than once in a hundred times if the interval is right

def test_intervals_by_concept_sets_and_scale():
    g = np.random.default_rng(0); common = np.repeat(g.normal(size=(20, 30)), 5, 0); a, b = common + .3*g.normal(size=(100, 30)), common + .3*g.normal(size=(100, 30)); groups = np.repeat(np.arange(20), 5); wide, narrow = voxel_interval(a, b, groups=groups)['all voxels'], voxel_interval(a, b)['all voxels']
    assert (wide['n'], narrow['n']) == (20, 100) and wide['high'] - wide['low'] > 1.3*(narrow['high'] - narrow['low']) and wide['value'] == narrow['value'] 
    again = voxel_interval(a, b, groups=groups, size=1)['all voxels']; assert np.allclose([again[k] for k in ('value', 'low', 'high')], [wide[k] for k in ('value', 'low', 'high')], rtol=0, atol=1e-12)
    r = voxelwise(a, b)['r']['values']; two = voxel_interval(a, b, sets=dict(x=[1, 2, 7], none=[]), scale=np.where(np.arange(30) == 2, 0, .5), draws=50); assert np.isclose(two['x']['value'], np.median(r[[1, 7]]/.5)) and two['x']['undefined'] == 1 and np.isnan(two['none']['value'])

def test_shuffles_find_voxels_and_nothing_in_noise():
    g = np.random.default_rng(0); s = g.normal(size=(100, 60)); y = s*np.r_[np.full(30, .6), np.zeros(30)] + g.normal(size=(100, 60)); f = predicted_voxels(y, s, draws=400)
    assert f['passed'][:30].mean() > .9 and f['passed'][30:].mean() < .15 and f['tested'] == 60
    none = predicted_voxels(g.normal(size=(60, 800)), g.normal(size=(60, 800)), draws=199); assert none['share'] < .01 and kstest(none['p'], 'uniform').pvalue > .01
    y[:, 3] = 1; f = predicted_voxels(y, s, draws=99); assert f['tested'] == 59 and np.isnan(f['p'][3]) and not f['passed'][3]
    i = 7; orders = np.random.default_rng(0); null = [pearsonr(y[orders.permutation(100), i], s[:, i])[0] for _ in range(99)]; assert np.isclose(f['p'][i], (1 + sum(x >= pearsonr(y[:, i], s[:, i])[0] for x in null))/100)

@pytest.mark.parametrize('call,error', [(lambda a, b: voxelwise(a, b[:-1]), ShapeError), (lambda a, b: voxelwise(a[0], b[0]), ShapeError), (lambda a, b: voxelwise(a[:1], b[:1]), ShapeError), (lambda a, b: voxelwise(a.astype(str), b), ShapeError),
    (lambda a, b: voxelwise(np.where(a == a[3, 2], np.inf, a), b), ValuesError), (lambda a, b: pattern_r(a, np.where(b == b[3, 2], np.nan, b)), ValuesError), (lambda a, b: voxelwise(a, b, regions=dict(x=[0, 20])), ChannelError), (lambda a, b: voxelwise(a, b, regions=dict(x=[1, 1])), ChannelError),
    (lambda a, b: voxelwise(a, b, regions=dict(x=[.5])), ChannelError), (lambda a, b: brain_correlation(a, b, dict(x=[1])), ChannelError), (lambda a, b: pattern_r(a, b, minus=[1.]), ShapeError), (lambda a, b: synthesis_scores(a[0], b), ShapeError), (lambda a, b: voxel_interval(a, b, level=95), ValuesError),
    (lambda a, b: voxel_interval(a, b, summary='best'), UnknownError), (lambda a, b: voxel_interval(a, b, groups=[1]), ShapeError), (lambda a, b: predicted_voxels(a, b, draws=3), ValuesError)])
def test_nonsense_is_refused(call, error):
    with pytest.raises(error) as e: call(*tables())
    assert all(len(str(getattr(e.value, k))) > 3 for k in ('came', 'expected', 'do'))

# ---- the model

def person(n=(150, 60, 80), d=12, v=30, noise=1., reps=1, seed=0, kind='fmri'):
    "Responses that follow features along a known map; every picture is a concept."
    g = np.random.default_rng(seed); w = g.normal(size=(d, v))/np.sqrt(d); z = g.normal(size=(sum(n), d))*np.linspace(.5, 3, d) + 5; names = [f'p{i:03d}' for i in range(sum(n))]; sides, first = [], 0
    for k in n:
        at = np.repeat(np.arange(first, first + k), reps); x = (z[at] - 5)/np.linspace(.5, 3, d) @ w + 2 + noise*g.normal(size=(len(at), v)); first += k
        sides.append(Trials(x.astype('float32'), [f'v{i}' for i in range(v)], dict(picture=[names[i] for i in at], concept=[names[i] for i in at], trial=np.arange(len(at)) + 10_000*len(sides)), 'fmri', provenance=dict(recording='one')))
    return (*sides, Gallery(z, names, names), w)

def r_on(model, test, gallery): return voxelwise(test.x, model.predict(gallery, test.pictures))['r']['values']

@pytest.mark.parametrize('n,d', [(150, 12), (20, 60)])
def test_weights_are_those_of_ridge_regression(n, d):
    train, valid, test, gallery, _ = person((n, 10, 15), d, 9); m = EncodingModel([10.], at_once=4).fit(train, valid, gallery); z = m.z_scale(gallery.z)
    ref = Ridge(10.).fit(z[gallery.rows(train.pictures)].astype('float64'), train.x.astype('float64')); assert np.allclose(m.predict(gallery, test.pictures), ref.predict(z[gallery.rows(test.pictures)]), atol=1e-4)

def test_each_voxel_gets_the_penalty_that_errs_least():
    train, valid, test, gallery, _ = person(noise=4.); alphas = [1., 100., 1e4, 1e6]; m = EncodingModel(alphas, pooled=0).fit(train, valid, gallery)
    errors = np.stack([((valid.x - EncodingModel([a]).fit(train, valid, gallery).predict(gallery, valid.pictures))**2).sum(0) for a in alphas]); assert (m.alpha == np.array(alphas)[errors.argmin(0)]).all() and len(set(m.alpha)) > 1
    assert len(set(EncodingModel(alphas, pooled=10**9).fit(train, valid, gallery).alpha)) == 1 and (best_penalties(np.ones((3, 2)), [1, 100, 10], 5, 0) == 100).all()

def test_it_finds_a_known_map():
    train, valid, test, gallery, w = person((2000, 100, 100), noise=.5); m = EncodingModel().fit(train, valid, gallery); own = m.weights/m.z_scale.fitted['scale'][:, None]*np.linspace(.5, 3, 12)[:, None]
    assert np.abs(own - w).max() < .06 and np.median(r_on(m, test, gallery)) > .85 and np.median(voxelwise(test.x, m.predict(gallery, test.pictures))['R2']['values']) > .7

@pytest.mark.parametrize('seed', range(3))
def test_above_chance_and_lost_when_shuffled(seed):
    train, valid, test, gallery, _ = person((400, 80, 300), noise=2., seed=seed); true, lost = (np.median(r_on(EncodingModel().fit(t, valid, gallery), test, gallery)) for t in (train, shuffle_pairs(train, seed)))
    assert true > .3 and abs(lost) < .1

def test_blocks_order_and_memory_maps_change_nothing(tmp_path):
    train, valid, test, gallery, _ = person(); once = EncodingModel().fit(train, valid, gallery); hat = once.predict(gallery, test.pictures)
    assert np.allclose(EncodingModel(at_once=7).fit(train, valid, gallery).predict(gallery, test.pictures), hat, atol=1e-5)
    turned = gallery[np.arange(len(gallery))[::-1]]; assert np.allclose(EncodingModel().fit(train[::-1], valid, turned).predict(turned, test.pictures), hat, atol=1e-4)
    from brainrecon.data.trials import load_trials
    kept = load_trials(train.save(tmp_path/'train')); assert isinstance(kept.x, np.memmap) and np.allclose(EncodingModel().fit(kept, valid, gallery).predict(gallery, test.pictures), hat, atol=1e-6)
    assert np.allclose(once.predict(gallery.z[gallery.rows(test.pictures)]), hat) and once.predict(gallery).shape == (len(gallery), 30)

def test_saved_and_read_back(tmp_path):
    train, valid, test, gallery, _ = person(); m = EncodingModel(pooled=7).fit(train, valid, gallery); again = load_encoding(save_encoding(m, tmp_path/'m.safetensors'))
    assert (again.predict(gallery) == m.predict(gallery)).all() and again.recording == m.recording and (again.alpha == m.alpha).all() and again.pooled == 7 and again.alphas == m.alphas
    with pytest.raises(LeakError): again.refuse(train)
    (tmp_path/'cut.safetensors').write_bytes((tmp_path/'m.safetensors').read_bytes()[:500])
    with pytest.raises(FolderError): load_encoding(tmp_path/'cut.safetensors')
    from brainrecon.decoders.retrieval import RidgeDecoder, save_decoder
    save_decoder(RidgeDecoder().fit(train, valid, gallery), tmp_path/'d.safetensors')
    with pytest.raises(CheckpointError): load_encoding(tmp_path/'d.safetensors')

def test_leaks_are_refused():
    train, valid, test, gallery, _ = person(); m = EncodingModel().fit(train, valid, gallery); m.refuse(test)
    for t in (train[:3], valid[:1]):
        with pytest.raises(LeakError): m.refuse(t)
    with pytest.raises(LeakError): EncodingModel().fit(train, train[:20], gallery)
    same = Trials(valid.x, valid.names, valid.table.assign(trial=train.table.trial[:len(valid)].to_numpy()), 'fmri', provenance=train.provenance)
    with pytest.raises(LeakError): EncodingModel().fit(train, same, gallery)       # trials of training under other names

@pytest.mark.parametrize('call,error', [(lambda tr, va, te, g, m: EncodingModel([0.]), ParameterError), (lambda tr, va, te, g, m: EncodingModel([]), ParameterError), (lambda tr, va, te, g, m: EncodingModel(['1']), ParameterError), (lambda tr, va, te, g, m: EncodingModel(pooled=-1), ParameterError),
    (lambda tr, va, te, g, m: EncodingModel(at_once=.5), ParameterError), (lambda tr, va, te, g, m: EncodingModel().predict(g), UnknownError), (lambda tr, va, te, g, m: save_encoding(EncodingModel(), 'x.safetensors'), UnknownError), (lambda tr, va, te, g, m: EncodingModel().fit(tr.x, va, g), ShapeError),
    (lambda tr, va, te, g, m: EncodingModel().fit(tr[:1], va, g), ShapeError), (lambda tr, va, te, g, m: EncodingModel().fit(tr, va.pick(va.names[:3]), g), ShapeError), (lambda tr, va, te, g, m: EncodingModel().fit(tr, va, g[:20]), UnknownError), (lambda tr, va, te, g, m: m.predict(g.z[:, :3]), ShapeError),
    (lambda tr, va, te, g, m: m.predict(g, ['nobody']), UnknownError), (lambda tr, va, te, g, m: m.predict(g.z, ['p000']), ShapeError), (lambda tr, va, te, g, m: m.refuse(te.pick(te.names[::-1])), ShapeError)])
def test_nonsense_is_refused_by_the_model(call, error):
    parts = person((30, 10, 10)); m = EncodingModel().fit(*parts[:2], parts[3])
    with pytest.raises(error): call(*parts[:4], m)

def test_all_scores_at_once_and_the_ceiling_from_what_is_left():
    train, valid, test, gallery, _ = person((200, 60, 100), v=40, noise=2., reps=3); m = EncodingModel().fit(train.average(), valid.average(), gallery); c, mean = ceilings(train, test), test.average()
    assert 'test' in c['note'] and 'training' in ceilings(train, mean)['note'] and ceilings(train.average(), mean)['units'] is None and np.isclose(ceilings(train, mean)['units']['n'], 3)
    rows, each = score_responses(mean.x, m.predict(gallery, mean.pictures), c, minus=train.x.mean(0), regions=dict(a=np.arange(10)), draws=200, shuffles=99); by = {r['measure']: r for r in rows}
    assert by['median voxelwise r']['low'] > .1 and by['median voxelwise r / ceiling']['value'] > by['median voxelwise r']['value'] and 'median voxelwise r, a' in by and each['r'].shape == each['p'].shape == each['ceiling_percent'].shape == (40,)
    assert all(r['better'] == 'higher' and (r.get('low') is None or r['low'] <= r['value'] <= r['high']) for r in rows)
    bare = score_responses(mean.x, m.predict(gallery, mean.pictures), dict(choose=None, units=None, note=''), minus=train.x.mean(0), draws=50, shuffles=50)[0]; assert 'all voxels' in bare[0]['note'] and not any('ceiling' in r['measure'] for r in bare)

def test_galleries_of_several_layers():
    from brainrecon.data.pictures import load_pictures
    from brainrecon.decoders.retrieval import make_gallery
    p = load_pictures('valid'); g = make_galleries(p, layers=('block1', 'pooled')); assert (g['pooled'].z == make_gallery(p).z).all() and g['block1'].pictures == p.table.picture.tolist()

def test_the_job_runs_on_a_small_nsd(tmp_path):
    "The whole job on a tree in the layout of NSD: scores, control, map, one reading of the test; the same again from what it kept."
    from brainrecon.data.nsd_tree import write_nsd
    from brainrecon.jobs.run import run_job
    root = write_nsd(tmp_path/'data'/'nsd', sessions=2, trials=150, shared=20)
    run = run_job('encoding/01_voxels', out=tmp_path/'run', data='nsd', root=str(root), layers=['block5', 'pooled'], seeds=[0], draws=100, shuffles=99); s = run.scores()
    rows = s['rows']; assert s['test_readings'] == 1 and all(r['simulated'] and r['better'] == 'higher' and r['setting'] == 'within' for r in rows)
    true, lost = (next(r for r in rows if r['measure'] == 'mean voxelwise r' and r['control'] == c) for c in (False, True)); assert true['low'] > 0 and lost['low'] < .05 and true['over'] == 'pictures' and true['n'] == 20
    assert {p.stem for p in (run.folder/'figures').glob('*.png')} == {'split', 'layers-s01', 'ceiling-s01', 'areas-s01', 'map-s01'} and (run.folder/'voxels'/'s01.safetensors').is_file() and (run.folder/'report.html').is_file()
