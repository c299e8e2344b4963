"""Golden values of the next-scale transformer and of drawing with it: conditioned on classes and on embeddings, from the official implementations."""
import re
import numpy as np
import torch
import torch.nn.functional as F
from golden_cases import case, close
from golden_vqvae import build as build_vqvae, filled

def build(config, vae):
    "The transformer that a golden file describes."
    from brainrecon.generators.var import VAR
    return VAR(vocab=vae['vocab_size'], z=vae['z_channels'], patch_nums=config['patch_nums'], depth=config['depth'], width=config['embed_dim'], heads=config['num_heads'],
        mlp_ratio=config['mlp_ratio'], num_classes=config.get('num_classes'), d_embed=config.get('eeg_dim'), shared_aln=config['shared_aln'], qk_norm=config['attn_l2_norm']).eval()

def check_forward(t, var, cond, x, truth, pre, unknown):
    "Answers of all scales at once, with and without the condition, and the loss."
    logits = var(cond, x); close(logits, t[f'output/{pre}logits'], 1e-4, f'{pre}logits')
    close(var(cond, x, drop=torch.ones(len(x), dtype=torch.bool)), t[f'output/{pre}logits_uncond'], 1e-4, f'{pre}logits without condition')
    if unknown is not None: close(var(unknown, x), t[f'output/{pre}logits_uncond'], 1e-4, f'{pre}logits of the zero embedding')
    close(F.cross_entropy(logits.flatten(0, 1), truth.flatten()), t[f'output/{pre}loss'][0], 1e-5, f'{pre}loss')

def check_drawing(t, var, vqvae, cond, guidance, pre, top_k, top_p):
    "Drawing with the memory: guided answers of every scale, codes exactly, maps and pictures; and the same answers from the codes at once."
    from brainrecon.generators.sampling import draw_scales, guidance_at, sample
    how = dict(guidance=guidance, top_k=top_k, top_p=top_p); at = f'output/{pre}gen_cfg{guidance:g}_'
    steps = list(draw_scales(var, vqvae.quantize, cond, list(range(len(cond))), **how)); assert len(steps) == len(var.patch_nums)
    x = vqvae.quantize.teacher([s.indices for s in steps]); known, free = (var(cond, x, drop=torch.full((len(x),), drop)) for drop in (False, True))
    for s, (a, e) in zip(steps, var.spans):
        want = t[f'{at}logits_{s.k}']; close(s.logits, want, 2e-4, f'{at}logits of scale {s.k}'); w = guidance_at(guidance, s.k, len(steps))
        close((1+w)*known[:, a:e] - w*free[:, a:e], want, 2e-4, f'{at}logits of scale {s.k}, all scales at once')
        assert np.array_equal(s.indices.numpy(), t[f'{at}idx_{s.k}']), f'{at}codes of scale {s.k}'
    got = sample(var, vqvae, cond, trace=True, **how); want = t[f'{at}img']
    assert all(torch.equal(a, s.indices) for a, s in zip(got.indices, steps)) and len(got.trace) == len(steps)
    close(got.f_hat, t[f'{at}f_hat'], 1e-4, f'{at}map'); close(got.img, want, 1e-4, f'{at}picture'); close(got.trace[-1], want, 1e-4, f'{at}last of the trace')

def check_filters(t):
    "Chances after top-k, then top-p; both numbers stand in the names."
    from brainrecon.generators.sampling import filter_logits
    logits = torch.from_numpy(t['input/filter_logits']); names = [k for k in t if k.startswith('output/filter_probs_')]; assert names
    for name in names:
        k, p = re.fullmatch(r'output/filter_probs_k(\d+)_p([\d.]+)', name).groups()
        close(filter_logits(logits, int(k), float(p)).softmax(-1), t[name], 1e-6, name)

@torch.no_grad()
def check_generator(t, meta, cond):
    "Every variant that the file holds."
    vqvae = filled(build_vqvae(meta['vae']), t.under('param_vae/')); scales = range(len(meta['vae']['patch_nums']))
    idx = [torch.from_numpy(t[f'input/gt_idx_{k}']) for k in scales]; x = torch.from_numpy(t['input/x_BLCv_wo_first_l'])
    close(vqvae.quantize.teacher(idx), x, 1e-5, 'what the generator sees')
    for pre, config, weights in (('', meta['config'], 'param/'), ('v2_', meta.get('variant2'), 'param_v2/')):
        if not config: continue
        var = filled(build(config, meta['vae']), t.under(weights)); unknown = torch.zeros_like(cond) if cond.is_floating_point() else None
        check_forward(t, var, cond, x, torch.cat(idx, 1), pre, unknown)
        for guidance in config['cfgs']: check_drawing(t, var, vqvae, cond, float(guidance), pre, int(meta.get('top_k', 1)), float(meta.get('top_p', 0)))

@case('avde_var')
def avde_var(t, meta):
    "Conditioned on classes, in both variants, and the filters."
    check_generator(t, meta['config'], torch.from_numpy(t['input/label'])); check_filters(t)

@case('avde_vareeg')
def avde_vareeg(t, meta):
    "Conditioned on embeddings."
    check_generator(t, meta['config'], torch.from_numpy(t['input/eeg_emb']))
