"""AVDE on a toy of coloured fields: the contract of drawers, its promises, a reader that stands still, exact resumption, and what is refused.

Four fields of four colours make 256 pictures; the response of eight electrodes mixes what stands where with noise. The networks are tiny, the code is that of the full size.
"""
import shutil
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.alignment.targets import Standardise
from brainrecon.core.checkpoint import list_checkpoints, remove_checkpoint
from brainrecon.core.checks import CheckpointError, LeakError, MissingWeights, ParameterError, ReconError, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.core.files import sha256
from brainrecon.data.pictures import Pictures, load_pictures
from brainrecon.data.trials import Trials
from brainrecon.decoders.avde import AVDE, avde_files, avde_folder, pack_avde, packaged_avde, packaged_target
from brainrecon.decoders.avde_painter import Painter, start_generator
from brainrecon.decoders.avde_stages import Aligned, Reader, embeddings, encoder_plan, make_encoder, picture_codes, reader_back, reader_parts, small_labram, to_side, weights_mark
from brainrecon.decoders.drawing import MeanDrawer, drawers, load_drawer
from brainrecon.decoders.retrieval import Gallery, known_unit, shuffle_pairs
from brainrecon.encoders.door import flat_encoders
from brainrecon.encoders.labram import LaBraM, layer_groups, save_labram
from brainrecon.generators.training import picture_words, tokenizer_scores, train_generator, train_tokenizer, word_scores
from brainrecon.generators.var import VAR, initialise, save_var
from brainrecon.generators.vqvae import VQVAE, save_vqvae

quiet = dict(log=None, device='cpu')
sides = dict(train=slice(0, 180), valid=slice(180, 206), test=slice(206, 256))
names = ['Fp1', 'Fp2', 'C3', 'C4', 'P3', 'P4', 'O1', 'O2']
tiny = dict(options=small_labram(20, depth=2))
easy = dict(align=dict(steps=60, lr=5e-3, batch_size=64), teach=dict(steps=40, lr=3e-3, batch_size=32), sampling=dict(guidance=2., top_p=.9), device='cpu')


def toy(side, reps=1, size=16, noise=.6):
    gen = np.random.default_rng(0); colours = np.array([[230, 60, 50], [60, 90, 220], [250, 210, 70], [30, 40, 40]], 'uint8')
    grid = gen.permutation(np.array(list(np.ndindex(4, 4, 4, 4)))); mix = gen.normal(size=(16, 160)); f = grid[sides[side]]
    ids = [f'c{"".join(map(str, q))}/00' for q in f]; what = np.eye(4)[f].reshape(len(f), 16) - .25; who = np.tile(np.arange(len(f)), reps)
    t = pd.DataFrame(dict(picture=ids, concept=[i[:5] for i in ids], name=[i[1:5] for i in ids], split=side, exemplar=0, group=range(len(f))))
    x = what[who] @ mix + noise*np.random.default_rng(len(side)).normal(size=(len(who), 160))
    trials = Trials(x.reshape(-1, 8, 20).astype('float32'), names, t.loc[who, ['picture', 'concept']], 'eeg', 100., provenance=dict(simulated=True, recording=f'toy {side}', split=side))
    return trials, Pictures(colours[f].reshape(-1, 2, 2, 3).repeat(size//2, 1).repeat(size//2, 2), t), Gallery(what.astype('float32'), ids, t.concept.tolist())


class World:
    "The toy with a tokenizer and a generator that has seen features of training pictures."
    def __init__(self):
        (self.train, self.pics, z), (self.valid, self.held, zv), (self.test, self.seen, self.zt) = toy('train', 4), toy('valid'), toy('test'); self.gallery = z + zv; self.parts = [self.pics, self.held]
        with seeded(0):
            self.vqvae = VQVAE(vocab=32, z=4, ch=16, ch_mult=(1,), blocks=1, patch_nums=(1, 2, 4), norm_groups=4, stem=4)
            self.var = initialise(VAR(vocab=32, z=4, patch_nums=(1, 2, 4), depth=1, width=64, heads=2, d_embed=16), gates=1., head=1.)
        train_tokenizer(self.vqvae, self.pics, self.held, plain=40, steps=40, lr=1e-2, **quiet); self.scale = Standardise().fit(z.z, self.pics)
        train_generator(self.var, self.vqvae, self.scale(z.z), picture_codes(self.vqvae, [self.pics], z.pictures), None, (self.scale(zv.z), picture_codes(self.vqvae, [self.held], zv.pictures)),
            steps=100, batch_size=32, lr=1e-2, noise=.2, **quiet)
    def make(self, **how): return AVDE(self.vqvae, self.var, self.scale, **{**tiny, **easy, **how})
    def fit(self, train=None, **how): return self.make(**how).fit(self.train if train is None else train, self.valid, self.parts, self.gallery)


@pytest.fixture(scope='module')
def w(): torch.set_num_threads(1); return World()

@pytest.fixture(scope='module')
def d(w): return w.fit()

@pytest.fixture(scope='module')
def lost(w): return w.fit(shuffle_pairs(w.train))


def two_way(a, b):
    a, b = (v.reshape(len(v), -1).astype(float) for v in (a, b)); c = np.corrcoef(a, b)[:len(a), len(a):]; own = np.diag(c)
    return (((c < own).sum(0) + ((c == own).sum(0) - 1)/2)/(len(c) - 1)).mean()


# The contract

def test_shapes_seeds_and_batches(w, d):
    out = d.draw(w.test, 2, seed=1); assert out.shape == (50, 2, 16, 16, 3) and out.dtype == np.uint8
    order = np.random.default_rng(0).permutation(50); assert np.array_equal(d.draw(w.test[order], 2, seed=1), out[order])
    assert np.array_equal(np.concatenate([d.draw(w.test[[i]], 2, seed=1) for i in range(8)]), out[:8])
    assert not np.array_equal(out, d.draw(w.test, 2, seed=2)) and not np.array_equal(out[:, 0], out[:, 1])
    assert d.embed(w.test).shape == d.truth(w.seen, w.zt).shape == (50, 16) and 'draws 16 x 16' in repr(d) and 'not fitted' in repr(w.make())
    assert d.ceiling(w.seen, w.zt).shape == (50, 1, 16, 16, 3) and drawers['avde'] is AVDE


def test_reconstruct_and_trace(w, d):
    some = w.test[:6]; assert np.array_equal(d.reconstruct(some, 2, seed=3), d.draw(some, 2, seed=3))
    frames = d.trace(some, seed=3); assert frames.shape == (6, 3, 16, 16, 3) and np.array_equal(frames[:, -1], d.draw(some, 1, seed=3)[:, 0]) and not np.array_equal(frames[:, 0], frames[:, 1])
    greedy = d.reconstruct(some, top_k=1, guidance=0.); assert np.array_equal(greedy, d.reconstruct(some, seed=9, top_k=1, guidance=0.)) and not np.array_equal(greedy, d.draw(some))
    full = AVDE(w.vqvae, w.var).config['sampling']; assert full == dict(guidance=4., top_k=900, top_p=.95)


def test_promises(w, d, lost):
    true, wrong = two_way(w.seen.img, d.draw(w.test)[:, 0]), two_way(w.seen.img, lost.draw(w.test)[:, 0])
    assert true > .7 and abs(wrong - .5) < .13 and two_way(w.seen.img, d.ceiling(w.seen, w.zt)[:, 0]) >= true - .03
    top = lambda d: np.mean([p == r[0] for p, r in zip(w.test.pictures, d.retrieve(w.test, w.zt, 1))])
    assert top(d) > .4 and top(lost) < .15 and all(len(set(r)) == 5 for r in d.retrieve(w.test, w.zt)) and lost.about['shuffled'] and lost.about['simulated']


def test_a_file_gives_the_same_pictures(w, d, tmp_path):
    again = load_drawer(d.save(tmp_path/'d.safetensors'), w.parts, w.gallery); some = w.test[:5]
    assert type(again) is AVDE and np.array_equal(again.draw(some, 3), d.draw(some, 3)) and np.array_equal(again.trace(some), d.trace(some)) and np.array_equal(again.embed(some), d.embed(some))
    assert again.about == d.about and again.retrieve(some, w.zt) == d.retrieve(some, w.zt) and np.array_equal(again.ceiling(w.seen[:4], w.zt), d.ceiling(w.seen[:4], w.zt))
    assert again.account == {k: str(v) for k, v in d.account.items()} and again.config == d.config
    assert np.array_equal(load_drawer(again.save(tmp_path/'e.safetensors')).draw(some), d.draw(some))


def test_in_the_drawing_job(w, tmp_path):
    "The functions of the job: fit with a control, read back, refuse, draw with ceilings."
    from brainrecon.jobs.draw import Album, draw_all, fit_drawers
    album = Album(w.parts, w.seen); make = dict(avde=lambda: w.make(folder=tmp_path/'run', align=dict(steps=6, batch_size=64), teach=dict(steps=4, batch_size=32)), mean=MeanDrawer); lines = []
    fitted = fit_drawers(w.train, w.valid, album, w.gallery, ['avde', 'mean'], [0], tmp_path, make=make, log=lines.append)
    again = fit_drawers(w.train, w.valid, album, w.gallery, ['avde', 'mean'], [0], tmp_path, make=make, log=lines.append)
    assert [f.label for f in fitted] == ['avde', 'avde-shuffled-seed0', 'mean'] and sum('already fitted' in l for l in lines) == 3
    titles = dict(avde=('AVDE', ''), mean=('mean', '')); a, b = (draw_all(f, w.test[:7], album, w.zt, samples=2, titles=titles) for f in (fitted, again))
    assert [x.label for x in a] == ['avde', 'avde-ceiling', 'avde-shuffled-seed0', 'mean'] and a[0].img.shape == (7, 2, 16, 16, 3) and all(np.array_equal(x.img, y.img) for x, y in zip(a, b))
    with pytest.raises(LeakError): draw_all(fitted, w.valid, album, w.gallery, titles=titles)
    assert len([p for p in (tmp_path/'run').iterdir() if 'shuffled' in p.name]) == 2


# The reader

def test_the_reader_stands_still_in_stage_two(w, monkeypatch):
    "Every condition that the generator sees in any step is one of the embeddings that the frozen encoder gives, bit for bit, dropout in the encoder or not."
    d = w.make(options=small_labram(20, depth=2) | dict(drop_path=.5)).align(w.train, w.valid, w.gallery, steps=8); before, mark = d.embed(w.train), weights_mark(d.reader.model)
    assert np.array_equal(before, d.embed(w.train)); seen, forward = [], VAR.forward
    monkeypatch.setattr(VAR, 'forward', lambda self, cond, x, drop=None: (seen.append((self.training, cond.detach().clone())), forward(self, cond, x, drop))[1])
    d.learn_to_draw(w.train, w.valid, w.parts, steps=12, batch_size=64, noise=0.)
    rows = {r.tobytes() for r in before}; trained = [c.numpy() for on, c in seen if on]
    assert len(trained) == 12 and all(r.tobytes() in rows for c in trained for r in c)
    assert weights_mark(d.reader.model) == mark and not d.reader.model.training and not any(m.training for m in d.reader.model.modules()) and not any(p.requires_grad for p in d.reader.model.parameters())
    seen.clear(); d.learn_to_draw(w.train, w.valid, w.parts, steps=2, batch_size=64, noise=.5); assert not all(r.tobytes() in rows for on, c in seen if on for r in c.numpy())
    assert all(r.tobytes() in {v.tobytes() for v in d.embed(w.valid)} for on, c in seen if not on for r in c.numpy())        # no noise where it is scored


def test_tokens_and_embeddings_are_computed_once(w, d, tmp_path, monkeypatch):
    ids = sorted(set(w.train.pictures)); first = picture_codes(w.vqvae, w.parts, ids, tmp_path); e = embeddings(d.reader, w.valid, tmp_path)
    assert np.array_equal(first, picture_codes(w.vqvae, w.parts, ids)) and np.array_equal(e, d.embed(w.valid)) and first.shape == (180, 21)
    monkeypatch.setattr(VQVAE, 'indices', None); monkeypatch.setattr(Reader, 'map', None)
    assert np.array_equal(picture_codes(w.vqvae, w.parts, ids, tmp_path), first) and np.array_equal(embeddings(d.reader, w.valid, tmp_path), e)
    monkeypatch.undo(); other = picture_codes(w.vqvae, w.parts, ids[::-1], tmp_path); assert np.array_equal(other, first[::-1]) and len(list(tmp_path.iterdir())) == 3


def test_layers_learn_at_their_own_rates(w):
    d = w.make(align=dict(steps=1, batch_size=64, layer_decay=.5, weight_decay=.1)).align(w.train, w.valid, w.gallery); model = d.reader.model.requires_grad_(True)
    groups = layer_groups(model, .5, .1); rate = {n: (g['lr_scale'], g['weight_decay']) for g in groups for n in g['names']}
    assert rate['brain.cls_token'] == (.125, 0.) and rate['brain.blocks.0.mlp.fc1.weight'] == (.25, .1) and rate['brain.blocks.1.mlp.fc1.weight'] == (.5, .1) and rate['brain.head.weight'] == (1., .1) and rate['logit_scale'] == (1., 0.)
    assert set(rate) == {n for n, _ in model.named_parameters()}
    slow = w.make(align=dict(steps=3, batch_size=64, layer_decay=1e-6, lr=1e-2)).align(w.train, w.valid, w.gallery).reader
    with seeded(0): start = LaBraM(names, 20, 16, **small_labram(20, depth=2))
    moved = lambda k: (slow.model.brain.state_dict()[k] - start.state_dict()[k]).abs().max(); assert moved('blocks.0.mlp.fc1.weight') < 1e-6 < moved('head.weight')


@pytest.mark.parametrize('monitor', ['top1', 'identify', 'loss'])
def test_weights_are_chosen_on_held_out_concepts(w, monitor):
    r = Reader(scale=w.scale, **tiny).fit(w.train, w.valid, w.gallery, steps=12, every=3, batch_size=64, lr=5e-3, monitor=monitor); values = [h[f'valid_{monitor}'] for h in r.history]
    best = (min if monitor == 'loss' else max)(values); assert r.history.best['value'] == best and r.history.best['step'] == 3*(values.index(best) + 1)
    e, z = r.embed(w.valid), w.scale(w.gallery.of(w.valid)); sim = (e/np.linalg.norm(e, axis=1, keepdims=True)) @ (z/np.linalg.norm(z, axis=1, keepdims=True)).T; own = np.diag(sim)[:, None]
    if monitor == 'top1': assert best == pytest.approx((sim.argmax(1) == np.arange(26)).mean())
    if monitor == 'identify': assert best == pytest.approx((sim < own).sum()/(26*25), abs=1e-6)


def test_losses_and_repeats(w, monkeypatch):
    from brainrecon.decoders import avde_stages
    calls, real = [], avde_stages.avde_loss
    monkeypatch.setattr(avde_stages, 'avde_loss', lambda e, z, s, positives=None, **how: (calls.append((how, positives)), real(e, z, s, positives=positives, **how))[1])
    fit = lambda **how: Reader(scale=w.scale, **tiny).fit(w.train, w.valid, w.gallery, steps=2, batch_size=256, **how)
    fit(); how, same = calls[0]; assert how == dict(mode='paper', share=.8, halved=None, largest=None) and same.diagonal().all() and same.sum() > 256
    calls.clear(); r = fit(mode='released', repeats=False); assert calls[0][0]['mode'] == 'released' and all(p is None for _, p in calls) and {'clip', 'mse'} <= set(r.history[-1])
    raw = Reader(targets='raw', **tiny).fit(w.train, w.valid, w.gallery, steps=2); z = w.gallery.of(w.valid); assert np.array_equal(raw.z_scale(z), z)


def test_the_likeness_of_the_loss_is_kept(w, tmp_path):
    "The released loss compares by plain products: so do the choice of the weights and the retrieval, also from a file; the paper's by cosine, and files that do not say it."
    from brainrecon.decoders.avde_swap import load_reader, save_reader
    how = dict(steps=12, every=3, batch_size=64, lr=5e-3); dot, cos = (Reader(scale=w.scale, **tiny).fit(w.train, w.valid, w.gallery, mode=mode, **how) for mode in ('released', 'paper')); assert (dot.likeness, cos.likeness, Reader().likeness) == ('dot', 'cosine', 'cosine')
    unit = lambda v: v/np.linalg.norm(v, axis=1, keepdims=True); z, zt = w.scale(w.gallery.of(w.valid)).astype(float), w.scale(w.zt.z).astype(float)
    for r, at in ((dot, lambda v: v), (cos, unit)):
        sim = at(r.embed(w.valid).astype(float)) @ at(z).T; assert r.history.best['value'] == pytest.approx((sim < np.diag(sim)[:, None]).sum()/(26*25), abs=1e-6)
        order = np.argsort(-(at(r.embed(w.test).astype(float)) @ at(zt).T), 1)[:, :5]; assert r.retrieve(w.test, w.zt) == [[w.zt.pictures[j] for j in row] for row in order]
        back = load_reader(save_reader(r, tmp_path/f'{r.likeness}.safetensors')); assert back.likeness == r.likeness and back.retrieve(w.test, w.zt) == r.retrieve(w.test, w.zt)
    by_cosine = np.argsort(-(unit(dot.embed(w.test)) @ unit(zt).T), 1)[:, :5]; assert dot.retrieve(w.test, w.zt) != [[w.zt.pictures[j] for j in row] for row in by_cosine]
    meta, arrays = reader_parts(cos); meta.pop('likeness'); assert reader_back(meta, arrays).likeness == 'cosine'
    with pytest.raises(UnknownError, match='likeness'): reader_back(dict(meta, likeness='near'), arrays)
    with pytest.raises(ShapeError, match='50'): dot.retrieve(w.test, w.zt, 51)
    d = w.make(align=dict(easy['align'], steps=4, mode='released'), teach=dict(steps=0)).fit(w.train, w.valid, w.parts, w.gallery); again = load_drawer(d.save(tmp_path/'d.safetensors')); assert again.reader.likeness == 'dot' and again.retrieve(w.test, w.zt) == d.retrieve(w.test, w.zt)
    with pytest.raises(CheckpointError, match='other settings'):
        for mode in ('paper', 'released'): Reader(scale=w.scale, **tiny).fit(w.train, w.valid, w.gallery, tmp_path/'run', mode=mode, steps=2, every=1, batch_size=64)


@pytest.mark.parametrize('kind', ['fmri', 'meg'])
def test_other_recordings(w, kind, tmp_path):
    "The same decoder reads fMRI and MEG through a projection of their main axes."
    def other(t):
        x, channels, rate = (t.x.reshape(len(t), -1), [f'v{i}' for i in range(160)], None) if kind == 'fmri' else (t.x, [f'MEG{i}' for i in range(8)], 100.)
        return Trials(x, channels, t.table, kind, rate, provenance=t.provenance)
    d = w.make(axes=32, options=dict(width=64, dropout=.1)).fit(other(w.train), other(w.valid), w.parts, w.gallery); t = other(w.test)
    assert d.reader.config['encoder'] == 'mlp' and two_way(w.seen.img, d.draw(t)[:, 0]) > .65
    assert np.array_equal(load_drawer(d.save(tmp_path/'d.safetensors')).draw(t[:4]), d.draw(t[:4]))
    with pytest.raises(ShapeError, match=kind): d.draw(w.test)


def test_channels_are_found_by_name(w, d):
    back = w.test.pick(names[::-1]); assert np.allclose(d.embed(back), d.embed(w.test))
    with pytest.raises(ReconError): d.draw(w.test.pick(names[:4]))


def test_plans(w):
    assert encoder_plan('auto', 'eeg', 80, {})[0] == 'labram' and encoder_plan('auto', 'meg', 80, {}) == ('mlp', {}) and encoder_plan('auto', 'fmri', None, {}) == ('mlp', {})
    assert encoder_plan('labram', 'eeg', 200, dict(depth=12)) == ('labram', dict(depth=12)) and encoder_plan('auto', 'eeg', 200, dict(drop_path=.1))[1]['patch'] == 200
    for n in (1, 7, 20, 80, 99, 200, 250, 400):
        net = LaBraM(names, n, 5, **small_labram(n, 1)); assert net(torch.zeros(2, 8, n)).shape == (2, 5)


def test_published_weights_with_their_account(w, tmp_path):
    "A file in the layout of labram-base.pth: its sizes are taken from it, its keys accounted for, and the file is not needed again."
    with seeded(7): base = LaBraM(names, 200, 3, width=40, patch=40, depth=2, heads=5)
    state = {f'student.{k}': v for k, v in base.state_dict().items() if not k.startswith(('head', 'fc_norm'))} | {'student.mask_token': torch.zeros(1, 1, 40), 'student.lm_head.weight': torch.zeros(7, 40), 'projection_head.0.weight': torch.zeros(3, 3)}
    torch.save(dict(model=state), tmp_path/'labram-base.pth')
    far = lambda side, reps=1: Trials(np.tile(toy(side, reps)[0].x, (1, 1, 2)), names, toy(side, reps)[0].table, 'eeg', 200., provenance=toy(side, reps)[0].provenance)
    d = AVDE(w.vqvae, w.var, w.scale, encoder='labram', options=dict(patch=40), weights=tmp_path/'labram-base.pth', standardise=False, device='cpu').align(far('train'), far('valid'), w.gallery, steps=1, lr=1e-12, batch_size=64)
    assert len(d.account['encoder'].renamed) == len(state) - 3 and {'head.weight', 'head.bias', 'fc_norm.weight'} <= set(d.account['encoder'].new) and len(d.account['encoder'].refused) == 3
    assert torch.allclose(d.reader.model.brain.blocks[0].mlp.fc1.weight, base.blocks[0].mlp.fc1.weight) and (d.reader.x_scale.std == 1).all()
    d.learn_to_draw(far('train'), far('valid'), w.parts, steps=0); (tmp_path/'labram-base.pth').unlink(); t = far('test')[:3]
    again = load_drawer(d.save(tmp_path/'d.safetensors')); assert np.array_equal(again.embed(t), d.embed(t)) and 'labram-base.pth' in again.account['encoder'] and 'not taught' in again.account['drawing']


def said(t, unit, size=1., key='unit'): return replace(t, x=t.x*np.float32(size), provenance=dict(t.provenance, **{key: unit}))


def test_the_unit_of_the_signal_is_compared(w):
    "A signal that is handed on as recorded must be in the unit that LaBraM is told; microvolts read as volts were taken without a word."
    few, fit = dict(steps=1, batch_size=64, device='cpu'), lambda unit, told=None, standardise=False, key='unit', weights=None: Reader(options=tiny['options'] | (dict(unit=told) if told else {}), scale=w.scale, standardise=standardise, weights=weights).fit(
        said(w.train, unit, key=key), said(w.valid, unit, key=key), w.gallery, **few)
    for unit, told in (('uV', 'V'), ('uV', None), ('V', 'uV'), ('whitened', None), ('z', '0.1mV'), ('fT', 'uV')):
        for key in ('unit', 'units'):
            with pytest.raises(ParameterError, match=f"trials are in '{unit}'.* takes them for '{told or '0.1mV'}'") as e: fit(unit, told, key=key)
            assert ('1000000 times' in str(e.value)) == ((unit, told) == ('uV', 'V')) and (f"unit={unit!r}" in e.value.do) == (unit != 'fT')
    for unit, told in (('uV', 'uV'), ('µV', 'uV'), ('\u03bcV', 'uV'), ('0.1mV', None)): assert fit(unit, told).recording['unit'] == (told or '0.1mV')
    for unknown in (None, '', 'unknown', 'not stated by the source'): assert 'unit' not in fit(unknown, 'V').recording      # let through
    with pytest.raises(ParameterError, match='is standardised'): fit('uV', 'uV', standardise=True)
    assert fit('uV', standardise=True).recording['unit'] == 'uV' and fit('uV', 'z', standardise=True).recording['unit'] == 'uV'
    with pytest.raises(ValuesError, match="in 'V'"): Reader('mlp', axes=0, scale=w.scale).fit(said(w.train, 'uV'), said(w.valid, 'V'), w.gallery, **few)     # any encoder, and the validation too


def test_a_file_that_was_trained_in_volts_is_not_given_standardised_numbers(w, tmp_path):
    "The unit stands in the file of a LaBraM, too."
    with seeded(0): save_labram(LaBraM(names, 20, 16, unit='V', **tiny['options']), tmp_path/'v.safetensors')
    fit = lambda unit, **how: Reader(weights=tmp_path/'v.safetensors', scale=w.scale, **how).fit(said(w.train, unit), said(w.valid, unit), w.gallery, steps=1, batch_size=64, device='cpu')
    with pytest.raises(ParameterError, match='10000'): fit('V')
    with pytest.raises(ParameterError, match="takes them for 'V'"): fit('uV', standardise=False)
    assert fit('V', standardise=False).config['options']['unit'] == 'V' and fit('uV', standardise=False, options=dict(unit='uV')).recording['unit'] == 'uV'


@pytest.mark.parametrize('standardise', [True, False])
def test_trials_of_another_unit_than_those_of_training_are_refused(w, standardise, tmp_path):
    from brainrecon.decoders.avde_swap import load_reader, save_reader
    told = dict(options=tiny['options'] | ({} if standardise else dict(unit='uV'))); r = Reader(scale=w.scale, standardise=standardise, **told).fit(said(w.train, 'uV'), said(w.valid, 'uV'), w.gallery, steps=1, batch_size=64, device='cpu')
    again = load_reader(save_reader(r, tmp_path/'r.safetensors')); e = r.embed(said(w.test, 'uV')); volts = said(w.test, 'V', 1e-6); assert again.recording['unit'] == 'uV'
    for reader in (r, again):
        for call in (lambda: reader.embed(volts), lambda: reader.retrieve(volts, w.zt), lambda: embeddings(reader, volts), lambda: reader.embed(said(w.test, 'whitened'))):
            with pytest.raises(ValuesError, match="trained on 'uV'") as err: call()
            assert err.value.do
        assert 'Multiply the numbers by 1000000 ' in str(pytest.raises(ValuesError, reader.embed, volts).value) and np.array_equal(reader.embed(said(w.test, '\u03bcV')), e) and np.array_equal(reader.embed(w.test), e)     # unknown: let through
    meta, arrays = reader_parts(r); meta = dict(meta, recording={k: v for k, v in meta['recording'].items() if k != 'unit'}); older = reader_back(meta, arrays)      # a file of before
    assert np.array_equal(older.embed(said(w.test, 'V')), e) and known_unit(volts) == 'V' and known_unit(w.test) is None


@pytest.mark.parametrize('fine_tuned', [True, False])
def test_the_temperature_of_a_file_is_taken_over(w, fine_tuned, tmp_path):
    "One temperature, the one that the loss uses; in the network there is none that gets no gradient."
    with seeded(0): net = LaBraM(names, 20, 16, temperature=fine_tuned, **tiny['options'])
    if fine_tuned: torch.nn.init.constant_(net.logit_scale, 4.25)
    torch.save(dict(model=net.state_dict(), epoch=3), tmp_path/'checkpoint-best.pth'); how = dict(options=dict(patch=20), weights=tmp_path/'checkpoint-best.pth')
    d = w.make(**how, align=dict(steps=1, lr=1e-9, batch_size=64)).align(w.train, w.valid, w.gallery); r = d.reader; state = r.model.state_dict()
    assert float(r.model.logit_scale) == pytest.approx(4.25 if fine_tuned else np.log(1/.07), abs=1e-6) and 'brain.logit_scale' not in state and ('logit_scale' in r.account.matched) == fine_tuned and not r.account.refused
    r.model.requires_grad_(True).zero_grad(); r.likeness = 'cosine'; sum(r.loss(r.model, (torch.from_numpy(r.signal(w.train[:8])), torch.from_numpy(w.scale(w.gallery.of(w.train[:8]))), torch.arange(8))).values()).backward()
    assert all(p.grad is not None for n, p in r.model.named_parameters() if n.endswith('logit_scale') or 'head' in n) and not r.config['options']['temperature']
    meta, arrays = reader_parts(r); again = reader_back(meta, arrays); assert np.array_equal(again.embed(w.test), r.embed(w.test)) and float(again.model.logit_scale.detach()) == float(r.model.logit_scale.detach())
    older = reader_back(dict(meta, reader=dict(meta['reader'], options=dict(meta['reader']['options'], temperature=True))), arrays | {'reader.brain.logit_scale': np.float32(9.)}); assert np.array_equal(older.embed(w.test), r.embed(w.test)) and older.model.logit_scale.detach() == r.model.logit_scale.detach()
    mine = Aligned(LaBraM(names, 20, 4, temperature=True, **tiny['options'])); assert [n for n, _ in mine.named_parameters() if 'logit' in n] == ['logit_scale'] and mine.brain.config['temperature'] is False


def test_looks_by_epochs(w):
    "After each epoch, as released, or each second; the last update is always looked at."
    r = Reader(scale=w.scale, **tiny); steps = lambda **how: [h['step'] for h in r.fit(w.train, w.valid, w.gallery, batch_size=240, device='cpu', **how).history]
    assert steps(epochs=4, every_epochs=1) == [3, 6, 9, 12] and steps(epochs=4, every_epochs=2) == [6, 12] and steps(steps=7, every_epochs=1) == [3, 6, 7] and steps(epochs=2, every_epochs=0, every=4) == [4, 6] and steps(epochs=2, every_epochs=0) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ParameterError, match='one of them'): steps(every=2, every_epochs=1)
    for bad in (-1, .5, True):
        with pytest.raises(ParameterError, match='every_epochs'): steps(every_epochs=bad)


def test_features_of_1024_numbers(w, tmp_path):
    "Nothing assumes a width: features as the release has them, brought by a file, through both stages on embedded EEG. Drawn by lot, one vector a concept: only the shapes mean something."
    from brainrecon.alignment.imported import import_features
    from brainrecon.data.embedded import load_embedded
    splits = load_embedded('eeg', exemplars=1, reps=(1, 1)); train, valid = splits.train[:64].window(0., .8), splits.valid[:24].window(0., .8); galleries = []
    parts = [load_pictures('train').where(concept=train.concepts), load_pictures('valid').where(concept=valid.concepts)]
    for p in parts:
        name = f'ViT-H-14_features_{p.table.split[0]}.pt'; torch.save(dict(img_features=torch.randn(len(p), 1024, generator=torch.Generator().manual_seed(len(p))), text_features=torch.zeros(3, 1024)), tmp_path/name)
        z = import_features(tmp_path/name, p, model='none', weights='none', preprocessing='none', normalised=False, order='pictures', at=tmp_path/name[:-3], log=None); galleries.append(Gallery(np.array(z), p.table.picture.tolist(), p.table.concept.tolist()))
    gallery = galleries[0] + galleries[1]; assert gallery.z.shape == (88, 1024)
    d = AVDE(w.vqvae, dict(depth=1, width=64, heads=2), encoder='labram', options=small_labram(80, 1) | dict(unit='V'), targets='raw', standardise=False, device='cpu', align=dict(mode='released', repeats=False, steps=3, batch_size=32), teach=dict(steps=2, batch_size=32))
    d.fit(train, valid, parts, gallery); again = load_drawer(d.save(tmp_path/'d.safetensors')); few = valid[:3]
    assert d.painter.var.embed_proj.weight.shape == (64, 1024) and d.reader.model.brain.head.weight.shape == (1024, 80) and np.array_equal(d.reader.z_scale(gallery.z), gallery.z) and d.reader.likeness == 'dot' and d.reader.recording['unit'] == 'V'
    assert d.embed(few).shape == (3, 1024) and [len(set(r)) for r in d.retrieve(few, galleries[1], 4)] == [4, 4, 4] and d.draw(few, 2).shape == (3, 2, 128, 128, 3) and np.array_equal(again.embed(few), d.embed(few)) and again.retrieve(few, gallery) == d.retrieve(few, gallery)
    fresh = weights_mark(start_generator(dict(depth=1, width=64, heads=2), w.vqvae, 1024)[0]); assert len(d.history['align']) and len(d.history['draw']) and (weights_mark(d.painter.var) != fresh or 'the start is kept' in d.account['drawing'])


# Stage two

def test_where_the_generator_starts(w, tmp_path):
    classes = VAR(vocab=32, z=4, patch_nums=(1, 2, 4), depth=1, width=64, heads=2, num_classes=5); var, account = start_generator(classes, w.vqvae, 16)
    assert account.new == ['embed_proj.weight', 'embed_proj.bias'] and list(account.refused) == ['class_emb.weight'] and torch.equal(var.head.weight, classes.head.weight) and var is not classes
    save_var(classes, tmp_path/'var.safetensors'); again, account = start_generator(tmp_path/'var.safetensors', w.vqvae, 16); assert torch.equal(again.word_embed.weight, classes.word_embed.weight) and 'embed_proj.weight' in account.new
    fresh, words = start_generator(dict(depth=1, width=32), w.vqvae, 9, seed=1); assert fresh.d_embed == 9 and words == 'fresh weights' and torch.equal(fresh.head.weight, start_generator(dict(depth=1, width=32), w.vqvae, 9, seed=1)[0].head.weight)
    own, account = start_generator(w.var, w.vqvae, 16); assert not account.new and not account.refused and weights_mark(own) == weights_mark(w.var)
    with pytest.raises(ShapeError, match='one tokenizer'): start_generator(dict(depth=1, width=32, patch_nums=(1, 4)), w.vqvae, 16)


def test_an_entrance_of_another_width_is_fresh_as_a_whole(w, tmp_path):
    "A generator in memory and one in a file: weight and offset of the old entrance are both left behind, and the account says so."
    save_var(w.var, tmp_path/'var.safetensors'); (a, one), (b, two) = (start_generator(v, w.vqvae, 24, seed=3) for v in (w.var, tmp_path/'var.safetensors')); both = ['embed_proj.weight', 'embed_proj.bias']
    assert one.new == two.new == both and sorted(one.refused) == sorted(two.refused) == sorted(both) and not set(both) & {*one.matched, *two.matched} and two.name == 'var.safetensors' and weights_mark(a) == weights_mark(b)
    assert a.embed_proj.weight.shape == (64, 24) and not torch.equal(a.embed_proj.bias, w.var.embed_proj.bias) and torch.equal(a.head.weight, w.var.head.weight) and len(one.matched) == len(w.var.state_dict()) - 2
    same, account = start_generator(tmp_path/'var.safetensors', w.vqvae, 16); assert not account.new and weights_mark(same) == weights_mark(w.var)


def test_a_start_that_teaching_would_spoil_is_kept(w):
    d = w.make().align(w.train, w.valid, w.gallery, steps=10); d.learn_to_draw(w.train, w.valid, w.parts, steps=3, lr=10.)
    assert 'the start is kept' in d.account['drawing'] and weights_mark(d.painter.var) == weights_mark(w.var) and len(d.history['draw'])
    assert weights_mark(w.make().align(w.train, w.valid, w.gallery, steps=2).learn_to_draw(w.train, w.valid, w.parts, steps=30, lr=5e-3, batch_size=64).painter.var) != weights_mark(w.var)


def test_length_of_embeddings(w, d):
    assert Painter(w.vqvae, w.var, 'unit', 7.).condition(np.ones((1, 4)))[0, 0] == 3.5 and d.config['length'] == 'own' and 3 < d.reader.recording['reach'] < 5
    p = Painter(w.vqvae, w.var, 'unit'); e = d.embed(w.test[:4]); assert np.allclose(np.linalg.norm(p.condition(e), axis=1), 4, atol=1e-5) and np.allclose(p.condition(e), p.condition(3*e), atol=1e-6)
    assert torch.equal(p.paint(e, [1, 2, 3, 4]).img, p.paint(4*e, [1, 2, 3, 4]).img) and np.array_equal(Painter(w.vqvae, w.var).condition(e), e)


def test_pictures_of_another_size(w, tmp_path):
    "Pictures are brought to the tokenizer's size, drawings to theirs."
    parts = [toy('train', size=40)[1], toy('valid', size=40)[1]]; big = toy('test', size=40)[1]
    d = w.make(align=dict(steps=40, lr=5e-3, batch_size=64), teach=dict(steps=0)).fit(w.train, w.valid, parts, w.gallery); assert d.draw(w.test).shape == (50, 1, 40, 40, 3) and two_way(big.img, d.draw(w.test)[:, 0]) > .65
    assert d.trace(w.test[:2]).shape == (2, 3, 40, 40, 3) and d.ceiling(big[:2], w.zt).shape == (2, 1, 40, 40, 3)
    with pytest.raises(ShapeError, match='40 x 40'): d.ceiling(w.seen, w.zt)
    img = big.img[:3]; assert np.array_equal(to_side(img, 40), img) and to_side(img, (16, 20)).shape == (3, 16, 20, 3) and np.abs(to_side(img, 16).astype(int) - w.seen.img[:3]).mean() < 12


def test_drawing_fast(w, d, tmp_path, monkeypatch):
    "The fast way draws the same tokens and pictures, is reached from the decoder, and leaves no trace in its file."
    import copy, pickle
    from brainrecon.generators.sampling import sample
    p = copy.deepcopy(d.painter); assert p.brush.quick is None; e = d.embed(w.test[:5]); how = dict(guidance=2., top_p=.9); seeds = [3, 1, 4, 1, 5]
    want = sample(p.var, p.vqvae, torch.from_numpy(e), seeds=np.array(seeds), trace=True, **how); plain = p.paint(e, seeds, trace=True, **how); assert torch.equal(plain.img, want.img) and all(map(torch.equal, plain.trace, want.trace)) and p.brush.quick is None
    for more in (dict(), dict(batch=1), dict(batch=3), dict(batch=16)):
        for trace in (False, True):
            got = p.paint(e, seeds, trace=trace, fast=True, **more, **how); assert all(map(torch.equal, got.indices, want.indices)) and (got.img - want.img).abs().max() < 1e-5 and (got.trace is None) == (not trace)
    some = w.test[:5]; before, frames = d.draw(some, 2), d.trace(some); d.painter.fast = True
    try: fast, still = d.draw(some, 2), d.trace(some); assert d.painter.brush.quick is not None; saved = load_drawer(d.save(tmp_path/'d.safetensors')); small = len(pickle.dumps(d.painter.brush)) < 200
    finally: d.painter.fast = 'auto'; d.painter.brush.clear()
    assert small and np.abs(fast.astype(int) - before).max() <= 1 and np.abs(still.astype(int) - frames).max() <= 1 and (fast != before).mean() < .01 and np.array_equal(saved.draw(some, 2), before)
    half = Painter(p.vqvae, p.var, half='bfloat16'); half.paint(e, seeds, **how); assert half.brush.quick.half == torch.bfloat16 and {v.dtype for v in p.var.parameters()} == {torch.float32} and torch.equal(half.paint(e, seeds, half='', **how).img, want.img)
    with pytest.raises(ParameterError, match='16 bits'): half.paint(e, seeds, fast=False)


def test_teaching_after_a_fast_drawing(w, d):
    "What was made ready before is not used after."
    import copy
    p = copy.deepcopy(d.painter); p.fast = True; e = d.embed(w.test[:3]); p.paint(e, [1, 2, 3]); ready = p.brush.quick; ids = sorted(set(w.train.pictures)); codes = picture_codes(w.vqvae, w.parts, ids)
    p.teach((d.embed(w.train), np.searchsorted(ids, w.train.pictures.astype(str))), (d.embed(w.valid), picture_codes(w.vqvae, w.parts, w.valid.pictures.tolist())), codes, steps=5, lr=3e-3, batch_size=32, device='cpu'); assert p.brush.quick is None
    torch.nn.init.normal_(p.var.head.weight); fast, plain = (p.paint(e, [1, 2, 3], fast=how) for how in (True, False)); assert all(map(torch.equal, fast.indices, plain.indices)) and p.brush.quick is not ready


def test_packaged_painter_draws_as_before():
    "The generator of the library: below the work at which the fast way pays, so drawn bit for bit as `sample` draws; the fast way gives the same tokens."
    from brainrecon.decoders.avde import avde_folder
    from brainrecon.generators.sampling import sample
    if not (avde_folder/'card.json').is_file(): pytest.skip('no packaged parts')
    vqvae, var, _, _ = packaged_avde(); p = Painter(vqvae, var, 'unit'); e = np.random.default_rng(0).normal(size=(3, var.d_embed)).astype('float32'); seeds, how = [5, 2, 5], dict(guidance=2., top_k=100, top_p=.9)
    for trace in (False, True):
        want = sample(var, vqvae, torch.from_numpy(p.condition(e)), seeds=np.array(seeds), trace=trace, **how); got = p.paint(e, seeds, trace=trace, **how); assert torch.equal(got.img, want.img) and p.brush.quick is None
        for batch in (1, 2, 16): fast = p.paint(e, seeds, trace=trace, fast=True, batch=batch, **how); assert all(map(torch.equal, fast.indices, want.indices)) and (fast.img - want.img).abs().max() < 1e-5
        p.brush.clear()


# Stopping and going on

@pytest.mark.parametrize('stage', ['align', 'draw'])
def test_going_on_from_a_checkpoint_gives_identical_weights(w, stage, tmp_path):
    how = dict(align=dict(steps=12, every=4, batch_size=64, lr=5e-3), teach=dict(steps=12, batch_size=32, lr=3e-3, noise=.3))
    whole = w.fit(folder=tmp_path/'a', **how); shutil.copytree(tmp_path/'a', tmp_path/'b'); points = list_checkpoints(tmp_path/'b'/stage); assert len(points) == 2; remove_checkpoint(points[-1])
    if stage == 'align': shutil.rmtree(tmp_path/'b'/'draw')
    lines = []; again = w.fit(folder=tmp_path/'b', **how, log=lines.append); begun = int(points[0].stem.split('-')[1])
    assert 0 < begun < 12 and any(f'{stage} seed 0  goes on from step {begun}' in l for l in lines)
    assert weights_mark(again.reader.model) == weights_mark(whole.reader.model) and weights_mark(again.painter.var) == weights_mark(whole.painter.var)
    assert np.array_equal(again.draw(w.test[:5]), whole.draw(w.test[:5])) and again.account['drawing'] == whole.account['drawing']
    with pytest.raises(CheckpointError, match='other settings'): w.fit(folder=tmp_path/'b', **{**how, 'align': {**how['align'], 'lr': 1e-3}})


# The packaged parts

def test_packaged_parts(w, tmp_path):
    card = pack_avde(tmp_path/'p', w.vqvae, w.var, w.scale, made='by a test', concepts=['another']); vqvae, var, scale, read = packaged_avde(at=tmp_path/'p')
    assert read == card and card['concepts'] == sorted({*w.pics.concepts, 'another'}) and np.array_equal(scale(w.zt.z), w.scale(w.zt.z)) and vqvae.size == 16 and not vqvae.training and not var.training
    assert all(p.dtype == torch.float32 for p in (*vqvae.parameters(), *var.parameters())) and max((a - b).abs().max() for a, b in zip(var.parameters(), w.var.parameters())) < 1e-2
    d = AVDE(vqvae, var, scale, card=read, **tiny, device='cpu').align(w.train, w.valid, w.gallery, steps=2).learn_to_draw(w.train, w.valid, w.parts, steps=0); assert two_way(w.seen.img, d.ceiling(w.seen, w.zt)[:, 0]) > .75
    with pytest.raises(LeakError): d.refuse(['another'])
    exact = pack_avde(tmp_path/'q', w.vqvae, w.var, w.scale, half=False); assert weights_mark(packaged_avde(tmp_path/'q')[1]) == weights_mark(w.var) and exact['files']['generator.safetensors']['bytes'] > card['files']['generator.safetensors']['bytes']


def test_packaged_parts_that_are_absent_or_changed(w, tmp_path, monkeypatch):
    from brainrecon.decoders import avde
    with pytest.raises(MissingWeights, match='card.json, tokenizer.safetensors'): packaged_avde(at=tmp_path)
    monkeypatch.setattr(avde, 'avde_folder', tmp_path/'none')
    with pytest.raises(MissingWeights, match='come with the package'): AVDE()
    pack_avde(tmp_path/'none', w.vqvae, w.var, w.scale); assert AVDE().scale.meta['concepts'] == w.scale.meta['concepts'] and AVDE(targets='raw').scale is None and AVDE().config['length'] == 'unit'
    save_vqvae(w.vqvae, tmp_path/'none'/'tokenizer.safetensors', dict(other=1))
    with pytest.raises(CheckpointError, match="tokenizer.safetensors' is not the file"): packaged_avde(tmp_path/'none')
    for text, words in (('{}', 'does not describe'), ('[1]', 'does not describe'), ('{"files": {}, "concepts": []}', 'does not describe'), ('{', 'cannot be read')):
        (tmp_path/'none'/'card.json').write_text(text)
        with pytest.raises(ReconError, match=words): packaged_avde(tmp_path/'none')


# What is refused

def test_leaks(w, d):
    as_test = Trials(w.valid.x, w.valid.names, w.valid.table, 'eeg', 100., provenance=dict(w.valid.provenance, side='test'))
    for bad in (lambda: w.make().align(w.test, w.valid, w.gallery), lambda: w.make().align(w.train, as_test, w.gallery), lambda: w.make().fit(w.train, as_test, w.parts, w.gallery), lambda: w.make().fit(w.test, w.valid, w.parts, w.gallery),
                lambda: w.make().align(w.train, w.train[:40], w.gallery), lambda: w.make().fit(w.train, w.train[:40], w.parts, w.gallery)):
        with pytest.raises(LeakError): bad()
    for c in (w.train.concepts[:1], w.valid.concepts[:1]):
        with pytest.raises(LeakError, match='none may be tested'): d.refuse(c)
    d.refuse(w.test.concepts)
    half = w.make().align(w.train, w.valid, w.gallery, steps=2); other = w.train.table.picture.isin(sorted(set(w.train.pictures))[:40]).to_numpy()
    with pytest.raises(LeakError, match='test trials'): half.learn_to_draw(w.train, as_test, w.parts)
    with pytest.raises(LeakError, match='was aligned on'): half.learn_to_draw(w.train[~other], w.train[other], w.parts)
    with pytest.raises(ParameterError, match='shuffled|true'): half.learn_to_draw(shuffle_pairs(w.train), w.valid, w.parts)
    with pytest.raises(UnknownError, match='Stage two'): w.make().learn_to_draw(w.train, w.valid, w.parts)


def test_bad_calls(w, d):
    for how in (dict(sampling=dict(heat=1)), dict(length='long'), dict(targets='some'), dict(targets='raw')):
        with pytest.raises(ReconError): w.make(**how).align(w.train, w.valid, w.gallery, steps=1).learn_to_draw(w.train, w.valid, w.parts, steps=0)
    with pytest.raises(ParameterError, match='both or neither'): AVDE(w.vqvae)
    with pytest.raises(ParameterError, match='both or neither'): AVDE(var=w.var)
    with pytest.raises(ParameterError, match='gallery'): w.make().fit(w.train, w.valid, w.parts)
    with pytest.raises(ParameterError, match='gallery'): d.ceiling(w.seen)
    with pytest.raises(UnknownError, match='picture'): w.make().fit(w.train, w.valid, w.pics, w.gallery)
    with pytest.raises(UnknownError, match='score that chooses'): w.make().align(w.train, w.valid, w.gallery, monitor='beauty')
    with pytest.raises(UnknownError, match='encoder'): w.make(encoder='cortex').align(w.train, w.valid, w.gallery)
    with pytest.raises(UnknownError, match='fMRI'): encoder_plan('labram', 'fmri', None, {})
    with pytest.raises(ShapeError, match='the scale is for'): w.make().align(w.train, w.valid, Gallery(w.gallery.z[:, :5], w.gallery.pictures, w.gallery.concepts))
    for call in (w.make().draw, w.make().reconstruct, w.make().trace):
        with pytest.raises(UnknownError, match='not learned'): call(w.test)
    with pytest.raises(UnknownError, match='not learned'): w.make().embed(w.test)
    for call in (d.draw, d.reconstruct, d.trace):
        with pytest.raises(ShapeError, match='no trials'): call(w.test[[]])
        with pytest.raises(ShapeError, match='ndarray'): call(w.test.x)
    for bad in (0, True, 1.5, 1001):
        with pytest.raises(ParameterError): d.reconstruct(w.test[:1], bad)
    with pytest.raises(ReconError, match='guidance'): d.reconstruct(w.test[:1], guidance=-1)
    with pytest.raises(ReconError, match='option of drawing'): d.trace(w.test[:1], heat=1)


# What a stranger tried

fast = dict(steps=2, batch_size=64)


def test_a_drawer_that_was_read_back_keeps_the_scale_of_its_generator(w, tmp_path):
    "So that it can be aligned and taught again; also one whose reader was made by itself, and files that do not say whether a scale was given."
    from brainrecon.decoders.avde_swap import load_reader, save_reader
    axes = Standardise(8).fit(w.gallery[:180].z, w.pics); d = AVDE(w.vqvae, dict(depth=1, width=64, heads=2), axes, **tiny, device='cpu').align(w.train, w.valid, w.gallery, **fast).learn_to_draw(w.train, w.valid, w.parts, **fast)
    alone = AVDE(w.vqvae, d.painter.var, standardise=False, targets='scaled', device='cpu'); alone.reader = load_reader(save_reader(d.reader, tmp_path/'r.safetensors')); alone.learn_to_draw(w.train, w.valid, w.parts, steps=0)
    for one in (d, alone):
        again = load_drawer(one.save(tmp_path/'d.safetensors')); assert again.embed(w.test).shape == (50, 8) and again.config['standardise'] and np.array_equal(again.scale(w.zt.z), axes(w.zt.z))
        assert again.align(w.train, w.valid, w.gallery, **fast).embed(w.test).shape == (50, 8) and not again.learn_to_draw(w.train, w.valid, w.parts, steps=0).account['generator'].new
    meta, arrays = reader_parts(d.reader); assert meta.pop('given') and reader_back(meta, arrays).given is not None and reader_back(meta, arrays).fit(w.train, w.valid, w.gallery, **fast).embed(w.test).shape == (50, 8)
    meta, arrays = reader_parts(Reader(**tiny).fit(w.train, w.valid, w.gallery, **fast)); assert not meta['given'] and reader_back(meta, arrays).given is None


def test_a_generator_that_cannot_read_embeddings_is_not_left_as_it_is(w, tmp_path):
    "Fresh weights, classes, another width: each drew noise without a word; the jobs' draw_epochs=0 took the same road."
    from brainrecon.jobs.avde import Parts, Read, fit_chains, fit_settings
    from brainrecon.jobs.draw import Album
    classes = VAR(vocab=32, z=4, patch_nums=(1, 2, 4), depth=1, width=64, heads=2, num_classes=5); sizes = dict(depth=1, width=32); wide = Gallery(np.repeat(w.gallery.z, 2, 1), w.gallery.pictures, w.gallery.concepts)
    for start, words in ((sizes, 'the whole generator is new'), (classes, 'the map of the embedding is new'), (w.var, 'the map of the embedding is new')):
        d = AVDE(w.vqvae, start, **tiny, device='cpu').align(w.train, w.valid, wide, **fast)
        for how in (dict(steps=0), dict(epochs=0)):
            with pytest.raises(ParameterError, match=f'{words}.*\n.*noise.*steps > 0'): d.learn_to_draw(w.train, w.valid, w.parts, **how)
        assert d.painter is None and 'drawing' not in d.account
        with pytest.raises(UnknownError, match='learn_to_draw'): d.draw(w.test)
        with pytest.raises(ParameterError, match='noise'): fit_chains([Read('labram', 0, False, d.reader)], w.train, w.valid, Album(w.parts, w.seen), Parts(w.vqvae, start), ['var'], tmp_path, teach=fit_settings(dict(epochs=0, steps=0)), device='cpu')
    assert d.learn_to_draw(w.train, w.valid, w.parts, steps=1, batch_size=64, lr=1e-9).draw(w.test[:1]).shape == (1, 1, 16, 16, 3)
    spoilt = d.learn_to_draw(w.train, w.valid, w.parts, steps=2, batch_size=64, lr=10.).account['drawing']; assert ('it draws noise' in spoilt) == ('the start is kept' in spoilt)


def test_aligning_again_forgets_what_was_fitted_before(w, tmp_path):
    d = w.make(align=fast, teach=dict(steps=0)).fit(w.train, w.valid, w.parts, w.gallery); assert 'has met 206 concepts (26 to choose by), draws 16 x 16' in repr(d) and '26 chosen by' in d.account['concepts']
    d.align(w.train, w.valid, w.gallery, **fast); assert repr(d) == 'AVDE, aligned on 180 concepts, not taught to draw' and not hasattr(d, 'about') and set(d.account) == {'encoder', 'tokenizer', 'generator'} and set(d.history) == {'align'}
    for call in (lambda: d.reconstruct(w.test), lambda: d.trace(w.test), lambda: d.draw(w.test), lambda: d.save(tmp_path/'d.safetensors'), lambda: d.ceiling(w.seen, w.zt)):
        with pytest.raises(UnknownError, match='no painter yet.*\n.*Call `learn_to_draw'): call()
    d.learn_to_draw(w.train, w.valid, w.parts, steps=0); before, about = d.draw(w.test[:2]), d.about
    with pytest.raises(ParameterError): d.learn_to_draw(shuffle_pairs(w.train), w.valid, w.parts)      # refused, and what it was
    assert d.about == about and np.array_equal(d.draw(w.test[:2]), before)
    with pytest.raises(ParameterError): d.align(w.train, w.valid, w.gallery, lr=-1.)
    with pytest.raises(UnknownError, match='not learned'): d.embed(w.test)
    with pytest.raises(UnknownError, match='not learned'): d.draw(w.test)
    assert 'not fitted' in repr(d)


def test_published_weights_have_a_rate(w, tmp_path):
    "Windows of 200 samples are a second for LaBraM; fresh weights take any rate, and weights of one's own say theirs."
    def at(side, sfreq, reps=1): t = toy(side, reps)[0]; return Trials(np.tile(t.x, (1, 1, 10)), names, t.table, 'eeg', sfreq, provenance=t.provenance)
    with seeded(7): base = LaBraM(names, 200, 3, depth=1)
    torch.save(dict(model={f'student.{k}': v for k, v in base.state_dict().items() if not k.startswith(('head', 'fc_norm'))}), tmp_path/'labram-base.pth')
    def fit(sfreq, weights=tmp_path/'labram-base.pth', **more): return w.make(options=dict(patch=200) if weights else small_labram(200, 1), weights=weights, encoder='labram', **more).align(at('train', sfreq), at('valid', sfreq), w.gallery, steps=1, batch_size=64)
    with pytest.raises(ParameterError, match='have 250 samples a second.*taught with 200.*\n.*trials.resample.200.') as e: fit(250.)
    assert 'weights_sfreq=250' in e.value.do and fit(200.).account['encoder'].renamed and fit(250., weights_sfreq=250.).account['encoder'].renamed and fit(250., None).account['encoder'] == 'fresh weights'
    with pytest.raises(ParameterError, match='taught with 250'): fit(200., weights_sfreq=250.)


def test_no_end_of_a_trial_is_lost_without_a_word(w):
    for n, patch in ((20, 20), (200, 200), (240, 120), (250, 125), (400, 200), (1000, 200), (202, 101)): assert (small_labram(n)['patch'], small_labram(n)['fit']) == (patch, 'error') and LaBraM(names, n, 5, **small_labram(n, 1))(torch.zeros(1, 8, n)).shape == (1, 5)
    def long(side): t = toy(side)[0]; return Trials(np.tile(t.x, (1, 1, 11))[..., :211], names, t.table, 'eeg', 200., provenance=t.provenance)
    lines = []; assert small_labram(211)['fit'] == 'crop'; d = w.make(options=None, log=lines.append).align(long('train'), long('valid'), w.gallery, steps=1, batch_size=64)
    assert d.account['encoder'] == 'fresh weights; the last 11 of 211 samples are not read' and any('last 11 of 211' in l for l in lines) and 'not read' not in w.make().align(w.train, w.valid, w.gallery, **fast).account['encoder']


def test_what_is_no_gallery(w, d):
    for bad in (None, w.pics, w.test, w.gallery.z):
        for call in (lambda: w.make().align(w.train, w.valid, bad), lambda: d.retrieve(w.test, bad), lambda: Reader(scale=w.scale).fit(w.train, w.valid, bad), lambda: w.make().fit(w.train, w.valid, w.parts, bad), lambda: d.ceiling(w.seen, bad)):
            with pytest.raises(ParameterError, match='gallery.*\n.*make_gallery'): call()
    narrow = Gallery(w.zt.z[:, :5], w.zt.pictures, w.zt.concepts)
    with pytest.raises(ShapeError, match='5 wide; those of training were 16'): d.retrieve(w.test, narrow)
    for k in (1.5, '5', True, None):
        with pytest.raises(ParameterError, match='k='): d.retrieve(w.test, w.zt, k)
    with pytest.raises(ShapeError, match='0 pictures'): d.retrieve(w.test, w.zt, 0)
    told = w.make(card=dict(target=dict(encoder='lite0', layer='pooled+block2@4'))); words = 'avde.gallery_of.pictures..: features of lite0, pooled.block2@4'
    for call in (lambda: told.fit(w.train, w.valid, w.parts), lambda: told.align(w.train, w.valid, None), lambda: told.align(w.train, w.valid, Gallery(w.gallery.z[:, :5], w.gallery.pictures, w.gallery.concepts), **fast), lambda: told.align(w.train, w.valid, w.gallery, **fast).retrieve(w.test, narrow)):
        with pytest.raises(ReconError, match=words): call()
    with pytest.raises(ParameterError, match='no pictures'): told.gallery_of()
    for bad in (w.pics.img, [w.pics], w.test):
        with pytest.raises(ParameterError, match='`Pictures` were expected'): told.gallery_of(bad)


def test_options_that_do_not_exist_or_cannot_be_meant(w):
    d = w.make(align=fast).align(w.train, w.valid, w.gallery)
    for how, words in ((dict(epoch=1), "'epochs', 'steps', 'batch_size'.*\n.*'epochs'"), (dict(seed=1), 'AVDE.seed=1'), (dict(name='a'), 'option')):
        with pytest.raises(UnknownError, match=words): w.make(align={}).align(w.train, w.valid, w.gallery, **how)
    with pytest.raises(UnknownError, match="'epochs'"): d.learn_to_draw(w.train, w.valid, w.parts, epoch=1)
    with pytest.raises(UnknownError, match="'noise'"): d.learn_to_draw(w.train, w.valid, w.parts, nose=1)
    for how, words in ((dict(epochs=0), 'epochs=0'), (dict(epochs=1.5), 'epochs=1.5'), (dict(steps=-1), 'steps=-1'), (dict(batch_size=0), 'batch_size=0'), (dict(lr=0.), '0.0005'), (dict(lr='fast'), '0.0005'), (dict(warmup=100), 'share.*\n.*0.1'), (dict(weight_decay=-1), '0.05')):
        with pytest.raises(ParameterError, match=words): w.make(align={}).align(w.train, w.valid, w.gallery, **how)
    for how, words in ((dict(epochs=-1), 'epochs=-1'), (dict(lr=0.), '1e-05'), (dict(steps=.5), 'steps=0.5')):
        with pytest.raises(ParameterError, match=words): d.learn_to_draw(w.train, w.valid, w.parts, **how)
    assert w.make(align={}).align(w.train, w.valid, w.gallery, steps=1, epochs=0, floor=.1, clip=None).history['align'][-1]['step'] == 1


def test_seeds_parts_and_vectors_of_another_kind(w, d):
    for bad in ('a', [1, 2], 1.5, -1, True, None):
        for call in (d.reconstruct, d.trace, d.draw, lambda t, seed: d.ceiling(w.seen[:1], w.zt, seed=seed)):
            with pytest.raises(ParameterError, match='seed=.*\n.*a seed of its own'): call(w.test[:1], seed=bad)
    assert np.array_equal(d.draw(w.test[:1], seed=np.int64(3)), d.draw(w.test[:1], seed=3))
    for make in (lambda: AVDE(w.var, w.vqvae), lambda: Painter(w.var, w.vqvae)):
        with pytest.raises(ParameterError, match='changed places'): make()
    for make in (lambda: AVDE(1, w.var), lambda: AVDE(w.vqvae, 3.), lambda: AVDE(w.vqvae, w.var, w.gallery), lambda: Painter('tokenizer.safetensors', w.var), lambda: Painter(w.vqvae, dict(depth=1))):
        with pytest.raises(ParameterError, match='is of type'): make()
    e = d.embed(w.test[:2])
    with pytest.raises(ShapeError, match='x.None.'): d.painter.paint(e[0], [1])
    with pytest.raises(ShapeError, match='expected 16'): d.painter.paint(e[:, :5], [1, 2])


# The packaged weights

def card_words(vqvae): return vqvae.quantize.embedding.num_embeddings


@pytest.fixture(scope='module')
def packaged(): torch.set_num_threads(1); return packaged_avde()


def test_the_packaged_files_are_those_of_the_card(packaged):
    "Every file of the folder is one of the card's or the card, with its size; all of them together are small enough for a package."
    files, card = {p.name: p for p in avde_folder.iterdir()}, packaged[3]; assert set(files) == {'card.json', *avde_files} and set(card['files']) == set(avde_files)
    for f in avde_files: assert card['files'][f] == dict(sha256=sha256(files[f]), bytes=files[f].stat().st_size), f
    assert sum(p.stat().st_size for p in files.values()) < 8_000_000


def test_the_packaged_weights_saw_no_test_concept(packaged):
    "Nor any of the validation, which chose the step; and a decoder that starts from them knows what they saw."
    *_, scale, card = packaged; by = {s: set(load_pictures(s).concepts) for s in ('train', 'valid', 'test')}
    assert card['concepts'] == sorted(by['train']) and len(by['test']) == 200 and not by['test'] & {*card['concepts'], *scale.meta['concepts']}
    assert not by['valid'] & set(card['concepts']) and set(card['chosen_on']) == by['valid'] and AVDE(device='cpu').card['concepts'] == card['concepts']


def test_the_card_says_how_to_draw_and_how_it_was_made(packaged):
    vqvae, var, scale, card = packaged; how = card['sampling']; assert set(how) == {'guidance', 'top_k', 'top_p'} and how['guidance'] >= 0 and 0 <= how['top_k'] <= card_words(vqvae) and 0 <= how['top_p'] <= 1
    assert AVDE(device='cpu').config['sampling'] == how and AVDE(device='cpu', sampling=dict(top_p=.5)).config['sampling'] == how | dict(top_p=.5)
    assert card['target'] == packaged_target() and set(card['target']) == {'encoder', 'layer'} and card['how'] and card['size'] == vqvae.size and 'training concepts alone' in card['pictures'] and card['parameters']['noise'] >= 0
    assert tuple(var.patch_nums) == tuple(vqvae.quantize.patch_nums) and var.vocab == card_words(vqvae) and var.d_embed == len(scale.fitted['scale'])


def test_the_packaged_weights_do_what_the_card_says(packaged):
    "Copies and guesses of validation pictures, which nothing was trained on, computed again."
    vqvae, var, scale, card = packaged; pics = load_pictures('valid', size=vqvae.size); got = tokenizer_scores(vqvae, pics.img); assert abs(got['psnr'] - card['tokenizer']['psnr']) < .3 and abs(got['used'] - card['tokenizer']['used']) < .05
    z = scale(AVDE(device='cpu').gallery_of(load_pictures('valid')).z); words = picture_words(vqvae, pics)
    g, said = word_scores(var, vqvae, z, words), card['generator']; assert abs(g['loss'] - said['loss']) < .03 and abs(g['unconditional'] - said['unconditional']) < .1 and g['loss'] < g['unconditional'] - .15
    turned = word_scores(var, vqvae, np.roll(z, 1, 0), words); assert turned['loss'] > g['loss'] + .15 and g['top1'] > 20/card_words(vqvae)      # another picture's embedding does not help

@pytest.mark.parametrize('name', flat_encoders)
def test_flat_encoders_read_voxels(name):
    "fMRI may be read by every encoder that takes one list of numbers, and by no other."
    net = make_encoder(*encoder_plan(name, 'fmri', None, {}), [f'V{i}' for i in range(30)], (30,), 8).eval(); x = torch.randn(2, 30); assert net(x).shape == (2, 8) and not torch.equal(net(x)[0], net(x)[1])
    with pytest.raises(UnknownError, match='brain_mlp'): encoder_plan('nice', 'fmri', None, {})
