"Drawn pictures on their way to be scored, broken."
import shutil
from pathlib import Path
import numpy as np
from PIL import Image
from broken import Broken, Call, cut, empty, web_page
from brainrecon.core.checks import FileError, MissingWeights, ParameterError, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.data.pictures import load_pictures
from brainrecon.jobs.pictures import load_pair
from brainrecon.metrics.reconstructions import evaluate_pictures

n = 5


def picture(root, where, i, ending=''): return Path(root)/where/f'thing{i}{ending}.png'

def tree(root):
    img = load_pictures('test').img[:n]
    for where in ('originals', 'low'):
        for i, x in enumerate(img): picture(root, where, i).parent.mkdir(parents=True, exist_ok=True); Image.fromarray(x).save(picture(root, where, i))
    for i, x in enumerate(img):
        for s in range(2): picture(root, 'drawn', i).parent.mkdir(exist_ok=True); Image.fromarray(255 - x).save(picture(root, 'drawn', i, f'_{s}'))
    np.save(root/'originals.npy', img); np.save(root/'drawn.npy', np.stack([img, 255 - img], 1))

def score(root, o='originals', r='drawn', low='low', **how):
    o, r, l, names, concepts = load_pair(Path(root)/o, Path(root)/r, Path(root)/low if low else '')
    return evaluate_pictures(o, r, names=names, concepts=concepts, low=l, low_weight=.25 if l is not None else None, measures=['pixcorr'], log=None, **how)

def arrays(root, **how): return score(root, 'originals.npy', 'drawn.npy', '', **how)
def read(root): score(root); return arrays(root)
def save(name, f):
    def change(root): np.save(Path(root)/name, f(np.load(Path(root)/name)))
    return change
def same(root): pass
def pickled(root): np.save(Path(root)/'drawn.npy', np.array([Call(Path(root)/'payload')], dtype=object), allow_pickle=True)
def torch_pickle(root):
    import torch
    torch.save(dict(a=Call(Path(root)/'payload')), Path(root)/'drawn.pt')

cases = [
    Broken('drawing-missing', lambda r: [picture(r, 'drawn', 2, f'_{s}').unlink() for s in (0, 1)], score, UnknownError, ('1 of 5', 'thing2'), 'named like', 'rename'),
    Broken('drawing-of-nobody', lambda r: shutil.copy(picture(r, 'drawn', 1, '_0'), Path(r)/'drawn/stranger.png'), score, UnknownError, ('1 files', 'stranger.png'), 'named like', 'remove'),
    Broken('original-missing', lambda r: picture(r, 'originals', 3).unlink(), score, UnknownError, ('2 files', 'thing3_0.png'), 'named like', 'rename'),
    Broken('one-sample-missing', lambda r: picture(r, 'drawn', 4, '_1').unlink(), score, ShapeError, ("'thing0' has 2", "'thing4' has 1"), 'same number', 'add'),
    Broken('low-missing', lambda r: picture(r, 'low', 0).unlink(), score, UnknownError, ("'low'", 'thing0'), 'low', 'rename'),
    Broken('two-formats', lambda r: Image.open(picture(r, 'originals', 0)).save(Path(r)/'originals/thing0.bmp'), score, UnknownError, 'same name', 'each name', 'delete'),
    Broken('one-name-in-two-folders', lambda r: [(Path(r)/f'originals/{k}').mkdir() or shutil.copy(picture(r, 'originals', 0), Path(r)/f'originals/{k}/x.png') for k in 'ab'], score, UnknownError, 'same name', 'its own', 'rename'),
    Broken('drawing-cut', lambda r: cut(picture(r, 'drawn', 2, '_1')), score, FileError, 'thing2_1.png', 'whole file', 'again'),
    Broken('drawing-empty', lambda r: empty(picture(r, 'drawn', 2, '_1')), score, FileError, ('thing2_1.png', 'empty'), 'whole file', 'again'),
    Broken('drawing-web-page', lambda r: web_page(picture(r, 'drawn', 0, '_0')), score, FileError, ('thing0_0.png', 'no known kind'), 'whole file', 'again'),
    Broken('drawing-bomb', lambda r: Image.new('1', (40000, 40000)).save(picture(r, 'drawn', 1, '_0')), score, FileError, 'more than 100,000,000', 'whole file', 'again'),
    Broken('no-pictures', lambda r: [f.unlink() for f in (Path(r)/'drawn').iterdir()], score, MissingWeights, "'drawn'", 'reconstructions', 'path'),
    Broken('folder-absent', lambda r: shutil.rmtree(Path(r)/'drawn'), score, ParameterError, 'reconstructions=', 'folder of pictures', 'whole path'),
    Broken('folder-and-array', same, lambda r: score(r, r='drawn.npy'), ParameterError, 'reconstructions not', 'all folders', 'write the arrays'),
    Broken('other-number', save('drawn.npy', lambda x: x[:3]), arrays, ShapeError, ('5 originals', '3 reconstructions'), 'one original', 'match'),
    Broken('one-picture', lambda r: [save(f'{k}.npy', lambda x: x[:1])(r) for k in ('originals', 'drawn')], arrays, ShapeError, '1 originals', 'two or more', 'match'),
    Broken('no-colours', save('originals.npy', lambda x: x[..., 0]), arrays, ShapeError, '(5, 128, 128)', 'n h w 3', 'np.stack'),
    Broken('features-for-pictures', save('drawn.npy', lambda x: np.zeros((5, 512), 'f4')), arrays, ShapeError, '(5, 512)', 'n h w 3', 'np.stack'),
    Broken('to-255-in-floats', save('drawn.npy', lambda x: x.astype('f4')), arrays, ValuesError, 'to 255', '0 to 1', 'uint8'),
    Broken('not-a-number', save('drawn.npy', lambda x: np.where(x == x.max(), np.nan, x/255).astype('f4')), arrays, ValuesError, 'nan', '0 to 1', 'made'),
    Broken('array-cut', lambda r: cut(Path(r)/'drawn.npy'), arrays, FileError, 'drawn.npy', 'agree', 'fetch'),
    Broken('array-pickled', pickled, arrays, FileError, 'objects', 'plain array', 'read_dict'),
    Broken('tensor-pickled', torch_pickle, lambda r: score(r, 'originals.npy', 'drawn.pt', ''), UnsafeError, 'drawn.pt', 'tensors', 'safetensors'),
    Broken('text-file', lambda r: (Path(r)/'drawn.csv').write_text('a,b\n'), lambda r: score(r, 'originals.npy', 'drawn.csv', ''), FileError, 'drawn.csv', '.npy', 'save'),
]
