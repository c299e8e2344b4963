"MindEye2's released code: the network without its blurry branch, and its losses. Sizes and settings are those of the file."
import re
import numpy as np
import torch
from golden_cases import case

def near(got, want, what):
    "1e-5 absolute plus 1e-4 relative, as the notes of these files suggest."
    got = got.detach().numpy(); assert got.shape == want.shape, f'{what}: {got.shape}, expected {want.shape}'
    assert np.allclose(got, want, rtol=1e-4, atol=1e-5), f'{what}: off by {np.abs(got - want).max():.2e}'

def tensor(t, name): return torch.from_numpy(t[f'input/{name}'])

@case('mindhier_mindeye2_backbone')
def backbone(t, meta):
    "Loaded by its own names; every person by their own map, told and by the count of voxels; with one response the blocks add a constant to what came in, as released."
    from brainrecon.encoders.mindeye import load_mindeye
    c = meta['config']; state = {k: torch.from_numpy(v) for k, v in t.under('param/').items()}; net, report = load_mindeye(state); b = net.backbone
    assert not report.new and not report.refused and not report.renamed and len(report.matched) == len(state)
    assert list(net.ridge.voxels.values()) == c['vox'] and (b.hidden, b.responses, b.width, b.tokens, len(b.mixer_blocks1)) == (c['h'], c['seq'], c['cs'], c['tok'], c['nb'])
    x = {i: tensor(t, f'voxels{i}') for i in range(len(c['vox']))}; ridge = net.ridge(x); assert torch.equal(ridge, torch.cat([net.ridge(v, i) for i, v in x.items()]))
    if len(set(c['vox'])) == len(c['vox']): assert torch.equal(ridge, torch.cat([net.ridge(v) for v in x.values()]))
    wide = ridge if ridge.shape[1] == c['seq'] else ridge*torch.linspace(.5, 1.5, c['seq'])[None, :, None]     # how the file says that more responses were made of one
    near(wide if t['output/ridge'].shape[1] == c['seq'] else ridge, t['output/ridge'], 'ridge'); out = b(wide)
    near(out.tokens, t['output/backbone'], 'tokens'); near(out.contrast, t['output/clip_voxels'], 'projected')
    if c['seq'] == 1:
        assert torch.equal(net(x).tokens, out.tokens); rest = b.mix(wide) - wide; assert (rest - rest[0, 0, 0]).abs().max() < 1e-4

def shared_ranks(sim, k):
    "The share of rows whose own column is among the k largest, as many as there are columns at most."
    from brainrecon.metrics.retrieval import scores_from_similarity
    k = min(k, len(sim)); return torch.tensor(scores_from_similarity(sim.double().numpy(), np.eye(len(sim), dtype=bool), [k])[f'top{k}'])

@case('mindhier_mindeye2_losses')
def losses(t, meta):
    "Mixtures of responses and of targets, each loss at its temperatures, the annealing, and retrieval as released: rows of the table are pictures, columns responses."
    from brainrecon.alignment.avde_loss import likeness
    from brainrecon.alignment.contrast import bi_mixco, info_nce, mixco, soft_clip
    from brainrecon.alignment.mindeye import MindEyePlan, cosine_anneal, mindeye_loss, mix_targets
    c = meta['config']; x, preds, targs, perm, betas, select = (tensor(t, k) for k in ('voxels', 'preds', 'targs', 'perm', 'betas', 'select')); before = [v.clone() for v in (x, betas, targs)]
    mixed, perm_out, shares, chosen = mixco(x, perm, betas, select); near(mixed, t['output/mixed'], 'mixed'); near(shares, t['output/betas_out'], 'shares'); assert torch.equal(perm_out, perm) and torch.equal(chosen, select)
    near(mix_targets(targs, perm, shares), t['output/mixed_target'], 'mixed targets'); assert all(torch.equal(a, b) for a, b in zip((x, betas, targs), before))
    near(bi_mixco(preds, targs, perm, shares, c['mixco_temp'], normalise=False), t['output/mixco_nce'], 'contrast of mixtures'); near(info_nce(preds, targs, 1/.1, normalise=False), t['output/nce_plain'], 'contrast')
    soft = {k: float(k.removeprefix('output/soft_clip_')) for k in t if k.startswith('output/soft_clip_')}; assert sorted(soft.values()) == sorted(c['soft_temps'])
    for k, v in soft.items(): near(soft_clip(preds, targs, v, normalise=False), t[k], k)
    if all((v.norm(dim=1) - 1).abs().max() < 1e-5 for v in (preds, targs)):      # one call of the plan gives the same
        near(mindeye_loss(preds, targs, 'mixco', c['mixco_temp'], perm, shares), t['output/mixco_nce'], 'first part of the plan')
        for k, v in soft.items(): near(mindeye_loss(preds, targs, 'soft_clip', v), t[k], 'second part of the plan')
    start, end, steps = c['anneal']; near(cosine_anneal(start, end, steps), t['output/anneal'], 'annealing'); plan = MindEyePlan(steps, 0, start=start, end=end); near(torch.tensor([plan.at(i)[1] for i in range(steps)]), t['output/anneal'], 'plan')
    sim = likeness(targs, preds); near(sim, t['output/cosine'], 'cosines')
    for k in [k for k in t if re.fullmatch(r'output/top\d+', k)]: near(shared_ranks(sim, int(k.removeprefix('output/top'))), t[k], k)
