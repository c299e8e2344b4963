"PixCorr, SSIM, two-way identification and correlation distance against other packages, and properties that hold for any picture."
import contextlib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import correlation
from brainrecon.core.checks import ShapeError, UnknownError, ValuesError
from brainrecon.metrics.identification import centre_and_scale, correlation_distance, correlations, kinds, matmul_precision, products, two_way, two_way_from_similarity
from brainrecon.metrics.pixels import as_pictures, first_step, pixcorr, presets, resize, ssim

given, st = (getattr(pytest.importorskip(m), n) if n else pytest.importorskip(m) for m, n in (('hypothesis', 'given'), ('hypothesis.strategies', '')))


def scenes(n, h=64, w=64, seed=0):
    "Smooth colour pictures, `n h w 3` uint8, and the same with less contrast and noise."
    gen = np.random.default_rng(seed); x = gaussian_filter(gen.normal(size=(n, h, w, 3)), (0, 4, 4, 0)); x = x/np.abs(x).max((1, 2), keepdims=True)
    o = (127.5 + 127*x).astype('uint8'); return o, (.7*o + 30 + gen.normal(0, 12, o.shape)).clip(0, 255).astype('uint8')


def official(o, r, antialias):
    "What the published evaluators hand to their measures."
    from torchvision.transforms import Resize
    first = lambda x: x if x.shape[-1] == 256 else Resize((256, 256), antialias=antialias)(x)
    return [Resize(425, antialias=antialias)(first(torch.from_numpy(x).permute(0, 3, 1, 2).float()/255)).numpy() for x in (o, r)]


# Other packages

@pytest.mark.parametrize('size', [(96, 130), (300, 256), (256, 200), (320, 320)], ids=str)
@pytest.mark.parametrize('preset', presets)
def test_pixcorr_is_numpys_on_the_official_input(size, preset):
    o, r = scenes(2, *size); a, b = official(o, r, presets[preset]['antialias']); got = pixcorr(o, r, **presets[preset])
    assert np.allclose(got['values'], [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b)], rtol=0, atol=1e-6) and got['how']['preset'] == preset


@pytest.mark.parametrize('size', [(96, 130), (300, 256)], ids=str)
@pytest.mark.parametrize('preset', presets)
def test_ssim_is_scikit_images(size, preset):
    color, metrics = (pytest.importorskip(f'skimage.{m}') for m in ('color', 'metrics')); o, r = scenes(2, *size)
    call = lambda x, y: metrics.structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    for a, b, how in ((*official(o, r, presets[preset]['antialias']), presets[preset]), (*(x.transpose(0, 3, 1, 2).astype('float32')/255 for x in (o, r)), dict(first=False, size=None))):
        want = [call(*(color.rgb2gray(i.transpose(1, 2, 0).astype('float64')) for i in p)) for p in zip(a, b)]
        assert np.allclose(ssim(o, r, **how)['values'], want, rtol=0, atol=2e-5) and np.allclose(ssim(o, r, dtype='float64', **how)['values'], want, rtol=0, atol=1e-6)


def test_legacy_ssim_is_scikit_images_with_columns_as_channels():
    color, metrics = (pytest.importorskip(f'skimage.{m}') for m in ('color', 'metrics')); o, r = scenes(2)
    want = [metrics.structural_similarity(*(color.rgb2gray(x) for x in p), channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0) for p in zip(o, r)]
    got = ssim(o, r, first=False, size=None, form='columns (legacy)'); assert np.allclose(got['values'], want, atol=2e-5) and 'legacy' in got['measure']


def test_torchmetrics_defines_another_ssim():
    image = pytest.importorskip('torchmetrics.functional.image'); o, r = scenes(3); ours = ssim(o, r, first=False, size=None, dtype='float64')['values']
    a, b = ((as_pictures(x).double()*torch.tensor([.2125, .7154, .0721]).reshape(3, 1, 1)).sum(1, keepdim=True) for x in (o, r))
    theirs = image.structural_similarity_index_measure(a, b, sigma=1.5, data_range=1., reduction='none').numpy()
    assert .03 > np.abs(ours - theirs).max() > 1e-5      # near, and not interchangeable


def test_reference_ssim_by_its_definition():
    "Window by window, as Wang et al. wrote it down."
    o, r = scenes(1, 24, 27); x, y = (p[0].astype('float64')/255 @ [.2125, .7154, .0721] for p in (o, r)); mean = lambda v: gaussian_filter(v, 1.5, truncate=3.5)[5:-5, 5:-5]
    mx, my = mean(x), mean(y); vx, vy, c = mean(x*x) - mx**2, mean(y*y) - my**2, mean(x*y) - mx*my
    want = ((2*mx*my + 1e-4)*(2*c + 9e-4)/((mx**2 + my**2 + 1e-4)*(vx + vy + 9e-4))).mean()
    assert abs(ssim(o, r, first=False, size=None, dtype='float64')['values'][0] - want) < 1e-7


def test_resize_is_torchvisions():
    from torchvision.transforms import Resize
    for h, w in ((96, 129), (130, 77), (40, 40)):
        x = torch.rand(1, 3, h, w)
        for size in (64, 425, (30, 50)):
            for smooth in (True, False): assert torch.equal(resize(x, size, smooth), Resize(list(size) if isinstance(size, tuple) else size, antialias=smooth)(x))


@pytest.mark.parametrize('kind', kinds)
def test_correlations_are_numpys(kind):
    gen = np.random.default_rng(0); a, b = (gen.normal(size=(n, 3000)).astype('float32') + 5 for n in (20, 30))
    unit = lambda x: x/np.linalg.norm(x.astype('float64'), axis=1, keepdims=True)
    want = np.corrcoef(a, b)[:20, 20:] if kind == 'correlation' else unit(a) @ unit(b).T
    assert np.abs(correlations(a, b, kind) - want).max() < 1e-12


def test_correlation_distance_is_scipys():
    gen = np.random.default_rng(0); a, b = np.abs(gen.normal(size=(2, 12, 400))); got = correlation_distance(a, b)
    assert np.allclose(got['values'], [correlation(*p) for p in zip(a, b)], atol=1e-12) and got['mean'] == got['values'].mean()


# Properties of the picture measures

measures = [pixcorr, ssim]
one = dict(first=False, size=None)

@pytest.mark.parametrize('measure', measures)
@given(seed=st.integers(0, 10**6), h=st.integers(11, 40), w=st.integers(11, 40))
def test_identity_symmetry_and_order(measure, seed, h, w):
    o, r = scenes(3, h, w, seed); got = measure(o, r, **one)['values']
    assert np.allclose(measure(o, o, **one)['values'], 1, atol=1e-9) and (np.abs(got) <= 1 + 1e-9).all()
    assert np.allclose(measure(r, o, **one)['values'], got, atol=1e-9) and np.array_equal(measure(o[::-1], r[::-1], **one)['values'], got[::-1])


@pytest.mark.parametrize('measure', measures)
def test_more_noise_is_less_alike(measure):
    o, _ = scenes(4, 128, 128); gen = np.random.default_rng(1); noise = gen.normal(size=o.shape)
    scores = np.array([measure(o, (o + s*noise).clip(0, 255).astype('uint8'))['values'] for s in (0, 8, 25, 60, 120)])
    assert (np.diff(scores, axis=0) < 0).all()


@pytest.mark.parametrize('measure', measures)
def test_every_form_of_the_same_pictures(measure, tmp_path):
    "Bytes, numbers, channels first or last, tensors, lists of batches and of pictures, memory maps, any batch size: the same bits."
    o, r = scenes(5, 40, 48); want = measure(o, r)['values']; f = [x.astype('float32')/255 for x in (o, r)]; maps = []
    for i, x in enumerate((o, r)):
        m = np.lib.format.open_memmap(tmp_path/f'{i}.npy', 'w+', 'uint8', x.shape); m[:] = x; m.flush(); maps.append(np.load(tmp_path/f'{i}.npy', mmap_mode='r'))
    forms = [f, [x.astype('float64')/255 for x in (o, r)], [x.transpose(0, 3, 1, 2) for x in f], [x.transpose(0, 3, 1, 2) for x in (o, r)], [torch.from_numpy(x) for x in f],
        [[x[:2], x[2:]] for x in (o, r)], [list(x) for x in (o, r)], maps, [o, [r[:1], r[1:4], r[4:]]]]
    for x, y in forms: assert np.array_equal(measure(x, y)['values'], want)
    for batch in (1, 2, 5, 100): assert np.array_equal(measure(o, r, batch=batch)['values'], want)


def test_pictures_are_streamed(monkeypatch):
    "No more pictures are turned into numbers in one go than `batch`."
    import brainrecon.metrics.pixels as pixels
    seen, real = [], pixels.as_pictures; monkeypatch.setattr(pixels, 'as_pictures', lambda img, name='pictures': seen.append(len(img)) or real(img, name))
    o, r = scenes(20, 32, 32); pixcorr(o, r, batch=6, **one); assert max(seen) == 6 and sum(seen) == 40


def test_constant_pictures_have_no_correlation():
    o, r = scenes(4); r[1] = 77; o[2] = [10, 10, 10]; r[3] = [200, 10, 90]       # the last is even but coloured: its three colours differ
    for how in ({}, one, presets['mindeye2']):
        got = pixcorr(o, r, **how); assert np.isnan(got['values'][[1, 2]]).all() and got['undefined'] == 2 and np.isfinite(got['values'][[0, 3]]).all() and np.isclose(got['mean'], got['values'][[0, 3]].mean())
    s = ssim(o, r); assert s['undefined'] == 0 and np.isfinite(s['values']).all()
    none = pixcorr(o[2:3], r[1:2]); assert none['undefined'] == none['n'] == 1 and np.isnan(none['mean'])


def test_float32_keeps_its_digits_on_smooth_and_bright_pictures():
    x = np.linspace(.9, 1, 200)[None, :, None, None]*np.ones((1, 200, 200, 3)); y = x - .02*np.linspace(0, 1, 200)[None, None, :, None]
    for how in ({}, one): assert abs(ssim(x, y, **how)['values'] - ssim(x, y, dtype='float64', **how)['values']).max() < 1e-5


def test_the_first_step_looks_at_the_width_only():
    assert first_step(np.zeros((1, 90, 256, 3), 'uint8')).shape[-2:] == (90, 256) and first_step(np.zeros((1, 256, 90, 3), 'uint8')).shape[-2:] == (256, 256)
    o, r = scenes(1, 64, 64); big = np.kron(r, np.ones((1, 2, 2, 1), 'uint8')); assert np.isfinite(pixcorr(o, big)['mean'])    # sizes may differ if both are brought to 256
    assert pixcorr(o, o)['how'] != pixcorr(o, o, antialias=False)['how'] and pixcorr(o, o, size=300)['how']['preset'] == 'own choice'


@pytest.mark.parametrize('measure', measures)
def test_bad_pictures_are_refused(measure):
    o, r = scenes(2, 32, 32); f = r.astype('float32')/255; nan = f.copy(); nan[1, 3, 3, 0] = np.nan
    for kind, words, a, b, how in ((ShapeError, '2 originals and 1', o, r[:1], {}), (ShapeError, 'no pictures', o[:0], r[:0], {}), (ShapeError, 'no pictures', [], [], {}), (ShapeError, 'one size', o, r[:, :30], one), (ValuesError, '0 to 255', o, r.astype('float32'), {}),
            (ValuesError, 'NaN', o, nan, {}), (ShapeError, 'grey', o[..., :1], r[..., :1], {}), (ShapeError, 'grey', o[..., 0], r[..., 0], {}), (ShapeError, 'opacity', np.zeros((2, 9, 9, 4), 'uint8'), o, {}), (ShapeError, 'str', 'a', 'b', {}),
            (ShapeError, 'batch', o, r, dict(batch=0)), (ShapeError, 'size', o, r, dict(size=0)), (ShapeError, 'size', o, r, dict(size='425')), (ValuesError, '-1 to 1', o, 2*f - 1, {})):
        with pytest.raises(kind, match=words): measure(a, b, **how)
    with pytest.raises(UnknownError): ssim(o, r, form='uniform')
    with pytest.raises(UnknownError): ssim(o, r, dtype='float16')
    with pytest.raises(ShapeError, match='11 x 11'): ssim(o[:, :10], r[:, :10], **one)


# Identification

def brute(table, fixed, half=0):
    "The published loop."
    t = table if fixed == 'reconstruction' else table.T; n = len(t)
    return np.array([sum((t[i, j] < t[j, j] - 1e-9) + half*(abs(t[i, j] - t[j, j]) <= 1e-9) for i in range(n) if i != j) for j in range(n)])

@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), d=st.integers(3, 40), copies=st.integers(0, 4), quick=st.booleans(), kind=st.sampled_from(kinds), fixed=st.sampled_from(['reconstruction', 'original']))
def test_two_way_is_the_published_loop(seed, n, d, copies, quick, kind, fixed):
    gen = np.random.default_rng(seed); a = gen.normal(size=(n, d)).astype('float32'); b = (.5*a + gen.normal(size=(n, d))).astype('float32')
    for _ in range(copies): x = (a, b)[gen.integers(2)]; x[gen.integers(n)] = x[gen.integers(n)]
    got = two_way(a, b, fixed=fixed, kind=kind, quick=quick); table = correlations(a, b, kind)
    assert np.array_equal(got['counts'], brute(table, fixed)) and np.isclose(got['half'], brute(table, fixed, .5).mean()/(n-1)) and got['mean'] == got['strict'] and got['denominator'] == n - 1
    assert np.array_equal(two_way_from_similarity(table, 'columns' if fixed == 'reconstruction' else 'rows')['counts'], got['counts'])


@pytest.mark.parametrize('n', [7, 64, 130])
@pytest.mark.parametrize('kind', kinds)
def test_duplicates_tie_in_float32_too(n, kind):
    "The kernels of a product sum differently at the edges of a table; equal rows must tie all the same."
    gen = np.random.default_rng(n); a = np.maximum(gen.normal(size=(n, 5003)), 0).astype('float32'); a[n//2:] = a[:n - n//2]; b = np.maximum(a + gen.normal(size=a.shape), 0).astype('float32')
    exact, quick = (two_way(a, b, kind=kind, quick=q) for q in (False, True)); assert np.array_equal(exact['counts'], quick['counts']) and exact['tied'] == quick['tied'] > 0
    pairs = n - n % 2; assert np.isclose(exact['tied'], pairs/(n*(n-1)), atol=2/(n*(n-1)))


def test_close_calls_are_settled_exactly():
    "Correlations that differ by less than float32 can tell, thousands of them."
    gen = np.random.default_rng(0); base = gen.normal(size=20_000); a = (base + 1e-4*gen.normal(size=(60, 20_000))); b = base + gen.normal(size=a.shape)
    for fixed in ('reconstruction', 'original'):
        exact, quick = (two_way(a, b, fixed=fixed, quick=q) for q in (False, True)); assert np.array_equal(exact['counts'], quick['counts']) and 0 < exact['mean'] < 1


def test_features_that_float32_cannot_hold():
    gen = np.random.default_rng(0); a = gen.normal(size=(20, 500)); b = a + gen.normal(size=a.shape); want = two_way(a, b)['counts']
    for scale, shift in ((1e-40, 0), (1e40, 0), (1, 1e7)): assert np.array_equal(two_way(scale*a + shift, scale*b + shift, quick=True)['counts'], want)


def test_rounding_of_the_fast_product():
    gen = np.random.default_rng(0); a, b = np.maximum(gen.normal(size=(2, 100, 20_000)) - 1, 0).astype('float32'); ways = centre_and_scale(a, 'correlation'), centre_and_scale(b, 'correlation')
    before = torch.get_float32_matmul_precision()
    with matmul_precision('highest'): assert np.abs(products(a, b, ways, 'float32') - products(a, b, ways)).max() < 2e-5
    with contextlib.suppress(KeyError), matmul_precision('medium'): raise KeyError
    assert torch.get_float32_matmul_precision() == before


@given(seed=st.integers(0, 10**6))
def test_two_way_knows_no_order_and_no_scale(seed):
    gen = np.random.default_rng(seed); a = gen.normal(size=(15, 30)); b = a + 2*gen.normal(size=a.shape); got = two_way(a, b); order = gen.permutation(15)
    assert np.array_equal(two_way(a[order], b[order])['counts'], got['counts'][order]) and np.array_equal(two_way(3*a + 7, .5*b - 2)['counts'], got['counts'])
    assert two_way(a, a)['mean'] == 1 and np.array_equal(two_way(a, b, fixed='original')['counts'], two_way(b, a)['counts'])
    assert np.array_equal(two_way(torch.from_numpy(a).reshape(15, 5, 6), b)['counts'], got['counts'])


def test_chance_is_one_half_and_noise_lowers_the_score():
    gen = np.random.default_rng(0); a = gen.normal(size=(300, 40)); noise = gen.normal(size=a.shape)
    scores = [two_way(a, a + s*noise)['mean'] for s in (0, 1, 3, 9, 30)]; assert (np.diff(scores) < 0).all() and scores[0] == 1
    assert np.mean([two_way(a, gen.normal(size=a.shape))['mean'] for _ in range(20)]) == pytest.approx(.5, abs=.02)


def test_a_collapsed_model_is_named_in_both_directions():
    gen = np.random.default_rng(0); a = gen.normal(size=(80, 50)); same = np.repeat(gen.normal(size=(1, 50)), 80, 0)
    for b in (same, same + 1e-3*gen.normal(size=a.shape), same*gen.uniform(1, 2, (80, 1))):
        for fixed in ('reconstruction', 'original'):
            for quick in (False, True): r = two_way(a, b, fixed=fixed, quick=quick); assert 'collapsed' in r['warning'] and r['variety'] < .01 and r['half'] == pytest.approx(.5, abs=.1)
    strict = two_way(a, same, fixed='original'); assert (strict['strict'], strict['half'], strict['tied']) == (0, .5, 1)
    assert two_way(a, same)['strict'] == pytest.approx(.5, abs=1e-12) and two_way(a, a + 5*gen.normal(size=a.shape))['warning'] == ''


@pytest.mark.parametrize('quick', [False, True])
@pytest.mark.parametrize('fixed', ['reconstruction', 'original'])
def test_a_collapse_to_blank_pictures_is_named(fixed, quick):
    gen = np.random.default_rng(0); a = gen.normal(size=(60, 40))
    for b in (np.ones_like(a), np.full_like(a, np.nan)):
        r = two_way(a, b, fixed=fixed, quick=quick); assert (r['strict'], r['half'], r['tied'], r['undecided']) == (0, .5, 0, 1) and r['undefined'] == 60 and '100 % of the comparisons are undefined' in r['warning'] and 'cannot be computed' in r['warning']
    b = a + gen.normal(size=a.shape); b[:6] = 3; r = two_way(a, b, fixed=fixed, quick=quick); lost = 6/60 if fixed == 'reconstruction' else 1 - 54*53/(60*59)
    assert r['undecided'] == pytest.approx(lost) and r['half'] == pytest.approx(r['strict'] + lost/2) and 'undefined' in r['warning']
    s = two_way_from_similarity(np.full((5, 5), np.nan)); assert (s['strict'], s['half']) == (0, .5) and 'undefined' in s['warning']


@pytest.mark.parametrize('quick', [False, True])
@pytest.mark.parametrize('fixed', ['reconstruction', 'original'])
@pytest.mark.parametrize('noise', [0, 1e-7])
def test_few_different_outputs_are_named(fixed, quick, noise):
    "Two pictures in turn never tie with the reconstruction fixed, and differ from one another. A network may see a picture not quite equally twice."
    gen = np.random.default_rng(0); a = gen.normal(size=(60, 200)).astype('float32')
    for k in (2, 10, 30): r = two_way(a, (np.tile(gen.normal(size=(k, 200)), (60//k, 1)) + noise*gen.normal(size=a.shape)).astype('float32'), fixed=fixed, quick=quick); assert r['repeated'] == pytest.approx((60/k - 1)/59, abs=.02) and 'collapsed' in r['warning'] and r['variety'] > .1
    for s in (.1, 1, 5): r = two_way(a, a + s*gen.normal(size=a.shape), fixed=fixed, quick=quick); assert r['repeated'] < .005 and r['warning'] == ''
    ids = np.repeat(np.arange(20), 3); one = np.repeat(gen.normal(size=(20, 200)), 3, 0); assert two_way(a[ids], one, fixed=fixed, ids=ids, quick=quick)['repeated'] == 0     # of one original


@pytest.mark.parametrize('quick', [False, True])
def test_undefined_features_are_failures_and_counted(quick):
    gen = np.random.default_rng(0); a = gen.normal(size=(12, 30)); b = a + gen.normal(size=a.shape); clean = two_way(a, b)['counts']
    a[1], b[4], b[5], b[6, 3] = 2.5, 0, np.nan, np.inf; r = two_way(a, b, quick=quick); assert r['undefined'] == 4 and (r['counts'][[1, 4, 5, 6]] == 0).all() and np.isfinite(r['mean']) and r['n'] == 12
    others = [0, 2, 3, 7, 8, 9, 10, 11]; assert (r['counts'][others] <= clean[others]).all() and (r['counts'][others] >= clean[others] - 1).all()     # the dead original is no win either
    d = correlation_distance(a, b); assert d['undefined'] == 4 and np.isfinite(d['mean'])


def test_ids_leave_out_the_same_picture():
    gen = np.random.default_rng(0); a = gen.normal(size=(10, 30)); b = gen.normal(size=(30, 30)); three = np.tile(a, (3, 1)); ids = np.tile(np.arange(10), 3)
    r = two_way(three, b, ids=ids); assert r['denominator'] == 27 and r['tied'] == 0
    table = correlations(a, b); want = [(np.delete(table[:, j], j % 10) < table[j % 10, j]).mean() for j in range(30)]; assert np.allclose(r['values'], want)
    some = two_way(three[:12], b[:12], ids=ids[:12]); assert some['denominator'].tolist() == [10]*2 + [11]*8 + [10]*2


def test_features_from_a_memory_map(tmp_path):
    gen = np.random.default_rng(0); a = gen.normal(size=(40, 6, 50)).astype('float16'); np.save(tmp_path/'a.npy', a); m = np.load(tmp_path/'a.npy', mmap_mode='r')
    b = a + gen.normal(size=a.shape); assert np.array_equal(two_way(m, b)['counts'], two_way(a.astype('float64'), b)['counts'])


def test_bad_features_are_refused():
    a = np.random.default_rng(0).normal(size=(4, 6))
    for call, words in ((lambda: two_way(a, a[:3]), '4 originals and 3'), (lambda: two_way(a, a[:, :5]), 'one layer'), (lambda: two_way(a[0], a[0]), 'one row'), (lambda: two_way(a[:0], a[:0]), 'one row'), (lambda: two_way(a[:1], a[:1]), 'distractor'),
            (lambda: two_way(a, a, ids=[1, 1, 1, 1]), 'distractor'), (lambda: two_way_from_similarity(a), 'square'), (lambda: two_way(a[:, :1], a[:, :1]), 'at least two'), (lambda: two_way(a, a, ids=[1]), '1 ids')):
        with pytest.raises(ShapeError, match=words): call()
    for how in (dict(fixed='rows'), dict(kind='dot')):
        with pytest.raises(UnknownError): two_way(a, a, **how)
