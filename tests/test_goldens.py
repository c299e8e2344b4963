"""One test for each golden file: reference values of the official implementations, compared with ours.

The folder is named by BRAINRECON_GOLDENS (otherwise ../shared/goldens). A file that no case covers yet is skipped as `not yet covered`; a file
with a case is never skipped. A case is chosen by the file's name, otherwise by what is in the file, so files with other sizes, counts and seeds go through
the same code. Every expected value must have been read by its check: a value that nobody compares is a failure.
"""
import importlib, json, os, re
from pathlib import Path
import numpy as np
import pytest
from safetensors import safe_open
from golden_cases import Reads, Tensors, case, cases, close, differ, number

folder = Path(os.environ.get('BRAINRECON_GOLDENS') or Path(__file__).resolve().parents[1].parent/'shared'/'goldens')
files = sorted(folder.glob('*.safetensors')) if folder.is_dir() else []
for p in sorted(Path(__file__).parent.glob('golden_*.py')): importlib.import_module(p.stem)   # each registers its cases

def case_for(stem):
    fits = [p for p in cases if stem == p or stem.startswith(p + '_') or stem.startswith(p + '-')]
    return cases[max(fits, key=len)] if fits else None

contents = dict(metrics={'twoway', 'statistics'})   # case -> groups of expected values by which its file is known under any name

def case_of(stem, meta):
    "By the name; otherwise by the groups of expected values."
    if (check := case_for(stem)) is not None: return check
    want = meta.get('expected'); fits = [p for p, groups in contents.items() if isinstance(want, dict) and groups <= set(want)]
    return cases[fits[0]] if fits else None

def read(path):
    with safe_open(path, 'np') as f:
        meta = {k: json.loads(v) if v[:1] in '{[' else v for k, v in (f.metadata() or {}).items()}
        return {k: f.get_tensor(k) for k in f.keys()}, meta

@pytest.mark.parametrize('path', files or [None], ids=lambda p: p.stem if p else 'goldens')
def test_golden(path):
    if path is None: pytest.skip(f'no golden files: neither BRAINRECON_GOLDENS nor the folder {folder.parent.name}/{folder.name} beside the project holds any')
    t, meta = read(path); check = case_of(path.stem, meta)
    if check is None: pytest.skip('not yet covered')
    run_case(check, t, {**meta, 'file': path})

def run_case(check, t, meta):
    "One case; then nothing that was expected may be left unread."
    want = Reads(meta['expected']) if isinstance(meta.get('expected'), dict) else Reads({})
    t = Tensors(t); check(t, {**meta, 'expected': want})
    left = want.unread() + t.unread(); assert not left, f'expected values that nothing was compared with: {", ".join(left)}'

def test_names_choose_cases():
    assert case_for('metrics') is case_for('metrics_seed7') is cases['metrics'] and case_for('metricsx') is None and case_for('avde') is None

def test_content_chooses_where_a_name_does_not():
    hidden = dict(expected=dict(twoway={}, statistics={}, more={}))
    assert case_of('hidden_metrics', hidden) is case_of('metrics2', hidden) is case_of('x', hidden) is cases['metrics']
    assert case_of('x', dict(expected=dict(twoway={}))) is case_of('x', {}) is case_of('x', dict(expected='text')) is None and case_of('avde_loss', hidden) is cases['avde_loss']

def test_an_expected_value_that_nobody_reads_is_a_failure():
    meta = dict(expected=dict(a=1, b=dict(c=2, d=dict(e=3)), f=dict(g=4))); ok = lambda t, m: [m['expected'][k] for k in 'a'] + [m['expected']['b']['c'], m['expected']['b']['d']['e'], m['expected']['f']['g']]
    run_case(ok, {}, meta); run_case(lambda t, m: None, {}, {})
    with pytest.raises(AssertionError, match='with: b/d/e, f'): run_case(lambda t, m: (m['expected']['a'], m['expected']['b']['c'], m['expected']['b']['d']), {}, meta)
    with pytest.raises(AssertionError, match='one by one'): run_case(lambda t, m: m['expected'].items(), {}, meta)

def counts_in(want, pattern):
    "Numbers that stand in the names of expected values, such as the k of top5_expected."
    found = sorted({int(m[1]) for k in want if (m := re.fullmatch(pattern, k))}); assert found, f'no expected value is called {pattern}'
    return found

# ---- metrics: the retrieval part. Tolerances of metrics.md: 1e-6 in float64, retrieval counts exact.

def check_scores(got, want, what):
    names = dict(mean_rank='mean_rank_average_ties', median_rank='median_rank_average_ties', mrr='mrr_pessimistic')
    for k in counts_in(want, r'top(\d+)_expected'):
        close(got[f'top{k}'], want[f'top{k}_expected'], 1e-12, f'{what} top{k}')
        for end in ('optimistic', 'pessimistic'): close(got[f'top{k}_{end}'], want[f'top{k}_{end}'], 1e-12, f'{what} top{k} {end}')
    for ours, theirs in names.items(): close(got[ours], want[theirs], 1e-6, f'{what} {ours}')

def every_k(*groups): return {k for want in groups for k in counts_in(want, r'top(\d+)_expected')}

@case('metrics')
def metrics(t, meta):
    from brainrecon.metrics.chance import binomial_p, bootstrap, permutation_p, retrieval_null, sign_flip_p
    from brainrecon.metrics.retrieval import official_names, retrieve, retrieve_in_draws, scores_from_similarity, similarity
    want = meta['expected']; r, tied = want['retrieval'], want['retrieval_from_similarity_ties']
    brain, img = t['retrieval_brain'], t['retrieval_image']
    calls = counts_in(r, r'mindeye2_(?:fwd|bwd)_call_top(\d+)'); ks = every_k(r['brain_query_image_gallery'], r['image_query_brain_gallery']) | {1, *calls}
    ours = {('brain', 'image'): retrieve(brain, img, ks=sorted(ks)), ('image', 'brain'): retrieve(img, brain, ks=sorted(ks), sides=('image', 'brain'))}
    for (q, g), got in ours.items():
        assert got['candidates'] == r['n_way'] and (got['query'], got['gallery']) == (q, g)
        check_scores(got, r[f'{q}_query_{g}_gallery'], f'{q} -> {g}')
    close(ours['brain', 'image']['mean_matched'], r['mean_matched_cosine'], 1e-6, 'matched cosine')
    close(ours['brain', 'image']['mrr'], r['mean_reciprocal_rank_brain_query'], 1e-6, 'mean reciprocal rank')
    close(retrieve(brain, img, kind='dot')['top1'], r['unnormalised_dot_top1_brain_query'], 1e-12, 'dot')
    for name, sides in official_names.items():     # the official variables are float32
        way = name.split()[1]
        for k in calls: close(ours[sides][f'top{k}'], r[f'mindeye2_{way}_call_top{k}'], 1e-6, f'{name} top{k}')
    d = want['retrieval_draws']; assert d['pool'] == len(t['draws_brain']) == len(t['draws_image'])
    for way, a, b in (('bwd', t['draws_brain'], t['draws_image']), ('fwd', t['draws_image'], t['draws_brain'])):
        got = retrieve_in_draws(a, b, t['draws_index'])
        assert (got['draws'], got['candidates']) == (d['draws'], d['candidates_per_draw'])
        close(got['top1'], d[f'mindeye2_{way}_variable'], 1e-6, f'draws {way}')
        close([got['low'], got['high']], d[f'mindeye2_{way}_ci95'], 1e-6, f'draws {way} interval')
        close(got['top1'], d['brain_query_image_gallery' if way == 'bwd' else 'image_query_brain_gallery'], 1e-6, f'draws {way} by sides')
    ties, right = t['sim_ties'], np.eye(len(t['sim_ties']), dtype=bool)
    for name, sim in (('rows_are_queries', ties), ('columns_are_queries', ties.T)):
        check_scores(scores_from_similarity(sim, right, sorted(every_k(tied[name]))), tied[name], name)
    s = want['statistics']
    b = bootstrap(t['stat_a'], index=t['stat_boot_index'])
    close([b['mean'], b['se'], b['low'], b['high']], [s['mean'], s['bootstrap_se'], *s['bootstrap_percentile_ci95']], 1e-6, 'bootstrap')
    f = sign_flip_p(t['stat_a'], t['stat_b'], t['stat_signs'])
    close([f['difference'], f['p']], [s['paired_difference_mean'], s['signflip_p_two_sided_plus1']], 1e-6, 'sign flip')
    null = retrieval_null(similarity(brain, img), t['stat_label_perm']); top1 = ours['brain', 'image']['top1']
    close([top1, null.mean(), permutation_p(top1, null)], [s['retrieval_top1_observed'], s['retrieval_permutation_null_mean'], s['retrieval_permutation_p_plus1']], 1e-6, 'permutation')
    p = binomial_p(round(top1*len(brain)), len(brain), 1/len(img))
    assert np.isclose(p, s['binomial_p_top1_at_chance'], rtol=1e-6, atol=0)
    check_leakage(t, want['leakage'])
    check_contrast(t, want['contrastive'])
    check_ceiling(t, want['noise_ceiling'])
    check_images(t, want); check_identification(t, want); check_distance(t, want)
    check_voxelwise(t, want['voxelwise'])
    check_synthesis(t, want['synthesis'])

def check_ceiling(t, want):
    "Noise ceilings in both forms, for one and for all repetitions, equal and unequal; split halves; scores in units of the ceiling."
    from brainrecon.metrics.reliability import noise_ceiling, normalised, spearman_brown, split_half
    x = t['reps'].astype('float64'); every = noise_ceiling(x, x.shape[1])
    close(every['ncsnr'], want['ncsnr_nsd_zscored'], 1e-6, 'ncsnr'); close(noise_ceiling(x, form='anova')['ncsnr'], want['ncsnr_anova_unbiased'], 1e-6, 'ncsnr, analysis of variance')
    for n in counts_in(want, r'nc_percent_n(\d+)'): close(noise_ceiling(x, n)['percent'], want[f'nc_percent_n{n}'], 1e-6, f'ceiling of the average of {n}')
    for n in counts_in(want, r'nc_r_units_n(\d+)'): close(noise_ceiling(x, n)['r'], want[f'nc_r_units_n{n}'], 1e-6, f'ceiling as a correlation, {n}')
    for n in counts_in(want, r'mean_nc_percent_n(\d+)'): close(noise_ceiling(x, n)['percent'].mean(), want[f'mean_nc_percent_n{n}'], 1e-6, f'mean ceiling of {n}')
    uneven, = [k for k in want if k.startswith('nc_percent_unequal_repeats_counts_')]; counts = np.repeat([int(n) for n in uneven.split('counts_')[1].split('_')], want[uneven])
    close(noise_ceiling(x, counts)['percent'], want['nc_percent_unequal'], 1e-6, 'ceiling of unequal repetitions')
    theirs = want['split_half_r_first_two_reps']
    for n in counts_in(want, r'spearman_brown_to_(\d+)'): close(spearman_brown(theirs, n), want[f'spearman_brown_to_{n}'], 1e-6, f'Spearman-Brown to {n}')
    half = split_half(x[:, :2], 200, n=2); off = np.abs(half['half'] - theirs)     # theirs is one halving, ours a mean of many
    assert (off < 5*half['sd_of_halvings'] + 1e-6).all(), f'split halves: {off.max():.3f} apart'
    a, b = (v - v.mean(0) for v in (t['reps_prediction'].astype('float64'), x.mean(1))); r = (a*b).sum(0)/np.sqrt((a**2).sum(0)*(b**2).sum(0))
    for power, k in ((1, 'normalised_r_over_sqrt_nc'), (2, 'normalised_r2_over_nc')): close(normalised(r, every['percent'], at_least=0)['values']**power, want[k], 1e-6, k)

def check_voxelwise(t, want):
    "Scores down the columns and along the rows; undefined voxels named; a region; the mean squared error. Numbers that do not exist are null."
    from brainrecon.metrics.encoding import brain_correlation, pattern_r, synthesis_scores, voxelwise
    a, b = t['voxel_target'], t['voxel_prediction']; got = voxelwise(a, b); r, r2 = got['r'], got['R2']
    for name, values, k in (('r', r['values'], 'pearson_per_voxel'), ('R2', r2['values'], 'r2_per_voxel'), ('pattern r', pattern_r(a, b)['values'], 'pattern_pearson_per_sample')):
        close(values, want[k], 1e-6, name)
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
        w = want[f'images/{name}']; a, b = t[f'{name}_original'], t[f'{name}_reconstruction']
        def same(got, k, tol): close(got['values'], w[k], tol, f'{name} {k}'); assert got['undefined'] == np.isnan(number(w[k])).sum(), f'{name} {k}'
        p, s, d = pixcorr(a, b), ssim(a, b), ssim(a, b, dtype='float64')
        for k, how in (('official', {}), ('no_first_resize', dict(first=False)), ('native', dict(first=False, size=None))): same(pixcorr(a, b, **how), f'pixcorr_{k}_per_image', 1e-6)
        for k, how in (('official', {}), ('no_first_resize', dict(first=False)), ('native_gray', dict(first=False, size=None)), ('legacy_columnwise', dict(form='columns (legacy)'))): same(ssim(a, b, **how), f'ssim_{k}_per_image', 2e-4)
        same(d, 'ssim_official_float64_per_image', 1e-5); same(s, 'ssim_official_float64_per_image', 2e-4)
        check_pixel_means(p, w, name); close([s['mean'], d['mean']], [w['ssim_official_mean']]*2, 2e-4, f'{name} SSIM')     # the official one is float32
        grey = [ssim(*(np.repeat(x[:, [c]], 3, 1) for x in (a, b)), first=False, size=None)['values'] for c in range(3)]     # each colour as if it were the grey
        close(np.mean(grey, 0), w['ssim_rgb_native_per_image'], 2e-4, f'{name} SSIM of three colours')
        for k in (k for k in w if 'WRONG' in k): differ(s['values'], w[k], 1e-3, f'{name} {k}')
        for smooth in (True, False):
            k = f'antialias_{str(smooth).lower()}'; o, r = (torch.from_numpy(x).float()/255 for x in (a, b))
            fits = [q for q in (64, (64, 64)) for x in [resize(o, q, smooth)] if np.allclose([x.mean(), x.std()], w[f'resize64_{k}_checksum_mean_std'], rtol=0, atol=1e-6)]
            assert fits, f'{name} resize to 64, {k}'     # one number and two are the same for square pictures; the sum says which was meant
            same(pixcorr(resize(o, fits[0], smooth), resize(r, fits[0], smooth), first=False, size=None), f'pixcorr_after_resize64_{k}_per_image', 1e-6)

def check_pixel_means(p, w, name):
    "The mean over pictures, and that of MindEye2's training helper in float32. With a picture that has no correlation, either may be null or be over the others."
    official, helper = number(w['pixcorr_official_mean']), number(w['pixcorr_mindeye_training_helper_mean'])
    if np.isnan(official): assert p['undefined'] > 0, f'{name} PixCorr: undefined in the file and here {p["mean"]}'
    else: close(p['mean'], official, 1e-6, f'{name} PixCorr')
    if np.isnan(helper): assert p['undefined'] > 0, f"{name} PixCorr of MindEye2's helper"; return
    n, over = p['n'], p['n'] - p['undefined']     # float32 gives an even picture a correlation of rounding, anything from -1 to 1
    near = p['undefined'] and abs(n*helper - np.nansum(p['values'])) <= p['undefined'] + n*5e-4
    if not (over and near): close(p['mean'], helper, 5e-4, f"{name} PixCorr of MindEye2's helper")

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
    assert got['undefined'] == np.isnan(number(w['per_image'])).sum() and got['better'] == 'lower'
    for k in (k for k in w if 'WRONG' in k): differ(got['mean'], w[k], 1e-3, k)

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

# ---- the checks themselves: other counts in the names, undefined pictures, and values that are WRONG

def repeated(n, counts, seed=0):
    "Repetitions and what is expected of them, from the definitions, with other numbers in the names."
    gen = np.random.default_rng(seed); x = gen.normal(size=(40, 1, 6)) + gen.normal(size=(40, n, 6)); p = gen.normal(size=(40, 6)) + x.mean(1)
    z = (x - x.mean((0, 1)))/x.std((0, 1)); noise = z.var(1, ddof=1).mean(0); snr = np.sqrt(np.maximum(0, 1 - noise)/noise); percent = lambda inv: 100*snr**2/(snr**2 + inv); corr = lambda a, b: np.array([np.corrcoef(i, j)[0, 1] for i, j in zip(a.T, b.T)])
    v = x.var(1, ddof=1).mean(0); r, h = corr(p, x.mean(1)), corr(x[:, 0], x[:, 1]); m, of = counts, [20, 12, 8]; up = np.maximum(h, 0); all_ = percent(1/n)/100
    want = {'ncsnr_nsd_zscored': snr, 'ncsnr_anova_unbiased': np.sqrt(np.maximum(0, x.mean(1).var(0, ddof=1) - v/n)/v), 'nc_percent_n1': percent(1), f'nc_percent_n{m}': percent(1/m), f'nc_r_units_n{m}': np.sqrt(percent(1/m)/100), 'mean_nc_percent_n1': percent(1).mean(),
        f'nc_percent_unequal_repeats_counts_{m}_2_1': np.array(of), 'nc_percent_unequal': percent((of[0]/m + of[1]/2 + of[2])/40), 'split_half_r_first_two_reps': h, f'spearman_brown_to_{m}': m*up/(1 + (m - 1)*up), 'normalised_r_over_sqrt_nc': r/np.sqrt(all_), 'normalised_r2_over_nc': r**2/all_}
    return dict(reps=x, reps_prediction=p), {k: v.tolist() for k, v in want.items()}

@pytest.mark.parametrize('n, counts', [(3, 3), (4, 4), (4, 3), (2, 5)])
def test_ceilings_with_other_numbers_of_repetitions(n, counts):
    t, want = repeated(n, counts); run_case(lambda t, m: check_ceiling(t, m['expected']), t, dict(expected=want))
    want[f'nc_percent_n{counts}'][2] += 1e-3
    with pytest.raises(AssertionError, match='ceiling of the average'): check_ceiling(t, Reads(want))

def test_retrieval_with_other_k():
    from brainrecon.metrics.retrieval import scores_from_similarity
    sim = np.random.default_rng(0).normal(size=(30, 30)).round(1); got = scores_from_similarity(sim, np.eye(30, dtype=bool), (2, 20))
    want = {f'top{k}_{e}': got[f'top{k}' + ('' if e == 'expected' else f'_{e}')] for k in (2, 20) for e in ('expected', 'optimistic', 'pessimistic')} | dict(mean_rank_average_ties=got['mean_rank'], median_rank_average_ties=got['median_rank'], mrr_pessimistic=got['mrr'])
    assert every_k(want) == {2, 20}; run_case(lambda t, m: check_scores(got, m['expected'], 'k'), {}, dict(expected=want)); want['top20_expected'] -= .1
    with pytest.raises(AssertionError, match='top20'): check_scores(got, Reads(want), 'k')

def test_means_of_undefined_pictures():
    p = dict(values=np.array([.5, np.nan, .3]), mean=.4, undefined=1, n=3); whole = dict(values=np.array([.5, .3]), mean=.4, undefined=0, n=2); w = lambda a, b: Reads(dict(pixcorr_official_mean=a, pixcorr_mindeye_training_helper_mean=b))
    for a, b in ((None, None), (float('nan'), .4), (.4, .8/3), (.4, .4)): check_pixel_means(p, w(a, b), 'x')
    for q, a, b in ((whole, None, .4), (whole, .4, None), (whole, .4, .41), (p, .4, .7), (p, .41, .4)):
        with pytest.raises(AssertionError): check_pixel_means(q, w(a, b), 'x')

def test_null_is_compared_as_undefined():
    close([1, np.nan], [1., None], 1e-6, 'x'); close(np.nan, None, 1e-6, 'x')
    for got, want in (([1, np.nan], [1, 2]), ([1, 2], [1, None]), ([1], [1, 1]), ([1, 2], [1, 3])):
        with pytest.raises(AssertionError): close(got, want, 1e-6, 'x')

def test_what_is_marked_wrong_is_refused():
    from scipy.spatial.distance import correlation, cosine
    a, b = np.random.default_rng(0).random((2, 6, 20)); per = [float(correlation(x, y)) for x, y in zip(a, b)]; t = dict(distance_original=a, distance_reconstruction=b)
    want = dict(per_image=per, mean=float(np.mean(per)), WRONG_cosine_distance_mean=float(np.mean([cosine(x, y) for x, y in zip(a, b)])))
    run_case(lambda t, m: check_distance(t, m['expected']), t, dict(expected=dict(correlation_distance=want)))
    with pytest.raises(AssertionError, match='WRONG'): check_distance(t, Reads(dict(correlation_distance=want | dict(WRONG_x=want['mean']))))
