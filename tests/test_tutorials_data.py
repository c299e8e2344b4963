"The tutorials on own recordings run with the real data and without, and say which; the real slice gives the score that it should."
import os, re, subprocess, sys
from pathlib import Path
import pytest
from notebooks import NBS, ROOT, joined, read

SHARED = Path(os.environ.get('BRAINRECON_SHARED') or ROOT.parent/'shared')
SLICE, STIMULI = SHARED/'data'/'haxby_slice', SHARED/'data'/'haxby_stimuli'
PAGES = [NBS/'09_tutorials'/'02_your_eeg.ipynb', NBS/'09_tutorials'/'03_your_fmri.ipynb']


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_runs_without_the_data(path, tmp_path):
    "A reader who has nothing gets the whole page, and is told what is simulated."
    code = '\n\n'.join(joined(c['source']) for c in read(path)['cells'] if c['cell_type'] == 'code')
    (tmp_path/'page.py').write_text('import matplotlib; matplotlib.use("Agg")\n' + code, encoding='utf-8')
    res = subprocess.run([sys.executable, 'page.py'], cwd=tmp_path, env={**os.environ, 'BRAINRECON_SHARED': str(tmp_path/'nothing')}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert res.returncode == 0, res.stderr[-3000:]
    assert 'is not on this machine' in res.stdout and 'simulated' in res.stdout


@pytest.mark.skipif(not SLICE.is_dir(), reason=f'the slice of Haxby and others is not at {SLICE} (set BRAINRECON_SHARED)')
def test_the_real_slice_is_decoded():
    "Eight categories over held-out runs: plain ridge was found to reach 0.69 to 0.74, chance is 0.125."
    from brainrecon.data.recordings_fmri import from_nifti
    from brainrecon.decoders.categories import decode_categories
    how = dict(labels=SLICE/'labels.tsv', glm=False, delay=0, units='z', drift=None)
    plain, mean = (decode_categories(from_nifti(SLICE/'bold.nii.gz', SLICE/'mask.nii.gz', **how, average=n), 'run', shuffles=s) for n, s in ((1, 100), (3, 0)))
    assert .64 < plain.score < .75 and plain.p < .02 and .68 < mean.score < .76
    assert len(plain.folds) == 8 and plain.interval()[0] > .5 and abs(plain.null.mean() - .125) < .03


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_pages_keep_no_stimuli(path):
    "Pictures of the study are shown only when a reader asks for them."
    cells = [c for c in read(path)['cells'] if c['cell_type'] == 'code']
    for c in cells:
        if 'haxby_stimuli' in joined(c['source']):
            assert not any(k.startswith('image/') for o in c['outputs'] for k in o.get('data', {}))
            assert not re.search(r'show_stimuli\s*=\s*True', '\n'.join(joined(x['source']) for x in cells))


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_the_readers_part_is_short(path):
    "Thirty lines at most, from the recording to the score: lines that call the library and are not about practice data or figures."
    aside = re.compile(r'show_|print|shared|averages|mags|evoked|write_|shown|assert|^\s*#|import |painted|rgb|vol|chosen|names|kind|ways|tried|found|figure|one =|top ')
    lines = [line for c in read(path)['cells'] if c['cell_type'] == 'code' for line in joined(c['source']).splitlines() if line.strip() and not aside.search(line)]
    assert len(lines) < 30, '\n'.join(lines)


@pytest.mark.skipif(not STIMULI.is_dir(), reason=f'the face and house pictures are not at {STIMULI} (set BRAINRECON_SHARED)')
def test_the_stimuli_can_be_shown(tmp_path):
    "The cell that a reader may switch on."
    code = [joined(c['source']) for c in read(PAGES[1])['cells'] if c['cell_type'] == 'code']
    text = '\n\n'.join(s for s in code if s.startswith(('import', 'shared')) or 'show_stimuli' in s).replace('show_stimuli = False', 'show_stimuli = True')
    text = re.sub(r'(?m)^print\(.real: .*$', '', text)
    res = subprocess.run([sys.executable, '-c', text + '\nprint(len(found))'], cwd=tmp_path, env={**os.environ, 'BRAINRECON_SHARED': str(SHARED)}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert res.returncode == 0 and int(res.stdout.split()[-1]) >= 8, res.stderr[-2000:]
