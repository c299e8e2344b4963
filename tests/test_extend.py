"Parts of one's own: a file in an empty folder, named on the command line, stands beside the library's in the result; and what is wrong with one is said in words."
import json, os, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from brainrecon.core.checks import FileError, FolderError, ParameterError, ReconError, ShapeError, UnknownError, UnsafeError, ValuesError
from brainrecon.core.own import asked_for, library_words, named_in, own_words, read_own, whole_own, whole_value
from brainrecon.core.pool import pool_of
from brainrecon.data.embedded import load_embedded
from brainrecon.data.pictures import load_pictures
from brainrecon.decoders.drawing import drawers, load_drawer
from brainrecon.decoders.retrieval import ContrastiveDecoder, Gallery, load_decoder, make_gallery
from brainrecon.encoders.door import eeg_encoder, eeg_encoders, flat_encoders, register_encoder
from brainrecon.encoders.own_encoder import own_encoders
from brainrecon.encoders.own_target import own_targets, register_target
from brainrecon.encoders.small import small_encoders
from brainrecon.encoders.vision import lite_sizes, loaders
from brainrecon.jobs.decode import ready
from brainrecon.jobs.draw import baselines, titles
from brainrecon.jobs.own_parts import kinds, named_again, own_parts, register_drawer
from brainrecon.jobs.parameters import find_job, jobs, load_recipe, resolve
from brainrecon.jobs.run import choose_folder, fingerprint, run_job
from brainrecon.jobs.sweep import read_sweep

command = [sys.executable, '-c', 'import sys; from brainrecon.jobs.cli import main; sys.exit(main())']

encoder = '''from torch import nn
class MyEncoder(nn.Module):
    "Flatten, bend once, point."
    def __init__(self, n_chans, n_times, n_outputs, *, width=32):
        super().__init__(); self.net = nn.Sequential(nn.Flatten(), nn.Linear(n_chans*(n_times or 1), width), nn.GELU(), nn.Linear(width, n_outputs))
    def forward(self, x): return self.net(x)
'''
target = '''def colours(img):
    "Mean colours of 4 x 4 fields."
    return img.unfold(2, 32, 32).unfold(3, 32, 32).mean((-1, -2)).flatten(1)
'''
drawer = '''import numpy as np
from brainrecon.decoders.drawing import Drawer, decoder_file, pictures_at
from brainrecon.decoders.retrieval import RidgeDecoder, load_decoder, save_decoder
class MyDrawer(Drawer):
    "One colour: that of the training picture that ridge finds."
    kind = 'my drawer'
    def learn(self, train, valid, parts, gallery):
        self.reader = RedRidge = RidgeDecoder([1e3]).fit(train, valid, gallery); ids = sorted(set(train.pictures))
        self.z, self.colour = RedRidge.z_scale(gallery.z[gallery.rows(ids)]), pictures_at(parts, ids).mean((1, 2))
    def code(self, trials): return self.reader.embed(trials)
    def truth(self, pictures, gallery=None): return self.reader.z_scale(gallery.z[gallery.rows(pictures.table.picture)])
    def paint(self, codes, n, seeds):
        near = (codes @ self.z.T).argmax(1); return np.broadcast_to(self.colour[near].round().astype('uint8')[:, None, None, None], (len(codes), n, *self.about['shape'], 3)).copy()
    def keep(self, path): save_decoder(self.reader, decoder_file(path)); return {}, dict(z=self.z, colour=self.colour)
    @classmethod
    def back(cls, meta, arrays, path, parts, gallery): out = cls(); out.reader, out.z, out.colour = load_decoder(decoder_file(path)), arrays['z'], arrays['colour']; return out
'''


@pytest.fixture(autouse=True)
def tables():
    "Every table as it was, whatever a test enters."
    kept = [(t, dict(t)) for t in (own_encoders, eeg_encoders, small_encoders, own_targets, loaders, baselines, titles, drawers)]; flat = list(flat_encoders)
    yield
    for t, was in kept: t.clear(); t.update(was)
    flat_encoders[:] = flat

@pytest.fixture
def mine(tmp_path, monkeypatch):
    "An empty folder with three files of a user, who is in it; runs lie elsewhere."
    at = tmp_path/'mine'; at.mkdir(); monkeypatch.chdir(at); monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path/'runs')); monkeypatch.delenv('BRAINRECON_OWN', raising=False)
    for name, text in dict(my_encoder=encoder, my_target=target, my_drawer=drawer).items(): (at/f'{name}.py').write_text(text)
    return at

def cli(*words): return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=500)
def rows(folder): return json.loads((folder/'scores.json').read_text())['rows']
def small(trials, n): ids = sorted(set(trials.pictures))[:n]; return trials[np.isin(trials.pictures, ids)]


# --- from the command line

def test_an_encoder_in_retrieval(mine, tmp_path):
    "Rows of the user's network beside ridge, with chance and control; the run says which file, and a changed file makes another run."
    words = ['run', 'retrieval/01_decode', 'kinds=fmri', 'decoders=ridge,my_encoder:MyEncoder', 'steps=5', 'seeds=0', 'repetitions=no', 'draws=100', 'device=cpu']
    said = cli(*words); assert said.returncode == 0, said.stderr
    (folder,) = [p.parent for p in (tmp_path/'runs').glob('*/params.json')]; got = rows(folder); told = json.loads((folder/'params.json').read_text())
    assert {(r['method'], r['control']) for r in got} == {(m, c) for m in ('ridge', 'MyEncoder') for c in (False, True)} and all(r['simulated'] and r['chance'] for r in got)
    assert list(told['own']) == [f'{mine/"my_encoder.py"}:MyEncoder'] and str(mine) not in folder.name and 'MyEncoder' in folder.name and f'{mine/"my_encoder.py"}:MyEncoder' in told['command']
    assert not list(mine.rglob('*.pyc')) and not list(folder.rglob('my_encoder*'))
    assert 'finished before' in cli(*words).stdout
    (mine/'my_encoder.py').write_text(encoder.replace('width=32', 'width=16')); job = find_job('retrieval/01_decode'); values = resolve(job, None, dict(decoders=['ridge', 'my_encoder:MyEncoder']))
    was = fingerprint(job, values); (mine/'my_encoder.py').write_text(encoder); assert fingerprint(job, values) != was
    given = {k: v for k, v in told['values'].items() if told['came_from'][k] == 'given' and k != 'out'}; choose_folder(job, None, resolve(job, None, given), folder)
    (mine/'my_encoder.py').write_text(encoder + '# another\n')
    with pytest.raises(FolderError, match='another content'): choose_folder(job, None, resolve(job, None, given), folder)


@pytest.mark.slow
def test_an_encoder_and_a_target_in_avde_from_stage_to_stage(mine, tmp_path):
    "The reader learns with both; the next stage goes on only if both are named again."
    said = cli('run', 'avde/01_align', 'kinds=fmri', 'encoders=my_encoder:MyEncoder', 'target=my_target:colours', 'align_targets=scaled', 'align_epochs=1', 'seeds=0', 'controls=no', 'draws=100', 'device=cpu', '--out', tmp_path/'reads'); assert said.returncode == 0, said.stderr
    assert {r['method'] for r in rows(tmp_path/'reads')} == {'AVDE with MyEncoder'} and 'colours' in str(json.loads((tmp_path/'reads'/'scores.json').read_text())['notes'])
    on = ['run', 'avde/03_generate', f'aligned={tmp_path/"reads"}', 'depth=1', 'draw_steps=1', 'device=cpu', '--out', tmp_path/'paints']
    lost = cli(*on); assert lost.returncode == 1 and "'MyEncoder' of 'my_encoder.py'" in lost.stderr and "'colours' of 'my_target.py'" in lost.stderr and f'own={mine/"my_encoder.py"}:MyEncoder,' in lost.stderr; shutil.rmtree(tmp_path/'paints')
    said = cli(*on, 'own=my_encoder:MyEncoder,my_target:colours'); assert said.returncode == 0, said.stderr
    assert any('MyEncoder' in p.name for p in (tmp_path/'paints'/'drawers').rglob('*.safetensors'))
    said = cli('run', 'avde/04_evaluate', f'drawn={tmp_path/"paints"}', 'own=my_encoder:MyEncoder,my_target:colours', 'samples=1', 'measures=pixcorr', 'draws=100', 'device=cpu', '--out', tmp_path/'scores'); assert said.returncode == 0, said.stderr
    assert 'AVDE with MyEncoder' in {r['method'] for r in rows(tmp_path/'scores')}


def test_a_drawer_in_the_baselines(mine, tmp_path):
    said = cli('run', 'reconstruction/01_baselines', 'kinds=fmri', 'drawers=mean,my_drawer:MyDrawer', 'measures=pixcorr', 'size=32', 'samples=1', 'draws=100', 'device=cpu', '--out', tmp_path/'drawn'); assert said.returncode == 0, said.stderr
    got = rows(tmp_path/'drawn'); assert {r['what'].partition(', simulated')[0] for r in got} == {'mean picture', 'MyDrawer', 'MyDrawer, ceiling', 'MyDrawer, shuffled pairs'} and any('One colour' in r.get('note', '') for r in got)
    assert (tmp_path/'drawn'/'drawers'/'fmri-s01'/'MyDrawer.safetensors').is_file()


def test_an_encoder_and_a_target_in_hvf(mine, tmp_path):
    said = cli('run', 'hvf/01_retrieve', 'kinds=fmri', 'backbones=my_encoder:MyEncoder', 'sets=hues=my_target:colours:pooled,meaning=lite0:pooled', 'options=MyEncoder.width=16', 'epochs=1', 'seeds=0', 'controls=no', 'rules=valid', 'draws=100', 'device=cpu', '--out', tmp_path/'fused'); assert said.returncode == 0, said.stderr
    assert any('hues+meaning, MyEncoder' in r['method'] for r in rows(tmp_path/'fused'))


@pytest.mark.parametrize('words, says', [(['retrieval/01_decode', 'decoders=my_encodr:MyEncoder'], "there is no file 'my_encodr.py'"), (['avde/01_align', 'encoders=gone.py:MyEncoder'], "there is no file 'gone.py'"), (['reconstruction/01_baselines', 'drawers=elsewhere/my_drawer.py:MyDrawer'], 'there is no file')])
def test_a_file_that_is_absent_is_told_before_anything_starts(mine, tmp_path, words, says):
    said = cli('run', *words); assert said.returncode == 2 and says in said.stderr and str(mine) in said.stderr and not (tmp_path/'runs').exists()


# --- which file is run

def test_what_is_understood(mine):
    full = f'{mine/"my_encoder.py"}:MyEncoder'
    for text in ('my_encoder:MyEncoder', 'my_encoder.py:MyEncoder', './my_encoder:MyEncoder', full): assert whole_own(text) == full and whole_own(whole_own(text)) == full
    for text in ('mlp', 'timm:resnet18', 'meaning=lite0:pooled', 'pixels=vae:embedded:latent', 'open_clip:ViT-B-32/openai', 'vae:sdxl', 'labram-base:labram-base.pth', '/data/features', 3, None): assert whole_own(text) == text and own_words(text) is None
    for word in ('timm', 'lite0'): Path(f'{word}.py').write_text('x = 1\n')
    assert whole_own('timm:resnet18') == 'timm:resnet18' and whole_own('meaning=lite0:pooled') == 'meaning=lite0:pooled' and own_words(whole_own('timm.py:x'))[2] == 'x'
    assert set(library_words) >= {*lite_sizes, *(k for k in loaders if k not in own_targets)} and whole_value('root', 'my_encoder:MyEncoder') == 'my_encoder:MyEncoder'
    assert whole_value('own', ['my_encoder:MyEncoder', 'my_target:colours']) == [full, f'{mine/"my_target.py"}:colours'] and list(named_in(dict(own=[full], root=full))) == [full]

def test_only_what_the_command_names_is_run(mine, monkeypatch, tmp_path):
    (mine/'evil.py').write_text(f"open({str(tmp_path/'it ran')!r}, 'w')\nclass MyEncoder: pass\n"); evil = f'{mine/"evil.py"}:MyEncoder'
    monkeypatch.setenv('BRAINRECON_OWN', asked_for([f'{mine/"my_encoder.py"}:MyEncoder'])); read_own('my_encoder.py:MyEncoder')
    for text in (evil, 'evil.py:MyEncoder', 'my_encoder.py:nn'):
        with pytest.raises(UnsafeError, match='own='): read_own(text)
    monkeypatch.delenv('BRAINRECON_OWN')
    with pytest.raises(UnsafeError, match='own='): named_again(dict(encoders=['mlp', evil]), [f'{mine/"my_encoder.py"}:MyEncoder'])
    (mine/'theirs.yml').write_text(f'job: avde/01_align\nparameters:\n  encoders: [mlp, "{evil}"]\n')
    with pytest.raises(ParameterError, match='says values only'): load_recipe('theirs.yml', find_job('avde/01_align'))
    (mine/'sweep.yml').write_text('runs:\n- job: avde/01_align\n  values:\n    encoders: [evil:MyEncoder]\n')
    with pytest.raises(ParameterError, match='says values only'): read_sweep(str(mine/'sweep.yml'))
    assert not (tmp_path/'it ran').exists()

def test_a_file_of_weights_runs_nothing(mine, tmp_path):
    "A decoder's file names its class and no file; in a process that has not entered the class, it is refused with what to do."
    register_encoder(read_own('my_encoder.py:MyEncoder')); s = load_embedded('fmri', subject=1); train, valid = small(ready(s.train), 40), small(ready(s.valid), 10)
    gallery = of_lot(train, valid)
    d = ContrastiveDecoder('MyEncoder', steps=2, every=1, width=8).fit(train, valid, gallery, device='cpu'); d.save(tmp_path/'mine.safetensors'); assert np.array_equal(load_decoder(tmp_path/'mine.safetensors').embed(valid), d.embed(valid))
    assert str(mine).encode() not in (tmp_path/'mine.safetensors').read_bytes()
    for t in (own_encoders, eeg_encoders, small_encoders): t.pop('MyEncoder')
    with pytest.raises(UnknownError, match=r'register_encoder\(MyEncoder\).*own=my_encoder.py:MyEncoder'): load_decoder(tmp_path/'mine.safetensors')

@pytest.mark.parametrize('text, error, says', [('class A(', FileError, 'line 1'), ('import my_layers', UnknownError, "imports 'my_layers'"), ('x = 1\n\nx/0', FileError, 'line 3 with ZeroDivisionError'), ('import sys; sys.exit(3)', FileError, 'SystemExit'), ('class B: pass', UnknownError, "known: 'B'"), ('import os as A', ParameterError, 'no network'), ('A = 3', ParameterError, 'no network')])
def test_files_that_are_wrong(mine, text, error, says):
    (mine/'my_layers.py').write_text('x = 1\n'); (mine/'bad.py').write_text(text)      # a file beside it is not looked for
    with pytest.raises(error, match=says): own_parts([f'{mine/"bad.py"}:A'], 'encoder')
    assert 'bad' not in sys.modules and 'my_layers' not in sys.modules

def test_a_changed_file_is_read_again(mine):
    one = read_own('my_encoder.py:MyEncoder'); assert read_own('my_encoder.py:MyEncoder') is one
    (mine/'my_encoder.py').write_text(encoder.replace('width=32', 'width=8')); two = read_own('my_encoder.py:MyEncoder'); register_encoder(one); register_encoder(two)
    assert one is not two and eeg_encoder('MyEncoder', ['O1'], 5, 4).net[1].out_features == 8


# --- encoders that are wrong

def made(forward=None, init=None, bases=(nn.Module,)):
    def usual(self, n_chans, n_times, n_outputs): nn.Module.__init__(self); self.net = nn.Linear(n_chans*(n_times or 1), n_outputs)
    return type('Wrong', bases, dict(__init__=init or usual, forward=forward or (lambda self, x: self.net(x.flatten(1)))))

@pytest.mark.parametrize('kind, error, says', [
    (made(lambda self, x: self.net(x.flatten(1))[:, 1:]), ShapeError, r'into \(3, 5\); \(3, 6\) was expected'), (made(lambda self, x: self.net(x.flatten(1))[None]), ShapeError, r'\(1, 3, 6\)'), (made(lambda self, x: self.net(x)), ShapeError, 'cannot read responses'),
    (made(lambda self, x: self.net(x.flatten(1))*float('nan')), ValuesError, 'not finite'), (made(lambda self, x: self.net(x.flatten(1)).argmax(1)[:, None].expand(-1, 6)), ValuesError, 'int64'), (made(lambda self, x: self.net(x.flatten(1)).numpy()), ShapeError, 'ndarray'),
    (made(lambda self, x: nn.functional.dropout(self.net(x.flatten(1)))), ValuesError, 'asked again'), (made(lambda self, x: self.net(x.flatten(1)) - self.net(x.flatten(1)).mean(0)), ValuesError, 'stand beside'),
    (made(init=lambda self, n_chans, n_times, n_outputs: nn.Module.__init__(self), forward=lambda self, x: x.flatten(1)[:, :6]), ParameterError, 'no weights'), (made(init=lambda self, n_chans, n_times, n_outputs: 1/0), ParameterError, 'ZeroDivisionError')])
def test_networks_that_are_wrong(kind, error, says):
    register_encoder(kind)
    for make in (lambda: eeg_encoder('Wrong', ['O1', 'Oz'], 9, 6), lambda: ContrastiveDecoder('Wrong') and small_encoders['Wrong'] and __import__('brainrecon.encoders.small', fromlist=['x']).small_encoder('Wrong', (2, 9), 6)):
        with pytest.raises(error, match=says) as e: make()
        assert 'Wrong(2, 9, 6)' in str(e.value) and e.value.expected and e.value.why and e.value.do

@pytest.mark.parametrize('what, says', [(lambda x: x, 'a function'), (nn.Linear(2, 3), 'built already'), (3, 'no network'), (dict, 'no network'), (type('mlp', (nn.Module,), {}), 'there already'), (made(init=lambda self, width: None), 'three numbers')])
def test_what_is_no_class_of_networks(what, says):
    with pytest.raises(ParameterError, match=says): register_encoder(what)

def test_two_of_one_name(mine):
    (mine/'other.py').write_text(encoder)
    with pytest.raises(ParameterError, match='there already|differ'): own_parts([f'{mine/"my_encoder.py"}:MyEncoder', f'{mine/"other.py"}:MyEncoder'], 'encoder')


# --- targets that are wrong

@pytest.mark.parametrize('read, error, says', [(lambda x: x.mean((2, 3))/0*0, ValuesError, 'not finite'), (lambda x: x, ShapeError, 'one vector a picture'), (lambda x: x.mean((2, 3))[:1], ShapeError, 'into'), (lambda x: x.numpy().tolist(), ShapeError, 'no tensor'), (lambda x: (x*255).mean((2, 3)).long(), ValuesError, 'int64'),
    (lambda x: torch.rand(len(x), 4), ValuesError, 'asked again'), (lambda x: x.mean((2, 3)) - x.mean((0, 2, 3)), ValuesError, 'stand beside'), (lambda x: (x//1).mean((2, 3)), ValuesError, 'the same vector'), (lambda x: x.permute(0, 2, 3, 1) @ torch.ones(4), ShapeError, 'cannot read pictures')])
def test_targets_that_are_wrong(read, error, says):
    with pytest.raises(error, match=says): register_target(read, 'mine')
    assert 'mine' not in own_targets

def test_a_changed_target_is_not_mistaken_for_the_old_one(mine):
    "Features are kept under the text of the file and the weights; numpy is taken too."
    own_parts(f'{mine/"my_target.py"}:colours', 'target'); some = load_pictures('valid'); one = make_gallery(some, 'colours').z; want = some.img[0].reshape(4, 32, 4, 32, 3).mean((1, 3))/255; assert one.shape == (50, 48) and np.allclose(one[0].reshape(3, 4, 4).transpose(1, 2, 0), want, atol=1e-5)
    (mine/'my_target.py').write_text(target.replace('.mean((-1, -2))', '.amax((-1, -2))')); own_parts(f'{mine/"my_target.py"}:colours', 'target'); assert not np.allclose(make_gallery(some, 'colours').z, one)
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(3))
        def forward(self, x): return x.mean((2, 3))*self.w
    net = Net(); register_target(net, 'weighed'); a = make_gallery(some, 'weighed').z
    with torch.no_grad(): net.w.mul_(2)
    register_target(net, 'weighed'); assert np.allclose(make_gallery(some, 'weighed').z, 2*a)
    register_target(lambda x: x.mean((2, 3)).numpy(), 'numbers'); assert np.allclose(make_gallery(some, 'numbers').z, a, atol=1e-6)


# --- drawers that are wrong

def of_lot(*trials, width=6):
    "Features drawn by lot: what a drawer does with them is looked at, not how well."
    concept = {p: c for t in trials for p, c in zip(t.pictures, t.concepts)}; names = sorted(concept); return Gallery(np.random.default_rng(0).normal(size=(len(names), width)).astype('float32'), names, [concept[n] for n in names])

def fitted(kind):
    s = load_embedded('fmri', subject=1); train, valid, pictures = small(ready(s.train), 40), small(ready(s.valid), 10), [load_pictures('train', exemplars=True, size=32), load_pictures('valid', size=32)]
    return kind().fit(train, valid, pictures, of_lot(train, valid)), valid

def test_a_drawer_from_a_file(mine, tmp_path):
    own_parts([f'{mine/"my_drawer.py"}:MyDrawer'], 'drawer'); d, valid = fitted(baselines['MyDrawer']); img = d.draw(valid); assert img.shape == (10, 1, 32, 32, 3) and img.dtype == np.uint8
    d.save(tmp_path/'d.safetensors'); assert np.array_equal(load_drawer(tmp_path/'d.safetensors').draw(valid), img)
    os.environ['BRAINRECON_OWN'] = asked_for([f'{mine/"my_drawer.py"}:MyDrawer'])     # processes that draw know the class
    try:
        with pool_of(2): assert np.array_equal(d.draw(valid), img)
    finally: del os.environ['BRAINRECON_OWN']

@pytest.mark.parametrize('change, error, says', [("np.zeros((len(codes), n, 32, 32, 3))", ShapeError, 'float64'), ("np.zeros((len(codes), 32, 32, 3), 'uint8')", ShapeError, 'the axis of drawings|axis of drawings'), ("np.zeros((len(codes), n, 3, 32, 32), 'uint8')", ShapeError, 'colours first'), ("np.zeros((len(codes), n, 64, 64, 3), 'uint8')", ShapeError, '64, 64'), ("[None]*len(codes)", ShapeError, 'painted list')])
def test_pictures_that_are_none(mine, change, error, says):
    text = drawer[:drawer.index('        near = ')] + f'        return {change}\n' + drawer[drawer.index('    def keep'):]
    (mine/'my_drawer.py').write_text(text); own_parts([f'{mine/"my_drawer.py"}:MyDrawer'], 'drawer'); d, valid = fitted(baselines['MyDrawer'])
    with pytest.raises(error, match=says): d.draw(valid[:3])

def test_drawers_that_are_none(mine):
    at = f'{mine/"my_drawer.py"}:MyDrawer'
    for old, new, says in (("    def code(", "    def coed(", 'how to code'), ("    kind = 'my drawer'\n", '', 'no `kind`'), ("kind = 'my drawer'", "kind = 'linear'", 'which is that of LinearDrawer'), ("    kind = 'my drawer'\n", "    kind = 'my drawer'\n    def __init__(self, size): pass\n", 'without arguments')):
        (mine/'my_drawer.py').write_text(drawer.replace(old, new))
        with pytest.raises(ReconError, match=says): own_parts([at], 'drawer')
    with pytest.raises(ParameterError, match='no drawer'): own_parts([f'{mine/"my_encoder.py"}:MyEncoder'], 'drawer')
    with pytest.raises(ParameterError, match='no drawer'): register_drawer(3)
    assert drawers['linear'].__name__ == 'LinearDrawer'


# --- every job that names a network by a parameter can take one's own

def test_every_job_with_such_a_parameter_asks_for_it():
    for j in jobs():
        text = j.path.read_text(); names = {p.name for p in j.parameters}
        if 'own' in names: assert 'named_again(' in text, j.name
        if names & {'encoders', 'backbones', 'decoders', 'drawers', 'target'} and 'retrieval_speed' not in text: assert 'own_part' in text, j.name
    assert set(kinds) | {'own'} == {'encoders', 'backbones', 'decoders', 'network', 'encoder', 'target', 'sets', 'drawers', 'own'}
