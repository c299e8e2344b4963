"A batch written in parts: killed anywhere, it ends as if nothing had happened."
import json, os, signal, subprocess, sys, time
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.checks import FolderError
from brainrecon.data.stored import TrialsWriter, kept, pieces
from brainrecon.data.trials import Trials, load_trials

SLOW_WRITER = '''
import sys, time, numpy as np, pandas as pd
from brainrecon.data.stored import TrialsWriter
def part(s):
    gen = np.random.default_rng(s); n = 40 + s
    for i in range(0, n, 8): time.sleep(.002); yield gen.normal(size=(min(8, n - i), 4, 30)).astype('float32')
with TrialsWriter(sys.argv[1], 400, list('abcd'), 'eeg', 100, 0, 30, key=dict(recipe=1)) as w:
    print('started', flush=True)
    for s in range(8):
        if f's{s}' in w.done: continue
        n = 40 + s
        w.put(f's{s}', part(s), pd.DataFrame(dict(picture=[f'p{i}' for i in range(n)], concept=[f'c{i}' for i in range(n)], session=s, trial=np.arange(n) + 100*s)))
    w.finish(dict(recording='killed'))
'''


def content(path): return {p.name: p.read_bytes() for p in path.iterdir()}


def test_killed_writer_goes_on(tmp_path):
    "Killed at different moments, then finished: the same bytes as an undisturbed run."
    write = lambda path: subprocess.Popen([sys.executable, '-c', SLOW_WRITER, str(path)], stdout=subprocess.PIPE)
    assert write(tmp_path/'whole').wait() == 0
    killed = 0
    for k in range(6):
        p = write(tmp_path/'killed'); p.stdout.readline(); time.sleep(.02 + .03*k)
        if p.poll() is None: p.send_signal(signal.SIGKILL); killed += 1
        p.wait()
        if (tmp_path/'killed').exists(): break
        with pytest.raises(FolderError): load_trials(tmp_path/'killed')     # nothing looks finished
    if not (tmp_path/'killed').exists(): assert write(tmp_path/'killed').wait() == 0
    assert killed and content(tmp_path/'killed') == content(tmp_path/'whole')
    t = load_trials(tmp_path/'killed', verify=True); assert len(t) == sum(40 + s for s in range(8)) and t.x.shape[1:] == (4, 30)


def test_another_key_begins_anew(tmp_path):
    table = pd.DataFrame(dict(picture=['a'], concept=['a'])); plan = dict(path=tmp_path/'x', n=2, names=['v'], kind='fmri')
    with TrialsWriter(**plan, key=1) as w: w.put('one', np.ones((1, 1), 'float32'), table)
    with TrialsWriter(**plan, key=2) as w:
        assert not w.done; w.put('other', np.zeros((1, 1), 'float32'), table); t = w.finish()
    assert t.x.tolist() == [[0]]


@pytest.mark.parametrize('size', [1, 500, 5000, 10**9])
def test_pieces_cover_every_row_once(size):
    "However small the pieces, rows of one picture stay together and none is lost."
    gen = np.random.default_rng(1); pictures = [f'p{i}' for i in gen.integers(0, 30, 200)]
    t = Trials(gen.normal(size=(200, 3, 7)).astype('float32'), list('abc'), dict(picture=pictures, concept=pictures), 'eeg', 100)
    for average in (False, True):
        cuts = pieces(t, average, size)
        assert sorted(np.concatenate(cuts).tolist()) == list(range(200))
        if average: assert all(set(t.pictures[c]).isdisjoint(t.pictures[d]) for i, c in enumerate(cuts) for d in cuts[:i])


def test_kept_equals_memory(tmp_path):
    gen = np.random.default_rng(2); pictures = [f'p{i % 9}' for i in range(60)]
    t = Trials(gen.normal(size=(60, 5, 40)).astype('float16'), list('abcde'), dict(picture=pictures, concept=pictures), 'eeg', 200, -0.05)
    got = kept(t, average=True, pick=['d', 'a'], sfreq=100, window=(0, .1), at=tmp_path, size=999)
    want = t.average().pick(['d', 'a']).resample(100).window(0, .1)
    assert np.array_equal(got.x, want.x) and got.members == want.members and got.tmin == want.tmin and got.x.dtype == 'float32'
    again = os.stat(got.x.filename).st_mtime_ns; kept(t, average=True, pick=['d', 'a'], sfreq=100, window=(0, .1), at=tmp_path)
    assert os.stat(got.x.filename).st_mtime_ns == again


@pytest.mark.parametrize('damage', ['provenance', 'table', 'names', 'length', 'garbage', 'deep'])
def test_damaged_folders_are_refused(tmp_path, damage):
    "Whatever stands in trials.json or x.npy: a message, never a bare error."
    t = Trials(np.ones((2, 3), 'float32'), list('abc'), dict(picture=['p', 'q'], concept=['p', 'q']), 'fmri'); path = t.save(tmp_path/'t'); head = path/'trials.json'
    h = json.loads(head.read_text())
    if damage in ('provenance', 'table', 'names'): h[damage] = None
    if damage == 'length': h['table']['picture'].append('r')
    if damage == 'garbage': (path/'x.npy').write_bytes(b'\x93NUMPY garbage'.ljust(h['bytes'], b'!'))
    head.write_text('['*200_000 if damage == 'deep' else json.dumps(h))
    with pytest.raises(FolderError, match='t'): load_trials(path)
