"""The jobs of AVDE through the runner with tiny sizes, on simulated recordings and on trees in the layout of data sets; stopped and resumed; the recipes against the published values.

The parts are fresh and tiny: these tests say that the chain holds together, not how well it draws.
"""
import math
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.core.checks import FolderError, LeakError, MissingWeights, ParameterError
from brainrecon.core.files import load_json
from brainrecon.core.rates import fit_options, learning_rate
from brainrecon.data.pictures import load_pictures
from brainrecon.generators.vqvae import VQVAE, load_vqvae, vqvae_256
from brainrecon.jobs import avde as jobs
from brainrecon.jobs.avde import (Chain, Parts, Source, check_avde, diffusion_settings, encoder_options, fit_chains, fit_readers, fit_settings, load_chains, load_reads, method_name, open_parts,
    part, reader_settings, reads_of, run_before, set_sampling)
from brainrecon.jobs.avde_scores import draw_chains, painter_loss, paper_notes, paper_rows, show_scales, swap_table, weights_of
from brainrecon.jobs.parameters import find_job, resolve
from brainrecon.jobs.predictions import load_drawings, load_predictions
from brainrecon.jobs.run import RunFailed, run_job
from notebooks import ROOT

HERE = ROOT/'nbs'/'08_jobs'
quick = dict(device='cpu', show=False)


# The four jobs, one after the other

@pytest.fixture(scope='module')
def runs(tmp_path_factory): return tmp_path_factory.mktemp('runs')

@pytest.fixture(scope='module')
def aligned(runs): return run_job('avde/01_align', out=runs/'aligned', kinds=['fmri'], layer='pooled', align_targets='scaled', align_steps=16, align_every=16, align_lr=.003, draws=200, **quick)

@pytest.fixture(scope='module')
def words(runs): return run_job('avde/02_tokenizer', out=runs/'words', vocab=32, z=8, ch=8, ch_mult=[1, 1], norm_groups=4, patch_nums=[1, 2, 4], stem=4, plain=20, steps=20, lr=.003, batch_size=16, perceptual=0., every=10, measures=['pixcorr'], draws=200, **quick)

@pytest.fixture(scope='module')
def taught(runs, aligned, words): return run_job('avde/03_generate', out=runs/'taught', aligned=str(aligned.folder), tokenizer=str(words.folder), depth=1, width=32, draw_steps=4, size=32, **quick)

@pytest.fixture(scope='module')
def scored(runs, taught): return run_job('avde/04_evaluate', out=runs/'scored', drawn=str(taught.folder), samples=2, size=32, measures=['pixcorr'], draws=200, sample_top_k=0, sample_guidance=1., **quick)


def test_align(aligned):
    rows = {(r['measure'], r['control']): r for r in aligned.scores()['rows']}; kept = {p.label: p for p in load_predictions(aligned.folder)}
    assert set(kept) == {'fmri-s01-mlp-seed0', 'fmri-s01-mlp-seed0-control'} and aligned.scores()['test_readings'] == 1
    for p in kept.values(): assert p.about['method'] == 'AVDE with MLP' and abs(p.hits(5).mean() - rows['top5', p.about['control']]['value']) < 1e-9
    r = rows['top5', False]; assert r['low'] > r['chance'] and r['method'] == 'AVDE with MLP' and r['selection'] == 'held-out training concepts' and not r['flags'] and r['what'].startswith('AVDE with MLP, simulated fMRI')
    assert rows['top5', True]['low'] < r['chance'] < rows['top5', True]['high'] and load_json(aligned.folder/'card.json')['fmri-s01']['flags'] == []
    a, b = load_reads(aligned.folder/'readers'/'fmri-s01'); assert (a.control, b.control) == (False, True) and b.decoder.shuffled and not a.decoder.shuffled


def test_tokenizer(words):
    s = words.scores(); rows = {(r['measure'], r['method']): r for r in s['rows']}; assert s['test_readings'] == 0 and not any(r['simulated'] for r in s['rows'])
    assert {m for m, _ in rows} == {'psnr', 'used', 'perplexity', 'pixcorr'} and 0 < rows['used', 'tokenizer']['value'] <= 1 and rows['psnr', 'mean']['control']
    model, report = load_vqvae(words.folder/'tokenizer.safetensors'); assert model.size == 32 and model.config['vocab'] == 32
    tested = set(load_pictures('test').concepts); seen = open_parts(str(words.folder), depth=1, log=lambda t: None).card['concepts']; assert seen and not tested & set(seen)
    assert {'scales', 'scores-psnr', 'scores-pixcorr'} <= {p.stem for p in (words.folder/'figures').glob('*.png')}


def test_generate(taught, aligned):
    rows = taught.scores()['rows']; assert taught.scores()['test_readings'] == 0 and {r['measure'] for r in rows} == {'word loss'} and {r['method'] for r in rows} == {'AVDE with MLP'}
    assert [r['control'] for r in rows] == [False, True, True, True] and all(r['chance'] == pytest.approx(math.log(32)) for r in rows)
    assert load_json(taught.folder/'aligned.json')['run'] == aligned.folder.name
    assert [c.label for c in load_chains(taught.folder/'drawers'/'fmri-s01')] == ['mlp-var-seed0', 'mlp-var-seed0-control']


def test_evaluate(scored):
    s = scored.scores(); rows = [r for r in s['rows'] if r['measure'] == 'pixcorr']; assert s['test_readings'] == 1
    assert [r['what'].replace(', simulated fMRI, subject 1', '') for r in rows if 'best of' not in r['what']] == ['AVDE with MLP, single sample', 'AVDE with MLP, mean of 2 samples', 'AVDE with MLP, ceiling', 'AVDE with MLP, shuffled pairs',
        "the tokenizer's copy"]
    for r in rows: assert r['low'] < r['value'] < r['high'] and r['n'] == 200 and r['over'] == 'concepts' and r['control'] == any(w in r['what'] for w in ('ceiling', 'shuffled', 'copy')) and ('CEILING' in r['flags']) == ('ceiling' in r['what'] or 'copy' in r['what'])
    assert not any(r['status'] == 'reported by the paper' for r in s['rows']) and any('Reconstruction Quality (apart)' not in n and 'simulated' in n for n in s['notes'])
    kept = {d.label: d for d in load_drawings(scored.folder, check=True)}; assert len(kept) == 4 and kept['fmri-s01-mlp-var-seed0'].drawings.shape == (200, 2, 32, 32, 3)
    assert {p.label for p in load_predictions(scored.folder)} == {'fmri-s01-mlp-seed0', 'fmri-s01-mlp-seed0-control'}
    cost = next(r for r in s['rows'] if r['measure'] == 'parameters'); assert 0 < cost['value'] < 5 and 'painter' in cost['note']
    assert {'scales-fmri-s01', 'lot-fmri-s01', 'ranked-fmri-s01', 'scores-pixcorr'} <= {p.stem for p in (scored.folder/'figures').glob('*.png')}


def test_report_reads_what_was_kept(scored, runs):
    from brainrecon.jobs.cli import main
    assert main(['report', str(scored.folder), '--out', str(runs/'report')]) == 0
    page = (runs/'report'/'report.html').read_text(encoding='utf-8')
    for word in ('AVDE with MLP', 'CEILING', 'imulated'): assert word in page, word


def test_swap(runs, words):
    "Two readers, two painters, one opening of the test; the table; a second start reads everything back."
    run = run_job('avde/05_swap', out=runs/'swap', tokenizer=str(words.folder), depth=1, width=16, encoders=['labram', 'eegnet'], layer='pooled', align_targets='scaled', align_options=['labram.patch=80', 'labram.width=80', 'labram.depth=1', 'labram.heads=4', 'eegnet.kernel=(26, 6)'],
        align_steps=2, align_every=2, draw_steps=2, diffusion_steps=1, diffusion_draw_steps=1, samples=1, size=32, measures=['pixcorr'], controls=False, draws=200, **quick)
    s = run.scores(); methods = ['AVDE', 'AVDE with EEGNet', 'AVDE with diffusion', 'AVDE with EEGNet and diffusion']
    assert {r['method'] for r in s['rows'] if r['measure'] == 'pixcorr'} == {*methods, 'tokenizer'} and {r['method'] for r in s['rows'] if r['measure'] == 'top1'} == set(methods[:2]) and s['test_readings'] == 1
    lines = (run.folder/'swap.csv').read_text(encoding='utf-8').splitlines(); assert len(lines) == 5 and 'top1' in lines[0] and 'parameters' in lines[0]
    assert any('Ablation Study (apart)' in n and 'Not comparable' in n for n in s['notes']) and len(list((run.folder/'drawers'/'eeg-s01').glob('*.safetensors'))) == 4
    again = [c.label for c in load_chains(run.folder/'drawers'/'eeg-s01')]; assert sorted(again) == sorted(f'{e}-{g}-seed0' for e in ('labram', 'eegnet') for g in ('var', 'diffusion'))


# Scales, moments and places

@pytest.fixture(scope='module')
def with_control(runs, words):
    "A tiny AVDE and its control on simulated EEG."
    return run_job('avde/05_swap', out=runs/'with-control', tokenizer=str(words.folder), depth=1, width=16, encoders=['mlp'], painters=['var'], layer='pooled', align_targets='scaled', align_steps=4, align_every=4, align_axes=32, draw_steps=2, samples=1, size=32, measures=['pixcorr'], draws=200, **quick)


def test_scales(with_control, runs):
    run = run_job('avde/06_scales', out=runs/'scales', drawn=str(with_control.folder), permutations=20, draws=20, width=.2, **quick); s = run.scores(); assert s['test_readings'] == 1
    rows = {(r['what'].replace(', simulated EEG, subject 1', ''), r['measure']): r for r in s['rows']}; name = 'AVDE with MLP'
    for scale in ('1 x 1', '2 x 2', '4 x 4'):
        for control in (False, True):
            r = rows[f'{name}{", shuffled pairs"*control}, {scale}', 'scale correlation']; assert r['control'] == control and r['low'] <= r['value'] <= r['high'] and r['chance'] > 0 and 0 < r['p'] <= 1 and r['n'] == 200 and r['over'] == 'pictures' and r['simulated']
    assert rows[f'{name}, control, read', 'scale correlation']['control'] and rows[f'{name}, shuffled pairs', 'two-way by pixels']['control'] and not rows[name, 'two-way by pixels']['control']
    for end in ('read', 'drawn'): r = rows[f'{name}, {end}, beyond its control', 'correlation beyond control']; assert r['low'] <= r['value'] <= r['high'] and r['chance'] == 0
    label = 'eeg-s01-mlp-var-seed0'; assert {f'map-{label}', f'map-{label}-control', f'ends-{label}'} == {p.stem for p in (run.folder/'figures').glob('*.png')} and any('not say that they are right' in n for n in s['notes'])
    peaks = pd.read_csv(run.folder/'peaks.csv'); assert len(peaks) == 6 and set(peaks.pairs) == {'trained', 'shuffled pairs'} and (peaks.low <= peaks.time).all() and (peaks.time <= peaks.high).all() and len(pd.read_csv(run.folder/'cells.csv')) == (3 + 3 + 5)*6*2


def test_scales_of_what_has_none(taught, aligned, tmp_path):
    from brainrecon.decoders.drawing import MeanDrawer
    from brainrecon.jobs.scale_maps import drawn_before, kinds_with_time, with_controls
    for bad in ('', str(tmp_path), str(aligned.folder)):
        with pytest.raises(FolderError, match='avde/03_generate'): drawn_before(bad)
    folder, values = drawn_before(str(taught.folder)); assert folder == taught.folder and values['size'] == 32 and values['kinds'] == ['fmri']
    with pytest.raises(ParameterError, match='fMRI response has one number for each voxel'): kinds_with_time(Source.of(values))
    chains = load_chains(taught.folder/'drawers'/'fmri-s01', 'cpu'); assert [(a.control, b.control) for a, b in with_controls(chains)] == [(False, True)]
    with pytest.raises(ParameterError, match='has no control'): with_controls(chains[:1])
    with pytest.raises(ParameterError, match='no scales to compare'): with_controls([Chain('mlp', 'var', 0, False, MeanDrawer()), chains[1]])


# Refused before anything is opened

def test_a_job_refuses_before_it_starts(tmp_path):
    with pytest.raises(RunFailed, match='no run folder'): run_job('avde/03_generate', out=tmp_path/'run', **quick)


def test_stages_are_not_mixed_up(aligned, words):
    with pytest.raises(FolderError, match='one of avde/01_align'): run_before(str(words.folder), 'avde/01_align', 'aligned')
    with pytest.raises(ParameterError, match='without a generator'): open_parts('var:vae_ch160v4096z32.pth')
    with pytest.raises(ParameterError, match='a scale of its own'): reader_settings(dict(targets='generator'), Parts(None, None))
    with pytest.raises(ValueError, match='scaled'): reader_settings(dict(targets='plain'))
    for bad in (dict(encoders=['atm', 'atm']), dict(align_steps=0, align_epochs=0), dict(generators_=['gan']), dict(samples=0), dict(seeds=[]), dict(depth=-1)):
        with pytest.raises(ValueError): check_avde(**{**dict(source=Source(), encoders=['labram'], seeds=[0]), **bad})


def test_weights_that_were_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path))
    with pytest.raises(MissingWeights, match='data fetch var'): open_parts('var:vae_ch160v4096z32.pth', 'var:var_d16.pth')
    (tmp_path/'var').mkdir(); (tmp_path/'var'/'var_d16.pth').write_bytes(b'x'); assert jobs.weights_file('var:var_d16.pth') == tmp_path/'var'/'var_d16.pth'
    with pytest.raises(ValueError, match='asset'): jobs.weights_file('varr:x.pth')


# Stopped and resumed: the same weights, stage by stage

class Stop(Exception): "The machine went away."

def until(word, times=1):
    "A log that ends the process at a line."
    seen = []
    def log(text):
        seen.append(word in text)
        if sum(seen) >= times: raise Stop
    return log


@pytest.fixture(scope='module')
def small():
    "Simulated fMRI with few pictures, a tiny tokenizer, and what drawers are made of."
    source = Source(kinds=['fmri'], layer='pooled'); recordings = source.load(lambda t: None); key, splits = next(iter(recordings.items())); train, valid = source.sides(splits); train = train[np.arange(0, len(train), 8)]
    album = source.albums(recordings, 32, lambda t: None)[key]; gallery = source.galleries(recordings, lambda t: None)[key]
    torch.manual_seed(0); vqvae = VQVAE(vocab=16, z=4, ch=8, ch_mult=(1, 1), blocks=1, patch_nums=(1, 2, 4), norm_groups=4, stem=4).eval()
    return dict(source=source, splits=splits, train=train, valid=valid, album=album, gallery=gallery, parts=Parts(vqvae, dict(depth=1, width=16)))


def weights(decoder_or_net): return {k: v.clone() for k, v in decoder_or_net.state_dict().items()}


def readers_of(small, at, log=None): return fit_readers(small['train'], small['valid'], small['gallery'].learn, ['mlp'], [0], at, fit=dict(steps=6, every=2, batch_size=64), reader=dict(axes=32), log=log, device='cpu')


def test_readers_that_were_stopped(small, tmp_path):
    whole = readers_of(small, tmp_path/'whole')
    for times in (2, 5):
        with pytest.raises(Stop): readers_of(small, tmp_path/'broken', until('step', times))
    lines = []; again = readers_of(small, tmp_path/'broken', lines.append); assert any('goes on' in t or 'already aligned' in t for t in lines)
    for a, b in zip(whole, again):
        assert a.label == b.label
        for k, v in weights(a.decoder.model).items(): assert torch.equal(v, b.decoder.model.state_dict()[k]), (a.label, k)


def chains_of(small, reads, at, log=None): return fit_chains(reads, small['train'], small['valid'], small['album'], small['parts'], ['var', 'diffusion'], at, teach=dict(steps=6, batch_size=32, lr=1e-3, every=2),
    diffusion=dict(sizes=dict(widths=(16,), groups=8, width=16), teach=dict(steps=6, every=2, batch_size=32), sampling=dict(steps=2)), log=log, device='cpu')


def test_drawers_that_were_stopped(small, tmp_path):
    reads = readers_of(small, tmp_path/'readers')[:1]; whole = chains_of(small, reads, tmp_path/'whole')
    for word in ('draw seed 0  step', 'diffusion  step'):
        with pytest.raises(Stop): chains_of(small, reads, tmp_path/'broken', until(word, 4))
    lines = []; again = chains_of(small, reads, tmp_path/'broken', lines.append); assert any('goes on' in t for t in lines) and any('already taught' in t for t in lines)
    test = small['source'].test(small['splits'].test.open('a test of the tests'))[:4]; few = small['album'].test[:4]
    for a, b in zip(whole, again):
        assert np.array_equal(a.drawer.draw(test, 1), b.drawer.draw(test, 1)), a.label
        with pytest.raises(LeakError): a.drawer.refuse(small['train'].concepts[:1])
        for s in painter_loss(a, small['valid'], small['album']).values(): assert s is None or s > 0
    drawn = {d.label: d for d in draw_chains(set_sampling(again, dict(guidance=0.), dict(draw_steps=1)), test, small['album'], small['gallery'].candidates, 2)}
    assert set(drawn) == {'mlp-var-seed0', 'mlp-var-seed0-ceiling', 'mlp-diffusion-seed0', 'mlp-diffusion-seed0-ceiling', 'tokenizer'} and drawn['mlp-var-seed0'].img.shape == (4, 2, 32, 32, 3)
    assert weights_of(again[0])['tokenizer'] > 0 and len(reads_of(again)) == 1 and show_scales(again, test, few.img, test.concepts, 2) is not None


def test_a_reader_that_was_chosen_by_the_test_draws_nothing(small, tmp_path):
    r = readers_of(small, tmp_path)[0]; r.decoder.recording = dict(r.decoder.recording, selection='test set, as released (avde-released)')
    with pytest.raises(ParameterError, match='chosen by the test'): chains_of(small, [r], tmp_path/'drawers')


# Data sets on disk

@pytest.mark.filterwarnings('ignore')
def test_on_the_layout_of_things_eeg2(tmp_path):
    "LaBraM on 63 electrodes at 200 Hz and in microvolts, every repetition a row, within a person and with a person left out."
    from brainrecon.data.things_eeg_tree import write_things_eeg
    write_things_eeg(tmp_path/'tree', 'pickle', subjects=(1, 2), n_concepts=8, n_test=4, per=2, test_reps=3)
    values = {k: p.value for k, p in resolve(find_job('avde/05_swap', HERE), 'avde-things-eeg2', dict(root=str(tmp_path/'tree'), subjects=[1, 2], valid=.25, target='lite0'), HERE).items()}
    for train_on in ('same', 'others'):
        source = Source.of(values | dict(train_on=train_on)); recordings = source.load(lambda t: None); key, splits = next(iter(recordings.items())); train, valid = source.sides(splits)
        assert train.x.shape[1:] == (63, 200) and len(train) == 48 and train.sfreq == 200 and source.about('eeg') == dict(data='things-eeg2', setting='within' if train_on == 'same' else 'across')
        assert set(train.table.subject) == ({1} if train_on == 'same' else {2}) and len(valid) == 4 and ('left out' in source.words[key]) == (train_on == 'others')
    shown = source.galleries(recordings, lambda t: None)[key]; make, fit = reader_settings(part(values, 'align_')); assert make == dict(targets='raw', standardise=False, axes=256)
    (r,) = fit_readers(train, valid, shown.learn, ['labram'], [0], tmp_path/'readers', controls=False, options=[*values['align_options'], 'width=200', 'depth=1', 'heads=4'], reader=make, fit={**fit, 'steps': 2, 'batch_size': 16, 'precision': 'no'}, device='cpu')
    assert r.decoder.config['options']['unit'] == 'uV' and r.decoder.embed(valid).shape == (4, 1280) and np.allclose(r.decoder.x_scale.std, 1)


@pytest.mark.filterwarnings('ignore')
def test_on_the_layout_of_eeg_imagenet(tmp_path):
    from brainrecon.data.eeg_imagenet_tree import write_eeg_imagenet
    write_eeg_imagenet(tmp_path, pictures=True)
    values = {k: p.value for k, p in resolve(find_job('avde/05_swap', HERE), 'avde-eeg-imagenet', dict(root=str(tmp_path), subjects=[1], valid=1.), HERE).items()}
    source = Source.of(values); recordings = source.load(lambda t: None); (key, splits), = recordings.items(); train, valid = source.sides(splits)
    assert train.x.shape[1:] == (62, 80) and not set(train.concepts) & set(valid.concepts) and len(source.to_learn(32, lambda t: None)[0]) == len(set(train.pictures))
    from brainrecon.decoders.avde_stages import make_encoder
    net = make_encoder('labram', encoder_options(values['align_options'], 'labram') | dict(depth=1), train.names, train.x.shape[1:], 16); assert net(torch.from_numpy(np.array(train.x[:2]))).shape == (2, 16)


# Recipes: what is built from them, beside the published values

def recipe(name): return {k: p.value for k, p in resolve(find_job('avde/05_swap', HERE), name, at=HERE).items()}


@pytest.mark.parametrize('name', ['avde-things-eeg2', 'avde-things-eeg2-across', 'avde-eeg-imagenet'])
def test_full_recipes_train_as_published(name):
    "Rates of both stages at their beginning, peak and end; sizes of the steps; every value has a source."
    v = recipe(name); read, draw = fit_settings(part(v, 'align_')), fit_settings(part(v, 'draw_')); take = lambda d: {k: d[k] for k in ('lr', 'weight_decay', 'schedule', 'clip', 'floor', 'start', 'precision') if k in d}
    a, g = fit_options(**take(read), warmup=500), fit_options(**take(draw), warmup=200)
    rates = lambda o, at: [learning_rate(s, n, o) for n, s in at]
    assert rates(a, [(5000, 0), (5000, 499), (5000, 4999)]) == pytest.approx([0., 5e-4, 1e-6], rel=2e-3, abs=1e-9) and a.schedule == 'cosine' and a.clip is None and a.weight_decay == .05 and a.betas == (.9, .999)
    assert rates(g, [(10_000, 0), (10_000, 200), (10_000, 600), (10_000, 9999)]) == pytest.approx([5e-8, 1e-5, 1e-5, 1e-6], rel=1e-3) and g.clip == 2 and g.weight_decay == .05
    assert (read['epochs'], read['batch_size'], read['warmup'], read['layer_decay'], read['share'], read['mode']) == (50, 256, .1, .8, .8, 'paper') and 'steps' not in read
    assert (draw['epochs'], draw['batch_size'], draw['warmup'], draw['smooth'], draw['noise'], draw['length']) == (100, 128, .02, 0, 0, 'own') and read['precision'] == draw['precision'] == 'fp16'
    assert part(v, 'sample_') == dict(guidance=4., top_k=900, top_p=.95) and v['seeds'] == [0] and (v['encoders'], v['painters']) == (['labram'], ['var']) and v['sfreq'] == 200 and not v['average']
    assert v['target'].startswith('open_clip:ViT-H-14/') and (v['tokenizer'], v['generator'], v['align_weights']) == ('var:vae_ch160v4096z32.pth', 'var:var_d16.pth', 'labram-base:labram-base.pth')
    from brainrecon.jobs.parameters import read_yaml
    given = read_yaml(HERE/'recipes'/f'{name}.yml')['parameters']; words = ('AVDE (ICLR 2026)', 'released code', 'chosen here', 'VAR', 'LaBraM', 'EEG-ImageNet', 'THINGS-EEG2')
    for k, e in given.items(): assert e['source'].startswith(words) or e['source'].startswith('as for THINGS-EEG2'), (k, e['source'])


def test_recipes_differ_where_they_should():
    a, b, c = map(recipe, ('avde-things-eeg2', 'avde-things-eeg2-across', 'avde-eeg-imagenet')); differ = lambda x, y: {k for k in x if x[k] != y[k]}
    assert differ(a, b) == {'train_on'} and differ(a, c) == {'data', 'choices', 'subjects', 'window', 'align_options', 'align_standardise'}
    assert a['subjects'] == list(range(1, 11)) and c['subjects'] == list(range(16)) and a['window'] == [0., 1.] and a['choices'] == ['preset=avde-200']
    check_avde(Source.of(c), c['encoders'], c['seeds'], c['painters'], c['samples'], c['draws']); e = recipe('avde-embedded'); assert e['data'] == 'embedded' and not e['tokenizer'] and e['align_targets'] == 'generator'


def test_the_full_model_has_the_published_size():
    "What the recipe builds: reader, painter and tokenizer, 425.3 million weights in all."
    from brainrecon.decoders.avde_stages import Aligned, make_encoder
    from brainrecon.data.things_eeg_tree import dialects
    from brainrecon.data.things_eeg import ch63
    from brainrecon.generators.var import VAR
    v = recipe('avde-things-eeg2'); count = lambda m: sum(p.numel() for p in m.parameters())
    with torch.device('meta'):
        reader, vqvae = Aligned(make_encoder('labram', encoder_options(v['align_options'], 'labram'), ch63, (63, 200), 1024)), VQVAE(**vqvae_256); var = VAR(vocab=4096, z=32, patch_nums=vqvae_256['patch_nums'], depth=16, d_embed=1024)
    assert [count(reader), count(var), count(vqvae)] == [6_025_761, 310_308_096, 108_948_355] and count(reader) + count(var) + count(vqvae) == 425_282_212
    assert var.cond_drop == .1 and var.config['drop_path'] == pytest.approx(.1*16/24) and reader.brain.config['drop_path'] == .1 and reader.brain.config['layer_scale'] == .1 and reader.brain.config['pool'] == 'mean'


# Words and options

def test_names_and_options():
    assert method_name('labram') == 'AVDE' and method_name('atm', 'diffusion') == 'AVDE with ATM and diffusion' and Chain('atm', 'var', 3, True).label == 'atm-var-seed3-control'
    assert encoder_options(['labram.unit=uV', 'depth=2'], 'labram') == dict(unit='uV', depth=2) and encoder_options(['labram.unit=uV'], 'nice') == {} and encoder_options(['nice.pool: (20, 2)', 'emb : 8'], 'nice') == dict(pool=(20, 2), emb=8)
    with pytest.raises(ValueError, match='encoder'): encoder_options(['labrum.depth=2'], 'labram')
    assert fit_settings(dict(steps=0, clip=0., every=0, largest=0., start=-1., lr=1.)) == dict(clip=None, every=None, largest=None, start=None, lr=1.) and fit_settings(dict(steps=5))['steps'] == 5
    d = diffusion_settings(dict(size='large', draw_steps=5, guidance=2., steps=0, ema=0., lr=1.)); assert d == dict(sizes='large', sampling=dict(steps=5, guidance=2.), teach=dict(ema=None, lr=1.))


def test_papers_stand_beside_only_where_they_may():
    row = dict(measure='top1', value=.2, data='things-eeg2', setting='within', simulated=False, candidates=200, control=False, what='AVDE', method='AVDE')
    near, far = paper_rows([row]); assert any(r['value'] == .3 for r in near) and all(r['setting'] == 'within' for r in near)
    assert not paper_rows([dict(row, simulated=True, data='embedded eeg')])[0] and not [r for r in paper_rows([dict(row, candidates=50)])[0] if r['measure'] == 'top1']
    pix = dict(row, measure='pixcorr', setting='within'); ten, two = paper_rows([pix], True, 10)[1], paper_rows([pix], True, 2)[1]
    cells = [r for r in ten if 'Ablation' in r['source']]; assert len(cells) == 6 and not any('not comparable' in r['note'] for r in cells) and all('not comparable' in r['note'] for r in two if 'Ablation' in r['source'])
    assert 'LaBraM+VAR (Full)' in ' '.join(paper_notes([], cells))
    table = swap_table([dict(pix, low=.1, high=.3, flags=[]), dict(pix, value=.05, control=True, low=.0, high=.1, flags=[]), dict(pix, what='AVDE, ceiling', value=.9, control=True, flags=['CEILING'])], ['pixcorr'])
    assert table.loc['AVDE', 'pixcorr'] == '0.200 [0.100, 0.300] (shuffled 0.050)'
