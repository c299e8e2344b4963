"Papers' numbers: every printed one is in its document, every one of its tables is in the file, and nothing is offered for comparison that does not compare."
import json, os, re
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from brainrecon.core.checks import ReconError, UnknownError, ValuesError
from brainrecon.jobs.report import check_row, row_keys
from brainrecon.metrics.papers import beside, check_reported, needed, paper_file, paper_table, paper_tables, papers, printed_value, read_papers, reported, units

shared = Path(os.environ.get('BRAINRECON_SHARED') or Path(__file__).resolve().parents[2]/'shared')/'papers'
needs_documents = pytest.mark.skipif(not shared.is_dir(), reason=f'the documents are not at {shared} (set BRAINRECON_SHARED)')
book = read_papers()
TABLED = {'avde': '000', 'hvf': '001', 'mindhier': '003'}

def document(number):
    "The text of one of the documents."
    found = sorted(shared.glob(f'{number}_*.txt'))
    assert len(found) == 1, f'{len(found)} documents start with {number}'
    return found[0].read_text(encoding='utf-8')

def printed_tables(text):
    "Every table of a document: (line before it, heads, rows), cells as texts."
    out, lines = [], text.splitlines()
    for i, line in enumerate(lines):
        if not line.startswith('|'): continue
        cells = [c.strip() for c in line.strip().strip('|').split('|')]
        nxt = lines[i + 1] if i + 1 < len(lines) else ''
        if re.fullmatch(r'\|(-+\|)+', nxt): out.append(([k for k in lines[:i] if not k.startswith('|')][-1], cells, []))
        elif not re.fullmatch(r'\|(-+\|)+', line): out[-1][2].append(cells)
    return out


# ---- against the documents

@needs_documents
@pytest.mark.parametrize('paper', TABLED)
def test_tables_are_those_of_the_document(paper):
    "The same tables in the same order, and in each the same rows, columns and cells, character for character."
    there = printed_tables(document(TABLED[paper]))
    mine = [t for p, t in book['tables'] if p == paper and t != 'text']
    assert len(there) == len(mine) >= 3
    for name, (_, heads, rows) in zip(mine, there):
        t = paper_table(paper, name)
        assert t.index.name == heads[0] and list(t.index) == [r[0] for r in rows], name
        words = [h for h in heads[1:] if h not in t.columns]
        assert words in ([], ['Conclusion']) and [h for h in heads[1:] if h in t.columns] == list(t.columns), name
        for r in rows:
            cells = dict(zip(heads[1:], r[1:]))
            assert {h: re.sub('^–$', '-', cells[h]) for h in t.columns} == dict(t.loc[r[0]]), (name, r[0])
            for w in words: assert not re.search(r'\d', cells[w]), f'a number stands in {cells[w]!r}'

@needs_documents
@pytest.mark.parametrize('paper', TABLED)
def test_every_number_of_the_tables_is_in_the_file(paper):
    "Counted, not looked up: no cell is lost and none is there twice."
    cells = [c for _, _, rows in printed_tables(document(TABLED[paper])) for r in rows for c in r[1:]]
    there = sorted(n for c in cells if re.match(r'\d', c) for n in c.split('/'))
    mine = sorted(r['printed'] for r in book['rows'] if r['paper'] == paper and r['table'] != 'text')
    assert there == mine and len(mine) == dict(avde=66, hvf=72, mindhier=57)[paper]

@needs_documents
@pytest.mark.parametrize('paper', TABLED)
def test_headings_are_those_of_the_document(paper):
    "Names and captions of tables are the document's."
    text = document(TABLED[paper])
    for (p, t), d in book['tables'].items():
        if p != paper or t == 'text': continue
        for part in (*t.split(': '), d['caption']): assert part in text, f'{part!r} is not in document {TABLED[paper]}'

SPOKEN = {   # sentences outside tables that hold a number of a metric, and those numbers
    'avde': {'With only 10% of the parameters': ['10%'], '90% parameter reduction, 3.4x faster inference, and 2.7x memory savings': ['90%', '3.4x', '2.7x'], 'Diffusion models often exceed 3 billion parameters': ['3 billion']},
    'hvf': {'H14+B32+VAE achieved the highest PixCorr (0.195), while pure H14+VAE performed worst (0.173)': ['0.195', '0.173'],
        'increased performance from 52.2 to 56.9, but adding VAE (B32+VAE) resulted in a leap to 73.6': ['52.2', '56.9', '73.6'], '(Top-1 only 5.4%)': ['5.4'], '(EEG in-subject 50.9→75.7)': ['50.9', '75.7'],
        'approximately 15 hours on 2 GPUs per config': ['15']},
    'mindhier': {'being 4.67× faster': ['4.67×'], 'an inference time of 2.64s—4.67× faster than MindEye2 (12.14s)': ['2.64', '4.67×', '12.14'], 'drops CLIP by 1.1%': ['1.1%'], 'improves CLIP from 95.1% to 97.2%': ['95.1%', '97.2%']}}
IDLE = {     # numbers outside tables that are no scores: years, sizes, settings, names
    'avde': r'2000\+|CFG=4\.0|\\lambda=0\.8|top-k=900', 'hvf': r'ViT-B/32|0\.07', 'mindhier': r'2024|1977'}

@needs_documents
@pytest.mark.parametrize('paper', TABLED)
def test_numbers_in_sentences(paper):
    "Outside the tables every decimal, percentage and factor is either in the file or known to be no score."
    text = document(TABLED[paper]); mine = {r['printed'] for r in book['rows'] if r['paper'] == paper}
    for sentence, numbers in SPOKEN[paper].items():
        assert sentence in text, sentence
        assert not set(numbers) - mine, (sentence, numbers)
    prose = '\n'.join(k for k in text.splitlines() if not k.startswith('|'))
    for sentence in SPOKEN[paper]: prose = prose.replace(sentence, '')
    prose = re.sub(r'openreview\S+|\\\(.*?\\\)', '', prose)
    left = [n for n in re.findall(r'\d+\.\d+|\d+\s*%|\d+\s*[x×](?![\w\d])', re.sub(IDLE[paper], '', prose))]
    assert not left, f'numbers that nobody looked at: {left}'

@needs_documents
def test_sentences_of_the_file_are_in_the_document():
    for r in book['rows']:
        s = book['sources'][r['paper']]
        if s.get('document') and r['table'] == 'text': assert r['row'] in document(s['document']) and r['printed'] in r['row'], r['row']

@needs_documents
def test_facts_of_the_sources_are_in_the_documents():
    "Title, venue, link and claim stand in the document; a code address does where the document has one."
    for p, s in book['sources'].items():
        if not s.get('document'): continue
        text = document(s['document'])
        for k in ('title', 'venue', 'link', 'claim'): assert s.get(k, '') in text, (p, k)
        code = re.search(r'(?m)^Code: (http\S+)', text)
        if code: assert s['code'] == code[1]

@needs_documents
def test_abstracts_hold_no_score():
    "No table, no decimal, no percentage: the file claims nothing for them."
    text = document('002'); silent = [p for p, s in book['sources'].items() if s.get('document') == '002']
    assert len(silent) == len(re.findall(r'(?m)^Abstract:', text)) == 9
    assert '|' not in text and not re.search(r'\d\.\d|\d\s*%|\d\s*[x×]\b', text)
    assert not [r for r in book['rows'] if r['paper'] in silent] and all(book['sources'][p]['claim'] for p in silent)

@needs_documents
@pytest.mark.parametrize('folder', ['specs'])
def test_numbers_not_of_the_documents_are_those_handed_on(folder):
    "What is second hand equals what was handed on."
    text = '\n'.join(p.read_text(encoding='utf-8') for p in sorted((shared.parent/folder).glob('*.md')))
    for r in book['rows']:
        if book['sources'][r['paper']].get('document'): continue
        bare = r['printed'].rstrip('%')
        assert bare in text or f'{bare}.0' in text, (r['paper'], r['printed'])


# ---- the file itself

def test_file_is_readable_and_in_order():
    "One entry a line; rows in the order of their tables; the text is what writing it again would give."
    text = paper_file.read_text(encoding='utf-8'); raw = json.loads(text)
    lines = [k for k in text.splitlines() if k.startswith(' {')]
    assert len(lines) == sum(len(raw[k]) for k in ('measures', 'sources', 'tables', 'rows')) and raw['format'] == 1
    assert [json.dumps(json.loads(k.strip().rstrip(',')), ensure_ascii=False) for k in lines] == [k.strip().removesuffix(',') for k in lines]
    order = [(t['paper'], t['table']) for t in raw['tables']]; places = [order.index((r['paper'], r['table'])) for r in raw['rows']]
    assert places == sorted(places) and set(places) == set(range(len(order)))
    assert list(dict.fromkeys(p for p, _ in order)) == [s['paper'] for s in raw['sources'] if any(t['paper'] == s['paper'] for t in raw['tables'])]

def test_packaged_with_the_library():
    "setup.py takes everything below assets."
    import brainrecon
    assert paper_file == Path(brainrecon.__file__).parent/'assets'/'papers.json' and 'assets/**/*' in (Path(__file__).parents[1]/'setup.py').read_text()

def test_known_values():
    "A few numbers, named one by one."
    one = lambda **k: [r['value'] for r in reported(**k)]
    assert one(measure='top1', data='things-eeg2', setting='within', method='AVDE') == [.3] and one(measure='top5', data='things-meg', setting='across', method='HVF') == [.152]
    assert one(measure='swav', data='nsd', method='MindHier', setting='mean of subjects 1, 2, 5, 7') == [.329, .345] and one(measure='parameters', method='AVDE') == [425.3]
    assert one(measure='effnet', paper='MindEye2 (its notebook)') == [.607] and one(measure='accuracy', method='RGNN') == [.405, .47, .706]
    assert one(measure='top1', data='things-eeg2', setting='within', method='NICE') == [.242, .161]

def test_claims_that_do_not_follow_from_their_table_say_so():
    "4.67 is stated, 12.14/2.64 is 4.60; a tenth is stated, the table gives 0.111."
    times = {r['method']: r['value'] for r in reported('seconds')}; faster = reported('times faster', paper='mindhier')[0]
    assert round(times['MindEye2']/times['MindHier'], 2) == 4.6 and faster['value'] == 4.67 and '4.60' in faster['note']
    size = {r['method']: r['value'] for r in reported('parameters', paper='avde')}; share = reported('parameter share')[0]
    assert round(size['AVDE']/size['ATM'], 3) == .111 and '0.111' in share['note']
    assert round(310.4/91.2, 1) == reported('times faster', paper='avde')[0]['value'] and round(4826.7/1809.6, 1) == reported('times less memory')[0]['value']

def test_full_methods_stand_once_a_table():
    "In ablations only the whole method is the paper's own."
    for (p, t), d in book['tables'].items():
        if d['what'] != 'ablation' or t == 'text': continue
        own = {r['row'] for r in book['rows'] if (r['paper'], r['table']) == (p, t) and r['own']}
        assert len(own) == 1, (p, t, own)


# ---- rows for reports

def test_reported_rows_are_rows_of_a_report():
    "Each passes the report's own check, names its source and its chance."
    rows = reported()
    assert len(rows) == len(book['rows']) == 238
    for r in rows:
        assert set(r) <= set(row_keys); check_row(r)
        assert r['status'] == 'reported by the paper' and r['simulated'] is False and ', ' in r['source'] and r['note'].startswith('printed ')
        if r['measure'].startswith('top'): assert r['chance'] == int(r['measure'][3:])/r['candidates'] and r['candidates'] == 200
        if r['measure'] in ('alexnet2', 'alexnet5', 'inception', 'clip'): assert r['chance'] == .5 < r['value']
        if r['measure'] in ('pixcorr', 'swav', 'parameters'): assert r['chance'] is None

def test_rows_cannot_be_changed_for_others():
    reported('top1')[0]['flags'].append('mine'); reported('top1')[0]['value'] = 1
    assert 'mine' not in reported('top1')[0]['flags'] and reported('top1')[0]['value'] < 1

@pytest.mark.parametrize('key,bad', [('measure', 'top-1'), ('data', 'THINGS'), ('setting', 'inside'), ('method', 'avde'), ('paper', 'HFV')])
def test_unknown_names(key, bad):
    with pytest.raises(UnknownError, match=f"{key} '{bad}'"): reported(**{key: bad})

def test_several_names_at_once():
    assert reported(['top1', 'top5'], paper=['AVDE', 'hvf']) == [r for r in reported() if r['measure'] in ('top1', 'top5') and r['source'].split(',')[0] in ('AVDE', 'HVF')]
    assert len(reported(own=True)) + len(reported(own=False)) == len(reported())

mine = dict(what='ridge', measure='top1', value=.1, candidates=200, data='things-eeg2', setting='within', simulated=False)

def test_beside_needs_the_same_question():
    near = beside([mine])['beside']
    assert near and all((r['measure'], r['data'], r['setting'], r['candidates']) == ('top1', 'things-eeg2', 'within', 200) for r in near)
    assert not any('Ablation' in r['source'] for r in near)
    for change in (dict(candidates=50), dict(candidates=None), dict(data='mine eeg'), dict(setting='subject 3'), dict(measure='median rank'), dict(simulated=True), dict(control=True), dict(status='not run')):
        assert not beside([{**mine, **change}])['beside'], change
    assert not any(beside([dict(what='x', measure='top1', value=.5, simulated=False)]).values())      # no data named

@pytest.mark.parametrize('kind', ['eeg', 'meg', 'fmri'])
@pytest.mark.parametrize('measure', ['top1', 'top5', 'pixcorr', 'ssim', 'clip'])
def test_simulated_scores_get_no_equals(kind, measure):
    "For orientation only the same kind of recording, papers' own methods, and a word that it does not compare."
    found = beside([dict(mine, measure=measure, data=f'embedded {kind}', simulated=True, candidates=200 if measure.startswith('top') else None)])
    assert found['beside'] == []
    for r in found['for orientation']:
        assert r['note'].startswith('not comparable: measured on simulated recordings here') and r['status'] == 'reported by the paper'
        assert {'things-eeg2': 'eeg', 'things-meg': 'meg', 'nsd': 'fmri'}[r['data']] == kind and r['measure'] == measure
        check_row(r)
    assert bool(found['for orientation']) == ((kind, measure[:3]) not in {('meg', 'pix'), ('meg', 'ssi'), ('meg', 'cli'), ('fmri', 'top')})

def test_beside_gives_each_once():
    assert beside([mine, dict(mine, value=.2), dict(mine, data='embedded eeg', simulated=True)])['beside'] == beside([mine])['beside']
    both = beside([mine, dict(mine, data='embedded eeg', simulated=True)]); assert not [r for r in both['for orientation'] if r['source'] in {k['source'] for k in both['beside']}]


# ---- files of one's own

def own_file(at, **change):
    row = dict(paper='mine', table='Table 1', row='Ours', method='Mine', data='x', kind='eeg', setting='within', subjects='1', measure='clip', printed='81.5', unit='percent', value=.815, better='higher')
    raw = dict(format=1, sources=[dict(paper='mine', name='Mine', read='the paper')], tables=[dict(paper='mine', table='Table 1', what='main')], rows=[row])
    raw.update({k: v for k, v in change.items() if k in raw}); raw['rows'] = change.get('rows', [{**row, **{k: v for k, v in change.items() if k not in raw}}])
    at.write_text(json.dumps(raw)); return at

def test_own_file_stands_beside_the_others(tmp_path):
    more = read_papers(paper_file, own_file(tmp_path/'mine.json'))
    assert [r['value'] for r in reported('clip', paper='Mine', book=more)] == [.815] and len(reported(book=more)) == len(reported()) + 1
    assert len(papers(more)) == len(papers()) + 1 and len(paper_tables(book=more)) == len(paper_tables()) + 1 and len(read_papers()['rows']) == len(book['rows'])

@pytest.mark.parametrize('change', [dict(format=2), dict(sources=[]), dict(sources=5), dict(tables=[]), dict(rows={}), dict(rows=[3]), dict(value=.851), dict(value='0.815'), dict(value=True), dict(value=None), dict(value=float('nan')),
    dict(printed=81.5), dict(printed='81,5'), dict(unit='%'), dict(better='lower'), dict(measure='top1'), dict(measure=['clip']), dict(paper='other'), dict(table='Table 2'), dict(method=None), dict(candidates='200'), dict(candidates=0),
    dict(printed='181.5', value=1.815), dict(mood='good'), dict(sources=[dict(paper='avde', name='x', read='y')]), dict(sources=[dict(paper='mine', name='x')])], ids=str)
def test_wrong_files_are_refused(tmp_path, change):
    with pytest.raises(ReconError) as e: read_papers(paper_file, own_file(tmp_path/'mine.json', **change))
    assert e.value.came and e.value.expected and e.value.do

def test_a_number_given_twice_is_refused(tmp_path):
    at = own_file(tmp_path/'mine.json'); raw = json.loads(at.read_text()); raw['rows'] *= 2; at.write_text(json.dumps(raw))
    with pytest.raises(ValuesError, match='twice'): read_papers(paper_file, at)

values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))

@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*needed, 'flags', 'note', 'n', 'own']), values, max_size=4))
def test_odd_rows_give_messages(change):
    "Whatever stands in a row: it is right, or the message is ours."
    good = {k: v for k, v in book['rows'][0].items()}
    try: check_reported({**good, **change}, book['measures'])
    except ReconError: pass

@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10000), st.integers(0, 4))
def test_printed_value_is_the_number_as_python_reads_it(n, places):
    text = f'{n/10**places:.{places}f}'
    assert printed_value(text, 'fraction') == float(text) and abs(printed_value(text + '%', 'percent') - float(text)/100) < 1e-12
    assert printed_value(f'{text}x', 'x') == printed_value(f'{text}×', 'x') == float(text) and set(units) >= {'fraction', 'percent', 'ms'}
