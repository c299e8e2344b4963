"AVDE's alignment: both forms of the loss with gradients, schedules step by step, layer-wise rates, and whitening of noise. Sizes and settings are those of the file."
import torch
from golden_cases import case, close

@case('avde_loss')
def avde_loss(t, meta):
    c = meta['config']
    check_released(t, c); check_paper(t, c); check_schedules(t, c); check_layers(t, c); check_whitening(t, c)

def inputs(t):
    e, z, text = (torch.from_numpy(t[f'input/{k}_features']) for k in ('eeg', 'img', 'text')); return e, z, text, torch.from_numpy(t['input/logit_scale'])

def check_released(t, c):
    "Plain products times the number itself; the larger share is of the distance; everything times ten."
    from brainrecon.alignment.avde_loss import avde_loss, both_questions, likeness
    e, z, text, scale = inputs(t); e.requires_grad_(); scale.requires_grad_(); share, times = c['alpha'], c['scale']
    terms = avde_loss(e, z, scale, 'released', share=share, text=text); total = terms['clip'] + terms['mse']; total.backward()
    one = lambda x: x.detach().reshape(1)
    close(one(both_questions(likeness(e, z, 'released')*scale)), t['output/clip_loss'], 1e-5, 'contrast'); close(one(terms['text']), t['output/text_clip_loss'], 1e-5, 'contrast with text')
    close(one(terms['clip']/(times*(1 - share))), t['output/clip_loss'], 1e-5, 'weight of the contrast'); close(one(terms['mse']/(times*share)), t['output/mse'], 1e-5, 'distance')
    close(one(total), t['output/combined_released'], 1e-5, 'sum'); close(e.grad, t['output/combined_released_grad_eeg'], 1e-5, 'gradient')
    close(scale.grad, t['output/combined_released_grad_logit_scale'], 1e-5, 'gradient of the temperature')

def check_paper(t, c):
    "Cosines over a temperature; the larger share is of the contrast; two questions added, or their mean."
    from brainrecon.alignment.avde_loss import avde_loss
    e, z, _, scale = inputs(t)
    for halved, how in ((None, 'sum'), (False, 'sum'), (True, 'mean')):
        terms = avde_loss(e, z, scale, share=c['alpha'], halved=halved)
        close((terms['clip']/c['alpha']).reshape(1), t[f'output/seed_clip_{how}'], 1e-5, how); close(sum(terms.values()).reshape(1), t[f'output/seed_combined_{how}'], 1e-5, f'{how}, both terms')

def check_schedules(t, c):
    "One value an iteration, float64."
    from brainrecon.core.rates import decay_share, fit_options, learning_rate
    v, l = c['sched_var'], c['sched_labram']; steps = lambda s: s['epochs']*s['iters_per_epoch']; assert v['sche'] == 'lin0'
    var = fit_options(lr=v['peak_lr'], schedule='lin0', warmup=round(v['warmup_iters']), start=v['wp0'], floor=v['wpe'], weight_decay=v['wd'], weight_decay_end=v['wd_end'])
    labram = fit_options(lr=l['base'], schedule='cosine', warmup=l['warmup_epochs']*l['iters_per_epoch'], start=l['start_warmup_value']/l['base'], floor=l['final']/l['base'])
    close([learning_rate(k, steps(v), var) for k in range(steps(v))], t['output/sched_var_lin0'], 1e-9*v['peak_lr'], 'lin0')
    close([v['wd']*decay_share(k, steps(v), var) for k in range(steps(v))], t['output/sched_var_wd'], 1e-9, 'weight decay')
    close([learning_rate(k, steps(l), labram) for k in range(steps(l))], t['output/sched_labram_cosine'], 1e-9*l['base'], 'cosine')

def check_layers(t, c):
    "The rate of each weight of LaBraM, as a share of the full one."
    from brainrecon.encoders.electrodes import labram_names
    from brainrecon.encoders.labram import LaBraM, layer_groups
    with torch.device('meta'): model = LaBraM(labram_names[:4], 200, 8, temperature=True)
    scale = {n: g['lr_scale'] for g in layer_groups(model, c['layer_decay']) for n in g['names']}
    close([scale[n] for n in c['layer_scale_names']], t['output/layer_scale'], 1e-9, 'layers')

def as_trials(x, side):
    "Epochs as trials, with session and condition in the table. Layout: session, condition, repetition, channel, time."
    from brainrecon.data.trials import Trials
    s, k, r, c, t = x.shape; at = [(i, j) for i in range(s) for j in range(k) for _ in range(r)]; names = [f'{side} {j}' for _, j in at]
    return Trials(x.reshape(-1, c, t), [f'ch{i}' for i in range(c)], dict(picture=names, concept=names, session=[i + 1 for i, _ in at]), 'eeg', 250.)

def check_whitening(t, c):
    "Multivariate noise normalisation, per session, by the training trials."
    from brainrecon.data.preproc import fit_whitener
    sides = {s: as_trials(t[f'input/mvnn_{s}'], s) for s in ('train', 'test')}
    for by in ('epochs', 'time'):
        whiten = fit_whitener(sides['train'], by)
        for s, trials in sides.items():
            want = t[f'output/mvnn_{by}_{s}']; close(whiten(trials).x.reshape(want.shape), want, 1e-6, f'{by} {s}')
