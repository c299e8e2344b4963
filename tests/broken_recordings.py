"Own recordings that cannot be what they claim: EEG in BIDS and in mne's files, fMRI series with events or labels."
import re, shutil
from pathlib import Path
import numpy as np
import pandas as pd
from broken import Broken, cut, empty, web_page
from brainrecon.core.checks import (ChannelError, FileError, FolderError, MissingWeights, ParameterError, ShapeError, UnknownError, ValuesError)
from brainrecon.data.pictures import load_pictures
from brainrecon.data.recordings import from_bids, from_mne
from brainrecon.data.recordings_fmri import from_nifti
from brainrecon.data.recordings_tree import write_blocks, write_bids, write_events

EEG, FUNC = 'eeg/sub-01/eeg', 'fmri/sub-01/func'
name = lambda run, what: f'sub-01_task-look_run-{run:02d}_{what}'
eeg = lambda root, what, run=1: Path(root)/EEG/name(run, what)
func = lambda root, what, run=1: Path(root)/FUNC/name(run, what)


def tree(root):
    "A BIDS folder of EEG and one of fMRI, epochs of mne, and a series with labels."
    import mne
    root = Path(root); pictures = load_pictures('train', exemplars=True)[:20]
    write_bids(root/'eeg', pictures, runs=2); write_events(root/'fmri', pictures[:16], runs=2)
    write_blocks(root/'blocks', runs=3, shape=(12, 8, 1), n_voxels=40)
    t = from_bids(root/'eeg', 1, run=1)
    info = mne.create_info(t.names, t.sfreq, 'eeg')
    epochs = mne.EpochsArray(t.x, info, tmin=t.tmin, metadata=t.table[['picture', 'concept']].rename(columns=dict(picture='stimulus')), verbose='error')
    epochs.save(root/'mine-epo.fif', verbose='error')
    mne.io.RawArray(np.concatenate(list(t.x), 1), info, verbose='error').save(root/'mine-raw.fif', verbose='error')


def read(root):
    "All of them are read without complaint."
    root = Path(root); read_epo(root); read_labels(root); read_func(root)
    return read_eeg(root)


def read_eeg(root, **how): return from_bids(Path(root)/'eeg', **{**dict(subject=1, task='look'), **how})
def read_epo(root, file='mine-epo.fif', **how): return from_mne(Path(root)/file, **how)
def load_epo(root):
    import mne
    return mne.read_epochs(Path(root)/'mine-epo.fif', verbose='error')

def read_func(root, **how):
    runs, events = ([func(root, what, r) for r in (1, 2)] for what in ('bold.nii.gz', 'events.tsv'))
    return from_nifti(how.pop('runs', runs), how.pop('mask', Path(root)/FUNC/'sub-01_mask.nii.gz'), how.pop('events', events), **how)

def read_labels(root, **how):
    b = Path(root)/'blocks'
    return from_nifti(b/'bold.nii.gz', b/'mask.nii.gz', **{**dict(labels=b/'labels.tsv', glm=False, delay=0, units='z', drift=None), **how})


def edit_tsv(path, f):
    "Change a table; what f gives, or the table that f changed in place, is written."
    t = pd.read_csv(path, sep='\t'); new = f(t); (t if new is None else new).to_csv(path, sep='\t', index=False, na_rep='n/a')

def edit_text(path, old, new):
    text = Path(path).read_text(encoding='utf-8'); assert re.search(old, text); Path(path).write_text(re.sub(old, new, text), encoding='utf-8')

def edit_numbers(path, f, n=17):
    "Change the numbers of a BrainVision file, `t c`."
    x = np.fromfile(path, '<f4').reshape(-1, n); new = f(x); (x if new is None else new).astype('<f4').tofile(path)

def edit_nifti(path, f=None, header=None, affine=None):
    "Change the numbers, the header or the affine of an image."
    import nibabel as nib
    img = nib.load(path); x = np.asarray(img.dataobj).astype('float32'); x = x if f is None else f(x)
    out = nib.Nifti1Image(x, img.affine if affine is None else affine(img.affine)); out.header.set_xyzt_units('mm', 'sec')
    if x.ndim == 4: out.header.set_zooms((*out.header.get_zooms()[:3], header if header is not None else float(img.header.get_zooms()[3])))
    nib.save(out, path)

def put(x, where, value):
    x = x.copy(); x[where] = value
    return x

def put_column(t, row, column, value):
    t[column] = t[column].astype(object); t.loc[row, column] = value

def twin(root):
    "The first run under the name of the second."
    for what in ('eeg.eeg', 'channels.tsv', 'events.tsv'): shutil.copy(eeg(root, what), eeg(root, what, 2))

def second_task(root):
    for p in list((Path(root)/EEG).glob('*run-01*')):
        text = p.read_bytes().replace(b'task-look', b'task-rest') if p.suffix in ('.vhdr', '.vmrk') else p.read_bytes(); (p.parent/p.name.replace('look', 'rest')).write_bytes(text)

def lose_channel(root):
    edit_numbers(eeg(root, 'eeg.eeg', 2), lambda x: x[:, :-1]); p = eeg(root, 'eeg.vhdr', 2)
    edit_text(p, 'NumberOfChannels=17', 'NumberOfChannels=16'); edit_text(p, r'Ch17=.*\n', ''); edit_tsv(eeg(root, 'channels.tsv', 2), lambda t: t.iloc[:-1])

def microvolts(root):
    import mne
    e = load_epo(root); return mne.EpochsArray(e.get_data(copy=True)*1e6, e.info, metadata=e.metadata, verbose='error')

def marked(root):
    e = load_epo(root); e.info['bads'] = ['Oz']; return e

def bare(root):
    e = load_epo(root); e.metadata = None; return e

concept = lambda p: p.split('/')[1]
RUN1, RUN2, BOLD = name(1, 'eeg.vhdr'), name(2, 'eeg.vhdr'), name(1, 'bold.nii.gz')
same = lambda root: None

cases = [
    # EEG in BIDS
    Broken('eeg-cut-short', lambda r: cut(eeg(r, 'eeg.eeg')), read_eeg, ShapeError, ('events of', RUN1), 'long', 'whole recording'),
    Broken('eeg-numbers-gone', lambda r: eeg(r, 'eeg.eeg').unlink(), read_eeg, FileError, (RUN1, 'cannot be read'), 'whole recording', 'copy'),
    Broken('eeg-header-web-page', lambda r: web_page(eeg(r, 'eeg.vhdr')), read_eeg, FileError, RUN1, 'whole recording', 'copy'),
    Broken('eeg-header-empty', lambda r: empty(eeg(r, 'eeg.vhdr')), read_eeg, FileError, RUN1, 'whole recording', 'copy'),
    Broken('eeg-numbers-empty', lambda r: empty(eeg(r, 'eeg.eeg')), read_eeg, FileError, RUN1, 'whole recording', 'copy'),
    Broken('events-gone', lambda r: eeg(r, 'events.tsv').unlink(), read_eeg, FileError, RUN1, name(1, 'events.tsv'), 'onset'),
    Broken('events-commas', lambda r: edit_text(eeg(r, 'events.tsv'), '\t', ','), read_eeg, FileError, name(1, 'events.tsv'), 'onset', 'tabs'),
    Broken('events-empty', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: t.iloc[:0]), read_eeg, FileError, ('events.tsv', '0 rows'), 'rows', 'one row an event'),
    Broken('events-no-bytes', lambda r: empty(eeg(r, 'events.tsv')), read_eeg, FileError, name(1, 'events.tsv'), 'table of events', 'export'),
    Broken('events-no-picture-column', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: t.rename(columns=dict(stim_file='stimulus'))), read_eeg, UnknownError, "no column 'stim_file'", 'stimulus', 'picture='),
    Broken('events-milliseconds', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: t.assign(onset=t.onset*1000)), read_eeg, ShapeError, (RUN1, 'reach from'), 'long', 'seconds'),
    Broken('events-of-longer-run', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: t.assign(onset=t.onset + 10)), read_eeg, ShapeError, (RUN1, 'reach from'), 'long', 'seconds from the start'),
    Broken('events-onset-gap', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: put_column(t, 3, 'onset', None)), read_eeg, ShapeError, ('row 3', RUN1), 'seconds', 'drop the row'),
    Broken('events-twice', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: pd.concat([t, t.iloc[[4]]])), read_eeg, ShapeError, ('two events', RUN1), 'one each', 'drop'),
    Broken('events-no-pictures', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: t.assign(stim_file=None)), read_eeg, UnknownError, ('is empty', RUN1), 'name of a picture', 'another column'),
    Broken('concepts-gone', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: t.drop(columns='concept')), read_eeg, UnknownError, ('no column `concept`', RUN1), 'trial_type', 'lambda'),
    Broken('concept-gap', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: put_column(t, 4, 'concept', None)), read_eeg, UnknownError, ('have no concept', RUN1), 'each needs one', 'compare'),
    Broken('concept-mixed', lambda r: edit_tsv(eeg(r, 'events.tsv'), lambda t: pd.concat([t, t.iloc[[4]].assign(concept='other', onset=1.9)])), read_eeg, UnknownError, ('stands under', 'other'), 'one was expected', 'correct'),
    Broken('concept-not-in-dict', same, lambda r: read_eeg(r, concept={'a': 'b'}), UnknownError, 'have no concept', 'each needs one', 'function'),
    Broken('channel-renamed', lambda r: edit_tsv(eeg(r, 'channels.tsv'), lambda t: put_column(t, 0, 'name', 'Fz')), read_eeg, ChannelError, ('channels.tsv', RUN1), 'same names', 'correct channels.tsv'),
    Broken('channel-marked-bad', lambda r: edit_tsv(eeg(r, 'channels.tsv'), lambda t: put_column(t, 2, 'status', 'bad')), read_eeg, ChannelError, ('marked as bad', 'P3', RUN1), 'none', "bads='drop'"),
    Broken('channel-lost-in-run-2', lose_channel, read_eeg, ChannelError, RUN2, RUN1, 'interpolate'),
    Broken('unit-volts', lambda r: edit_text(eeg(r, 'eeg.vhdr'), ',µV', ',V'), read_eeg, ValuesError, ('typical size', RUN1), 'V was expected', 'microvolts'),
    Broken('unit-nanovolts', lambda r: edit_text(eeg(r, 'eeg.vhdr'), ',µV', ',nV'), read_eeg, ValuesError, ('typical size', RUN1), 'V was expected', ('correct', 'channels.tsv')),
    Broken('nan', lambda r: edit_numbers(eeg(r, 'eeg.eeg'), lambda x: put(x, (slice(300, 900), 3), np.nan)), read_eeg, ValuesError, ('not finite', 'P1', RUN1), 'every value', ('interpolate', 'channels.tsv')),
    Broken('flat-channel', lambda r: edit_numbers(eeg(r, 'eeg.eeg'), lambda x: put(x, (slice(None), 3), 0)), read_eeg, ValuesError, ('flat', 'P1', RUN1), 'changes', 'drop'),
    Broken('doubled-channel', lambda r: edit_numbers(eeg(r, 'eeg.eeg'), lambda x: put(x, (slice(None), 3), x[:, 4])), read_eeg, ChannelError, ('P1', 'Pz', 'same signal', RUN1), 'differ', 'drop'),
    Broken('run-twice', twin, read_eeg, UnknownError, (RUN2, 'same recording', RUN1), 'different', 'run='),
    Broken('rate-differs', lambda r: edit_text(eeg(r, 'eeg.vhdr', 2), 'SamplingInterval=5000', 'SamplingInterval=6250'), read_eeg, ShapeError, (RUN2, '160 Hz'), '200 Hz', 'sfreq='),
    Broken('rate-too-high', same, lambda r: read_eeg(r, sfreq=500), ShapeError, '500', '200 Hz', 'at most 200'),
    Broken('window-backwards', same, lambda r: read_eeg(r, tmin=.5, tmax=.1), ShapeError, '0.5 to 0.1', 'after its start', 'tmin'),
    Broken('baseline-outside', same, lambda r: read_eeg(r, baseline=(-.5, 0)), ShapeError, 'baseline', 'window', 'baseline=None'),
    Broken('subject-absent', same, lambda r: read_eeg(r, subject=7), UnknownError, ('subject', "'7'"), "'01'", 'choose'),
    Broken('task-absent', same, lambda r: read_eeg(r, task='loo'), UnknownError, 'task', "'look'", 'look'),
    Broken('run-absent', same, lambda r: read_eeg(r, run=3), UnknownError, ('run', "'3'"), "'02'", 'choose'),
    Broken('two-tasks', second_task, lambda r: read_eeg(r, task=None), UnknownError, ('2 tasks', 'rest'), 'one', "task='look'"),
    Broken('kind-absent', same, lambda r: read_eeg(r, kind='meg'), UnknownError, 'no MEG', '_meg.fif', 'kind'),
    Broken('root-absent', lambda r: shutil.rmtree(Path(r)/'eeg'), read_eeg, MissingWeights, "no folder 'eeg'", 'root of a BIDS', 'dataset_description'),
    Broken('root-too-deep', same, lambda r: from_bids(Path(r)/'eeg'/'sub-01', 1), FolderError, 'no sub-', 'root of a BIDS', 'dataset_description'),
    # files and objects of mne
    Broken('epochs-cut-short', lambda r: cut(r/'mine-epo.fif', .6), read_epo, FileError, 'mine-epo.fif', 'whole', 'copy'),
    Broken('epochs-empty', lambda r: empty(r/'mine-epo.fif'), read_epo, FileError, 'mine-epo.fif', 'whole', 'copy'),
    Broken('epochs-web-page', lambda r: web_page(r/'mine-epo.fif'), read_epo, FileError, 'mine-epo.fif', 'whole', 'copy'),
    Broken('epochs-gone', lambda r: (r/'mine-epo.fif').unlink(), read_epo, FileError, 'mine-epo.fif', '-epo.fif', 'iterdir'),
    Broken('epochs-are-raw', lambda r: shutil.copy(r/'mine-raw.fif', r/'mine-epo.fif'), read_epo, FileError, 'mine-epo.fif', '.fif', 'copy'),
    Broken('not-a-fif', lambda r: (r/'mine.edf').write_bytes(b'0'), lambda r: read_epo(r, 'mine.edf'), FileError, 'mine.edf', 'mne', 'read_raw'),
    Broken('raw-without-table', same, lambda r: read_epo(r, 'mine-raw.fif'), UnknownError, 'without a table', 'which picture', 'table='),
    Broken('raw-without-onsets', same, lambda r: read_epo(r, 'mine-raw.fif', table=pd.DataFrame(dict(stimulus=['a'], concept=['b']))), UnknownError, 'no column `onset`', 'events', 'find_events'),
    Broken('raw-events-of-another', same, lambda r: read_epo(r, 'mine-raw.fif', table=pd.DataFrame(dict(stimulus=['a'], concept=['b'])), events=np.ones((3, 3), int)), ShapeError, '3 events', '1 rows', 'events['),
    Broken('raw-events-columns', same, lambda r: read_epo(r, 'mine-raw.fif', table=pd.DataFrame(dict(stimulus=['a'], concept=['b'])), events=np.ones((1, 2), int)), ShapeError, '(1, 2)', 'three columns', 'find_events'),
    Broken('epochs-without-metadata', same, lambda r: from_mne(bare(r)), UnknownError, 'without a table', 'which picture', 'metadata'),
    Broken('table-too-short', same, lambda r: from_mne(load_epo(r), table=load_epo(r).metadata.iloc[1:]), ShapeError, 'epochs', 'rows', 'before rejecting'),
    Broken('table-is-a-list', same, lambda r: from_mne(load_epo(r), table=['a']*len(load_epo(r))), ShapeError, 'list', 'DataFrame', 'DataFrame'),
    Broken('epochs-microvolts', same, lambda r: from_mne(microvolts(r)), ValuesError, 'typical size', 'V was expected', '1e-6'),
    Broken('epochs-marked-bad', same, lambda r: from_mne(marked(r)), ChannelError, 'Oz', 'none', "bads='interpolate'"),
    Broken('epochs-wrong-kind', same, lambda r: from_mne(load_epo(r), kind='meg'), ChannelError, 'holds eeg', 'MEG', 'set_channel_types'),
    Broken('epochs-unknown-kind', same, lambda r: from_mne(load_epo(r), kind='ecog'), UnknownError, 'ecog', "'eeg'", 'choose'),
    Broken('epochs-averaged', same, lambda r: from_mne(load_epo(r).average()), ShapeError, 'Evoked', 'mne.Epochs', 'mne'),
    Broken('epochs-window', same, lambda r: from_mne(load_epo(r), tmax=3.), ShapeError, '3 s', '0.8 s', 'inside'),
    Broken('epochs-filtered', same, lambda r: from_mne(load_epo(r), band=(1, 40)), ParameterError, 'band', 'continuous', 'raw.filter'),
    # fMRI with events
    Broken('bold-cut-short', lambda r: cut(func(r, 'bold.nii.gz')), read_func, FileError, BOLD, 'volumes', 'copy'),
    Broken('bold-web-page', lambda r: web_page(func(r, 'bold.nii.gz')), read_func, FileError, BOLD, 'NIfTI', 'copy'),
    Broken('bold-empty', lambda r: empty(func(r, 'bold.nii.gz')), read_func, FileError, BOLD, 'NIfTI', 'copy'),
    Broken('bold-gone', lambda r: func(r, 'bold.nii.gz').unlink(), read_func, FileError, BOLD, 'NIfTI', 'iterdir'),
    Broken('bold-one-volume', lambda r: edit_nifti(func(r, 'bold.nii.gz'), lambda x: x[..., 0]), read_func, ShapeError, BOLD, 'series of volumes', 'concat_imgs'),
    Broken('bold-is-an-array', same, lambda r: read_func(r, runs=[np.zeros((3, 3, 3, 9))]*2), ShapeError, 'ndarray', 'NIfTI', 'Nifti1Image'),
    Broken('bold-nan', lambda r: edit_nifti(func(r, 'bold.nii.gz'), lambda x: put(x, (7, 7, 3, 5), np.nan)), read_func, ValuesError, (BOLD, '7,7,3'), 'numbers', 'mask'),
    Broken('bold-flat', lambda r: edit_nifti(func(r, 'bold.nii.gz'), lambda x: put(x, (7, 7, 3), 5)), read_func, ChannelError, (BOLD, '7,7,3'), 'signal', "flat='drop'"),
    Broken('bold-already-percent', lambda r: edit_nifti(func(r, 'bold.nii.gz'), lambda x: x - x.mean(-1, keepdims=True)), read_func, ValuesError, (BOLD, 'near or below zero'), 'raw signal', "units='raw'"),
    Broken('bold-run-twice', lambda r: shutil.copy(func(r, 'bold.nii.gz'), func(r, 'bold.nii.gz', 2)), read_func, UnknownError, (name(2, 'bold.nii.gz'), 'same recording'), 'different', 'list'),
    Broken('mask-empty', lambda r: edit_nifti(r/FUNC/'sub-01_mask.nii.gz', lambda x: 0*x), read_func, ChannelError, 'sub-01_mask.nii.gz', 'at least one', 'plot_roi'),
    Broken('mask-other-shape', lambda r: edit_nifti(r/FUNC/'sub-01_mask.nii.gz', lambda x: x[:, :, :-1]), read_func, ShapeError, 'sub-01_mask.nii.gz', (BOLD, 'affine'), 'resample_to_img'),
    Broken('mask-other-place', lambda r: edit_nifti(r/FUNC/'sub-01_mask.nii.gz', affine=lambda a: a + [[0, 0, 0, 9], *[[0]*4]*3]), read_func, ShapeError, 'another position', 'affine', 'resample_to_img'),
    Broken('mask-atlas', lambda r: edit_nifti(r/FUNC/'sub-01_mask.nii.gz', lambda x: x*np.arange(x.size).reshape(x.shape)), read_func, ValuesError, 'different values', 'two', 'math_img'),
    Broken('mask-is-the-series', same, lambda r: read_func(r, mask=func(r, 'bold.nii.gz')), ShapeError, BOLD, 'x y z', 'einops'),
    Broken('mask-gone', lambda r: (r/FUNC/'sub-01_mask.nii.gz').unlink(), read_func, FileError, 'sub-01_mask.nii.gz', 'NIfTI', 'iterdir'),
    Broken('rate-absent', lambda r: edit_nifti(func(r, 'bold.nii.gz'), header=0), read_func, ShapeError, (BOLD, 'no repetition time'), 'seconds', 't_r='),
    Broken('rate-contradicts', same, lambda r: read_func(r, t_r=2.5), ShapeError, ('t_r=2.5', '2 s'), 'agree', 'set_zooms'),
    Broken('rate-milliseconds', lambda r: edit_nifti(func(r, 'bold.nii.gz'), header=2000), read_func, ShapeError, (BOLD, '2000 s'), '0.1 to 20', 'give seconds: 2'),
    Broken('rate-differs-between-runs', lambda r: edit_nifti(func(r, 'bold.nii.gz', 2), header=1.5), read_func, ShapeError, (name(2, 'bold.nii.gz'), '1.5 s'), '2 s', 'apart'),
    Broken('series-cut-at-the-end', lambda r: edit_nifti(func(r, 'bold.nii.gz'), lambda x: x[..., :20]), read_func, ShapeError, (BOLD, 'reach from'), '40 s long', 'events of this run'),
    Broken('fmri-events-milliseconds', lambda r: edit_tsv(func(r, 'events.tsv'), lambda t: t.assign(onset=t.onset*1000)), read_func, ShapeError, (BOLD, 'reach from'), 'long', 'seconds'),
    Broken('fmri-events-no-onset', lambda r: edit_tsv(func(r, 'events.tsv'), lambda t: t.rename(columns=dict(onset='time'))), read_func, UnknownError, (BOLD, "'onset'"), 'time', 'BIDS'),
    Broken('fmri-events-duration-gap', lambda r: edit_tsv(func(r, 'events.tsv'), lambda t: put_column(t, 4, 'duration', None)), read_func, ShapeError, ('duration', BOLD), 'seconds', 'drop the row'),
    Broken('fmri-events-gone', lambda r: func(r, 'events.tsv').unlink(), read_func, FileError, name(1, 'events.tsv'), BOLD, 'path'),
    Broken('fmri-events-no-pictures', lambda r: edit_tsv(func(r, 'events.tsv'), lambda t: t.assign(stim_file=None)), read_func, UnknownError, ('is empty', BOLD), 'name of a picture', 'another column'),
    Broken('fmri-events-too-few-tables', same, lambda r: read_func(r, events=func(r, 'events.tsv')), ShapeError, '2 runs and 1 tables', 'one each', 'lists'),
    Broken('fmri-event-twice', lambda r: edit_tsv(func(r, 'events.tsv'), lambda t: pd.concat([t, t.iloc[[4]]])), lambda r: read_func(r, glm='all'), ShapeError, (BOLD, 'same time course'), 'its own', "glm='separate'"),
    Broken('confounds-too-short', same, lambda r: read_func(r, confounds=[np.zeros((5, 2))]*2), ShapeError, (BOLD, '5 rows'), 'one a volume', 'cut both'),
    Broken('confounds-first-row', same, lambda r: read_func(r, confounds=[pd.DataFrame(dict(motion=[np.nan, *range(500)])).iloc[:nib_length(r, i)] for i in (1, 2)]), ValuesError, ('motion', BOLD), 'numbers', 'fillna'),
    Broken('delay-with-model', same, lambda r: read_func(r, delay=5.), ParameterError, 'delay=5', 'one of the two', 'leave'),
    # fMRI with labels
    Broken('labels-one-short', lambda r: edit_tsv(r/'blocks/labels.tsv', lambda t: t.iloc[1:]), read_labels, ShapeError, ('362 labels', 'bold.nii.gz'), '363', 'cut both'),
    Broken('labels-sorted', lambda r: edit_tsv(r/'blocks/labels.tsv', lambda t: t.sort_values('label', kind='stable')), read_labels, ShapeError, ('bold.nii.gz', 'begins twice'), 'one piece', 'order of the volumes'),
    Broken('labels-gap', lambda r: edit_tsv(r/'blocks/labels.tsv', lambda t: put_column(t, 9, 'label', None)), read_labels, UnknownError, ('volume 9', 'bold.nii.gz'), 'every volume', 'rest'),
    Broken('labels-no-run', lambda r: edit_tsv(r/'blocks/labels.tsv', lambda t: t.drop(columns='run')), read_labels, UnknownError, ("no column 'run'", 'bold.nii.gz'), 'label', 'chunks'),
    Broken('labels-gone', lambda r: (r/'blocks/labels.tsv').unlink(), read_labels, FileError, 'labels.tsv', 'every volume', 'table'),
    Broken('labels-no-delay', same, lambda r: read_labels(r, delay=None), ParameterError, 'delay=None', '0 to 30', 'delay=5.0'),
    Broken('labels-with-model', same, lambda r: read_labels(r, glm='separate', delay=None), ParameterError, "glm='separate'", 'onsets', 'labels_to_events'),
    Broken('labels-and-events', same, lambda r: read_labels(r, events=r/'blocks/labels.tsv'), ParameterError, 'both given', 'one of the two', 'labels='),
    Broken('labels-average-even', same, lambda r: read_labels(r, average=2), ParameterError, 'average=2', 'odd', '3'),
    Broken('labels-all-rest', lambda r: edit_tsv(r/'blocks/labels.tsv', lambda t: t.assign(label='rest')), read_labels, ShapeError, 'no trial is left', 'pictures', 'rest'),
]


def nib_length(root, run):
    import nibabel as nib
    return nib.load(func(root, 'bold.nii.gz', run)).shape[3]
