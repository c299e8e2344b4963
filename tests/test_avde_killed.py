"""Each training job of AVDE, killed with -9 in the middle and started again: the weights, the course and the scores of an undisturbed run, bit for bit.

The commands are those that a user types, with tiny sizes; nothing is replaced. Readers are cut in the control, tokenizers with words, the packaged parts in the generator, painters one after the other: what was whole before is read back, too.
"""
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
import psutil
import pytest
from safetensors.numpy import load_file

COMMAND = str(Path(sys.executable).with_name('brainrecon'))   # the command that a user types, of this environment

LABRAM = "['labram.patch=80','labram.width=80','labram.depth=2','labram.heads=4','labram.mlp_ratio=1','labram.drop_path=.3']"   # the last of two blocks is left out for three rows of ten, by chance

# job; values, in which {align} and {tokenizer} are the folders of undisturbed runs; folders of the trainings that are cut, and their names in the log; weights that the run leaves
JOBS = dict(
    align=('avde/01_align', f"kinds=['eeg'] encoders=['labram'] align_options={LABRAM} layer=pooled align_targets=scaled align_batch_size=32 align_steps=40 align_every=8 align_lr=.003 draws=100 device=cpu",
        [('readers/eeg-s01/labram-seed0-control', 'align seed 0')], ['readers/eeg-s01/labram-seed0.safetensors', 'readers/eeg-s01/labram-seed0-control.safetensors']),
    tokenizer=('avde/02_tokenizer', "vocab=32 z=8 ch=8 ch_mult=[1,1] norm_groups=4 patch_nums=[1,2,4] stem=4 plain=4 steps=80 lr=.003 batch_size=16 perceptual=.1 critic=.02 critic_from=10 every=10 measures=['pixcorr'] draws=100 device=cpu",
        [('training/words', 'tokenizer, words')], ['tokenizer.safetensors']),
    generate=('avde/03_generate', "aligned={align} tokenizer={tokenizer} painters=['var','diffusion'] depth=1 width=32 draw_batch_size=32 draw_steps=120 diffusion_batch_size=4 diffusion_steps=12 size=32 device=cpu",
        [('drawers/eeg-s01/labram-var-seed0/draw', 'draw seed 0'), ('drawers/eeg-s01/labram-diffusion-seed0/diffusion', 'diffusion')],
        [f'drawers/eeg-s01/labram-{p}-seed0{c}.safetensors' for c in ('', '-control') for p in ('var', 'diffusion')]),
    build=('build/03_avde', 'concepts=12 per_concept=4 plain=2 mixed=2 size=32 vocab=32 width=8 scales=[1,2,4] plain_steps=4 word_steps=8 batch_size=8 depth=1 d=32 heads=2 components=8 draw_steps=120',
        [('training/generator', 'generator')], ['packed/tokenizer.safetensors', 'packed/generator.safetensors', 'packed/scale.safetensors']))


def command(name, out, whole):
    "The line of a job, and where its output goes."
    job, values, *_ = JOBS[name]; values = [v.format_map(whole) if '{' in v else v for v in values.split()]
    return [COMMAND, 'run', job, '--out', str(out), *values]

def run(line):
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout

class Whole(dict):
    "Undisturbed runs by name, each made when it is first asked for."
    def __init__(self, at): self.at = at
    def __missing__(self, name): run(command(name, self.at/name, self)); self[name] = self.at/name; return self[name]

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return Whole(tmp_path_factory.mktemp('whole'))


def steps_at(training): return sorted(int(p.stem.removeprefix('step-')) for p in training.glob('step-*.json'))   # written after the checkpoint itself

def kill(process):
    "kill -9 of the command and of the notebook's process, which has a group of its own; the command first, so that it notes no error."
    kernels = psutil.Process(process.pid).children(recursive=True); os.killpg(process.pid, signal.SIGKILL); process.wait()
    for k in kernels: k.kill()
    _, left = psutil.wait_procs(kernels, timeout=20); assert kernels and all(k.status() == psutil.STATUS_ZOMBIE for k in left)

def cut(line, training):
    "Start a command and kill it as soon as this training has left a checkpoint."
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True); until = time.monotonic() + 600
    try:
        while not steps_at(training) and process.poll() is None and time.monotonic() < until: time.sleep(.005)
    finally:
        if process.poll() is None: kill(process)
        said = process.stdout.read(); process.stdout.close()
    assert process.returncode == -signal.SIGKILL and steps_at(training), f'killed before a checkpoint, or never: {said[-3000:]}'


@pytest.mark.parametrize('name', JOBS)
def test_killed_job_ends_as_if_it_had_not_been(name, whole, tmp_path):
    "The next start goes on from the checkpoint, and every array, every row of every course and every score is that of the undisturbed run."
    *_, cuts, weights = JOBS[name]; at, line = tmp_path/'cut', command(name, tmp_path/'cut', whole); read = lambda p: json.loads(p.read_text(encoding='utf-8'))
    one, reached = whole[name], []; last = [steps_at(one/training)[-1] for training, _ in cuts]
    for (training, _), end in zip(cuts, last):
        cut(line, at/training); reached.append(steps_at(at/training)[-1])
        assert 0 < reached[-1] < end and not (at/weights[-1]).exists() and not (at/'scores.json').exists() and read(at/'status.json')['state'] == 'running', 'killed too late: give it more steps'
    assert 'goes on in' in run(line) and [a['state'] for a in read(at/'status.json')['attempts']] == [*['running']*len(cuts), 'finished']
    logs = (at/'log.txt').read_text(encoding='utf-8').split('--- attempt ')[2:]; assert len(logs) == len(cuts)
    for n, log, (_, called), begun, end in zip(range(2, 9), logs, cuts, reached, last):
        went = re.search(rf'{called}  goes on from step (\d+)\n{called}  step +(\d+)/{end} ', log)
        assert f'attempt {n}: goes on' in log and went and int(went[1]) == begun < int(went[2]) <= begun + end/10, log[:2000]     # it speaks every twentieth of the way
    files = lambda folder, end: sorted(str(p.relative_to(folder)) for p in folder.rglob(end))
    both = files(one, '*.safetensors'); assert both == files(at, '*.safetensors') and set(weights) <= set(both)
    for f in both:
        a, b = load_file(one/f), load_file(at/f); assert a and a.keys() == b.keys(), f
        for k in a: assert a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes(), (f, k)
    courses = files(one, 'log.jsonl'); assert {f'{training}/log.jsonl' for training, _ in cuts} <= set(courses) and courses == files(at, 'log.jsonl')
    for f in courses: assert (one/f).read_text() == (at/f).read_text(), f
    assert read(one/'scores.json') == read(at/'scores.json') and read(one/'scores.json')['rows']
