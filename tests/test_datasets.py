"Every data set through one door, and the retrieval job on recordings that lie on disk."
import json, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
from brainrecon.core.checks import LeakError
from brainrecon.data.datasets import data_pictures, data_sets, load_data, load_splits, usable
from brainrecon.data.eeg_imagenet_tree import write_eeg_imagenet
from brainrecon.data.nsd_tree import write_nsd
from brainrecon.data.things_eeg_tree import write_things_eeg
from brainrecon.data.things_meg_tree import write_things_meg

WRITERS = {'things-eeg2': write_things_eeg, 'things-meg': write_things_meg, 'eeg-imagenet': lambda at: write_eeg_imagenet(at, pictures=True), 'nsd': write_nsd}
NEEDED = {'dataset', 'layout', 'recording', 'files', 'unit', 'steps', 'licence'}


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    at = tmp_path_factory.mktemp('sets')
    for name, write in WRITERS.items(): write(at/name)
    return {name: at/name for name in WRITERS}


def test_every_set_is_known(): assert set(data_sets) == set(WRITERS)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', WRITERS)
def test_one_call_for_all(name, roots):
    "Trials of both sides, memory-mapped, with a table and a provenance that name everything; sides share nothing."
    train, test = (load_data(name, roots[name], 1, side) for side in ('train', 'test'))
    for t in (train, test):
        assert t.kind == data_sets[name].kind and len(t) and NEEDED <= set(t.provenance), NEEDED - set(t.provenance)
        assert t.provenance['simulated'] is True and t.provenance['dataset'] == name and str(roots[name]) not in json.dumps(t.provenance, default=str)
        assert {'picture', 'concept', 'subject', 'session', 'repetition', 'trial', 'path'} <= set(t.table)
        if name.startswith('things'): assert isinstance(t.x, np.memmap), 'the signal was read into memory'
    assert set(train.table[data_sets[name].by]).isdisjoint(test.table[data_sets[name].by])
    rows = usable(name, roots[name]); assert {'subject', 'layout', 'state', 'missing', 'bytes'} <= set(rows) and 'partial' in set(rows.state) | {'partial'}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', WRITERS)
def test_splits_hold_out_training_only(name, roots):
    "Held-out names come from training, the same for the same seed, and the test stays sealed."
    a, b, c = (load_splits(name, roots[name], 1, valid=1, seed=s) for s in (0, 0, 1)); by = data_sets[name].by
    names = lambda s: sorted(set(s.valid.table[by]))
    assert len(names(a)) == 1 and names(a) == names(b) and not a.test.readings
    assert set(names(a)).isdisjoint(a.train.table[by]) and not a.train.table.duplicated(['subject', 'picture']).any()
    assert names(a) != names(c) or len(set(a.train.table[by])) < 8
    shown = data_pictures(name, a.test, roots[name], size=32, log=None)
    assert shown.table.picture.tolist() == a.test.table.picture.drop_duplicates().tolist() and shown.img.std() > 5


def test_a_leaking_protocol_is_refused(roots):
    "The authors' split of EEG-ImageNet shares categories, so it is no zero-shot split; what holds whole categories out is."
    with pytest.warns(UserWarning, match='drift'): splits = load_splits('eeg-imagenet', roots['eeg-imagenet'], 1, valid=2, protocol='authors')
    assert splits.by == 'picture' and load_splits('eeg-imagenet', roots['eeg-imagenet'], 1, valid=1).by == 'concept'
    from brainrecon.data.splits import check_leak
    with pytest.raises(LeakError): check_leak(splits.train, splits.test.open('a test'))


@pytest.mark.slow
def test_retrieval_job_on_a_data_set(tmp_path):
    "The job of the demo, told to read a data set: scores beside chance, simulated because the tree says so."
    write_things_eeg(tmp_path/'tree', n_concepts=24, n_test=8, per=2, test_reps=8)
    words = ['run', 'retrieval/01_decode', 'data=things-eeg2', f'root={tmp_path/"tree"}', "choices=['channels=17']", "decoders=['ridge']", 'seeds=[0]', 'controls=False', '--out', str(tmp_path/'run')]
    done = subprocess.run([str(Path(sys.executable).with_name('brainrecon')), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((tmp_path/'run'/'scores.json').read_text()); rows = scores['rows']
    assert all(r['simulated'] and r['candidates'] == 8 and 'THINGS-EEG2 layout' in r['what'] for r in rows) and scores['test_readings'] == 1
    assert (tmp_path/'run'/'figures'/'split.png').is_file() and (tmp_path/'run'/'report.html').is_file()
