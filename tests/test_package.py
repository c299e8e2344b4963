"""What is published: the wheel and the source archive hold what git tracks and no more, say what they are, and work far from the checkout.

Both are built without the network from a copy of what git tracks. The wheel is installed into a fresh environment that sees this one's packages, but nothing of this tree.
Environments from the package index, for each Python and each extra, are made by .ci/clean_envs.sh.
"""
import ast, email, importlib.metadata, io, json, os, re, shutil, subprocess, sys, sysconfig, tarfile, time, venv, zipfile
from configparser import ConfigParser
from pathlib import Path
import pytest
from checkout import MADE, tracked
from extra_cases import cases
from notebooks import ROOT

for package in ('build', 'setuptools', 'wheel'): pytest.importorskip(package)
ini = ConfigParser(delimiters=['=']); ini.read(ROOT/'settings.ini', encoding='utf-8'); cfg = ini['DEFAULT']
EXTRAS = {k[6:]: v.split() for k, v in cfg.items() if k.startswith('extra_')}

def alone(**more):
    "An environment without the paths of this tree."
    return {**{k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'BRAINRECON_JOBS')}, **more}

def run(*words, **kw):
    done = subprocess.run([os.fspath(w) for w in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, **{'env': alone(), **kw})
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The source archive, the wheel made from it, and a wheel made from the tree."
    at = tmp_path_factory.mktemp('built'); tree = at/'tree'
    for n in tracked(): (tree/n).parent.mkdir(parents=True, exist_ok=True); shutil.copy2(ROOT/n, tree/n)
    quiet = dict(env=alone(PIP_NO_INDEX='1', SOURCE_DATE_EPOCH='1700000000'), cwd=at)
    run(sys.executable, '-m', 'build', '-q', '--no-isolation', '--outdir', at, tree, **quiet); shutil.rmtree(tree/'brainrecon.egg-info')
    run(sys.executable, '-m', 'build', '-q', '--no-isolation', '--wheel', '--outdir', at/'second', tree, **quiet)
    (archive,), (wheel,), (second,) = at.glob('*.tar.gz'), at.glob('*.whl'), (at/'second').glob('*.whl')
    return archive, wheel, second

def contents(wheel)->dict:
    "Name -> bytes."
    with zipfile.ZipFile(wheel) as z: return {n: z.read(n) for n in z.namelist() if not n.endswith('/')}

@pytest.fixture(scope='module')
def held(built): return contents(built[1])

@pytest.fixture(scope='module')
def told(held):
    "The wheel's own account."
    (name,) = [n for n in held if n.endswith('.dist-info/METADATA')]; return email.message_from_bytes(held[name])


# what they hold

def in_wheel(name:str)->str:
    "Where a tracked file lies in the wheel, '' if nowhere."
    folder, _, rest = name.removeprefix('nbs/08_jobs/').partition('/')
    if name.startswith('nbs/08_jobs/') and rest and (rest.endswith('.ipynb') or folder in ('recipes', 'sweeps', 'results', 'costs')): return f'brainrecon/notebooks/{folder}/{rest}'
    return name if name.startswith('brainrecon/') else ''

def test_the_wheel_holds_library_assets_and_jobs(held):
    "Every module, weight, picture, job, recipe, sweep and kept result, with the bytes of the tree, and its own record; nothing else."
    want = {w: n for n in tracked() if (w := in_wheel(n))}; have = {n for n in held if '.dist-info/' not in n}
    assert set(want) == have, (sorted(set(want) - have)[:9], sorted(have - set(want))[:9])
    assert all(held[w] == (ROOT/n).read_bytes() for w, n in want.items())
    for part in ('assets/pictures/NOTICE', 'assets/avde/generator.safetensors', 'assets/mindhier/brain.safetensors', 'notebooks/check/03_short.ipynb', 'notebooks/recipes/demo.yml', 'notebooks/costs/paper-table-cpu.json'): assert f'brainrecon/{part}' in have

def test_the_source_archive_holds_what_git_tracks(built):
    "The tests too: they run from it, and so does everything else that a clone can do."
    with tarfile.open(built[0]) as t: members = t.getmembers(); texts = {m.name.partition('/')[2]: t.extractfile(m).read() for m in members if m.isfile()}
    assert {m.name.split('/')[0] for m in members} == {f'brainrecon-{cfg["version"]}'} and all(m.isfile() or m.isdir() for m in members)
    have = {n for n in texts if n not in MADE and not n.startswith('brainrecon.egg-info/')}; want = set(tracked())
    assert have == want, (sorted(want - have)[:9], sorted(have - want)[:9])
    assert all(texts[n] == (ROOT/n).read_bytes() for n in want)

def test_the_wheel_of_the_archive_is_that_of_the_tree(held, built):
    "File by file."
    other = contents(built[2]); assert set(held) == set(other) and [n for n in held if held[n] != other[n]] == []

def test_nothing_that_lies_about(held):
    assert not [n for n in held if re.search(r'\.ipynb_checkpoints|__pycache__|\.pyc$|egg-info|(^|/)tests/|\.notest$|(^|/)runs/|scratch', n)]

def test_names_that_every_system_can_write(held):
    "No sign that Windows forbids, no reserved name, none twice but for its case, and short enough to lie deep."
    for n in held:
        for part in n.split('/'): assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[ .]$', part) and not re.fullmatch(r'(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?', part), n
    assert len({n.lower() for n in held}) == len(held) and max(map(len, held)) <= 120

def test_sizes_are_those_that_are_stated(built, held):
    "CONTRIBUTING says how large both are, to ten in a hundred, and what no file exceeds."
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8'); m = re.search(r'wheel is (\d+) MB, the source archive (\d+) MB.*?no file .*?over (\d+) MB', text, re.S); assert m
    for path, mb in zip((built[1], built[0]), m.groups()): assert abs(path.stat().st_size/1e6/int(mb) - 1) < .1, (path.name, path.stat().st_size/1e6, mb)
    assert max((len(b), n) for n, b in held.items()) < (int(m[3])*1e6, '')


# what they say of themselves

def test_metadata(told, held):
    "Name, version, licences that are in it, Pythons, and addresses."
    assert told['Name'] == 'brainrecon' and told['Version'] == cfg['version'] and told['Requires-Python'] == '>=' + cfg['min_python'] == '>=3.11'
    assert told['License-Expression'] == 'Apache-2.0 AND MIT' and told.get_all('License-File') == ['LICENSE', 'brainrecon/assets/pictures/NOTICE']
    for f in told.get_all('License-File'): assert held[f'brainrecon-{cfg["version"]}.dist-info/licenses/{f}'] == (ROOT/f).read_bytes()
    assert b'Apache License' in (ROOT/'LICENSE').read_bytes() and b'MIT License' in held['brainrecon/assets/pictures/NOTICE']
    pythons = [c.rpartition(' ')[2] for c in told.get_all('Classifier') if re.search(r':: 3\.\d+$', c)]; assert pythons == cfg['pythons'].split() and pythons[0] == cfg['min_python'] and {'3.11', '3.12', '3.13'} <= set(pythons)
    ci = (ROOT/'.github'/'workflows'/'test.yml').read_text(encoding='utf-8'); assert f'python: {json.dumps(pythons)}' in ci
    assert any(u.startswith('Source, https://') for u in told.get_all('Project-URL'))

def test_the_page_has_no_link_that_ends_on_the_index(told):
    "The README as description: links to files of the repository are addresses there, and each is a file of ours."
    text = told.get_payload(); assert told['Description-Content-Type'] == 'text/markdown' and text.startswith('# brainrecon') and '<!--' not in text
    links = re.findall(r'\]\(([^)\s]+)\)', text); own = [l for l in links if l.startswith(cfg['git_url'])]
    assert not [l for l in links if not re.match(r'https?://|#|mailto:', l)] and len(own) > 20 and any('/raw/' in l for l in own)
    for l in own: assert (ROOT/re.sub(rf'^{re.escape(cfg["git_url"])}/(raw|blob)/{cfg["branch"]}/', '', l).partition('#')[0]).exists() or l == cfg['git_url'], l

def test_extras(told):
    "Those of settings.ini, `demo` and `dev`, each explained by the doctor; the extras that have a use have a case in tests/extra_cases.py."
    from brainrecon.jobs.doctor import remarks
    named = set(told.get_all('Provides-Extra')); assert named == set(EXTRAS) | {'demo'} == set(remarks) and set(cases) == named - {'docs', 'dev', 'demo'} | {'core'}
    core = [r for r in told.get_all('Requires-Dist') if 'extra ==' not in r]; assert len(core) == len(cfg['requirements'].split())

def imported()->tuple:
    "Which packages the library imports when a module opens, which later, and which it asks for with an extra."
    top, later, asked = set(), set(), set()
    for path in (ROOT/'brainrecon').rglob('*.py'):
        if path.name == '_modidx.py': continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            (later if node_in(node) else top).update(n.split('.')[0] for n in found)
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = ast.unparse(node.func)
                if name.endswith('import_module'): later.add(str(node.args[0].value).split('.')[0])
                if name == 'need': asked.add((node.args[0].value.split('.')[0], node.args[1].value))
    return top, later, asked

def node_in(node)->bool: return getattr(node, 'col_offset', 0) > 0     # inside a function or a `try`

def packages_of(reqs)->set:
    "Names of packages in requirement lines."
    return {re.split(r'[<>=!~\[; ]', r)[0].lower().replace('_', '-') for r in reqs}

def test_requirements_are_what_is_imported():
    "Each module opens with the requirements alone; none is there for nothing; and an extra that an error names brings what was missing."
    top, later, asked = imported(); core = packages_of(cfg['requirements'].split()); dists = importlib.metadata.packages_distributions()
    of = lambda module: {d.lower().replace('_', '-') for d in dists.get(module, [module])}
    outside = {m for m in top if m not in sys.stdlib_module_names and m != 'brainrecon'}
    assert not [m for m in outside if not of(m) & core]
    assert not core - set().union(*map(of, outside | later))
    for module, extra in asked:
        reqs = packages_of(EXTRAS[extra]); beneath = packages_of(r for q in reqs for r in (importlib.metadata.requires(q) if dists and extra not in ('prompt',) else []) or [] if 'extra ==' not in r)
        assert of(module) & (reqs | beneath | core), f'{module} does not come with {extra}'

def test_lower_bounds_are_met_here():
    "This environment satisfies all of them, and each requirement that is pinned or capped says so in settings.ini alone."
    from packaging.requirements import Requirement
    for r in map(Requirement, cfg['requirements'].split()): assert r.specifier.contains(importlib.metadata.version(r.name), prereleases=True), r


# installed

@pytest.fixture(scope='module')
def far(built, tmp_path_factory):
    "A fresh environment with the wheel, over this one's packages: its folder of commands, an empty folder far from the tree, and variables."
    at = tmp_path_factory.mktemp('far'); venv.create(at/'env', with_pip=False); commands = at/'env'/('Scripts' if os.name == 'nt' else 'bin'); python = commands/f'python{".exe" if os.name == "nt" else ""}'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index', built[1], cwd=at)
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip())
    (site/'below.pth').write_text('\n'.join(dict.fromkeys(sysconfig.get_path(p) for p in ('purelib', 'platlib'))) + '\n', encoding='utf-8'); (at/'empty').mkdir()
    return commands, python, site, dict(cwd=at/'empty', env=alone(BRAINRECON_RUNS=str(at/'runs'), BRAINRECON_DATA=str(at/'data')))

def test_the_library_is_the_wheels(far):
    "Also where the jobs lie; and importing it takes less than three seconds and no framework."
    commands, python, site, how = far; start = time.perf_counter()
    said = run(python, '-c', 'import brainrecon, sys; print(brainrecon.__file__, brainrecon.__version__, "torch" in sys.modules)', **how).split(); took = time.perf_counter() - start
    assert Path(said[0]).is_relative_to(site) and said[1:] == [cfg['version'], 'False'] and took < 3, (said, took)
    assert Path(run(python, '-c', 'from brainrecon.jobs.parameters import own_jobs; print(own_jobs())', **how).strip()) == site/'brainrecon'/'notebooks'
    assert run(python, '-c', 'import importlib.metadata as m; print(m.version("brainrecon"), m.distribution("brainrecon").locate_file(""))', **how).split() == [cfg['version'], str(site)]

def test_the_command_helps_without_torch(far):
    commands, python, site, how = far
    assert 'doctor' in run(commands/'brainrecon', '--help', **how) and cfg['version'] in run(commands/'brainrecon', '--version', **how)
    assert run(python, '-c', 'import sys; from brainrecon.jobs.cli import main\ntry: main(["--help"])\nexcept SystemExit: print("torch" in sys.modules, "pandas" in sys.modules)', **how).split()[-2:] == ['False', 'False']

def test_doctor_and_jobs(far):
    "The doctor reads the wheel's own record; all jobs are listed with their recipes; plans know what was measured."
    commands, python, site, how = far; text = run(commands/'brainrecon', 'doctor', **how)
    assert 'all that every page needs' in text and 'weights MindHier' in text and 'not installed, pip' not in text and 'used from a folder' not in text
    listed = run(commands/'brainrecon', 'jobs', **how); names = {f'{p.parent.name}/{p.stem}' for p in (ROOT/'nbs'/'08_jobs').glob('*/*.ipynb')}
    assert {l.split()[0] for l in listed.splitlines() if re.match(r'\w+/\d\d_', l)} == names and 'recipe demo:' in run(commands/'brainrecon', 'jobs', 'retrieval/01_decode', **how)
    assert 'kept, ' in run(commands/'brainrecon', 'sweep', 'paper-table', '--plan', **how)

def test_a_short_job_and_a_report(far):
    "A run folder with scores and a report, made by the wheel's notebook; nothing of this checkout is in its record; a kept result becomes a page."
    commands, python, site, how = far; run(commands/'brainrecon', 'run', 'check/03_short', 'value=2', '--out', 'short', **how); at = how['cwd']/'short'
    rows = json.loads((at/'scores.json').read_text(encoding='utf-8'))['rows']; assert rows[0]['value'] == 2 and (at/'report.html').stat().st_size > 1000
    about = json.loads((at/'params.json').read_text(encoding='utf-8')); assert about['versions']['brainrecon'] == cfg['version'] and str(ROOT) not in json.dumps(about) and not about.get('commit')
    run(commands/'brainrecon', 'report', site/'brainrecon'/'notebooks'/'results'/'mindhier-cpu.json', '--out', 'page', **how); assert list((how['cwd']/'page').rglob('*.html'))

def test_the_quick_part_of_the_demo(far):
    "One decoder of the demo on simulated fMRI, with the cache of the tests: the score of the README, far above chance."
    commands, python, site, how = far
    text = run(commands/'brainrecon', 'run', 'retrieval/01_decode', '--recipe', 'demo', "kinds=['fmri']", 'seeds=[0]', "decoders=['ridge']", 'controls=False', '--out', 'demo', **how)
    (row,) = [r for r in json.loads((how['cwd']/'demo'/'scores.json').read_text(encoding='utf-8'))['rows'] if r['measure'] == 'top1']
    assert row['low'] > .4 and row['candidates'] == 200 and row['simulated'] and 'chance 0.005  of 200' in text

def test_the_packaged_weights_draw(far):
    "Those of AVDE, MindHier and the Fusion Prior open from the wheel and are the ones of their cards; pictures and papers are read."
    commands, python, site, how = far
    code = ('from brainrecon.decoders.avde import packaged_avde; from brainrecon.decoders.mindhier import packaged_mindhier; from brainrecon.decoders.fusion_drawer import packaged_fusion\n'
        'from brainrecon.data.pictures import load_pictures; packaged_avde(); packaged_mindhier(); packaged_fusion(); print(len(load_pictures()), packaged_avde.__code__.co_filename)')
    n, where = run(python, '-c', code, **how).split()[-2:]; assert int(n) > 600 and Path(where).is_relative_to(site)
