"MindHier's decoder beyond its pages: what may move, runs that are stopped, captions, people, joined levels, other recordings, files."
from dataclasses import replace
from functools import partial, wraps
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.core.checks import LeakError, ParameterError, ReconError, ShapeError, UnknownError, seeded
from brainrecon.data.pictures import Pictures
from brainrecon.data.trials import Trials
from brainrecon.decoders import mindhier as module
from brainrecon.decoders.avde_stages import to_side
from brainrecon.decoders.drawing import draw_seeds, load_drawer
from brainrecon.decoders.hierarchy import HierarchyDecoder, Joined, Teller, as_level_gallery, level_likeness, one_person, released_hierarchy
from brainrecon.decoders.mindhier import MindHier, concept_folds, flat_told
from brainrecon.decoders.retrieval import load_decoder, save_decoder, shuffle_pairs
from brainrecon.encoders.hierarchy import HierarchyEncoder, load_hierarchy, save_hierarchy
from brainrecon.generators.sampling import still
from brainrecon.generators.switti import Switti
from brainrecon.generators.vqvae import VQVAE, to_signed, to_uint8

stage_one = dict(hidden=(48,), context=4, heads=2, ff=32, dropout=.1, epochs=25, batch_size=32, lr=3e-3, temperature=.2, noise=.2)
sizes = dict(depth=2, width=32, heads=2)

def world(n=(160, 20, 30), levels=3, tokens=3, d=8, voxels=40, text=0, seed=0, people=(1,)):
    "Things whose levels and pictures follow from a few causes, and responses that mix the causes."
    gen = np.random.default_rng(seed); k = sum(n); cause = gen.normal(size=(k, 6)); names = [f'thing{i:03d}' for i in range(k)]; ids = [f'{c}/0' for c in names]
    z = [np.tanh(cause @ gen.normal(size=(6, tokens*d))).reshape(k, tokens, d).astype('float32') for _ in range(levels)]
    words = None if not text else np.stack([z[-1][:, :1] @ gen.normal(size=(d, d)).astype('float32') + c for c in range(text)], 1).repeat(4, 2)
    g = as_level_gallery(z, ids, names, words); img = np.clip(128 + 60*np.repeat(np.repeat((cause @ gen.normal(size=(6, 12))).reshape(k, 2, 2, 3), 8, 1), 8, 2), 0, 255).astype('uint8')
    mix = [gen.normal(size=(6, voxels)) for _ in people]; sides, at = [], 0
    for m in n:
        x = np.concatenate([cause[at:at+m] @ w + .3*gen.normal(size=(m, voxels)) for w in mix]).astype('float32'); rows = [i for _ in people for i in range(at, at + m)]
        sides.append(Trials(x, [f'{"VA"[i % 2]}-{i}' for i in range(voxels)], dict(picture=[ids[i] for i in rows], concept=[names[i] for i in rows], subject=np.repeat(people, m)), 'fmri', provenance=dict(simulated=True))); at += m
    return *sides, g, Pictures(img, pd.DataFrame(dict(picture=ids, concept=names, exemplar=0, name=names, group=names, split=['train']*n[0] + ['valid']*n[1] + ['test']*n[2])))

@pytest.fixture(scope='module')
def w(): return world()

@pytest.fixture(scope='module')
def tokenizer():
    with seeded(0): return VQVAE(vocab=32, z=8, ch=8, ch_mult=(1, 1), blocks=1, norm_groups=4, stem=4, patch_nums=(1, 2)).eval()

@pytest.fixture(scope='module')
def brain(w): return HierarchyDecoder(**stage_one).fit(*w[:2], w[3], device='cpu')

def fitted(w, tokenizer, brain=None, steps=12, **how):
    return MindHier(dict(sizes, **how.pop('sizes', {})), tokenizer, brain, align=stage_one | dict(epochs=5), teach=dict(steps=steps, batch_size=16, lr=3e-3) | how.pop('teach', {}), sampling=dict(guidance=1., top_k=0, top_p=0.), device='cpu', **how).fit(w[0], w[1], w[4], w[3])

same = lambda a, b: a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

# ---- stage one

def test_levels_are_read_and_the_control_reads_nothing(w, brain):
    train, valid, test, g, _ = w; control = HierarchyDecoder(**stage_one).fit(shuffle_pairs(train), valid, g, device='cpu')
    assert min(level_likeness(brain, test, g)) > .7 and max(level_likeness(control, test, g)) < .68

@pytest.mark.parametrize('loss, moved', [('cascade', True), ('terminal', True), ('seed', False)])
def test_what_each_loss_teaches(w, loss, moved):
    "The projection of the picture is taught by the terms of the picture, which the seed's loss does not have."
    train, valid, _, g, _ = w; d = HierarchyDecoder(**stage_one | dict(loss=loss, epochs=1)); d.prepare(train, valid, g); d.recording |= dict(people=['1'], targets=dict(levels=3, tokens=3, width=8, text_tokens=0)); d.build(); start = {k: v.clone() for k, v in d.model.state_dict().items()}
    d.fit(train, valid, g, device='cpu', keep='last'); now = d.model.state_dict()
    assert not torch.equal(start['image_decoder.query'], now['image_decoder.query']) and (not torch.allclose(start['image_proj.weight'], now['image_proj.weight'], atol=2e-3)) is moved

class Stop(Exception): pass

def test_stopped_and_gone_on_with_it_is_the_same(w, tmp_path, monkeypatch):
    train, valid, _, g, _ = w; how = stage_one | dict(epochs=6); whole = HierarchyDecoder(**how).fit(train, valid, g, tmp_path/'whole', device='cpu'); calls, real = [], HierarchyDecoder.loss
    def stop(self, model, batch):
        calls.append(1)
        if len(calls) == 17: raise Stop
        return real(self, model, batch)
    monkeypatch.setattr(HierarchyDecoder, 'loss', stop)
    with pytest.raises(Stop): HierarchyDecoder(**how).fit(train, valid, g, tmp_path/'cut', device='cpu')
    lines = []; monkeypatch.undo(); again = HierarchyDecoder(**how).fit(train, valid, g, tmp_path/'cut', lines.append, device='cpu')
    assert any('goes on from step' in l for l in lines) and same(whole.model.state_dict(), again.model.state_dict()) and np.array_equal(whole.embed(valid), again.embed(valid))

def test_captions_change_with_the_step_and_teach_the_half_for_text():
    train, valid, test, g, _ = world(text=3); d = HierarchyDecoder(**stage_one | dict(epochs=2, text_levels=2))
    real = g.text; wanted = d.fit(train, valid, g, device='cpu'); assert real.shape == (210, 3, 4, 8) and wanted.model.text_decoder.query.shape == (4, 8) and wanted.read(test).text.shape == (30, 4, 8)
    d.data, d.steps = (d.flat(train), g.rows(train.pictures), g, None), 9
    with torch.no_grad(): d.model.eval(); terms = [float(d.loss(d.model, (torch.arange(8), torch.tensor(s/8)))['mse_text']) for s in range(4)]
    assert len(set(terms[:3])) == 3 and terms[0] == terms[3]
    with pytest.raises(ShapeError, match='joined'): g + as_level_gallery(g.levels, g.pictures, g.concepts)
    with pytest.raises(ShapeError, match='captions of width 4'): as_level_gallery(g.levels, g.pictures, g.concepts, g.text[:][..., :4])

def test_people_have_maps_of_their_own(w):
    train, valid, test, g, _ = world(people=('a', 'b')); d = HierarchyDecoder(**stage_one).fit(train, valid, g, device='cpu')
    assert list(d.model.people) == ['a', 'b'] and 'fMRI_encoder.ridge.1.weight' in d.model.state_dict()
    mine = [i for i, s in enumerate(test.table.subject) if s == 'a']; assert np.allclose(d.embed(test)[mine], d.embed(test[mine]), atol=1e-5)
    turned = replace(test, table=test.table.assign(subject=['b' if s == 'a' else 'a' for s in test.table.subject])); assert min(level_likeness(d, test, g)) > max(level_likeness(d, turned, g)) + .15
    with pytest.raises(UnknownError, match='person'): d.read(replace(test, table=test.table.assign(subject='c')))
    with pytest.raises(ParameterError, match='one person at a time'): Teller(d.model)
    for levels in (0, 4, 'all'):
        with pytest.raises(ParameterError): Teller(encoder(), levels)

def test_regions_by_name_and_by_place(w, tmp_path):
    train, valid, test, g, _ = w; how = stage_one | dict(epochs=2); by_name = HierarchyDecoder(regions='names', **how).fit(train, valid, g, device='cpu'); by_place = HierarchyDecoder(regions={'V': range(0, 40, 2), 'A': np.arange(40) % 2 == 1}, **how).fit(train, valid, g, device='cpu')
    assert np.array_equal(by_name.embed(test), by_place.embed(test)) and np.array_equal(load_decoder(by_place.save(tmp_path/'r.safetensors')).embed(test), by_place.embed(test))

@pytest.mark.parametrize('change, words', [(dict(epochs=0), 'epochs'), (dict(noise=-1), 'noise'), (dict(lr='fast'), 'lr'), (dict(hidden=()), 'hidden'), (dict(regions={'V': [50]}), 'V'), (dict(regions={'V': []}), 'V'), (dict(precision='half'), 'precision')])
def test_wrong_settings(w, change, words):
    with pytest.raises(ReconError, match=words): HierarchyDecoder(**stage_one | change).fit(w[0], w[1], w[3], device='cpu')

def test_joined_levels_stay_on_disk(tmp_path):
    a = np.lib.format.open_memmap(tmp_path/'a.npy', 'w+', 'float32', (5, 3, 4)); a[:] = np.arange(60).reshape(5, 3, 4); j = Joined(Joined(a, a), a[:2])
    assert j.shape == (12, 3, 4) and len(j.arrays) == 3 and isinstance(j.arrays[0], np.memmap) and isinstance(j.flat().arrays[0], np.memmap)
    for rows in (3, -1, slice(2, 9, 3), [11, 0, 0, 6], np.arange(12) % 5 == 0): assert np.array_equal(j[rows], np.concatenate([a, a, a[:2]])[rows])
    with pytest.raises(IndexError): j[12]

# ---- released files as brain sides

like_release = dict(tokens=3, width=8, levels=3, text_tokens=4, text_levels=2, heads=2, ff=32, hidden=(24, 12), context=4)   # the class of the release, in small
def encoder(voxels=40, seed=5, **more):
    with seeded(seed): return HierarchyEncoder(voxels, **like_release | more).eval()
def released_file(at, net): torch.save(dict(epoch=99, model_state_dict={f'module.{k}': v for k, v in net.state_dict().items()}, lr=1e-4), at); return at

def test_a_released_file_is_a_brain_side(w, tokenizer, tmp_path):
    "Its levels are those of the file, number for number, on voxels as they come; it goes into a file of ours and into stage two."
    train, valid, test, g, _ = w; file = released_file(tmp_path/'last-hierarchy-vitl.pth', encoder()); d = released_hierarchy(file, train, g, heads=2); own = load_hierarchy(file, heads=2)[0]; x = 7*torch.from_numpy(test.x[:30]) + 2
    with torch.no_grad(): straight = own(torch.cat([x, x[-1:], x[-1:]]))     # blocks of 32, the last row repeated
    said = d.read(replace(test, x=x.numpy())); assert all(torch.equal(a, b[:30]) for a, b in zip((*said.levels, said.image, said.text), (*straight.levels, straight.image, straight.text)))
    assert same(d.model.state_dict(), own.state_dict()) and d.recording['people'] == ['1'] and d.recording['targets'] == dict(levels=3, tokens=3, width=8, text_tokens=4) and not any(p.requires_grad for p in d.model.parameters())
    again = load_decoder(save_decoder(d, tmp_path/'ours.safetensors')); assert np.array_equal(again.embed(test), d.embed(test)) and again.recording == d.recording and torch.equal(again.told(test).tokens[0], d.told(test).tokens[0])
    assert d.retrieve(test[:3], g[180:], 2) == again.retrieve(test[:3], g[180:], 2)
    with pytest.raises(LeakError): again.refuse(train.concepts[:1])
    again.refuse(test.concepts); m = fitted(w, tokenizer, again, 2); assert m.draw(test[:2]).shape[0] == 2 and 'released' in m.account['brain']
    back = load_drawer(m.save(tmp_path/'m.safetensors')); back.device = 'cpu'; assert np.array_equal(back.draw(test[:2]), m.draw(test[:2])) and back.brain.recording['released'] == d.recording['released']

@pytest.mark.parametrize('regions', [False, True])
def test_one_of_several_people(w, tmp_path, regions):
    train, _, test, g, _ = w; people = {'a': 30, 'b': 40}; net = encoder(people, regions={p: dict(V=range(0, n, 2), A=np.arange(n) % 2 == 1) for p, n in people.items()} if regions else None)
    x = torch.from_numpy(test.x[:5])
    with torch.no_grad(): want = net(x, 'b'); got = one_person(net, 1)(x)
    assert all(torch.equal(a, b) for a, b in zip(got.levels, want.levels)) and torch.equal(got.text, want.text) and list(one_person(net, 0).people.values()) == [30]
    if regions: save_hierarchy(tmp_path/'r.safetensors', net)
    file = tmp_path/'r.safetensors' if regions else released_file(tmp_path/'r.pth', net); d = released_hierarchy(file, train, g, subject=2, heads=2); Teller(d.model)
    again = load_decoder(d.save(tmp_path/'d.safetensors')); assert torch.equal(again.read(test).levels[0], d.read(test).levels[0]) and np.allclose(d.read(test[:5]).levels[2], want.levels[2], atol=1e-5)
    for subject, words in ((0, r'1 \(30 voxels\), 2 \(40 voxels\)'), (3, 'place of one'), (1, 'reads 30'), (-1, 'subject')):
        with pytest.raises(ReconError, match=words): released_hierarchy(file, train, g, subject=subject, heads=2)

@pytest.mark.parametrize('sizes, words', [(dict(tokens=4), 'tokens 3'), (dict(width=16), 'width 8'), (dict(levels=2), 'levels 3')])
def test_released_files_for_other_levels(w, tmp_path, sizes, words):
    with pytest.raises(ShapeError, match=words): released_hierarchy(released_file(tmp_path/'r.pth', encoder(**sizes)), w[0], w[3], heads=2)

def test_released_files_and_other_trials(w, tmp_path):
    train, _, test, g, _ = w; file = released_file(tmp_path/'r.pth', encoder())
    with pytest.raises(ShapeError, match='30 voxels'): released_hierarchy(file, replace(train, x=train.x[:, :30], names=train.names[:30]), g, heads=2)
    with pytest.raises(ParameterError, match='2 people'): released_hierarchy(file, world(people=('a', 'b'))[0], g, heads=2)
    with pytest.raises(ParameterError, match='level_gallery'): released_hierarchy(file, train, None, heads=2)

# ---- stage two

def test_the_brain_steers_the_words_and_stands_still(w, tokenizer, brain):
    "The generator guesses the words of held-out pictures better when it is told; nothing but the generator moves."
    before = {k: v.clone() for k, v in (*brain.model.state_dict().items(), *tokenizer.state_dict().items())}; m = fitted(w, tokenizer, brain, 150)
    assert all(torch.equal(v, before[k]) for k, v in (*brain.model.state_dict().items(), *tokenizer.state_dict().items()))
    h = m.history['draw']; row = next(r for r in h if r['step'] == h.best['step']); assert row['valid_loss'] < .95*row['valid_unconditional']

def test_each_scale_is_told_its_level(w, tokenizer, brain):
    "Of two scales and three levels: a change of a level reaches the scale that is told it, and no other; the shallowest, or the deepest in the other order, is not heard."
    for order, heard in (('deep_to_coarse', [3, 2]), ('fine_to_coarse', [1, 2])):
        m = fitted(w, tokenizer, brain, 2, sizes=dict(order=order)); told = m.brain.told(w[2][:4])
        with still(m.switti), torch.no_grad():
            x = torch.zeros(4, m.switti.length - 1, m.switti.z); base = m.switti(told, x)
            for level in (1, 2, 3):
                changed = [t.clone() for t in told.tokens]; changed[level-1] += torch.randn_like(changed[level-1]); new = m.switti(module.Told(told.pooled, changed), x)
                assert [not torch.equal(new[:, a:e], base[:, a:e]) for a, e in m.switti.spans] == [level == h for h in heard]

def test_a_drawing_does_not_depend_on_its_neighbours(w, tokenizer, brain):
    m = fitted(w, tokenizer, brain); test = w[2]; many = m.draw(test, n=2, seed=3)
    assert np.array_equal(m.draw(test[4:9], n=2, seed=3), many[4:9]) and np.array_equal(m.trace(test[4:6], seed=3)[:, -1], many[4:6, 0]) and not np.array_equal(m.draw(test, seed=4)[:, 0], many[:, 0])
    told = m.brain.told(test); assert np.array_equal(m.code(test), flat_told(told)) and np.array_equal(m.paint(m.code(test)[4:5], 1, draw_seeds(test[4:5].table, 1, 3))[0, 0], many[4, 0])

@pytest.mark.parametrize('how', [{}, dict(batch=7), dict(fast=True), dict(fast=True, batch=7)])
def test_drawings_are_made_a_batch_at_a_time(w, tokenizer, brain, monkeypatch, how):
    "As all at once, bit by bit; no more than a batch is told, and all of it as 8 bits before the next."
    m = fitted(w, tokenizer, brain, 2); test, n = w[2][:13], 3; codes, seeds = m.code(test), draw_seeds(test.table, n, 5); tell = Teller(m.brain.model); tell(torch.zeros(1, 40)); told = module.as_told(np.repeat(codes, n, 0), 3, 8, tell.none)
    whole = m.brush(m.switti, m.vqvae, told, seeds=seeds.reshape(-1), trace=True, **m.how_to_draw(how)); seen, real = [], type(m.brush).__call__
    def brush(self, switti, vqvae, told, **k): seen.append(len(told)); return real(self, switti, vqvae, told, **k)
    monkeypatch.setattr(type(m.brush), '__call__', brush); got = m.render(codes, n, seeds, how, True)
    want = np.stack([to_side(to_uint8(2*img.float() - 1), m.about['shape']) for img in whole.trace], 1).reshape(13, n, 2, *m.about['shape'], 3); assert np.array_equal(got, want)
    assert sum(seen) == 39 and max(seen) == how.get('batch', 16) and np.array_equal(m.reconstruct(test, n, 5, **how), got[:, :, -1])
    with pytest.raises(ParameterError, match='batch'): m.reconstruct(test, batch=0)

def test_cuts_are_parts_of_the_pictures(w, tokenizer):
    "Each cut is a part of the enlarged picture, as tall and wide as the picture was; seeds and names decide, not neighbours."
    ids = w[4].table.picture.tolist()[:5]; cuts = module.cut_codes(tokenizer, [w[4]], ids, 1.125, 6, 3); big = to_side(w[4].img[:5], 18); assert cuts.shape == (5, 6, 5) and cuts.dtype == np.int32
    for img, row in zip(big, cuts):
        every = {tuple(torch.cat(tokenizer.indices(to_signed(img[None, a:a+16, b:b+16])), 1)[0].tolist()) for a in range(3) for b in range(3)}; assert {tuple(r) for r in row.tolist()} <= every
    assert np.array_equal(module.cut_codes(tokenizer, [w[4]], ids[3:], 1.125, 6, 3), cuts[3:]) and not np.array_equal(module.cut_codes(tokenizer, [w[4]], ids, 1.125, 6, 4), cuts)
    for crop, crops in ((.9, 2), (1.01, 2), (9, 2), ('big', 2), (1.2, 0), (1.2, 1.5)):
        with pytest.raises(ParameterError): MindHier(sizes, tokenizer, teach=dict(crop=crop, crops=crops))

def test_learning_from_cuts(w, tokenizer, brain, monkeypatch):
    "Cuts are what is learned from, whole pictures what is chosen by; crop=1 is what no option is."
    seen, real = {}, module.train_generator
    @wraps(real)
    def train(switti, vqvae, x, words, rows, valid, *a, **k): seen.update(words=words, valid=valid[1]); return real(switti, vqvae, x, words, rows, valid, *a, **k)
    monkeypatch.setattr(module, 'train_generator', train); plain = fitted(w, tokenizer, brain); codes = seen['words']; one = fitted(w, tokenizer, brain, teach=dict(crop=1, crops=3)); assert np.array_equal(seen['words'], codes) and same(plain.switti.state_dict(), one.switti.state_dict())
    held = seen['valid']; m = fitted(w, tokenizer, brain, 40, teach=dict(crop=1.25, crops=3)); ids = sorted(w[0].pictures); assert np.array_equal(seen['words'], module.cut_codes(tokenizer, [w[4]], ids, 1.25, 3)) and np.array_equal(seen['valid'], held) and '3 random cuts' in m.account['pictures'] and 'pictures' not in plain.account

@pytest.mark.parametrize('teach', [{}, dict(crop=1.25, crops=3)])
def test_stage_two_stopped_and_gone_on_with(w, tokenizer, brain, tmp_path, monkeypatch, teach):
    fitted = partial(globals()['fitted'], teach=teach); whole = fitted(w, tokenizer, brain, folder=tmp_path/'whole'); calls, real = [], Switti.forward
    def stop(self, *a, **k):
        calls.append(self.training)
        if sum(calls) == 8: raise Stop
        return real(self, *a, **k)
    monkeypatch.setattr(Switti, 'forward', stop)
    with pytest.raises(Stop): fitted(w, tokenizer, brain, folder=tmp_path/'cut')
    monkeypatch.undo(); again = fitted(w, tokenizer, brain, folder=tmp_path/'cut'); assert same(whole.switti.state_dict(), again.switti.state_dict()) and np.array_equal(whole.draw(w[2]), again.draw(w[2]))

def test_crossed_encoders_never_met_the_concept(w, tokenizer, monkeypatch):
    met, real = [], HierarchyDecoder.fit
    def fit(self, train, *a, **k): met.append(set(train.concepts)); return real(self, train, *a, **k)
    monkeypatch.setattr(HierarchyDecoder, 'fit', fit); m = fitted(w, tokenizer, steps=3, crossed=3, more=w[0][:20]); fold = concept_folds(w[0].concepts, 3)
    assert len(met) == 4 and met[0] == set(w[0].concepts) and all(met[i + 1] == {c for c in met[0] if fold[c] != i} for i in range(3)) and m.draw(w[2][:2]).shape[0] == 2

def test_two_stages_in_one_call_and_back_from_a_file(w, tokenizer, tmp_path):
    m = fitted(w, tokenizer, folder=tmp_path/'run'); assert {'levels', 'draw'} <= {p.name for p in (tmp_path/'run').iterdir()}
    again = load_drawer(m.save(tmp_path/'m.safetensors')); again.device = 'cpu'; assert np.array_equal(again.draw(w[2]), m.draw(w[2])) and again.about == m.about and again.how == m.how
    with pytest.raises(LeakError): again.refuse(w[0].concepts[:1])
    with pytest.raises(LeakError): again.refuse(w[1].concepts[:1])
    again.refuse(w[2].concepts)

@pytest.mark.parametrize('how, words', [(dict(sizes=dict(levels=2)), 'levels'), (dict(sizes=dict(context_dim=4)), 'width'), (dict(sizes=dict(patch_nums=(1, 2, 3))), 'scales'), (dict(sizes=dict(order='backwards')), 'order')])
def test_parts_that_do_not_fit(w, tokenizer, brain, how, words):
    with pytest.raises(ReconError, match=words): fitted(w, tokenizer, brain, 1, **how)

def test_refused(w, tokenizer, brain):
    with pytest.raises(ReconError): MindHier(sizes, tokenizer, HierarchyDecoder(**stage_one))
    with pytest.raises(LeakError, match='validation'): MindHier(sizes, tokenizer, brain, teach=dict(steps=1), device='cpu').fit(w[0][20:], w[0][:20], w[4], w[3])
    with pytest.raises(ReconError, match='gallery'): MindHier(sizes, tokenizer, align=stage_one, teach=dict(steps=1), device='cpu').fit(w[0], w[1], w[4])
    with pytest.raises(ReconError, match='not learned'): MindHier(sizes, tokenizer).draw(w[2])
    with pytest.raises(ReconError, match='voxels'): fitted(w, tokenizer, brain, 1).draw(replace(w[2], x=w[2].x[:, :30], names=w[2].names[:30]))
