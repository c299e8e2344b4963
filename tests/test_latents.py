"Latents as a description: order, sizes, draws that are a picture's own, what is kept on disk, and words for files that are none."
import json
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from brainrecon.alignment.feature_cache import features, stored_features
from brainrecon.core.checks import CheckpointError, FileError, FolderError, MissingExtra, MissingWeights, ParameterError, ReconError, ShapeError, UnknownError, seeded
from brainrecon.core.files import load_arrays, save_arrays, sha256
from brainrecon.data.assets import asset
from brainrecon.data.pictures import load_pictures
from brainrecon.data.registry import home_of, record
from brainrecon.encoders import latents as L
from brainrecon.encoders import vision as V

diffusers = pytest.importorskip('diffusers')
sdxl = dict(in_channels=3, out_channels=3, down_block_types=['DownEncoderBlock2D']*4, up_block_types=['UpDecoderBlock2D']*4, block_out_channels=[128, 256, 512, 512], layers_per_block=2, act_fn='silu', latent_channels=4, norm_num_groups=32, sample_size=1024, scaling_factor=.13025, force_upcast=True)


@pytest.fixture(scope='module')
def pictures(): return load_pictures('valid', size=64)[:5]


@pytest.fixture(scope='module')
def small():
    "SDXL's autoencoder with eight channels."
    with seeded(0): return diffusers.AutoencoderKL(**{**sdxl, 'block_out_channels': [8]*4, 'norm_num_groups': 4, 'layers_per_block': 1}).eval()


@pytest.fixture
def put(tmp_path, monkeypatch, small):
    "Write that network as a fetched asset; an empty data folder until then."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path/'cache'))
    def put(id='sdxl-vae', half=False, config={}, state=None):
        root = home_of(asset(id)); (root/'vae').mkdir(parents=True, exist_ok=True); name = f'vae/{L.vae_files[half]}'
        save_file({k: v.half() if half else v for k, v in (state or small.state_dict()).items()}, root/name)
        (root/'vae'/'config.json').write_text(json.dumps({k: v for k, v in dict(small.config).items() if not k.startswith('_')} | dict(_class_name='AutoencoderKL', _diffusers_version='0.20.0') | config))
        record(root, {n: dict(bytes=(root/n).stat().st_size, sha256=sha256(root/n)) for n in (name, 'vae/config.json')}); return root/name
    return put


def test_sdxl_latents_are_1024_numbers_in_the_order_of_the_map(put, small, pictures):
    path = put(); e = V.load_encoder('vae:sdxl', device='cpu'); z = e(pictures)['latent']; maps = e(pictures, grid=0)['latent']
    assert e.size == 128 and maps.shape == (5, 4, 16, 16) and z.shape == (5, 1024) and e.layers == ['latent'] and e.weights == sha256(path)
    for c, h, w in ((0, 0, 1), (1, 3, 0), (3, 15, 15)): assert torch.equal(z[:, c*256 + h*16 + w], maps[:, c, h, w])      # channel, height, width
    x = torch.nn.functional.interpolate(torch.tensor(pictures.img).permute(0, 3, 1, 2).float()/255, size=(128, 128), mode='bilinear', antialias=True)*2 - 1
    with torch.inference_mode(): torch.testing.assert_close(maps, small.encode(x).latent_dist.mode()*.13025, atol=1e-5, rtol=1e-4)
    assert e(pictures, grid=4)['latent'].shape == (5, 4, 4, 4) and e(pictures, 'latent@4')['latent@4'].shape == (5, 4, 4, 4)
    torch.testing.assert_close(e(pictures, batch_size=2)['latent'], z, atol=1e-5, rtol=1e-4); torch.testing.assert_close(e(pictures, 'pixels')['pixels'], torch.tensor(pictures.img).float().mean((1, 2))/255, atol=1e-3, rtol=0)
    assert V.load_encoder('vae:sdxl', size=64, device='cpu')(pictures)['latent'].shape == (5, 256)


def test_a_draw_is_the_pictures_own(put, pictures):
    put(); how = dict(device='cpu'); mode, a, b, c = (V.load_encoder(f'vae:sdxl{k}', **how)(pictures)['latent'] for k in ('', '@sample', '@sample0', '@sample7'))
    assert torch.equal(a, b) and not torch.allclose(a, c) and not torch.allclose(a, mode)
    e = V.load_encoder('vae:sdxl@sample', **how); back = e(pictures[::-1], batch_size=2)['latent'].flip(0); torch.testing.assert_close(back, a, atol=1e-4, rtol=1e-3)      # whichever pictures stand beside it
    before = torch.get_rng_state(); e(pictures); assert torch.equal(before, torch.get_rng_state())
    x = e.prepare(pictures.img); said = e.net.posterior(x); drawn = torch.stack([L.LatentEncoder(e.net, 'vae:sdxl', 128, draw='sample', seed=s)(pictures[[0]], grid=0)['latent'][0] for s in range(40)])/.13025
    r = (drawn - said.mode()[0])/said.std[0]; assert abs(r.mean()) < .01 and abs(r.std() - 1) < .01      # from that bell curve


def test_what_is_kept_knows_how_it_was_drawn(put, pictures, monkeypatch, tmp_path):
    put(); how = dict(layer='latent', device='cpu', log=None); a = features(pictures, 'vae:sdxl', **how); b = features(pictures, 'vae:sdxl@sample', **how); c = features(pictures, 'vae:sdxl@sample7', **how)
    stores = sorted((tmp_path/'cache'/'features').iterdir()); assert len(stores) == 3 and a.shape == (5, 1024) and not np.allclose(a, b) and not np.allclose(b, c)
    monkeypatch.setattr(V.Encoder, 'forward', None); again = features(pictures, 'vae:sdxl@sample7', **how); assert isinstance(again, np.memmap) and np.array_equal(again, c)
    with pytest.raises(ReconError, match='draw|encoder|seed'): features(pictures, V.load_encoder('vae:sdxl', device='cpu'), layer='latent', path=next(s for s in stores if 'sample7' in s.name), log=None)
    told = [stored_features(s, 'latent', pictures, draw='sample', seed=7) for s in stores if 'sample7' in s.name]; assert np.array_equal(told[0], c)
    with pytest.raises(UnknownError, match='latent'): features(pictures, 'vae:sdxl', log=None)


def test_files_that_are_absent_cut_exchanged_or_foreign(put, small, tmp_path):
    with pytest.raises(MissingWeights, match='brainrecon data fetch sdxl-vae`'): V.load_encoder('vae:sdxl')
    path = put(); (path.parent/'config.json').rename(path.parent/'gone')
    with pytest.raises(MissingWeights, match='config.json'): V.load_encoder('vae:sdxl')
    put(); data = path.read_bytes(); path.write_bytes(data[:-7])
    with pytest.raises(FileError, match='data fetch sdxl-vae'): V.load_encoder('vae:sdxl')
    with pytest.raises(FolderError, match='safetensors'): V.load_encoder('vae:sdxl', path)
    path.write_bytes(data[:-1] + b'\x01')
    with pytest.raises(FileError, match='not the file that was fetched'): V.load_encoder('vae:sdxl')
    for config, says in ((dict(_class_name='AutoencoderTiny'), 'AutoencoderTiny'), (dict(block_channels=[8]), 'block_out_channels'), (dict(block_out_channels=[8, 8]), 'built|fit'), (dict(latent_channels=8), 'shape'), (dict(norm_num_groups=3), 'built|fit')):
        put(config=config)
        with pytest.raises(ReconError, match=says): V.load_encoder('vae:sdxl')
    w = dict(small.state_dict()); w.pop('quant_conv.bias'); put(state=w)
    with pytest.raises(CheckpointError, match='absent: 1 .quant_conv.bias'): V.load_encoder('vae:sdxl')
    for wrong, kind in (('vae:flux', UnknownError), ('vae:sdxl@', ParameterError), ('vae:sdxl@sample-1', ParameterError), ('vae:sdxl@mean', ParameterError)):
        with pytest.raises(kind): V.load_encoder(wrong)
    put()
    with pytest.raises(ShapeError, match='size=128'): V.load_encoder('vae:sdxl', size=129)


def test_the_16_bit_file_of_the_whole_of_sdxl_serves_where_the_other_is_not(put, pictures):
    half = put('sdxl-base', True); a = V.load_encoder('vae:sdxl', device='cpu'); assert a.tag == L.vae_files[1] and a.weights == sha256(half) and next(a.parameters()).dtype == torch.float32
    put(); b = V.load_encoder('vae:sdxl', device='cpu'); assert b.tag == L.vae_files[0] and not torch.equal(a(pictures)['latent'], b(pictures)['latent'])
    torch.testing.assert_close(a(pictures)['latent'], b(pictures)['latent'], atol=1e-3, rtol=.05)


def test_sdxls_own_autoencoder_on_the_meta_device():
    with torch.device('meta'): vae = diffusers.AutoencoderKL(**sdxl)
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    with torch.device('meta'): e = L.LatentEncoder(L.KLAutoencoder(vae, .13025), 'vae:sdxl', 128); assert e.levels(torch.zeros(2, 3, 128, 128))[0][0].shape == (2, 4, 16, 16)


def test_a_shift_is_taken_off_and_put_back(small, pictures):
    a, b = L.KLAutoencoder(small, 2.), L.KLAutoencoder(small, 2., .5); x = torch.rand(1, 3, 32, 32)*2 - 1
    with torch.inference_mode(): torch.testing.assert_close(b.encode(x), a.encode(x) - 1.); torch.testing.assert_close(b(x)[1], a(x)[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('half', [False, True])
def test_a_tiny_one_comes_back_from_its_file(half, tmp_path):
    with seeded(0): net = L.TinyAutoencoder(widths=(8, 16, 16), z=5, stem=2, layers=2, groups=4, size=32).eval()
    net.scale = .7; L.save_autoencoder(tmp_path/'a.safetensors', net, dict(steps=3), half); back = L.read_autoencoder(tmp_path/'a.safetensors'); x = torch.rand(2, 3, 32, 32)*2 - 1
    assert back.shape == (5, 4, 4) and back.about == dict(steps=3) and back.scale == .7 and not back.training
    for a, b in zip(net(x), back(x)): torch.testing.assert_close(a, b, atol=5e-3 if half else 0, rtol=5e-2 if half else 0)
    L.save_autoencoder(tmp_path/'b.safetensors', back, dict(steps=3), half); assert half or sha256(tmp_path/'a.safetensors') == sha256(tmp_path/'b.safetensors')
    e = V.load_encoder('vae:embedded', tmp_path/'a.safetensors', device='cpu'); assert e.size == 32 and e(torch.rand(2, 3, 50, 40))['latent'].shape == (2, 80)


@pytest.mark.parametrize('meta, says', [(dict(kind='vqvae'), 'vqvae'), (dict(config=None), 'describes'), (dict(stem=None), 'describes'), (dict(scale='a'), 'describes'), (dict(size=30), 'multiple|halved')])
def test_a_tiny_one_whose_description_is_wrong(meta, says, tmp_path):
    with seeded(0): net = L.TinyAutoencoder(widths=(8, 8), z=2, stem=2, groups=4, size=32)
    L.save_autoencoder(tmp_path/'a.safetensors', net); arrays, told = load_arrays(tmp_path/'a.safetensors'); save_arrays(tmp_path/'b.safetensors', {**told, **meta}, **arrays)
    with pytest.raises(ReconError, match=says): L.load_autoencoder(tmp_path/'b.safetensors')
    data = (tmp_path/'a.safetensors').read_bytes(); i = len(data) - 9; (tmp_path/'c.safetensors').write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i+1:])
    with pytest.raises(FolderError, match='fingerprint'): L.load_autoencoder(tmp_path/'c.safetensors')
    net.vae.quant_conv.bias.data[0] = float('nan')
    with pytest.raises(CheckpointError, match='quant_conv.bias'): L.save_autoencoder(tmp_path/'d.safetensors', net)


def test_training_reaches_encoder_and_decoder_and_the_frozen_one_stays(tmp_path, pictures):
    with seeded(0): net = L.TinyAutoencoder(widths=(8, 8), z=2, stem=2, groups=4, size=32)
    x = torch.rand(2, 3, 32, 32)*2 - 1; said = net.posterior(x); (torch.nn.functional.mse_loss(net.decode(net.scaled(said.sample())), x) + 1e-3*said.kl().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    e = L.LatentEncoder(net, 'vae:embedded', 32); assert not e(pictures)['latent'].requires_grad and not any(p.requires_grad for p in e.parameters())


@pytest.mark.skipif(not L.autoencoder_file.is_file(), reason='the packaged autoencoder is not here')
def test_the_packaged_one_paints_the_picture_again(pictures):
    e = V.load_encoder('vae:embedded', device='cpu'); maps = e(pictures, grid=0)['latent']; assert maps.shape == (5, 16, 8, 8) and e(pictures)['latent'].shape == (5, 1024) and .5 < maps.std() < 2
    with torch.inference_mode(): back = e.net.decode(maps)/2 + .5
    img = torch.tensor(pictures.img).permute(0, 3, 1, 2)/255; mixed = torch.roll(img, 1, 0); assert (back - img).square().mean() < .25*(back - mixed).square().mean()


def test_an_absent_diffusers_is_named(monkeypatch, tmp_path):
    import sys
    with seeded(0): L.save_autoencoder(tmp_path/'a.safetensors', L.TinyAutoencoder(widths=(8, 8), z=2, stem=2, groups=4, size=32))
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    for make in (L.TinyAutoencoder, lambda: L.load_autoencoder(tmp_path/'a.safetensors'), lambda: L.read_autoencoder(tmp_path/'a.safetensors'), lambda: V.load_encoder('vae:embedded', tmp_path/'a.safetensors')):
        with pytest.raises(MissingExtra, match='diffusion'): make()
