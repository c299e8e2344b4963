"THINGS-EEG2 and THINGS-MEG: what is read is what the files hold, under every spelling in which people have them."
import json, pickle, re, shutil
from dataclasses import replace
import mne
import numpy as np
import pytest
import torch
from brainrecon.core.checks import ChannelError, FileError, MissingWeights
from brainrecon.core.sources import file_mark
from brainrecon.data import things_eeg, things_meg
from brainrecon.data.simulated_meeg import ch17, ch63
from brainrecon.data.things_eeg import load_things_eeg, recognise, usable_things_eeg
from brainrecon.data.things_eeg_raw import prepared_folder, raw_file
from brainrecon.data.things_eeg_tree import dialects, write_things_eeg
from brainrecon.data.things_meg import load_things_meg, usable_things_meg
from brainrecon.data.things_meg_tree import write_things_meg
from brainrecon.data.things_pictures import metadata_name, picture_folders, things_table, write_things_images
from brainrecon.data.splits import check_leak
from brainrecon.jobs.parameters import find_job

SIZE = dict(n_concepts=3, n_test=3, per=2)


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    "One tree of each layout of EEG."
    root = tmp_path_factory.mktemp('eeg')
    for layout in dialects: write_things_eeg(root/layout, layout, **SIZE)
    return root


@pytest.fixture(scope='module')
def meg(tmp_path_factory):
    "The released epochs and the copies, with few sensors."
    root = tmp_path_factory.mktemp('meg')
    for layout in ('fif', 'pt'): write_things_meg(root/layout, layout, sensors=24, n_concepts=4, n_test=3, per=2)
    return root


def stored(root, layout, split):
    "The signal as the file has it, read by the plain means of the field."
    base = root/layout/dialects[layout]['folder']/'sub-01'; name = f'preprocessed_eeg_{"training" if split == "train" else "test"}.npy'
    if layout == 'pt': return torch.load(base/f'{split}.pt', weights_only=False)['eeg']
    if layout == 'arrays': return (x := np.load(base/f'{split}.npy')).reshape(-1, *x.shape[2:])
    return (np.load(base/name, allow_pickle=True).item() if layout == 'npy' else pickle.loads((base/name).read_bytes()))['preprocessed_eeg_data']


def is_view(x):
    "Whether the numbers still stand in the file."
    return isinstance(x, np.memmap) and not x.flags.owndata and not x.flags.writeable


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('layout', dialects)
def test_each_layout_is_read_as_it_is(trees, layout, split):
    "Same numbers, same order, no copy; rate, window, unit and type of the layout."
    t = load_things_eeg(trees/layout, 1, split); x = stored(trees, layout, split); how = dialects[layout]
    assert is_view(t.x) and t.x.dtype == how['dtype'] and t.sfreq == how['sfreq'] and t.tmin == 0 and t.names == ch63
    assert np.array_equal(t.x.reshape(x.shape), x)
    assert t.provenance['unit'] == ('whitened' if how['whiten'] else 'uV') and t.provenance['simulated'] and not t.provenance['full']
    want = things_table(trees/layout)[split]; first = t.table.iloc[::4]
    assert first.picture.tolist() == want.picture.tolist() and first.concept.tolist() == want.concept.tolist()
    folder, = picture_folders(trees/layout)
    assert all((folder/p).is_file() for p in t.table.path)
    assert t.table.repetition.tolist() == [1, 2, 3, 4]*(len(t)//4)
    text = json.dumps(t.provenance)
    assert str(trees) not in text and '"/' not in text, 'a path of this machine'


@pytest.mark.parametrize('layout', dialects)
def test_sides_do_not_leak(trees, layout):
    train, test = (load_things_eeg(trees/layout, 1, s) for s in ('train', 'test'))
    check_leak(train, test); assert not set(train.table.trial) & set(test.table.trial)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_protocols_of_pickles(trees, tmp_path, protocol):
    "Whatever Python wrote the file."
    root = shutil.copytree(trees/'pickle', tmp_path/'t'); f = root/'preprocessed_bc'/'sub-01'/'preprocessed_eeg_test.npy'
    f.write_bytes(pickle.dumps(pickle.loads(f.read_bytes()), protocol))
    assert np.array_equal(load_things_eeg(root, 1, 'test').x, load_things_eeg(trees/'pickle', 1, 'test').x)


@pytest.mark.parametrize('name', ['Preprocessed_data', 'preprocessed_bc_whitened', 'eeg_100hz', 'any name'])
def test_folders_have_any_name(trees, tmp_path, name):
    "Recognised by content; a folder that says it is whitened must be."
    base = tmp_path/'deep'/'er'/name; shutil.copytree(trees/'npy'/'Preprocessed_data_250Hz', base); (base/'sub-01').rename(base/'sub-1'); shutil.copytree(trees/'npy'/'images_set', tmp_path/'images_set')
    assert recognise(tmp_path) == ('dict', base) and len(load_things_eeg(tmp_path, 1, 'test')) == 12
    assert recognise(base)[1] == base and len(load_things_eeg(base, 1, 'test', pictures=tmp_path)) == 12


def test_many_layouts_by_name(trees):
    "A name of a layout or of a folder chooses."
    assert recognise(trees, 'pt')[0] == 'pt' and recognise(trees, 'preprocessed_bc')[1].name == 'preprocessed_bc'
    assert set(usable_things_eeg(trees).folder) == {d['folder'] for d in dialects.values()}


def test_the_prepared_layout(trees, tmp_path):
    "What the preparation of raw recordings leaves is read by the same call."
    for split in ('train', 'test'): load_things_eeg(trees/'arrays', 1, split).save(tmp_path/'hvf-250'/'sub-01'/split)
    t = load_things_eeg(tmp_path, 1, 'train', channels=17, repetitions='first')
    assert recognise(tmp_path)[0] == 'trials' and len(t) == 6 and t.names == ch17 and isinstance(t.x, np.memmap)


def test_raw_recordings_answer_with_what_was_prepared(trees, tmp_path, monkeypatch):
    "A recipe that was prepared before is found; without one the message says what to type."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); raw = tmp_path/'raw'/'sub-01'/'ses-01'; raw.mkdir(parents=True)
    for n in ('training', 'test'): (raw/f'raw_eeg_{n}.npy').write_bytes(b'before')
    with pytest.raises(FileError, match=r'01_prepare root=\.\.\. subjects=1 preset=hvf-250'): load_things_eeg(tmp_path/'raw', 1, preset='hvf-250')
    t = load_things_eeg(trees/'arrays', 1, preset='hvf-250'); marks = {f'{k}-1': file_mark(raw/f'raw_eeg_{n}.npy') for k, n in (('train', 'training'), ('test', 'test'))}
    replace(t, provenance={**t.provenance, 'key': dict(files=marks)}).save(prepared_folder(1, 'hvf-250')/'train')
    for root in (tmp_path, tmp_path/'raw'): assert np.array_equal(load_things_eeg(root, 1, layout='raw', preset='hvf-250', channels=['Oz']).x[:, 0], t.x[:, 15])
    (raw/'raw_eeg_test.npy').write_bytes(b'after.')       # another recording of the same size, from wherever it is looked at
    for root in (tmp_path, tmp_path/'raw'):
        with pytest.raises(FileError, match='this very file'): load_things_eeg(root, 1, layout='raw', preset='hvf-250')


def test_the_commands_in_messages_are_understood():
    "What a message says to type has parameters that the job has."
    said = re.search(r'`brainrecon run (\S+) (.*?)`', things_eeg.way_to_prepare(1, 'hvf-250'))
    assert {w.split('=')[0] for w in said[2].split()} <= {p.name for p in find_job(said[1]).parameters}


@pytest.mark.parametrize('wrong, words', [(11, 'ten people'), (0, 'ten people'), ('sub-01', 'whole numbers'), (1.0, 'whole numbers'), (True, 'whole numbers'), (2, '--subject 2')])
def test_subjects_that_are_not_there(trees, tmp_path, wrong, words):
    "The remedy is one that helps: nothing can be fetched for people who were never recorded."
    (tmp_path/'sub-01'/'ses-01').mkdir(parents=True)
    for ask in (lambda: load_things_eeg(trees/'npy', wrong), lambda: raw_file(tmp_path, wrong, 1)):
        with pytest.raises(MissingWeights, match=words): ask()


@pytest.mark.parametrize('pictures', [5, 200])
def test_units_of_few_pictures(pictures):
    "A test of few pictures is whitened like its training side, whatever the level of each epoch and the response to each picture."
    g = np.random.default_rng(0); reps = 400//pictures; noise = g.normal(size=(pictures, reps, 63, 100)); level = g.normal(size=(pictures, reps, 1, 1))*g.normal(size=(63, 1))
    made = lambda x: things_eeg.unit_of(things_eeg.Opened(x, list(ch63), np.arange(100)/100, 'sub-01/test.npy'))
    x = noise + 2*level + .5*g.normal(size=(pictures, 1, 63, 1))*np.hanning(100)
    assert made(x) == 'whitened'
    mix = np.eye(63) + np.ones((63, 1))*g.uniform(.5, 1, 63)/4
    assert made(4*np.einsum('cd,krdt->krct', mix, x)) == 'uV' and made(4e-6*np.einsum('cd,krdt->krct', mix, x)) == 'V'


def test_paths_are_where_the_pictures_are(trees, tmp_path):
    "The file says train_images, the folder is called training_images."
    root = shutil.copytree(trees/'pt', tmp_path/'t'); (root/'Image_set'/'train_images').rename(root/'Image_set'/'training_images')
    assert load_things_eeg(root, 1).table.path[0].startswith('training_images/00001_') and load_things_eeg(root, 1, pictures=False).table.path[0].startswith('train_images/')


def test_choices_are_views_or_kept(trees):
    "Neighbouring channels and first repetitions cost nothing; others are on disk too."
    t = load_things_eeg(trees/'pt', 1); x = np.asarray(t.x)
    a = load_things_eeg(trees/'pt', 1, channels=17, repetitions='first', window=(.1, .3))
    assert is_view(a.x) and np.array_equal(a.x, x[::4, 46:, 25:75]) and a.tmin == .1
    b = load_things_eeg(trees/'pt', 1, channels=['O2', 'Fp1'])
    assert isinstance(b.x, np.memmap) and np.array_equal(b.x, x[:, [62, 0]])
    c = load_things_eeg(trees/'pt', 1, repetitions='mean')
    assert np.allclose(c.x, x.reshape(-1, 4, 63, 250).mean(1, dtype='float64'), atol=2e-3) and c.table.n_averaged.eq(4).all()


def test_oz_twice_must_be_asked_for(trees):
    "The list of the released script is refused, and reproduced on request, where it is recorded."
    with pytest.raises(ChannelError): load_things_eeg(trees/'pt', 1, channels=['Oz' if c == 'POz' else c for c in ch17])
    t = load_things_eeg(trees/'pt', 1, channels='brainhive-oz-twice'); o = load_things_eeg(trees/'pt', 1, channels=['Oz'])
    assert np.array_equal(t.x[:, 11], o.x[:, 0]) and np.array_equal(t.x[:, 15], o.x[:, 0]) and len(t.names) == 17 and 'Oz stands twice' in str(t.provenance['steps'])


def test_recipes_fit_what_was_made_like_them(trees):
    assert load_things_eeg(trees/'pt', 1, preset='hvf-250').names == ch17 and load_things_eeg(trees/'arrays', 1, preset='nice-250').x.shape[1:] == (63, 250)
    assert load_things_eeg(trees/'pickle', 1, preset='avde-200').x.shape[1:] == (63, 200)


def test_whole_subjects_are_called_whole(trees, monkeypatch):
    monkeypatch.setitem(things_eeg.full_size, 'train', (6, 4)); monkeypatch.setitem(things_eeg.full_size, 'test', (3, 4))
    assert load_things_eeg(trees/'npy', 1).provenance['full']
    u = usable_things_eeg(trees/'npy'); assert u.state.tolist() == ['ready'] + ['absent']*9 and u.missing[0] == '' and u.bytes[0] > 1e6


def test_usable_never_stops(trees, tmp_path):
    "A broken file is a line in the table."
    root = shutil.copytree(trees/'arrays', tmp_path/'t'); (root/'preprocessed_eeg'/'sub-01'/'train.npy').write_bytes(b''); shutil.copytree(root/'preprocessed_eeg'/'sub-01', root/'preprocessed_eeg'/'sub-12')
    u = usable_things_eeg(root).set_index('subject'); assert u.state[1] == u.state[12] == 'partial' and 'train.npy' in u.missing[1] and u.state[2] == 'absent'
    (tmp_path/'nothing').mkdir(); assert (usable_things_eeg(tmp_path/'nothing').state == 'absent').all()


def test_the_brain_is_in_it(tmp_path):
    "The written signals tell pictures apart: one half of the repetitions finds the same picture in the other half."
    write_things_eeg(tmp_path, 'pt', n_concepts=4, n_test=10, per=2, test_reps=40, snr_db=-10)
    t = load_things_eeg(tmp_path, 1, 'test', channels=17); x = np.asarray(t.x, 'float32').reshape(10, 40, -1)
    a, b = (h - h.mean(0) for h in (x[:, ::2].mean(1), x[:, 1::2].mean(1)))
    assert (np.corrcoef(a, b)[:10, 10:].argmax(1) == np.arange(10)).mean() >= .6


def test_tables_of_pictures(tmp_path):
    "Any of the known folders; two equal copies are no contradiction; the metadata says the order."
    write_things_images(tmp_path/'a', folder='Image_set', train='train_images', metadata=False, **SIZE); t = things_table(tmp_path/'a')
    shutil.copytree(tmp_path/'a'/'Image_set', tmp_path/'a'/'Image_set_Resize'); assert things_table(tmp_path/'a')['train'].equals(t['train'])
    assert things_table(tmp_path/'a'/'Image_set')['test'].equals(t['test']) and t['train'].path[0].startswith('train_images/00001_')
    write_things_images(tmp_path/'b', folder='', **SIZE); d = np.load(tmp_path/'b'/metadata_name, allow_pickle=True).item()
    for k in ('train_img_concepts', 'train_img_files'): d[k] = d[k][::-1]
    with open(tmp_path/'b'/metadata_name, 'wb') as f: np.save(f, np.array(d, dtype=object), allow_pickle=True)
    assert things_table(tmp_path/'b')['train'].picture.tolist() == t['train'].picture.tolist()[::-1]
    (tmp_path/'empty').mkdir()
    assert things_table(tmp_path/'empty', images=tmp_path/'b')['test'].picture.tolist() == t['test'].picture.tolist()


def test_epochs_become_trials(meg, tmp_path):
    "The same numbers as MNE gives, cut to a second; catch trials and test concepts left out."
    e = mne.read_epochs(meg/'fif'/'derivatives'/'preprocessed'/'preprocessed_P1-epo.fif', verbose='error'); x = e.get_data(copy=True)[..., 20:221].astype('float32')
    train, test = (load_things_meg(meg/'fif', 1, s, at=tmp_path) for s in ('train', 'test'))
    for t in (train, test): assert np.array_equal(t.x, x[t.table.trial]) and isinstance(t.x, np.memmap) and (t.sfreq, t.tmin) == (200., 0.) and set(t.provenance['positions']) == set(t.names)
    check_leak(train, test); sheet = e.metadata
    assert sheet.trial_type[test.table.trial].eq('test').all() and sheet.trial_type[train.table.trial].eq('exp').all() and len(train) == 8 and len(test) == 36
    assert sheet.session_nr[test.table.trial].tolist() == test.table.session.tolist()
    assert all((meg/'fif'/p).is_file() for p in {*train.table.path, *test.table.path})


def test_converted_once_and_again_when_changed(meg, tmp_path):
    "The second reading finds the first; another file does not."
    root = shutil.copytree(meg/'fif', tmp_path/'t'); at = tmp_path/'kept'; at.mkdir(); a = load_things_meg(root, 1, at=at); stamp = [p.stat().st_mtime_ns for p in at.glob('P1*/x.npy')]
    load_things_meg(root, 1, at=at); assert [p.stat().st_mtime_ns for p in at.glob('P1*/x.npy')] == stamp and len(stamp) == 1
    f = next(root.rglob('*-epo.fif')); e = mne.read_epochs(f, verbose='error'); e._data *= 1.5; e.save(f, overwrite=True, verbose='error')
    assert np.allclose(load_things_meg(root, 1, at=at).x, 1.5*a.x, rtol=1e-6)


def test_a_recording_in_several_files(tmp_path):
    "As MNE cuts those of more than 2 GB."
    for name, size in (('one', '2GB'), ('more', '2MB')): write_things_meg(tmp_path/name, sensors=80, split_size=size, n_concepts=3, n_test=2, per=2)
    assert len(list((tmp_path/'more').rglob('*.fif'))) > 1 and len(list((tmp_path/'one').rglob('*.fif'))) == 1
    a, b = (load_things_meg(tmp_path/n, 1, 'test', at=tmp_path) for n in ('one', 'more')); assert np.array_equal(a.x, b.x) and len(b.provenance['files']) > 1


def test_names_from_a_list(meg, tmp_path):
    "The list of all THINGS pictures, or a sheet with tabs, says what the numbers mean."
    root = shutil.copytree(meg/'fif', tmp_path/'t'); f = next(root.rglob('*-epo.fif')); e = mne.read_epochs(f, verbose='error'); sheet = e.metadata
    with mne.use_log_level('error'): e.metadata = None
    e.save(f, overwrite=True, verbose='error'); (root/'sourcedata'/'sample_attributes_P1.csv').unlink(); want = load_things_meg(meg/'fif', 1, at=tmp_path).table.picture.tolist()
    known = sheet.dropna(subset='things_image_nr').drop_duplicates('things_image_nr').set_index('things_image_nr').image_path
    lines = [str(known.get(i, f'images/nothing/nothing_{i:02d}s.jpg')) for i in range(1, int(known.index.max()) + 1)]
    (root/'image_paths.csv').write_text('\n'.join(lines) + '\n'); assert load_things_meg(root, 1, stimuli=root/'image_paths.csv', at=tmp_path).table.picture.tolist() == want
    sheet.to_csv(root/'sheet.tsv', sep='\t', index=False); assert load_things_meg(root, 1, stimuli=root/'sheet.tsv', at=tmp_path).table.picture.tolist() == want


@pytest.mark.parametrize('key', ['eeg', 'meg'])
def test_copies_under_both_keys(tmp_path, key):
    "The copies call MEG `eeg`, or not; the signal is a view of the file."
    write_things_meg(tmp_path, 'pt', key=key, sensors=24, n_concepts=3, n_test=2, per=2); t = load_things_meg(tmp_path, 1)
    x = torch.load(tmp_path/'Preprocessed_data'/'sub-01'/'train.pt', weights_only=False)[key]
    assert is_view(t.x) and np.array_equal(t.x, x[:, 0]) and t.kind == 'meg' and t.provenance['unit'] == 'z' and t.names[0] == 'sensor 001'


def test_copies_and_epochs_agree(meg, tmp_path):
    a, b = load_things_meg(meg/'fif', 1, 'test', at=tmp_path).average(), load_things_meg(meg/'pt', 1, 'test').average()
    assert np.abs(a.x - b.x[[b.table.picture.tolist().index(p) for p in a.table.picture]]).max() < .02


def test_usable_meg(meg, tmp_path, monkeypatch):
    u = usable_things_meg(meg/'fif'); assert u.state.tolist() == ['partial'] + ['absent']*3 and '24 of 271' in u.missing[0]
    root = shutil.copytree(meg/'fif', tmp_path/'t'); f = next(root.rglob('*-epo.fif')); f.write_bytes(f.read_bytes()[:1000]); assert 'cannot be read' in usable_things_meg(root).missing[0]
    monkeypatch.setattr(things_meg, 'n_sensors', 24); monkeypatch.setitem(things_meg.full_size, 'train', (8, 1)); monkeypatch.setitem(things_meg.full_size, 'test', (3, 12))
    assert usable_things_meg(meg/'pt').state[0] == usable_things_meg(meg/'fif').state[0] == 'ready' and load_things_meg(meg/'pt', 1).provenance['full']
