"The library's order: imports go one way, modules and functions stay small, nothing is there without its notebook."
import ast, re
from pathlib import Path
import pytest
from notebooks import NBS, ROOT, all_notebooks, is_job, module_of, name, read, joined

LIB = ROOT/'brainrecon'
MODULES = sorted(p for p in LIB.rglob('*.py') if p.name not in ('__init__.py', '_modidx.py') and 'assets' not in p.parts)
IDS = [p.relative_to(LIB).as_posix() for p in MODULES]
ORDER = {d.name.split('_', 1)[1]: int(d.name.split('_', 1)[0]) for d in NBS.iterdir() if d.is_dir() and re.match(r'\d\d_', d.name)}
LONG = {}   # 'folder/module.py:function': why it may be longer than 40 lines


def imported(path:Path):
    "Folders of this library that a module imports, with the line."
    own = ('brainrecon', *path.relative_to(LIB).with_suffix('').parts)
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            full = [*own[:len(own) - node.level], *(node.module or '').split('.')] if node.level else (node.module or '').split('.')
            names = [full] if len([f for f in full if f]) > 1 else [[*full, a.name] for a in node.names]
        elif isinstance(node, ast.Import): names = [a.name.split('.') for a in node.names]
        else: continue
        for parts in names:
            parts = [p for p in parts if p]
            if parts[0] == 'brainrecon' and len(parts) > 1: yield parts[1], node.lineno


@pytest.mark.parametrize('path', MODULES, ids=IDS)
def test_imports_go_one_way(path):
    "A module imports from its own folder or from folders to the left of it."
    own = path.relative_to(LIB).parts[0]
    bad = [f'line {line}: {folder}' for folder, line in imported(path) if folder in ORDER and ORDER[folder] > ORDER[own]]
    assert not bad, f'{own} ({ORDER[own]}) imports from the right: {bad}'


@pytest.mark.parametrize('path', MODULES, ids=IDS)
def test_sizes(path):
    "At most 400 lines a module, 40 lines a function, 120 columns."
    text = path.read_text(encoding='utf-8'); rel = path.relative_to(LIB).as_posix()
    assert text.count('\n') <= 400, f'{rel} has {text.count(chr(10))} lines; split it by a sentence that a reader would say'
    bad = [f'{n.name}: {n.end_lineno - n.lineno + 1} lines' for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
           and n.end_lineno - n.lineno + 1 > 40 and f'{rel}:{n.name}' not in LONG]
    assert not bad, bad


@pytest.mark.parametrize('path', MODULES, ids=IDS)
def test_manners(path):
    "No wildcard imports, nothing left to do, no machine's paths, a word for every public thing."
    text = path.read_text(encoding='utf-8'); tree = ast.parse(text)
    stars = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and any(a.name == '*' for a in n.names)]
    assert not stars, f'wildcard imports in lines {stars}'
    words = [f'line {i}: {m[0]}' for i, line in enumerate(text.splitlines(), 1) for m in [re.search(r'\bTODO\b|\bFIXME\b|\bXXX\b|/home/\w|/root/|/Users/\w', line)] if m]
    assert not words, words
    assert ast.get_docstring(tree), 'the module has no docstring: its notebook needs a quoted line under the title'
    mute = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_') and not ast.get_docstring(n)]
    assert not mute, f'no docstring: {mute}'


FREE = {'jobs/loading.py'}    # measures the published way, on a file that it wrote a moment before


@pytest.mark.parametrize('path', MODULES, ids=IDS)
def test_nothing_is_unpickled_freely(path):
    "No free unpickling: what others made is read by `core.readers`."
    bad = []
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(n, ast.Call): continue
        called = ast.unparse(n.func); how = {k.arg: ast.unparse(k.value) for k in n.keywords}
        loads = called.rsplit('.', 1)[-1] in ('load', 'loads', 'load_state_dict_from_url', 'read_pickle', 'Unpickler')
        if called.endswith(('pickle.load', 'pickle.loads', 'Unpickler', 'read_pickle', 'joblib.load')): bad.append(f'line {n.lineno}: {called}')
        if loads and how.get('allow_pickle', 'False') != 'False': bad.append(f'line {n.lineno}: {called} with allow_pickle')
        if called == 'torch.load' and how.get('weights_only') != 'True': bad.append(f'line {n.lineno}: {called} without weights_only=True')
    assert not bad or path.relative_to(LIB).as_posix() in FREE, bad


def test_every_module_has_its_notebook():
    "A module comes from exactly one notebook, whose folder has its name."
    made = {}
    for p in all_notebooks():
        module = module_of(p)
        if not module: continue
        assert module not in made, f'{module} is exported by two notebooks: {name(p)} and {made[module]}'
        made[module] = name(p)
        folder, file = re.sub(r'^\d\d_', '', p.parent.name), re.sub(r'^\d\d[a-z]?_', '', p.stem)
        assert module == f'{folder}.{file}', f'{name(p)} exports {module}, not {folder}.{file}'
    have = {'.'.join(p.relative_to(LIB).with_suffix('').parts) for p in MODULES}
    assert have == set(made), f'modules without notebook: {sorted(have - set(made))}; notebooks without module: {sorted(set(made) - have)}'


def test_folders_are_numbered_and_not_empty():
    "`ls nbs` tells the architecture."
    wanted = ['core', 'data', 'encoders', 'alignment', 'generators', 'priors', 'decoders', 'metrics', 'jobs', 'tutorials', 'explore']
    have = sorted(ORDER, key=ORDER.get)
    assert have == [w for w in wanted if w in ORDER], f'order of folders: {have}'
    assert [ORDER[h] for h in have] == [wanted.index(h) for h in have], f'numbers of folders: {ORDER}'
    for d in NBS.iterdir():
        if d.is_dir() and re.match(r'\d\d_', d.name): assert list(d.rglob('*.ipynb')), f'{d.name} holds no notebook'


def test_jobs_define_no_functions():
    "What a job needs belongs in a module."
    bad = [f'{name(p)}, cell {i}' for p in all_notebooks() if is_job(p) for i, c in enumerate(read(p)['cells'])
           if c['cell_type'] == 'code' and re.search(r'(?m)^(def|class) ', joined(c['source']))]
    assert not bad, bad
