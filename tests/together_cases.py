"""Every training of this library at a tiny size, for as many processes as it is started with; see test_together.py.

`python together_cases.py FOLDER [NAME ...]`, or the same through `torch.distributed.run`. Batches do not divide evenly, chance is on (dropout, noise, mixed
responses, conditions left out), and batch normalisation is there: what a shared batch must not change.
"""
import os, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
sys.path.insert(0, str(Path(__file__).parent))
import test_autoencoder, test_avde, test_diffusion, test_embedding_prior, test_hvf, test_mindhier, test_priors, test_switti, test_training
from brainrecon.core.checks import seeded
from brainrecon.core.fit import Batches, Fit
from brainrecon.decoders.avde_stages import Reader, small_labram
from brainrecon.decoders.haxby import fit_encoder
from brainrecon.decoders.hierarchy import HierarchyDecoder
from brainrecon.decoders.hvf import HVF
from brainrecon.decoders.mindeye import MindEyeDecoder
from brainrecon.decoders.retrieval import ContrastiveDecoder
from brainrecon.generators.training import train_generator

cases = {}
def case(f): cases[f.__name__] = f; return f
quiet = dict(device='cpu', log=None)
state = lambda net: {k: v.detach().clone() for k, v in net.state_dict().items()}

def eeg(people=(1,)): return test_hvf.world(people=people, n=(70, 12, 10))

@case
def contrastive_mlp(at): train, valid, _, g = eeg(); return ContrastiveDecoder('mlp', steps=8, batch_size=33, every=4).fit(train, valid, g, at, **quiet).model
@case
def contrastive_conv(at): train, valid, _, g = eeg(); return ContrastiveDecoder('conv', steps=6, batch_size=33, every=3, kernel=3, pool=3).fit(train, valid, g, at, **quiet).model

def long(people=(1,)):
    "EEG of a second at 250 Hz, as the published networks want it."
    train, valid, _, g = test_hvf.world(people=people, n=(60, 12, 10)); longer = lambda t: replace(t, x=np.tile(t.x, (1, 1, 17))[..., :250], sfreq=250.); return longer(train), longer(valid), g
def toy(): (train, _, z), (valid, _, zv) = test_avde.toy('train', 2), test_avde.toy('valid'); return train, valid, z + zv
def reader(name, at, **how): train, valid, g = toy() if name == 'labram' else long(); return Reader(name, 0, **how).fit(train, valid, g, at, steps=6, every=3, batch_size=33, **quiet).model
@case
def avde_labram(at): return reader('labram', at, options=dict(small_labram(20, depth=2), drop_path=.3))
@case
def avde_eegnet(at): return reader('eegnet', at)
@case
def avde_nice(at): return reader('nice', at)
@case
def avde_atm(at): return reader('atm', at)

@case
def hvf(at): train, valid, _, g = eeg((1, 2)); return HVF(width=16, batch_size=33, epochs=2, lr=2e-3, smooth=3, mmd=[.5, .1], mix='person').fit(train, valid, g, at, **quiet).model
@case
def hvf_ubp(at): train, valid, _, g = eeg(); return HVF(width=16, batch_size=33, epochs=2, lr=2e-3, loss='ubp').fit(train, valid, g, at, **quiet).model

@case
def mindeye(at):
    train, valid, _, g = test_hvf.world('fmri', (1, 2), (41, 12, 10)); return MindEyeDecoder(tokens=1, hidden=16, blocks=1, dropout=.2, epochs=4, batch_size=33, share=.5, w_mse=.1, warmer=10.).fit(train, valid, g, at, **quiet).model

@case
def mindhier_encoder(at):
    train, valid, _, g, _ = test_mindhier.world((70, 12, 10)); return HierarchyDecoder(**test_mindhier.stage_one | dict(epochs=3, batch_size=33, dropout=.2)).fit(train, valid, g, at, **quiet).model

@case
def haxby(at):
    gen = np.random.default_rng(0); space = type('Space', (), dict(levels=[gen.normal(size=(4, 3, 8)).astype('float32') for _ in range(2)]))()
    return fit_encoder(gen.normal(size=(50, 30)), gen.integers(4, size=50), space, epochs=3, batch_size=21, noise=.5, folder=at, context=2, hidden=(16,), heads=2, ff=16, dropout=.2, **quiet)

@case
def tokenizer(at):
    from brainrecon.generators.training import train_tokenizer
    net = test_training.tokenizer(); train_tokenizer(net, test_training.img, test_training.held, at, plain=3, steps=6, batch_size=15, lr=3e-3, every=2, least=.5, critic=True, critic_from=3, encoder=test_training.Small(), **quiet); return net

@case
def generator(at):
    net = test_training.generator(drop_path=.2, cond_drop=.3); train_generator(net, test_training.vqvae, test_training.cond, np.stack([test_training.words]*2, 1), steps=6, batch_size=15, noise=.5, smooth=.1, balance=.5, folder=at, **quiet); return net

@case
def switti(at): return test_switti.fitted(at)

@case
def diffusion(at):
    net = test_diffusion.make(cond_drop=.3); g = torch.Generator().manual_seed(0)
    test_diffusion.train_diffusion(net, torch.randn(30, 3, 4, 4, generator=g), torch.randn(30, 5, generator=g), steps=6, batch_size=15, ema=.9, folder=at, **quiet); return net

@case
def autoencoder(at):
    pics = test_training.fields(40).repeat(2, 1).repeat(2, 2); net = test_autoencoder.small(); test_autoencoder.train_autoencoder(net, pics, pics[:6], at, steps=6, batch_size=15, **quiet); return net

@case
def fusion_prior(at): net = test_priors.made(drop=.3); test_priors.train_prior(net, *test_priors.data(), steps=6, folder=at, batch_size=14, accumulate=3, checkpointing=True, **quiet); return net
@case
def embedding_prior(at): net = test_embedding_prior.made(drop=.3); test_embedding_prior.train(net, at, steps=6, batch_size=15, log=None); return net

@case
def goes_on(at):
    "Words of a loss that looks at the whole batch through nothing but its mean; parts of a batch, averaged weights."
    with seeded(0): net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(.3), nn.Linear(16, 2))
    gen = np.random.default_rng(0); x, y = gen.normal(size=(50, 6)).astype('float32'), gen.normal(size=(50, 2)).astype('float32')
    Fit(net, lambda m, b: F.mse_loss(m(b[0]), b[1]), lr=1e-2, ema=.9, accumulate=2, folder=at, **quiet).run(Batches(x, y, batch_size=17), 9, every=3); return net

if __name__ == '__main__':
    torch.set_num_threads(1); out = Path(sys.argv[1])
    for name in sys.argv[2:] or cases:
        net = cases[name](out/name)
        if os.environ.get('RANK', '0') == '0': torch.save(state(net), out/name/'end.pt')
    if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
