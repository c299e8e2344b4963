"""What each extra is for, as a few lines that need it and no other; run with names of extras, it tells what works where only these are installed.

    python tests/extra_cases.py              # nothing but the requirements: each extra is asked for by its name
    python tests/extra_cases.py meeg fmri    # these two work, the others are asked for
"""
import json, os, subprocess, sys, tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

def core(tmp):
    "The embedded pictures, and the packaged tokenizer of AVDE that takes them apart and puts them together."
    import torch
    from brainrecon.data.pictures import load_pictures
    from brainrecon.decoders.avde import packaged_avde
    img = load_pictures('test').img[:4]; vqvae, var, scale, card = packaged_avde()
    x = torch.nn.functional.interpolate(torch.as_tensor(img).permute(0, 3, 1, 2)/127.5 - 1, size=vqvae.size if hasattr(vqvae, 'size') else img.shape[1])
    back = vqvae(x); assert torch.isfinite(back[0] if isinstance(back, tuple) else back).all() and len(card['concepts']) > 100

def meeg(tmp):
    "A simulated EEG written as BIDS, read again, and its sensors drawn."
    from brainrecon.core.show import show_topomap
    from brainrecon.data.pictures import load_pictures
    from brainrecon.data.recordings import from_bids
    from brainrecon.data.recordings_tree import write_bids
    trials = from_bids(write_bids(tmp/'bids', load_pictures('test')[:6]), 1); assert len(trials) > 8 and trials.kind == 'eeg'
    show_topomap(trials.x[0, :, :1].T, trials.names)

def fmri(tmp):
    "A simulated fMRI written as NIfTI with events, read again with a model for each trial; and a small NSD with betas in HDF5."
    from brainrecon.data.nsd import load_nsd
    from brainrecon.data.nsd_tree import write_nsd
    from brainrecon.data.pictures import load_pictures
    from brainrecon.data.recordings_fmri import from_nifti
    from brainrecon.data.recordings_tree import write_events
    place = write_events(tmp/'bids', load_pictures('test')[:6], runs=2)/'sub-01'/'func'; runs, events = (sorted(place.glob(f'*{w}')) for w in ('_bold.nii.gz', '_events.tsv'))
    assert len(from_nifti(runs, place/'sub-01_mask.nii.gz', events)) == 12
    assert len(load_nsd(write_nsd(tmp/'nsd', sessions=1, trials=30, shared=3, raw='hdf5', stimuli=(), captions=()), 1, 'train')) > 1

def pictures(tmp):
    "Four pictures as vectors of the default encoder."
    from brainrecon.data.pictures import load_pictures
    from brainrecon.encoders.vision import load_encoder
    assert load_encoder('lite0')(load_pictures('test')[:4], 'pooled')['pooled'].shape == (4, 1280)

def vision(tmp):
    "CLIP is known; its weights are asked for."
    from brainrecon.core.checks import MissingWeights
    from brainrecon.encoders.vision import find_clip
    os.environ.update(HF_HOME=str(tmp/'hub'), BRAINRECON_DATA=str(tmp/'data'))
    try: find_clip('ViT-B-32', 'laion2b_s34b_b79k')
    except MissingWeights as e: assert 'brainrecon data fetch clip-vit-b32' in str(e)

def diffusion(tmp):
    "The packaged Fusion Prior with its autoencoder."
    from brainrecon.decoders.fusion_drawer import packaged_fusion
    assert packaged_fusion()

def prompt(tmp):
    "What two small text encoders of random weights make of no words."
    from brainrecon.core.checks import need
    from brainrecon.priors.fusion_prior import encode_empty_prompt
    words = need('transformers', 'prompt'); vocab = {c: i for i, c in enumerate(['!', 'a</w>', '<|startoftext|>', '<|endoftext|>'])}
    for end, pad, kind in (('', '<|endoftext|>', words.CLIPTextModel), ('_2', '!', words.CLIPTextModelWithProjection)):
        at = tmp/f'tokenizer{end}'; at.mkdir(); (at/'vocab.json').write_text(json.dumps(vocab)); (at/'merges.txt').write_text('#version: 0.2\n')
        (at/'tokenizer_config.json').write_text(json.dumps(dict(model_max_length=77, pad_token=pad, tokenizer_class='CLIPTokenizer', bos_token='<|startoftext|>', eos_token='<|endoftext|>', unk_token='<|endoftext|>')))
        kind(words.CLIPTextConfig(vocab_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, projection_dim=24, bos_token_id=2, eos_token_id=3, pad_token_id=1)).save_pretrained(tmp/f'text_encoder{end}')
    assert encode_empty_prompt(tmp, tmp/'e.safetensors').is_file()

def jobs(tmp):
    "A short job from notebook to report."
    from brainrecon.jobs.run import run_job
    with redirect_stdout(StringIO()): run_job('check/03_short', out=str(tmp/'run'), value=3)
    assert (tmp/'run'/'report.html').is_file() and (tmp/'run'/'scores.json').is_file()

def viz(tmp):
    "A slider."
    from brainrecon.core.checks import need
    assert need('ipywidgets', 'viz').IntSlider(3).value == 3

def slurm(tmp):
    "A command handed in on this machine, and its answer."
    from brainrecon.jobs.cluster import submit
    os.environ['BRAINRECON_RUNS'] = str(tmp/'runs')
    (job,) = submit([[sys.executable, '-c', 'pass']], local=True); job.result()

cases = {f.__name__: f for f in (core, meeg, fmri, pictures, vision, diffusion, prompt, jobs, viz, slurm)}

def outcome(name:str)->str:
    "`works`, or the extra that was asked for, or the error."
    from brainrecon.core.checks import MissingExtra
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        try: cases[name](Path(tmp)); return 'works'
        except MissingExtra as e: return f'asks for {name}' if f'[{name}]"' in str(e) and len(str(e).splitlines()) <= 2 else f'asks, but not for {name}: {e}'
        except Exception as e: return f'{type(e).__name__}: {e}'

def main(here:list)->int:
    "What works in a process each, what asks in one for all; 1 if a case does not end as it should."
    odd, works = 0, ['core', *here]; asks = [n for n in cases if n not in works]
    for names in (*([n] for n in works), asks):
        done = subprocess.run([sys.executable, '-P', __file__, '--tell', *names], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = dict(l.split('\t', 1) for l in done.stdout.splitlines() if '\t' in l)
        for name in names:
            want = 'works' if name in works else f'asks for {name}'; got = said.get(name) or (done.stderr.strip().splitlines() or ['nothing was said'])[-1]; odd += got != want
            print(f'{name:10} {got}' + f'   (should be: {want})'*(got != want), flush=True)
    return int(odd > 0)

if __name__ == '__main__':
    if sys.argv[1:2] != ['--tell']: sys.exit(main(sys.argv[1:]))
    for name in sys.argv[2:]: print(name, outcome(name), sep='\t', flush=True)
