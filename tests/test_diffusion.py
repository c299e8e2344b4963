"The diffusion baseline: the way back through known noise, guidance, seeds, training that goes on, and files."
import sys
import numpy as np
import pytest
import torch
from brainrecon.core.checks import CheckpointError, MissingExtra, ParameterError, ShapeError, UnknownError, seeded
from brainrecon.generators.diffusion import (LatentDiffusion, diffuse, diffusion_configs, diffusion_loss, first_noise, latents_of, load_diffusion, make_scheduler,
    save_diffusion, tokenizer_mark, train_diffusion)
from brainrecon.generators.sampling import picture_seeds
from brainrecon.generators.vqvae import VQVAE

tiny = dict(shape=(3, 4, 4), widths=(16,), groups=8, width=8)


def make(seed=0, d=5, **changes):
    with seeded(seed): return LatentDiffusion(d, **{**tiny, **changes})


def tokenizer(seed=0):
    with seeded(seed): return VQVAE(vocab=16, z=4, ch=8, ch_mult=(1, 1), blocks=1, patch_nums=(1, 2, 4), norm_groups=4).eval()


class Oracle(LatentDiffusion):
    "Knows the clean latent, so it says the true velocity; counts the rows that it was asked for."
    def know(self, clean): self.clean, self.asked = clean, []; return self
    def forward(self, x, t, cond):
        self.asked.append(len(x)); a = make_scheduler(self).alphas_cumprod[t].view(-1, 1, 1, 1); clean = self.clean[:len(x)] if len(x) <= len(self.clean) else torch.cat([self.clean]*2)
        noise = (x - a.sqrt()*clean)/(1 - a).sqrt(); return a.sqrt()*noise - (1 - a).sqrt()*clean


@pytest.mark.parametrize('steps', [1, 2, 7, 50])
@pytest.mark.parametrize('schedule', ['squaredcos_cap_v2', 'scaled_linear', 'linear'])
def test_who_knows_the_answer_draws_it(steps, schedule):
    "With the true velocity every number of steps ends at the clean latent, and so does every step's guess."
    clean = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1)); model = Oracle(5, schedule=schedule, **tiny).know(clean)
    d = diffuse(model, torch.randn(4, 5), steps=steps, guidance=0., trace=True)
    assert torch.allclose(d.latent, clean, atol=2e-3) and torch.allclose(d.img, (clean*.5 + .5).clamp(0, 1), atol=2e-3) and d.trace.shape == (4, steps, 3, 4, 4)
    assert torch.allclose(d.trace, d.img[:, None].expand_as(d.trace), atol=2e-3) and model.asked == [4]*steps


def test_the_loss_of_who_knows_is_nothing_and_of_silence_is_the_velocity():
    clean = torch.randn(6, 3, 4, 4); model = Oracle(5, **tiny).know(clean); noise, t = torch.randn_like(clean), torch.arange(0, 600, 100)
    assert model.loss(clean, torch.zeros(6, 5), noise=noise, t=t) < 1e-8
    a = make_scheduler(model).alphas_cumprod[t].view(-1, 1, 1, 1); model.forward = lambda x, t, c: torch.zeros_like(x)
    assert torch.isclose(model.loss(clean, torch.zeros(6, 5), noise=noise, t=t), (a.sqrt()*noise - (1 - a).sqrt()*clean).square().mean())
    assert make_scheduler(model).alphas_cumprod[-1] < 1e-6      # the last level is noise alone


def test_the_step_is_that_of_diffusers():
    "Where the steps divide the levels, diffusers' own step gives the same."
    model = make(clip=.5); cond = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)); x = first_noise([1, 2], model.shape); s = make_scheduler(model); s.set_timesteps(8)
    with torch.no_grad():
        for t in s.timesteps: x = s.step(model(x, t.expand(2), cond), t, x, eta=0., use_clipped_model_output=True).prev_sample
    assert torch.allclose(diffuse(model, cond, seeds=[1, 2], steps=8, guidance=0.).latent, x, atol=1e-5)


def test_guidance_goes_further_the_same_way():
    "Zero asks for no second half; otherwise (1 + g) times led minus g times free."
    model = make(); asked = []
    def forward(x, t, cond): asked.append(len(x)); return -.1*cond[:, :3, None, None].expand_as(x)     # at the first level the guess is minus this
    model.forward = forward; cond = torch.ones(2, 5)
    for g in (0., 1., 3.5):
        d = diffuse(model, cond, steps=1, guidance=g); assert torch.allclose(d.latent, torch.full_like(d.latent, .1*(1 + g)), atol=1e-5)
    assert asked == [2, 4, 4]


def test_a_picture_depends_on_its_seed_alone():
    model = make(); cond = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)); seeds = picture_seeds(7, 3)
    whole = diffuse(model, cond, seeds=seeds, steps=4).img
    for batch in (1, 3): assert torch.allclose(diffuse(model, cond, seeds=seeds, steps=4, batch=batch).img, whole, atol=1e-4)
    assert torch.allclose(diffuse(model, cond[[4, 1]], seeds=[seeds[4], seeds[1]], steps=4).img, whole[[4, 1]], atol=1e-4)
    assert torch.equal(diffuse(model, cond, seed=3, steps=4).img, whole) and not torch.allclose(diffuse(model, cond, seed=4, steps=4).img, whole, atol=1e-2)
    state = torch.get_rng_state(); diffuse(model, cond, steps=1); assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first_noise([2**62 + 1, 5], (3, 4, 4))[1], first_noise([5], (3, 4, 4))[0]) and len(set(picture_seeds(50))) == 50


def test_embeddings_are_left_out_in_training_only():
    model, seen = make(cond_drop=.5), []
    model.forward = lambda x, t, c: seen.append((c == 0).all(1)) or x
    with seeded(0): model.train().loss(torch.zeros(200, 3, 4, 4), torch.ones(200, 5)); model.eval().loss(torch.zeros(200, 3, 4, 4), torch.ones(200, 5))
    assert .35 < seen[0].float().mean() < .65 and not seen[1].any()
    model.loss(torch.zeros(4, 3, 4, 4), torch.ones(4, 5), drop=torch.tensor([True, False, True, False])); assert seen[2].tolist() == [True, False, True, False]


def data(seed=0): g = torch.Generator().manual_seed(seed); return torch.randn(12, 3, 4, 4, generator=g), torch.randn(30, 5, generator=g), torch.arange(30) % 12


def train(model, folder=None, **how):
    z, c, rows = data(); return train_diffusion(model, z, c, rows, valid=data(1), steps=8, batch_size=8, lr=1e-3, every=2, folder=folder, log=None, device='cpu', **how)


def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    whole = make(); history = train(whole); broken = make(); calls, net = [], LatentDiffusion.forward
    def forward(self, *a):
        calls.append(1)
        if self.training and len(calls) > 7: raise KeyboardInterrupt
        return net(self, *a)
    LatentDiffusion.forward = forward
    try:
        with pytest.raises(KeyboardInterrupt): train(broken, tmp_path)
    finally: LatentDiffusion.forward = net
    assert list(tmp_path.glob('step-*.pt'))
    again = make(9); rest = train(again, tmp_path)
    for k, v in whole.state_dict().items(): assert torch.equal(v, again.state_dict()[k]), k
    assert [r['valid_loss'] for r in rest] == [r['valid_loss'] for r in history] and not whole.training
    with pytest.raises(CheckpointError): train(make(), tmp_path, weight_decay=.5)


def test_scale_and_latents_of_a_tokenizer():
    vqvae = tokenizer(); model = LatentDiffusion(5, vqvae, widths=(16, 16), groups=8, width=8); img = torch.rand(10, 3, 8, 8)*2 - 1
    assert model.shape == (4, 4, 4) and not any(k.startswith('beside') or 'quantize' in k for k in model.state_dict())
    z = latents_of(vqvae, img, batch=3); assert torch.allclose(z, vqvae.latent(img).detach(), atol=1e-5) and not z.requires_grad
    s = model.fit_scale(z).standard(z); assert torch.allclose(s.mean((0, 2, 3)), torch.zeros(4), atol=1e-5) and torch.allclose(s.std((0, 2, 3), correction=0), torch.ones(4), atol=1e-4)
    assert torch.allclose(model.picture(s), vqvae.decode(z)*.5 + .5, atol=1e-5)
    d = diffuse(model, torch.randn(2, 5), steps=2, trace=True); assert d.img.shape == (2, 3, 8, 8) and d.trace.shape == (2, 2, 3, 8, 8) and 0 <= d.img.min() and d.img.max() <= 1


def test_files(tmp_path):
    vqvae = tokenizer(); model = LatentDiffusion(5, vqvae, widths=(16,), groups=8, width=8, schedule='linear', clip=3.); model.fit_scale(torch.randn(9, 4, 4, 4)*3 + 1); cond = torch.randn(2, 5)
    again = load_diffusion(save_diffusion(model, tmp_path/'m.safetensors', dict(word='x')), vqvae)
    assert again.config == model.config and torch.equal(diffuse(again, cond, steps=2).img, diffuse(model, cond, steps=2).img)
    small = load_diffusion(save_diffusion(model, tmp_path/'h.safetensors', half=True), vqvae)
    assert (tmp_path/'h.safetensors').stat().st_size < .6*(tmp_path/'m.safetensors').stat().st_size and torch.allclose(diffuse(small, cond, steps=2).img, diffuse(model, cond, steps=2).img, atol=.02)
    assert torch.equal(small.mean, model.mean) and tokenizer_mark(vqvae) == tokenizer_mark(tokenizer()) != tokenizer_mark(tokenizer(1))
    with pytest.raises(CheckpointError, match='another tokenizer'): load_diffusion(tmp_path/'m.safetensors', tokenizer(1))
    with pytest.raises(CheckpointError, match='another tokenizer'): load_diffusion(tmp_path/'m.safetensors')
    from brainrecon.core.files import save_arrays
    save_arrays(tmp_path/'x.safetensors', dict(generator='other'), a=np.zeros(2))
    with pytest.raises(CheckpointError, match='no diffusion'): load_diffusion(tmp_path/'x.safetensors')


def test_the_large_one_is_about_as_large_as_var():
    with torch.device('meta'): model = LatentDiffusion(1024, shape=(32, 16, 16), **diffusion_configs['large'])
    assert .8 < sum(p.numel() for p in model.parameters())/310_308_096 < 1.2
    assert LatentDiffusion(8, shape=(16, 8, 8), **diffusion_configs['small']).unet.config.sample_size == 8


@pytest.mark.parametrize('how, error, words', [(dict(shape=None), ParameterError, 'neither'), (dict(shape=(3, 4, 8)), ParameterError, 'square'), (dict(shape=(3, 6, 6), widths=(16, 16, 16)), ParameterError, 'halved'),
    (dict(widths=(12,)), ParameterError, 'groups'), (dict(widths=()), ParameterError, 'widths'), (dict(schedule='cosine'), UnknownError, 'schedule'), (dict(cond_drop=1.), ParameterError, 'cond_drop'), (dict(d=0), ParameterError, 'd_embed'),
    (dict(layers=True), ParameterError, 'layers'), (dict(tokens=1.5), ParameterError, 'tokens')])
def test_refused_sizes(how, error, words):
    with pytest.raises(error, match=words): make(**how)


def test_refused_calls(monkeypatch):
    model = make(); z, c, rows = data()
    for bad in (dict(steps=0), dict(steps=1001), dict(guidance=-1.)):
        with pytest.raises(ParameterError, match='guidance'): diffuse(model, torch.zeros(2, 5), **bad)
    with pytest.raises(ShapeError, match='seeds'): diffuse(model, torch.zeros(2, 5), seeds=[1])
    with pytest.raises(ShapeError, match='expected 5'): diffuse(model, np.zeros((2, 4)))
    with pytest.raises(ShapeError): diffusion_loss(model, torch.zeros(2, 3, 5, 5), torch.zeros(2, 5))
    with pytest.raises(ShapeError): model.fit_scale(torch.zeros(2, 4, 4, 4))
    for rows in (torch.arange(30), torch.arange(29), -torch.ones(30)):
        with pytest.raises(ShapeError, match='belong together'): train_diffusion(model, z, c, rows, steps=1, log=None)
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(MissingExtra, match=r'brainrecon\[diffusion\]'): make()
