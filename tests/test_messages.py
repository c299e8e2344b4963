"Errors that a user can cause come in four parts, and each kind is shown on the page that raises it."
import ast, re
import pytest
from notebooks import ROOT, all_notebooks, joined, module_of, name, read
from brainrecon.core import checks
from brainrecon.core.checks import ReconError
from brainrecon.jobs import run

KINDS = sorted({k for k, v in vars(checks).items() if isinstance(v, type) and issubclass(v, ReconError)} | {'RunFailed'})
PAGES = [p for p in all_notebooks() if module_of(p)]


def raised(path):
    "(kind, call, line) of each error of ours that a module raises, or makes for somebody else to raise."
    module = ROOT/'brainrecon'/(module_of(path).replace('.', '/') + '.py')
    for node in ast.walk(ast.parse(module.read_text(encoding='utf-8'))):
        made = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
        if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id in KINDS: yield made.func.id, made, node.lineno


def part(call, place, word):
    "One part of a message as it stands in the source: its node, None if it is left out, or the call itself if it comes by `*` or `**`."
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords): return call
    if place < len(call.args): return call.args[place]
    return next((k.value for k in call.keywords if k.arg == word), None)


def empty(node):
    "Whether a part is left out, or written as a text with nothing in it. What is computed cannot be judged here."
    if node is None or isinstance(node, ast.Constant): return node is None or not str(node.value or '').strip()
    if isinstance(node, ast.JoinedStr): return all(empty(v) for v in node.values)
    if isinstance(node, ast.IfExp): return empty(node.body) or empty(node.orelse)
    return isinstance(node, ast.BinOp) and empty(node.left) and empty(node.right)


def lacks(call):
    "The parts that a raise leaves out. Of an absent package, the line that installs it is the remedy."
    parts = [part(call, place, word) for place, word in ((0, 'came'), (1, 'expected'), (3, 'do'))]
    return [word for word, node in zip(('came', 'expected', 'do'), parts) if empty(node)]


@pytest.mark.parametrize('path', PAGES, ids=map(name, PAGES))
def test_messages_say_what_to_do(path):
    "What came, what was expected and what to do are said at each place; why is said there, or is the usual reason of the kind."
    bad = [f'line {line}: {kind} lacks {gone}' for kind, call, line in raised(path) if (gone := lacks(call))]
    assert not bad, f'{module_of(path)}: {bad}'


@pytest.mark.parametrize('kind', [k for k in KINDS if k not in ('ReconError', 'MissingExtra')])
def test_each_kind_has_a_usual_reason(kind):
    "So that a message without a reason of its own still has four parts."
    assert getattr(run if kind == 'RunFailed' else checks, kind).usual.strip()
    assert len(str(getattr(run if kind == 'RunFailed' else checks, kind)('came;', 'expected.', '', 'do.')).split('\n  ')[1]) > len('do.')


def test_the_rule_itself():
    "A remedy that is empty, left out, or empty on one of two ways is found."
    call = lambda text: ast.parse(text, mode='eval').body
    assert lacks(call("ShapeError('a', 'b', '', '')")) == lacks(call("ShapeError('a', 'b')")) == ['do']
    assert lacks(call("ShapeError('a', '', 'c', 'd' if x else '')")) == ['expected', 'do']
    assert not lacks(call("ShapeError(f'{a}', 'b', do=remedy)")) and not lacks(call('ShapeError(*parts)'))


@pytest.mark.parametrize('path', PAGES, ids=map(name, PAGES))
def test_messages_are_shown(path):
    "Each kind of error that a module raises is expected in its notebook."
    source = '\n'.join(joined(c['source']) for c in read(path)['cells'] if c['cell_type'] == 'code')
    shown = set(re.findall(r'expect\((\w+)', source)) | ({'ReconError'} if 'expect()' in source else set())
    missing = sorted({kind for kind, _, _ in raised(path)} - shown)
    assert not missing, f'{name(path)} raises {missing} but does not show it with `with expect(...)`'
