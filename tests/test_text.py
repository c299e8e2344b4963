"The text half of CLIP: the same numbers as open_clip's own forward and as transformers' tokens, in each way of filling up; weights in all their names."
import json, sys
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from brainrecon.core.checks import CheckpointError, FileError, MissingExtra, ParameterError, seeded
from brainrecon.core.files import sha256
from brainrecon.data.registry import record
from brainrecon.encoders import text as T
from brainrecon.encoders.vision import clip_files

oc = pytest.importorskip('open_clip')
sizes = dict(embed_dim=24, vision_cfg=dict(image_size=32, patch_size=16, layers=1, width=64), text_cfg=dict(context_length=77, vocab_size=49408, width=48, heads=4, layers=2))
texts = ['A dog on a beach.', 'two owls!', '', 'word '*90, "It's 3 o'clock; the café is shut", 'A   man\twith a RED hat']
END = 49407


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A small architecture that open_clip knows, and an untrained model of it whose every weight is random."
    at = tmp_path_factory.mktemp('clip')
    for name, more in (('test-text', {}), ('test-text-quick', dict(quick_gelu=True))):
        (at/f'{name}.json').write_text(json.dumps(sizes | more)); oc.add_model_config(at/f'{name}.json')
    with seeded(0):
        m = oc.CLIP(**sizes, quick_gelu=True).eval()
        with torch.no_grad():
            for p in m.parameters(): p.copy_(torch.randn(p.shape)*.2)
    return m, at

def as_hugging_face(state, alone=False):
    "Weights of open_clip under the names of transformers."
    out, at = {}, '' if alone else 'text_model.'
    for k, v in state.items():
        part, _, last = k.rpartition('.'); block = k.replace('transformer.resblocks.', f'{at}encoder.layers.')
        if k.startswith('visual.') or k == 'logit_scale' and alone: continue
        if 'in_proj_' in k: out |= {f"{block.rsplit('attn.in_proj_', 1)[0]}self_attn.{p}_proj.{k.rsplit('_', 1)[1]}": t.clone() for p, t in zip('qkv', v.chunk(3))}
        elif k == 'text_projection': out |= {} if alone else {'text_projection.weight': v.T.contiguous()}
        elif k == 'positional_embedding': out[f'{at}embeddings.position_embedding.weight'] = v
        elif k == 'token_embedding.weight': out[f'{at}embeddings.token_embedding.weight'] = v
        elif k.startswith('ln_final'): out[f'{at}final_layer_norm.{last}'] = v
        elif 'resblocks' in k:
            for a, b in (('attn.out_proj', 'self_attn.out_proj'), ('ln_1', 'layer_norm1'), ('ln_2', 'layer_norm2'), ('mlp.c_fc', 'mlp.fc1'), ('mlp.c_proj', 'mlp.fc2')): block = block.replace(f'.{a}.', f'.{b}.')
            out[block] = v
        else: out[k] = v
    return out


@pytest.mark.parametrize('padding', list(T.paddings))
def test_sentences_are_those_of_open_clip(padding, small):
    "The token at the end mark, projected, is what `encode_text` gives; what was filled in behind it does not reach it."
    m, _ = small; e = T.load_text('open_clip:test-text-quick/none', m.state_dict(), padding=padding, device='cpu')
    with torch.inference_mode(): want = m.encode_text(oc.tokenize(texts))
    z, end = e(texts), T.clip_pieces(texts)[1]
    assert z.shape == (6, 77, 48) and z.dtype == torch.float32 and torch.allclose(e.pooled(texts), want, atol=1e-4)
    assert torch.allclose(z[torch.arange(6), end] @ m.text_projection, want, atol=1e-4)


def test_all_tokens_are_those_of_open_clip(small):
    "Filled with zeros, all 77 places: `TextTransformer` of open_clip with the same weights."
    m, _ = small
    with seeded(0): own = oc.transformer.TextTransformer(**sizes['text_cfg'], output_dim=24, act_layer=oc.transformer.QuickGELU, output_tokens=True).eval()
    own.load_state_dict({k: v for k, v in m.state_dict().items() if not k.startswith('visual.') and k != 'logit_scale'})
    with torch.inference_mode(): want = own(oc.tokenize(texts))[1]
    assert torch.allclose(T.load_text('open_clip:test-text-quick/none', m.state_dict(), padding='zero', device='cpu')(texts), want, atol=1e-4)


@pytest.mark.parametrize('padding', ['hidden', 'seen'])
def test_tokens_are_those_of_transformers(padding, small):
    "`last_hidden_state`, with the tokenizer's mask (`hidden`, as MindHier's release calls it) and without it (`seen`)."
    tf = pytest.importorskip('transformers'); m, _ = small
    config = tf.CLIPTextConfig(vocab_size=49408, hidden_size=48, intermediate_size=192, projection_dim=24, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=77, hidden_act='quick_gelu', bos_token_id=49406, eos_token_id=END, pad_token_id=END)
    theirs = tf.CLIPTextModelWithProjection(config).eval(); state = as_hugging_face(m.state_dict()); state.pop('logit_scale'); theirs.load_state_dict(state)
    ids, end = T.clip_pieces(texts); mask = (torch.arange(77) <= end[:, None]).long()
    with torch.inference_mode(): out = theirs(input_ids=ids, attention_mask=mask if padding == 'hidden' else None)
    e = T.load_text('open_clip:test-text-quick/none', theirs.state_dict(), padding=padding, device='cpu')
    assert torch.allclose(e(texts), out.last_hidden_state, atol=1e-4) and torch.allclose(e.pooled(texts), out.text_embeds, atol=1e-4)
    alone = tf.CLIPTextModel(config).eval()
    with torch.inference_mode(): want = alone(input_ids=ids, attention_mask=mask if padding == 'hidden' else None).last_hidden_state
    assert torch.allclose(T.load_text('open_clip:test-text-quick/none', alone.state_dict(), padding=padding, device='cpu')(texts), want, atol=1e-4)


def test_pieces_are_those_of_transformers(tmp_path):
    "The tokenizer that MindHier's release calls, on the same list of pieces: same numbers, same mask."
    tf = pytest.importorskip('transformers'); own = oc.tokenizer._tokenizer; ours = {'<start_of_text>': '<|startoftext|>', '<end_of_text>': '<|endoftext|>'}
    (tmp_path/'vocab.json').write_text(json.dumps({ours.get(k, k): v for k, v in own.encoder.items()})); (tmp_path/'merges.txt').write_text('\n'.join(['#version: 0.2', *(' '.join(p) for p in own.bpe_ranks)]))
    (tmp_path/'tokenizer_config.json').write_text(json.dumps(dict(tokenizer_class='CLIPTokenizer', model_max_length=77, bos_token=ours['<start_of_text>'], eos_token=ours['<end_of_text>'], pad_token=ours['<end_of_text>'], unk_token=ours['<end_of_text>'])))
    got = tf.CLIPTokenizer.from_pretrained(tmp_path)(texts, truncation=True, max_length=77, padding='max_length', return_tensors='pt'); ids, end = T.clip_pieces(texts)
    assert torch.equal(got.input_ids, ids) and torch.equal(got.attention_mask, (torch.arange(77) <= end[:, None]).long())


def test_what_is_hidden_is_not_looked_at(small):
    "Beyond the end a token hears the text and its own place, nothing that was filled in; no token hears what comes after it."
    m, _ = small; e = T.load_text('open_clip:test-text/none', m.state_dict(), device='cpu'); ids, end = T.clip_pieces(texts[:1]); stop = end.item()
    with torch.inference_mode():
        a = e.tokens(ids, end); other = ids.clone(); other[0, 40] = 5; b = e.tokens(other, end); word = ids.clone(); word[0, 3] = 7; c = e.tokens(word, end)
    changed = lambda x: (x - a).abs().amax(2)[0] > 1e-6
    assert changed(b).nonzero().flatten().tolist() == [40] and changed(c)[3:].all() and not changed(c)[:3].any() and stop < 40
    seen = T.load_text('open_clip:test-text/none', m.state_dict(), padding='seen', device='cpu')
    with torch.inference_mode(): d = (seen.tokens(other, end) - seen.tokens(ids, end)).abs().amax(2)[0] > 1e-6
    assert d[40:].all() and not d[:40].any()


def test_company_does_not_matter(small):
    m, _ = small; e = T.load_text('open_clip:test-text/none', m.state_dict(), device='cpu'); z = e(texts)
    assert torch.allclose(torch.cat([e([t]) for t in texts]), z, atol=1e-5) and torch.allclose(e(texts, batch_size=4), z, atol=1e-5) and torch.equal(e(texts), z)
    assert torch.allclose(e(np.array(texts[:2])), z[:2], atol=1e-5)


def test_nothing_learns_and_nobody_is_disturbed(small):
    m, _ = small; torch.manual_seed(5); before = torch.get_rng_state(); e = T.load_text('open_clip:test-text/none', m.state_dict(), device='cpu')
    assert torch.equal(torch.get_rng_state(), before) and not e.train(True).net.training and not any(p.requires_grad for p in e.parameters())
    loss = (e(texts[:2]) - torch.zeros(1, requires_grad=True)).pow(2).mean(); loss.backward()     # targets may stand in a loss


def test_the_fingerprint_says_what_numbers_depend_on(small, tmp_path):
    "File or dict, names and padding: each has its mark; the same weights in other names have the same one."
    m, at = small; state = m.state_dict(); save_file(state, tmp_path/'w.safetensors'); load = lambda w, **how: T.load_text('open_clip:test-text/none', w, device='cpu', **how).description()
    assert load(tmp_path/'w.safetensors')['weights'] == sha256(tmp_path/'w.safetensors') and load(state) == load(as_hugging_face(state)) and load(state) != load(state, padding='zero')
    assert load(state) != load({k: v + (k == 'ln_final.bias') for k, v in state.items()}) and load(state) == load({k: v for k, v in state.items() if not k.startswith('visual.')})


def test_the_bend_is_that_of_the_weights(small):
    "OpenAI's weights want another bend than the architecture says."
    kind = lambda name, tag: type(T.text_half(name, (oc.get_pretrained_cfg(name, tag) or {}).get('quick_gelu') or None).transformer.resblocks[0].mlp.gelu)
    assert kind('test-text', 'none') is torch.nn.GELU and kind('test-text-quick', 'none') is oc.transformer.QuickGELU
    m, _ = small; z = [T.load_text(f'open_clip:{n}/none', m.state_dict(), device='cpu')(texts[:1]) for n in ('test-text', 'test-text-quick')]; assert not torch.allclose(*z, atol=1e-3)


def test_the_bend_of_openai(monkeypatch):
    asked = []
    def stop(arch, quick=None): asked.append((arch, quick)); raise InterruptedError
    monkeypatch.setattr(T, 'text_half', stop)
    for name in ('ViT-L-14/openai', 'ViT-H-14/laion2b_s32b_b79k', 'ViT-L-14/none'):
        with pytest.raises(InterruptedError): T.load_text(f'open_clip:{name}', {})
    assert asked == [('ViT-L-14', True), ('ViT-H-14', None), ('ViT-L-14', None)]


def test_the_sizes_of_the_release(small):
    "ViT-L-14: 12 blocks of 768, 77 places; counted without making it."
    with torch.device('meta'): net = oc.transformer.TextTransformer(**oc.get_model_config('ViT-L-14')['text_cfg'], output_dim=768)
    assert sum(p.numel() for p in net.parameters()) == 123_650_304 and net.positional_embedding.shape == (77, 768) and len(net.transformer.resblocks) == 12


@pytest.mark.parametrize('weights, name, error, word', [
    (lambda s: {k: v for k, v in s.items() if 'resblocks.1.' not in k}, 'test-text', CheckpointError, 'absent'),
    (lambda s: s | {'transformer.resblocks.0.mlp.c_fc.more': torch.ones(1)}, 'test-text', CheckpointError, 'unknown'),
    (lambda s: {k: v for k, v in s.items() if k != 'text_projection'}, 'test-text', CheckpointError, 'text_projection'),       # a whole CLIP without it is damaged
    (lambda s: as_hugging_face({k: v for k, v in s.items() if 'in_proj_bias' not in k}), 'test-text', CheckpointError, 'in_proj_bias'),
    (lambda s: {k: v for k, v in as_hugging_face(s).items() if 'layers.0.self_attn.k_proj.weight' not in k}, 'test-text', CheckpointError, 'q_proj'),
    (lambda s: {}, 'test-text', CheckpointError, 'absent'),
    (lambda s: s, 'ViT-B-16-SigLIP', ParameterError, 'another kind'), (lambda s: s, 'roberta-ViT-B-32', ParameterError, 'another kind'), (lambda s: s, 'coca_ViT-B-32', ParameterError, 'another kind')])
def test_other_weights_are_refused(weights, name, error, word, small):
    with pytest.raises(error, match=word): T.load_text(f'open_clip:{name}/none', weights(small[0].state_dict()), device='cpu')


def test_weights_lie_where_those_of_the_pictures_lie(small, tmp_path, monkeypatch):
    "An asset, a file that was exchanged, a file that is none."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path)); at = tmp_path/'clip-vit-l14'; at.mkdir(); path = at/clip_files[0]; save_file(small[0].state_dict(), path)
    record(at, {path.name: dict(bytes=path.stat().st_size, sha256=sha256(path))})
    assert T.load_text('open_clip:test-text/none', f'clip-vit-l14:{path.name}', device='cpu').tag == path.name
    with pytest.raises(CheckpointError, match='another shape'): T.load_text()                    # found by its name, and too small
    data = bytearray(path.read_bytes()); data[-3] ^= 1; path.write_bytes(data)
    with pytest.raises(FileError, match='not the file that was fetched'): T.load_text('open_clip:test-text/none', f'clip-vit-l14:{path.name}', device='cpu')
    (tmp_path/'page.pth').write_text('<!DOCTYPE html>')
    with pytest.raises(FileError): T.load_text('open_clip:test-text/none', tmp_path/'page.pth', device='cpu')


def test_an_absent_open_clip_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'open_clip', None)
    with pytest.raises(MissingExtra, match=r'brainrecon\[vision\]'): T.load_text()
