"Intervals that hold the truth as often as they promise, tests that are right about nothing, and the same answers as brute force and other packages."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binom, binomtest, false_discovery_control
from brainrecon.core.checks import ParameterError, ShapeError, UnknownError, ValuesError
from brainrecon.metrics.chance import bootstrap, permutation_p, retrieval_null, sign_flip_p
from brainrecon.metrics.retrieval import retrieve, similarity
from brainrecon.metrics.statistics import (bootstrap_groups, by_unit, correct, coverage, expected_skill, hit_like, identification_interval, identification_null, interval,
    p_error, people_p, scored, seed_spread, share_interval, simulated_skill, win_shares)

quick = settings(max_examples=40, deadline=None, derandomize=True)


# A decoder of known skill

@pytest.mark.parametrize('weight, candidates, width', [(0., 50, 64), (.2, 200, 64), (.4, 500, 256), (.8, 20, 8), (1., 20, 3), (.3, 200, 1024)])
def test_the_skill_is_what_a_large_simulation_finds(weight, candidates, width):
    "Responses and right pictures drawn 4,000 times, against twenty sets of wrong pictures."
    gen = np.random.default_rng(0); unit = lambda *shape: (lambda a: a/np.linalg.norm(a, axis=-1, keepdims=True))(gen.normal(size=shape)); top, two, want = [], [], expected_skill(weight, candidates, width)
    for _ in range(20):
        u, wrong = unit(200, width), unit(candidates - 1, width); b = weight*u + gen.normal(size=u.shape)/np.sqrt(width); above = b @ wrong.T > (b*u).sum(1, keepdims=True)
        top.append((~above).all(1).mean()); two.append(1 - above.mean())
    for seen, true in ((top, want['top1']), (two, want['two_way'])): assert abs(np.mean(seen) - true) < 4*max(np.std(seen, ddof=1)/np.sqrt(20), 1e-4), (seen, true)
    if weight == 0: assert abs(want['top1'] - 1/candidates) < 1e-6 and abs(want['top5'] - 5/candidates) < 1e-6 and abs(want['two_way'] - .5) < 1e-9


@pytest.mark.parametrize('skill, n', [(.01, 200), (.2, 200), (.6, 50)])
def test_embeddings_have_the_skill_that_was_asked_for(skill, n):
    top = [(lambda m: (similarity(m['brain'], m['image']).argmax(1) == np.arange(n)).mean())(simulated_skill(n, skill, seed=s)) for s in range(100)]
    assert abs(np.mean(top) - skill) < 4*np.std(top, ddof=1)/10 and abs(simulated_skill(n, skill)['expected']['top1'] - skill) < 1e-6
    a, b = simulated_skill(n, skill, seed=3), simulated_skill(n, skill, seed=3); assert (a['brain'] == b['brain']).all()
    s = retrieve(a['brain'], a['image']); assert s['n'] == n and np.allclose(1 - (s['ranks'] - 1)/(n - 1), np.diag(win_shares(similarity(a['brain'], a['image']), 'rows')))


def test_more_candidates_than_questions():
    m = simulated_skill(30, .1, candidates=300, seed=1); assert m['image'].shape == (300, 64) and m['brain'].shape == (30, 64) and abs(m['expected']['top1'] - .1) < 1e-6
    for bad in (dict(n=0), dict(n=10, candidates=5), dict(width=2)):
        with pytest.raises(ShapeError): simulated_skill(**{**dict(n=20, skill=.2), **bad})
    for skill in (0., 1., -1., 20, float('nan')):
        with pytest.raises(ValuesError): simulated_skill(200, skill)


# The promise of intervals

@pytest.mark.parametrize('skill', [.005, .03, .3])
def test_the_usual_interval_holds_the_true_top1(skill):
    "300 decoders of known skill, 200 shared candidates: at least 95 % of the intervals hold it, within luck."
    found = []
    for s in range(300):
        m = simulated_skill(200, skill, seed=s); hits = similarity(m['brain'], m['image']).argmax(1) == np.arange(200); found.append(interval(hits))
    c = coverage([f['low'] for f in found], [f['high'] for f in found], skill); assert c['runs'] == 300 and c['share'] >= c['least'], c
    assert {f['interval'] for f in found} == {'exact'}


@pytest.mark.parametrize('skill', [.02, .2])
def test_the_interval_holds_the_true_two_way_score(skill):
    truth, ends = simulated_skill(100, skill)['expected']['two_way'], []
    for s in range(300):
        m = simulated_skill(100, skill, seed=s); b = interval(np.diag(win_shares(similarity(m['image'], m['brain'])))); ends.append((b['low'], b['high']))
    c = coverage(*np.array(ends).T, truth); assert c['least'] <= c['share'], c


@pytest.mark.parametrize('a, b, n', [(3, 2, 60), (8, 8, 10), (30, 20, 200)])
def test_students_interval_holds_the_mean_of_graded_scores_neither_less_nor_more_often(a, b, n):
    "Independent scores between 0 and 1: the share is 95 %, from both sides. The exact interval of the same scores is conservative."
    gen = np.random.default_rng(0); v = gen.beta(a, b, (2000, n)); ends = np.array([[interval(x, k)[e] for k in ('auto', 'exact') for e in ('low', 'high')] for x in v])
    c, safe = coverage(*ends[:, :2].T, a/(a + b)), coverage(*ends[:, 2:].T, a/(a + b)); assert c['least'] <= c['share'] <= c['most'], c
    assert safe['share'] > safe['most'] and not hit_like(v[0])


def test_intervals_end_where_scores_end():
    v = [.99, 1, .7, .98, .99]; wide = interval(v, bounds=(-np.inf, np.inf)); assert interval(v)['high'] == 1 < wide['high'] and interval(v)['low'] == wide['low']
    assert interval([0., .01, .3, .02, .01])['low'] == 0 and interval([-.1, .9, .99, .98])['high'] > 1 and interval([-.1, .9, .99, .98], bounds=(-1, 1))['high'] == 1
    people = np.array([[.98]*5, [.99]*5, [.6]*5]); assert bootstrap_groups(people)['high'] == 1 < bootstrap_groups(people, bounds=(-9, 9))['high'] and scored(people, over='subjects')['high'] == 1 and scored(v, bounds=(-9, 9))['high'] > 1
    for bad in ((0, .5), (1, 0), 1, (0, np.nan)):
        with pytest.raises(ValuesError): interval(v, bounds=bad)


def test_the_percentile_interval_does_not_and_the_exact_one_does_at_every_skill():
    "Exactly, by the binomial distribution, with no simulation."
    n, x = 200, np.arange(201); held = {}
    ends = dict(percentile=(binom.ppf(.025, n, x/n)/n, binom.ppf(.975, n, x/n)/n), **{k: np.array([share_interval(i/n, n, k) for i in x]).T for k in ('exact', 'wilson')})
    for p in np.geomspace(.003, .5, 60):
        for k, (low, high) in ends.items(): held.setdefault(k, []).append(binom.pmf(x, n, p)[(low <= p) & (p <= high)].sum())
    assert min(held['exact']) >= .95 and min(held['percentile']) < .7 and min(held['wilson']) > .9 and abs(np.mean(held['wilson']) - .95) < .01
    zeros = interval(np.zeros(200), 'percentile'); assert zeros['low'] == zeros['high'] == 0 and interval(np.zeros(200))['high'] > .015


@quick
@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([.5, .8, .95, .99]))
def test_share_intervals_agree_with_scipy(n, share, level):
    k = round(share*n); test = binomtest(k, n)
    for ours, theirs in (('exact', 'exact'), ('wilson', 'wilson')):
        want = test.proportion_ci(level, theirs); got = share_interval(k/n, n, ours, level)
        assert np.allclose(got, want, atol=1e-9) and got[0] <= k/n + 1e-12 and k/n <= got[1] + 1e-12
    low, high = share_interval(k/n, n, 'exact', level); back = share_interval(1 - k/n, n, 'exact', level); assert np.allclose([low, high], [1 - back[1], 1 - back[0]], atol=1e-9)


def test_hits_of_seeds_and_ties_stay_on_the_safe_side():
    "The mean over three seeds near chance: most values are 0, some are thirds."
    gen, ends = np.random.default_rng(0), []
    for _ in range(300):
        v = (gen.random((3, 200)) < .01).mean(0); assert hit_like(v); ends.append(tuple(interval(v)[k] for k in ('low', 'high')))
    c = coverage(*np.array(ends).T, .01); assert c['share'] >= c['least']
    assert not hit_like(np.linspace(.2, .9, 20)) and not hit_like(np.full(5, 2.)) and interval(gen.normal(size=30))['interval'] == 'student'


@quick
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=40), st.integers(0, 99))
def test_order_does_not_matter(values, seed):
    v = np.array(values); shuffled = np.random.default_rng(seed).permutation(v)
    for k in ('student', *(('exact', 'wilson') if v.min() >= 0 and v.max() <= 1 else ())): a, b = interval(v, k), interval(shuffled, k); assert np.allclose([a['low'], a['high']], [b['low'], b['high']], atol=1e-9)
    a, b = interval(v, 'student'), interval(v, 'student', .5); assert a['low'] <= b['low'] <= v.mean() + 1e-12 and v.mean() - 1e-12 <= b['high'] <= a['high']


def test_bad_intervals():
    for bad, error in (([1.], ShapeError), ([1., np.nan], ValuesError), ([[1., 2.]], ShapeError), (['a', 'b'], ValuesError)):
        with pytest.raises(error): interval(bad)
    for level in (0, 1, 95, -1):
        with pytest.raises(ParameterError): interval([0., 1.], level=level)
        with pytest.raises(ParameterError): share_interval(.5, 9, level=level)
    for share, n in ((2, 9), (-.1, 9), (.5, 0), (float('nan'), 5)):
        with pytest.raises(ValuesError): share_interval(share, n)
    with pytest.raises(UnknownError): interval([0., 1.], 'jeffreys')
    with pytest.raises(ShapeError): coverage([], [], 0)


# People

@pytest.mark.parametrize('people, pictures', [(3, 50), (8, 30)])
@pytest.mark.parametrize('same', [True, False])
def test_groups_hold_the_truth(people, pictures, same):
    "People, pictures (common to all, or each their own) and noise vary; the interval speaks of new ones of all three."
    ends = []
    for s in range(150):
        gen = np.random.default_rng(s); v = .6 + .05*gen.normal(size=(people, 1)) + .05*gen.normal(size=pictures if same else (people, pictures)) + .2*gen.normal(size=(people, pictures))
        b = bootstrap_groups(v, draws=300, seed=s, same_pictures=same); ends.append((b['low'], b['high']))
    c = coverage(*np.array(ends).T, .6); assert c['share'] >= c['least'], c


def test_percentiles_of_three_people_are_too_narrow():
    def ends(s, kind): b = bootstrap_groups(np.random.default_rng(s).normal(size=(3, 1)) + .1*np.random.default_rng(-s % 999).normal(size=(3, 20)), draws=300, kind=kind, seed=s); return b['low'], b['high']
    held = {k: coverage(*np.array([ends(s, k) for s in range(150)]).T, 0)['share'] for k in ('student', 'percentile')}; assert held['percentile'] < .85 < .9 < held['student'], held


def test_tables_of_people():
    gen = np.random.default_rng(0); v = gen.normal(size=(5, 12)); long = pd.DataFrame(dict(subject=np.repeat(list('abcde'), 12), picture=np.tile(np.arange(12), 5), value=v.ravel())); a, b = bootstrap_groups(v), bootstrap_groups(long)
    assert np.allclose([a['low'], a['high'], a['mean']], [b['low'], b['high'], b['mean']]) and b['names'] == list('abcde') and np.allclose(b['each'], v.mean(1))
    twice = pd.concat([long, long.assign(value=long.value + .2)]); assert np.isclose(bootstrap_groups(twice)['mean'], v.mean() + .1)                       # two scores of one picture are averaged
    part = long.drop(index=range(6)); c = bootstrap_groups(part); assert not c['same_pictures'] and np.isclose(c['mean'], np.mean([v[0, 6:].mean(), *v[1:].mean(1)]))  # the mean of people, however many pictures each saw
    shuffled = long.sample(frac=1, random_state=0); assert np.isclose(bootstrap_groups(shuffled)['mean'], a['mean'])
    assert 'wide' in a['warning'] and not bootstrap_groups(gen.normal(size=(12, 4)))['warning']
    for bad, error in ((v[:1], ShapeError), (v[0], ShapeError), (np.where(v > 2, np.nan, v) if (v > 2).any() else np.full((3, 3), np.nan), ValuesError), ([[1., 2.], [1.]], ValuesError), (long.drop(columns='value'), UnknownError), (long.assign(value=np.nan), ValuesError)):
        with pytest.raises(error): bootstrap_groups(bad)


def test_people_p_counts_all_patterns():
    gen = np.random.default_rng(0); d = gen.normal(.3, 1, 8); brute = np.mean([abs(np.mean(d*s)) >= abs(d.mean()) - 1e-12 for s in np.array(np.meshgrid(*[[-1, 1]]*8)).reshape(8, -1).T])
    got = people_p(d, 0); assert got['exact'] and got['p'] == brute and got['smallest'] == 2/256
    assert people_p(d, np.zeros(8)) == got and people_p(d[:, None] + np.zeros((8, 3)), 0)['p'] == got['p'] and people_p(-d, 0)['p'] == got['p']
    many = people_p(gen.normal(1, 1, 30), 0); assert not many['exact'] and many['p'] < .05 and many['smallest'] == 1/10001
    assert np.mean([people_p(gen.normal(size=6), 0)['p'] <= .05 for _ in range(400)]) < .05 + 3*np.sqrt(.05*.95/400)
    with pytest.raises(ShapeError): people_p(d, d[:3])


# Two-way identification

def brute_two_way(sim, fixed, half=False):
    s = sim.T if fixed == 'columns' else sim; out = []
    for i, row in enumerate(s): w = np.delete(row, i); out.append((w < row[i]).mean() + half*.5*(w == row[i]).mean())
    return np.array(out)


@quick
@given(st.integers(2, 12), st.integers(0, 10**6), st.sampled_from(['columns', 'rows']), st.booleans(), st.booleans())
def test_win_shares_are_two_way_scores(n, seed, fixed, half, coarse):
    gen = np.random.default_rng(seed); sim = gen.integers(0, 3, (n, n)).astype(float) if coarse else gen.normal(size=(n, n)); ties = 'half' if half else 'strict'
    w = win_shares(sim, fixed, ties); assert np.allclose(np.diag(w), brute_two_way(sim, fixed, half)) and np.allclose(win_shares(sim.T, 'rows' if fixed == 'columns' else 'columns', ties), w.T)
    order = gen.permutation(n); moved = sim[order][:, order]; assert np.allclose(np.diag(win_shares(moved, fixed, ties)), np.diag(w)[order])
    if half: assert np.allclose(w.mean(0 if fixed == 'columns' else 1), .5)      # every row of ranks adds up to one half


def test_the_null_is_that_of_shuffling():
    gen = np.random.default_rng(0); a, b = gen.normal(size=(25, 9)), gen.normal(size=(25, 9)); sim = similarity(a, b, 'correlation'); null = identification_null(sim, draws=200, seed=3)
    order = np.random.default_rng(3).permutation(25); assert np.isclose(null[0], brute_two_way(sim[order], 'columns').mean()) and np.allclose(identification_null(a, b, draws=200, seed=3), null)
    p = [permutation_p(brute_two_way(s := np.random.default_rng(i).normal(size=(25, 25)), 'columns').mean(), identification_null(s, draws=99, seed=i)) for i in range(200)]
    assert abs(np.mean(np.array(p) <= .05) - .05) < 3*np.sqrt(.05*.95/200) and abs(np.mean(p) - .5) < .08
    for bad, error in ((sim[:5], ShapeError), (np.full((4, 4), np.nan), ValuesError), (np.ones((1, 1)), ShapeError)):
        with pytest.raises(error): identification_null(bad)


def test_a_new_test_set_has_its_own_interval():
    "Originals that resemble everything: the pool drawn anew has the spread of new test sets, the fixed pool has not."
    found = []
    for s in range(120):
        gen = np.random.default_rng(s); m = simulated_skill(60, .1, seed=s); sim = similarity(m['image'], m['brain']) + .15*gen.normal(size=(60, 1)); found.append([identification_interval(sim, p, draws=200)[k] for p in ('fixed', 'resampled') for k in ('mean', 'low', 'high')])
    f = np.array(found); spread = f[:, 0].std(); widths = [(f[:, i + 2] - f[:, i + 1]).mean()/3.92 for i in (0, 3)]; assert abs(widths[1]/spread - 1) < .25 < widths[0]/spread - 1, (spread, widths)
    sim = np.round(np.random.default_rng(0).normal(size=(9, 9)))
    for fixed in ('columns', 'rows'):
        for ties in ('strict', 'half'): assert np.isclose(identification_interval(sim, 'resampled', fixed=fixed, ties=ties)['mean'], brute_two_way(sim, fixed, ties == 'half').mean())


@pytest.mark.parametrize('scale', [1e-12, 1e-3, 1., 1e9])
def test_ties_do_not_depend_on_the_scale(scale):
    gen = np.random.default_rng(0); a, b = gen.normal(size=(2, 40, 8)); b = a + b; sim = a @ b.T; sim[:, 7] = sim[:, 3]; sim[5] = sim[6]
    for fixed in ('columns', 'rows'):
        for ties in ('strict', 'half'): assert np.array_equal(win_shares(sim, fixed, ties), win_shares(scale*sim, fixed, ties)) and np.isclose(identification_interval(sim, 'resampled', 50, fixed=fixed, ties=ties)['low'], identification_interval(scale*sim, 'resampled', 50, fixed=fixed, ties=ties)['low'])
    assert np.allclose(identification_null(a, b, 20), identification_null(max(scale, 1e-6)*a, b, 20))


@pytest.mark.parametrize('n', [2, 3, 4, 5, 8])
def test_small_new_test_sets_have_an_interval(n):
    sim = np.eye(n) + .8*np.random.default_rng(0).normal(size=(n, n)); d = identification_interval(sim, 'resampled', draws=1000); assert 0 <= d['low'] <= d['mean'] <= d['high'] <= 1
    want = 1000*n**(1 - n)/(1 - n**(1 - n)); assert abs(d['redrawn'] - want) < 4*np.sqrt(2*want) + 1, d            # a draw is of one picture with probability n^(1 - n)
    assert identification_interval(sim, 'fixed')['redrawn'] == 0


def test_tables_of_draws_must_fit():
    v = np.arange(50.); gen = np.random.default_rng(0); index = gen.integers(0, 50, (500, 50)); assert bootstrap(v, index=index)['draws'] == 500
    for bad in (index[:, :5], index[0], index + 1, index*.5, index > 3, index[:0]):
        with pytest.raises(ShapeError): bootstrap(v, index=bad)
    signs = gen.choice([-1, 1], (200, 50)); assert sign_flip_p(v, 0*v, signs)['p'] == sign_flip_p(v, 0*v, signs.astype('float32'))['p'] == 1/201
    for bad, error in ((signs[:, :1], ShapeError), (signs[0], ShapeError), (0*signs, ValuesError), (2*signs, ShapeError), (.5*signs, ShapeError)):
        with pytest.raises(error): sign_flip_p(v, 0*v, bad)


def test_the_null_of_retrieval_shuffles_pairs_only():
    "Square galleries as before; distractors and copies keep the promise of 5 %."
    gen = np.random.default_rng(0); sim = gen.normal(size=(30, 30)); rng = np.random.default_rng(5); want = [(sim.argmax(1) == rng.permutation(30)).mean() for _ in range(50)]; eye = np.eye(30, dtype=bool)
    assert np.allclose(retrieval_null(sim, 50, 5), want) and np.allclose(retrieval_null(sim, 50, 5, eye), want) and np.allclose(retrieval_null(np.ones((30, 30)), 9), 1/30)
    rows = np.stack([gen.permutation(30) for _ in range(9)]); wide = np.c_[sim, gen.normal(size=(30, 70))]; assert np.allclose(retrieval_null(sim, rows), [(sim.argmax(1) == r).mean() for r in rows])
    assert np.allclose(retrieval_null(wide, rows, correct=np.eye(30, 100)), [(wide.argmax(1) == r).mean() for r in rows])
    for bad, error in ((dict(sim=wide), ShapeError), (dict(sim=sim[:, :9]), ShapeError), (dict(sim=np.where(sim > 2, np.inf, sim)), ValuesError), (dict(sim=sim, draws=rows[:, :5]), ShapeError), (dict(sim=sim, draws=rows + 1), ShapeError), (dict(sim=sim, draws=0), ValuesError), (dict(sim=sim, correct=eye[:, :5]), ShapeError), (dict(sim=sim, correct=0*sim), UnknownError)):
        with pytest.raises(error): retrieval_null(**bad)
    p = dict(distractors=[], copies=[])
    for s in range(200):
        g = np.random.default_rng(s); c = g.normal(size=16); gallery = np.r_[c + .7*g.normal(size=(50, 16)), -c + .7*g.normal(size=(150, 16))]; q = c + .7*g.normal(size=(50, 16))
        z = g.normal(size=(50, 16))
        for k, query, many, names in (('distractors', q, gallery, np.arange(200)), ('copies', g.normal(size=(50, 16)), np.r_[z, z, z], np.tile(np.arange(50), 3))):
            top = retrieve(query, many, np.arange(50), names, ks=(1,))['top1']; p[k].append(permutation_p(top, retrieval_null(similarity(query, many), 99, s, np.arange(50)[:, None] == names)))
    for k, v in p.items(): assert np.mean(np.array(v) <= .05) <= .05 + 3*np.sqrt(.05*.95/200), k


# Corrections, seeds, all together

@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_corrections(p):
    p = np.array(p); out = {m: correct(p, m) for m in ('fdr', 'fdr-by', 'holm', 'bonferroni')}; m = len(p)
    assert np.allclose(out['fdr'], false_discovery_control(p)) and np.allclose(out['fdr-by'], false_discovery_control(p, method='by'))
    for a, b in (('fdr', 'fdr-by'), ('fdr', 'holm'), ('holm', 'bonferroni')): assert (out[a] <= out[b] + 1e-12).all()
    order = np.sort(p); holm = [min(1, max((m - j)*order[j] for j in range(i + 1))) for i in range(m)]; assert np.allclose(np.sort(out['holm']), holm)
    for v in out.values(): assert (v >= p - 1e-12).all() and v.max() <= 1 and (np.diff(v[np.argsort(p, kind='stable')]) >= -1e-12).all()
    with_gap = correct(np.r_[np.nan, p].reshape(1, -1), 'holm'); assert with_gap.shape == (1, m + 1) and np.isnan(with_gap[0, 0]) and np.allclose(with_gap[0, 1:], out['holm'])


def test_corrections_keep_their_promise():
    gen = np.random.default_rng(0); p = gen.random((400, 50))
    for m in ('holm', 'bonferroni', 'fdr', 'fdr-by'): assert np.mean([(correct(row, m) < .05).any() for row in p]) < .05 + 3*np.sqrt(.05*.95/400)
    assert correct([], 'holm').shape == (0,) and np.isnan(correct([np.nan]))[0]
    for bad in ([-.1], [1.2]):
        with pytest.raises(ValuesError): correct(bad)


def test_spreads():
    gen = np.random.default_rng(0); v = gen.normal(size=(6, 4)); s = seed_spread(v)
    assert np.isclose(s['sd_seeds'], v.mean(0).std(ddof=1)) and np.isclose(s['sd_people'], v.mean(1).std(ddof=1)) and (s['people'], s['seeds']) == (6, 4)
    one = seed_spread([.1, .2, .4]); assert np.isclose(one['sd_seeds'], np.std([.1, .2, .4], ddof=1)) and np.isnan(one['sd_people'])
    for bad in ([], [np.nan], np.zeros((2, 2, 2))):
        with pytest.raises((ValuesError, ShapeError)): seed_spread(bad)


def test_p_error_holds_the_p_of_endless_shuffles():
    gen = np.random.default_rng(0); ends = np.array([list(p_error((1 + (k := gen.binomial(500, .03)))/501, 500).values())[:2] for _ in range(300)]); c = coverage(*ends.T, .03); assert c['share'] >= c['least']
    for p, draws in ((0, 10), (1.1, 10), (.5, 0)):
        with pytest.raises(ValuesError): p_error(p, draws)


def test_scored_has_everything():
    gen = np.random.default_rng(0); hits = gen.random(200) < .1; s = scored(hits, 1/200); assert set(s) >= {'value', 'low', 'high', 'n', 'chance', 'p', 'p_from', 'over', 'interval', 'level'}
    assert s['value'] == hits.mean() and s['n'] == 200 and s['p'] == binomtest(int(hits.sum()), 200, 1/200, alternative='greater').pvalue and s['low'] > 1/200
    null = gen.random(99)/100; assert scored(hits, 1/200, null=null)['p'] == 1/100
    groups = scored(gen.random((4, 9)), .5, 'subjects'); assert groups['n'] == 4 and groups['over'] == 'subjects' and groups['pictures'] == 9 and groups['p'] >= 2/16
    v, c = gen.normal(size=40), np.repeat(np.arange(8), 5); u = scored(v, units=c); assert u['n'] == 8 and u['p'] is None and np.isclose(u['value'], v.mean()) and np.allclose(by_unit(v, c)[0], v.reshape(8, 5).mean(1))
    one = scored(np.ones(5), chance=0.); assert 'sign flips' in one['p_from'] and one['p'] > .01                  # a chance of zero is that of a correlation
    for x in (np.ones(5), gen.random(5)):
        with pytest.raises(ValuesError, match='one scale'): scored(x, chance=50)
    with pytest.raises(ValuesError): scored(gen.random((3, 5)), chance=50, over='subjects')
    for bad, error in ((dict(over='voxels'), UnknownError), (dict(chance=np.nan), ValuesError), (dict(level=2), ParameterError), (dict(units=[1]), ShapeError)):
        with pytest.raises(error): scored(v, **bad)


def test_scored_is_right_about_nothing():
    "At chance the p of every kind is below 0.05 in 5 % of cases or less."
    gen = np.random.default_rng(0); p = dict(hits=[], graded=[], people=[])
    for s in range(200):
        p['hits'].append(scored(gen.random(100) < .05, .05)['p']); p['graded'].append(scored(gen.random(60), .5, draws=199, seed=s)['p']); p['people'].append(scored(.5 + .1*gen.normal(size=(7, 10)), .5, 'subjects', draws=50)['p'])
    for k, v in p.items(): assert np.mean(np.array(v) <= .05) <= .05 + 3*np.sqrt(.05*.95/200), k
