"""Ways to break a file, and the form of a case: break a good tree, read it, and look at each part of the message.

A file `tests/broken_<topic>.py` gives `tree(root)` (writes the good tree), `read(root)` (reads it without complaint) and `cases`, a list of `Broken`.
"""
import io, json, os, pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Callable
import numpy as np


@dataclass
class Broken:
    "One bad input and what its message must say."
    id: str
    breaks: Callable     # of the root of a fresh copy of the tree
    read: Callable       # of the same root; must be refused
    kind: type           # of error
    came: object         # a text, or several, in what came: the file and what was found
    expected: object     # likewise, in what was expected
    do: object           # likewise, in the remedy


class Call:
    "Pickled, it makes a file when it is unpickled freely. Nothing of ours may do that."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return (open, (self.path, 'w'))


def cut(path, fraction=0.5):
    "Keep only the first part of a file."
    n = os.path.getsize(path); os.chmod(path, 0o644)
    with open(path, 'rb+') as f: f.truncate(int(n*fraction))

def flip(path, at=0.5, n=64):
    "Change bytes in the middle of a file; its size stays."
    size = os.path.getsize(path); os.chmod(path, 0o644)
    with open(path, 'rb+') as f:
        f.seek(int(size*at)); b = f.read(n); f.seek(int(size*at)); f.write(bytes(255 - i for i in b))

def empty(path): Path(path).write_bytes(b'')

def web_page(path):
    "What a browser saves when a link has expired."
    Path(path).write_text('<!DOCTYPE html><html><body>Please sign in</body></html>\n', encoding='utf-8')

def edit_npy(path, f):
    "Replace a plain array by f(array)."
    np.save(path, f(np.load(path, allow_pickle=False)), allow_pickle=False)

def edit_dict(path, f):
    "Change a dict that `np.save` pickled: `f` changes it in place, or gives another object."
    d = np.load(path, allow_pickle=True).item(); new = f(d); d = d if new is None else new
    with open(path, 'wb') as out: np.save(out, np.array(d, dtype=object) if not isinstance(d, np.ndarray) else d, allow_pickle=True)

def edit_pickle(path, f, protocol=4):
    "Change a naked pickle."
    d = pickle.loads(Path(path).read_bytes()); new = f(d)
    Path(path).write_bytes(pickle.dumps(d if new is None else new, protocol))

def edit_torch(path, f, **how):
    "Change what `torch.save` wrote; `how` goes to torch.save."
    import torch
    d = torch.load(path, weights_only=False); new = f(d); torch.save(d if new is None else new, path, **how)

def edit_json(path, f):
    d = json.loads(Path(path).read_text(encoding='utf-8')); new = f(d)
    Path(path).write_text(json.dumps(d if new is None else new), encoding='utf-8')

def put(d, **entries):
    "Set entries of a dict, as an expression."
    d.update(entries)

def drop(d, key): del d[key]
