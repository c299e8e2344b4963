"The two later tutorials, the page of limits and the map of parts: what they must hold, that their numbers are computed, and that no registered part is missing."
import ast, importlib, json, pkgutil, re
import pytest
from notebooks import NBS, ROOT, joined, read

SCORES, CLUSTER = NBS/'09_tutorials'/'07_reading_scores.ipynb', NBS/'09_tutorials'/'08_laptop_to_cluster.ipynb'
LIMITS, PARTS = NBS/'limits.ipynb', NBS/'parts.ipynb'
SYSTEMS = [NBS/'06_decoders'/'05_avde.ipynb', NBS/'06_decoders'/'06_hvf.ipynb', NBS/'05_priors'/'01_fusion_prior.ipynb', NBS/'06_decoders'/'09_mindhier.ipynb']


def prose(path): return '\n\n'.join(joined(c['source']) for c in read(path)['cells'] if c['cell_type'] == 'markdown')
def code(path): return [joined(c['source']) for c in read(path)['cells'] if c['cell_type'] == 'code']
def heads(path, level='##'): return re.findall(rf'(?m)^{level} (.+)$', prose(path))


def said(path):
    "All that a reader sees of kept outputs, as text."
    out = []
    for c in read(path)['cells']:
        if re.search(r'(?m)^#\|\s*hide\b', joined(c['source'])): continue
        for o in c.get('outputs', []): out += [joined(o.get('text', ''))] + [joined(v) for k, v in o.get('data', {}).items() if k.startswith('text/')]
    return '\n'.join(out)


def pictures(path): return [c for c in read(path)['cells'] if any(k.startswith('image/') for o in c.get('outputs', []) for k in o.get('data', {}))]


@pytest.mark.parametrize('path', [SCORES, CLUSTER, LIMITS, PARTS], ids=lambda p: p.stem)
def test_figures_have_words(path):
    "A caption for all, and a sentence for those who cannot see it."
    assert pictures(path)
    for c in pictures(path):
        src = joined(c['source']); cap, alt = (re.search(rf'(?m)^#\| fig-{w}: "(.+)"$', src) for w in ('cap', 'alt'))
        assert cap and alt and len(alt[1]) > 40 and alt[1] != cap[1], src[:80]


@pytest.mark.parametrize('path', [SCORES, CLUSTER, LIMITS, PARTS], ids=lambda p: p.stem)
def test_simulated_is_said(path):
    "By the page, and by the caption of each figure of scores."
    assert re.search(r'(?i)\bsimulated\b', prose(path)[:1500])
    bad = [joined(c['source'])[:80] for c in pictures(path) if not re.search(r'(?i)simulated|noise|without any skill|known truth|pure drift|same thirty', joined(c['source']))]
    assert not bad, bad


# Reading scores

def test_eleven_traps_each_shown_and_answered():
    "Each trap has a heading, a figure, an assertion on what it shows, and a paragraph on what the library does."
    traps = [h for h in heads(SCORES) if re.match(r'\d+\. ', h)]
    assert [int(h.split('.')[0]) for h in traps] == list(range(1, 12))
    cells, at = read(SCORES)['cells'], {}
    for c in cells:
        src = joined(c['source'])
        for h in re.findall(r'(?m)^## (\d+)\. ', src) if c['cell_type'] == 'markdown' else []: now = int(h); at[now] = dict(figures=0, checks=0, answer=False)
        if not at: continue
        here = at[now]; here['figures'] += c in pictures(SCORES); here['checks'] += c['cell_type'] == 'code' and ('assert ' in src or 'expect(' in src); here['answer'] |= '**What the library does.**' in src.split('\n## ')[0]
    for n in range(1, 11): assert at[n]['figures'] >= 1 and at[n]['checks'] >= 1 and (at[n]['answer'] or f'## {n + 1}.' in prose(SCORES)), (n, at[n])
    assert prose(SCORES).count('**What the library does.**') == 10 and at[11]['figures'] == 1


def test_the_checklist_asks_for_every_trap():
    rows = re.findall(r'(?m)^\| (\d+) \| (.+?) \| (.+?) \|$', prose(SCORES).split('## The checklist')[1])
    assert [int(n) for n, _, _ in rows] == list(range(1, 12)) and all(q.rstrip().endswith('?') for _, q, _ in rows)


def test_numbers_of_the_tutorial_are_computed():
    "Its sentence, and its checklist, say what the cells gave."
    text, words = said(SCORES), prose(SCORES)
    whole = re.search(r'top-1 (0\.\d+) of 200 candidates, chance 0\.005, n 200; of five candidates it would be (0\.\d+)', text)
    assert whole and round(10*float(whole[2])) == 8 and round(10*float(whole[1])) == 2, 'eight of ten among five, two of ten among two hundred'
    kept = json.loads((NBS/'08_jobs'/'results'/'demo-cpu.json').read_text(encoding='utf-8'))['scores']['rows']
    line = next(r for r in kept if r['method'] == 'ridge' and r['measure'] == 'top1' and not r['control'] and 'EEG' in r['what'])
    assert f"top-1 {line['value']:.3f} of {line['candidates']}, chance {line['chance']:.3f}" in words
    assert not re.search(r'(?m)^\s*(ways|counted|got|named)\s*=\s*\{[^}]*:\s*0\.\d', '\n'.join(code(SCORES))), 'a score was typed in'


def test_the_report_that_is_read_is_a_kept_one():
    assert any("jobs_folder()/'results'/'demo-cpu.json'" in c for c in code(SCORES))


# From laptop to cluster

def test_every_way_is_typed():
    "Commands that are really run, from the first to the report, and their words in the outputs."
    text = said(CLUSTER)
    for words in ('brainrecon run', '--plan', '--parallel 2 --offline', 'brainrecon need', '--processes 2', '--slurm', '--local', 'brainrecon runs list', 'brainrecon report'):
        assert any(line.startswith('$ brainrecon') and all(w in line for w in words.removeprefix('brainrecon ').split()) for line in text.splitlines()), words
    assert "Did you mean 'seed'" in text and 'attempt 2: goes on' in text and '0 differ' in text and '#SBATCH --array=0-2' in text and '1 of 1 ended well' in text and '2 processes train together' in text


def test_outputs_are_the_same_at_each_run():
    "Neither times, nor sizes of runs, nor marks, nor folders."
    for c in read(CLUSTER)['cells']:
        if 'times=False' in joined(c['source']): continue     # sizes that the registry knows
        for o in c.get('outputs', []):
            text = joined(o.get('text', ''))
            assert not re.search(r'\b\d+(\.\d+)? (s|min)\b|-[0-9a-f]{8}\b|20\d\d-\d\d-\d\d|trials/s', text), text[:300]


def test_the_killed_run_is_compared_with_the_other():
    src = '\n'.join(code(CLUSTER)); assert 'differences_of(laptop, runs/\'killed\')' in src and 'assert not odd' in src
    scores = dict(re.findall(r'(?m)^(killed|mine-01_reader-MARK) .*top1 (0\.\d+)', said(CLUSTER))); assert len(set(scores.values())) == 1 and len(scores) == 2


def test_the_job_of_the_page_is_a_job():
    "Its cells parse, one of them holds parameters with comments, and it defines no function."
    cells = ast.literal_eval(re.search(r'(?s)^cells = (\[.*\])$', next(c for c in code(CLUSTER) if c.startswith('cells = ')))[1])
    for c in cells: assert not any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(ast.parse(c)))
    assert all('  # ' in line for line in cells[0].splitlines()) and 'run.scores(' in cells[-1] and 'open_test(' in cells[-1]


# Limits and ethics

def test_the_page_of_limits_has_its_sections():
    want = ['What cannot be decoded', 'How far it goes, measured', 'Consent', 'Who is in the data', 'Mental privacy', 'Licences of data sets', 'What this library does about it', 'To report a misuse or a mistake']
    assert [h for h in heads(LIMITS) if h in want] == want and 'Laws and guidelines' in heads(LIMITS, '###') and 'What a drawing owes to its generator' in heads(LIMITS, '###')
    text = prose(LIMITS)
    for words in ('imagined and remembered', 'does not take part', 'without calibration', 'fine detail', 'Consent for one is not consent for another', 'UNESCO', 'Law 21.383', '24-1058', 'Nothing is uploaded', 'Temporary files are private', 'Agreements are not bypassed', 'Simulated is said everywhere'): assert words in text, words


def test_laws_have_a_source():
    "Each law or guideline that is named links to a document."
    laws = prose(LIMITS).split('### Laws and guidelines')[1].split('\n## ')[0]
    for line in re.findall(r'(?m)^- \*\*(?:UNESCO|Chile|Colorado).*$', laws): assert re.search(r'\]\(https://', line), line
    assert len(re.findall(r'(?m)^- ', laws)) == 4


def test_tables_of_limits_are_the_registries():
    "Every data set with its people, every licence with the page to sign."
    from brainrecon.data.assets import table
    from brainrecon.data.datasets import data_sets
    text = said(LIMITS)
    for d in data_sets.values(): assert re.search(rf'\| {re.escape(d.title)} \| \w+ \| {d.subjects} \|', text), d.title
    people = sum(d.subjects for d in data_sets.values()); assert f'**{people}**' in text and f'**{people} people are no population.**' in prose(LIMITS)
    for a in table():
        if a.kind == 'data': assert f"| {a.title} | {a.licence or 'not stated by its source'} |" in text and (not a.agreement or f'[sign]({a.agreement})' in text), a.title


def test_limits_are_measured():
    "More noise, fewer things and another person: less, each by what the page printed."
    text = said(LIMITS); found = {k: [float(v) for v in re.findall(r': ([\d.]+) %', re.search(rf'(?m)^{k} .*$', text)[0])] for k in ('noise', 'things', 'whose EEG')}
    assert found['noise'] == sorted(found['noise']) and found['things'] == sorted(found['things']) and found['whose EEG'][0] > 3*max(found['whose EEG'][1:])


# How parts combine

@pytest.fixture(scope='module')
def registries():
    import brainrecon.decoders
    for m in pkgutil.iter_modules(brainrecon.decoders.__path__): importlib.import_module(f'brainrecon.decoders.{m.name}')
    from brainrecon.decoders.drawing import drawers
    from brainrecon.decoders.retrieval import decoders
    from brainrecon.encoders.door import eeg_encoders
    from brainrecon.encoders.frozen import frozen_sets
    ours = lambda kinds: {k: c for k, c in kinds.items() if c.__module__.startswith('brainrecon.')}     # other tests enter kinds of their own
    return dict(eeg_encoders=eeg_encoders, decoders=ours(decoders), drawers=ours(drawers), targets={f'{e}:{layer}': n for n, (e, layer, _) in frozen_sets.items()})


def test_the_map_names_every_part(registries):
    text = said(PARTS)
    for kind, names in registries.items():
        missing = [n for n in names if f'`{n}`' not in text]
        assert not missing, f'{kind}: {missing}. Run nbs/parts.ipynb again.'


def row(name): return re.search(rf'(?m)^\| `{name}` \|.*$', said(PARTS))[0]


def test_the_map_says_what_cannot_be(registries):
    "fMRI for those alone that read one list of numbers; the library says so, too."
    from brainrecon.core.checks import ReconError
    from brainrecon.decoders.avde_stages import encoder_plan
    for name in registries['eeg_encoders']:
        try: encoder_plan(name, 'fmri', None, {}); can = True
        except ReconError: can = False
        assert ('cannot: fMRI' not in row(name)) == can, name
    assert '`hvf`: it points into a space of its own' in row('embedding') and '`hvf` (**run**' in row('fusion') and '`hierarchy` (**run**: fMRI)' in row('mindhier')


def test_what_is_called_run_is_in_kept_results():
    "A cell says *run* only where a kept row was measured here."
    kept = [r for p in sorted((NBS/'08_jobs'/'results').glob('*.json')) for r in json.loads(p.read_text(encoding='utf-8'))['scores']['rows'] if r.get('status') == 'measured here' and not r.get('control')]
    drew = lambda method, kind: any(r.get('method') == method and r.get('data') == f'embedded {kind}' and r['measure'] == 'pixcorr' for r in kept)
    from brainrecon.jobs.avde import generators, method_name
    from brainrecon.encoders.door import eeg_encoders
    for name in eeg_encoders:
        for cell, g in zip(row(name).split(' | ')[1:], generators):
            run = re.search(r'\*\*run\*\*: ([\w, ]+)', cell); says = set(run[1].split(', ')) if run else set()
            assert says == {w for k, w in dict(eeg='EEG', meg='MEG', fmri='fMRI').items() if drew(method_name(name, g), k)}, (name, g)


# The three systems

@pytest.mark.parametrize('path', SYSTEMS, ids=lambda p: p.stem)
def test_systems_have_one_form(path):
    "A diagram, the box of their state, and equations, each above the cell that computes it."
    cells, text = read(path)['cells'], prose(path)
    at = next(i for i, c in enumerate(cells) if '```{mermaid}' in joined(c['source'])); box = joined(cells[at + 1]['source'])
    assert box.startswith('::: {.callout-note title="Its state"}') and re.findall(r'(?m)^- \*\*(.+?)\*\*', box) == ['Reads official weights', 'Trains', 'Reproduced']
    assert '*simulated*' in box and '*not run*' in box and 'results.ipynb#' in box and 'brainrecon run ' in box and 'No published file could be fetched here' in box
    start = next(i for i, c in enumerate(cells) if joined(c['source']).startswith('## In equations')); end = next(i for i, c in enumerate(cells) if joined(c['source']).startswith('## What is next'))
    maths = [i for i in range(start, end) if cells[i]['cell_type'] == 'markdown']; assert len(maths) == 2 and all('$$' in joined(cells[i]['source']) for i in maths)
    for i in maths:
        beside = next(joined(c['source']) for c in cells[i + 1:] if c['cell_type'] == 'code' and not joined(c['source']).startswith('#| hide'))
        assert re.search(r'assert |test_close\(', beside), beside[:80]


@pytest.mark.parametrize('path', SYSTEMS, ids=lambda p: p.stem)
def test_recipes_in_the_box_exist(path):
    box = next(joined(c['source']) for c in read(path)['cells'] if 'title="Its state"' in joined(c['source'])); found = re.findall(r'brainrecon run (\S+) --recipe (\S+?)`', box)
    assert found
    for job, recipe in found: assert (NBS/'08_jobs'/f'{job}.ipynb').exists() and (NBS/'08_jobs'/'recipes'/f'{recipe}.yml').exists(), (job, recipe)


def test_the_sidebar_leads_to_pages_of_their_own():
    text = (ROOT/'_quarto.yml').read_text(encoding='utf-8')
    assert text.index('href: many.ipynb') < text.index('href: parts.ipynb') < text.index('href: names.ipynb') < text.index('href: limits.ipynb') < text.rindex('href: glossary.ipynb')
