"Bad files for the readers of arrays, dicts, tensors and HDF5."
import pickle
from pathlib import Path
import h5py, numpy as np, torch
from broken import Broken, Call, cut, drop, edit_dict, edit_npy, edit_pickle, edit_torch, empty, put, web_page
from brainrecon.core.checks import ChannelError, FileError, MissingWeights, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.core.readers import check_signal, read_dict, read_h5, read_npy, read_torch, refuse_twins

names = ['O1', 'Oz', 'O2', 'Pz']
SAVED, NAKED, OLD, ZIP, TENSORS, PLAIN, BETAS = (f'sub-01/{n}' for n in ('raw.npy', 'naked.npy', 'old.pkl', 'train.pt', 'features.pth', 'test.npy', 'betas.hdf5'))

def tree(root):
    r = np.random.default_rng(0); (root/'sub-01').mkdir(); (root/'sub-02').mkdir()
    x = r.normal(size=(4, 5000))*2e-5; d = dict(raw_eeg_data=x, ch_names=names, sfreq=1000)
    np.save(root/SAVED, d); (root/NAKED).write_bytes(pickle.dumps(d, 4)); (root/OLD).write_bytes(pickle.dumps(d, 2))
    torch.save(dict(eeg=x.astype('f2'), ch_names=names), root/ZIP); torch.save(dict(img_features=torch.randn(20, 64)), root/TENSORS)
    np.save(root/PLAIN, r.normal(size=(20, 4, 50)).astype('f4')); np.save(root/'sub-02/test.npy', r.normal(size=(20, 4, 50)).astype('f4'))
    with h5py.File(root/BETAS, 'w') as f: f['betas'] = r.normal(size=(75, 30)).astype('f4')

def saved(root):
    d = read_dict(root/SAVED, ['raw_eeg_data', 'ch_names', 'sfreq']); check_signal(d['raw_eeg_data'], d['ch_names'], root/SAVED, unit='V'); return d
def plain(root): return check_signal(read_npy(root/PLAIN, 'b c t', c=4, t=50), names, root/PLAIN, unit='z')
def betas(root): return check_signal(read_h5(root/BETAS, 'betas', 'b v', b=75)[:], None, root/BETAS, kind='fmri')
def twins(root): refuse_twins({s: root/f'sub-0{s}/test.npy' for s in (1, 2)})
def dict_of(f, keys=None): return lambda root: read_dict(root/f, keys)

def read(root):
    saved(root); plain(root); betas(root); twins(root); read_torch(root/TENSORS)
    for f in (NAKED, OLD, ZIP, TENSORS): read_dict(root/f)
    return True

def change_h5(root, f):
    with h5py.File(root/BETAS, 'r+') as h: f(h)
def replace(h, x): del h['betas']; h['betas'] = x
def change_array(key, f): return lambda root: edit_dict(root/SAVED, lambda d: put(d, **{key: f(np.array(d[key]))}))
def set_rows(i, value): return lambda x: np.where(np.arange(len(x))[:, None] == i, value, x)
def body(f, raw): return lambda root: (root/f).write_bytes(raw)
def payload(root): return Call(root/'payload')

def torch_bomb(root): torch.save(dict(eeg=payload(root)), root/ZIP)
def torch_bomb_tensors(root): torch.save(dict(img_features=payload(root)), root/TENSORS)
def corrupt_zip(root): b = bytearray((root/ZIP).read_bytes()); b[-40:] = bytes(40); (root/ZIP).write_bytes(b)
def longer(root): (root/PLAIN).write_bytes((root/PLAIN).read_bytes() + bytes(100))
def twice(root): (root/NAKED).write_bytes((root/NAKED).read_bytes()*2)
def more_than_there(root): b = (root/NAKED).read_bytes(); assert b.count(b'K\x04M\x88\x13\x86') == 1; (root/NAKED).write_bytes(b.replace(b'K\x04M\x88\x13\x86', b'K\x05M\x88\x13\x86'))
def lying_text(root): b = (root/OLD).read_bytes(); assert b.count(b'K\x04M\x88\x13\x86') == 1; (root/OLD).write_bytes(b.replace(b'K\x04M\x88\x13\x86', b'K\x05M\x88\x13\x86'))

plan = 'data plan'
cases = [
    Broken('np-save-cut', lambda r: cut(r/SAVED), saved, FileError, ('sub-01/raw.npy', 'cut short', 'byte'), 'whole file', plan),
    Broken('np-save-cut-header', lambda r: cut(r/SAVED, 50/160000), saved, FileError, ('raw.npy', 'header'), 'whole file', plan),
    Broken('np-save-empty', lambda r: empty(r/SAVED), saved, FileError, ('raw.npy', '0 bytes'), 'whole file', plan),
    Broken('np-save-web-page', lambda r: web_page(r/SAVED), saved, FileError, ('raw.npy', 'a web page'), 'numbers', plan),
    Broken('np-save-lfs-pointer', body(SAVED, b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'), saved, FileError, ('raw.npy', 'git-lfs'), 'numbers', plan),
    Broken('np-save-zeros', body(SAVED, bytes(5000)), saved, FileError, ('raw.npy', 'zero'), 'whole file', plan),
    Broken('np-save-gzip', body(SAVED, b'\x1f\x8b\x08' + bytes(50)), saved, FileError, ('raw.npy', 'gzip'), 'numbers', plan),
    Broken('np-save-absent', lambda r: (r/SAVED).unlink(), saved, MissingWeights, 'sub-01/raw.npy', 'read', plan),
    Broken('np-save-is-a-folder', lambda r: ((r/SAVED).unlink(), (r/SAVED).mkdir()), saved, FileError, ('raw.npy', 'folder'), 'a file', 'name of the file'),
    Broken('np-save-key-lost', lambda r: edit_dict(r/SAVED, lambda d: drop(d, 'ch_names')), saved, FileError, ('raw.npy', '`ch_names`'), 'raw_eeg_data', 'rename the key'),
    Broken('np-save-list', lambda r: edit_dict(r/SAVED, lambda d: np.array([1, 'a', None], object)), saved, FileError, ('raw.npy', 'an array of 3 object'), 'dict', 'which file'),
    Broken('np-save-plain-array', lambda r: np.save(r/SAVED, np.zeros((4, 50))), saved, FileError, ('raw.npy', '4x50 float64'), 'dict', 'read_npy'),
    Broken('np-save-runs', lambda r: edit_dict(r/SAVED, lambda d: put(d, x=payload(r))), saved, UnsafeError, ('raw.npy', 'open'), 'arrays', 'np.savez'),
    Broken('np-save-nan', change_array('raw_eeg_data', set_rows(1, np.nan)), saved, ValuesError, ('raw.npy', 'Oz', 'not finite'), 'number', 'drop'),
    Broken('np-save-flat', change_array('raw_eeg_data', set_rows(3, 0)), saved, ValuesError, ('raw.npy', 'flat', 'Pz'), 'changes', 'drop'),
    Broken('np-save-doubled', change_array('raw_eeg_data', lambda x: x[[0, 0, 2, 3]]), saved, ChannelError, ('raw.npy', 'O1 and Oz'), 'differ', 'drop'),
    Broken('np-save-microvolts', change_array('raw_eeg_data', lambda x: x*1e6), saved, ValuesError, ('raw.npy', '20 v'), ' v was expected', "unit='uv'"),
    Broken('np-save-names-lost', lambda r: edit_dict(r/SAVED, lambda d: put(d, ch_names=names[:3])), saved, ChannelError, ('raw.npy', '4 channels but 3 names'), 'each needs one', 'list of names'),
    Broken('naked-cut', lambda r: cut(r/NAKED, .9), dict_of(NAKED), FileError, ('naked.npy', 'cut short'), 'whole', plan),
    Broken('naked-cut-early', lambda r: cut(r/NAKED, .0002), dict_of(NAKED), FileError, ('naked.npy', 'cut short'), 'whole', plan),
    Broken('naked-twice', twice, dict_of(NAKED), FileError, ('naked.npy', 'after its end'), 'one pickle', plan),
    Broken('naked-sizes-lie', more_than_there, dict_of(NAKED), FileError, ('naked.npy', '5x5000', '160000'), 'agree', plan),
    Broken('naked-runs', lambda r: edit_pickle(r/NAKED, lambda d: put(d, x=[payload(r)])), dict_of(NAKED), UnsafeError, ('naked.npy', 'open'), 'arrays', 'np.savez'),
    Broken('naked-protocol-0', lambda r: (r/NAKED).write_bytes(pickle.dumps(dict(a=1), 0)), dict_of(NAKED), FileError, 'naked.npy', 'whole', plan),
    Broken('naked-is-text', body(NAKED, b'channel,value\nO1,3\n'), dict_of(NAKED), FileError, ('naked.npy', 'begins with'), 'pickle', 'read_h5'),
    Broken('old-runs', lambda r: edit_pickle(r/OLD, lambda d: put(d, x=dict(y=payload(r))), 2), dict_of(OLD), UnsafeError, ('old.pkl', 'open'), 'arrays', 'np.savez'),
    Broken('old-sizes-lie', lying_text, dict_of(OLD), FileError, ('old.pkl', 'announced'), 'agree', plan),
    Broken('old-records', lambda r: (r/OLD).write_bytes(pickle.dumps(dict(x=np.zeros(3, 'i4,f4')), 2)), dict_of(OLD), FileError, 'old.pkl', 'whole', plan),
    Broken('zip-cut', lambda r: cut(r/ZIP), dict_of(ZIP), FileError, ('train.pt', 'archive'), 'whole archive', plan),
    Broken('zip-damaged-end', corrupt_zip, dict_of(ZIP), FileError, ('train.pt', 'archive'), 'whole archive', plan),
    Broken('zip-runs', torch_bomb, dict_of(ZIP), UnsafeError, ('train.pt', 'open'), 'arrays', 'np.savez'),
    Broken('zip-of-others', lambda r: np.savez(open(r/ZIP, 'wb'), a=1), dict_of(ZIP), FileError, ('train.pt', 'data.pkl'), 'torch.save', 'program'),
    Broken('zip-key-lost', lambda r: edit_torch(r/ZIP, lambda d: drop(d, 'eeg')), dict_of(ZIP, 'eeg'), FileError, ('train.pt', '`eeg`'), 'ch_names', 'rename'),
    Broken('zip-old-form', lambda r: edit_torch(r/ZIP, lambda d: None, _use_new_zipfile_serialization=False), dict_of(ZIP), FileError, ('train.pt', 'older than 1.6'), 'archive', 'torch.save'),
    Broken('tensors-cut', lambda r: cut(r/TENSORS, .7), lambda r: read_torch(r/TENSORS), FileError, 'features.pth', 'torch.save', plan),
    Broken('tensors-run', torch_bomb_tensors, lambda r: read_torch(r/TENSORS), UnsafeError, ('features.pth', 'open'), 'tensors', 'safetensors'),
    Broken('tensors-are-arrays', lambda r: torch.save(dict(x=np.zeros(3)), r/TENSORS), lambda r: read_torch(r/TENSORS), FileError, ('features.pth', 'numpy'), 'tensors', 'read_dict'),
    Broken('plain-cut', lambda r: cut(r/PLAIN, .8), plain, FileError, ('sub-01/test.npy', '16000'), 'agree', plan),
    Broken('plain-longer', longer, plain, FileError, ('test.npy', '16100'), 'agree', plan),
    Broken('plain-axes', lambda r: edit_npy(r/PLAIN, lambda x: x[0]), plain, ShapeError, ('test.npy', '2 axes'), 'b c t', plan),
    Broken('plain-channels', lambda r: edit_npy(r/PLAIN, lambda x: x[:, :3]), plain, ShapeError, ('test.npy', '3 channels'), 'expected 4', plan),
    Broken('plain-session-short', lambda r: edit_npy(r/PLAIN, lambda x: x[..., :30]), plain, ShapeError, ('test.npy', '30 samples'), 'expected 50', plan),
    Broken('plain-objects', lambda r: np.save(r/PLAIN, dict(a=1)), plain, FileError, ('test.npy', 'objects'), 'plain array', 'read_dict'),
    Broken('plain-is-a-pickle', lambda r: (r/PLAIN).write_bytes(pickle.dumps(np.zeros(3))), plain, FileError, ('test.npy', 'no plain array'), '.npy', 'read_dict'),
    Broken('plain-whitened-twice', lambda r: edit_npy(r/PLAIN, lambda x: x*1e-5), plain, ValuesError, ('test.npy', '1e-05 z'), '0.02 to 50', 'unit'),
    Broken('plain-empty', lambda r: edit_npy(r/PLAIN, lambda x: x[:0]), plain, ShapeError, ('test.npy', '(0, 4, 50)'), 'at least one', plan),
    Broken('h5-cut', lambda r: cut(r/BETAS, .5), betas, FileError, ('betas.hdf5', 'cannot be opened'), 'whole', plan),
    Broken('h5-is-a-page', lambda r: web_page(r/BETAS), betas, FileError, ('betas.hdf5', 'web page'), 'numbers', plan),
    Broken('h5-is-numpy', lambda r: np.save(open(r/BETAS, 'wb'), np.zeros(5)), betas, FileError, ('betas.hdf5', 'no hdf5'), 'hdf5', plan),
    Broken('h5-renamed', lambda r: change_h5(r, lambda h: h.move('betas', 'beta')), betas, FileError, ('betas.hdf5', '`betas`'), 'it has: beta', 'which file'),
    Broken('h5-session-short', lambda r: change_h5(r, lambda h: replace(h, np.zeros((60, 30)))), betas, ShapeError, ('betas.hdf5:betas', '60 trials'), 'expected 75', plan),
    Broken('h5-dead-voxel', lambda r: change_h5(r, lambda h: h['betas'].__setitem__((slice(None), 7), 0)), betas, ValuesError, ('betas.hdf5', 'voxels: 7'), 'changes', 'voxel'),
    Broken('h5-nan', lambda r: change_h5(r, lambda h: h['betas'].__setitem__((slice(None), 5), np.nan)), betas, ValuesError, ('betas.hdf5', 'voxel 5'), 'number', 'voxel'),
    Broken('h5-text', lambda r: change_h5(r, lambda h: replace(h, 'hello')), betas, FileError, ('betas.hdf5', 'no array of numbers'), 'betas', 'data set'),
    Broken('two-people-one-recording', lambda r: (r/'sub-02/test.npy').write_bytes((r/PLAIN).read_bytes()), twins, UnknownError, ('sub-02/test.npy', 'subject 2', 'subject 1'), 'its own', plan),
]
