"EEG-ImageNet: every form of its files gives the same trials, both splits are what they say, and a killed conversion goes on."
import json, os, shutil, warnings
import numpy as np, pandas as pd, pytest, torch
import brainrecon.data.eeg_imagenet as module
from brainrecon.core.checks import LeakError
from brainrecon.data.eeg_imagenet import BlockConfounded, authors_side, ch62, held_out_categories, load_eeg_imagenet, read_marked, recording, usable_eeg_imagenet
from brainrecon.data.eeg_imagenet_tree import write_eeg_imagenet
from brainrecon.data.splits import Splits, check_leak

pytestmark = pytest.mark.filterwarnings('ignore::brainrecon.data.eeg_imagenet.BlockConfounded')


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache')); read_marked.cache_clear()

@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp('eeg-imagenet'); write_eeg_imagenet(root, coarse=5, fine=16, per_category=5)
    return root

@pytest.fixture(scope='module')
def twice(tmp_path_factory):
    root = tmp_path_factory.mktemp('twice'); write_eeg_imagenet(root, subjects=[0], sessions=2)
    return root


def test_values_and_table(tree):
    raw = torch.load(tree/'EEG-ImageNet_1.pth', weights_only=True)['dataset']; t = load_eeg_imagenet(tree, 1, 'all', window=(0, .5))
    assert t.names == ch62 and t.sfreq == 1000 and t.kind == 'eeg' and t.x.dtype == np.float32 and len(t) == len(raw) == 105
    for i in (0, 50, 104):
        assert np.array_equal(t.x[i], raw[i]['eeg_data'][:, :500].float()) and t.table.path[i] == f'{raw[i]["label"]}/{raw[i]["image"]}' and t.table.picture[i] + '.JPEG' == raw[i]['image'] and t.table.concept[i] == raw[i]['label']
    u = load_eeg_imagenet(tree, 1, 'all'); assert np.array_equal(u.x, t.x[:, :, 40:440]) and abs(u.times[0] - .04) < 1e-9 and abs(u.times[-1] - .439) < 1e-9
    assert set(t.table.group) == {'coarse', 'fine0', 'fine1'} and load_eeg_imagenet(tree, 1, 'all', granularity='fine1').table.concept.nunique() == 8
    assert str(tree) not in json.dumps(t.provenance) and t.provenance['dataset'] == 'eeg-imagenet' and t.provenance['simulated'] and t.provenance['files'][0]['name'] == 'EEG-ImageNet_1.pth'

def test_merged_and_other_number_types(tmp_path, tree):
    a = load_eeg_imagenet(tree, 8, 'all'); parts = [torch.load(tree/f'EEG-ImageNet_{i}.pth', weights_only=True) for i in (1, 2)]
    d = dict(parts[0], dataset=parts[0]['dataset'] + parts[1]['dataset'])
    for i, change in enumerate((lambda x: x, lambda x: x.double(), lambda x: x.double().numpy(), lambda x: x.T.contiguous().T)):
        os.makedirs(tmp_path/f'{i}'); torch.save(dict(d, dataset=[e | dict(eeg_data=change(e['eeg_data'])) for e in d['dataset']]), tmp_path/f'{i}'/'EEG-ImageNet.pth')
        b = load_eeg_imagenet(tmp_path/f'{i}', 8, 'all'); assert np.array_equal(a.x, b.x) and a.table.equals(b.table)
    assert (usable_eeg_imagenet(tmp_path/'0').state == 'ready').sum() == 2

def test_authors_split(tree):
    with pytest.warns(BlockConfounded, match='leave-categories-out'): train = load_eeg_imagenet(tree, 1, 'train')
    test = load_eeg_imagenet(tree, 1, 'test'); check_leak(train, test, by='picture')
    assert train.table.position.max() == 2 and set(test.table.position) == {3, 4} and set(train.concepts) == set(test.concepts) and train.provenance['warning'] == 'block-confounded'
    with pytest.raises(LeakError): check_leak(train, test)
    table = pd.DataFrame(dict(concept=np.repeat(['a', 'b'], 50), session=1, position=np.tile(np.arange(50), 2))); table['picture'] = np.arange(100)
    assert np.array_equal(authors_side(table), np.arange(100) % 50 < 30)     # the authors' own rule at the real size

def test_whole_categories(tree):
    with warnings.catch_warnings():
        warnings.simplefilter('error', BlockConfounded); sides = [load_eeg_imagenet(tree, 1, s, 'leave-categories-out') for s in ('train', 'test')]
    inner = list(sides[0].table.concept.unique()[:3]); rest = [c for c in sides[0].table.concept.unique() if c not in inner]
    s = Splits(sides[0].where(concept=rest), sides[0].where(concept=inner), sides[1]); assert len(s.test) == 25
    t = recording(tree, 1)[0].table; held = held_out_categories(t)
    assert sorted(sides[1].table.concept.unique()) == held and t[t.concept.isin(held)].groupby('group').concept.nunique().to_dict() == dict(coarse=1, fine0=2, fine1=2)
    assert held_out_categories(recording(tree, 8)[0].table) == held != held_out_categories(t, seed=1)
    only = load_eeg_imagenet(tree, 1, 'test', 'leave-categories-out', held_out=[held[0]]); assert set(only.concepts) == {held[0]}

def test_two_sessions_stay_on_one_side(twice):
    t = recording(twice, 0)[0].table; assert len(t) == 50 and t.session.tolist() == [1]*25 + [2]*25 and t.repetition.max() == 2 and t.block.nunique() == 10
    sides = [load_eeg_imagenet(twice, 0, s) for s in ('train', 'test')]; check_leak(*sides, by='picture'); assert [len(s) for s in sides] == [30, 20]
    assert sides[0].average().table.n_averaged.eq(2).all()

def test_copies_are_left_out(tmp_path, tree):
    d = torch.load(tree/'EEG-ImageNet_1.pth', weights_only=True); torch.save(dict(d, dataset=d['dataset'] + d['dataset'][:4]), tmp_path/'EEG-ImageNet_1.pth')
    with pytest.warns(UserWarning, match='4 entries'): t = load_eeg_imagenet(tmp_path, 1, 'all')
    assert len(t) == 105 and '4 copied' in t.provenance['steps'][1]

def test_the_second_time_the_large_file_is_not_read(tree, monkeypatch):
    a = load_eeg_imagenet(tree, 1, 'all'); read_marked.cache_clear()
    monkeypatch.setattr(module, 'read_entries', lambda *a: pytest.fail('read again'))
    b = load_eeg_imagenet(tree, 1, 'all'); assert np.array_equal(a.x, b.x) and isinstance(recording(tree, 1)[0].x, np.memmap)

def test_a_killed_conversion_goes_on(tmp_path, tree, monkeypatch):
    whole, calls = load_eeg_imagenet(tree, 1, 'all').x, []; d = torch.load(tree/'EEG-ImageNet_1.pth', weights_only=True)
    entries = [e | dict(image=e['image'].replace('_', f'_{k}00')) for k in range(1, 7) for e in d['dataset']]; torch.save(dict(d, dataset=entries), tmp_path/'EEG-ImageNet_1.pth')
    real = module.whole
    def dies(got, *a, **k):
        calls.append(len(got))
        if len(calls) == 2: raise KeyboardInterrupt
        return real(got, *a, **k)
    monkeypatch.setattr(module, 'whole', dies)
    with pytest.raises(KeyboardInterrupt): load_eeg_imagenet(tmp_path, 1, 'all')
    t = load_eeg_imagenet(tmp_path, 1, 'all'); assert calls == [512, 118, 118] and len(t) == 630 and np.array_equal(t.x[-105:], whole)

def test_partial_trees(tmp_path, tree):
    shutil.copytree(tree, tmp_path/'t'); d = torch.load(tmp_path/'t'/'EEG-ImageNet_1.pth', weights_only=True)
    torch.save(dict(d, dataset=d['dataset'][:-12] + [e | dict(subject=3, eeg_data=e['eeg_data'] + 1) for e in d['dataset']]), tmp_path/'t'/'EEG-ImageNet_1.pth'); (tmp_path/'t'/'EEG-ImageNet_2.pth').write_bytes(b'cut')
    u = usable_eeg_imagenet(tmp_path/'t').set_index('subject'); assert len(u) == 16
    assert u.state[1] == 'partial' and u.missing[1] == '12 pictures' and u.state[3] == 'ready' and u.state[8] == 'absent' and 'EEG-ImageNet_2.pth' in u.missing[8]
    assert len(load_eeg_imagenet(tmp_path/'t', 3, 'all')) == 105

def test_default_folder(tree, monkeypatch, tmp_path):
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path)); shutil.copytree(tree, tmp_path/'eeg-imagenet'); assert len(load_eeg_imagenet(subject=1, split='all')) == 105
