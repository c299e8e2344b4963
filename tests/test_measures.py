"Similarity, time courses and reliability against brute force, other packages, reference values, and simulations whose truth is known."
import json, os
from dataclasses import replace
from itertools import combinations
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from brainrecon.core.checks import LeakError, ShapeError
from brainrecon.data.pictures import load_pictures
from brainrecon.data.simulated_fmri import estimated_ncsnr, simulate_fmri
from brainrecon.data.simulated_meeg import Brain, simulate_eeg
from brainrecon.data.trials import Trials
from brainrecon.metrics.reliability import noise_ceiling, normalised, spearman_brown, split_half
from brainrecon.metrics.rsa import compare, rdm, rsa_ceiling, tau_a
from brainrecon.metrics.time_course import corrected_p, decode_over_time, generalise_over_time, make_folds, rsa_over_time

shared = Path(os.environ.get('BRAINRECON_SHARED') or Path(__file__).resolve().parents[2]/'shared')
goldens = Path(os.environ.get('BRAINRECON_GOLDENS') or shared/'goldens')/'metrics.safetensors'
rdm92 = shared/'data'/'rdm92'/'rdm92_human_session1.npz'


@pytest.fixture(scope='module')
def pictures(): return load_pictures('valid')[np.arange(30)]


@pytest.fixture(scope='module')
def eeg(pictures): return simulate_eeg(pictures, reps=20).resample(50)


# Reliability

def table_of(n, r): return pd.DataFrame(dict(picture=np.repeat([f'p{i}' for i in range(n)], r), concept=np.repeat([f'p{i}' for i in range(n)], r)))


@pytest.mark.skipif(not goldens.is_file(), reason=f'no reference values at {goldens.parent.name}/{goldens.name} beside the project (set BRAINRECON_GOLDENS)')
def test_noise_ceiling_reference_values():
    with safe_open(goldens, 'np') as f: x = f.get_tensor('reps').astype('float64'); want = json.loads(f.metadata()['expected'])['noise_ceiling']
    one, three = noise_ceiling(x, 1), noise_ceiling(x, 3)
    assert np.allclose(one['ncsnr'], want['ncsnr_nsd_zscored'], atol=1e-6) and np.allclose(one['percent'], want['nc_percent_n1'], atol=1e-5)
    assert np.allclose(three['percent'], want['nc_percent_n3'], atol=1e-5) and np.allclose(three['r'], want['nc_r_units_n3'], atol=1e-6)
    counts = np.repeat([3, 2, 1], want['nc_percent_unequal_repeats_counts_3_2_1']); assert np.allclose(noise_ceiling(x, counts)['percent'], want['nc_percent_unequal'], atol=1e-5)
    assert np.allclose(noise_ceiling(x, 1, 'anova')['ncsnr'], want['ncsnr_anova_unbiased'], atol=1e-6) and abs(one['percent'].mean() - want['mean_nc_percent_n1']) < 1e-5
    assert one['negative'] == int((np.array(want['ncsnr_nsd_zscored']) == 0).sum())
    assert np.allclose(spearman_brown(want['split_half_r_first_two_reps'], 3), want['spearman_brown_to_3'], atol=1e-6)


def test_unequal_repetitions_and_trials_agree_with_arrays():
    gen = np.random.default_rng(0); x = gen.normal(size=(40, 1, 6)) + gen.normal(size=(40, 4, 6)); flat = x.reshape(-1, 6).astype('float32'); t = table_of(40, 4)
    whole = Trials(flat, list('abcdef'), t, 'fmri'); assert np.allclose(noise_ceiling(whole, 4)['percent'], noise_ceiling(flat.reshape(40, 4, 6), 4)['percent'], atol=1e-6)
    assert abs(noise_ceiling(whole)['n'] - 4) < 1e-9 and abs(noise_ceiling(whole)['ncsnr'] - estimated_ncsnr(whole)).max() < .03
    keep = np.ones(160, bool); keep[2:80:4] = keep[3:80:4] = keep[1:40:4] = False; less = whole[keep]; c = noise_ceiling(less)
    counts = less.table.groupby('picture', sort=False).size(); assert sorted(set(counts)) == [1, 2, 4] and abs(c['n'] - 1/(1/counts).mean()) < 1e-9 and c['repeated'] == (counts > 1).sum()
    assert abs(c['ncsnr'] - noise_ceiling(whole)['ncsnr']).max() < .35


@pytest.mark.parametrize('subject', [1, 2])
def test_recovers_the_ceiling_of_the_simulated_scanner(subject):
    fmri = simulate_fmri(load_pictures('test'), reps=10, snr_db=-8., subject=subject); truth = np.array(fmri.provenance['ncsnr'])**2
    for form in ('nsd', 'anova'):
        for n in (1, 3, 10):
            got, want = noise_ceiling(fmri, n, form)['percent'], 100*truth/(truth + 1/n)
            assert abs(got.mean() - want.mean()) < .05*want.mean() + .5 and np.corrcoef(got, want)[0, 1] > .93


def test_recovers_the_ceiling_of_simulated_eeg(pictures):
    brain = Brain('eeg', subject=1, sfreq=50); eeg = simulate_eeg(pictures, reps=60, sfreq=50); late = (brain.times > .1) & (brain.times < .5)
    signal = brain.evoked(pictures).var(0, ddof=1); noise = np.asarray(eeg.x, 'float64').var(0) - signal      # of single trials, which are nearly all noise
    want = 100*signal/(signal + noise/60); got = noise_ceiling(eeg, 60, 'anova')['percent']
    assert abs(got[:, late].mean() - want[:, late].mean()) < 4 and np.corrcoef(got[:, late].ravel(), want[:, late].ravel())[0, 1] > .85
    assert noise_ceiling(eeg, 60)['percent'][:, brain.times < 0].mean() < 15


def test_split_half_agrees_with_the_ceiling():
    gen = np.random.default_rng(1); x = 1.0*gen.normal(size=(400, 1, 8)) + gen.normal(size=(400, 6, 8))*np.linspace(.7, 3, 8)
    s, c = split_half(x, 30), noise_ceiling(x, 6); assert s['trials_in_half'] == 3 and s['n'] == 6 and np.allclose(100*s['full'], c['percent'], atol=4)
    odd = split_half(x[:, :5], 30); assert odd['trials_in_half'] == 2 and np.allclose(100*odd['full'], noise_ceiling(x[:, :5], 5)['percent'], atol=5)
    noise = gen.normal(size=(200, 4, 30)); assert abs(split_half(noise)['half'].mean()) < .03 and noise_ceiling(noise, 1)['percent'].mean() < 4
    assert split_half(x, 5, seed=1)['half'].tolist() == split_half(x, 5, seed=1)['half'].tolist()


def test_ceilings_at_the_edges():
    gen = np.random.default_rng(0); x = gen.normal(size=(20, 1, 3)).repeat(4, 1); x[..., 1] = 5; x[..., 2] += gen.normal(size=(20, 4))
    c = noise_ceiling(x); assert c['percent'][0] == 100 and c['percent'][1] == 0 and c['flat'] == 1 and 0 < c['percent'][2] < 100
    n = normalised([.3, .3], [0., 9.], 0); assert np.isnan(n['values'][0]) and abs(n['values'][1] - 1) < 1e-12 and n['left_out'] == 1
    with pytest.raises(ShapeError): noise_ceiling(Trials(np.ones((3, 2), 'float32') + np.arange(3)[:, None], ['a', 'b'], table_of(3, 1), 'fmri'))


# Similarity

def test_plain_distances_are_scipys():
    x = np.random.default_rng(0).normal(size=(12, 7))
    for kind in ('correlation', 'euclidean', 'cosine'): assert np.allclose(rdm(x, kind), squareform(pdist(x, kind)))
    names = np.random.default_rng(1).permutation(np.repeat(list('abcd'), 3)); order = pd.unique(names)
    assert np.allclose(rdm(x, 'euclidean', names), squareform(pdist(np.stack([x[names == n].mean(0) for n in order]))))


def test_crossnobis_is_the_mean_over_pairs_of_parts():
    gen = np.random.default_rng(0); k, r, f = 6, 4, 5; x = gen.normal(size=(k, 1, f)) + .5*gen.normal(size=(k, r, f)); c, rep = np.repeat(np.arange(k), r), np.tile(np.arange(r), k)
    def by_hand(w, groups):
        out = np.zeros((k, k)); m = np.stack([x[:, g].mean(1) for g in groups]) @ w
        for a, b in combinations(range(k), 2): out[a, b] = out[b, a] = np.mean([(m[p, a] - m[p, b]) @ (m[q, a] - m[q, b]) for p in range(len(groups)) for q in range(len(groups)) if p != q])/f
        return out
    assert np.allclose(rdm(x.reshape(-1, f), 'crossnobis', c, rep, 'none', parts=4), by_hand(np.eye(f), [[0, 1], [2, 3]]))
    rest = np.stack([x[:, g] - x[:, g].mean(1, keepdims=True) for g in ([0, 1], [2, 3])]).reshape(-1, f); sd = np.sqrt((rest**2).sum(0)/(k*2))
    assert np.allclose(rdm(x.reshape(-1, f), 'crossnobis', c, rep, 'diagonal'), by_hand(np.diag(1/sd), [[0, 1], [2, 3]]))


@pytest.mark.parametrize('noise, r', [('none', 2), ('diagonal', 3), ('shrunk', 3), ('shrunk', 8)])
def test_crossnobis_of_noise_is_zero_on_average(noise, r):
    c, rep, away = np.repeat(np.arange(40), r), np.tile(np.arange(r), 40), ~np.eye(40, dtype=bool)
    got = [rdm(np.random.default_rng(s).normal(size=(40*r, 30)) @ np.diag(np.linspace(.5, 3, 30)), 'crossnobis', c, rep, noise)[away].mean() for s in range(12)]
    assert abs(np.mean(got)) < 4*np.std(got)/np.sqrt(12) + 1e-3


def test_tau_a_counts_pairs_with_ties():
    gen = np.random.default_rng(0)
    for _ in range(5):
        a, b = gen.integers(0, 4, 30), gen.integers(0, 6, 30).astype(float)
        assert abs(tau_a(a, b) - np.mean([np.sign(a[i] - a[j])*np.sign(b[i] - b[j]) for i, j in combinations(range(30), 2)])) < 1e-12
    assert tau_a(np.arange(9), np.arange(9)) == 1 and tau_a(np.ones(5), np.arange(5)) == 0


def test_comparison_is_spearmans_with_ties_and_ignores_the_diagonal():
    gen = np.random.default_rng(0); x = gen.integers(0, 3, (15, 4)); a, b = rdm(x + gen.integers(0, 2, x.shape), 'euclidean'), rdm(x, 'euclidean'); i = np.triu_indices(15, 1)
    assert abs(compare(a, b, permutations=0, draws=0)['value'] - spearmanr(a[i], b[i]).statistic) < 1e-12
    assert compare(squareform(a), b, permutations=0, draws=0)['value'] == compare(a, b + 7*np.eye(15), permutations=0, draws=0)['value']
    assert compare(a, b, 'pearson', 0, 0)['value'] == pytest.approx(np.corrcoef(a[i], b[i])[0, 1])
    for kind in ('spearman', 'kendall', 'pearson'): r = compare(a, b, kind, 50, 50); assert r['low'] <= r['value'] <= r['high'] and r['p'] < .05


def test_permutation_of_pictures_keeps_its_promise():
    "Unrelated tables: p below 0.1 in about a tenth of the cases. Shuffling pairs in place of pictures would give far more."
    gen = np.random.default_rng(0); p = [compare(rdm(gen.normal(size=(12, 2)), 'euclidean'), rdm(gen.normal(size=(12, 2)), 'euclidean'), permutations=99, draws=0)['p'] for _ in range(150)]
    assert .03 < np.mean(np.array(p) <= .1) < .19


def test_ceiling_of_identical_and_of_unrelated_people():
    gen = np.random.default_rng(0); one = rdm(gen.normal(size=(20, 5)), 'euclidean'); same = rsa_ceiling([one, one*2, one])
    assert same['lower'] == pytest.approx(1) and same['upper'] == pytest.approx(1)
    apart = rsa_ceiling([rdm(gen.normal(size=(20, 5)), 'euclidean') for _ in range(5)]); assert abs(apart['lower']) < .25 < apart['upper']


@pytest.mark.skipif(not rdm92.is_file(), reason=f'the 92-picture data are not at {rdm92.parent.name}/{rdm92.name} below {shared}/data (set BRAINRECON_SHARED)')
def test_human_cortex_and_a_network():
    with np.load(rdm92, allow_pickle=False) as f: human, network, category = f['rdm'].astype('float64'), f['effnet_lite0'], f['category']
    alive = np.array([not c.endswith('inanimate') for c in category]); two = rdm(np.eye(2)[alive.astype(int)], 'euclidean')
    net = compare(human, rdm(network), permutations=200, draws=200); animate = compare(human, two, permutations=200, draws=0); top = rsa_ceiling(human)
    assert net['people'] == 4 and len(net['each']) == 4 and net['p'] < .01 and net['low'] > 0 and animate['value'] > net['value'] and animate['p'] < .01
    assert .2 < top['lower'] < top['upper'] < .7 and net['value'] < top['lower']


def test_as_rsatoolbox_does():
    toolbox = pytest.importorskip('rsatoolbox', reason='rsatoolbox is not installed: pip install rsatoolbox')
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare as their_compare
    from rsatoolbox.inference.noise_ceiling import cv_noise_ceiling, boot_noise_ceiling
    gen = np.random.default_rng(0); k, r, f = 8, 4, 6; x = (gen.normal(size=(k, 1, f)) + .5*gen.normal(size=(k, r, f))).reshape(-1, f); c, rep = np.repeat(np.arange(k), r), np.tile(np.arange(r), k)
    whole = Dataset(x, obs_descriptors=dict(c=c, r=rep)); means = Dataset(np.stack([x[c == i].mean(0) for i in range(k)]), obs_descriptors=dict(c=np.arange(k)))
    assert np.allclose(calc_rdm(means, 'correlation').get_matrices()[0], rdm(x, 'correlation', c), atol=1e-6)
    assert np.allclose(calc_rdm(means, 'euclidean').get_matrices()[0], rdm(x, 'euclidean', c)**2/f, atol=1e-6)
    halves = Dataset(x.reshape(k, 2, 2, f).mean(2).reshape(-1, f), obs_descriptors=dict(c=np.repeat(np.arange(k), 2), r=np.tile([0, 1], k)))
    assert np.allclose(calc_rdm(halves, 'crossnobis', descriptor='c', cv_descriptor='r').get_matrices()[0], rdm(x, 'crossnobis', c, rep, 'none'), atol=1e-6)
    a, b = calc_rdm(means, 'correlation'), calc_rdm(Dataset(gen.integers(0, 2, (k, 3)).astype(float) + [[0, 0, .1]]), 'euclidean')
    for ours, theirs in (('spearman', 'spearman'), ('pearson', 'corr'), ('kendall', 'tau-a')):
        assert compare(a.get_matrices()[0], b.get_matrices()[0], ours, 0, 0)['value'] == pytest.approx(float(their_compare(a, b, theirs)[0, 0]), abs=1e-6)
    people = toolbox.rdm.concat([calc_rdm(Dataset(gen.normal(size=(k, 1)) + x[::r]), 'euclidean') for _ in range(4)]); low, high = boot_noise_ceiling(people, 'corr')
    mine = rsa_ceiling(people.get_matrices(), 'pearson'); assert mine['lower'] == pytest.approx(float(np.mean(low)), abs=.02) and mine['upper'] == pytest.approx(float(np.mean(high)), abs=.02)


# Time courses

def test_the_decoder_is_scikit_learns_in_mnes_sliding_estimator(eeg):
    "Two classes and many: the same predictions at every moment, fold by fold."
    decoding = pytest.importorskip('mne').decoding
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    for n in (2, 6):
        names = pd.unique(eeg.pictures)[:n]; few = eeg[np.isin(eeg.pictures, names)].window(-.1, .4); y = pd.factorize(few.pictures, sort=True)[0]; fold = make_folds(few, 'repetition', 4); hits = []
        for f in range(4):
            learn, test = fold != f, fold == f
            model = decoding.SlidingEstimator(LinearDiscriminantAnalysis(solver='lsqr', shrinkage=.1, priors=[1/n]*n), verbose='error').fit(np.asarray(few.x[learn], 'float64'), y[learn])
            mean = np.stack([np.asarray(few.x[test], 'float64')[y[test] == k].mean(0) for k in range(n)]); hits.append(model.predict(mean) == np.arange(n)[:, None])
        ours = decode_over_time(few, 'picture', n_folds=4, measure='top1', permutations=0, draws=0)
        assert np.allclose(ours.score, np.mean(hits, (0, 1))) and ours.chance == 1/n


def test_nothing_before_onset_and_much_after(eeg):
    c = decode_over_time(eeg, permutations=100); before, after = c.times < 0, (c.times > .1) & (c.times < .25)
    assert c.simulated and c.candidates == 30 and c.p[before].min() > .05 and abs(c.score[before].mean() - .5) < .03
    assert c.score[after].mean() > .65 and c.p[after].max() < .05 and 0 < c.onset < .12 and not any('BEFORE' in n for n in c.notes) and (c.low <= c.score).all() and (c.score <= c.high).all()
    top = decode_over_time(eeg, measure='top1', permutations=50); assert top.chance == 1/30 and top.score[after].mean() > 3*top.chance
    assert 'above chance from' in repr(c) and 'simulated' in repr(c)


def test_signal_that_comes_too_early_is_reported(eeg):
    early = decode_over_time(replace(eeg, tmin=eeg.tmin - .3), permutations=50); assert any('BEFORE onset' in n for n in early.notes)


def test_many_looks_are_paid_for():
    "Noise alone: hardly more than one course in twenty has any moment above chance, for classes and for features, whichever correction."
    gen = np.random.default_rng(0); found = {}
    for s in range(40):
        x = gen.normal(size=(24*4, 5, 12)).astype('float32'); t = table_of(24, 4).assign(half=np.repeat(np.arange(24) % 2, 4)); noise = Trials(x, list('abcde'), t, 'eeg', 10, -.5); z = dict(zip(pd.unique(t.picture), gen.normal(size=(24, 3))))
        for name, how in dict(repetition=dict(n_folds=2), cluster=dict(n_folds=2, correct='cluster'), half=dict(target='half', folds='concept', n_folds=3), features=dict(target=z, n_folds=2)).items():
            found.setdefault(name, []).append(decode_over_time(noise, permutations=39, draws=0, seed=s, **{'target': 'picture', **how}).p.min() < .05)
    assert all(np.mean(v) <= .18 for v in found.values()), {k: np.mean(v) for k, v in found.items()}


def test_correction_by_hand():
    null = np.random.default_rng(0).normal(size=(199, 10)); score = np.zeros(10); score[4:7] = [2.0, 2.2, 9.]
    p = corrected_p(score, null); assert p[6] == 1/200 and p[0] > .9 and p[4] == (1 + (null.max(1) >= 2).sum())/200
    c = corrected_p(score, null, 'cluster'); assert (c[4:7] == 1/200).all() and (c[:4] == 1).all()


def test_a_window_never_reaches_forward(eeg):
    "With a signal at a single moment, decoders that see four samples find it from that moment on, and not before."
    x = np.random.default_rng(0).normal(size=np.shape(eeg.x)).astype('float32'); x[:, :, 20] += 4*np.random.default_rng(1).normal(size=(30, x.shape[1]))[pd.factorize(eeg.pictures)[0]]
    c = decode_over_time(replace(eeg, x=x), width=4, permutations=0, draws=0); at = round(float(eeg.times[20]), 9)
    assert len(c.times) == x.shape[-1] - 3 and c.score[(c.times >= at - 1e-9) & (c.times < at + .07)].min() > .95 and c.score[c.times < at - 1e-9].max() < .62 and c.score[c.times > at + .09].max() < .62


def test_people_are_decoded_apart(eeg):
    two = replace(eeg, x=np.concatenate([eeg.x, eeg.x]), table=pd.concat([eeg.table, eeg.table.assign(subject=2)], ignore_index=True))
    c = decode_over_time(two, permutations=20); assert c.each.shape[0] == 2 and c.unit == 'person' and np.allclose(c.score, decode_over_time(eeg, permutations=0).score)


def test_averages_that_share_a_presentation_are_refused(eeg):
    halves = [eeg[np.flatnonzero(eeg.table.repetition % 2 == h)].average() for h in (0, 1)]; table = pd.concat([h.table.assign(trial=h.table.trial + 10**6*i) for i, h in enumerate(halves)], ignore_index=True)
    both = replace(eeg, x=np.concatenate([h.x for h in halves]), table=table); assert decode_over_time(both, n_folds=2, permutations=0).score.max() > .7
    members = table.members.tolist(); members[30] = members[0]
    with pytest.raises(LeakError, match='two folds'): decode_over_time(replace(both, table=table.assign(members=members)), n_folds=2)
    with pytest.raises(ShapeError, match='single trial'): decode_over_time(eeg.average())


def test_a_memory_map_in_pieces_gives_the_same(eeg, tmp_path, monkeypatch):
    from brainrecon.data.trials import load_trials
    from brainrecon.metrics import time_course
    whole = decode_over_time(eeg, permutations=5).score; pieces = time_course.moments
    monkeypatch.setattr(time_course, 'moments', lambda trials, rows, width=1: ([(i, min(i + 7, trials.x.shape[-1] - width + 1)) for i in range(0, trials.x.shape[-1] - width + 1, 7)], pieces(trials, rows, width)[1]))
    assert np.allclose(decode_over_time(load_trials(eeg.save(tmp_path/'eeg')), permutations=5).score, whole)


def test_generalisation_has_the_course_on_its_diagonal(eeg):
    short = eeg.resample(25); m = generalise_over_time(short); c = decode_over_time(short, permutations=0, draws=0)
    assert m.shape == (len(c.times),)*2 and np.allclose(np.diag(m), c.score, atol=1e-6) and abs(m[c.times < 0][:, c.times > .1].mean() - .5) < .03


def test_similarity_over_time_finds_its_own_answer(pictures, eeg):
    brain = Brain('eeg', subject=1, sfreq=50); order = list(eeg.table.picture.unique()); at = [pictures.table.picture.tolist().index(p) for p in order]
    late = (brain.times > .15) & (brain.times < .25); truth = rdm(brain.evoked(pictures)[at][:, :, late].reshape(30, -1), 'euclidean')
    c = rsa_over_time(eeg, dict(truth=truth), permutations=100)['truth']; assert c.p[c.times < 0].min() > .05 and c.p[late].min() < .05 and c.score[late].max() > .3 and late[c.score.argmax()]
    with pytest.raises(ShapeError, match='conditions'): rsa_over_time(eeg, dict(a=truth[:9, :9]))


def test_the_ceiling_does_not_depend_on_the_order_of_people():
    "Mean ranks are often equal; rounding noise must not order them."
    from scipy.stats import rankdata, spearmanr
    g = np.random.default_rng(3); x = g.normal(size=(12, 30)); tables = [rdm(x + g.normal(size=x.shape)) for _ in range(6)]; i, j = np.triu_indices(12, 1)
    ranks = rankdata([t[i, j] for t in tables], axis=1); c = rsa_ceiling(tables); back = rsa_ceiling(tables[::-1])
    assert abs(c['lower'] - back['lower']) < 1e-12 and abs(c['upper'] - back['upper']) < 1e-12
    assert abs(c['upper'] - np.mean([spearmanr(r, ranks.sum(0))[0] for r in ranks])) < 1e-12
    assert abs(c['lower'] - np.mean([spearmanr(ranks[s], np.delete(ranks, s, 0).sum(0))[0] for s in range(6)])) < 1e-12
