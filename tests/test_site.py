"The site: every notebook has a page that is drawn whole, no link is broken, it looks right in a browser, wide and narrow, light and dark, and can be read by ear and by keyboard."
import functools, http.server, importlib.util, os, re, shutil, subprocess, sys, threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
import pytest
from browser import find_browser
from notebooks import NBS, ROOT, all_notebooks, joined, module_of, name, read

PAGES = all_notebooks()


class Page(HTMLParser):
    "Links, anchors, pictures and words of a page."
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.links, self.ids, self.mute, self.words, self.title, self.inside, self.skip = [], set(), [], [], '', '', 0
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.links += [(k, a[k]) for k in ('href', 'src') if a.get(k)]
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k) and not (k == 'name' and tag == 'meta')}
        if tag == 'img' and not (a.get('alt') or '').strip(): self.mute.append((a.get('src') or '')[:60])
        if tag == 'title': self.inside = 'title'
        if tag in ('script', 'style', 'pre', 'code'): self.skip += 1
    def handle_endtag(self, tag):
        if tag == 'title': self.inside = ''
        if tag in ('script', 'style', 'pre', 'code'): self.skip -= 1
    def handle_data(self, data):
        if self.inside == 'title': self.title += data
        elif not self.skip: self.words.append(data)


def build(out:Path, *options):
    "Run the command that a person runs."
    return subprocess.run([sys.executable, str(ROOT/'.ci'/'docs.py'), '--out', str(out), *options], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The built site, what the build said, and whether it brought KaTeX and Mermaid along."
    pytest.importorskip('smalldocs', reason='smalldocs is not installed: pip install -e ".[docs]"')
    out = tmp_path_factory.mktemp('site')/'site'
    res, whole = None, bool(shutil.which('npm'))
    if whole:
        try: res = build(out, '--self-contained')
        except subprocess.TimeoutExpired: pass
        whole = res is not None and (out/'site_libs'/'mermaid').is_dir()
    if not whole: res = build(out)
    return out, res, whole


@pytest.fixture(scope='session')
def pages(site): return {p.relative_to(site[0]).as_posix(): Page(p.read_text(encoding='utf-8')) for p in sorted(site[0].rglob('*.html'))}


def page_of(path:Path)->str:
    "Where nbdev says that a notebook's page is: numbers of files go, numbers of folders stay."
    return path.relative_to(NBS).with_name(re.sub(r'^\d+[a-z]?_', '', path.stem) + '.html').as_posix()


def test_builds(site):
    "The command ends well; each thing that is wrong is in its output."
    assert site[1].returncode == 0, site[1].stdout[-6000:]


@pytest.mark.parametrize('path', PAGES, ids=map(name, PAGES))
def test_page_is_whole(site, pages, path):
    "A title, all the prose, the kept pictures, the entries of what is exported, and no directive shown as text."
    rel = page_of(path)
    assert rel in pages, f'{name(path)} has no page {rel}; there are: {sorted(pages)}'
    page, raw = pages[rel], (site[0]/rel).read_text(encoding='utf-8')
    words = ' '.join(' '.join(page.words).split())
    assert page.title.strip() and '<h1 class="title">' in raw
    left = re.findall(r'(?m)^\s*#\||\{mermaid\}|show_doc\(|\{\{&lt;|:::|\]\([^)]*\.ipynb\)', re.sub(r'(?s)<head>.*?</head>', '', raw))
    assert not left, f'{rel} shows what should have been drawn: {left[:5]}'
    cells = read(path)['cells']
    for c in cells:
        if c['cell_type'] == 'markdown':
            for head in re.findall(r'(?m)^## +([\w ,:]+?) *$', re.sub(r'(?s)```.*?```', '', joined(c['source']))): assert head in words, f'{rel} lost the heading {head!r}'
    def hidden(c): return re.search(r'(?m)^#\|\s*(hide\b|output:\s*false|include:\s*false)', joined(c['source']))
    kept = sum(k.startswith('image/') for c in cells if not hidden(c) for o in c.get('outputs', []) for k in list(o.get('data', {}))[:1])
    assert raw.count('data:image/') >= kept, f'{rel} shows fewer pictures than the notebook keeps'


def test_prose_of_the_first_cell_is_kept(site, pages):
    "nbdev keeps only title and quote of the first prose; the rest must not be lost."
    for p in PAGES:
        first = next((joined(c['source']) for c in read(p)['cells'] if c['cell_type'] == 'markdown'), '')
        rest = re.sub(r'^# .*\n+(>.*\n?)*', '', first).strip()
        sentence = re.match(r'[A-Za-z ,]{20,60}', rest)
        if sentence: assert sentence[0].strip() in ' '.join(' '.join(pages[page_of(p)].words).split()), f'{page_of(p)} lost {sentence[0]!r}'


def test_every_page_is_reached(site, pages):
    "The sidebar, written by hand, leads to every page."
    start = pages['index.html']
    reached = {unquote(urlsplit(h).path).removeprefix('./') for _, h in start.links if not urlsplit(h).scheme}
    lost = sorted(page_of(p) for p in PAGES if page_of(p) not in reached)
    assert not lost, f'no entry of the sidebar in _quarto.yml leads to {lost}'


def test_no_broken_link(site, pages):
    "Every link inside the site leads to a file that exists, and every anchor to a place on that page."
    out, bad = site[0], set()
    for rel, page in pages.items():
        for kind, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith('data:') or link in ('#', ''): continue
            target = (out/rel).parent/unquote(parts.path) if parts.path and not parts.path.startswith('/') else out/unquote(parts.path).lstrip('/') if parts.path else out/rel
            if target.is_dir(): target = target/'index.html'
            if not target.resolve().exists(): bad.add(f'{rel}: {link}'); continue
            there = target.resolve().relative_to(out.resolve()).as_posix()
            if parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].ids: bad.add(f'{rel}: {link} (no such place on the page)')
    assert not bad, '\n'.join(sorted(bad))


def test_links_to_our_own_pages_are_relative(pages):
    "A page on this computer must not lead to the published site."
    bad = sorted({f'{rel}: {link}' for rel, p in pages.items() for _, link in p.links if '.github.io/brainrecon' in link})
    assert not bad, '\n'.join(bad)


def test_pictures_have_a_text(pages):
    "Every picture has words for those who cannot see it."
    bad = [f'{rel}: {src}' for rel, p in pages.items() for src in p.mute]
    assert not bad, '\n'.join(bad)


def test_pages_name_no_machine(site):
    "No path of the computer that built the site."
    bad = [p.name for p in site[0].rglob('*.html') if re.search(r'/home/\w+/|/root/|/Users/\w+/|' + re.escape(str(ROOT)), re.sub(r'data:image/[^"]*', '', p.read_text(encoding='utf-8')))]
    assert not bad, bad


# In a browser

@pytest.fixture(scope='session')
def address(site):
    "The site, served to this machine alone."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'   # one connection for many files
        def log_message(self, *args): pass
        def end_headers(self): self.send_header('Cache-Control', 'max-age=600'); super().end_headers()   # scripts and fonts are the same on all pages
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


LOOK = '''() => ({
  over: document.documentElement.scrollWidth - window.innerWidth,
  maths: document.querySelectorAll('.math').length, drawn_maths: document.querySelectorAll('.math .katex').length,
  diagrams: document.querySelectorAll('pre.mermaid').length, drawn_diagrams: document.querySelectorAll('pre.mermaid svg').length,
  failed: [...document.querySelectorAll('pre.mermaid svg')].filter(s => /Syntax error/.test(s.textContent)).length + document.querySelectorAll('.katex-error').length,
  broken: [...document.images].filter(i => i.complete && !i.naturalWidth).length,
  dark: document.documentElement.classList.contains('quarto-dark'),
  paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color })'''


def brightness(colour:str)->float:
    "Mean of red, green and blue of `rgb(r, g, b)`."
    return sum(map(float, re.findall(r'[\d.]+', colour)[:3])) / 3


@pytest.mark.parametrize('mode', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 390])
def test_in_a_browser(site, pages, chrome, address, width, mode):
    "No page is wider than its window; maths and diagrams are drawn; dark is dark; nothing is asked of the network."
    whole, bad, outside = site[2], [], []
    context = chrome.new_context(viewport=dict(width=width, height=844), color_scheme=mode)
    tab = context.new_page()
    tab.on('request', lambda r: None if r.url.startswith((address, 'data:')) else outside.append(r.url))   # none gets out: the browser finds no name (conftest.py)
    tab.on('pageerror', lambda e: bad.append(f'{tab.url}: {e}') if whole else None)
    every = [r for r in pages if r != '404.html']
    for rel in every[::6 if mode == 'dark' else 4 if width > 1000 else 1]:   # all pages share the colours; what fits a phone fits a desk
        tab.goto(address + rel, wait_until='load', timeout=120_000)
        if whole and 'class="mermaid' in (site[0]/rel).read_text(encoding='utf-8'):
            try: tab.wait_for_selector('pre.mermaid svg', timeout=10_000)
            except Exception: pass
        seen = tab.evaluate(LOOK)
        if seen['over'] > 0: bad.append(f'{rel} is {seen["over"]} points wider than a window of {width}')
        if seen['broken']: bad.append(f'{rel}: {seen["broken"]} pictures are not drawn')
        if whole and (seen['drawn_maths'] < seen['maths'] or seen['drawn_diagrams'] < seen['diagrams'] or seen['failed']):
            bad.append(f'{rel}: maths {seen["drawn_maths"]} of {seen["maths"]}, diagrams {seen["drawn_diagrams"]} of {seen["diagrams"]}, {seen["failed"]} failed')
        if seen['dark'] != (mode == 'dark') or (brightness(seen['paper']) < brightness(seen['ink'])) != (mode == 'dark'): bad.append(f'{rel} is not {mode}')
    context.close()
    assert not bad, '\n'.join(bad)
    assert not (whole and outside), f'asked of the network: {sorted(set(outside))}'


# For everybody

SOME = ('index.html', 'results.html', 'glossary.html', 'limits.html', '06_decoders/avde.html', '08_jobs/results.html', '08_jobs/demo/demo.html', '09_tutorials/your_eeg.html', '10_explore/scales.html')   # one of each sort

def test_pages_say_what_they_are(site):
    "A language, one title, headings that skip no level, and nothing that opens by the mouse alone."
    bad = []
    for p in sorted(site[0].rglob('*.html')):
        text = re.sub(r'(?s)<script.*?</script>|<pre.*?</pre>', '', p.read_text(encoding='utf-8')); rel = p.relative_to(site[0]).as_posix(); levels = [1] + [int(n) for n in re.findall(r'<h([1-6])\b', text.partition('<main')[2])]
        if '<html lang="en"' not in text or text.count('<h1') != 1: bad.append(f'{rel}: language, or {text.count("<h1")} titles')
        if any(b > a + 1 for a, b in zip(levels, levels[1:])): bad.append(f'{rel}: headings {levels}')
        if re.search(r'<a(?![^>]*\bhref=)[^>]*data-bs-toggle', text): bad.append(f'{rel}: a part opens by the mouse alone')
    assert not bad, '\n'.join(bad)


@pytest.mark.parametrize('mode', ['light', 'dark'])
def test_pages_are_for_everybody(site, pages, chrome, address, mode):
    "axe-core finds nothing: contrast, names of parts, keyboard, tables, headings. BRAINRECON_A11Y=all looks at every page."
    found = importlib.util.find_spec('axe_playwright_python')
    if found is None: pytest.skip('axe-playwright-python is not installed: pip install -e ".[dev]"')
    axe = (Path(found.origin).parent/'axe.min.js').read_text(encoding='utf-8'); context = chrome.new_context(viewport=dict(width=1280, height=844), color_scheme=mode); tab = context.new_page(); bad = []
    for rel in pages if os.environ.get('BRAINRECON_A11Y') == 'all' else SOME:
        tab.goto(address + rel, wait_until='load', timeout=120_000); tab.evaluate(axe)
        for v in tab.evaluate("() => axe.run(document, {resultTypes: ['violations']})")['violations']: bad += [f'{rel}: {v["help"]}: {n["html"][:160]}' for n in v['nodes'][:3]]
    context.close(); assert not bad, '\n'.join(bad)


def test_a_reader_without_a_mouse_opens_a_chapter(site, chrome, address):
    "Tab reaches the heading of a chapter in the sidebar, and Enter opens it."
    context = chrome.new_context(viewport=dict(width=1280, height=844)); tab = context.new_page(); tab.goto(address + 'glossary.html', wait_until='load'); part = tab.locator('#quarto-sidebar-section-1'); assert not part.is_visible()
    toggle = tab.locator('a[data-bs-target="#quarto-sidebar-section-1"]').first; toggle.focus(); tab.keyboard.press('Enter'); part.locator('a').first.wait_for(state='visible'); assert tab.evaluate('document.activeElement.getAttribute("aria-expanded")') == 'true'
    context.close()
