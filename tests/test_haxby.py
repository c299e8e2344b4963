"""Haxby 2001: both layouts are read alike, a wrong folder is refused by name, nothing of a held-out run reaches training, and the real slice gives the score that it should.

The recordings here are simulated, but for the slice of PyMVPA's tests, which is not part of the project: its tests say where they looked.
"""
import os
from dataclasses import replace
from pathlib import Path
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from brainrecon.alignment.cascade import hierarchy_loss
from brainrecon.core.checks import FileError, ParameterError, ShapeError, UnknownError
from brainrecon.data.haxby import haxby_files, haxby_or_simulated, read_haxby, write_haxby
from brainrecon.data.recordings_tree import categories
from brainrecon.decoders.categories import decode_categories
from brainrecon.decoders.haxby import category_pictures, category_space, decode_hierarchy, decode_ridge, fit_encoder, run_folds, scrambled, shuffled_labels, stand_ins
from brainrecon.jobs.run import run_job
from brainrecon.metrics.statistics import interval
from notebooks import ROOT

SLICE = Path(os.environ.get('BRAINRECON_SHARED') or ROOT.parent/'shared')/'data'/'haxby_slice'
real = pytest.mark.skipif(not SLICE.is_dir(), reason=f'the slice of Haxby and others is not at {SLICE} (set BRAINRECON_SHARED)')
quick = dict(size='tiny', epochs=4)


@pytest.fixture(scope='module')
def tree(tmp_path_factory): return write_haxby(tmp_path_factory.mktemp('haxby')/'slice', n_voxels=60, runs=4, seed=5)

@pytest.fixture(scope='module')
def trials(tree): return read_haxby(tree)

@pytest.fixture(scope='module')
def space(): return category_space(width=8, log=None)   # the layers that other tests have in the cache


def spoiled(tree, at, name, do):
    "A copy of the tree with one file changed, or without it."
    at.mkdir(parents=True)
    for p in tree.iterdir():
        if p.name != name: (at/p.name).write_bytes(p.read_bytes())
    if do is not None: do(tree/name, at/name)
    return at


def test_both_layouts_say_the_same(tmp_path):
    both = [read_haxby(write_haxby(tmp_path/k, k, subject=3, n_voxels=30, runs=3), 3) for k in ('slice', 'nilearn')]
    assert np.array_equal(both[0].x, both[1].x) and both[0].table.equals(both[1].table) and all(t.provenance['simulated'] for t in both)
    assert [t.provenance['layout'] for t in both] == ['slice', 'nilearn'] and (both[0].table.subject == 3).all()
    at = tmp_path/'nilearn'/'haxby2001'/'subj3'; assert (at/'labels.txt').read_text().splitlines()[:2] == ['labels chunks', 'rest 0']
    for root in (tmp_path/'nilearn', at.parent, at): assert haxby_files(root, 3).bold == at/'bold.nii.gz'
    (at/'mask4_vt.nii.gz').rename(at/'mask8_face_vt.nii.gz')
    assert np.array_equal(read_haxby(tmp_path/'nilearn', 3, mask='mask8_face_vt').x, both[0].x)
    with pytest.raises(UnknownError, match='mask8_face_vt'): haxby_files(at, 3)


def test_a_block_is_the_mean_of_its_own_volumes(tree, trials):
    "By hand: a line taken out of each run, standard deviations, the mean over the labelled volumes."
    y = nib.load(tree/'bold.nii.gz').get_fdata()[nib.load(tree/'mask.nii.gz').get_fdata() > 0].T; t = pd.read_csv(tree/'labels.tsv', sep='\t'); rows = []
    for _, r in t.groupby('run'):
        run = y[r.index]; line = np.c_[np.ones(len(run)), np.arange(len(run))]; rest = run - line @ np.linalg.lstsq(line, run, rcond=None)[0]; rest /= rest.std(0)
        rows += [(c, rest[(r.label == c).to_numpy()].mean(0)) for c in r.label[r.label != 'rest'].unique()]
    assert trials.concepts.tolist() == trials.pictures.tolist() == [c for c, _ in rows] and (trials.table.volumes == 9).all()
    assert np.allclose(trials.x, np.stack([v for _, v in rows]), atol=2e-3) and trials.table.run.tolist() == np.repeat([1, 2, 3, 4], 8).tolist()


@pytest.mark.parametrize('name, do, error, says', [
    ('bold.nii.gz', None, FileError, 'bold.nii.gz'), ('labels.tsv', None, FileError, 'labels.tsv'), ('mask.nii.gz', None, FileError, 'mask.nii.gz'),
    ('labels.tsv', lambda a, b: b.write_text(a.read_text().replace('cat\t', 'kat\t')), UnknownError, "slice2/labels.tsv, volume .*'kat'.*[\\s\\S]*'cat'"),
    ('labels.tsv', lambda a, b: b.write_text('\n'.join(a.read_text().splitlines()[:-5])), ShapeError, '479 labels for slice2/bold.nii.gz of 484 volumes'),
    ('labels.tsv', lambda a, b: b.write_text(a.read_text().replace('face', 'rest')), UnknownError, "'face'"),
    ('labels.tsv', lambda a, b: b.write_text(a.read_text().replace('label\trun', 'word\trun')), UnknownError, "no column 'label'"),
    ('mask.nii.gz', lambda a, b: nib.save(nib.Nifti1Image(np.ones((4, 5, 6), 'u1'), np.eye(4)), b), ShapeError, r'mask.nii.gz has the shape \(4, 5, 6\)'),
    ('bold.nii.gz', lambda a, b: b.write_bytes(a.read_bytes()[:20000]), FileError, 'bold.nii.gz'),
    ('bold.nii.gz', lambda a, b: nib.save(nib.load(a).slicer[..., 0], b), ShapeError, 'series of volumes')])
def test_a_wrong_folder_is_refused_by_name(tree, tmp_path, name, do, error, says):
    with pytest.raises(error, match=says): read_haxby(spoiled(tree, tmp_path/'slice2', name, do))


def test_one_or_the_other(tmp_path, tree):
    with pytest.raises(ParameterError, match='without `root`'): haxby_or_simulated('haxby', '', tmp_path)
    with pytest.raises(ParameterError, match='one of the two'): haxby_or_simulated('simulated', tree, tmp_path)
    with pytest.raises(UnknownError, match='simulated'): haxby_or_simulated('real', tree, tmp_path)
    assert len(haxby_or_simulated('haxby', tree, tmp_path)) == 32 and not any(tmp_path.iterdir())


def test_stand_ins(space):
    p = category_pictures(); assert p.concepts == categories and {len(v) for v in stand_ins.values()} == {1, 2, 4} and p.img.dtype == np.uint8
    img = p.img[:2]; noise = scrambled(img, 1); assert np.array_equal(noise, scrambled(img, 1)) and (noise != scrambled(img, 2)).any()
    size = lambda x: np.abs(np.fft.fft2(x[0, ..., 0].astype(float)))[1:8, 1:8].ravel()
    assert np.corrcoef(size(img), size(noise))[0, 1] > .9 and abs(np.corrcoef(img[0].ravel(), noise[0].ravel())[0, 1]) < .5
    assert space.z.shape == (8, 17*8) and (space.nearest(space.z) == np.arange(8)).all()


def test_folds_are_whole_runs(trials):
    for n in (0, 2, 3, 4):
        f = run_folds(trials, n); assert len(set(f)) == (n or 4) and (trials.table.assign(f=f).groupby('run').f.nunique() == 1).all()
    with pytest.raises(ParameterError, match='folds=5'): run_folds(trials, 5)
    with pytest.raises(ShapeError): run_folds(trials[(trials.table.run == 1).to_numpy()])


def test_nothing_of_a_held_out_run_reaches_training(trials, space):
    "Answers for the first run stay the same, bit for bit, whatever the labels of that run are; and answers for others change."
    turned = trials.table.copy(); first = (turned.run == 1).to_numpy(); turned.loc[first, 'concept'] = turned.loc[first, 'picture'] = np.roll(turned.concept[first].to_numpy(), 1)
    other = replace(trials, table=turned); a, b = (decode_ridge(t, space, shuffles=0) for t in (trials, other)); assert (a.said[first] == b.said[first]).all() and (a.confusion != b.confusion).any()
    a, b = (decode_hierarchy(t, space, **quick) for t in (trials, other)); assert (a.said[first] == b.said[first]).all()


def test_ridge_carried_to_places_is_ridge_to_places(trials, space):
    "Shares of categories times their places are what ridge says when it is fitted to the places themselves."
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler
    y, fold = space.number(trials), run_folds(trials, 2); said = np.zeros(len(y), int)
    for f in (0, 1):
        test = fold == f; s = StandardScaler().fit(trials.x[~test]); said[test] = space.nearest(Ridge(alpha=300.).fit(s.transform(trials.x[~test]), space.z[y[~test]]).predict(s.transform(trials.x[test])))
    assert (np.array(space.names)[said] == decode_ridge(trials, space, 2, alphas=[300.], shuffles=0).said).all()


def test_luck_is_an_eighth(trials, space):
    s = decode_ridge(trials, space, shuffles=300, seed=1); assert abs(s.null.mean() - 1/8) < .02 and s.p < .02 and s.votes[1] == 32
    gen = np.random.default_rng(0); y = space.number(trials); runs = trials.table.run.to_numpy()
    for _ in range(5):
        z = shuffled_labels(trials, space, gen); assert all(sorted(z[runs == r]) == sorted(y[runs == r]) for r in range(1, 5))
    assert s.score == decode_ridge(trials, space, shuffles=0).score and decode_ridge(replace(trials, x=np.random.default_rng(1).normal(size=trials.x.shape).astype('float32')), space, shuffles=0).score < .35


def test_killed_and_resumed_is_the_same(trials, space, tmp_path, monkeypatch):
    "Training that stopped half way ends with the same weights, noise included."
    x, y = trials.x.astype('float32'), space.number(trials); how = dict(epochs=6, batch_size=16, noise=1., context=2, hidden=(16,), heads=2, ff=16, lr=1e-3)
    whole = fit_encoder(x, y, space, 3, folder=tmp_path/'a', **how); calls = []
    class Killed(Exception): pass
    def stop(*args, **options):
        calls.append(1)
        if len(calls) == 8: raise Killed
        return hierarchy_loss(*args, **options)
    with monkeypatch.context() as m:
        m.setattr('brainrecon.decoders.haxby.hierarchy_loss', stop)
        with pytest.raises(Killed): fit_encoder(x, y, space, 3, folder=tmp_path/'b', **how)
    left = [p for p in (tmp_path/'b').rglob('*') if p.is_file()]; assert left and len(calls) == 8
    again = fit_encoder(x, y, space, 3, folder=tmp_path/'b', **how)
    assert all(torch.equal(p, q) for p, q in zip(whole.state_dict().values(), again.state_dict().values())) and not any(p.requires_grad for p in whole.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(whole.state_dict().values(), fit_encoder(x, y, space, 4, **how).state_dict().values()))


def test_the_job_on_the_simulated_tree(tmp_path):
    run = run_job('mindhier/04_haxby', out=tmp_path/'run', folds=3, size='tiny', epochs=3, seeds=[0, 1], shuffles=50, device='cpu', show=False); s = run.scores()
    rows = {r['what'].split(', simulated fMRI')[0]: r for r in s['rows']}; assert all(r['simulated'] for r in s['rows']) and 'simulated' in s['title']
    assert set(rows) == {'encoder to pictures', 'ridge to pictures', 'ridge to categories, no pictures', 'encoder to pictures, shuffled labels', 'ridge to pictures, shuffled labels', 'encoder minus ridge'}
    table = pd.read_csv(run.folder/'answers.tsv', sep='\t'); r = rows['ridge to pictures']; hits = (table.ridge_to_pictures == table.category).to_numpy(float)
    assert len(table) == 96 and r['value'] == hits.mean() > .4 and (r['low'], r['high']) == tuple(interval(hits, 'exact')[k] for k in ('low', 'high')) and (r['n'], r['candidates'], r['chance']) == (96, 8, .125)
    e = rows['encoder to pictures']; assert e['value'] == pytest.approx(np.mean([(table[f'encoder_to_pictures_{i}'] == table.category).mean() for i in (0, 1)])) and e['seeds'] == [0, 1]
    assert {p.stem for p in (run.folder/'figures').glob('*.png')} == {'scores', 'encoder', 'ridge'}


@real
def test_the_real_slice():
    "Blocks of eight categories: ridge was found to name 51 of 64 rightly, with pictures about as many."
    trials = read_haxby(SLICE); assert trials.x.shape == (64, 530) and not trials.provenance['simulated'] and trials.table.groupby('run').size().tolist() == [8]*8
    assert sorted(trials.table.concept.unique()) == categories and (trials.table.groupby(['run', 'concept']).size() == 1).all()
    plain = decode_categories(trials, 'run', shuffles=0); ridge = decode_ridge(trials, category_space(log=None), shuffles=200)
    assert .7 < plain.score < .9 and .6 < ridge.score < .9 and ridge.p < .01 and abs(ridge.null.mean() - .125) < .03
    model = read_haxby(SLICE, response='model'); assert model.x.shape == (64, 530) and decode_categories(model, 'run', shuffles=0).score > .65


@real
def test_the_job_on_the_real_slice(tmp_path):
    run = run_job('mindhier/04_haxby', out=tmp_path/'run', data='haxby', root=str(SLICE), folds=3, size='tiny', epochs=3, seeds=[0], controls=False, shuffles=50, device='cpu', show=False); s = run.scores()
    assert s['title'].endswith('real fMRI, Haxby 2001, slice') and not any(r['simulated'] for r in s['rows']) and all(r['n'] in (64, 8) for r in s['rows'] if not r['control'])
    assert not (run.folder/'simulated').exists()
