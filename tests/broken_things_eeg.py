"THINGS-EEG2 as it should not be: every layout that circulates, broken in the ways in which files get broken."
import shutil
import numpy as np
from broken import Broken, Call, cut, drop, edit_dict, edit_json, edit_npy, edit_pickle, edit_torch, empty, put, web_page
from brainrecon.core.checks import ChannelError, FileError, FolderError, LeakError, MissingWeights, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.data.simulated_meeg import ch17
from brainrecon.data.things_eeg import load_things_eeg
from brainrecon.data.things_eeg_tree import write_things_eeg
from brainrecon.data.things_pictures import metadata_name, things_table

SIZE = dict(n_concepts=3, n_test=2, per=2)
NAMES = dict(dict='preprocessed_eeg_training.npy', pickle='preprocessed_eeg_training.npy', pt='train.pt', arrays='train.npy')


def tree(root):
    "One small tree of each layout."
    for name, layout, how in (('dict', 'npy', dict(channels=17, sfreq=100., folder='Preprocessed_data')), ('pickle', 'pickle', {}), ('pt', 'pt', {}), ('arrays', 'arrays', {})):
        write_things_eeg(root/name, layout, **SIZE, **how)
    for split in ('train', 'test'): load_things_eeg(root/'dict', 1, split).save(root/'trials'/'hvf'/'sub-01'/split)

def read(root): return [load_things_eeg(root/name, 1, split) for name in ('dict', 'pickle', 'pt', 'arrays', 'trials') for split in ('train', 'test')]

def subject(root, name): return next(p for p in (root/name).rglob('sub-01'))
def file(root, name): return subject(root, name)/NAMES[name]
def load(name, split='train', subject=1, **how): return lambda root: load_things_eeg(root/name, subject, split, **how)
def change(name, f):
    "Edit the dict of the training side in place, in the dialect of its layout."
    if name == 'arrays': return lambda root: edit_npy(file(root, name), f)
    edit = dict(dict=edit_dict, pickle=edit_pickle, pt=lambda p, g: edit_torch(p, g, pickle_protocol=5))[name]
    return lambda root: edit(file(root, name), f)
def signal(f, key='preprocessed_eeg_data'):
    "Replace the signal of a dict."
    return lambda d: put(d, **{key: f(d[key])})
def spoilt(f):
    "A copy of an array, changed in place."
    def g(x): x = np.array(x); f(x); return x
    return g
def nan(x): x[1, 2, 5, 7] = np.nan; x[:, :, 5, 7] = np.nan
def flat(x): x[:, :, 3] = 0
def double(x): x[:, :, 4] = x[:, :, 3]

def renamed(old, new): return lambda d: put(d, ch_names=[new if c == old else c for c in d['ch_names']])
def first_picture(root, name): return next(p for p in sorted((root/name).rglob('*.jpg')) if 'train' in str(p.parent.parent.name))
def metadata(root, f): edit_dict(next((root/'dict').rglob(metadata_name)), f)
def swap(root, name, a='train.pt', b='test.pt'):
    s = subject(root, name); (s/a).rename(s/'x'); (s/b).rename(s/a); (s/'x').rename(s/b)
def twin(root): shutil.copytree(subject(root, 'pt'), subject(root, 'pt').with_name('sub-02'))
def raw_only(root):
    s = subject(root, 'dict'); shutil.rmtree(s); (s/'ses-01').mkdir(parents=True); (s/'ses-01'/'raw_eeg_training.npy').touch()
def lose_pictures(root): shutil.rmtree(root/'dict'/'images_set')
def swap_images(d):
    img = np.array(d['img']); img[[0, 3]] = img[[3, 0]]; d['img'] = img
def mixed_images(d):
    img = np.array(d['img']); img[1, 2] = img[0, 2]; d['img'] = img

TRAIN, FETCH = 'preprocessed_eeg_training.npy', 'fetch it again'
cases = [
    # files
    Broken('dict-cut', lambda r: cut(file(r, 'dict')), load('dict'), FileError, TRAIN, 'expected', FETCH),
    Broken('dict-empty', lambda r: empty(file(r, 'dict')), load('dict'), FileError, (TRAIN, 'empty'), 'expected', FETCH),
    Broken('dict-web-page', lambda r: web_page(file(r, 'dict')), load('dict'), FileError, TRAIN, 'expected', 'fetch'),
    Broken('dict-calls', lambda r: edit_dict(file(r, 'dict'), lambda d: put(d, note=Call(r/'payload'))), load('dict'), UnsafeError, TRAIN, 'expected', 'do not'),
    Broken('pickle-cut', lambda r: cut(file(r, 'pickle'), .7), load('pickle'), FileError, TRAIN, 'expected', FETCH),
    Broken('pickle-calls', lambda r: edit_pickle(file(r, 'pickle'), lambda d: put(d, times=Call(r/'payload'))), load('pickle'), UnsafeError, TRAIN, 'expected', 'do not'),
    Broken('pt-cut', lambda r: cut(file(r, 'pt'), .6), load('pt'), FileError, 'train.pt', 'expected', FETCH),
    Broken('pt-calls', lambda r: edit_torch(file(r, 'pt'), lambda d: put(d, text=Call(r/'payload'))), load('pt'), UnsafeError, 'train.pt', 'expected', 'do not'),
    Broken('arrays-cut', lambda r: cut(file(r, 'arrays'), .9), load('arrays'), FileError, ('train.npy', 'bytes'), 'agree', FETCH),
    Broken('arrays-objects', lambda r: np.save(file(r, 'arrays'), np.array(dict(a=1), dtype=object), allow_pickle=True), load('arrays'), FileError, ('train.npy', 'objects'), 'plain array', 'read_dict'),
    Broken('trials-cut', lambda r: cut(r/'trials/hvf/sub-01/train/x.npy'), load('trials'), FolderError, 'train', 'bytes', 'make it again'),
    # keys
    Broken('dict-no-names', change('dict', lambda d: drop(d, 'ch_names')), load('dict'), FileError, (TRAIN, 'ch_names'), 'it has', 'layout'),
    Broken('dict-no-signal', change('dict', lambda d: drop(d, 'preprocessed_eeg_data')), load('dict'), FileError, (TRAIN, 'preprocessed_eeg_data'), 'it has', 'layout'),
    Broken('pt-other-key', change('pt', lambda d: put(d, data=d.pop('eeg'))), load('pt'), FileError, ('train.pt', 'keys'), ('eeg', 'meg'), 'Preprocessed_data_250Hz_whiten'),
    Broken('arrays-no-info', lambda r: (subject(r, 'arrays').parent/'info.json').unlink(), load('arrays'), MissingWeights, 'info.json', 'channels', 'copy it'),
    Broken('arrays-info-without-times', lambda r: edit_json(subject(r, 'arrays').parent/'info.json', lambda d: drop(d, 'times')), load('arrays'), FileError, ('info.json', 'times'), 'ch_names', 'copy it again'),
    Broken('arrays-info-no-json', lambda r: (subject(r, 'arrays').parent/'info.json').write_text('{"ch_names": ['), load('arrays'), FolderError, 'info.json', 'complete', 'again'),
    # shape and type
    Broken('dict-counts', change('dict', signal(lambda x: (x*100).astype('int16'))), load('dict'), ShapeError, (TRAIN, 'int16'), 'float', 'preprocessed'),
    Broken('dict-averaged', change('dict', signal(lambda x: x.mean(1))), load('dict'), ShapeError, (TRAIN, '3 axes'), ('4', 'repetitions'), 'single trials'),
    Broken('arrays-averaged', change('arrays', lambda x: x.mean(2)), load('arrays'), ShapeError, ('train.npy', '4 axes'), '5', 'single trials'),
    Broken('pickle-swapped-axes', change('pickle', signal(lambda x: np.ascontiguousarray(x.swapaxes(2, 3)))), load('pickle'), ChannelError, (TRAIN, '200 channels', '63 names'), 'each needs one', 'fetch'),
    Broken('dict-column-order', lambda r: edit_dict(file(r, 'dict'), signal(np.asfortranarray)), load('dict'), ShapeError, (TRAIN, 'column'), 'row by row', 'ascontiguousarray'),
    Broken('dict-session-cut', change('dict', signal(lambda x: x[:4])), load('dict'), ShapeError, (TRAIN, '4 pictures'), 'lists 6', 'pictures='),
    Broken('pt-too-many-repetitions', change('pt', lambda d: put(d, **{k: np.repeat(d[k], 2, 1) for k in ('eeg', 'img', 'label', 'text', 'session')})), load('pt'), ShapeError, ('train.pt', '8 repetitions'), 'at most', 'file names'),
    Broken('pt-names-cut', change('pt', lambda d: put(d, img=d['img'][:3])), load('pt'), ShapeError, ('train.pt', 'names'), 'one name', 'fetch'),
    # numbers
    Broken('dict-nan', change('dict', signal(spoilt(nan))), load('dict'), ValuesError, (TRAIN, 'not finite', ch17[5]), 'number', 'interpolate'),
    Broken('pt-nan', change('pt', signal(spoilt(nan), 'eeg')), load('pt'), ValuesError, ('train.pt', 'AF4'), 'number', 'interpolate'),
    Broken('dict-flat', change('dict', signal(spoilt(flat))), load('dict'), ValuesError, (TRAIN, 'flat', ch17[3]), 'changes', 'drop'),
    Broken('arrays-flat', change('arrays', spoilt(lambda x: x.__setitem__((..., 3, slice(None)), 0))), load('arrays'), ValuesError, ('train.npy', 'AF3'), 'changes', 'drop'),
    Broken('pickle-doubled-signal', change('pickle', signal(spoilt(double))), load('pickle'), ChannelError, (TRAIN, 'AF3', 'AFz'), 'differ', 'drop one'),
    Broken('pt-microvolts', change('pt', signal(lambda x: (x.astype('float32')*300), 'eeg')), load('pt'), ValuesError, 'train.pt', 'whitened', 'volts or microvolts'),
    Broken('pickle-nanovolts', change('pickle', signal(lambda x: x*1e6)), load('pickle'), ValuesError, TRAIN, 'microvolts', 'volts or microvolts'),
    Broken('dict-said-volts', lambda r: None, load('dict', unit='V'), ValuesError, (TRAIN, 'whitened'), 'V was expected', 'unit='),
    # channels
    Broken('dict-renamed', change('dict', renamed('Oz', 'OZ2')), load('dict'), ChannelError, (TRAIN, 'OZ2'), 'Fp1', 'rename'),
    Broken('dict-doubled-name', change('dict', renamed('Oz', 'O1')), load('dict'), ChannelError, ('O1', '2 times'), 'unique', 'rename'),
    Broken('dict-name-too-many', change('dict', lambda d: put(d, ch_names=[*d['ch_names'], 'Fp1'])), load('dict'), ChannelError, (TRAIN, '17 channels', '18 names'), 'one', 'fetch'),
    Broken('asked-oz-twice', lambda r: None, load('dict', channels=['Oz' if c == 'POz' else c for c in ch17]), ChannelError, ('Oz', '2 times'), 'unique', 'drop'),
    Broken('asked-63-of-17', lambda r: None, load('dict', channels=63), ChannelError, '46 of 63', '17', 'pick'),
    # time
    Broken('dict-few-times', change('dict', lambda d: put(d, times=d['times'][:50])), load('dict'), ShapeError, (TRAIN, '50 times'), 'each sample', 'fetch'),
    Broken('dict-milliseconds', change('dict', lambda d: put(d, times=d['times']*1000)), load('dict'), ShapeError, TRAIN, 'seconds', 'seconds'),
    Broken('dict-times-falling', change('dict', lambda d: put(d, times=d['times'][::-1])), load('dict'), ShapeError, TRAIN, 'onset', 'fetch'),
    Broken('dict-uneven-times', change('dict', lambda d: put(d, times=d['times']**3)), load('dict'), ShapeError, TRAIN, 'even steps', 'seconds'),
    Broken('pickle-other-crop', change('pickle', signal(lambda x: x[..., :180])), load('pickle'), ShapeError, (TRAIN, '240 times'), '0 s', 'fetch'),
    Broken('arrays-other-rate', lambda r: edit_json(subject(r, 'arrays').parent/'info.json', lambda d: put(d, sfreq=200.)), load('arrays'), ShapeError, ('train.npy', '200 Hz', '250 Hz'), 'one rate', 'fetch'),
    Broken('asked-window', lambda r: None, load('dict', window=(0, 2)), ShapeError, '0 to 2 s', 'inside', 'window'),
    Broken('preset-rate', lambda r: None, load('arrays', preset='avde-200'), ShapeError, ('train.npy', '250 Hz'), '200 Hz', 'prepare_things_eeg'),
    Broken('preset-not-whitened', lambda r: None, load('pickle', preset='avde-200-whitened'), ValuesError, (TRAIN, 'uV'), 'whitened', 'prepare_things_eeg'),
    # pictures
    Broken('picture-missing', lambda r: first_picture(r, 'dict').unlink(), load('dict'), MissingWeights, ('images_set', '1 are missing', '_01b.jpg'), 'every picture', 'copy the missing'),
    Broken('picture-renamed', lambda r: first_picture(r, 'dict').rename(first_picture(r, 'dict').with_suffix('.JPG')), load('dict'), UnknownError, ('images_set', '1 misnamed'), 'names of the metadata', 'rename'),
    Broken('picture-extra', lambda r: shutil.copy(first_picture(r, 'dict'), first_picture(r, 'dict').with_name('zebra_99x.jpg')), load('dict'), UnknownError, ('images_set', 'zebra_99x'), 'only', 'move'),
    Broken('picture-missing-no-metadata', lambda r: (first_picture(r, 'dict').unlink(), next((r/'dict').rglob(metadata_name)).unlink()), load('dict'), ShapeError, 'another number', '2 were expected', metadata_name),
    Broken('pictures-absent', lose_pictures, load('dict'), MissingWeights, 'neither pictures', 'what was seen', 'pictures'),
    Broken('metadata-leak', lambda r: metadata(r, lambda d: put(d, test_img_concepts=[*d['train_img_concepts'][:1], *d['test_img_concepts'][1:]])), lambda r: things_table(r/'dict', strict=False), LeakError, '1 test concepts', 'none may', 'restore'),
    Broken('metadata-cut', lambda r: metadata(r, lambda d: put(d, train_img_files=d['train_img_files'][:-1])), load('dict'), FileError, (metadata_name, '6 concepts', '5 files'), 'each file', 'fetch'),
    Broken('pt-picture-missing', lambda r: first_picture(r, 'pt').unlink(), load('pt'), MissingWeights, ('train.pt', '_01b'), 'expected', 'copy the missing'),
    Broken('pt-order', change('pt', swap_images), load('pt'), UnknownError, ('train.pt', 'row 0'), 'condition 1', 'fetch'),
    Broken('pt-mixed-row', change('pt', mixed_images), load('pt'), UnknownError, ('train.pt', 'row 1'), 'one picture', 'fetch'),
    Broken('pt-sides-swapped', lambda r: swap(r, 'pt'), load('pt'), LeakError, ('train.pt', '2 of its concepts'), 'none may', 'rename'),
    # subjects and folders
    Broken('subject-absent', lambda r: None, load('pt', subject=7), MissingWeights, ('subject 7', 'Preprocessed_data_250Hz_whiten'), 'there are 1', 'brainrecon data plan things-eeg2 --subject 7'),
    Broken('subject-twin', twin, load('pt', subject=2), UnknownError, ('sub-02/train.pt', 'same recording'), 'its own', 'fetch'),
    Broken('subject-two-spellings', lambda r: shutil.copytree(subject(r, 'pt'), subject(r, 'pt').with_name('sub-1')), load('pt'), UnknownError, ('sub-01', 'sub-1'), 'once', 'remove'),
    Broken('side-missing', lambda r: file(r, 'dict').unlink(), load('dict'), MissingWeights, TRAIN, 'train side', 'brainrecon data plan'),
    Broken('two-layouts', lambda r: None, lambda r: load_things_eeg(r, 1), UnknownError, ('5 recordings', 'pt in'), 'one was expected', 'layout='),
    Broken('raw', raw_only, load('dict'), FileError, 'raw_eeg_training.npy', 'epochs', 'prepare_things_eeg'),
    Broken('nothing-there', lambda r: shutil.rmtree(r/'pt'/'Preprocessed_data_250Hz_whiten'), load('pt'), MissingWeights, 'no recording', 'sub-01', 'brainrecon data plan things-eeg2'),
    Broken('no-folder', lambda r: shutil.rmtree(r/'pt'), load('pt'), MissingWeights, "'pt'", 'things-eeg2', 'brainrecon data plan things-eeg2'),
    Broken('split-name', lambda r: None, load('pt', 'valid'), UnknownError, 'valid', 'train', 'choose'),
]
