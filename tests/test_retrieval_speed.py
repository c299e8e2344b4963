"The released loop told again and this library learn the same, and their seconds are counted rightly."
import importlib.util
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from brainrecon.alignment.fusion import FusionEncoder
from brainrecon.core.checks import MissingExtra, ParameterError, ShapeError, UnknownError
from brainrecon.core.files import load_json
from brainrecon.core.fit import Fit
from brainrecon.decoders.hvf import HVF, Numbered, Pair
from brainrecon.encoders.hvf_networks import BrainMLP
from brainrecon.jobs.retrieval_speed import Clock, as_table, collected, compared, counted, one_way, ours, places, reader, read_person, released, released_loop, rows_of, whole, write_person

small, main_parts = dict(epochs=3, batch_size=32, width=24, dropout=0., precision='no'), {'reading and collating', 'forward and backward', 'optimiser', 'evaluation', 'checkpoint', 'rest'}


@pytest.fixture(scope='module')
def person(tmp_path_factory): return write_person(tmp_path_factory.mktemp('speed')/'person', 128, 4, 10, 24, dict(first=12, second=8))


@pytest.fixture(scope='module')
def mine(person): return ours(person, person.parent/'mine.json', start=True, **small)


def orders(n=128, batch_size=32, steps=12): own = Numbered(n, steps, batch_size=batch_size, seed=0, drop_last=True); return lambda epoch: own.order(epoch).tolist()


@pytest.mark.parametrize('workers', [0, 2])
def test_both_learn_the_same(person, mine, workers):
    told = released(person, person.parent/f'told-{workers}.json', workers=workers, table='lists', order=orders(), start=mine['start'], **small)
    assert np.allclose(np.reshape(told['losses'], (3, 4)).mean(1), mine['losses'], atol=1e-4) and np.allclose(told['top1'], mine['top1']) and mine['losses'][-1] < mine['losses'][0]
    assert told['updates'] == mine['updates'] == 12 and told['seen'] == mine['seen'] == 384
    for r in (told, mine):
        assert set(r['parts']) == main_parts and all(v > 0 for v in r['parts'].values()) and np.isclose(sum(r['parts'].values()), r['seconds']) and r['setup'] > 0 and r['cpu_seconds'] > 0
    assert told['decoding'] > 0 and told['collating'] > 0 and not list(person.parent.glob('told-*/*')) and load_json(person.parent/f'told-{workers}.json')['losses'] == told['losses']


def test_without_a_common_order_or_start_they_differ(person, mine):
    told = released(person, person.parent/'other.json', workers=0, table='lists', **small); assert not np.allclose(np.reshape(told['losses'], (3, 4)).mean(1), mine['losses'], atol=1e-4)


@pytest.mark.parametrize('n, updates', [(100, 4), (20, 1)])
def test_the_same_number_of_updates_when_batches_are_not_full(tmp_path, n, updates):
    person = write_person(tmp_path/'person', n, 3, 5, 10, dict(a=4)); how = small | dict(epochs=2, precision='bf16')
    told, own = released(person, tmp_path/'a.json', workers=0, table='lists', **how), ours(person, tmp_path/'b.json', **how)
    assert told['updates'] == own['updates'] == 2*updates == len(told['losses']) and told['seen'] == 2*n and own['seen'] == 2*updates*min(32, n) and len(own['top1']) >= 2
    assert np.isfinite(told['losses'] + own['losses']).all()


def test_the_latest_checkpoint_is_the_model(person, tmp_path):
    (x, parts), (xv, pv) = read_person(person); pair = Pair(BrainMLP(4, 10, 16), FusionEncoder(dict(first=12, second=8), 16)); clock = Clock()
    released_loop(pair, as_table(x, parts, 'lists'), as_table(xv, pv, 'lists'), tmp_path, clock, epochs=2, batch_size=64, workers=0, precision='no')
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint-2'] and all((v == pair.state_dict()[k]).all() for k, v in load_file(tmp_path/'checkpoint-2'/'model.safetensors').items())
    assert torch.load(tmp_path/'checkpoint-2'/'optimizer.pt', weights_only=True)['state'] and 'rest' not in clock.parts


def test_rows_come_out_as_they_went_in(person):
    (x, parts), _ = read_person(person); at = [5, 0, 77]
    for kind in ('lists', 'datasets'):
        if kind == 'datasets' and importlib.util.find_spec('datasets') is None:
            with pytest.raises(MissingExtra, match='pip install datasets'): as_table(x, parts, kind)
            continue
        table = as_table(x, parts, kind); rows = table.__getitems__(at); assert len(table) == 128 and type(rows[0]['eeg']) is list and type(rows[0]['eeg'][0]) is list and type(rows[0]['emb_first'][0]) is float
        batch = collected((rows, 0.)); assert (batch['x'].numpy() == x[at]).all() and all((batch['parts'][n].numpy() == v[at]).all() for n, v in parts.items()) and batch['ids'] == ['5', '0', '77']
        assert [len(b['x']) for b in reader(table, 50, range(128), 0)] == [50, 50, 28]
    with pytest.raises(UnknownError): as_table(x, parts, 'numpy')


def test_the_person(tmp_path):
    a, b, c = (write_person(tmp_path/k, 30, 3, 4, 6, dict(u=5, v=2), seed) for k, seed in (('a', 0), ('b', 0), ('c', 1)))
    (x, parts), (xv, pv) = read_person(a); assert x.shape == (30, 3, 4) and xv.shape == (6, 3, 4) and {k: v.shape for k, v in pv.items()} == dict(u=(6, 5), v=(6, 2)) and x.dtype == parts['u'].dtype == 'float32'
    assert (read_person(b)[0][0] == x).all() and not (read_person(c)[0][0] == x).any()
    (x, parts), (xv, pv) = read_person(write_person(tmp_path/'many', 300, 3, 4, 100, dict(u=20))); guess = pv['u'] @ np.linalg.lstsq(parts['u'], x.reshape(300, -1), rcond=None)[0]
    assert np.corrcoef(guess.ravel(), xv.ravel())[0, 1] > .4     # there is something to learn, for responses that nobody learned from
    for bad in (dict(n=1), dict(held=1)):
        with pytest.raises(ShapeError): write_person(tmp_path/'d', **{**dict(n=5, held=5), **bad})


def test_a_process_of_its_own(person):
    r = one_way('ours', person, 'alone', **small); assert r['peak_mb'] > 100 and set(r['parts']) == main_parts and load_json(person.parent/'ways'/'alone.json')['losses'] == r['losses'] and compared(r, r)['whole'] == 1
    with pytest.raises(UnknownError): one_way('theirs', person, 'x')


def test_ratios():
    r = lambda setup, seconds, cpu, epochs, **parts: dict(setup=setup, seconds=seconds, cpu_seconds=cpu, epochs=epochs, parts={k.replace('_', ' '): v for k, v in parts.items()}, peak_mb=1., top1=[.25, .5])
    slow, fast = r(10., 60., 100., 3, forward_and_backward=15., optimiser=3., evaluation=42.), r(2., 50., 40., 25, forward_and_backward=25., optimiser=5., checkpoint=20.)
    assert whole(slow, 25) == 510 and whole(fast, 25) == 52 and whole(slow, 3) == 70
    c = compared(slow, fast, 25); assert np.isclose(c['whole'], 510/52) and np.isclose(c['epoch'], 10.) and np.isclose(c['processor'], (100/3)/(40/25)) and np.isclose(c['rest'], 14/.8) and np.isclose(c['floor'], .6) and np.isclose(c['floor_theirs'], .3)
    same = compared(fast, fast); assert same['whole'] == same['epoch'] == same['processor'] == same['rest'] == 1
    rows = rows_of('slow', slow, 7, 25, 'a note'); by = {x['measure']: x for x in rows}
    assert by['seconds of 25 epochs, set-up included']['note'] == 'a note; 22 of 25 epochs extrapolated from 3' and by['seconds an epoch']['value'] == 20 and by['seconds an epoch: evaluation']['value'] == 14 and all(x['simulated'] and x['n'] == 7 for x in rows)
    assert 'extrapolated' not in rows_of('fast', fast, 7, 25)[0]['note'] and by['right picture first after the last epoch (share)']['value'] == .5
    with pytest.raises(ParameterError): whole(slow, 2.5)


def test_the_clock():
    clock, was = Clock(), [vars(owner)[name] for owner, name, _ in places]
    class Thing:
        def fail(self): raise ValueError
    with pytest.raises(ValueError), clock('rest'), clock.around(*places, (Thing, 'fail', 'fail')):
        assert vars(Fit)['write'] is not was[8]; Thing().fail()
    assert [vars(owner)[name] for owner, name, _ in places] == was and not clock.open and set(clock.parts) == {'rest', 'fail'} and clock.seconds == sum(clock.parts.values())
    assert HVF.loss.__name__ == 'loss'


def test_arithmetic_is_what_torch_counts():
    pair = Pair(BrainMLP(6, 9, 20), FusionEncoder(dict(a=7, b=5), 20)).eval(); x, parts = torch.randn(16, 6, 9), dict(a=torch.randn(16, 7), b=torch.randn(16, 5))
    with FlopCounterMode(display=False) as count: e, z, s = pair(x, parts); (e @ z.T).sum().backward()
    told = counted(16, 6, 9, dict(a=7, b=5), 20, 16); assert np.isclose(told['arithmetic, in 10^12 operations']*1e12, count.get_total_flops()) and told['updates'] == 1 and counted()['updates'] == 17
    matrices = sum(p.numel() for p in pair.parameters() if p.ndim > 1); assert np.isclose(told['weights of both sides, in millions']*1e6, matrices)
