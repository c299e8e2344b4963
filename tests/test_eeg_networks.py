"Published EEG networks: any number of channels and samples, widths that nobody has to know, the slips of ATM as a switch, and one door."
import pytest
import torch
from torch import nn
from brainrecon.core.checks import CheckpointError, ParameterError, ReconError, ShapeError, UnknownError, seeded
from brainrecon.core.checkpoint import save_weights
from brainrecon.encoders.given import option_names
from brainrecon.encoders.small import small_encoder, small_encoders
from brainrecon.encoders.door import eeg_encoder, eeg_encoders, load_released
from brainrecon.encoders.eeg_networks import ATM, NICE, ChannelTransformer, ConvEncoder, EEGNet, TSConv, samples_left

names = ['P7', 'P3', 'Pz', 'P4', 'P8', 'O1', 'Oz', 'O2']
small = dict(labram=dict(depth=1), atm=dict(persons=2))

@pytest.mark.parametrize('name', eeg_encoders)
@pytest.mark.parametrize('n_chans, n_times', [(3, 200), (8, 200), (5, 400)])
def test_every_encoder_through_the_door(name, n_chans, n_times):
    "A vector for each trial, finite gradients for each weight that is used, and rebuilt from what it was made with."
    with seeded(0): net = eeg_encoder(name, names[:n_chans], n_times, 6, **small.get(name, {})); x = torch.randn(4, n_chans, n_times)
    z = net(x); assert z.shape == (4, 6); z.square().sum().backward()
    idle = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not idle or name == 'atm' and idle == ['encoder.enc_embedding.subject_embedding.subject_embedding.weight']
    again = eeg_encoder(**net.made_with); again.load_state_dict(net.state_dict())
    with torch.no_grad(): assert torch.equal(again.eval()(x), net.eval()(x)) and torch.allclose(net(x[:1]), net(x)[:1], atol=1e-5)
    for wrong in (x[:, 1:], x[..., 1:], x[0]):
        with pytest.raises(ShapeError): net(wrong)

@pytest.mark.parametrize('kind, widths', [(EEGNet, {250: 1248, 201: 864}), (TSConv, {250: 1440, 201: 1040}), (NICE, {250: 1440, 201: 1040})])
def test_widths_are_those_that_published_code_is_told(kind, widths):
    for n_times, width in widths.items(): assert kind(17, n_times, 4).width == width

def test_another_network_is_one_more_list_of_layers():
    "ShallowNet and DeepNet of the same code base fit the same contract."
    shallow = lambda c: [nn.Conv2d(1, 40, (1, 25)), nn.Conv2d(40, 40, (c, 1)), nn.BatchNorm2d(40), nn.ELU(), nn.AvgPool2d((1, 51), (1, 5)), nn.Dropout(.5)]
    def deep(c):
        layers = [nn.Conv2d(1, 25, (1, 10)), nn.Conv2d(25, 25, (c, 1))]
        for a, b in ((25, 25), (25, 50), (50, 100), (100, 200)): layers += ([nn.Conv2d(a, b, (1, 10))] if a != b else []) + [nn.BatchNorm2d(b), nn.ELU(), nn.MaxPool2d((1, 2)), nn.Dropout(.5)]
        return layers
    for layers, widths in ((shallow, {250: 1440, 201: 1040}), (deep, {250: 1400, 201: 800})):
        for n_times, width in widths.items():
            net = ConvEncoder(layers(5), 5, n_times, 7); assert net.width == width and net(torch.randn(2, 5, n_times)).shape == (2, 7)

@pytest.mark.parametrize('kind, least', [(EEGNet, 95), (TSConv, 75), (NICE, 75)])
def test_the_shortest_epoch(kind, least):
    assert kind(2, least, 3)(torch.randn(4, 2, least)).shape == (4, 3)
    with pytest.raises(ShapeError, match=f'{least} are the least'): kind(2, least - 1, 3)

@pytest.mark.parametrize('kernel, pool, n_times', [(3, 2, 9), (5, 3, 20), (4, 4, 33)])
def test_lengths_are_those_of_the_layers(kernel, pool, n_times):
    layers = [nn.Conv2d(1, 2, (1, kernel), stride=(1, 2)), nn.AvgPool2d((1, pool), (1, 1)), nn.ELU()]
    assert samples_left(layers, n_times) == nn.Sequential(*layers)(torch.zeros(1, 1, 1, n_times)).shape[-1]

def test_the_slips_of_atm():
    with seeded(0): x = torch.randn(3, 6, 100)
    with seeded(1): right = ChannelTransformer(6, 100, width=40, heads=3, persons=2).eval()
    with seeded(1): slips = ChannelTransformer(6, 100, width=40, heads=3, persons=2, released=True).eval()
    known, mixed, nobody = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 5]), torch.tensor([4, 5, 6])
    a, b = right(x, known), slips(x, known); assert a.shape == b.shape == (3, 6, 40) and torch.equal(a[:, :-1], b[:, 1:])
    assert torch.equal(slips(x, mixed), slips(x)) and torch.allclose(right(x, nobody), right(x), atol=1e-6)
    same = (right(x, mixed) - right(x, known)).abs().amax((1, 2)); assert same[:2].max() == 0 and same[2] > 1e-3
    before = x.clone(); right(x, mixed); assert torch.equal(x, before)

@pytest.mark.parametrize('person', [torch.tensor([0, 1]), torch.tensor([-1, 0, 0]), torch.tensor([0., 1., 1.])])
def test_people_are_whole_numbers(person):
    with pytest.raises(ReconError, match='person'): ATM(4, 100, 5, width=80, persons=2)(torch.randn(3, 4, 100), person)

def test_the_door_refuses_in_words():
    with pytest.raises(UnknownError, match='eegnet'): eeg_encoder('EEGNet', names, 250, 4)
    with pytest.raises(ParameterError, match='depth'): eeg_encoder('nice', names, 250, 4, depth=2)
    with pytest.raises(ShapeError, match='mlp'): eeg_encoder('atm', names, None, 4)
    with pytest.raises(ReconError, match='XX'): eeg_encoder('labram', ['Oz', 'XX'], 200, 4, depth=1)

spellings = dict(ubp=lambda k: k.replace('.fn.', '.f.'), inside=lambda k: 'brain.' + k, hive=lambda k: 'brain_model.backbone.' + k, parallel=lambda k: 'module.' + k, small=lambda k: k.replace('Enc_eeg', 'enc_eeg').replace('Proj_eeg', 'proj_eeg'))

@pytest.mark.parametrize('kind', [EEGNet, TSConv, NICE, ATM])
@pytest.mark.parametrize('how', spellings)
def test_published_spellings(tmp_path, kind, how):
    "Weights come through whatever was put before their names; temperatures and unused tokens are named; nothing else may be left over."
    with seeded(0): net, fresh = kind(3, 250, 5), kind(3, 250, 5)
    state = {spellings[how](k): v for k, v in net.state_dict().items()} | {'logit_scale': torch.ones(())}
    save_weights(tmp_path/'w.safetensors', state); report = load_released(fresh, tmp_path/'w.safetensors')
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values())) and list(report.refused) == ['logit_scale'] and not report.new
    save_weights(tmp_path/'w.safetensors', state | {'stranger': torch.ones(1)}); before = {k: v.clone() for k, v in kind(3, 250, 5).state_dict().items()}; other = kind(3, 250, 5); other.load_state_dict(before)
    with pytest.raises(CheckpointError, match='stranger'): load_released(other, tmp_path/'w.safetensors')
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())

@pytest.mark.parametrize('name, wrong, near, has', [('mlp', 'dropuot', 'dropout', 'width'), ('conv', 'filter', 'filters', 'kernel'), ('nice', 'kernle', 'kernel', 'pool'), ('tsconv', 'kernle', 'kernel', 'filters'), ('eegnet', 'dropuot', 'dropout', 'pool'),
    ('atm', 'person', 'persons', 'convolution'), ('labram', 'dorp', 'drop_path', 'layer_scale')])
def test_a_misspelt_option_is_answered_with_those_that_there_are(name, wrong, near, has):
    ways = [lambda o: eeg_encoder(name, names, 200, 6, **o)] + [lambda o: small_encoder(name, (8, 200), 6, **o)]*(name in small_encoders)
    for make in ways:
        with pytest.raises(ParameterError) as e: make({wrong: .3})
        assert e.value.came == f'{name!r} has no option {wrong!r};' and has in e.value.expected and e.value.do == f'Did you mean {near!r}?'
        with pytest.raises(ParameterError) as e: make(dict(zzz=1))
        assert 'mean' not in e.value.do and has in e.value.expected

@pytest.mark.parametrize('name', eeg_encoders)
def test_every_option_that_is_listed_may_be_given(name):
    given = {**small.get(name, {})}; listed = option_names(eeg_encoders[name]); assert listed and not {'n_chans', 'n_times', 'n_outputs', 'ch_names'} & {*listed}
    for k in listed:
        try: eeg_encoder(name, names, 400, 6, **{**given, k: given.get(k)})
        except ParameterError as e: assert 'has no option' not in str(e), k
        except (TypeError, AttributeError, ReconError) as e: assert 'unexpected keyword' not in str(e), k    # None is no value for it, but it was known

def test_options_inside_of_atm():
    assert ATM(8, 200, 6, convolution=dict(dropout=.1, kernel=9)).enc_eeg[0].tsconv[-1].p == .1
    with pytest.raises(ParameterError, match="(?s)convolution of ATM.*'kernel'"): ATM(8, 200, 6, convolution=dict(kernle=9))

@pytest.mark.parametrize('name', [n for n in eeg_encoders if n != 'labram'])
def test_sizes_and_signals_of_another_kind(name):
    for n_outputs in (0, -1, '6', None, 2.5):
        with pytest.raises(ParameterError, match='n_outputs'): eeg_encoder(name, names, 200, n_outputs)
    with pytest.raises(ParameterError, match='n_times=200'): eeg_encoder(name, names, '200', 6)
    with pytest.raises(ParameterError, match='n_chans'): eeg_encoder(name, [], 200, 6)
    net = eeg_encoder(name, names, 200, 6, **small.get(name, {})).eval(); x = torch.randn(2, 8, 200); assert torch.equal(net(x.double()), net(x))
    for bad in (x.numpy(), x.long()):
        with pytest.raises(ParameterError, match=r'\.float\(\)'): net(bad)
