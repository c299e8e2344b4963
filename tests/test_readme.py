"The README is the landing page, its links lead somewhere, and its test command is the one that CI runs."
import importlib.util, json, re
from notebooks import ROOT

TEXT = (ROOT/'README.md').read_text(encoding='utf-8')


def test_readme_is_the_landing_page(capsys):
    "What nbs/index.ipynb gives, to the byte, with its pictures."
    spec = importlib.util.spec_from_file_location('readme', ROOT/'.ci'/'readme.py')
    readme = importlib.util.module_from_spec(spec); spec.loader.exec_module(readme)
    assert readme.main(['--check']) == 0, capsys.readouterr().out


def test_links_lead_somewhere():
    "Every relative link and picture is a file of this repository."
    links = [l for l in re.findall(r'\]\(([^)\s]+)\)', TEXT) if not re.match(r'[a-z]+:|#', l)]
    gone = [l for l in links if not (ROOT/l.split('#')[0]).exists()]
    assert not gone, gone


def test_pictures_have_a_text():
    "A reader who cannot see a picture is told what it shows."
    assert not re.search(r'!\[\s*(figure)?\s*\]\(', TEXT)


def test_two_commands():
    "One line each, both set up for themselves, and CI ends in the second."
    lines = [l for block in re.findall(r'```bash\n(.*?)```', TEXT, re.S) for l in block.strip().splitlines() if 'venv' in l]
    assert len(lines) == 2 and all(l.startswith('python3 -m venv .venv && ') for l in lines), lines
    assert lines[0].endswith('.venv/bin/brainrecon demo') and lines[1].endswith('.venv/bin/python -m pytest -q tests')
    assert '.venv/bin/python -m pytest -q tests' in (ROOT/'.ci'/'run').read_text()


def test_the_table_of_the_demo_is_the_kept_run():
    "Each number beside `brainrecon demo` is one of the run whose JSON is kept."
    rows = json.loads((ROOT/'nbs'/'08_jobs'/'results'/'demo-side-by-side-cpu.json').read_text(encoding='utf-8'))['scores']['rows']; found = {}
    for kind, system, control, *cells in re.findall(r'(?m)^\| (EEG|fMRI), (\w+)(, control)? \| (.+?) \| (.+?) \| (.+?) \|$', TEXT):
        for measure, cell in zip(('top1', 'pixcorr', 'lite2 two-way'), cells):
            mine = [f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rows if r['method'] == system and f'simulated {kind}' in r['what'] and r['control'] == bool(control) and r['measure'] == measure]
            assert cell == (mine[0] if mine else '-') and len(mine) <= 1, (kind, system, control, measure); found[kind, system, measure] = bool(mine)
    assert len(found) == 15 and sum(found.values()) >= 14
