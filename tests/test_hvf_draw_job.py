"""The job hvf/03_reconstruct through the runner: rows with their controls and ceilings, killed with -9 and resumed to the same bytes, brain sides taken over; priors as a job names them; the recipes.

The prior is a fresh tiny one in a folder: these tests say that the chain holds together, not how well it draws.
"""
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.numpy import load_file
from brainrecon.alignment.fusion import FusionEncoder
from brainrecon.core.checks import CheckpointError, FolderError, MissingWeights, ParameterError, UnknownError, seeded
from brainrecon.data.pictures import load_pictures
from brainrecon.decoders.fusion_drawer import pack_fusion, parts_scale, prior_mark
from brainrecon.decoders.hvf import embedding_gallery
from brainrecon.encoders.latents import TinyAutoencoder, save_autoencoder
from brainrecon.jobs.hvf import Seen, hvf_papers, hvf_settings
from brainrecon.jobs.hvf_draw import Draft, check_drafts, load_drafts, open_prior, plan_drawings, sampling_of
from brainrecon.jobs.parameters import find_job, read_yaml, resolve
from brainrecon.jobs.predictions import load_drawings, load_predictions
from brainrecon.jobs.run import RunFailed, run_job
from brainrecon.priors.fusion_prior import FusionPrior, empty_prompt, save_hive_prior, save_prior
from brainrecon.priors.ip_adapter import add_adapter, tiny_unet
from notebooks import ROOT

HERE = ROOT/'nbs'/'08_jobs'
COMMAND = str(Path(sys.executable).with_name('brainrecon'))   # the command that a user types, of this environment
quick = dict(device='cpu', show=False)
sets = dict(meaning='lite0:pooled', pixels='lite0:pixels@8')
values = dict(kinds=['fmri'], epochs=2, axes=64, variants=['paper', 'released', 'matched'], sample_steps=1, grid_guidance=[0., 1.], grid_pictures=6, samples=2, size=32, measures=['pixcorr'], draws=200, device='cpu')


@pytest.fixture(scope='module')
def parts():
    torch.set_num_threads(1); train = load_pictures('train'); gallery = embedding_gallery(train, sets)
    with seeded(0): vae, fusion = TinyAutoencoder(widths=(16,), z=4, stem=4, layers=1, groups=4, size=16).eval(), FusionEncoder(gallery.widths, 24, hidden=32, adapter=True)
    net = add_adapter(tiny_unet(4, 4, widths=(16,), cross=16, groups=8, pooled=8), d=24); return vae, FusionPrior(fusion, net, prompt=empty_prompt(net), size=16, learn_unet=True), parts_scale(gallery, train)

@pytest.fixture(scope='module')
def prior(parts, tmp_path_factory):
    at = tmp_path_factory.mktemp('prior')/'packed'; pack_fusion(at, *parts, sets=sets, sampling=dict(steps=2, guidance=0., scheduler='ddim'), chosen_on=load_pictures('valid').concepts); return at

@pytest.fixture(scope='module')
def runs(tmp_path_factory): return tmp_path_factory.mktemp('runs')

@pytest.fixture(scope='module')
def whole(runs, prior): return run_job('hvf/03_reconstruct', out=runs/'whole', prior=str(prior), show=False, **values)


def test_rows_controls_and_ceilings(whole):
    s = whole.scores(); assert s['test_readings'] == 1; rows = [r for r in s['rows'] if r['measure'] == 'pixcorr' and 'best of' not in r['what']]; short = lambda r: r['what'].replace(', simulated fMRI, subject 1', '')
    want = [w for v in ('HVF', 'HVF past the adapter', 'HVF, lengths matched') for w in [f'{v}, single sample', f'{v}, mean of 2 samples'] + [f'{v}, ceiling']*(v != 'HVF, lengths matched') + [f'{v}, shuffled pairs']] + ["the autoencoder's copy"]
    assert sorted(map(short, rows)) == sorted(want)
    for r in rows: assert r['n'] == 200 and r['over'] == 'concepts' and r['low'] <= r['value'] <= r['high'] and r['control'] == any(w in r['what'] for w in ('ceiling', 'shuffled', 'copy')) and ('CEILING' in r['flags']) == ('ceiling' in r['what'] or 'copy' in r['what']) and r['simulated']
    top = {(r['measure'], r['control']): r for r in s['rows'] if r['measure'] in ('top1', 'top5')}; assert len(top) == 4 and top['top5', False]['method'] == 'HVF with meaning+pixels' and 'frozen fusion' in top['top1', False]['note'] and top['top5', False]['selection'] == 'held-out training concepts'
    assert not any(r['status'] == 'reported by the paper' for r in s['rows']) and any('guidance' in n and 'chosen among 2' in n for n in s['notes'])
    cost = next(r for r in s['rows'] if r['measure'] == 'parameters'); assert all(w in cost['note'] for w in ('brain', 'fusion', 'network', 'autoencoder'))


def test_what_it_keeps(whole):
    kept = {d.label: d for d in load_drawings(whole.folder, check=True)}; label = 'fmri-s01-brain_mlp-seed0'
    assert set(kept) == {f'{label}{c}{v}' for c in ('', '-control') for v in ('', '-released', '-matched')} | {f'{label}-ceiling', f'{label}-released-ceiling', 'fmri-s01-autoencoder'}
    assert kept[label].drawings.shape == (200, 2, 32, 32, 3) and kept[f'{label}-control'].drawings.shape[1] == 1 and kept[f'{label}-control'].about['control'] and kept[label].about['method'] == 'HVF'
    assert not np.array_equal(kept[label].drawings, kept[f'{label}-released'].drawings) and not np.array_equal(kept[label].drawings[:, 0], kept[label].drawings[:, 1])
    assert {p.label for p in load_predictions(whole.folder)} == {label, f'{label}-control'} and {'lot-fmri-s01', 'ranked-fmri-s01', 'scores-pixcorr', 'scores-top1'} <= {p.stem for p in (whole.folder/'figures').glob('*.png')}
    grid = pd.read_csv(whole.folder/'grid.csv'); assert len(grid) == 2 and grid.chosen.sum() == 1 and grid.value[grid.chosen].iloc[0] == grid.value.max() and (grid.n == 6).all()
    how = json.loads((whole.folder/'drawing.json').read_text())['fmri-s01']; assert how['steps'] == 1 and how['guidance'] == grid.guidance[grid.chosen].iloc[0] and how['scheduler'] == 'ddim'


def kill(process):
    "kill -9 of the command and of the notebook's process."
    kernels = psutil.Process(process.pid).children(recursive=True); os.killpg(process.pid, signal.SIGKILL); process.wait()
    for k in kernels: k.kill()
    psutil.wait_procs(kernels, timeout=20)

def test_killed_among_its_drawings_it_ends_as_if_it_had_not_been(whole, runs, prior):
    at = runs/'cut'; line = [COMMAND, 'run', 'hvf/03_reconstruct', '--out', str(at), f'prior={prior}', *(f'{k}={v}' for k, v in values.items())]; third = at/'drawings'/'fmri-s01-brain_mlp-seed0-control'/'about.json'
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True); until = time.monotonic() + 600
    try:
        while not third.is_file() and process.poll() is None and time.monotonic() < until: time.sleep(.005)
    finally:
        if process.poll() is None: kill(process)
        said = process.stdout.read(); process.stdout.close()
    assert third.is_file() and not (at/'scores.json').exists() and len(list((at/'drawings').glob('*/about.json'))) < 9, said[-3000:]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600); assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    log = (at/'log.txt').read_text().split('--- attempt 2')[-1]; assert 'already fitted' in log and 'drawing brain_mlp-seed0\n' not in log and 'drawing brain_mlp-seed0-released\n' in log and 'held-out concepts, 1 steps' not in log
    read = lambda p: json.loads(p.read_text()); a, b = read(whole.folder/'scores.json'), read(at/'scores.json'); assert a['rows'] == b['rows'] and a['notes'] == b['notes']
    files = lambda folder, end: sorted(str(p.relative_to(folder)) for p in folder.rglob(end))
    assert files(whole.folder, '*.npy') == files(at, '*.npy') and all((whole.folder/f).read_bytes() == (at/f).read_bytes() for f in files(at, '*.npy'))      # named by their content
    weights = files(whole.folder/'drawers', '*.safetensors'); assert weights == files(at/'drawers', '*.safetensors') and 'fmri-s01/brain_mlp-seed0-decoder.safetensors' in weights
    for f in weights:
        x, y = load_file(whole.folder/'drawers'/f), load_file(at/'drawers'/f); assert x.keys() == y.keys() and all(x[k].tobytes() == y[k].tobytes() for k in x), f


def test_brain_sides_of_an_earlier_run(whole, runs):
    "Nothing is fitted; with the same steps and guidance the same drawings come."
    g = json.loads((whole.folder/'drawing.json').read_text())['fmri-s01']['guidance']
    again = run_job('hvf/03_reconstruct', out=runs/'again', aligned=str(whole.folder), variants=['released'], sample_steps=1, sample_guidance=g, samples=1, size=32, measures=['pixcorr'], draws=200, **quick)
    a, b = ({d.label: d for d in load_drawings(f)} for f in (whole.folder, again.folder)); label = 'fmri-s01-brain_mlp-seed0-released'; assert np.array_equal(a[label].drawings[:, :1], b[label].drawings) and not (again.folder/'drawers').exists()
    with pytest.raises(FolderError, match='no drawers'): load_drafts(whole.folder/'drawers'/'fmri-s09', None)


# Priors as a job names them

def test_priors(prior, parts, tmp_path):
    say = lambda t: None; vae, net, scale = parts; p = open_prior(str(prior), log=say); assert p.sets == ['meaning=lite0:pooled', 'pixels=lite0:pixels@8'] and prior_mark(p.prior) == prior_mark(net) and not p.notes and 'abacus' in p.card['chosen_on']
    assert prior_mark(open_prior(str(prior.parent), log=say).prior) == prior_mark(net)      # the folder of a run that left `packed`
    save_prior(net, tmp_path/'prior.safetensors', about=dict(sets=dict(meaning=['lite0', 'pooled'], pixels=['lite0', 'pixels@8']), concepts=['a'])); scale.save(tmp_path/'scale.safetensors'); save_autoencoder(tmp_path/'vae.safetensors', vae)
    for name in (tmp_path, tmp_path/'prior.safetensors'):
        q = open_prior(str(name), autoencoder=str(tmp_path/'vae.safetensors'), log=say); assert q.sets == p.sets and q.card['concepts'] == ['a'] and np.array_equal(q.scale.fitted['scale'], scale.fitted['scale']) and prior_mark(q.prior) == prior_mark(net)
    with pytest.raises(ParameterError, match='Leave them out'): open_prior(str(prior), unet='sdxl-turbo')
    with pytest.raises(ParameterError, match='network and an autoencoder'): open_prior('fusion-prior-h14', unet='sdxl-turbo')
    with pytest.raises(MissingWeights): open_prior('fusion-prior-h14', unet=str(tmp_path), autoencoder='sdxl-vae', log=say)


@pytest.mark.parametrize('name, error, says', [('fusion-prior-h15', UnknownError, "Did you mean 'fusion-prior-h14'"), ('nothing/here', FolderError, 'no such folder or file'), ('/nowhere/prior.safetensors', FolderError, 'no such folder or file'), ('', None, '')])
def test_a_name_that_is_none(name, error, says, tmp_path):
    if error is None: error, name, says = FolderError, str(tmp_path), 'no prior in it'
    for more in (dict(), dict(unet='sdxl-turbo', autoencoder='sdxl-vae')):     # whatever else is said
        with pytest.raises(error, match=re.escape(says)): open_prior(name, **more, log=lambda t: None)

def test_all_that_is_absent_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache')); found = lambda text: set(re.findall(r'`brainrecon data fetch ([^`]+)`', text)); v = recipe('hvf-things-eeg2-draw')
    with pytest.raises(MissingWeights) as e: open_prior(v['prior'], v['unet'], v['autoencoder'], v['prompt'], v['sets'], v['half'], log=lambda t: None)
    want = {'sdxl-turbo', 'sdxl-vae', 'fusion-prior-h14', 'clip-vit-h14', 'clip-vit-b32'}; assert found(str(e.value)) == want and 'pip install' not in str(e.value)
    for name in ('hvf-things-eeg2-draw', 'hvf-things-eeg2-draw-80gb'): about = read_yaml(HERE/'recipes'/f'{name}.yml')['about']; assert found(about) == want and 'encode_empty_prompt' in about and 'prompt]' in about
    with pytest.raises(MissingWeights, match="prompt='encode'") as e: open_prior('fusion-prior-synclr', 'sdxl-base', 'sdxl-base', log=lambda t: None)
    assert found(str(e.value)) == {'fusion-prior-synclr', 'sdxl-base', 'synclr-vit-b-16', 'clip-vit-b32', 'sdxl-vae'}


def test_published_files_from_end_to_end(parts, runs, tmp_path):
    "Folders as Brain-HIVE and diffusers lay them out, tiny: the network is named, never copied, and another prior is refused."
    from diffusers import AutoencoderKL
    _, prior, _ = parts; save_hive_prior(prior, tmp_path/'hive'); net = tiny_unet(4, 4, widths=(16,), cross=16, groups=8, pooled=8, seed=3); net.save_pretrained(tmp_path/'sdxl'/'unet')
    with seeded(0): AutoencoderKL(block_out_channels=(8, 8, 8), down_block_types=['DownEncoderBlock2D']*3, up_block_types=['UpDecoderBlock2D']*3, latent_channels=4, norm_num_groups=4).save_pretrained(tmp_path/'sdxl'/'vae')
    run = run_job('hvf/03_reconstruct', out=runs/'published', prior=str(tmp_path/'hive'), unet=str(tmp_path/'sdxl'), autoencoder=str(tmp_path/'sdxl'), sets=[f'{n}={s}' for n, s in sets.items()], **{**values, 'variants': ['paper'], 'samples': 1, 'epochs': 1, 'grid_guidance': [], 'sample_steps': 0}, controls=False, show=False)
    how = json.loads((run.folder/'drawing.json').read_text())['fmri-s01']; assert (how['steps'], how['guidance'], how['scheduler']) == (4, 0., 'turbo') and any('photographs of everything' in n for n in run.scores()['notes'])
    files = {p.name for p in (run.folder/'drawers'/'fmri-s01').iterdir() if p.is_file()}; assert files == {'brain_mlp-seed0.safetensors', 'brain_mlp-seed0-decoder.safetensors'} and len(load_drawings(run.folder)) == 3
    opened = open_prior(str(tmp_path/'hive'), str(tmp_path/'sdxl'), str(tmp_path/'sdxl'), log=lambda t: None); assert opened.sets == ['meaning', 'pixels'] and opened.scale is None and load_drafts(run.folder/'drawers'/'fmri-s01', opened, 'cpu')[0].label == 'brain_mlp-seed0'
    with torch.no_grad(): opened.prior.fusion.block.layers[0].norm.weight.add_(.1)
    with pytest.raises(CheckpointError, match='prior of then'): load_drafts(run.folder/'drawers'/'fmri-s01', opened, 'cpu')


def test_the_papers_numbers_stand_apart():
    row = dict(what='HVF', measure='pixcorr', value=.2, data='embedded eeg', setting='within', simulated=True, control=False, method='HVF'); near, far = hvf_papers([row]); assert not near and {r['value'] for r in far} >= {.195, .227} and all('simulated' in r['note'] for r in far)
    near, far = hvf_papers([dict(row, data='things-eeg2', simulated=False)], people=10); assert not near and far and all(r['status'] == 'reported by the paper' for r in far)


def test_plan_and_words():
    drafts = [Draft('brain_mlp', s, c, None) for c in (False, True) for s in (0, 1)]; todo = plan_drawings(drafts, ['paper', 'released', 'matched'], 5)
    labels = [x.label for x, *_ in todo]; assert len(labels) == len(set(labels)) == 14 and labels[:3] == ['brain_mlp-seed0', 'brain_mlp-seed0-ceiling', 'brain_mlp-seed1'] and [n for _, _, _, n, _ in todo][:3] == [5, 1, 5]
    assert sum('shuffled' in x.words for x, *_ in todo) == 6 and sum(c for *_, c in todo) == 2 and {x.method for x, *_ in todo} == {'HVF', 'HVF past the adapter', 'HVF, lengths matched'} and Draft('atm', 0, False, None).method == 'HVF with atm'
    assert sampling_of(dict(steps=0, guidance=-1., scheduler='', batch=0)) == {} and sampling_of(dict(steps=4, guidance=0., scheduler='turbo', batch=2)) == dict(steps=4, guidance=0., scheduler='turbo', batch=2)


# Refused before anything is opened

def test_wrong_values(prior, tmp_path):
    source = Seen(kinds=['fmri'], sets=[f'{n}={s}' for n, s in sets.items()]); ok = lambda variants=('paper',), samples=1, **how: check_drafts(source, ['brain_mlp'], [0], list(variants), samples, **how); ok()
    for bad, error in ((dict(variants=[]), ParameterError), (dict(variants=['paper', 'paper']), ParameterError), (dict(variants=['own']), UnknownError), (dict(samples=0), ParameterError), (dict(grid_steps=[0]), ParameterError), (dict(grid_guidance=[-1.]), ParameterError), (dict(grid_pictures=1), ParameterError)):
        with pytest.raises(error): ok(**bad)
    with pytest.raises(RunFailed, match='no run folder'): run_job('hvf/03_reconstruct', out=tmp_path/'a', aligned=str(tmp_path), **quick)


# Recipes

def recipe(name): return {k: p.value for k, p in resolve(find_job('hvf/03_reconstruct', HERE), name, at=HERE).items()}

@pytest.mark.parametrize('name', ['hvf-embedded-draw', 'hvf-things-eeg2-draw', 'hvf-things-eeg2-draw-80gb'])
def test_recipes_say_where_values_come_from(name):
    given = read_yaml(HERE/'recipes'/f'{name}.yml')['parameters']; words = ('HVF (ICLR 2026)', 'released code', 'chosen here'); v = recipe(name)
    for k, e in given.items(): assert e['source'].startswith(words), (k, e['source'])
    check_drafts(Seen.of(v | dict(sets=[f'{n}={s}' for n, s in sets.items()])), v['backbones'], v['seeds'], v['variants'], v['samples'], v['draws'], grid_steps=v['grid_steps'], grid_guidance=v['grid_guidance'], options=v['options'], make=hvf_settings(v))


def test_the_full_recipe_draws_as_released():
    a, b = recipe('hvf-things-eeg2-draw'), recipe('hvf-things-eeg2-draw-80gb'); assert {k for k in a if a[k] != b[k]} == {'sample_batch'} and (a['sample_batch'], b['sample_batch']) == (4, 32)
    assert (a['prior'], a['unet'], a['samples'], a['sample_steps'], a['sample_guidance'], a['sample_scheduler']) == ('fusion-prior-h14', 'sdxl-turbo', 10, 4, 0., 'turbo') and {'paper', 'released'} <= set(a['variants']) and a['subjects'] == list(range(1, 11))
    assert (a['epochs'], a['batch_size'], a['lr'], a['weight_decay'], a['betas'], a['clip'], a['precision'], a['standardise'], a['axes']) == (25, 1024, 5e-4, .05, [.9, .995], 1., 'bf16', False, 0) and a['choices'] == ['preset=hvf-250'] and a['window'] == [0., 1.] and a['sfreq'] == 250
    e = recipe('hvf-embedded-draw'); assert (e['data'], e['prior'], e['kinds'], e['snr_fmri']) == ('embedded', '', ['fmri'], -6.)
