"The adapter that lets a drawing network listen to a picture: tokens, one attention, a whole small network; sizes and settings are those of the file."
import numpy as np
import torch
from brainrecon.priors.ip_adapter import adapter_ids, adapter_state, add_adapter, set_scale
from golden_cases import case

def tensor(x): return torch.as_tensor(np.array(x))

def under(t, prefix): return {k: tensor(v) for k, v in t.under(prefix).items()}

def same(got, t, name, atol, rtol): np.testing.assert_allclose(got.numpy(), t[f'output/{name}'], rtol=rtol, atol=atol, err_msg=name)

@case('hvf_ip_projection')
@torch.no_grad()
def hvf_ip_projection(t, meta):
    "As the release makes tokens; in our small network it is the part that the adapter's file fills."
    from brainrecon.priors.ip_adapter import fresh_adapter, tiny_unet
    c = meta['config']; unet = tiny_unet(4, 4, widths=(16,), cross=c['cross_attention_dim'])
    state = fresh_adapter(unet, c['embed_dim'], c['sequence_length']); own = {f'image_proj.{k}': v for k, v in under(t, 'param/').items()}; assert own.keys() <= state.keys()
    add_adapter(unet, {**state, **own}); (tokens,) = unet.encoder_hid_proj([tensor(t['input/image_embeds'])[:, None]])
    same(tokens[:, 0], t, 'ip_hidden_states', 1e-5, 1e-4)

@case('hvf_ip_attention')
@torch.no_grad()
def hvf_ip_attention(t, meta):
    "Words and picture apart, added before the last map; at scale 0 words alone."
    from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
    c = meta['config']; assert c['query_dim'] == c['heads']*c['dim_head']
    attn = Attention(c['query_dim'], cross_attention_dim=c['cross_attention_dim'], heads=c['heads'], dim_head=c['dim_head'], processor=IPAdapterAttnProcessor2_0(c['query_dim'], c['cross_attention_dim'], (c['num_tokens'],), c['scale'])).eval()
    attn.load_state_dict(under(t, 'param/'), strict=True)
    x, words, tokens = (tensor(t[f'input/{k}']) for k in ('hidden_states', 'text', 'ip_tokens'))
    same(attn(x, (words, [tokens])), t, 'out', 1e-5, 1e-4)
    attn.processor.scale = [0.]; same(attn(x, (words, [tokens])), t, 'out_scale0', 1e-5, 1e-4)
    torch.testing.assert_close(attn(x, (words, [torch.zeros_like(tokens)])), attn(x, (words, [tokens])), rtol=0, atol=0)

@case('hvf_ip_unet')
@torch.no_grad()
def hvf_ip_unet(t, meta):
    "A published adapter put into a network by our door; its ids are places among all attentions."
    from diffusers import UNet2DConditionModel
    c = meta['config']; unet = UNet2DConditionModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in c['unet'].items()}).eval(); unet.load_state_dict(under(t, 'param/unet.'), strict=True)
    assert list(unet.attn_processors) == c['attn_processor_order']
    state = {f'{part}.{k}': v for part in ('image_proj', 'ip_adapter') for k, v in under(t, f'param/{part}.').items()}
    add_adapter(unet, state); assert {int(k.split('.')[1]) for k in state if k.startswith('ip_adapter.')} == set(adapter_ids(unet))
    assert adapter_state(unet).keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in adapter_state(unet).items())
    x, step, words, pooled, times, z_c = (tensor(t[f'input/{k}']) for k in ('sample', 'timestep', 'encoder_hidden_states', 'text_embeds', 'time_ids', 'image_embeds'))
    def says(): return unet(x, step, words, added_cond_kwargs=dict(text_embeds=pooled, time_ids=times, image_embeds=[z_c[:, None]]), return_dict=False)[0]
    same(says(), t, 'sample', 1e-3, 1e-3); heard = says()
    set_scale(unet, 0.); assert (says() - heard).abs().max() > 1e-3      # the picture is heard at all
