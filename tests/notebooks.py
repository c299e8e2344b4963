"Which notebooks there are, and of what kind."
import json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'


def all_notebooks()->list:
    "Every notebook, in reading order."
    return sorted(p for p in NBS.rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in p.relative_to(NBS).parts))


def is_job(path:Path)->bool:
    "A notebook that is run as a whole with parameters: it lies in a folder below the folder of jobs."
    parts = path.relative_to(NBS).parts
    return len(parts) == 3 and parts[0].endswith('_jobs')


def is_silenced(path:Path)->bool:
    "A folder that holds a file `.notest` is not run cell by cell."
    return any((d/'.notest').exists() for d in path.parents if NBS in (d, *d.parents))


def name(path:Path)->str:
    "How a test calls a notebook."
    return path.relative_to(NBS).with_suffix('').as_posix()


def read(path:Path)->dict:
    "The notebook as a dictionary."
    return json.loads(path.read_text(encoding='utf-8'))


def joined(text)->str:
    "A notebook stores text as one string or as a list of lines."
    return ''.join(text) if isinstance(text, list) else text


def module_of(path:Path):
    "The module that a notebook exports, such as `core.checks`, or None."
    for cell in read(path)['cells']:
        m = re.search(r'(?m)^#\|\s*default_exp\s+(\S+)', joined(cell['source']))
        if m: return m[1]


def texts(out:dict):
    "The texts of an output; pictures are left out."
    if 'text' in out: yield joined(out['text'])
    for kind, data in out.get('data', {}).items():
        if not kind.startswith('image/') or kind == 'image/svg+xml': yield joined(data) if not isinstance(data, dict) else json.dumps(data)
