"""Drawing through a frozen prior: what steers it, chance under shuffling, parts that stand still, exact resumption, files, and what is refused.

The packaged prior says whether drawings fit their pictures; a fresh tiny one, of the same code, says everything else.
"""
import json, shutil
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.alignment.fusion import FusionEncoder
from brainrecon.core.checkpoint import list_checkpoints, remove_checkpoint
from brainrecon.core.checks import CheckpointError, LeakError, MissingWeights, ParameterError, ReconError, ShapeError, UnknownError, seeded
from brainrecon.core.files import load_json, save_json
from brainrecon.data.embedded import load_embedded
from brainrecon.data.pictures import Pictures, load_pictures
from brainrecon.data.trials import Trials
from brainrecon.decoders.avde_stages import weights_mark
from brainrecon.decoders.drawing import decoder_file, drawers, load_drawer
from brainrecon.decoders.fusion_drawer import FusionDrawer, fusion_files, fusion_folder, load_fusion_drawer, pack_fusion, packaged_fusion, parts_scale, prior_folder, prior_mark, same_fusion, to_latents, to_pictures
from brainrecon.decoders.hvf import HVF
from brainrecon.decoders.retrieval import Gallery, shuffle_pairs
from brainrecon.encoders.latents import TinyAutoencoder
from brainrecon.encoders.vision import load_encoder
from brainrecon.priors.fusion_prior import FusionPrior, empty_prompt
from brainrecon.priors.ip_adapter import add_adapter, tiny_unet

sets = dict(colour='toy:colour', light='toy:light')


def toy(side, n):
    who = dict(train=0, valid=1, test=2)[side]; gen = np.random.default_rng(who); field = gen.uniform(0, 1, (n, 12)).astype('float32'); ids = [f'{side}{i:03d}/00' for i in range(n)]; mix = np.random.default_rng(99).normal(size=(12, 96))
    t = pd.DataFrame(dict(picture=ids, concept=[i[:-3] for i in ids], name=[i[:-3] for i in ids], split=side, exemplar=0, group=range(n)))
    x = ((field - .5) @ mix + .3*gen.normal(size=(n, 96))).astype('float32').reshape(n, 8, 12); img = (255*field).astype('uint8').reshape(n, 2, 2, 3).repeat(8, 1).repeat(8, 2)
    trials = Trials(x, [f'E{i}' for i in range(8)], dict(picture=ids, concept=t.concept, trial=range(1000*who, 1000*who + n)), 'eeg', 50., provenance=dict(simulated=True, recording='toy'))
    return trials, Pictures(img, t), Gallery(np.concatenate([field, field[:, ::2]**2], 1), ids, t.concept.tolist(), dict(colour=12, light=6))


class World:
    "Random colours on a field of 2 x 2, seen by a fresh prior."
    def __init__(self):
        (self.train, self.pics, z), (self.valid, self.held, zv), (self.test, self.seen, self.zt) = toy('train', 120), toy('valid', 20), toy('test', 20); self.gallery, self.parts = z + zv, [self.pics, self.held]
        with seeded(0): self.vae = TinyAutoencoder(widths=(16,), z=4, stem=4, layers=1, groups=4, size=16).eval()
        self.scale = parts_scale(z, self.pics)
    def prior(self, seed=0, learn_unet=True):
        with seeded(seed): fusion = FusionEncoder(dict(colour=12, light=6), 24, hidden=32, adapter=True)
        net = add_adapter(tiny_unet(4, 4, widths=(16,), cross=16, groups=8, pooled=8, seed=seed), d=24, seed=seed); return FusionPrior(fusion, net, prompt=empty_prompt(net), size=16, learn_unet=learn_unet)
    def make(self, prior=None, **how):
        how = dict(align=dict(steps=20, batch_size=60, lr=3e-3), sampling=dict(steps=2), device='cpu') | how
        return FusionDrawer(prior or self.prior(), self.vae, how.pop('scale', self.scale), **how)
    def fit(self, train=None, prior=None, **how): return self.make(prior, **how).fit(train or self.train, self.valid, self.parts, self.gallery)


@pytest.fixture(scope='module')
def w(): torch.set_num_threads(1); return World()

@pytest.fixture(scope='module')
def d(w): return w.fit()


# The packaged prior

class Scanner:
    "Simulated fMRI of -6 dB, small; drawings of every fifth test picture."
    def __init__(self):
        s = load_embedded('fmri', exemplars=1, snr_db=-6.); self.train, self.valid, test = (t.average() for t in (s.train, s.valid, s.test.open('tests'))); self.test = test[np.arange(0, 200, 5)]
        self.learn, self.held, seen = (load_pictures(p, size=64) for p in ('train', 'valid', 'test')); self.seen = seen[seen.at(self.test.pictures)]
        g = FusionDrawer(device='cpu').gallery_of; self.gallery, self.candidates = g(load_pictures('train'), load_pictures('valid')), g(load_pictures('test'))
    def fit(self, train=None): return FusionDrawer(options=dict(dropout=.3), align=dict(axes=256, steps=60, batch_size=128, lr=1e-3), sampling=dict(steps=8), device='cpu').fit(train or self.train, self.valid, [self.learn, self.held], self.gallery)

@pytest.fixture(scope='module')
def s(): torch.set_num_threads(1); return Scanner()

@pytest.fixture(scope='module')
def real(s): return s.fit()

def two_way(true, drawn):
    "How often the own picture fits a drawing more than another one, by correlation; ties count half."
    a, b = (v.reshape(len(v), -1).astype(float) for v in (true, drawn)); c = np.corrcoef(a, b)[:len(a), len(a):]; own = np.diag(c)
    return (((c < own).sum(0) + ((c == own).sum(0) - 1)/2)/(len(c) - 1)).mean()

def judged(true, drawn):
    "By pixels, and by the features of two networks: one that the prior's sets come from, and one that it never met."
    out = dict(pixels=two_way(true, drawn))
    for name in ('lite0', 'lite1'): e = load_encoder(name, device='cpu'); out[name] = two_way(*(e(img, 'pooled')['pooled'].numpy() for img in (true, drawn)))
    return out


def test_pictures_own_vectors_steer_it(s, real):
    "On the held-out concepts, which the prior never learned from."
    some = s.held[np.arange(0, 50, 2)]; best = judged(some.img, real.ceiling(some, s.gallery)[:, 0]); turned = judged(some.img, np.roll(real.ceiling(some, s.gallery)[:, 0], 7, 0))
    assert best['pixels'] > .75 and best['lite0'] > .6 and best['lite1'] > .6 and max(turned.values()) < .62


def test_held_out_responses_and_controls(s, real):
    lost = s.fit(shuffle_pairs(s.train)); drawn, bare, matched, wrong = (v[:, 0] for v in (real.draw(s.test), real.reconstruct(s.test, adapter=False), real.reconstruct(s.test, norm='match'), lost.draw(s.test)))
    assert two_way(s.seen.img, drawn) > .58 and two_way(s.seen.img, bare) > .7 and two_way(s.seen.img, matched) > .58 and abs(two_way(s.seen.img, wrong) - .5) < .12
    assert two_way(s.seen.img, np.roll(drawn, 7, 0)) < .62 and not np.array_equal(drawn, bare) and lost.about['shuffled'] and not real.about['shuffled']
    again = np.abs(real.draw(s.test[[7, 2, 30]])[:, 0].astype(int) - drawn[[7, 2, 30]]); assert again.max() <= 2 and again.mean() < .01      # up to rounding, whatever stands beside it
    top = lambda d: np.mean([p == r[0] for p, r in zip(s.test.pictures, d.retrieve(s.test, s.candidates, 1))]); assert top(real) > .15 > .1 > top(lost)


def test_what_the_card_says_is_refused(s, real):
    card = load_json(fusion_folder/'card.json'); tested = set(load_pictures('test').concepts)
    assert set(card['concepts']) | set(card['chosen_on']) <= {*real.about['concepts'], *real.about['valid']} and set(load_pictures('train').concepts) <= set(card['concepts']) and not tested & {*card['concepts'], *card['chosen_on']}
    for concept in (card['concepts'][0], card['chosen_on'][0], s.valid.concepts[0]):
        with pytest.raises(LeakError): real.refuse([concept])
    real.refuse(s.test.concepts); assert sum(card['files'][f]['bytes'] for f in fusion_files) < 30_000_000 and card['widths'] == {n: real.prior.fusion.widths[n] for n in card['sets']}


def test_its_file_is_small_and_whole(s, real, tmp_path):
    path = real.save(tmp_path/'d.safetensors'); assert sorted(p.name for p in tmp_path.iterdir()) == ['d-decoder.safetensors', 'd.safetensors']
    again = load_drawer(path); assert np.array_equal(again.draw(s.test[:3], 2), real.draw(s.test[:3], 2)) and again.about == real.about and again.account == real.account and again.how == real.how


# Parts that stand still

def test_only_the_brain_side_learns(w):
    prior, vae = w.prior(), w.vae; before = weights_mark(prior), weights_mark(vae), weights_mark(prior.unet); d = w.fit(prior=prior)
    assert (weights_mark(prior), weights_mark(vae), weights_mark(prior.unet)) == before and same_fusion(d.hvf, prior) and weights_mark(d.hvf.model.fusion) == weights_mark(w.prior().fusion)
    d.draw(w.test[:3]); assert (weights_mark(prior), weights_mark(vae)) == before[:2] and not any(p.requires_grad or p.grad is not None for m in (prior, prior.unet, vae) for p in m.parameters())
    assert d.account['prior'].endswith('unchanged') and not prior.training and not prior.unet.training
    other = w.fit(seed=1); assert weights_mark(other.hvf.model.brain) != weights_mark(d.hvf.model.brain) and weights_mark(other.hvf.model.fusion) == weights_mark(d.hvf.model.fusion)


def test_the_brain_side_sees_what_the_prior_saw(w, d):
    "Targets are the prior's own z_f of scaled parts, whatever order the parts of the gallery have; the scale is that of an HVF with scale='parts'."
    z = w.scale(w.zt.z); parts = dict(zip(w.zt.widths, map(torch.from_numpy, np.split(z, [12], 1))))
    with torch.no_grad(): want = d.prior.fusion(parts).numpy(); cond = d.prior.condition(parts)
    assert np.allclose(d.truth(w.seen, w.zt), want, atol=1e-6) and torch.allclose(d.prior.from_brain(torch.from_numpy(want)), cond, atol=1e-5)
    turned = lambda g: Gallery(np.concatenate([g.parts['light'], g.parts['colour']], 1), g.pictures, g.concepts, dict(light=6, colour=12))
    assert np.allclose(d.truth(w.seen, turned(w.zt)), want, atol=1e-6)
    named = dict(card=dict(sets=sets)); a, b = (w.make(**named).fit(w.train, w.valid, w.parts, g) for g in (w.gallery, turned(w.gallery))); assert np.array_equal(a.embed(w.test), b.embed(w.test))
    own = HVF('brain_mlp', width=24, steps=1, batch_size=60).fit(w.train, w.valid, w.gallery, device='cpu'); assert all(np.allclose(own.z_scale.fitted[k], w.scale.fitted[k]) for k in ('mean', 'scale'))
    z = w.scale(w.gallery.of(w.train)); assert np.allclose([z[:, :12].var(0).mean(), z[:, 12:].var(0).mean()], 1, atol=.02)


# The contract

def test_shapes_seeds_and_batches(w, d):
    out = d.draw(w.test, 2, seed=1); assert out.shape == (20, 2, 16, 16, 3) and out.dtype == np.uint8 and drawers['fusion'] is FusionDrawer
    order = np.random.default_rng(0).permutation(20); assert np.array_equal(d.draw(w.test[order], 2, seed=1), out[order]) and np.array_equal(np.concatenate([d.draw(w.test[[i]], 2, seed=1) for i in range(4)]), out[:4])
    assert not np.array_equal(out, d.draw(w.test, 2, seed=2)) and not np.array_equal(out[:, 0], out[:, 1]) and np.array_equal(d.reconstruct(w.test, 2, seed=1, batch=3), out)
    assert d.embed(w.test).shape == d.truth(w.seen, w.zt).shape == (20, 24) and d.ceiling(w.seen, w.zt).shape == (20, 1, 16, 16, 3) and 'draws 16 x 16' in repr(d) and 'not fitted' in repr(w.make())
    large = w.make().fit(w.train, w.valid, [replace(p, img=p.img.repeat(2, 1).repeat(2, 2)) for p in w.parts], w.gallery); assert large.draw(w.test[:2]).shape == (2, 1, 32, 32, 3)


def test_options_of_drawing(w, d):
    few = w.test[:6]; own = d.draw(few); changed = {k: d.reconstruct(few, **c) for k, c in dict(bare=dict(adapter=False), steps=dict(steps=3), guidance=dict(guidance=3.), euler=dict(scheduler='euler'), turbo=dict(scheduler='turbo')).items()}
    assert all(not np.array_equal(own, v) for v in changed.values()) and np.array_equal(own, d.draw(few))
    for k, c in dict(bare=dict(adapter=False), match=dict(norm='match')).items():
        same = w.fit(**c); assert np.array_equal(same.draw(few), d.reconstruct(few, **c)), k
    long = w.make(norm='match').fit(w.train, w.valid, w.parts, w.gallery); lengths = np.linalg.norm(long.code(few), axis=1); z = long.truth(w.pics, w.gallery)
    assert np.allclose(lengths, np.linalg.norm(z, axis=1).mean(), rtol=1e-5) and np.allclose(np.linalg.norm(long.embed(few), axis=1), np.linalg.norm(d.embed(few), axis=1))
    # past the adapter is what the release does: the tokens get the vector itself
    z = torch.from_numpy(d.code(few)); assert torch.equal(d.prior.from_brain(z, False), z) and not torch.equal(d.prior.from_brain(z), z)
    for bad, error in ((dict(adapter=1), ParameterError), (dict(norm='unit'), UnknownError), (dict(scheduler='ddpm'), UnknownError), (dict(steps=0), ParameterError), (dict(temperature=1.), UnknownError)):
        with pytest.raises(error): d.reconstruct(few, **bad)


def test_with_autoencoders_of_diffusers(w, tmp_path):
    "What SDXL comes with, tiny: latents are multiplied with the scaling factor; a published network is named and not copied."
    from diffusers import AutoencoderKL
    with seeded(0): vae = AutoencoderKL(block_out_channels=(8, 8, 8), down_block_types=['DownEncoderBlock2D']*3, up_block_types=['UpDecoderBlock2D']*3, latent_channels=4, norm_num_groups=4, scaling_factor=.13025).eval()
    prior = w.prior(learn_unet=False); d = FusionDrawer(prior, vae, hvf=None, align=dict(steps=10, batch_size=60), device='cpu'); assert d.how == dict(steps=4, guidance=0., scheduler='turbo', batch=16, adapter=True, norm='own')
    d.fit(w.train, w.valid, w.parts, w.gallery); out = d.draw(w.test[:3], 2); assert out.shape == (3, 2, 16, 16, 3) and np.array_equal(d.hvf.z_scale(w.zt.z), w.zt.z) and d.hvf.config['scale'] == 'none'
    z = to_latents(vae, w.seen.img); assert z.shape == (20, 4, 4, 4) and torch.allclose(z/.13025, vae.encode(torch.from_numpy(w.seen.img).permute(0, 3, 1, 2)/127.5 - 1).latent_dist.mode(), atol=1e-4)
    assert to_pictures(vae, z).shape == w.seen.img.shape
    path = d.save(tmp_path/'d.safetensors'); assert sorted(p.name for p in tmp_path.iterdir()) == ['d-decoder.safetensors', 'd.safetensors']
    with pytest.raises(ParameterError, match='load_fusion_drawer'): load_drawer(path)
    again = load_fusion_drawer(path, w.prior(learn_unet=False), vae, 'cpu'); assert np.array_equal(again.draw(w.test[:3], 2), out) and again.about == d.about
    with pytest.raises(CheckpointError, match='not the one'): load_fusion_drawer(path, w.prior(1, learn_unet=False), vae)
    with pytest.raises(ParameterError, match='published network'): pack_fusion(tmp_path/'p', w.vae, prior, w.scale, sets=sets)


# Stopping and going on

def test_going_on_from_a_checkpoint_gives_identical_weights(w, tmp_path):
    how = dict(align=dict(steps=12, batch_size=30, lr=3e-3)); whole = w.fit(folder=tmp_path/'a', **how); shutil.copytree(tmp_path/'a', tmp_path/'b'); points = list_checkpoints(tmp_path/'b'/'align'); assert len(points) > 1; remove_checkpoint(points[-1])
    lines = []; again = w.fit(folder=tmp_path/'b', log=lines.append, **how); begun = int(points[0].stem.split('-')[1]); assert 0 < begun < 12 and any('goes on from step' in l for l in lines)
    assert weights_mark(again.hvf.model) == weights_mark(whole.hvf.model) and np.array_equal(again.draw(w.test[:5]), whole.draw(w.test[:5])) and again.account == whole.account
    w.fit(shuffle_pairs(w.train), folder=tmp_path/'b', **how); assert len([p for p in (tmp_path/'b').iterdir() if 'shuffled' in p.name]) == 1


# Files

def test_a_file_gives_the_same_pictures(w, d, tmp_path):
    path = d.save(tmp_path/'d.safetensors'); some = w.test[:5]; again = load_drawer(path); assert prior_folder(path).is_dir()
    assert type(again) is FusionDrawer and np.array_equal(again.draw(some, 3), d.draw(some, 3)) and np.array_equal(again.embed(some), d.embed(some)) and again.about == d.about and again.account == d.account and again.config == d.config
    assert np.array_equal(again.ceiling(w.seen, w.zt), d.ceiling(w.seen, w.zt)) and again.retrieve(some, w.zt) == d.retrieve(some, w.zt) and again.length == d.length
    assert np.array_equal(load_drawer(again.save(tmp_path/'e.safetensors')).draw(some), d.draw(some)); bare = w.fit(adapter=False, norm='match'); assert np.array_equal(load_drawer(bare.save(tmp_path/'f.safetensors')).draw(some), bare.draw(some))
    with pytest.raises(CheckpointError, match='prior of then'): load_fusion_drawer(path, w.prior(1), w.vae)
    shutil.copy(decoder_file(w.fit(seed=2).save(tmp_path/'g.safetensors')), decoder_file(path))
    with pytest.raises(CheckpointError, match='Copy both files'): load_drawer(path)
    with pytest.raises(CheckpointError, match='no fusion drawer'): load_fusion_drawer(decoder_file(path))


def test_packing(w, tmp_path):
    prior = w.prior(); card = pack_fusion(tmp_path, w.vae, prior, w.scale, sets=sets, chosen_on=['valid000'], concepts=['another'], sampling=dict(steps=3)); vae, back, scale, read = packaged_fusion(tmp_path)
    assert read == json.loads(json.dumps(card)) and list(read['sets']) == ['colour', 'light'] and prior_mark(back) == card['mark'] == prior_mark(prior) and 'another' in card['concepts'] and w.train.concepts[0] in card['concepts']
    d = FusionDrawer(tmp_path, align=dict(steps=4, batch_size=60), device='cpu').fit(w.train, w.valid, w.parts, w.gallery); assert d.how['steps'] == 3 and {'another', w.train.concepts[0]} <= set(d.about['concepts']) and 'valid000' in d.about['valid']
    assert load_drawer(d.save(tmp_path/'d.safetensors')).card == {k: v for k, v in read.items() if k != 'files'}
    for f in fusion_files:
        at = tmp_path/f'broken-{f}'; at.mkdir(); [shutil.copy(tmp_path/x, at/x) for x in ('card.json', *fusion_files)]; (at/f).write_bytes((at/f).read_bytes()[:-1] + b'x')
        with pytest.raises(CheckpointError, match='not the file of the card'): packaged_fusion(at)
        (at/f).unlink()
        with pytest.raises(MissingWeights, match=f): packaged_fusion(at)
    for bad in ({}, dict(card, sets=None), {k: v for k, v in card.items() if k != 'concepts'}, [1]):
        save_json(tmp_path/'card.json', bad)
        with pytest.raises(CheckpointError, match='does not describe'): packaged_fusion(tmp_path)


# What is refused

def test_galleries_and_sizes(w, d):
    fit = lambda gallery, parts=None: w.make().fit(w.train, w.valid, parts or w.parts, gallery)
    with pytest.raises(ParameterError, match='sets colour, light'): fit(None)
    with pytest.raises(ReconError): fit(w.gallery.only('colour'))
    with pytest.raises(ReconError): fit(Gallery(w.gallery.z, w.gallery.pictures, w.gallery.concepts))
    with pytest.raises(ReconError): fit(Gallery(w.gallery.z[:, :-1], w.gallery.pictures, w.gallery.concepts, dict(colour=12, light=5)))
    with pytest.raises(ParameterError): d.ceiling(w.seen)
    with pytest.raises(ShapeError, match='lie on each other'): d.ceiling(replace(w.seen, img=w.seen.img.repeat(2, 1).repeat(2, 2)), w.zt)
    with pytest.raises(ShapeError): d.draw(w.test[[]])
    with pytest.raises(ReconError): d.draw(w.test.pick(['E0', 'E1']))
    with pytest.raises(UnknownError, match='Call `fit` first'): w.make().draw(w.test)
    with pytest.raises(ParameterError, match='from 1'): d.draw(w.test, n=0)
    with pytest.raises(ParameterError, match='Only packed priors'): d.gallery_of(w.pics)


def test_parts_that_do_not_belong_together(w, d):
    with pytest.raises(ParameterError, match='both were expected'): FusionDrawer(w.prior())
    with pytest.raises(ParameterError, match='beside a packed prior'): FusionDrawer(autoencoder=w.vae)
    with seeded(0): wide, large = TinyAutoencoder(widths=(16,), z=8, stem=4, groups=4, size=16), TinyAutoencoder(widths=(16,), z=4, stem=4, groups=4, size=32)
    for vae in (wide, large):
        with pytest.raises(ParameterError, match='belong together'): FusionDrawer(w.prior(), vae)
        with pytest.raises(ParameterError, match='belong together'): pack_fusion('nowhere', vae, w.prior(), w.scale, sets=sets)
    with pytest.raises(ParameterError, match='`sets`'): pack_fusion('nowhere', w.vae, w.prior(), w.scale, sets=dict(colour='', dark=''))
    with pytest.raises(ShapeError, match='lie side by side'): pack_fusion('nowhere', w.vae, w.prior(), parts_scale(w.gallery[:120].only('light'), w.pics), sets=sets)
    with pytest.raises(UnknownError, match='option of drawing'): pack_fusion('nowhere', w.vae, w.prior(), w.scale, sets=sets, sampling=dict(step=3))


def test_a_given_brain_side(w, d):
    fit = lambda train=w.train, prior=None, hvf=d.hvf, valid=w.valid, parts=w.parts, gallery=w.gallery: w.make(prior, hvf=hvf).fit(train, valid, parts, gallery)
    assert np.array_equal(fit().draw(w.test[:4]), d.draw(w.test[:4])) and fit().about['concepts'] == d.about['concepts']
    with pytest.raises(CheckpointError, match='fusion of this prior'): fit(prior=w.prior(1))
    with pytest.raises(CheckpointError, match='fusion of this prior'): fit(hvf=HVF('brain_mlp', width=24, steps=2, batch_size=60).fit(w.train, w.valid, w.gallery, device='cpu'))
    with pytest.raises(ParameterError, match='true pairs'): fit(shuffle_pairs(w.train))
    with pytest.raises(LeakError): fit(w.valid, valid=w.train[:20])
    with pytest.raises(LeakError): d.refuse(w.valid.concepts)
