"""Training of tokenizers and generators: parts of the loss that can be left out, who learns from whom, dead words, going on, chimeras, drawings that are kept, noise, smoothing, scores."""
import copy
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from brainrecon.core.batches import Batches
from brainrecon.core.checkpoint import load_checkpoint
from brainrecon.core.checks import CheckpointError, LeakError, ParameterError, ShapeError, seeded
from brainrecon.data.pictures import Pictures, draw_exemplars, load_pictures, resized
from brainrecon.encoders.vision import Encoder
from brainrecon.generators import training
from brainrecon.generators.training import (Critic, EarlyMaps, TokenizerTask, as_training, blurred, by_scale, chimeras, exemplar_set, generator_groups, picture_words, tokenizer_loss,
    tokenizer_scores, tokenizer_weights, train_generator, train_tokenizer, word_scores)
from brainrecon.generators.var import VAR, initialise
from brainrecon.generators.vqvae import VQVAE, to_signed

quiet = dict(log=None, device='cpu')
sizes = dict(vocab=32, z=4, ch=8, ch_mult=(1,), blocks=1, patch_nums=(1, 2, 4), norm_groups=4, stem=4)

class Small(Encoder):
    "A picture network of two blocks, with weights by chance."
    layers = ['block0', 'block1', 'pooled']
    def __init__(self, seed=0):
        with seeded(seed): net = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1))
        super().__init__(net, f'small{seed}', 32)
    def levels(self, x): a = self.net[0](x).relu(); b = self.net[1](a).relu(); return [a, b], b.mean((2, 3)), None

def tokenizer(seed=0, **how):
    with seeded(seed): return VQVAE(**{**sizes, **how})

def fields(n=64, seed=0):
    "Pictures of 16 coloured fields."
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), 'uint8').repeat(4, 1).repeat(4, 2)

img, held = fields(), fields(12, 1)

def same(a, b): a, b = a.state_dict(), b.state_dict(); return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def trained(folder=None, vqvae=None, **how):
    "A tokenizer after a few steps, and what was said of them."
    vqvae = vqvae or tokenizer(); h = train_tokenizer(vqvae, img, held, folder, **{**dict(plain=4, steps=8, batch_size=16, lr=3e-3, every=0), **quiet, **how}); return vqvae, h

def towards(out, part, what):
    "The gradient that one term gives to these weights, all in a row; None if it does not depend on any."
    g = torch.autograd.grad(out[part], list(what.parameters()), retain_graph=True, allow_unused=True) if out[part].requires_grad else [None]
    return None if all(v is None for v in g) else torch.cat([v.flatten() for v in g if v is not None])


# ---- the parts of the loss

def test_each_part_can_be_left_out():
    task, x, e = TokenizerTask(tokenizer(), Critic(8, 2)), to_signed(img[:6]), Small(); w = dict(tokenizer_weights)
    out = tokenizer_loss(task, x, True, w, EarlyMaps(e, 2)); assert list(out) == ['pixel', 'words', 'maps', 'critic', 'fool']
    assert list(tokenizer_loss(TokenizerTask(task.vqvae), x, True, w)) == ['pixel', 'words'] and list(tokenizer_loss(task, x, False, w)) == ['pixel']
    rec = task.vqvae(x)[0]; pixels = lambda a, b: a*(rec - x).abs().mean() + b*(rec - x).square().mean()
    for a, b in ((1., 1.), (0., 1.), (3., 0.)): torch.testing.assert_close(tokenizer_loss(task, x, True, dict(w, pixel=a, square=b))['pixel'], pixels(a, b))
    doubled = tokenizer_loss(task, x, True, dict(w, perceptual=.2, critic=.04), EarlyMaps(e, 2))
    for k in ('maps', 'fool'): torch.testing.assert_close(doubled[k], 2*out[k])
    none = tokenizer_loss(task, x, True, dict(w, perceptual=0., critic=0.), EarlyMaps(e, 2)); plain = tokenizer_loss(TokenizerTask(task.vqvae), x, True, w); grads = lambda o: [g for g in torch.autograd.grad(sum(o.values()), list(task.vqvae.parameters()), allow_unused=True) if g is not None]
    a, b = grads(none), grads(plain); assert len(a) == len(b) > 40 and all(map(torch.equal, a, b))

def test_early_maps():
    "By hand: features of each place of length one, the mean squared distance, and a gradient to the copy alone; pictures are brought to another size if asked."
    e = Small(); a, b = (to_signed(v[:3]).requires_grad_() for v in (img, held)); got = EarlyMaps(e, 2)(a, b); unit = lambda m: m/m.norm(dim=1, keepdim=True).clamp(min=1e-6)
    seen = lambda x: e.levels(((x + 1)/2 - e.mean)/e.std)[0]; want = sum((unit(m) - unit(n)).square().sum(1).mean() for m, n in zip(seen(a), seen(b)))/2
    torch.testing.assert_close(got, want); got.backward(); assert a.grad.abs().max() > 0 and b.grad is None and EarlyMaps(e, 2)(a, a) == 0 and not list(EarlyMaps(e).parameters())
    big = F.interpolate(a, size=(32, 32), mode='bilinear', antialias=True), F.interpolate(b, size=(32, 32), mode='bilinear', antialias=True); torch.testing.assert_close(EarlyMaps(e, 2, 32)(a, b), EarlyMaps(e, 2)(*big)); assert EarlyMaps(e, 1)(a, b) != got

def test_nobody_learns_from_a_loss_that_is_not_theirs():
    task, x = TokenizerTask(tokenizer(), Critic(8, 2)), to_signed(img[:6]); out = tokenizer_loss(task, x, True, dict(tokenizer_weights), EarlyMaps(e := Small(), 2))
    for part in ('pixel', 'words', 'maps', 'fool'): assert towards(out, part, task.critic) is None and towards(out, part, task.vqvae).abs().max() > 0, part
    assert towards(out, 'critic', task.vqvae) is None and towards(out, 'critic', task.critic).abs().max() > 0 and not any(p.requires_grad for p in e.parameters())
    real, fake = task.critic(x), task.critic(task.vqvae(x)[0].detach()); torch.testing.assert_close(out['critic'], (F.relu(1 - real).mean() + F.relu(1 + fake).mean())/2)
    torch.testing.assert_close(out['fool'], -.02*fake.mean()); before = copy.deepcopy(task.critic)
    with torch.no_grad():
        for p, g in zip(task.vqvae.parameters(), torch.autograd.grad(out['fool'], list(task.vqvae.parameters()), allow_unused=True)): p -= 0 if g is None else 2*g
    assert task.critic(task.vqvae(x)[0]).mean() > fake.mean() and same(before, task.critic)      # following it makes copies that the critic takes for originals

def test_the_critic_is_followed_from_its_step():
    task, x = TokenizerTask(tokenizer(), Critic(8, 2)), to_signed(img[:6])
    for step, on in ((0, False), (4, False), (5, True), (9, True)):
        task.steps.fill_(step); out = tokenizer_loss(task, x, True, dict(tokenizer_weights), critic_from=5)
        assert bool(out['fool']) == on == bool(towards(out, 'fool', task.vqvae).any()) and towards(out, 'critic', task.critic).any()

def test_the_critic_is_followed_from_its_step_in_training(monkeypatch):
    "Steps are counted in training alone, not where copies are scored, and the critic learns before it is followed."
    seen, real = [], training.tokenizer_loss
    def spy(task, x, quantise, *rest): out = real(task, x, quantise, *rest); seen.append((quantise, int(task.steps), float(out['fool'].detach()) if 'fool' in out else 0., copy.deepcopy(task.critic.state_dict()))); return out
    monkeypatch.setattr(training, 'tokenizer_loss', spy); trained(critic=True, critic_from=5); words = [s[1:] for s in seen if s[0]]
    assert len(seen) == 12 and [n for n, *_ in words] == list(range(1, 9)) and [bool(f) for _, f, _ in words] == [n >= 5 for n in range(1, 9)] and not any(f for q, _, f, _ in seen if not q)
    assert all(any(not torch.equal(a[k], b[k]) for k in a) for (*_, a), (*_, b) in zip(words, words[1:]))

def test_a_weight_of_zero_is_no_perceptual_part():
    (a, h), (b, g), (c, _) = trained(), trained(encoder=Small(), weights=dict(perceptual=0.)), trained(encoder=Small(), weights=dict(perceptual=.3))
    assert same(a, b) and h == g and not same(a, c) and 'maps' not in g['words'][-1]

def test_a_weight_of_zero_is_no_critic():
    (a, _), (b, h) = trained(), trained(critic=True, critic_from=0, weights=dict(critic=0.)); assert same(a, b) and 'critic' not in h['words'][-1]

def test_every_part_changes_what_is_learned():
    plain, critic = trained()[0], trained(critic=True, critic_from=2, weights=dict(critic=.5)); assert not same(plain, critic[0]) and {'critic', 'fool', 'pixel', 'words'} <= set(critic[1]['words'][-1])
    assert not same(critic[0], trained(critic=True, critic_from=6, weights=dict(critic=.5))[0]) and same(critic[0], trained(critic=True, critic_from=2, weights=dict(critic=.5))[0])
    with pytest.raises(ParameterError, match="'beauty' is no part"): trained(weights=dict(beauty=1.))


# ---- dead words

def lost(n=20):
    "A tokenizer of which so many words lie where no picture is."
    vqvae = tokenizer()
    with torch.no_grad(): vqvae.quantize.embedding.weight[-n:] += 100
    return vqvae

def test_dead_words_are_revived_in_training():
    how = dict(plain=0, steps=20, lr=1e-4); (a, h), (b, g) = trained(vqvae=lost(), every=5, **how), trained(vqvae=lost(), every=0, **how); far = lambda v: int((v.quantize.embedding.weight.abs() > 50).any(1).sum())
    assert h['moved'] >= 20 and far(a) == 0 and g['moved'] == 0 and far(b) == 20 and tokenizer_scores(a, held)['used'] > tokenizer_scores(b, held)['used']
    late, h = trained(vqvae=lost(), every=16, **how); assert h['moved'] == 0 and far(late) == 20       # in the last quarter they would not settle
    assert same(a, trained(vqvae=lost(), every=5, **how)[0]) and trained(vqvae=lost(), every=5, least=0., **how)[1]['moved'] == 0


# ---- going on

everything = dict(critic=True, critic_from=7, weights=dict(critic=.2, perceptual=.3), every=2, least=.5, plain=8, steps=12)

class Stop(Exception): pass

@pytest.mark.parametrize('stage, at, begun', [('plain', 5, 4), ('words', 8, 6)])
def test_going_on_with_all_parts_gives_identical_weights(stage, at, begun, tmp_path, monkeypatch):
    "Stopped before the critic is followed and in the middle of revival: the tokenizer, the critic, the count of steps and moved words, and the course."
    a, h = trained(tmp_path/'a', encoder=Small(), **everything); calls, lines, real = [], [], training.tokenizer_loss
    def stop(task, x, quantise, *rest):
        calls.append(quantise)
        if calls.count(stage == 'words') == at: raise Stop
        return real(task, x, quantise, *rest)
    monkeypatch.setattr(training, 'tokenizer_loss', stop)
    with pytest.raises(Stop): trained(tmp_path/'b', encoder=Small(), **everything)
    monkeypatch.undo(); b, g = trained(tmp_path/'b', encoder=Small(), **everything, log=lines.append); assert any(f'tokenizer, {stage}  goes on from step {begun}' in l for l in lines)
    assert same(a, b) and h == g and h['moved'] > 0 and not same(a, tokenizer())
    for s, n in (('plain', 8), ('words', 12)):
        assert (tmp_path/'a'/s/'log.jsonl').read_text() == (tmp_path/'b'/s/'log.jsonl').read_text(); last = [load_checkpoint(tmp_path/k/s) for k in 'ab']; assert last[0]['step'] == last[1]['step'] == n
        x, y = (l['model'] for l in last); assert x.keys() == y.keys() and any(k.startswith('critic.') for k in x) and int(x['steps']) == (n if s == 'words' else 0) and all(torch.equal(x[k], y[k]) for k in x)

@pytest.fixture(scope='module')
def begun(tmp_path_factory): at = tmp_path_factory.mktemp('begun'); trained(at, encoder=Small(), **everything); return at

@pytest.mark.parametrize('change', [dict(weights=dict(critic=.2, perceptual=.1)), dict(critic=False), dict(every=3), dict(least=.1), dict(lr=1e-3)], ids=lambda c: ' '.join(c))
def test_other_settings_do_not_go_on(change, begun):
    with pytest.raises(CheckpointError, match='other settings'): trained(begun, **{**everything, 'encoder': Small(), **change})

@pytest.mark.parametrize('change', [dict(critic_from=9), dict(encoder=Small(1)), dict(encoder=None)], ids=['critic_from', 'another network', 'no network'])
def test_other_parts_do_not_go_on(change, begun):
    "What the checkpoints were made with is known in full, the perceptual network and the critic's step as well."
    with pytest.raises(CheckpointError, match='other settings'): trained(begun, **{**everything, 'encoder': Small(), **change})


# ---- chimeras

def grey(level, n=40, size=32): return np.full((n, size, size, 3), level, 'uint8')

def test_each_side_of_a_chimera_is_from_its_own_set():
    "Two levels of grey, which no turn of the hue changes, meet in a straight line through every picture, each time another."
    out = chimeras(grey(60), grey(200), np.random.default_rng(0)); one = (out == 60).all(-1); assert out.shape == (40, 32, 32, 3) and out.dtype == np.uint8 and (one | (out == 200).all(-1)).all()
    share = one.mean((1, 2)); assert share.min() > .15 and share.max() < .85 and .4 < share.mean() < .6 and len(np.unique(one.reshape(40, -1), axis=0)) == 40
    assert (np.abs(np.diff(one, axis=1)).sum(1) <= 1).all() and (np.abs(np.diff(one, axis=2)).sum(2) <= 1).all()                     # a half of the plane is entered once
    y, x = np.mgrid[:32, :32]; across = np.array([np.subtract(*(np.array([x[m].mean(), y[m].mean()]) for m in (o, ~o))) for o in one]); turn = np.sort(np.arctan2(across[:, 1], across[:, 0])); assert np.diff(turn).max() < 1.5   # all around

def test_chimeras_keep_the_ground_and_the_brightness():
    gen = np.random.default_rng(1); one, other = grey(128), grey(128); one[:, 4:28, 4:28], other[:, 4:28, 4:28] = (150, 110, 120), (90, 120, 140); out = chimeras(one, other, gen); ground = np.ones((32, 32), bool); ground[4:28, 4:28] = False
    assert (out[:, ground] == 128).all() and not (out[:, ~ground] == 128).all(); light = lambda v: v @ np.array([.299, .587, .114]); a, b = light(np.array([150, 110, 120])), light(np.array([90, 120, 140])); inside = light(out[:, ~ground].astype(float))
    near = lambda v: np.abs(inside - v) < 1.5; assert (near(a) | near(b)).all() and near(a).any(1).all() and near(b).any(1).all()
    first = lambda v: np.array([o[~ground][np.abs(light(o[~ground].astype(float)) - v) < 1.5][0] for o in out]); assert all(len(np.unique(first(v), axis=0)) > 30 for v in (a, b))  # colours are turned by chance, on either side

def test_chimeras_by_seed():
    a, b = fields(8), fields(8, 1); get = lambda seed: chimeras(a, b, np.random.default_rng(seed)); assert np.array_equal(get(3), get(3)) and not np.array_equal(get(3), get(4))


# ---- drawings of concepts

def some(n=3): return load_pictures('train')[:n]
how = dict(n=4, plain=2, size=16, encoder=Small(), layers=('pooled', 'block1@2'))

@pytest.fixture(scope='module')
def drawings(): return exemplar_set(some(), mixed=2, **how)

def test_drawings_stand_in_order(drawings):
    "All of the first concept, all of the second, ...; then as many chimeras of each."
    p, (x, z) = some(), drawings; e = Small(); assert x.shape == (3*4 + 3*2, 16, 16, 3) and x.dtype == np.uint8 and z.shape == (18, 8 + 8*4) and z.dtype == np.float32
    for i, (one, concept) in enumerate(zip(p.img, p.table.concept)):
        own = draw_exemplars(one, concept, 4, 2); assert np.array_equal(x[4*i:4*i+4], resized(own, 16)); f = e(own, layers=['pooled', 'block1'], grid=2)
        np.testing.assert_allclose(z[4*i:4*i+4], np.concatenate([f['pooled'], f['block1'].flatten(1)], 1), rtol=1e-5, atol=1e-6)
    plain, features = exemplar_set(p, **how); assert np.array_equal(plain, x[:12]) and np.array_equal(features, z[:12])
    without, none = exemplar_set(p, **{**how, 'encoder': None}, mixed=2); assert none is None and np.array_equal(without, x)
    assert len(np.unique(x[12:].reshape(6, -1), axis=0)) == 6 and (x[12:, 0, 0] == 128).all()            # chimeras stand on mid grey, too

def test_chimeras_are_of_two_training_concepts(monkeypatch, drawings):
    made, real = [], training.chimeras
    monkeypatch.setattr(training, 'chimeras', lambda a, b, gen: (made.append((a, b)), real(a, b, gen))[1]); p = some(6); exemplar_set(p, mixed=2, n=3, plain=2, size=16)
    halves = {draw_exemplars(one, c, 3, 2)[1:].tobytes(): c for one, c in zip(p.img, p.table.concept)}; pairs = [tuple(halves[v.tobytes()] for v in m) for m in made]
    assert sorted(a for a, _ in pairs) == sorted(p.table.concept) and all(a != b for a, b in pairs)

@pytest.mark.parametrize('split', ['valid', 'test'])
def test_drawings_of_training_concepts_alone(split):
    p, q = some(), load_pictures(split)[:1]; both = Pictures(np.concatenate([p.img, q.img]), pd.concat([p.table, q.table], ignore_index=True))
    for bad in (q, both):
        with pytest.raises(LeakError, match=split): exemplar_set(bad, **how)

def test_drawings_are_found_again(monkeypatch, tmp_path, drawings):
    first = exemplar_set(some(), mixed=2, folder=tmp_path, **how); assert all(map(np.array_equal, first, drawings))
    monkeypatch.setattr(training, 'draw_exemplars', None); monkeypatch.setattr(Small, 'levels', None); again = exemplar_set(some(), mixed=2, folder=tmp_path, **how); assert all(map(np.array_equal, again, drawings)) and all(a.dtype == b.dtype for a, b in zip(again, drawings))
    for change in (dict(mixed=1), dict(n=5), dict(plain=1), dict(size=8), dict(layers=('pooled', 'block1')), dict(layers=('pooled',)), dict(encoder=None), dict(encoder=Small(1)), dict(pictures=some(2))):
        with pytest.raises(CheckpointError, match='other settings'): exemplar_set(**{**dict(pictures=some(), mixed=2, folder=tmp_path), **how, **change})


# ---- generators

def generator(seed=0, **more):
    with seeded(seed): return initialise(VAR(**{**dict(vocab=32, z=4, patch_nums=(1, 2, 4), depth=1, width=32, heads=2, d_embed=6, drop_path=0., cond_drop=0.), **more}), gates=1., head=1.)

vqvae = tokenizer().eval(); words = picture_words(vqvae, img); cond = np.random.default_rng(5).normal(size=(64, 6)).astype('float32')

def test_noise_keeps_lengths():
    with seeded(0): c = torch.randn(200, 12)*torch.linspace(.2, 9, 200)[:, None]; out = blurred(c, spread := torch.linspace(0, 2, 12), 1.5)
    torch.testing.assert_close(out.norm(dim=1), c.norm(dim=1)); assert torch.equal(blurred(c, torch.zeros(12), 1.5).round(decimals=4), c.round(decimals=4)) and torch.allclose(blurred(c, spread, 0.), c)
    near = F.cosine_similarity(out, c); assert near[:60].min() < .6 and near.max() > .99 and near[-60:].mean() > near[:60].mean()               # by chance some little, some much; a short one is turned more
    still = torch.cat([c[:, :1]/c[:, :1].norm(), out[:, :1]/out[:, :1].norm()], 1); assert (torch.sign(still[:, 0]) == torch.sign(still[:, 1])).all()    # an axis without spread gets none
    assert blurred(torch.zeros(3, 12), torch.zeros(12), 1.).isfinite().all() and len(set((near*1e6).long().tolist())) > 150

def test_balance_lets_coarse_scales_count_more(monkeypatch):
    "The loss that is followed, by hand; 0 is the plain mean of all words."
    w = training.scale_weights((1, 2, 4), .5); assert w.shape == (21,) and abs(float(w.mean()) - 1) < 1e-6 and torch.allclose(w[0]/w[1], torch.tensor(2.)) and torch.allclose(w[1]/w[5], torch.tensor(2.))
    def first(balance):
        seen = []; real = training.Fit.__init__; monkeypatch.setattr(training.Fit, '__init__', lambda self, model, loss, **k: (seen.append((model, loss)), real(self, model, loss, **k))[1])
        net = generator(); train_generator(net, vqvae, cond, words, steps=1, batch_size=64, lr=1e-12, device='cpu', log=None, balance=balance); monkeypatch.undo(); model, loss = seen[0]
        with torch.no_grad(): return float(loss(model.eval(), (torch.from_numpy(cond[:8]), torch.arange(8))))
    with torch.no_grad(): logits = generator().eval()(torch.from_numpy(cond[:8]), vqvae.quantize.teacher(by_scale(torch.as_tensor(words[:8]), (1, 2, 4))))
    each = F.cross_entropy(logits.flatten(0, 1), torch.as_tensor(words[:8]).long().flatten(), reduction='none').view(8, 21)
    assert abs(first(0.) - float(each.mean())) < 1e-5 and abs(first(.5) - float((each*w).mean())) < 1e-5 and abs(first(1.) - float(torch.stack([e.mean() for e in each.split([1, 4, 16], 1)]).mean())) < 1e-5

def test_noise_is_for_embeddings_in_training(monkeypatch):
    told, real = [], VAR.forward; monkeypatch.setattr(VAR, 'forward', lambda self, c, x, drop=None: (told.append((self.training, c.detach().clone())), real(self, c, x, drop))[1])
    train_generator(generator(), vqvae, cond, words, None, (cond[:9], words[:9]), steps=4, batch_size=16, noise=1., **quiet); lengths = {round(float(np.linalg.norm(c)), 3) for c in cond}
    own = {c.tobytes() for c in cond}; on = [c for t, c in told if t]; assert len(on) == 4 and not any(r.numpy().tobytes() in own for c in on for r in c) and all(min(abs(float(r.norm()) - l) for l in lengths) < 2e-3 for c in on for r in c)
    assert all(r.numpy().tobytes() in own for t, c in told if not t for r in c)
    with pytest.raises(ParameterError, match='labels'): train_generator(generator(d_embed=None, num_classes=3), vqvae, np.zeros(64, 'int64'), words, noise=1., steps=1, **quiet)

@pytest.mark.parametrize('smooth', [0., .1, .4])
def test_label_smoothing(smooth):
    "The loss of the first step by hand: so much of the mean over all words, the rest of the right one; scores are never smoothed."
    var, at = generator().train(), Batches(np.arange(64), batch_size=16, seed=3, drop_last=True).index(0); w = torch.tensor(words[at]).long()
    chance = var(torch.tensor(cond[at]), vqvae.quantize.teacher(by_scale(w, (1, 2, 4)))).log_softmax(-1); want = -((1 - smooth)*chance.gather(-1, w[..., None])[..., 0] + smooth*chance.mean(-1)).mean()
    h = train_generator(other := generator(), vqvae, cond, words, None, (cond[:9], words[:9]), steps=1, every=1, batch_size=16, seed=3, smooth=smooth, **quiet); assert h[0]['loss'] == pytest.approx(want.item(), rel=1e-4) and not same(other, var)
    assert h[0]['valid_loss'] == pytest.approx(word_scores(other, vqvae, cond[:9], words[:9])['loss'])

@pytest.mark.parametrize('batch', [4, 64])
def test_word_scores_by_hand(batch):
    var, n = generator().eval(), 9; got = word_scores(var, vqvae, cond[:n], words[:n], batch=batch); loss, free, hits = [], [], []
    for c, w in zip(cond[:n], words[:n]):
        w = torch.tensor(w).long(); x = vqvae.quantize.teacher(by_scale(w[None], (1, 2, 4))); start = torch.tensor(c)[None]
        with torch.no_grad(): told, untold = var(start, x)[0].softmax(-1), var(start, x, drop=torch.tensor([True]))[0].softmax(-1)
        for place, right in enumerate(w.tolist()): loss.append(-float(told[place, right].log())); free.append(-float(untold[place, right].log())); hits.append(int(told[place].argmax()) == right)
    assert got == dict(loss=pytest.approx(np.mean(loss), rel=1e-4), top1=pytest.approx(np.mean(hits)), unconditional=pytest.approx(np.mean(free), rel=1e-4)) and got['loss'] != pytest.approx(got['unconditional'], rel=1e-3)

def test_words_are_of_their_scales(tmp_path, monkeypatch):
    assert words.shape == (64, 21) and words.dtype == np.int16; cut = by_scale(torch.tensor(words[:3]), (1, 2, 4)); assert [tuple(c.shape) for c in cut] == [(3, 1), (3, 4), (3, 16)] and all(map(torch.equal, cut, [i for i in vqvae.indices(to_signed(img[:3]))]))
    assert np.array_equal(picture_words(vqvae, img, tmp_path), words); monkeypatch.setattr(VQVAE, 'indices', None); assert np.array_equal(picture_words(vqvae, img, tmp_path), words)
    with pytest.raises(CheckpointError, match='other settings'): picture_words(tokenizer(1), img, tmp_path)

def test_rows_say_which_words(monkeypatch):
    "Conditions in another order with their rows learn what they learn beside their words."
    turn = np.random.default_rng(0).permutation(64); a, b, c = generator(), generator(), generator(); run = lambda v, w, rows: train_generator(v, vqvae, cond, w, rows, steps=3, batch_size=16, **quiet)
    run(a, words[turn], None); run(b, words, turn); run(c, words, None); assert same(a, b) and not same(a, c)
    with pytest.raises(ShapeError, match='63 rows for 64'): run(a, words, np.arange(63))

def test_what_is_pulled_to_zero():
    var = generator(shared_aln=True); (pulled, a), (free, b) = ((g['params'], g['weight_decay']) for g in generator_groups(.05)(var)); name = {id(p): k for k, p in var.named_parameters()}; names = lambda ps: {name[id(p)] for p in ps}
    assert (a, b) == (.05, 0.) and names(pulled) | names(free) == set(name.values()) and not names(pulled) & names(free) and all(p.ndim > 1 for p in pulled)
    assert {'pos_start', 'pos_1LC', 'lvl_embed.weight', 'head.bias'} <= names(free) and {'head.weight', 'word_embed.weight', 'embed_proj.weight'} <= names(pulled)

def test_pictures_of_the_right_kind():
    for bad in (img.astype('float32'), img[:, :8], img[..., 0]):
        with pytest.raises(ShapeError, match='valid'): train_tokenizer(tokenizer(), img, bad, steps=1, **quiet)
    assert as_training(some(2), 128) is not None and as_training(img, 16) is img
