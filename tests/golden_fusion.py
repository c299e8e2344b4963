"The fusion of HVF's released code, alone, in a prior and in the whole retrieval model, and UBP's loss with its choice of the blur. Sizes and settings are those of the file."
import json
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from golden_cases import case

def near(got, want, what, atol=1e-5):
    "1e-5 absolute plus 1e-4 relative, as the notes of these files suggest."
    got = got.detach().numpy(); assert got.shape == want.shape, f'{what}: {got.shape}, expected {want.shape}'
    assert np.allclose(got, want, rtol=1e-4, atol=atol), f'{what}: off by {np.abs(got - want).max():.2e}'

def weights(t): return {k: torch.from_numpy(v) for k, v in t.under('param/').items()}
def embeddings(t): return {k: torch.from_numpy(v) for k, v in t.under('input/emb.').items()}

def fusion(t, c):
    "The fusion in a file, built from its weights alone; every key is accounted for, and the sizes are those of the settings."
    from brainrecon.alignment.fusion import load_fusion
    state = weights(t); model, report = load_fusion(state); said = c.get('proj_meta') or c['embeddings']
    assert not report.new and all(k.startswith('brain_model.') or k == 'logit_scale' for k in report.refused) and len(report.matched) + len(report.renamed) + len(report.refused) == len(state)
    assert model.widths == dict(sorted(said.items())) and (model.d, model.hidden) == (c['hidden_size'], c['intermediate_size']) and set(c.get('order', said)) == set(said)
    return model

def prior(t, meta):
    "Fused vectors and conditions; the same through a folder as the release writes it, in both dictionary orders."
    import tempfile
    from brainrecon.alignment.fusion import load_fusion, save_fusion
    model, parts = fusion(t, meta['config']), embeddings(t)
    with tempfile.TemporaryDirectory() as at:
        save_fusion(model, Path(at)/'fusion_encoder'); config = json.loads((Path(at)/'fusion_encoder'/'config.json').read_text()); again, _ = load_fusion(at)
    assert config['hidden_size'] == meta['config']['hidden_size'] and config['intermediate_size'] == meta['config']['intermediate_size'] and again.config == model.config
    for net, order in ((model, parts), (again, dict(reversed(parts.items())))):
        z = net(order); near(z, t['output/z_f'], 'fused'); near(net.adapt(z), t['output/z_c'], 'condition')

for name in ('hvf_fusion_encoder', 'hvf_fusion_prior'): case(name)(prior)

@case('hvf_brainclip')
def brainclip(t, meta):
    "The whole retrieval model: both sides before the norm, likenesses, loss."
    from brainrecon.alignment.contrast import info_nce
    from brainrecon.core.official import load_official
    from brainrecon.encoders.hvf_networks import BrainMLP
    c = meta['config']; brain = BrainMLP(c['channels'], c['timesteps'], c['hidden_size']).eval(); state = weights(t)
    report = load_official(brain, {k.removeprefix('brain_model.backbone.'): v for k, v in state.items() if k.startswith('brain_model.')}); assert not report.new and not report.refused
    z_brain, z_img = brain(torch.from_numpy(t['input/brain'])), fusion(t, c)(embeddings(t)); scale = state['logit_scale'].exp()
    near(z_brain, t['output/brain_raw'], 'brain'); near(z_img, t['output/image_raw'], 'pictures')
    near(scale*F.normalize(z_brain, dim=1) @ F.normalize(z_img, dim=1).T, t['output/logits_brain_image'], 'likenesses')
    near(info_nce(z_brain, z_img, scale).reshape(t['output/loss'].shape), t['output/loss'], 'loss')

@case('hvf_ubp_cliploss')
def ubp(t, meta):
    "Likenesses, the loss of each trial in both directions, their mean, and which blur each trial gets next."
    from brainrecon.alignment.fusion import blur_match, ubp_loss, ubp_similarity
    c = meta['config']; eeg, img, sim = (torch.from_numpy(t[f'input/{k}']) for k in ('eeg_z', 'img_z', 'sim_prev')); scale = torch.from_numpy(np.array(t['param/brain.logit_scale']))
    near(F.softplus(scale), t['output/logit_scale'], 'scale'); table = ubp_similarity(eeg, img, scale); near(table, t['output/logits_per_image'], 'likenesses')
    right = torch.arange(len(eeg)); each = [F.cross_entropy(x, right, reduction='none') for x in (table, table.T)]
    near(each[0], t['output/loss_eeg'], 'loss of each epoch'); near(each[1], t['output/loss_img'], 'loss of each picture'); near(ubp_loss(eeg, img, scale), t['output/total_loss'], 'loss')
    following, level = blur_match(sim, table.diagonal(), c['gamma'], c['alpha']); near(following, t['output/sim_next'], 'running likeness')
    np.testing.assert_array_equal(level.numpy(), t['output/match_label'], 'level of blur')
