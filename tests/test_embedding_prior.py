"The prior onto embeddings: its parts are those of diffusers, what a step moves, runs that are killed, a seed for each row, files, and what is refused."
import subprocess, sys
from pathlib import Path
import pytest
import torch
from diffusers import PriorTransformer
from brainrecon.core.checkpoint import save_weights
from brainrecon.core.checks import CheckpointError, MissingWeights, ParameterError, ReconError, ShapeError, ValuesError, seeded
from brainrecon.priors.embedding_prior import EmbeddingPrior, load_embedding_prior, noise_levels, save_embedding_prior, set_scale, train_embedding_prior

small = dict(depth=1, heads=2, head=8, levels=20)
def made(tokens=1, width=6, given=(2, 10), **how): return EmbeddingPrior(width, tokens, given=given, **{**small, **how})
def equal(a, b): a, b = a.state_dict(), b.state_dict(); return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())

def data(n=48, tokens=1, width=6, given=(2, 10), seed=0, noise=.1):
    "Embeddings, and tokens that tell of them."
    gen = torch.Generator().manual_seed(seed); z = 3*torch.randn(n, tokens, width, generator=gen) + 5; mix = torch.randn(tokens*width, given[0]*given[1], generator=torch.Generator().manual_seed(99))
    g = (z.flatten(1) @ mix).unflatten(1, given); return g + noise*g.std()*torch.randn(g.shape, generator=gen), z

def train(prior, folder=None, steps=8, **how): return train_embedding_prior(prior, *data(), **{**dict(folder=folder, steps=steps, batch_size=16, every=2, device='cpu', valid=data(10, seed=5)), **how})
quiet = dict(log=None, device='cpu')

@pytest.mark.parametrize('tokens, width, given', [(1, 6, (2, 10)), (3, 4, (3, 4)), (5, 7, (1, 3))])
def test_it_is_the_transformer_of_diffusers(tokens, width, given):
    "Nothing between it and the tokens but a scale; all of it sees all of it."
    prior = made(tokens, width, given).eval(); assert type(prior.net) is PriorTransformer and prior.net.config.num_layers == 1 and {k.split('.')[0] for k in prior.state_dict()} == {'net', 'none', 'given_mean', 'given_std'}
    g, z = data(9, tokens, width, given); set_scale(prior, g, z); x, t = torch.randn(9, tokens, width), torch.arange(9); c = (g - g.mean((0, 1)))/((g - g.mean((0, 1))).square().mean().sqrt())
    with torch.no_grad():
        says = prior(x, t, g); assert says.shape == x.shape and torch.allclose(says, prior.net(x, t, c).predicted_image_embedding, atol=1e-5)
        other = prior(x, t, g, torch.arange(9) < 4); assert torch.equal(other[4:], says[4:]) and torch.allclose(other[:4], prior.net(x[:4], t[:4], prior.none.expand(4, -1, -1))[0], atol=1e-5) and not torch.allclose(other[:4], says[:4])
        moved = x.clone(); moved[:, -1] += 1; assert not torch.allclose(prior(moved, t, g)[:, 0], says[:, 0])     # the first token hears the last

def test_scales_are_those_of_the_training():
    prior = made(); g, z = data(); train(prior, steps=1); shifted = prior.net.post_process_latents(torch.zeros(1, 1, 6)); assert torch.allclose(shifted[0], z.mean((0, 1)), atol=1e-4)
    assert torch.allclose(((z - prior.net.clip_mean)/prior.net.clip_std).square().mean(), torch.tensor(1.), atol=1e-4) and prior.net.clip_std.unique().numel() == 1

def test_levels_end_in_noise_and_begin_clean():
    s = noise_levels(made(levels=100)); assert s.config.prediction_type == 'sample' and not s.config.clip_sample and s.alphas_cumprod[-1] < 1e-4 and s.alphas_cumprod[0] > .99
    steps = noise_levels(made(levels=100), 20).timesteps.tolist(); assert steps == list(range(99, -1, -5))

def test_one_step_is_the_guess_from_noise_alone():
    prior = made(); train(prior); g, _ = data(7, seed=3); x = torch.stack([torch.randn(1, 6, generator=torch.Generator().manual_seed(s)) for s in range(7)])
    with torch.no_grad(): want = prior.net.post_process_latents(prior(x, torch.full((7,), 19), g))
    assert torch.allclose(prior.sample(g, seeds=range(7), steps=1), want, atol=1e-4)

def test_what_is_told_arrives_and_the_untold_does_not():
    with seeded(0): prior = made(depth=2, heads=4, head=16)
    g, z = data(400, noise=0.); train_embedding_prior(prior, g, z, steps=150, batch_size=64, lr=5e-3, **quiet); g, z = data(60, seed=7, noise=0.)
    near = lambda a: float((a - z).square().mean()/(z - z.mean(0)).square().mean()); own = near(prior.sample(g)); assert own < .5 and near(prior.sample(g.roll(1, 0))) > 1. and near(prior.sample(g, guidance=1.)) < .8
    with torch.no_grad(): empty = near(prior.net.post_process_latents(prior(torch.randn(60, 1, 6), torch.full((60,), 19), g, torch.ones(60).bool()))); assert empty > .7

def test_a_row_does_not_see_the_others():
    prior = made(3, 4, (3, 4)); g, _ = data(30, 3, 4, (3, 4)); seeds = list(range(100, 130))
    for how in (dict(), dict(guidance=1.), dict(fresh=0.), dict(steps=20)):
        whole = prior.sample(g, seeds=seeds, **{**dict(steps=4), **how}); some = [3, 17, 20]; assert torch.allclose(prior.sample(g[some], seeds=[seeds[i] for i in some], **{**dict(steps=4), **how}), whole[some], atol=1e-5), how
        assert torch.allclose(prior.sample(g, seeds=seeds, batch=7, **{**dict(steps=4), **how}), whole, atol=1e-4)
    state = torch.get_rng_state(); a = prior.sample(g[:2], seeds=[1, 1], steps=4); assert torch.equal(torch.get_rng_state(), state) and torch.allclose(prior.sample(g[:1].repeat(2, 1, 1), seeds=[1, 2], steps=4)[0], a[0], atol=1e-5) and not torch.allclose(prior.sample(g[:1].repeat(2, 1, 1), seeds=[1, 2], steps=4)[1], a[0])
    trace = prior.sample(g, seeds=seeds, steps=4, trace=True); assert trace.shape == (30, 4, 3, 4) and torch.equal(trace[:, -1], prior.sample(g, seeds=seeds, steps=4)) and prior.sample(g[:0], steps=4).shape == (0, 3, 4)

def test_gradients_reach_all_of_it_and_not_its_scale():
    prior = made(); g, z = data(8); set_scale(prior, g, z); prior.loss(g, z, drop=torch.arange(8) < 4).backward()
    dead = {k for k, p in prior.named_parameters() if p.grad is None or not p.grad.any()}; assert dead == {'net.clip_mean', 'net.clip_std'}
    moved = made(); train(moved, steps=2); assert not torch.equal(moved.none, made().none) and torch.equal(moved.net.causal_attention_mask, made().net.causal_attention_mask)

def test_a_run_that_is_killed_goes_on(tmp_path):
    "Ended by force in the middle, in a process of its own."
    code = f'''
import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_embedding_prior import made, train
from brainrecon.core import fit
write = fit.Fit.write
def stop(self, s, row):
    write(self, s, row)
    if s.step == 4: os._exit(9)
fit.Fit.write = stop
train(made(), {str(tmp_path/"k")!r})
'''
    assert subprocess.run([sys.executable, '-c', code], stdin=subprocess.DEVNULL, capture_output=True, timeout=300).returncode == 9 and list((tmp_path/'k').glob('*.pt'))
    again, whole = made(), made(); h = train(again, tmp_path/'k'); whole_h = train(whole); assert equal(again, whole) and not equal(whole, made()) and [r['loss'] for r in h] == [r['loss'] for r in whole_h]
    with pytest.raises(CheckpointError): train_embedding_prior(made(), *data(48, seed=1), folder=tmp_path/'k', steps=8, batch_size=16, every=2, device='cpu', valid=data(10, seed=5))

def test_files(tmp_path):
    prior = made(3, 4, (3, 4), drop=.3, seed=4); train_embedding_prior(prior, *data(20, 3, 4, (3, 4)), steps=2, **quiet); g, _ = data(5, 3, 4, (3, 4)); path = save_embedding_prior(prior, tmp_path/'p.safetensors', about=dict(a=1))
    again = load_embedding_prior(path); assert equal(prior, again) and again.config == prior.config and not again.training and torch.equal(again.sample(g, steps=3), prior.sample(g, steps=3)) and not any(p.requires_grad for p in again.parameters())
    half = load_embedding_prior(save_embedding_prior(prior, tmp_path/'h.safetensors', half=True)); assert torch.allclose(half.sample(g, steps=3), prior.sample(g, steps=3), atol=.1) and (tmp_path/'h.safetensors').stat().st_size < path.stat().st_size
    (tmp_path/'cut.safetensors').write_bytes(path.read_bytes()[:500]); save_weights(tmp_path/'other.safetensors', dict(a=torch.ones(2)), dict(kind='fusion_prior')); save_weights(tmp_path/'bare.safetensors', dict(a=torch.ones(2)), {})
    state = dict(prior.state_dict()); state.pop('none'); save_weights(tmp_path/'less.safetensors', state, dict(kind='embedding_prior', config=prior.config))
    for name, kind in (('cut', ReconError), ('other', CheckpointError), ('less', CheckpointError), ('nowhere', MissingWeights)):
        with pytest.raises(kind): load_embedding_prior(tmp_path/f'{name}.safetensors')
    prior.none.data[0] = torch.nan
    with pytest.raises(ValuesError, match='none'): save_embedding_prior(prior, tmp_path/'bad.safetensors')

@pytest.mark.parametrize('how', [dict(width=0), dict(width='6'), dict(tokens=0), dict(given=3), dict(given=(1, 2, 3)), dict(given=(0, 4)), dict(depth=0), dict(heads=1, head=7), dict(levels=1), dict(drop=1.), dict(drop=-1), dict(drop='a'), dict(dropout=1.5), dict(seed=-1)])
def test_sizes_that_are_none(how):
    with pytest.raises(ParameterError): EmbeddingPrior(**{**dict(width=6), **small, **how})

def test_calls_that_do_not_fit():
    prior = made(); g, z = data(8)
    for call, kind in ((lambda: prior.sample(g[:, :1]), ShapeError), (lambda: prior.sample(g[0]), ShapeError), (lambda: prior.sample(g, seeds=[1]), ShapeError), (lambda: prior.sample(g, steps=0), ParameterError), (lambda: prior.sample(g, steps=21), ParameterError), (lambda: prior.sample(g, guidance=-1), ParameterError), (lambda: prior.sample(g, fresh=2), ParameterError), (lambda: prior.sample(g, batch=0), ParameterError),
        (lambda: train_embedding_prior(prior, g[:4], z), ShapeError), (lambda: train_embedding_prior(prior, g, z[..., :3]), ShapeError), (lambda: train_embedding_prior(prior, g, z, (g[:3], z[:2])), ShapeError), (lambda: train_embedding_prior(prior, g*0, z), ValuesError), (lambda: train_embedding_prior(prior, g*float('nan'), z), ValuesError), (lambda: train_embedding_prior(prior, g, z, steps=0), ParameterError), (lambda: train_embedding_prior(prior, g, z, stepz=3), ReconError)):
        with pytest.raises(kind): call()
