"""Golden values of the multi-scale residual tokenizer, from the official implementation."""
import numpy as np
import torch
from golden_cases import case, close

def build(c):
    "The tokenizer that a golden file describes."
    from brainrecon.generators.vqvae import VQVAE
    return VQVAE(c['vocab_size'], c['z_channels'], c['ch'], c['ch_mult'], c['num_res_blocks'], c['patch_nums'], c['quant_resi'], c['share_quant_resi'], c['beta'],
        norm_groups=c['norm_groups'], normalise=c['using_znorm']).eval()

def filled(model, weights):
    "Strict: every weight, no other."
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()}); return model

@case('avde_vqvae')
@torch.no_grad()
def avde_vqvae(t, meta):
    "Encoder, indices, cumulative maps, decoder, teacher's inputs, the steps of a chain, and the training forward. 1e-5 for modules, 1e-4 for pictures, indices exact."
    c = meta['config']; model = filled(build(c), t.under('param/')); q, scales = model.quantize, range(len(c['patch_nums']))
    img = torch.from_numpy(t['input/img']); close(model.encoder(img), t['output/encoder_out'], 1e-5, 'encoder')
    f = model.latent(img); close(f, t['output/f'], 1e-5, 'latent'); f = torch.from_numpy(t['output/f'])
    idx, maps = q.indices(f), q.maps(f); assert len(idx) == len(maps) == len(scales)
    for k in scales:
        want = t[f'output/idx_{k}']; assert idx[k].dtype == torch.int64 and np.array_equal(idx[k].numpy(), want), f'indices of scale {k}'
        assert np.array_equal(model.indices(img)[k].numpy(), want), f'indices of scale {k} from the picture'
        close(maps[k], t[f'output/fhat_{k}'], 1e-5, f'map after scale {k}')
    close(maps[-1], t['output/f_hat'], 1e-5, 'last map'); close(q.maps(idx)[-1], t['output/f_hat_from_idx'], 1e-5, 'map from indices')
    f_hat = torch.from_numpy(t['output/f_hat']); rec, loss, again = model(img); raw = t['output/decoder_out_unclamped']
    close(model.decoder(model.post_quant_conv(f_hat)), raw, 1e-4, 'decoder'); close(rec, raw, 1e-4, 'decoder after the straight-through map')
    assert all(torch.equal(a, b) for a, b in zip(again, idx)); close(loss, t['output/vq_loss'][0], 1e-5, 'loss from the picture')
    close(model.image(idx), t['output/img_rec'], 1e-4, 'picture'); close(model.progress(idx)[-1], t['output/img_rec'], 1e-4, 'last picture')
    close(model.progress(idx)[len(scales)//2], t['output/img_rec_first_scales'], 1e-4, 'picture of the first scales')
    close(q.teacher(idx), t['output/var_input'], 1e-5, "teacher's inputs")
    f_hat = q.start(len(img))
    for k in scales:
        f_hat, seen = q.step(k, f_hat, torch.from_numpy(t[f'input/ar_h_{k}']))
        close(f_hat, t[f'output/ar_fhat_{k}'], 1e-5, f'map of step {k}'); close(seen, t[f'output/ar_next_{k}'], 1e-5, f'what step {k} hands on')
    assert q.phi_index == t['output/phi_index'].tolist()
    f_hat, loss, _ = q(f); close(loss, t['output/vq_loss'][0], 1e-5, 'loss'); close(f_hat, t['output/quantizer_forward_f_hat'], 1e-5, 'map of the training forward')
