"Frozen networks of timm and open_clip: every dialect of names, every tensor in its place, and words for what is absent or foreign."
import importlib, re
import numpy as np
import pytest
import torch
from brainrecon.alignment.feature_cache import features
from brainrecon.alignment.imported import content_of, import_features, parquet_parts, read_rows
from brainrecon.core.checks import CheckpointError, FileError, FolderError, MissingWeights, ReconError, UnknownError, seeded
from brainrecon.core.files import sha256
from brainrecon.data.assets import asset, table
from brainrecon.data.pictures import load_pictures
from brainrecon.data.registry import home_of, record
from brainrecon.encoders import frozen as F
from brainrecon.encoders import vision as V

timm = pytest.importorskip('timm')
small = dict(embed_dim=48, depth=2, num_heads=3, num_classes=0)


@pytest.fixture(scope='module')
def pictures(): return load_pictures('valid', size=64)[:5]


@pytest.fixture
def little(monkeypatch):
    "The two published networks in small: the same names, fewer and narrower blocks."
    real = timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda name, **how: real(name, **{**how, **small}) if name in ('vit_base_patch14_dinov2', 'vit_base_patch16_224') else real(name, **how))
    return lambda name, **how: random_net(real(name, **{**small, **how}))


def random_net(net):
    "Every tensor at random, so that none can be mistaken for another."
    with seeded(1), torch.no_grad(): [p.copy_(torch.randn_like(p)*.1) for p in net.parameters()]
    return net.eval()


def hugging_face(w):
    "A state dict in the names of transformers' Dinov2Model, written down tensor by tensor."
    d = w['cls_token'].shape[-1]
    out = {'embeddings.cls_token': w['cls_token'], 'embeddings.mask_token': torch.zeros(1, d), 'embeddings.position_embeddings': w['pos_embed'], 'layernorm.weight': w['norm.weight'], 'layernorm.bias': w['norm.bias'],
        **{f'embeddings.patch_embeddings.projection.{k}': w[f'patch_embed.proj.{k}'] for k in ('weight', 'bias')}}
    for i in range(small['depth']):
        a, b = f'encoder.layer.{i}', f'blocks.{i}'
        for k in ('weight', 'bias'):
            out |= {f'{a}.attention.attention.{p}.{k}': w[f'{b}.attn.qkv.{k}'][j*d:(j+1)*d].clone() for j, p in enumerate(('query', 'key', 'value'))} | {f'{a}.attention.output.dense.{k}': w[f'{b}.attn.proj.{k}']}
            out |= {f'{a}.{p}.{k}': w[f'{b}.{p}.{k}'] for p in ('norm1', 'norm2', 'mlp.fc1', 'mlp.fc2')}
        out |= {f'{a}.layer_scale{j}.lambda1': w[f'{b}.ls{j}.gamma'] for j in (1, 2)}
    return out


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    "A folder of fetched weights, and an empty cache of the hub."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache')); monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda *a: None)
    from safetensors.torch import save_file
    def put(id, name, state, torch_file=False):
        path = home_of(asset(id))/name; path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path) if torch_file else save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
        record(home_of(asset(id)), {name: dict(bytes=path.stat().st_size, sha256=sha256(path))}); return path
    return put


def test_dinov2_in_the_names_of_hugging_face_gives_what_timm_gives(little, fetched, pictures):
    net = little('vit_base_patch14_dinov2', img_size=224); path = fetched('dinov2-base', 'model.safetensors', hugging_face(net.state_dict()))
    e = V.load_encoder('dinov2-base', device='cpu'); x = e.prepare(pictures); z = e(pictures)
    assert x.shape[-2:] == (224, 224) and e.tag == 'model.safetensors' and e.weights == sha256(path) and not e.report.new and list(e.report.refused) == ['embeddings.mask_token']
    with torch.inference_mode(): tokens = net.forward_features(x)
    torch.testing.assert_close(z['pooled'], tokens[:, 0]); assert z['pooled'].shape == (5, 48)     # the first token after the last norm: transformers' pooler output
    with torch.inference_mode(): maps = net.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(e(pictures, 'block0', grid=0)['block0'], maps[0]); assert e.layers == ['block0', 'block1', 'pooled']
    assert V.load_encoder('timm:dinov2-base', path, device='cpu').description() == e.description()


def test_positions_of_518_pixels_are_drawn_smaller_as_hugging_face_does(little, fetched, pictures):
    net = little('vit_base_patch14_dinov2', img_size=518); w = net.state_dict(); assert w['pos_embed'].shape == (1, 1370, 48)
    fetched('dinov2-base', 'model.safetensors', hugging_face(w)); got = V.load_encoder('dinov2-base', device='cpu').net.pos_embed
    want = torch.nn.functional.interpolate(w['pos_embed'][:, 1:].reshape(1, 37, 37, 48).permute(0, 3, 1, 2), size=(16, 16), mode='bicubic', align_corners=False).permute(0, 2, 3, 1).reshape(1, 256, 48)
    torch.testing.assert_close(got, torch.cat([w['pos_embed'][:, :1], want], 1))
    assert torch.equal(V.load_encoder('dinov2-base', size=518, device='cpu').net.pos_embed, w['pos_embed'])


def test_synclr_is_found_behind_its_prefix(little, fetched, pictures):
    net = little('vit_base_patch16_224'); w = {f'module.visual.{k}': v for k, v in net.state_dict().items()}
    path = fetched('synclr-vit-b-16', 'synclr_vit_b_16.pth', dict(model=w, epoch=3), True); e = V.load_encoder('synclr-vit-b-16', device='cpu')
    assert (e.size, e.short, e.mode) == (224, 224, 'bilinear') and abs(e.mean.flatten()[0].item() - .48145466) < 1e-7
    with torch.inference_mode(): torch.testing.assert_close(e(pictures, 'pooled')['pooled'], net.forward_features(e.prepare(pictures))[:, 0])
    path.write_bytes(path.read_bytes()[:-1] + b'x')
    with pytest.raises(FileError, match='not the file that was fetched'): V.load_encoder('synclr-vit-b-16')
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FileError, match='brainrecon data fetch synclr-vit-b-16'): V.load_encoder('synclr-vit-b-16')
    with pytest.raises(ReconError, match='synclr_vit_b_16'): V.load_encoder('synclr-vit-b-16', path)      # named as a file of one's own, still half of one


@pytest.mark.parametrize('change, says', [
    (lambda w: w.pop('encoder.layer.1.attention.attention.key.weight'), 'blocks.1.attn.qkv.weight'), (lambda w: w.pop('layernorm.bias'), 'norm.bias'),
    (lambda w: w.update({'encoder.layer.2.norm1.weight': torch.ones(48)}), 'blocks.2.norm1.weight'), (lambda w: w.update({'embeddings.cls_token': torch.ones(1, 1, 64)}), 'cls_token'),
    (lambda w: w.update({'embeddings.position_embeddings': torch.ones(1, 300, 48)}), 'pos_embed')])
def test_every_tensor_must_find_its_place(change, says, little, fetched):
    w = hugging_face(little('vit_base_patch14_dinov2', img_size=224).state_dict()); change(w); fetched('dinov2-base', 'model.safetensors', w)
    with pytest.raises(CheckpointError, match=re.escape(says)): V.load_encoder('dinov2-base')


@pytest.mark.parametrize('name', ['test_vit', 'test_convnext', 'test_resnet', 'test_efficientnet', 'test_byobnet', 'test_vit_relpos'])
def test_any_network_of_timm(name, tmp_path, pictures):
    "With its classifier in the file, which is not used; pooled features are those that timm gives."
    from safetensors.torch import save_file
    with seeded(0): net = timm.create_model(name).eval()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path/'w.safetensors'); e = V.load_encoder(f'timm:{name}', tmp_path/'w.safetensors', device='cpu')
    z = e(pictures); x = e.prepare(pictures)
    with torch.inference_mode(): torch.testing.assert_close(z['pooled'], net.forward_head(net.forward_features(x), pre_logits=True), atol=1e-4, rtol=1e-4)
    assert list(z) == e.layers and all(v.ndim == 2 and len(v) == 5 for v in z.values()) and e.report.refused and not any(p.requires_grad for p in e.parameters()) and not e.train().training
    torch.testing.assert_close(e(pictures, 'block0', grid=2)['block0'].mean((2, 3)), z['block0'], atol=1e-4, rtol=1e-3)
    one = torch.cat([e(pictures[[i]], 'pooled')['pooled'] for i in range(5)]); torch.testing.assert_close(one, z['pooled'], atol=1e-4, rtol=1e-3)
    with pytest.raises(UnknownError, match='layer'): e(pictures, 'logits')


def test_a_network_at_another_size(tmp_path, pictures):
    from safetensors.torch import save_file
    net = timm.create_model('vit_tiny_patch16_224', **small); save_file(net.state_dict(), tmp_path/'w.safetensors'); real = timm.create_model
    timm.create_model = lambda name, **how: real(name, **{**how, **small})
    try:
        e = V.load_encoder('timm:vit_tiny_patch16_224', tmp_path/'w.safetensors', size=64, device='cpu'); assert e.net.pos_embed.shape[1] == 17 and e(pictures)['pooled'].shape == (5, 48)
    finally: timm.create_model = real


def test_pictures_that_are_not_square_are_cut_not_squeezed():
    x = torch.rand(2, 3, 40, 60); assert torch.equal(F.cropped(x, 40, 40), x[..., 10:50]) and torch.equal(F.cropped(x.transpose(2, 3), 40, 40), x.transpose(2, 3)[:, :, 10:50])
    tv = pytest.importorskip('torchvision.transforms.v2.functional')
    for h, w in ((40, 60), (60, 40), (37, 53)):
        x = torch.rand(2, 3, h, w); want = tv.center_crop(tv.resize(x, 20, interpolation=tv.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1), [16, 16]); torch.testing.assert_close(F.cropped(x, 20, 16, 'bicubic'), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', F.frozen_sets)
def test_sets_of_hive_at_full_size_are_as_wide_as_said(name):
    "On the meta device: the real architectures, no numbers."
    kind, layer, width = F.frozen_sets[name]
    with torch.device('meta'):
        if kind.startswith('open_clip:'):
            oc = pytest.importorskip('open_clip'); e = V.ClipEncoder(oc.create_model(kind[10:].split('/')[0], load_weights=False, device='meta').visual, kind, 224)
        elif kind.startswith('vae:'): pytest.skip('in test_latents')
        else: r = F.timm_recipe(kind); e = F.TimmEncoder(timm.create_model(r['net'], num_classes=0, img_size=r['size']), kind, 224)
        assert layer in e.layers and e.levels(torch.zeros(1, 3, 224, 224))[1].shape == (1, width)


def test_the_weights_of_the_sets_are_named_with_their_command(fetched):
    for kind, _, _ in F.frozen_sets.values():
        with pytest.raises(MissingWeights, match='brainrecon data fetch [a-z0-9-]+`') as e: V.load_encoder(kind)
        assert re.search('fetch ([a-z0-9-]+)`', str(e.value))[1] in [a.id for a in table('weights')]
    with pytest.raises(MissingWeights, match='hf download timm/'): V.load_encoder('timm:resnet18.a1_in1k')
    with pytest.raises(UnknownError, match='timm:NAME'): V.load_encoder('dinov3-base')


def test_rn50_from_the_folder_of_its_asset(fetched, pictures):
    oc = pytest.importorskip('open_clip')
    with seeded(0): model = oc.create_model('RN50', load_weights=False).eval()
    fetched('clip-rn50', V.clip_files[0], {f'visual.{k}': v for k, v in model.visual.state_dict().items()}); e = V.load_encoder('open_clip:RN50/openai', device='cpu')
    with torch.inference_mode(): want = model.encode_image(e.prepare(pictures))
    z = e(pictures, ['pooled', 'block3']); assert z['pooled'].shape == (5, 1024) and torch.allclose(z['pooled'], want, atol=1e-4) and z['block3'].shape == (5, 2048)


def test_features_are_kept_and_read(little, fetched, pictures, monkeypatch, tmp_path):
    fetched('dinov2-base', 'model.safetensors', hugging_face(little('vit_base_patch14_dinov2', img_size=224).state_dict()))
    a = features(pictures, 'dinov2-base', device='cpu', log=None); monkeypatch.setattr(V.Encoder, 'forward', None); b = features(pictures, 'dinov2-base', device='cpu', log=None)
    assert isinstance(b, np.memmap) and np.array_equal(a, b) and len(list((tmp_path/'cache'/'features').iterdir())) == 1


# Features of others in several parts.

def test_a_table_in_parts_is_joined_and_a_missing_part_is_named(tmp_path, pictures):
    pa = pytest.importorskip('pyarrow', reason='pyarrow is not installed'); pq = importlib.import_module('pyarrow.parquet')
    ids, z = pictures.table.picture.tolist(), np.random.default_rng(0).normal(size=(5, 7)).astype('float32'); mix = [3, 0, 4, 2, 1]
    names = [f'things_train_vae-part-0000{i}-of-00002.parquet' for i in range(3)]
    for name, rows in zip(names, (mix[:2], mix[2:4], mix[4:])): pq.write_table(pa.table(dict(image_id=[ids[i] for i in rows], emb=[z[i].tolist() for i in rows])), tmp_path/name)
    told = dict(model='vae:sdxl', weights='w', preprocessing='128', normalised=False, order='image_id', log=None)
    for name in names: np.testing.assert_array_equal(import_features(tmp_path/name, pictures, at=tmp_path/name[:24], **told), z)
    first, rows = read_rows(tmp_path/names[0]); assert rows == [ids[i] for i in mix]
    before = content_of(tmp_path/names[0]); pq.write_table(pa.table(dict(image_id=[ids[1]], emb=[[0.]*6 + [1.]])), tmp_path/names[2]); assert content_of(tmp_path/names[0]) != before     # another last part is another table
    pq.write_table(pa.table(dict(image_id=[ids[1]], emb=[[1.]*6])), tmp_path/names[2])
    with pytest.raises(FileError, match='6, 7'): read_rows(tmp_path/names[0])
    (tmp_path/names[2]).write_bytes((tmp_path/names[1]).read_bytes()[:100])
    with pytest.raises(FileError, match=names[2]): read_rows(tmp_path/names[0])
    (tmp_path/names[1]).unlink()
    with pytest.raises(FolderError, match=names[1]): read_rows(tmp_path/names[0])


def test_parts_are_counted_as_brain_hive_counts_them(tmp_path):
    "The number after `of` is that of the last part; a lone table is part 0 of 0."
    for n in ('a-part-00000-of-00000', 'b-part-00000-of-00001'): (tmp_path/f'{n}.parquet').touch()
    assert parquet_parts(tmp_path/'a-part-00000-of-00000.parquet') == [tmp_path/'a-part-00000-of-00000.parquet'] and parquet_parts(tmp_path/'x.npy') == [tmp_path/'x.npy']
    with pytest.raises(FolderError, match='b-part-00001-of-00001.parquet'): parquet_parts(tmp_path/'b-part-00000-of-00001.parquet')
    (tmp_path/'b-part-00001-of-00001.parquet').touch(); assert content_of(tmp_path/'b-part-00000-of-00001.parquet') == content_of(tmp_path/'b-part-00001-of-00001.parquet')
