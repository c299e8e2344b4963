"""The job that trains a Fusion Prior: a tiny run from end to end, killed with -9 and started again; SDXL's path in small, on a folder of photographs and networks in the layout of diffusers; and everything that is refused before work begins.

The sizes are tiny: these tests say that the chain holds together, not how well it draws.
"""
import json, re, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from brainrecon.core.checks import CheckpointError, FolderError, MissingWeights, ParameterError, UnknownError, seeded
from brainrecon.core.files import load_json
from brainrecon.data.pictures import load_pictures
from brainrecon.decoders.fusion_drawer import packaged_fusion, prior_mark
from brainrecon.jobs.hvf_prior import PriorPictures, check_prior, latent_shape, left_out, open_autoencoder, open_network, prior_latents, true_sizes
from brainrecon.jobs.faults import cut, finish
from brainrecon.jobs.hvf_draw import open_prior
from brainrecon.jobs.parameters import find_job, load_recipe, resolve
from brainrecon.priors.fusion_prior import load_prior
from brainrecon.priors.ip_adapter import adapter_state, fresh_adapter, sdxl_shaped, sdxl_unet
from notebooks import ROOT

HERE = ROOT/'nbs'/'08_jobs'
COMMAND = str(Path(sys.executable).with_name('brainrecon'))   # the command that a user types, of this environment
TINY = "concepts=8 per_concept=2 held=8 sets=['meaning=lite0:pooled','pixels=vae:embedded:latent'] steps=60 batch_size=8 every=6 widths=[16,16] cross=16 heads=2 width=32 hidden=32 warmup=2 levels=2 samples=4 draw_steps=2 measures=['pixcorr'] draws=50 device=cpu".split()

def steps_at(training): return sorted(int(p.stem.removeprefix('step-')) for p in training.glob('step-*.json'))

def line(out): return [COMMAND, 'run', 'hvf/02_prior', '--out', str(out), *TINY]

def by_hand(out, **given):
    "The job's own cells, one after the other, in this process."
    names = {p.name: p.value for p in find_job('hvf/02_prior', HERE).parameters} | given | dict(out=str(out), device='cpu'); space = {}
    for c in json.loads((HERE/'hvf'/'02_prior.ipynb').read_text(encoding='utf-8'))['cells']:
        if c['cell_type'] != 'code': continue
        exec(compile(''.join(c['source']), 'job', 'exec'), space)
        if 'parameters' in c['metadata'].get('tags', []): space |= names
    return space

defaults = lambda **given: {p.name: p.value for p in find_job('hvf/02_prior', HERE).parameters} | given


# A tiny run, whole and killed

@pytest.fixture(scope='module')
def whole(tmp_path_factory): at = tmp_path_factory.mktemp('prior')/'whole'; finish(line(at), at.with_suffix('.txt')); return at

def test_a_run_from_end_to_end(whole):
    s = load_json(whole/'scores.json'); rows = {(r['measure'], r['what']): r for r in s['rows']}; own, other, copy = 'drawn from its own condition', 'drawn from the condition of another picture', "the autoencoder's copy"
    assert s['test_readings'] == 0 and not any(r['simulated'] for r in s['rows']) and {m for m, _ in rows} == {'velocity error', 'velocity error, difference', 'two-way by pixels', 'pixcorr'}
    assert [rows['velocity error', f'with{w}']['control'] for w in (' its own condition', ' the condition of another picture', 'out a condition')] == [False, True, True]
    for m in ('two-way by pixels', 'pixcorr'): assert [rows[m, w]['control'] for w in (own, other, copy)] == [False, True, True] and rows[m, copy]['flags'] == ['CEILING'] and rows[m, copy]['value'] > rows[m, other]['value']
    gain = rows['velocity error, difference', 'gained over the error without a condition']; assert gain['value'] == pytest.approx(rows['velocity error', 'without a condition']['value'] - rows['velocity error', 'with its own condition']['value']) and gain['chance'] == 0
    card = load_json(whole/'prior.json'); tested = set(load_pictures('test').concepts); assert len(card['concepts']) == 8 and len(card['chosen_on']) == 8 and not tested & {*card['concepts'], *card['chosen_on']}
    assert {'drawn', 'scores-pixcorr', 'scores-two-way-by-pixels'} <= {p.stem for p in (whole/'figures').glob('*.png')}


def test_the_next_job_takes_the_folder(whole):
    a, p, scale, packed = packaged_fusion(whole/'packed'); card = load_json(whole/'prior.json'); got = open_prior(str(whole), log=lambda text: None)
    assert prior_mark(p) == prior_mark(got.prior) == prior_mark(load_prior(whole/'prior.safetensors')) == card['mark'] == packed['mark'] and packed['sampling'] == dict(steps=2, guidance=1., scheduler='ddim')
    assert got.sets == ['meaning=lite0:pooled', 'pixels=vae:embedded:latent'] and list(p.fusion.widths) and sum(packed['widths'].values()) == len(scale.fitted['mean'])


def test_killed_run_ends_as_if_it_had_not_been(whole, tmp_path):
    at, said = tmp_path/'cut', tmp_path/'cut.txt'; cut(line(at), at, said, when=lambda watch: steps_at(at/'training'/'prior')); reached, end = steps_at(at/'training'/'prior')[-1], steps_at(whole/'training'/'prior')[-1]
    assert 0 < reached < end == 60 and not (at/'prior.safetensors').exists(), 'killed too late: give it more steps'
    finish(line(at), said); log = (at/'log.txt').read_text(encoding='utf-8').split('--- attempt ')[2]; went = re.search(r'prior  goes on from step (\d+)', log); assert went and int(went[1]) == reached
    for f in ('prior.safetensors', 'packed/prior.safetensors', 'scale.safetensors'):
        one, two = load_file(whole/f), load_file(at/f); assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), f
    assert load_json(whole/'scores.json') == load_json(at/'scores.json') and (whole/'training/prior/log.jsonl').read_text() == (at/'training/prior/log.jsonl').read_text()


# SDXL's path in small

@pytest.fixture(scope='module')
def published(tmp_path_factory):
    "A network, an autoencoder and an adapter as they are published, tiny, and a folder of photographs of several sizes."
    from diffusers import AutoencoderKL
    at = tmp_path_factory.mktemp('published'); d = 24
    with seeded(0):
        unet = sdxl_shaped(sample_size=16, block_out_channels=(16, 16), layers_per_block=1, down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'), transformer_layers_per_block=(1, 1), attention_head_dim=(2, 2),
            norm_num_groups=8, cross_attention_dim=16, addition_time_embed_dim=8, projection_class_embeddings_input_dim=32 + 48)
        vae = AutoencoderKL(block_out_channels=(8, 8, 8), down_block_types=['DownEncoderBlock2D']*3, up_block_types=['UpDecoderBlock2D']*3, latent_channels=4, norm_num_groups=4, layers_per_block=1, scaling_factor=.5)
    unet.save_pretrained(at/'sdxl'/'unet'); vae.save_pretrained(at/'sdxl'/'vae'); save_file({k: v.contiguous() for k, v in fresh_adapter(unet, d, seed=3).items()}, at/'adapter.safetensors')
    some = load_pictures('train')[:6]
    for k, (img, concept) in enumerate(zip(some.img, some.table.concept)):
        (at/'photos'/f'{k:05d}_{concept}').mkdir(parents=True)
        for i, size in enumerate([(48, 40), (32, 64), (50, 50), (33, 90)]): Image.fromarray(img).resize(size).save(at/'photos'/f'{k:05d}_{concept}'/f'{concept}_{i}.png')
    return at

def test_sdxl_in_small(published, tmp_path):
    "Fusion, adapter and tokens are trained and saved alone; the network is neither moved nor copied."
    before = sdxl_unet(str(published/'sdxl')).state_dict(); sdxl = str(published/'sdxl')
    s = by_hand(tmp_path/'run', pictures=str(published/'photos'), valid=.3, held=4, without=[load_pictures('train').concepts[0]], sets=['meaning=lite0:pooled'], look=64, scale='none', autoencoder=sdxl, size=32, network=sdxl, adapter=str(published/'adapter.safetensors'), width=24, hidden=32,
        schedule='scaled_linear', prediction='epsilon', drop=.1, noise=0., steps=3, batch_size=4, accumulate=2, checkpointing=True, lr=.01, course='constant', warmup=0, rule='last', levels=2, samples=2, draw_steps=2, sampler='turbo', guidance=0., measures=['pixcorr'], draws=50)
    prior, unet = s['prior'], s['unet']; assert prior.shape == (4, 8, 8) and s['latents'].shape[1:] == (8, 8, 8) and isinstance(s['latents'], np.memmap) and s['times'].shape == (len(s['img']), 6)
    now = {k: v for k, v in unet.state_dict().items() if k in before}; assert now.keys() == before.keys() and all(torch.equal(before[k], now[k]) for k in before), 'the published network moved'
    start, end = load_file(published/'adapter.safetensors'), adapter_state(unet); assert start.keys() == end.keys() and all(not torch.equal(start[k], end[k]) for k in start if not k.endswith('norm.bias')), 'the adapter stood still'
    kept = load_file(tmp_path/'run'/'prior.safetensors'); names = {k.split('.')[0] for k in kept}; assert names == {'fusion', 'image_proj', 'ip_adapter', 'prompt'} and not (tmp_path/'run'/'packed').exists()
    again = load_prior(tmp_path/'run'/'prior.safetensors', sdxl_unet(sdxl)); assert prior_mark(again) == load_json(tmp_path/'run'/'prior.json')['mark'] and not again.config['learn_unet']
    rows = load_json(tmp_path/'run'/'scores.json')['rows']; assert {r['measure'] for r in rows} == {'noise error', 'noise error, difference', 'two-way by pixels', 'pixcorr'}
    with pytest.raises(ParameterError, match='24 was expected'): open_network(sdxl, (4, 8, 8), adapter=str(published/'adapter.safetensors'), width=1024)
    with pytest.raises(ParameterError, match='channels'): open_network(sdxl, (16, 8, 8), width=24)


def test_true_sizes_and_latents_of_files(published, tmp_path):
    "Height and width of the file, what was cut off, and the cloud of each picture; a second start reads the store."
    train, held = PriorPictures(pictures=str(published/'photos'), valid=.2, held=4).at(32); vae = open_autoencoder(str(published/'sdxl')); s = true_sizes(train); of = {p.rsplit('_')[-1]: tuple(r) for p, r in zip(train.table.picture, s.tolist())}
    assert of == {'0.png': (40, 48, 4, 8), '1.png': (64, 32, 16, 0), '2.png': (50, 50, 9, 9), '3.png': (90, 33, 29, 0)}     # as the release counts them
    with torch.no_grad(): cloud = vae.encode(torch.from_numpy(train.img[:2]).permute(0, 3, 1, 2).float()/127.5 - 1).latent_dist
    z = prior_latents(vae, train, bits=32, path=tmp_path/'z', log=None); np.testing.assert_allclose(z[:2], torch.cat([cloud.mean, cloud.std], 1)*.5, rtol=1e-4, atol=1e-5)
    mark = (tmp_path/'z'/'latents.npy').stat().st_mtime_ns; assert prior_latents(vae, train, bits=32, path=tmp_path/'z', log=None).shape == z.shape and (tmp_path/'z'/'latents.npy').stat().st_mtime_ns == mark
    assert prior_latents(vae, train, drawn=False, path=tmp_path/'m', log=None).dtype == np.float16
    with pytest.raises(CheckpointError, match='other pictures|made from other settings'): prior_latents(vae, held, bits=32, path=tmp_path/'z', log=None)


# Refused before anything is computed

def test_wrong_values_are_named():
    assert check_prior(defaults()).keys() == {'meaning', 'shapes', 'pixels'}
    for name, wrong, error in (('scale', 'whole', UnknownError), ('rule', 'best', UnknownError), ('sampler', 'dpm', UnknownError), ('half', '8', UnknownError), ('steps', 0, ParameterError), ('drop', 1., ParameterError), ('noise', -1., ParameterError), ('lr', -1., ParameterError), ('levels', 0, ParameterError),
        ('course', 'round', UnknownError), ('adapter', 'ip-adapter:x', ParameterError), ('network', 'sdxl-base', ParameterError), ('sets', [], ParameterError), ('schedule', 'round', UnknownError)):
        with pytest.raises(error) as e: check_prior(defaults(**{name: wrong}))
        assert name in str(e.value) or str(wrong) in str(e.value), (name, str(e.value))
    with pytest.raises(UnknownError, match='concept to leave out'): left_out(['zebra-crossing'], ['zebra'])
    with pytest.raises(FolderError, match='no folder'): PriorPictures(pictures='/absent')
    with pytest.raises(ParameterError, match='sees pictures of'): latent_shape(open_autoencoder('embedded'), 128)


def test_absent_weights_are_named_with_their_command(monkeypatch, tmp_path):
    "Before a feature or a latent is computed."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache'))
    job = find_job('hvf/02_prior', HERE)
    for name in ('24gb', '80gb'):
        v = {k: p.value for k, p in resolve(job, f'hvf-prior-imagenet-{name}', at=HERE).items()}; assert set(check_prior(v)) == {'H14', 'B32', 'vae'}
        with pytest.raises(MissingWeights, match='brainrecon data fetch sdxl-base'): by_hand(tmp_path/f'run-{name}', **{k: x for k, x in v.items() if k not in ('device', 'out')})
    with pytest.raises(MissingWeights, match='brainrecon data fetch ip-adapter'): open_network('sdxl-base', (4, 64, 64), adapter=v['adapter'])
    assert not list((tmp_path/'cache').rglob('*.npy'))


def test_recipes_name_a_source_for_every_value():
    job = find_job('hvf/02_prior', HERE); ours, prior = (load_recipe(f'hvf-prior-{n}', job, HERE) for n in ('embedded', 'imagenet-24gb')); assert all(p.source for r in (ours, prior) for p in r.values())
    want = dict(size=512, lr=1e-4, weight_decay=.01, betas=[.9, .999], course='constant', clip=1., precision='bf16', drop=.1, every=5000, hidden=4096, width=1024, tokens=4, batch_size=32, noise=0., rule='last', scale='none')
    assert {k: prior[k].value for k in want} == want and find_job('hvf/02_prior', HERE)
    by_memory = {n: load_recipe(f'hvf-prior-imagenet-{n}', job, HERE) for n in ('24gb', '80gb')}; assert {k for k in by_memory['24gb'] if by_memory['24gb'][k].value != by_memory['80gb'][k].value} == {'accumulate', 'checkpointing', 'encode_batch'}
