"""Drawers on a toy brain whose response is a mixture of soft coloured pictures: the contract, its promises, and what is refused.

The toy needs no weights: the features of the nearest-picture drawer are the pixels of tiny pictures, through random axes.
"""
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.checks import CheckpointError, ChannelError, LeakError, ParameterError, ShapeError, UnknownError
from brainrecon.data.pictures import Pictures
from brainrecon.data.trials import Trials
from brainrecon.decoders.drawing import (Drawer, LinearDrawer, MeanDrawer, NearestDrawer, as_parts, draw_seeds, drawers, large_picture, load_drawer,
    pictures_at, show_drawings, small_pixels)
from brainrecon.decoders.retrieval import Gallery, RidgeDecoder, ridge_path, shuffle_pairs

sides = dict(train=range(0, 240), valid=range(240, 290), test=range(290, 340))


def toy_pictures(side, size=40, seed=0):
    "Soft pictures: colours on a 3 x 3 field, made large."
    gen = np.random.default_rng(seed); field = gen.normal(.5, .22, (340, 27)).clip(0, 1)[list(sides[side])]
    ids = [f'c{i:03d}/00' for i in sides[side]]
    table = pd.DataFrame(dict(picture=ids, concept=[i[:4] for i in ids], name=[i[:4] for i in ids], split=side, exemplar=0, group=list(sides[side])))
    return Pictures(large_picture(field, (size, size)), table), field


def toy_trials(side, noise=1.2, kind='fmri', seed=0):
    p, field = toy_pictures(side); gen = np.random.default_rng(seed); mix = gen.normal(size=(27, 120)); own = np.random.default_rng(10 + len(side))
    x = ((field - .5) @ mix + noise*own.normal(size=(len(field), 120))).astype('float32')
    x, names = (x, [f'v{i}' for i in range(120)]) if kind == 'fmri' else (x.reshape(-1, 12, 10), [f'E{i}' for i in range(12)])
    return Trials(x, names, dict(picture=p.table.picture, concept=p.table.concept, trial=list(sides[side])), kind, None if kind == 'fmri' else 50., provenance=dict(simulated=True, recording='toy'))


def toy_gallery(*sides):
    axes = np.random.default_rng(3).normal(size=(192, 20))
    parts = [toy_pictures(s)[0] for s in sides]
    return Gallery(np.concatenate([(small_pixels(p.img, 8) @ axes).astype('float32') for p in parts]), [i for p in parts for i in p.table.picture], [c for p in parts for c in p.table.concept])


@pytest.fixture(scope='module')
def toy():
    parts = [toy_pictures('train')[0], toy_pictures('valid')[0]]
    return dict(train=toy_trials('train'), valid=toy_trials('valid'), test=toy_trials('test'), parts=parts, tested=toy_pictures('test')[0], gallery=toy_gallery('train', 'valid'), candidates=toy_gallery('test'))


def fitted(toy, name, train=None):
    make = dict(linear=lambda: LinearDrawer(8, 20), nearest=NearestDrawer, mean=MeanDrawer)[name]
    return make().fit(train or toy['train'], toy['valid'], toy['parts'], toy['gallery'])


@pytest.fixture(scope='module')
def three(toy): return {n: fitted(toy, n) for n in ('linear', 'nearest', 'mean')}


def own(a, b):
    "Correlation of each picture with its own drawing."
    return np.array([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a.astype(float), b.astype(float))])


def identified(a, b):
    "Two-way identification, drawing fixed, half credit for ties."
    sim = np.corrcoef(np.concatenate([a, b]).reshape(len(a)*2, -1).astype(float))[:len(a), len(a):].round(9); d = np.diag(sim)
    return float(((sim < d).sum(0) + ((sim == d).sum(0) - 1)/2).mean()/(len(a) - 1))


# The contract

@pytest.mark.parametrize('name', ['linear', 'nearest', 'mean'])
def test_shapes_and_kinds(toy, three, name):
    d = three[name]; out = d.draw(toy['test'])
    assert out.shape == (50, 1, 40, 40, 3) and out.dtype == np.uint8 and np.array_equal(out, d.draw(toy['test'], seed=5))
    c = d.ceiling(toy['tested'], toy['candidates']); assert c.shape == out.shape and c.dtype == np.uint8
    assert d.code(toy['test']).shape == d.truth(toy['tested'], toy['candidates']).shape
    assert 'draws 40 x 40' in repr(d) and 'not fitted' in repr(type(d)())
    with pytest.raises(ShapeError, match='no trials'): d.draw(toy['test'][[]])


@pytest.mark.parametrize('name', ['linear', 'nearest', 'mean'])
def test_same_picture_whatever_the_batch(toy, three, name):
    d, n = three[name], 3 if name == 'nearest' else 1; whole = d.draw(toy['test'], n); order = np.random.default_rng(0).permutation(50)
    assert np.array_equal(d.draw(toy['test'][order], n), whole[order])
    assert np.array_equal(np.concatenate([d.draw(toy['test'][[i]], n) for i in range(50)]), whole)


def test_seeds_belong_to_rows():
    t = pd.DataFrame(dict(picture=['a', 'b', 'a', 'a'], subject=[1, 1, 2, 1], repetition=[1, 1, 1, 2])); s = draw_seeds(t, 3, 7)
    assert s.shape == (4, 3) and s.dtype == np.int64 and (s >= 0).all() and len(np.unique(s)) == 12
    assert np.array_equal(draw_seeds(t.iloc[[3, 1]], 2, 7), s[[3, 1], :2]) and not (draw_seeds(t, 3, 8) == s).any()
    assert draw_seeds(t[['picture']], 1).shape == (4, 1) and draw_seeds(t.iloc[:0], 2).shape == (0, 2)


class Chancy(LinearDrawer):
    "A drawer with something random in it, as a generator has."
    kind, most = 'chancy', 4
    def paint(self, codes, n, seeds):
        out = [[super(Chancy, self).paint(code[None] + np.random.default_rng(s).normal(0, 1, code.shape), 1, None)[0, 0] for s in row] for code, row in zip(codes, seeds)]
        return np.array(out, 'uint8').reshape(len(codes), n, *self.about['shape'], 3)


def test_a_drawer_of_ones_own(toy, tmp_path):
    d = Chancy(8, 20).fit(toy['train'], toy['valid'], toy['parts']); out = d.draw(toy['test'], 4, seed=1)
    assert out.shape == (50, 4, 40, 40, 3) and not np.array_equal(out[:, 0], out[:, 1]) and not np.array_equal(out, d.draw(toy['test'], 4, seed=2))
    assert np.array_equal(out[20:23, :2], d.draw(toy['test'][20:23], 2, seed=1))
    assert drawers['chancy'] is Chancy; again = load_drawer(d.save(tmp_path/'d.safetensors'))
    assert type(again) is Chancy and np.array_equal(again.draw(toy['test'], 4, seed=1), out)
    with pytest.raises(TypeError): type('Half', (Drawer,), {})()      # all six methods are needed


# What they promise

@pytest.mark.parametrize('kind', ['fmri', 'eeg'])
def test_linear_beats_shuffled_and_the_mean(toy, three, kind):
    t = {s: toy_trials(s, kind=kind) for s in sides}; make = lambda train: LinearDrawer(8, 20).fit(train, t['valid'], toy['parts']).draw(t['test'])[:, 0]
    seen, true, mean = pictures_at([toy['tested']], t['test'].pictures), make(t['train']), three['mean'].draw(toy['test'])[:, 0]
    assert own(seen, true).mean() > own(seen, mean).mean() + .3 and identified(seen, true) > .9 and identified(seen, mean) == .5
    lost = [make(shuffle_pairs(t['train'], s)) for s in range(4)]
    for l in lost: assert own(seen, true).mean() > own(seen, l).mean() + .3
    assert abs(np.mean([identified(seen, l) for l in lost]) - .5) < .06


def test_nearest_beats_shuffled_and_shows_training_only(toy, three):
    d, seen = three['nearest'], toy['tested'].img; out = d.draw(toy['test'], 5)
    lost = [fitted(toy, 'nearest', shuffle_pairs(toy['train'], s)).draw(toy['test'])[:, 0] for s in range(4)]
    assert own(seen, out[:, 0]).mean() > max(own(seen, l).mean() for l in lost) + .2 and abs(np.mean([identified(seen, l) for l in lost]) - .5) < .06
    assert own(seen, out[:, 0]).mean() > own(seen, out[:, 4]).mean()       # the first is the nearest
    pool = {i.tobytes() for i in toy['parts'][0].img}; assert all(i.tobytes() in pool for row in out for i in row) and d.most == 240
    codes = d.code(toy['test']); sim = (codes/np.linalg.norm(codes, axis=1, keepdims=True)) @ (d.z/np.linalg.norm(d.z, axis=1, keepdims=True)).T
    assert [r[0] for r in d.nearest(codes)] == [d.ids[i] for i in sim.argmax(1)] and all(len(set(r)) == 5 for r in d.nearest(codes, 5))


def test_mean_is_the_mean_of_training_pictures_and_ceilings_are_above(toy, three):
    seen = toy['tested'].img
    assert np.array_equal(three['mean'].draw(toy['test'])[3, 0], toy['parts'][0].img.astype('float64').mean(0).round().astype('uint8'))
    assert own(seen, three['linear'].ceiling(toy['tested'])[:, 0]).mean() > own(seen, three['linear'].draw(toy['test'])[:, 0]).mean()
    assert own(seen, three['nearest'].ceiling(toy['tested'], toy['candidates'])[:, 0]).mean() > own(seen, three['nearest'].draw(toy['test'])[:, 0]).mean()
    assert np.array_equal(three['mean'].ceiling(toy['tested']), three['mean'].draw(toy['test']))


def test_noise_alone_is_drawn_as_the_mean(toy):
    "Axes that cannot be read shrink until almost nothing but the mean picture is left."
    noise = lambda s: replace(toy[s], x=np.random.default_rng(len(s)).normal(size=toy[s].x.shape).astype('float32'))
    d = LinearDrawer(8, 20).fit(noise('train'), noise('valid'), toy['parts']); mean = toy['parts'][0].img.astype(float).mean(0)
    assert np.abs(d.draw(noise('test'))[:, 0] - mean).mean() < .4*np.abs(toy['tested'].img - mean).mean()


def test_each_axis_takes_the_penalty_that_errs_least(toy, three):
    from sklearn.linear_model import Ridge
    d = three['linear'].decoder; x, y = d.signal(toy['train']), d.z_scale(three['linear'].truth(toy['parts'][0])); xv, yv = d.signal(toy['valid']), d.z_scale(three['linear'].truth(toy['parts'][1]))
    each = {a: Ridge(alpha=a, fit_intercept=False).fit(x, y).coef_.T for a in d.alphas}; errors = np.array([((xv @ w - yv)**2).mean(0) for w in each.values()])
    assert np.array_equal(d.alpha, np.array(d.alphas)[errors.argmin(0)]) and len(set(d.alpha)) >= 1
    for j in range(20): assert np.allclose(d.weights[:, j], each[d.alpha[j]][:, j], atol=1e-4)
    for shape in ((30, 8), (8, 30)):
        a, b = np.random.default_rng(0).normal(size=shape), np.random.default_rng(1).normal(size=(shape[0], 2)); (w,) = ridge_path(a, b, [3.])
        assert np.allclose(w.T, Ridge(alpha=3., fit_intercept=False).fit(a, b).coef_)

@pytest.mark.parametrize('shape', [(300, 40), (40, 300), (50, 50)])
def test_penalties_that_share_their_products_give_the_weights_of_scikit_learn(shape):
    "In single precision too; a penalty that is lost in rounding is solved by the long way, as there."
    from sklearn.linear_model import Ridge
    gen = np.random.default_rng(2); a, b = gen.normal(size=shape).astype('float32'), gen.normal(size=(shape[0], 5)).astype('float32'); alphas = (.5, 20., 3e4)
    for alpha, w in zip(alphas, ridge_path(a, b, alphas), strict=True): assert w.dtype == np.float32 and np.allclose(w, Ridge(alpha=alpha, fit_intercept=False, solver='cholesky').fit(a, b).coef_.T, rtol=1e-5, atol=1e-7)
    twins = np.repeat(a, 2, 1) if shape[0] > shape[1] else np.repeat(a, 2, 0); many = np.resize(b, (len(twins), 5)); (w,) = ridge_path(1e3*twins, many, [1e-9])
    assert np.isfinite(w).all() and np.allclose(1e3*twins @ w, 1e3*twins @ Ridge(alpha=1e-9, fit_intercept=False, solver='svd').fit(1e3*twins, many).coef_.T, atol=1e-2)


# Files

@pytest.mark.parametrize('name', ['linear', 'nearest', 'mean'])
def test_a_file_gives_the_same_drawings(toy, three, name, tmp_path):
    path = three[name].save(tmp_path/'one.safetensors'); again = load_drawer(path, toy['parts'], toy['gallery'])
    assert type(again) is type(three[name]) and again.about == three[name].about and again.most == three[name].most
    assert all(a.flags.c_contiguous for a in three[name].keep(path)[1].values())       # in memory as in the file: some processors add in another order otherwise
    assert np.array_equal(again.draw(toy['test'], min(2, again.most)), three[name].draw(toy['test'], min(2, again.most)))
    assert np.array_equal(again.ceiling(toy['tested'], toy['candidates']), three[name].ceiling(toy['tested'], toy['candidates']))
    with pytest.raises(LeakError): again.refuse(['c003'])


def test_files_that_do_not_fit(toy, three, tmp_path):
    path = three['nearest'].save(tmp_path/'n.safetensors'); other = toy_pictures('train', seed=1)[0]
    with pytest.raises(ParameterError, match='no pictures'): load_drawer(path)
    with pytest.raises(ParameterError, match='gallery'): load_drawer(path, toy['parts'])
    with pytest.raises(CheckpointError, match='pixels'): load_drawer(path, [other, toy['parts'][1]], toy['gallery'])
    with pytest.raises(CheckpointError, match='features'): load_drawer(path, toy['parts'], replace(toy['gallery'], z=toy['gallery'].z + .1*np.arange(len(toy['gallery']), dtype='float32')[:, None]))
    fitted(toy, 'nearest', shuffle_pairs(toy['train'])).save(tmp_path/'m.safetensors'); (tmp_path/'m-decoder.safetensors').replace(tmp_path/'n-decoder.safetensors')
    with pytest.raises(CheckpointError, match='not the decoder'): load_drawer(path, toy['parts'], toy['gallery'])
    from brainrecon.core.files import save_arrays
    save_arrays(tmp_path/'x.safetensors', dict(decoder='ridge'), a=np.zeros(2)); save_arrays(tmp_path/'y.safetensors', dict(drawer='painter'), a=np.zeros(2))
    with pytest.raises(CheckpointError, match='no drawer'): load_drawer(tmp_path/'x.safetensors')
    with pytest.raises(UnknownError, match='Import the module'): load_drawer(tmp_path/'y.safetensors')


# What is refused

def test_leaks(toy, three):
    with pytest.raises(LeakError, match='train and valid'): LinearDrawer(8, 20).fit(toy['train'], toy['train'][:30], toy['parts'])
    for concepts in (toy['train'].concepts[:2], toy['valid'].concepts[:2]):
        with pytest.raises(LeakError, match='none may be tested'): three['mean'].refuse(concepts)
    three['mean'].refuse(toy['test'].concepts)
    decoder = RidgeDecoder().fit(toy['train'], toy['valid'], toy['gallery']); wide = RidgeDecoder().fit(toy['train'][:200], toy['train'][200:], toy['gallery'])
    d = NearestDrawer(decoder).fit(toy['train'][:100], toy['valid'], toy['parts'], toy['gallery']); assert d.most == 100
    with pytest.raises(LeakError): d.refuse([toy['train'].concepts[150]])      # shown by nobody, but the decoder learned it
    with pytest.raises(LeakError): NearestDrawer(wide).fit(toy['train'][200:], toy['train'][:20], toy['parts'], toy['gallery'])
    with pytest.raises(ParameterError, match='shuffled'): NearestDrawer(decoder).fit(shuffle_pairs(toy['train']), toy['valid'], toy['parts'], toy['gallery'])


def test_bad_calls(toy, three):
    l, n, m = three.values()
    for d in (l, m):
        with pytest.raises(ParameterError, match='nothing random'): d.draw(toy['test'], 2)
    with pytest.raises(ParameterError, match='n=240 or fewer'): n.draw(toy['test'], 241)
    for bad in (0, -1, 1.5, True, None):
        with pytest.raises(ParameterError, match='whole number'): n.draw(toy['test'], bad)
    with pytest.raises(ChannelError): l.draw(toy['test'].pick(toy['test'].names[:50]))
    with pytest.raises(ShapeError, match='eeg'): l.draw(toy_trials('test', kind='eeg'))
    with pytest.raises(ShapeError, match='Trials'): LinearDrawer(8, 20).fit(toy['train'].x, toy['valid'], toy['parts'])
    with pytest.raises(ShapeError, match='Trials'): l.draw(toy['test'].x)
    with pytest.raises(UnknownError, match='picture'): LinearDrawer(8, 20).fit(toy['train'], toy['valid'], toy['parts'][0])
    with pytest.raises(UnknownError, match='not learned'): MeanDrawer().draw(toy['test'])
    with pytest.raises(UnknownError, match='not learned'): MeanDrawer().save('nowhere.safetensors')
    with pytest.raises(ParameterError, match='gallery'): NearestDrawer().fit(toy['train'], toy['valid'], toy['parts'])
    with pytest.raises(ParameterError, match='gallery'): n.ceiling(toy['tested'])
    for how in (dict(size=1), dict(components=0), dict(size=2.5), dict(alphas=[]), dict(alphas=[0.]), dict(components=True)):
        with pytest.raises(ParameterError): LinearDrawer(**how)
    with pytest.raises(ShapeError, match='fewer'): LinearDrawer(8, 192).fit(toy['train'], toy['valid'], toy['parts'])


def test_picture_sizes(toy, three):
    small = toy_pictures('test', 32)[0]
    for d in three.values():
        with pytest.raises(ShapeError, match='40 x 40'): d.ceiling(small, toy['candidates'])
    with pytest.raises(ShapeError, match='2 sizes'): as_parts([toy['parts'][0], small])
    with pytest.raises(ShapeError, match='0 sizes: none'): as_parts([])
    with pytest.raises(ShapeError, match='ndarray'): as_parts(small.img)
    wide = lambda p: Pictures(np.ascontiguousarray(p.img[:, :30]), p.table); d = LinearDrawer(8, 20).fit(toy['train'], toy['valid'], [wide(p) for p in toy['parts']])
    assert d.draw(toy['test']).shape == (50, 1, 30, 40, 3) and own(wide(toy['tested']).img, d.draw(toy['test'])[:, 0]).mean() > .5


def test_pixels_there_and_back():
    img = toy_pictures('test')[0].img; small = small_pixels(img, 8)
    assert small.shape == (50, 192) and np.allclose(small.reshape(50, 3, -1).mean(-1), img.mean((1, 2))/255, atol=1e-6)
    assert np.abs(large_picture(small, (40, 40)).astype(int) - img).mean() < 4 and large_picture(np.full((1, 192), 7.), (9, 9)).max() == 255
    assert np.array_equal(pictures_at([toy_pictures('test')[0]], ['c291/00', 'c290/00', 'c291/00']), img[[1, 0, 1]])


def test_the_page_of_drawings(toy, three):
    fig = show_drawings({'seen': toy['tested'].img[:4], 'linear': three['linear'].draw(toy['test'][:4])[:, 0]}, ['a', 'b', 'c', 'a long name indeed'])
    kind, data = fig.small(); assert kind == 'image/jpeg' and len(data) < 40_000 and len(fig.axes) == 8
    with pytest.raises(ShapeError, match='as many'): show_drawings({'seen': toy['tested'].img[:4], 'linear': toy['tested'].img[:3]})


# The job

def test_the_job(tmp_path, monkeypatch):
    "Baselines on the simulated scanner: rows, controls, ceilings, kept drawings, one reading of the test, a page."
    from brainrecon.core.files import load_json
    from brainrecon.jobs.predictions import load_drawings
    from brainrecon.jobs.run import run_job
    monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path))
    run = run_job('reconstruction/01_baselines', kinds=['fmri'], measures=['pixcorr'], samples=2, draws=200, device='cpu')
    s = run.scores(); rows = {r['what'].replace(', simulated fMRI, subject 1', ''): r for r in s['rows']}
    assert list(rows) == ['linear', 'linear, ceiling', 'linear, shuffled pairs', *(f'nearest training picture{w}' for w in (', single sample', ', mean of 2 samples', ', best of 2, chosen with the true image (by pixcorr)', ', ceiling', ', shuffled pairs')), 'mean picture']
    assert s['test_readings'] == 1 and sum(len(v) for v in load_json(run.folder/'test_readings.json').values()) == 1
    for w, r in rows.items():
        assert r['n'] == 200 and r['simulated'] and r['low'] < r['value'] < r['high'] and r['over'] == 'concepts' and r['data'] == 'embedded fmri' and r['better'] == 'higher'
        assert r['control'] == any(k in w for k in ('ceiling', 'shuffled', 'mean picture')) and ('CEILING' in r['flags']) == ('ceiling' in w) and (r['seeds'] == [0]) == ('shuffled' in w)
        assert ('CHOSEN WITH THE TRUE IMAGE' in r['flags']) == ('best of' in w) and r['selection'].startswith('held-out training concepts') == (not r['control'] or 'shuffled' in w)
    assert rows['linear']['low'] > rows['linear, shuffled pairs']['high'] and rows['linear']['low'] > rows['mean picture']['high'] and rows['linear, ceiling']['value'] > .8
    kept = {k.label: k for k in load_drawings(run.folder, check=True)}; assert len(kept) == 7 and kept['fmri-s01-nearest'].drawings.shape == (200, 2, 128, 128, 3)
    assert own(kept['fmri-s01-linear'].originals, kept['fmri-s01-linear'].drawings[:, 0]).mean() > own(kept['fmri-s01-mean'].originals, kept['fmri-s01-mean'].drawings[:, 0]).mean() + .1
    page = (run.folder/'report.html').read_text(encoding='utf-8'); assert 'drawn by lot' in page and 'Chosen by rank' in page and 'CEILING' in page


@pytest.mark.parametrize('change, words', [(dict(drawers=['painter']), 'painter'), (dict(rank_by='ssim', measures=['pixcorr']), 'rank_by'), (dict(measures=['beauty']), 'beauty'), (dict(samples=0), 'samples'), (dict(preset='old'), 'preset')])
def test_the_job_refuses_before_the_test_is_opened(change, words):
    from brainrecon.core.checks import ReconError
    from brainrecon.jobs.draw import check_drawing
    with pytest.raises(ReconError, match=words): check_drawing(**{**dict(kinds=['eeg'], subjects=[1], drawers=['mean'], seeds=[0]), **change})
