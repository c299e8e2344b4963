"MindHier's first stage: the same levels, pictures, texts and losses from the same weights and voxels, whatever the sizes."
import numpy as np
import torch
from golden_cases import case

def near(got, want, what):
    "1e-5 absolute plus 1e-4 relative, as the notes of these files suggest."
    got = got.detach().numpy(); assert got.shape == want.shape, f'{what}: {got.shape}, expected {want.shape}'
    assert np.allclose(got, want, rtol=1e-4, atol=1e-5), f'{what}: off by {np.abs(got - want).max():.2e}'

@case('mindhier_hfe')
def encoder(t, meta):
    from brainrecon.alignment.cascade import hierarchy_loss
    from brainrecon.encoders.hierarchy import HierarchyEncoder, load_hierarchy
    c = meta['config']; state = {k: torch.from_numpy(v) for k, v in t.under('param/').items()}
    net, report = load_hierarchy(state, heads=c['nh']); assert not report.new and not report.refused and not report.renamed
    said = dict(voxels=c['vox'], hidden=[c['h1'], c['h2']], context=c['seq'], width=c['d'], tokens=c['img'], text_tokens=c['txt'], heads=c['nh'], levels=c['M'])
    assert {k: net.config[k] for k in said} == said      # every size was read off the weights
    again = HierarchyEncoder(**net.config).eval(); again.load_state_dict(state)
    tensor = lambda name: torch.from_numpy(t[f'input/{name}']); out = net(tensor('voxels')); levels = [f'e{i + 1}' for i in range(c['M'])]
    for name, e in zip(levels, out.levels): near(e, t[f'output/{name}'], name)
    for name, got in (('image_emb', out.image), ('text_emb', out.text), ('pooled', out.pooled)): near(got, t[f'output/{name}'], name)
    assert all(torch.equal(a, b) for a, b in zip(again(tensor('voxels')).levels, out.levels))
    aims = [tensor(f'clip_layer{i}') for i in range(c['M'])]
    terms = hierarchy_loss(out, aims, image=tensor('clip_image'), text=tensor('clip_text'), scale=c['mse_scale'], temperature=c['softclip_temp'])
    for name in ('mse_image', 'mse_text', 'mse_layers', 'softclip_image', 'softclip_text'): near(terms[name], t[f'output/loss_{name}'], name)
    near(sum(terms.values()), t['output/loss_total'], 'total'); assert len(terms) == 5
