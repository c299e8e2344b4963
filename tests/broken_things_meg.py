"THINGS-MEG as it should not be: the released epochs and the copies in .pt, broken in the ways in which files get broken."
import shutil
import mne
import numpy as np
import pandas as pd
from broken import Broken, Call, cut, drop, edit_torch, empty, put, web_page
from brainrecon.core.checks import ChannelError, FileError, LeakError, MissingWeights, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.data.things_meg import load_things_meg
from brainrecon.data.things_meg_tree import write_things_meg

SIZE = dict(n_concepts=3, n_test=2, per=2)
EPO, SHEET = 'preprocessed_P1-epo.fif', 'sample_attributes_P1.csv'


def tree(root):
    "The released epochs, with and without metadata and in two files; and the copies."
    write_things_meg(root/'fif', sensors=16, **SIZE); write_things_meg(root/'bare', sensors=16, metadata=False, **SIZE)
    write_things_meg(root/'long', sensors=60, split_size='2MB', **SIZE); write_things_meg(root/'pt', 'pt', sensors=16, **SIZE)

def read(root): return [load_things_meg(root/name, 1, split) for name in ('fif', 'bare', 'long', 'pt') for split in ('train', 'test')]

def fif(root, name='fif'): return root/name/'derivatives'/'preprocessed'/EPO
def pt(root, split='train'): return root/'pt'/'Preprocessed_data'/'sub-01'/f'{split}.pt'
def load(name, split='train', subject=1, **how): return lambda root: load_things_meg(root/name, subject, split, **how)
def epochs(f, name='fif'):
    "Read the epochs, let `f` change them or give others, and write them again."
    def change(root):
        e = mne.read_epochs(fif(root, name), verbose='error'); new = f(e); e = e if new is None else new
        e.save(fif(root, name), overwrite=True, verbose='error')
    return change
def numbers(f):
    "Change the numbers of the epochs in place."
    def change(e): f(e._data)
    return epochs(change)
def events(f):
    def change(e):
        ev = e.events.copy(); f(ev[:, 2], e.metadata)
        return mne.EpochsArray(e.get_data(), e.info, ev, tmin=e.tmin, metadata=e.metadata, verbose='error')
    return epochs(change)
def without(rows): return epochs(lambda e: e[~rows(e.metadata).to_numpy()])
def first(mask): return mask & (mask.cumsum() == 1)
def dropped_row(e):
    with mne.use_log_level('error'): e.metadata = pd.concat([e.metadata.iloc[1:], e.metadata.iloc[:1]], ignore_index=True)
def as_eeg(e): e.set_channel_types({c: 'eeg' for c in e.ch_names}, verbose='error')
def mark_bad(e): e.info['bads'] = e.ch_names[2:3]
def torch_dict(f, split='train'): return lambda root: edit_torch(pt(root, split), f, pickle_protocol=5)
def spoil(f):
    def g(d): x = np.array(d['eeg']); f(x); d['eeg'] = x
    return g
def one_of_training(d): d['img'] = ['test_images/00002_dango/dango_07s.jpg', *d['img'][1:]]
def doubled(x): x[:, 4] = x[:, 3]
def sheet(root, f): p = root/'bare'/'sourcedata'/SHEET; t = pd.read_csv(p); f(t).to_csv(p, index=False)
def renumbered(numbers, metadata): numbers[np.flatnonzero(metadata.trial_type == 'exp')[:1]] = 777

PLAN = 'brainrecon data plan things-meg'
cases = [
    # files
    Broken('fif-cut', lambda r: cut(fif(r), .8), load('fif'), FileError, (EPO, 'cannot be read'), 'whole epochs', PLAN),
    Broken('fif-last-bytes', lambda r: cut(fif(r), .999), load('fif'), FileError, (EPO, 'cannot be read'), 'whole epochs', PLAN),
    Broken('fif-empty', lambda r: empty(fif(r)), load('fif'), FileError, EPO, 'expected', 'fetch'),
    Broken('fif-web-page', lambda r: web_page(fif(r)), load('fif'), FileError, (EPO, 'web page'), 'numbers', 'fetch'),
    Broken('fif-second-file-missing', lambda r: fif(r, 'long').with_name('preprocessed_P1-epo-1.fif').unlink(), load('long'), MissingWeights, (EPO, 'preprocessed_P1-epo-1.fif'), 'side by side', PLAN),
    Broken('fif-second-file-cut', lambda r: cut(fif(r, 'long').with_name('preprocessed_P1-epo-1.fif')), load('long'), FileError, EPO, 'whole epochs', PLAN),
    Broken('pt-cut', lambda r: cut(pt(r), .7), load('pt'), FileError, 'train.pt', 'expected', 'fetch it again'),
    Broken('pt-calls', lambda r: edit_torch(pt(r), lambda d: put(d, note=Call(r/'payload'))), load('pt'), UnsafeError, 'train.pt', 'expected', 'do not'),
    Broken('pt-test-missing', lambda r: pt(r, 'test').unlink(), load('pt', 'test'), MissingWeights, 'test.pt', 'test side', PLAN),
    # what is in them
    Broken('fif-other-rate', epochs(lambda e: e.resample(100, verbose='error')), load('fif'), ShapeError, (EPO, '100 Hz'), '200 Hz', 'resample(200)'),
    Broken('fif-short-window', epochs(lambda e: e.crop(-.1, .8)), load('fif'), ShapeError, (EPO, '0.8 s'), '0 to 1 s', PLAN),
    Broken('fif-no-magnetometers', epochs(as_eeg), load('fif'), ChannelError, (EPO, 'eeg'), 'mag', 'set_channel_types'),
    Broken('fif-bad-sensor', epochs(mark_bad), load('fif'), ChannelError, (EPO, '1 sensors are marked as bad'), 'none', 'interpolate'),
    Broken('fif-nan', numbers(lambda x: x.__setitem__((slice(None), 3, 50), np.nan)), load('fif'), ValuesError, (EPO, 'not finite'), 'number', 'interpolate'),
    Broken('fif-flat', numbers(lambda x: x.__setitem__((slice(None), 3), 0)), load('fif'), ValuesError, (EPO, 'flat'), 'changes', 'drop'),
    Broken('fif-doubled', numbers(doubled), load('fif'), ChannelError, (EPO, 'same signal'), 'differ', 'drop'),
    Broken('fif-scaled', numbers(lambda x: x.__imul__(1e4)), load('fif'), ValuesError, EPO, 'tesla', 'convert'),
    Broken('pt-nan', torch_dict(spoil(lambda x: x.__setitem__((slice(None), 0, 3, 50), np.nan))), load('pt'), ValuesError, ('train.pt', 'sensor 004'), 'number', 'interpolate'),
    Broken('pt-flat', torch_dict(spoil(lambda x: x.__setitem__((slice(None), slice(None), 3), 0)), 'test'), load('pt', 'test'), ValuesError, ('test.pt', 'sensor 004'), 'changes', 'drop'),
    Broken('pt-counts', torch_dict(lambda d: put(d, eeg=(d['eeg']*100).astype('int16'))), load('pt'), ShapeError, ('train.pt', 'int16'), 'float', 'fetch'),
    Broken('pt-other-length', torch_dict(lambda d: put(d, eeg=d['eeg'][..., :200])), load('pt'), ShapeError, ('train.pt', '200'), '201 samples', '.fif'),
    Broken('pt-averaged', torch_dict(lambda d: put(d, eeg=d['eeg'].mean(1)), 'test'), load('pt', 'test'), ShapeError, 'test.pt', 'repetitions', '.fif'),
    Broken('pt-other-key', torch_dict(lambda d: put(d, data=d.pop('eeg'))), load('pt'), FileError, ('train.pt', 'keys'), ('eeg', 'meg'), 'folder'),
    Broken('pt-no-pictures', torch_dict(lambda d: drop(d, 'img')), load('pt'), FileError, ('train.pt', 'img'), 'it has', 'layout'),
    Broken('pt-names-cut', torch_dict(lambda d: put(d, img=d['img'][:-1])), load('pt'), ShapeError, ('train.pt', '5 pictures', '6 rows'), 'one for each', 'fetch'),
    Broken('pt-name-twice', torch_dict(lambda d: put(d, img=[d['img'][0], *d['img'][:-1]])), load('pt'), UnknownError, ('train.pt', 'twice'), 'once', 'fetch'),
    Broken('pt-sides-swapped', lambda r: (pt(r).rename(pt(r, 'x')), pt(r, 'test').rename(pt(r)), pt(r, 'x').rename(pt(r, 'test'))), load('pt'), ShapeError, ('train.pt', '12 repetitions'), 'train side', 'file names'),
    Broken('pt-leak', torch_dict(one_of_training, 'test'), load('pt'), LeakError, ('train.pt', 'test.pt'), 'none may', '.fif'),
    # pictures
    Broken('shift', epochs(dropped_row), load('fif'), UnknownError, (EPO, 'than their metadata'), 'same number', PLAN),
    Broken('one-number-changed', events(renumbered), load('fif'), UnknownError, (EPO, '777'), 'same number', PLAN),
    Broken('sheet-missing', lambda r: (r/'bare'/'sourcedata'/SHEET).unlink(), load('bare'), MissingWeights, (EPO, SHEET), 'expected', 'stimuli='),
    Broken('sheet-cut', lambda r: sheet(r, lambda t: t[t.trial_type != 'test']), load('bare'), UnknownError, (EPO, SHEET, '2 events'), 'pictures', 'stimuli='),
    Broken('sheet-other', lambda r: sheet(r, lambda t: t[['run_nr', 'session_nr']]), load('bare'), UnknownError, (SHEET, 'columns'), 'image_path', 'image_paths.csv'),
    # split
    Broken('session-cut', without(lambda m: first(m.trial_type == 'test')), load('fif'), ShapeError, (EPO, '11 times'), '12 times', PLAN),
    Broken('no-test', without(lambda m: m.trial_type == 'test'), load('fif', 'test'), ShapeError, (EPO, '12 times'), 'known by that', PLAN),
    # subjects
    Broken('subject-absent', lambda r: None, load('fif', subject=3), MissingWeights, 'subject 3', 'there are 1', PLAN + ' --subject 3'),
    Broken('subject-twin', lambda r: shutil.copy(fif(r), fif(r).with_name('preprocessed_P2-epo.fif')), load('fif', subject=2), UnknownError, ('preprocessed_P2-epo.fif', 'same recording'), 'its own', 'fetch'),
    Broken('subject-in-two-places', lambda r: shutil.copytree(fif(r).parent, r/'fif'/'copy'), load('fif'), UnknownError, ('subject 1 twice', EPO), 'once', 'folder'),
    Broken('both-layouts', lambda r: shutil.copytree(r/'pt'/'Preprocessed_data', r/'fif'/'Preprocessed_data'), load('fif'), UnknownError, 'fif and pt', 'one', 'layout='),
    Broken('nothing-there', lambda r: fif(r).unlink(), load('fif'), MissingWeights, 'no recording', EPO, PLAN),
    Broken('no-folder', lambda r: shutil.rmtree(r/'pt'), load('pt'), MissingWeights, "'pt'", 'things-meg', PLAN),
    Broken('asked-sensor', lambda r: None, load('fif', channels=['MLO99-1609']), ChannelError, 'MLO99-1609', 'it has 16', 'pick'),
    Broken('asked-window', lambda r: None, load('pt', window=(-.1, .5)), ShapeError, '-0.1 to 0.5 s', 'inside', 'window'),
]
