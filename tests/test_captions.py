"Captions and what a text network makes of them: every form of the file gives the same texts, targets stand with their pictures, and a run that was stopped goes on exactly."
import numpy as np
import pandas as pd
import pytest
import torch
from broken import Call
from brainrecon.alignment.captions import caption_targets, captions_at, chosen_captions
from brainrecon.alignment.cascade import hierarchy_loss
from brainrecon.core.checks import CheckpointError, FileError, ParameterError, ShapeError, UnknownError, UnsafeError, ValuesError, seeded
from brainrecon.core.shelf import Shelf
from brainrecon.data import nsd_captions as N
from brainrecon.data.nsd_betas import n_pictures
from brainrecon.data.nsd_pictures import nsd_captions
from brainrecon.data.nsd_tree import write_nsd
from brainrecon.data.nsd_trials import nsd_table
from brainrecon.data.pictures import load_pictures
from brainrecon.encoders.hierarchy import Levels


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "A small NSD with both kinds of captions, and the numbers of its pictures."
    root = write_nsd(tmp_path_factory.mktemp('captions')/'nsd', stimuli=(), captions=('npy', 'json'), wds=False)
    return root, sorted(int(i) for i in nsd_table(root, 1).image.unique())


@pytest.mark.parametrize('kind, version', [('texts', None), ('objects', None), ('numpy texts', (2, 0))])
def test_every_form_of_the_table_says_the_same(kind, version, tree, tmp_path):
    "Texts of one width, or objects, whose pickle is read and not run."
    root, ids = tree; a = np.load(root/'COCO_73k_annots_curated.npy'); want = nsd_captions(root, ids)
    if kind != 'texts': a = a.astype(object)
    if kind == 'numpy texts': a[ids[0]] = [np.str_(t) for t in a[ids[0]]]
    path = tmp_path/'table.npy'
    with open(path, 'wb') as f: np.lib.format.write_array(f, a, version, allow_pickle=True)
    names = [f'image_{i:06d}' for i in ids]; assert list(N.load_captions(path, names).values()) == want and list(N.load_captions(path)) == names


def test_both_sources_say_the_same(tree, tmp_path):
    "MindEye2's table and COCO's own files."
    root, ids = tree; other = tmp_path/'nsd'; (other/'nsddata/experiments').mkdir(parents=True)
    (other/'nsddata/experiments/nsd').symlink_to(root/'nsddata/experiments/nsd'); (other/'annotations').symlink_to(root/'annotations')
    assert N.load_captions(root) == N.load_captions(other) and N.load_captions(root, nsd_table(root, 1)) == N.load_captions(other, nsd_table(root, 1))


def test_places_are_kept_if_it_is_said(tree, tmp_path):
    "Empty fields, missing ones and blanks: left out, or kept where they stand."
    root, ids = tree; a = np.load(root/'COCO_73k_annots_curated.npy').astype(object); i, j = ids[:2]
    a[i] = ['', ' one ', None, float('nan'), 'five']; a[j, 0] = '   '; np.save(tmp_path/'t.npy', a, allow_pickle=True); names = [f'image_{k:06d}' for k in (i, j)]
    assert N.load_captions(tmp_path/'t.npy', names)[names[0]] == ['one', 'five'] and N.load_captions(tmp_path/'t.npy', names, places=True)[names[0]] == ['', 'one', '', '', 'five']
    kept = N.load_captions(tmp_path/'t.npy', names, places=True); assert chosen_captions(kept, names, empty='released')[0] == ['', 'one', ''] and chosen_captions(kept, names)[0] == ['one', 'five', 'one'] == chosen_captions(N.load_captions(tmp_path/'t.npy', names), names)[0]
    a[i] = ''; np.save(tmp_path/'t.npy', a, allow_pickle=True)
    with pytest.raises(UnknownError, match=names[0]): N.load_captions(tmp_path/'t.npy', names, places=True)


def full(value, where=(5, 1)):
    a = np.full((n_pictures, 5), '', object); a[where] = value; return a

@pytest.mark.parametrize('make, error, word', [
    (lambda at: full(7), ValuesError, 'picture 5'), (lambda at: full(b'bytes'), ValuesError, 'bytes'), (lambda at: full(['a', 'b']), ValuesError, 'list'), (lambda at: full(np.arange(2)), ValuesError, 'as a caption'),
    (lambda at: full(Call(at/'payload')), UnsafeError, 'open'), (lambda at: np.full((9, 5), 'a'), ShapeError, '73000'), (lambda at: np.full((9, 5), 'a', object), ShapeError, '73000'),
    (lambda at: np.zeros((n_pictures, 5)), ShapeError, 'float64'), (lambda at: np.full(n_pictures, 'a'), ShapeError, '73000'), (lambda at: np.array(dict(a=1), object), ShapeError, 'dict|object')])
def test_broken_tables_are_refused(make, error, word, tmp_path):
    np.save(tmp_path/'t.npy', make(tmp_path), allow_pickle=True)
    with pytest.raises(error, match=word): N.load_captions(tmp_path/'t.npy', ['image_000005'])
    assert not (tmp_path/'payload').exists(), 'a pickle ran'

@pytest.mark.parametrize('kind, fraction', [('texts', 0.), ('texts', .999), ('objects', .01), ('objects', .999)])
def test_cut_tables_are_refused(fraction, kind, tree, tmp_path):
    root, ids = tree; path = tmp_path/'t.npy'; a = np.load(root/'COCO_73k_annots_curated.npy', mmap_mode='r')
    np.save(path, np.asarray(a).astype(object) if kind == 'objects' else a, allow_pickle=True); n = int(path.stat().st_size*fraction)
    with open(path, 'rb+') as f: f.truncate(n)
    with pytest.raises(FileError, match='t.npy'): N.load_captions(path, [f'image_{ids[0]:06d}'])


@pytest.mark.parametrize('text, error, word', [
    ('', FileError, 'empty'), ('picture,caption\n', FileError, 'no rows'), ('picture,text\na,b\n', FileError, 'no column'), ('picture,caption\na,b, c\n', FileError, 'quotes'), ('picture,caption\na,b\nc,d, e\n', FileError, 'cannot be read'),
    ('picture,caption\na,\n', ValuesError, 'row 1'), ('picture,caption\na,b\n ,c\n', ValuesError, 'row 2'), ('picture\tcaption\na\tb\n', FileError, 'no column'), ('picture,caption\na,"b\n', FileError, 'cannot be read'), (b'\xff\xfe\x00bad', FileError, 't.csv')])
def test_broken_tables_of_ones_own(text, error, word, tmp_path):
    path = tmp_path/'t.csv'; path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=word): N.load_captions(path)

def test_a_table_of_ones_own(tmp_path):
    "Names stay texts, quotes and commas are kept, rows keep their order; what pandas takes for missing is a word."
    t = pd.DataFrame(dict(picture=['007', 'b/1', '007', 'NA'], caption=['he said "yes", twice', 'a  dog', 'null', 'NaN'])); want = {'007': ['he said "yes", twice', 'null'], 'b/1': ['a dog'], 'NA': ['NaN']}
    for name, sep in (('t.csv', ','), ('t.tsv', '\t'), ('t.txt', ',')): t.assign(more=1).to_csv(tmp_path/name, index=False, sep=sep); got = N.load_captions(tmp_path/name); assert got == want and list(got) == list(want)
    assert list(N.load_captions(tmp_path/'t.csv', ['NA', '007'])) == ['NA', '007']
    with pytest.raises(FileError, match='is not there'): N.load_captions(tmp_path/'absent.csv')
    with pytest.raises(UnknownError, match="'c'"): N.load_captions(tmp_path/'t.csv', ['NA', 'c'])


class Reader:
    "A text network that can be read through: each text's own numbers, the same in any company; it stops when told."
    name, tag = 'reader', ''
    def __init__(self, stop=None, seed=0): self.asked, self.stop, self.seed = [], stop, seed
    def description(self): return dict(encoder=self.name, seed=self.seed)
    def __call__(self, texts):
        if self.stop is not None and len(self.asked) == self.stop: raise KeyboardInterrupt
        self.asked.append(list(texts)); return torch.stack([torch.randn(5, 4, generator=torch.Generator().manual_seed(self.seed + sum(map(ord, t)))) for t in texts])

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache'))

captions = {f'p{i}': [f'{w} {i}' for w in 'abcde'[:1 + i % 5]] for i in range(23)}


def test_targets_stand_with_their_pictures():
    "Any order, any part: the row of a picture is that of its captions, by cycling; each text of a batch is read once."
    r = Reader(); names = list(captions)[::-1]; z = caption_targets(captions, names, r, log=None); assert z.shape == (23, 3, 5, 4) and isinstance(z, np.memmap) and z.dtype == np.float32
    for k, n in enumerate(names):
        for j in range(3): assert np.array_equal(z[k, j], Reader()([captions[n][j % len(captions[n])]])[0])
    assert all(len(set(t)) == len(t) for t in r.asked) and sum(map(len, r.asked)) == sum(min(3, len(v)) for v in captions.values())
    part = caption_targets(captions, names[4:7], Reader(), log=None); assert np.array_equal(part, z[4:7])
    again = Reader(); assert np.array_equal(caption_targets(captions, names, again, log=None), z) and not again.asked       # kept


def test_a_stopped_run_goes_on_exactly(tmp_path):
    "What was written stays, what was not is made; the files are the same bytes as in one go."
    names = list(captions); one = caption_targets(captions, names, Reader(), path=tmp_path/'one', batch_size=4, log=None); first, second = Reader(stop=3), Reader()
    with pytest.raises(KeyboardInterrupt): caption_targets(captions, names, first, path=tmp_path/'two', batch_size=4, log=None)
    assert not Shelf(tmp_path/'two').names       # nothing that is not whole can be read
    two = caption_targets(captions, names, second, path=tmp_path/'two', batch_size=4, log=None)
    assert len(second.asked) == 3 and first.asked + second.asked == [list(dict.fromkeys(sum(chosen_captions(captions, names[i:i+4]), []))) for i in range(0, 23, 4)]
    assert np.array_equal(one, two) and {p.name: p.read_bytes() for p in (tmp_path/'one').glob('*.*')} == {p.name: p.read_bytes() for p in (tmp_path/'two').glob('*.*')}


@pytest.mark.parametrize('other, word', [
    (lambda c, n, r: (c, n[::-1], r), 'another order'), (lambda c, n, r: (c | {'p3': ['else']}, n, r), 'Captions were changed'), (lambda c, n, r: ({f'{k}x': v for k, v in c.items()}, [f'{k}x' for k in n], r), 'other names'), (lambda c, n, r: (c, n, Reader(seed=1)), 'text network')])
def test_others_are_not_taken_for_these(other, word, tmp_path):
    names = list(captions); caption_targets(captions, names, Reader(), path=tmp_path/'kept', log=None); given = other(captions, names, Reader())
    with pytest.raises(CheckpointError, match=word): caption_targets(*given, path=tmp_path/'kept', log=None)
    assert caption_targets(*given, path=tmp_path/'kept', rebuild=True, log=None).shape == (23, 3, 5, 4)


def test_sixteen_bits_and_what_does_not_fit():
    z = caption_targets(captions, list(captions), Reader(), log=None); h = caption_targets(captions, list(captions), Reader(), dtype='float16', log=None); assert h.dtype == np.float16 and np.allclose(z, h, atol=4e-3)
    class Loud(Reader):
        def __call__(self, texts): return super().__call__(texts)*1e6
    with pytest.raises(ValuesError, match='float16'): caption_targets(captions, list(captions), Loud(seed=2), dtype='float16', log=None)


def test_pictures_without_a_caption_are_named():
    p = load_pictures('test')[:5]; some = {n: ['x'] for n in p.table.picture[:3]}
    with pytest.raises(UnknownError) as e: caption_targets(some, p, Reader(), log=None)
    assert e.value.facts['names'] == p.table.picture.tolist()[3:] and all(n in str(e.value) for n in p.table.picture[3:])
    for bad, error in (((some, p[:3], Reader(), True), ParameterError), ((some, [], Reader()), ShapeError), ((some, [*some, *some], Reader()), UnknownError)):
        with pytest.raises(error): caption_targets(*bad, log=None)
    assert caption_targets({n: v[0] for n, v in some.items()}, p[:3], Reader(), c=2, log=None).shape == (3, 2, 5, 4)   # one text each, not its letters


def test_the_due_caption_goes_round_and_the_loss_takes_it():
    "Number of the batch modulo captions, the same for all rows; gradients reach what is said and not what is aimed at."
    z = caption_targets(captions, list(captions), Reader(), log=None); rows = [3, 3, 22, 0]
    for step in range(7): assert np.array_equal(captions_at(z, rows, step), np.stack([z[r, step % 3] for r in rows]))
    with pytest.raises(ShapeError): captions_at(z[0], rows, 0)
    with seeded(0): said = [torch.randn(4, n, 4, requires_grad=True) for n in (3, 3, 5)]
    loss = sum(hierarchy_loss(Levels([said[0]], said[1], said[2], said[1].mean(1)), [torch.ones(4, 3, 4)], text=captions_at(z, rows, 1)).values()); loss.backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in said)
