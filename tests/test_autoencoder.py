"The embedded autoencoder: what it keeps, how it is trained and resumed, and what it refuses."
import numpy as np
import pytest
import torch
from brainrecon.core.checks import CheckpointError, FolderError, ParameterError, ShapeError
from brainrecon.data.pictures import load_pictures
from brainrecon.encoders.latents import TinyAutoencoder, load_autoencoder, save_autoencoder
from brainrecon.generators.autoencoder import autoencoder_loss, autoencoder_scores, fit_latent_scale, latents_of, packaged_autoencoder, train_autoencoder
from brainrecon.generators.vqvae import to_signed


@pytest.fixture(scope='module')
def drawings(): return load_pictures('train', size=32).img[:64]

def small(seed=0):
    with torch.random.fork_rng(): torch.manual_seed(seed); return TinyAutoencoder(widths=(16,), z=4, stem=4, groups=8, size=32)

def weights(net): return {k: v.clone() for k, v in net.state_dict().items()}


def test_packaged_one_copies_things_that_it_never_met():
    "Far better than the mean colour, and than the copy of another picture."
    net = packaged_autoencoder(); img = load_pictures('valid', size=net.size).img; x = to_signed(img)
    with torch.no_grad(): copy = net(x)[1]
    error = lambda a: float((a - x).square().mean()); flat = x.mean((2, 3), keepdim=True).expand_as(x)
    assert autoencoder_scores(net, img)['psnr'] > 25 and error(copy) < .2*error(flat) and error(copy) < .1*error(copy.roll(1, 0))

def test_packaged_latents_have_a_spread_of_one():
    net = packaged_autoencoder(); z = latents_of(net, load_pictures('valid', size=net.size))
    assert z.shape[1:] == net.shape == (16, 8, 8) and .8 < z.std() < 1.2

def test_killed_and_resumed_it_ends_the_same(tmp_path, drawings):
    how = dict(batch_size=8, log=None, device='cpu', seed=3); whole, cut = small(), small()
    train_autoencoder(whole, drawings, drawings[:8], tmp_path/'whole', steps=24, **how)
    class Stop(Exception): pass
    def after(text):
        if ' 12/24' in text: raise Stop
    with pytest.raises(Stop): train_autoencoder(cut, drawings, drawings[:8], tmp_path/'cut', steps=24, **{**how, 'log': after})
    again = small(7); train_autoencoder(again, drawings, drawings[:8], tmp_path/'cut', steps=24, **how)
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(whole).items()) and whole.scale == again.scale

def test_terms_of_the_loss(drawings):
    "Each can be left out; in evaluation mode nothing is drawn by chance."
    net, img = small().eval(), to_signed(drawings[:4])
    assert set(autoencoder_loss(net, img)) == {'pixel', 'kl'} and float(autoencoder_loss(net, img, kl=0.)['kl'].detach()) == 0
    assert torch.equal(autoencoder_loss(net, img)['pixel'], autoencoder_loss(net, img)['pixel']); net.train()
    assert not torch.equal(autoencoder_loss(net, img)['pixel'], autoencoder_loss(net, img)['pixel'])

def test_scale_changes_latents_and_not_copies(drawings):
    net = small().eval(); img = to_signed(drawings[:4])
    with torch.no_grad(): before = net(img); fit_latent_scale(net, drawings); after = net(img)
    torch.testing.assert_close(before[1], after[1]); torch.testing.assert_close(before[0]*net.scale, after[0])

def test_kept_in_a_file(tmp_path, drawings):
    net = small().eval(); fit_latent_scale(net, drawings); save_autoencoder(tmp_path/'a.safetensors', net); back = load_autoencoder(tmp_path/'a.safetensors')
    assert back.scale == net.scale and np.array_equal(latents_of(net, drawings[:4]), latents_of(back, drawings[:4]))
    (tmp_path/'b.safetensors').write_bytes((tmp_path/'a.safetensors').read_bytes()[:-100])
    with pytest.raises(FolderError, match='whole'): load_autoencoder(tmp_path/'b.safetensors')

def test_latents_are_kept_for_these_pictures_and_weights(tmp_path, drawings):
    net = small().eval(); z = latents_of(net, drawings[:8], tmp_path); assert np.array_equal(z, latents_of(net, drawings[:8], tmp_path))
    for other in (lambda: latents_of(net, drawings[8:16], tmp_path), lambda: latents_of(small(1).eval(), drawings[:8], tmp_path)):
        with pytest.raises(CheckpointError, match='other settings'): other()

def test_refusals(drawings):
    with pytest.raises(ShapeError, match='size=32'): train_autoencoder(small(), np.zeros((4, 64, 64, 3), 'uint8'), drawings, steps=1)
    with pytest.raises(ParameterError, match='perceptual'): train_autoencoder(small(), drawings, drawings, steps=1, perceptual=-1)
    with pytest.raises(ParameterError, match='steps'): train_autoencoder(small(), drawings, drawings, steps=0)
