"Preprocessing and the raw pipeline: equal to MNE, scikit-learn and the published way; small in memory; whole after any interruption."
import shutil, tracemalloc
import mne
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.discriminant_analysis import _cov
from sklearn.utils import shuffle
from brainrecon.core.checks import LeakError, ValuesError
from brainrecon.data import things_eeg_raw as raw
from brainrecon.data.preproc import (choose_repetitions, cut_epochs, epoch_map, find_events, fit_whitener, get_preset, noise_covariance, presets, published_place,
    published_seed, shrunk_sum, shuffled, whitening_matrix)
from brainrecon.data.things_eeg_raw_tree import plain_session, plain_whitening, write_session, write_things_eeg_raw
from brainrecon.data.splits import Sealed, check_leak
from brainrecon.data.trials import Trials


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 0, 0, 3, 7, 99999])), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_events_are_those_of_mne(runs):
    "Any pattern of steps: held triggers, rises and falls without a zero between, ends of the recording."
    stim = np.concatenate([[0, 0, 0], *([v]*(n + 2) for n, v in runs)]).astype(float)
    theirs = mne.find_events(mne.io.RawArray(stim[None], mne.create_info(['stim'], 1000., 'stim'), verbose='error'), 'stim', verbose='error')
    if not len(theirs):
        with pytest.raises(ValuesError): find_events(stim)
        return
    at, code = find_events(stim); assert np.array_equal(theirs[:, [0, 2]], np.stack([at, code], 1))


@pytest.mark.parametrize('name', presets)
@pytest.mark.parametrize('drift', [0., 1e-2])
def test_epochs_are_those_of_mne(name, drift):
    "Baseline, resampling and crop, also under an offset a thousand times as large as the signal."
    p = presets[name]; g = np.random.default_rng(0); x = g.normal(size=(4, 9000)).cumsum(1)*1e-6 + drift; at = np.array([250, 450, 650, 4000, 3000, 7000])
    order = np.argsort(at); ours = cut_epochs(x, at, [2, 0, 1, 3], p, epoch_map(p).astype('float32'))[order]
    e = mne.Epochs(mne.io.RawArray(x[[2, 0, 1, 3]], mne.create_info(4, 1000., 'eeg'), verbose='error'), np.stack([at[order], 0*at, 1 + 0*at], 1), tmin=p.tmin, tmax=p.tmax, baseline=(None, 0), preload=True, verbose='error')
    e.resample(p.sfreq, verbose='error'); theirs = e.get_data(copy=False)[..., p.skip(1000):]
    assert ours.shape == theirs.shape == (6, 4, p.n_times) and np.allclose(ours, theirs, rtol=0, atol=2e-6*np.abs(theirs).max()) and np.isclose(e.times[p.skip(1000)], p.first, atol=1e-9)


def test_repetitions_are_those_of_sklearn():
    for n in (1, 2, 3, 20, 21, 22, 80):
        assert np.array_equal(shuffled(n), shuffle(np.arange(n), random_state=published_seed))
        for most in (1, 2, 20):
            if most <= n: assert np.array_equal(shuffled(n, most), shuffle(np.arange(n), random_state=published_seed, n_samples=most))
    codes = np.random.default_rng(0).integers(1, 9, 90); rows, place = choose_repetitions(codes, 3); assert (np.diff(rows) > 0).all()
    for c in range(1, 9): mine = rows[codes[rows] == c][np.argsort(place[codes[rows] == c])]; assert np.array_equal(mine, shuffle(np.flatnonzero(codes == c), random_state=published_seed, n_samples=3))
    code, session, place = np.repeat([5, 6], 4), np.tile([1, 1, 3, 3], 2), np.tile([0, 1, 0, 1], 2)     # as AVDE's files: third, second, fourth, first
    assert published_place(code, session, place).tolist() == [3, 1, 0, 2]*2


@given(st.integers(1, 6), st.integers(2, 9), st.integers(1, 12), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings('ignore:Only one sample')
def test_covariance_is_that_of_sklearn(b, c, n, seed, flat):
    g = np.random.default_rng(seed); x = g.normal(size=(b, c, n))*10.**g.integers(-6, 3, (1, c, 1)) + g.normal(size=(1, c, 1)); w = g.random(b)
    if flat: x[0, 0] = 3.
    want = sum(v*_cov(e.T, shrinkage='auto') for v, e in zip(w, x)); got = shrunk_sum(x, w); size = np.sqrt(np.outer(np.diag(want), np.diag(want))) + 1e-300
    assert (np.abs(got - want) <= 1e-8*size + 1e-14*np.abs(x).max()**2).all()     # a flat channel has no size of its own to be exact to


def test_conditions_count_alike():
    "A condition with more repetitions has no more to say; batches may tear it apart."
    g = np.random.default_rng(0); x = g.normal(size=(7, 4, 30)); c = np.array([0, 1, 0, 2, 2, 0, 1])
    each = [np.mean([_cov(e.T, shrinkage='auto') for e in x[c == k]], 0) for k in range(3)]
    assert np.allclose(noise_covariance([(x, c)]), np.mean(each, 0)) and np.allclose(noise_covariance([(x[:3], c[:3]), (x[3:], c[3:])], counts={0: 3, 1: 2, 2: 2}), np.mean(each, 0))
    assert np.allclose(noise_covariance([(x, c)], size=1), np.mean(each, 0))     # one at a time
    time = [np.mean([_cov(x[c == k][:, :, i], shrinkage='auto') for i in range(30)], 0) for k in range(3)]
    assert np.allclose(noise_covariance([(x, c)], 'time'), np.mean(time, 0)) and np.allclose(noise_covariance([(x, c)], 'time', size=1), np.mean(time, 0))
    for by in ('epochs', 'time'): assert np.allclose(plain_whitening([x[np.argsort(c, kind='stable')][[0, 1, 3, 4, 5, 6]].reshape(3, 2, 4, 30)], by), whitening_matrix(noise_covariance([(x[np.argsort(c, kind='stable')][[0, 1, 3, 4, 5, 6]], np.repeat([0, 1, 2], 2))], by)))


def test_test_trials_are_refused():
    g = np.random.default_rng(0); make = lambda n, **p: Trials(g.normal(size=(n, 3, 50)), ['a', 'b', 'c'], dict(picture=[f'{i//2}' for i in range(n)], concept=[f'{i//2}' for i in range(n)]), 'eeg', 100., provenance=p)
    train, test = make(8), make(6, split='test')
    for bad in (lambda: fit_whitener(test), lambda: fit_whitener(train, test=test), lambda: fit_whitener(Sealed(train)), lambda: fit_whitener(train, test=Sealed(test), fitted_on='train and test')):
        with pytest.raises(LeakError): bad()
    w = fit_whitener(train, test=test, fitted_on='train and test'); assert w.record['transductive'] and w(test).provenance['transductive']
    assert np.allclose(list(w.matrices.values())[0], whitening_matrix(np.mean([noise_covariance([(t.x, t.pictures)]) for t in (test, train)], 0)))


@pytest.fixture(scope='module')
def root(tmp_path_factory): return write_things_eeg_raw(tmp_path_factory.mktemp('raw')/'things-eeg2', n_concepts=4, n_test=3, per=3)


def published(root, split, preset):
    "The epochs of all sessions, joined and shuffled as the published scripts do: one `r c t` for each code."
    each = [plain_session(raw.raw_file(root, 1, s), raw.raw_file(root, 1, s, 'test'), preset)[split] for s in raw.all_sessions]
    joined = [np.concatenate([x[np.flatnonzero(c == k)[0]] for x, c in each if k in c]) for k in np.unique(np.concatenate([c for _, c in each]))]
    return [x[shuffle(np.arange(len(x)), random_state=published_seed)] for x in joined]


@pytest.mark.parametrize('name', [*presets, 'gifale-100 by time'])
def test_equal_to_the_published_way(root, tmp_path, name):
    "Every trial of both sides stands in the published file where `place` says, with the same numbers."
    p = get_preset('gifale-100', whiten='time', name='timed') if 'time' in name else presets[name]; raw.prepare_things_eeg(root, 1, p, tmp_path, log=None)
    for split, n in (('train', 12*4), ('test', 3*16)):
        ours, theirs = raw.load_prepared(1, split, p, tmp_path), published(root, split, p); want = np.stack([theirs[c - 1][r] for c, r in zip(ours.table.code, ours.table.place)])
        assert len(ours) == n and isinstance(ours.x, np.memmap) and np.allclose(ours.x, want, rtol=0, atol=2e-5*np.abs(want).max())
        t = ours.table; assert t.session.is_monotonic_increasing and t.trial.is_monotonic_increasing and t.groupby('picture').repetition.apply(lambda r: r.tolist() == list(range(1, len(r) + 1))).all()
        assert ours.names == list(p.channels) and ours.provenance['unit'] == p.unit_out and ours.provenance['transductive'] == p.transductive and ours.provenance['simulated']
        assert not any(str(root) in str(v) for v in ours.provenance.values())
    check_leak(raw.load_prepared(1, 'train', p, tmp_path), raw.load_prepared(1, 'test', p, tmp_path))


class Killed(BaseException): pass

@pytest.mark.parametrize('stop', [1, 3, 6, 9, 14])
def test_killed_anywhere(root, tmp_path, monkeypatch, stop):
    "Stopped within any batch, the next run ends with the same bytes."
    few = lambda f: lambda *a, **k: f(*a, **{**k, 'part': 8}); monkeypatch.setattr(raw, 'fill', few(raw.fill))
    whole = raw.prepare_things_eeg(root, 1, 'hvf-250', tmp_path/'whole', log=None); cut, calls = raw.cut_epochs, []
    def dying(*a, **k):
        calls.append(1)
        if len(calls) == stop: raise Killed
        return cut(*a, **k)
    monkeypatch.setattr(raw, 'cut_epochs', dying)
    with pytest.raises(Killed): raw.prepare_things_eeg(root, 1, 'hvf-250', tmp_path/'cut', log=None)
    assert not (raw.prepared_folder(1, out=tmp_path/'cut')/'test').exists()
    begun = len(calls); again = raw.prepare_things_eeg(root, 1, 'hvf-250', tmp_path/'cut', log=None); total = len(calls) - begun
    for split in whole: assert (whole[split]/'x.npy').read_bytes() == (again[split]/'x.npy').read_bytes() and (whole[split]/'trials.json').read_bytes() == (again[split]/'trials.json').read_bytes()
    if stop == 14:
        calls.clear(); monkeypatch.setattr(raw, 'cut_epochs', lambda *a, **k: calls.append(1) or cut(*a, **k)); raw.prepare_things_eeg(root, 1, 'hvf-250', tmp_path/'anew', log=None); assert total < len(calls)     # it went on


def test_part_of_the_data(root, tmp_path):
    "Some sessions, another layout of folders, half the disk."
    p = raw.prepare_things_eeg(root, 1, 'nice-250', tmp_path/'a', sessions=[3], dtype='float16', log=None); a = raw.load_prepared(1, 'train', 'nice-250', tmp_path/'a'); assert a.x.dtype == 'float16' and set(a.table.session) == {3}
    flat = shutil.copytree(root, tmp_path/'flat')
    for s in (flat/'Raw_data').iterdir(): s.rename(flat/s.name)
    (flat/'Raw_data').rmdir(); raw.prepare_things_eeg(flat, 1, 'nice-250', tmp_path/'b', sessions=[3], log=None); b = raw.load_prepared(1, 'train', 'nice-250', tmp_path/'b')
    assert np.allclose(a.x, b.x, rtol=1e-3, atol=1e-3) and pd.DataFrame.equals(a.table, b.table) and p['train'].parent.name == 'sub-01'
    (flat/'sub-01'/'ses-04'/'raw_eeg_test.npy').unlink(); assert raw.usable_raw(flat).state.tolist() == ['partial'] and 'ses-04/raw_eeg_test.npy' in raw.usable_raw(flat).missing[0]


def test_memory_stays_small(tmp_path):
    "Neither the recording nor its epochs are ever in memory as a whole."
    at = write_session(tmp_path/'s', n_pictures=600, n_test=4); raw.prepare_things_eeg(at, 1, 'avde-200', tmp_path/'warm', sessions=[1], log=None)
    size = raw.raw_file(at, 1, 1).stat().st_size; tracemalloc.start()
    raw.prepare_things_eeg(at, 1, 'nice-250', tmp_path/'o', sessions=[1], log=None); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    epochs = 600*63*1201*8; assert size > 1e8 and epochs > 3e8 and peak < 1.5e8, (size, peak)


@pytest.mark.slow
def test_jobs(tmp_path, monkeypatch):
    "Both jobs end to end, at a small size."
    from brainrecon.jobs.run import run_job
    monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path)); r = run_job('data/01_prepare', preset='gifale-100', show=False); rows = {(x['what'], x['measure']): x for x in r.scores()['rows']}
    assert rows['subject 1, train', 'epochs']['value'] == 128 and all(x['simulated'] for x in rows.values()) and any('TRANSDUCTIVE' in n for n in r.scores()['notes'])
    before, after = (rows[f'subject 1, session 1, test trials {k} whitening', 'mean correlation between channels']['value'] for k in ('before', 'after')); assert after < before/3
    assert {p.stem for p in (r.folder/'figures').glob('*.png')} == {'evoked-before', 'evoked-after', 'covariance'}
    r = run_job('benchmark/02_raw_to_epochs', pictures=16, test_pictures=2, show=False); rows = {(x['what'], x['measure']): x['value'] for x in r.scores()['rows']}
    assert rows['largest difference between the two', 'millionths of the largest value'] < 20 and rows['this library', 'peak memory (MB)'] > 0
    assert not any((r.folder/k).exists() for k in ('session', 'ours', 'plain'))
