"""What can be wrong with files that were fetched or put there by hand, and with what is asked of the registry.

The good tree is a data folder with a small asset in it, as `fetch` leaves it: arrays of two people, a table, a zip file that waits to be unpacked, and the record.
"""
import contextlib, io, json, os, zipfile
from pathlib import Path
import numpy as np
from broken import Broken, cut, edit_json, empty, flip, web_page
from brainrecon.core.checks import FileError, MissingWeights, ParameterError, UnknownError, UnsafeError
from brainrecon.core.fetch import Want, fetch_file, inside
from brainrecon.data.assets import Asset, Part, _assets, add
from brainrecon.data.registry import fetch, plan, record, record_name, unpack, verify

SMALL = Asset('small', 'data', 'Small', 'tests', (
    Part('arrays', 'arrays', 'hub:datasets/lab/small', {f'sub-{{s:02d}}/{w}.npy': f'sub-{{s:02d}}/{w}.npy' for w in ('train', 'test')}, usual=True),
    Part('table', 'a table', urls={'info.json': ['http://127.0.0.1:9/info.json']}, known={'info.json': dict(bytes=15)}, usual=True)), 'CC0', subjects=(1, 2, 3))
SIGNED = Asset('signed', 'data', 'Signed', 'tests', (Part('betas', 'responses', files={'betas_{s}.hdf5': ''}, usual=True),), 'its own', agreement='https://example.org/sign', subjects=(1, 2), home='small')


def tree(root):
    at = root/'small'; out = {}
    for s in (1, 2):
        (at/f'sub-{s:02d}').mkdir(parents=True)
        for w in ('train', 'test'): p = at/f'sub-{s:02d}'/f'{w}.npy'; np.save(p, np.arange(100*s, dtype='f4')); out[p.relative_to(at).as_posix()] = None
    (at/'info.json').write_text('{"sfreq": 250}\n'); (at/'betas_1.hdf5').write_bytes(b'\x89HDF' + bytes(100))
    with zipfile.ZipFile(at/'pictures.zip', 'w') as z: z.writestr('a/b.jpg', b'a picture'*50); z.writestr('a/c.jpg', b'another'*50)
    with here(root): verify('small'); verify('signed')


@contextlib.contextmanager
def here(root):
    "The small assets are known, and this is the data folder."
    was = os.environ.get('BRAINRECON_DATA'); os.environ['BRAINRECON_DATA'] = str(root); add(SMALL); add(SIGNED)
    try: yield root/'small'
    finally:
        for a in (SMALL, SIGNED): _assets.pop(a.id, None)
        os.environ.pop('BRAINRECON_DATA') if was is None else os.environ.__setitem__('BRAINRECON_DATA', was)

def within(f):
    "Read in this data folder, without a network."
    def read(root):
        was = os.environ.get('BRAINRECON_OFFLINE'); os.environ['BRAINRECON_OFFLINE'] = '1'
        try:
            with here(root) as at: return f(at)
        finally: os.environ.pop('BRAINRECON_OFFLINE') if was is None else os.environ.__setitem__('BRAINRECON_OFFLINE', was)
    return read

read = within(lambda at: (verify('small', [1, 2]).check(), verify('signed', 1).check(), unpack(at/'pictures.zip', at, 'out'), plan('small', 1, ask=False)))
checked = within(lambda at: verify('small', [1, 2]).check())
signed = within(lambda at: verify('signed', 1).check())
unzipped = within(lambda at: unpack(at/'pictures.zip', at, 'out'))
fetched = within(lambda at: fetch(plan('small', [1, 2], ask=False)))
nothing = lambda root: None

def rezip(change):
    "Write the zip file anew."
    def breaks(root):
        with zipfile.ZipFile(root/'small'/'pictures.zip', 'w') as z: change(z)
    return breaks

def link(z):
    m = zipfile.ZipInfo('a/to'); m.external_attr = 0o120777 << 16; z.writestr(m, '/etc/passwd')

def locked(root):
    "Mark the members as encrypted, as those of the THINGS images are."
    p = root/'small'/'pictures.zip'; data = bytearray(p.read_bytes())
    for mark, at in ((b'PK\3\4', 6), (b'PK\1\2', 8)):
        i = data.find(mark)
        while i >= 0: data[i+at] |= 1; i = data.find(mark, i+4)
    p.write_bytes(bytes(data))

def put(name, text):
    def breaks(root): p = root/'small'/name; p.parent.mkdir(parents=True, exist_ok=True); p.write_bytes(text)
    return breaks

def swap(root): a, b = (root/'small'/f'sub-0{s}'/'train.npy' for s in (1, 2)); x = a.read_bytes(); a.write_bytes(b.read_bytes()); b.write_bytes(x)

def out_by_link(root): (root/'small'/'out').symlink_to(root)

f = lambda name: lambda change, **how: lambda root: change(root/'small'/name, **how)
train, betas, zipped = f('sub-01/train.npy'), f('betas_1.hdf5'), f('pictures.zip')

cases = [
    Broken('cut-short', train(cut), checked, FileError, ('sub-01/train.npy', 'bytes'), 'whole', 'fetch small'),
    Broken('one-byte-short', train(cut, fraction=.999), checked, FileError, ('sub-01/train.npy', 'recorded'), 'whole', 'fetch small'),
    Broken('bytes-changed', train(flip), checked, FileError, ('sub-01/train.npy', 'sha256', 'recorded'), 'whole', 'fetch small'),
    Broken('empty', train(empty), checked, FileError, ('sub-01/train.npy', 'empty'), 'whole', 'fetch small'),
    Broken('web-page', train(web_page), checked, FileError, ('sub-01/train.npy', 'web page'), 'whole', 'fetch small'),
    Broken('other-kind', put('sub-01/train.npy', b'{"error": "quota"}'), checked, FileError, ('sub-01/train.npy', '.npy'), 'whole', 'fetch small'),
    Broken('absent', train(lambda p: p.unlink()), checked, FileError, ('sub-01/train.npy', 'absent'), 'whole', 'fetch small'),
    Broken('people-swapped', swap, checked, FileError, ('sub-01/train.npy', '1 more of 5 files'), 'whole', 'fetch small'),
    Broken('published-size', put('info.json', b'{"sfreq": 1000}\n'), checked, FileError, ('info.json', '16 bytes', '15'), 'whole', 'fetch small'),
    Broken('record-damaged', put(record_name, b'{"files": {'), checked, FileError, record_name, 'record', 'delete it'),
    Broken('record-of-another-form', put(record_name, b'[1, 2]'), checked, FileError, record_name, 'record', 'delete it'),
    Broken('folder-gone', lambda root: __import__('shutil').rmtree(root/'small'), within(lambda at: verify('small').check()), MissingWeights, ("'small'", 'nothing'), 'files', 'data plan small'),
    Broken('signed-cut-short', betas(cut), signed, FileError, ('betas_1.hdf5', 'bytes'), 'whole', 'data plan signed'),
    Broken('signed-web-page', betas(web_page), signed, FileError, ('betas_1.hdf5', 'web page'), 'whole', 'data plan signed'),
    Broken('signed-absent', betas(lambda p: p.unlink()), signed, FileError, ('betas_1.hdf5', 'absent'), 'whole', 'data plan signed'),
    Broken('zip-cut-short', zipped(cut), unzipped, FileError, ('small/pictures.zip', 'cannot be unpacked'), 'whole zip', 'fetch it again'),
    Broken('zip-bytes-changed', zipped(flip, at=.1), unzipped, FileError, ('small/pictures.zip', 'CRC'), 'whole zip', 'fetch it again'),
    Broken('zip-is-no-zip', zipped(web_page), unzipped, FileError, 'small/pictures.zip', 'whole zip', 'fetch it again'),
    Broken('zip-empty', zipped(empty), unzipped, FileError, 'small/pictures.zip', 'whole zip', 'fetch it again'),
    Broken('zip-locked', locked, unzipped, FileError, ('small/pictures.zip', 'password'), 'whole zip', 'terms'),
    Broken('zip-leads-out', rezip(lambda z: z.writestr('../../out.txt', 'x')), unzipped, UnsafeError, '../../out.txt', 'without `..`', 'do not fetch'),
    Broken('zip-absolute', rezip(lambda z: z.writestr('a/C:x', 'x')), unzipped, UnsafeError, 'C:x', 'drive letters', 'do not fetch'),
    Broken('zip-link', rezip(link), unzipped, UnsafeError, ('pictures.zip', 'a/to'), 'files', 'do not unpack'),
    Broken('zip-through-a-link', out_by_link, unzipped, UnsafeError, 'out/a/b.jpg', 'links', 'do not fetch'),
    Broken('zip-meets-another-file', put('out/a/b.jpg', b'my own'), unzipped, FileError, ('out/a/b.jpg', 'pictures.zip'), 'same file', 'move it away'),
    Broken('fetch-meets-a-broken-file', put('info.json', b'{}'), fetched, FileError, ('info.json', '2 bytes'), '15', 'delete it'),
    Broken('fetch-offline', train(lambda p: p.unlink()), fetched, MissingWeights, ('BRAINRECON_OFFLINE', 'sub-01/train.npy'), 'on this machine', 'unset'),
    Broken('fetch-signed', betas(lambda p: p.unlink()), within(lambda at: fetch(plan('signed', 1))), MissingWeights, ("'signed'", 'agreement'), 'betas_1.hdf5', ('https://example.org/sign', 'verify signed')),
    Broken('unknown-asset', nothing, within(lambda at: plan('smal')), UnknownError, "'smal'", "'things-eeg2'", "'small'"),
    Broken('unknown-person', nothing, within(lambda at: plan('small', 4)), UnknownError, 'subject 4', '1, 2, 3', 'choose'),
    Broken('person-as-text', nothing, within(lambda at: plan('small', '1')), UnknownError, ("'1'", 'str'), '1, 2, 3', 'int'),
    Broken('unknown-part', nothing, within(lambda at: plan('small', 1, 'array')), UnknownError, "'array'", "'arrays'", "'arrays'"),
    Broken('person-of-weights', nothing, within(lambda at: plan('labram-base', 1)), ParameterError, 'labram-base', 'no choice', 'leave'),
    Broken('name-leads-out', nothing, within(lambda at: inside(at, '../x')), UnsafeError, '../x', 'without `..`', 'do not fetch'),
    Broken('local-address', nothing, within(lambda at: fetch_file('file:///etc/passwd', at/'x')), UnsafeError, 'file:///etc/passwd', 'http', 'web server'),
    Broken('no-fingerprint', nothing, within(lambda at: Want(md5='d41d8cd9')), ParameterError, 'd41d8cd9', '32 digits', 'copy it again'),
]
