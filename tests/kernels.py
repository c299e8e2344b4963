"""Jupyter kernels that begin with the large libraries loaded, for the jobs that tests run.

A job is a process of its own, and loading torch and its company takes longer than most jobs of a test do. One process loads them once, has one thread and runs nothing
else; each kernel is ipykernel's own, in a child that it forks (`warm/ipykernel_launcher.py` asks for it). The library itself is not loaded before. Tests that kill
processes, count memory, or look at what a fresh installation does are listed in `conftest.py` and get kernels as users do.
"""
import gc, importlib, json, os, selectors, signal, socket, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent/'warm'))
from ipykernel_launcher import conditions
from pages import LOADED

MORE = 'ipykernel.kernelapp mne mne.io mne.channels mne.epochs mne.filter mne.decoding mne.viz nilearn.maskers nilearn.image h5py papermill psutil'.split()


def be_kernel(asked:dict, fds:list):
    "In the child: the conditions of the process that asked, then ipykernel; never returns."
    import random, tempfile
    import numpy as np
    for here, there in enumerate(fds): os.dup2(there, here)
    os.closerange(3, 4096); os.setsid(); os.chdir(asked['cwd']); os.environ.clear(); os.environ.update(asked['env'])
    sys.argv[:] = asked['argv']; tempfile.tempdir = None; np.random.seed(); random.seed()
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP): signal.signal(s, signal.default_int_handler if s == signal.SIGINT else signal.SIG_DFL)
    status = 1
    try:
        from ipykernel import kernelapp
        kernelapp.launch_new_instance(); status = 0
    except SystemExit as e: status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException: sys.excepthook(*sys.exc_info())
    import atexit
    atexit._run_exitfuncs(); sys.stdout.flush(); sys.stderr.flush(); os._exit(status)


def received(s)->tuple:
    "What a connection asks for, with its three files."
    head, fds, *_ = socket.recv_fds(s, 8, 3)
    left, words = int.from_bytes(head, 'big'), b''
    while len(words) < left: words += s.recv(left - len(words))
    return json.loads(words), fds


def end_all(pid:int):
    "A kernel and what it started, at once."
    import psutil
    try: p = psutil.Process(pid); family = [*p.children(recursive=True), p]
    except psutil.Error: return
    for q in family:
        try: q.kill()
        except psutil.Error: pass


def serve(address:str):
    "Make kernels until the process that started this one goes."
    ours = conditions(os.environ)   # some libraries set variables of their own
    for name in LOADED + MORE: importlib.import_module(name)
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).parent.resolve()]   # the folder of the tests is not for jobs
    gc.collect(); gc.freeze()   # the children share this memory
    assert len(os.listdir('/proc/self/task')) == 1, 'a process with threads must not be forked: is OMP_NUM_THREADS set?'
    door, look, parent = socket.socket(socket.AF_UNIX), selectors.DefaultSelector(), os.getppid()
    door.bind(address + '.new'); door.listen(64); os.rename(address + '.new', address)   # nobody finds it before it listens
    look.register(door, selectors.EVENT_READ); running = {}   # connection -> (process, its pidfd)
    while os.getppid() == parent:
        for key, _ in look.select(1):
            if key.fileobj is door:
                s, _ = door.accept(); asked, fds = received(s)
                if asked['conditions'] != ours:
                    s.send(b'n'); s.close()
                    for f in fds: os.close(f)
                    continue
                pid = os.fork()
                if not pid: be_kernel(asked, fds)
                for f in fds: os.close(f)
                s.send(b'y'); running[s] = pid, os.pidfd_open(pid)
                look.register(s, selectors.EVENT_READ); look.register(running[s][1], selectors.EVENT_READ, s)
            elif key.data is None:   # a signal to pass on, or the process that asked is gone
                s = key.fileobj
                if s not in running: continue
                try: words = s.recv(64)
                except OSError: words = b''
                for word in words: os.kill(running[s][0], word)
                if not words: look.unregister(s); end_all(running[s][0])
            else:                    # a kernel has ended
                s = key.data; pid, fd = running.pop(s); look.unregister(fd); os.close(fd)
                if s.fileno() in look.get_map(): look.unregister(s)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                try: s.send(status.to_bytes(4, 'big', signed=True))
                except OSError: pass
                s.close()
    for pid, _ in running.values(): end_all(pid)


if __name__ == '__main__': serve(sys.argv[1])
