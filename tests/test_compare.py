"Kept predictions, and the page that compares runs: nothing half-written is read, nothing incomparable is put side by side."
import json, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
import nbformat, numpy as np, pandas as pd, pytest, yaml
from browser import find_browser
from brainrecon.core.checks import FileError, FolderError, ParameterError, ShapeError, UnknownError, ValuesError
from brainrecon.core.files import load_json, save_arrays, save_json
from brainrecon.data.pictures import load_pictures
from brainrecon.jobs.compare import (Source, answered, card_of, categories_of, chosen, compare_all, confusion, cost_table, marks_of, no_total, not_run, orientation, paired, read_runs,
    score_frame, score_groups)
from brainrecon.jobs.compare import report_job
from brainrecon.jobs.compare_page import content_mark, curves_of, figures_of, joint_scores, make_report, pairs_html, scores_html
from brainrecon.jobs.parameters import find_job, resolve
from brainrecon.jobs.predictions import load_drawings, load_predictions, over_repetitions, save_drawings, save_predictions
from brainrecon.jobs.report import check_scores
from brainrecon.jobs.results import result_table
from brainrecon.jobs.run import choose_folder, folder_name, run_job
from brainrecon.metrics.protocols import protocol, protocols
from brainrecon.metrics.retrieval import retrieve

command = [sys.executable, '-c', 'import sys; from brainrecon.jobs.cli import main; sys.exit(main())']


class Page(HTMLParser):
    "Words, tags and texts of pictures; every element must be closed."
    def __init__(self, text):
        super().__init__(); self.open, self.tags, self.alts, self.words = [], [], [], []; self.feed(text); assert not self.open
        self.text = ' '.join(' '.join(self.words).split())
    def handle_starttag(self, t, attrs):
        a = dict(attrs); self.tags.append((t, a))
        if t == 'img': self.alts.append(a.get('alt'))
        if t not in ('meta', 'img', 'br', 'link'): self.open.append(t)
    def handle_endtag(self, t): assert self.open.pop() == t
    def handle_data(self, d): self.words += [] if self.open and self.open[-1] == 'style' else [d]


def made(at, method, noise, n=40, seeds=(0,), simulated=True, data='embedded eeg', setting='within', shuffle=False, rows=(), k=None, control=False, **more):
    "A run folder with kept predictions of an invented decoder."
    test = load_pictures('test')[range(n)]; z = np.random.default_rng(7).normal(size=(n, 24)); table = test.table[['picture', 'concept']].assign(subject=1, n_averaged=4)
    for seed in seeds:
        gen = np.random.default_rng([seed, 100*ord(method[0])]); q = z + noise*gen.normal(size=z.shape); order = gen.permutation(n) if shuffle else np.arange(n)
        about = dict(method=method, data=data, kind='eeg', subject=1, setting=setting, simulated=simulated, seed=seed, control=control, **more)
        save_predictions(at, f'{method}-seed{seed}', table.iloc[order], q[order], z[:k], test.table.picture[:k], test.table.concept[:k], about, test.img[:k])
    top1 = float(np.mean([p.hits(1).mean() for p in load_predictions(at)]))
    row = dict(what=f'{method}, EEG', measure='top1', value=top1, low=top1 - .05, high=top1 + .05, chance=1/n, candidates=n, n=n, seeds=list(seeds), simulated=simulated, method=method, data=data, setting=setting,
        protocol='brainrecon', selection='held-out training concepts', over='concepts')
    finish(at, [row, *rows]); return at


def finish(at, rows, state='finished'):
    save_json(Path(at)/'scores.json', dict(title='A test', test_readings=1, rows=rows)); save_json(Path(at)/'params.json', dict(job='toy/01', values={}, device='cpu', commit='abcdef123456', dirty=True, versions={}))
    save_json(Path(at)/'status.json', dict(state=state, seconds=1))


def source(**row):
    return Source('mine', check_scores(dict(title='t', rows=[dict(dict(what='w', measure='top1', value=.2, chance=.005, candidates=200, simulated=False, data='things-eeg2', setting='within', method='NICE'), **row)])), {})


# Kept predictions

def give(at, **kw):
    z = np.eye(4, dtype='float32'); names = ['a/0', 'b/0', 'c/0', 'd/0']; table = pd.DataFrame(dict(picture=names, concept=list('abcd'), members=[(1, 2), (3,), (4,), (5, 6)], n_averaged=[2, 1, 1, 2]))
    return save_predictions(at, **{**dict(label='x', table=table, query=z, gallery=z, gallery_pictures=names, gallery_concepts=list('abcd'), about=dict(method='m', data='d', simulated=False)), **kw})


def test_predictions_come_back_as_they_were(tmp_path):
    give(tmp_path, about=dict(method='m', data='d', simulated=False, subject=3, cost=dict(parameters=2.)), thumbnails=np.arange(4*96*64*3, dtype='uint8').reshape(4, 96, 64, 3)); p, = load_predictions(tmp_path)
    assert p.table.members.tolist() == [(1, 2), (3,), (4,), (5, 6)] and p.table.n_averaged.dtype.kind == 'i' and p.about['cost'] == dict(parameters=2.) and p.about['subject'] == 3
    assert p.query.dtype == np.float32 and (p.query == np.eye(4)).all() and p.thumbnails.shape == (4, 64, 43, 3) and p.hits(1).tolist() == [1, 1, 1, 1] and p.ranks().tolist() == [1, 1, 1, 1]


def test_what_decoders_share_is_kept_once(tmp_path):
    for i in range(5): give(tmp_path, label=f'seed{i}', thumbnails=np.zeros((4, 8, 8, 3), 'uint8'))
    give(tmp_path, label='other', gallery=2*np.eye(4))
    assert sorted(p.name.split('-')[0] for p in (tmp_path/'predictions'/'shared').iterdir()) == ['gallery', 'gallery', 'thumbnails'] and len(load_predictions(tmp_path)) == 6


def test_ties_and_centres(tmp_path):
    give(tmp_path, gallery=np.ones((4, 4)), label='tied'); p, = load_predictions(tmp_path)
    assert p.hits(1).tolist() == [.25]*4 and p.ranks().tolist() == [2.5]*4 and p.top(2).tolist() == [[0, 1]]*4
    give(tmp_path, label='tied', gallery_pictures=[f'centre {c}' for c in 'abcd'], about=dict(method='m', data='d', simulated=False, match='concept'))
    assert load_predictions(tmp_path)[0].hits(1).tolist() == [1.]*4


@pytest.mark.parametrize('wrong, error', [
    (dict(label='a/b'), ParameterError), (dict(label='shared'), ParameterError), (dict(label='.hidden'), ParameterError), (dict(about=dict(method='m', data='d')), ValuesError), (dict(about=dict(data='d', simulated=True)), ValuesError),
    (dict(query=np.eye(3)), ShapeError), (dict(gallery=np.eye(5)), ShapeError), (dict(query=np.full((4, 4), np.nan)), ValuesError), (dict(gallery_pictures=list('abcd')), UnknownError), (dict(gallery_concepts=list('ab')), ShapeError),
    (dict(thumbnails=np.zeros((4, 8, 8, 3))), ShapeError), (dict(thumbnails=np.zeros((3, 8, 8, 3), 'uint8')), ShapeError), (dict(table=pd.DataFrame(dict(picture=list('abcd')))), UnknownError)])
def test_bad_predictions_are_refused_and_nothing_is_written(tmp_path, wrong, error):
    with pytest.raises(error): give(tmp_path, **wrong)
    assert not list(tmp_path.rglob('*.safetensors'))


def test_a_stopped_or_foreign_file_is_named(tmp_path):
    path = give(tmp_path, thumbnails=np.zeros((4, 8, 8, 3), 'uint8')); whole = path.read_bytes()
    (path.parent/'.y-1-aa.part.safetensors').write_bytes(whole[:50]); assert len(load_predictions(tmp_path)) == 1       # somebody is writing just now
    for bad in (whole[:-3], whole[:100], b'', whole[:-1] + b'\x7f', whole.replace(b'"d"', b'"e"').replace(b'\\"d\\"', b'\\"e\\"')):
        path.write_bytes(bad)
        with pytest.raises(FolderError, match='x.safetensors'): load_predictions(tmp_path)
    path.write_bytes(whole); shared = next((path.parent/'shared').glob('gallery*')); shared.write_bytes(shared.read_bytes()[:-2] + b'ab')
    with pytest.raises(FileError, match='gallery'): load_predictions(tmp_path)
    shared.unlink()
    with pytest.raises(FileError, match='gallery'): load_predictions(tmp_path)
    path.unlink(); save_arrays(path, dict(table=1), query=np.eye(2))
    with pytest.raises(FileError, match='no predictions'): load_predictions(tmp_path)
    with pytest.raises(FolderError, match='no folder'): load_predictions(tmp_path/'nowhere')


def test_drawings_are_maps_of_whole_files(tmp_path):
    gen = np.random.default_rng(0); seen = gen.integers(0, 255, (6, 8, 8, 3), 'uint8'); table = pd.DataFrame(dict(picture=[f'p{i}' for i in range(6)], concept=list('abcdef'))); about = dict(method='m', data='d', simulated=True)
    for k in (3, 2):
        drawn = gen.integers(0, 255, (6, k, 8, 8, 3), 'uint8'); at = save_drawings(tmp_path, 'm', seen, drawn, table, about)
    save_drawings(tmp_path, 'other', seen, drawn, table, about); a, b = load_drawings(tmp_path, check=True)
    assert isinstance(a.drawings, np.memmap) and (a.drawings == drawn).all() and (a.originals == seen).all() and len(list(tmp_path.rglob('*.npy'))) == 3
    own = next((at/'shared').iterdir()); whole = own.read_bytes(); own.write_bytes(whole[:-5])
    with pytest.raises(FileError, match='drawings-'): load_drawings(tmp_path)
    own.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])); assert len(load_drawings(tmp_path)) == 2
    with pytest.raises(FileError, match='fingerprint'): load_drawings(tmp_path, check=True)
    (at/'about.json').unlink()
    with pytest.raises(FileError, match='about.json'): load_drawings(tmp_path)
    with pytest.raises(ShapeError, match='bytes'): save_drawings(tmp_path, 'm', seen, drawn/255, table, about)
    with pytest.raises(ShapeError): save_drawings(tmp_path, 'm', seen[:5], drawn, table, about)


@pytest.mark.parametrize('kind', ['cosine', 'dot', 'correlation'])
def test_answers_are_scored_as_their_run_was(tmp_path, kind):
    gen = np.random.default_rng(3); z = gen.normal(size=(30, 9))*gen.uniform(.2, 5, (30, 1)) + 1; q = z + 2*gen.normal(size=z.shape); names = [f'p{i}' for i in range(30)]
    give(tmp_path, table=pd.DataFrame(dict(picture=names, concept=names)), query=q, gallery=z, gallery_pictures=names, gallery_concepts=names, about=dict(method='m', data='d', simulated=False, similarity=kind)); p, = load_predictions(tmp_path)
    r = retrieve(p.query, p.gallery, names, names, kind=kind); assert (p.hits(1) == r['hits'][1]).all() and (p.ranks() == r['ranks']).all() and card_of(Source('s', check_scores(dict(title='t', rows=[dict(what='w', measure='ssim', value=1., simulated=False)])), {}, predictions=[p]))['gallery']['similarity'] == kind
    others = [retrieve(p.query, p.gallery, names, names, kind=k)['ranks'] for k in ('cosine', 'dot', 'correlation') if k != kind]; assert all((o != r['ranks']).any() for o in others)


def test_answers_are_cosine_unless_they_say_otherwise(tmp_path):
    give(tmp_path); p, = load_predictions(tmp_path); assert p.about['similarity'] == 'cosine'
    with pytest.raises(UnknownError, match='similarity'): give(tmp_path, about=dict(method='m', data='d', simulated=False, similarity='distance'))


# Reading runs

def test_runs_are_found_and_what_is_left_out_is_named(tmp_path):
    made(tmp_path/'a'/'run', 'ridge', 1.); made(tmp_path/'b'/'run', 'mlp', 1.); finish(tmp_path/'a'/'broken', [], 'failed'); (tmp_path/'a'/'notes').mkdir()
    save_json(tmp_path/'a'/'old'/'params.json', dict(job='report/01_compare')); finish(tmp_path/'a'/'old', load_json(tmp_path/'b'/'run'/'scores.json')['rows'])
    save_json(tmp_path/'a'/'old'/'params.json', dict(job='report/01_compare'))
    sources, notes = read_runs([tmp_path/'a', tmp_path/'b'/'run', tmp_path/'a'/'run'])
    assert sorted(s.name for s in sources) == ['a/run', 'b/run'] and any('not finished' in n for n in notes) and any('report itself' in n for n in notes) and any('twice' in n for n in notes) and any('2 runs are called run' in n for n in notes)
    for bad, error in (([], ParameterError), ([tmp_path/'a'/'broken'], FolderError), ([tmp_path/'a'/'notes'], FolderError), ([tmp_path/'nowhere'], FolderError), ([tmp_path/'a'/'old'], FolderError)):
        with pytest.raises(error): read_runs(bad)
    from brainrecon.jobs.results import keep_result
    with pytest.raises(FolderError): read_runs([tmp_path/'a'/'run'/'params.json'])
    save_json(tmp_path/'b'/'run'/'status.json', dict(state='finished', seconds=1, attempts=[dict(started='2026-01-01T00:00:00')]))
    assert load_json(keep_result(tmp_path/'b'/'run', tmp_path/'kept.json', 'a laptop'))['peak_mb'] is None
    save_json(tmp_path/'b'/'run'/'status.json', dict(state='finished', seconds=1, attempts=[dict(started='2026-01-01T00:00:00', peak_mb=20.), dict(started='2026-01-01T00:00:00', peak_mb=30.), dict(started='2026-01-01T00:00:00')]))
    save_json(tmp_path/'b'/'run'/'params.json', load_json(tmp_path/'b'/'run'/'params.json') | dict(values=dict(runs=[str(tmp_path/'a'), 'one'], root=str(tmp_path), seeds=[1])))
    kept = keep_result(tmp_path/'b'/'run', tmp_path/'kept.json', 'a laptop'); assert load_json(kept)['peak_mb'] == 30 and load_json(kept)['values'] == dict(runs=['a', 'one'], root=tmp_path.name, seeds=[1]); sources, _ = read_runs([kept]); assert sources[0].name == 'kept' and sources[0].scores['rows']


# Scores beside papers

def test_a_paper_stands_beside_only_what_it_can_be_compared_with():
    texts = score_frame([source()]); assert (texts.ours != '-').sum() == 1 and (texts.reported != '-').sum() > 5 and texts[texts.ours != '-'].reported.iloc[0] != '-'
    for other in (dict(simulated=True), dict(data='embedded eeg', simulated=True), dict(data='my own'), dict(setting='subject 3'), dict(measure='mean rank'), dict(candidates=50, chance=.02)):
        assert (score_frame([source(**other)]).reported == '-').all(), other
    for (simulated, _, _), lines in score_groups([source(), source(simulated=True)]).items(): assert not simulated or not any(l['reported'] for l in lines)
    assert all('not comparable' in r['note'] for r in orientation([source(simulated=True, data='embedded eeg')]))


def test_flags_stand_on_the_row():
    page = Page(scores_html([source(method='mine', protocol='AVDE, as released', flags=['NOT ZERO-SHOT'], selection='test set (as released)', what='<b>')]))
    row = page.text.split('mine', 1)[1].split('a paper')[0]; assert 'NOT ZERO-SHOT' in row and 'as released' in row and '<b>' in page.text


def test_lines_that_look_alike_name_their_runs():
    one, two, other = source(), source(value=.3), source(method='another'); two.name = 'yours'; other.name = 'theirs'
    page = Page(scores_html([one, two, other])).text; assert 'run mine' in page and 'run yours' in page and 'run theirs' not in page and 'run mine' not in Page(scores_html([one, other])).text


def test_what_was_not_run_keeps_its_row():
    s = source(measure='clip', value=None, status='not run', note='weights absent, fetch with `brainrecon data fetch x`', candidates=None, chance=None); t = score_frame([s], papers=False); other = source(); other.name = 'other'
    assert t.ours.tolist() == ['-'] and 'not run' in t.marks[0] and 'fetch x' in not_run([s])[0] and 'lacks clip' in no_total([s, other]) and 'skipped' not in no_total([s])


# Protocols that are not ours

def with_rule(at, method, noise, rule=None, **more):
    "A run under a released protocol, with notes and readings as the job writes them."
    more = dict(more, protocol=rule.name, similarity='dot' if rule.similarity.startswith('dot') else 'cosine') if rule else more
    made(at, method, noise, **more); s = load_json(at/'scores.json')
    s |= dict(notes=[rule.flag if rule else 'Chosen on held-out training concepts.', 'Recordings are simulated.', 'Recordings are simulated.'], test_readings=3 if rule else 1, **(dict(test_readings_all=7) if rule else {}))
    s['rows'] = [dict(r, protocol=rule.name, flags=rule.flags) if rule else r for r in s['rows']]; save_json(at/'scores.json', s); return at


@pytest.mark.parametrize('name', ['avde-released', 'hvf-released', 'mindhier-released'])
def test_a_released_protocol_is_named_wherever_its_answers_are(tmp_path, name):
    rule = protocol(name); a = with_rule(tmp_path/'ours', 'ours', 1.2); b = with_rule(tmp_path/'theirs', 'theirs', 1.2, rule); sources, _ = read_runs([a, b]); methods = answered(sources); ours, theirs = methods
    assert ours.name == 'ours (ours)' and all(f in theirs.name for f in rule.flags)
    pairs, refused = compare_all(methods); assert not refused and pairs.remark.str.contains(f'brainrecon against {name}').all() and Page(pairs_html(pairs, [])).text.count(rule.flag) == 1
    text = Page(pairs_html(pairs, refused)).text; assert all(f in text for f in rule.flags) and 'DIFFERENT PROTOCOLS' in text and Page(scores_html(sources)).text.count(rule.flag) == 1
    same = compare_all([ours, answered(read_runs([with_rule(tmp_path/'again', 'again', 2.)])[0])[0]])[0]; assert not same.remark.any() and 'remark' not in Page(pairs_html(same, [])).text and 'AS RELEASED' not in Page(pairs_html(same, [])).text
    test = sources[1].predictions[0]; save_predictions(b, 'theirs-rep1', test.table, test.query, test.gallery, test.gallery_pictures, test.gallery_concepts, dict(test.about, n_averaged=1), test.thumbnails)
    save_predictions(b, 'theirs-rep4', test.table, test.query, test.gallery, test.gallery_pictures, test.gallery_concepts, dict(test.about, n_averaged=4), test.thumbnails)
    sources, _ = read_runs([a, b]); drawn, left = figures_of(sources, answered(sources), n=1); drawn = list(drawn); words = lambda fig: ' '.join(t.get_text() for t in fig.findobj(lambda o: hasattr(o, 'get_text')))
    for fig, label, caption in drawn:
        if label in ('chosen-00', 'confusion-00'): assert name not in words(fig) and 'released' not in caption; continue
        assert name in words(fig) and (rule.flag in caption if label.startswith('repetitions') else all(f in caption for f in rule.flags)), label
    assert {label for _, label, _ in drawn} == {'chosen-00', 'chosen-01', 'confusion-00', 'confusion-01', 'repetitions-top1', 'repetitions-top5'}


def test_drawings_under_a_released_protocol_say_so(tmp_path):
    test = load_pictures('test')[range(4)]; about = dict(method='m', data='d', simulated=True, protocol='mindhier-released')
    save_drawings(tmp_path/'r', 'm', test.img, test.img[:, None][..., ::-1].copy(), test.table[['picture', 'concept']], about); finish(tmp_path/'r', [dict(what='w', measure='ssim', value=.1, simulated=True)])
    sources, _ = read_runs([tmp_path/'r']); (fig, _, caption), = figures_of(sources, answered(sources), n=1)[0]
    assert 'mindhier-released, CHOSEN WITH THE TRUE IMAGE' in fig.get_suptitle() and 'AS RELEASED: mindhier-released; CHOSEN WITH THE TRUE IMAGE' in caption


def test_marks():
    assert marks_of({}) == marks_of(dict(protocol='brainrecon', similarity='cosine')) == marks_of(dict(protocol=''), True) == '' and marks_of(dict(similarity='dot')) == 'scored by dot'
    assert marks_of(dict(protocol='avde-released', similarity='dot'), True) == 'avde-released, NOT ZERO-SHOT' and marks_of(dict(protocol='of my own')) == 'protocol of my own'
    for p in protocols.values(): assert marks_of(dict(protocol=p.name)) == '; '.join(p.flags)


def test_joint_scores_keep_notes_and_readings(tmp_path):
    rule = protocol('avde-released'); sources, _ = read_runs([with_rule(tmp_path/'a', 'a', 1.), with_rule(tmp_path/'b', 'b', 1., rule)]); s = check_scores(joint_scores(sources))
    assert s['notes'] == [no_total(sources), 'a: Chosen on held-out training concepts.', 'a, b: Recordings are simulated.', f'b: {rule.flag}'] and s['test_readings'] == 3 and s['test_readings_all'] == 7
    assert {f for r in s['rows'] for f in r['flags']} == set(rule.flags)
    s = joint_scores([source()]); assert s['notes'] == [no_total([source()])] and 'test_readings' not in s and 'test_readings_all' not in s


def test_a_kept_table_shows_flags_and_never_notes_beside_retrieval():
    row = dict(what='w', measure='top1', value=.2, low=.1, high=.3, chance=.005, candidates=200, n=180, over='concepts', simulated=True, note='a note', protocol='brainrecon', selection='held-out training concepts')
    kept = lambda *rows: dict(scores=check_scores(dict(title='t', rows=list(rows)))); t = result_table(kept(row), 'top1', 'top5'); assert list(t) == ['measure', 'value', 'chance', 'of', 'n', 'over'] and t.iloc[0, 4:].tolist() == ['180', 'concepts']
    rule = protocol('avde-released'); t = result_table(kept(row, dict(row, what='theirs', protocol=rule.name, flags=rule.flags)), 'top1'); assert t.protocol.tolist() == ['', rule.name] and t['flags'].tolist() == ['', '; '.join(rule.flags)] and 'note' not in t
    assert 'note' in result_table(kept(row)) and list(result_table(kept(dict(what='w', measure='seconds', value=1., simulated=False)))) == ['measure', 'value']
    assert len(result_table(dict(scores=dict(rows=[{k: v for k, v in check_scores(dict(title='t', rows=[row]))['rows'][0].items() if k not in ('flags', 'over', 'protocol', 'n')}])))) == 1     # kept before these were known


# Picture by picture

def test_the_better_method_is_found_and_order_does_not_matter(tmp_path):
    a, b = made(tmp_path/'good', 'good', 1.2, seeds=(0, 1), shuffle=True), made(tmp_path/'bad', 'bad', 3., seeds=(0, 1)); (x, y) = answered(read_runs([a, b])[0])
    r = paired(x, y); assert r['difference'] > .2 and r['p'] < .01 and r['n'] == 40 and paired(y, x)['difference'] == -r['difference'] and paired(x, x)['p'] == 1
    by_hand = [p.hits(1)[np.argsort(p.table.picture.to_numpy())] for p in load_predictions(a)]; assert np.isclose(r['value_a'], np.mean(by_hand))
    table, refused = compare_all([x, y]); assert not refused and (table.p_corrected >= table.p).all() and len(table) == 2


def test_equal_methods_differ_rarely(tmp_path):
    from brainrecon.jobs.compare import Answered
    gen = np.random.default_rng(0); small = 0; index = pd.MultiIndex.from_product([['1'], [f'p{i}' for i in range(60)]]); concepts = pd.Series([f'c{i}' for i in range(60)], index)
    one = lambda: Answered('r', 'm', dict(control=False, simulated=True, data='d', kind='eeg'), dict(top1=pd.Series(gen.integers(0, 2, 60).astype(float), index)), concepts, (), [0], [])
    for _ in range(200): small += paired(one(), one(), signs=400)['p'] < .05
    assert 1 <= small <= 22          # 10 are expected


@pytest.mark.parametrize('other, why', [(dict(n=30), 'test pictures'), (dict(data='things-eeg2', simulated=False), 'data'), (dict(setting='across'), 'setting'), (dict(simulated=False), 'simulated')])
def test_other_tests_are_not_compared(tmp_path, other, why):
    methods = answered(read_runs([made(tmp_path/'a', 'a', 1.), made(tmp_path/'b', 'b', 1., **other)])[0])
    with pytest.raises(ParameterError, match=why): paired(*methods)
    assert compare_all(methods)[0].empty


def test_controls_are_left_out_and_long_averages_win(tmp_path):
    at = made(tmp_path/'a', 'a', 4., n_averaged=1); test = load_predictions(at)[0]
    save_predictions(at, 'a-rep4', test.table, test.gallery, test.gallery, test.gallery_pictures, test.gallery_concepts, dict(test.about, n_averaged=4)); made(tmp_path/'c', 'c', 1., control=True)
    methods = answered(read_runs([at, tmp_path/'c'])[0]); a = next(m for m in methods if m.method == 'a')
    assert a.values['top1'].mean() == 1 and compare_all(methods)[0].empty and [r['n_averaged'] for r in curves_of(read_runs([at])[0])[0]['rows'] if r['measure'] == 'top1'] == [1, 4]


def test_choice_is_a_rule():
    gen = np.random.default_rng(0); ranks, names = gen.integers(1, 5, 31).astype(float), [f'p{i:02d}' for i in range(31)]; rows = chosen(ranks, names)
    for _ in range(5):
        o = gen.permutation(31); again = chosen(ranks[o], [names[i] for i in o]); assert {k: [names[i] for i in v] for k, v in rows.items()} == {k: [names[o[i]] for i in v] for k, v in again.items()}
    assert ranks[rows['best']].max() <= ranks[rows['median']].min() <= ranks[rows['median']].max() <= ranks[rows['worst']].min()
    high = chosen([.1, np.nan, .9], list('abc'), 1, 'higher'); assert high['best'].tolist() == [2] and high['worst'].tolist() == [0]
    with pytest.raises(ShapeError): chosen([np.nan], ['a'])


def test_confusion(tmp_path):
    perfect = load_predictions(made(tmp_path/'a', 'a', 0., n=200)); c = confusion(perfect)
    assert np.allclose(np.diag(c['share'][c['share'].index]), 1) and c['agreement'] == 1 and c['n'].sum() == 200 and .05 < c['chance'] < .2
    lot = [confusion(load_predictions(made(tmp_path/f'b{i}', f'b{i}', 1e6, n=200)), first=5) for i in range(3)]
    assert all(np.allclose(x['share'].sum(axis=1), 1) for x in lot) and abs(np.mean([x['agreement'] for x in lot]) - c['chance']) < .03
    p = perfect[0]; own = confusion([type(p)(p.label, p.table.assign(category=['x', 'y']*100), p.query, p.gallery, p.gallery_pictures, p.gallery_concepts, p.about)]); assert list(own['share'].index) == ['x', 'y'] and own['chance'] == .5
    concepts = p.gallery_concepts; pd.DataFrame(dict(concept=concepts, category=['u', 'v']*100)).to_csv(tmp_path/'c.csv', index=False); assert confusion(perfect, tmp_path/'c.csv')['chance'] == .5
    (tmp_path/'d.tsv').write_text('concept\tcategory\na\tx\na\ty\n')
    with pytest.raises(ParameterError, match='two categories'): categories_of(['a'], tmp_path/'d.tsv')
    with pytest.raises(UnknownError, match='no category'): confusion(perfect, {'nothing': 'x'})
    with pytest.raises(FolderError): categories_of(['a'], tmp_path/'none.csv')
    (tmp_path/'e.csv').write_text('item,group\na,b\n')
    with pytest.raises(UnknownError, match='concept'): categories_of(['a'], tmp_path/'e.csv')


def test_every_embedded_concept_has_one_category():
    have = load_pictures().table.concept.unique(); of = categories_of(have); assert set(of) == set(have) and len(set(of.values())) == 12
    counts = pd.Series([of[c] for c in load_pictures('test').table.concept]).value_counts(); assert len(counts) == 12 and counts.min() >= 5


def test_more_repetitions_help():
    from brainrecon.data.trials import Trials
    from brainrecon.decoders.retrieval import Gallery, RidgeDecoder
    gen = np.random.default_rng(1); names = [f't{i:03d}' for i in range(120)]; g = Gallery(gen.normal(size=(120, 12)).astype('float32'), [f'{n}/0' for n in names], names); mix = gen.normal(size=(12, 30))
    def respond(rows, reps):
        r = np.repeat(rows, reps); return Trials((g.z[r] @ mix + 10*gen.normal(size=(len(r), 30))).astype('float32'), [f'V{i}' for i in range(30)], dict(picture=[g.pictures[i] for i in r], concept=[names[i] for i in r]), 'fmri', provenance=dict(recording=str(rows[0])))
    d = RidgeDecoder().fit(respond(range(70), 8), respond(range(70, 80), 8), g[:80]); single = respond(range(80, 120), 9); c = over_repetitions(d, single, g[80:])
    top = c[c.measure == 'top5'].value.to_numpy(); assert c.n_averaged.unique().tolist() == [1, 2, 4, 8, 9] and top[0] < top[2] < top[-1] and (c.low <= c.value).all() and (c.value <= c.high).all() and (c.n == 40).all()
    order = gen.permutation(len(single)); assert np.isclose(over_repetitions(d, single[order], g[80:]).value.iloc[-2:], c.value.iloc[-2:]).all()        # all repetitions: no lot is left
    dot = over_repetitions(d, single, g[80:], counts=[9], ks=(1, 5), kind='dot'); r = retrieve(d.embed(single.average()), d.z_scale(g.z[80:]), single.average().pictures, g.pictures[80:], kind='dot')
    assert np.allclose(dot.value, [r['top1'], r['top5']]) and not np.allclose(dot.value, c.value.iloc[-2:])
    with pytest.raises(UnknownError, match='similarity'): over_repetitions(d, single, g[80:], counts=[9], kind='distance')


def test_card_and_cost(tmp_path):
    at = made(tmp_path/'a', 'a', 1., cost=dict(parameters=1.5, seconds=.02), rows=[dict(what='w', measure='clip', value=None, status='not run', simulated=True), dict(what='w', measure='ssim', value=.3, simulated=True, flags=['LEAK'])])
    s = read_runs([at])[0][0]; card = card_of(s); assert card['skipped'] == ['clip'] and card['leakage'] == ['LEAK'] and card['gallery']['candidates'] == 40 and card['repetitions_averaged'] == [4] and json.dumps(card)
    t = cost_table([s]); assert t.parameters[0] == '1.500' and t.milliseconds[0] == '20.000' and t.flops[0] == '-'
    save_json(at/'card.json', dict(antialias=False, weights={'clip': 'abc'})); card = card_of(read_runs([at])[0][0]); assert card['antialias'] is False and card['weights'] == {'clip': 'abc'} and card['skipped'] == ['clip']
    save_json(at/'card.json', {'eeg-s01': dict(sides=dict(test=dict(pictures=200, concepts=200, pictures_hash='83ce')), flags=['BLOCK DESIGN'], block='found', likeness=dict(copies=1, look_alikes=2))}); card = card_of(read_runs([at])[0][0])
    assert card['leakage'] == ['BLOCK DESIGN', 'LEAK'] and card['checks']['eeg-s01'] == dict(block_design='found', copies=1, look_alikes=2) and '83ce' in card['splits']['eeg-s01']['test'] and 'eeg-s01' not in card


# The whole way

job = ['''method = 'a'   # a name
noise  = 1.0   # of its answers
out    = ''    # run folder''', '''import numpy as np, pandas as pd
from brainrecon.data.pictures import load_pictures
from brainrecon.jobs.predictions import load_predictions, save_drawings, save_predictions, save_repetitions
from brainrecon.jobs.run import start''', '''run = start(out); test = load_pictures('test')[range(40)]; gen = np.random.default_rng(0); z = gen.normal(size=(40, 24))
table = test.table[['picture', 'concept']].assign(subject=1, n_averaged=4); about = dict(method=method, data='embedded eeg', kind='eeg', subject=1, setting='within', simulated=True, seed=0)
save_predictions(run.folder, f'{method}-seed0', table, z + noise*gen.normal(size=z.shape), z, test.table.picture, test.table.concept, about, test.img)
save_drawings(run.folder, method, test.img, (test.img[:, None]*gen.uniform(size=(40, 2, 128, 128, 3))).astype('uint8'), table, about)
save_repetitions(run.folder, pd.DataFrame([dict(n_averaged=n, measure='top1', value=.1*n, low=.05*n, high=.15*n, chance=1/40, candidates=40, n=40, draws=1) for n in (1, 2, 4)]), about)''',
'''hits = load_predictions(run.folder)[0].hits(1)
run.scores(dict(title='Invented', test_readings=1, rows=[dict(what=f'{method} & co', measure='top1', value=float(hits.mean()), chance=1/40, candidates=40, n=40, simulated=True, method=method, data='embedded eeg', setting='within'),
    dict(what=method, measure='clip', value=None, status='not run', simulated=True, note='weights absent, fetch with `brainrecon data fetch x`', data='embedded eeg', setting='within')]))''']


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "Two real runs, and the report of both from the command line."
    home = tmp_path_factory.mktemp('home'); nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# A toy\n\n> Is it fair?'), *map(nbformat.v4.new_code_cell, job)]); nb.cells[1].metadata['tags'] = ['parameters']
    (home/'jobs'/'toy').mkdir(parents=True); nbformat.write(nb, home/'jobs'/'toy'/'01_toy.ipynb')
    for method, noise in dict(careful=1.2, hasty=2.5).items(): run_job('toy/01_toy', out=home/'runs'/method, at=home/'jobs', show=False, method=method, noise=noise)
    done = subprocess.run([*command, 'report', str(home/'runs'), '--out', str(home/'page'), '--title', 'Careful & hasty'], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return home, done, Page((home/'page'/'report.html').read_text())


def test_the_report_is_a_run_of_its_own(report):
    home, done, page = report; at = home/'page'
    assert done.stdout.rstrip().endswith(f'report: {at/"report.html"}') and load_json(at/'status.json')['state'] == 'finished' and not (at/'page.html').exists()
    nb = nbformat.read(at/'notebook.ipynb', 4); kinds = [o.output_type for c in nb.cells for o in c.get('outputs', [])]; assert 'error' not in kinds and kinds.count('display_data') >= 8
    assert len(load_json(at/'scores.json')['rows']) == 4 and [c['run'] for c in load_json(at/'cards.json')] == ['careful', 'hasty']


def test_the_page_shows_it_all(report):
    page = report[2]; assert not [t for t, a in page.tags if t in ('script', 'link', 'iframe')] and not [a for t, a in page.tags if str(a.get('src', a.get('href', ''))).startswith(('http', '/'))]
    for words in ('Careful & hasty', 'simulated data', 'no person was recorded', 'careful & co', 'Two methods, picture by picture', 'What is taken for what', 'How many repetitions', 'Cost', 'There is no total score', 'Not run', 'fetch x', 'Holm'): assert words in page.text, words
    assert len(page.alts) == 7 and all(len(a) > 40 for a in page.alts) and sum('chosen by the rank' in a for a in page.alts) == 2 and sum('pixcorr' in a for a in page.alts) == 2 and sum('For orientation' in w for w in page.words) <= 1
    assert ('html', {'lang': 'en'}) in page.tags and str(report[0]) not in (report[0]/'page'/'report.html').read_text()


def test_the_same_runs_give_the_same_report_and_changed_ones_another(report):
    home = report[0]; before = (home/'page'/'report.html').stat().st_mtime_ns; assert make_report(home/'runs', home/'page', 'Careful & hasty', show=False) == home/'page'/'report.html' and (home/'page'/'report.html').stat().st_mtime_ns == before
    sources, _ = read_runs([home/'runs']); mark = content_mark(sources); p = sources[0].predictions[0]; kept = (home/'runs'/'careful'/'predictions'/f'{p.label}.safetensors'); whole = kept.read_bytes()
    save_predictions(home/'runs'/'careful', p.label, p.table, p.gallery, p.gallery, p.gallery_pictures, p.gallery_concepts, p.about); assert content_mark(read_runs([home/'runs'])[0]) != mark
    kept.write_bytes(whole); assert content_mark(read_runs([home/'runs'])[0]) == mark


def test_a_report_does_not_tell_where_runs_lie(report, tmp_path, monkeypatch):
    "Neither in the name of its folder nor on its page, where a folder that is no run is left out by its own name."
    (tmp_path/'no run').mkdir(); _, notes = read_runs([report[0]/'runs', tmp_path/'no run']); assert len(notes) == 1 and 'no run was left out' in notes[0] and str(tmp_path) not in ' '.join(notes)
    monkeypatch.setenv('BRAINRECON_RUNS', str(tmp_path/'all')); job = find_job(report_job); values = resolve(job, None, dict(runs=[str(report[0]/'runs'/'careful'), str(tmp_path/'a')], title='x', categories=str(tmp_path/'c.csv')))
    name = folder_name(job, None, values); assert 'careful' in name and 'c.csv' in name and not any(p in name for p in (report[0].parent.name, tmp_path.parent.name))
    (tmp_path/'all'/(old := folder_name(job, None, values, True))).mkdir(parents=True); assert choose_folder(job, None, values).name == old != name; (tmp_path/'all'/old).rmdir(); assert choose_folder(job, None, values).name == name      # what is there under its former name is found


@pytest.mark.parametrize('words', [[], ['nowhere'], ['.', '--categories', 'none.csv'], ['a', '--colour', 'red']])
def test_bad_requests_end_with_2(tmp_path, words):
    made(tmp_path/'a', 'a', 1.); done = subprocess.run([*command, 'report', *words], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2 and 'Traceback' not in done.stderr and done.stderr.strip() and sorted(p.name for p in tmp_path.iterdir()) == ['a']


@pytest.mark.parametrize('mode', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 390])
def test_in_a_browser(report, chrome, width, mode):
    "No page is wider than its window, and dark is dark."
    tab = chrome.new_page(viewport=dict(width=width, height=900), color_scheme=mode); tab.goto((report[0]/'page'/'report.html').as_uri())
    over, broken, paper = tab.evaluate('[document.documentElement.scrollWidth - innerWidth, [...document.images].filter(i => !i.naturalWidth).length, getComputedStyle(document.body).backgroundColor]'); tab.close()
    level = np.mean([float(x) for x in paper[4:-1].split(',')[:3]]); assert over <= 0 and not broken and (level < 60 if mode == 'dark' else level > 200)

kept = {p.stem: load_json(p) for p in sorted((Path(__file__).parents[1]/'nbs/08_jobs/results').glob('*.json'))}

@pytest.mark.parametrize('name', [n for n, k in kept.items() if k['recipe']])
def test_kept_results_are_of_their_recipe(name):
    "A recipe that was changed since would promise numbers that it does not give."
    recipe = Path(__file__).parents[1]/f'nbs/08_jobs/recipes/{kept[name]["recipe"]}.yml'; wanted = {k: v['value'] for k, v in yaml.safe_load(recipe.read_text())['parameters'].items() if k in kept[name]['values']}
    assert wanted and {k: kept[name]['values'][k] for k in wanted} == wanted
