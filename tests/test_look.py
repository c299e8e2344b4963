"First looks at a recording: the figures say what they show, are small and the same each time, keep test sets sealed; and the job that draws them all."
import os
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.checks import ChannelError, ShapeError
from brainrecon.core.files import load_json
from brainrecon.data.look import flat_places, mean_of, order_of, places, quality, show_channels, show_evoked, show_presentation, show_quality, show_split, some_rows
from brainrecon.data.pictures import load_pictures
from brainrecon.data.simulated_fmri import simulate_fmri
from brainrecon.data.simulated_meeg import simulate_eeg, simulate_meg
from brainrecon.data.splits import split_concepts
from brainrecon.data.trials import Trials, load_trials
from brainrecon.jobs.run import run_job

shared = Path(os.environ.get('BRAINRECON_SHARED') or Path(__file__).resolve().parents[2]/'shared')
evoked_file = shared/'data'/'mne_evoked'/'mne_test-ave.fif.gz'


@pytest.fixture(scope='module')
def pictures(): return load_pictures('valid')[np.arange(20)]


@pytest.fixture(scope='module')
def eeg(pictures): return simulate_eeg(pictures, reps=6, layout=63)


def words(fig):
    "Everything that a figure says."
    import matplotlib.text
    return '\n'.join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def unit_given(trials, unit, factor): return replace(trials, x=np.asarray(trials.x)*np.float32(factor), provenance=dict(unit=unit))


def test_evoked_says_unit_number_and_simulation(eeg):
    said = words(show_evoked(eeg))
    assert 'simulated EEG, mean of 120 trials, 63 channels' in said and 'µV' in said and '170 ms' in said
    assert 'mean of 50 of 120 trials' in words(show_evoked(eeg, rows=50))
    assert 'simulated' not in words(show_evoked(unit_given(eeg, 'uV', 1e6)))
    high = [show_evoked(unit_given(eeg, u, f)).axes[0].get_ylim()[1] for u, f in (('V', 1), ('uV', 1e6), ('µV', 1e6))]
    assert np.allclose(high, high[0], rtol=1e-4) and 5 < high[0] < 30
    assert 'noise s.d.' in words(show_evoked(unit_given(eeg, 'whitened', 1))) and 'unit not noted' in words(show_evoked(replace(eeg, provenance=dict(recording='x'))))


def test_mean_and_rows_of_a_memory_map(eeg, tmp_path):
    stored = load_trials(eeg.save(tmp_path/'eeg'))
    assert isinstance(stored.x, np.memmap) and np.allclose(mean_of(stored, np.arange(120)), np.asarray(eeg.x).mean(0, dtype='float64'), rtol=1e-5, atol=1e-12)
    rows = some_rows(stored, 17); assert len(rows) == 17 and rows[0] == 0 and rows[-1] == 119 and np.ptp(np.diff(rows)) <= 1
    assert len(some_rows(stored, numbers=3*int(np.prod(stored.x.shape[1:])))) == 3
    show_evoked(stored)


def test_positions_are_never_guessed(eeg, pictures):
    meg = simulate_meg(pictures, reps=1, layout=40)
    assert '170 ms' in words(show_evoked(meg)) and 'fT' in words(show_evoked(meg))
    bare = replace(meg, provenance=dict(recording='x', unit='T')); assert '170 ms' not in words(show_evoked(bare)) and 'no place known' in words(show_evoked(bare))
    from brainrecon.data.simulated_meeg import sensors
    at = {c['ch_name']: c['loc'][:3].tolist() for c in sensors('meg', 40)['chs']}
    assert '170 ms' in words(show_evoked(replace(bare, provenance=dict(bare.provenance, positions=at))))
    assert len(places(list(at), 'meg', provenance=dict(positions=dict(list(at.items())[:12])))[0]) == 12
    with pytest.raises(ChannelError, match='known place'): show_channels(meg.names, kind='meg')
    odd = replace(eeg, names=[f'{n}x' if n == 'Oz' else n for n in eeg.names]); assert 'Ozx' in words(show_evoked(odd)) and 'Ozx' in words(show_channels(odd.names))
    with pytest.raises(ChannelError, match='not in the recording'): show_channels(eeg.names, ['Oz', 'Foo'])


@pytest.mark.skipif(not evoked_file.is_file(), reason=f'the recorded averages of MNE are not at {evoked_file.parent.name}/{evoked_file.name} below {shared}/data (set BRAINRECON_SHARED)')
def test_a_real_helmet():
    mne = pytest.importorskip('mne')
    evoked = mne.read_evokeds(evoked_file, verbose='error')[0].pick('mag', exclude=())
    names = [n for n in evoked.ch_names if n not in evoked.info['bads']]; data = evoked.copy().pick(names)
    t = Trials(data.data[None].astype('float32'), names, pd.DataFrame(dict(picture=['tone'], concept=['tone'])), 'meg', evoked.info['sfreq'], evoked.tmin, dict(unit='T', recording='mne'))
    assert '100 ms' in words(show_evoked(t, at=(.1,), info=evoked.info)) and f'{len(names)} channels' in words(show_channels(names, kind='meg', info=evoked.info))
    at, info, sphere, gone = places(names, 'meg', evoked.info); assert at == names and not gone and sphere is None
    head = next(ax for ax in show_evoked(t, at=(.1,), info=evoked.info).axes if ax.get_title() == '100 ms')         # the outline is as wide as the helmet
    wide = max(np.ptp(line.get_xdata()) for line in head.lines if len(line.get_xdata()) > 20)
    assert .8 < wide/np.ptp(flat_places(info)[:, 0]*.095) < 1.25


def test_split_counts_overlap_and_opens_nothing(eeg):
    concepts = sorted(set(eeg.concepts)); splits = split_concepts(eeg, concepts[:4], concepts[4:9])
    said = words(show_split(splits)); assert not splits.test.readings
    assert 'train: 11 concepts × 1 picture × 6 repetitions = 66 trials' in said and 'on two sides: 0 concepts, 0 pictures' in said and 'simulated' in said
    half = [eeg[np.flatnonzero(eeg.table.repetition % 2 == i)] for i in (0, 1)]
    assert 'on two sides: 20 concepts, 20 pictures' in words(show_split(dict(train=half[0], test=half[1])))
    assert '6 repetitions = 120 trials' in words(show_split(dict(train=eeg.average())))           # an average carries its count
    two = pd.DataFrame(dict(concept=list('aabb'), picture=['a1', 'a2', 'b1', 'b2'])); by_picture = words(show_split(dict(train=two[::2], test=two[1::2]), by='picture'))
    assert 'on two sides: 2 concepts, 0 pictures' in by_picture and 'picture 1' in by_picture
    bare = words(show_split(dict(train=two[:3].assign(concept=two.picture), test=two[3:].assign(concept=two.picture)), by='picture'))
    assert 'train: 3 pictures × 1 repetition = 3 trials' in bare and 'test: 1 picture × 1 repetition = 1 trial' in bare and 'on two sides: 0 pictures' in bare and 'concept' not in bare


def test_quality_names_faults_and_nothing_else(eeg, pictures):
    q = quality(eeg); assert not q['flat'] + q['loud'] + q['faint'] + q['odd']
    x = np.array(eeg.x); x[:, 3] = 0; x[:, 10] *= 8; x[:, 20] /= 8; x[7] *= 9; q = quality(replace(eeg, x=x))
    assert (q['flat'], q['loud'], q['faint'], q['odd']) == ([eeg.names[3]], [eeg.names[10]], [eeg.names[20]], [7])
    assert f'flat: {eeg.names[3]}' in words(show_quality(replace(eeg, x=x))) and 'nothing stands out' in words(show_quality(eeg))
    fmri = simulate_fmri(pictures, reps=3); assert quality(fmri)['size'].shape == (len(fmri.names), 60) and 'fMRI' in words(show_quality(fmri))
    dead = replace(eeg, x=np.zeros_like(np.asarray(eeg.x))); assert len(quality(dead)['flat']) == 63; show_quality(dead)


def test_order_of_presentation(eeg):
    gen = np.random.default_rng(0); labels = np.repeat(np.arange(20), 30)
    block = pd.DataFrame(dict(concept=labels, picture=np.arange(600), trial=np.arange(600))); mixed = block.assign(trial=gen.permutation(600))
    assert order_of(block)['verdict'] == 'block' and order_of(mixed)['verdict'] == 'mixed' and order_of(eeg.table)['verdict'] == 'mixed'
    assert 'BLOCK DESIGN' in words(show_presentation(block)) and 'BLOCK' not in words(show_presentation(mixed))
    lined = block.assign(picture=labels); assert order_of(lined)['verdict'] == 'file' and 'NOT the order of presentation' in words(show_presentation(lined))
    with pytest.raises(ShapeError, match='averages'): show_presentation(eeg.average())


@pytest.mark.parametrize('draw', [show_evoked, show_quality, show_presentation, lambda t: show_channels(t.names), lambda t: show_split(dict(train=t))], ids=['evoked', 'quality', 'presentation', 'channels', 'split'])
def test_figures_are_small_and_the_same_each_time(eeg, draw):
    kind, data = draw(eeg).small(); assert kind == 'image/png' and len(data) <= 40_000 and draw(eeg).small()[1] == data


def test_the_job_draws_everything(tmp_path):
    "The embedded EEG, tiny: each figure with its caption, scores beside chance, and the test set not read."
    run = run_job('data/02_look', out=tmp_path/'run', exemplars=1, reps=[1, 8], most=16, permutations=20, draws=100, folds=3, sfreq=25.0, show=False)
    rows = {r['measure']: r for r in run.scores()['rows']}; captions = load_json(run.folder/'figures'/'captions.json')
    assert {'split', 'evoked', 'channels', 'quality', 'presentation', 'decoding-picture', 'decoding-features', 'rsa-time', 'rsa', 'ceiling'} == set(captions)
    assert all(c.startswith('Simulated: embedded, EEG') for c in captions.values()) and run.scores()['test_readings'] == 0
    decoding = rows['pairwise decoding of known pictures, 0.1 to 0.4 s']; before = rows['pairwise decoding of known pictures, before onset']
    assert decoding['low'] > .5 == decoding['chance'] and abs(before['value'] - .5) < .1 and before['control'] and all(r['simulated'] for r in rows.values())
    assert 0 < rows['noise ceiling, mean of 1 trial, % of variance']['value'] < rows['noise ceiling, mean of 8 trials, % of variance']['value'] < 100


def test_the_job_on_a_folder_of_fmri(tmp_path, pictures):
    simulate_fmri(pictures, reps=3).save(tmp_path/'own')
    run = run_job('data/02_look', out=tmp_path/'run', data=str(tmp_path/'own'), permutations=10, draws=100, show=False)
    captions = load_json(run.folder/'figures'/'captions.json'); assert set(captions) == {'split', 'quality', 'presentation', 'ceiling'}
    assert any('Not compared with pictures' in n for n in run.scores()['notes'])
