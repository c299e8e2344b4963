"""Golden values of the Switti family: both forms of attention, MindHier's levels in both directions, and greedy drawing, from the official implementations."""
import re
import numpy as np
import torch
import torch.nn.functional as F
from golden_cases import Tensors, case, close
from golden_vqvae import filled
from safetensors.numpy import load_file as load_numpy

def build(c, **how):
    "The generator that a golden file describes."
    from brainrecon.generators.switti import Switti
    own = dict(rope=c.get('rope', True), rope_size=c.get('rope_size', 128), rope_theta=c.get('rope_theta', 10000), mlp_ratio=c.get('mlp_ratio', 4.))
    return Switti(vocab=c['V'], z=c['Cvae'], patch_nums=c['patch_nums'], depth=c['depth'], width=c['embed_dim'], heads=c['num_heads'], use_ar=c['use_ar'], use_crop_cond=c['use_crop_cond'],
        use_swiglu_ffn=c['use_swiglu_ffn'], **own, **how).eval()

def weights(model, t, prefix):
    "Every weight of the file in its place, and no other; tables that follow from the sizes may be absent."
    from brainrecon.generators.switti import fill_switti
    state = {k: torch.from_numpy(v) for k, v in t.under(prefix).items()}; report = fill_switti(model, state)
    assert not report.new and not report.refused and not report.renamed and sorted(report.matched) == sorted(state)
    return model

def quantiser(c, t):
    from brainrecon.generators.quantiser import Quantiser
    "The tokenizer's; how often codes were used does not matter here and is not in the file."
    q = Quantiser(c['V'], c['Cvae'], c['patch_nums'], quant_resi=c.get('quant_resi', .5), shared=c.get('share_quant_resi', 4))
    return filled(q, {'ema_vocab_hit_SV': q.ema_vocab_hit_SV.numpy(), **t.under('param/quantize.')})

def seen_by_teacher(t, q, sides):
    idx = torch.from_numpy(t['input/gt_idx']); x = torch.from_numpy(t['input/x_BLCv_wo_first_l'])
    close(q.teacher(list(idx.split([n*n for n in sides], 1))), x, 1e-5, 'what the generator sees'); return idx, x

def drawn(model, q, told, **how):
    from brainrecon.generators.sampling import draw_scales
    return list(draw_scales(model, q, told, list(range(len(told))), **how))

def tensor(t, k): return torch.from_numpy(t[k])

@torch.no_grad()
def check_switti(t, meta):
    "Turns, who looks at whom, answers of all scales at once, and drawing with guidance in a window."
    from brainrecon.generators.levels import Told
    from brainrecon.generators.switti import turns
    c = meta['config']; model = build(c, pooled_dim=t['input/pooled_prompt_embeds'].shape[1], context_dim=t['input/prompt_embeds'].shape[2]); weights(model, t, 'param/switti.'); q = quantiser(c, t)
    if c.get('rope', True): cos, sin = turns(c['patch_nums'], c['embed_dim']//c['num_heads'], c['rope_size'], c['rope_theta']); close(cos[None], t['output/freqs_cos'], 1e-5, 'cosines'); close(sin[None], t['output/freqs_sin'], 1e-5, 'sines')
    close(model.attn_bias_for_masking.exp(), np.exp(t['output/self_attn_bias']), 0, 'who looks at whom')
    idx, x = seen_by_teacher(t, q, c['patch_nums']); pooled, tokens, seen = tensor(t, 'input/pooled_prompt_embeds'), tensor(t, 'input/prompt_embeds'), tensor(t, 'input/prompt_attn_bias') == 0
    size = torch.tensor([c['batch_height'], c['batch_width']]).T if c['use_crop_cond'] else None
    close(model(Told(pooled, tokens, seen, size), x), t['output/logits_BLV'], 1e-4, 'logits')
    g = c['greedy']; n = len(c['patch_nums']); none = Told(tensor(t, 'input/null_pooled'), tensor(t, 'input/null_embeds')); size = torch.full((len(pooled), 2), g['crop_size_used'])
    told = Told(pooled, tokens, seen, size, none); how = dict(guidance=float(g['cfg']), top_k=int(g['top_k']), top_p=float(g['top_p']), window=(g['turn_on_cfg_start_si'], g['turn_off_cfg_start_si']))
    steps = drawn(model, q, told, **how); assert len(steps) == n and np.array_equal(torch.cat([s.indices for s in steps], 1), t['output/greedy_idx']), 'greedy codes'
    close(steps[-1].f_hat, t['output/greedy_f_hat'], 1e-4, 'greedy map')
    check_at_once(model, q, told, steps, **how)

def check_at_once(model, q, told, steps, guidance, window, **_):
    "The drawn codes, shown all at once, get the logits that were drawn from."
    from brainrecon.generators.sampling import guidance_at
    x = q.teacher([s.indices for s in steps]); heard, free = model(told, x), model(told, x, drop=torch.ones(len(told), dtype=torch.bool))
    for s, (a, e) in zip(steps, model.spans):
        w = guidance_at(guidance, s.k, len(steps), window=window); close(s.logits, (1+w)*heard[:, a:e] - w*free[:, a:e], 2e-4, f'logits of scale {s.k}, all scales at once')
    return heard, free

@case('mindhier_switti')
def mindhier_switti(t, meta): check_switti(t, meta)

@case('mindhier_switti_ar')
def mindhier_switti_ar(t, meta): check_switti(t, meta)

def hierarchy(t, pre='input/'):
    "What is told at each level, shallow first."
    from brainrecon.generators.levels import Told
    names = sorted((k for k in t if re.fullmatch(rf'{pre}e\d+', k)), key=lambda k: int(k.removeprefix(f'{pre}e')))
    return Told(tensor(t, f'{pre}pooled'), [tensor(t, k) for k in names])

def mindhier(c, t, order):
    return weights(build(c, pooled_dim=c['context_dim'], context_dim=c['context_dim'], pooler='fmri_pooler', levels=c['M'], order=order), t, 'param/hierarchy_ar.')

@case('mindhier_generator')
@torch.no_grad()
def mindhier_generator(t, meta):
    "Levels by scale, the table that is the same, answers in both directions, and the loss."
    from brainrecon.generators.levels import level_of_scale
    c = meta['config']; told = hierarchy(t); q = quantiser(c, t); idx, x = seen_by_teacher(t, q, c['patch_nums'])
    assert len(told.tokens) == c['M'] and level_of_scale(len(c['patch_nums']), c['M']) == t['output/h_k'].tolist()
    deep, shallow = (mindhier(c, t, order) for order in ('deep_to_coarse', 'fine_to_coarse')); released = mindhier(c, t, 'released')
    assert np.array_equal(deep.ear_mask(told.tokens[0].shape[1]).numpy(), t['output/cross_mask_allowed'] > 0), 'who is told what'
    logits = deep(told, x); close(logits, t['output/logits_deep_to_coarse'], 1e-4, 'deep to coarse')
    for m in (shallow, released): close(m(told, x), t['output/logits_shallow_to_coarse'], 1e-4, 'shallow to coarse')
    close(F.cross_entropy(logits.flatten(0, 1), idx.flatten()), t['output/loss'], 1e-5, 'loss')

def weights_beside(path, name):
    "The tensors of the file of this name in the same folder; one with the same ending first, if this one has an ending."
    ends = [path.stem.removeprefix('mindhier_generate'), '']; found = next((p for e in ends if (p := path.with_name(f'{name}{e}.safetensors')).exists()), None)
    assert found, f'{path.name} needs {name}.safetensors beside it'
    return Tensors(load_numpy(found))

@case('mindhier_generate')
@torch.no_grad()
def mindhier_generate(t, meta):
    "Greedy drawing with the weights and features of another file of the same set, which is found beside it by the name in `weights`."
    c = meta['config']; base = weights_beside(meta['file'], c['weights']); told = hierarchy(base); told.none = hierarchy(t, 'input/null_')
    model, q = mindhier(c, base, 'deep_to_coarse'), quantiser(c, base); how = dict(guidance=float(c['cfg']), top_k=1, window=(c['turn_on_cfg_start_si'], len(c['patch_nums'])))
    steps = drawn(model, q, told, **how); assert np.array_equal(torch.cat([s.indices for s in steps], 1), t['output/greedy_idx']), 'greedy codes'
    close(steps[-1].f_hat, t['output/f_hat'], 1e-4, 'map')
    heard, free = check_at_once(model, q, told, steps, **how); close(heard, t['output/logits_cond'], 1e-4, 'logits with condition'); close(free, t['output/logits_uncond'], 1e-4, 'logits without condition')
