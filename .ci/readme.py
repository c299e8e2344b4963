#!/usr/bin/env python
"""Make README.md from nbs/index.ipynb.

    python .ci/readme.py            writes README.md, and the notebook's pictures as nbs/images/index-N.png
    python .ci/readme.py --check    writes nothing; 1 if README.md or a picture is not what the notebook gives
"""
import base64, json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {'image/png': 'png', 'image/jpeg': 'jpg', 'image/webp': 'webp'}


def joined(text)->str:
    "A notebook stores text as one string or as a list of lines."
    return ''.join(text) if isinstance(text, list) else text


def relink(
    text:str,     # Markdown of the notebook
    base:str='nbs',  # folder of the notebook, seen from the README
)->str:
    "Links and pictures as seen from the top folder, and diagrams as code hosts draw them."
    def one(m): return m[0] if re.match(r'[a-z]+:|#|/', m[2]) else f'{m[1]}({base}/{m[2]})'
    parts = re.split(r'(```.*?```)', text, flags=re.S)   # code is left alone
    parts = [p if p.startswith('```') else re.sub(r'(\]\s*)\(([^)\s]+)\)', one, p) for p in parts]
    return ''.join(parts).replace('```{mermaid}', '```mermaid')


def convert(
    nb:dict,   # a notebook
)->tuple:      # (text of the README, file name -> bytes of its pictures)
    "The notebook as Markdown: prose, shown code, kept outputs."
    parts, pictures = [], {}
    for cell in nb['cells']:
        src = joined(cell['source']).strip()
        if cell['cell_type'] == 'markdown': parts.append(relink(src)); continue
        if cell['cell_type'] != 'code' or re.search(r'(?m)^#\|\s*(hide|default_exp|include:\s*false)\b', src): continue
        marks = dict(re.findall(r'(?m)^#\|\s*([\w-]+):\s*(.*)$', src))
        code = re.sub(r'(?m)^#\|.*\n?', '', src).strip()
        if code and marks.get('echo') != 'false': parts.append(f'```python\n{code}\n```')
        for out in cell.get('outputs', []):
            data = out.get('data', {}); kind = next((k for k in KINDS if k in data), None)
            if kind:
                name = f'index-{len(pictures)+1}.{KINDS[kind]}'
                pictures[name] = base64.b64decode(joined(data[kind]))
                caption = marks.get('fig-cap', '').strip('"\''); alt = marks.get('fig-alt', caption.partition(':')[0] or 'figure').strip('"\'')
                parts += [f'![{alt}](nbs/images/{name})', caption and f'*{caption}*']
            elif 'text/markdown' in data: parts.append(relink(joined(data['text/markdown']).strip()))
            elif out.get('output_type') == 'stream': parts.append(f'```text\n{joined(out["text"]).rstrip()}\n```')
            elif 'text/plain' in data: parts.append(f'```text\n{joined(data["text/plain"]).rstrip()}\n```')
    head = '<!-- Made from nbs/index.ipynb by .ci/readme.py; edit the notebook. -->\n\n'
    return head + '\n\n'.join(p for p in parts if p) + '\n', pictures


def main(argv=None)->int:
    "Write the README, or say whether it is up to date."
    text, pictures = convert(json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8')))
    want = {ROOT/'README.md': text.encode(), **{ROOT/'nbs'/'images'/n: b for n, b in pictures.items()}}
    stale = [p for p, b in want.items() if not p.exists() or p.read_bytes() != b]
    stale += [p for p in (ROOT/'nbs'/'images').glob('index-*') if p not in want]
    if '--check' in (sys.argv[1:] if argv is None else argv):
        for p in stale: print(f'{p.relative_to(ROOT)} is not what nbs/index.ipynb gives; run: python .ci/readme.py')
        return 1 if stale else 0
    for p in stale:
        if p in want: p.parent.mkdir(exist_ok=True); p.write_bytes(want[p])
        else: p.unlink()
    print(f'{len(stale)} files written' if stale else 'README.md is up to date')
    return 0


if __name__ == '__main__': sys.exit(main())
