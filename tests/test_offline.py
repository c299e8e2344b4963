"""One switch forbids the network: every way out of this library is tried, and nothing is connected; others are stopped at the connection.

Two watchers: the socket's own `connect` and the look-up of names are replaced by ones that note and fail, for what must not even try; and a hook that
stands behind the library's guard, for what is stopped by the guard.
"""
import importlib, json, os, socket, subprocess, sys, traceback, urllib.request
from pathlib import Path
import pytest
from brainrecon.core import offline
from brainrecon.core.ask import ask
from brainrecon.core.checks import MissingWeights, ReconError
from brainrecon.core.fetch import fetch_file
from brainrecon.core.offline import OfflineError, go_offline, guard, is_here, is_offline, offline_words, online
from brainrecon.data.listings import list_source
from brainrecon.data.registry import command_for, fetch, plan, verify

guard()
passed = []      # what came past the guard while the network was forbidden
sys.addaudithook(lambda event, args: passed.append((event, args)) if event in offline.events and is_offline() and not local(event, args) else None)

def local(event, args):
    "Whether a connection stays on this machine."
    a = args[offline.events[event]]; return is_here(a[0] if isinstance(a, tuple) else a) or (event in ('socket.connect', 'socket.sendto', 'socket.sendmsg') and not isinstance(a, tuple))


@pytest.fixture
def away(monkeypatch, tmp_path):
    "The switch is on, nothing is on this machine, and every call of `connect` is noted."
    for k in offline_words: monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('BRAINRECON_OFFLINE', '1'); monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); monkeypatch.delenv('HF_ENDPOINT', raising=False); passed.clear()
    reached = []
    def note(*a, **k): reached.append(a); raise OSError('a test forbids it')
    monkeypatch.setattr(socket.socket, 'connect', note, raising=False); monkeypatch.setattr(socket.socket, 'connect_ex', note, raising=False); monkeypatch.setattr(socket, 'getaddrinfo', note)
    yield reached
    assert reached == [] and passed == []

def clip(): from brainrecon.encoders.vision import load_encoder; return load_encoder('open_clip:ViT-B-32/laion2b_s34b_b79k', download=True)
def clip_elsewhere(): from brainrecon.encoders.vision import find_clip; return find_clip('ViT-B-16', 'laion2b_s34b_b88k', download=True)
def timm(): from brainrecon.encoders.vision import load_encoder; return load_encoder('timm:resnet18.a1_in1k', download=True)
def text(): from brainrecon.encoders.text import load_text; return load_text('open_clip:ViT-B-32/laion2b_s34b_b79k', download=True)
def listed(id, people=None): return fetch(plan(id, people))
def terminal():
    from brainrecon.jobs.data_commands import fetch_data
    return fetch_data('things-eeg2', [1], ['whitened'], yes=True)

WAYS = {'a listing': (lambda: ask('https://huggingface.co/api/models'), 'huggingface.co'), 'a file': (lambda: fetch_file('https://osf.io/download/abc', Path(os.environ['BRAINRECON_DATA'])/'sub-01'/'x.npy'), 'sub-01/x.npy'),
    **{f'the list of {s}': (lambda s=s: list_source(s), h) for s, h in {'hub:datasets/Haitao999/things-eeg': 'huggingface.co', 'osf:y63gw': 'api.osf.io', 's3:openneuro.org': 's3.amazonaws.com', 'figshare:18470912': 'api.figshare.com'}.items()},
    'recordings': (lambda: listed('things-eeg2', [1]), 'brainrecon data fetch things-eeg2 --subject 1'), 'weights': (lambda: listed('labram-base'), 'brainrecon data fetch labram-base'), 'from a terminal': (terminal, 'brainrecon data fetch things-eeg2 --subject 1'),
    'open_clip': (clip, 'brainrecon data fetch clip-vit-b32'), 'open_clip, not in the table': (clip_elsewhere, 'hf download'), 'timm': (timm, 'hf download timm/resnet18.a1_in1k'), 'a text network': (text, 'brainrecon data fetch clip-vit-b32')}

@pytest.mark.parametrize('way', WAYS)
def test_no_way_out(way, away, monkeypatch, tmp_path):
    "The error names what would be fetched and what fetches it, before anything is asked."
    hub = importlib.import_module('huggingface_hub'); monkeypatch.setattr(hub, 'try_to_load_from_cache', lambda *a, **k: None)
    f, word = WAYS[way]
    with pytest.raises(MissingWeights) as e: f()
    assert word in str(e.value) and 'BRAINRECON_OFFLINE' in str(e.value), str(e.value)

@pytest.mark.parametrize('load, word', [('vae:sdxl', 'sdxl-vae'), ('synclr-vit-b-16', 'synclr-vit-b-16'), ('dinov2-base', 'dinov2-base'), ('open_clip:ViT-H-14/laion2b_s32b_b79k', 'clip-vit-h14')])
def test_what_is_never_downloaded_unasked(load, word, away):
    from brainrecon.encoders.vision import load_encoder
    with pytest.raises(MissingWeights, match=f'brainrecon data fetch {word}'): load_encoder(load)

@pytest.mark.parametrize('load', ['judges', 'sdxl', 'asset'])
def test_other_weights(load, away):
    from brainrecon.encoders.given import weights_path
    from brainrecon.jobs.hvf_draw import sdxl_autoencoder
    from brainrecon.metrics.judges import load_judge
    with pytest.raises(MissingWeights, match='brainrecon data fetch'): dict(judges=lambda: load_judge('clip'), sdxl=sdxl_autoencoder, asset=lambda: weights_path('var:var_d16.pth'))[load]()

def test_plans_and_checks_need_no_network(away):
    "What can be said without asking is said, and that nobody was asked."
    p = plan('things-eeg2', [1, 2]); assert 'could not ask' in str(p) and command_for(p) == 'brainrecon data fetch things-eeg2 --subject 1 2' and command_for(plan('things-eeg2', [1], ['raw'])).endswith('--subject 1 --part raw')
    assert command_for(plan('nsd', [1])).startswith('brainrecon data plan nsd') and command_for(plan('var')) == 'brainrecon data fetch var'
    with pytest.raises(MissingWeights): verify('labram-base', ask=True)

def test_needs_are_listed_without_the_network(away):
    from brainrecon.jobs.needs import needs
    found = needs('avde/05_swap', 'avde-things-eeg2', ['subjects=2']); lost = {n.name for n in found if n.must and not n.here}
    assert lost == {'things-eeg2, subject 2, avde-200', 'things-eeg2, the pictures and the order of the conditions', 'open_clip:ViT-H-14/laion2b_s32b_b79k', 'var:vae_ch160v4096z32.pth', 'var:var_d16.pth', 'labram-base:labram-base.pth'}
    assert all(n.command.startswith(('brainrecon data ', 'hf download ', 'pip install ')) for n in found if not n.here)

def test_what_is_put_there_is_found(away, tmp_path):
    "Weights, pictures and an earlier run that are on disk are no longer asked for."
    from brainrecon.jobs.needs import needs, print_needs
    at = tmp_path/'data'
    for name in ('var/var_d16.pth', 'labram-base/labram-base.pth', 'clip-vit-h14/open_clip_model.safetensors', 'things-eeg2/image_metadata.npy'): (at/name).parent.mkdir(parents=True, exist_ok=True); (at/name).write_bytes(b'x'*9)
    for d in ('training_images', 'test_images'): (at/'things-eeg2'/d).mkdir()
    run = tmp_path/'run'; run.mkdir(); (run/'params.json').write_text(json.dumps(dict(job='avde/01_align', values=dict(data='embedded', target='lite0', subjects=[1]))))
    lost = {n.name for n in needs('avde/05_swap', 'avde-things-eeg2', ['subjects=2']) if n.must and not n.here}; assert lost == {'things-eeg2, subject 2, avde-200', 'var:vae_ch160v4096z32.pth'}
    assert print_needs('avde/03_generate', None, [f'aligned={run}']) == 0 and print_needs('avde/03_generate', None, [f'aligned={run}', 'generator=var:var_d20.pth']) == 1 and print_needs('avde/03_generate', None, ['aligned=elsewhere']) == 1


# others

def others(monkeypatch, tmp_path):
    "Ways out that are not ours: name -> what goes there."
    url = 'https://huggingface.co/gpt2/resolve/main/config.json'
    def haxby(): from nilearn.datasets import fetch_haxby; fetch_haxby(data_dir=str(tmp_path), verbose=0)
    def sample(): import mne; mne.datasets.testing.data_path(path=str(tmp_path), update_path=False, verbose='error')
    def hub(): import huggingface_hub as h; h.hf_hub_download('gpt2', 'config.json', cache_dir=str(tmp_path))
    def torch_hub(): import torch; torch.hub.load_state_dict_from_url(url, model_dir=str(tmp_path))
    def http(): import requests; requests.get(url, timeout=5)
    def open_clip(): import open_clip as o; o.create_model('ViT-B-32', pretrained='laion2b_s34b_b79k', cache_dir=str(tmp_path))
    def timm(): import timm as t; t.create_model('resnet18.a1_in1k', pretrained=True, cache_dir=str(tmp_path))
    return dict(nilearn=haxby, mne=sample, huggingface_hub=hub, torch_hub=torch_hub, requests=http, open_clip=open_clip, timm=timm, urllib=lambda: urllib.request.urlopen(url, timeout=5),
        number=lambda: socket.create_connection(('192.0.2.7', 80), 2), datagram=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.7', 9)), name=lambda: socket.gethostbyname('example.org'))

@pytest.mark.parametrize('name', ['nilearn', 'mne', 'huggingface_hub', 'torch_hub', 'requests', 'open_clip', 'timm', 'urllib', 'number', 'datagram', 'name'])
def test_libraries_are_stopped_at_the_connection(name, monkeypatch, tmp_path):
    "Whatever they make of it, the reason is in the error, and nothing came past the guard."
    for k in offline_words: monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('BRAINRECON_OFFLINE', '1'); monkeypatch.setenv('HF_HUB_DISABLE_XET', '1'); passed.clear(); go = others(monkeypatch, tmp_path)[name]
    for k in [k for k in os.environ if k.lower().endswith('_proxy')]: monkeypatch.delenv(k)
    with pytest.raises(Exception) as e: go()
    assert any(w in ''.join(traceback.format_exception(e.value)) for w in ('BRAINRECON_OFFLINE', 'OfflineError')) and passed == []

def test_this_machine_stays_within_reach(monkeypatch, tmp_path):
    "Kernels and the processes of a run talk to each other."
    monkeypatch.setenv('BRAINRECON_OFFLINE', '1'); passed.clear()
    with socket.create_server(('127.0.0.1', 0)) as s, socket.create_connection(('localhost', s.getsockname()[1])) as c: c.sendall(b'x')
    with socket.socket(socket.AF_UNIX) as s: s.bind(str(tmp_path/'s')); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect(str(tmp_path/'s')); c.close()
    socket.getaddrinfo(socket.gethostname(), 1); socket.getaddrinfo(None, 1); monkeypatch.setenv('MASTER_ADDR', 'node-7'); assert is_here('node-7') and is_here('::1') and is_here('0.0.0.0') and not is_here('node-8') and not is_here('127.0.0.1.example.org')
    assert passed == []

@pytest.mark.parametrize('value, on', [('1', True), ('yes', True), ('TRUE', True), ('', False), ('0', False), ('no', False), ('False', False), ('off', False)])
def test_the_switch(value, on, monkeypatch):
    monkeypatch.setenv('BRAINRECON_OFFLINE', value); assert is_offline() is on
    if not on: assert online(['a']) is None
    else:
        with pytest.raises(MissingWeights, match='2 files'): online(['a', 'b'], 'do this')

def test_a_process_that_begins_offline_is_guarded():
    "The variable alone is enough: whatever of this library is read first sets the guard; children hear of it."
    for module in ('brainrecon.core.ask', 'brainrecon.data.registry'):
        code = f'import {module}, urllib.request\ntry: urllib.request.urlopen("https://huggingface.co")\nexcept Exception as e: print(type(e).__name__)'
        got = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'BRAINRECON_OFFLINE': '1'}); assert got.stdout.strip() == 'OfflineError', got.stderr[-300:]
    code = 'from brainrecon.core.offline import go_offline; go_offline(); import subprocess, sys; print(subprocess.run([sys.executable, "-c", "import os; print(os.environ[\'HF_HUB_OFFLINE\'], os.environ[\'BRAINRECON_OFFLINE\'])"], capture_output=True, text=True).stdout)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k not in offline_words}).stdout.split() == ['1', '1']

def test_errors_are_ours():
    assert issubclass(OfflineError, ReconError) and not issubclass(OfflineError, OSError)      # an OSError would be tried again
