"""Found before ipykernel's own launcher, because the tests put this folder first: asks `tests/kernels.py` for a process that has the large libraries loaded.

This process stays, as the one that was started: it passes on signals, and it ends as the kernel ends; the kernel ends with it. Without such a server, or where the
server was started under other conditions (another Python, other threads), ipykernel's own launcher runs.
"""
import json, os, signal, socket, sys
from pathlib import Path

SHAPING = ('OMP_', 'MKL_', 'OPENBLAS_', 'MPL', 'LD_', 'PYTHON', 'TORCH_', 'CUDA', 'HF_', 'MALLOC_', 'NUMBA', 'BLIS', 'MNE_', 'LANG', 'LC_')   # variables that are read when a library is loaded
ASIDE = {'PYTHONSAFEPATH', 'PYTHONWARNINGS'}


def conditions(env)->dict: return {'python': [sys.executable, sys.prefix], **{k: v for k, v in env.items() if k.startswith(SHAPING) and k not in ASIDE}}


def ask(address:str):
    "A connection to the kernel that was made, or None."
    if not os.path.exists(address) or Path(address).with_name('shut').exists(): return None
    s = socket.socket(socket.AF_UNIX)
    try: s.connect(address)
    except OSError: s.close(); return None
    words = json.dumps(dict(argv=sys.argv, env=dict(os.environ), cwd=os.getcwd(), conditions=conditions(os.environ))).encode()
    socket.send_fds(s, [len(words).to_bytes(8, 'big')], [0, 1, 2]); s.sendall(words)
    if s.recv(1) == b'y': return s
    s.close()


if __name__ == '__main__':
    kernel = ask(os.environ.get('BRAINRECON_TEST_KERNELS', ''))
    if kernel is None:
        here = str(Path(__file__).parent); sys.path[:] = [p for p in sys.path if str(Path(p or '.').resolve()) != here]
        from ipykernel import kernelapp
        kernelapp.launch_new_instance()
    else:
        for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP): signal.signal(s, lambda s, _: kernel.send(bytes([s])))
        ended, parent = b'', os.getppid(); kernel.settimeout(.5)
        while len(ended) < 4 and os.getppid() == parent:   # whoever started this is there
            try: ended += (more := kernel.recv(4 - len(ended)))
            except TimeoutError: continue
            if not more: break
        status = int.from_bytes(ended, 'big', signed=True) if len(ended) == 4 else 1
        if status < 0:
            if -status != signal.SIGKILL: signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)
