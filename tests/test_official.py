"""Published weight files: read without running anything, and every key accounted for."""
import os
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path, PurePosixPath
import numpy as np
import pytest
import torch
from torch import nn
from brainrecon.core.checkpoint import save_weights
from brainrecon.core.checks import CheckpointError, FileError, FolderError, MissingWeights, ParameterError, UnsafeError
from brainrecon.core.files import load_arrays, load_json
from brainrecon.core.official import KeyReport, addresses, load_official, published, read_about, read_official
from brainrecon.data.registry import asset

def weights(): return {'a.weight': torch.arange(6.).reshape(2, 3), 'a.bias': torch.ones(2), 'count': torch.tensor(3)}
def same(a, b): return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('wrap', [lambda w: w, lambda w: dict(model=w), lambda w: dict(module=w), lambda w: dict(state_dict=OrderedDict(w), epoch=3), lambda w: dict(model=dict(module=w)),
    lambda w: dict(model=w, args=Namespace(lr=1e-3, out=PurePosixPath('runs'), more=Namespace(x=1)), best=np.float64(.3), curve=np.arange(4.), scaler=None)], ids=['bare', 'model', 'module', 'state_dict', 'deep', 'with arguments'])
@pytest.mark.parametrize('zipped', [True, False], ids=['new', 'old'])
def test_reads_what_trainers_write(tmp_path, wrap, zipped):
    torch.save(wrap(weights()), tmp_path/'w.pth', _use_new_zipfile_serialization=zipped)
    assert same(read_official(tmp_path/'w.pth'), weights())

def test_own_files_and_their_description(tmp_path):
    save_weights(tmp_path/'w.safetensors', weights(), dict(config=dict(d=2))); torch.save(weights(), tmp_path/'w.pth')
    got = read_official(tmp_path/'w.safetensors'); assert {k: v.tolist() for k, v in got.items()} == {k: v.tolist() for k, v in weights().items()}
    assert read_about(tmp_path/'w.safetensors') == dict(config=dict(d=2)) and read_about(tmp_path/'w.pth') == {}
    (tmp_path/'w.safetensors').rename(tmp_path/'w2.pth'); assert read_official(tmp_path/'w2.pth').keys() == weights().keys()      # the first bytes decide

class Evil:
    def __reduce__(self): return os.system, ('touch was-run',)

def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, holder in enumerate((dict(model=weights(), extra=Evil()), dict(model=weights(), args=Namespace(x=Evil())))):
        torch.save(holder, f'{i}.pth')
        with pytest.raises(ValueError) as e: read_official(f'{i}.pth')
        assert isinstance(e.value, (UnsafeError, FileError)) and not Path('was-run').exists()
    torch.save(dict(model=weights(), extra=Path), '2.pth'); assert same(read_official('2.pth'), weights())        # a class that is only named

def test_stand_ins_leave_torch_as_it_was(tmp_path):
    before = list(torch.serialization.get_safe_globals()); torch.save(dict(model=weights(), args=Namespace(a=1)), tmp_path/'w.pth'); read_official(tmp_path/'w.pth')
    assert torch.serialization.get_safe_globals() == before

@pytest.mark.parametrize('make, kind, says', [(lambda p: None, MissingWeights, 'no file'), (lambda p: p.write_bytes(b''), FileError, 'empty'), (lambda p: p.write_text('<!doctype html>'), FileError, 'web page'),
    (lambda p: torch.save([1, 2], p), FileError, 'no named tensors'), (lambda p: torch.save(dict(model=dict(epoch=1)), p), FileError, 'no named tensors'), (lambda p: torch.save({}, p), FileError, 'nothing'),
    (lambda p: (save_weights(p, weights()), p.write_bytes(p.read_bytes()[:-5])), FolderError, 'cannot be read'), (lambda p: (torch.save(weights(), p), p.write_bytes(p.read_bytes()[:300])), FileError, 'cannot be read')])
def test_bad_files(tmp_path, make, kind, says):
    p = tmp_path/'w.pth'; make(p)
    with pytest.raises(kind, match=says) as e: read_official(p)
    assert e.value.came and e.value.expected and e.value.do

def test_absent_files_are_called_by_their_whole_path(tmp_path, monkeypatch):
    "A plain file: check the path. A published name: what to type, and the address, for both ways to open a file."
    monkeypatch.chdir(tmp_path)
    for read in (read_official, read_about):
        for path in (tmp_path/'a'/'b'/'c'/'own.pth', Path('/own.pth'), Path('own.pth')):
            with pytest.raises(MissingWeights) as e: read(path)
            assert f'`{path}`' in e.value.came and 'brainrecon' not in e.value.do and 'path' in e.value.do and ('relative' in e.value.why) == (not path.is_absolute())
        with pytest.raises(MissingWeights, match='data fetch var --part d30.*huggingface.co/FoundationVision/var'): read(tmp_path/'var_d30.pth')
        with pytest.raises(MissingWeights, match='data fetch labram-base.*github.com/935963004/LaBraM'): read('labram-base.pth')

@pytest.mark.parametrize('file', published)
def test_published_names_are_those_of_the_registry(file):
    id, _, part = published[file].partition(' --part '); a = asset(id)
    held = [p for p in a.parts if file in {*p.files, *p.urls}]
    assert len(held) == 1 and (held[0].name == part if part else held[0].usual) and addresses[id].startswith('https://')

def test_kind_of_network_is_compared(tmp_path):
    torch.save(weights(), tmp_path/'theirs.pth'); assert read_about(tmp_path/'theirs.pth', 'var') == {}
    save_weights(tmp_path/'w.safetensors', weights(), dict(kind='vqvae')); assert read_about(tmp_path/'w.safetensors', 'vqvae') == dict(kind='vqvae')
    with pytest.raises(CheckpointError, match="holds 'vqvae', expected 'var'"): read_about(tmp_path/'w.safetensors', 'var')

def test_prefix_and_level(tmp_path):
    torch.save(dict(trainer=dict(vae={f'vae.{k}': v for k, v in weights().items()}, n=2)), tmp_path/'w.pth')
    assert same(read_official(tmp_path/'w.pth', under=('trainer', 'vae'), prefix='vae.'), weights())
    with pytest.raises(CheckpointError, match='begins with `student.`'): read_official(tmp_path/'w.pth', under=('trainer', 'vae'), prefix='student.')
    with pytest.raises(FileError, match='it has: trainer'): read_official(tmp_path/'w.pth')

class Net(nn.Module):
    def __init__(self, d=2):
        super().__init__(); self.a, self.head = nn.Linear(3, d), nn.Linear(d, 4); self.register_buffer('count', torch.tensor(0)); self.register_buffer('seen', torch.zeros(2, 2))

def loaded(state, net=None, **how):
    "The report; every key of both sides must be in it once, or nothing may have changed."
    net = net or Net(); before = {k: v.clone() for k, v in net.state_dict().items()}
    try: r = load_official(net, state, **how)
    except CheckpointError: assert same(net.state_dict(), before); raise
    assert sorted([*r.matched, *r.renamed, *r.refused]) == sorted(state) and sorted([*r.matched, *r.renamed.values(), *r.new]) == sorted(before)
    t = r.table(); assert len(t) == len(state) + len(r.new) and (t.what == 'refused').sum() == len(r.refused)
    for k in r.matched: assert torch.equal(net.state_dict()[k], state[k].to(before[k].dtype))
    for k in r.new: assert torch.equal(net.state_dict()[k], before[k])
    return r

def test_every_key_has_a_place():
    spare = dict(new=['head.*', 'seen'])
    r = loaded(weights(), **spare); assert r.matched == list(weights()) and sorted(r.new) == ['head.bias', 'head.weight', 'seen'] and '3 matched' in str(r)
    theirs = {f'module.{k}': v.half() if v.is_floating_point() else v for k, v in weights().items()} | {'lm.w': torch.ones(1)}
    r = loaded(theirs, rename=lambda k: k.removeprefix('module.') if k.startswith('module.') else None, **spare); assert r.refused == {'lm.w': 'not used'} and r.renamed['module.a.bias'] == 'a.bias'
    r = loaded({**weights(), 'b': torch.zeros(4)}, rename={'b': 'head.bias'}, new=['head.weight', 'seen']); assert r.renamed == {'b': 'head.bias'}
    r = loaded({**weights(), 'seen': torch.zeros(3, 3)}, new=['head.*'], keep=['seen']); assert '(3, 3) for (2, 2)' in r.refused['seen'] and 'seen' in r.new
    for bad, says, how in (({**weights(), 'lm.w': torch.ones(1)}, r'unknown: 1 \(lm.w\)', spare), (weights(), r'absent: 3 \(seen, head.weight, head.bias\)', {}),
            ({**weights(), 'a.bias': torch.ones(5)}, r'of another shape: 1 \(a.bias \(5,\) for \(2,\)\)', spare), ({**weights(), 'count': torch.tensor(1.)}, 'of another kind of number: 1', spare),
            ({**weights(), 'b': torch.ones(2)}, r'twice: 1 \(b as a.bias\)', dict(rename={'b': 'a.bias'}, **spare)), ({**weights(), 'a.bias': torch.ones(5)}, 'absent: 1', dict(unused=['a.bias'], **spare)),
            ({'a.weight': torch.ones(2, 3), 'count': torch.tensor(1)}, r'absent: 1 \(a.bias\)', spare)):
        with pytest.raises(CheckpointError, match=says) as e: loaded(bad, **how)
        assert 'Nothing was loaded' in str(e.value)

def test_an_empty_report_can_be_printed(): assert str(KeyReport()) == 'the file: 0 matched, 0 renamed, 0 new, 0 refused' and len(KeyReport().table()) == 0


@pytest.mark.parametrize('around', ['module.', '_orig_mod.', 'module._orig_mod.'])
def test_what_a_wrapper_put_before_every_name(tmp_path, around):
    "Names of a network that was trained by several processes or compiled are read without the wrapper's; one name without it keeps all as they are."
    torch.save({'trainer': {'labram_local': {around + k: v for k, v in weights().items()}}}, tmp_path/'w.pth')
    assert same(read_official(tmp_path/'w.pth', under=('trainer', 'labram_local')), weights())
    torch.save({**{around + k: v for k, v in weights().items()}, 'own': torch.ones(1)}, tmp_path/'x.pth')
    assert set(read_official(tmp_path/'x.pth')) == {around + k for k in weights()} | {'own'}

def test_junk_is_called_by_what_its_name_promises(tmp_path):
    "A `.safetensors` without such a header is not sent to the readers of recordings; a torch file under this name is told to be one."
    (tmp_path/'w.safetensors').write_bytes(b'junk'*40); (tmp_path/'w.pth').write_bytes(b'junk'*40)
    with pytest.raises(FileError, match='no header of safetensors') as e: read_official(tmp_path/'w.safetensors')
    assert 'etch it again' in str(e.value) and 'read_dict' not in str(e.value)
    with pytest.raises(FileError, match='no torch file'): read_official(tmp_path/'w.pth')
    for new in (True, False):
        torch.save(weights(), tmp_path/'w.safetensors', _use_new_zipfile_serialization=new)
        with pytest.raises(FileError, match='under the name of safetensors.*[^$]*`.pth`'): read_official(tmp_path/'w.safetensors')

@pytest.mark.parametrize('nothing', [None, '', ' ', 3, {}])
def test_what_is_no_path(nothing):
    for read in (read_official, read_about):
        with pytest.raises(ParameterError, match='a path was expected'): read(nothing)

def test_nobody_is_told_to_delete_what_lies_at_a_wrong_path(tmp_path):
    (tmp_path/'notes.txt').write_text('my only copy of the notes')
    with pytest.raises(FolderError, match='is a folder') as e: load_arrays(tmp_path)
    assert 'Give the file in it' in str(e.value) and 'Delete' not in str(e.value)
    for path, words in ((tmp_path/'notes.txt', 'no whole safetensors file'), (tmp_path, 'is a folder'), (tmp_path/'none', 'no file')):
        for read in (load_arrays, load_json) if path.name != 'notes.txt' else (load_arrays,):
            with pytest.raises(FolderError, match=words) as e: read(path)
            assert 'Delete' not in str(e.value) and 'path' in str(e.value)
    with pytest.raises(FolderError, match='cannot be read') as e: load_json(tmp_path/'notes.txt')
    assert 'Delete' not in str(e.value) and 'Check the path' in str(e.value)
