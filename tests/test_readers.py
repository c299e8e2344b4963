"Readers of untrusted files: what they give equals what the plain loaders give, and nothing that is broken or hostile gets further than a message."
import os, pickle, pickletools, resource, struct, subprocess, tracemalloc, warnings, zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path, PurePosixPath
import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from brainrecon.core.checks import FileError, MissingWeights, ReconError, UnsafeError
from brainrecon.core.pickles import open_pickle
from brainrecon.core.readers import check_signal, file_mark, read_dict, read_h5, read_npy, read_torch, refuse_twins
import brainrecon.core.sources as sources

quick = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache'))


def same(a, b):
    "Equal, with the same kinds of numbers; containers of the same kind."
    if isinstance(a, torch.Tensor): return isinstance(b, np.ndarray) and a.shape == b.shape and np.array_equal(a.detach().float().numpy(), b.astype('f4'), equal_nan=True)
    if isinstance(a, np.ndarray):
        if a.dtype == object: return a.shape == b.shape and all(same(x, y) for x, y in zip(a.ravel(), b.ravel()))
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == np.asarray(b).tobytes()
    if isinstance(a, dict): return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return (a == b or a != a and b != b) and type(a) is type(b)


def written(d, how, path):
    if how == 'npy':
        with open(path, 'wb') as f: np.save(f, np.array(d, object) if not isinstance(d, dict) else d, allow_pickle=True)
    elif how.startswith('torch'): torch.save(d, path, pickle_protocol=int(how[5:]))
    else: Path(path).write_bytes(pickle.dumps(d, int(how)))
    return path

dialects = ['npy', '2', '3', '4', '5', 'torch2', 'torch3', 'torch4', 'torch5']
number_kinds = ['f2', 'f4', 'f8', 'i1', 'i8', 'u1', 'u2', '?', 'c8', '>f4', '>i2', 'S3', 'U4']
arrays = hnp.arrays(st.sampled_from([np.dtype(k) for k in number_kinds]), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)).map(
    lambda a: a).flatmap(lambda a: st.sampled_from([a, np.asfortranarray(a)]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-2**59, 2**59), st.floats(allow_nan=False), st.text(max_size=20), st.binary(max_size=20),
    st.sampled_from([np.float32(2), np.int64(-1), np.bool_(True), np.str_('Oz'), np.float64(250)]))
nested = st.recursive(st.one_of(scalars, arrays), lambda v: st.one_of(st.lists(v, max_size=4), st.lists(v, max_size=3).map(tuple), st.dictionaries(st.text(max_size=6), v, max_size=4)), max_leaves=12)


@quick
@given(d=st.dictionaries(st.one_of(st.text(max_size=8), st.integers(0, 99)), nested, max_size=5), how=st.sampled_from(dialects))
def test_everything_comes_back(d, how, tmp_path_factory):
    path = written(d, how, tmp_path_factory.mktemp('r')/'d.bin')
    assert same(d, read_dict(path))


@pytest.mark.parametrize('how', dialects)
def test_large_values_of_every_kind(how, tmp_path):
    r = np.random.default_rng(0)
    d = {k: r.integers(0, 120, (40, 30, 20)).astype(k) for k in ('f2', 'f4', 'f8', 'i2', '>f4', '>i8', 'u1', 'c16')}
    d |= dict(fortran=np.asfortranarray(d['f4']), sliced=d['f8'][::2, 1:, ::-1], words=np.array(['O1', 'Oz', 'é'*7]), bytes=np.array([b'a', b'bcd']), text='ü'*9000, raw=bytes(range(256))*40,
        objects=np.array([['a', 1], [None, 2.5]], object), long=np.array(['x'*i for i in range(60)]), set={1, 2}, frozen=frozenset('ab'), z=1 + 2j, empty=np.zeros((0, 5)), nested=[dict(a=(d['i2'],))])
    got = read_dict(written(d, how, tmp_path/'a.npy'))
    assert same(d, got)
    mapped = got['f4'].filename is not None
    assert mapped == (how not in ('2', 'torch2')) and not got['f4'].flags.writeable
    assert got['fortran'].flags.f_contiguous
    with pytest.raises(ValueError): got['f4'][0] = 1


def test_equals_numpy_and_torch(tmp_path):
    d = dict(eeg=np.random.default_rng(0).normal(size=(64, 3000)), ch_names=['O1'], sfreq=1000., times=np.arange(5))
    written(d, 'npy', tmp_path/'a.npy')
    assert same(np.load(tmp_path/'a.npy', allow_pickle=True).item(), read_dict(tmp_path/'a.npy'))
    t = dict(w=torch.randn(5, 6).T, h=torch.randn(4).half(), b=torch.randn(300).bfloat16(), i=torch.arange(3), view=torch.arange(12.).reshape(3, 4)[1:, ::2], zero=torch.zeros(0, 3), one=torch.tensor(2.),
        u=torch.tensor([1, 2], dtype=torch.uint16), flag=torch.tensor([True]), par=torch.nn.Parameter(torch.ones(2)), o=OrderedDict(a=torch.ones(2)), size=torch.Size([2, 3]))
    torch.save(t, tmp_path/'t.pth'); got = read_dict(tmp_path/'t.pth')
    for k, v in torch.load(tmp_path/'t.pth', weights_only=False).items():
        if isinstance(v, torch.Tensor): assert same(v.to(torch.float32), got[k].astype('f4')), k
    assert got['size'] == (2, 3) and same(t['o'], got['o']) and got['u'].dtype == np.uint16
    assert torch.equal(read_torch(tmp_path/'t.pth')['w'], t['w'])
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path/'s.pth'); assert set(read_dict(tmp_path/'s.pth')) == {'weight', 'bias'}
    x = np.asfortranarray(np.arange(24.).reshape(2, 3, 4)); np.save(tmp_path/'x.npy', x)
    assert np.array_equal(read_npy(tmp_path/'x.npy', 'b c t', t=4), np.load(tmp_path/'x.npy'))


def test_other_containers_and_names(tmp_path):
    d = dict(o=OrderedDict(b=1, a=2), dd=defaultdict(list, a=[1]), p=PurePosixPath('/a/b/c.jpg'), rel=Path('a/b'), ba=bytearray(b'abc'*3000), dt=np.dtype('f4'), m=np.memmap(tmp_path/'m', 'f4', 'w+', shape=(3,)), shared=None)
    d['shared'] = [d['m']]*2
    for how in dialects:
        got = read_dict(written(d, how, tmp_path/'a.pkl'))
        assert got['o'] == dict(b=1, a=2) and got['dd'] == dict(a=[1]) and got['p'] == '/a/b/c.jpg' and got['rel'] == 'a/b' and got['ba'] == bytes(d['ba']) and got['dt'] == np.dtype('f4')
        assert got['shared'][0] is got['shared'][1] and np.array_equal(got['m'], np.zeros(3))


# ---- hostile files

class Call:
    def __init__(self, f, *a): self.f, self.a = f, a
    def __reduce__(self): return self.f, self.a

class State:
    def __setstate__(self, s): raise AssertionError('state was set')

def hostile(target):
    import builtins, copyreg, functools, importlib, operator, shutil
    t = str(target)
    return dict(open=Call(open, t, 'w'), mkdir=Call(os.mkdir, t), system=Call(os.system, f'touch {t}'), eval=Call(eval, f'open({t!r}, "w")'), exec=Call(exec, f'open({t!r}, "w")'), npsave=Call(np.save, t, 1),
        npload=Call(np.load, t, None, True), fromfile=Call(np.fromfile, t), getattr=Call(getattr, 'a', 'upper'), partial=Call(functools.partial, os.mkdir, t), popen=Call(subprocess.Popen, ['touch', t]),
        importing=Call(importlib.import_module, 'antigravity'), attr=operator.attrgetter('x'), loads=Call(pickle.loads, b'.'), torchload=Call(torch.load, t), bytesio=Call(torch.storage._load_from_bytes, b'x'), copyreg=Call(copyreg.add_extension, 'a', 'b', 1), rmtree=Call(shutil.rmtree, t))

@pytest.mark.parametrize('how', dialects)
@pytest.mark.parametrize('name', sorted(hostile('x')))
def test_nothing_runs(how, name, tmp_path):
    target = tmp_path/'ran'; bomb = hostile(target)[name]
    for d in (dict(eeg=np.zeros(3), x=bomb), dict(a=[(1, dict(b=[bomb]))]), {'o': np.array([bomb, 'a'], object)}):
        written(d, how, tmp_path/'d.npy')
        with pytest.raises(UnsafeError) as e: read_dict(tmp_path/'d.npy')
        assert not target.exists() and 'd.npy' in e.value.came and e.value.facts['name'].rsplit('.')[-1] in e.value.came and all(e.value.args)

def test_a_class_of_ones_own(tmp_path):
    for how in dialects:
        with pytest.raises(UnsafeError, match='State'): read_dict(written(dict(x=State()), how, tmp_path/'d.pkl'))
        with pytest.raises(UnsafeError, match='argparse'): import argparse; read_dict(written(dict(x=argparse.Namespace(a=1)), how, tmp_path/'d.pkl'))

bodies = dict(protocol0=b"cos\nsystem\n(S'echo'\ntR.", inst=b"\x80\x02(X\x01\x00\x00\x001ios\nsystem\n.", stack_global=b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85R.', ext1=b'\x80\x02\x82\x01.', ext2=b'\x80\x02\x83\x01\x00.',
    ext4=b'\x80\x02\x84\x01\x00\x00\x00.', newobj=b'\x80\x02cbuiltins\neval\n)\x81.', newobj_ex=b'\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.', build=b'\x80\x02cos\nenviron\n}b.', obj=b'\x80\x02(cos\nsystem\nX\x01\x00\x00\x001o.',
    dotted=b'\x80\x04\x8c\x05numpy\x8c\x14ndarray.__reduce__.x\x93.', builtins=b'\x80\x02c__builtin__\neval\n.', joined=b'\x80\x04\x8c\x00\x8c\x14numpy.ndarray.tofile\x93.')
@pytest.mark.parametrize('name', bodies)
def test_hidden_names(name, tmp_path):
    p = tmp_path/'h.pkl'; p.write_bytes(bodies[name])
    with pytest.raises(UnsafeError): read_dict(p)
    with zipfile.ZipFile(tmp_path/'h.pth', 'w') as z: z.writestr('archive/data.pkl', bodies[name] if name != 'protocol0' else b'\x80\x02' + bodies[name])
    with pytest.raises(UnsafeError): read_dict(tmp_path/'h.pth')

def test_recipes_cannot_be_chained_or_taken(tmp_path):
    p = tmp_path/'h.pkl'
    for body in (b'\x80\x02cnumpy\nndarray\n.', b'\x80\x02cnumpy\nndarray\n)R.', b'\x80\x02cnumpy\nndarray\n}b.', b'\x80\x02X\x01\x00\x00\x00a)R.', b'\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R}b.', b'\x80\x02]cnumpy\ndtype\na.',
        b'\x80\x02}cnumpy\ndtype\nK\x01s.', b'\x80\x02cbuiltins\nset\n](((tttta\x85R.', b'\x80\x02cnumpy\ndtype\nX\x03\x00\x00\x00V16\x85R.', b'\x80\x02U\x01a.', b'\x80\x05\x97.', b'\x80\x02(K\x01K\x02Q.', b'\x80\x07N.', b'\x80\x02.', b'\x80\x02h\x00.'):
        p.write_bytes(body)
        with pytest.raises(FileError): open_pickle(p)

def test_deep_and_circular(tmp_path):
    p = tmp_path/'d.pkl'; p.write_bytes(b'\x80\x02' + b']'*500 + b'a'*499 + b'.')
    with pytest.raises(FileError, match='levels'): open_pickle(p)
    p.write_bytes(b'\x80\x02' + b')' + b'\x85'*300_000 + b'\x85}q\x00h\x00K\x01s.')
    with pytest.raises(FileError): open_pickle(p)
    p.write_bytes(b'\x80\x02}(' + b')' + b'\x85'*300_000 + b'K\x01u.')
    with pytest.raises(FileError, match='key'): open_pickle(p)
    a = []; a.append(a); p.write_bytes(pickle.dumps(dict(a=a), 4))
    with pytest.raises(FileError, match='itself'): open_pickle(p)
    p.write_bytes(b'\x80\x02' + b'('*5000 + b'.')
    with pytest.raises(FileError, match='nested'): open_pickle(p)
    laughs = ['ha']
    for _ in range(50): laughs = [laughs]*10
    with pytest.raises(FileError, match='unfolds into more than'): open_pickle(written(dict(x=laughs), '4', p))      # `np.asarray` would never end
    shared = ['O1', 'Oz']; got = open_pickle(written(dict(x=[shared]*10), '4', p)); assert got['x'][0] is got['x'][9]

def test_widened_tensor(tmp_path):
    torch.save(dict(x=torch.arange(3.).expand(4, 3)), tmp_path/'e.pt')
    with pytest.raises(FileError, match='repeats its 3 numbers'): read_dict(tmp_path/'e.pt')

def test_small_files_that_ask_for_much(tmp_path):
    "Nested tuples that would never be written out or compared, numbers without a size, keys that all collide, a heap of empty sets."
    p, text = tmp_path/'h.pkl', lambda s: b'X' + struct.pack('<I', len(s)) + s
    nested = text(b'a') + b'2\x86'*45; kind = lambda c: b'cnumpy\ndtype\n' + text(c) + b'\x89\x88\x87R(K\x03' + text(b'|') + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
    array = lambda shape, c, raw: b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01' + shape + kind(c) + b'\x89' + raw + b'tb'
    number = b'cnumpy.core.multiarray\nscalar\n' + kind(b'c16') + b'C\x10' + bytes(16) + b'\x86R'; many = b'\x8a\x05' + (2**33).to_bytes(5, 'little') + b'\x85'
    for body in (b'cnumpy\ndtype\n' + nested + b'\x85R', b'c_codecs\nencode\n' + text(b'a') + nested + b'\x86R', array(nested, b'O', b'N'), nested, array(many, b'S0', b'C\x00'), array(many, b'U0', b'C\x00'), b'}' + number + b'Ns', b'(' + b'\x8f'*300_000 + b'l'):
        p.write_bytes(b'\x80\x04}' + text(b'x') + body + b's.')
        with pytest.raises(FileError): open_pickle(p)
    with zipfile.ZipFile(tmp_path/'h.pt', 'w') as z: z.writestr('a/data.pkl', b'\x80\x02}' + text(b'x') + b'(' + text(b'storage') + b'ctorch\nFloatStorage\n' + nested + text(b'cpu') + b'K\x04tQs.'); z.writestr('a/data/0', bytes(16))
    with pytest.raises(FileError): open_pickle(tmp_path/'h.pt')
    head = b"{'descr': '|S0', 'fortran_order': False, 'shape': (8589934592,), }".ljust(117) + b'\n'; (tmp_path/'h.npy').write_bytes(b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head)
    with pytest.raises(FileError, match='without a size'): read_npy(tmp_path/'h.npy')


# ---- broken files

small = dict(eeg=np.arange(60, dtype='f4').reshape(3, 20), ch_names=['O1', 'Oz', 'O2'], sfreq=np.float64(250), labels=np.array(['a', 'b'], object), n=3)

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Small files of all dialects, as bytes."
    at = tmp_path_factory.mktemp('files')
    return {how: Path(written(small | (dict(t=torch.arange(6.).reshape(2, 3).T) if how.startswith('torch') else {}), how, at/how)).read_bytes() for how in dialects}

def attempt(path):
    "A value or a `ReconError` with its parts; anything else is a fault."
    tracemalloc.start()
    try: return read_dict(path)
    except ReconError as e:
        assert all(isinstance(p, str) and p for p in e.args), e.args
        return e
    finally:
        peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
        assert peak < 8e6, f'{peak} bytes were asked for'

def use(v):
    "Touch every number."
    if isinstance(v, np.ndarray): v.tolist()
    elif isinstance(v, dict): [use(w) for w in v.values()]
    elif isinstance(v, (list, tuple)): [use(w) for w in v]

@pytest.mark.parametrize('how', dialects)
def test_truncation_anywhere(files, how, tmp_path):
    whole = files[how]; step = max(1, len(whole)//150)
    for n in range(0, len(whole), step):
        (tmp_path/'sub-01.npy').write_bytes(whole[:n]); e = attempt(tmp_path/'sub-01.npy')
        assert isinstance(e, FileError) and 'sub-01.npy' in e.came, n

@quick
@given(data=st.data(), how=st.sampled_from(dialects))
def test_changed_bytes(files, tmp_path_factory, data, how):
    raw = bytearray(files[how]); p = tmp_path_factory.mktemp('c')/'x.npy'
    for _ in range(data.draw(st.integers(1, 4))): raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    p.write_bytes(raw); use(attempt(p))

@quick
@given(data=st.data(), how=st.sampled_from(dialects))
def test_cut_and_joined(files, tmp_path_factory, data, how):
    raw = files[how]; i, j = sorted(data.draw(st.tuples(st.integers(0, len(raw)), st.integers(0, len(raw)))))
    p = tmp_path_factory.mktemp('c')/'x.npy'; p.write_bytes(data.draw(st.sampled_from([raw[:i] + raw[j:], raw[:i] + raw[i:j]*2 + raw[j:], raw[i:j] + raw[:i]])) or b' ')
    use(attempt(p))

words = [b'numpy\nndarray\n', b'numpy\ndtype\n', b'numpy._core.multiarray\n_reconstruct\n', b'_codecs\nencode\n', b'collections\nOrderedDict\n', b'builtins\nset\n', b'builtins\nlist\n', b'torch\nFloatStorage\n', b'torch._utils\n_rebuild_tensor_v2\n', b'torch\nSize\n']
instruction = st.one_of(st.integers(0, 255).map(lambda i: bytes([i])), st.sampled_from([bytes([ord(i.code)]) for i in pickletools.opcodes]), st.sampled_from(words).map(lambda w: b'c' + w),
    st.binary(max_size=9).map(lambda b: b'C' + bytes([len(b)]) + b), st.sampled_from(['f4', 'O8', 'latin1', 'U3', '<', 'storage', '0']).map(lambda s: b'X' + struct.pack('<I', len(s)) + s.encode()),
    st.integers(0, 255).map(lambda i: b'K' + bytes([i])), st.integers(0, 9).map(lambda i: b'h' + bytes([i])), st.integers(0, 9).map(lambda i: b'q' + bytes([i])), st.sampled_from([b')', b']', b'}', b'(', b't', b'R', b'b', b'a', b'e', b'u', b's', b'\x85', b'\x86', b'\x87']))

@settings(quick, max_examples=400)
@given(soup=st.lists(instruction, max_size=40), kind=st.sampled_from(['naked', 'npy', 'torch']), proto=st.integers(2, 5))
def test_any_soup_of_instructions(soup, kind, proto, tmp_path_factory):
    body = b'\x80' + bytes([proto]) + b''.join(soup) + b'.'; p = tmp_path_factory.mktemp('s')/'x.npy'
    if kind == 'npy':
        with open(p, 'wb') as f: np.lib.format.write_array_header_1_0(f, dict(descr='|O', fortran_order=False, shape=())); f.write(body)
    elif kind == 'torch':
        with zipfile.ZipFile(p, 'w') as z: z.writestr('a/data.pkl', body); z.writestr('a/data/0', b'12345678')
    else: p.write_bytes(body)
    use(attempt(p))

@settings(quick, max_examples=200)
@given(raw=st.binary(min_size=1, max_size=200), start=st.sampled_from([b'', b'\x93NUMPY\x01\x00', b'\x93NUMPY\x02\x00', b'\x93NUMPY\x03\x00', b'PK\x03\x04', b'\x80\x04', b'\x89HDF\r\n\x1a\n', b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.']))
def test_noise(raw, start, tmp_path_factory):
    p = tmp_path_factory.mktemp('n')/'x.npy'; p.write_bytes(start + raw)
    for read in (read_dict, read_npy, read_torch, lambda p: read_h5(p, 'x')):
        try: use(read(p))
        except ReconError as e: assert all(e.args)

@quick
@given(data=st.data())
def test_changed_plain_arrays(data, tmp_path_factory):
    p = tmp_path_factory.mktemp('p')/'x.npy'; a = data.draw(arrays); np.save(p, a); assert same(a, read_npy(p))
    raw = bytearray(p.read_bytes()); raw[data.draw(st.integers(0, min(len(raw), 130) - 1))] = data.draw(st.integers(0, 255)); p.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: x = read_npy(p); assert x.nbytes <= len(raw)
        except ReconError as e: assert all(e.args)

def test_wrong_sizes_are_found_before_memory(tmp_path):
    p = tmp_path/'x.npy'
    with open(p, 'wb') as f: np.lib.format.write_array_header_1_0(f, dict(descr='<f8', fortran_order=False, shape=(10**6, 10**5))); f.write(bytes(100))
    with pytest.raises(FileError, match='announces'): read_npy(p)
    raw = pickle.dumps(dict(x=np.zeros((300, 40))), 4).replace(b'M\x2c\x01K\x28\x86', b'J\xff\xff\xff\x7fK\x28\x86'); p.write_bytes(raw)
    e = attempt(p); assert isinstance(e, FileError)
    raw = pickle.dumps(dict(x=np.zeros((300, 40))), 2).replace(b'M\x2c\x01K\x28\x86', b'M\x2d\x01K\x28\x86'); p.write_bytes(raw)
    e = attempt(p); assert isinstance(e, FileError) and 'announced' in e.came
    body = b'\x80\x02(X\xff\x0f\x00\x00' + b'a'*4095 + b'q\x00' + b'c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02' + b'h\x01h\x00h\x02\x86R'*20_000 + b'l.'
    p.write_bytes(body)
    with pytest.raises(FileError, match='unfolds'): open_pickle(p)


# ---- large files

def sparse(path, shape=(64, 4_000_000)):
    "A dict around an array of 1 GB that takes no room on the disk: the pickle is written by hand around a hole."
    small_one = pickle.dumps(dict(raw_eeg_data=np.zeros((1, 1), 'f4'), sfreq=1000), 4); size = int(np.prod(shape))*4
    head, tail = small_one.split(b'C\x04\x00\x00\x00\x00'); head = head[:2] + head[11:]      # without its frame
    head = head.replace(b'K\x01K\x01K\x01\x86', b'K\x01' + b'J' + struct.pack('<i', shape[0]) + b'J' + struct.pack('<i', shape[1]) + b'\x86')
    with open(path, 'wb') as f: f.write(head + b'\x8e' + struct.pack('<Q', size)); f.seek(size - 4, 1); f.write(bytes(4) + tail)

def test_one_gigabyte_is_not_read(tmp_path):
    sparse(tmp_path/'raw.npy'); size = os.path.getsize(tmp_path/'raw.npy'); assert size > 1e9
    tracemalloc.start(); rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    d = read_dict(tmp_path/'raw.npy'); part = np.array(d['raw_eeg_data'][:, -1000:])
    peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert d['raw_eeg_data'].shape == (64, 4_000_000) and d['sfreq'] == 1000 and not part.any()
    assert peak < 4e6 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss < 100_000
    check_signal(np.random.default_rng(0).normal(size=(4, 100)), None, 'x')
    with open(tmp_path/'raw.npy', 'rb+') as f: f.truncate(size//2)
    with pytest.raises(FileError, match='cut short'): read_dict(tmp_path/'raw.npy')

def test_large_text_goes_to_the_cache_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'in_memory', 5_000)
    x = np.random.default_rng(0).normal(size=(50, 100)).astype('f2'); written(dict(x=x, y=x[::-1]), 'torch2', tmp_path/'train.pt')
    got = read_dict(tmp_path/'train.pt'); kept = list((tmp_path/'cache'/'unpacked').iterdir())
    assert np.array_equal(got['x'], x) and np.array_equal(got['y'], x[::-1]) and len(kept) == 2 and got['x'].filename is not None
    before = [p.stat().st_mtime_ns for p in kept]; read_dict(tmp_path/'train.pt'); assert before == [p.stat().st_mtime_ns for p in kept]
    os.utime(tmp_path/'train.pt', (1, 1)); read_dict(tmp_path/'train.pt'); assert len(list((tmp_path/'cache'/'unpacked').iterdir())) == 4

def test_many_small_tensors(tmp_path):
    torch.save([dict(eeg_data=torch.full((6, 50), i*1.), subject=0) for i in range(5000)], tmp_path/'many.pth')
    got = open_pickle(tmp_path/'many.pth'); assert got[4321]['eeg_data'][0, 0] == 4321 and len({id(d['eeg_data']._mmap) for d in got}) == 1


# ---- the rest

def test_absent_and_foreign(tmp_path):
    for read in (read_dict, read_npy, read_torch, lambda p: read_h5(p, 'x')):
        with pytest.raises(MissingWeights): read(tmp_path/'a'/'b.npy')
        with pytest.raises(FileError): read(tmp_path)
        for raw in (b'', b'<html>', b'version https://git-lfs.github.com/spec/v1', bytes(50), b'\x1f\x8b\x08', b'name,value\n1,2\n', b'channel,x\nO1,2\n'):
            (tmp_path/'x.npy').write_bytes(raw)
            with pytest.raises(FileError, match='x.npy'): read(tmp_path/'x.npy')
    for path, says in (('/a/raw.npy', '`/a/raw.npy`'), ('/a/b/c/raw.npy', '`b/c/raw.npy`'), ('c/raw.npy', '`c/raw.npy`')):
        with pytest.raises(MissingWeights, match=says): read_npy(path)
    np.savez(tmp_path/'z.npz', a=1)
    with pytest.raises(FileError, match='data.pkl'): read_dict(tmp_path/'z.npz')

def test_marks(tmp_path):
    a = np.random.default_rng(0).normal(size=50_000); np.save(tmp_path/'a.npy', a); np.save(tmp_path/'b.npy', a); a[25_000] += 1e-9; np.save(tmp_path/'c.npy', a[::-1])
    assert file_mark(tmp_path/'a.npy') == file_mark(tmp_path/'b.npy') != file_mark(tmp_path/'c.npy')
    with pytest.raises(ReconError, match='subject 2'): refuse_twins({1: tmp_path/'a.npy', 2: tmp_path/'b.npy'})
    refuse_twins({1: tmp_path/'a.npy', 2: tmp_path/'c.npy'})

def test_signals_of_every_form():
    r = np.random.default_rng(0)
    for shape, kind in (((9, 4, 50), 'eeg'), ((4, 900), 'eeg'), ((5, 3, 4, 50), 'meg'), ((60, 8), 'fmri')):
        x = r.normal(size=shape); n = [f'n{i}' for i in range(8 if kind == 'fmri' else 4)]; axis = 1 if kind == 'fmri' else x.ndim - 2
        assert check_signal(x, n, 'f', kind=kind, unit='z') is x
        for change in (lambda y: y*np.nan, lambda y: y*0, lambda y: np.take(y, 0, axis)):
            bad = x.copy(); i = [slice(None)]*x.ndim; i[axis] = 2; bad[tuple(i)] = change(bad[tuple(i)] if change(x).shape == x.shape else x)
            with pytest.raises(ReconError, match='n2'): check_signal(bad, n, 'f', kind=kind)
    with pytest.raises(ReconError, match='fT'): check_signal(r.normal(size=(4, 900))*1e-13, None, 'f', unit='fT', kind='meg')
    check_signal(r.normal(size=(4, 900))*1e-13, None, 'f', unit='T', kind='meg')
