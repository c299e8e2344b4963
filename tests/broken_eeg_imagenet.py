"Bad files for the loader of EEG-ImageNet."
import os, shutil
import torch
from broken import Broken, Call, cut, drop, edit_torch, empty, put, web_page
from brainrecon.core.checks import ChannelError, FileError, MissingWeights, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.data.eeg_imagenet import load_eeg_imagenet
from brainrecon.data.eeg_imagenet_tree import write_eeg_imagenet

ONE, TWO = 'EEG-ImageNet_1.pth', 'EEG-ImageNet_2.pth'

def tree(root): write_eeg_imagenet(root, pictures=True)
def load(root, subject=1, split='all', **how): return load_eeg_imagenet(root, subject, split, **{**dict(unit='uV', pictures=root/'imageNet_images'), **how})
def read(root): return load(root), load(root, 8)
def entry(i=3, **f): return lambda r: edit_torch(r/ONE, lambda d: d['dataset'][i].update({k: v(d['dataset'][i]) for k, v in f.items()}))
def signal(f): return entry(eeg_data=lambda e: f(e['eeg_data']))
def every(f):
    "Change the signal of every trial."
    def do(root): edit_torch(root/ONE, lambda d: [e.update(eeg_data=f(e['eeg_data'].clone())) for e in d['dataset']] and None)
    return do
def fill(c, value):
    def f(x): x[c] = value; return x
    return f
def copy_channel(a, b):
    def f(x): x[b] = x[a]; return x
    return f
def at(c, t, value):
    def f(x): x = x.clone(); x[c, t] = value; return x
    return f
def other_subject(root): edit_torch(root/ONE, lambda d: put(d, dataset=d['dataset'] + [e | dict(subject=2) for e in d['dataset']]))
def in_both(root): shutil.copy(root/ONE, root/TWO)
def second_as_first(root): edit_torch(root/ONE, lambda d: [e.update(subject=8) for e in d['dataset']] and None); shutil.copy(root/ONE, root/TWO)

plan = 'data plan eeg-imagenet'
cases = [
    Broken('cut', lambda r: cut(r/ONE), load, FileError, (ONE, 'archive'), 'whole', 'data plan'),
    Broken('cut-by-a-little', lambda r: cut(r/ONE, .98), load, FileError, (ONE, 'archive'), 'whole', 'data plan'),
    Broken('empty', lambda r: empty(r/ONE), load, FileError, (ONE, '0 bytes'), 'whole', 'data plan'),
    Broken('web-page', lambda r: web_page(r/ONE), load, FileError, (ONE, 'web page'), 'numbers', 'data plan'),
    Broken('old-torch', lambda r: edit_torch(r/ONE, lambda d: None, _use_new_zipfile_serialization=False), load, FileError, (ONE, 'older'), 'archive', 'torch.save'),
    Broken('runs-a-program', lambda r: edit_torch(r/ONE, lambda d: put(d, extra=Call(r/'payload'))), load, UnsafeError, (ONE, 'open'), 'arrays', 'np.savez'),
    Broken('entry-runs-a-program', lambda r: edit_torch(r/ONE, lambda d: d['dataset'][3].update(label=Call(r/'payload'))), load, UnsafeError, (ONE, 'open'), 'arrays', 'np.savez'),
    Broken('not-the-dict', lambda r: torch.save([1, 2], r/ONE), load, FileError, (ONE, 'a list of 2'), 'dict', 'which file'),
    Broken('no-dataset', lambda r: edit_torch(r/ONE, lambda d: drop(d, 'dataset')), load, FileError, (ONE, '`dataset`'), 'labels, images', 'which'),
    Broken('no-labels', lambda r: edit_torch(r/ONE, lambda d: drop(d, 'labels')), load, FileError, (ONE, '`labels`'), 'it has: dataset', 'which'),
    Broken('no-entries', lambda r: edit_torch(r/ONE, lambda d: put(d, dataset=[])), load, FileError, (ONE, 'no list of entries'), 'list of trials', 'data plan'),
    Broken('entry-without-picture', lambda r: edit_torch(r/ONE, lambda d: drop(d['dataset'][3], 'image')), load, FileError, (ONE, 'entry 3', '`image`'), 'keys', plan),
    Broken('axes-swapped', signal(lambda x: x.T.contiguous()), load, ShapeError, (ONE, 'entry 3', '(501, 62)'), '62 channels', 'transpose'),
    Broken('channel-lost', signal(lambda x: x[:61]), load, ChannelError, (ONE, 'entry 3', '61 channels'), '62', plan),
    Broken('one-axis', signal(lambda x: x[0]), load, ShapeError, (ONE, 'entry 3', '1 axes'), 'two', plan),
    Broken('half-the-rate', every(lambda x: x[:, ::2].contiguous()), load, ShapeError, (ONE, '25', 'samples'), '1000 hz', 'published'),
    Broken('twice-the-rate', every(lambda x: x.repeat(1, 2)), load, ShapeError, (ONE, 'samples'), '1000 hz', 'published'),
    Broken('trial-cut-short', signal(lambda x: x[:, :300]), load, ShapeError, (ONE, 'entry 3', '300 samples'), '500 or 501', 'published'),
    Broken('text-for-signal', entry(eeg_data=lambda e: 'none'), load, FileError, (ONE, 'entry 3'), 'array of numbers', plan),
    Broken('truth-values', signal(lambda x: x > 0), load, FileError, (ONE, 'entry 3', 'bool'), 'array of numbers', plan),
    Broken('nan', signal(at(59, 77, float('nan'))), load, ValuesError, (ONE, 'subject 1', 'Oz'), 'number', plan),
    Broken('infinite', signal(at(0, 0, float('inf'))), load, ValuesError, (ONE, 'subject 1', 'Fp1'), 'number', plan),
    Broken('flat-channel', every(fill(57, 0)), load, ValuesError, (ONE, 'flat', 'CB1'), 'changes', 'drop'),
    Broken('doubled-channel', every(copy_channel(58, 59)), load, ChannelError, (ONE, 'O1 and Oz'), 'differ', 'drop'),
    Broken('volts', every(lambda x: x.float()*1e-6), load, ValuesError, (ONE, 'uV'), '0.2 to 1000', "unit='v'"),
    Broken('nanovolts', every(lambda x: x.float()*1e3), load, ValuesError, (ONE, 'uV'), '0.2 to 1000', 'unit'),
    Broken('picture-of-another-category', entry(image=lambda e: 'n01443537_12.JPEG'), load, UnknownError, (ONE, 'entry 3', 'n01443537'), 'that category', plan),
    Broken('picture-without-name', entry(image=lambda e: 17), load, UnknownError, (ONE, 'entry 3'), 'jpeg', plan),
    Broken('picture-outside', entry(image=lambda e: e['label'] + '_1/../../x.JPEG'), load, UnknownError, (ONE, 'entry 3'), 'jpeg', plan),
    Broken('label-unknown', entry(label=lambda e: 'n99999999'), load, UnknownError, (ONE, 'entry 3', 'n99999999'), '`labels`', plan),
    Broken('granularity-unknown', entry(granularity=lambda e: 'medium'), load, UnknownError, (ONE, 'entry 3', 'medium'), 'coarse or fine', plan),
    Broken('subject-is-text', entry(subject=lambda e: 'S1'), load, UnknownError, (ONE, 'entry 3', 'S1'), 'whole number', plan),
    Broken('subject-absent', lambda r: None, lambda r: load(r, 5), MissingWeights, ('subject 5', ONE), 'there: 1, 8', plan),
    Broken('second-file-absent', lambda r: os.remove(r/TWO), lambda r: load(r, 8), MissingWeights, ('subject 8', ONE), 'there: 1', plan),
    Broken('both-files-absent', lambda r: (os.remove(r/ONE), os.remove(r/TWO)), load, MissingWeights, 'none of the files', ONE, plan),
    Broken('folder-absent', shutil.rmtree, load, MissingWeights, 'no folder', 'eeg-imagenet', plan),
    Broken('subject-under-two-numbers', other_subject, lambda r: load(r, 2), UnknownError, (ONE, 'subjects 2 and 1'), 'one recording', plan),
    Broken('first-file-named-as-second', second_as_first, lambda r: load(r, 8), UnknownError, 'subject 8 stands in both', 'one recording', plan),
    Broken('session-cut-short', lambda r: edit_torch(r/ONE, lambda d: put(d, dataset=[e for e in d['dataset'] if e['granularity'] == 'coarse'])), lambda r: load(r, 1, granularity='fine'), UnknownError, (ONE, 'fine'), 'there: coarse', 'another granularity'),
    Broken('picture-missing', lambda r: os.remove(sorted((r/'imageNet_images').rglob('*.JPEG'))[4]), load, MissingWeights, ('1 of 25 pictures', 'n90000000'), '<wnid>', 'imagenet'),
    Broken('picture-folder-missing', lambda r: shutil.rmtree(r/'imageNet_images'), load, MissingWeights, '25 of 25 pictures', '<wnid>', 'imagenet'),
    Broken('split-unknown', lambda r: None, lambda r: load(r, 1, 'valid'), UnknownError, 'valid', 'train', 'choose'),
    Broken('window-too-long', lambda r: None, lambda r: load(r, 1, window=(0, .7)), ShapeError, '0.7', 'inside', 'window'),
    Broken('window-before-onset', lambda r: None, lambda r: load(r, 1, window=(-.2, .4)), ShapeError, '-0.2', 'inside', 'window'),
    Broken('channel-to-drop-unknown', lambda r: None, lambda r: load(r, 1, drop=['Cb1']), ChannelError, 'Cb1', 'it has 62', 'rename'),
    Broken('category-to-hold-out-unknown', lambda r: None, lambda r: load(r, 1, protocol='leave-categories-out', held_out=['n01443537']), UnknownError, 'n01443537', 'known', 'one of'),
]
