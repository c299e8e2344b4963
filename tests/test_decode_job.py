"""The retrieval job beyond its default: a released protocol, people left out, concept centres, answers that are kept, a joint report.

The real job on the embedded recordings, with few decoders so that it ends soon.
"""
import json
import numpy as np
import pytest
from PIL import Image
from brainrecon.data.pictures import load_pictures
from brainrecon.jobs.predictions import load_predictions
from brainrecon.jobs.run import RunFailed, run_job

quick = dict(decoders=['ridge'], seeds=[0], draws=200, device='cpu', show=False)

@pytest.fixture(scope='module')
def runs(tmp_path_factory): return tmp_path_factory.mktemp('runs')

@pytest.fixture(scope='module')
def honest(runs): return run_job('retrieval/01_decode', out=runs/'honest', **quick)

@pytest.fixture(scope='module')
def released(runs, honest): return run_job('retrieval/01_decode', out=runs/'released', protocol='avde-released', controls=False, **quick)

def test_answers_are_kept_and_give_the_scores(honest):
    rows = {(r['measure'], r['control']): r for r in honest.scores()['rows']}; kept = load_predictions(honest.folder)
    assert {p.label for p in kept} == {'eeg-s01-ridge-seed0', 'eeg-s01-ridge-seed0-control'}
    for p in kept:
        for k in (1, 5): assert abs(p.hits(k).mean() - rows[f'top{k}', p.about['control']]['value']) < 1e-9
        assert p.about['cost']['parameters'] > 0 and p.thumbnails.shape[0] == 200
    r = rows['top1', False]
    assert (r['method'], r['data'], r['setting'], r['protocol'], r['selection'], r['over']) == ('ridge', 'embedded eeg', 'within', 'brainrecon', 'held-out training concepts', 'concepts')
    assert r['flags'] == [] and r['p'] < .01 < rows['top1', True]['p'] and r['low'] > r['chance']

def test_card_and_repetitions(honest):
    card = json.loads((honest.folder/'card.json').read_text())['eeg-s01']
    assert card['sides']['test']['pictures'] == 200 and card['flags'] == [] and card['likeness']['copies'] == 0
    (curve,) = json.loads((honest.folder/'repetitions.json').read_text()); top1 = [r['value'] for r in curve['rows'] if r['measure'] == 'top1']
    assert len(top1) >= 2 and top1[-1] > top1[0] and abs(top1[-1] - next(r['value'] for r in honest.scores()['rows'] if r['measure'] == 'top1' and not r['control'])) < 1e-9

def test_released_protocol_is_followed_flagged_and_counted(released):
    s = released.scores()
    for r in s['rows']:
        assert r['protocol'] == 'avde-released' and r['selection'] == 'test set, as released (avde-released)'
        assert any('NOT ZERO-SHOT' in f for f in r['flags']) and any('avde-released' in f for f in r['flags'])
    assert s['test_readings'] == 6 and s['test_readings_all'] == 7       # six penalties by the test here, one reading of the honest run beside it
    page = (released.folder/'report.html').read_text()
    assert 'NOT ZERO-SHOT' in page and '7 times in all runs' in page and 'keep the epoch that was best on the 200 test concepts' in page

def test_report_puts_both_side_by_side(honest, released, runs):
    from brainrecon.jobs.cli import main
    assert main(['report', str(honest.folder), str(released.folder), '--out', str(runs/'report')]) == 0
    page = (runs/'report'/'report.html').read_text()
    assert all(p.about['similarity'] == 'dot' for p in load_predictions(released.folder))
    for word in ('avde-released', 'DIFFERENT PROTOCOLS', 'NOT ZERO-SHOT', 'held-out training concepts', 'best', 'median', 'worst', 'repetitions', 'imulated'): assert word in page, word

def test_person_left_out(runs):
    run = run_job('retrieval/01_decode', out=runs/'across', subjects=[1, 2], train_on='others', controls=False, repetitions=False, **quick); rows = run.scores()['rows']
    assert all(r['setting'] == 'across' for r in rows) and 'mean of 2 people' in rows[0]['what'] and rows[0]['over'] == 'subjects' and rows[0]['n'] == 2
    each = [r for r in rows if r['measure'] == 'top5' and r['over'] == 'concepts']
    assert len(each) == 2 and np.mean([r['value'] for r in each]) == pytest.approx(next(r['value'] for r in rows if r['measure'] == 'top5' and r['over'] == 'subjects'))
    assert {p.about['setting'] for p in load_predictions(run.folder)} == {'across'}

def test_voxels_of_different_people_are_not_one_space(runs):
    with pytest.raises(RunFailed, match='voxels are numbered in each brain anew'): run_job('retrieval/01_decode', out=runs/'voxels', kinds=['fmri'], subjects=[1, 2], train_on='others', **quick)

def test_concept_centres_as_candidates(runs):
    test = load_pictures('test')
    for concept, img in zip(test.table.concept, test.img):
        (at := runs/'more'/concept).mkdir(parents=True); Image.fromarray(img[6:122, 6:122]).save(at/'near.png'); Image.fromarray(img[:, ::-1]).save(at/'turned.png')
    run = run_job('retrieval/01_decode', out=runs/'centres', kinds=['fmri'], centres=str(runs/'more'), controls=False, **quick); s = run.scores()
    assert s['rows'][0]['value'] > .05 and any('centres of other pictures' in n for n in s['notes'])
    (p,) = load_predictions(run.folder)
    assert p.about['match'] == 'concept' and 'centre of 2 pictures' in p.gallery_pictures[0] and abs(p.hits(1).mean() - s['rows'][0]['value']) < 1e-9

@pytest.mark.parametrize('given, says', [(dict(protocol='nice-released'), 'held-out trials'), (dict(protocol='avde'), 'avde-released'), (dict(protocol='avde-released', kinds=['fmri']), 'things-eeg2'), (dict(protocol='mindeye2-released', data='nsd'), 'draws'), (dict(protocol='hvf-released-across'), 'train_on'),
    (dict(train_on='both'), 'others'), (dict(centres='nowhere at all', kinds=['fmri']), 'no folder')])
def test_refused_before_anything_is_trained(runs, given, says):
    with pytest.raises(RunFailed, match=says): run_job('retrieval/01_decode', out=runs/('-'.join(map(str, given.values())).replace(' ', '_').replace('[', '').replace(']', '').replace("'", '')), **quick, **given)


def test_folds_are_made_one_at_a_time():
    "Of ten people, training of nine others is joined when it is asked for, and let go for the next; what was found out about a fold stays."
    import gc, weakref
    from brainrecon.data.embedded import load_embedded
    from brainrecon.jobs.decode import leave_out
    from brainrecon.jobs.inputs import is_simulated
    people = {('eeg', s): load_embedded('eeg', s, exemplars=1) for s in (1, 2, 3)}; folds = leave_out(people); assert list(folds) == list(people) and len(folds) == 3
    first = folds['eeg', 1]; assert set(first.train.table.subject) == {2, 3} and folds['eeg', 1] is first and first.test is people['eeg', 1].test
    first.likeness = dict(copies=1); gone = weakref.ref(first); del first
    assert set(folds['eeg', 2].train.table.subject) == {1, 3}; gc.collect(); assert gone() is None
    assert folds['eeg', 1].likeness == dict(copies=1) and is_simulated(folds['eeg', 1])
    with pytest.raises(KeyError): folds['meg', 1]
