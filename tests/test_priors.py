"The prior: SDXL's sizes, silence at scale 0, what a step moves, runs that are stopped, seeds, files of ours and of others, and files that are broken."
import copy, json, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from brainrecon.alignment.fusion import FusionEncoder
from brainrecon.core.checks import CheckpointError, FolderError, MissingExtra, MissingWeights, ParameterError, ShapeError, UnknownError, ValuesError, seeded
from brainrecon.priors.fusion_prior import (EmptyPrompt, FusionPrior, empty_prompt, encode_empty_prompt, load_hive_prior, load_prior, preset_options, prior_presets, prompt_sizes, samplers,
    save_hive_prior, save_prior, train_prior)
from brainrecon.priors.ip_adapter import (adapter_ids, adapter_parts, adapter_shapes, adapter_state, add_adapter, fresh_adapter, hive_state, read_adapter, save_adapter, sdxl_shaped, sdxl_unet, set_scale,
    tiny_unet)

torch.set_num_threads(1)
widths = {'ViT-B.32': 6, 'vae': 8}      # a dot, as in released names


def net(seed=0, d=16, **more): return tiny_unet(3, 4, **{**dict(widths=(16,), cross=16, pooled=8, groups=8, seed=seed), **more})
def made(seed=0, learn=False, unet=None, **more):
    with seeded(seed): fusion = FusionEncoder(widths, d=16, hidden=24, adapter=True)
    unet = add_adapter(net(seed), d=16, seed=seed) if unet is None else unet
    return FusionPrior(fusion, unet, prompt=empty_prompt(unet), size=32, learn_unet=learn, **more)
def data(n=24, seed=0):
    g = torch.Generator().manual_seed(seed); return torch.randn(n, 3, 4, 4, generator=g), {k: torch.randn(n, w, generator=g) for k, w in widths.items()}
def equal(a, b): return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())
def train(prior, folder=None, steps=6, **more): return train_prior(prior, *data(), steps=steps, folder=folder, batch_size=8, log=None, device='cpu', **more)


# ---- sizes

def test_sdxl_at_full_size():
    "On the meta device: weights, attentions that listen, ids, widths, and the sum of what is trained."
    with torch.device('meta'): unet = sdxl_shaped(); fusion = FusionEncoder(dict(a=1024, b=512, vae=1024), hidden=4096, adapter=True)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684 and len(unet.attn_processors) == 140 and prompt_sizes(unet) == (2048, 1280)
    ids = adapter_ids(unet); assert list(ids) == list(range(1, 140, 2)) and len(ids) == 70
    for i, name in ids.items(): assert name.split('_')[0] == ('down' if i <= 47 else 'up' if i <= 119 else 'mid') and name.endswith('attn2.processor')
    shapes = adapter_shapes(unet)
    for i in ids: assert shapes[f'ip_adapter.{i}.to_k_ip.weight'] == shapes[f'ip_adapter.{i}.to_v_ip.weight'] == (640 if i <= 7 or i >= 109 and i <= 119 else 1280, 2048)
    add_adapter(unet); assert {k: tuple(v.shape) for k, v in adapter_state(unet).items()} == shapes
    with torch.device('meta'): prior = FusionPrior(fusion, unet, prompt=EmptyPrompt(torch.empty(77, 2048), torch.empty(1280)))
    assert unet.config.sample_size == 128 and prior.shape == (4, 64, 64)     # pictures of 512 px, whatever the file of the network says
    assert sum(p.numel() for p in prior.trainable()) == sum(p.numel() for p in fusion.parameters()) + 8192*1025 + 2*2048 + sum(2*2048*s[0] for k, s in shapes.items() if 'to_k' in k)
    assert not any(p.requires_grad for n, p in unet.named_parameters() if '_ip.' not in n and 'encoder_hid_proj' not in n) and not any('conv_in' in k for k in prior.state_dict())


@pytest.mark.parametrize('n', [1, 3, 4, 9])
def test_any_number_of_tokens(n):
    "Four go through diffusers' reader, others beside it; each network says the same from its own published weights."
    unet = add_adapter(net(), d=16, n_tokens=n); state = adapter_state(unet); again = add_adapter(net(), state); z = torch.randn(2, 16)
    assert equal(state, fresh_adapter(net(), 16, n)) and unet.encoder_hid_proj([z[:, None]])[0].shape == (2, 1, n, 16)
    a, b = (made(unet=u).draw(z, steps=2) for u in (unet, again)); assert torch.equal(a, b)


def test_scale_0_is_words_alone():
    "For any words, with the picture turned off, the network is the one without an adapter."
    x, words = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 16); more = dict(text_embeds=torch.randn(2, 8), time_ids=torch.rand(2, 6)*99); z = torch.randn(2, 1, 16)
    plain, heard = net(), set_scale(add_adapter(net(), d=16), 0.)
    with torch.no_grad():
        silent = heard(x, torch.tensor([3, 900]), words, added_cond_kwargs=dict(more, image_embeds=[z]))[0]; want = plain(x, torch.tensor([3, 900]), words, added_cond_kwargs=more)[0]
        assert torch.allclose(silent, want, atol=1e-5) and not torch.allclose(set_scale(heard, 1.)(x, torch.tensor([3, 900]), words, added_cond_kwargs=dict(more, image_embeds=[z]))[0], want, atol=1e-3)


# ---- condition, loss, drop

def test_condition_and_the_released_way():
    prior = made(); _, parts = data(5); z = prior.fusion(parts)
    assert torch.equal(prior.condition(parts), prior.fusion.adapt(z)) and torch.equal(prior.from_brain(z), prior.condition(parts)) and torch.equal(prior.from_brain(z, adapter=False), z)
    assert torch.allclose(prior.from_brain(z, adapter=False, length=3.).norm(dim=1), torch.tensor(3.)) and torch.allclose(prior.from_brain(z, length=3.), prior.fusion.adapt(3*z/z.norm(dim=1, keepdim=True)), atol=1e-6)
    with pytest.raises(ShapeError): prior.from_brain(torch.randn(2, 17))


def test_times_are_those_of_the_release():
    prior = made(); prior.config['size'] = 512
    assert prior.time_ids(2, [[600, 375], [512, 1025]]).tolist() == [[600, 375, 44, 0, 512, 512], [512, 1025, 0, max(0, int(round((1025 - 512)/2))), 512, 512]]
    assert prior.time_ids(1).tolist() == [[512, 512, 0, 0, 512, 512]] and prior.time_ids(1, [[9, 9]], [[1, 2]]).tolist() == [[9, 9, 1, 2, 512, 512]]
    with pytest.raises(ShapeError): prior.time_ids(2, [[1, 2]])
    x, parts = data(2); kw = dict(noise=torch.ones_like(x), t=torch.tensor([5, 5])); assert prior.loss(x, parts, **kw) != prior.loss(x, parts, times=prior.time_ids(2, [[64, 64]]*2), **kw)


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction', 'sample'])
def test_loss_of_who_knows_is_nothing(prediction):
    prior = made(prediction=prediction); x, parts = data(6); noise, t = torch.randn_like(x), torch.arange(0, 600, 100); a = prior.levels.alphas_cumprod[t].view(-1, 1, 1, 1)
    truth = dict(epsilon=noise, v_prediction=a.sqrt()*noise - (1 - a).sqrt()*x, sample=x)[prediction]; prior.forward = lambda *_, **__: truth
    assert prior.loss(x, parts, noise=noise, t=t) < 1e-9
    prior.forward = lambda *_, **__: torch.zeros_like(x); assert torch.isclose(prior.loss(x, parts, noise=noise, t=t), truth.square().mean())


def test_levels_are_those_of_sdxl():
    a = made().levels.alphas_cumprod; betas = torch.linspace(.00085**.5, .012**.5, 1000)**2
    assert torch.allclose(a, torch.cumprod(1 - betas, 0)) and .068 < float(a[-1])**.5 < .069


def test_dropping_sets_the_condition_to_zero():
    "Row by row, after the adapter; by lot in training, never in evaluation."
    prior = made(drop=.5); x, parts = data(4); seen = []; was = prior.unet.forward
    prior.unet.forward = lambda *a, **k: (seen.append(k['added_cond_kwargs']['image_embeds'][0][:, 0].detach()), was(*a, **k))[1]
    drop = torch.tensor([True, False, False, True]); prior.loss(x, parts, drop=drop); z = prior.condition(parts)
    assert torch.equal(seen[0][drop], torch.zeros(2, 16)) and torch.equal(seen[0][~drop], z[~drop])
    gone = lambda: (prior.loss(x, parts), (seen[-1] == 0).all(1).float().mean().item())[1]
    with seeded(0): share = np.mean([(prior.train(), gone())[1] for _ in range(60)])
    assert .35 < share < .65 and not any((prior.eval(), gone())[1] for _ in range(5))


# ---- learning

def test_gradient_reaches_what_learns_and_nothing_frozen_moves():
    prior = made(); x, parts = data(4); prior.loss(x, parts, drop=torch.zeros(4).bool()).backward(); learns = {id(p) for p in prior.trainable()}
    named = dict(prior.fusion.named_parameters(prefix='fusion')) | dict(adapter_parts(prior.unet).named_parameters(prefix='adapter'))
    assert {id(p) for p in named.values()} == learns and all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in named.items()), [n for n, p in named.items() if p.grad is None]
    assert all(p.grad is None for p in prior.unet.parameters() if id(p) not in learns)
    before = {n: p.detach().clone() for n, p in prior.unet.named_parameters()}; fused = copy.deepcopy(prior.fusion.state_dict()); train(prior, steps=2, ema=.5)
    for n, p in prior.unet.named_parameters(): assert torch.equal(p, before[n]) == (id(p) not in learns), n
    assert not any(torch.equal(v, fused[k]) for k, v in prior.fusion.state_dict().items())


def test_the_network_learns_only_if_told():
    prior = made(learn=True); before = {n: p.detach().clone() for n, p in prior.unet.named_parameters()}; train(prior, steps=2, ema=.5)
    still = {n for n, p in prior.unet.named_parameters() if torch.equal(p, before[n])}
    assert all('attn2.to_k' in n or 'attn2.to_v' in n for n in still) and {'conv_in.weight', 'conv_out.weight', 'encoder_hid_proj.image_projection_layers.0.norm.weight'}.isdisjoint(still)     # no words: nothing to learn of them
    frozen = {n: p.clone() for n, p in prior.state_dict().items()}; prior.freeze(); assert not prior.trainable() and equal(prior.state_dict(), frozen)
    with pytest.raises(ParameterError, match='no weight'): train(prior, steps=1)


def test_an_average_shares_what_is_frozen():
    prior = made(); twin = copy.deepcopy(prior); learns = {id(p) for p in prior.trainable()}
    assert all((a is b) == (id(a) not in learns) for a, b in zip(prior.unet.parameters(), twin.unet.parameters())) and twin.learned['ip_adapter']['1'] is twin.unet.attn_processors[adapter_ids(twin.unet)[1]]
    whole = made(learn=True); assert not any(a is b for a, b in zip(whole.unet.parameters(), copy.deepcopy(whole).unet.parameters()))


@pytest.mark.parametrize('learn', [False, True])
def test_a_run_that_was_stopped_ends_at_the_same_weights(learn, tmp_path):
    "With averages and validation; in a folder that holds the frozen network nowhere."
    valid = data(9, 5); whole, halved = made(learn=learn), made(learn=learn); train(whole, tmp_path/'a', ema=.9, valid=valid, every=2)
    train(halved, tmp_path/'b', steps=4, ema=.9, valid=valid, every=2); again = made(learn=learn); train(again, tmp_path/'b', ema=.9, valid=valid, every=2)
    assert equal(whole.state_dict(), again.state_dict()) and not equal(whole.state_dict(), made(learn=learn).state_dict())
    assert any('conv_in' in k for k in torch.load(max((tmp_path/'b').glob('*.pt')), weights_only=True)['model']) == learn
    with pytest.raises(CheckpointError, match='other settings'): train_prior(made(learn=learn), *data(24, 1), steps=8, folder=tmp_path/'b', batch_size=8, log=None, device='cpu', ema=.9, valid=valid, every=2)


def test_a_run_that_is_killed_goes_on(tmp_path):
    "Ended by force in the middle, in a process of its own."
    code = f'''
import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_priors import made, data, train_prior
x, parts = data(); prior = made()
from brainrecon.core import fit
write = fit.Fit.write
def stop(self, s, row):
    write(self, s, row)
    if s.step == 3: os._exit(9)
fit.Fit.write = stop
train_prior(prior, x, parts, steps=6, folder={str(tmp_path/"k")!r}, batch_size=8, log=None, device='cpu', every=1)
'''
    assert subprocess.run([sys.executable, '-c', code], stdin=subprocess.DEVNULL, capture_output=True, timeout=300).returncode == 9
    again, whole = made(), made(); train(again, tmp_path/'k', every=1); train(whole, every=1)
    assert equal(again.state_dict(), whole.state_dict())


def test_options_of_a_machine(tmp_path):
    "Presets name options that exist; recomputing and dividing the batch give the gradients of the whole; a frozen network of 16 bits trains weights of 32."
    for name in prior_presets:
        prior = made(); train_prior(prior, *data(40), steps=1, log=None, device='cpu', **preset_options(name)); assert all(p.isfinite().all() for p in prior.trainable())
    with pytest.raises(UnknownError, match='24GB'): preset_options('24gb')
    x, parts = data(4); kw = dict(drop=torch.zeros(4).bool(), noise=torch.randn_like(x), t=torch.tensor([1, 300, 600, 999])); grads = []
    for on in (False, True):
        prior = made(); (prior.unet.enable_gradient_checkpointing if on else prior.unet.disable_gradient_checkpointing)(); prior.train(); prior.unet.train(); prior.loss(x, parts, **kw).backward(); grads.append([p.grad for p in prior.trainable()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads))
    half = made(unet=add_adapter(net().to(torch.bfloat16), d=16)); assert {p.dtype for p in half.trainable()} == {torch.float32} and half.unet.conv_in.weight.dtype == torch.bfloat16
    train(half, tmp_path, steps=2, precision='bf16'); assert half.unet.conv_in.weight.dtype == torch.bfloat16 and torch.isclose(half.loss(x, parts, **kw), made().loss(x, parts, **kw), atol=.1)


def test_rows_that_do_not_belong_together():
    x, parts = data()
    with pytest.raises(ShapeError, match='belong'): train_prior(made(), x[:9], parts, steps=1, log=None)
    with pytest.raises(ShapeError, match='belong'): train_prior(made(), x, parts, steps=1, times=np.zeros((3, 6)), log=None)
    with pytest.raises(UnknownError): train_prior(made(), x, parts, steps=1, log=None, learning_rate=1.)
    times = made().time_ids(24, np.full((24, 2), 64)); assert np.isfinite(train_prior(made(), x.numpy(), {k: v.numpy() for k, v in parts.items()}, (*data(5), made().time_ids(5)), steps=1, times=times, log=None, device='cpu')[-1]['valid_loss'])


# ---- drawing

@pytest.mark.parametrize('kind', list(samplers))
@pytest.mark.parametrize('guidance', [0., 2.])
def test_a_picture_is_the_same_alone_and_among_others(kind, guidance):
    prior = made(); z = torch.randn(5, 16); times = prior.time_ids(5, torch.arange(10).view(5, 2) + 32); how = dict(steps=3, scheduler=kind, guidance=guidance)
    row = prior.draw(z, seeds=[3, 1, 4, 1, 5], times=times, **how); assert row.shape == (5, 3, 4, 4) and row.isfinite().all()
    for i, s in ((1, 1), (4, 5)): assert torch.allclose(prior.draw(z[i:i+1], seeds=[s], times=times[i:i+1], **how)[0], row[i], rtol=1e-4, atol=1e-4*float(row.std()))
    small = prior.draw(z, seeds=[3, 1, 4, 1, 5], times=times, batch=2, **how); assert torch.allclose(small, row, rtol=1e-4, atol=1e-4*float(row.std()))
    other = prior.draw(z[:1], seeds=[8], times=times[:1], **how)[0]; assert (other - row[0]).abs().max() > .1*row.std()


def test_who_knows_the_answer_draws_it():
    "With the true noise each way out ends at the clean latent; without guidance nobody is asked twice."
    clean = torch.randn(2, 3, 4, 4)
    for kind in samplers:
        prior = made(); asked = []; a = prior.levels.alphas_cumprod
        def forward(x, t, z_c, times=None): asked.append(len(x)); v = a[t.long()].view(-1, 1, 1, 1).to(x); return (x - v.sqrt()*clean.repeat(len(x)//2, 1, 1, 1))/(1 - v).sqrt()
        prior.forward = forward; out = prior.draw(torch.randn(2, 16), steps=5, scheduler=kind); assert torch.allclose(out, clean, atol=.02), kind; assert asked == [2]*5
        asked.clear(); prior.draw(torch.randn(2, 16), steps=5, scheduler=kind, guidance=1.); assert asked == [4]*5


def test_guidance_goes_on_in_the_direction_of_the_condition():
    prior = made(); prior.forward = lambda x, t, z_c, times=None: z_c[:, :3, None, None].expand_as(x).clone(); z = torch.randn(2, 16)
    assert torch.allclose(prior.draw(z, steps=2, guidance=1.), made_constant(2*z).draw(2*z, steps=2), atol=1e-4)

def made_constant(z):
    prior = made(); prior.forward = lambda x, t, z_c, times=None: z_c[:, :3, None, None].expand_as(x).clone(); return prior


def test_turbo_steps_as_sdxl_turbo():
    from brainrecon.priors.fusion_prior import scheduler
    name, options, more = samplers['turbo']; s = scheduler(made(), name, 4, **options); assert s.timesteps.tolist() == [999, 749, 499, 249] and more and type(s).__name__ == 'EulerAncestralDiscreteScheduler'


def test_requests_that_cannot_be_meant():
    prior, z = made(), torch.randn(2, 16)
    for bad, kind in ((dict(steps=0), ParameterError), (dict(steps=1001), ParameterError), (dict(guidance=-1.), ParameterError), (dict(scheduler='dddim'), UnknownError), (dict(seeds=[1]), ShapeError)):
        with pytest.raises(kind): prior.draw(z, **bad)
    with pytest.raises(ShapeError): prior.draw(torch.randn(2, 17))
    for bad in (dict(schedule='cosine'), dict(prediction='noise')):
        with pytest.raises(UnknownError): made(**bad)
    with pytest.raises(ParameterError): made(drop=1.)
    with pytest.raises(ParameterError, match='no adapter'): made(unet=net())
    with pytest.raises(ParameterError, match='text_time'): prompt_sizes(tiny_unet.__globals__['sdxl_shaped'](addition_embed_type=None, block_out_channels=(32, 32, 32), attention_head_dim=4, cross_attention_dim=8, transformer_layers_per_block=1))


# ---- files

@pytest.mark.parametrize('learn', [False, True])
def test_files_bring_back_every_bit(learn, tmp_path):
    prior = made(learn=learn); path = save_prior(prior, tmp_path/'p.safetensors', about=dict(run='x')); beside = None if learn else add_adapter(net(), d=16, seed=7); again = load_prior(path, beside)
    assert equal(again.state_dict(), prior.state_dict()) and again.config == prior.config and not again.trainable() and any(k.startswith('unet.') for k in load_file(path)) == learn
    z = torch.randn(2, 16); assert torch.equal(again.draw(z), prior.draw(z)); again = load_prior(path, None if learn else net()); assert torch.equal(again.draw(z), prior.draw(z))
    small = save_prior(prior, tmp_path/'h.safetensors', half=True); assert small.stat().st_size < .7*path.stat().st_size and torch.allclose(load_prior(small, None if learn else net()).draw(z, steps=1), prior.draw(z, steps=1), atol=1.)
    own = load_file(path); assert 'ip_adapter.1.to_k_ip.weight' in own and 'image_proj.proj.weight' in own


def test_files_that_are_no_prior(tmp_path):
    prior = made(learn=True); path = save_prior(prior, tmp_path/'p.safetensors'); state = load_file(path)
    with pytest.raises(ParameterError, match='no drawing network'): load_prior(save_prior(made(), tmp_path/'q.safetensors'))
    with pytest.raises(MissingWeights): load_prior(tmp_path/'gone.safetensors')
    save_file(state, tmp_path/'bare.safetensors')
    with pytest.raises(CheckpointError, match='holds no Fusion Prior'): load_prior(tmp_path/'bare.safetensors')
    from brainrecon.core.checkpoint import save_weights
    from brainrecon.core.official import read_about
    about = read_about(path)
    for gone in ('unet.conv_in.weight', 'ip_adapter.1.to_k_ip.weight', 'fusion.block.layers.0.norm.weight', 'image_proj.proj.weight'):
        save_weights(tmp_path/'less.safetensors', {k: v for k, v in state.items() if k != gone}, about)
        with pytest.raises(CheckpointError): load_prior(tmp_path/'less.safetensors')
    save_weights(tmp_path/'more.safetensors', {**state, 'ip_adapter.99.to_k_ip.weight': torch.zeros(2, 2)}, about)
    with pytest.raises(CheckpointError, match='unknown'): load_prior(tmp_path/'more.safetensors')
    cut = tmp_path/'cut.safetensors'; cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FolderError): load_prior(cut)
    prior.fusion.proj_maps['vae'].bias.data[0] = torch.nan
    with pytest.raises(ValuesError, match='vae'): save_prior(prior, tmp_path/'nan.safetensors')
    assert not (tmp_path/'nan.safetensors').exists()


def test_hive_and_ip_adapter_are_one_thing_under_two_names(tmp_path):
    prior = made(); save_hive_prior(prior, tmp_path/'hive'); state = hive_state(tmp_path/'hive')
    assert equal(state, read_adapter(save_adapter(prior.unet, tmp_path/'ip.safetensors'))) and equal(state, adapter_state(prior.unet))
    folders = {f: load_file(tmp_path/'hive'/f/'diffusion_pytorch_model.safetensors') for f in ('fusion_encoder', 'proj', 'attn_adapter')}
    assert set(folders['proj']) == {'proj.weight', 'proj.bias', 'norm.weight', 'norm.bias'} and set(folders['attn_adapter']) == {f'attn_processors.{i}.to_{w}_ip.weight' for i in adapter_ids(prior.unet) for w in 'kv'}
    assert 'vision_model.proj_maps.ViT-B.32.weight' in folders['fusion_encoder'] or 'vision_model.proj_maps.vae.weight' in folders['fusion_encoder']
    config = json.loads((tmp_path/'hive'/'attn_adapter'/'config.json').read_text()); assert config['attn_processor_keys'] == list(prior.unet.attn_processors)
    back = load_hive_prior(tmp_path/'hive', net()); assert equal(back.state_dict(), prior.state_dict()) and len(back.report.matched) + len(back.report.renamed) == sum(map(len, folders.values())) and not back.report.refused
    two = {w: {k[len(w)+1:]: v for k, v in state.items() if k.startswith(w)} for w in ('image_proj', 'ip_adapter')}; torch.save(two, tmp_path/'ip.bin'); assert equal(read_adapter(tmp_path/'ip.bin'), state)


def test_hive_folders_that_are_broken(tmp_path):
    prior = made(); at = save_hive_prior(prior, tmp_path/'h'); file = at/'attn_adapter'/'diffusion_pytorch_model.safetensors'; state = load_file(file); first = next(iter(state))
    for wrong, words in (({k: v for k, v in state.items() if k != first}, 'absent'), ({**state, 'attn_processors.99.to_k_ip.weight': state[first].clone()}, 'unknown'), ({**state, first: torch.zeros(3, 3)}, 'another shape'), ({**state, 'x.weight': state[first].clone()}, 'begin with')):
        save_file(wrong, file); unet = net(); was = {k: v.clone() for k, v in unet.state_dict().items()}
        with pytest.raises(CheckpointError, match=words): load_hive_prior(at, unet)
        assert equal(unet.state_dict(), was)
    file.write_bytes(b'x'*50)
    with pytest.raises(FolderError): load_hive_prior(at, net())
    file.unlink()
    with pytest.raises(MissingWeights): load_hive_prior(at, net())
    with pytest.raises(MissingWeights, match='fusion-prior-h14'): load_hive_prior('fusion-prior-h14', net())
    with pytest.raises(MissingWeights, match='ip-adapter'): read_adapter()
    with pytest.raises(CheckpointError, match='plus'): add_adapter(net(), dict(x=torch.zeros(1)))


def test_a_network_in_the_layout_of_diffusers(tmp_path):
    own = net(4); own.save_pretrained(tmp_path/'whole'/'unet'); net(4).half().save_pretrained(tmp_path/'half'/'unet', variant='fp16')
    assert equal(sdxl_unet(tmp_path/'whole').state_dict(), own.state_dict()) and sdxl_unet(tmp_path/'half').dtype == torch.float32 and sdxl_unet(tmp_path/'half', torch.bfloat16).dtype == torch.bfloat16
    prior = made(unet=add_adapter(sdxl_unet(tmp_path/'whole'), d=16)); assert prior.draw(torch.randn(1, 16)).isfinite().all()
    file = tmp_path/'whole'/'unet'/'diffusion_pytorch_model.safetensors'; state = load_file(file); state.pop('conv_in.bias'); save_file(state, file, dict(format='pt'))
    with pytest.raises(CheckpointError, match='conv_in.bias'): sdxl_unet(tmp_path/'whole')
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(FolderError): sdxl_unet(tmp_path/'whole')
    file.unlink()
    for name in (tmp_path/'whole', tmp_path/'nothing', 'sdxl-base', 'sdxl-turbo'):
        with pytest.raises(MissingWeights): sdxl_unet(name)


def test_the_empty_prompt(tmp_path, monkeypatch):
    from brainrecon.core.checkpoint import save_weights
    monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache'))
    wide = net(cross=768)
    with pytest.raises(MissingWeights, match='encode_empty_prompt'): empty_prompt(wide)
    save_weights(tmp_path/'e.safetensors', dict(tokens=torch.ones(3, 768), pooled=torch.ones(8))); assert empty_prompt(wide, tmp_path/'e.safetensors').tokens.shape == (3, 768)
    save_weights(tmp_path/'cache'/'fusion'/'empty_prompt.safetensors', dict(tokens=torch.ones(3, 768), pooled=torch.ones(8))); assert empty_prompt(wide).pooled.sum() == 8
    with pytest.raises(ShapeError): empty_prompt(net(), tmp_path/'e.safetensors')
    save_weights(tmp_path/'f.safetensors', dict(tokens=torch.ones(3, 16)))
    with pytest.raises(CheckpointError, match='pooled'): empty_prompt(net(), tmp_path/'f.safetensors')
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(MissingExtra, match=r'brainrecon\[prompt\]'): encode_empty_prompt(tmp_path)


def test_the_empty_prompt_is_that_of_diffusers(tmp_path):
    "With small text encoders by chance, if transformers is here: the same numbers as the pipeline's own."
    words = pytest.importorskip('transformers'); from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    vocab = {c: i for i, c in enumerate(['!', 'a</w>', '<|startoftext|>', '<|endoftext|>'])}; marks = dict(bos_token='<|startoftext|>', eos_token='<|endoftext|>', unk_token='<|endoftext|>')
    for end, pad, width in (('', '<|endoftext|>', 16), ('_2', '!', 24)):
        at = tmp_path/f'tokenizer{end}'; at.mkdir(); (at/'vocab.json').write_text(json.dumps(vocab)); (at/'merges.txt').write_text('#version: 0.2\n')
        (at/'tokenizer_config.json').write_text(json.dumps(dict(model_max_length=77, pad_token=pad, tokenizer_class='CLIPTokenizer', **marks))); (at/'special_tokens_map.json').write_text(json.dumps(dict(pad_token=pad, **marks)))
        config = words.CLIPTextConfig(vocab_size=4, hidden_size=width, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, projection_dim=24, bos_token_id=2, eos_token_id=3, pad_token_id=1)
        (words.CLIPTextModelWithProjection(config).half().save_pretrained(tmp_path/'text_encoder_2', variant='fp16') if end else words.CLIPTextModel(config).save_pretrained(tmp_path/'text_encoder'))
    state = load_file(encode_empty_prompt(tmp_path, tmp_path/'e.safetensors')); assert state['tokens'].shape == (77, 40) and state['pooled'].shape == (24,)
    pipe = StableDiffusionXLPipeline(None, words.CLIPTextModel.from_pretrained(tmp_path/'text_encoder'), words.CLIPTextModelWithProjection.from_pretrained(tmp_path/'text_encoder_2', variant='fp16').float(),
        *(words.CLIPTokenizer.from_pretrained(tmp_path/f'tokenizer{end}') for end in ('', '_2')), None, EulerDiscreteScheduler(), add_watermarker=False)
    with torch.no_grad(): tokens, _, pooled, _ = pipe.encode_prompt('', device='cpu', do_classifier_free_guidance=False)
    assert torch.allclose(tokens[0], state['tokens'], atol=1e-5) and torch.allclose(pooled[0], state['pooled'], atol=1e-5)


def test_drawing_is_that_of_the_pipeline():
    "If transformers is here, which diffusers wants for its pipeline: the same latents from the same seeds, by SDXL-Turbo's way and by SDXL's own with guidance."
    pytest.importorskip('transformers'); from diffusers import StableDiffusionXLPipeline
    from brainrecon.priors.fusion_prior import scheduler
    prior = made(); z = torch.randn(2, 16, generator=torch.Generator().manual_seed(2)); size = (32, 32)
    for kind, steps, guidance in (('turbo', 4, 0.), ('euler', 5, 0.), ('euler', 5, 1.5), ('ddim', 5, 0.)):
        name, options, _ = samplers[kind]; pipe = StableDiffusionXLPipeline(None, None, None, None, None, prior.unet, scheduler(prior, name, **options), add_watermarker=False); pipe.set_progress_bar_config(disable=True)
        ours = prior.draw(z, seeds=[4, 9], steps=steps, guidance=guidance, scheduler=kind)
        for i, seed in enumerate((4, 9)):       # one by one: the pipeline repeats the condition for each prompt
            heard = torch.cat([torch.zeros_like(z[i:i+1]), z[i:i+1]]) if guidance else z[i:i+1]
            with torch.no_grad(): x = pipe(prompt_embeds=prior.tokens[None], pooled_prompt_embeds=prior.pooled[None], negative_prompt_embeds=prior.tokens[None], negative_pooled_prompt_embeds=prior.pooled[None], height=32, width=32, original_size=size, target_size=size,
                ip_adapter_image_embeds=[heard[:, None]], num_inference_steps=steps, guidance_scale=guidance and 1 + guidance, generator=[torch.Generator().manual_seed(seed)], output_type='latent').images
            assert torch.allclose(ours[i], x[0], rtol=1e-4, atol=1e-4*float(x.std())), kind


def test_assets_are_found_by_name(tmp_path, monkeypatch):
    "What `brainrecon data fetch` puts away, here written by us."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path)); prior = made()
    net(4).half().save_pretrained(tmp_path/'sdxl-turbo'/'unet', variant='fp16'); assert equal(sdxl_unet('sdxl-turbo').half().state_dict(), net(4).half().state_dict())
    save_hive_prior(prior, tmp_path/'fusion-prior-h14'); assert equal(load_hive_prior('fusion-prior-h14', net()).state_dict(), prior.state_dict())
    save_adapter(prior.unet, tmp_path/'ip-adapter'/'sdxl_models'/'ip-adapter_sdxl_vit-h.safetensors'); assert equal(read_adapter(), adapter_state(prior.unet))
    (tmp_path/'sdxl-turbo'/'unet'/'diffusion_pytorch_model.fp16.safetensors').unlink()
    with pytest.raises(MissingWeights, match='brainrecon data fetch sdxl-turbo'): sdxl_unet('sdxl-turbo')
