"The job of MindHier's ablations through the runner with tiny networks: every variant, compared with the full one on the same pictures; the paper's numbers apart."
import pytest
from brainrecon.jobs.mindhier_draw import chosen_words, feature_pairs, variants_of
from brainrecon.jobs.run import run_job

data = dict(exemplars=1, snr_fmri=-6., axes=32)
tiny = dict(side_hidden=[32], side_context=4, side_ff=32, side_epochs=2, side_keep='last')
paint = dict(depth=1, width=32, draw_steps=6, draw_batch_size=32, sample_top_k=50, sample_guidance=1., size=64, measures=['pixcorr'])
quick = dict(device='cpu', show=False, draws=200, seeds=[0])


@pytest.fixture(scope='module')
def ablated(tmp_path_factory): return run_job('mindhier/03_ablations', out=tmp_path_factory.mktemp('runs')/'ablated', maps=['2 3 5 7'], levels=4, parts=['single'], **data, **tiny, **quick, **paint)


def test_ablations_are_paired(ablated):
    s = ablated.scores(); value = {(r['method'], r['measure']): r for r in s['rows'] if not r['control']}; assert s['test_readings'] == 1 and {'full, layers 2 3 5 7', 'single feature'} < {m for m, _ in value}
    for v in ('single feature',):
        g = value[f'{v} instead of full', 'gain in pixcorr']; assert g['value'] == pytest.approx(value[v, 'pixcorr']['value'] - value['full, layers 2 3 5 7', 'pixcorr']['value']) and g['low'] <= g['value'] <= g['high'] and g['chance'] == 0 and g['over'] == 'concepts'
    for v in ('full, layers 2 3 5 7', 'single feature'): assert 0 < value[v, 'word loss']['value'] < 1.2*value[v, 'word loss']['chance']
    assert {p.stem for p in (ablated.folder/'fmri-s01'/'sides').iterdir()} == {'2-3-5-7-cascade', '2-3-5-7-terminal'} and {p.name for p in (ablated.folder/'fmri-s01'/'drawers').iterdir()} == {'full', 'single'}
    top = {r['method']: r for r in s['rows'] if r['measure'] == 'top1'}; assert set(top) == {'full, layers 2 3 5 7', 'single feature'} and {r['selection'] for r in s['rows'] if r['measure'].endswith('top1')} == {'last epoch'}      # one feature has a brain side of its own
    assert {r['selection'] for r in s['rows'] if 'pixcorr' in r['measure']} == {'held-out training concepts; stage one: its last epoch'} and any('in two things' in n for n in s['notes']) and any('last epoch kept' in n for n in s['notes'])
    note = next(n for n in s['notes'] if 'Ablation Study: Guidance Direction' in n); assert '(apart)' in note and 'Not comparable' in note and any('belongs to this simulation' in n for n in s['notes'])

def test_words_of_variants():
    words = [v.words for v in variants_of(['8+4m', '2 3 5'], ['single', 'terminal'], {'8+4m': [4, 6, 7], '2 3 5': [2, 3, 5]})]; assert words == ['full, layers 8+4m (4 6 7)', 'single feature', 'terminal supervision', 'layers 2 3 5']
    of = dict(full=['a'], single=['b'], terminal=['c']); assert feature_pairs(of) == [('single feature instead of terminal supervision', ['b'], ['c'])] and feature_pairs(dict(full=['a'], single=['b'])) == []
    assert [chosen_words('best'), chosen_words('last'), chosen_words('best', 'file')] == ['held-out training concepts', 'held-out training concepts; stage one: its last epoch', 'held-out training concepts; stage one as it was given']
