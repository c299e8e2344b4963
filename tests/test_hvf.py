"""HVF beyond its page: what must move and what must not, runs that are killed, files, people, other recordings, wrong galleries."""
import os, re, signal, subprocess, sys, textwrap
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.alignment.fusion import FusionEncoder
from brainrecon.alignment.targets import Standardise
from brainrecon.core.checks import FolderError, LeakError, ParameterError, ReconError, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.data.pictures import Pictures, load_pictures
from brainrecon.data.trials import Trials
from brainrecon.encoders.door import eeg_encoders
from brainrecon.encoders.frozen import frozen_sets
from brainrecon.decoders.hvf import HVF, Numbered, Resident, embedded_sets, embedding_gallery, samga, smoothed
from brainrecon.jobs.hvf import parse_sets
from brainrecon.decoders.retrieval import ContrastiveDecoder, Gallery, RidgeDecoder, cosine, decoders, load_decoder, shuffle_pairs
from brainrecon.metrics.retrieval import retrieve

fast = dict(width=24, batch_size=64, epochs=12, lr=2e-3)
widths = {'enc.a:pooled': 12, 'look': 10, 'vae': 8}

def world(kind='eeg', people=(1,), n=(260, 30, 60), noise=.6, seed=0):
    "Things with three kinds of features, and responses that mix all of them, each person in another way."
    gen = np.random.default_rng(seed); concepts = [f'thing{i:03d}' for i in range(sum(n))]
    z = gen.normal(size=(sum(n), sum(widths.values()))).astype('float32')*np.repeat([30., 1., .02], list(widths.values())).astype('float32')     # of very different sizes
    g = Gallery(z, [f'{c}/0' for c in concepts], concepts, dict(widths)); clean = z/z.std(0)
    shape = (90,) if kind == 'fmri' else (6, 15); mixes = {s: np.random.default_rng(900 + int(s)).normal(size=(z.shape[1], 90))/z.shape[1]**.5 for s in people}; sides, at = [], 0
    for k in n:
        x = np.concatenate([clean[at:at+k] @ mixes[s] + noise*gen.normal(size=(k, 90)) for s in people]).reshape(-1, *shape).astype('float32'); names = [g.pictures[i] for _ in people for i in range(at, at + k)]
        table = dict(picture=names, concept=[p[:-2] for p in names], subject=np.repeat(people, k))
        sides.append(Trials(x, [f'c{i}' for i in range(shape[0])], table, kind, **({} if kind == 'fmri' else dict(sfreq=20)), provenance=dict(simulated=True))); at += k
    return *sides, g

@pytest.fixture(scope='module')
def w(): return world()

def top1(d, test, g):
    some = g[g.rows(list(dict.fromkeys(test.pictures)))]; return float(retrieve(d.embed(test), d.place(some), test.pictures, some.pictures)['hits'][1].mean())

def state(module): return {k: v.clone() for k, v in module.state_dict().items()}
def equal(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('kind', ['eeg', 'meg', 'fmri'])
def test_finds_and_at_chance_when_shuffled(kind):
    train, valid, test, g = world(kind); d = HVF(**fast).fit(train, valid, g, device='cpu'); lost = HVF(**fast).fit(shuffle_pairs(train), valid, g, device='cpu')
    assert top1(d, test, g) > .35 and top1(lost, test, g) < .1, (top1(d, test, g), top1(lost, test, g))      # chance 1/60
    assert d.embed(test).shape == (60, 24) and d.place(g).shape == (350, 24) and not d.model.training

def test_simulated_recording_with_the_embedded_sets():
    from brainrecon.data.embedded import load_embedded
    s = load_embedded('eeg', exemplars=1, snr_db=-12.); train, valid, test = (t.average().resample(50).window(0, .8) for t in (s.train, s.valid, s.test.open('test')))
    learned, shown = embedding_gallery(load_pictures('train'), log=None) + embedding_gallery(load_pictures('valid'), log=None), embedding_gallery(load_pictures('test'), log=None); how = dict(width=64, batch_size=128)
    hit = lambda d, g: float(retrieve(d.embed(test), d.place(g), test.pictures, g.pictures)['hits'][5].mean())
    d = HVF(**how).fit(train, valid, learned, device='cpu'); lost = HVF(**how).fit(shuffle_pairs(train), valid, learned, device='cpu')
    assert hit(d, shown) > .3 and hit(lost, shown) < .08, (hit(d, shown), hit(lost, shown))      # chance .025

def test_one_seed_one_result_and_another_seed_another(w):
    train, valid, test, g = w; a, b, c = (HVF(seed=s, **dict(fast, epochs=2)).fit(train, valid, g, device='cpu').embed(test) for s in (0, 0, 1)); assert np.array_equal(a, b) and not np.allclose(a, c)

def test_scale_of_parts_makes_sizes_irrelevant(w):
    train, valid, test, g = w; d = HVF(**dict(fast, epochs=1)).fit(train, valid, g, device='cpu'); at = g.rows(sorted(set(train.pictures)))
    for n, v in d.parts(g).items(): assert abs(float(v[at].var(0, correction=0).mean()) - 1) < 1e-3 and float(v[at].mean(0).abs().max()) < 1e-3
    other = Gallery(g.z*np.repeat([1e-3, 1., 1e3], list(widths.values())).astype('float32'), g.pictures, g.concepts, g.widths)
    np.testing.assert_allclose(HVF(**dict(fast, epochs=1)).fit(train, valid, other, device='cpu').embed(test), d.embed(test), atol=2e-3)
    raw = HVF(scale='none', **dict(fast, epochs=1)).fit(train, valid, g, device='cpu'); assert all(torch.equal(v, torch.from_numpy(g.parts[n].copy())) for n, v in raw.parts(g).items())

def test_keep_both_equals_both_runs_apart(w):
    train, valid, test, g = w; how = dict(fast, lr=2e-2); runs = {k: HVF(**how).fit(train, valid, g, device='cpu', keep=k) for k in ('best', 'last', 'both')}
    e = {k: d.embed(test) for k, d in runs.items()}; both = runs['both']
    assert np.array_equal(e['both'], e['best']) and np.array_equal(both.last.embed(test), e['last']) and np.array_equal(both.last.place(g), runs['last'].place(g)) and not np.array_equal(e['best'], e['last'])
    assert (runs['best'].selection, runs['last'].selection, both.last.selection) == ('held-out training concepts', 'last epoch', 'last epoch') and runs['best'].last is None
    assert HVF(**how, select='last').fit(train, valid, g, device='cpu').selection == 'last epoch'
    rows = both.history; assert [round(r['epoch']) for r in rows] == list(range(1, 13)) and all({'valid_identify', 'valid_top1', 'valid_top5', 'valid_loss', 'loss'} <= set(r) for r in rows)
    best = max(r['valid_identify'] for r in rows); assert rows.best['value'] == best

def test_scores_are_those_of_the_metrics(w):
    train, valid, test, g = w; d = HVF(**fast).fit(train, valid, g, device='cpu', keep='last'); row = d.history[-1]; some = g[g.rows(valid.pictures)]; r = retrieve(d.embed(valid), d.place(some), valid.pictures, some.pictures)
    assert abs(r['hits'][1].mean() - row['valid_top1']) < 1e-6 and abs(r['hits'][5].mean() - row['valid_top5']) < 1e-6
    sim = cosine(d.embed(valid), d.place(some)); own = np.diag(sim)[:, None]; assert abs((sim < own).sum()/(len(sim)*(len(sim) - 1)) - row['valid_identify']) < 1e-6

killed = textwrap.dedent("""
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from test_hvf import HVF, fast, world
    train, valid, test, g = world(); seen = []
    def log(text):
        seen.append(text)
    def hook(self, s, row, plain=__import__('brainrecon.core.fit', fromlist=['Fit']).Fit.write):
        plain(self, s, row)
        if s.step >= {stop} and ('stage 2' in self.name) == {second}: os.kill(os.getpid(), signal.SIGKILL)
    __import__('brainrecon.core.fit', fromlist=['Fit']).Fit.write = hook
    HVF(**{how}).fit(train, valid, g, {folder!r}, device='cpu', keep='both')
""")

@pytest.mark.parametrize('more, stop, second', [({}, 20, False), (dict(smooth=5, mix='person', mmd=(.9, .5), epochs=4, fine_epochs=4), 12, True)])
def test_killed_and_resumed_is_the_same_run(w, tmp_path, more, stop, second):
    train, valid, test, g = w; how = {**fast, **more}; whole = HVF(**how).fit(train, valid, g, device='cpu', keep='both')
    code = killed.format(tests=os.path.dirname(__file__), stop=stop, second=second, how=repr(how), folder=str(tmp_path/'run'))
    done = subprocess.run([sys.executable, '-c', code], env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True, text=True); assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    lines = []; again = HVF(**how).fit(train, valid, g, tmp_path/'run', lines.append, device='cpu', keep='both'); assert any('goes on from step' in l for l in lines)
    for a, b in ((again, whole), (again.last, whole.last)): assert equal(a.model.state_dict(), b.model.state_dict()) and np.array_equal(a.embed(test), b.embed(test))
    drop = lambda rows: [{k: v for k, v in r.items()} for r in rows]; assert drop(again.history) == drop(whole.history)
    third = HVF(**how).fit(train, valid, g, tmp_path/'run', device='cpu', keep='both'); assert equal(third.model.state_dict(), whole.model.state_dict()) and equal(third.last.model.state_dict(), whole.last.model.state_dict())      # all done: read and not trained

def test_given_fusion_stands_still_bit_for_bit(w, tmp_path):
    train, valid, test, g = w; taught = HVF(**fast).fit(train, valid, g, device='cpu'); given = taught.model.fusion; before = state(given)
    d = HVF(**fast, fusion=given, scale=taught.z_scale, weight_decay=.5).fit(train, valid, g, device='cpu', keep='both')
    assert equal(before, state(given)) and equal(before, state(d.model.fusion)) and equal(before, state(d.last.model.fusion)) and d.model.fusion is not given and np.array_equal(d.place(g), taught.place(g))
    with seeded(0): fresh = HVF(**dict(fast, steps=1), fusion=given, scale=taught.z_scale).fit(train, valid, g, device='cpu')
    assert float(fresh.model.logit_scale) != float(d.model.logit_scale) and top1(d, test, g) > .3
    d.refuse(test.concepts); back = load_decoder(d.save(tmp_path/'d.safetensors')); assert back.model.frozen and np.array_equal(back.place(g), d.place(g)) and np.array_equal(back.embed(test), d.embed(test))
    again = back.fit(train, valid, g, device='cpu'); assert equal(before, state(again.model.fusion))         # one that was read stays frozen too
    with pytest.raises(LeakError): d.refuse(train.concepts)
    with pytest.raises(ShapeError, match='other sets of features'): HVF(**fast, fusion=FusionEncoder(dict(look=10), 24)).fit(train, valid, g, device='cpu')
    with pytest.raises(ShapeError, match='given scale'): HVF(**fast, fusion=given, scale=Standardise().fit(g.z[:260, :5], dict_table(g, 260))).fit(train, valid, g, device='cpu')

def dict_table(g, n):
    import pandas as pd
    return pd.DataFrame(dict(picture=g.pictures[:n], concept=g.concepts[:n], split='train'))

def test_everything_else_learns(w):
    train, valid, test, g = w; d = HVF(**dict(fast, steps=1, mix='learned')).fit(train, valid, g, device='cpu'); fresh = HVF(**dict(fast, steps=1, mix='learned')); fresh.prepare(train, valid, g); fresh.build()
    a, b = fresh.model.state_dict(), d.model.state_dict(); assert a.keys() == b.keys() and {k for k in a if torch.equal(a[k], b[k])} == set()

def test_saved_and_read(w, tmp_path):
    train, valid, test, g = w
    for i, more in enumerate((dict(), dict(axes=20, hidden=7), dict(mix='person', centre='look', encoder='conv', options=dict(dropout=.1)), dict(sets=['vae', 'look'], scale='none', loss='ubp', standardise=False))):
        d = HVF(**{**fast, 'epochs': 2, **more}).fit(train, valid, g, device='cpu'); path = d.save(tmp_path/f'{i}.safetensors'); back = load_decoder(path)
        assert path.is_file() and back.config['sets'] == more.get('sets') and np.array_equal(back.embed(test), d.embed(test)) and np.array_equal(back.place(g), d.place(g)) and back.weights() == d.weights() and back.retrieve(test[:3], g[290:]) == d.retrieve(test[:3], g[290:]), more
        assert all(a.flags.c_contiguous for a in d.keep()[1].values()), 'in memory as in the file: a product of arrays in another order differs in the last bit on processors with AVX-512'
        (more_path := tmp_path/'again.safetensors').write_bytes(b''); back.save(more_path); assert np.array_equal(load_decoder(more_path).embed(test), d.embed(test))
    assert set(decoders) >= {'ridge', 'contrastive', 'hvf', 'avde reader'}

def test_people(tmp_path):
    train, valid, test, g = world(people=('1', '2', '3'), n=(150, 20, 30)); d = HVF(mix='person', same=True, **fast).fit(train, valid, g, device='cpu'); assert d.recording['people'] == ['1', '2', '3']
    per = [d.weights(p) for p in (None, 1, '2')]; assert len({tuple(v.values()) for v in per}) == 3 and all(abs(sum(v.values()) - 3) < 1e-4 for v in per) and set(per[0]) == set(widths)
    assert np.array_equal(d.place(g), d.place(g, None)) and not np.array_equal(d.place(g, 1), d.place(g))
    stranger = Trials(test.x, test.names, test.table.assign(subject='9'), 'eeg', test.sfreq); assert np.array_equal(d.embed(stranger), d.embed(test))         # this encoder does not ask who it is
    with pytest.raises(UnknownError, match='person'): d.weights('9')
    atm = HVF('atm', mix='person', options=dict(width=90, heads=2, hidden=16), **dict(fast, epochs=1)).fit(train, valid, g, device='cpu')                       # this one does
    assert not np.array_equal(atm.embed(stranger), atm.embed(test)) and np.array_equal(load_decoder(atm.save(tmp_path/'atm.safetensors')).embed(test), atm.embed(test))

@pytest.mark.parametrize('mix', ['sum', 'learned', 'person'])
def test_mixes_find(w, mix):
    train, valid, test, g = w; d = HVF(mix=mix, **fast).fit(train, valid, g, device='cpu'); assert top1(d, test, g) > .35 and (set(d.weights().values()) == {1.}) == (mix == 'sum')

def test_useless_set_counts_less():
    train, valid, test, g = world(); noise = np.random.default_rng(5).normal(size=(len(g), 40)).astype('float32'); more = Gallery(np.concatenate([g.z, noise], 1), g.pictures, g.concepts, {**widths, 'noise': 40})
    d = HVF(mix='learned', **dict(fast, epochs=30, lr=5e-3)).fit(train, valid, more, device='cpu', keep='last'); c = d.weights(); assert min(c, key=c.get) == 'noise', c

def test_samga(w):
    train, valid, test, g = w; how = {**samga, **fast, 'epochs': 8, 'fine_epochs': 3, 'fine_lr': 1e-3}; d = HVF(**how, centre='look').fit(train, valid, g, device='cpu', keep='both')
    assert [r['stage'] for r in d.history] == [1]*8 + [2]*3 and all(('mmd' in r) == (r['stage'] == 1) for r in d.history) and [round(r['epoch']) for r in d.history] == [*range(1, 9), *range(1, 4)]
    assert top1(d, test, g) > .3 and d.last is not None and d.history.best['value'] == max(r['valid_identify'] for r in d.history)
    weights = [float(Numbered(260, 33, batch_size=64, drop_last=True).part(k)[0][1]) for k in (0, 16, 32)]; assert weights == [0, .5, 1]       # how far the first stage is; its weight goes along

def test_smoothing_keeps_what_is_slow():
    x = torch.randn(200, 3, 40); flat = torch.ones(200, 3, 40)
    with seeded(0): y = [smoothed(x, 9) for _ in range(20)]
    assert any(torch.equal(v, x) for v in y) and any(not torch.equal(v, x) for v in y)
    moved = [(v != x).flatten(1).any(1).float().mean() for v in y if not torch.equal(v, x)]; assert all(.3 < m < .7 for m in moved) and all(torch.allclose(smoothed(flat, 9), flat) for _ in range(5))

def test_ubp_and_regular_loss_differ(w):
    train, valid, test, g = w; a, b = (HVF(loss=l, **fast).fit(train, valid, g, device='cpu') for l in ('clip', 'ubp')); assert top1(b, test, g) > .2 and not np.allclose(a.embed(test), b.embed(test))

def test_batch_is_row_numbers_and_gives_the_rows():
    gen = np.random.default_rng(0); x = gen.normal(size=(9, 2, 3)).astype('float32'); z = torch.from_numpy(gen.normal(size=(4, 5)).astype('float32')); at = gen.integers(0, 4, 9); r = Resident(x, dict(a=z), at, np.zeros(9, int))
    got, parts, which, who = r(torch.tensor([3, 3, 8])); assert np.array_equal(got, x[[3, 3, 8]]) and torch.equal(parts['a'], z[torch.from_numpy(at[[3, 3, 8]])]) and which.tolist() == at[[3, 3, 8]].tolist()

def test_repeated_pictures_and_single_trials(w):
    train, valid, test, g = w; twice = lambda t: Trials(np.concatenate([t.x, t.x + .1]), t.names, dict(picture=[*t.pictures]*2, concept=[*t.concepts]*2), 'eeg', t.sfreq)
    d = HVF(same=True, **fast).fit(twice(train), twice(valid), g, device='cpu'); assert top1(d, test, g) > .3 and d.history[-1]['valid_top5'] <= 1

def test_leaks(w):
    train, valid, test, g = w
    with pytest.raises(LeakError): HVF(**fast).fit(train, train[:30], g, device='cpu')
    marked = Trials(test.x, test.names, test.table, 'eeg', test.sfreq, provenance=dict(side='test'))
    with pytest.raises(LeakError): HVF(**fast).fit(train, marked, g, device='cpu')
    with pytest.raises(LeakError): HVF(**fast).fit(marked, valid, g, device='cpu')
    d = HVF(**dict(fast, epochs=1)).fit(train, marked, g, device='cpu', as_released='hvf-released-across'); assert 'hvf-released-across' in d.selection; d.refuse(test.concepts)
    honest = HVF(**dict(fast, epochs=1)).fit(train, valid, g, device='cpu')
    for concepts in (train.concepts, valid.concepts):
        with pytest.raises(LeakError): honest.refuse(concepts)

def test_wrong_galleries(w):
    train, valid, test, g = w; d = HVF(**dict(fast, epochs=1)).fit(train, valid, g, device='cpu'); turned = g.only('vae', 'enc.a:pooled', 'look')
    assert np.array_equal(d.place(turned), d.place(g)) and d.retrieve(test[:4], turned[290:]) == d.retrieve(test[:4], g[290:])          # parts are found by name
    more = Gallery(np.concatenate([g.z, g.z[:, :3]], 1), g.pictures, g.concepts, {**widths, 'more': 3}); assert np.array_equal(d.place(more), d.place(g))
    for bad, what, error in ((g.only('look'), 'has no part', UnknownError), (Gallery(g.z, g.pictures, g.concepts), 'has no part', UnknownError), (Gallery(g.z[:, :-1], g.pictures, g.concepts, {**widths, 'vae': 7}), 'in training', ShapeError)):
        with pytest.raises(error, match=what): d.place(bad)
        with pytest.raises(error, match=what): d.retrieve(test, bad)
    with pytest.raises(ParameterError): d.place(test)
    for ask in (HVF.place, HVF.parts, lambda d, g: d.weights(), lambda d, g: d.weights(1)):
        with pytest.raises(UnknownError, match='not learned'): ask(HVF(), g)
    with pytest.raises(UnknownError): HVF(sets=['looks'], **fast).fit(train, valid, g, device='cpu')
    with pytest.raises(ShapeError): d.retrieve(test, g[290:], k=400)
    plain = HVF(**dict(fast, epochs=1)).fit(train, valid, Gallery(g.z, g.pictures, g.concepts), device='cpu'); assert plain.weights() == dict(z=1.)

@pytest.mark.parametrize('bad, word', [(dict(encoder='brain'), 'encoder'), (dict(mix='mean'), 'mix'), (dict(select='test'), 'choose'), (dict(epochs=0), 'epochs'), (dict(width=1.5), 'width'), (dict(batch_size=1), 'batch_size'), (dict(mmd=(.9, .5, .1)), 'mmd'), (dict(mmd=-1.), 'mmd'), (dict(centre='look'), 'centre'),
    (dict(lr='1e-3'), 'lr'), (dict(loss='mse'), 'loss'), (dict(scale='unit'), 'scale'), (dict(fusion=3), 'FusionEncoder'), (dict(loss='ubp', same=True), 'same'), (dict(precision='fp8'), 'precision'), (dict(fine_lr=None), 'fine_lr'),
    (dict(betas=.9), r'0\.9, 0\.995'), (dict(betas=(.9, 1.)), r'0\.9, 0\.995'), (dict(betas=('a', .9)), 'betas'), (dict(lr=-1), 'get 0.0005'), (dict(lr=float('nan')), 'get 0.0005'), (dict(lr=float('inf')), 'above 0'), (dict(lr='fast'), 'get 0.0005'), (dict(weight_decay=-1), 'get 0.05'),
    (dict(clip=-1), 'or None'), (dict(fine_lr=-1), 'get 5e-05'), (dict(dropout=2), 'get 0.1'), (dict(sets=3), 'list of names'), (dict(sets=[3]), 'list of names')])
def test_settings_that_cannot_be_meant(bad, word):
    with pytest.raises(ReconError, match=word): HVF(**bad)

def test_settings_that_do_not_fit_the_recording(w):
    train, valid, test, g = world('fmri', n=(40, 10, 10))
    with pytest.raises(ParameterError, match='time'): HVF(smooth=5, **fast).fit(train, valid, g, device='cpu')
    with pytest.raises(ParameterError, match='no option'): HVF(options=dict(dropuot=.1), **fast).fit(train, valid, g, device='cpu')
    for name in eeg_encoders:
        d = HVF(name, **dict(fast, epochs=1))
        if name in ('brain_mlp', 'eeg_project', 'mlp'): assert d.fit(train, valid, g, device='cpu').embed(test).shape == (10, 24)
        else:
            with pytest.raises(ParameterError, match="for fMRI: 'brain_mlp', 'eeg_project' or 'mlp'"): d.fit(train, valid, g, device='cpu')
    train, valid, test, g = w
    with pytest.raises(ParameterError, match='leave `axes` out'): HVF('conv', axes=10, **fast).fit(train, valid, g, device='cpu')
    with pytest.raises(UnknownError, match='epoch to keep'): HVF(**fast).fit(train, valid, g, device='cpu', keep='first')
    with pytest.raises(ShapeError, match='one picture'): HVF(**fast).fit(train, Trials(valid.x[:3], valid.names, dict(picture=[valid.pictures[0]]*3, concept=[valid.concepts[0]]*3), 'eeg', valid.sfreq), g, device='cpu')

def test_gallery_of_imported_features(tmp_path):
    from brainrecon.alignment.targets import features
    from brainrecon.alignment.imported import import_features
    p = load_pictures('valid')[:20]; z = np.random.default_rng(0).normal(size=(20, 2, 3)).astype('float32'); np.save(tmp_path/'z.npy', z.reshape(20, 6))
    import_features(tmp_path/'z.npy', p, model='none', weights='none', preprocessing='none', normalised=False, order='pictures', at=tmp_path/'kept', log=None)
    g = embedding_gallery(p, {'layer 20': tmp_path/'kept', 'same': (tmp_path/'kept', 'pooled'), 'look': 'lite0:block2@4'}, log=None)
    assert list(g.widths) == ['layer 20', 'same', 'look'] and np.array_equal(g.parts['layer 20'], z.reshape(20, 6)) and np.array_equal(g.parts['same'], z.reshape(20, 6)) and np.array_equal(g.parts['look'], np.asarray(features(p, 'lite0', 'block2@4')).reshape(20, -1))
    part = p[np.array([7, 3])]; assert np.array_equal(embedding_gallery(part, {'a': tmp_path/'kept'}).z, z.reshape(20, 6)[[7, 3]])     # rows follow the pictures
    with pytest.raises(UnknownError, match='not have been taken in'): embedding_gallery(load_pictures('valid')[:21], {'a': tmp_path/'kept'}, log=None)        # other pictures
    for bad in ([], ['lite0'], [3], dict(a=('lite0', 'pooled', 4))):
        with pytest.raises(ParameterError): embedding_gallery(p, bad)
    with pytest.raises(ParameterError, match='Pictures'): embedding_gallery(g, embedded_sets)

def test_imported_features_of_several_sides_are_one_set(tmp_path):
    "A job needs features to learn from, to choose by and of the candidates: imports of several files in one folder serve all of them; imports that differ are refused."
    from brainrecon.alignment.imported import import_features, imported_features
    said = dict(model='none', weights='none', preprocessing='none', normalised=False, order='pictures', log=None); sides = {s: load_pictures(s) for s in ('valid', 'test')}; z = {}
    for s, pics in sides.items(): z[s] = np.random.default_rng(len(s)).normal(size=(len(pics), 6)).astype('float32'); np.save(tmp_path/f'{s}.npy', z[s]); import_features(tmp_path/f'{s}.npy', pics, at=tmp_path/'own'/s, **said)
    for s, pics in sides.items(): assert np.array_equal(embedding_gallery(pics, parse_sets([f'own={tmp_path/"own"}'])).z, z[s])
    (tmp_path/'own/test/ids.json').write_text((tmp_path/'own/valid/ids.json').read_text())
    with pytest.raises(FolderError, match='other rows'): imported_features(tmp_path/'own', sides['test'])
    (tmp_path/'own/test/ids.json').unlink()
    with pytest.raises(FolderError, match='whose rows'): imported_features(tmp_path/'own', sides['test'])
    import_features(tmp_path/'test.npy', sides['test'], at=tmp_path/'own'/'test', **said); assert np.array_equal(imported_features(tmp_path/'own', sides['test'])['pooled'], z['test'])     # taken in again
    np.save(tmp_path/'wide.npy', np.ones((2, 7), 'float32')*np.arange(1, 3)[:, None]); import_features(tmp_path/'wide.npy', load_pictures('train')[:2], at=tmp_path/'own'/'wide', **said)
    a, b = sides['valid'][:1], load_pictures('train')[:2]; mixed = Pictures(np.concatenate([a.img, b.img]), pd.concat([a.table, b.table], ignore_index=True))
    with pytest.raises(ShapeError, match='wide'): imported_features(tmp_path/'own', mixed)
    import_features(tmp_path/'valid.npy', sides['valid'], at=tmp_path/'own'/'again', **said)
    with pytest.raises(ValuesError, match='stands in'): imported_features(tmp_path/'own', sides['test'])

def test_a_name_that_is_nearly_one_of_the_published_sets():
    p = load_pictures('valid')[:2]
    for bad, meant in (('B32', 'CLIP-ViT-B-32-laion2B-s34B-b79K'), ('dinov2_base', 'dinov2-base'), ('synclr_vit_b16', 'synclr_vit_b_16'), ('RN5O', 'RN50')):
        with pytest.raises(ParameterError, match=f"Did you mean '{meant}'") as e: embedding_gallery(p, [bad])
        assert all(n in str(e.value) for n in frozen_sets)

def test_the_advice_for_a_wrong_gallery_can_be_followed(w):
    train, valid, test, g = w; p = load_pictures('valid')[:3]; named = lambda *n: Gallery(g.z, g.pictures, g.concepts, dict(zip(n, widths.values())))
    d = HVF(**dict(fast, epochs=1)).fit(train, valid, named('meaning', 'shapes', 'pixels'), device='cpu')
    with pytest.raises(UnknownError, match=r"`embedding_gallery\(pictures, \{'meaning': 'encoder:layer', 'shapes': 'encoder:layer', 'pixels': 'encoder:layer'\}\)`"): d.place(embedding_gallery(p, embedded_sets, log=None))
    d = HVF(**dict(fast, epochs=1)).fit(train, valid, named(*embedded_sets), device='cpu')
    with pytest.raises(UnknownError) as e: d.place(embedding_gallery(p, embedded_sets[:1], log=None))
    advised = eval(re.search('`(.+)`', str(e.value))[1], dict(embedding_gallery=embedding_gallery, pictures=p)); assert list(advised.widths) == embedded_sets

def test_one_set_by_its_name(w):
    train, valid, test, g = w; d = HVF(sets='look', **dict(fast, epochs=1)).fit(train, valid, g, device='cpu'); assert d.config['sets'] == ['look'] and d.weights() == dict(look=1.)

def test_the_way_to_samga_on_the_page(tmp_path, monkeypatch):
    "The text of the page, with small files in place of the encoder's."
    nb = __import__('json').loads((Path(__file__).parent.parent/'nbs/06_decoders/06_hvf.ipynb').read_text()); text = next(t for c in nb['cells'] if c['cell_type'] == 'markdown' and '**samga' in (t := ''.join(c['source'])))
    sides = dict(train=load_pictures('valid'), test=load_pictures('valid')[::-1][:20]); gen = np.random.default_rng(0); (tmp_path/'internvit').mkdir(); monkeypatch.chdir(tmp_path)
    for side, p in sides.items():
        for n in (20, 24, 28, 32, 36): np.save(tmp_path/f'internvit/{side}-{n}.npy', gen.normal(size=(len(p), 30)).astype('float16'))
    t = sides['train'].table; half = t.concept.isin(sorted(set(t.concept))[::2]).values; trials = lambda rows: Trials(gen.normal(size=(len(rows), 4, 15)).astype('float32'), list('abcd'), rows[['picture', 'concept']].reset_index(drop=True), 'eeg', 20)
    own = dict(train=trials(t[half]), valid=trials(t[~half]), test=trials(sides['test'].table), pictures=sides['train'], test_pictures=sides['test'])
    code = re.search('```python\n(.+?)```', text, re.S)[1].replace('**samga,', '**samga | dict(width=16, epochs=1, fine_epochs=1, batch_size=8),'); exec(code, own)
    d = own['decoder']; assert list(d.recording['widths']) == [f'layer {n}' for n in (20, 24, 28, 32, 36)] and max(d.weights(), key=d.weights().get) == 'layer 28'

def test_files_of_older_decoders(w, tmp_path):
    "Ridge and contrastive files say neither module nor more than they did."
    from brainrecon.core.files import load_arrays, save_arrays
    train, valid, test, g = w; plain = g.only('look')
    for d in (RidgeDecoder([1., 10.]).fit(train, valid, plain), ContrastiveDecoder(steps=3, batch_size=32, width=8, axes=6).fit(train, valid, plain, device='cpu')):
        a, meta = load_arrays(d.save(tmp_path/'new.safetensors')); save_arrays(tmp_path/'old.safetensors', {k: meta[k] for k in ('decoder', 'recording', 'config', 'targets')}, **a); assert np.array_equal(load_decoder(tmp_path/'old.safetensors').embed(test), d.embed(test))
        assert set(meta) - {'_sha256'} == {'decoder', 'module', 'recording', 'config', 'targets'} and np.array_equal(d.place(plain), d.z_scale(plain.z))
    save_arrays(tmp_path/'strange.safetensors', dict(decoder='mine', module='my.module', recording={}, config={}, targets={}), z=np.zeros(2))
    with pytest.raises(UnknownError, match='import my.module'): load_decoder(tmp_path/'strange.safetensors')
