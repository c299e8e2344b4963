"Trackers: events reach a function of one's own and a real board; nothing they do can stop a training."
import os, subprocess, sys, textwrap
import pytest
from brainrecon.core import track
from brainrecon.core.checks import ParameterError, UnknownError


@pytest.fixture
def board(tmp_path, monkeypatch):
    "A module with functions that can be attached."
    (tmp_path/'boards.py').write_text(textwrap.dedent('''
        import json
        seen = []
        def take(event): seen.append(json.loads(json.dumps(event)))
        number = 3
    '''))
    monkeypatch.syspath_prepend(str(tmp_path)); monkeypatch.delenv('RANK', raising=False); monkeypatch.delenv('BRAINRECON_TRACKER', raising=False)
    import boards
    boards.seen.clear(); track.state.update(run='', folder=None, wish=None, take=None, failed=0)
    yield boards
    track.state.update(run='', folder=None, wish=None, take=None, failed=0); sys.modules.pop('boards')


def test_nothing_is_imported_and_nothing_happens_without_a_wish():
    code = "import sys; from brainrecon.core import track; track.emit('row', 'x', dict(a=1), 3); sys.exit('accelerate' in sys.modules or 'torch' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if k != 'BRAINRECON_TRACKER'}
    assert subprocess.run([sys.executable, '-c', code], env=env).returncode == 0


def test_events_are_plain_and_carry_their_run(board, monkeypatch, tmp_path):
    import numpy as np, torch
    monkeypatch.setenv('BRAINRECON_TRACKER', 'boards:take')
    track.emit('start', 'a', dict(folder=tmp_path, values=dict(seeds=[0])))
    track.emit('row', 'fit', dict(loss=torch.tensor(.5), top1=np.float32(.25)), step=7)
    track.emit('start', 'b', {}); track.emit('scores', 'b', dict(rows=[])); track.emit('end', 'b', {})
    assert [(e['kind'], e['run']) for e in board.seen] == [('start', 'a'), ('row', 'a'), ('end', 'a'), ('start', 'b'), ('scores', 'b'), ('end', 'b')]
    assert board.seen[1] == dict(kind='row', run='a', name='fit', values=dict(loss=.5, top1=.25), step=7)


@pytest.mark.parametrize('wish, error, says', [('boards:number', ParameterError, 'def number'), ('boards:', ParameterError, 'def take'), (':take', ParameterError, 'nothing has no function'),
    ('absent:take', ParameterError, 'PYTHONPATH'), ('wandbb', UnknownError, 'wandb')])
def test_a_wrong_wish_is_refused_before_and_survived_within(board, monkeypatch, wish, error, says):
    with pytest.raises(error, match=says): track.check_tracker(wish)
    monkeypatch.setenv('BRAINRECON_TRACKER', wish)
    with pytest.warns(UserWarning, match='The run goes on'): track.emit('row', 'x', {}, 1)


def test_a_value_that_is_not_plain_is_survived(board, monkeypatch):
    monkeypatch.setenv('BRAINRECON_TRACKER', 'boards:take')
    with pytest.warns(UserWarning, match='cannot be stored'): track.emit('row', 'x', dict(a=object()), 1)
    track.emit('row', 'x', dict(a=1), 2); assert len(board.seen) == 1


def test_only_the_first_process_speaks(board, monkeypatch):
    monkeypatch.setenv('BRAINRECON_TRACKER', 'boards:take'); monkeypatch.setenv('RANK', '1')
    track.emit('row', 'x', {}, 1); assert not board.seen


def test_tensorboard(board, monkeypatch, tmp_path):
    pytest.importorskip('tensorboard', reason='tensorboard is not installed: pip install tensorboard')
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    monkeypatch.setenv('BRAINRECON_TRACKER', 'tensorboard'); Image.new('RGB', (8, 6), (255, 0, 0)).save(tmp_path/'a.png')
    track.emit('start', 'coin', dict(folder=tmp_path, values=dict(seeds=[0], lr=1e-3, name='mlp')))
    for step in (1, 2): track.emit('row', 'fit', dict(step=step, loss=1/step), step)
    track.emit('figure', 'a', dict(path=tmp_path/'a.png', caption='Red.'))
    track.emit('scores', 'coin', dict(rows=[dict(what='ridge', measure='top1', value=.5)])); track.emit('end', 'coin', {})
    read = EventAccumulator(str(tmp_path/'tracker'/'coin')); read.Reload()
    assert [(e.step, e.value) for e in read.Scalars('fit/loss')] == [(1, 1.), (2, .5)]
    assert read.Scalars('scores/ridge/top1')[0].value == .5 and read.Tags()['images'] == ['a']


def test_a_fit_beside_a_board_is_the_same(board, monkeypatch, tmp_path):
    "Opening a board leaves the training's own `Accelerator` alone."
    pytest.importorskip('tensorboard', reason='tensorboard is not installed: pip install tensorboard')
    import torch
    from accelerate.state import PartialState
    from brainrecon.core.fit import Batches, Fit
    def trained():
        torch.manual_seed(0); net = torch.nn.Linear(3, 2); x = torch.randn(32, 3)
        fit = Fit(net, lambda m, b: dict(loss=(m(b[0]).square()).mean()), log=None)
        fit.run(Batches(x, batch_size=8), 4); track.emit('row', 'fit', dict(loss=1.), 4)
        return net.weight.detach().clone()
    a = trained(); monkeypatch.setenv('BRAINRECON_TRACKER', 'tensorboard'); track.emit('start', 'r', dict(folder=tmp_path))
    assert torch.equal(a, trained()) and PartialState._shared_state == {}
    track.close()
