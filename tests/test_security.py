"Names that lead nowhere else, notebooks that run only when asked, tokens that are neither shown nor kept, and temporary files for one user alone."
import ast, html.parser, json, os, re, stat, subprocess, sys, zipfile
from pathlib import Path
import nbformat, numpy as np, pandas as pd, pytest
from notebooks import ROOT, all_notebooks, joined, name, read
from brainrecon.core.checks import FolderError, ParameterError, UnknownError, UnsafeError
from brainrecon.core.files import load_json, save_json, sha256
from brainrecon.core.private import below, hidden, no_links, secret_name, veiled, veiled_all
from brainrecon.data.registry import unpack
from brainrecon.jobs.compare_page import write_page
from brainrecon.jobs.compare import answered, compare_all, read_runs
from brainrecon.jobs.parameters import find_job, jobs, load_recipe, read_job, recipe_path, resolve
from brainrecon.jobs.predictions import load_predictions, save_drawings, save_predictions
from brainrecon.jobs.report import row_keys, write_report
from brainrecon.jobs.results import keep_result
from brainrecon.jobs.run import Run, run_job

command = [sys.executable, '-c', 'import sys; from brainrecon.jobs.cli import main; sys.exit(main())']
secret, other, file_token = 'xQ7"p<9&z\\Kd-not-a-real-one', 'correct horse battery', 'a1b2c3d4e5f6g7h8-in-a-file'
said = [secret, other, file_token, 'hf_0123456789abcdefghijklmn', 'https://ann:s3cretword@lab.example/x']
leaks = [secret, json.dumps(secret)[1:-1], secret.replace('&', '&amp;'), other, file_token, 'hf_0123456789abcdefghijklmn', 's3cretword', 's3cr3tvalue99']

speaker = [('''steps = 1    # in all
root  = ''   # any text
fail  = False  # end with an error
out   = ''   # run folder'''), 'import os, sys\nfrom pathlib import Path\nfrom IPython.display import HTML, display\nimport matplotlib.pyplot as plt\nfrom brainrecon.jobs.run import start', '''run = start(out)
secrets = [os.environ['LAB_SECRET'], os.environ['LAB_PASSWORD'], Path(os.environ['HF_HOME'], 'token').read_text(), *Path(os.environ['HF_HOME'], 'more').read_text().split()]
for s in secrets: print('said', s); print('loudly', s, file=sys.stderr); run.log(s)
display(HTML('<b>' + secrets[0] + '</b>')); secrets''', '''fig, ax = plt.subplots(figsize=(1, 1)); run.figure(fig, 'one', 'made by ' + secrets[1])
if fail: raise RuntimeError('signed in as ' + ' and '.join(secrets))''', '''run.scores(dict(title='t ' + secrets[0], notes=[secrets[3]], rows=[dict(what='w ' + secrets[1], measure='share', value=.5, simulated=True, note=secrets[4])]))''']
looker = ["out = ''  # run folder", 'import os, stat\nfrom pathlib import Path\nfrom brainrecon.jobs.run import start', '''run = start(out)
for at in (os.environ['TMPDIR'], os.environ['JUPYTER_RUNTIME_DIR']):
    for p in sorted(Path(at).rglob('*')): print('mode', oct(stat.S_IMODE(p.lstat().st_mode)), p.relative_to(at).parts[0][:12], 'folder' if p.is_dir() else 'file')''',
    "own = start()\nprint('mode', oct(stat.S_IMODE(own.folder.stat().st_mode)), 'own', 'folder'); own.folder.rmdir()", "run.scores(dict(title='t', rows=[dict(what='w', measure='share', value=.5, simulated=True)]))"]


def write(path, cells):
    "A job notebook; the first cell holds its parameters."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# A game\n\n> Is it fair?'), *map(nbformat.v4.new_code_cell, cells)])
    nb.cells[1].metadata['tags'] = ['parameters']
    path.parent.mkdir(parents=True, exist_ok=True); nbformat.write(nb, path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    "Jobs of one's own, an empty place for runs, and secrets in the places where secrets are."
    write(tmp_path/'jobs'/'games'/'speaker.ipynb', speaker); write(tmp_path/'jobs'/'games'/'looker.ipynb', looker)
    write(tmp_path/'jobs'/'games'/'marker.ipynb', ["out = ''  # run folder", f"from pathlib import Path\nPath({str(tmp_path/'it ran')!r}).touch()\nfrom brainrecon.jobs.run import start",
        "start(out).scores(dict(title='t', rows=[dict(what='w', measure='share', value=.5, simulated=True)]))"])
    (tmp_path/'jobs'/'recipes').mkdir(); (tmp_path/'hub').mkdir(); (tmp_path/'hub'/'token').write_text(file_token); (tmp_path/'hub'/'more').write_text('hf_0123456789abcdefghijklmn https://ann:s3cretword@lab.example/x api_key=s3cr3tvalue99'); (tmp_path/'cwd').mkdir(); monkeypatch.chdir(tmp_path/'cwd')
    for k in ('BRAINRECON_TRUST', 'BRAINRECON_DEBUG', 'HF_TOKEN', 'HF_TOKEN_PATH'): monkeypatch.delenv(k, raising=False)
    for k, v in dict(BRAINRECON_JOBS=tmp_path/'jobs', BRAINRECON_RUNS=tmp_path/'runs', LAB_SECRET=secret, LAB_PASSWORD=other, HF_HOME=tmp_path/'hub', NETRC=tmp_path/'netrc').items(): monkeypatch.setenv(k, str(v))
    return tmp_path


def cli(*words, **how): return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=120, **how)


def leaked(*texts): return [s[:6] for t in texts for s in leaks if s in t]


# --- names

def test_no_name_leads_out_of_a_run(tmp_path):
    run = Run(tmp_path/'run'); outside = tmp_path/'outside'
    for parts in (['..', 'outside'], ['../outside'], [str(outside)], ['a/../../outside'], ['a', '..', '..', 'outside'], ['a\\..\\outside'], ['a\0b'], [''], ['.'], [Path('..', 'outside')]):
        with pytest.raises(UnsafeError): run.path(*parts)
    (tmp_path/'run').mkdir(exist_ok=True); (tmp_path/'run'/'door').symlink_to(tmp_path)
    with pytest.raises(UnsafeError): run.path('door', 'outside')
    assert not outside.exists() and run.path('readers', 'eeg-s01', 'x.json').parent.is_dir() and run.path('training/plain')
    for label in ('../x', '/x', 'a/b', '.x', '', 'x\n', '..'):
        with pytest.raises(ParameterError): save_predictions(tmp_path, label, None, None, None, [], [], {})
        with pytest.raises(ParameterError): save_drawings(tmp_path, label, None, None, None, {})


def test_names_inside_files_of_others_lead_nowhere(tmp_path):
    "A kept prediction that points to another file, and a zip file with a way upwards, a link, and an absolute path."
    t = pd.DataFrame(dict(picture=['a', 'b'], concept=['a', 'b'])); z = np.eye(2, dtype='float32'); (tmp_path/'run').mkdir()
    at = save_predictions(tmp_path/'run', 'm', t, z, z, ['a', 'b'], ['a', 'b'], dict(method='m', data='d', simulated=True)); load_predictions(tmp_path/'run')
    kept = next((tmp_path/'run'/'predictions'/'shared').glob('gallery-*')); kept.rename(tmp_path/kept.name)
    with pytest.raises(FolderError, match='cannot be read'): load_predictions(tmp_path/'run')        # it is not looked for elsewhere
    (tmp_path/'root').mkdir()
    for bad in ('../evil.txt', 'a/../../evil.txt', '/evil.txt', 'C:/evil.txt', 'a\\..\\..\\evil.txt'):
        with zipfile.ZipFile(tmp_path/'z.zip', 'w') as z: z.writestr(zipfile.ZipInfo(bad), 'evil')
        with pytest.raises(UnsafeError): unpack(tmp_path/'z.zip', tmp_path/'root')
    link = zipfile.ZipInfo('link'); link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path/'z.zip', 'w') as z: z.writestr(link, '/etc')
    with pytest.raises(UnsafeError, match='link'): unpack(tmp_path/'z.zip', tmp_path/'root')
    assert not list(tmp_path.rglob('evil*'))


def test_recipes_stay_in_their_folder_and_say_values_only(home):
    (home/'elsewhere.yml').write_text('job: games/marker\nparameters: {}\n'); (home/'jobs'/'recipes'/'linked.yml').symlink_to(home/'elsewhere.yml'); job = find_job('games/speaker')
    for recipe in ('../elsewhere', '/elsewhere', 'linked', '..', '', 'recipes/x', str(home/'elsewhere')):
        with pytest.raises(UnknownError): recipe_path(recipe)
    assert recipe_path(home/'elsewhere.yml').name == 'elsewhere.yml'     # a file of one's own, by its path
    own = home/'own.yml'
    for text in ('parameters:\n  steps: !!python/object/apply:os.system ["touch hacked"]', 'parameters: !!python/name:os.system {}', 'parameters:\n  out: /', 'parameters:\n  to: /', 'parameters:\n  root: https://ann:s3cretword@lab.example'):
        own.write_text(f'job: games/speaker\n{text}\n')
        with pytest.raises(ParameterError) as e: resolve(job, own)
        assert not leaked(str(e.value))
    assert not list(home.rglob('hacked'))


def test_a_folder_of_a_run_that_came_from_elsewhere(home):
    "Links in it are not followed, and nothing behind them is read, changed or shown."
    (home/'diary').write_text('dear diary'); run = home/'given'; (run/'figures').mkdir(parents=True)
    for link in ('log.txt', 'notebook.ipynb', 'figures/one.png'):
        (run/link).symlink_to(home/'diary')
        with pytest.raises(UnsafeError, match='link to another place'): no_links(run)
        save_json(run/'params.json', dict(job='games/marker', values={'out': ''}))
        with pytest.raises(UnsafeError): run_job('games/marker', out=run, at=home/'jobs', show=False)
        if 'png' in link:
            save_json(run/'scores.json', dict(title='t', rows=[dict(what='w', measure='share', value=.5, simulated=True)]))
            with pytest.raises(UnsafeError): write_report(run)
        (run/link).unlink()
    (home/'runs').mkdir(); job = find_job('games/marker'); first = run_job('games/marker', at=home/'jobs', show=False).folder
    first.rename(home/'moved'); first.symlink_to(home/'moved')
    with pytest.raises(UnsafeError): run_job('games/marker', at=home/'jobs', show=False)        # a link in the place of a run that was chosen by its name
    assert run_job('games/marker', out=first, at=home/'jobs', show=False).finished             # named by hand: asked for
    assert (home/'diary').read_text() == 'dear diary'


# --- notebooks from elsewhere

def test_a_notebook_from_elsewhere_runs_only_when_asked(home, monkeypatch):
    mark, ran = sha256(home/'jobs'/'games'/'marker.ipynb'), home/'it ran'
    refused = cli('run', 'games/marker'); assert refused.returncode == 2 and mark[:12] in refused.stderr and '--jobs' in refused.stderr and 'BRAINRECON_TRUST' in refused.stderr
    assert not ran.exists() and not (home/'runs').exists() and 'games/marker' in cli('jobs').stdout
    asked = cli('run', 'games/marker', '--jobs', home/'jobs'); assert asked.returncode == 0 and ran.exists(), asked.stderr
    run, = (home/'runs').iterdir(); line = load_json(run/'params.json')['command']; assert f'--jobs {home/"jobs"}' in line
    for trust in (mark[:8], str(home/'jobs')):
        ran.unlink(missing_ok=True); monkeypatch.setenv('BRAINRECON_TRUST', trust); run_job('games/marker', again=True, show=False); assert ran.exists()
    for trust in (mark[:7], mark[1:9], 'f'*64, str(home/'hub'), str(home/'jobs'/'game'), '1', ':', ''):
        ran.unlink(missing_ok=True); monkeypatch.setenv('BRAINRECON_TRUST', trust)
        with pytest.raises(UnsafeError): run_job('games/marker', again=True, show=False)
        assert not ran.exists()
    monkeypatch.setenv('BRAINRECON_TRUST', mark[:12]); write(home/'jobs'/'games'/'marker.ipynb', ["out = ''  # run folder", "raise SystemExit('changed')"])
    with pytest.raises(UnsafeError): run_job('games/marker', show=False)        # changed since it was read


def test_no_notebook_is_found_by_accident(home, monkeypatch):
    "One in the current folder, under the name of a job, by a path, or behind a link."
    monkeypatch.delenv('BRAINRECON_JOBS'); theirs = write(Path('retrieval', '01_decode.ipynb'), ["out = ''  # run folder", 'raise SystemExit'])
    for asked in ('retrieval/01_decode', 'retrieval/01_decode.ipynb'): assert find_job(asked).path.is_relative_to(ROOT/'nbs') and find_job(asked).path != theirs.resolve()
    for path in ('games/marker.ipynb', './retrieval/01_decode.ipynb', theirs.resolve(), '../jobs/games/marker.ipynb'):
        with pytest.raises(UnsafeError, match='--jobs mine'): find_job(path)
    for text in ('./retrieval/01_decode', '/retrieval/01_decode', 'retrieval/../retrieval/01_decode', 'nbs/retrieval/01_decode', ''):
        with pytest.raises(UnknownError): find_job(text)
    (home/'jobs'/'games'/'linked.ipynb').symlink_to(theirs.resolve())
    with pytest.raises(UnknownError): find_job('games/linked', home/'jobs')
    assert [j.name for j in jobs(home/'jobs')] == ['games/looker', 'games/marker', 'games/speaker']


# --- tokens

@pytest.mark.parametrize('fail', [False, True])
def test_nothing_secret_is_shown_or_kept(home, fail):
    done = cli('run', 'games/speaker', f'fail={fail}', '--jobs', home/'jobs'); run, = (home/'runs').glob('games-speaker*')
    assert done.returncode == fail, done.stderr
    assert not leaked(done.stdout, done.stderr) and hidden in done.stdout + done.stderr
    names = {p.name for p in run.rglob('*') if p.is_file()}; assert names >= {'attempt-01.ipynb', 'notebook.ipynb', 'log.txt', 'params.json', 'status.json'} | ({'scores.json', 'report.html', 'one.png'} if not fail else set())
    for p in run.rglob('*'):
        if p.is_file(): assert not leaked(p.read_bytes().decode('utf-8', 'replace')), p.name
    nb = nbformat.read(run/'notebook.ipynb', 4); outputs = [o for c in nb.cells for o in c.get('outputs', [])]; assert outputs and hidden in str(outputs)
    assert hidden in (run/'log.txt').read_text() and (not fail or hidden in load_json(run/'status.json')['error'] and any(o.output_type == 'error' for o in outputs))
    if not fail: keep_result(run, home/'kept.json', 'a machine'); assert not leaked((home/'kept.json').read_text())


def test_a_secret_is_no_parameter(home, capsys):
    for value in ('https://ann:s3cretword@lab.example/data', secret, 'hf_0123456789abcdefghijklmn', f'x{other}y'):
        done = cli('run', 'games/speaker', f'root={value}', '--jobs', home/'jobs'); assert done.returncode == 2 and 'password or a token' in done.stderr and not leaked(done.stdout, done.stderr)
        done = cli('run', 'games/speaker', f'steps={value}', '--jobs', home/'jobs'); assert done.returncode == 2 and not leaked(done.stdout, done.stderr)      # also where it is refused for another reason
        done = cli('run', value, '--jobs', home/'jobs'); assert done.returncode == 2 and not leaked(done.stdout, done.stderr)
    done = cli('run', said[3], env={**os.environ, 'BRAINRECON_DEBUG': '1'}); assert done.returncode == 2 and 'Traceback' in done.stderr and not leaked(done.stdout, done.stderr)      # also where the whole trace is asked for
    assert not (home/'runs').exists()


def test_the_parameters_of_our_jobs_may_be_written_down():
    for j in jobs(ROOT/'nbs'/'08_jobs'):
        resolve(j); assert not [p.name for p in j.parameters if secret_name(p.name)], j.name


def test_ordinary_texts_are_left_alone(home):
    "Notebooks, job sources and recipes of this library hold no secret, and nothing in them is taken for one."
    for p in [*all_notebooks(), *(ROOT/'nbs'/'08_jobs'/'recipes').glob('*.yml')]:
        if p.stem == '01a_private' or p.stem.startswith(('07a_ask', '08_fetch', '01_report', '00_parameters', '06_results')): continue       # these show how it is done
        cells = read(p)['cells'] if p.suffix == '.ipynb' else [dict(source=p.read_text())]
        for c in cells: text = joined(c['source']); assert veiled(text) == text, f'{name(p) if p.suffix == ".ipynb" else p.name}: {text[:80]}'


@pytest.mark.parametrize('text', ['a'*200_000, 'a.'*100_000, '//'*100_000, '?token'*30_000, '//a:'*50_000, 'eyJ'*60_000, 'password'*20_000, '-----BEGIN PRIVATE KEY-----\n'*5_000, 'authorization: '*10_000])
def test_long_lines_are_read_at_once(text):
    "No text makes the search slow: each of these takes less than two seconds of this process, where a search that goes back takes hours."
    before = os.times().user; veiled(text); assert os.times().user - before < 2


def test_veiling_twice_changes_nothing(home):
    tree = dict(a=[secret, dict(b=('x', other)), 3, None, True], text='\n'.join(said)); once = veiled_all(tree)
    assert veiled_all(once) == once and not leaked(json.dumps(once, ensure_ascii=False)) and once['a'][2:] == [3, None, True]


# --- temporary files

@pytest.mark.parametrize('umask', [0o022, 0o000])
def test_temporary_files_are_for_one_user(home, umask, monkeypatch):
    for k in ('TMPDIR', 'JUPYTER_RUNTIME_DIR'): (home/k).mkdir(); monkeypatch.setenv(k, str(home/k))
    (home/'JUPYTER_RUNTIME_DIR').chmod(0o777)
    done = cli('run', 'games/looker', '--jobs', home/'jobs', umask=umask); assert done.returncode == 0, done.stderr
    modes = [l.split()[1:] for l in done.stdout.splitlines() if l.startswith('mode')]; files = [m for m in modes if m[2] == 'file']
    assert {m[1] for m in modes} >= {'own'} and len(files) >= 2, modes       # the kernel's specification and its connection file, at least
    top = [m for m in modes if m[2] == 'folder' or m[1].startswith('kernel')]; assert top
    for mode, what, kind in modes:
        hidden_above = what.startswith('brainrecon-') and any(m[1] == what and m[0] == '0o700' for m in modes)      # below a folder that nobody else can enter
        assert hidden_above or not int(mode, 8) & 0o077, (mode, what, kind)
    assert not list((home/'TMPDIR').iterdir()) and not list((home/'JUPYTER_RUNTIME_DIR').iterdir())


# --- pages

class Tags(html.parser.HTMLParser):
    "Which elements and attributes a page has, and what a reader reads."
    def __init__(self, text): super().__init__(); self.tags, self.attrs, self.text = set(), set(), ''; self.feed(text)
    def handle_starttag(self, tag, attrs): self.tags.add(tag); self.attrs |= {k for k, _ in attrs}
    def handle_data(self, data): self.text += data


def planted(tmp_path):
    "A run in which every text is a piece of a page."
    evil = '''<script>alert("x")</script><img src=x onerror='alert(1)'>"><b onclick="x">'''; run = tmp_path/f'run{evil.replace("/", "")[:60]}'; run.mkdir(); (run/'figures').mkdir()
    row = {k: evil if v == '' else [evil] if k in ('flags',) else v for k, v in row_keys.items()} | dict(status='measured here', value=.5, better='', simulated=True, chance=.1, candidates=10, low=.4, high=.6, n=3, seeds=[1], p=.5, protocol='', data=evil, setting=evil)
    save_json(run/'scores.json', dict(title=evil, about=evil, notes=[evil], rows=[row, row | dict(control=True), row | dict(status='not run', value=None, low=None, high=None)]))
    save_json(run/'params.json', dict(job=evil, recipe=evil, title=evil, device=evil, commit=evil, command=evil, started=evil, values={evil: evil}, came_from={evil: evil}, comments={evil: evil}, sources={evil: evil}, versions={evil: evil}))
    save_json(run/'status.json', dict(state='finished', seconds=1, attempts=[dict(started='2026')])); save_json(run/'card.json', {evil: {evil: [evil]}})
    import PIL.Image; PIL.Image.new('RGB', (2, 2)).save(run/'figures'/'a.png'); save_json(run/'figures'/'captions.json', dict(a=evil))
    z = np.eye(2, dtype='float32'); t = pd.DataFrame(dict(picture=[evil, 'b'], concept=[evil, 'b']))
    save_predictions(run, 'm', t, z, z, [evil, 'b'], [evil, 'b'], dict(method=evil, data=evil, setting=evil, simulated=True), np.zeros((2, 4, 4, 3), 'uint8'))
    return run, evil


def test_no_text_becomes_a_part_of_a_page(tmp_path):
    run, evil = planted(tmp_path); (tmp_path/'page').mkdir()
    pages = [write_report(run), write_page(tmp_path/'page', (sources := read_runs([run])[0]), *compare_all(answered(sources)), [evil], evil)]
    for page in pages:
        t = Tags(Path(page).read_text(encoding='utf-8')); assert not t.tags & {'script', 'b', 'iframe', 'object', 'form', 'link', 'base'}, t.tags
        assert not [a for a in t.attrs if a.startswith('on')], t.attrs
        assert t.text.count('<script>') > 3      # it is read, and does nothing


# --- the source

DANGEROUS = {'eval', 'exec', 'compile', '__import__', 'os.system', 'os.popen', 'os.execv', 'os.spawnl', 'tempfile.mktemp', 'yaml.unsafe_load', 'yaml.full_load', 'yaml.load_all', 'pd.read_pickle', 'pandas.read_pickle',
    'pickle.load', 'pickle.loads', 'pickle.Unpickler', 'marshal.load', 'marshal.loads', 'shelve.open', 'dill.load', 'joblib.load', 'cloudpickle.load', 'ssl._create_unverified_context', 'shutil.unpack_archive', 'torch.hub.load'}
EXCEPTIONS = {
    ('00_core/05c_own', 'compile'): 'runs the file of a part that somebody wrote and named', ('00_core/05c_own', 'exec'): 'likewise',     # (page, call): why
    ('08_jobs/01b_launch', 'compile'): 'cells of the job that the runner has asked for, in further processes', ('08_jobs/01b_launch', 'exec'): 'the same',
    ('08_jobs/00_parameters', 'yaml.load'): 'with a SafeLoader that refuses doubled keys',
    ('08_jobs/07a_loading', 'np.load'): 'measures the published way, on a file that it wrote a moment before',
    ('08_jobs/07a_loading', 'pickle.load'): 'reads its own file back',
    ('00_core/06_pickles', 'pickle.loads'): 'shows in a temporary folder what the usual way would do with a harmless bomb of its own',
    **{(f'01_data/{page}', call): 'a test cell reads its own simulated file back' for page, call in (('08_things_pictures', 'np.load'), ('09_things_eeg_raw', 'np.load'), ('09a_things_eeg_raw_tree', 'np.load'),
        ('10a_things_eeg_tree', 'np.load'), ('10a_things_eeg_tree', 'torch.load'), ('10a_things_eeg_tree', 'pickle.loads'), ('11a_things_meg_tree', 'torch.load'))}}


def calls(text):
    "Every call in a piece of Python, with what is dangerous about it."
    for n in ast.walk(ast.parse(text)):
        if not isinstance(n, ast.Call): continue
        f = ast.unparse(n.func); how = {k.arg: ast.unparse(k.value) for k in n.keywords}
        if f in DANGEROUS: yield f
        if f.split('.')[-1] in ('run', 'Popen', 'call', 'check_output', 'check_call') and how.get('shell', 'False') != 'False': yield f
        if f == 'torch.load' and how.get('weights_only') != 'True': yield f
        if f.endswith(('np.load', 'numpy.load')) and how.get('allow_pickle', 'False') != 'False': yield f
        if f == 'yaml.load': yield f
        if f.split('.')[-1] == 'extractall': yield f
        if how.get('trust_remote_code', 'False') != 'False' or how.get('verify') == 'False': yield f
        if any(isinstance(a, ast.Constant) and isinstance(a.value, str) and re.match(r'/(tmp|var/tmp|dev/shm)\b', a.value) for a in n.args): yield f'{f} in a shared folder'


def python_of(cell):
    "A code cell without directives and magics."
    return '\n'.join('' if re.match(r'\s*[%!]', l) else l for l in joined(cell['source']).split('\n'))


def test_the_source_calls_nothing_dangerous():
    "What runs a text, a pickle or a shell, in modules, pages and jobs; exceptions are named above, each with its reason, and none is there in vain."
    found = {(name(p), c) for p in all_notebooks() for cell in read(p)['cells'] if cell['cell_type'] == 'code' for c in calls(python_of(cell))}
    assert found == set(EXCEPTIONS), sorted(found ^ set(EXCEPTIONS))
    modules = {(p.relative_to(ROOT/'brainrecon').as_posix(), c) for p in (ROOT/'brainrecon').rglob('*.py') for c in calls(p.read_text(encoding='utf-8'))}
    assert modules == {('jobs/parameters.py', 'yaml.load'), ('jobs/loading.py', 'np.load'), ('jobs/launch.py', 'compile'), ('jobs/launch.py', 'exec'), ('core/own.py', 'compile'), ('core/own.py', 'exec')}, modules


def test_the_search_itself():
    for text in ('eval(x)', 'torch.load(p)', 'torch.load(p, weights_only=False)', 'subprocess.run(c, shell=True)', 'np.load(p, allow_pickle=True)', 'yaml.load(t)', 'z.extractall(p)', "open('/tmp/x')", 'm(trust_remote_code=True)'): assert list(calls(text)), text
    for text in ('model.eval()', 'torch.load(p, weights_only=True)', 'subprocess.run(c)', 'np.load(p)', 're.compile(x)', 'ast.literal_eval(x)'): assert not list(calls(text)), text


def test_nothing_in_a_run_folder_is_imported(tmp_path, monkeypatch):
    "A run folder may come from somebody else: what lies in it under the name of a library stays there, in the notebook, in processes that train together, and where a command is typed."
    at = tmp_path/'run'; at.mkdir(); words = [sys.executable, '-P', '-c', 'import sys; from brainrecon.jobs.cli import main; sys.exit(main())']
    go = lambda *more, cwd=None: subprocess.run([*words, *more], capture_output=True, text=True, timeout=300, cwd=cwd, env=os.environ | dict(BRAINRECON_RUNS=str(tmp_path/'runs'), OMP_NUM_THREADS='1'))
    job = ['run', 'check/03_short', 'value=3', f'shared={tmp_path/"shared"}', '--out', str(at)]; assert go(*job).returncode == 0; (at/'scores.json').unlink(); status = json.loads((at/'status.json').read_text()); (at/'status.json').write_text(json.dumps(status | dict(state='failed')))
    for name in ('torch', 'numpy', 'ipykernel_launcher', 'brainrecon', 'site'): (at/f'{name}.py').write_text(f'open({str(tmp_path/"was-run")!r}, "a").write({name!r})')
    done = go(*job); assert done.returncode == 0 and not (tmp_path/'was-run').exists(), done.stdout + done.stderr
    (at/'status.json').write_text(json.dumps(status | dict(state='failed'))); done = go(*job, '--processes', '2'); assert done.returncode == 0 and not (tmp_path/'was-run').exists(), done.stdout + done.stderr
    done = go('sweep', 'check/03_short', '--over', 'value=5', f'shared={tmp_path/"shared"}', '--no-report', cwd=at); assert done.returncode == 0 and not (tmp_path/'was-run').exists(), done.stdout + done.stderr
