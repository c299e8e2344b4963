"""The job of HVF through the runner with tiny sizes: ablation, rules, a person left out; stopped and resumed; the recipes against the published values; the papers' numbers apart.

The parts are tiny and few: these tests say that the chain holds together, not how well it names pictures.
"""
import json, re
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.core.checks import ChannelError, FolderError, ParameterError, ShapeError, UnknownError
from brainrecon.core.files import load_json
from brainrecon.data.assets import asset
from brainrecon.data.pictures import load_pictures
from brainrecon.decoders.hvf import HVF, samga
from brainrecon.decoders.retrieval import load_decoder
from brainrecon.jobs.hvf import (Fused, Seen, check_hvf, check_networks, fit_hvf, gain_rows, hvf_name, hvf_papers, hvf_settings, mistake_rows, parse_combinations, parse_sets, plan_hvf, posterior,
    rule_of, rules, score_hvf, set_weights, sets_of, show_ablation, show_mistakes, show_weights)
from brainrecon.jobs.parameters import find_job, read_yaml, resolve
from brainrecon.jobs.predictions import load_predictions
from brainrecon.jobs.run import RunFailed, run_job
from notebooks import ROOT

HERE, JOB = ROOT/'nbs'/'08_jobs', 'hvf/01_retrieve'
quick = dict(device='cpu', show=False, draws=200, seeds=[0], width=32, batch_size=512, lr=.002, epochs=3)
two = ['meaning=lite0:pooled', 'pixels=lite0:pixels@8']
honest = 'held-out training concepts'


@pytest.fixture(scope='module')
def runs(tmp_path_factory): return tmp_path_factory.mktemp('runs')

@pytest.fixture(scope='module')
def ablation(runs): return run_job(JOB, out=runs/'ablation', kinds=['fmri'], sets=two, combinations=['meaning', 'pixels', 'pixels+meaning'], mixes=['sum', 'learned'], axes=64, **quick)

@pytest.fixture(scope='module')
def across(runs): return run_job(JOB, out=runs/'across', subjects=[1, 2], train_on='others', sets=two, rules=['valid', 'last', 'test'], mixes=['person'], channels=['posterior'], axes=64, controls=False, **quick)


# The job from end to end

def test_ablation(ablation):
    s = ablation.scores(); rows = {(r['method'], r['measure'], r['control'], r['selection']): r for r in s['rows']}; methods = ['HVF with meaning', 'HVF with pixels', 'HVF with meaning+pixels', 'HVF with meaning+pixels, learned mix']
    assert {m for m, k, *_ in rows if k != 'gain in top1'} == set(methods) and s['test_readings'] == 1 and len(rows) == len(s['rows'])
    assert {m for m, k, *_ in rows if k == 'gain in top1'} == {'meaning added to pixels', 'pixels added to meaning', 'meaning added to pixels, learned mix', 'pixels added to meaning, learned mix', 'HVF with meaning+pixels, learned mix instead of HVF with meaning+pixels'}
    for m in methods:
        for k in ('top1', 'top5'):
            for control, by in ((False, honest), (False, 'last epoch'), (True, honest)):
                r = rows[m, k, control, by]; assert r['low'] <= r['value'] <= r['high'] and r['candidates'] == 200 and r['chance'] == pytest.approx({'top1': 1, 'top5': 5}[k]/200) and r['over'] == 'concepts' and r['simulated'] and r['data'] == 'embedded fmri' and r['setting'] == 'within'
            assert (m, k, True, 'last epoch') not in rows and 'last epoch' in rows[m, k, False, 'last epoch']['what'] and not rows[m, k, False, honest]['flags']
    best, lost = (rows['HVF with meaning+pixels', 'top5', c, honest] for c in (False, True)); assert best['low'] > best['chance'] and lost['low'] < lost['chance'] < lost['high'] and best['p'] < .01
    for k in ('wrong answers: looks', 'wrong answers: same kind'): r = rows['HVF with pixels', k, False, honest]; assert 0 < r['n'] <= 200 and 0 < r['chance'] < 1
    assert not any(r['status'] == 'reported by the paper' for r in s['rows']) and any('Ablation Study (apart)' in n and 'Not comparable' in n for n in s['notes']) and any('simulated' in n for n in s['notes'])


def test_answers_are_kept(ablation):
    kept = {p.label: p for p in load_predictions(ablation.folder)}; assert len(kept) == 12 and not any(p.is_dir() for p in (ablation.folder/'decoders'/'fmri-s01').iterdir())      # no checkpoints are left
    rows = {(r['method'] + ', last epoch'*(r['selection'] == 'last epoch'), r['control']): r['value'] for r in ablation.scores()['rows'] if r['measure'] == 'top1'}
    for p in kept.values(): assert abs(p.hits(1).mean() - rows[p.about['method'], p.about['control']]) < 1e-9 and p.about['kind'] == 'fmri'
    d = load_decoder(ablation.folder/'decoders'/'fmri-s01'/'meaning+pixels-brain_mlp-learned-seed0.safetensors'); assert isinstance(d, HVF) and set(d.weights()) == {'meaning', 'pixels'} and d.selection == honest
    weights = pd.read_csv(ablation.folder/'weights.csv'); assert len(weights) == 4 and np.allclose(weights.groupby('method').share.sum(), 1) and set(weights.method) == {'HVF with meaning+pixels', 'HVF with meaning+pixels, learned mix'}
    assert {'top1', 'top5', 'sets-top1', 'sets-top5', 'weights-fmri-s01', 'mistakes-fmri-s01'} == {p.stem for p in (ablation.folder/'figures').glob('*.png')} and load_json(ablation.folder/'card.json')['fmri-s01']['flags'] == []


def test_a_person_left_out(across):
    s = across.scores(); rows = s['rows']; assert all(r['setting'] == 'across' for r in rows) and 'mean of 2 people' in rows[0]['what'] and s['test_readings'] == quick['epochs']      # every look of the oracle at the test
    by = {r: [x for x in rows if x['measure'] == 'top1' and x['over'] == 'concepts' and x['selection'] == rule_of(r, 'eeg', True)['selection']] for r in rules}
    assert [len(v) for v in by.values()] == [2, 2, 2] and all(r['method'] == 'HVF with meaning+pixels, person mix' for v in by.values() for r in v)
    for r in by['test']: assert 'oracle' in r['what'] and {'ORACLE', 'AS RELEASED: hvf-released-across'} < set(r['flags']) and any('NOT ZERO-SHOT' in f for f in r['flags']) and r['protocol'] == 'hvf-released-across'
    for r in by['valid'] + by['last']: assert not r['flags'] and r['protocol'] == 'brainrecon'
    assert any('an oracle' in n for n in s['notes']) and {p.about['setting'] for p in load_predictions(across.folder)} == {'across'}
    d = load_decoder(across.folder/'decoders'/'eeg-s01'/'meaning+pixels-brain_mlp-person-seed0.safetensors'); assert d.recording['people'] == ['2'] and d.recording['names'] == posterior     # nothing of the person who is tested


def test_a_job_refuses_before_it_starts(runs):
    with pytest.raises(RunFailed, match='brain_mlp'): run_job(JOB, out=runs/'refused', backbones=['brain_mpl'], sets=two, device='cpu', show=False)
    assert not (runs/'refused'/'test_readings.json').exists()


# Stopped and resumed

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
    source = Seen(kinds=['fmri'], sets=two); recordings = source.load(lambda t: None); (key, splits), = recordings.items(); train, valid = source.sides(splits)
    return dict(source=source, splits=splits, train=train[np.arange(0, len(train), 8)], valid=valid, shown=source.galleries(recordings, lambda t: None)[key])

def fits_of(small, at, log=None, rules_=('valid', 'last'), **more):
    plan = plan_hvf([('meaning',), ('meaning', 'pixels')], ['brain_mlp'], ['sum'], [0], rules_=rules_); return fit_hvf(plan, small['train'], small['valid'], small['shown'].learn, at, make=dict(width=16, axes=32, batch_size=64, epochs=2) | more, log=log, device='cpu')

def test_a_stopped_run_ends_as_a_whole_one(small, tmp_path):
    whole = fits_of(small, tmp_path/'whole')
    for word, times in (('step', 2), ('meaning-brain_mlp-sum-seed0: ', 1), ('already', 1), ('step', 1)):     # in the middle, after the first, at its files, in the next
        with pytest.raises(Stop): fits_of(small, tmp_path/'broken', until(word, times))
    lines = []; again = fits_of(small, tmp_path/'broken', lines.append); assert any('goes on' in t or 'already trained' in t for t in lines) and [a.label for a in whole] == [b.label for b in again]
    for a, b in zip(whole, again):
        for k, v in a.decoder.model.state_dict().items(): assert torch.equal(v, b.decoder.model.state_dict()[k]), (a.label, k)
    by = {f.label: f for f in whole}; best, last = by['meaning-brain_mlp-sum-seed0'], by['meaning-brain_mlp-sum-seed0-last']; assert last.decoder.selection == 'last epoch' and best.decoder.selection == honest and by['meaning-brain_mlp-sum-seed0-control'].control
    (alone,) = [f for f in fits_of(small, tmp_path/'alone', rules_=('last',)) if f.label == last.label]     # the last epoch is the same, asked for alone
    for k, v in last.decoder.model.state_dict().items(): assert torch.equal(v, alone.decoder.model.state_dict()[k]), k


def test_the_oracle_opens_the_test_once_and_only_when_asked(small, tmp_path):
    opened = []
    def test(): opened.append(small['source'].test(small['splits'].test.open('a test of the tests'))); return opened[0], small['shown'].learn + small['shown'].candidates
    plan = lambda *r: plan_hvf([('meaning',), ('pixels',)], ['brain_mlp'], ['sum'], [0], False, r); how = dict(make=dict(width=16, axes=32, batch_size=64, epochs=1), device='cpu', test=test); where = small['train'], small['valid'], small['shown'].learn
    fit_hvf(plan('valid'), *where, tmp_path/'a', **how); assert not opened
    fits = fit_hvf(plan('valid', 'test'), *where, tmp_path/'a', **how); assert len(opened) == 1 and 'as released' in next(f for f in fits if f.rule == 'test').decoder.selection
    rows, results = score_hvf(fits, opened[0], small['shown'].candidates, 'toy', True, tmp_path, 'toy', across=True, shuffles=100, data='embedded fmri', setting='across'); assert list(results) == ['valid', 'test'] and [r['selection'] for r in rows[:4]] == [honest]*4


# Words

@pytest.mark.parametrize('texts, error, says', [([], ParameterError, 'one or more sets'), (['lite0:pooled'], ParameterError, 'a name of its own'), (['a+b=lite0:pooled'], ParameterError, 'a name of its own'), (['a=lite0:pooled', 'a=RN50'], ParameterError, 'repeats'),
    (['RN51'], UnknownError, 'RN50'), (['a=/nowhere'], FolderError, 'no folder'), (['a='], UnknownError, 'set of features')])
def test_sets_that_are_none(texts, error, says):
    with pytest.raises(error, match=says): parse_sets(texts)

def test_sets_that_are_some(tmp_path):
    got = parse_sets(['RN50', 'B32=CLIP-ViT-B-32-laion2B-s34B-b79K', 'a = open_clip:ViT-H-14/laion2b_s32b_b79k:block20@1', f'mine={tmp_path}'])
    assert got['RN50'] == ('open_clip:RN50/openai', 'pooled') and got['B32'][0].startswith('open_clip:ViT-B-32/') and got['a'] == ('open_clip:ViT-H-14/laion2b_s32b_b79k', 'block20@1') and got['mine'] == tmp_path
    assert parse_combinations(['a+RN50', 'mine'], got) == [('RN50', 'a'), ('mine',)] and parse_combinations([], got) == [tuple(got)]
    for bad in (['a+a'], ['a', 'a'], ['RN50+a', 'a+RN50']):
        with pytest.raises(ParameterError, match='twice'): parse_combinations(bad, got)


@pytest.mark.parametrize('given, says', [(dict(backbones=[]), 'without repeats'), (dict(backbones=['nice', 'nice']), 'without repeats'), (dict(backbones=['nicer']), 'encoder'), (dict(mixes=['product']), 'mix'), (dict(rules_=['best']), 'rule'),
    (dict(rules_=['valid', 'test']), 'oracle'), (dict(rules_=['test'], source=dict(train_on='others', subjects=[1, 2])), 'oracle'), (dict(source=dict(train_on='others', subjects=[1])), 'left out'), (dict(seeds=[]), 'seeds'), (dict(seeds=[-1]), 'seeds'), (dict(draws=10), 'draws'), (dict(make=dict(epochs=0)), 'epochs'), (dict(make=dict(lr=-1.)), 'lr'), (dict(make=dict(scale='all')), 'scale'),
    (dict(make=dict(precision='half')), 'precision'), (dict(centre='nowhere', mixes=['learned']), 'set of features'), (dict(combinations=['meaning+shape']), 'set of features'), (dict(options=['brain_mlp.hiden=3']), 'hidden'), (dict(source=dict(kinds=['fmri']), backbones=['atm']), 'no time axis'),
    (dict(options=['nice.dropout=.3']), 'not run'), (dict(options=['auto.dropout=.3']), 'does not exist'), (dict(options=['brain_mlp.dropout']), 'not understood'), (dict(options=['dropout .3']), 'not understood'), (dict(options=['brain_mlp.dropout=']), 'not understood'), (dict(options=['dropout=much']), 'a number was expected'),
    (dict(options=['eeg_net.kernel=9'], backbones=['eegnet']), 'does not exist'), (dict(options=['eegnet.kernel=9'], backbones=['eeg_net']), '2 numbers'), (dict(options=['atm.released=1'], backbones=['atm']), 'True or False'), (dict(backbones=['nice'], make=dict(axes=64)), 'neither channels nor time'),
    (dict(centre='meaning'), 'with weights'), (dict(centre='meaning', mixes=['learned'], combinations=['meaning', 'pixels']), 'with weights'), (dict(source=dict(data='things-eeg')), 'things-eeg2'), (dict(source=dict(window=[.5, .2])), 'window')])
def test_wrong_values_are_named(given, says):
    source = Seen(**dict(sets=two) | given.pop('source', {})) if isinstance(given.get('source', {}), dict) else None
    with pytest.raises(ValueError, match=says): check_hvf(source, **dict(backbones=['brain_mlp'], mixes=['sum'], seeds=[0], rules_=['valid']) | given)


def test_options_that_are_read():
    source = Seen(sets=two); go = lambda backbones, options, **how: check_hvf(source, backbones, how.pop('mixes', ['sum']), [0], ['valid'], options=options, **how)
    go(['brain_mlp', 'nice'], ['nice.dropout=.3', 'nice.pool=(21, 5)', 'dropout: 0.2']); go(['ts_conv'], ['tsconv.kernel=9']); go(['brain_mlp'], ['brain_mlp.hidden=64'], mixes=['sum', 'learned'], centre='meaning')

def test_a_network_that_does_not_fit_is_named_before_any_learns(runs):
    source = Seen(sets=two, sfreq=50.); found = source.load(lambda t: None); check_networks(source, found, ['brain_mlp', 'mlp', 'eeg_project', 'atm', 'conv'], make=dict(width=64)); check_networks(source, found, ['brain_mlp'], make=dict(axes=9)); check_networks(source, found, ['ts_conv'], ['tsconv.pool=(9, 5)'])
    for name, least in (('shallow_net', 75), ('ts_conv', 75), ('nice', 75), ('deep_net', 151)):
        with pytest.raises(ShapeError, match=f'{least} are the least'): check_networks(source, found, ['brain_mlp', name])
    with pytest.raises(RunFailed, match='151 are the least'): run_job(JOB, out=runs/'short', backbones=['brain_mlp', 'deep_net'], sets=two, **quick)
    assert not (runs/'short'/'decoders').exists() and not (runs/'short'/'test_readings.json').exists()


def test_channels():
    names = [*posterior, 'Fz']; assert Seen(channels=['posterior']).places('eeg', names) == posterior and Seen().places('eeg', names) == names and Seen(channels=['Oz', 'Fz']).places('eeg', names) == ['Oz', 'Fz']
    for bad in (['Oz', 'Oz'], ['Oz', 'POz2']):
        with pytest.raises(ChannelError): Seen(channels=bad).places('eeg', names)
    with pytest.raises(ChannelError, match='fMRI'): Seen(channels=['posterior']).places('fmri', names)


def test_plan_and_names():
    plan = plan_hvf([('a',), ('a', 'b')], ['brain_mlp', 'nice'], ['sum', 'learned'], [0, 1], True, ['valid', 'last']); labels = [f.label for f in plan]; assert len(set(labels)) == len(labels) == (2 + 4)*(2*2 + 2)
    assert {f.training for f in plan if not f.control} == {l.removesuffix('-last') for l in labels if 'control' not in l} and all(f.rule == 'valid' for f in plan if f.control)
    assert hvf_name(('a', 'b'), 'nice', 'learned') == 'HVF with a+b, nice, learned mix' and hvf_name(('a',), mix='learned') == 'HVF with a' and sets_of(dict(method='HVF with a+b')) == ('a', 'b') and sets_of(dict(method='HVF with a+b, nice')) == ()
    assert Fused('x', 3, False, None, ('a', 'b'), rule='test').training.endswith('-test')     # has a training of its own
    assert hvf_settings(dict(hidden=0, steps=0, clip=0., betas=[.9, .99], width=8, seeds=[1], mmd=[.9, .5])) == dict(hidden=None, clip=None, betas=(.9, .99), width=8, mmd=(.9, .5)) and hvf_settings(dict(steps=7)) == dict(steps=7)


# Mistakes, weights, figures

def test_mistakes_are_counted(tmp_path):
    "Two answers of which one is wrong: what was named instead, compared by category and by looks with all others."
    pics = load_pictures('test')[np.arange(20)]; z = np.eye(20); names = pics.table.picture.to_numpy(); query = z.copy(); query[3] = z[7]; query[5] = z[2]
    result = dict(name='HVF with a', control=False, pictures=names, concepts=pics.table.concept.to_numpy(), query=query, gallery=z, seed=0); rows = {r['measure']: r for r in mistake_rows([result], pics, 'toy', True, 200)}
    from brainrecon.data.pictures import pixel_likeness
    from brainrecon.jobs.compare import categories_of
    looks, kind = pixel_likeness(pics.img), categories_of(pics.table.concept); kinds = [kind[c] for c in pics.table.concept]; same = np.array([[a == b for b in kinds] for a in kinds])
    assert rows['wrong answers: looks']['n'] == 2 and rows['wrong answers: looks']['value'] == pytest.approx((looks[3, 7] + looks[5, 2])/2) and rows['wrong answers: same kind']['value'] == pytest.approx((same[3, 7] + same[5, 2])/2)
    assert rows['wrong answers: same kind']['chance'] == pytest.approx(np.mean([(same[i].sum() - 1)/19 for i in (3, 5)])) and '0.100 of the answers' in rows['wrong answers: looks']['note']
    assert not mistake_rows([dict(result, query=z)], pics, 'toy', True) and show_mistakes([dict(result, query=z)], pics) is None and show_mistakes([result], pics) is not None
    assert list(mistake_rows([result], pics, 'toy', True, 200, categories={'nothing': 'x'})) and 'wrong answers: same kind' not in {r['measure'] for r in mistake_rows([result], pics, 'toy', True, 200, categories={'nothing': 'x'})}

def test_gains_are_paired():
    "A set added, another encoder, another mix: the mean of differences picture by picture, narrower than two intervals; controls take no part."
    concepts = np.array([f'c{i}' for i in range(80)], object); gen = np.random.default_rng(1); hard = gen.random(80); hits = lambda level: (hard < level).astype(float)
    plan = [f for f in plan_hvf([('a',), ('b',), ('a', 'b')], ['brain_mlp', 'eegnet'], ['sum', 'learned'], [0, 1])]; level = lambda f: .2 + .2*len(f.sets) + .1*(f.mix == 'learned') + .05*f.seed - .1*(f.backbone == 'eegnet')
    results = [dict(name=f.name, control=f.control, concepts=concepts, scores=dict(hits={1: hits(0. if f.control else level(f))}, candidates=80)) for f in plan]
    rows = {r['method']: r for r in gain_rows(plan, results, 'toy', True, 100)}; mean = lambda **k: np.mean([hits(level(f)).mean() for f in plan if not f.control and all(getattr(f, n) == v for n, v in k.items())])
    assert list(rows) == ['HVF with a, eegnet instead of HVF with a', 'HVF with b, eegnet instead of HVF with b', 'a added to b', 'b added to a', 'a added to b, learned mix', 'b added to a, learned mix', 'HVF with a+b, learned mix instead of HVF with a+b',
        'a added to b, eegnet', 'b added to a, eegnet', 'HVF with a+b, eegnet instead of HVF with a+b', 'a added to b, eegnet, learned mix', 'b added to a, eegnet, learned mix', 'HVF with a+b, eegnet, learned mix instead of HVF with a+b']
    r = rows['b added to a']; assert np.isclose(r['value'], mean(sets=('a', 'b'), backbone='brain_mlp', mix='sum') - mean(sets=('a',), backbone='brain_mlp')) and 0 < r['low'] < r['value'] < r['high'] < 1 and r['n'] == 80 and r['seeds'] == [0, 1]
    assert rows['HVF with a, eegnet instead of HVF with a']['high'] < 0 and not gain_rows(plan[:1], results[:1], 'toy', True)

def test_figures_that_would_say_nothing(ablation):
    rows = ablation.scores()['rows']; assert show_ablation(rows) is not None and show_ablation([r for r in rows if r['method'] == 'HVF with meaning']) is None and show_ablation(rows, selection='nobody') is None and show_weights([]) is None
    assert show_ablation(json.loads(json.dumps(rows)), 'top5', 'last epoch') is not None


# The papers' numbers

def test_papers_stand_beside_only_where_they_may():
    row = dict(measure='top1', value=.5, data='things-eeg2', setting='within', simulated=False, candidates=200, control=False, what='HVF with B32+VAE', method='HVF with B32+VAE'); near, far = hvf_papers([row])
    assert {r['value'] for r in near if r['measure'] == 'top1'} >= {.161, .285, .356, .509, .757} and all(r['setting'] == 'within' and r['status'] == 'reported by the paper' and r['source'] == 'HVF, Main Results' for r in near)
    assert not hvf_papers([dict(row, simulated=True, data='embedded eeg')])[0] and not [r for r in hvf_papers([dict(row, candidates=50)])[0] if r['measure'] == 'top1']
    near, far = hvf_papers([row], True, 10); assert [r['value'] for r in near if r['source'] == 'HVF, Ablation Study'] == [.736, .943] and not any('not comparable' in r['note'] for r in near + far if r['source'] == 'HVF, Ablation Study')
    near, far = hvf_papers([row], True, 3); assert not [r for r in near if r['source'] == 'HVF, Ablation Study'] and sum('mean of ten people' in r['note'] for r in far) == 12
    assert [r['value'] for r in hvf_papers([dict(row, method='HVF with RN50+B32+VAE')], True, 10)[0] if r['source'] == 'HVF, Ablation Study'] == [.757, .946]


# Recipes: what is built from them, beside the published values

ALL = sorted(p.stem for p in (HERE/'recipes').glob('hvf-*.yml') if read_yaml(p)['job'] == JOB); FULL = [n for n in ALL if 'embedded' not in n]
def recipe(name, **given): return {k: p.value for k, p in resolve(find_job(JOB, HERE), name, given, HERE).items()}

def test_there_are_recipes(): assert {'hvf-embedded', 'hvf-embedded-sets', 'hvf-embedded-backbones', 'hvf-embedded-across', 'hvf-things-eeg2', 'hvf-things-eeg2-cpu', 'hvf-things-eeg2-sets', 'hvf-things-eeg2-across', 'hvf-things-meg', 'hvf-things-meg-across', 'hvf-samga'} <= set(ALL)


@pytest.mark.parametrize('name', ALL)
def test_recipes_can_be_run_and_say_their_sources(name):
    v = recipe(name); make = hvf_settings(v); check_hvf(Seen.of(v), v['backbones'], v['mixes'], v['seeds'], v['rules'], v['combinations'], v['draws'], options=v['options'], centre=v['centre'], make=make)
    found = read_yaml(HERE/'recipes'/f'{name}.yml'); words = ('HVF (ICLR 2026)', 'released code', 'chosen here', 'SAMGA (arXiv 2604.17782)'); assert ('not run here' in found['about']) == ('embedded' not in name)
    for k, e in found['parameters'].items(): assert e['source'].startswith(words), (k, e['source'])


@pytest.mark.parametrize('name', [n for n in FULL if n.startswith('hvf-things')])
def test_full_recipes_train_as_published(name):
    v = recipe(name); c = HVF(v['backbones'][0], mix=v['mixes'][0], **hvf_settings(v)).config
    assert {k: c[k] for k in ('encoder', 'width', 'hidden', 'mix', 'epochs', 'steps', 'batch_size', 'lr', 'weight_decay', 'betas', 'clip', 'axes', 'loss', 'mmd', 'smooth', 'fine_epochs', 'scale')} == dict(encoder='brain_mlp', width=1024, hidden=None, mix='sum', epochs=25, steps=None, batch_size=1024,
        lr=5e-4, weight_decay=.05, betas=[.9, .995], clip=1., axes=0, loss='clip', mmd=[0., 0.], smooth=0, fine_epochs=0, scale='none')
    assert c['precision'] == ('no' if name.endswith('cpu') else 'bf16') and v['average'] and v['window'] == [0., 1.] and v['seeds'] == ([2025] if name.endswith('cpu') else [2025, 2026, 2027]) and v['data_seed'] == 0 and 'valid' in v['rules']
    assert list(parse_sets(v['sets'])) == ['RN50', 'B32', 'VAE'] and [s[0] for s in parse_sets(v['sets']).values()] == ['open_clip:RN50/openai', 'open_clip:ViT-B-32/laion2b_s34b_b79k', 'vae:sdxl']

def test_recipes_differ_where_they_should():
    a = recipe('hvf-things-eeg2'); differ = lambda n: {k for k, x in recipe(n).items() if x != a[k]}
    assert differ('hvf-things-eeg2-across') == {'train_on', 'rules'} and differ('hvf-things-eeg2-cpu') == {'subjects', 'precision', 'seeds'} and differ('hvf-things-eeg2-sets') == {'combinations', 'controls'} and differ('hvf-things-meg') == {'data', 'choices', 'subjects', 'sfreq', 'standardise'}
    m, o = recipe('hvf-things-meg'), recipe('hvf-things-meg-across'); assert {k for k in m if m[k] != o[k]} == {'train_on', 'rules'} and o['train_on'] == 'others' and o['rules'] == recipe('hvf-things-eeg2-across')['rules'] and recipe('hvf-embedded-across')['mixes'] == ['sum', 'learned', 'person']
    assert a['subjects'] == list(range(1, 11)) and a['choices'] == ['preset=hvf-250'] and a['sfreq'] == 250. and recipe('hvf-things-meg')['subjects'] == [1, 2, 3, 4] and recipe('hvf-things-eeg2-across')['rules'] == ['valid', 'last', 'test']
    assert {tuple(c.split('+')) for c in recipe('hvf-things-eeg2-sets')['combinations']} == {('B32',), ('RN50',), ('VAE',), ('RN50', 'B32'), ('B32', 'VAE'), ('RN50', 'B32', 'VAE')} and len(recipe('hvf-embedded-sets')['combinations']) == 7


def test_the_recipe_after_samga_is_the_named_settings():
    "Every value of `samga`, and the defaults of `HVF` for the rest of what decides a training."
    v = recipe('hvf-samga'); made = HVF(v['backbones'][0], mix=v['mixes'][0], **hvf_settings(v)).config; meant = HVF(**samga).config
    assert {k for k in meant if made[k] != meant[k]} <= {'standardise', 'hidden', 'scale', 'centre', 'sets'} and v['centre'] == 'L20'

def test_recipes_name_one_asset_in_a_command():
    "`brainrecon data fetch` takes one name."
    for name in ALL:
        for text in re.findall(r'`brainrecon data fetch ([^`]+)`', (HERE/'recipes'/f'{name}.yml').read_text()): assert asset(text).id == text


# Data sets on disk: the layouts of the release, small

@pytest.mark.filterwarnings('ignore')
def test_on_the_layout_of_the_release(tmp_path):
    "Whitened EEG of 63 channels in torch files: the recipe reads the 17 at the back, within a person and with a person left out."
    from brainrecon.data.things_eeg_tree import write_things_eeg
    write_things_eeg(tmp_path/'tree', 'pt', subjects=(1, 2), n_concepts=8, n_test=4, per=2, test_reps=3)
    for train_on in ('same', 'others'):
        v = recipe('hvf-things-eeg2', root=str(tmp_path/'tree'), subjects=[1, 2], train_on=train_on, valid=.25, sets=two); source = Seen.of(v); recordings = source.load(lambda t: None); key, splits = next(iter(recordings.items())); train, valid = source.sides(splits)
        assert train.names == posterior and train.x.shape[1:] == (17, 250) and train.sfreq == 250 and len(train) == 12 and train.table.picture.is_unique and set(train.table.subject) == ({1} if train_on == 'same' else {2})
        assert source.about('eeg') == dict(data='things-eeg2', setting='within' if train_on == 'same' else 'across')
    shown = source.galleries(recordings, lambda t: None)[key]; assert list(shown.learn.widths) == ['meaning', 'pixels'] and len(shown.candidates) == 4
    (f,) = fit_hvf(plan_hvf(parse_combinations([], shown.learn.widths), ['brain_mlp'], ['sum'], [2025], False), train, valid, shown.learn, tmp_path/'fits', make=hvf_settings(v) | dict(epochs=1, width=16, precision='no'), device='cpu')
    test = source.test(splits.test.open('a test of the tests')); assert np.allclose(f.decoder.x_scale.std, 1) and np.allclose(f.decoder.z_scale.fitted['scale'], 1) and f.decoder.embed(test).shape == (4, 16) and f.decoder.place(shown.candidates).shape == (4, 16)
    rows, _ = score_hvf([f], test, shown.candidates, 'a tree', True, tmp_path, 'eeg-s01', across=True, shuffles=100, data='things-eeg2', setting='across'); assert [r['candidates'] for r in rows] == [4] and abs(sum(w['share'] for w in set_weights([f], shown.candidates)) - 1) < 1e-6

@pytest.mark.filterwarnings('ignore')
def test_on_the_layout_of_things_meg(tmp_path):
    from brainrecon.data.things_meg_tree import write_things_meg
    write_things_meg(tmp_path, 'pt', n_concepts=8, n_test=4); v = recipe('hvf-things-meg', root=str(tmp_path), subjects=[1], valid=.25, sets=two); source = Seen.of(v); recordings = source.load(lambda t: None); (key, splits), = recordings.items(); train, valid = source.sides(splits)
    assert key == ('meg', 1) and train.x.shape[1] == 271 and train.x.shape[2] in (200, 201) and train.table.picture.is_unique and not set(train.concepts) & set(valid.concepts)
