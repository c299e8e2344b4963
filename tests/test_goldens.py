"""One test for each golden file: reference values of the official implementations, compared with ours.

The folder is named by BRAINRECON_GOLDENS (otherwise ../shared/goldens). A file that no case covers yet is skipped as `not yet covered`; a file
with a case is never skipped. A case is chosen by the file's name, so files with other sizes and seeds go through the same code.
"""
import json, os
from pathlib import Path
import numpy as np
import pytest
from safetensors import safe_open

folder = Path(os.environ.get('BRAINRECON_GOLDENS') or Path(__file__).resolve().parents[1].parent/'shared'/'goldens')
files = sorted(folder.glob('*.safetensors')) if folder.is_dir() else []
cases = {}   # first part of a file's name -> function(tensors, metadata)

def case(prefix):
    "Register the function that checks files whose name begins like this."
    def put(f): cases[prefix] = f; return f
    return put

def case_for(stem):
    fits = [p for p in cases if stem == p or stem.startswith(p + '_') or stem.startswith(p + '-')]
    return cases[max(fits, key=len)] if fits else None

def read(path):
    with safe_open(path, 'np') as f:
        meta = {k: json.loads(v) if v[:1] in '{[' else v for k, v in (f.metadata() or {}).items()}
        return {k: f.get_tensor(k) for k in f.keys()}, meta

@pytest.mark.parametrize('path', files or [None], ids=lambda p: p.stem if p else 'goldens')
def test_golden(path):
    if path is None: pytest.skip(f'no golden files: neither BRAINRECON_GOLDENS nor the folder {folder.parent.name}/{folder.name} beside the project holds any')
    check = case_for(path.stem)
    if check is None: pytest.skip('not yet covered')
    check(*read(path))

def test_names_choose_cases():
    assert case_for('metrics') is case_for('metrics_seed7') is cases['metrics'] and case_for('metricsx') is None and case_for('avde') is None

def close(got, want, tol, what):
    assert np.allclose(got, want, rtol=0, atol=tol), f'{what}: got {got}, expected {want}, tolerance {tol}'

# ---- metrics: the retrieval part. Tolerances of metrics.md: 1e-6 in float64, retrieval counts exact.

def check_scores(got, want, what):
    names = dict(mean_rank='mean_rank_average_ties', median_rank='median_rank_average_ties', mrr='mrr_pessimistic')
    for k in (1, 5, 10):
        close(got[f'top{k}'], want[f'top{k}_expected'], 1e-12, f'{what} top{k}')
        for end in ('optimistic', 'pessimistic'): close(got[f'top{k}_{end}'], want[f'top{k}_{end}'], 1e-12, f'{what} top{k} {end}')
    for ours, theirs in names.items(): close(got[ours], want[theirs], 1e-6, f'{what} {ours}')

@case('metrics')
def metrics(t, meta):
    from brainrecon.metrics.chance import binomial_p, bootstrap, permutation_p, retrieval_null, sign_flip_p
    from brainrecon.metrics.retrieval import official_names, retrieve, retrieve_in_draws, scores_from_similarity, similarity
    want, ks = meta['expected'], (1, 5, 10)
    brain, img = t['retrieval_brain'], t['retrieval_image']
    r = want['retrieval']
    ours = {('brain', 'image'): retrieve(brain, img, ks=ks), ('image', 'brain'): retrieve(img, brain, ks=ks, sides=('image', 'brain'))}
    for (q, g), got in ours.items():
        assert got['candidates'] == r['n_way'] and (got['query'], got['gallery']) == (q, g)
        check_scores(got, r[f'{q}_query_{g}_gallery'], f'{q} -> {g}')
    close(ours['brain', 'image']['mean_matched'], r['mean_matched_cosine'], 1e-6, 'matched cosine')
    close(retrieve(brain, img, kind='dot')['top1'], r['unnormalised_dot_top1_brain_query'], 1e-12, 'dot')
    for name, sides in official_names.items():     # the official variables are float32
        way = name.split()[1]
        for k in (1, 5): close(ours[sides][f'top{k}'], r[f'mindeye2_{way}_call_top{k}'], 1e-6, f'{name} top{k}')
    d = want['retrieval_draws']
    for way, a, b in (('bwd', t['draws_brain'], t['draws_image']), ('fwd', t['draws_image'], t['draws_brain'])):
        got = retrieve_in_draws(a, b, t['draws_index'])
        assert (got['draws'], got['candidates']) == (d['draws'], d['candidates_per_draw'])
        close(got['top1'], d[f'mindeye2_{way}_variable'], 1e-6, f'draws {way}')
        close([got['low'], got['high']], d[f'mindeye2_{way}_ci95'], 1e-6, f'draws {way} interval')
        close(got['top1'], d['brain_query_image_gallery' if way == 'bwd' else 'image_query_brain_gallery'], 1e-6, f'draws {way} by sides')
    ties, right = t['sim_ties'], np.eye(len(t['sim_ties']), dtype=bool)
    for name, sim in (('rows_are_queries', ties), ('columns_are_queries', ties.T)):
        check_scores(scores_from_similarity(sim, right, ks), want['retrieval_from_similarity_ties'][name], name)
    s = want['statistics']
    b = bootstrap(t['stat_a'], index=t['stat_boot_index'])
    close([b['mean'], b['se'], b['low'], b['high']], [s['mean'], s['bootstrap_se'], *s['bootstrap_percentile_ci95']], 1e-6, 'bootstrap')
    f = sign_flip_p(t['stat_a'], t['stat_b'], t['stat_signs'])
    close([f['difference'], f['p']], [s['paired_difference_mean'], s['signflip_p_two_sided_plus1']], 1e-6, 'sign flip')
    null = retrieval_null(similarity(brain, img), t['stat_label_perm']); top1 = ours['brain', 'image']['top1']
    close([top1, null.mean(), permutation_p(top1, null)], [s['retrieval_top1_observed'], s['retrieval_permutation_null_mean'], s['retrieval_permutation_p_plus1']], 1e-6, 'permutation')
    p = binomial_p(round(top1*len(brain)), len(brain), 1/len(img))
    assert abs(p/s['binomial_p_top1_at_chance'] - 1) < 1e-6
    check_leakage(t, want['leakage'])
    check_contrast(t, want['contrastive'])
    check_ceiling(t, want['noise_ceiling'])
    check_images(t, want); check_identification(t, want); check_distance(t, want)
    check_voxelwise(t, want['voxelwise'])
    check_synthesis(t, want['synthesis'])

def check_ceiling(t, want):
    "Noise ceilings in both forms, for one and for all repetitions, equal and unequal; split halves; scores in units of the ceiling."
    from brainrecon.metrics.reliability import noise_ceiling, normalised, spearman_brown, split_half
    x = t['reps'].astype('float64'); n = x.shape[1]; every = noise_ceiling(x, n); number = lambda k: np.array([np.nan if v is None else v for v in want[k]], float)
    close(every['ncsnr'], want['ncsnr_nsd_zscored'], 1e-6, 'ncsnr'); close(noise_ceiling(x, form='anova')['ncsnr'], want['ncsnr_anova_unbiased'], 1e-6, 'ncsnr, analysis of variance')
    close(every['percent'], want['nc_percent_n3'], 1e-6, 'ceiling of the average'); close(every['r'], want['nc_r_units_n3'], 1e-6, 'ceiling as a correlation')
    one = noise_ceiling(x, 1)['percent']; close(one, want['nc_percent_n1'], 1e-6, 'ceiling of one trial'); close(one.mean(), want['mean_nc_percent_n1'], 1e-6, 'mean ceiling of one trial')
    counts = np.repeat([3, 2, 1], want['nc_percent_unequal_repeats_counts_3_2_1'])
    close(noise_ceiling(x, counts)['percent'], want['nc_percent_unequal'], 1e-6, 'ceiling of unequal repetitions')
    close(spearman_brown(want['split_half_r_first_two_reps'], 3), want['spearman_brown_to_3'], 1e-6, 'Spearman-Brown')
    half = split_half(x[:, :2], 200, n=3); off = np.abs(half['half'] - want['split_half_r_first_two_reps'])     # theirs is one halving, ours a mean of many
    assert (off < 5*half['sd_of_halvings'] + 1e-6).all(), f'split halves: {off.max():.3f} apart'
    a, b = (v - v.mean(0) for v in (t['reps_prediction'].astype('float64'), x.mean(1))); r = (a*b).sum(0)/np.sqrt((a**2).sum(0)*(b**2).sum(0))
    for power, k in ((1, 'normalised_r_over_sqrt_nc'), (2, 'normalised_r2_over_nc')):
        got, w = normalised(r, every['percent'], at_least=0)['values']**power, number(k)
        assert (np.isnan(got) == np.isnan(w)).all(), k
        close(got[~np.isnan(w)], w[~np.isnan(w)], 1e-6, k)

def check_voxelwise(t, want):
    "Scores down the columns and along the rows; undefined voxels named; a region; the mean squared error. Numbers that do not exist are null."
    from brainrecon.metrics.encoding import brain_correlation, pattern_r, synthesis_scores, voxelwise
    a, b = t['voxel_target'], t['voxel_prediction']; got = voxelwise(a, b); r, r2 = got['r'], got['R2']; number = lambda k: np.array([np.nan if v is None else v for v in want[k]], float)
    for name, values, k in (('r', r['values'], 'pearson_per_voxel'), ('R2', r2['values'], 'r2_per_voxel'), ('pattern r', pattern_r(a, b)['values'], 'pattern_pearson_per_sample')):
        w = number(k); assert (np.isnan(values) == np.isnan(w)).all(), f'{name}: undefined in other places'
        close(values[~np.isnan(w)], w[~np.isnan(w)], 1e-6, name)
    assert r['undefined_at'] == want['undefined_voxels'] and r['undefined'] == len(want['undefined_voxels'])
    close([r['mean'], r['median']], [want[f'pearson_{k}_ignoring_undefined'] for k in ('mean', 'median')], 1e-6, 'mean and median r')
    close(np.nan_to_num(r['values']).mean(), want['pearson_mean_undefined_as_zero'], 1e-6, 'r, undefined as zero')
    close(pattern_r(a, b)['mean'], want['pattern_pearson_mean'], 1e-6, 'pattern r'); close(pattern_r(a, b)['mean'], want['paired_pearson_braincodec_mean'], 1e-6, "brainCodec's paired Pearson")
    close(brain_correlation(a, b, dict(region=t['voxel_mask']))['region']['mean'], want['brain_correlation_masked_mean'], 1e-6, 'brain correlation')
    close(synthesis_scores(a, b)['MSE']['mean'], want['mse'], 1e-6, 'mean squared error')

def check_synthesis(t, want):
    "One response against each of the first three single trials, as SynBrain does; its own code runs in float32, which shows in the CKA."
    from brainrecon.metrics.encoding import synthesis_scores
    got = synthesis_scores(t['reps'][:, :3], t['reps_prediction'])
    for ours, theirs in (('MSE', 'MSE'), ('pattern r', 'Pearson'), ('pattern cosine', 'Cosine')): close(got[ours]['mean'], want[theirs], 1e-6, theirs)
    close(got['CKA between voxels (SynBrain)'], want['CKA'], 1e-5, 'CKA')

def check_images(t, want):
    "PixCorr and SSIM of every set, with each step switched off in turn, and unlike the two settings marked WRONG. 1e-6 and 2e-4 (float32) or 1e-5 (float64) for each picture."
    import torch
    from brainrecon.metrics.pixels import pixcorr, resize, ssim
    for name in (k.split('/')[1] for k in want if k.startswith('images/')):
        w = {k: np.array([np.nan if x is None else x for x in v], float) if k.endswith('per_image') else v for k, v in want[f'images/{name}'].items()}
        a, b = t[f'{name}_original'], t[f'{name}_reconstruction']
        def same(got, k, tol):
            v = got['values']; assert (np.isnan(v) == np.isnan(w[k])).all() and got['undefined'] == np.isnan(w[k]).sum(), f'{name} {k}: undefined in other places'
            close(v[~np.isnan(v)], w[k][~np.isnan(v)], tol, f'{name} {k}')
        p, s, d = pixcorr(a, b), ssim(a, b), ssim(a, b, dtype='float64')
        for k, how in (('official', {}), ('no_first_resize', dict(first=False)), ('native', dict(first=False, size=None))): same(pixcorr(a, b, **how), f'pixcorr_{k}_per_image', 1e-6)
        for k, how in (('official', {}), ('no_first_resize', dict(first=False)), ('native_gray', dict(first=False, size=None)), ('legacy_columnwise', dict(form='columns (legacy)'))): same(ssim(a, b, **how), f'ssim_{k}_per_image', 2e-4)
        same(d, 'ssim_official_float64_per_image', 1e-5); same(s, 'ssim_official_float64_per_image', 2e-4)
        close(p['mean'], w['pixcorr_official_mean'], 1e-6, f'{name} PixCorr'); close(p['mean'], w['pixcorr_mindeye_training_helper_mean'], 2e-4, f"{name} PixCorr of MindEye2's helper, in float32")
        close([s['mean'], d['mean']], w['ssim_official_mean'], 1e-5, f'{name} SSIM')
        grey = [ssim(*(np.repeat(x[:, [c]], 3, 1) for x in (a, b)), first=False, size=None)['values'] for c in range(3)]     # each colour as if it were the grey
        close(np.mean(grey, 0), w['ssim_rgb_native_per_image'], 2e-4, f'{name} SSIM of three colours')
        for k in (k for k in w if 'WRONG' in k): assert np.abs(s['values'] - w[k]).max() > .01, f'{name}: SSIM as in {k}'
        for smooth in (True, False):
            k = f'antialias_{str(smooth).lower()}'; o, r = (torch.from_numpy(x).float()/255 for x in (a, b))
            fits = [q for q in (64, (64, 64)) for x in [resize(o, q, smooth)] if np.allclose([x.mean(), x.std()], w[f'resize64_{k}_checksum_mean_std'], rtol=0, atol=1e-6)]
            assert fits, f'{name} resize to 64, {k}'     # one number and two are the same for square pictures; the sum says which was meant
            same(pixcorr(resize(o, fits[0], smooth), resize(r, fits[0], smooth), first=False, size=None), f'pixcorr_after_resize64_{k}_per_image', 1e-6)

def check_identification(t, want):
    "Two-way identification: counts exact in both ways of multiplying, both directions, both tie rules, cosine, and from a table with many ties."
    from brainrecon.metrics.identification import two_way, two_way_from_similarity
    for name in ('twoway', 'twoway_ties'):
        w = want[name]; a, b = t[f'{name}_original'], t[f'{name}_reconstruction']
        for quick in (False, True):
            got = two_way(a, b, quick=quick)
            assert got['counts'].tolist() == w['official_success_counts_per_reconstruction'] and got['denominator'] == w['denominator'], name
            close([got['strict'], got['mean'], got['half']], [w['official'], w['bdpy_mean'], w['ties_half_credit']], 1e-12, name); close(got['values'], w['bdpy_per_sample'], 1e-12, f'{name} bdpy')
            close(two_way(a, b, fixed='original', quick=quick)['mean'], w['originals_fixed_strict'], 1e-12, f'{name} originals fixed')
            close(two_way(a, b, kind='cosine', quick=quick)['mean'], w['cosine_strict'], 1e-6, f'{name} cosine')     # the published one is float32
    w = want['twoway_from_similarity_ties']
    for side in ('rows', 'columns'):
        got = two_way_from_similarity(t['sim_ties'], side)
        close([got['strict'], got['half']], [w[f'{side}_are_queries_{k}'] for k in ('strict', 'half_credit')], 1e-6, f'{side} are queries')

def check_distance(t, want):
    "Correlation distance, unlike the two that are marked WRONG."
    from brainrecon.metrics.identification import correlation_distance
    got, w = correlation_distance(t['distance_original'], t['distance_reconstruction']), want['correlation_distance']
    close(got['values'], w['per_image'], 1e-6, 'correlation distance'); close(got['mean'], w['mean'], 1e-6, 'mean correlation distance')
    assert got['undefined'] == 0 and got['better'] == 'lower' and all(abs(got['mean'] - w[k]) > .01 for k in w if 'WRONG' in k)

def check_contrast(t, want):
    "The contrastive losses at every temperature that the file names; rows are used as stored, every row is selected."
    import torch
    from brainrecon.alignment.contrast import bi_mixco, info_nce, soft_clip
    brain, img = (torch.from_numpy(t[f'loss_{n}']).double() for n in ('brain', 'image'))
    perm, betas = torch.from_numpy(t['loss_perm']).long(), torch.from_numpy(t['loss_betas']).double(); assert int((perm == torch.arange(len(perm))).sum()) == want['perm_fixed_points']
    for n in (k for k in want if k.startswith(('softclip_t', 'bimixco_t'))):
        tau = float(n.split('_t')[-1]); got = soft_clip(brain, img, tau, normalise=False) if n.startswith('soft') else bi_mixco(brain, img, perm, betas, tau, normalise=False)
        assert abs(got.item()/want[n] - 1) < 1e-6, (n, got.item(), want[n])
    assert {n.split('_t')[0] for n in want} >= {'softclip', 'bimixco', 'infonce_symmetric'}
    names = [n for n in want if n.startswith('infonce_symmetric_t')]
    assert names
    for n in names: assert abs(info_nce(brain, img, 1/float(n.split('_t')[-1]), normalise=False).item()/want[n] - 1) < 1e-6, n

def check_leakage(t, want):
    "Overlaps named by our own check are exactly the expected ones."
    from brainrecon.core.checks import LeakError
    from brainrecon.data.splits import check_leak
    from brainrecon.data.trials import Trials
    def batch(pictures, concepts, first): return Trials(np.zeros((len(pictures), 1)), ['v'],
        dict(picture=pictures, concept=concepts, trial=np.arange(len(pictures)) + first), 'fmri')
    def shared(a, b, by):
        try: check_leak(a, b, by=by)
        except LeakError as e: return sorted(int(i) for i in e.facts['shared'])
        return []
    train, test = (t[f'leak_{s}_concept'] for s in ('train', 'test'))
    assert shared(batch([f'a{i}' for i in train], train, 0), batch([f'b{i}' for i in test], test, 10**6), 'concept') == want['overlapping_concepts']
    img, side = t['leak_trial_image'], t['leak_trial_split']
    parts = [batch(img[side == i], [f'c{i}-{j}' for j in img[side == i]], 10**6*i) for i in (0, 1)]
    assert shared(*parts, 'picture') == want['images_in_both_splits']

# ---- avde_loss: the multivariate noise normalisation. Layout: session, condition, repetition, channel, time; float64.

def as_trials(x, side):
    "Golden epochs as trials, with session and condition in the table."
    from brainrecon.data.trials import Trials
    s, k, r, c, t = x.shape; at = [(i, j) for i in range(s) for j in range(k) for _ in range(r)]; names = [f'{side} {j}' for _, j in at]
    return Trials(x.reshape(-1, c, t), [f'ch{i}' for i in range(c)], dict(picture=names, concept=names, session=[i + 1 for i, _ in at]), 'eeg', 250.)

@case('avde_loss')
def avde_loss(t, meta):
    from brainrecon.data.preproc import fit_whitener
    sides = {s: as_trials(t[f'input/mvnn_{s}'], s) for s in ('train', 'test')}
    for by in ('epochs', 'time'):
        whiten = fit_whitener(sides['train'], by)
        for s, trials in sides.items():
            want = t[f'output/mvnn_{by}_{s}']; close(whiten(trials).x.reshape(want.shape), want, 1e-6, f'{by} {s}')
