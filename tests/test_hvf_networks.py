"Networks of HVF and the door to all encoders: the block by its formula, any size, names of two projects, published files whole, cut and strange."
import pytest
import torch
import torch.nn.functional as F
from brainrecon.core.checkpoint import save_weights
from brainrecon.core.checks import CheckpointError, MissingWeights, ParameterError, ReconError, ShapeError, UnknownError, seeded
from brainrecon.encoders.door import by_channel_name, by_person, eeg_encoder, eeg_encoders, encoder_name, load_released, other_names
from brainrecon.encoders.hvf_networks import BrainMLP, DeepNet, EEGProject, ResidualBlock, ResidualMLP, ShallowNet

flat, convs = [BrainMLP, EEGProject], [ShallowNet, DeepNet]
same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))

# ---- the block

@pytest.mark.parametrize('d, hidden, norm', [(8, 8, True), (6, 20, True), (6, 20, False), (1, 3, False)])
def test_a_layer_is_its_formula(d, hidden, norm):
    with seeded(0): layer, x = ResidualMLP(d, hidden, norm=norm).double(), torch.randn(5, 3, d, dtype=torch.float64)
    w = layer.state_dict()
    if norm: layer.norm.weight.data.uniform_(.5, 2); layer.norm.bias.data.normal_()
    bend = lambda v: v*(1 + torch.erf(v/2**.5))/2     # exact, not the approximation by tanh
    y = x + bend(x @ w['ff.w1.weight'].T) @ w['ff.w2.weight'].T
    if norm: y = (y - y.mean(-1, keepdim=True))/(y.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()*w['norm.weight'] + w['norm.bias']
    assert torch.allclose(layer(x), y, atol=1e-12)

def test_names_of_the_block_are_the_published_ones():
    assert list(ResidualMLP(4, 6, norm=False).state_dict()) == ['ff.w1.weight', 'ff.w2.weight']
    assert {*ResidualMLP(4, 6).state_dict()} == {'ff.w1.weight', 'ff.w2.weight', 'norm.weight', 'norm.bias'}
    assert {*ResidualBlock(4, 6, layers=2).state_dict()} == {f'layers.{i}.{k}' for i in (0, 1) for k in ResidualMLP(4, 6).state_dict()}
    assert ResidualMLP(4, 6).state_dict()['ff.w1.weight'].shape == (6, 4)
    assert {*BrainMLP(3, 5, 4).state_dict()} == {'proj_in.weight', 'proj_in.bias', *(f'block.{k}' for k in ResidualBlock(4, 4).state_dict())}
    assert {*EEGProject(3, 5, 4).state_dict()} == {f'model.{k}.{p}' for k in ('0', '1.fn.1', '2') for p in ('weight', 'bias')}

def test_layers_one_after_the_other():
    with seeded(0): block, x = ResidualBlock(5, 7, layers=3), torch.randn(2, 5)
    y = x
    for layer in block.layers: y = layer(y)
    assert torch.equal(block(x), y) and not torch.allclose(y, block.layers[0](x))

def test_dropout_only_in_training():
    "And only on the bend: what comes in is never lost, so with everything dropped the norm of the input is left."
    with seeded(0): layer, x = ResidualMLP(16, 32, dropout=.5), torch.randn(4, 16)
    assert not torch.equal(layer(x), layer(x)) and torch.equal(layer.eval()(x), layer(x))
    assert torch.allclose(ResidualMLP(16, 32, dropout=1.)(x), F.layer_norm(x, (16,), eps=1e-6), atol=1e-6)
    for kind, share in ((BrainMLP, .1), (EEGProject, .3), (ShallowNet, .5), (DeepNet, .5)): assert {m.p for m in kind(3, 200, 4).modules() if isinstance(m, torch.nn.Dropout)} == {share}

@pytest.mark.parametrize('make', [lambda: ResidualMLP(0, 3), lambda: ResidualMLP(3, '4'), lambda: ResidualMLP(3, 2.5), lambda: ResidualBlock(3, 3, layers=0), lambda: BrainMLP(3, 9, 4, hidden=0), lambda: BrainMLP(3, '9', 4), lambda: EEGProject(3, 9, -1),
    lambda: ShallowNet(3, 100, 4, pool=51), lambda: ShallowNet(3, 100, 4, pool=(51, 0)), lambda: ShallowNet(3, 100, 4, kernel=0), lambda: DeepNet(3, 300, 4, filters=()), lambda: DeepNet(3, 300, 4, filters=25), lambda: DeepNet(3, 300, 4, filters=(25, 'x'))])
def test_sizes_that_are_none(make):
    with pytest.raises(ParameterError): make()

# ---- the networks

@pytest.mark.parametrize('kind', flat)
def test_flat_networks_read_channel_after_channel(kind):
    net = kind(3, 4, 5).eval(); first = net.proj_in if kind is BrainMLP else net.model[0]; torch.nn.init.zeros_(first.weight); first.weight.data[:, 1*4 + 2] = torch.arange(1., 6)
    x = torch.zeros(12, 3, 4); x.view(12, 12)[range(12), range(12)] = 1; moved = (net(x) - net(torch.zeros(1, 3, 4))).abs().amax(1)
    assert moved[6] > 1e-3 and (moved > 1e-5).sum() == 1 and net.width == 12

@pytest.mark.parametrize('kind', flat)
def test_flat_networks_read_voxels(kind):
    with seeded(0): voxels, epochs = kind(12, None, 5).eval(), kind(3, 4, 5).eval(); x = torch.randn(2, 12)
    epochs.load_state_dict(voxels.state_dict()); assert torch.equal(voxels(x), epochs(x.view(2, 3, 4)))
    for wrong in (x[:, 1:], x[:, :, None], x[0]):
        with pytest.raises(ShapeError): voxels(wrong)

@pytest.mark.parametrize('kind, widths', [(BrainMLP, {(17, 250): 4250, (271, 201): 54471}), (EEGProject, {(17, 250): 4250, (271, 201): 54471}), (ShallowNet, {(17, 250): 1440, (271, 201): 1040}), (DeepNet, {(17, 250): 1400, (271, 201): 800})])
def test_widths_for_both_recordings(kind, widths):
    "THINGS-EEG2 and THINGS-MEG; a signal of that size goes through."
    for (c, t), width in widths.items():
        net = kind(c, t, 4); assert net.width == width and net(torch.randn(2, c, t)).shape == (2, 4)

@pytest.mark.parametrize('kind, least', [(ShallowNet, 75), (DeepNet, 151)])
@pytest.mark.parametrize('options', [{}, dict(kernel=5)])
def test_the_shortest_epoch(kind, least, options):
    least -= {ShallowNet: 20, DeepNet: 5*(1 + 2 + 4 + 8)}[kind]*bool(options)
    assert kind(2, least, 3, **options)(torch.randn(4, 2, least)).shape == (4, 3)
    with pytest.raises(ShapeError, match=f'too few for {kind.__name__}; {least} are the least'): kind(2, least - 1, 3, **options)
    with pytest.raises(ShapeError, match='mlp'): kind(2, None, 3)

@pytest.mark.parametrize('options, stages', [(dict(filters=(4, 6)), 2), (dict(filters=[3]), 1), (dict(filters=(2, 3, 4), pool=3, kernel=4), 3)])
def test_deepnet_with_other_stages(options, stages):
    net = DeepNet(5, 260, 7, **options); assert sum(isinstance(m, torch.nn.MaxPool2d) for m in net.modules()) == stages
    assert net.project[1].in_features == net.width == net.backbone(torch.zeros(1, 1, 5, 260)).numel() and net(torch.randn(2, 5, 260)).shape == (2, 7)

@pytest.mark.parametrize('kind', flat + convs)
def test_gradients_reach_every_weight(kind):
    with seeded(0): net, x = kind(4, 180, 6), torch.randn(5, 4, 180, requires_grad=True)
    (net(x)*torch.randn(5, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters()) and x.grad.any()

@pytest.mark.parametrize('kind', flat + convs)
def test_a_trial_does_not_see_the_others(kind):
    with seeded(0): net, x = kind(4, 180, 6).eval(), torch.randn(5, 4, 180)
    with torch.no_grad(): assert torch.allclose(net(x)[1:3], net(x[1:3]), atol=1e-5) and net(x[:0]).shape == (0, 6)

# ---- the door

hive = dict(brain_mlp='brain_mlp', brain_projection='eeg_project', nice='nice', shallow_net='shallow_net', deep_net='deep_net', eeg_net='eegnet', ts_conv='tsconv', atm='atm')
ubp = dict(EEGProjectLayer='eeg_project', Shallownet='shallow_net', Deepnet='deep_net', EEGnet='eegnet', TSconv='tsconv')

@pytest.mark.parametrize('theirs, ours', [*hive.items(), *ubp.items()])
def test_names_of_two_projects(theirs, ours):
    assert encoder_name(theirs) == encoder_name(ours) == ours
    with seeded(0): a = eeg_encoder(theirs, ['O1', 'Oz'], 250, 4)
    with seeded(0): b = eeg_encoder(ours, ['O1', 'Oz'], 250, 4)
    assert type(a) is type(b) is eeg_encoders[ours] and a.made_with == b.made_with and a.made_with['name'] == ours and same(a, b)

def test_other_names_are_not_names_of_ours():
    assert not {*other_names} & {*eeg_encoders} and {*other_names.values()} <= {*eeg_encoders} and {*by_person, *by_channel_name} <= {*eeg_encoders}
    for wrong in ('brain_mpl', '', None, 3, ['mlp']):
        with pytest.raises(UnknownError): encoder_name(wrong)
    with pytest.raises(UnknownError, match="Did you mean 'brain_mlp'"): eeg_encoder('brain_mpl', ['Oz'], 250, 4)
    with pytest.raises(ParameterError, match="'eeg_project' has no option 'droput'"): eeg_encoder('brain_projection', ['Oz'], 250, 4, droput=.1)

@pytest.mark.parametrize('name', eeg_encoders)
def test_nobody_has_to_say_who_it_is(name):
    "Without a number, with None, with numbers, in order or by name; only those that know people give another vector, and a gradient to what they know."
    with seeded(0): net, x = eeg_encoder(name, ['P7', 'O1', 'Oz'], 200, 6, **dict(labram=dict(depth=1)).get(name, {})).eval(), torch.randn(3, 3, 200)
    person = torch.tensor([0, 1, 1])
    with torch.no_grad(): z, none, told, named = net(x), net(x, None), net(x, person), net(x, person=person)
    assert torch.equal(z, none) and torch.equal(told, named) and torch.equal(z, told) == (name not in by_person)

@pytest.mark.parametrize('name', ['mlp', 'brain_mlp', 'eeg_project'])
def test_voxels_through_the_door(name):
    net = eeg_encoder(name, [f'v{i}' for i in range(9)], None, 4); assert net(torch.randn(2, 9)).shape == (2, 4) and eeg_encoder(**net.made_with).n_times is None

# ---- published files

def filled(kind, sizes=(3, 250, 5), seed=0):
    "Every number in it is random, counts included."
    with seeded(seed):
        net = kind(*sizes)
        for v in net.state_dict().values(): v.copy_(torch.rand_like(v) if v.is_floating_point() else torch.randint(99, ()))
    return net

spellings = dict(ubp=lambda k: 'brain.' + k.replace('.fn.', '.f.'), hive=lambda k: 'brain_model.backbone.' + k, backbone=lambda k: 'backbone.' + k, parallel=lambda k: 'module.brain_model.backbone.' + k)
vision = {f'vision_model.{k}': torch.ones(2, 2) for k in ('proj_maps.RN50.weight', 'proj_maps.CLIP-ViT-B-32-laion2B-s34B-b79K.weight', 'block.layers.0.ff.w1.weight', 'block.layers.0.norm.bias')}

@pytest.mark.parametrize('kind', flat + convs)
@pytest.mark.parametrize('how', spellings)
def test_published_spellings(tmp_path, kind, how):
    net, fresh = filled(kind), filled(kind, seed=1); assert not same(net, fresh)
    save_weights(tmp_path/'w.safetensors', {spellings[how](k): v for k, v in net.state_dict().items()} | {'logit_scale': torch.ones(())})
    report = load_released(fresh, tmp_path/'w.safetensors')
    assert same(net, fresh) and not report.new and list(report.refused) == ['logit_scale'] and len(report.matched) + len(report.renamed) == len(net.state_dict())

@pytest.mark.parametrize('kind', flat + convs)
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_the_brain_of_a_whole_model(tmp_path, kind, suffix):
    "Both sides in one file, as torch or as safetensors: the pictures' side is refused key by key and changes nothing."
    net, fresh, path = filled(kind), filled(kind, seed=1), tmp_path/f'model.{suffix}'; state = {spellings['hive'](k): v for k, v in net.state_dict().items()} | vision | {'logit_scale': torch.ones(())}
    torch.save(dict(state_dict=state), path) if suffix == 'pth' else save_weights(path, state)
    report = load_released(fresh, path); assert same(net, fresh) and {*report.refused} == {*vision, 'logit_scale'}

def broken(state, how):
    "What may be wrong with a file: one weight of another shape, one absent, one strange, only the pictures' side."
    first = next(k for k, v in state.items() if v.ndim > 1); state = dict(state)
    if how == 'shape': state[first] = state[first][..., :-1].clone() if state[first].shape[-1] > 1 else state[first][:-1].clone()
    if how == 'absent': del state[first]
    if how == 'strange': state['brain_model.stranger'] = torch.ones(1)
    return vision if how == 'pictures' else state | vision

@pytest.mark.parametrize('kind', flat + convs)
@pytest.mark.parametrize('how, word', [('shape', 'another shape'), ('absent', 'does not fit'), ('strange', 'stranger'), ('pictures', 'does not fit')])
def test_files_that_do_not_fit_change_nothing(tmp_path, kind, how, word):
    net, before = filled(kind), filled(kind); assert same(net, before)
    save_weights(tmp_path/'w.safetensors', broken({spellings['hive'](k): v for k, v in filled(kind, seed=1).state_dict().items()}, how))
    with pytest.raises(CheckpointError, match=word): load_released(net, tmp_path/'w.safetensors')
    assert same(net, before)

@pytest.mark.parametrize('sizes', [(4, 250, 5), (3, 240, 5), (3, 250, 6)])
@pytest.mark.parametrize('kind', flat + convs)
def test_weights_of_another_recording(tmp_path, kind, sizes):
    save_weights(tmp_path/'w.safetensors', {spellings['hive'](k): v for k, v in filled(kind).state_dict().items()}); net, before = filled(kind, sizes), filled(kind, sizes)
    with pytest.raises(CheckpointError, match='another shape'): load_released(net, tmp_path/'w.safetensors')
    assert same(net, before)

def test_files_of_another_network_or_of_none(tmp_path):
    save_weights(tmp_path/'w.safetensors', filled(ShallowNet).state_dict())
    for kind in flat + [DeepNet]:
        with pytest.raises(CheckpointError): load_released(filled(kind), tmp_path/'w.safetensors')
    with pytest.raises(MissingWeights): load_released(filled(BrainMLP), tmp_path/'nowhere.safetensors')
    (tmp_path/'cut.safetensors').write_bytes((tmp_path/'w.safetensors').read_bytes()[:200])
    with pytest.raises(ReconError): load_released(filled(BrainMLP), tmp_path/'cut.safetensors')
