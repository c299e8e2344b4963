"Bad input of the Natural Scenes Dataset: responses, masks, lists of trials, pictures, captions."
import io, shutil, tarfile
from pathlib import Path
import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from broken import Broken, Call, cut, edit_json, empty, flip, web_page
from brainrecon.core.checks import ChannelError, FileError, FolderError, LeakError, MissingWeights, ParameterError, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.data.nsd import load_nsd
from brainrecon.data.nsd_betas import nsd_mask, nsd_rois, volume_shapes
from brainrecon.data.nsd_pictures import nsd_captions, nsd_pictures
from brainrecon.data.nsd_tree import write_nsd, write_tar
from brainrecon.data.nsd_trials import nsd_table, wds_table

ONE, B2, B3 = 'betas_all_subj01_fp32_renorm.hdf5', 'nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf', 'nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR'
ROI, LABEL, WDS, EXP = 'nsddata/ppdata/subj01/func1pt8mm/roi', 'nsddata/freesurfer/subj01/label', 'wds/subj01', 'nsddata/experiments/nsd'


def tree(root):
    write_nsd(root, raw='hdf5', stimuli=('coco', 'png'))
    mask, img = nsd_mask(root, 1); (root/B3).mkdir()
    for s in (1, 2):      # the other version, as NIfTI
        x = np.zeros((*mask.shape, 60), 'i2')
        with h5py.File(root/B2/f'betas_session{s:02d}.hdf5') as f:
            for i, j, k in np.argwhere(mask): x[i, j, k] = f['betas'][:, k, j, i]
        nib.save(nib.Nifti1Image(x, img.affine), root/B3/f'betas_session{s:02d}.nii.gz')

def read(root):
    ids = nsd_table(root, 1).image.unique()[:3]
    return [load_nsd(root, 1), fithrf(root), denoised(root), load_nsd(root, 1, 'test', roi='V1'), nsd_pictures(root, ids), nsd_pictures(root, ids, kind='png'), nsd_captions(root, ids)]

def one(root): return load_nsd(root, 1)
def fithrf(root): return load_nsd(root, 1, version='betas_fithrf', zscore='train-sessions', at=root/'cache')
def denoised(root): return load_nsd(root, 1, version='betas_fithrf_GLMdenoise_RR', at=root/'cache')
def images(root): return sorted(nsd_table(root, 1).image.unique())[:4]

def h5(path, f, key='betas'):
    "Change a data set, or replace it by what `f` gives."
    with h5py.File(path, 'r+') as file:
        x = f(file[key])
        if x is not None: del file[key]; file[key] = x

def put(rows, cols, value):
    def change(d): d[rows, cols] = value
    return change

def rename(path, old, new):
    with h5py.File(path, 'r+') as f: f.move(old, new)

def volume(path, f):
    "Change a NIfTI volume."
    img = nib.load(path); x = np.asanyarray(img.dataobj).copy(); y = f(x); nib.save(nib.Nifti1Image(x if y is None else y, img.affine), path)

def voxel(root, value, session=2):
    "Set one voxel of a session file."
    x, y, z = np.argwhere(nsd_mask(root, 1)[0])[5]
    with h5py.File(root/B2/f'betas_session{session:02d}.hdf5', 'r+') as f: f['betas'][:, z, y, x] = value

def session(root, f, dtype='i2', shape=None):
    "Rewrite a session file: `f(whole numbers of the voxels)` in another type, or nothing but zeros in another shape."
    p = root/B2/'betas_session01.hdf5'; at = np.argwhere(nsd_mask(root, 1)[0])
    with h5py.File(p) as file: x = [file['betas'][:, k, j, i] for i, j, k in at]; full = file['betas'].shape
    with h5py.File(p, 'w') as file:
        d = file.create_dataset('betas', shape or full, dtype, chunks=(full[0], 1, 1, 1) if shape is None else True, fillvalue=0)
        if shape is None:
            for (i, j, k), line in zip(at, x): d[:, k, j, i] = f(line)

def members(path, f, only='.behav.npy', pickled=False):
    "Rewrite the arrays of a tar file."
    with tarfile.open(path) as t: old = [(m.name, t.extractfile(m).read()) for m in t]
    with tarfile.open(path, 'w') as t:
        for name, data in old:
            if name.endswith(only) and (a := f(np.load(io.BytesIO(data)))) is not None: b = io.BytesIO(); np.save(b, a, allow_pickle=pickled); data = b.getvalue()
            i = tarfile.TarInfo(name); i.size = len(data); t.addfile(i, io.BytesIO(data))

def without(path, ending):
    "Drop members of a tar file."
    with tarfile.open(path) as t: old = [(m, t.extractfile(m).read()) for m in t if not m.name.endswith(ending)]
    with tarfile.open(path, 'w') as t:
        for m, data in old: t.addfile(m, io.BytesIO(data))

def column(k, value):
    def change(a): a = a.astype(float); a[0, k] = value(a[0, k]) if callable(value) else value; return a
    return change

def table(path, f, sep=','):
    t = pd.read_csv(path, sep=sep); f(t).to_csv(path, sep=sep, index=False)

def leak(root):
    t = wds_table(root, 1); row = t.global_trial[t.train].iloc[0]
    write_tar(root/WDS/'new_test/0.tar', t.assign(shared1000=1)[t.new_test | (t.global_trial == row)], t.assign(shared1000=0))

def other_person(root):
    "The tar of somebody else under this name."
    members(root/WDS/'train/1.tar', column(1, 2))

def mat(path, f):
    from scipy.io import loadmat, savemat
    d = {k: v for k, v in loadmat(path).items() if not k.startswith('__')}; savemat(path, f(d))

again = 'fetch'
cases = [
    # responses in one file
    Broken('betas-truncated', lambda r: cut(r/ONE, .5), one, FileError, ('betas_all_subj01', 'truncated'), 'whole file', again),
    Broken('betas-cut-at-the-end', lambda r: cut(r/ONE, .98), one, FileError, 'betas_all_subj01', 'whole file', again),
    Broken('betas-empty', lambda r: empty(r/ONE), one, FileError, ('betas_all_subj01', '0 bytes'), 'whole file', again),
    Broken('betas-web-page', lambda r: web_page(r/ONE), one, FileError, ('betas_all_subj01', 'web page'), 'numbers', again),
    Broken('betas-wrong-key', lambda r: rename(r/ONE, 'betas', 'voxels'), one, FileError, ('betas_all_subj01', 'no `betas`'), 'voxels', 'which file'),
    Broken('betas-three-axes', lambda r: h5(r/ONE, lambda d: d[:][None]), one, ShapeError, ('betas_all_subj01', '3 axes'), 'b v', again),
    Broken('betas-transposed', lambda r: h5(r/ONE, lambda d: d[:].T), one, ShapeError, ('betas_all_subj01', '120 voxels'), 'nsdgeneral', 'subj01'),
    Broken('betas-voxels-of-somebody', lambda r: h5(r/ONE, lambda d: d[:, :-3]), one, ShapeError, ('betas_all_subj01', '607 voxels'), '610', 'subj01'),
    Broken('betas-published-number-of-subject-2', lambda r: ((r/ROI/'nsdgeneral.nii.gz').unlink(), h5(r/ONE, lambda d: np.zeros((2, 14278), 'f4'))), one, ShapeError, '14278 voxels', '15724', 'subj01'),
    Broken('betas-whole-numbers', lambda r: h5(r/ONE, lambda d: (d[:]*300).astype('i2')), one, ValuesError, ('betas_all_subj01', 'int16'), 'float32', '300'),
    Broken('betas-not-divided', lambda r: h5(r/ONE, lambda d: d[:]*np.float32(300)), one, ValuesError, ('betas_all_subj01', 'varies by'), 'percent', 'divide'),
    Broken('betas-doubles', lambda r: h5(r/ONE, lambda d: d[:].astype('f8')), one, ValuesError, ('betas_all_subj01', 'float64'), 'float32', 'float32'),
    Broken('betas-no-trials', lambda r: h5(r/ONE, lambda d: d[:0]), one, FileError, ('betas_all_subj01', 'no trials'), 'session', again),
    Broken('betas-nan', lambda r: h5(r/ONE, put(slice(None), 7, np.nan)), one, ValuesError, ('betas_all_subj01', 'v00007'), 'number', 'voxel'),
    Broken('betas-infinite', lambda r: h5(r/ONE, put(slice(30, 60), 11, np.inf)), one, ValuesError, ('betas_all_subj01', 'v00011'), 'number', 'voxel'),
    Broken('betas-flat-voxel', lambda r: h5(r/ONE, put(slice(None), 9, 0)), one, ValuesError, ('betas_all_subj01', 'flat', 'v00009'), 'changes', 'drop'),
    Broken('betas-doubled-voxel', lambda r: h5(r/ONE, lambda d: np.c_[d[:, :5], d[:, 4:5], d[:, 6:]]), one, ChannelError, ('betas_all_subj01', 'v00004'), 'differ', 'drop'),
    Broken('betas-row-beyond-the-end', lambda r: h5(r/ONE, lambda d: d[:100]), one, ShapeError, ('betas_all_subj01', 'trial 100', 'session 2'), '120 trials', 'sessions=range(1, 2)'),
    Broken('betas-session-absent', lambda r: h5(r/ONE, lambda d: d[:60]), one, ShapeError, ('60 trials', 'session 2'), '120', 'sessions'),
    Broken('betas-z-scored-twice', lambda r: None, lambda r: load_nsd(r, 1, zscore='train-sessions'), ParameterError, ('betas_all_subj01', 'already'), "zscore='none'", 'betas_fithrf'),
    Broken('subject-absent', lambda r: None, lambda r: load_nsd(r, 5), MissingWeights, 'subject 5', 'betas_all_subj05', '--subject 5'),
    Broken('subject-nine', lambda r: None, lambda r: load_nsd(r, 9), UnknownError, 'subject 9', '1 to 8', 'subject=1'),
    Broken('subject-under-another-name', lambda r: shutil.copy(r/ONE, r/'betas_all_subj02_fp32_renorm.hdf5'), one, UnknownError, ('subj02', 'subj01'), 'its own', 'delete'),
    Broken('session-under-another-name', lambda r: ((r/ONE).unlink(), shutil.rmtree(r/B3), shutil.copytree(r/B2, r/B2.replace('subj01', 'subj07'))), fithrf, UnknownError, 'same recording', 'its own', 'delete'),
    Broken('no-folder', lambda r: None, lambda r: load_nsd(r/'absent', 1), MissingWeights, 'absent', 'data set', 'data plan nsd'),
    # sessions
    Broken('sessions-two-versions', lambda r: (r/ONE).unlink(), one, ParameterError, '2 versions', 'one', 'version='),
    Broken('sessions-version-unknown', lambda r: None, lambda r: load_nsd(r, 1, version='betas_b4'), UnknownError, 'betas_b4', 'betas_fithrf', 'betas_'),
    Broken('sessions-version-absent', lambda r: None, lambda r: load_nsd(r, 1, version='betas_assumehrf'), MissingWeights, 'betas_assumehrf', 'betas_fithrf', 'another version'),
    Broken('sessions-gap', lambda r: (r/B2/'betas_session01.hdf5').unlink(), fithrf, MissingWeights, 'session 1', 'gap', 'remove the later'),
    Broken('sessions-last-absent', lambda r: (r/B2/'betas_session02.hdf5').unlink(), fithrf, ShapeError, ('betas_session01', 'session 2'), '120', 'range(1, 2)'),
    Broken('session-truncated', lambda r: cut(r/B2/'betas_session02.hdf5', .5), fithrf, FileError, 'betas_session02', 'whole file', again),
    Broken('session-divided-already', lambda r: session(r, lambda x: np.round(x/300)), fithrf, ValuesError, 'betas_session01', 'percent', 'once'),
    Broken('session-not-divided', lambda r: session(r, lambda x: x, 'f4'), fithrf, ValuesError, 'betas_session01', 'percent', 'once'),
    Broken('session-axes-swapped', lambda r: session(r, None, shape=(81, 104, 83, 60)), fithrf, ShapeError, 'betas_session01', 'trials', 'transpose'),
    Broken('session-of-subject-2', lambda r: session(r, None, shape=(60, *volume_shapes[2][::-1])), fithrf, ShapeError, '82x106x84', '81x104x83', 'subj01'),
    Broken('session-flat-voxel', lambda r: voxel(r, 0), fithrf, ChannelError, ('betas_session02', 'session 2', '5'), 'changes', 'roi='),
    Broken('nifti-truncated', lambda r: cut(r/B3/'betas_session02.nii.gz', .6), denoised, FileError, 'betas_session02', 'whole NIfTI', again),
    Broken('nifti-three-axes', lambda r: volume(r/B3/'betas_session01.nii.gz', lambda x: x[..., 0]), denoised, ShapeError, ('betas_session01', '3 axes'), 'trials', 'nii.gz'),
    Broken('nifti-web-page', lambda r: web_page(r/B3/'betas_session01.nii.gz'), denoised, FileError, 'betas_session01', 'NIfTI', again),
    # masks and regions
    Broken('mask-of-subject-2', lambda r: volume(r/ROI/'nsdgeneral.nii.gz', lambda x: np.ones(volume_shapes[2], 'i2')), one, ShapeError, ('nsdgeneral', '82x106x84'), '81x104x83', 'subj01'),
    Broken('mask-another-count', lambda r: volume(r/ROI/'nsdgeneral.nii.gz', lambda x: (x > 0)*(np.arange(x.shape[0]) < 40)[:, None, None].astype('i2')), one, ShapeError, 'betas_all_subj01', 'nsdgeneral', 'subj01'),
    Broken('mask-truncated', lambda r: cut(r/ROI/'nsdgeneral.nii.gz', .5), one, FileError, 'nsdgeneral', 'whole NIfTI', again),
    Broken('mask-empty', lambda r: volume(r/ROI/'nsdgeneral.nii.gz', lambda x: np.zeros_like(x)), one, ChannelError, 'nsdgeneral', 'above 0', again),
    Broken('mask-absent', lambda r: (r/ROI/'nsdgeneral.nii.gz').unlink(), fithrf, MissingWeights, 'nsdgeneral', 'read', again),
    Broken('region-unknown', lambda r: None, lambda r: load_nsd(r, 1, roi='V9'), UnknownError, 'V9', 'V1v', 'choose'),
    Broken('region-empty', lambda r: None, lambda r: load_nsd(r, 1, roi='aTL-faces'), ChannelError, ('aTL-faces', 'subject 1'), 'at least one', 'nsd_rois'),
    Broken('region-positions', lambda r: None, lambda r: load_nsd(r, 1, roi=[0, 610]), ChannelError, '610', '0 to 609', 'nsd_rois'),
    Broken('region-names-absent', lambda r: (r/LABEL/'prf-visualrois.mgz.ctab').unlink(), lambda r: load_nsd(r, 1, roi='V1'), MissingWeights, 'prf-visualrois.mgz.ctab', 'names', again),
    Broken('region-names-web-page', lambda r: web_page(r/LABEL/'floc-faces.mgz.ctab'), nsd_rois, FileError, 'floc-faces.mgz.ctab', '1 V1v', again),
    Broken('region-label-without-name', lambda r: volume(r/ROI/'streams.nii.gz', lambda x: np.where(x == 5, 12, x).astype('i2')), nsd_rois, UnknownError, ('streams', '12'), 'early', again),
    Broken('region-of-subject-5', lambda r: volume(r/ROI/'streams.nii.gz', lambda x: np.ones(volume_shapes[5], 'i2')), nsd_rois, ShapeError, ('streams', '79x97x78'), '81x104x83', 'subj01'),
    Broken('region-masks-too-short', lambda r: h5(r/'brain_region_masks.hdf5', lambda d: d[:-9], 'subj01/V1'), nsd_rois, ShapeError, ('brain_region_masks', '601'), '610', again),
    # lists of trials
    Broken('tar-cut', lambda r: cut(r/WDS/'train/0.tar', .5), one, FileError, ('train/0.tar', 'ends in the middle'), 'zeros', again),
    Broken('tar-cut-between-blocks', lambda r: (r/WDS/'train/0.tar').write_bytes((r/WDS/'train/0.tar').read_bytes()[:102400]), one, FileError, 'train/0.tar', 'zeros', again),
    Broken('tar-empty', lambda r: empty(r/WDS/'train/1.tar'), one, FileError, ('train/1.tar', '0 bytes'), 'whole', again),
    Broken('tar-web-page', lambda r: web_page(r/WDS/'new_test/0.tar'), one, FileError, ('new_test/0.tar', 'web page'), 'numbers', again),
    Broken('tar-without-behav', lambda r: without(r/WDS/'train/0.tar', '.behav.npy'), one, FileError, ('train/0.tar', 'no `behav.npy`'), 'each trial', 'new_test'),
    Broken('behav-wrong-columns', lambda r: members(r/WDS/'train/0.tar', lambda a: a[:, :16]), one, ShapeError, ('train/0.tar', '(1, 16)'), '17', 'MindEye2'),
    Broken('behav-a-pickle', lambda r: members(r/WDS/'train/0.tar', lambda a: np.array([[Call(r.parent/'payload')]*17], object), pickled=True), one, UnsafeError, ('behav.npy', 'train/0.tar'), 'plain numbers', again),
    Broken('behav-picture-beyond', lambda r: members(r/WDS/'train/0.tar', column(0, 73000)), one, ValuesError, ('train/0.tar', '73000'), '72999', '73KID'),
    Broken('behav-picture-missing', lambda r: members(r/WDS/'train/1.tar', column(0, -1)), one, ValuesError, ('train/1.tar', '-1'), '72999', again),
    Broken('behav-columns-moved', lambda r: members(r/WDS/'train/0.tar', lambda a: np.roll(a, 3, axis=1)), one, UnknownError, 'train/0.tar', 'subject 1', again),
    Broken('behav-half-numbers', lambda r: members(r/WDS/'train/0.tar', column(5, lambda v: v + .5)), one, ValuesError, ('train/0.tar', 'global_trial'), 'whole', 'image, subject'),
    Broken('behav-session-beyond', lambda r: members(r/WDS/'train/0.tar', column(2, 41)), one, ValuesError, ('train/0.tar', 'session 41'), '1 to 40', 'image, subject'),
    Broken('tar-of-somebody', other_person, one, UnknownError, ('train/1.tar', 'subject 2'), 'subject 1', 'delete'),
    Broken('tar-missing', lambda r: (r/WDS/'train/0.tar').unlink(), one, MissingWeights, ('train', '0.tar'), 'each session', again),
    Broken('test-lists-missing', lambda r: [shutil.rmtree(r/WDS/d) for d in ('new_test', 'test')], one, MissingWeights, 'subj01', 'new_test/0.tar', again),
    Broken('old-test-missing', lambda r: shutil.rmtree(r/WDS/'test'), lambda r: load_nsd(r, 1, 'old_test'), MissingWeights, 'old_test', 'new_test', again),
    Broken('side-unknown', lambda r: None, lambda r: load_nsd(r, 1, 'val'), UnknownError, 'val', 'new_test', 'choose'),
    Broken('test-picture-in-training', leak, one, LeakError, 'training and in the test', 'none', 'delete'),
    Broken('trial-with-two-pictures', lambda r: members(r/WDS/'train/1.tar', column(5, 100)), one, ValuesError, ('train', 'trial 100'), 'one', 'delete'),
    Broken('lists-disagree', lambda r: table(r/'nsddata/ppdata/subj01/behav/responses.tsv', lambda t: t.assign(**{'73KID': t['73KID'] - 1}), '\t'), one, ValuesError, ('responses', 'wds'), 'agree', 'source='),
    Broken('lists-absent', lambda r: (shutil.rmtree(r/'wds'), shutil.rmtree(r/'nsddata/experiments'), shutil.rmtree(r/'nsddata/ppdata/subj01/behav')), one, MissingWeights, 'subject 1', 'wds/subj01', '--subject 1'),
    Broken('responses-cut', lambda r: cut(r/'nsddata/ppdata/subj01/behav/responses.tsv', .503), lambda r: nsd_table(r, 1, 'responses'), FileError, 'responses.tsv', 'numbers', again),
    Broken('responses-without-column', lambda r: table(r/'nsddata/ppdata/subj01/behav/responses.tsv', lambda t: t.drop(columns='73KID'), '\t'), lambda r: nsd_table(r, 1, 'responses'), FileError, ('responses.tsv', '73KID'), 'it has: subject', 'fetch it again'),
    Broken('responses-of-somebody', lambda r: table(r/'nsddata/ppdata/subj01/behav/responses.tsv', lambda t: t.assign(SUBJECT=4), '\t'), lambda r: nsd_table(r, 1, 'responses'), UnknownError, ('responses.tsv', 'subject 4'), 'subject 1', again),
    Broken('design-cut', lambda r: cut(r/EXP/'nsd_expdesign.mat', .6), lambda r: nsd_table(r, 1, 'design'), FileError, 'nsd_expdesign.mat', 'nsd_expdesign.mat', again),
    Broken('design-without-plan', lambda r: mat(r/EXP/'nsd_expdesign.mat', lambda d: {k: d[k] for k in d if k != 'masterordering'}), lambda r: nsd_table(r, 1, 'design'), FileError, 'masterordering', 'subjectim', 'nsd_expdesign.mat'),
    Broken('design-counts-from-0', lambda r: mat(r/EXP/'nsd_expdesign.mat', lambda d: {**d, 'masterordering': d['masterordering'] - 1}), lambda r: nsd_table(r, 1, 'design'), FileError, 'nsd_expdesign.mat', 'from 1', 'nsd_expdesign.mat'),
    Broken('picture-table-rows-lost', lambda r: table(r/EXP/'nsd_stim_info_merged.csv', lambda t: t.iloc[:-5]), lambda r: nsd_table(r, 1, 'pictures'), FileError, 'nsd_stim_info_merged.csv', 'without a gap', again),
    Broken('session-unknown', lambda r: None, lambda r: load_nsd(r, 1, sessions=[3]), UnknownError, '3', '1, 2', 'choose'),
    Broken('scale-without-training', lambda r: None, lambda r: load_nsd(r, 1, 'test', version='betas_fithrf', zscore='train-sessions', at=r/'cache', source='wds', sessions=[1]) if [write_tar(r/WDS/'train/0.tar', (t := wds_table(r, 1))[t.train & (t.session == 1)].head(4), t)] else None, ShapeError, ('session 1', '4 training trials'), 'at least 10', 'sessions='),
    # pictures and captions
    Broken('picture-file-missing', lambda r: next((r/'images').glob(f'image_{images(r)[1]:06d}.png')).unlink(), lambda r: nsd_pictures(r, images(r), kind='png'), MissingWeights, '.png', 'file for each', 'export'),
    Broken('picture-file-damaged', lambda r: cut(r/f'images/image_{images(r)[1]:06d}.png', .1), lambda r: nsd_pictures(r, images(r), kind='png'), FolderError, '.png', 'png', 'save it again'),
    Broken('picture-number-beyond', lambda r: None, lambda r: nsd_pictures(r, [73000]), UnknownError, '73000', '72999', '73KID'),
    Broken('picture-number-missing', lambda r: None, lambda r: nsd_pictures(r, [-1]), UnknownError, '-1', '0 to', 'drop'),
    Broken('picture-not-written', lambda r: None, lambda r: nsd_pictures(r, [i for i in range(50) if i not in images(r)][:1], kind='coco'), ValuesError, ('coco_images_224_float16', 'empty'), 'photograph', again),
    Broken('pictures-absent', lambda r: (shutil.rmtree(r/'images'), (r/'coco_images_224_float16.hdf5').unlink()), lambda r: nsd_pictures(r, images(r)), MissingWeights, 'no pictures', 'coco_images_224', again),
    Broken('pictures-truncated', lambda r: cut(r/'coco_images_224_float16.hdf5', .7), lambda r: nsd_pictures(r, images(r), kind='coco'), FileError, 'coco_images_224_float16', 'whole', again),
    Broken('pictures-wrong-key', lambda r: rename(r/'coco_images_224_float16.hdf5', 'images', 'imgBrick'), lambda r: nsd_pictures(r, images(r), kind='coco'), FileError, 'no `images`', 'imgBrick', 'which file'),
    Broken('pictures-of-one-person', lambda r: h5(r/'coco_images_224_float16.hdf5', lambda d: np.ones((10, 3, 224, 224), 'f2'), 'images'), lambda r: nsd_pictures(r, images(r), kind='coco'), ShapeError, 'coco_images_224_float16', '73000', again),
    Broken('pictures-scaled-for-a-network', lambda r: h5(r/'coco_images_224_float16.hdf5', lambda d: d.__setitem__(images(r)[0], d[images(r)[0]]*4 - 2), 'images'), lambda r: nsd_pictures(r, images(r), kind='coco'), ValuesError, 'values from -', '0 to 1', 'published'),
    Broken('captions-cut', lambda r: [cut(p, .5) for p in (r/'annotations').iterdir()], lambda r: nsd_captions(r, images(r)), FileError, 'captions_', 'JSON', again),
    Broken('captions-of-others', lambda r: [edit_json(p, lambda d: d.update(annotations=[])) for p in (r/'annotations').iterdir()], lambda r: nsd_captions(r, images(r)), ValuesError, 'no caption', 'at least one', again),
    Broken('captions-table-short', lambda r: np.save(r/'COCO_73k_annots_curated.npy', np.array([['a']*5]*9)), lambda r: nsd_captions(r, images(r)), ShapeError, 'COCO_73k', '73000', 'MindEye2'),
    Broken('captions-a-pickle', lambda r: np.save(r/'COCO_73k_annots_curated.npy', np.array([[Call(r.parent/'payload')]], object), allow_pickle=True), lambda r: nsd_captions(r, images(r)), UnsafeError, ('COCO_73k', 'open'), 'text', 'do not open'),
    Broken('captions-absent', lambda r: shutil.rmtree(r/'annotations'), lambda r: nsd_captions(r, images(r)), MissingWeights, 'no captions', 'annotations', again),
]
