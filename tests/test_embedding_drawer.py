"""Any reader before one generator: the same drawings by the same protocol, chance under shuffling, parts that stand still, exact resumption, files, blurry pictures that are never hidden, and what is refused.

A fresh tiny generator says everything but whether drawings fit their pictures; the packaged one says that.
"""
import shutil
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.alignment.targets import Standardise
from brainrecon.core.checks import CheckpointError, LeakError, ParameterError, ReconError, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.data.embedded import load_embedded
from brainrecon.data.pictures import Pictures, load_pictures
from brainrecon.data.trials import Trials
from brainrecon.decoders.avde_stages import weights_mark
from brainrecon.decoders.drawing import CodeRidge, LinearDrawer, MeanDrawer, draw_seeds, drawers, load_drawer
from brainrecon.decoders.embedding_drawer import EmbeddingDrawer, blended, scaled
from brainrecon.decoders.hvf import HVF
from brainrecon.decoders.mindeye import MindEyeDecoder
from brainrecon.decoders.retrieval import ContrastiveDecoder, Gallery, RidgeDecoder, cosine, shuffle_pairs
from brainrecon.generators.var import VAR, initialise
from brainrecon.generators.vqvae import VQVAE

def toy(side, n, noise=.3):
    who = dict(train=0, valid=1, test=2)[side]; gen = np.random.default_rng(who); z = gen.normal(size=(n, 12)).astype('float32'); ids = [f'{side}{i:03d}/00' for i in range(n)]; mix = np.random.default_rng(99).normal(size=(12, 40))/4
    t = pd.DataFrame(dict(picture=ids, concept=[i[:-3] for i in ids], name=[i[:-3] for i in ids], split=side, exemplar=0, group=range(n))); x = (z @ mix + noise*gen.normal(size=(n, 40))).astype('float32')
    img = (128 + 50*z).clip(0, 255).astype('uint8').reshape(n, 2, 2, 3).repeat(8, 1).repeat(8, 2)
    return Trials(x, [f'v{i}' for i in range(40)], dict(picture=ids, concept=t.concept, trial=range(1000*who, 1000*who + n)), 'fmri', provenance=dict(simulated=True, recording='toy')), Pictures(img, t), Gallery(3*z + 2, ids, t.concept.tolist())

readers = dict(ridge=lambda: RidgeDecoder(), contrastive=lambda: ContrastiveDecoder('mlp', steps=40, batch_size=60, lr=5e-3, axes=0), mindeye=lambda: MindEyeDecoder(hidden=64, epochs=24, batch_size=32, lr=3e-3, warmer=10.), code=lambda: CodeRidge([1., 10., 100.]), brief=lambda: MindEyeDecoder(hidden=16, blocks=1, epochs=3, batch_size=50, warmer=10.))
little = dict(prior=dict(depth=1, heads=2, head=8, levels=20), teach=dict(steps=20, batch_size=32, every=5), denoise=dict(steps=4))

class World:
    "Random points that voxels mix, drawn by a fresh generator."
    def __init__(self):
        (self.train, self.pics, z), (self.valid, self.held, zv), (self.test, self.seen, self.zt) = toy('train', 150), toy('valid', 20), toy('test', 40); self.gallery, self.both = z + zv, [self.pics, self.held]; self.scale = Standardise(10).fit(z.z, self.pics)
        with seeded(0): self.vqvae = VQVAE(vocab=32, z=4, ch=16, ch_mult=(1,), blocks=1, patch_nums=(1, 2, 4), norm_groups=4, stem=4).eval(); self.var = initialise(VAR(vocab=32, z=4, patch_nums=(1, 2, 4), depth=1, width=64, heads=2, d_embed=10), gates=1., head=1.).eval()
    @property
    def parts(self): return self.vqvae, self.var, self.scale, dict(concepts=['before'], chosen_on=['chosen'], sampling=dict(guidance=1.))
    def make(self, reader='ridge', **how): return EmbeddingDrawer(readers[reader]() if isinstance(reader, str) else reader, **{**dict(parts=self.parts, device='cpu'), **how})
    def fit(self, reader='ridge', train=None, **how): return self.make(reader, **how).fit(train or self.train, self.valid, self.both, self.gallery)

@pytest.fixture(scope='module')
def w(): torch.set_num_threads(1); return World()

@pytest.fixture(scope='module')
def d(w): return w.fit()

@pytest.fixture(scope='module')
def p(w): return w.fit('brief', **little)

def near(d, w): e, z = d.embed(w.test), d.place(w.zt); return float((cosine(e, z).argmax(1) == np.arange(len(z))).mean())

@pytest.mark.parametrize('reader', ['ridge', 'contrastive', 'mindeye', 'code'])
def test_every_reader_finds_and_is_at_chance_when_shuffled(w, reader):
    d, lost = w.fit(reader), w.fit(reader, shuffle_pairs(w.train)); assert near(d, w) == np.mean([p == q[0] for p, q in zip(w.test.pictures, d.retrieve(w.test, w.zt, 1))]) > (.2 if reader == 'mindeye' else .4) and near(lost, w) < .15, (near(d, w), near(lost, w))      # chance 1/40
    assert lost.about['shuffled'] and d.embed(w.test).shape == (40, 10) and np.allclose(np.linalg.norm(d.decoder.z_scale(d.embed(w.test)), axis=1), d.own, rtol=1e-3) and d.label == d.decoder.kind in repr(d)

def test_the_prior_keeps_to_what_it_is_told(w):
    how = dict(prior=dict(depth=1, heads=4, head=16, dropout=.1, levels=50), teach=dict(steps=100, every=20, lr=3e-3)); d, lost = w.fit('mindeye', **how), w.fit('mindeye', shuffle_pairs(w.train), **how)
    own = lambda d: float(np.diag(cosine(d.embed(w.test), d.place(w.zt))).mean()); assert own(d) > .25 and abs(own(lost)) < .15 and near(lost, w) < .15, (own(d), own(lost))

def test_the_packaged_generator_and_shuffled_pairs():
    "Drawings fit their pictures, and those of the control do not: two-way in pixels, one in two by chance."
    s = load_embedded('fmri', exemplars=1, snr_db=-4.); train, valid, test = (t.average() for t in (s.train, s.valid, s.test.open('a test of the drawer'))); test = test[np.arange(0, 200, 8)]; both = [load_pictures(k, size=64) for k in ('train', 'valid')]; seen = load_pictures('test', size=64)
    img = seen.img[[list(seen.table.picture).index(i) for i in test.pictures]].reshape(25, -1).astype(float); g = EmbeddingDrawer(device='cpu').gallery_of(load_pictures('train'), load_pictures('valid'))
    def score(train): c = np.corrcoef(EmbeddingDrawer(device='cpu').fit(train, valid, both, g).draw(test)[:, 0].reshape(25, -1), img)[:25, 25:]; return float((c < np.diag(c)[:, None]).sum(1).mean()/24)
    right, wrong = score(train), score(shuffle_pairs(train)); assert right > .6 and abs(wrong - .5) < .15, (right, wrong)

def test_a_drawing_belongs_to_its_trial(w, d, p):
    for one in (d, p):
        whole = one.draw(w.test, 2, seed=1); assert whole.shape == (40, 2, 16, 16, 3) and whole.dtype == np.uint8 and np.array_equal(one.draw(w.test[[7, 3]], 2, seed=1), whole[[7, 3]]) and np.array_equal(one.draw(w.test, seed=1)[:, 0], whole[:, 0])
        assert not np.array_equal(one.draw(w.test, seed=2)[:, 0], whole[:, 0]) and not np.array_equal(whole[:, 0], whole[:, 1]) and one.ceiling(w.seen, w.zt).shape == (40, 1, 16, 16, 3)
    a = d.points(w.test, 3); b = p.points(w.test, 3); assert np.array_equal(a[:, 0], a[:, 2]) and not np.allclose(b[:, 0], b[:, 2]) and np.allclose(p.points(w.test[[5]], 3)[0], b[5], atol=1e-4)
    assert np.array_equal(d.draw(w.test), d.paint(d.code(w.test), 1, draw_seeds(w.test.table)))

def test_past_the_prior(w, p):
    "The same reader, as if there had never been a prior; the drawer itself stays as it is."
    bare, own = p.past_prior(), w.fit('brief'); assert np.array_equal(bare.draw(w.test, 2), own.draw(w.test, 2)) and bare.label == bare.about['label'] == 'mindeye' and p.label == p.about['label'] == 'mindeye + prior' and p.prior is not None and 'prior' not in bare.account and 'prior' in p.account

def test_only_the_length_of_an_answer_does_not_count(w, d):
    e = d.decoder.embed(w.test); assert np.allclose(d.aim(7*e), d.aim(e), atol=1e-5) and np.isfinite(d.aim(0*e)).all() and np.allclose(d.decoder.z_scale(d.aim(e))/np.linalg.norm(d.decoder.z_scale(d.aim(e)), axis=1)[:, None], e/np.linalg.norm(e, axis=1)[:, None], atol=1e-4)
    assert np.allclose(d.truth(w.seen, w.zt), w.scale(w.zt.z)) and d.reach == pytest.approx(float(np.median(np.linalg.norm(w.scale(w.gallery.of(w.train)), axis=1))))

def test_what_stands_still(w):
    marks = weights_mark(w.var), weights_mark(w.vqvae); one = w.make('brief', **little); told = []; before = one.decoder.fit
    def fit(*a, **k): before(*a, **k); told.append(weights_mark(one.decoder.model))
    one.decoder.fit = fit; one.fit(w.train, w.valid, w.both, w.gallery)
    assert marks == (weights_mark(w.var), weights_mark(w.vqvae)) and told == [weights_mark(one.decoder.model)] and not any(q.requires_grad for q in one.decoder.model.parameters())

class Killed(Exception): pass

def test_a_killed_run_goes_on_exactly(w, tmp_path, monkeypatch):
    "Stopped while the prior learns: the reader is taken as it was, and the prior goes on from its checkpoint."
    from brainrecon.core import fit; write, seen = fit.Fit.write, []; how = dict(little, folder=tmp_path/'k')
    def stop(self, s, row):
        write(self, s, row)
        if self.name == 'embedding prior' and s.step == 10: raise Killed
    monkeypatch.setattr(fit.Fit, 'write', stop)
    with pytest.raises(Killed): w.fit('brief', **how)
    monkeypatch.setattr(fit.Fit, 'write', write); again, whole = w.fit('brief', **how), w.fit('brief', **little); assert np.array_equal(again.embed(w.test), whole.embed(w.test)) and again.account == whole.account
    lost = w.fit('brief', shuffle_pairs(w.train), **how); assert {x.name for x in (tmp_path/'k').iterdir()} > {'read', 'prior'} and not np.array_equal(lost.embed(w.test), whole.embed(w.test))

@pytest.mark.parametrize('how', [dict(), dict(reader='brief', **little), dict(blend=True), dict(reader='contrastive', prior=little['prior'], teach=little['teach'], blend=True, share=.5)])
def test_files(w, tmp_path, how):
    how = dict(how); how |= dict(blend=LinearDrawer()) if how.pop('blend', False) else {}; one = w.fit(**how); path = one.save(tmp_path/'d.safetensors'); again = load_drawer(path); assert np.array_equal(again.draw(w.test[:5], 2), one.draw(w.test[:5], 2)) and again.about == one.about and again.config == one.config and again.label == one.label and again.account == one.account
    assert (tmp_path/'d-generator'/'card.json').is_file() and np.array_equal(again.ceiling(w.seen, w.zt), one.ceiling(w.seen, w.zt)); again.refuse(w.test.concepts); (tmp_path/'e').mkdir(); third = load_drawer(again.save(tmp_path/'e'/'d.safetensors')); assert np.array_equal(third.draw(w.test[:3]), one.draw(w.test[:3]))
    for name in [x.name for x in tmp_path.iterdir() if x.is_file() and x != path]:
        shutil.copy(tmp_path/name, tmp_path/'kept'); (tmp_path/name).unlink()
        with pytest.raises(CheckpointError, match='absent'): load_drawer(path)
        (tmp_path/name).write_bytes(b'x'*99)
        with pytest.raises(CheckpointError, match='not the'): load_drawer(path)
        shutil.move(tmp_path/'kept', tmp_path/name)
    assert np.array_equal(load_drawer(path).draw(w.test[:2]), one.draw(w.test[:2]))

def test_the_packaged_generator_is_not_copied(tmp_path):
    one = EmbeddingDrawer(device='cpu'); assert one.config['packaged'] and drawers['embedding'] is EmbeddingDrawer and one.config['sampling']['guidance'] == one.card['sampling']['guidance']

def test_a_blurry_picture_is_never_hidden(w, d):
    one = w.fit(blend=LinearDrawer()); soft = one.blend.draw(w.test)[:, 0]; sharp = d.draw(w.test, 2); mix = one.draw(w.test, 2); assert np.array_equal(mix, (.75*sharp + .25*soft[:, None]).round().astype('uint8')) and np.array_equal(mix, blended(sharp, soft))
    for words in (one.label, repr(one), one.about['label']): assert '25% linear laid over' in words
    assert 'laid over' not in d.label + repr(d) and np.array_equal(w.fit(blend=LinearDrawer(), share=0).draw(w.test[:3]), d.draw(w.test[:3])) and np.array_equal(w.fit(blend=LinearDrawer(), share=1.).draw(w.test[:3])[:, 0], soft[:3])
    given = LinearDrawer().fit(w.train, w.valid, w.both); assert np.array_equal(w.fit(blend=given).draw(w.test[:3]), mix[:3, :1]); lost = LinearDrawer().fit(shuffle_pairs(w.train), w.valid, w.both)
    for wrong in (lost, MeanDrawer().fit(w.train, w.valid, [Pictures(x.img[:, ::2, ::2], x.table) for x in w.both])):
        with pytest.raises(ParameterError, match='blurry'): w.fit(blend=wrong)
    with pytest.raises(ParameterError, match='blurry'): w.fit(train=shuffle_pairs(w.train), blend=given)

@pytest.mark.parametrize('a, b, share, kind', [((4, 2, 8, 8, 3), (4, 8, 8, 3), 2, ParameterError), ((4, 2, 8, 8, 3), (4, 8, 8, 3), '1', ParameterError), ((4, 2, 8, 8, 3), (4, 8, 9, 3), .5, ShapeError), ((4, 2, 8, 8, 3), (3, 8, 8, 3), .5, ShapeError), ((4, 2, 8, 8, 3), (4, 3, 8, 8, 3), .5, ShapeError), ((8, 8, 3), (8, 8, 3), .5, ShapeError), ((4, 8, 8, 3), (4, 2, 8, 8, 3), .5, ShapeError)])
def test_blends_that_do_not_fit(a, b, share, kind):
    with pytest.raises(kind): blended(np.zeros(a, 'uint8'), np.zeros(b, 'uint8'), share)
    with pytest.raises(ValuesError): blended(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3), 'uint8'))
    x, y = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 4, 3), dtype='uint8'); assert np.array_equal(blended(x, y), (.75*x + .25*y).round()) and np.array_equal(blended(x[:, 0], y[:, 0], .1), (.9*x[:, 0].astype('float32') + .1*y[:, 0].astype('float32')).round())

def test_who_was_met(w, d):
    assert {'before', *w.train.concepts} <= {*d.about['concepts']} and {'chosen', *w.valid.concepts} <= {*d.about['valid']}; d.refuse(w.test.concepts)
    for c in ('before', 'chosen', w.train.concepts[0], w.valid.concepts[0]):
        with pytest.raises(LeakError): d.refuse([c])

def test_readers_that_have_learned_before(w, d):
    g = scaled(w.gallery, w.scale); ready = RidgeDecoder().fit(w.train, w.valid, g); assert np.array_equal(w.fit(ready).draw(w.test[:3]), d.draw(w.test[:3]))
    with pytest.raises(ParameterError, match='shuffled'): w.fit(ready, shuffle_pairs(w.train))
    for wrong in (RidgeDecoder().fit(w.train, w.valid, w.gallery), RidgeDecoder().fit(w.train[:90], w.valid, g), RidgeDecoder().fit(w.train, w.valid, Gallery(g.z + 3, g.pictures, g.concepts))):
        with pytest.raises(CheckpointError, match='other features'): w.fit(wrong)
    one = w.make(); a = one.fit(w.train, w.valid, w.both, w.gallery).embed(w.test); b = one.fit(w.train[:90], w.valid, w.both, w.gallery).embed(w.test); assert not np.array_equal(a, b)      # it learns anew

def test_calls_that_do_not_fit(w, d):
    for call, kind in ((lambda: EmbeddingDrawer('ridge'), ParameterError), (lambda: EmbeddingDrawer(blend='linear'), ParameterError), (lambda: w.make(share=2), ParameterError), (lambda: w.make(prior=dict(width=3)), UnknownError), (lambda: w.make(teach=dict(stepz=3)), UnknownError), (lambda: w.make(teach=dict(seed=3)), UnknownError), (lambda: w.make(denoise=dict(stepz=3)), UnknownError), (lambda: d.retrieve(w.test, w.zt, 99), ShapeError), (lambda: d.retrieve(w.test, None), ParameterError), (lambda: d.retrieve(w.test, scaled(w.zt, w.scale)), ShapeError), (lambda: w.make(sampling=dict(heat=3)), UnknownError), (lambda: w.make(seed=-1), ParameterError), (lambda: w.make(prior=dict(depth=0), teach=little['teach']).fit(w.train, w.valid, w.both, w.gallery), ParameterError),
        (lambda: w.fit(HVF()), ParameterError), (lambda: w.make().draw(w.test), UnknownError), (lambda: w.make().fit(w.train, w.valid, w.both), ParameterError), (lambda: w.make().fit(w.train, w.train[:9], w.both, w.gallery), LeakError), (lambda: w.make().fit(w.train, w.valid, w.both, scaled(w.gallery, w.scale)), ShapeError), (lambda: d.draw(w.test[[]]), ShapeError), (lambda: d.draw(w.test, 0), ParameterError), (lambda: d.ceiling(w.seen), ParameterError), (lambda: d.gallery_of(w.pics), ParameterError), (lambda: d.embed(w.test.x), ReconError)):
        with pytest.raises(kind): call()
