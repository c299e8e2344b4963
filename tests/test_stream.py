"""Streams: what is decoded piece by piece equals what is decoded offline; the queue is bounded; every end is clean; latencies add up.

No test is timed by the clock on the wall: threads wait for one another by events, and latencies are told by a clock that is set by hand.
"""
import json, signal, threading, time
from dataclasses import replace
import mne
import numpy as np
import pandas as pd
import pytest
from brainrecon.core.checks import ChannelError, LeakError, ParameterError, ReconError, ShapeError, UnknownError, ValuesError
from brainrecon.data.replay import Chunk, Clock, Cutter, Forward, Marker, Replay, Source, filter_forward, replay
from brainrecon.data.preproc import fit_whitener
from brainrecon.data.recordings import from_mne
from brainrecon.data.trials import Trials
from brainrecon.decoders.drawing import LinearDrawer
from brainrecon.decoders.retrieval import ContrastiveDecoder, Gallery, RidgeDecoder, cosine, load_decoder
from brainrecon.decoders.stream import Bounded, Seen, parts, policies, run_stream, runs_of, show_latency, show_strip
from brainrecon.jobs.run import RunFailed, run_job
from brainrecon.jobs.stream import answer_rows, latency_rows, session_of

INF = float('inf')
NAMES = ['P7', 'O1', 'Oz', 'O2', 'P8']


def shown(n, first=0, reps=1, c=5, rate=100., tmin=-.2, tmax=.8, names=NAMES, seed=0):
    "Simulated trials: each picture adds its own pattern to noise."
    g = np.random.default_rng(seed); t = round((tmax - tmin)*rate); ids = np.repeat(np.arange(first, first + n), reps)
    pattern = np.random.default_rng(7).normal(size=(200, 5, 8)); pattern = np.repeat(pattern, -(-t//8), 2)[:, :c, :t]
    x = 1e-5*(pattern[ids] + .7*g.normal(size=(len(ids), c, t)))
    words = [f'thing{i:03d}' for i in ids]
    return Trials(x.astype('float32'), names[:c], dict(picture=words, concept=words, trial=np.arange(len(ids)) + 1000*first), 'eeg', rate, tmin, dict(unit='V', simulated=True, recording='made'))


def places(n=200, d=6): return Gallery(np.random.default_rng(3).normal(size=(n, d)).astype('float32'), [f'thing{i:03d}' for i in range(n)], [f'thing{i:03d}' for i in range(n)])


def prepared(t, sfreq=50., window=(0., .6)): return t.resample(sfreq).window(*window)


@pytest.fixture(scope='module')
def gallery(): return places()

@pytest.fixture(scope='module')
def decoder(gallery): return RidgeDecoder([1e1, 1e3]).fit(prepared(shown(60, 0, 2)), prepared(shown(10, 60, 2)), gallery)

@pytest.fixture(scope='module')
def candidates(gallery): return gallery[slice(100, 140)]

@pytest.fixture(scope='module')
def session(): return shown(30, 100, seed=5)

@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t for t in threading.enumerate() if t.name == 'brainrecon-reader'], 'a reader outlived its loop'


def same_as_offline(seen, decoder, candidates, trials):
    "Names, scores and margins of a stream beside those of the whole recording."
    sim = cosine(decoder.embed(trials), decoder.place(candidates)); t = seen.table
    assert len(t) == len(trials) and t.names.tolist() == decoder.retrieve(trials, candidates, len(t.names[0]))
    np.testing.assert_allclose(t.score, sim.max(1), atol=2e-6); np.testing.assert_allclose(t.margin, np.sort(sim)[:, -1] - np.sort(sim)[:, -2], atol=2e-6)


# equal to offline

@pytest.mark.parametrize('chunk', [.01, .07, .5, 100.])
def test_trials_equal_offline(decoder, candidates, session, chunk):
    seen = run_stream(replay(session, INF, chunk), decoder, candidates, drop='wait'); same_as_offline(seen, decoder, candidates, prepared(session))
    assert seen.table.picture.tolist() == session.pictures.tolist() and seen.table.number.tolist() == list(range(30)) and seen.ended == 'the source ended' and str(seen).startswith('30 answers to 30 markers')


def test_means_of_presentations_equal_offline(decoder, candidates):
    many = shown(6, 100, 5, seed=2); seen = run_stream(replay(many, INF), decoder, candidates, drop='wait', average=5); t = seen.table
    assert t.n_averaged.tolist() == [1, 2, 3, 4, 5]*6 and len(runs_of(seen)) == 6
    last = Seen(seen.candidates, answers=[a for a in seen.answers if a['n_averaged'] == 5]); same_as_offline(last, decoder, candidates, prepared(many.average()))
    two = Seen(seen.candidates, answers=[a for a in seen.answers if a['n_averaged'] == 2]); same_as_offline(two, decoder, candidates, prepared(many[[i + 5*k for k in range(6) for i in (0, 1)]].average()))
    some = run_stream(replay(many, INF), decoder, candidates, drop='wait', average=3).table; assert some.n_averaged.tolist() == [1, 2, 3, 3, 3]*6


def raw_of(trials, rate, seed=0, names=None):
    "A continuous recording with a table of events between noise, channels in another order beside an eye channel."
    g = np.random.default_rng(seed); b, c, t = trials.x.shape; gap = 37; x = 1e-5*g.normal(size=(c, b*(t + gap) + 300)).cumsum(1)*.05; rows = []
    for i in range(b):
        at = 150 + i*(t + gap); x[:, at:at+t] += trials.x[i]; rows.append(dict(onset=at/rate - trials.tmin, stimulus=trials.pictures[i], concept=trials.concepts[i]))
    rows.insert(3, dict(onset=rows[2]['onset'] + .31, stimulus=None, concept=None)); order = [3, 0, 4, 1, 2]
    info = mne.create_info([trials.names[i] for i in order] + ['EOG'], rate, ['eeg']*c + ['eog'])
    return mne.io.RawArray(np.vstack([x[order], g.normal(size=x.shape[1])*1e-4]), info, verbose='error'), pd.DataFrame(rows)


@pytest.mark.parametrize('baseline', [None, (None, 0), (-.1, -.02)])
@pytest.mark.parametrize('rate', [100., 250.])
def test_a_continuous_recording_equals_offline(decoder, candidates, baseline, rate):
    raw, table = raw_of(shown(12, 100, rate=rate, seed=4), rate)
    offline = prepared(from_mne(raw, table=table, tmin=-.2, tmax=.8, baseline=baseline)); source = replay(raw, INF, .013, table=table)
    seen = run_stream(source, decoder, candidates, (-.2, .8), baseline=baseline, drop='wait'); same_as_offline(seen, decoder, candidates, offline)
    assert source.names[0] == 'O2' and source.unit == 'V' and seen.table.start.iloc[0] == pytest.approx(150/rate) and seen.markers == 12


def test_a_file_its_epochs_and_annotations(decoder, candidates, tmp_path):
    raw, table = raw_of(shown(8, 100, seed=4), 100.); table = table.dropna(); raw.save(tmp_path/'s-raw.fif', verbose='error'); same = dict(drop='wait', log=None)
    want = run_stream(replay(raw, INF, table=table), decoder, candidates, (-.2, .8), **same).table[['names', 'score']]
    noted = raw.copy().set_annotations(mne.Annotations([*table.onset, 1.], .1, [*table.stimulus, 'BAD_jump'])); events = np.stack([np.round(table.onset*100).astype(int), 0*table.index, table.index + 1], 1)
    for source in (replay(tmp_path/'s-raw.fif', INF, table=table), replay(noted, INF)):
        got = run_stream(source, decoder, candidates, (-.2, .8), **same).table; assert got.names.tolist() == want.names.tolist(); np.testing.assert_allclose(got.score, want.score, atol=1e-5)
    ep = mne.Epochs(raw, events, tmin=-.2, tmax=.79, baseline=None, preload=True, metadata=table, verbose='error').pick('eeg')
    assert run_stream(replay(ep, INF), decoder, candidates, **same).table.names.tolist() == want.names.tolist()
    assert [m.label for m in replay(raw, INF, events=events).markers] == [str(c) for c in events[:, 2]]


def test_projections_and_bad_channels_as_offline(decoder, candidates):
    raw, table = raw_of(shown(8, 100, seed=4), 100.); raw.set_eeg_reference(projection=True, verbose='error')
    offline = prepared(from_mne(raw, table=table, baseline=(None, 0))); seen = run_stream(replay(raw, INF, table=table), decoder, candidates, (-.2, .8), baseline=(None, 0), drop='wait'); same_as_offline(seen, decoder, candidates, offline)
    raw.info['bads'] = ['P7']
    with pytest.raises(ChannelError, match='marked as bad'): replay(raw, INF, table=table)
    with pytest.raises(ChannelError, match='1 of 5 channels'): run_stream(replay(raw, INF, table=table, bads='drop'), decoder, candidates, (-.2, .8))


@pytest.mark.parametrize('band', [(1, 20), (None, 20), (.5, None)])
def test_a_filter_that_looks_back_equals_offline(decoder, candidates, band):
    raw, table = raw_of(shown(10, 100, seed=4), 100.)
    offline = prepared(from_mne(filter_forward(raw, band), table=table, baseline=None)); seen = run_stream(replay(raw, INF, .03, table=table), decoder, candidates, (-.2, .8), band=band, drop='wait')
    same_as_offline(seen, decoder, candidates, offline); plain = run_stream(replay(raw, INF, table=table), decoder, candidates, (-.2, .8), drop='wait')
    assert not np.allclose(plain.table.score, seen.table.score, atol=1e-4)


def test_the_filter_never_sees_the_future():
    g = np.random.default_rng(0); x = g.normal(size=(2, 400)); y = x.copy(); y[:, 200:] = g.normal(size=(2, 200))
    assert np.array_equal(Forward((1, 20), 100)(x)[:, :200], Forward((1, 20), 100)(y)[:, :200])
    flat = Forward((None, 20), 100)(np.full((2, 50), 3.)); np.testing.assert_allclose(flat, 3.)


def test_own_steps_before_resampling(gallery, candidates, session):
    train, valid = shown(60, 0, 4), shown(10, 60, 4); train, valid = (replace(t, table=t.table.assign(subject=1, session=1)) for t in (train, valid)); whiten = fit_whitener(train)
    own = RidgeDecoder([1e1]).fit(prepared(whiten(train).average()), prepared(whiten(valid).average()), gallery)
    seen = run_stream(replay(session, INF), own, candidates, steps=[whiten], who=dict(subject=1, session=1), drop='wait'); same_as_offline(seen, own, candidates, prepared(whiten(session)))
    with pytest.raises(UnknownError, match='was not whitened'): run_stream(replay(session, INF), own, candidates, steps=[whiten], who=dict(subject=1, session=2))


def test_other_decoders_and_a_file(gallery, candidates, session, tmp_path):
    net = ContrastiveDecoder(steps=5, batch_size=16, axes=0).fit(prepared(shown(60, 0, 2)), prepared(shown(10, 60, 2)), gallery, device='cpu')
    same_as_offline(run_stream(replay(session, INF), load_decoder(net.save(tmp_path/'n.safetensors')), candidates, drop='wait'), net, candidates, prepared(session))


def test_drawings_come_each_so_many_epochs(decoder, candidates, session):
    from brainrecon.data.pictures import Pictures
    img = np.random.default_rng(0).integers(0, 255, (200, 16, 16, 3), 'uint8'); names = [f'thing{i:03d}' for i in range(200)]
    pics = Pictures(img, pd.DataFrame(dict(picture=names, name=names, concept=names, split='train', exemplar=0, group='g')))
    drawer = LinearDrawer(size=4, components=5).fit(prepared(shown(60, 0, 2)), prepared(shown(10, 60, 2)), pics); seen = run_stream(replay(session, INF), decoder, candidates, drop='wait', drawer=drawer, every=7)
    assert list(seen.drawings) == [6, 13, 20, 27] and seen.table.draw.notna().sum() == 4
    assert all(np.array_equal(seen.drawings[i], drawer.draw(prepared(session)[i], 1)[0, 0]) for i in seen.drawings)      # ridge has nothing random, so names do not matter
    assert len(show_strip(seen, pics, n=30).axes) == 90 and len(show_strip(seen, pics, n=5).axes) == 10


def test_the_decoder_is_not_told_what_was_shown(decoder, candidates, session):
    class Curious(RidgeDecoder):
        kind = 'curious'
        def embed(self, trials): told.append((trials.pictures[0], trials.concepts[0])); return super().embed(trials)
    told, d = [], Curious(); d.__dict__.update(decoder.__dict__); run_stream(replay(session, INF), d, candidates, drop='wait')
    assert told[1:] == [(f'epoch {i}', 'not told') for i in range(30)]


@pytest.mark.parametrize('first', [0., 1.5])
def test_epochs_in_bad_stretches(decoder, candidates, first):
    "Answered, as an amplifier's would be; or dropped, the same ones as offline, wherever the recording begins and whatever the edges are."
    raw, table = raw_of(shown(12, 100, seed=4), 100.); starts = (table.dropna().onset - .2).tolist()
    raw.set_annotations(mne.Annotations([starts[2] + .4, starts[5] + 1., starts[8] - .5, starts[10] - .005, 0.], [.1, .05, .5, .01, .2], ['BAD_cough', 'bad blink', 'BAD', 'Bad_edge', 'rest']))
    if first: raw, table = raw.crop(first), table[table.onset > first + .3].assign(onset=lambda t: t.onset - first)
    offline = prepared(from_mne(raw, table=table, baseline=None)); source = replay(raw, INF, .03, table=table); same = dict(drop='wait')
    seen = run_stream(source, decoder, candidates, (-.2, .8), stretches='drop', **same); same_as_offline(seen, decoder, candidates, offline)
    every = run_stream(source, decoder, candidates, (-.2, .8), **same); n = table.stimulus.notna().sum(); assert len(every) == n > len(seen) and seen.lost == {'marked as bad': n - len(offline)} and not every.lost
    by = {r['measure']: r['value'] for r in latency_rows(seen, 'x', True)}; assert by['epochs marked as bad, not answered'] == n - len(offline) and by['epochs that were never whole'] == 0


def test_a_filter_that_looks_ahead_is_refused_by_name(gallery, candidates, tmp_path):
    "The trials know, the decoder remembers, its file too; a stream of the same trials is let through."
    raw, table = raw_of(shown(60, 0, seed=4), 100.); more, rows = raw_of(shown(10, 60, seed=5), 100.); how = dict(band=(.5, 30), baseline=None); learn, valid = from_mne(raw, table=table, **how), from_mne(more, table=rows, **how)
    assert learn.provenance['filtered'] == dict(band=[.5, 30], phase='zero') and 'both directions' in learn.provenance['steps'][0] and 'filtered' not in from_mne(raw, table=table).provenance
    ahead = load_decoder(RidgeDecoder([1e1]).fit(prepared(learn), prepared(valid), gallery).save(tmp_path/'ahead.safetensors')); test, at = raw_of(shown(6, 100, seed=6), 100.); source = replay(test, INF, table=at)
    for band, here in ((None, 'not filtered'), ((.5, 30), 'forwards only')):
        with pytest.raises(ParameterError, match='both directions') as e: run_stream(source, ahead, candidates, (-.2, .8), band=band)
        assert here in str(e.value) and 'filter_forward' in e.value.do and "filtered='flag'" in e.value.do
    seen = run_stream(source, ahead, candidates, (-.2, .8), band=(.5, 30), filtered='flag', drop='wait'); assert len(seen) == 6 and 'NOT AS TRAINED' in seen.flags[0]
    offline = from_mne(test, table=at, **how); same = run_stream(replay(offline, INF), ahead, candidates, drop='wait'); same_as_offline(same, ahead, candidates, prepared(offline)); assert same.flags == []


# the queue

class Gated(Replay):
    "After the first epoch it waits until that is being decoded; when all is read, the decoder may go on."
    def __iter__(self):
        for i, c in enumerate(super().__iter__()):
            if i == 1: assert self.slow.begun.wait(30)
            yield c
        self.slow.go.set()

class Slow(RidgeDecoder):
    "The first answer takes until the whole source has been read."
    kind = 'slow'
    def __init__(self, like): self.__dict__.update(like.__dict__); self.begun, self.go = threading.Event(), threading.Event()
    def embed(self, trials):
        if trials.pictures[0] == 'epoch 0': self.begun.set(); assert self.go.wait(30)
        return super().embed(trials)

def gated(decoder, session):
    source = replay(session, INF, session.x.shape[-1]/session.sfreq); source.__class__, source.slow = Gated, Slow(decoder); return source, source.slow


@pytest.mark.parametrize('drop, kept', [('oldest', [0, 27, 28, 29]), ('newest', [0, 1, 2, 3])])
def test_a_full_queue_drops_what_was_said(decoder, candidates, session, drop, kept):
    source, slow = gated(decoder, session); seen = run_stream(source, slow, candidates, size=3, drop=drop)
    assert seen.table.number.tolist() == kept and seen.dropped == [i for i in range(30) if i not in kept] and seen.waited == 3 == seen.size
    assert seen.markers == 30 == len(seen) + len(seen.dropped) and '26 dropped by a full queue' in str(seen)
    np.testing.assert_allclose(seen.table.score, run_stream(replay(session, INF), decoder, candidates, drop='wait').table.score.iloc[kept])


def test_waiting_drops_nothing_and_keeps_the_bound(decoder, candidates, session):
    held, most = [], []
    class Watching(RidgeDecoder):
        kind = 'watching'
        def embed(self, trials): most.append(read[-1] if read else 0); return super().embed(trials)
    read = []
    class Counting(Replay):
        def __iter__(self):
            for i, c in enumerate(super().__iter__()): read.append(i); yield c
    d = Watching(); d.__dict__.update(decoder.__dict__); source = replay(session, INF, 1.); source.__class__ = Counting; seen = run_stream(source, d, candidates, size=2, drop='wait')
    assert seen.table.number.tolist() == list(range(30)) and not seen.dropped and seen.waited <= 2
    assert all(r <= i + 4 for i, r in enumerate(most[1:]))      # decoded, two that wait, one in the hand of the reader, one that it asks for


def test_the_queue_by_itself():
    for drop, want in (('oldest', [4, 5]), ('newest', [0, 1])):
        q = Bounded(2, drop); [q.put(i) for i in range(6)]; q.finish(); assert list(q) == want and sorted(q.dropped + want) == list(range(6)) and not q.put(9)
    q = Bounded(1, 'wait'); q.put(0); blocked = threading.Thread(target=q.put, args=(1,)); blocked.start(); q.finish(); blocked.join(30); assert not blocked.is_alive() and list(q) == [0]
    q = Bounded(2); q.put(1); q.finish(ValueError('broken')); assert next(q) == 1
    with pytest.raises(ValueError, match='broken'): next(q)
    for bad in (dict(size=0), dict(size=True), dict(drop='all')):
        with pytest.raises(ParameterError): Bounded(**bad)


# latencies

class ByHand(Clock):
    "Moves only when it is told to."
    def __init__(self): self.t = 100.
    def now(self): return self.t
    def wait(self, event, seconds): self.t += seconds; return event.is_set()

def test_latencies_are_those_of_the_clock_and_add_up(decoder, candidates, session):
    "Everything has come at once, and each answer takes 30 ms: the tenth waits for nine others."
    clock = ByHand(); source, slow = gated(decoder, session[:10]); embed = slow.embed
    def taking(trials): out = embed(trials); clock.t += .030*(trials.pictures[0] != 'epoch -1'); return out
    slow.embed = taking; seen = run_stream(source, slow, candidates, size=20, clock=clock); t = seen.table
    np.testing.assert_allclose(t.latency, .030*np.arange(1, 11), atol=1e-9); np.testing.assert_allclose(t.decode, .030, atol=1e-9); np.testing.assert_allclose(t.wait, .030*np.arange(10), atol=1e-9)
    assert (t[['read', 'prepare']] == 0).all().all() and seen.latency() == pytest.approx(dict(median=.165, p99=.2973, most=.3, n=10)) and seen.latency('decode')['median'] == pytest.approx(.03)


def test_measured_latencies_are_monotonic_and_add_up(decoder, candidates, session):
    assert time.get_clock_info('perf_counter').monotonic and Clock().now() <= Clock().now()
    t = run_stream(replay(session, INF), decoder, candidates, drop='wait').table
    assert (t[list(parts)] >= 0).all().all() and np.allclose(t[list(parts)].sum(axis=1), t.latency, rtol=0, atol=1e-9) and (t.latency > 0).all()


def test_a_paced_replay_tells_when_samples_were_due():
    "Who reads late is told so: the arrival is when the last sample had been recorded, at the pace that was asked for."
    clock = ByHand(); source = replay(shown(3, 100), 2., .25, clock=clock); came = []
    for i, c in enumerate(source): came.append((c.arrived, clock.t)); clock.t += 1. if i == 3 else 0.
    np.testing.assert_allclose([a for a, _ in came], 100 + .125*np.arange(1, 13)); late = np.array([t - a for a, t in came])
    assert (late[:4] < 1e-9).all() and late[4] == pytest.approx(.875) and (np.diff(late[4:]) <= 1e-9).all() and late[-1] == pytest.approx(0)


def test_falling_behind_shows_in_the_latency(decoder, candidates, session):
    "A reader that waits for a slow decoder hides nothing: samples count from when they were due."
    clock = ByHand(); source = replay(session[:4], 1., 1., clock=clock); cutter = Cutter(source, -.2, .8); late = []
    for c in source:
        for e in cutter(c, clock.now()): clock.t += 3.; late.append(clock.now() - e.arrived)
    np.testing.assert_allclose(late, [3, 5, 7, 9])


# ends

def test_it_ends_after_as_many_as_were_asked_for(decoder, candidates, session):
    clock = ByHand(); seen = run_stream(replay(session, 1e-3, 1., clock=clock), decoder, candidates, most=3, drop='wait', clock=clock); assert seen.table.number.tolist() == [0, 1, 2] and seen.ended == 'as many as were asked for' and seen.pace == 1e-3


def endless(session):
    "A source that waits for ever after its second epoch, until it is closed."
    source = replay(session, INF, 1.)
    class Endless(Replay):
        def __iter__(self):
            for i, c in enumerate(super().__iter__()):
                if i == 2: assert self.stop.wait(30); return
                yield c
    source.__class__ = Endless; return source


def test_an_error_of_the_decoder_ends_the_reader(decoder, candidates, session):
    class Breaks(RidgeDecoder):
        kind = 'breaks'
        def embed(self, trials):
            if trials.pictures[0] == 'epoch 1': raise RuntimeError('the graphics card is gone')
            return super().embed(trials)
    d = Breaks(); d.__dict__.update(decoder.__dict__)
    for source in (endless(session), replay(session, INF)):
        with pytest.raises(RuntimeError, match='graphics card') as e: run_stream(source, d, candidates, size=1, drop='wait')
        assert e.value.seen.table.number.tolist() == [0] and e.value.seen.ended == 'broke: RuntimeError' and '1 epochs had been answered' in e.value.__notes__[0]


def test_an_error_of_the_source_comes_after_what_was_whole(decoder, candidates, session):
    class Broken(Replay):
        def __iter__(self):
            for i, c in enumerate(super().__iter__()):
                if i == 4: raise OSError('cable')
                yield c
    source = replay(session, INF, 1.); source.__class__ = Broken
    with pytest.raises(OSError, match='cable') as e: run_stream(source, decoder, candidates)
    assert e.value.seen.table.number.tolist() == [0, 1, 2, 3] and e.value.seen.unanswered == 0


def test_ctrl_c_keeps_what_was_answered(decoder, candidates, session):
    "A real signal to the main thread, while it waits for a source that gives nothing."
    source = endless(session); came = threading.Event()
    def press(row):
        if row['number'] == 1: threading.Thread(target=lambda: (came.wait(30), signal.raise_signal(signal.SIGINT)), daemon=True).start(); came.set()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try: seen = run_stream(source, decoder, candidates, each=press)
    finally: signal.signal(signal.SIGINT, before)
    assert seen.ended == 'stopped by hand' and len(seen) == 2


def test_a_source_that_cannot_be_ended_is_told(decoder, candidates, session):
    source = replay(session, INF, 1.); waits, end = threading.Event(), threading.Event()
    class Deaf(Replay):
        def __iter__(self):
            for i, c in enumerate(super().__iter__()):
                if i == 2: waits.set(); end.wait(30)
                yield c
    source.__class__ = Deaf; reached = lambda row: row['number'] < 1 or waits.wait(30)   # not before the reader waits
    with pytest.raises(ParameterError, match='did not end') as e: run_stream(source, decoder, candidates, most=2, patience=.05, each=reached)
    assert len(e.value.seen) == 2; end.set(); [t.join(30) for t in threading.enumerate() if t.name == 'brainrecon-reader']


def test_what_is_said_at_the_end(decoder, candidates, session):
    lines, rows = [], []; seen = run_stream(replay(session[:3], INF), decoder, candidates, each=rows.append, log=lines.append); assert lines == [str(seen)] and rows == seen.answers


# cutting

def test_epochs_are_cut_wherever_chunks_end(session):
    whole = {i: x for i, x in enumerate(np.asarray(session.x, 'float64'))}; g = np.random.default_rng(1); source = replay(session, INF, .01); x = np.concatenate([c.x for c in source], 1); times = np.arange(x.shape[1])/100
    for round_ in range(20):
        ends = np.unique(np.r_[0, g.integers(0, x.shape[1], g.integers(1, 80)), x.shape[1]]); cutter = Cutter(source, -.2, .8, buffer=g.uniform(1, 4)); got = []
        for i, j in zip(ends, ends[1:]): got += cutter(Chunk(x[:, i:j], times[i:j], tuple(m for m in source.markers if i <= m.time*100 < j)))
        assert [e.number for e in got] == list(range(30)) and all(np.array_equal(e.x, whole[e.number]) for e in got) and not cutter.end()


def test_late_and_early_markers(session):
    source = replay(session, INF, .1); cutter = Cutter(source, -.2, .8, buffer=3.); got = []; pieces = list(source)
    for i, c in enumerate(pieces): got += cutter(Chunk(c.x, c.times, tuple(m for m in source.markers if i == min(round(m.time*10) + (12 if m.row % 2 else -2), len(pieces) - 1))))
    assert sorted(e.marker.row for e in got) == list(range(30)) and all(np.array_equal(e.x, session.x[e.marker.row]) for e in got)


def test_stamps_that_drift_or_tremble_are_followed(session):
    "An amplifier of 100.02 Hz, with stamps a tenth of a sample unsure: markers find the nearest sample."
    source = replay(session, INF, .1); g = np.random.default_rng(0); cutter = Cutter(source, -.2, .8); got = []
    for c in source:
        times = c.times/1.0002 + g.uniform(-1e-3, 1e-3, len(c.times)); got += cutter(Chunk(c.x, times, tuple(replace(m, time=m.time/1.0002) for m in c.markers)))
    assert len(got) == 30 and all(np.array_equal(e.x, session.x[e.number]) for e in got)


def test_gaps_are_told_or_counted(decoder, candidates, session):
    class Lossy(Replay):
        def __iter__(self):
            for c in super().__iter__(): keep = (c.times < 5.5) | (c.times >= 8.25); yield Chunk(c.x[:, keep], c.times[keep], c.markers)
    source = replay(session, INF, .07); source.__class__ = Lossy
    with pytest.raises(ValuesError, match=r'jump at 8.250 s, by 2.76 s') as e: run_stream(source, decoder, candidates, drop='wait')
    assert len(e.value.seen) == 5
    seen = run_stream(source, decoder, candidates, drop='wait', gaps='drop'); assert seen.lost == {'cut by a gap': 4} and [n for n in range(30) if n not in seen.table.number.tolist()] == [5, 6, 7, 8]
    same_as_offline(seen, decoder, candidates, prepared(session[seen.table.number.tolist()]))


def test_a_clock_that_jumps_back_is_a_gap(session):
    source = replay(session, INF, .1); cutter = Cutter(source, -.2, .8); first, *_ = source; cutter(first)
    with pytest.raises(ValuesError, match='jump'): cutter(first)


def test_ends_of_the_recording(decoder, candidates, session):
    source = replay(session, INF); seen = run_stream(source, decoder, candidates, (-.5, .9), drop='wait')
    assert seen.lost == {'before the first sample': 1, 'cut by the end': 1} and len(seen) == 28 and seen.markers == 30


# what is refused

def bare(**other):
    "A source that says what it is told to say."
    s = replay(shown(2, 100), INF); [setattr(s, k, v) for k, v in other.items()]; return s

@pytest.mark.parametrize('make, error, says', [
    (lambda d, c: run_stream(bare(), RidgeDecoder(), c), UnknownError, 'not learned anything'),
    (lambda d, c: run_stream(bare(kind='meg'), d, c), ShapeError, 'gives MEG'),
    (lambda d, c: run_stream(bare(kind='fmri'), d, c), ShapeError, "kind 'fmri'"),
    (lambda d, c: run_stream(bare(names=['P7', 'O1', 'oz', 'O2', 'P8']), d, c), ChannelError, "'Oz' -> 'oz'"),
    (lambda d, c: run_stream(bare(sfreq=40.), d, c), ShapeError, 'has 40 Hz'),
    (lambda d, c: run_stream(bare(unit='uV'), d, c), ValuesError, 'Multiply the numbers by 0.000001'),
    (lambda d, c: run_stream(bare(span=None), d, c), ParameterError, 'cut=None'),
    (lambda d, c: run_stream(bare(), d, c, (.1, .8)), ShapeError, 'reads 0 to 0.6 s'),
    (lambda d, c: run_stream(bare(), d, c, buffer=.5), ParameterError, 'longer than the buffer'),
    (lambda d, c: run_stream(bare(), d, c, baseline=(-.5, 0)), ShapeError, 'baseline'),
    (lambda d, c: run_stream(bare(), d, c, k=41), ParameterError, 'k=41'),
    (lambda d, c: run_stream(bare(), d, c, average=0), ParameterError, 'average=0'),
    (lambda d, c: run_stream(bare(), d, c, band=(1, 60)), ParameterError, 'below 50 Hz'),
    (lambda d, c: run_stream(bare(), d, c, drop='first'), ParameterError, 'oldest'),
    (lambda d, c: run_stream(bare(), d, places(20, 9)), ShapeError, '9 wide'),
    (lambda d, c: run_stream(object(), d, c, (-.2, .8)), ParameterError, 'has no names'),
    (lambda d, c: replay(shown(2, 100), -1), ParameterError, 'speed=-1'),
    (lambda d, c: replay('nowhere-raw.fif'), ReconError, 'no file'),
])
def test_refused_before_the_first_sample(decoder, candidates, make, error, says):
    with pytest.raises(error, match=says) as e: make(decoder, candidates)
    assert e.value.do and not hasattr(e.value, 'seen')


def test_fmri_and_mute_streams(gallery, decoder, candidates, session):
    voxels = Trials(np.random.default_rng(0).normal(size=(40, 9)), [f'v{i}' for i in range(9)], dict(picture=[f'thing{i:03d}' for i in range(40)], concept=[f'thing{i:03d}' for i in range(40)]), 'fmri')
    with pytest.raises(ShapeError, match='trained on fMRI'): run_stream(replay(session, INF), RidgeDecoder([10.]).fit(voxels[:30], voxels[30:], gallery), candidates)
    with pytest.raises(ShapeError, match='no samples in time'): replay(voxels)
    class Mute(Replay):
        def __iter__(self):
            for c in super().__iter__(): yield Chunk(c.x, c.times)
    source = replay(session, INF); source.__class__ = Mute
    with pytest.raises(UnknownError, match='3000 samples came, and no marker') as e: run_stream(source, decoder, candidates)
    assert len(e.value.seen) == 0
    with pytest.raises(UnknownError, match='no answer'): e.value.seen.latency()
    nan = shown(3, 100); source = replay(nan, INF, 1.); read = source.read; source.read = lambda i, j: read(i, j)*(np.nan if i == 100 else 1.)
    with pytest.raises(ValuesError, match='not finite') as e: run_stream(source, decoder, candidates)
    assert len(e.value.seen) == 1


# rows, figures, the job

def test_rows_and_figures(decoder, candidates, session):
    seen = run_stream(replay(session, INF), decoder, candidates, drop='wait'); rows = answer_rows(seen, 'x', True)
    assert [r['measure'] for r in rows] == ['top1', 'top5'] and rows[0]['chance'] == 1/40 and rows[0]['low'] <= rows[0]['value'] <= rows[0]['high'] and rows[0]['n'] == 30 and rows[0]['candidates'] == 40
    assert rows[0]['value'] == np.mean([a['names'][0] == a['picture'] for a in seen.answers]) and rows[1]['value'] == np.mean([a['picture'] in a['names'] for a in seen.answers])
    by = {r['measure']: r for r in latency_rows(seen, 'x', True, budget=1e-9)}; v = 1e3*seen.table.latency
    assert by['latency, median (ms)']['value'] == pytest.approx(np.median(v)) and by['latency, longest (ms)']['value'] == pytest.approx(v.max()) and by['latency, 99th percentile (ms)']['value'] == pytest.approx(np.quantile(v, .99))
    assert by['answers within 1e-06 ms']['value'] == 0 and by['answers']['value'] == 30 and 'amplifier' in by['latency, median (ms)']['note'] and 'whole queue' in by['latency, median (ms)']['note']
    assert len(show_latency(seen, .1).axes) == 1
    strange = replay(shown(3, 150), INF); seen = run_stream(strange, decoder, candidates, drop='wait'); assert seen.table['rank'].isna().all() and answer_rows(seen, 'x', True) == []     # no candidate can be right


def test_sessions(session):
    many = shown(10, 100, 4); s = session_of(many, 5, 3, seed=1); assert len(s) == 15 and all(len(set(s.pictures[i:i+3])) == 1 for i in range(0, 15, 3)) and np.array_equal(s.x, session_of(many, 5, 3, seed=1).x)
    for bad in ((11, 1), (3, 5), (0, 1)):
        with pytest.raises(ParameterError): session_of(many, *bad)


quick = dict(speed=0, drop='wait', device='cpu', show=False)

@pytest.fixture(scope='module')
def done(tmp_path_factory): return run_job('stream/01_replay', out=tmp_path_factory.mktemp('runs')/'s', n_pictures=4, times=3, controls=2, drawer='linear', every=3, **quick)

def test_the_job_keeps_answers_and_latencies(done):
    rows = done.scores()['rows']; kept = json.loads((done.folder/'latencies.json').read_text()); by = {(r['measure'], r['control']): r for r in rows}
    assert kept['markers'] == 12 == len(kept['answers']) and kept['clock'].startswith('time.perf_counter') and kept['speed'] is None and kept['simulated'] is True
    assert all(abs(sum(a[p] for p in parts) - a['latency']) < 1e-9 for a in kept['answers']) and by['latency, median (ms)', False]['value'] == pytest.approx(1e3*np.median([a['latency'] for a in kept['answers']]))
    assert by['top1', False]['n'] == 4 and by['top1', True]['candidates'] == 200 and by['top1', True]['seeds'] == [0, 1] and by['top1', False]['seeds'] == [0] and all(r['simulated'] for r in rows) and done.scores()['test_readings'] == 1
    assert {p.stem for p in (done.folder/'figures').glob('*.png')} == {'latency', 'strip'} and sum(a['draw'] is not None for a in kept['answers']) == 4
    assert 'amplifier' in (done.folder/'report.html').read_text()

def test_the_job_streams_what_it_would_decode_offline(done):
    from brainrecon.data.embedded import load_embedded
    from brainrecon.data.pictures import load_pictures
    from brainrecon.decoders.retrieval import make_gallery
    kept = [a for a in json.loads((done.folder/'latencies.json').read_text())['answers'] if a['n_averaged'] == 3]; test = session_of(load_embedded('eeg', 1).test.open('a comparison'), 4, 3)
    d = load_decoder(done.folder/'decoders'/'eeg'/'ridge-seed0.safetensors'); assert [a['names'] for a in kept] == d.retrieve(test.average().resample(50).window(0, .8), make_gallery(load_pictures('test')), 5)

def test_the_job_reads_your_own(tmp_path, done):
    "A .fif with a table, a folder of pictures, a saved decoder."
    from brainrecon.data.pictures import load_pictures
    from brainrecon.data.recordings_tree import lay_out, write_pictures
    from brainrecon.data.simulated_meeg import simulate_eeg
    pics = load_pictures('test')[:6]; write_pictures(tmp_path/'stimuli'/'pictures', pics); t = simulate_eeg(pics, reps=2, snr_db=0, sfreq=200); x, events = lay_out(t)
    mne.io.RawArray(x, mne.create_info(t.names, 200, 'eeg'), verbose='error').save(tmp_path/'me-raw.fif', verbose='error'); events.to_csv(tmp_path/'me.tsv', sep='\t', index=False)
    own = dict(recording=str(tmp_path/'me-raw.fif'), events=str(tmp_path/'me.tsv'), picture='stim_file', decoder=str(done.folder/'decoders'/'eeg'/'ridge-seed0.safetensors'), pictures=str(tmp_path/'stimuli'), simulated=True, **quick)      # `average` is left to the recording
    run = run_job('stream/01_replay', out=tmp_path/'run', cut=[-.2, 1.], baseline=[-.2, 0.], **own); s = run.scores(); kept = json.loads((run.folder/'latencies.json').read_text())
    assert len(kept['answers']) == 12 and kept['candidates'] == 6 and s['test_readings'] is None and 'me-raw.fif' in s['rows'][0]['what'] and s['rows'][0]['flags'] == []
    assert all(a['n_averaged'] == 1 for a in kept['answers'])
    with pytest.raises(RunFailed, match='cut=None'): run_job('stream/01_replay', out=tmp_path/'uncut', **own)
    with pytest.raises(RunFailed, match='decoder is empty'): run_job('stream/01_replay', out=tmp_path/'none', **dict(own, decoder=''))
