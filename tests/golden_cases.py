"""What the checks of golden files share: a register of cases, values that remember whether they were compared, and comparisons.

A case stands in a file `golden_<what>.py` beside this one; `test_goldens.py` imports all of them.
"""
import numpy as np

cases = {}   # first part of a file's name -> function(tensors, metadata)

def case(prefix):
    "Register the function that checks files whose name begins like this."
    def put(f): cases[prefix] = f; return f
    return put


class Reads(dict):
    "Expected values that remember which of them were looked up."
    def __init__(self, d): super().__init__({k: Reads(v) if isinstance(v, dict) else v for k, v in d.items()}); self.seen = set()
    def __getitem__(self, k): v = super().__getitem__(k); self.seen.add(k); return v
    def __iter__(self): return super().__iter__()
    def closed(self, *_): raise AssertionError('look values up one by one, so that it is known which were compared')
    get = items = values = pop = copy = __or__ = __ror__ = closed
    def unread(self, at=''):
        return [x for k in self for v in [dict.__getitem__(self, k)] for x in ([at + k] if k not in self.seen else v.unread(f'{at}{k}/') if isinstance(v, Reads) else [])]

class Tensors(dict):
    "Tensors of a file that remember which of those called `output/...` were looked up."
    def __init__(self, d): super().__init__(d); self.seen = set()
    def __getitem__(self, k): v = super().__getitem__(k); self.seen.add(k); return v
    def unread(self): return [k for k in self if k.startswith('output/') and k not in self.seen]
    def under(self, prefix):
        "Tensors whose names begin like this, without the beginning: all weights, say."
        assert not prefix.startswith('output'), 'look outputs up one by one'
        return {k.removeprefix(prefix): dict.__getitem__(self, k) for k in self if k.startswith(prefix)}
    def closed(self, *_): raise AssertionError('look tensors up one by one, or by `under`')
    get = items = values = pop = closed

def number(x):
    "Expected numbers; null is a number that does not exist."
    return np.array([np.nan if v is None else v for v in x], float) if isinstance(x, (list, tuple)) else np.nan if x is None else x

def close(got, want, tol, what):
    "The same numbers, undefined in the same places."
    got, want = np.asarray(number(got), float), np.asarray(number(want), float)
    assert got.shape == want.shape and np.array_equal(np.isnan(got), np.isnan(want)), f'{what}: undefined in other places, or other counts: got {got}, expected {want}'
    assert np.allclose(got, want, rtol=0, atol=tol, equal_nan=True), f'{what}: got {got}, expected {want}, tolerance {tol}'

def differ(got, wrong, by, what):
    "What is marked WRONG is not met."
    assert np.abs(np.asarray(got, float) - number(wrong)).max() > by, f'{what}: a right value must not equal it'
