"Decoders ready to use: whatever a person has is read, named and drawn; kept, shared and opened again; by one name, which stays."
import json, os, shutil, subprocess, sys, warnings
from pathlib import Path
import numpy as np
import pytest
import brainrecon
from brainrecon import BrainDecoder, Trials, load_decoder, load_embedded, load_pictures
from brainrecon.core.checks import ChannelError, CheckpointError, LeakError, MissingWeights, ParameterError, ShapeError, UnknownError, ValuesError
from brainrecon.core.files import load_arrays, load_json, save_json
from brainrecon.data.simulated_meeg import ch17
from brainrecon.decoders.drawing import LinearDrawer
from brainrecon.decoders.packaged import packaged_controls, packaged_drawer, packaged_kinds, packaged_recordings, sides_folder, systems
from brainrecon.decoders.ready import brain_side
from brainrecon.decoders.retrieval import RidgeDecoder, make_gallery
from brainrecon.jobs.decode import ready

mne, nib = pytest.importorskip('mne'), pytest.importorskip('nibabel')


@pytest.fixture(scope='module')
def recorded(): return {k: load_embedded(k, 1, **how) for k, how in packaged_recordings.items() if k != 'meg'}

@pytest.fixture(scope='module')
def tests(recorded): return {k: ready(s.test.open('tests', again=True)) for k, s in recorded.items()}

@pytest.fixture(scope='module')
def epochs(recorded):
    "Four epochs of 17 channels at 100 Hz, from MNE, without names of pictures."
    e = recorded['eeg'].test.open('tests', again=True).average()[:4].to_epochs(); e.metadata = None; return e

@pytest.fixture(scope='module')
def linear(recorded):
    train, valid = (recorded['fmri'].train.average()[:200], recorded['fmri'].valid.average())
    return LinearDrawer().fit(train, valid, [load_pictures('train', exemplars=True, size=32), load_pictures('valid', size=32)])


# --- by name

@pytest.mark.parametrize('system', systems)
def test_packaged_systems_name_and_draw_what_they_never_met(system, tests):
    "Above chance on test pictures, for every kind that is packed, and not for the twin that was taught with shuffled pairs."
    decoder = load_decoder(system); assert set(decoder.kinds) == set(packaged_kinds(system))
    for kind in set(decoder.kinds) & set(tests):
        test = tests[kind]; decoder.refuse(test.concepts, kind); hit = np.mean([r[0] == p for r, p in zip(decoder.retrieve(test), test.pictures)])
        assert hit > (.2 if kind == 'fmri' else .1), (system, kind, hit)
        assert decoder.reconstruct(test[:2], n=2, seed=3).shape == (2, 2, 128, 128, 3) and decoder.embed(test[:2]).shape[0] == 2
        if (system, kind) in packaged_controls(): assert np.mean([r[0] == p for r, p in zip(load_decoder(system, control=True).retrieve(test), test.pictures)]) < .04

def test_every_packed_file_is_named_by_the_card_and_small():
    card = load_json(sides_folder/'card.json'); assert {p.name for p in sides_folder.glob('*.safetensors')} == set(card['files']) and sum(f['bytes'] for f in card['files'].values()) < 15e6
    for k in ('how', 'parameters', 'commit', 'date', 'recordings', 'pictures'): assert card[k], k
    assert card['recordings'] == {k: dict({n: (list(v) if isinstance(v, tuple) else v) for n, v in how.items()}, subject=1) for k, how in packaged_recordings.items()}

def test_packed_side_that_was_changed_is_not_opened(tmp_path):
    at = Path(shutil.copytree(sides_folder, tmp_path/'sides')); name = 'hvf-fmri.safetensors'
    with open(at/name, 'r+b') as f: f.seek(-8, 2); f.write(b'\1'*8)
    with pytest.raises(CheckpointError, match='hvf-fmri'): packaged_drawer('hvf', 'fmri', at=at)
    (at/name).unlink()
    with pytest.raises(MissingWeights, match='hvf-fmri'): packaged_drawer('hvf', 'fmri', at=at)

def test_names_that_mean_nothing(tmp_path):
    for words in ('avd', 'no/such/folder', './runs', 'x.safetensors'):
        with pytest.raises(UnknownError): load_decoder(words)
    with pytest.raises(MissingWeights, match='avde/05_swap'): load_decoder('avde', 'official')
    (tmp_path/'w.pth').write_bytes(b'x')
    with pytest.raises(CheckpointError, match='not a safetensors'): load_decoder(tmp_path/'w.pth')

def test_run_folders_say_where_their_decoders_are(tmp_path, linear):
    save_json(tmp_path/'run'/'params.json', {}); (tmp_path/'run'/'decoders').mkdir(); linear.save(tmp_path/'run'/'decoders'/'one.safetensors')
    with pytest.raises(CheckpointError, match='decoders/one') as e: load_decoder(tmp_path/'run')
    assert 'folder of a run' in str(e.value) and isinstance(load_decoder(tmp_path/'run'/'decoders'/'one.safetensors'), BrainDecoder)

def test_the_hub_is_not_reached_when_the_network_is_forbidden(monkeypatch):
    monkeypatch.setenv('BRAINRECON_OFFLINE', '1')
    with pytest.raises(MissingWeights, match='lab/decoder'): load_decoder('lab/decoder')


# --- whatever a person has

def test_the_same_response_in_every_form_gives_the_same_picture(epochs, recorded, tmp_path):
    decoder = load_decoder('avde'); want = decoder.reconstruct(epochs); x = epochs.get_data(copy=True).astype('float32'); epochs.save(tmp_path/'a-epo.fif', verbose='error', fmt='double')
    np.testing.assert_array_equal(decoder.reconstruct(x, names=epochs.ch_names, sfreq=100., tmin=-.2), want)
    np.testing.assert_array_equal(decoder.reconstruct(tmp_path/'a-epo.fif'), want)
    mixed = np.random.default_rng(0).permutation(17); np.testing.assert_array_equal(decoder.reconstruct(x[:, mixed], names=[epochs.ch_names[i].upper() for i in mixed], sfreq=100., tmin=-.2), want)
    assert (decoder.reconstruct(epochs, seed=1) != want).any() and decoder.reconstruct(epochs[:1], guidance=0., top_k=1).shape[0] == 1

def test_what_is_named_is_kept_and_averaged_only_if_asked(recorded):
    decoder = load_decoder('avde'); t = recorded['eeg'].test.open('tests', again=True)[:160]
    assert len(decoder.read(t)) == 160 and len(decoder.read(t, average=True)) == t.table.picture.nunique() and list(decoder.read(t, average=True).pictures) == list(dict.fromkeys(t.pictures))

@pytest.mark.parametrize('change, kind, words', [
    (lambda e: e.copy().drop_channels(['Oz']), ChannelError, 'Oz'), (lambda e: e.copy().crop(0, .4), ShapeError, '0.8'), (lambda e: e.copy().resample(25., verbose='error'), ShapeError, '25'),
    (lambda e: mne.EpochsArray(e.get_data(copy=True)*1e6, e.info, tmin=e.tmin, verbose='error'), ValuesError, '1e-6'), (lambda e: e[:0], ShapeError, 'no epoch'), (lambda e: dict(), ShapeError, 'dict'),
    (lambda e: e.get_data(copy=True), ChannelError, 'names'), (lambda e: mne.io.RawArray(e.get_data(copy=True)[0], e.info, verbose='error'), ShapeError, 'continuous')])
def test_what_would_be_a_guess_is_refused(epochs, change, kind, words):
    with pytest.raises(kind, match=words): load_decoder('avde').reconstruct(change(epochs))

def test_a_missing_electrode_is_estimated_only_if_asked(epochs):
    decoder = load_decoder('hvf'); part = epochs.copy().drop_channels(['Oz']); t = decoder.read(part, missing='interpolate')
    assert t.names == ch17 and any('Oz interpolated' in s for s in t.provenance['steps']) and np.corrcoef(t.x[:, ch17.index('Oz')].ravel(), decoder.read(epochs).x[:, ch17.index('Oz')].ravel())[0, 1] > .8
    with pytest.raises(ChannelError, match='E9'): decoder.read(epochs.copy().drop_channels(['Oz']).rename_channels(dict(Pz='E9')))

def test_old_names_of_electrodes_are_known():
    from brainrecon.data.given import channels_by_name, from_array
    t = from_array(np.arange(8.).reshape(2, 2, 2), ['T5', 'p8'], 100., 0.); out, made = channels_by_name(t, ['P8', 'P7'])
    assert made == [] and out.names == ['P8', 'P7'] and np.array_equal(out.x, t.x[:, ::-1])

def test_maps_and_a_mask(recorded, tmp_path):
    "A decoder that was fitted to voxels of a volume reads maps of the same volume; another mask is refused by the voxels' places."
    inside = np.zeros((12, 10, 8), 'u1'); inside.reshape(-1)[np.sort(np.random.default_rng(0).choice(960, 610, replace=False))] = 1; names = [','.join(map(str, v)) for v in np.argwhere(inside)]
    place = lambda t: Trials(np.asarray(t.x), names, t.table, 'fmri', provenance=t.provenance); train, valid = place(recorded['fmri'].train.average()[:200]), place(recorded['fmri'].valid.average())
    mine = BrainDecoder(LinearDrawer().fit(train, valid, [load_pictures('train', exemplars=True, size=32), load_pictures('valid', size=32)])); x = np.asarray(recorded['fmri'].test.open('tests', again=True).average().x[:3])
    maps = np.zeros((*inside.shape, 3), 'float32'); maps[inside > 0] = x.T; nib.save(nib.Nifti1Image(maps, np.eye(4)), tmp_path/'betas.nii.gz'); nib.save(nib.Nifti1Image(inside, np.eye(4)), tmp_path/'mask.nii.gz')
    mine.save_pretrained(tmp_path/'kept'); got = load_decoder(tmp_path/'kept').reconstruct(tmp_path/'betas.nii.gz', mask=tmp_path/'mask.nii.gz')
    np.testing.assert_array_equal(got, mine.reconstruct(x, names=names)); assert got.shape == (3, 1, 32, 32, 3)
    np.testing.assert_array_equal(mine.reconstruct(nib.Nifti1Image(maps[..., 0], np.eye(4)), mask=tmp_path/'mask.nii.gz')[0], got[0])
    smaller = inside.copy(); smaller[tuple(np.argwhere(inside)[0])] = 0
    with pytest.raises(ChannelError, match='voxel'): mine.reconstruct(tmp_path/'betas.nii.gz', mask=nib.Nifti1Image(smaller, np.eye(4)))
    with pytest.raises(ParameterError, match='mask'): mine.reconstruct(tmp_path/'betas.nii.gz')
    maps[tuple(np.argwhere(inside)[5])] = np.nan
    with pytest.raises(ValuesError, match='no numbers'): mine.reconstruct(nib.Nifti1Image(maps, np.eye(4)), mask=tmp_path/'mask.nii.gz')

def test_a_kind_that_is_not_read_is_told(epochs):
    with pytest.raises(ParameterError, match='does not read eeg'): load_decoder('mindhier').reconstruct(epochs)


# --- kept, shared, opened again

@pytest.mark.parametrize('system', systems)
def test_kept_and_opened_again_it_draws_the_same(system, tests, tmp_path):
    decoder = load_decoder(system); kind = 'fmri'; one = BrainDecoder(decoder.part(kind), dict(name=system)); one.save_pretrained(tmp_path/'kept'); again = BrainDecoder.from_pretrained(tmp_path/'kept')
    how = dict(steps=4) if system == 'hvf' else {}; np.testing.assert_array_equal(again.reconstruct(tests[kind][:2], **how), decoder.reconstruct(tests[kind][:2], **how)); assert again.kinds == [kind] and again.about == dict(name=system)
    assert not [p for p in (tmp_path/'kept').rglob('*') if p.is_file() and p.suffix not in ('.safetensors', '.json', '.md')]

def test_several_kinds_in_one_folder(tests, tmp_path):
    both = BrainDecoder({k: load_decoder('avde').part(k) for k in ('eeg', 'fmri')}); both.save_pretrained(tmp_path/'kept'); again = load_decoder('avde', tmp_path/'kept')
    for k in both.kinds: assert again.retrieve(tests[k][:3]) == both.retrieve(tests[k][:3])
    with pytest.raises(ParameterError, match='no kind'): again.layout()

def test_the_card_is_a_card(linear, tmp_path):
    yaml = pytest.importorskip('yaml'); scores = [dict(what='linear | fMRI', measure='pixcorr', value=.31, low=.2, high=.4, chance=0., n=200)]
    BrainDecoder(linear, dict(name='my decoder', people='Two volunteers, with their consent.', license='mit', scores=scores)).save_pretrained(tmp_path/'kept'); text = (tmp_path/'kept'/'README.md').read_text(encoding='utf-8'); front = yaml.safe_load(text.split('---')[1])
    assert front['library_name'] == 'brainrecon' and front['license'] == 'mit' and {'brain-decoding', 'fmri', 'model_hub_mixin'} <= set(front['tags'])
    for words in ('# my decoder', 'Two volunteers', '610 voxels', 'Fitted on ', '0.310', '0.200 to 0.400', 'shuffled control', 'agreed to it', 'load_decoder('): assert words in text, words

@pytest.mark.parametrize('harm', ['cut', 'absent', 'other', 'escape', 'format', 'no config', 'not json'])
def test_a_folder_that_is_not_whole_is_not_opened(linear, tmp_path, harm):
    BrainDecoder(linear).save_pretrained(tmp_path/'kept'); at = tmp_path/'kept'; f = at/'fmri'/'drawer.safetensors'; c = load_json(at/'config.json')
    if harm == 'cut': f.write_bytes(f.read_bytes()[:-9])
    if harm == 'absent': f.unlink()
    if harm == 'other': f.write_bytes(b'x'*f.stat().st_size)
    if harm == 'escape': save_json(at/'config.json', c | dict(files={'../../x': dict(sha256='0')}))
    if harm == 'format': save_json(at/'config.json', c | dict(format=9))
    if harm == 'no config': (at/'config.json').unlink()
    if harm == 'not json': save_json(at/'config.json', ['x'])
    with pytest.raises(CheckpointError): BrainDecoder.from_pretrained(at)
    with pytest.raises(CheckpointError): load_decoder(at)

def test_a_name_in_the_config_must_be_one_of_its_files(linear, tmp_path):
    BrainDecoder(linear).save_pretrained(tmp_path/'kept'); at = tmp_path/'kept'; c = load_json(at/'config.json'); save_json(at/'config.json', c | dict(parts=dict(fmri='../drawer.safetensors')))
    with pytest.raises(CheckpointError, match='fingerprint'): load_decoder(at)

def test_what_was_learned_from_is_refused(linear, tmp_path):
    BrainDecoder(linear).save_pretrained(tmp_path/'kept'); met = linear.about['concepts'][0]
    for d in (BrainDecoder(linear), load_decoder(tmp_path/'kept')):
        with pytest.raises(LeakError, match=met): d.refuse([met])

def test_a_decoder_that_only_names(recorded, tests):
    learn = make_gallery(load_pictures('train', exemplars=True)) + make_gallery(load_pictures('valid')); ridge = BrainDecoder(RidgeDecoder().fit(*(ready(t) for t in (recorded['eeg'].train, recorded['eeg'].valid)), learn))
    assert np.mean([r[0] == p for r, p in zip(ridge.retrieve(tests['eeg']), tests['eeg'].pictures)]) > .1 and brain_side(ridge.part()) is ridge.part()
    with pytest.raises(ParameterError, match='cannot draw'): ridge.reconstruct(tests['eeg'])
    with pytest.raises(UnknownError): BrainDecoder(RidgeDecoder())
    with pytest.raises(ParameterError, match='str'): BrainDecoder('avde')


# --- names that stay

def test_stable_names_are_listed_typed_and_quick():
    from brainrecon.core.stable import stable
    hints = Path(brainrecon.__file__).read_text(encoding='utf-8')
    for n, m in stable.items(): assert getattr(brainrecon, n).__module__ == f'brainrecon.{m}' and getattr(brainrecon, n).__doc__ and f'{n} as {n}' in hints, n
    assert (Path(brainrecon.__file__).parent/'py.typed').is_file()
    told = subprocess.run([sys.executable, '-c', 'import brainrecon, sys; dir(brainrecon); print("torch" in sys.modules)'], capture_output=True, text=True, timeout=60); assert told.stdout.strip() == 'False', told.stderr[-500:]

def test_a_name_that_goes_warns_first():
    from brainrecon.core.stable import stable_name
    with pytest.warns(DeprecationWarning, match='goes in version 0.4'): assert stable_name('Recordings', gone=dict(Recordings=('Trials', '0.2', '0.4'))) is Trials
    with pytest.raises(AttributeError, match="'load_decoder'"): brainrecon.load_decodr
    with pytest.raises(ImportError): from brainrecon import nothing_of_the_kind      # noqa: F401
