"Picture files of a recording, broken."
import os, shutil
from pathlib import Path
import numpy as np
import pandas as pd
from PIL import Image
from broken import Broken, cut, empty, flip, web_page
from brainrecon.core.checks import CheckpointError, FileError, LeakError, MissingWeights, ParameterError, ShapeError, UnknownError
from brainrecon.data.picture_files import open_pictures, pictures_of
from brainrecon.data.pictures import load_pictures
from brainrecon.data.trials import Trials

n = 6


def table(**columns): return pd.DataFrame({**dict(picture=[f'thing_{i:02d}b' for i in range(n)], concept=[f'thing{i}' for i in range(n)], path=[f'test_images/{i:05d}_thing{i}/thing_{i:02d}b.jpg' for i in range(n)], split='test'), **columns})
def file(root, i=2, ending='.jpg'): return Path(root)/'things'/f'test_images/{i:05d}_thing{i}/thing_{i:02d}b{ending}'

def tree(root):
    img = load_pictures('test').img
    for i in range(n): file(root, i).parent.mkdir(parents=True); Image.fromarray(img[i]).save(file(root, i), quality=90)
    opened(root)

def opened(root, t=None, size=48, where='things', kept='array', **how): return open_pictures(table() if t is None else t, Path(root)/where, size, Path(root)/'cache'/kept, log=None, **how)
def again(root): return opened(root, kept='fresh')
def read(root): assert len(opened(root)) == n; return again(root)
def same(root): pass
def of(root, **columns): return opened(root, table(**columns), kept='fresh')
def trials(t): return Trials(np.random.default_rng(0).normal(size=(len(t), 2, 3)).astype('float32'), ['O1', 'O2'], t, 'eeg', 100.)

cases = [
    Broken('picture-cut', lambda r: cut(file(r)), again, FileError, ('1 picture files', 'thing_02b.jpg', 'truncated'), '.jpg', 'again'),
    Broken('picture-empty', lambda r: empty(file(r)), again, FileError, ('thing_02b.jpg', 'empty'), 'whole files', 'again'),
    Broken('picture-web-page', lambda r: web_page(file(r)), again, FileError, ('thing_02b.jpg', 'no known kind'), 'whole files', 'again'),
    Broken('pictures-several', lambda r: (cut(file(r, 1)), empty(file(r, 2)), web_page(file(r, 3)), cut(file(r, 5))), again, FileError, ('4 picture files', 'thing_01b.jpg', '4 in all'), 'whole files', 'again'),
    Broken('picture-bomb', lambda r: Image.new('1', (40000, 40000)).save(file(r), 'png'), again, FileError, 'more than 100,000,000 pixels', 'whole files', 'again'),
    Broken('picture-fractions', lambda r: Image.fromarray(np.random.default_rng(0).random((20, 20), dtype='float32')).save(file(r), 'tiff'), again, FileError, ('thing_02b.jpg', 'fractions'), 'whole files', 'again'),
    Broken('picture-missing', lambda r: os.remove(file(r)), again, MissingWeights, ('1 of 6', 'thing_02b.jpg'), 'things', 'data plan'),
    Broken('pictures-missing', lambda r: [shutil.rmtree(file(r, i).parent) for i in range(5)], again, MissingWeights, ('5 of 6', '5 in all'), 'things', 'data plan'),
    Broken('picture-other-ending', lambda r: file(r).rename(file(r, ending='.png')), again, MissingWeights, '1 of 6', 'things', 'check the folder'),
    Broken('folder-absent', lambda r: shutil.rmtree(Path(r)/'things'), again, MissingWeights, '6 of 6', 'things', 'check the folder'),
    Broken('folder-too-deep', same, lambda r: opened(r, where='things/test_images', kept='fresh'), MissingWeights, '6 of 6', 'test_images', 'check the folder'),
    Broken('picture-replaced', lambda r: shutil.copy(file(r, 3), file(r, 2)), opened, CheckpointError, ('cache/array', 'files: stored'), 'must be the same', 'rebuild=True'),
    Broken('other-size', same, lambda r: opened(r, size=64), CheckpointError, 'size: stored 48, asked 64', 'must be the same', 'another path'),
    Broken('other-pictures', same, lambda r: opened(r, table()[:4]), CheckpointError, 'n: stored 6, asked 4', 'must be the same', 'another path'),
    Broken('array-cut', lambda r: cut(Path(r)/'cache/array/img.npy'), opened, FileError, 'array/img.npy', 'bytes were written', 'rebuild'),
    Broken('array-flipped', lambda r: flip(Path(r)/'cache/array/img.npy'), opened, FileError, 'array/img.npy', 'sha-256', 'rebuild'),
    Broken('marks-flipped', lambda r: flip(Path(r)/'cache/array/marks.npy', .9, 8), opened, FileError, 'array/marks.npy', 'sha-256', 'rebuild'),
    Broken('one-picture-on-two-sides', lambda r: shutil.copy(file(r, 0), file(r, 1)), lambda r: of(r, split=['train']+['test']*5), LeakError, ('thing_00b.jpg', 'thing_01b.jpg'), 'one side', 'take it out'),
    Broken('one-name-two-files', same, lambda r: of(r, picture=['a']*2 + list('bcde'), concept='a'), UnknownError, "picture 'a'", 'one file', 'correct'),
    Broken('one-file-two-names', same, lambda r: of(r, path=table().path.where(table().index > 1, table().path[0])), UnknownError, 'thing_00b.jpg', 'one picture', 'correct'),
    Broken('no-path', same, lambda r: of(r, path=''), UnknownError, '6 of 6', 'relative', 'fill the column'),
    Broken('path-outside', same, lambda r: of(r, path=[f'../x{i}.jpg' for i in range(n)]), UnknownError, '../x0.jpg', 'relative', 'fill the column'),
    Broken('path-with-backslashes', same, lambda r: of(r, path=[f'a\\x{i}.jpg' for i in range(n)]), UnknownError, 'x0.jpg', 'relative', 'fill the column'),
    Broken('no-path-column', same, lambda r: opened(r, table().drop(columns='path'), kept='fresh'), UnknownError, "'path'", 'picture', 'file name'),
    Broken('no-side', same, lambda r: pictures_of(trials(table().drop(columns='split')), Path(r)/'things'), ParameterError, 'which side', 'split', "split='train'"),
    Broken('odd-side', same, lambda r: of(r, split='all'), UnknownError, "'all'", "'train'", 'choose'),
    Broken('no-rows', same, lambda r: opened(r, table()[:0], kept='fresh'), ShapeError, 'no rows', 'at least one', 'table'),
    Broken('a-table-for-trials', same, lambda r: pictures_of(table(), Path(r)/'things'), ShapeError, 'DataFrame', 'Trials', 'open_pictures'),
    Broken('size-odd', same, lambda r: opened(r, size=2.5, kept='fresh'), ShapeError, '2.5', 'whole number', 'size='),
]
