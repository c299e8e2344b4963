"Bad raw recordings of THINGS-EEG2: what is wrong with a file, a session or a subject is said before anything is written."
import shutil
from pathlib import Path
import numpy as np
from broken import Broken, Call, cut, drop, edit_dict, empty, put, web_page
from brainrecon.core.checks import ChannelError, FileError, FolderError, MissingWeights, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.data.things_eeg_raw import prepare_things_eeg
from brainrecon.data.things_eeg_raw_tree import write_things_eeg_raw

train, test = 'Raw_data/sub-01/ses-01/raw_eeg_training.npy', 'Raw_data/sub-01/ses-01/raw_eeg_test.npy'
short = 'sub-01/ses-01/raw_eeg_training.npy'

def tree(root): write_things_eeg_raw(root, n_concepts=4, n_test=3, per=2, sessions=2)

def read(root, subject=1, **how):
    return prepare_things_eeg(root, subject, 'avde-200', out=Path(root)/'out', log=None, **{'sessions': [1, 2], **how})

def x(f, path=train):
    "Change the array."
    return lambda root: edit_dict(root/path, lambda d: put(d, raw_eeg_data=f(d['raw_eeg_data'])))

def entry(path=train, **new): return lambda root: edit_dict(root/path, lambda d: put(d, **new))

def names(f): return lambda root: edit_dict(root/train, lambda d: put(d, ch_names=f(d['ch_names'])))

def stim(f, path=train):
    "Change the stimulus channel."
    return x(lambda a: np.r_[a[:-1], f(a[-1].copy())[None]], path)

def at(a, index, value): a = a.copy(); a[index] = value; return a

def lost(s, keep): on = np.flatnonzero(s); s[on[[not keep(i, v) for i, v in enumerate(s[on])]]] = 0; return s

def lose_one(s):
    "Take away one presentation of a picture that was shown twice."
    code = next(c for c in range(1, 9) if (s == c).sum() == 2); s[np.flatnonzero(s == code)[-1]] = 0; return s

def without(d, i): put(d, raw_eeg_data=np.delete(d['raw_eeg_data'], i, 0), ch_names=[n for j, n in enumerate(d['ch_names']) if j != i], ch_types=d['ch_types'][:-1])

def swap(root): a, b = root/train, root/test; c = root/'swap'; a.rename(c); b.rename(a); c.rename(b)

def more_pictures(root):
    "A table of another set: one more test picture than was shown."
    meta = root/'images_set'/'image_metadata.npy'
    edit_dict(meta, lambda d: put(d, test_img_concepts=[*d['test_img_concepts'], '00099_zither'], test_img_files=[*d['test_img_files'], 'zither_01b.jpg']))
    shutil.move(meta, root/'image_metadata.npy'); shutil.rmtree(root/'images_set')

def case(id, breaks, kind, came, expected, do, **how): return Broken('raw-' + id, breaks, lambda root: read(root, **how), kind, came, expected, do)

fetch, again = 'data plan', 'brainrecon data plan'
cases = [
    case('truncated', lambda r: cut(r/train, .5), FileError, short, 'whole', again),
    case('truncated-a-little', lambda r: cut(r/test, .999), FileError, 'sub-01/ses-01/raw_eeg_test.npy', 'whole', again),
    case('empty', lambda r: empty(r/train), FileError, short, 'expected', fetch),
    case('web-page', lambda r: web_page(r/train), FileError, (short, 'web page'), 'expected', fetch),
    case('calls', lambda r: edit_dict(r/train, lambda d: put(d, note=Call(r/'payload'))), UnsafeError, (short, 'open'), 'expected', 'safetensors'),
    case('no-signal', lambda r: edit_dict(r/train, lambda d: drop(d, 'raw_eeg_data')), FileError, (short, 'raw_eeg_data'), 'ch_names', 'layout'),
    case('no-names', lambda r: edit_dict(r/train, lambda d: drop(d, 'ch_names')), FileError, (short, 'ch_names'), 'raw_eeg_data', 'layout'),
    case('no-dict', lambda r: edit_dict(r/train, lambda d: np.array([d['ch_names'], [1]], dtype=object)), FileError, short, 'dict', 'Check'),
    case('transpo', x(lambda a: np.ascontiguousarray(a.T)), ShapeError, (short, '64 channel names'), 'a name for each row', again),
    case('epochs', x(lambda a: a[:, :3000].reshape(64, 3, 1000)), ShapeError, (short, '(64, 3, 1000)'), '64 channels by samples', 'raw file'),
    case('int16', x(lambda a: (a[:-1]*1e7).astype('int16')), ShapeError, (short, 'int16'), 'float', 'raw file'),
    case('list', x(lambda a: a[:, :5].tolist()), ShapeError, (short, 'list'), 'float array', 'raw file'),
    case('fewer-names', names(lambda n: n[1:]), ShapeError, (short, '63 channel names'), 'each row', again),
    case('nan-channel', x(lambda a: at(a, 5, np.nan)), ValuesError, (short, 'FC1'), 'number', again),
    case('nan-sample', x(lambda a: at(a, (7, 1500), np.nan)), ValuesError, (short, 'T7'), 'number', again),
    case('infinite', x(lambda a: at(a, (0, slice(900, 1000)), np.inf), test), ValuesError, ('raw_eeg_test.npy', 'Fp1'), 'number', again),
    case('flat', x(lambda a: at(a, 30, 1e-5)), ValuesError, (short, 'flat', 'Fp2'), 'changes', 'Drop'),
    case('microvolts', x(lambda a: np.r_[a[:-1]*1e6, a[-1:]]), ValuesError, short, ' V was expected', '1e-6'),
    case('doubled-signal', x(lambda a: at(a, 1, a[0])), ChannelError, (short, 'Fp1', 'F3'), 'differ', 'Drop'),
    case('doubled-name', names(lambda n: [n[1], *n[1:]]), ChannelError, (short, 'F3', '2 times'), 'unique', 'Rename'),
    case('renamed', names(lambda n: ['FP1', *n[1:]]), ChannelError, (short, 'Fp1'), '64', "'FP1' -> 'Fp1'"[:5]),
    case('old-name', names(lambda n: [{'T7': 'T3'}.get(c, c) for c in n]), ChannelError, (short, 'T7'), 'it has 64', 'Pick'),
    case('missing-channel', lambda r: edit_dict(r/train, lambda d: without(d, 14)), ChannelError, (short, 'O1'), 'it has 63', 'Pick'),
    case('rate', entry(sfreq=250), ShapeError, (short, '250'), '1000', again),
    case('rate-text', entry(sfreq='1000 Hz'), ShapeError, (short, '1000 Hz'), '1000', again),
    case('no-stim', lambda r: edit_dict(r/train, lambda d: without(d, 63)), ChannelError, (short, '0 channels called `stim`'), 'picture numbers', '`stim`'),
    case('stim-renamed', names(lambda n: [*n[:-1], 'STI 014']), ChannelError, (short, 'STI 014'), 'picture numbers', 'Rename'),
    case('no-events', stim(lambda s: s*0), ValuesError, (short, 'no events'), 'onset', 'Check'),
    case('codes-scaled', stim(lambda s: s*1e-6), ValuesError, (short, 'no codes'), 'whole numbers', 'channels'),
    case('codes-nan', stim(lambda s: at(s, 40, np.nan)), ValuesError, (short, 'no codes'), 'whole numbers', 'channels'),
    case('slow-trigger', stim(lambda s: at(s, np.flatnonzero(s)[1] - 1, 1) if s[np.flatnonzero(s)[1]] > 1 else at(s, np.flatnonzero(s)[0] - 1, 1)), ValuesError, (short, 'neighbouring'), 'zero between', 'last value'),
    case('targets-only', stim(lambda s: at(s, s > 0, 99999)), ValuesError, (short, 'targets'), 'picture numbers', again),
    case('unknown-code', stim(lambda s: at(s, np.flatnonzero(s)[3], 4711)), UnknownError, (short, '4711'), '1 to 8', 'image_metadata.npy'),
    case('parts-swapped', swap, UnknownError, 'sub-01/ses-01/raw_eeg_test.npy', '1 to 3', 'image_metadata.npy'),
    case('ends-in-epoch', x(lambda a: a[:, :-800]), FileError, (short, 'ends within an epoch'), 'after each onset', 'sessions=[...]'),
    case('begins-in-epoch', x(lambda a: a[:, 400:]), FileError, (short, 'begins within an epoch'), 'before', 'sessions=[...]'),
    case('too-short', x(lambda a: a[:, :40]), ValuesError, (short, 'no events'), 'onset', 'Check'),
    case('events-lost', stim(lose_one), FileError, (short, 'less often'), 'of each', 'sessions=[...]'),
    case('fewer-events', stim(lambda s: lost(s, lambda i, v: v in np.unique(s[s > 0])[:2])), FileError, (short, 'presentations'), 'session 2', 'sessions=[...]'),
    case('test-picture-lost', stim(lambda s: lost(s, lambda i, v: v != 2), test), FileError, ('raw_eeg_test.npy', 'presentations'), 'session 2', 'sessions=[...]'),
    case('session-absent', lambda r: shutil.rmtree(r/'Raw_data/sub-01/ses-02'), MissingWeights, 'sub-01/ses-02/raw_eeg_training.npy', 'ses-01', 'things-eeg2 --subject 1'),
    case('test-part-absent', lambda r: (r/test).unlink(), MissingWeights, 'sub-01/ses-01/raw_eeg_test.npy', 'ses-02', 'things-eeg2 --subject 1'),
    case('two-sessions-of-four', lambda r: None, MissingWeights, 'sub-01/ses-03/raw_eeg_training.npy', 'ses-01, ses-02', 'sessions=[...]', sessions=[1, 2, 3, 4]),
    case('subject-absent', lambda r: None, MissingWeights, 'subject 7', 'there: 1', 'things-eeg2 --subject 7', subject=7),
    case('subject-twice', lambda r: shutil.copytree(r/'Raw_data/sub-01', r/'Raw_data/sub-02'), UnknownError, ('sub-02/ses-01/raw_eeg_training.npy', 'same recording'), 'its own', fetch),
    case('session-twice', lambda r: shutil.copyfile(r/train, r/'Raw_data/sub-01/ses-02/raw_eeg_training.npy'), UnknownError, ('sub-01/ses-02/raw_eeg_training.npy', 'same recording'), 'its own', fetch),
    case('two-copies', lambda r: shutil.copytree(r/'Raw_data/sub-01', r/'backup'/'sub-1'), UnknownError, ('subject 1', 'backup/sub-1'), 'one folder', 'Move'),
    case('misnamed', lambda r: (r/train).rename(r/'Raw_data/sub-01/ses-01/raw_eeg_train.npy'), FileError, 'raw_eeg_train.npy', '`raw_eeg_training.npy`', 'Rename'),
    case('no-pictures', lambda r: shutil.rmtree(r/'images_set'), MissingWeights, 'image_metadata.npy', 'expected', 'things-eeg2'),
    case('other-pictures', more_pictures, UnknownError, ('raw_eeg_test.npy', 'number 4'), 'expected', 'image_metadata.npy'),
    case('root-absent', lambda r: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in r.iterdir()] and r.rmdir(), MissingWeights, 'no folder', 'things-eeg2', 'data plan'),
    case('made-otherwise', lambda r: read(r, sessions=[1]), FolderError, ('sub-01/train', 'sessions'), 'same', '`out`'),
]
