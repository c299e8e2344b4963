"Every notebook runs, is clean, exports what the library holds, and keeps small outputs that name no machine."
import filecmp, json, os, re, signal, subprocess, sys, threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
import pytest
from notebooks import NBS, ROOT, all_notebooks, is_job, is_silenced, joined, module_of, name, read, texts
from pages import CAN_FORK

BIN = Path(sys.executable).parent
RUN = [p for p in all_notebooks() if not is_silenced(p) and not is_job(p)]
JOBS = [p for p in all_notebooks() if is_job(p)]
MACHINE = re.compile(r'\btmp(?=[a-z0-9_]*[0-9_])[a-z0-9_]{8}\b|/home/|/root/|/tmp/|/Users/|/work/|[A-Za-z]:\\+Users|\bat 0x[0-9a-f]{6,}|' + re.escape(str(ROOT)))


def tool(*args, cwd, around=None, **env):
    "Run one of nbdev's commands from this environment, or with the variables in `around`."
    return subprocess.run([str(BIN/args[0]), *map(str, args[1:])], cwd=cwd, env={**(os.environ if around is None else around), **env}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)


@pytest.fixture(scope='module')
def running(request, tmp_path_factory):
    "All chosen notebooks, each in a process of its own with one thread, as many at a time as there are cores (four at most)."
    chosen = [i.callspec.params['path'] for i in request.session.items if getattr(i, 'originalname', '') == 'test_runs']
    at_once, around = min(4, os.cpu_count() or 1), {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}   # once: pytest writes to it while threads would read
    if CAN_FORK: yield from forked(chosen, at_once, around, tmp_path_factory.mktemp('pages'))
    else:
        with ThreadPoolExecutor(at_once) as pool:
            yield {p: pool.submit(tool, 'nbdev_test', '--path', p, '--n_workers', 0, cwd=ROOT, around=around) for p in chosen}
            pool.shutdown(cancel_futures=True)


def forked(chosen, at_once, around, folder):
    "The same, by processes that need not load the large libraries (`pages.py`); gives a future for each page."
    pages = {str(p): Future() for p in chosen}
    with subprocess.Popen([sys.executable, str(ROOT/'tests'/'pages.py'), str(at_once), str(folder)], cwd=ROOT, env=around, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        def listen():
            for line in server.stdout: path, *ended = json.loads(line); pages[path].set_result(subprocess.CompletedProcess(path, *ended))
            for path, page in pages.items():
                if not page.done(): page.set_exception(RuntimeError(f'the process that runs pages ended before {path} did'))
        server.stdin.write('\n'.join(pages)); server.stdin.close()
        listener = threading.Thread(target=listen); listener.start()
        yield {Path(p): f for p, f in pages.items()}
        if server.poll() is None: os.killpg(server.pid, signal.SIGKILL)   # a person stopped the tests: no page goes on
        listener.join()


@pytest.mark.parametrize('path', RUN, ids=map(name, RUN))
def test_runs(path, running):
    "The cells run in order; a failure shows the cell and its error."
    res = running[path].result()
    assert res.returncode == 0 and 'Success.' in res.stdout, f'\n{name(path)} failed ({res.returncode}):\n{res.stdout[-6000:]}'


def test_there_are_notebooks():
    "An empty list would pass all of the above."
    assert len(RUN) >= 3 and NBS/'index.ipynb' in RUN


def test_library_is_what_the_notebooks_export(copy):
    "Exporting again changes nothing: nobody edited a module, nobody forgot to export."
    res = tool('nbdev_export', cwd=copy)
    assert res.returncode == 0, res.stdout
    here, there = ({p.relative_to(base).as_posix() for p in (base/'brainrecon').rglob('*.py')} for base in (ROOT, copy))
    assert here == there, f'exported and committed modules differ: {sorted(here ^ there)}'
    changed = sorted(p for p in here if not filecmp.cmp(ROOT/p, copy/p, shallow=False))
    assert not changed, f'not what the notebooks export: {changed}. Edit the notebook, then run nbdev_export.'


def test_notebooks_are_clean(copy):
    "Cleaning again changes nothing."
    res = tool('nbdev_clean', cwd=copy)
    assert res.returncode == 0, res.stdout
    changed = [name(p) for p in all_notebooks() if p.read_bytes() != (copy/p.relative_to(ROOT)).read_bytes()]
    assert not changed, f'not clean: {changed}. Run nbdev_clean.'


def test_notebooks_are_valid():
    "Each notebook follows the format."
    nbformat = pytest.importorskip('nbformat')
    for p in all_notebooks(): nbformat.validate(nbformat.read(p, 4))


def test_no_error_is_kept():
    "No kept output is an error or a warning on standard error."
    bad = [f'{name(p)}, cell {i}: {joined(o.get("text", o.get("evalue", "")))[:100]}' for p in all_notebooks() for i, c in enumerate(read(p)['cells'])
           for o in c.get('outputs', []) if o['output_type'] == 'error' or o.get('name') == 'stderr']
    assert not bad, '\n'.join(bad)


def test_outputs_name_no_machine():
    "No kept output holds a path of somebody's computer or an address in memory."
    bad = [f'{name(p)}, cell {i}: {m[0]}' for p in all_notebooks() for i, c in enumerate(read(p)['cells'])
           for o in c.get('outputs', []) for t in texts(o) for m in [MACHINE.search(t)] if m]
    assert not bad, '\n'.join(bad)


def test_notebooks_are_small():
    "At most 150 KB a notebook, 40 KB a picture, 80 cells, 30 lines a cell; one exported function may fill 42, a class and a table of parameters what they need."
    bad = []
    for p in all_notebooks():
        cells = read(p)['cells']
        if p.stat().st_size > 150_000: bad.append(f'{name(p)}: {p.stat().st_size // 1000} KB')
        if len(cells) > 80: bad.append(f'{name(p)}: {len(cells)} cells')
        for i, c in enumerate(cells):
            src = joined(c['source'])
            if 'parameters' in c['metadata'].get('tags', []): continue   # a table, a line for each parameter
            limit = 42 if re.search(r'(?m)^#\|\s*export', src) else 30
            if c['cell_type'] == 'code' and src.count('\n') >= limit and not re.search(r'(?m)^class ', src): bad.append(f'{name(p)}, cell {i}: {src.count(chr(10)) + 1} lines')
            for o in c.get('outputs', []):
                for kind, data in o.get('data', {}).items():
                    if kind.startswith('image/') and len(joined(data)) * 3 // 4 > 40_000: bad.append(f'{name(p)}, cell {i}: picture of {len(joined(data)) * 3 // 4000} KB')
    assert not bad, '\n'.join(bad)


def test_library_notebooks_keep_outputs():
    "A reader of the site sees what the code gave; widgets and their state are never kept."
    empty = [name(p) for p in RUN if module_of(p) and not any(c.get('outputs') for c in read(p)['cells'])]
    assert not empty, f'no outputs kept: {empty}'
    widgets = [name(p) for p in all_notebooks() if 'widgets' in read(p)['metadata']
               or any('application/vnd.jupyter.widget-view+json' in o.get('data', {}) for c in read(p)['cells'] for o in c.get('outputs', []))]
    assert not widgets, f'widget state kept: {widgets}'


def test_notebooks_open_well():
    "A library notebook says where it exports to, then has a title and one quoted line that can stand alone."
    bad = []
    for p in RUN:
        prose = [joined(c['source']) for c in read(p)['cells'] if c['cell_type'] == 'markdown']
        if not prose or not re.match(r'# \S.*\n+> \S.+', prose[0]): bad.append(f'{name(p)}: the first prose is not a title and a quoted line')
        if module_of(p) and 'default_exp' not in joined(read(p)['cells'][0]['source']): bad.append(f'{name(p)}: default_exp is not in the first cell')
    assert not bad, '\n'.join(bad)


def test_jobs_keep_their_parameters_cell():
    "papermill goes on silently without the tag; cleaning must not have removed it."
    for p in JOBS:
        tags = [t for c in read(p)['cells'] for t in c['metadata'].get('tags', [])]
        assert tags.count('parameters') == 1, f'{name(p)}: {tags.count("parameters")} cells are tagged `parameters`'
        assert 'injected-parameters' not in tags, f'{name(p)} is the record of a run, not a job'


def test_jobs_keep_no_outputs_and_export_nothing():
    "A job's results live in its run folder."
    bad = [name(p) for p in JOBS if any(c.get('outputs') for c in read(p)['cells']) or '#| export' in p.read_text(encoding='utf-8')]
    assert not bad, bad
