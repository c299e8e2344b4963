"The explorers: what a panel shows is what its function draws, sliders and read-outs say so, and what cannot be shown is said."
import base64, html, json, re, sys
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.checks import ChannelError, FolderError, MissingExtra, ParameterError, ReconError, ShapeError, UnknownError
from brainrecon.core.files import sha256
from brainrecon.data.embedded import load_embedded
from brainrecon.data.look import unit_of
from brainrecon.data.pictures import load_pictures
from brainrecon.data.trials import Trials
from brainrecon.decoders.avde import AVDE
from brainrecon.decoders.mindhier import packaged_mindhier
from brainrecon.decoders.retrieval import ContrastiveDecoder, Gallery, RidgeDecoder, make_gallery
from brainrecon.explore.neighbours import concepts_near, explore_neighbours, look_neighbours, parts_of, rank_of, ranked, show_neighbours
from brainrecon.explore.panel import Panel, explorer, keep_shown, live, slider
from brainrecon.explore.scales import explore_scales, look_scales, scale_names, show_scales
from brainrecon.explore.targets import explore_targets, look_targets, show_targets, target_spaces
from brainrecon.explore.trials import channel_table, explore_trials, look_trial, show_trial
from brainrecon.jobs.decode import ready

widgets = pytest.importorskip('ipywidgets', reason='ipywidgets is not installed: pip install -e ".[viz]"')
pytest.importorskip('mne', reason='mne is not installed: pip install -e ".[meeg]"')


def image(panel)->bytes: return base64.b64decode(re.search(r'base64,([^"]+)"', panel.picture.value)[1])
def said(panel)->str: return html.unescape(re.search(r'>(.*)</', panel.readout.value, re.S)[1])
def words(fig)->str: return ' | '.join(t.get_text() for t in fig.findobj(match=lambda a: hasattr(a, 'get_text')) if t.get_text())


@pytest.fixture(scope='module')
def given():
    "What the explorers are applied to: all simulated, nothing fetched."
    fmri = load_embedded('fmri'); learn, held, pictures = make_gallery(load_pictures('train', exemplars=True)), make_gallery(load_pictures('valid')), load_pictures('test')
    return dict(decoder=RidgeDecoder().fit(ready(fmri.train), ready(fmri.valid), learn + held), test=ready(fmri.test.open('test of the explorers')), learn=learn, gallery=make_gallery(pictures), pictures=pictures, splits=fmri,
        eeg=load_embedded('eeg').valid, quiet=load_embedded('fmri', snr_db=-6.).test.open('test of the explorers').average(), mindhier=packaged_mindhier(device='cpu'), spaces=target_spaces(pictures))


def four(g, **how):
    "Each explorer with the function that draws the same, and some settings to move to."
    return dict(scales=(explore_scales(g['mindhier'], g['quiet'], g['pictures'], trial=3, **how), lambda **v: show_scales(g['mindhier'], g['quiet'], g['pictures'], **v), [dict(scale=2), dict(seed=5), dict(guidance=8.), dict(top_k=1), dict(trial=60)]),
        trials=(explore_trials(g['eeg'], **how), lambda **v: show_trial(g['eeg'], **v), [dict(trial=900), dict(time=.25), dict(mean='trial'), dict(channel='Oz')]),
        neighbours=(explore_neighbours(g['decoder'], g['test'], g['gallery'], g['pictures'], g['learn'], **how), lambda **v: show_neighbours(g['decoder'], g['test'], g['gallery'], g['pictures'], g['learn'], **v), [dict(trial=7), dict(k=9)]),
        targets=(explore_targets(g['pictures'], g['spaces'], **how), lambda **v: show_targets(g['pictures'], g['spaces'], **v), [dict(picture=44), dict(k=2)]))

@pytest.fixture(scope='module')
def panels(given): return four(given)

NAMES = ['scales', 'trials', 'neighbours', 'targets']


@pytest.mark.parametrize('name', NAMES)
def test_each_setting_changes_the_picture_and_the_function_draws_the_same(panels, name):
    panel, draw, moves = panels[name]; assert isinstance(panel, widgets.VBox) and {k for m in moves for k in m} == set(panel.controls)
    for move in moves:
        before, ((setting, value),) = (image(panel), said(panel)), move.items(); panel.controls[setting].value = value
        assert image(panel) != before[0] and said(panel) != before[1], setting
        assert image(panel) == draw(**panel.values()).small()[1], setting


@pytest.mark.parametrize('name', NAMES)
def test_controls_are_named_explained_and_read_out(panels, name):
    panel = panels[name][0]
    for c in [*panel.controls.values(), panel.save_button, panel.table_button]:
        assert c.description.strip() and len(c.tooltip) > 12, c
        assert not hasattr(c, 'readout') or c.readout
    alt = html.unescape(re.search(r'alt="([^"]*)"', panel.picture.value)[1]); assert alt == said(panel) and 'role="status"' in panel.readout.value and 'aria-live' in panel.readout.value
    assert 'simulated' in alt or name == 'targets'


@pytest.mark.parametrize('name', NAMES)
def test_going_back_draws_nothing(panels, name):
    panel, _, moves = panels[name]; (setting, value), = moves[0].items(); c = panel.controls[setting]; here = c.value; first = image(panel); places = [v for _, v in c.options] if hasattr(c, 'options') else range(c.min, c.max + 1)
    c.value = next(v for v in places if v != here); drawn, panel.draw = panel.draw, None      # whoever draws now fails
    try: c.value = here; assert image(panel) == first
    finally: panel.draw = drawn


def test_a_drawing_is_made_once_for_all_scales(given):
    panel = explore_scales(given['mindhier'], given['quiet']); assert panel.drawings.cache_info().misses == 1
    for k in range(1, 7): panel.controls['scale'].value = k
    assert panel.drawings.cache_info().misses == 1
    panel.controls['seed'].value = 1; panel.controls['seed'].value = 0; assert panel.drawings.cache_info().misses == 2


def test_memory_is_bounded(given):
    panel = explore_targets(given['pictures'][:70], {n: z[:70] for n, z in list(given['spaces'].items())[2:3]}, k=1); panel.most = 3
    for i in range(1, 8): panel.controls['picture'].value = i
    assert len(panel.kept) == 3


@pytest.mark.parametrize('name', NAMES)
def test_saved_figure_can_be_drawn_again(panels, name, tmp_path):
    panel, draw, _ = panels[name]; panel.at = tmp_path; panel.save_button.click(); (record,) = tmp_path.glob('*.json'); facts = json.loads(record.read_text())
    assert facts['settings'] == json.loads(json.dumps(panel.values())) and facts['words'] == said(panel) and facts['sha256'] == sha256(tmp_path/facts['file']) and facts['about'] and 'written' in panel.saved.value
    again = keep_shown(type('S', (), dict(fig=draw(**facts['settings']), words='', table=None)), facts['drawn_by'], facts['settings'], facts['about'], tmp_path/'again'); assert again.name == facts['file'] and sha256(again) == facts['sha256']
    panel.save(); assert len(list(tmp_path.glob('*.png'))) == 1       # one finding, one file
    (tmp_path/'file').write_text('x'); panel.at = tmp_path/'file'/'below'
    with pytest.raises(FolderError): panel.save()
    assert 'cannot write' in panel.saved.value


def test_numbers_behind_the_button(panels):
    panel = panels['trials'][0]; assert panel.numbers.layout.display == 'none' and '<table' in panel.numbers.value and panels['scales'][0].table_button.layout.display == 'none'
    panel.table_button.value = True; assert panel.numbers.layout.display == ''; panel.table_button.value = False


# Without ipywidgets

@pytest.mark.parametrize('name', NAMES)
def test_without_ipywidgets(given, name, monkeypatch):
    "One line that names the extra; the figure alone needs none."
    monkeypatch.setitem(sys.modules, 'ipywidgets', None); g = given
    explore, show = dict(scales=(lambda: explore_scales(g['mindhier'], g['quiet']), lambda: show_scales(g['mindhier'], g['quiet'])), trials=(lambda: explore_trials(g['eeg']), lambda: show_trial(g['eeg'])),
        neighbours=(lambda: explore_neighbours(g['decoder'], g['test'], g['gallery']), lambda: show_neighbours(g['decoder'], g['test'], g['gallery'])), targets=(lambda: explore_targets(g['pictures'], g['spaces']), lambda: show_targets(g['pictures'], g['spaces'])))[name]
    with pytest.raises(MissingExtra, match=re.escape('pip install "brainrecon[viz]"')): explore()
    assert show().axes


# Where nobody can move a slider

def test_a_program_that_runs_a_notebook_keeps_the_picture_and_no_widget(tmp_path, monkeypatch):
    nbclient, nbformat = (pytest.importorskip(m, reason=f'{m} is not installed') for m in ('nbclient', 'nbformat')); pytest.importorskip('ipykernel')
    make = "from brainrecon.explore.panel import Shown, explorer, slider\nfrom brainrecon.core.show import show_images\nimport numpy as np\np = explorer('grey', lambda level: Shown(show_images(np.full((1, 8, 8, 3), level/9)), f'grey {level}'), dict(level=4), lambda: dict(level=slider('level', 'How bright it is.', range(10), 4)))"
    two = "import os; os.environ['BRAINRECON_WIDGETS'] = '1'\n" + make
    run = lambda *cells: nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), timeout=120, kernel_name='python3', resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    monkeypatch.delenv('BRAINRECON_WIDGETS', raising=False); nb = run(make, 'p', two, 'p'); (still,), (moving,) = nb.cells[1].outputs, nb.cells[3].outputs
    assert set(still.data) == {'image/png', 'text/plain'} and still.data['text/plain'] == 'grey 4' and 'application/vnd.jupyter.widget-view+json' in moving.data      # the second cell was told that somebody is there
    states = [s['state'] for s in nb.metadata['widgets']['application/vnd.jupyter.widget-state+json']['state'].values()]; assert sum(s['_model_name'] == 'IntSliderModel' for s in states) == 1      # that of the first was never announced

def test_who_is_there(monkeypatch):
    import builtins
    monkeypatch.delenv('BRAINRECON_WIDGETS', raising=False); monkeypatch.delenv('SERVER_SOFTWARE', raising=False); shell = lambda ask: type('Shell', (), dict(get_parent=lambda self: dict(content=dict(allow_stdin=ask))))()
    assert live()                                         # no kernel
    monkeypatch.setattr(builtins, 'get_ipython', lambda: shell(False), raising=False); assert not live()
    monkeypatch.setenv('SERVER_SOFTWARE', 'voila/0.5.13'); assert live(); monkeypatch.delenv('SERVER_SOFTWARE')
    monkeypatch.setattr(builtins, 'get_ipython', lambda: shell(True), raising=False); assert live()
    monkeypatch.setenv('BRAINRECON_WIDGETS', '0'); assert not live()


def test_an_error_is_shown_and_the_panel_goes_on():
    def draw(n):
        if n == 2: raise ShapeError('two;', 'another number was expected.', 'Two is not drawn.', 'Move on.')
        if n == 3: raise RuntimeError('<broken>')
        from brainrecon.explore.panel import Shown
        from brainrecon.core.show import chart
        return Shown(chart()[0], f'number {n}')
    panel = explorer('draw', draw, dict(n=0), lambda: dict(n=slider('n', 'Which number is drawn.', range(5), 0))); panel.controls['n'].value = 2
    assert not panel.picture.value and 'Move on.' in panel.readout.value and 'role="alert"' in panel.readout.value
    with pytest.raises(RuntimeError): panel.controls['n'].value = 3
    assert '&lt;broken&gt;' in panel.readout.value
    panel.controls['n'].value = 4; assert said(panel) == 'number 4' and panel.picture.value


# 1. Scales

def test_scales_are_those_of_the_drawing(given):
    g = given; frames = g['mindhier'].trace(g['quiet'][3:4], 2, guidance=3., top_k=10)[0]; shown = look_scales(g['mindhier'], g['quiet'], g['pictures'], trial=3, scale=4, guidance=3., top_k=10, seed=2)
    drawn = [ax.images[0].get_array() for ax in shown.fig.axes]; assert np.array_equal(drawn[1], frames[3]) and all(np.array_equal(a, b) for a, b in zip(drawn[2:], frames)) and len(drawn) == 8
    assert np.array_equal(drawn[0], g['pictures'].img[g['pictures'].at(g['quiet'].pictures[3:4])[0]])
    assert 'scale 4 of 6 (4 x 4, level 2)' in shown.words and 'top-k 10, seed 2' in shown.words and 'simulated fMRI' in shown.words
    framed = [ax.spines['left'].get_visible() for ax in shown.fig.axes[2:]]; assert framed == [i == 3 for i in range(6)]
    assert scale_names(g['mindhier'])[0] == '1 x 1, level 4'

def test_scales_of_avde(given):
    s = load_embedded('fmri', exemplars=1, snr_db=-4.); train, valid = s.train.average(), s.valid.average(); sets = [load_pictures(n, size=64) for n in ('train', 'valid')]; avde = AVDE(encoder='mlp', axes=64, align=dict(epochs=1, batch_size=128), device='cpu')
    gallery = avde.gallery_of(load_pictures('train'), load_pictures('valid'))
    with pytest.raises(UnknownError, match='learned anything'): explore_scales(avde, valid)
    avde.align(train, valid, gallery)
    with pytest.raises(UnknownError, match='learn_to_draw'): explore_scales(avde, valid)
    panel = explore_scales(avde.learn_to_draw(train, valid, sets, steps=0), valid, load_pictures('valid')); before = image(panel); panel.controls['scale'].value = 1
    assert image(panel) != before and 'scale 1 of 6 (1 x 1),' in said(panel) and panel.controls['top_k'].value == avde.how['top_k']
    table = ranked(avde.reader, valid, gallery, 4); assert table.picture.tolist()[:5] == avde.retrieve(valid[4:5], gallery, 5)[0]       # its reader is a decoder like any other
    assert 'rank' in look_neighbours(avde.reader, valid, gallery, trial=4).words

@pytest.mark.parametrize('settings, error, text', [(dict(scale=7), ParameterError, '6 scales'), (dict(scale=0), ParameterError, '1 or more'), (dict(trial=999), ParameterError, 'beyond the last'), (dict(guidance=-1.), ParameterError, 'guidance'), (dict(top_k=-1), ParameterError, 'top_k'), (dict(seed=-1), ReconError, 'seed')])
def test_scales_refuse(given, settings, error, text):
    for explore in (look_scales, explore_scales):
        with pytest.raises(error, match=text): explore(given['mindhier'], given['quiet'], **settings)

def test_scales_refuse_another_recording(given):
    voxels = given['quiet'].names[:50]
    for other in (given['eeg'], given['quiet'].pick(voxels)):
        with pytest.raises(ReconError): explore_scales(given['mindhier'], other)
    with pytest.raises(ShapeError, match='no trials'): explore_scales(given['mindhier'], given['quiet'][[]])
    with pytest.raises(UnknownError, match='does not exist'): explore_scales(given['mindhier'], given['quiet'], load_pictures('valid'))


# 2. Trials

def test_moment_map_and_table_agree(given):
    eeg = given['eeg']; shown = look_trial(eeg, 12, .2, 'trial', 'Pz'); x = eeg.x[12]*unit_of(eeg)[1]; k = int(np.abs(eeg.times - .2).argmin()); best = int(np.abs(x[:, k]).argmax())
    assert shown.table.channel[0] == eeg.names[best] and abs(shown.table.value[0] - x[best, k]) < 1e-5 and len(shown.table) == 17
    text = words(shown.fig); assert '200 ms' in text and 'Pz' in text and f'at 200 ms: {eeg.names[best]}' in shown.words
    marks = [line.get_xdata()[0] for line in shown.fig.axes[0].lines if len(set(line.get_xdata())) == 1]; assert any(abs(m - 200) < 1e-6 for m in marks)
    peak = look_trial(eeg, 0, None, 'all').words; assert 120 <= int(re.search(r'at (\d+) ms', peak)[1]) <= 220       # the simulated response is strongest near 170 ms

def test_colours_of_the_map_hold_for_all_moments(given):
    limits = {tuple(next(ax for ax in look_trial(given['eeg'], 12, t, 'picture').fig.axes if ax.get_title().endswith(' ms')).images[0].get_clim()) for t in (.05, .17, .6)}; assert len(limits) == 1

def test_means(given):
    eeg = given['eeg']; own = eeg.pictures == eeg.pictures[5]; t = channel_table(eeg, 5, .17, 'picture').set_index('channel').value; k = int(np.abs(eeg.times - .17).argmin())
    assert np.allclose(t[eeg.names], eeg.x[own].mean(0, dtype='float64')[:, k]*unit_of(eeg)[1]) and '(80)' in look_trial(eeg, 5).words
    two = replace(eeg, table=eeg.table.assign(subject=np.where(np.arange(len(eeg)) % 2, 1, 2), trial=np.arange(len(eeg)))); assert f'({((two.pictures == two.pictures[5]) & (two.table.subject == two.table.subject[5])).sum()})' in look_trial(two, 5).words        # of this person alone

def test_fmri_has_voxels_and_no_time(given):
    fmri = given['test']; panel = explore_trials(fmri); assert set(panel.controls) == {'trial', 'mean', 'channel'} and '>voxel<' in panel.controls['channel'].description
    before = image(panel); panel.controls['channel'].value = fmri.names[3]; assert image(panel) != before and fmri.names[3] in said(panel)
    with pytest.raises(ShapeError, match='Leave `time` out'): show_trial(fmri, time=.1)
    with pytest.raises(UnknownError, match='setting'): explore_trials(fmri, time=.1)

def test_channels_without_a_place_and_units_that_nobody_noted():
    gen = np.random.default_rng(0); t = Trials(gen.normal(size=(4, 3, 40)).astype('float32'), ['A1x', 'A2x', 'A3x'], pd.DataFrame(dict(picture=list('abab'), concept=list('abab'))), 'meg', 100., -.1)
    shown = look_trial(t, 1, .1); text = words(shown.fig); assert 'no place known: A1x' in text and 'unit not noted' in text and not any(ax.get_title().endswith(' ms') for ax in shown.fig.axes)
    flat = replace(t, x=np.zeros_like(t.x)); assert look_trial(flat, 0).table.value.eq(0).all() and explore_trials(flat).picture.value
    one = t[0]; panel = explore_trials(one); assert panel.controls['trial'].max == 0 and panel.picture.value

@pytest.mark.parametrize('settings, error', [(dict(trial=-1), ParameterError), (dict(trial=4000), ParameterError), (dict(time=2.), ShapeError), (dict(time='now'), ShapeError), (dict(mean='median'), UnknownError), (dict(channel='Foo'), ChannelError)])
def test_trials_refuse(given, settings, error):
    for explore in (look_trial, explore_trials):
        with pytest.raises(error): explore(given['eeg'], **settings)
    for nothing in (given['eeg'][[]], given['eeg'].x, None, load_embedded('eeg').test):
        with pytest.raises(ShapeError): explore_trials(nothing)


# 3. Neighbours

def test_ranks_and_order_are_those_of_the_decoder(given):
    g = given
    for i in range(0, 200, 23):
        t = ranked(g['decoder'], g['test'], g['gallery'], i); assert t.picture.tolist()[:10] == g['decoder'].retrieve(g['test'][i:i+1], g['gallery'], 10)[0]
        assert rank_of(t) == t.picture.tolist().index(g['test'].pictures[i]) + 1
    small = ContrastiveDecoder(steps=10).fit(ready(g['splits'].train), ready(g['splits'].valid), g['learn'] + make_gallery(load_pictures('valid')), device='cpu')
    assert ranked(small, g['test'], g['gallery'], 9).picture.tolist()[:5] == small.retrieve(g['test'][9:10], g['gallery'], 5)[0]

def test_reasons_are_the_concepts_nearest_to_the_response(given):
    g = given; z, (centres, names) = parts_of(g['decoder'], g['gallery'], g['learn']); assert len(names) == 439
    wanted = names.index('tiger-face'); near = concepts_near(g['decoder'], centres[[wanted]], dict(itself=centres[wanted]), (centres, names)); assert near.concept[0] == 'tiger-face' and near.read.is_monotonic_decreasing and abs(near['itself'][0] - 1) < 1e-9
    shown = look_neighbours(g['decoder'], g['test'], g['gallery'], known=g['learn'], trial=14); assert all(c in words(shown.fig) for c in re.search(r'towards (.*)\.', shown.words)[1].split(', '))

def test_seen_in_training_is_said(given):
    train = ready(given['splits'].train[:30]); assert 'a concept of its training' in look_neighbours(given['decoder'], train, given['learn']).words and 'of its training' not in look_neighbours(given['decoder'], given['test'], given['gallery']).words

def test_ties_and_strangers(given):
    g = given; twice = Gallery(np.repeat(g['gallery'].z[:1], 3, 0), ['a', 'b', g['test'].pictures[0]], ['a', 'b', 'c']); t = ranked(g['decoder'], g['test'], twice, 0); assert rank_of(t) == 1
    assert 'not among the 3 candidates' in look_neighbours(g['decoder'], g['test'], twice, trial=1, k=3).words

@pytest.mark.parametrize('change, error, text', [(dict(decoder=RidgeDecoder()), UnknownError, 'fitted one'), (dict(decoder='ridge'), ParameterError, 'avde.reader'), (dict(decoder=AVDE), ParameterError, 'reader'), (dict(gallery=None), ParameterError, 'no gallery'), (dict(gallery=3), ParameterError, 'of type int'), (dict(k=0), ParameterError, '1 or more'), (dict(k=11), ParameterError, 'room for ten'), (dict(trial=200), ParameterError, 'beyond the last')])
def test_neighbours_refuse(given, change, error, text):
    how = {k: change[k] for k in ('k', 'trial') if k in change}; parts = [change.get(k, given[k]) for k in ('decoder', 'test', 'gallery')]
    for explore in (look_neighbours, explore_neighbours):
        with pytest.raises(error, match=text): explore(*parts, **how)

def test_neighbours_refuse_another_recording(given):
    g = given
    for other in (g['eeg'], g['test'].pick(g['test'].names[:30]), replace(g['test'], provenance=dict(g['test'].provenance, unit='V'))):
        with pytest.raises(ReconError): explore_neighbours(g['decoder'], other, g['gallery'])
    with pytest.raises(ShapeError, match='empty'): explore_neighbours(g['decoder'], g['test'][[]], g['gallery'])


# 4. Targets

def test_neighbours_in_each_space(given):
    p, spaces = given['pictures'], given['spaces']; shown = look_targets(p, spaces, picture=17, k=4); assert list(shown.table.space.unique()) == ['meaning', 'shapes', 'colours', 'pixels', 'latents'] and len(shown.table) == 20
    for name, z in spaces.items():
        unit = z/np.linalg.norm(z, axis=1, keepdims=True); score = unit @ unit[17]; score[17] = -2; own = shown.table[shown.table.space == name]
        assert own.picture.tolist() == p.table.picture.iloc[np.argsort(-score, kind='stable')[:4]].tolist() and np.allclose(own.cosine, np.sort(score)[::-1][:4], atol=1e-5)
    assert p.table.picture.iloc[17] not in set(shown.table.picture)

def test_spaces_of_my_own(given):
    p = given['pictures']; panel = explore_targets(p, dict(mine=given['gallery'], noise=np.random.default_rng(0).normal(size=(200, 8))), k=3); assert 'mine' in said(panel) and 'noise shares' in said(panel)
    pair = explore_targets(p[:2], dict(mine=np.eye(2))); assert pair.controls['k'].max == 1 and pair.picture.value

def test_scale_of_targets_is_fitted_on_training_alone(given):
    own = target_spaces(given['pictures'][:20], dict(colours=('lite0', 'pixels@1'))); assert np.allclose(own['colours'], given['spaces']['colours'][:20], atol=1e-5)       # the same whichever pictures stand beside them
    with pytest.raises(ReconError, match='not of train'): target_spaces(given['pictures'][:5], dict(colours=('lite0', 'pixels@1')), learn=given['pictures'])

@pytest.mark.parametrize('how, error', [(dict(picture=200), ParameterError), (dict(picture='dog'), ParameterError), (dict(k=9), ParameterError), (dict(k=0), ParameterError)])
def test_targets_refuse(given, how, error):
    for explore in (look_targets, explore_targets):
        with pytest.raises(error): explore(given['pictures'], given['spaces'], **how)


def test_what_a_panel_is(given):
    "A box like any other: it can stand in another one, and prints as what it is."
    panel = explore_targets(given['pictures'], given['spaces']); assert isinstance(panel, Panel) and widgets.HBox([panel]).children == (panel,) and 'application/vnd.jupyter.widget-view+json' in panel._repr_mimebundle_()
    with pytest.raises(UnknownError, match="Did you mean 'picture'"): explore_targets(given['pictures'], given['spaces'], pictur=3)
