"Bad input of every reader: each case breaks a copy of a good tree and looks at what the message says came, was expected, and is to be done."
import importlib, shutil
import pytest
from notebooks import ROOT
from broken import Call

TOPICS = sorted(p.stem for p in (ROOT/'tests').glob('broken_*.py'))
modules = {t: importlib.import_module(t) for t in TOPICS}
CASES = [(t, c) for t in TOPICS for c in modules[t].cases]


@pytest.fixture(scope='session')
def trees(tmp_path_factory):
    "The good tree of a topic, written once."
    made = {}
    def get(topic):
        if topic not in made:
            made[topic] = tmp_path_factory.mktemp(topic)/'tree'; made[topic].mkdir(); modules[topic].tree(made[topic])
        return made[topic]
    return get


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "What was converted from a good file must not answer for a broken one."
    monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache')); monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data'))


def test_there_are_enough():
    "The number that was promised, each under its own name."
    assert len(CASES) >= 150, len(CASES)
    names = [f'{t}:{c.id}' for t, c in CASES]
    assert len(set(names)) == len(names), sorted({n for n in names if names.count(n) > 1})


@pytest.mark.parametrize('topic', TOPICS)
def test_good_trees_are_read(topic, trees, tmp_path):
    "A case proves nothing if the tree was broken from the start."
    root = shutil.copytree(trees(topic), tmp_path/'tree'); assert modules[topic].read(root) is not None


@pytest.mark.parametrize('topic, case', CASES, ids=[f'{t.removeprefix("broken_")}-{c.id}' for t, c in CASES])
def test_refused(topic, case, trees, tmp_path):
    root = shutil.copytree(trees(topic), tmp_path/'tree')
    case.breaks(root)
    with pytest.raises(case.kind) as e: case.read(root)
    for part in ('came', 'expected', 'do'):
        want = getattr(case, part); want = [want] if isinstance(want, str) else list(want)
        assert want and all(want), f'{case.id}: the case says nothing about `{part}`'
        got = str(getattr(e.value, part)).lower()
        for text in want: assert text.lower() in got, f'{case.id}: {text!r} is not in {part}={got!r}'
    assert not list(tmp_path.rglob('payload*')), 'a pickle ran'
