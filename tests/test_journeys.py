"Journeys: the lines that they take stand on their pages, a place knows nothing of this environment, and what goes wrong is told. They are gone in tests/test_demo.py, and all of them by `brainrecon run check/04_journeys`."
import os, re, sys
from pathlib import Path
import pytest
from brainrecon.core.checks import FolderError, ParameterError
from brainrecon.core.files import load_json
from brainrecon.jobs.journeys import JourneyFailed, blocks, check_journeys, contributing, clone_line, demo_limit, empty_place, execute_page, journey_rows, journeys, line_of, making, parts_of, readme, step, travel
from brainrecon.jobs.parameters import find_job
from brainrecon.jobs.report import check_scores
from brainrecon.jobs.run import RunFailed, run_job
from checkout import commit_all
from notebooks import NBS, ROOT

HERE = NBS/'08_jobs'
unix = pytest.mark.skipif(os.name == 'nt', reason='README has other lines for Windows')


# The pages

@pytest.mark.parametrize('page, lines', [('README.md', {'clone': clone_line, 'activate': '. .venv/bin/activate', **readme}), ('CONTRIBUTING.md', contributing)])
def test_every_line_stands_on_its_page(page, lines):
    found = blocks((ROOT/page).read_text(encoding='utf-8'))
    for line in lines.values(): assert line_of(found, line, page).startswith(line)

def test_every_journey_is_known_to_the_job():
    "And each line of the README's tables of lines is taken by one."
    (comment,) = re.findall(r'journeys += \[\] +# some of (.*?);', find_job('check/04_journeys', HERE).path.read_text(encoding='utf-8')); assert comment.split(', ') == list(journeys)
    text = (ROOT/'brainrecon'/'jobs'/'journeys.py').read_text(encoding='utf-8'); assert all(f"readme['{k}']" in text for k in readme) and all(f"contributing['{k}']" in text for k in contributing)

def test_blocks():
    "Fences of any language, words within a line, headings; code in fences is no heading and holds no words."
    page = '# A `b` c\n\ntext `one` and `two`\n\n```bash\n# no heading\nx `y`   # remark\n```\n## D\n```python\n```\n```\nplain\n```\nlast `three`\n'
    assert [(b.kind, b.heading, b.text) for b in blocks(page)] == [('inline', 'A `b` c', 'one'), ('inline', 'A `b` c', 'two'), ('bash', 'A `b` c', '# no heading\nx `y`   # remark'), ('python', 'D', ''), ('', 'D', 'plain'), ('inline', 'D', 'three')]
    assert line_of(blocks(page), 'x `y`') == 'x `y`   # remark' and line_of(blocks(page), 'three') == 'three'
    for wrong in ('x', 'plain', 'x `y`  ', ''):
        with pytest.raises(JourneyFailed, match='no line'): line_of(blocks(page), wrong)


# What can go wrong

PAGE = '# toy\n\n```bash\ngit clone https://example.org/toy/toy && cd toy\necho good morning\nfalse\n```\n'
TOY = 'git clone https://example.org/toy/toy && cd toy'

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    at = tmp_path_factory.mktemp('a toy'); (at/'source').mkdir(); (at/'source'/'README.md').write_text(PAGE); commit_all(at/'source'); return at     # a space in the path

@unix
def test_a_place_knows_nothing_of_this_environment(toy, monkeypatch):
    "Variables, home, caches and commands are its own; the settings of pip and of threads are kept, the line that clones is the page's."
    for k in ('BRAINRECON_RUNS', 'PYTHONPATH', 'XDG_CACHE_HOME', 'MPLBACKEND', 'JUPYTER_PATH', 'HF_HOME', 'VIRTUAL_ENV', 'BRAINRECON_OFFLINE'): monkeypatch.setenv(k, 'mine')
    monkeypatch.setenv('PIP_TIMEOUT', '7'); monkeypatch.delenv('BRAINRECON_OFFLINE'); monkeypatch.setenv('OMP_NUM_THREADS', '1'); monkeypatch.setenv('PATH', os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]))
    there = empty_place(toy/'source', toy/'place', clone=TOY); s = step(there, 'look', 'env; which brainrecon; python3 -c "import sys; print(sys.prefix)"'); said = dict(l.partition('=')[::2] for l in s.lines())
    assert 'mine' not in said.values() and said['PIP_TIMEOUT'] == '7' and said['OMP_NUM_THREADS'] == '1'
    for k in ('HOME', 'TMPDIR', 'BRAINRECON_CACHE', 'BRAINRECON_DATA'): assert Path(said[k]).is_relative_to(there.at), k
    assert not any(l.endswith('/brainrecon') and str(Path(sys.executable).parent) in l for l in s.lines()) and there.tree.name == 'toy' and len(there.commit) >= 7 and there.version.startswith('Python 3')
    assert (there.at/'said'/'01-clone.txt').exists() and there.seconds > 0

@unix
def test_steps_are_kept(toy):
    "A chain's commands and their seconds, what was printed, the status; a line that fails or never ends."
    there = empty_place(toy/'source', toy/'place', clone=TOY); s = step(there, 'chain', 'sleep .3 && echo one && sleep .2 && echo two >&2')
    assert [c.strip() for c, _ in s.parts] == ['sleep .3', 'echo one', 'sleep .2', 'echo two 1>&2'] and s.lines() == ['one'] and s.tail == 'one | two' and .25 < s.parts[0][1] < 5 and abs(sum(t for _, t in s.parts) - s.seconds) < 2 and not s.installing()
    assert step(there, 'bad', 'echo begins && exit 3 && echo never').status == 3; late = step(there, 'late', 'sleep 100', limit=.3); assert late.status == 124 and late.seconds < 30
    (toy/'noted').write_text('1700000000,500000 a b\n1700000002,000000 c\n'); assert parts_of(toy/'noted', 1700000005.) == [('a b', 1.5), ('c', 3.)] and parts_of(toy/'none', 1.) == []
    assert all(making.search(c) for c in ('python3 -m venv .venv', '.venv/bin/pip install -q -e ".[demo]"', 'pip install jupyterlab')) and not any(making.search(c) for c in ('.venv/bin/brainrecon demo', 'brainrecon doctor', '. .venv/bin/activate'))

@unix
def test_a_journey_that_fails_is_told_and_is_an_error(toy):
    "The next one sets out all the same."
    def hello(j): return j.go('echo good morning').lines()[0]
    def broken(j): j.go('false')
    def gone(j): j.go('echo good evening')
    def empty(j): j.go('echo good morning'); j.must(False, 'the report is empty;', 'rows were expected.')
    there = empty_place(toy/'source', toy/'place', clone=TOY); told = [travel(n, there, log=lambda t: None, table=dict(hello=hello, broken=broken, gone=gone, empty=empty)) for n in ('broken', 'gone', 'empty', 'hello')]
    s = check_scores(dict(title='t', rows=journey_rows(told))); rows = {r['what']: r for r in s['rows']}; assert [rows[n]['value'] for n in ('broken', 'gone', 'empty', 'hello')] == [0, 0, 0, 1] and rows['hello']['note'] == 'good morning'
    assert rows['broken: false']['note'].startswith('exit status 1') and 'no line' in rows['gone']['note'] and 'the report is empty' in rows['empty: echo good morning']['note'] and rows['hello']['setting'] == 'packages from the index'
    with pytest.raises(JourneyFailed, match='3 of 4 journeys ended badly: broken: '): check_journeys(told)
    check_journeys(told[-1:])

@unix
def test_the_job_tells_what_failed(tmp_path):
    "A checkout whose page lacks what is tried: rows, figure and report are there, nothing else is left, and the job is no success."
    (tmp_path/'source').mkdir(); (tmp_path/'source'/'README.md').write_text(PAGE.replace(TOY, clone_line)); commit_all(tmp_path/'source')
    with pytest.raises(RunFailed, match='2 of 2 journeys ended badly: demo: README.md has no line'): run_job('check/04_journeys', out=tmp_path/'run', show=False, journeys=['demo', 'tests'], source=str(tmp_path/'source'))
    rows = load_json(tmp_path/'run'/'scores.json')['rows']; assert [(r['what'], r['measure'], r['value'], r['setting']) for r in rows] == [(n, 'as the page says', 0, 'packages from the index') for n in ('demo', 'tests')] and all('no line' in r['note'] for r in rows)
    assert (tmp_path/'run'/'figures'/'journeys.png').exists() and not (tmp_path/'run'/'place').exists() and load_json(tmp_path/'run'/'status.json')['state'] == 'failed'

@unix
def test_a_place_refuses(toy, monkeypatch):
    "No checkout, an address that is not there, a page whose line is another, a Python that is not there, no network."
    for source in (toy, toy/'nothing'):
        with pytest.raises(FolderError, match='no git checkout'): empty_place(source, toy/'refused', clone=TOY)
    with pytest.raises(JourneyFailed, match='ended with 128'): empty_place(f'file://{toy}/nothing', toy/'refused', clone=TOY)
    with pytest.raises(JourneyFailed, match='no line'): empty_place(toy/'source', toy/'refused', clone='git clone https://example.org/toy && cd toy')
    with pytest.raises(ParameterError, match='python3.2'): empty_place(toy/'source', toy/'refused', python='python3.2', clone=TOY)
    monkeypatch.setenv('BRAINRECON_OFFLINE', '1')
    with pytest.raises(ParameterError, match='offline'): empty_place(toy/'source', toy/'refused', clone=TOY)
    monkeypatch.setenv('PATH', str(toy))
    with pytest.raises(JourneyFailed, match='no bash'): empty_place(toy/'source', toy/'refused', fresh=False, clone=TOY)

def test_a_page_is_executed(tmp_path):
    "In its own folder; what it shows is told, and an error of a page is one here."
    nbformat = pytest.importorskip('nbformat'); v = nbformat.v4; page = lambda *cells: nbformat.write(v.new_notebook(cells=list(map(v.new_code_cell, cells))), tmp_path/'page.ipynb')
    (tmp_path/'beside.txt').write_text('5'); page('from IPython.display import HTML', 'n = int(open("beside.txt").read())', 'HTML("<b>five</b>")'); assert execute_page(tmp_path/'page.ipynb', tmp_path/'done.ipynb') == ['text/plain', 'text/html']
    assert '<b>five</b>' in (tmp_path/'done.ipynb').read_text(); page('1/0')
    with pytest.raises(Exception, match='ZeroDivisionError'): execute_page(tmp_path/'page.ipynb', tmp_path/'done.ipynb')


# What was measured

def test_the_kept_journeys_ended_well():
    "All of them, and after installation README's first command took less than the five minutes that it may take."
    rows = load_json(HERE/'results'/'journeys-cpu.json')['scores']['rows']; assert [r['what'] for r in rows if r['measure'] == 'as the page says' and r['value'] == 1] == list(journeys)
    lines = [r for r in rows if r['measure'] == 'seconds' and r['what'].startswith('demo: ')]; assert lines and readme['demo'].rpartition('&& ')[2] in lines[-1]['what'] and sum(r['value'] for r in lines) < demo_limit
