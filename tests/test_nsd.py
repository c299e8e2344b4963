"The Natural Scenes Dataset: every layout gives the same responses, the right picture for each, and z-scoring that does not see the test."
import shutil
import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.checks import LeakError, ShapeError, ValuesError
from brainrecon.core.readers import file_mark
from brainrecon.data import nsd, nsd_betas
from brainrecon.data.datasets import load_splits
from brainrecon.data.brain_maps import in_volume, show_brain, show_regions, show_slices, show_surface
from brainrecon.data.nsd import blocks, fitted_on, grouped, load_nsd, session_scales, usable_nsd
from brainrecon.data.nsd_betas import Betas, n_sessions, n_voxels, nsd_mask, nsd_rois, open_betas, session_files, session_rows
from brainrecon.data.nsd_pictures import nsd_captions, nsd_pictures
from brainrecon.data.nsd_tree import write_nsd
from brainrecon.data.nsd_trials import check_counts, nsd_table, own_table, run_lengths

B2 = 'nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Two people, four sessions, everything."
    return write_nsd(tmp_path_factory.mktemp('nsd')/'data'/'nsd', subjects=(1, 2), sessions=4, shared=26, raw='hdf5', stimuli=('coco', 'png'))

@pytest.fixture()
def tree(whole, tmp_path): return shutil.copytree(whole, tmp_path/'nsd')

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache'))


def test_numbers_are_the_published_ones():
    "213,000 trials of eight people; runs of 63 and 62 trials make 750."
    assert sum(n_sessions.values())*750 == 213_000 and run_lengths().sum() == 750 and len(run_lengths()) == 12 and sorted(n_voxels)[0] == 1 and sum(n_voxels.values()) == 116_395


def test_files_say_the_same(tree):
    "HDF5 and NIfTI sessions are equal to the last digit; a scale in the header is not applied twice."
    mask, img = nsd_mask(tree, 1); p = session_files(tree, 1)[1][2]; a = session_rows(p, mask, 1)
    v = np.zeros((*mask.shape, 60), 'i2')
    with h5py.File(p) as f:
        assert f['betas'].dtype == np.int16
        for x, y, z in np.argwhere(mask): v[x, y, z] = f['betas'][:, z, y, x]
    assert np.allclose(a, v[mask].T/np.float32(300), atol=1e-6)
    nib.save(nib.Nifti1Image(v, img.affine), tree/'betas_session02.nii.gz'); assert (session_rows(tree/'betas_session02.nii.gz', mask, 1) == a).all()
    scaled = nib.Nifti1Image(v, img.affine); scaled.header.set_slope_inter(1/300, 0); nib.save(scaled, tree/'betas_session03.nii.gz')
    assert np.allclose(session_rows(tree/'betas_session03.nii.gz', mask, 1), a, atol=1e-4)


def test_packed_and_half_precision(tree):
    "A packed copy in float16 gives the same rows as the mapped file."
    want = load_nsd(tree, 1, 'train', roi='V1'); p = tree/'betas_all_subj01_fp32_renorm.hdf5'
    with h5py.File(p) as f: x = f['betas'][:]
    p.unlink()
    with h5py.File(tree/'betas_all_subj01_fp16_renorm.hdf5', 'w') as f: f.create_dataset('betas', data=x.astype('f2'), chunks=(16, 64), compression='gzip')
    got = load_nsd(tree, 1, 'train', roi='V1')
    assert got.x.dtype == np.float32 and np.allclose(got.x, want.x, atol=5e-3) and got.table.equals(want.table)


def test_sessions_are_copied_once_and_resumed(tree, monkeypatch):
    "A process that dies in session 3 leaves sessions 1 and 2 done."
    seen, real = [], nsd_betas.session_rows
    def dies(path, mask, subject):
        seen.append(path.name)
        if path.name.startswith('betas_session03') and len(seen) < 4: raise KeyboardInterrupt
        return real(path, mask, subject)
    monkeypatch.setattr(nsd_betas, 'session_rows', dies)
    with pytest.raises(KeyboardInterrupt): open_betas(tree, 1, 'betas_fithrf')
    b = open_betas(tree, 1, 'betas_fithrf')
    assert [s[13:15] for s in seen] == ['01', '02', '03', '03', '04'] and len(b) == 240 and isinstance(b.x, np.memmap)
    open_betas(tree, 1, 'betas_fithrf'); assert len(seen) == 5
    assert np.allclose(b.rows(slice(60, 120)), real(session_files(tree, 1)[1][2], nsd_mask(tree, 1)[0], 1))


@pytest.mark.parametrize('zscore, sees', [('train-sessions', False), ('all-sessions', True)])
def test_z_scoring_sees_the_test_only_when_asked(tree, zscore, sees):
    "Other responses to test pictures change training trials only in the transductive way, which says so."
    how = dict(zscore=zscore, version='betas_fithrf'); before = load_nsd(tree, 1, 'train', **how); test = nsd_table(tree, 1); mask, _ = nsd_mask(tree, 1)
    for s, p in session_files(tree, 1)[1].items():
        rows = np.flatnonzero(test[test.session == s].new_test)
        with h5py.File(p, 'r+') as f:
            for x, y, z in np.argwhere(mask)[:20]: line = f['betas'][:, z, y, x]; line[rows] = 900; f['betas'][:, z, y, x] = line
    after = load_nsd(tree, 1, 'train', **how)
    assert (np.abs(before.x[:, :20] - after.x[:, :20]).max() > .05) == sees and np.allclose(before.x[:, 20:], after.x[:, 20:], atol=1e-6)
    assert after.provenance['transductive'] == sees and ('test included' in ' '.join(after.provenance['steps'])) == sees


def test_the_published_file_tells_what_it_was_fitted_on(tree):
    "From its numbers alone."
    t = nsd_table(tree, 1); assert fitted_on(open_betas(tree, 1), t) == 'all'
    raw = open_betas(tree, 1, 'betas_fithrf'); x = np.empty((240, raw.x.shape[1]), 'f4')
    for s, g in t.groupby('session'): m, sd = session_scales(raw, g, None, 'train-sessions')[s]; x[g.row] = (raw.rows(g.row.to_numpy()) - m)/sd
    with h5py.File(tree/'betas_all_subj01_fp32_renorm.hdf5', 'w') as f: f['betas'] = x
    b = open_betas(tree, 1); assert b.unit == 'z' and fitted_on(b, t) == 'train'
    assert not load_nsd(tree, 1, 'test').provenance['transductive'] and np.allclose(load_nsd(tree, 1, 'train', zscore='train-sessions', version='betas_fithrf').x, load_nsd(tree, 1).x, atol=1e-5)


def test_each_source_gives_the_same_trials(tree):
    "Without the tar files the lists of NSD itself are used."
    want = load_nsd(tree, 1, 'train'); shutil.rmtree(tree/'wds')
    got = load_nsd(tree, 1, 'train'); assert got.provenance['lists'] == 'responses' and (got.x == want.x).all() and got.table.picture.equals(want.table.picture) and got.table.session.equals(want.table.session)
    for s in ('design', 'pictures'): assert (own_table(tree, 1, s, 60).image == nsd_table(tree, 1).image).all()
    raw = load_nsd(tree, 1, 'train', version='betas_fithrf', source='design'); assert raw.table.session.equals(want.table.session)


def test_sides_and_lists(whole):
    "Training and test share no picture; the old test is a part of the new; the shared pictures are the same for both people."
    t = {s: nsd_table(whole, s) for s in (1, 2)}
    for s, u in t.items(): assert (u.row == np.arange(240)).all() and set(u.image[u.train]).isdisjoint(u.image[u.new_test]) and set(u.row[u.old_test]) < set(u.row[u.new_test]) and u.image[u.new_test].nunique() == 26
    assert set(t[1].image[t[1].new_test]) == set(t[2].image[t[2].new_test]) and set(t[1].image[t[1].train]).isdisjoint(t[2].image[t[2].train])
    a, b = load_nsd(whole, 1, 'test'), load_nsd(whole, 2, 'test'); assert a.x.shape[1] != b.x.shape[1] and set(a.table.picture) == set(b.table.picture) and a.provenance['recording'] != b.provenance['recording']


def test_repetitions():
    "The plain mean counts each trial once; MindEye2's rule fills up to three."
    t = pd.DataFrame(dict(image=[5, 7, 5, 9, 7, 7], row=range(6), session=1)); x = np.arange(12, dtype='f4').reshape(6, 2); b = Betas(x, 1, 'nsd', 'z', [])
    mean = lambda rule: np.concatenate([p for _, p in blocks(b, t, grouped(t, True, rule), None, None, size=1)])
    assert np.allclose(mean('mean'), [x[[0, 2]].mean(0), x[[1, 4, 5]].mean(0), x[3]]) and np.allclose(mean('mindeye2'), [(2*x[0] + x[2])/3, x[[1, 4, 5]].mean(0), x[3]])
    assert grouped(t, False) == [[i] for i in range(6)]


def test_large_results_are_mapped_and_resumed(whole, tmp_path, monkeypatch):
    "The same numbers as in memory, whatever the size of the parts; a killed process goes on."
    want = load_nsd(whole, 1, 'train'); real = nsd.blocks
    monkeypatch.setattr(nsd, 'blocks', lambda *a: real(*a, size=50_000))
    class Dies(nsd.TrialsWriter):
        def put(self, name, *a):
            if name == '5': raise KeyboardInterrupt
            return super().put(name, *a)
    with monkeypatch.context() as m:
        m.setattr(nsd, 'TrialsWriter', Dies)
        with pytest.raises(KeyboardInterrupt): load_nsd(whole, 1, 'train', memory=1, at=tmp_path/'at')
    got = load_nsd(whole, 1, 'train', memory=1, at=tmp_path/'at')
    assert isinstance(got.x, np.memmap) and (got.x == want.x).all() and got.table.picture.equals(want.table.picture) and got.members == want.members
    assert load_nsd(whole, 1, 'train', memory=1, at=tmp_path/'at').x.filename == got.x.filename
    other = load_nsd(whole, 1, 'train', sessions=[1, 2], memory=1, at=tmp_path/'at'); assert other.x.filename != got.x.filename and len(other) < len(got)


def test_a_bad_number_outside_the_sample_is_found(whole):
    "Not only the rows that are looked at first."
    t = nsd_table(whole, 1); x = np.array(open_betas(whole, 1).x); x[t.row[t.train].iloc[77], 3] = np.inf; b = Betas(x, 1, 'mindeye2', 'z', [whole/'betas_all_subj01_fp32_renorm.hdf5']); side = t[t.train].reset_index(drop=True)
    with pytest.raises(ValuesError, match=f'trial {side.row[77]}, voxel 3'): list(blocks(b, side, grouped(side, False), None, None))
    with pytest.raises(ValuesError, match='voxel 3'): session_scales(b, t, None, 'train-sessions')


def test_a_complete_person_has_the_published_counts():
    "2999 test trials in a complete copy are refused."
    t = pd.DataFrame(dict(new_test=np.arange(30000) < 3000, old_test=np.arange(30000) < 2770)); check_counts(t, 1)
    with pytest.raises(ShapeError, match='2999'): check_counts(t.assign(new_test=np.arange(30000) < 2999), 1)
    with pytest.raises(ShapeError, match='old test'): check_counts(t.assign(old_test=t.new_test), 1)


def test_regions_are_where_the_volume_says(whole):
    "Positions among the voxels of the mask and labels of the volume agree; both sides together are the whole."
    mask, img = nsd_mask(whole, 1); rois = nsd_rois(whole, 1); v = nib.load(whole/'nsddata/ppdata/subj01/func1pt8mm/roi/prf-visualrois.nii.gz').get_fdata()
    drawn = in_volume(np.ones(len(rois['hV4'])), img, at=rois['hV4'], rest=0).get_fdata(); assert ((drawn > 0) == (v == 7)).all()
    assert sorted([*rois['lh.prf-visualrois'], *rois['rh.prf-visualrois']]) == rois['prf-visualrois'].tolist() and (rois['V1'] == rois['mindeye2/V1']).all()
    t = load_nsd(whole, 1, 'test', roi=['V1', 'hV4']); both = np.union1d(rois['V1'], rois['hV4']); assert t.names == [f'v{i:05d}' for i in both]
    assert np.allclose(t.x, load_nsd(whole, 1, 'test').x[:, both]) and np.allclose(load_nsd(whole, 1, 'test', roi=both[::-1]).x, t.x[:, ::-1])


def test_pictures_and_captions_belong_to_the_trials(whole):
    "The picture of a number is the same in each file, and the words are its own."
    t = load_nsd(whole, 1, 'test'); p, q = (nsd_pictures(whole, t.table.image, 64, k) for k in ('coco', 'png'))
    assert p.table.picture.tolist() == t.table.picture.tolist() and np.abs(p.img.astype(int) - q.img).mean() < 3
    assert all((whole/'images'/f).is_file() for f in t.table.path) and len(nsd_captions(whole, t.table.image)) == 26


def test_splits_by_picture(whole):
    "No picture on two sides; another seed holds out others; every repetition goes along."
    s = load_splits('nsd', whole, 1, valid=.2, average=False, roi='V1'); assert s.by == 'picture' and s.valid.table.picture.nunique() == round(.2*54) and (s.valid.table.groupby('picture').size() == 3).all()
    assert set(load_splits('nsd', whole, 1, valid=.2, seed=1, roi='V1').valid.table.picture) != set(s.valid.table.picture)
    assert load_splits('nsd', whole, 1, test='old_test').test.table.picture.nunique() <= s.test.table.picture.nunique()
    with pytest.raises(LeakError): type(s)(s.train, s.valid, s.valid, by='picture')


def test_simulated_responses_can_be_decoded(whole):
    "A picture is found again by its other repetitions far above chance, and trees say that they are simulated."
    t = load_nsd(whole, 1, 'test', average=False, zscore='train-sessions', version='betas_fithrf'); r = t.table.groupby('picture').trial.rank().to_numpy(); z = [t.x[np.flatnonzero(r == k)[np.argsort(t.table.picture[r == k].to_numpy())]] for k in (1, 2)]
    c = np.corrcoef(*z)[:26, 26:]; assert (c.argmax(1) == np.arange(26)).mean() > .5 and t.provenance['simulated'] is True


def test_same_settings_same_files(tmp_path, whole):
    "The tree is the same every time."
    again = write_nsd(tmp_path/'again', subjects=(1,), sessions=4, shared=26, stimuli=(), captions=()); a, b = (h5py.File(p/'betas_all_subj01_fp32_renorm.hdf5')['betas'][:] for p in (again, whole))
    assert np.allclose(a, b, atol=1e-5) and file_mark(again/'wds/subj01/train/0.tar')[:4] == file_mark(whole/'wds/subj01/train/0.tar')[:4]


def test_status_never_fails(tree):
    "Of a broken or partial folder it says what is wrong."
    u = usable_nsd(tree).set_index('subject'); assert u.state.tolist() == ['partial', 'partial', *['absent']*6] and '240 of 30000' in u.missing[1] and u.bytes[1] > 1e5
    (tree/'betas_all_subj01_fp32_renorm.hdf5').write_bytes(b'nothing'); (tree/'nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz').write_bytes(b'nothing'); shutil.rmtree(tree/'wds/subj02/new_test')
    u = usable_nsd(tree).set_index('subject'); assert 'no HDF5' in u.missing[1] and 'NIfTI' in u.missing[1] and 'new_test/0.tar' in u.missing[2]


def test_maps_are_small_and_in_place(whole):
    "Every figure fits; what is drawn is what was given."
    mask, img = nsd_mask(whole, 1); x = np.random.default_rng(0).normal(size=mask.sum()); assert np.allclose(in_volume(x, img).get_fdata()[mask], x, atol=1e-6)
    box = nib.Nifti1Image(np.ones((23, 28, 23), 'i2'), np.array([[8., 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])); y = np.linspace(-1, 1, 23*28*23)
    for f in (show_slices(x, img, axis='y'), show_regions({'V1': [0, 1], 'V2': []}, img, axis='x'), show_brain(y, box, space='MNI'), show_surface(y, box, space='MNI', views=(('left', 'flat'),))): assert len(f.small()[1]) <= 40_000
    with pytest.raises(ValueError, match='MNI'): show_brain(x, img)
