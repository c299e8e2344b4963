"""MindHier as a job on a small copy of NSD's layout, through the runner with tiny networks: both stages, drawings with their controls, both ways of averaging; what was chosen with the answer says so.

The networks are tiny: these tests say that the chain holds together and that its rows say what they are, not how well it draws.
"""
import json
import numpy as np
import pytest
from brainrecon.core.checks import LeakError, ParameterError
from brainrecon.data.embedded import load_embedded
from brainrecon.data.nsd_tree import write_nsd
from brainrecon.data.pictures import load_pictures
from brainrecon.decoders.drawing import load_drawer
from brainrecon.decoders.mindhier import packaged_mindhier
from brainrecon.jobs.draw import Album
from brainrecon.jobs.mindhier import Voxels, check_voxels, fit_lines, fit_sides, open_painting, side_file
from brainrecon.jobs.mindhier_draw import nearest_to_truth
from brainrecon.jobs.pictures import load_pair
from brainrecon.jobs.predictions import load_drawings
from brainrecon.jobs.run import run_job

honest = 'held-out training concepts'

@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    at = tmp_path_factory.mktemp('runs'); write_nsd(at/'nsd')
    return run_job('mindhier/02_generate', out=at/'drawn', data='nsd', root=str(at/'nsd'), valid=.2, copies='flag', axes=32, side_hidden=[32], side_context=4, side_ff=32, side_epochs=2, side_regions='V1 early', beside=['mindeye+prior'], mindeye_hidden=16, mindeye_blocks=1, mindeye_epochs=2, prior_steps=4, drawing_seed=3, depth=1, width=32, draw_steps=6, draw_warmup=2, draw_start=.005, draw_crop=1.125, draw_crops=2, draw_batch_size=16, sample_top_k=50, sample_guidance=1., size=64, measures=['pixcorr'],
        best_of=2, best_by='pixcorr', blend=.25, repeats=['voxels', 'outputs'], device='cpu', show=False, draws=200, seeds=[0])


def test_drawings_say_what_they_are(drawn):
    s = drawn.scores(); rows = [r for r in s['rows'] if r['measure'] == 'pixcorr']; words = [r['what'].replace(', simulated fMRI, Natural Scenes Dataset layout, subject 1', '') for r in rows]; assert s['test_readings'] == 1
    assert words == ['MindHier, voxels averaged', 'MindHier, voxels averaged, blended: 0.75 drawn + 0.25 low-level', 'MindHier, voxels averaged, best of 2, chosen with the answer (by pixcorr)', 'MindHier, outputs averaged', 'MindHier, outputs averaged, blended: 0.75 drawn + 0.25 low-level',
        'MindHier, outputs averaged, best of 2, chosen with the answer (by pixcorr)', 'MindHier, shuffled pairs', 'the low-level drawing alone', 'MindHier, told the levels themselves', "the tokenizer's copy", 'MindEye2-style + prior, voxels averaged', 'MindEye2-style + prior, shuffled pairs']
    by = dict(zip(words, rows))
    for w, r in by.items():
        assert ('CHOSEN WITH THE TRUE IMAGE' in r['flags']) == ('best of' in w) and ('BLENDED' in r['flags']) == ('blended' in w) and ('CEILING' in r['flags']) == (w in words[8:10]) and r['control'] == (w in (words[6], *words[8:10], words[11]))
        assert r['selection'] == (honest + '; the drawing with the answer' if 'best of' in w else '' if 'CEILING' in r['flags'] else honest), w
    assert by[words[2]]['value'] > by[words[0]]['value'] and by["the tokenizer's copy"]['value'] > .8
    gain = [r for r in s['rows'] if r['measure'] == 'gain in pixcorr']; assert len(gain) == 2 and gain[0]['method'] == 'outputs averaged instead of voxels' and gain[0]['value'] == pytest.approx(by[words[3]]['value'] - by[words[0]]['value']) and gain[0]['low'] <= gain[0]['value'] <= gain[0]['high']
    assert gain[1]['method'] == 'MindHier instead of MindEye2-style + prior' and gain[1]['value'] == pytest.approx(by[words[0]]['value'] - by[words[10]]['value']) and any('two chains' in n for n in s['notes'])
    assert any('nobody has them who does not know the answers' in n for n in s['notes']) and any('Blended rows' in n for n in s['notes']) and any('MindHier, Main Results (apart)' in n and 'Not comparable' in n for n in s['notes']) and not any(r['status'] == 'reported by the paper' for r in s['rows'])
    assert {p.stem for p in (drawn.folder/'figures').glob('*.png')} >= {'lot-fmri-s01', 'scales-fmri-s01', 'ranked-fmri-s01', 'scores-pixcorr'}

def test_kept_drawings_are_whole_and_can_be_scored_again(drawn):
    kept = {d.label.removeprefix('fmri-s01-'): d for d in load_drawings(drawn.folder, check=True)}; own, best = kept['MindHier-seed0'], kept['MindHier-seed0-best']; assert len(kept) == 12 and own.drawings.shape == (len(own), 1, 64, 64, 3)
    d = load_drawer(drawn.folder/'drawers'/'fmri-s01'/'MindHier-seed0.safetensors'); assert list(d.brain.config['regions']) == ['V1', 'early', 'other'] and d.account['brain'] == 'given' and d.how['guidance'] == 1. and not (set(own.table.concept) & set(d.about['concepts'])) and json.loads((drawn.folder/'drawing.json').read_text())['MindHier-seed0-control']
    at = drawn.folder/'drawings'; seen, pics, low, names, _ = load_pair(next((at/'shared').glob('originals-*.npy')), next((at/'fmri-s01-MindHier-seed0'/'shared').glob('drawings-*.npy')), next((at/'fmri-s01-low-level'/'shared').glob('drawings-*.npy'))); assert len(seen) == len(pics) == len(low) == len(names) == len(own)
    both = np.concatenate([own.drawings, best.drawings], 1); assert np.array_equal(nearest_to_truth(both, own.originals, 'pixcorr', device='cpu'), best.drawings)      # the best of two is never worse than the first
    assert np.array_equal(np.asarray(kept['MindHier-seed0-blended'].drawings[:, 0]), (.75*own.drawings[:, 0].astype('float32') + .25*kept['low-level'].drawings[:, 0].astype('float32')).round().astype('uint8'))


def test_the_build_job_packs_what_draws(tmp_path):
    "Small sizes, the same job: what it packs is read back, draws, and refuses the concepts that it met."
    run = run_job('build/05_mindhier', out=tmp_path/'run', concepts=12, exemplars=2, per_concept=3, plain=1, mixed=2, d=16, hidden=[32], context=4, align_epochs=2, folds=2, depth=1, width=32, heads=2, draw_steps=6, batch_size=8, device='cpu')
    m = packaged_mindhier(run.folder/'packed', 'cpu'); valid = load_embedded('fmri', 1, snr_db=-6., exemplars=2).valid.average(); measures = [r['measure'] for r in run.scores()['rows']]
    assert m.draw(valid[:2]).shape == (2, 1, 128, 128, 3) and 'each without' in m.account['crossed'] and measures.count('two-way by level') == 4 and len(m.about['concepts']) == 12
    with pytest.raises(LeakError): m.refuse(['airplane'])
    at, same = str(run.folder), dict(encoder='packaged', packed=str(run.folder), axes=16, snr_fmri=-6.); check_voxels(Voxels(**same), [0], side=dict(heads=4), given='packaged')     # a job may name the run
    for wrong, says in (dict(axes=32), 'axes=16 was expected'), (dict(layers='1 3 5 7'), 'layers='), (dict(grid=0), 'grid=4 was expected'):
        with pytest.raises(ParameterError, match=says): check_voxels(Voxels(**same | wrong), [0], side=dict(heads=4))
    held = load_pictures('valid'); train = load_embedded('fmri', 1, snr_db=-6., exemplars=2).train.average(); train = train[np.flatnonzero(np.isin(train.concepts, m.about['concepts']))]; seen = load_pictures('train', exemplars=True); seen = seen[np.flatnonzero(seen.table.picture.isin(set(train.pictures)).to_numpy())]; g = m.gallery_of(seen, held)
    sides = fit_sides(train, valid, g, ['hierarchy'], [0], tmp_path/'sides', controls=False, given=side_file('packaged', 1, at), device='cpu'); painting = open_painting(packed=at, log=lambda t: None)
    line, = fit_lines(sides, train, valid, Album([seen, held], held), g, painting, tmp_path/'drawers', used=(m.target, m.axes), teach=dict(steps=0), device='cpu'); assert line.drawer.how == m.how and np.array_equal(line.drawer.draw(valid[:2]), m.draw(valid[:2]))
