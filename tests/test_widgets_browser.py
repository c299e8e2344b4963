"The explorers in a real browser: an arrow key moves a slider, the picture changes, and the read-out says the new value. Voila runs the notebook, Chromium shows it."
import importlib.util, json, os, re, shutil, socket, subprocess, sys, time
import pytest
from notebooks import ROOT

for module, extra in (('ipywidgets', 'viz'), ('mne', 'meeg'), ('ipykernel', 'jobs'), ('nbformat', 'jobs'), ('voila', 'dev')):
    if importlib.util.find_spec(module) is None: pytest.skip(f'{module} is not installed: pip install -e ".[{extra}]"', allow_module_level=True)
import nbformat

BEGIN, LIMIT = 240_000, 60_000     # milliseconds, far more than a quiet machine needs: for the page, whose kernel loads the library, and for all that follows; nothing is waited for longer
CELLS = ['''import numpy as np
from IPython.display import display
from brainrecon.data.embedded import load_embedded
from brainrecon.data.pictures import load_pictures
from brainrecon.decoders.mindhier import packaged_mindhier
from brainrecon.decoders.retrieval import RidgeDecoder, make_gallery
from brainrecon.explore.neighbours import explore_neighbours
from brainrecon.explore.scales import explore_scales
from brainrecon.explore.targets import explore_targets, target_spaces
from brainrecon.explore.trials import explore_trials
''', '''fmri, pictures = load_embedded('fmri', exemplars=1, snr_db=-6.), load_pictures('test'); train, valid, test = (t.average() for t in (fmri.train, fmri.valid, fmri.test.open('looked at in a browser')))
learn, held, gallery = (make_gallery(load_pictures(s)) for s in ('train', 'valid', 'test')); eeg = load_embedded('eeg', exemplars=1, reps=(1, 8)).valid
display(explore_scales(packaged_mindhier(device='cpu'), test, pictures, trial=50))
display(explore_trials(eeg, trial=10))
display(explore_neighbours(RidgeDecoder().fit(train, valid, learn + held), test, gallery, pictures, learn))
display(explore_targets(pictures, target_spaces(pictures, dict(meaning=('lite0', 'pooled'), colours=('lite0', 'pixels@1')))))''']


@pytest.fixture(scope='module')
def page(chrome, tmp_path_factory):
    "The notebook of the four explorers, run by Voila for this machine alone and opened in Chromium."
    home = tmp_path_factory.mktemp('voila'); nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))), home/'explore.ipynb')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    own = {f'JUPYTER_{k}_DIR': str(home/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')} | dict(IPYTHONDIR=str(home/'ipython'), BRAINRECON_RUNS=str(home/'runs'), PYTHONPATH=str(ROOT), no_proxy='127.0.0.1'); env = {**os.environ, **own}
    env.pop('BRAINRECON_WIDGETS', None)
    with open(home/'log.txt', 'w') as log: server = subprocess.Popen([sys.executable, '-m', 'voila', 'explore.ipynb', '--no-browser', '--Voila.ip=127.0.0.1', f'--port={port}', '--Voila.port_retries=0', '--show_tracebacks=True'], cwd=home, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + BEGIN/1000
        while True:
            if server.poll() is not None or time.monotonic() > end: pytest.fail(f'Voila did not begin:\n{(home/"log.txt").read_text()[-3000:]}')
            try: socket.create_connection(('127.0.0.1', port), 1).close(); break
            except OSError: time.sleep(.1)
        context = chrome.new_context(viewport=dict(width=1280, height=900)); tab = context.new_page(); tab.set_default_timeout(LIMIT); tab.wrong = []; tab.home = home
        tab.on('pageerror', lambda e: tab.wrong.append(str(e)))
        try: tab.goto(f'http://127.0.0.1:{port}/', wait_until='commit', timeout=BEGIN); tab.wait_for_function("document.querySelectorAll('.brainrecon img').length === 4 || /Error/.test(document.body.innerText)", timeout=BEGIN); assert tab.locator('.brainrecon img').count() == 4
        except Exception: pytest.fail(f'the page did not come: {tab.inner_text("body")[-1500:]}\n{(home/"log.txt").read_text()[-3000:]}')
        yield tab
        context.close()
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill(); server.wait(20)
        shutil.rmtree(home/'runs', ignore_errors=True)


def control(page, name, label):
    "One slider of one explorer."
    return page.locator(f'.{name} .widget-hslider').filter(has=page.locator('label', has_text=re.compile(f'^{label}$')))

def shown(page, name): return page.locator(f'.{name} img').get_attribute('src')

def press(page, name, label, key):
    "Press a key on a slider and wait until the picture is another; gives the read-out of the slider and the words of the panel."
    before = shown(page, name); handle = control(page, name, label).locator('.noUi-handle'); handle.focus(); handle.press(key)
    page.wait_for_function('([name, before]) => { const i = document.querySelector(`.${name} img`); return i && i.src !== before }', arg=[name, before])
    return control(page, name, label).locator('.widget-readout').inner_text(), page.locator(f'.{name} [role=status]').first.inner_text()


MOVES = [('show-scales', 'scale', 'ArrowLeft', '5: 6 x 6', 'scale 5 of 6 (6 x 6, level 2)'), ('show-scales', 'seed', 'ArrowRight', '1', 'seed 1.'), ('show-scales', 'guidance', 'ArrowRight', None, None), ('show-scales', 'top-k', 'ArrowRight', None, None), ('show-trial', 'time', 'ArrowRight', None, None), ('show-trial', 'trial', 'ArrowRight', '11', 'trial 11 of'),
         ('show-neighbours', 'trial', 'ArrowRight', '1', 'trial 1 of 200'), ('show-neighbours', 'k', 'ArrowLeft', '4', None), ('show-targets', 'picture', 'ArrowRight', None, 'picture 1 of 200'), ('show-targets', 'k', 'ArrowRight', '6', 'Of the 6 nearest')]

@pytest.mark.parametrize('name, label, key, readout, words', MOVES, ids=[f'{m[0]}-{m[1]}' for m in MOVES])
def test_an_arrow_key_moves_the_slider_and_changes_the_picture(page, name, label, key, readout, words):
    said, told = press(page, name, label, key)
    assert readout is None or said == readout, said
    if name == 'show-trial' and label == 'time': words = f'at {said}'; assert re.fullmatch(r'-?\d+ ms', said)
    if label in ('guidance', 'top-k'): words = f'{label} {said}'
    if name == 'show-targets' and label == 'picture': assert told.startswith(said.rstrip('…'))
    assert words is None or words in told, told
    assert page.locator(f'.{name} img').get_attribute('alt') == told
    back = {'ArrowLeft': 'ArrowRight', 'ArrowRight': 'ArrowLeft'}[key]; here = shown(page, name); press(page, name, label, back); press(page, name, label, key); assert shown(page, name) == here      # from memory, the same bytes


def test_every_control_is_named_and_explained(page):
    for name, n in (('show-scales', 5), ('show-trial', 4), ('show-neighbours', 2), ('show-targets', 2)):
        rows = page.locator(f'.{name} .widget-hslider, .{name} .widget-dropdown'); assert rows.count() == n, name
        for i in range(n): assert rows.nth(i).locator('label').first.inner_text().strip() in ('trial', 'scale', 'guidance', 'top-k', 'seed', 'time', 'mean', 'channel', 'k', 'picture') and len(rows.nth(i).evaluate("e => e.title || (e.querySelector('[title]') || {}).title || ''")) > 12


def test_save_and_numbers(page):
    panel = page.locator('.show-trial'); panel.get_by_role('button', name='Save figure').click(); panel.get_by_text('written:').wait_for()
    (record,) = (page.home/'runs'/'explored').glob('show_trial-*.json'); facts = json.loads(record.read_text()); assert record.with_name(facts['file']).is_file() and facts['settings']['trial'] == 11
    assert not panel.locator('table').is_visible(); panel.get_by_role('button', name='Numbers').click(); panel.locator('table').wait_for(); assert panel.locator('table tr').count() == 18


@pytest.mark.parametrize('width', [1280, 390])
def test_it_has_room_in_a_window(page, width, tmp_path):
    "No explorer is wider than its window, and pictures keep their shape."
    page.set_viewport_size(dict(width=width, height=844)); page.wait_for_timeout(300)
    for name in ('show-scales', 'show-trial', 'show-neighbours', 'show-targets'):
        box = page.locator(f'.{name}').bounding_box(); picture = page.locator(f'.{name} img'); own = picture.bounding_box(); true = picture.evaluate('i => i.naturalWidth/i.naturalHeight')
        assert box['x'] >= 0 and box['x'] + box['width'] <= width and own['x'] + own['width'] <= width + 1, (name, box, own)
        assert abs(own['width']/own['height']/true - 1) < .02 and own['width'] > .6*min(width, 460), (name, own)
        for slider in page.locator(f'.{name} .widget-hslider, .{name} .widget-dropdown').all(): b = slider.bounding_box(); assert b['x'] + b['width'] <= width + 1, (name, b)
        page.locator(f'.{name}').screenshot(path=tmp_path/f'{name}-{width}.png')


def test_nothing_went_wrong(page): assert not page.wrong, page.wrong
