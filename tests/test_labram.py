"""LaBraM: sizes and names of the release, electrodes by name, cutting, pooling, weights, learning rates."""
from argparse import Namespace
import numpy as np
import pytest
import torch
from torch import nn
from brainrecon.core.checks import ChannelError, CheckpointError, MissingWeights, ParameterError, ShapeError, UnknownError, seeded
from brainrecon.data.eeg_imagenet import ch62
from brainrecon.data.simulated_meeg import ch63
from brainrecon.encoders.electrodes import electrodes, labram_names, labram_rows, plain_name
from brainrecon.encoders.labram import LaBraM, labram_configs, layer_groups, load_labram, lr_factor, save_labram

tiny = dict(patch=80, width=40, out_chans=4, depth=2, heads=5, layer_scale=1., init_scale=1.)
caps = ['Fp1', 'Cz', 'O1', 'Oz', 'T3']

def net(ch_names=caps, n_times=80, n_outputs=6, **how):
    "A tiny network with uneven weights, so that every part shows."
    with seeded(5):
        m = LaBraM(ch_names, n_times, n_outputs, **{**tiny, **how})
        with torch.no_grad():
            for p in m.parameters(): p.copy_(torch.randn(p.shape)*.3 + (p.ndim == 1)*.5)
    return m.eval()
def signal(b=2, c=5, t=80, seed=0):
    with seeded(seed): return torch.randn(b, c, t)
def alike(a, b, tol=1e-5): torch.testing.assert_close(a, b, rtol=tol, atol=tol)

# ---- electrodes

def test_rows_of_the_published_caps():
    rows, table = electrodes(ch63); assert rows.dtype == np.int64 and rows[:5].tolist() == [1, 3, 5, 7, 9] and rows[-3:].tolist() == [81, 82, 83] and (table.what == 'kept').all()
    assert len(set(electrodes(ch62)[0])) == 62
    assert len(labram_names) == 136 and electrodes(labram_names[:labram_rows])[0].tolist() == list(range(1, 129))
    assert electrodes(['T3', 'T4', 'T5', 'T6', 'T7', 'fTt9H', ' oz '])[0].tolist() == [89, 91, 90, 92, 38, 115, 82]

def test_unknown_names_are_listed_or_dropped():
    names = ['EEG Fp1-REF', 'HEOG', 'F3-C3', 'Oz', 'STI 014']
    with pytest.raises(ChannelError) as e: electrodes(names)
    for word in ('HEOG', 'STI 014', 'EEG Fp1-REF', 'F3-C3', '128 of 136', 'plain_name', "policy='drop'"): assert word in str(e.value), word
    rows, t = electrodes(names, 'drop', plain_name); assert rows.tolist() == [1, 82] and t.what.tolist() == ['renamed', 'dropped', 'dropped', 'kept', 'dropped'] and all(t.why[t.what == 'dropped'] != '')
    assert electrodes(names, 'drop')[0].tolist() == [82]                  # nothing is renamed unless asked
    assert electrodes(['E1', 'Oz'], rename={'E1': 'FP1'})[0].tolist() == [1, 82]
    for last in labram_names[128:]:
        with pytest.raises(ChannelError, match='without a row'): electrodes(['Oz', last])
    for bad, how in ((['Oz', 'OZ'], {}), (['A', 'B'], dict(policy='drop')), ('Oz', {}), (['Oz'], dict(rename={'O1': 'OZ'})), (['E1', 'Oz'], dict(rename={'E1': 'OZ'})), ([], {})):
        with pytest.raises(ChannelError): electrodes(bad, **how)
    with pytest.raises(UnknownError): electrodes(['Oz'], policy='ignore')

@pytest.mark.parametrize('given, plain', [('EEG Fp1-REF', 'Fp1'), ('EEG T3-LE', 'T3'), ('Fc5.', 'Fc5'), ('Cz..', 'Cz'), ('FP1-F7', 'FP1-F7'), ('EEG FP1-F7', 'FP1-F7'), ('O1-A2', 'O1'), ('EEG-Oz', 'Oz'), ('A1', 'A1'), ('', '')])
def test_plain_names(given, plain): assert plain_name(given) == plain

# ---- the network

def published_shapes(d=200, depth=12, head=20, chans=8, out=1024):
    "Names and shapes of the fine-tuned network, from the released list."
    s = {'cls_token': (1, 1, d), 'pos_embed': (1, 129, d), 'time_embed': (1, 16, d), 'patch_embed.conv1.weight': (chans, 1, 1, 15), 'fc_norm.weight': (d,), 'fc_norm.bias': (d,), 'head.weight': (out, d), 'head.bias': (out,), 'logit_scale': ()}
    s |= {f'patch_embed.conv{i}.weight': (chans, chans, 1, 3) for i in (2, 3)} | {f'patch_embed.{p}{i}.{w}': (chans,) for i in (1, 2, 3) for p, w in (('conv', 'bias'), ('norm', 'weight'), ('norm', 'bias'))}
    one = {'gamma_1': (d,), 'gamma_2': (d,), 'attn.qkv.weight': (3*d, d), 'attn.proj.weight': (d, d), 'attn.proj.bias': (d,), 'mlp.fc1.weight': (4*d, d), 'mlp.fc1.bias': (4*d,), 'mlp.fc2.weight': (d, 4*d), 'mlp.fc2.bias': (d,)}
    one |= {f'norm{i}.{w}': (d,) for i in (1, 2) for w in ('weight', 'bias')} | {f'attn.{n}_norm.{w}': (head,) for n in 'qk' for w in ('weight', 'bias')}
    return s | {f'blocks.{i}.{k}': v for i in range(depth) for k, v in one.items()}

def test_names_shapes_and_counts_of_the_release():
    with torch.device('meta'): base, large, huge = (LaBraM(ch63, 200, 1024, temperature=True, **labram_configs[k]) for k in ('base', 'large', 'huge'))
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert {k: tuple(v.shape) for k, v in base.state_dict().items()} == published_shapes() and count(base) == 6_025_761
    assert {k: tuple(v.shape) for k, v in large.state_dict().items()} == published_shapes(400, 24, 25, 16) and {k: tuple(v.shape) for k, v in huge.state_dict().items()} == published_shapes(800, 48, 50, 32)
    with torch.device('meta'): assert count(LaBraM(ch63, 200, 1024)) == 6_025_760 and 'norm.weight' in LaBraM(ch63, 200, pool='cls').state_dict()

def test_settings_rebuild_it():
    m = net(['EEG Fp1-REF', 'VEOG', 'Oz'], 100, policy='drop', rename=plain_name, fit='pad', unit='uV', pool='cls', qkv_bias=True, temperature=True)
    again = LaBraM(**m.config); again.load_state_dict(m.state_dict()); x = signal(c=3, t=100); alike(again.eval()(x), m(x), 0)
    assert again.rows.tolist() == [1, 82] and again.config == m.config

def test_dropped_channels_are_as_if_never_recorded():
    x = signal(c=3); m = net(['Fp1', 'VEOG', 'Oz'], policy='drop'); alone = net(['Fp1', 'Oz']); alike(m(x), alone(x[:, [0, 2]]))

def test_names_travel_with_signals():
    x, m = signal(), net(); order = [3, 1, 4, 0, 2]
    alike(net([caps[i] for i in order])(x[:, order]), m(x)); assert (m(x[:, order]) - m(x)).abs().max() > .01
    one = net(spatial=False, ch_names=['E1', 'E2', 'E3', 'E4', 'E5']); alike(one(x[:, order]), one(x)); assert (one(x) - m(x)).abs().max() > .01

def test_tokens_are_in_order_of_channels_then_windows():
    m, x = net(n_times=240), signal(t=240); t = m.tokens(x); assert t.shape == (2, 15, 40)
    y = x.clone(); y[:, 1, 80:160] = 0                             # second window of the second channel
    moved = (m.cut(y) != m.cut(x)).any(-1)[0]; assert moved.nonzero().tolist() == [[1, 1]]
    conv = lambda z: m.patch_embed.conv1(z[:, None])               # before the normalisation that all tokens share
    a, b = (conv(m.cut(z).flatten(1, 2)) for z in (x, y)); assert (a != b).any(1).any(-1)[0].nonzero().flatten().tolist() == [1*3 + 1]
    alike(m.pooled(x), m.fc_norm(m.raw_tokens(x)[:, 1:].mean(1)), 0); alike(m.all_tokens(x)[:, 1:], t, 0)
    c = net(pool='cls', n_times=240); alike(c.pooled(x), c.all_tokens(x)[:, 0], 1e-6)

def test_cutting():
    x = signal(t=100)
    for how, cut in ((dict(fit='crop'), x[..., :80]), (dict(fit='crop', start=10), x[..., 10:90]), (dict(start=20), x[..., 20:])): alike(net(n_times=100, **how)(x), net()(cut), 0)
    alike(net(n_times=100, fit='pad')(x), net(n_times=160)(torch.cat([x, torch.zeros(2, 5, 60)], 2)), 0)
    for unit, f in (('uV', .01), ('V', 1e4), ('mV', 10)): alike(net(unit=unit)(signal()), net()(signal()*f), 1e-6)
    many = net(n_times=80*20, more_windows=True); assert many.tokens(signal(t=1600)).shape == (2, 100, 40)
    with pytest.raises(ShapeError, match='at most 16'): net(n_times=80*17)
    assert net(n_times=80*16).cut.windows == 16
    for how, kind in ((dict(n_times=100), ShapeError), (dict(n_times=60, fit='crop'), ShapeError), (dict(start=80), ParameterError), (dict(start=-1), ParameterError), (dict(fit='clip'), UnknownError), (dict(unit='volt'), UnknownError),
            (dict(pool='max'), UnknownError), (dict(width=44), ParameterError), (dict(heads=7), ParameterError), (dict(out_chans=6, width=60), ParameterError)):
        with pytest.raises(kind) as e: net(**how)
        assert e.value.came and e.value.expected and e.value.do
    for bad in (signal(c=4), signal(t=81), signal()[0]):
        with pytest.raises(ShapeError): net()(bad)

def test_options_that_train():
    x = signal(b=64); m = net(drop_path=.8).train(); assert m.blocks[0].drop_path == 0 and m.blocks[1].drop_path == .8
    with seeded(0): a, b = m(x), m(x)
    assert (a != b).any() and torch.equal(m.eval()(x), m(x)) and net().train()(x).equal(net().eval()(x))
    y, block = torch.randn(4000, 1, 40), m.train().blocks[1]
    with seeded(1), torch.no_grad(): added = block.added(torch.ones(4000, 1, 40), None)[:, 0, 0]
    assert set(added.unique().tolist()) == {0., added.max().item()} and abs(added.max() - 5) < 1e-3 and abs(added.mean() - 1) < .15        # right on average
    for none in (None, 0, 0.): assert not any('gamma' in k for k in net(layer_scale=none).state_dict()) and net(layer_scale=none)(x).isfinite().all()
    assert net(layer_scale=.25).blocks[0].gamma_1.shape == (40,) and (LaBraM(caps, 80, **{**tiny, 'layer_scale': .25}).blocks[0].gamma_1 == .25).all()
    b = net(qkv_bias=True); k = b.blocks[0].attn; assert (b(x) != net()(x)).any() and k.q_bias.shape == k.v_bias.shape == (40,)
    m = net(temperature=False).train(); m(x).square().sum().backward(); assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())

# ---- weights

def pretraining(cls=False):
    "A file's content in the form of `labram-base.pth`, and the network inside."
    donor = net(pool='cls', n_outputs=None); own = {f'student.{k}': v for k, v in donor.state_dict().items()}
    return dict(model=own | {'student.mask_token': torch.zeros(1, 1, 40), 'student.lm_head.weight': torch.zeros(9, 40), 'lm_head.weight': torch.zeros(9, 40), 'lm_head.bias': torch.zeros(9), 'projection_head.0.weight': torch.zeros(40, 40)}), donor

def test_the_pretraining_file(tmp_path):
    content, donor = pretraining(); torch.save(content, tmp_path/'p.pth')
    m, r = load_labram(tmp_path/'p.pth', caps, 80, 6, patch=80)
    assert sorted(r.new) == ['fc_norm.bias', 'fc_norm.weight', 'head.bias', 'head.weight'] and r.renamed['student.blocks.1.gamma_2'] == 'blocks.1.gamma_2' and not r.matched
    assert sorted(r.refused) == ['lm_head.bias', 'lm_head.weight', 'projection_head.0.weight', 'student.lm_head.weight', 'student.mask_token', 'student.norm.bias', 'student.norm.weight']
    assert sorted([*r.renamed, *r.refused]) == sorted(content['model']); alike(m.eval().raw_tokens(signal()), donor.raw_tokens(signal()), 0)
    c, r = load_labram(tmp_path/'p.pth', caps, 80, pool='cls', patch=80); assert not r.new and r.renamed['student.norm.weight'] == 'norm.weight'; alike(c.eval()(signal()), donor(signal()), 0)
    for lack in ('student.blocks.0.mlp.fc2.bias', 'student.time_embed', 'student.norm.weight'):
        torch.save(dict(model={k: v for k, v in content['model'].items() if k != lack}), tmp_path/'q.pth')
        with pytest.raises(CheckpointError, match=lack.removeprefix('student.')): load_labram(tmp_path/'q.pth', caps, 80, pool='cls', patch=80)
    torch.save(dict(model={**content['model'], 'student.other': torch.zeros(1)}), tmp_path/'q.pth')
    with pytest.raises(CheckpointError, match='unknown: 1'): load_labram(tmp_path/'q.pth', caps, 80, patch=80)

@pytest.mark.parametrize('under', ['model', 'module'])
def test_a_fine_tuned_file(tmp_path, under):
    donor = net(n_outputs=32, temperature=True); extra = {'blocks.0.attn.relative_position_index': torch.zeros(3, 3).long()}
    torch.save({under: donor.state_dict() | extra, 'epoch': 7, 'args': Namespace(lr=.1), 'best': np.float64(.2)}, tmp_path/'f.pth')
    m, r = load_labram(tmp_path/'f.pth', caps, 80, patch=80); assert not r.new and not r.renamed and list(r.refused) == list(extra); alike(m.eval()(signal()), donor(signal()), 0); assert m.logit_scale == donor.logit_scale
    m, r = load_labram(tmp_path/'f.pth', caps, 80, n_outputs=5, temperature=False, patch=80); assert sorted(r.new) == ['head.bias', 'head.weight'] and {'logit_scale', 'head.bias'} < set(r.refused)
    m, r = load_labram(tmp_path/'f.pth', caps, 80, pool='cls', patch=80); assert 'norm.weight' in r.new and 'fc_norm.weight' in r.refused
    with pytest.raises(CheckpointError, match='does not fit'): load_labram(tmp_path/'f.pth', caps, 80, patch=80, depth=3)
    with pytest.raises(ParameterError, match='n_times'): load_labram(tmp_path/'f.pth', caps)

def test_own_files(tmp_path):
    m = net(temperature=True, drop_path=.2, unit='V'); save_labram(m, tmp_path/'m.safetensors', dict(note='x'))
    again, r = load_labram(tmp_path/'m.safetensors'); assert again.config == m.config and not r.new and not r.refused; alike(again.eval()(signal()), m(signal()), 0)
    save_labram(m, tmp_path/'h.safetensors', half=True); half, _ = load_labram(tmp_path/'h.safetensors'); assert half.cls_token.dtype == torch.float32 and (tmp_path/'h.safetensors').stat().st_size < .7*(tmp_path/'m.safetensors').stat().st_size
    alike(half.state_dict()['head.weight'], m.state_dict()['head.weight'].half().float(), 0)
    other, r = load_labram(tmp_path/'m.safetensors', ['O1', 'Oz'], 160, 3); assert other.cut.windows == 2 and sorted(r.new) == ['head.bias', 'head.weight'] and r.refused.keys() == {'head.bias', 'head.weight'}

# ---- learning rates

def test_layer_groups():
    m = net(temperature=True); groups = layer_groups(m, .5, .1); at = {n: (g['lr_scale'], g['weight_decay']) for g in groups for n in g['names']}
    assert sorted(at) == sorted(n for n, _ in m.named_parameters()) and sum(len(g['params']) for g in groups) == len(at) and len({(g['lr_scale'], g['weight_decay']) for g in groups}) == len(groups)
    assert at['pos_embed'] == at['patch_embed.conv1.bias'] == (.125, 0) and at['patch_embed.conv2.weight'] == (.125, .1) and at['blocks.0.attn.qkv.weight'] == (.25, .1) and at['blocks.1.mlp.fc1.bias'] == (.5, 0)
    assert at['time_embed'] == at['logit_scale'] == at['fc_norm.weight'] == (1, 0) and at['head.weight'] == (1, .1) and at['blocks.0.gamma_1'] == (.25, 0)
    whole = nn.ModuleDict(dict(encoder=m, more=nn.Linear(2, 2))); named = {n: g['lr_scale'] for g in layer_groups(whole, .5) for n in g['names']}
    assert named['encoder.blocks.0.gamma_1'] == .25 and named['more.weight'] == 1 and len(named) == len(at) + 2
    m.pos_embed.requires_grad_(False); assert 'pos_embed' not in {n for g in layer_groups(m) for n in g['names']}
    torch.optim.AdamW([dict(params=g['params'], lr=1e-3*g['lr_scale'], weight_decay=g['weight_decay']) for g in groups]).step()
    assert lr_factor('blocks.5.attn.qkv.weight', 12, .8) == pytest.approx(.8**7) and lr_factor('cls_token', 12, .8) == pytest.approx(.8**13)
    for bad in (0, 1.5, -1):
        with pytest.raises(ParameterError): layer_groups(m, bad)

# ---- slips

def test_micro_is_written_in_three_ways_and_no_unit_is_guessed():
    for micro in ('\u00b5V', '\u03bcV', ' uV'): m = net(unit=micro); assert m.config['unit'] == 'uV' and m.cut.factor == .01; alike(m(signal()), net(unit='uV')(signal()), 0)
    for other in ('MV', 'UV', 'volt', 'v', None, 1):
        with pytest.raises(UnknownError) as e: net(unit=other)
        assert 'Did you mean' not in str(e.value) and 'mV 10' in str(e.value) and 'uV 0.01' in str(e.value) and 'V 10000' in str(e.value)

@pytest.mark.parametrize('how', [dict(n_times='200'), dict(n_times=None), dict(n_times=80.), dict(depth=-1), dict(depth=0), dict(n_outputs=0), dict(n_outputs=-1), dict(n_outputs='6'), dict(patch=0), dict(heads='5'), dict(out_chans=0), dict(start='0'), dict(width=True)])
def test_sizes_are_whole_numbers(how):
    with pytest.raises(ParameterError, match=f'`{[*how][0]}` is .*whole number'): net(**how)

def test_other_kinds_of_numbers():
    m, x = net(), signal(); alike(m(x.double()), m(x), 0); assert m.double()(x.double()).dtype == torch.float64
    for bad in (x.numpy(), x.double().numpy(), x.long()):
        with pytest.raises(ParameterError, match=r'\.float\(\)'): net()(bad)

def test_misspelt_options_and_other_tables(tmp_path):
    content, _ = pretraining(); torch.save(content, tmp_path/'p.pth')
    with pytest.raises(ParameterError, match='(?s)dorp.*it has:.*qkv_bias.*drop_path'): load_labram(tmp_path/'p.pth', caps, 80, dorp=1)
    torch.save(dict(model={**content['model'], 'student.pos_embed': torch.zeros(1, 65, 40)}), tmp_path/'q.pth')
    with pytest.raises(CheckpointError, match='64 electrodes, that of LaBraM has 128'): load_labram(tmp_path/'q.pth', caps, 80, patch=80)
    with pytest.raises(ParameterError, match='a path'): load_labram(None, caps, 80)

def test_fetched_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path)); content, _ = pretraining()
    with pytest.raises(MissingWeights, match='brainrecon data fetch labram-base`'): load_labram('labram-base:labram-base.pth', caps, 80, patch=80)
    (tmp_path/'labram-base').mkdir(); torch.save(content, tmp_path/'labram-base'/'labram-base.pth')
    m, r = load_labram('labram-base:labram-base.pth', caps, 80, patch=80); assert r.renamed and torch.equal(m.cls_token, content['model']['student.cls_token'])
    with pytest.raises(UnknownError, match='labram-base.pth'): load_labram('labram-base:labram-large.pth', caps, 80)
    with pytest.raises(UnknownError, match='labram-base'): load_labram('labram-bose:labram-base.pth', caps, 80)
    own = tmp_path/'odd:name.pth'; torch.save(content, own); assert load_labram(own, caps, 80, patch=80)[1].renamed      # a file that is there is taken as it is
