"Retrieval, cost, contrast, similarity, time courses and reliability against brute force, other packages, reference values, and simulations whose truth is known."
import json, os
from dataclasses import replace
from itertools import combinations
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from brainrecon.alignment.contrast import bi_mixco, info_nce, mix_weights, mixco, soft_clip
from brainrecon.core.checks import ChannelError, LeakError, ParameterError, ShapeError, UnknownError, ValuesError
from brainrecon.data.pictures import load_pictures
from brainrecon.data.simulated_fmri import estimated_ncsnr, simulate_fmri
from brainrecon.data.simulated_meeg import Brain, simulate_eeg
from brainrecon.data.splits import Splits
from brainrecon.data.trials import Trials
from brainrecon.decoders.across import common_channels, fit_across, leave_one_out
from brainrecon.metrics.cost import cost_of, cost_row, flops, living_bytes
from brainrecon.metrics.encoding import drawn_counts, resampled_r, voxel_interval
from brainrecon.metrics.reliability import noise_ceiling, normalised, spearman_brown, split_half
from brainrecon.metrics.retrieval import concept_centres, laid_flat, mindeye2_draws, mindeye2_retrieval, retrieve, retrieve_in_draws, scores_from_similarity, similarity, tie_ranks
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
    for bad in ([3, 1], np.full(21, 2), [[3]*20]):
        with pytest.raises(ShapeError): noise_ceiling(x, bad)
    assert np.allclose(noise_ceiling(x, [4, 2]*10)['percent'], noise_ceiling(x, 1/np.mean([1/4, 1/2]))['percent'])
    with pytest.raises(ShapeError): noise_ceiling(Trials(np.ones((3, 2), 'float32') + np.arange(3)[:, None], ['a', 'b'], table_of(3, 1), 'fmri'))


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_the_scale_of_one_voxel_says_nothing_of_the_others(dtype):
    gen = np.random.default_rng(0); x = (gen.normal(size=(50, 1, 4)) + gen.normal(size=(50, 3, 4))).astype(dtype); y = x*np.array([1, 1e-9, 1e7, 1e12], dtype); y[..., 0] += 0
    for form in ('nsd', 'anova'):
        a, b = noise_ceiling(x, form=form), noise_ceiling(y, form=form); assert a['flat'] == b['flat'] == 0 and np.allclose(a['percent'], b['percent'], rtol=1e-4) and (a['percent'] > 0).all()
    a, b = split_half(x, 9), split_half(y, 9); assert np.allclose(a['half'], b['half'], rtol=1e-3, atol=1e-4) and (a['half'] != 0).all()
    y[..., 3] = 1e12/3; y[..., 2] = 1e7 + np.spacing(np.asarray(1e7, dtype))*gen.integers(0, 2, (50, 3)); c = noise_ceiling(y); assert c['flat'] == 2 and c['percent'][2] == c['percent'][3] == 0 and (split_half(y, 9)['half'][2:] == 0).all()


def test_noise_of_unequal_repetitions_is_the_mean_over_pictures():
    "Half of the pictures have three quiet trials, half two noisy ones, some one; by definition each repeated picture counts the same."
    gen = np.random.default_rng(0); rows = [i for i in range(90) for _ in range(1 if i >= 80 else 2 if i % 2 else 3)]; x = gen.normal(size=90)[rows] + np.where(np.array(rows) % 2, 2, .5)*gen.normal(size=len(rows))
    t = Trials(x[:, None].astype('float32'), ['v'], dict(picture=[f'p{i:02d}' for i in rows], concept=[f'p{i:02d}' for i in rows], trial=np.arange(len(rows))), 'fmri'); z = (x - x.mean())/x.std()
    noise = pd.Series(z).groupby(rows).var(ddof=1).mean(); c = noise_ceiling(t, 2); assert c['repeated'] == 80 and np.isclose(c['ncsnr'][0], np.sqrt(max(0, 1 - noise)/noise), atol=1e-5)


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


# Retrieval

quick = settings(max_examples=40, deadline=None, derandomize=True)


@quick
@given(st.integers(2, 14), st.integers(0, 10**6), st.booleans())
def test_retrieval_does_not_depend_on_order_and_likes_no_direction(n, seed, coarse):
    gen = np.random.default_rng(seed); sim = gen.integers(0, 3, (n, n)).astype(float) if coarse else gen.normal(size=(n, n)); right = np.eye(n, dtype=bool); s = scores_from_similarity(sim, right, (1,))
    order = gen.permutation(n); t = scores_from_similarity(sim[:, order], right[:, order], (1,)); assert all(np.isclose(s[k], t[k]) for k in ('top1', 'mean_rank', 'median_rank', 'rank_percentile', 'top1_optimistic', 'top1_pessimistic'))
    assert s['top1_pessimistic'] <= s['top1'] <= s['top1_optimistic'] and 0 <= s['rank_percentile'] <= 1 and np.isclose(s['rank_percentile'], 1 - (s['mean_rank'] - 1)/(n - 1)) and len(s['ranks']) == n
    flat = scores_from_similarity(np.zeros((n, n)), right, (1,)); assert np.isclose(flat['top1'], 1/n) and np.isclose(flat['rank_percentile'], .5)
    better = scores_from_similarity(sim + 5*right, right, (1,)); assert better['top1'] == 1 and better['rank_percentile'] == 1


def test_rank_percentile_is_two_way_identification_of_the_gallery():
    gen = np.random.default_rng(0); a, b = gen.normal(size=(2, 30, 8)); b = a + 2*b; sim = similarity(b, a)
    assert np.isclose(retrieve(b, a)['rank_percentile'], np.mean([(np.delete(sim[i], i) < sim[i, i]).mean() for i in range(30)]))


def test_similarity_takes_tokens_tensors_and_wide_rows():
    gen = np.random.default_rng(0); q, g = gen.normal(size=(5, 40, 1000)), gen.normal(size=(7, 40, 1000)); flat = lambda a: a.reshape(len(a), -1); unit = lambda a: a/np.linalg.norm(a, axis=1, keepdims=True)
    want = unit(flat(q)) @ unit(flat(g)).T; assert np.allclose(similarity(q, g), want, atol=1e-12)                         # 40,000 wide: two pieces
    assert np.allclose(similarity(q, g, 'correlation'), np.corrcoef(flat(q), flat(g))[:5, 5:], atol=1e-12) and np.allclose(similarity(q, g, 'dot'), flat(q) @ flat(g).T)
    assert np.allclose(similarity(torch.tensor(q, requires_grad=True), torch.tensor(g)), want, atol=1e-12) and np.allclose(similarity(torch.tensor(q).bfloat16(), torch.tensor(g).bfloat16()), want, atol=.01)
    assert laid_flat(np.zeros((3, 2, 4))).shape == (3, 8) and laid_flat(np.zeros((0, 2, 4))).shape == (0, 2, 4)
    with pytest.raises(ShapeError): similarity(np.zeros(8), np.zeros((2, 8)))
    with pytest.raises(ShapeError): similarity(np.zeros((2, 4, 2)), np.zeros((2, 9)))
    same = similarity(q, np.concatenate([g[:2], g[:2]])); assert np.abs(same[:, :2] - same[:, 2:]).max() < 1e-12


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_similarities_that_are_no_numbers_are_refused(bad):
    right = np.eye(5, 6, dtype=bool); sim = np.random.default_rng(0).normal(size=(5, 6)); one = sim.copy(); one[2, 4] = bad
    for s in (np.full((5, 6), bad), one):
        with pytest.raises(ValuesError, match='not finite'): tie_ranks(s, right)
        with pytest.raises(ValuesError, match='not finite'): scores_from_similarity(s, right)


def test_small_vectors_are_no_ties():
    gen = np.random.default_rng(0); z = gen.normal(size=(60, 16)); b = .5*z + gen.normal(size=z.shape); z[9] = z[4]; want = {kind: retrieve(b, z, kind=kind) for kind in ('dot', 'cosine', 'correlation')}
    for scale in (1e-8, 1e-5, 1e6):
        for kind, w in want.items(): got = retrieve(scale*b, scale*z, kind=kind); assert all(np.isclose(got[k], w[k]) for k in ('top1', 'top5', 'mean_rank', 'top1_pessimistic')) and ('warning' in got) == ('warning' in w)
        a, c = (scores_from_similarity(s*similarity(b, z, 'dot'), np.eye(60, dtype=bool)) for s in (1, scale)); assert np.array_equal(a['ranks'], c['ranks'])


def test_copies_of_a_picture_count_as_right():
    gen = np.random.default_rng(0); img = gen.normal(size=(20, 8)); names = np.array([f'p{i}' for i in range(20)]); r = retrieve(img, np.concatenate([img, img[:10]]), names, np.concatenate([names, names[:10]]), ks=(1, 5))
    assert r['top1'] == r['top1_optimistic'] == 1 and r['candidates'] == 30 and np.isclose(r['chance'][1], (10*2 + 10*1)/20/30)


def test_centres_are_means_of_other_pictures():
    gen = np.random.default_rng(0); z = gen.normal(size=(12, 5)); concept = list('aaaabbbbcccc'); picture = [f'{c}{i}' for i, c in enumerate(concept)]; c = concept_centres(z, picture, concept, ['a0', 'b4', 'b5'])
    assert np.allclose(c['z'], [z[1:4].mean(0), z[6:8].mean(0), z[8:].mean(0)]) and c['concepts'] == ['a', 'b', 'c'] and c['counts'].tolist() == [3, 2, 4] and c['pictures'][1] == 'b: centre of 2 pictures'
    assert np.allclose(concept_centres(torch.tensor(z).reshape(12, 5, 1), picture, concept)['z'][2], z[8:].mean(0)) and concept_centres(z[:5], picture[:5], concept[:5])['pictures'][1].endswith('1 picture')
    assert np.allclose(concept_centres(z, picture, concept, 'a0')['z'][0], z[1:4].mean(0))
    for bad, error in ((dict(leave_out=picture[:4]), UnknownError), (dict(leave_out=['zz']), UnknownError), (dict(concepts=concept[:3]), ShapeError), (dict(z=np.where(z > 2, np.nan, np.nan)), ValuesError)):
        with pytest.raises(error): concept_centres(**{**dict(z=z, pictures=picture, concepts=concept), **bad})


def test_the_draws_are_those_of_numpys_old_global_generator():
    before = np.random.get_state()
    try: np.random.seed(42); want = [np.random.choice(np.arange(1000), size=300, replace=False) for _ in range(30)]
    finally: np.random.set_state(before)
    assert (mindeye2_draws(1000) == np.stack(want)).all() and mindeye2_draws(300).shape == (30, 300)
    for bad in (dict(n=299), dict(n=500, draws=0), dict(n=500, size=0)):
        with pytest.raises(ShapeError): mindeye2_draws(**bad)


def test_mindeye2_directions_against_its_own_lines():
    "The cosine helper returns its result transposed, and top-k works along rows."
    gen = np.random.default_rng(0); img = torch.tensor(gen.normal(size=(120, 3, 4))); brain = img + 2*torch.tensor(gen.normal(size=(120, 3, 4))); fwd, bwd = [], []
    def cosine(z, b): z, b = z.flatten(1), b.flatten(1).T; return ((z @ b)/(torch.linalg.norm(z, dim=1, keepdim=True) @ torch.linalg.norm(b, dim=0, keepdim=True))).T
    top = lambda sim: (torch.argsort(sim, axis=1)[:, -1] == torch.arange(len(sim))).double().mean().item()
    for rows in mindeye2_draws(120, 10, 50): e, e_ = img[rows], brain[rows]; fwd.append(top(cosine(e_, e))); bwd.append(top(cosine(e, e_)))
    got = mindeye2_retrieval(brain, img, 10, 50)
    for name, each, sides in (('MindEye2 fwd (image retrieval)', fwd, ('image', 'brain')), ('MindEye2 bwd (brain retrieval)', bwd, ('brain', 'image'))):
        g, half = got[name], 1.96*np.std(each)/np.sqrt(10); assert np.isclose(g['top1'], np.mean(each)) and np.allclose([g['low'], g['high']], [np.mean(each) - half, np.mean(each) + half]) and (g['query'], g['gallery']) == sides
        assert 'too narrow' in g['interval'] and g['chance'] == 1/50 and (g['draws'], g['candidates'], g['seed']) == (10, 50, 42)
    assert np.mean(fwd) != np.mean(bwd)
    with pytest.raises(ShapeError, match='matched by row'): retrieve_in_draws(brain[:50], img, 3, 20)


# Cost

@pytest.mark.parametrize('model, x, want', [(torch.nn.Linear(7, 5), torch.zeros(3, 7), 2*3*7*5), (torch.nn.Conv1d(4, 6, 3, padding=1), torch.zeros(2, 4, 10), 2*2*10*6*4*3), (torch.nn.LSTM(8, 16), torch.zeros(3, 1, 8), 3*2*4*16*(8 + 16)),
    (torch.nn.GRU(8, 16), torch.zeros(3, 1, 8), 3*2*3*16*(8 + 16))], ids=lambda v: type(v).__name__ if isinstance(v, torch.nn.Module) else None)
def test_operations_by_hand(model, x, want):
    assert flops(model, x) == dict(flops=want, uncounted=[]) and flops(model.eval(), x)['flops'] == want


def test_operations_of_a_transformer_do_not_vanish_when_it_is_evaluated():
    m = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False); x = torch.zeros(2, 10, 16); each = 2*(20*16*48 + 20*16*16 + 2*20*16*32) + 2*2*2*2*10*10*8
    assert flops(m.eval(), x) == flops(m.train(), x) == dict(flops=2*each, uncounted=[])
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.mkldnn.enabled and flops(torch.fft.rfft, torch.zeros(4, 8))['uncounted'] == ['_fft_r2c']


def test_memory_by_hand():
    x = torch.zeros(10, 1000); assert living_bytes(lambda a: (a + 1) + 2, x) == 2*40_000 and living_bytes(lambda a: a.T[:5], x) == 0 and living_bytes(lambda a: (a*1, a*2, a*3), x) == 3*40_000
    def chain(a):
        for _ in range(50): a = a + 1
        return a
    assert living_bytes(chain, x) == 2*40_000                                    # old ones vanish
    c = cost_of(torch.nn.Linear(1000, 10), x, repeats=2, warm=0); assert c['memory_mb'] == (4*10_010 + 40_000 + 400)/1e6 and c['parameters'] == 10_010 and c['flops'] == 2*10*1000*10 and c['batch'] == 10
    row = cost_row(c, 'linear'); assert row['parameters (M)'] == .01 and row['batch'] == 10 and row['device'] == 'cpu' and c['seconds_per_picture'] == c['seconds']/10 and row['method'] == 'linear'
    for bad, error in (((), ShapeError), ((torch.zeros(0, 1000),), ShapeError), ((torch.tensor(1.),), ShapeError)):
        with pytest.raises(error): cost_of(torch.nn.Linear(1000, 10), *bad)
    with pytest.raises(ParameterError): cost_of(torch.nn.Linear(1000, 10), x, warm=-1)


# Contrast

def test_soft_targets_become_hard_when_cold_and_even_when_hot():
    g = torch.Generator().manual_seed(0); brain, img = (F.normalize(torch.randn(12, 8, generator=g).double(), dim=1) for _ in range(2))
    assert abs(soft_clip(brain, img, 1e-3) - info_nce(brain, img, 1e3))/info_nce(brain, img, 1e3) < 1e-6 and abs(soft_clip(brain, img, 1e4) - np.log(12)) < 1e-3
    order = torch.randperm(12, generator=g); assert torch.isclose(soft_clip(brain, img), soft_clip(brain[order], img[order])) and torch.isclose(soft_clip(3*brain, 2*img), soft_clip(brain, img, normalise=False))
    target = (img @ img.T/.125).softmax(-1); assert soft_clip(img, img) >= -(target*target.log()).sum(-1).mean() - 1e-9          # never below the entropy of its targets
    for bad in (0, -1, float('nan')):
        for loss in (lambda t: soft_clip(brain, img, t), lambda t: bi_mixco(brain, img, order, torch.ones(12), t)):
            with pytest.raises(ParameterError): loss(bad)
    with pytest.raises(ShapeError): soft_clip(brain, img[:5])


def test_mixtures_are_those_of_the_formula():
    g = torch.Generator().manual_seed(0); x = torch.randn(9, 4, 5, generator=g); kept = x.clone(); mixed, perm, betas, select = mixco(x, seed=3)
    for i in range(9): want = betas[i]*x[i] + (1 - betas[i])*x[perm[i]] if select[i] else x[i]; assert torch.allclose(mixed[i], want)
    assert torch.equal(x, kept) and (betas[~select] == 1).all() and sorted(perm.tolist()) == list(range(9)) and mixed.dtype == x.dtype
    again = mixco(x, seed=3); assert all(torch.equal(a, b) for a, b in zip(again, (mixed, perm, betas, select))) and not torch.equal(mixco(x, seed=4)[1], perm)
    share = np.mean([mixco(x, seed=s)[3].double().mean() for s in range(200)]); assert abs(share - .5) < .06
    b = np.concatenate([mixco(x, share=1, seed=s)[2].numpy() for s in range(200)]); assert abs(b.mean() - .5) < .04 and ((b < .05) | (b > .95)).mean() > .5
    for bad, error in ((dict(beta=-1), ParameterError), (dict(share=2), ParameterError), (dict(perm=torch.arange(4)), ShapeError), (dict(betas=torch.ones(3)), ShapeError)):
        with pytest.raises(error): mixco(x, **bad)


def test_weights_of_mixtures_against_the_two_assignments():
    perm, betas = torch.tensor([1, 0, 2, 4, 3]), torch.tensor([.1, .2, .3, .4, 1.]); w = mix_weights(perm, betas)
    for i in range(5):
        for j in range(5): want = 1 - betas[i] if j == perm[i] else betas[i] if i == j else 0.; assert w[i, j] == want
    z = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).double(), dim=1); assert torch.isclose(bi_mixco(z, z, torch.roll(torch.arange(5), 1), torch.ones(5)), info_nce(z, z, 10.))
    live = z.clone().requires_grad_(); (soft_clip(live, z) + bi_mixco(live, z, perm, betas)).backward(); assert torch.isfinite(live.grad).all() and live.grad.abs().sum() > 0


# Across people

def person(subject, names='abc', concepts=12, kind='eeg', tmin=0.):
    gen = np.random.default_rng(subject); t = pd.DataFrame(dict(picture=[f'c{i}/0' for i in range(concepts)], concept=[f'c{i}' for i in range(concepts)], subject=subject))
    x = gen.normal(size=(concepts, len(names), 5) if kind == 'eeg' else (concepts, len(names))).astype('float32'); return Trials(x, list(names), t, kind, 10. if kind == 'eeg' else None, tmin)


sides = dict(valid=['c8', 'c9'], test=['c10', 'c11'])


def test_each_person_is_left_out_once_and_never_learned_from():
    folds = list(leave_one_out({f'p{s}': person(s) for s in (1, 2, 3)}, **sides)); assert [f.held_out for f in folds] == ['p1', 'p2', 'p3']
    for i, f in enumerate(folds, 1):
        t = f.splits; assert set(t.train.table.subject) == set(t.valid.table.subject) == {1, 2, 3} - {i} and set(t.test.table.subject) == {i} and f'p{i}' not in f.learned and len(f.learned) == 2
        assert not set(t.train.concepts) & {*sides['valid'], *sides['test']} and set(t.valid.concepts) == set(sides['valid']) and set(t.test.table.concept) == set(sides['test']) and len(t.train) == 16
        whole = person(f.splits.train.table.subject.iloc[0]); assert np.array_equal(t.train.x[:8], whole.x[:8])
    assert [f.held_out for f in leave_one_out({s: person(s) for s in (1, 2, 3)}, held_out=[2], **sides)] == [2]


def test_the_seal_belongs_to_the_person():
    from brainrecon.data.splits import split_concepts
    people = {s: split_concepts(person(s), **sides) for s in (1, 2)}; people[1].test.open('within')
    with pytest.raises(LeakError, match='read already'): next(leave_one_out(people)).splits.test.open('across')
    with pytest.raises(LeakError, match='read already'): next(leave_one_out(common_channels(people))).splits.test.open('across')


def test_a_test_concept_that_another_person_learned_is_found():
    from brainrecon.data.splits import split_concepts
    people = {1: split_concepts(person(1), **sides), 2: split_concepts(person(2), valid=['c0'], test=['c1'])}
    with pytest.raises(LeakError, match='train and test'): list(leave_one_out(people))
    own = {s: split_concepts(person(s), **sides) for s in (1, 2, 3)}; own[2] = Splits(own[2].train, own[2].test._trials, Splits(own[2].train, own[2].valid, own[2].test._trials).valid)      # validated on the test pictures
    with pytest.raises(LeakError): list(leave_one_out(own))


def test_people_that_cannot_be_joined():
    with pytest.raises(ChannelError, match='2 names are common'): leave_one_out({1: person(1), 2: person(2, 'abx')}, **sides)
    with pytest.raises(ChannelError, match='share none'): leave_one_out({1: person(1), 2: person(2, 'xyz')}, **sides)
    with pytest.raises(ChannelError, match='another order'): leave_one_out({1: person(1), 2: person(2, 'cba')}, **sides)
    with pytest.raises(ShapeError, match='windows'): list(leave_one_out({1: person(1), 2: person(2, tmin=.1), 3: person(3)}, **sides))
    with pytest.raises(ShapeError, match='fmri'): leave_one_out({1: person(1), 2: person(2, kind='fmri')}, **sides)
    with pytest.raises(ChannelError, match='each brain'): leave_one_out({1: person(1, kind='fmri'), 2: person(2, kind='fmri')}, **sides)
    assert len(list(leave_one_out({1: person(1, kind='fmri'), 2: person(2, kind='fmri')}, shared_space='fsaverage', **sides))) == 2
    with pytest.raises(UnknownError, match='both are person 1'): leave_one_out({'a': person(1), 'b': person(1)}, **sides)
    with pytest.raises(ShapeError, match='at least two'): leave_one_out({1: person(1)}, **sides)
    with pytest.raises(ParameterError): leave_one_out({1: person(1), 2: person(2)})
    with pytest.raises(ShapeError, match='type int'): leave_one_out({1: 5, 2: 6})
    from brainrecon.data.splits import split_concepts
    both = common_channels({1: split_concepts(person(1), **sides), 2: split_concepts(person(2, 'cxb'), **sides)}); assert both[1].train.names == both[2].train.names == both[2].test._trials.names == ['b', 'c']
    assert np.array_equal(both[2].train.x[:, 0], person(2, 'cxb').x[:8, 2]) and len(list(leave_one_out(both))) == 2
    with pytest.raises(ChannelError, match='no channel'): common_channels({1: split_concepts(person(1), **sides), 2: split_concepts(person(2, 'xyz'), **sides)})


def test_decoders_start_anew_for_each_person():
    class Counts:
        def fit(self, train, valid, gallery): self.recording, self.seen = {}, set(train.table.subject); return self
    out = fit_across({s: person(s) for s in (1, 2, 3)}, Counts, None, **sides); assert [d.seen for _, d in out] == [{2, 3}, {1, 3}, {1, 2}]
    one = Counts()
    with pytest.raises(LeakError, match='learned before'): fit_across({s: person(s) for s in (1, 2, 3)}, lambda: one, None, **sides)


# Intervals of predicted responses

def test_resampled_correlations_are_numpys_or_undefined():
    "Sparse voxels: in many draws they do not vary; small samples: no end beyond 1."
    gen = np.random.default_rng(0); x = np.zeros((20, 3)); x[4, 0] = x[7, 1] = 1; x[:, 2] = gen.normal(size=20); y = x + .1*gen.normal(size=x.shape); w = drawn_counts(20, None, 300, 0)
    for other in (y, x.copy()):
        r = resampled_r(x, other, w)
        for row, counts in zip(r, w.astype(int)):
            a, b = x.repeat(counts, 0), other.repeat(counts, 0); assert all(np.isnan(row[v]) if np.ptp(a[:, v]) == 0 or np.ptp(b[:, v]) == 0 else np.isclose(row[v], np.corrcoef(a[:, v], b[:, v])[0, 1]) for v in range(3))
        assert .2 < np.isnan(r[:, 0]).mean() < .5 and np.nanmax(np.abs(r)) <= 1
    for summary in ('mean', 'median'): m = voxel_interval(x, y, summary=summary, draws=300, sets=dict(all=[0, 1, 2], sparse=[0])); assert m['all']['used'] == 300 > m['sparse']['used'] > 150 and -1 <= m['sparse']['low'] <= m['sparse']['value'] <= m['sparse']['high'] <= 1
    for n in (3, 5, 40):
        a = gen.normal(size=(n, 20)); b = a + .3*gen.normal(size=a.shape); m = voxel_interval(a, b, draws=300)['all voxels']; assert -1 <= m['low'] <= m['value'] <= m['high'] <= 1 and 250 < m['used'] <= 300, m
    assert voxel_interval(a, b, draws=300, scale=np.full(20, .5))['all voxels']['high'] > 1                       # in units of a ceiling there is no such end
