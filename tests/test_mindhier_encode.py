"""Stage one of MindHier as a job, through the runner with tiny networks: brain sides beside their baselines, both ways of averaging, and what the next job takes over.

The networks are tiny: these tests say that the chain holds together and that its rows say what they are, not how well it reads.
"""
import numpy as np
import pytest
from brainrecon.alignment.cascade import load_axes
from brainrecon.core.checks import ParameterError
from brainrecon.jobs.avde import run_before
from brainrecon.jobs.hvf_draw import same_as_aligned
from brainrecon.jobs.mindhier import Voxels, load_sides
from brainrecon.jobs.parameters import find_job
from brainrecon.jobs.predictions import load_predictions
from brainrecon.jobs.run import run_job

honest = 'held-out training concepts'


@pytest.fixture(scope='module')
def encoded(tmp_path_factory):
    return run_job('mindhier/01_encode', out=tmp_path_factory.mktemp('runs')/'encoded', exemplars=1, snr_fmri=-6., axes=32, side_hidden=[32], side_context=4, side_ff=32, side_epochs=2, mindeye_hidden=16, mindeye_blocks=1, mindeye_epochs=2, device='cpu', show=False, draws=200, seeds=[0])


def test_stage_one_beside_its_baselines(encoded):
    s = encoded.scores(); rows = {(r['method'], r['measure'], r['control'], r['what']): r for r in s['rows']}; assert s['test_readings'] == 1 and len(rows) == len(s['rows'])
    assert {r['method'] for r in s['rows']} == {'MindHier', 'MindEye2-style', 'ridge'}
    for m in ('MindHier', 'MindEye2-style', 'ridge'):
        for measure, chance in (('top1', 1/200), ('top5', 5/200), ('two-way, picture', .5)):
            for control in (False, True):
                some = [r for r in s['rows'] if (r['method'], r['measure'], r['control']) == (m, measure, control)]; assert [w for r in some for w in ('voxels averaged', 'outputs averaged') if w in r['what']] == ['voxels averaged', 'outputs averaged']      # both ways, each with its name
                for r in some: assert r['low'] <= r['value'] <= r['high'] and r['chance'] == pytest.approx(chance) and r['over'] == 'concepts' and r['simulated'] and r['selection'] == honest and ('shuffled' in r['what']) == control
    levels = [r for r in s['rows'] if 'level' in r['measure']]; assert [r['measure'] for r in levels] == [f'two-way, level {m}' for m in (1, 2, 3, 4)]*2 and all(r['method'] == 'MindHier' for r in levels)
    ridge = [r['value'] for r in s['rows'] if (r['method'], r['measure'], r['control']) == ('ridge', 'two-way, picture', False)]; lost = [r['value'] for r in s['rows'] if r['measure'].startswith('two-way') and r['control']]; assert min(ridge) > .7 and .35 < min(lost) and max(lost) < .65
    kept = {p.label for p in load_predictions(encoded.folder)}; assert len(kept) == 12 and 'fmri-s01-MindHier-seed0-control-outputs' in kept and any('simulated' in n for n in s['notes'])

def test_the_next_job_takes_over_what_it_left(encoded):
    folder, values = run_before(str(encoded.folder), 'mindhier/01_encode', 'aligned'); sides = load_sides(folder/'sides'/'fmri-s01'); assert [(f.label, f.decoder.shuffled) for f in sides] == [('MindHier-seed0', False), ('MindHier-seed0-control', True)]
    source = Voxels.of(values); recordings = source.load(lambda t: None); source.galleries(recordings, None); kept, own = load_axes(folder/'axes'/'fmri-s01.safetensors'), source.used['fmri', 1][1]; assert kept.unit and kept.width == 32
    for k, v in own.fitted.items(): assert np.array_equal(v, kept.fitted[k]), k
    usual = {p.name: p.value for p in find_job('mindhier/02_generate').parameters}; given = {k: v for k, v in values.items() if k != 'repeats'}; same_as_aligned(given, usual | dict(axes=32, samples=3), 'mindhier/02_generate')
    with pytest.raises(ParameterError, match='axes=16 beside aligned'): same_as_aligned(given, usual | dict(axes=16), 'mindhier/02_generate')
