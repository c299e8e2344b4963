"""Run pages, each in a process of its own that begins with the large libraries loaded.

Loading torch and its company takes longer than most pages do. One process loads them once, has one thread and runs nothing else; each page is run by a child
that it forks, so no page sees what another did. The library itself is not loaded before: a page finds it as it is. Lines in: paths. Lines out, as pages end: path, exit status, what was printed.
"""
import atexit, gc, importlib, json, os, signal, sys
from pathlib import Path

LOADED = ('torch torch.utils.data torch.utils.flop_counter torch.optim.swa_utils torchvision.transforms.functional matplotlib.pyplot matplotlib_inline.backend_inline pandas '
          'PIL.Image scipy.stats scipy.signal scipy.linalg scipy.optimize scipy.ndimage scipy.io scipy.sparse.csgraph sklearn.linear_model sklearn.discriminant_analysis '
          'sklearn.decomposition sklearn.covariance safetensors.torch einops accelerate timm diffusers filelock threadpoolctl platformdirs tqdm.auto nbformat nbdev.test').split()
CAN_FORK = sys.platform == 'linux'   # macOS can too, but its own libraries do not bear it
LIMIT = 900                          # seconds for a page


def start(path:str, printed:Path)->int:
    "Fork a child that does what `nbdev_test --path` does, and give its process id."
    child = os.fork()
    if child: return child
    for here, there in enumerate((os.open(os.devnull, os.O_RDONLY), *[os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)] * 2)): os.dup2(there, here)
    signal.alarm(LIMIT)
    import numpy as np
    from nbdev.test import nbdev_test
    np.random.seed()   # else all pages would draw the same where they choose no seed
    try: status = nbdev_test(path=path, n_workers=0) or 0
    except SystemExit as e: status = e.code
    except BaseException: status = 1; sys.excepthook(*sys.exc_info())
    atexit._run_exitfuncs(); sys.stdout.flush(); sys.stderr.flush(); os._exit(status)   # temporary folders go; taking the large libraries apart would take two seconds


def serve(at_once:int, folder:Path):
    "Run the pages named on standard input, so many at a time; `folder` takes what they print."
    waiting, running = sys.stdin.read().splitlines()[::-1], {}
    del sys.path[0]   # the folder of the tests is not for pages
    for name in LOADED: importlib.import_module(name)
    gc.collect(); gc.freeze()   # the children share this memory
    assert len(os.listdir('/proc/self/task')) == 1, 'a process with threads must not be forked: is OMP_NUM_THREADS set?'
    while waiting or running:
        while waiting and len(running) < at_once:
            path = waiting.pop(); printed = folder/f'{len(waiting)}.txt'
            running[start(path, printed)] = path, printed
        child, status = os.wait(); path, printed = running.pop(child)
        print(json.dumps([path, os.waitstatus_to_exitcode(status), printed.read_text(encoding='utf-8', errors='replace')]), flush=True)
    gc.unfreeze()   # else what is left over now counts as leaked


if __name__ == '__main__':
    serve(int(sys.argv[1]), Path(sys.argv[2]))
