"How far drawings move: nothing where nothing is left to chance, more with more noise, and a share of how far different responses lie apart."
import numpy as np
import pytest
from brainrecon.core.checks import ParameterError, ShapeError, rng
from brainrecon.data.embedded import load_embedded
from brainrecon.data.pictures import load_pictures
from brainrecon.decoders.drawing import LinearDrawer, MeanDrawer
from brainrecon.metrics.drift import disturbed, drift, picture_distance, show_drift, steady

@pytest.fixture(scope='module')
def drawn():
    "A linear drawer, which has no chance in it, and responses that it has not met."
    splits = load_embedded('fmri', exemplars=1, snr_db=-6.); train, valid = (t.average() for t in (splits.train, splits.valid)); pics = [load_pictures(s, size=32) for s in ('train', 'valid')]
    return LinearDrawer(components=32).fit(train, valid, pics), MeanDrawer().fit(train, valid, pics), valid[:12]

def test_a_drawer_without_chance_moves_with_noise_alone(drawn):
    linear, _, some = drawn; t = drift(linear.draw, some, noise=(0., .2, 1., 5.), seeds=2).set_index(['change', 'noise'])
    assert t.value['again', 0.] == t.value['other seed', 0.] == t.value['noise', 0.] == 0 and t.identical['again', 0.] == t.identical['other seed', 0.] == 1 and (t.n == 12).all()
    moved = t.loc['noise'].value; assert moved.is_monotonic_increasing and 0 < moved[.2] < .5 and moved[5.] > .8 and ((t.low <= t.value) & (t.value <= t.high)).all()

def test_pure_chance_moves_as_far_as_another_response(drawn):
    "Drawings that depend on the seed alone: another seed is another thing, and noise moves nothing."
    def draw(trials, n, seed): return rng(seed).integers(0, 256, (len(trials), n, 16, 16, 3), dtype='uint8')
    t = drift(draw, drawn[2], noise=(1.,), seeds=2).set_index('change'); assert abs(t.value['other seed'] - 1) < .05 and t.identical['other seed'] == 0 and t.value['noise'] == 0 == t.value['again']

def test_noise_is_in_units_of_each_voxel(drawn):
    some = drawn[2]; louder = disturbed(some, 2., 1); by = (np.asarray(louder.x) - some.x).std(0)/np.asarray(some.x).std(0)
    assert abs(by.mean() - 2) < .2 and (np.asarray(disturbed(some, 2., 1).x) == louder.x).all() and not (np.asarray(disturbed(some, 2., 2).x) == louder.x).any() and louder.table.equals(some.table)

def test_what_cannot_be_compared_is_refused(drawn):
    linear, mean, some = drawn; single = load_embedded('fmri', exemplars=1, snr_db=-6.).valid; single = single[np.flatnonzero(single.pictures == single.pictures[0])]
    with pytest.raises(ParameterError, match='of another picture'): drift(linear.draw, single)
    with pytest.raises(ParameterError, match='three or more'): drift(linear.draw, some[:2])
    with pytest.raises(ParameterError, match='the same drawing'): drift(mean.draw, some)
    with pytest.raises(ParameterError, match='seeds'): drift(linear.draw, some, seeds=0)
    with pytest.raises(ParameterError, match='a spread'): drift(linear.draw, some, noise=(-.1,))
    with pytest.raises(ParameterError, match='drawer.draw'): drift(linear, some)
    with pytest.raises(ParameterError, match='single response'): steady(linear.draw, some[:1])       # it has no spread of its own
    with pytest.raises(ShapeError, match='one number for each'): disturbed(some, .1, spread=np.ones(3))
    with pytest.raises(ShapeError, match='Trials'): disturbed(some.x, .1)
    with pytest.raises(ParameterError, match='noise'): drift(linear.draw, some, noise='a')

def test_what_stays(drawn):
    "Mean and spread of drawings of a disturbed response; one response takes the spread of others."
    linear, _, some = drawn; mean, moves = steady(linear.draw, some, .5, 4); assert mean.shape == (12, 32, 32, 3) and moves.shape == (12, 32, 32) and 0 < moves.max() <= 1
    assert not steady(linear.draw, some, 0., 2)[1].any() and steady(linear.draw, some, 2., 4)[1].mean() > moves.mean()
    alone = steady(linear.draw, some[:1], .5, 4, spread=np.asarray(some.x).std(0)); assert alone[1].any()
    assert len(drift(linear.draw, some, .5, 1)) == 3 and (drift(linear.draw, some[:3], .5, 1).low >= 0).all()

def test_distance_of_pictures():
    black, white = np.zeros((2, 4, 4, 3), 'uint8'), np.full((2, 4, 4, 3), 255, 'uint8'); assert (picture_distance(black, white) == 1).all() and (picture_distance(white, white) == 0).all()

def test_figure_shows_noise_and_chance(drawn):
    t = drift(drawn[0].draw, drawn[2], seeds=1); ax = show_drift({'linear': t, 'again': t}).axes[0]
    assert len(ax.get_legend().get_texts()) == 4 and sum(len(l.get_xdata()) == 3 for l in ax.lines) >= 2
