"Errors that a user can cause come in four parts, and each kind is shown on the page that raises it."
import ast, re
import pytest
from notebooks import ROOT, all_notebooks, joined, module_of, name, read

KINDS = {'ReconError', 'ShapeError', 'ChannelError', 'ValuesError', 'UnknownError', 'LeakError', 'FolderError', 'ParameterError', 'CheckpointError',
         'MissingExtra', 'MissingWeights'}
PAGES = [p for p in all_notebooks() if module_of(p)]


def raised(path):
    "(kind, call, line) of each error of ours that a module raises by itself."
    module = ROOT/'brainrecon'/(module_of(path).replace('.', '/') + '.py')
    for node in ast.walk(ast.parse(module.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name) and node.exc.func.id in KINDS:
            yield node.exc.func.id, node.exc, node.lineno


@pytest.mark.parametrize('path', PAGES, ids=map(name, PAGES))
def test_messages_say_what_to_do(path):
    "What came, what was expected, why, what to do: the last part may not be left out."
    bad = [f'line {line}: {kind}' for kind, call, line in raised(path) if len(call.args) < 4 and not any(k.arg in ('do', None) for k in call.keywords)
           and not any(isinstance(a, ast.Starred) for a in call.args)]
    assert not bad, f'{module_of(path)}: no remedy in {bad}'


@pytest.mark.parametrize('path', PAGES, ids=map(name, PAGES))
def test_messages_are_shown(path):
    "Each kind of error that a module raises is expected in its notebook."
    source = '\n'.join(joined(c['source']) for c in read(path)['cells'] if c['cell_type'] == 'code')
    shown = set(re.findall(r'expect\((\w+)', source)) | ({'ReconError'} if 'expect()' in source else set())
    missing = sorted({kind for kind, _, _ in raised(path)} - shown)
    assert not missing, f'{name(path)} raises {missing} but does not show it with `with expect(...)`'
