#!/usr/bin/env python
"""Build the site: nbdev prepares every notebook, smalldocs (or Quarto) draws the pages. Nothing is run; kept outputs are shown.

    python .ci/docs.py                        writes _docs/
    python .ci/docs.py --self-contained       also brings KaTeX and Mermaid into the site (needs npm)
    python .ci/docs.py --tool quarto          draws with Quarto instead, where it is installed
"""
import argparse, atexit, gc, html, json, os, re, shutil, subprocess, sys, tempfile, textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIP = shutil.ignore_patterns('.ipynb_checkpoints', '__pycache__', '_proc', '_docs', '_site', 'runs', '_quarto.yml', 'nbdev.yml', 'sidebar.yml')
MERMAID, KATEX = '11.4.1', '0.16.11'     # the versions that smalldocs names
CDN = 'https://cdn.jsdelivr.net/npm'


def copy_sources(
    work:Path,   # an empty folder
):
    "A copy of everything that the site is made from, so that a build writes nothing into the checkout."
    for name in ('nbs', 'brainrecon'): shutil.copytree(ROOT/name, work/name, ignore=SKIP)
    shutil.copy(ROOT/'settings.ini', work)
    shutil.copy(ROOT/'_quarto.yml', work/'nbs')   # nbdev looks for it only here


def prepare(
    work:Path,   # the copy
)->Path:         # the folder with notebooks ready to be drawn
    "What nbdev does before Quarto: links from names in back-ticks, tables of parameters, front matter."
    os.chdir(work); sys.path.insert(0, str(work)); os.environ['OMP_NUM_THREADS'] = '1'
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    import nbdev.doclinks
    own_entries()
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    for p in (work/'nbs').rglob('*.ipynb'): smooth(p)
    proc = proc_nbs(n_workers=0, force=True)
    base = site_address()
    for p in proc.rglob('*.ipynb'): p.write_text(json.dumps(tidy(json.loads(p.read_text(encoding='utf-8')), base), ensure_ascii=False), encoding='utf-8')
    return Path(proc)


def own_entries():
    "Draw the entry of a function or class our way: a short signature, its sentence, and a table of what goes in and out."
    import ast, inspect, fastcore.docments as docments, nbdev.showdoc as showdoc
    parses = docments._parses
    def careful(s):   # a method inherited from another library may have a source that cannot be parsed alone
        try: return parses(s)
        except SyntaxError: return ast.parse('')
    docments._parses = careful

    class Entry(showdoc.BasicMarkdownRenderer):
        "An entry of the reference."
        def __init__(self, sym, **kw):
            super().__init__(exported(sym), **kw)
            init = getattr(self.sym, '__init__', None)
            self.foreign = inspect.isclass(self.sym) and getattr(init, '__module__', None) not in (None, '__main__') and not init.__module__.startswith('brainrecon')
        def _repr_markdown_(self):
            from nbdev.doclinks import NbdevLookup
            src = NbdevLookup().code(self.fn)
            link = f'[source]({src}){{target="_blank" style="float:right; font-size:smaller"}}\n\n' if src else ''
            docs = f'{self.docs}\n\n' if self.docs else ''
            return f"---\n\n{link}{'#' * self.title_level} {self.nm}\n\n```python\n{self.signature()}\n```\n\n{docs}{self.table()}"
        def signature(self):
            name = self.nm.split('.')[-1] if '.' in self.nm else self.nm
            if inspect.isclass(self.sym) and (self.foreign or not self.dm.params):
                bases = [b.__name__ for b in self.sym.__bases__ if b is not object]
                return f'class {name}' + (f"({', '.join(bases)})" if bases else '')
            parts = [self.dm._fmt_param(k, dict(v, anno=inspect.Parameter.empty)) for k, v in self.dm.dm.items() if k != 'return']
            one = f"{name}({', '.join(parts)})"
            return one if len(one) <= 76 else f'{name}(\n' + textwrap.fill(', '.join(p.replace(' ', '\0') for p in parts), 76,
                initial_indent='    ', subsequent_indent='    ', break_long_words=False, break_on_hyphens=False).replace('\0', ' ') + '\n)'
        def entries(self):
            "What is known of parameters and result. fastcore takes the comment of a last `**options` for the result's; the source tells whose it is."
            known = {k: dict(v) for k, v in self.dm.dm.items()}
            last = next((k for k in reversed(known) if k != 'return'), None)
            if last is None or known[last].get('kind') != inspect.Parameter.VAR_KEYWORD: return known
            try: text = inspect.getsource(getattr(self.sym, '__init__', self.sym) if inspect.isclass(self.sym) else self.sym)
            except (OSError, TypeError): return known
            comment = re.search(rf'\*\*{last}\b[^#\n]*#\s*(.*)', text)
            result = re.search(r'(?m)^\s*\)\s*(->[^#\n]*)?:\s*#\s*(.*)', text)
            known[last]['docment'] = comment[1] if comment else None
            if 'return' in known: known['return']['docment'] = result[2] if result else None
            return known
        def table(self):
            rows = [] if self.foreign else [(k, v) for k, v in self.entries().items() if v.get('docment')]
            if not rows: return ''
            def safe(t): return str(t).replace('|', '\\|').replace('\n', ' ').strip()
            def kind(v):
                anno = v.get('anno', inspect.Parameter.empty)
                return '' if anno in (inspect.Parameter.empty, None) else f'`{safe(docments._maybe_nm(anno))}`'
            lines = [f"| {'*gives*' if k == 'return' else f'`{k}`'} | {kind(v)} | {safe(v['docment'])} |" for k, v in rows]
            return '| | type | meaning |\n|---|---|---|\n' + '\n'.join(lines) + '\n'

    showdoc.BasicMarkdownRenderer = Entry


def exported(sym):
    "For a data class made in a notebook's cell, the same one from the library, whose source can be read."
    import dataclasses, importlib, inspect
    if not (inspect.isclass(sym) and dataclasses.is_dataclass(sym) and sym.__module__ == '__main__'): return sym
    for path in sorted(Path('brainrecon').rglob('*.py')):
        if re.search(rf'(?m)^class {sym.__name__}\b', path.read_text(encoding='utf-8')):
            found = getattr(importlib.import_module('.'.join(path.with_suffix('').parts)), sym.__name__, sym)
            names = lambda c: [f.name for f in dataclasses.fields(c)] if dataclasses.is_dataclass(c) else None
            if names(found) == names(sym): return found      # two pages may each have a class of this name
    return sym


def smooth(
    path:Path,   # a notebook of the copy
):
    "Two habits of nbdev: it takes only title and quote from the first cell of prose, and it runs every cell that holds an import."
    nb = json.loads(path.read_text(encoding='utf-8'))
    first = next((i for i, c in enumerate(nb['cells']) if c['cell_type'] == 'markdown'), None)
    if first is not None:   # what follows the quote gets a cell of its own, so that it is not lost
        m = re.match(r'(# [^\n]*\n+(?:>[^\n]*(?:\n|$))*)\s*(.*)', ''.join(nb['cells'][first]['source']).strip(), re.S)
        if m and m[2]:
            nb['cells'][first]['source'] = m[1].strip()
            nb['cells'].insert(first + 1, dict(cell_type='markdown', metadata={}, source=m[2]))
    for cell in nb['cells']:   # test cells are not run: the pages show what was kept
        src = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or re.search(r'(?m)^#\|\s*(export|exports|exporti|exec_doc|eval:)|^show_doc', src): continue
        if re.search(r'(?m)^\s*(import|from)\s', src): cell['source'] = '#| eval: false\n' + src
    path.write_text(json.dumps(nb, ensure_ascii=False), encoding='utf-8')


def site_address()->str:  # where the published site lives
    "The address that nbdev writes into links to our own pages."
    from nbdev.config import get_config
    cfg = get_config()
    return cfg.doc_host.rstrip('/') + cfg.doc_baseurl.rstrip('/')


def tidy(
    nb:dict,    # a prepared notebook
    base:str,   # address of the published site
)->dict:
    "Mend what does not survive drawing: double underscores in headings, and absolute links to our own pages."
    for cell in nb['cells']:
        src = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            src = re.sub(r'(?m)^#{1,6} .*$', lambda m: re.sub(r'(?<![\\`\w])__(\w+?)__', r'\\_\\_\1\\_\\_', m[0]), src)
            src = src.replace(f']({base}/', '](/')
        if 'show_doc(' in src: cell['outputs'] = [o for o in cell.get('outputs', []) if o.get('output_type') != 'stream']   # warnings of parsing
        for out in cell.get('outputs', []):
            md = out.get('data', {}).get('text/markdown')
            if md is not None:
                md = re.sub(r'(?m)^#{1,6} .*$', lambda m: re.sub(r'(?<=\.)__(\w+?)__', r'\\_\\_\1\\_\\_', m[0]), ''.join(md))
                out['data']['text/markdown'] = md.replace(f']({base}/', '](/')
        cell['source'] = src
    return nb


def draw_smalldocs(
    proc:Path,   # prepared notebooks
    out:Path,    # where the site goes
)->list:         # complaints; a good site has none
    "Draw the pages. nbdev links to `checks.html` for `00_checks.ipynb`, so each page goes to the name in its front matter."
    from smalldocs.config import load
    from smalldocs.site import Site

    class Numbered(Site):
        "A site whose pages are written to the `output-file` that nbdev gave them."
        def read(self, src):
            page = super().read(src)
            if page.front.get('output-file'): page.out = src.with_name(page.front['output-file'])
            return page
        def find_page(self, target):
            return super().find_page(target) or next((p for p in self.pages.values() if p.out == target), None)

    site = Numbered(load(proc), quiet=True)
    site.out = proc/'_docs'
    site.build()
    shutil.rmtree(out, ignore_errors=True); shutil.copytree(site.out, out)
    harmless = ('output-file', 'format commonmark', 'code-fold', 'skip_exec', 'skip_showdoc')
    return [w for w in site.warnings if not any(h in w for h in harmless)]


def draw_quarto(
    proc:Path,   # prepared notebooks
    out:Path,    # where the site goes
)->list:
    "Draw the pages with Quarto."
    subprocess.run(['quarto', 'render', '--no-cache', '--to', 'html'], cwd=proc, check=True)
    shutil.rmtree(out, ignore_errors=True); shutil.copytree(proc/'_docs', out)
    return []


def describe_images(
    page:str,   # HTML of a page
)->str:
    "Give each picture a text: its caption if it has one, else the heading it stands under."
    title = re.search(r'<h1 class="title">(.*?)</h1>', page, re.S)
    heading = plain(title[1]) if title else 'this page'
    def one(m):
        nonlocal heading
        tag = m[0]
        if tag.startswith('<h'): heading = plain(m['head']) or heading; return tag
        alt = re.search(r'\balt="([^"]*)"', tag)
        if alt and alt[1]: return tag
        cap = re.match(r'\s*(?:</p>)?\s*<figcaption[^>]*>(.*?)</figcaption>', page[m.end():m.end()+2000], re.S)
        text = html.escape(plain(cap[1]) if cap else f'Figure under the heading: {heading}', quote=True)
        return tag.replace('alt=""', f'alt="{text}"') if alt else tag.replace('<img', f'<img alt="{text}"', 1)
    return re.sub(r'<h[1-6]\b[^>]*>(?P<head>.*?)</h[1-6]>|<img\b[^>]*>', one, page, flags=re.S)


def plain(
    text:str,   # HTML
)->str:         # words only
    "Text without its tags."
    return html.unescape(re.sub(r'\s+', ' ', re.sub(r'<[^>]+>', '', text))).strip().rstrip('#').strip()


SCROLL = """<script>addEventListener('load', () => { const look = () => document.querySelectorAll('pre, .sd-table, .cell-output').forEach(e => {
  if (e.scrollWidth > e.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(e).overflowX)) e.tabIndex = 0; else e.removeAttribute('tabindex') }); look(); setTimeout(look, 1500); addEventListener('resize', look) })</script>"""
WORDS = [   # what the drawn pages lack for those who read by keyboard or by ear: pattern, replacement
    (r'<nav class="navbar ', '<nav aria-label="Site" class="navbar '), (r'<nav class="quarto-secondary-nav"', '<nav aria-label="This page" class="quarto-secondary-nav"'),
    (r'<nav id="quarto-sidebar"', '<nav aria-label="All pages" id="quarto-sidebar"'), (r'<nav class="page-navigation"', '<nav aria-label="Before and after" class="page-navigation"'),
    (r'<div class="toc-actions">', '<div class="toc-actions" role="navigation" aria-label="About this page">'),
    (r'(data-bs-toggle="collapse" data-bs-target="(#quarto-sidebar-section-\d+)") role="navigation"', r'href="\2" \1 role="button"'),   # without an address the Tab key passes by
    (r'<i class="(bi bi-[\w-]+)" role="img"></i>', r'<i class="\1" aria-hidden="true"></i>'), (r'<th(\s[^>]*)?>\s*</th>', '<td></td>'), (r'</head>', lambda m: SCROLL + '</head>')]


def for_everybody(
    page:str,   # HTML of a page
)->str:
    "Names for its parts, addresses for what opens, no empty headings of tables, none of text that skip a level, and the keyboard where something scrolls."
    for old, new in WORDS: page = re.sub(old, new, page)
    last = 1
    def level(m):
        nonlocal last
        if m['end']: return f'</h{last}>'
        last = min(int(m['n']), last + 1); return f'<h{last}{m["rest"]}'
    head, main, rest = page.partition('<main')
    return head + main + re.sub(r'<(?P<end>/?)h(?P<n>[1-6])(?P<rest>\b[^>]*>)', level, rest)


def finish(
    out:Path,             # the drawn site
    self_contained:bool,  # bring KaTeX and Mermaid along
):
    "Texts for pictures, words for those who cannot see or point, no fonts from elsewhere, and, if wanted, no scripts from elsewhere."
    for css in out.rglob('*.css'):
        text = css.read_text(encoding='utf-8')
        mended = re.sub(r'@import\s+url\(["\']?https?://[^)]*\)\s*;?', '', text)
        if mended != text: css.write_text(mended, encoding='utf-8')
    if self_contained: fetch_scripts(out/'site_libs')
    for p in out.rglob('*.html'):
        page = for_everybody(describe_images(p.read_text(encoding='utf-8')))
        if self_contained:
            up = '../' * (len(p.relative_to(out).parts) - 1) + 'site_libs'
            page = re.sub(rf'{CDN}/katex@[\d.]+/dist', f'{up}/katex', page)
            page = re.sub(rf'{CDN}/mermaid@[\d.]+/dist', f'{up if up.startswith(".") else "./" + up}/mermaid', page)
        p.write_text(page, encoding='utf-8')
    (out/'.nojekyll').touch()


def fetch_scripts(
    libs:Path,   # the folder for scripts of the site
):
    "KaTeX and Mermaid from npm, kept in the cache folder between builds."
    cache = Path(os.environ.get('BRAINRECON_CACHE') or Path.home()/'.cache'/'brainrecon')/'site_scripts'
    for name, version, wanted in (('katex', KATEX, ['katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js', 'fonts']),
                                  ('mermaid', MERMAID, ['mermaid.esm.min.mjs', 'chunks/mermaid.esm.min'])):
        store = cache/f'{name}-{version}'
        if not (store/'package').is_dir():
            store.mkdir(parents=True, exist_ok=True)
            subprocess.run(['npm', 'pack', '--silent', f'{name}@{version}'], cwd=store, check=True, stdout=subprocess.DEVNULL, timeout=300)
            shutil.unpack_archive(next(store.glob('*.tgz')), store, filter='data')
        for part in wanted:
            src, dst = store/'package'/'dist'/part, libs/name/part
            dst.parent.mkdir(parents=True, exist_ok=True)
            if src.is_dir(): shutil.copytree(src, dst, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.map'))
            else: shutil.copy(src, dst)


def main(argv=None)->int:
    "Build the site and say where it is; 1 if anything about it is wrong."
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--out', default=str(ROOT/'_docs'), help='folder for the site')
    ap.add_argument('--tool', choices=['smalldocs', 'quarto'], default='smalldocs')
    ap.add_argument('--self-contained', action='store_true', help='bring KaTeX and Mermaid along (needs npm)')
    a = ap.parse_args(argv)
    gc.disable(); atexit.register(gc.unfreeze)     # see the end
    out = Path(a.out).resolve()
    if out.exists() and any(out.iterdir()) and not (out/'site_libs').is_dir():
        print(f'{out} holds something that is not a site; give another folder.', file=sys.stderr); return 1
    with tempfile.TemporaryDirectory(prefix='site-') as tmp:
        work = Path(tmp).resolve(); copy_sources(work)
        try: wrong = (draw_quarto if a.tool == 'quarto' else draw_smalldocs)(prepare(work), out)
        finally: os.chdir(ROOT)
    finish(out, a.self_contained)
    for w in wrong: print('wrong:', w, file=sys.stderr)
    print(f'{len(list(out.rglob("*.html")))} pages in {out}')
    gc.freeze()     # each page had a shell of its own, and each would tidy the whole memory when Python ends: a minute
    return 1 if wrong else 0


if __name__ == '__main__': sys.exit(main())
