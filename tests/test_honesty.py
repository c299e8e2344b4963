"Honest by default: every leak raises, every reading of the test is counted, and protocols that choose by the test say so."
import io, json, re, subprocess, sys
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from brainrecon.core.checks import FolderError, LeakError, ReconError, ShapeError, UnknownError, ValuesError
from brainrecon.core.files import save_json
from brainrecon.data.pictures import Pictures, load_pictures
from brainrecon.data.preproc import fit_whitener
from brainrecon.data.splits import (Ledger, Sealed, Splits, agreement, block_design, check_leak, is_test, looks_near, looks_same, near_pairs, recordings_of, refuse_test,
                                    split_concepts)
from brainrecon.data.trials import Trials, concat, load_trials
from brainrecon.decoders.across import joined
from brainrecon.decoders.drawing import LinearDrawer, MeanDrawer, NearestDrawer
from brainrecon.decoders.encoding import EncodingModel
from brainrecon.decoders.retrieval import ContrastiveDecoder, Gallery, RidgeDecoder, load_decoder, shuffle_pairs
from brainrecon.encoders.vision import load_encoder
from brainrecon.jobs.inputs import compare_looks, load_galleries, load_recordings, open_test, readings_of
from brainrecon.jobs.run import Run
from brainrecon.metrics.chance import binomial_p
from brainrecon.metrics.protocols import Protocol, choose, noise_history, noise_similarity, protocol, protocol_table, protocols, selections

CONCEPTS = [f'thing{i:02d}' for i in range(20)]


def recording(concepts=CONCEPTS, per=2, reps=2, **provenance):
    "A small EEG: some pictures a concept, some repetitions a picture, four runs in which everything is mixed."
    g = np.random.default_rng(0)
    t = pd.DataFrame([dict(picture=f'{c}/{e}', concept=c, subject=1, session=1, run=r, trial=i) for i, (r, c, e) in enumerate((r, c, e) for r in range(reps) for c in concepts for e in range(per))])
    return Trials(g.normal(size=(len(t), 3, 20)).astype('float32'), ['O1', 'Oz', 'O2'], t, 'eeg', sfreq=20, provenance=dict(recording='honest', **provenance))


@pytest.fixture
def splits(): return split_concepts(recording(), CONCEPTS[12:16], CONCEPTS[16:])


def looks_of(*sides, d=24, seed=1):
    "Looks that have nothing to do with each other: a vector a picture."
    names = [p for s in sides for p in dict.fromkeys(s.table.picture)]
    return dict(zip(names, np.random.default_rng(seed).normal(size=(len(names), d)).astype('float32')))


# what may not cross the split

def test_a_concept_a_picture_a_trial():
    x = recording()
    with pytest.raises(LeakError, match='1 concepts stand in both train and valid'): Splits(x.where(concept=CONCEPTS[:5]), x.where(concept=CONCEPTS[4:9]), x.where(concept=CONCEPTS[10]))
    with pytest.raises(LeakError, match='pictures stand in both valid and test'): Splits(x[:4], x[4:8], x[6:9], by='picture')
    with pytest.raises(LeakError, match='trials stand in both'):     # under other names, the same trials inside averages
        mean = x.average(); check_leak(x.where(concept=CONCEPTS[0]), replace(mean, table=mean.table.assign(concept='hat', picture=[f'hat/{i}' for i in range(len(mean))])))
    with pytest.raises(LeakError, match='on both sides'): split_concepts(x, CONCEPTS[:3], CONCEPTS[2:5])


def test_trials_of_averages_made_before_the_split():
    "Half of the repetitions of a picture in one average, all of them in the other."
    x = recording(reps=4); some = x.where(run=[0, 1]).average(); every = x.average()
    other = replace(every, table=every.table.assign(picture=[f'x{p}' for p in every.pictures], concept=[f'x{c}' for c in every.concepts]))
    with pytest.raises(LeakError, match=f'{2*len(some)} trials'): check_leak(some, other)
    check_leak(some, replace(other, provenance=dict(other.provenance, recording='another day')))


def test_trials_are_compared_where_recordings_were_joined():
    "Joined with somebody else, on either side and however often, a recording is still compared with itself."
    x = recording(reps=4); some = x.where(run=[0, 1]).average(); every = x.average()
    hidden = replace(every, table=every.table.assign(picture=[f'x{p}' for p in every.pictures], concept=[f'x{c}' for c in every.concepts]))
    def person(n): t = recording(['hat']); return replace(t, table=t.table.assign(subject=n), provenance=dict(recording=f'person {n}')).average()
    for join in (joined, concat):
        for side in (join([hidden, person(2)]), join([person(2), hidden]), join([person(3), join([person(2), hidden])])):
            with pytest.raises(LeakError, match=f'{2*len(some)} trials'): check_leak(some, side)
            with pytest.raises(LeakError, match=f'{2*len(some)} trials'): check_leak(side, some)
        with pytest.raises(LeakError, match=f'{2*len(some)} trials'): check_leak(join([some, person(4)]), replace(join([hidden, person(5)]), table=join([hidden, person(5)]).table.replace('hat', 'cap').assign(picture=lambda t: t.picture + '/b')))
        elsewhere = join([replace(hidden, provenance=dict(recording='another day')), person(2)]); check_leak(some, elsewhere)      # counted alike, recorded elsewhere
    assert recordings_of({}) == recordings_of(dict(parts=[{}, {}])) == {'None'} and recordings_of(dict(recording='a + b', parts=[dict(parts=[dict(recording='c')])])) == {'a', 'b', 'c'}
    lost = replace(hidden, provenance={}); check_leak(some, lost)
    with pytest.raises(LeakError): check_leak(replace(some, provenance={}), lost)


@pytest.mark.parametrize('side', ['train', 'valid'])
def test_a_copy_under_another_name(splits, side):
    looks = looks_of(splits.train, splits.valid, splits.test); new = splits.test.table.picture[3]; old = getattr(splits, side).pictures[1]
    assert splits.check_looks(looks)['look_alikes'] == 0 and splits.flags == []
    looks[new] = 3*looks[old]            # length does not matter
    with pytest.raises(LeakError, match=f"{old}.*{new}.*1.000") as e: splits.check_looks(looks)
    assert e.value.facts['pairs'][0]['a'] == old and e.value.do and e.value.why
    with pytest.raises(LeakError): Splits(splits.train, splits.valid, splits.test, looks=looks)
    assert splits.check_looks(looks, same=None)['copies'] == 1 and splits.flags == ['LEAK: 1 of 8 test pictures stand in training, or near-duplicates of them']
    gallery = Gallery(np.stack(list(looks.values())), list(looks), [p.split('/')[0] for p in looks])
    with pytest.raises(LeakError): compare_looks(splits, gallery, log=None)
    said = []; assert compare_looks(splits, gallery, 'flag', said.append) == splits.flags and said == ['! ' + splits.flags[0]]


def test_a_copy_between_training_and_validation(splits):
    looks = looks_of(splits.train, splits.valid, splits.test); looks[splits.valid.pictures[0]] = looks[splits.train.pictures[0]]
    with pytest.raises(LeakError, match='in train and valid'): splits.check_looks(looks)


def test_look_alikes_are_counted_and_flagged(splits):
    looks = looks_of(splits.train, splits.valid, splits.test); g = np.random.default_rng(5)
    for new, old, cosine in zip(dict.fromkeys(splits.test.table.picture), splits.train.pictures, (.86, .89, .84)):     # turned away from the old one by a known angle
        u = looks[old]/np.linalg.norm(looks[old]); v = g.normal(size=24); v -= (v @ u)*u; looks[new] = cosine*u + np.sqrt(1 - cosine**2)*v/np.linalg.norm(v)
    verdict = splits.check_looks(looks); assert verdict['look_alikes'] == 2 and verdict['copies'] == 0 and verdict['nearest'][0][2] == pytest.approx(.89, abs=1e-3)
    assert splits.flags == ['LOOK-ALIKES: 2 of 8 test pictures look like a training picture']
    assert splits.card()['likeness'] == verdict and splits.card()['flags'] == splits.flags


@pytest.mark.parametrize('n,m,block', [(1, 1, 1), (7, 3, 2), (50, 20, 16), (50, 20, 1000)])
def test_near_pairs_are_all_of_them(n, m, block):
    g = np.random.default_rng(n); a, b = g.normal(size=(n, 4)), g.normal(size=(m, 4))
    cos = (a/np.linalg.norm(a, axis=1, keepdims=True)) @ (b/np.linalg.norm(b, axis=1, keepdims=True)).T; want = {(i, j) for i, j in np.argwhere(cos >= .3)}
    got = near_pairs(a, b, .3, block=block); assert set(zip(got.a, got.b)) == want and got.likeness.is_monotonic_decreasing and len(got) == len(want)
    assert np.allclose(got.likeness, [cos[i, j] for i, j in zip(got.a, got.b)], atol=1e-5)


@pytest.mark.parametrize('make,kind', [(lambda: near_pairs(np.zeros((2, 3)), np.ones((2, 3))), ValuesError), (lambda: near_pairs(np.full((2, 3), np.nan), np.ones((2, 3))), ValuesError),
    (lambda: near_pairs(np.ones((2, 3)), np.ones((2, 4))), ShapeError), (lambda: near_pairs(np.ones(3), np.ones((2, 3))), ShapeError), (lambda: near_pairs(np.ones((2, 3)), np.ones((2, 3)), 2), ValuesError),
    (lambda: split_concepts(recording(), ['thing01'], ['thing02']).check_looks({'thing00/0': [1.]}), UnknownError), (lambda: split_concepts(recording(), ['thing01'], ['thing02']).check_looks('lite0'), ShapeError),
    (lambda: split_concepts(recording(), ['thing01'], ['thing02']).check_looks((['a'], np.ones((2, 3)))), ShapeError), (lambda: block_design(*[recording()]*3), ShapeError)])
def test_what_cannot_be_compared_is_refused(make, kind):
    with pytest.raises(kind): make()


def test_embedded_pictures_are_far_from_the_threshold(tmp_path):
    "The default job compares looks itself, finds none, and has no flag."
    found = load_recordings('embedded', ['eeg'], [1]); shown = load_galleries(found, 'embedded', log=None)['eeg', 1]
    assert shown.flags == [] and found['eeg', 1].likeness['pictures'] == 200 and found['eeg', 1].likeness['look_alikes'] == 0
    assert looks_near < looks_same < 1


def changed(img, how):
    "One picture, after what happens to files."
    im = Image.fromarray(img); n = len(img)
    if how == 'jpeg': b = io.BytesIO(); im.save(b, 'JPEG', quality=75); return np.asarray(Image.open(b))
    if how == 'half': return np.asarray(im.resize((n//2, n//2), Image.BICUBIC).resize((n, n), Image.BICUBIC))
    return np.ascontiguousarray(img[:, ::-1] if how == 'mirrored' else np.roll(img, 4, 1))


@pytest.fixture(scope='module')
def embedded_looks():
    encoder = load_encoder('lite0'); look = lambda img: encoder(img, 'pooled')['pooled'].numpy()
    return look, {side: (p.img, look(p.img)) for side in ('train', 'valid', 'test') for p in [load_pictures(side)]}


@pytest.mark.parametrize('how,slips', [('jpeg', 1), ('half', 1), ('mirrored', 0), ('shifted', 0)])
def test_near_duplicates_of_the_held_out_pictures_raise(embedded_looks, splits, how, slips):
    "Saved again, scaled, mirrored, shifted: 49 or 50 of 50 stop the split, and the rest is flagged."
    look, of = embedded_looks; img, z = of['valid']; again = look(np.stack([changed(i, how) for i in img])); raised = 0
    names = [p for s in (splits.train, splits.valid, splits.test) for p in dict.fromkeys(s.table.picture)]; looks = dict(zip(names, of['train'][1]))
    for a, b in zip(z, again):
        pair = {**looks, splits.train.pictures[0]: a, splits.test.table.picture[0]: b}
        try: splits.check_looks(pair)
        except LeakError as e: raised += 1; assert 'near-duplicates' in str(e) and len(e.facts['pairs']) == 1
        else: assert splits.flags == ['LOOK-ALIKES: 1 of 8 test pictures look like a training picture']
        assert splits.check_looks(pair, same=None)['look_alikes'] == 1 and len(splits.flags) == 1
    assert raised == len(img) - slips


def test_different_embedded_pictures_are_below_both_thresholds(embedded_looks):
    of = embedded_looks[1]
    for a, b in (('train', 'test'), ('valid', 'test'), ('train', 'valid')): assert not len(near_pairs(of[a][1], of[b][1], looks_near - .03))


# the block

def test_blocks():
    g = np.random.default_rng(0); n = 400; concept = np.repeat([f'c{i}' for i in range(20)], 20)
    blocks = pd.DataFrame(dict(picture=[f'{c}/{i}' for i, c in enumerate(concept)], concept=concept, subject=1, session=1, run=np.arange(n)//20))
    mixed = blocks.assign(run=g.permutation(blocks.run)); halves = g.random(n) < .6
    assert 'slow drift labels' in block_design(blocks) and '20 stretches stand in training and test' in block_design(blocks[halves], blocks[~halves])
    assert block_design(mixed) == block_design(mixed[halves], mixed[~halves]) == ''
    assert block_design(blocks[blocks.concept < 'c2'], blocks[blocks.concept >= 'c2']) == ''       # whole categories, and so whole blocks, left out
    assert abs(np.mean([agreement(concept, g.permutation(blocks.run)) for _ in range(50)]) - agreement(concept, np.zeros(n))) < .01     # by luck, as much as any two
    eeg = Trials(np.zeros((n, 2, 5), 'float32') + g.normal(size=(n, 1, 1)).astype('float32'), ['a', 'b'], blocks, 'eeg', sfreq=10)
    half = np.arange(n) % 20; s = Splits(eeg[half < 12], eeg[(half >= 12) & (half < 14)], eeg[half >= 14], by='picture')
    assert [f.split(':')[0] for f in s.flags] == ['NOT ZERO-SHOT', 'BLOCK DESIGN'] and 'drift' in s.card()['block']


def test_what_loaders_say_becomes_a_flag(splits):
    "A warning of a loader and a transductive preparation reach the flags."
    s = replace(splits, train=replace(splits.train, provenance=dict(recording='honest', warning='block-confounded', transductive=True)))
    assert [f.split(':')[0] for f in s.flags] == ['BLOCK DESIGN', 'TRANSDUCTIVE']


# the test is not for choosing

def test_the_mark_travels(tmp_path, splits):
    test = splits.test.open('a test'); assert test.provenance['side'] == 'test' and not is_test(splits.train) and is_test(splits.test)
    for t in (test.average(), test.window(0, .5), test.resample(10), test.pick('Oz'), test[:2], test.where(run=0), shuffle_pairs(test), concat([splits.train, test]), concat([concat([splits.train, test]), splits.valid]),
              load_trials(test.average().save(tmp_path/'kept'))):
        assert is_test(t)
        with pytest.raises(LeakError, match='for a choice'): refuse_test(t, 'a choice')
    with pytest.raises(LeakError): refuse_test(splits.test, 'a choice')
    with pytest.raises(LeakError, match='opens once'): splits.test.open('again')
    assert splits.test.open('again', again=True) is not None and len(splits.test.readings) == 2


@pytest.mark.parametrize('make', [lambda: RidgeDecoder([10.]), lambda: ContrastiveDecoder(steps=2, batch_size=8, width=8, axes=0)], ids=['ridge', 'contrastive'])
def test_decoders_refuse_to_choose_by_the_test(make, splits, tmp_path):
    z = looks_of(splits.train, splits.valid, splits.test, d=6); gallery = Gallery(np.stack(list(z.values())), list(z), [p.split('/')[0] for p in z]); test = splits.test.open('a score').average()
    with pytest.raises(LeakError, match='choosing strength or stopping'): make().fit(splits.train, test, gallery)
    with pytest.raises(LeakError, match='for training'): make().fit(test, splits.valid, gallery)
    with pytest.raises(LeakError, match='for training'): make().fit(test, splits.valid, gallery, as_released='avde-released')      # nobody trains on the test
    with pytest.raises(LeakError): make().fit(splits.train, replace(splits.valid, provenance=dict(split='test')), gallery)         # as loaders call it
    honest, chosen = make().fit(splits.train, splits.valid, gallery), make().fit(splits.train, test, gallery, as_released='avde-released')
    assert honest.selection == 'held-out training concepts' and chosen.selection == 'test set, as released (avde-released)'
    assert load_decoder(chosen.save(tmp_path/'d.safetensors') or tmp_path/'d.safetensors').selection == chosen.selection


def test_encoding_and_drawing_refuse_the_test(splits):
    "Neither learned from nor chosen by, a fitted decoder inside a drawer included."
    z = looks_of(splits.train, splits.valid, splits.test, d=6); gallery = Gallery(np.stack(list(z.values())), list(z), [p.split('/')[0] for p in z]); test = splits.test.open('a score').average()
    img = np.random.default_rng(0).integers(0, 256, (len(z), 16, 16, 3), 'uint8'); pictures = Pictures(img, pd.DataFrame(dict(picture=list(z), concept=[p.split('/')[0] for p in z], name='', split='train', exemplar=0, group=range(len(z)))))
    named = replace(splits.test._trials, provenance=dict(split='test')); fitted = RidgeDecoder([10.]).fit(splits.train, splits.valid, gallery)
    makers = [lambda a, b: EncodingModel([10.]).fit(a, b, gallery), lambda a, b: LinearDrawer(4, 8).fit(a, b, pictures), lambda a, b: MeanDrawer().fit(a, b, pictures),
              lambda a, b: NearestDrawer(RidgeDecoder([10.])).fit(a, b, pictures, gallery), lambda a, b: NearestDrawer(fitted).fit(a, b, pictures, gallery)]
    for make in makers:
        make(splits.train, splits.valid)
        for t in (test, named, shuffle_pairs(test)):
            with pytest.raises(LeakError, match='test trials were handed in') as e: make(splits.train, t)
            assert 'as_released' not in str(e.value)             # these repeat no paper
            with pytest.raises(LeakError, match='test trials were handed in'): make(t, splits.valid)


def test_whitening_refuses_an_opened_test(splits):
    with pytest.raises(LeakError): fit_whitener(splits.test.open('whitening'))


# every reading is counted

WRITER = '''
import sys
from brainrecon.data.splits import Ledger
for i in range(int(sys.argv[3])): Ledger(sys.argv[1]).record('mark' + str(i % 2), sys.argv[2], f'reading {i}')
'''

def test_two_processes_at_once_lose_nothing(tmp_path):
    path = tmp_path/'runs'/'test_readings.json'; jobs = [subprocess.Popen([sys.executable, '-c', WRITER, str(path), f'run{j}', '20']) for j in range(3)]
    assert [p.wait(120) for p in jobs] == [0, 0, 0]
    book = Ledger(path); assert book.count('mark0') == book.count('mark1') == 30 and book.count('mark2') == 0
    for j in range(3): assert [e['why'] for e in book.entries() if e['run'] == f'run{j}'] == [f'reading {i}' for i in range(20)]      # each in its order
    assert all(re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d', e['when']) for e in book.entries())


def test_runs_beside_each_other_count_together(tmp_path):
    "A run counts its own readings, attempts included; the ledger counts those of all; looks of a choice count one by one."
    def one(name, concepts=CONCEPTS[16:], looks=1):
        s = split_concepts(recording(), CONCEPTS[12:16], concepts); run = Run(tmp_path/name); save_json(run.folder/'params.json', dict(job='a'))
        assert is_test(open_test(s, run, 'top-1', looks)); return readings_of({('eeg', 1): s})
    assert one('a') == dict(test_readings=1, test_readings_all=1) and one('b') == dict(test_readings=1, test_readings_all=2)
    assert one('b') == dict(test_readings=2, test_readings_all=3)                                  # a second attempt
    assert one('c', looks=40) == dict(test_readings=40, test_readings_all=43)                      # 40 epochs, chosen by the test
    assert one('e', CONCEPTS[16:19]) == dict(test_readings=1, test_readings_all=1)                 # another test set
    assert {e['run'] for e in Ledger(tmp_path/'test_readings.json').entries()} == {'a', 'b', 'c', 'e'} and json.loads((tmp_path/'b'/'test_readings.json').read_text())['honest'] == ['top-1', 'top-1']


def test_a_run_by_hand_has_no_neighbours(tmp_path, splits):
    run = Run(tmp_path/'by-hand'); run.folder.mkdir(); open_test(splits, run, 'top-1')
    assert readings_of({('eeg', 1): splits}) == dict(test_readings=1, test_readings_all=None) and not (tmp_path/'test_readings.json').exists()


def test_the_mark_is_of_what_was_seen(splits):
    t = splits.test._trials; mark = Sealed(t).mark
    for same in (t.average(), t.window(0, .5), t.pick(['O1']), t[::-1]): assert Sealed(same).mark == mark
    for other in (t[:4], replace(t, table=t.table.assign(subject=2)), replace(t, provenance=dict(recording='another'))): assert Sealed(other).mark != mark


@pytest.mark.parametrize('text', ['{}', '[1]', '[{"test": "a"}]', 'cut sh', '[{"test":"a","run":"b","why":"c","looks":"many","when":"d"}]'])
def test_a_damaged_ledger_is_named(tmp_path, text):
    (tmp_path/'test_readings.json').write_text(text)
    for ask in (lambda b: b.count('a'), lambda b: b.record('a', 'b', 'c')):
        with pytest.raises(FolderError, match='test_readings.json'): ask(Ledger(tmp_path/'test_readings.json'))
    assert (tmp_path/'test_readings.json').read_text() == text          # nothing was overwritten


def test_the_card(splits):
    mean = Splits(*(t.average() for t in (splits.train, splits.valid)), splits.test._trials.average()); card = mean.card(); json.dumps(card)
    assert card['sides']['train'] == dict(card['sides']['train'], trials=24, pictures=24, concepts=12, subjects=['1'], averaged=dict(least=2, most=2))
    assert card['test_mark'] == splits.card()['test_mark'] and card['recording'] == 'honest' and card['flags'] == [] and card['likeness'] == 'not compared' and card['by'] == 'concept'
    hashes = lambda c: {n: (s['pictures_hash'], s['concepts_hash']) for n, s in c['sides'].items()}
    assert hashes(card) == hashes(splits.card()) and len(set(hashes(card).values())) == 3          # of the lists, not of the signal


# what choosing on the test does to nothing

def test_a_decoder_that_knows_nothing():
    "Chosen on held-out concepts it is at chance; chosen on the test it is several times above, and looks significant."
    runs = [noise_history(60, n_test=100, n_valid=50, seed=s) for s in range(100, 125)]; chance = 1/100
    got = {r: np.array([h.test[choose(h, r)['row']] for h in runs]) for r in ('held-out concepts', 'last', 'test score')}
    everything = np.concatenate([h.test for h in runs]); assert abs(everything.mean() - chance) < 4*everything.std()/np.sqrt(len(everything))
    for r in ('held-out concepts', 'last'): assert abs(got[r].mean() - chance) < 4*.01/np.sqrt(len(runs))
    assert got['test score'].mean() > 3*chance and got['test score'].min() >= 2*chance
    p = {r: np.array([binomial_p(round(v*100), 100, chance) for v in got[r]]) for r in got}
    assert (p['test score'] < .05).mean() > .5 and (p['held-out concepts'] < .05).mean() < .25
    assert noise_history(5, seed=3).equals(noise_history(5, seed=3)) and not noise_history(5, seed=3).equals(noise_history(5, seed=4))
    assert noise_similarity(0, 7).shape == (7, 7)


def test_rules():
    h = pd.DataFrame(dict(step=range(0, 100, 10), valid=[0, 1, 3, 2, 2, 2, 2, 2, 2, 2], test=[0, 1, 2, 3, 4, 5, 9, 5, 4, 3], valid_loss=[9, 8, 7, 6, 5, 4, 3, 2, 1, 2], train_loss=[9, 5, 5, 5, 5, 5, 5, 5, 5, 1]))
    want = {'held-out concepts': 20, 'held-out trials': 80, 'last': 90, 'training loss': 60, 'test score': 60, 'test concepts': 70, 'true picture': 90}
    assert {r: choose(h, r)['step'] for r in selections} == want
    assert choose(h, 'test score')['looks'] == 10 and choose(h, 'test concepts')['looks'] == 8 and choose(h)['looks'] == 1
    assert choose(dict(step=[1, 2], valid=[.5, .5]))['step'] == 1      # of equal ones the first
    for bad in (dict(history=h[:0]), dict(history=h, by='best'), dict(history=h.drop(columns='test'), by='test score'), dict(history=h.assign(valid=np.nan))):
        with pytest.raises(ReconError): choose(**bad)


# protocols

ASKED = ['brainrecon', 'avde-released', 'hvf-released', 'hvf-released-across', 'ubp-released', 'ubp-released-across', 'nice-released', 'mindeye2-released', 'mindhier-released']

def test_protocols_are_there():
    assert set(ASKED) <= set(protocols) and next(iter(protocols)) == 'brainrecon' and protocol().name == 'brainrecon'
    with pytest.raises(UnknownError, match='avde-released'): protocol('avde-release')
    t = protocol_table(full=True); assert list(t.index) == list(protocols) and not t.isna().any().any() and set(ASKED) <= set(protocol_table().index)


@pytest.mark.parametrize('name', protocols)
def test_a_protocol_is_whole(name):
    p = protocols[name]; assert isinstance(p, Protocol) and p.name == name and p.selection in selections and p.source and p.chosen and p.setting in ('within', 'across', 'any')
    ours = name == 'brainrecon'; assert (p.flag == '') == ours == (p.flags == []) == (not p.differs())
    if ours: return
    assert p.flag.startswith('As released by') and p.flag.endswith('.') and p.flags[0] == f'AS RELEASED: {name}' and re.search(r'\.(py|ipynb|yaml)\b', p.source)
    assert p.reads_test == ('NOT ZERO-SHOT: chosen on the test' in p.flags) == ('not zero-shot' in p.flag) == selections[p.selection].reads_test
    assert ('CHOSEN WITH THE TRUE IMAGE' in p.flags) == (p.selection == 'true picture')


def test_facts():
    "What the released codes do, as the specifications have it."
    f = lambda n, k: getattr(protocols[n], k)
    assert {n for n, p in protocols.items() if p.reads_test} == {'avde-released', 'hvf-released-across', 'ubp-released-across', 'mindaligner-released'}
    assert f('avde-released', 'average_train').startswith('none') and f('avde-released', 'whitening') == 'none' and 'dot' in f('avde-released', 'similarity')
    assert f('hvf-released', 'selection') == 'last' and f('hvf-released', 'seeds') == (2025, 2026, 2027) and '10' in f('hvf-released', 'samples')
    assert f('ubp-released', 'selection') == 'training loss' and 'position' in f('ubp-released', 'ties') and f('ubp-released-across', 'selection') == 'test concepts'
    assert f('nice-released', 'gallery') == 'concept centres' and '740' in f('nice-released', 'chosen') and not f('nice-released', 'reads_test')
    assert f('mindeye2-released', 'n_way') == 300 and f('mindeye2-released', 'blend') == .75 and str(f('mindeye2-released', 'antialias')).startswith('False') and 'seed 42' in f('mindeye2-released', 'draws')
    assert f('mindhier-released', 'samples') == 'best of 4, chosen with the true image'
    assert f('brainrecon', 'selection_words') == 'held-out training concepts' and f('brainrecon', 'antialias') is True and f('brainrecon', 'blend') == 'none' and f('brainrecon', 'ties') == 'expected'
