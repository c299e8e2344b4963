"What all tests share: where things are, quiet threads, folders of their own."
import atexit, contextlib, os, shutil, subprocess, sys, tempfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tests'))
from browser import find_browser

# Set before anything imports numpy or torch, and inherited by every process that a test starts.
for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'): os.environ.setdefault(name, '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('BRAINRECON_CACHE', str(ROOT/'.cache'/'tests'))   # ignored by git; a second run finds its features there
os.environ['BRAINRECON_TEST_KERNELS'] = str(Path(tempfile.mkdtemp(prefix='brainrecon-kernels-'), 'door'))     # where tests/kernels.py listens
atexit.register(shutil.rmtree, Path(os.environ['BRAINRECON_TEST_KERNELS']).parent, ignore_errors=True)
if str(ROOT/'tests'/'warm') not in os.environ.get('PYTHONPATH', '').split(os.pathsep): os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT/'tests'/'warm'), os.environ.get('PYTHONPATH')]))

# The same examples each time, so that a clone that passes here passes elsewhere; BRAINRECON_FUZZ=1 looks for new ones.
with contextlib.suppress(ImportError):
    from hypothesis import settings
    settings.register_profile('same', derandomize=True, deadline=None)
    if os.environ.get('BRAINRECON_FUZZ') != '1': settings.load_profile('same')

LONG = ('test_notebooks.py', 'test_demo.py', 'test_together.py', 'test_site.py', 'test_faults.py', 'test_hvf_draw_job.py')   # minutes each: begun first, so that nobody waits for one of them in the end

def pytest_collection_modifyitems(items): items.sort(key=lambda i: LONG.index(i.path.name) if i.path.name in LONG else len(LONG))

LEAVE = shutil.ignore_patterns('.git', '.venv', '.cache', '.pytest_cache', '__pycache__', '.ipynb_checkpoints', '*.egg-info',
                               '_proc', '_docs', 'build', 'dist', 'runs')


@pytest.fixture(scope='session', autouse=True)
def runs(tmp_path_factory):
    "Run folders go to a temporary place unless a test or a person chose one."
    if 'BRAINRECON_RUNS' not in os.environ: os.environ['BRAINRECON_RUNS'] = str(tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='session', autouse=True)
def scratch(tmp_path_factory):
    "What tests, and the pages and jobs that they run, leave in the folder for temporary files goes with the session: gigabytes otherwise."
    at, was, env = tmp_path_factory.mktemp('scratch'), tempfile.tempdir, os.environ.get('TMPDIR')
    tempfile.tempdir = os.environ['TMPDIR'] = str(at)
    yield at
    tempfile.tempdir = was
    os.environ.pop('TMPDIR') if env is None else os.environ.update(TMPDIR=env)
    shutil.rmtree(at, ignore_errors=True)


# Tests that kill processes, count memory or time, or look at what a fresh installation does: their kernels are started as users' are.
COLD = ('test_demo.py', 'test_faults.py', 'test_together.py', 'test_package.py', 'test_security.py', 'test_limits.py', 'test_cluster.py', 'test_jobs.py', 'test_stream.py',
        'test_hvf_draw_job.py', 'test_hvf_prior_job.py', 'test_sweep.py', 'test_records.py', 'test_features.py')

@pytest.fixture(scope='session')
def kernels(request):
    "The address of tests/kernels.py, which ends with the process of the tests; for a few tests alone it is not worth its start."
    at, server = Path(os.environ['BRAINRECON_TEST_KERNELS']), None
    if sys.platform == 'linux' and len(request.session.items) > 300: server = subprocess.Popen([sys.executable, str(ROOT/'tests'/'kernels.py'), str(at)], stdin=subprocess.DEVNULL, start_new_session=True)
    yield at
    if server: server.kill(); server.wait()
    shutil.rmtree(at.parent, ignore_errors=True)   # a process of xdist ends without saying goodbye

@pytest.fixture(scope='module', autouse=True)
def warm(request, kernels):
    "Jobs of most tests begin in processes that have the large libraries loaded."
    shut = kernels.with_name('shut')
    if request.path.name in COLD: shut.touch()
    yield
    shut.unlink(missing_ok=True)


@pytest.fixture
def copy(tmp_path):
    "A copy of the source tree in which a test may change things."
    def leave(folder, names):   # a folder of notebooks may be called `build`; only the one at the top is left out
        drop = LEAVE(folder, names)
        return drop if Path(folder) == ROOT else drop - {'build', 'dist', 'runs'}
    return Path(shutil.copytree(ROOT, tmp_path/'copy', ignore=leave, symlinks=True))


@pytest.fixture(scope='session')
def chrome():
    "Chromium without a window, one for all tests of a process: Playwright's loop can be entered only once."
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install -e ".[dev]"')
    path = find_browser()
    if not path: pytest.skip('no Chromium on this machine (set BRAINRECON_BROWSER to one)')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-gpu', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'])   # no page reaches the network
        yield browser
        browser.close()
