"Sharing: a decoder that is pushed is the decoder that is read back, by huggingface_hub itself, from a hub on this machine."
import json, os, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
from brainrecon import BrainDecoder, load_decoder, load_embedded, load_pictures
from brainrecon.core.offline import OfflineError
from brainrecon.decoders.drawing import LinearDrawer
from brainrecon.decoders.packaged import packaged_recordings
from hub import TOKEN, Hub

ROOT = Path(__file__).parents[1]

SCRIPT = '''
import os, sys, numpy as np
from brainrecon import BrainDecoder, load_decoder
token = os.environ.pop('HF_TOKEN')
def told(f):
    try: f()
    except Exception as e: print('told', type(e).__name__, e)
told(lambda: BrainDecoder.from_pretrained('linear').push_to_hub('lab/linear'))
os.environ['HF_TOKEN'] = token
for folder in ('linear', 'hvf'): print(BrainDecoder.from_pretrained(folder).push_to_hub(f'lab/{folder}', private=folder == 'hvf', commit_message='as fitted'))
del os.environ['HF_TOKEN']; told(lambda: load_decoder('lab/hvf')); told(lambda: load_decoder('lab/none'))
os.environ['HF_TOKEN'] = token; x = dict(np.load('x.npz')); unpickled = []; sys.addaudithook(lambda event, args: unpickled.append(args[:2]) if event == 'pickle.find_class' else None)
linear, hvf = (load_decoder(f'lab/{n}') for n in ('linear', 'hvf')); names = [str(n) for n in x['names']]
np.savez('got.npz', linear=linear.reconstruct(x['x'], names=names), hvf=hvf.reconstruct(x['x'], names=names, steps=2), named=np.array(hvf.retrieve(x['x'], names=names)), about=str(linear.about), unpickled=str(unpickled))
'''

def client(script, at, hub, **more):
    "A Python that knows this hub only: its answers and files are of a fresh home."
    env = {k: v for k, v in os.environ.items() if k not in ('HF_TOKEN', 'HF_HUB_OFFLINE', 'BRAINRECON_OFFLINE')} | dict(HF_ENDPOINT=hub.base, HF_HOME=str(at/'home'), HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1', HF_HUB_DISABLE_PROGRESS_BARS='1', no_proxy='127.0.0.1', PYTHONPATH=str(ROOT)) | more
    return subprocess.run([sys.executable, '-c', script], cwd=at, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def test_x(): return load_embedded('fmri', 1, **packaged_recordings['fmri']).test.open('tests', again=True).average()[:3]

@pytest.fixture(scope='module')
def shared(tmp_path_factory, test_x):
    "Two decoders, pushed and read back by another process, which did not fit them: the hub, what was read, and what they answer here."
    at = tmp_path_factory.mktemp('hub'); recorded = load_embedded('fmri', 1, **packaged_recordings['fmri']); train, valid = recorded.train.average()[:200], recorded.valid.average()
    mine = dict(linear=BrainDecoder(LinearDrawer().fit(train, valid, [load_pictures('train', exemplars=True, size=32), load_pictures('valid', size=32)]), dict(name='linear', people='Nobody: a simulated person.')), hvf=BrainDecoder(load_decoder('hvf').part('fmri'), dict(name='hvf')))
    for name, d in mine.items(): d.save_pretrained(at/name)
    x = np.asarray(test_x.x); np.savez(at/'x.npz', x=x, names=test_x.names); want = dict(linear=mine['linear'].reconstruct(x, names=test_x.names), hvf=mine['hvf'].reconstruct(x, names=test_x.names, steps=2), named=np.array(mine['hvf'].retrieve(x, names=test_x.names)))
    with Hub() as hub:
        done = client(SCRIPT, at, hub, HF_TOKEN=TOKEN); assert done.returncode == 0, done.stderr[-2000:]
        yield hub, at, dict(np.load(at/'got.npz')), want, done.stdout


def test_what_is_read_back_is_what_was_pushed(shared):
    hub, at, got, want, said = shared
    for k, v in want.items(): np.testing.assert_array_equal(got[k], v, err_msg=k)
    assert str(got['unpickled']) == '[]' and 'a simulated person' in str(got['about']) and all(f'{hub.base}/lab/{n}/commit/' in said for n in ('linear', 'hvf'))


def test_what_goes_there(shared):
    "The card, the fingerprints and the weights, of both in one commit; the weights by Git LFS."
    hub, at, *_ = shared; assert list(hub.repos) == ['lab/linear', 'lab/hvf'] and [bool(r.private) for r in hub.repos.values()] == [False, True] and hub.large
    for name, repo in hub.repos.items():
        assert len(repo.commits) == 2; files = repo.commits[-1][1]; assert {'README.md', 'config.json'} < set(files) and {Path(f).suffix for f in files} == {'.md', '.json', '.safetensors'}
        card = files['README.md'].decode(); assert 'library_name: brainrecon' in card and 'agreed to it' in card and f"load_decoder('{name}')" in card
        said = json.loads(files['config.json'])['files']; assert {f for f in files if f.startswith('fmri/')} == set(said)
        for f in said: assert files[f] == (at/name.split('/')[1]/f).read_bytes(), f
        assert all(int.from_bytes(b[:8], 'little') < len(b) and b[8:9] == b'{' for f, b in files.items() if f.endswith('.safetensors'))
    assert not [p for _, p, who in hub.log if 'commit' in p and who != f'Bearer {TOKEN}']


def test_who_may_not(shared):
    "Without a token nothing is pushed; a private one is not read, and the error says what to look at."
    hub, *_, said = shared; told = said.split('told ')[1:]; assert len(told) == 3 and '401' in told[0] and ('POST', 'api/repos/create', None) in hub.log
    for words, name in zip(told[1:], ('hvf', 'none')): assert words.startswith('MissingWeights') and f"'lab/{name}' could not be fetched" in words and 'it may be private' in words and hub.base not in words.split('could')[0], words


def test_nothing_is_pushed_when_the_network_is_forbidden(shared, monkeypatch):
    hub, at, *_ = shared; monkeypatch.setenv('BRAINRECON_OFFLINE', '1')
    with pytest.raises(OfflineError, match='lab/linear'): BrainDecoder.from_pretrained(at/'linear').push_to_hub('lab/linear')
