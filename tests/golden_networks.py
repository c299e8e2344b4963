"Brain networks of HVF's, UBP's and NICE's released code: the same vectors from the same weights, found and loaded by their own names."
import numpy as np
import torch
from golden_cases import case

def near(got, want, what):
    "1e-5 absolute plus 1e-4 relative, as the notes of these files suggest."
    got = got.detach().numpy(); assert got.shape == want.shape, f'{what}: {got.shape}, expected {want.shape}'
    assert np.allclose(got, want, rtol=1e-4, atol=1e-5), f'{what}: off by {np.abs(got - want).max():.2e}'

def filled(model, t):
    "A network in evaluation mode with the weights of the file; every key is accounted for."
    from brainrecon.core.official import load_official
    from brainrecon.encoders.door import released_names, unused_names
    report = load_official(model, {k: torch.from_numpy(v) for k, v in t.under('param/').items()}, rename=released_names(model), unused=unused_names)
    assert not report.new and set(report.refused) <= {'logit_scale'}, report
    return model.eval()

def tensor(t, name): return torch.from_numpy(t[f'input/{name}'])
def span(times): return times[1] - times[0] if isinstance(times, (list, tuple)) else times

def encoder(name, n_chans, times, d):
    from brainrecon.encoders.door import eeg_encoder
    return eeg_encoder(name, [f'E{i}' for i in range(n_chans)], span(times), d)

def ubp(t, meta):
    c = meta['config']; net = filled(encoder(c['cls'], c['c_num'], c['timesteps'], c['z_dim']), t)
    near(net(tensor(t, 'x')), t['output/z'], c['cls'])

@case('hvf_backbone')
def hive(t, meta):
    c = meta['config']; net = filled(encoder(c['backbone'], c['channels'], c['timesteps'], c['hidden_size']), t)
    if hasattr(net, 'backbone'): assert net.width == c['embedding_dim']     # the flat ones do not ask for it
    near(net(tensor(t, 'brain')), t['output/z'], c['backbone'])

for name in ('eegprojectlayer', 'shallownet', 'deepnet', 'eegnet', 'tsconv'): case(f'hvf_ubp_{name}')(ubp)

@case('hvf_brain_mlp_infonce')
def brain_mlp(t, meta):
    from brainrecon.alignment.contrast import info_nce
    import torch.nn.functional as F
    c = meta['config']; net = filled(encoder('brain_mlp', c['brain_channels'], c['brain_sequence_length'], c['hidden_size']), t)
    near(z := net(tensor(t, 'brain_signals')), t['output/z_b'], 'vectors')
    z_f, scale = tensor(t, 'z_f'), float(np.exp(t['param/logit_scale']))
    near(scale*F.normalize(z, dim=1) @ F.normalize(z_f, dim=1).T, t['output/logits_per_brain'], 'similarities')
    near(info_nce(z, z_f, scale), t['output/loss'], 'loss')

@case('hvf_nice_encoder')
def nice(t, meta):
    from brainrecon.alignment.contrast import info_nce
    from brainrecon.encoders.eeg_networks import NICE
    import torch.nn.functional as F
    c = meta['config']; net = filled(NICE(c['channels'], c['samples'], c['proj_dim'], emb=c['emb_size']), t)
    eeg, img = tensor(t, 'eeg')[:, 0], tensor(t, 'img_features'); scale = float(np.exp(t['param/logit_scale']))
    near(net.Enc_eeg(eeg), t['output/enc'], 'features'); near(z := net(eeg), t['output/proj'], 'vectors')
    near(scale*F.normalize(z, dim=1) @ F.normalize(img, dim=1).T, t['output/logits_per_eeg'], 'similarities')
    near(info_nce(z, img, scale), t['output/loss'], 'loss')

@case('hvf_atm_itransformer')
def atm(t, meta):
    from brainrecon.encoders.eeg_networks import ChannelTransformer
    c = meta['config']
    net = filled(ChannelTransformer(c['c_num'], c['seq_len'], width=c['d_model'], heads=c['n_heads'], hidden=c['d_ff'], layers=c['e_layers'], persons=c['num_subjects'], released=True), t)
    near(net(tensor(t, 'x'), tensor(t, 'subject_ids')), t['output/tokens'], 'tokens')
    near(net(tensor(t, 'x'), tensor(t, 'subject_ids_unknown')), t['output/tokens_unknown'], 'tokens with an unknown person')
    net.released = False; ours = net(tensor(t, 'x'), tensor(t, 'subject_ids'))     # without the slips: the same tokens, without the person's and with the last channel's
    near(ours[:, :-1], t['output/tokens'][:, 1:], 'tokens of the channels')
