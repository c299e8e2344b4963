"Own recordings: what comes back is what was put in, whichever way it came; and category decoding that cannot see its test runs."
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.checks import FileError, LeakError, ParameterError, ShapeError
from brainrecon.data.pictures import load_pictures
from brainrecon.data.recordings import from_bids, from_mne
from brainrecon.data.recordings_fmri import from_nifti, in_units, labels_to_events, single_trials, split_runs, to_volume
from brainrecon.data.recordings_tree import bold, lay_out, write_bids, write_blocks, write_events, write_series
from brainrecon.data.simulated_meeg import simulate_eeg
from brainrecon.data.splits import check_leak
from brainrecon.data.trials import Trials, load_trials
from brainrecon.decoders.categories import blocks_of, check_runs, decode_categories, shuffled

mne = pytest.importorskip('mne')
pytest.importorskip('mne_bids'); nib = pytest.importorskip('nibabel'); pytest.importorskip('nilearn')


@pytest.fixture(scope='module')
def pictures(): return load_pictures('train', exemplars=True)[:20]

@pytest.fixture(scope='module')
def study(tmp_path_factory, pictures):
    "BIDS folders of two subjects, one with text as its name, one of them with two sessions."
    root = tmp_path_factory.mktemp('study')
    write_bids(root, pictures, '01', runs=2); write_bids(root, pictures, 'CC110', sessions=2, runs=1, seed=1)
    return root

@pytest.fixture(scope='module')
def scans(tmp_path_factory, pictures): return write_events(tmp_path_factory.mktemp('scans'), pictures, runs=2)/'sub-01'/'func'

@pytest.fixture(scope='module')
def blocks(tmp_path_factory):
    "A small block design."
    root = write_blocks(tmp_path_factory.mktemp('blocks'), runs=4, shape=(14, 10, 1), n_voxels=60)
    return root, from_nifti(root/'bold.nii.gz', root/'mask.nii.gz', labels=root/'labels.tsv', glm=False, delay=0, units='z', drift=None)


def test_bids_gives_back_what_was_written(study, pictures):
    "Every trial but those in a bad stretch, in volts, in order."
    t = from_bids(study, 1, tmin=-.2, tmax=.8, baseline=None)
    wrote = simulate_eeg(pictures, reps=2, sfreq=200., tmin=-.2, tmax=.8, snr_db=-10., seed=0)
    order = np.argsort(wrote.table.repetition.to_numpy(), kind='stable').reshape(2, -1); rows = np.concatenate([np.sort(o) for o in order])
    drop = [10, 30]; keep = np.setdiff1d(np.arange(40), drop); want = wrote[rows[keep]]
    assert (t.concepts == want.concepts).all() and t.names == want.names
    assert np.allclose(t.x, want.x, atol=1e-9) and t.provenance['counts']['BAD_cough'] == 2
    assert t.table.run.tolist() == [1]*19 + [2]*19 and t.table.trial.is_unique


def test_subjects_may_have_texts_as_names(study, tmp_path):
    "And they come back from the disk as they were."
    t = from_bids(study, 'CC110', sfreq=100)
    assert set(t.table.subject) == {'CC110'} and set(t.table.session) == {1, 2}
    t.save(tmp_path/'kept'); again = load_trials(tmp_path/'kept')
    assert set(again.table.subject) == {'CC110'} and again.provenance['counts'] == t.provenance['counts']
    assert '/' not in str(again.provenance['recording']).replace(f'{study.name}/sub-CC110', '')


@pytest.mark.parametrize('asked', [1, '1', '01', '001'])
def test_a_subject_is_found_by_its_number(study, asked): assert len(from_bids(study, asked, run=1)) == 19


def test_sessions_and_runs_are_chosen(study):
    assert set(from_bids(study, 'CC110', session=2).table.session) == {2}
    assert len(from_bids(study, 1, run=['01', 2])) == 38


def test_two_recordings_do_not_look_like_a_leak(study):
    "Trials are counted in each recording; the same numbers in two people are not the same trials."
    a, b = from_bids(study, 1, run=1), from_bids(study, 'CC110', session=1)
    concepts = sorted(set(a.concepts)); check_leak(a.where(concept=concepts[0]), b.where(concept=concepts[1]))


def test_epochs_raw_and_file_agree(pictures, tmp_path):
    "One recording on three ways."
    sim = simulate_eeg(pictures, reps=1, sfreq=200., tmin=-.2, tmax=.8); info = mne.create_info(sim.names, 200., 'eeg')
    x, events = lay_out(sim); raw = mne.io.RawArray(x, info, first_samp=77, verbose='error')
    a = from_mne(raw, 'stim_file', table=events, tmax=.8)
    ep = mne.EpochsArray(sim.x, info, tmin=-.2, metadata=sim.table[['picture', 'concept']], verbose='error')
    b = from_mne(ep, 'picture', baseline=(None, 0)); ep.save(tmp_path/'me-epo.fif', verbose='error'); c = from_mne(tmp_path/'me-epo.fif', 'picture', baseline=(None, 0))
    raw.save(tmp_path/'me-raw.fif', verbose='error'); d = from_mne(tmp_path/'me-raw.fif', 'stim_file', table=events, tmax=.8)
    for other in (b, c, d): assert np.allclose(a.x, other.x, atol=1e-9) and (a.concepts == other.concepts).all()
    assert c.provenance['files'][0]['name'] == 'me-epo.fif' and str(tmp_path) not in str(c.provenance)


def test_epochs_are_not_changed(pictures):
    "The caller's object is left alone."
    sim = simulate_eeg(pictures, reps=1); ep = mne.EpochsArray(sim.x, mne.create_info(sim.names, sim.sfreq, 'eeg'), metadata=sim.table[['picture', 'concept']], verbose='error')
    before, meta = ep.get_data(copy=True), ep.metadata.copy(); from_mne(ep, 'picture', tmin=.1, tmax=.3, baseline=(None, None))
    assert np.array_equal(ep.get_data(copy=True), before) and ep.metadata.equals(meta)


def test_bad_stretches_and_gaps_keep_rows_in_step(pictures):
    "A dropped event takes its own row of the table along, also when events come in another order."
    sim = simulate_eeg(pictures, reps=1, sfreq=200., tmin=-.2, tmax=.8); x, events = lay_out(sim); raw = mne.io.RawArray(x, mne.create_info(sim.names, 200., 'eeg'), verbose='error')
    raw.set_annotations(mne.Annotations([events.onset.iloc[6]], [.1], ['BAD_blink'])); mixed = events.sample(frac=1, random_state=1)
    a, b = (from_mne(raw, 'stim_file', table=t, baseline=None, tmax=.8) for t in (events, mixed))
    assert len(a) == len(b) == len(sim) - 1 and np.array_equal(a.x, b.x) and (a.pictures == b.pictures).all()
    lookup = dict(zip(sim.pictures, sim.x))
    for p, v in zip(a.pictures, a.x): assert np.allclose(v, lookup[p.removeprefix('pictures/').removesuffix('.webp')], atol=1e-9)


def test_epochs_that_are_not_loaded_yet(pictures):
    "mne decides on rejection when it loads; metadata keep in step, whatever their index."
    sim = simulate_eeg(pictures, reps=1, sfreq=200., tmin=-.2, tmax=.8); x, events = lay_out(sim); raw = mne.io.RawArray(x, mne.create_info(sim.names, 200., 'eeg'), verbose='error'); events = events[events.stim_file.str.contains('/', na=False)]
    raw.set_annotations(mne.Annotations([events.onset.iloc[6]], [.1], ['BAD_blink'])); at = np.stack([np.round(events.onset*200).astype(int), np.zeros(len(events), int), np.ones(len(events), int)], 1)
    ep = mne.Epochs(raw, at, 1, -.2, .795, None, metadata=events.set_index(np.arange(50, 50 + len(events))), preload=False, verbose='error')
    t = from_mne(ep, 'stim_file'); assert not ep.preload and len(t) == len(sim) - 1 and np.allclose(t.x, ep.get_data(copy=True), atol=1e-12) and t.pictures.tolist() == ep.metadata.stim_file.tolist()


def test_other_events_may_stand_anywhere(pictures):
    "A response at the moment of a picture, a note without a time, an end beyond the file: none of them is a trial."
    sim = simulate_eeg(pictures, reps=1, sfreq=200., tmin=-.2, tmax=.8); x, events = lay_out(sim); raw = mne.io.RawArray(x, mne.create_info(sim.names, 200., 'eeg'), verbose='error')
    a = from_mne(raw, 'stim_file', table=events, tmax=.8); more = pd.DataFrame(dict(onset=[events.onset.iloc[0], np.nan, 1e6], stim_file='n/a'))
    b = from_mne(raw, 'stim_file', table=pd.concat([events, more], ignore_index=True), tmax=.8); assert np.array_equal(a.x, b.x) and (a.pictures == b.pictures).all()
    with pytest.raises(ShapeError, match='two events'): from_mne(raw, 'stim_file', table=pd.concat([events, events[events.stim_file.str.contains('/', na=False)].iloc[:1]], ignore_index=True), tmax=.8)
    for band in ((1, 400), (40, 1), (1, 30, 2)):
        with pytest.raises(ParameterError, match='band'): from_mne(raw, 'stim_file', table=events, tmax=.8, band=band)
    with pytest.raises(ShapeError, match='window'): from_mne(raw, 'stim_file', table=events, tmin=0, tmax=.001, baseline=None)


def test_tables_of_a_scan(tmp_path):
    "Names keep their zeros; durations in milliseconds, tables that are none, and masks without a 0 do not pass for something else."
    gen = np.random.default_rng(0); mask = np.zeros((3, 3, 2), 'i2'); mask[1:] = 1; img = nib.Nifti1Image(gen.normal(1000, 20, (3, 3, 2, 60)).astype('f4'), np.eye(4)); img.header.set_zooms((1, 1, 1, 2))
    ev = pd.DataFrame(dict(onset=np.arange(4, 100, 12.), duration=2., stim_file=[f'{i:03d}' for i in range(8)], concept=['a', 'b']*4)); ev.to_csv(tmp_path/'e.tsv', sep='\t', index=False)
    one = nib.Nifti1Image(mask, np.eye(4)); t = from_nifti(img, one, tmp_path/'e.tsv'); assert t.pictures.tolist() == ev.stim_file.tolist() and np.array_equal(t.x, from_nifti(img, one, ev).x)
    assert np.array_equal(from_nifti(img, nib.Nifti1Image(mask*2 - 1, np.eye(4)), ev).x, t.x)
    for wrong in (-1., 2000.):
        with pytest.raises(ShapeError, match='lasts'): from_nifti(img, one, ev.assign(duration=wrong))
    (tmp_path/'bad.tsv').write_bytes(b'\xff\xfe\x00'*9); (tmp_path/'none.tsv').write_text('')
    for name in ('bad.tsv', 'none.tsv', 'gone.tsv'):
        for how in (dict(events=tmp_path/name), dict(events=ev, confounds=tmp_path/name), dict(labels=tmp_path/name, glm=False, delay=0)):
            with pytest.raises(FileError, match=name): from_nifti(img, one, **how)


def test_bad_channels_are_dropped_or_interpolated(pictures):
    sim = simulate_eeg(pictures, reps=1, layout=63); info = mne.create_info(sim.names, sim.sfreq, 'eeg').set_montage('standard_1005', match_case=False)
    info['bads'] = ['Oz']; ep = mne.EpochsArray(sim.x, info, metadata=sim.table[['picture', 'concept']], verbose='error')
    assert 'Oz' not in from_mne(ep, 'picture', bads='drop').names
    t = from_mne(ep, 'picture', bads='interpolate'); assert len(t.names) == 63 and not np.allclose(t.pick(['Oz']).x, sim.pick(['Oz']).x) and len(t.provenance['positions']) == 63


def test_single_trials_are_those_of_nilearn(scans):
    "Least squares all, against the model of nilearn on images."
    from nilearn.glm.first_level import FirstLevelModel
    run, mask = sorted(scans.glob('*bold*'))[0], scans/'sub-01_mask.nii.gz'; ev = pd.read_csv(sorted(scans.glob('*events*'))[0], sep='\t'); ev = ev[ev.stim_file.notna()].reset_index(drop=True)
    model = FirstLevelModel(t_r=2., hrf_model='glover', noise_model='ols', mask_img=mask, signal_scaling=0).fit(run, events=ev.assign(trial_type=[f't{i:02d}' for i in range(len(ev))])[['onset', 'duration', 'trial_type']])
    inside = nib.load(mask).get_fdata() > 0; theirs = np.stack([model.compute_contrast(f't{i:02d}', output_type='effect_size').get_fdata()[inside] for i in range(len(ev))])
    y = in_units(nib.load(run).get_fdata()[inside].T, 'percent', 'run'); ours = single_trials(y, ev, 2., 'all')
    ratio = (ours*theirs).sum()/(ours**2).sum(); assert np.allclose(ours*ratio, theirs, atol=1e-3*np.abs(theirs).max())


def test_models_find_known_responses():
    "Without noise both ways give back what was put in, also when responses overlap."
    gen = np.random.default_rng(0); beta = gen.normal(size=(12, 30)); onset = 8. + 12*np.arange(12); ev = pd.DataFrame(dict(onset=onset, duration=1.))
    y = in_units(bold(onset, 1., beta, 90, 2., gen, 0.), 'percent', 'run')
    assert np.corrcoef(single_trials(y, ev, 2., 'all').ravel(), beta.ravel())[0, 1] > .99
    assert np.corrcoef(single_trials(y, ev, 2., 'separate').ravel(), beta.ravel())[0, 1] > .97


def test_volumes_come_after_their_delay(tmp_path):
    "Volume `k` of the result is the one `delay` after its label."
    mask = np.ones((2, 2, 1), bool); y = np.arange(40.)[:, None] + np.arange(4); write_series(tmp_path/'b.nii.gz', y, mask, 2.)
    nib.save(nib.Nifti1Image(mask.astype('uint8'), np.diag([3., 3., 3., 1.])), tmp_path/'m.nii.gz'); labels = pd.DataFrame(dict(labels=['rest']*5 + ['cat']*5 + ['rest']*5 + ['dog']*5 + ['rest']*16 + ['cat']*4, chunks=0))
    how = dict(labels=labels, glm=False, units='raw', drift=None); t = from_nifti(tmp_path/'b.nii.gz', tmp_path/'m.nii.gz', delay=4., **how)
    assert t.x[:, 0].tolist() == [7, 8, 9, 10, 11, 17, 18, 19, 20, 21, 38, 39] and t.provenance['counts']['moved past the end of the run'] == 2
    assert t.table.volume.tolist() == [7, 8, 9, 10, 11, 17, 18, 19, 20, 21, 38, 39] and t.table.block.tolist() == [0]*5 + [1]*5 + [2]*2
    ev = pd.DataFrame(dict(onset=[10., 30.], duration=[10., 0.], trial_type=['cat', 'dog']))
    e = from_nifti(tmp_path/'b.nii.gz', tmp_path/'m.nii.gz', ev, 'trial_type', 'trial_type', glm=False, delay=4., units='raw', drift=None)
    assert e.x[:, 0].tolist() == [7, 8, 9, 10, 11, 17]


def test_drift_is_taken_out_and_the_mean_kept(tmp_path):
    mask = np.ones((2, 2, 1), bool); gen = np.random.default_rng(0); y = 1000 + gen.normal(size=(60, 4)) + 3*np.arange(60.)[:, None]
    write_series(tmp_path/'b.nii.gz', y, mask, 2.); nib.save(nib.Nifti1Image(mask.astype('uint8'), np.diag([3., 3., 3., 1.])), tmp_path/'m.nii.gz')
    labels = pd.DataFrame(dict(label=['cat', 'dog']*30, run=1)); t = from_nifti(tmp_path/'b.nii.gz', tmp_path/'m.nii.gz', labels=labels, glm=False, delay=0, units='raw', drift='linear')
    assert abs(t.x.mean() - y.mean()) < .5 and abs(np.polyfit(np.arange(60), t.x[:, 0], 1)[0]) < 1e-3
    c = from_nifti(tmp_path/'b.nii.gz', tmp_path/'m.nii.gz', labels=labels, glm=False, delay=0, units='raw', drift=None, confounds=[np.arange(60.)[:, None]])
    assert np.allclose(c.x, t.x, atol=.05)


def test_flat_voxels_are_left_out_of_all_runs(blocks):
    root, whole = blocks; img = nib.load(root/'bold.nii.gz'); x = img.get_fdata(); at = tuple(int(v) for v in whole.names[7].split(',')); x[at][..., :121] = 4
    t = from_nifti(nib.Nifti1Image(x, img.affine, img.header), root/'mask.nii.gz', labels=root/'labels.tsv', glm=False, delay=0, units='z', drift=None, flat='drop')
    assert t.names == [n for i, n in enumerate(whole.names) if i != 7] and '1 that never change' in t.provenance['steps'][0]
    assert to_volume(np.ones(len(t.names)), t).get_fdata().sum() == len(whole.names) - 1


def test_runs_are_cut_where_they_change(blocks):
    root, _ = blocks; labels = pd.read_csv(root/'labels.tsv', sep='\t')
    runs, events = split_runs(root/'bold.nii.gz', labels), labels_to_events(labels, 2.5, late=2.5)
    assert [r.shape[-1] for r in runs] == [121]*4 and np.array_equal(runs[1].get_fdata(), nib.load(root/'bold.nii.gz').get_fdata()[..., 121:242])
    assert events[0].onset.tolist() == [(6 + 15*i - 1)*2.5 for i in range(8)] and set(events[0].duration) == {22.5}


def test_held_out_runs_are_not_seen(blocks):
    "Whatever the labels of the held-out run are, its answers stay."
    _, t = blocks; a = decode_categories(t, 'run', alphas=300., shuffles=0)
    table = t.table.copy(); last = (table.run == 4).to_numpy(); table.loc[last, 'concept'] = np.roll(table.concept[last], 9); table['picture'] = table.concept
    b = decode_categories(Trials(t.x, t.names, table, 'fmri'), 'run', alphas=300., shuffles=0)
    assert (a.said[last] == b.said[last]).all() and a.folds.score.iloc[3] != b.folds.score.iloc[3]


def test_shuffling_keeps_blocks_and_runs(blocks):
    _, t = blocks; block, run = blocks_of(t), t.table.run.to_numpy(); y = shuffled(t.concepts, run, block, np.random.default_rng(0))
    assert all(len(set(y[block == b])) == 1 for b in set(block)) and all(sorted(y[run == r]) == sorted(t.concepts[run == r]) for r in set(run)) and (y != t.concepts).mean() > .5


def test_noise_gives_chance(blocks):
    "And a p-value that is not small."
    _, t = blocks; x = np.random.default_rng(1).normal(size=t.x.shape); r = decode_categories(Trials(x, t.names, t.table, 'fmri'), 'run', shuffles=50)
    assert abs(r.score - r.chance) < .08 and r.p > .05


def test_groups_may_not_cut_runs(blocks):
    _, t = blocks
    with pytest.raises(LeakError): decode_categories(t, 'trial')
    with pytest.raises(LeakError): check_runs(t.where(run=[1, 2]), t.where(run=[2]), 'run')
    check_runs(t.where(run=[1, 2]), t.where(run=[3]), 'run')
    days = Trials(t.x, t.names, t.table.assign(day=(t.table.run > 2).astype(int)), 'fmri')    # groups of whole runs
    assert len(decode_categories(days, 'day', alphas=300., shuffles=0).folds) == 2


def test_epochs_can_be_decoded_by_category(study):
    "EEG trials, held-out runs."
    t = from_bids(study, 1, sfreq=50, tmin=0, tmax=.6, baseline=None); r = decode_categories(t, 'run', alphas=1e3, shuffles=20)
    assert len(r.folds) == 2 and r.seen > .9 and 0 <= r.score <= 1 and 'run' in repr(r)
