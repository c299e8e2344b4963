"""The golden file of LaBraM: every output of the released network, from the same weights; sizes and channels from the file."""
import numpy as np
import torch
from brainrecon.encoders.electrodes import electrodes
from brainrecon.encoders.labram import LaBraM
from golden_cases import case

def sizes(c):
    "Arguments of ours from the file's settings."
    return dict(patch=c['patch_size'], width=c['embed_dim'], depth=c['depth'], heads=c['num_heads'], out_chans=c['out_chans'], mlp_ratio=c.get('mlp_ratio', 4.), qkv_bias=c.get('qkv_bias', False), temperature=True)

def built(c, names, x, weights, **more):
    "A network for these channels and as many windows as the signal has, with the file's weights, all of them."
    model = LaBraM(names, x.shape[2]*x.shape[3], c['num_classes'], **{**sizes(c), **more})
    model.load_state_dict({k: torch.as_tensor(np.array(v)) for k, v in weights.items()}, strict=True)
    return model.eval()

@case('avde_labram')
@torch.no_grad()
def avde_labram(t, meta):
    c, weights = meta['config'], t.under('param/')
    for names, wanted in ((c['chans'], t['input/input_chans']), (c['chans2'], t['input/input_chans2'])): np.testing.assert_array_equal([0, *electrodes(names)[0]], wanted)
    signal = lambda x: torch.as_tensor(np.array(x)).flatten(2)      # b c p s -> b c t
    def same(got, name, tol=1e-5): np.testing.assert_allclose(got.numpy(), t[f'output/{name}'], rtol=0, atol=tol, err_msg=name)
    eeg, eeg2 = t['input/eeg'], t['input/eeg2']; x, x2 = signal(eeg), signal(eeg2)
    net = built(c, c['chans'], eeg, weights)
    same(net.patches(x), 'patch_embed'); same(net.pooled(x), 'pooled'); same(net.tokens(x), 'patch_tokens'); same(net.all_tokens(x), 'all_tokens'); same(net(x), 'head')
    same(built(c, c['chans'], eeg, weights, spatial=False).pooled(x), 'pooled_no_chans')
    assert eeg2.shape[2] == c['patch2'] and eeg2.shape[1] == len(c['chans2'])
    two = built(c, c['chans2'], eeg2, weights); same(two.pooled(x2), 'pooled2'); same(two.tokens(x2), 'patch_tokens2')
    cls = built(c, c['chans'], eeg, {**{k: v for k, v in weights.items() if not k.startswith('fc_norm.')}, **t.under('param_cls/')}, pool='cls')
    same(cls.pooled(x), 'cls_feature'); same(cls.all_tokens(x), 'cls_all_tokens')
    order = np.arange(len(c['chans']))[::-1].copy(); turned = built(c, [c['chans'][i] for i in order], eeg, weights)      # names move with the signal
    torch.testing.assert_close(turned.pooled(x[:, order]), net.pooled(x), rtol=0, atol=2e-5)
