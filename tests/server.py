"""A web server on this machine that does what servers on the network do on a bad day.

`with Server() as site: site.put('f.bin', body, acts=[cut(1000), busy(503)])` serves `site.url('f.bin')`. Each request of a file uses up one of its acts;
when they are gone the file is served well. `site.log` holds what was asked and what was sent.
"""
import json, socket, threading, time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
import pytest


@dataclass
class Act:
    "How one request goes wrong; what is None goes right."
    status: int = None       # answered instead of the file
    headers: dict = field(default_factory=dict)  # sent along, or instead of the right ones; None leaves one out
    cut: int = None          # bytes of the body after which the connection ends
    reset: bool = False      # ends it rudely
    length: int = None       # claimed instead of the true one
    body: bytes = None       # sent instead of the file
    then: tuple = None       # (body, etag) that the file has from now on
    slow: float = 0.         # seconds between pieces
    piece: int = 2**16       # bytes of a piece
    ranges: object = None    # True: supports them, False: refuses them
    blind: bool = False      # goes on with a range although the file has changed
    chunked: bool = False    # sends without a length, in marked pieces

def cut(at, **how): return Act(cut=at, **how)
def busy(status=503, retry_after=None, **how): return Act(status=status, headers={} if retry_after is None else {'Retry-After': str(retry_after)}, body=b'busy', **how)
def lie(by, n, **how): return Act(length=n+by, **how)
def to(url, status=302): return Act(status=status, headers={'Location': url}, body=b'')
def page(text=b'<!DOCTYPE html><html><body>Please sign in</body></html>', kind='text/html', **how): return Act(body=text, headers={'Content-Type': kind}, **how)


@dataclass
class Served:
    "A file of the server."
    body: bytes
    etag: str = '"one"'
    modified: str = ''
    ranges: bool = True
    acts: list = field(default_factory=list)
    always: Act = None       # done when the acts are used up


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *words): pass

    def do_GET(self):
        self.server.log.append(dict(path=self.path, headers=dict(self.headers.items()), sent=0, status=None)); note = self.server.log[-1]
        path = urlsplit(self.path).path.lstrip('/')
        if path in self.server.answers: return self.plain(note, *self.server.answers[path](parse_qs(urlsplit(self.path).query)))
        if path not in self.server.files: return self.plain(note, 404, b'no such file', {})
        f = self.server.files[path]
        with self.server.guard: act = f.acts.pop(0) if f.acts else f.always or Act()
        if act.then: f.body, f.etag = act.then
        body, start = (f.body if act.body is None else act.body), 0
        status, headers = 200, {'Content-Type': 'application/octet-stream'}
        if f.etag: headers['ETag'] = f.etag
        if f.modified: headers['Last-Modified'] = f.modified
        asked, mark = self.headers.get('Range'), self.headers.get('If-Range')
        if asked and (f.ranges if act.ranges is None else act.ranges) and (act.blind or mark in (None, f.etag, f.modified)) and act.status is None and act.body is None:
            start = int(asked.removeprefix('bytes=').rstrip('-'))
            if start >= len(body): return self.plain(note, 416, b'', {'Content-Range': f'bytes */{len(body)}'})
            status, headers['Content-Range'] = 206, f'bytes {start}-{len(body)-1}/{len(body)}'
        status = act.status or status; data = body[start:]
        if act.chunked: headers['Transfer-Encoding'] = 'chunked'
        else: headers['Content-Length'] = str(len(data) if act.length is None else act.length-start)
        headers |= act.headers
        note['status'] = status; self.send_response(status)
        for k, v in headers.items():
            if v is not None: self.send_header(k, v)
        if headers.get('Content-Length') is None and not act.chunked: self.close_connection = True
        self.end_headers(); self.pieces(note, data if act.cut is None else data[:max(0, act.cut-start)], act)
        if act.cut is not None or act.length is not None: self.close_connection = True
        if act.reset: self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0'); self.close_connection = True

    def pieces(self, note, data, act):
        for i in range(0, len(data), act.piece):
            part = data[i:i+act.piece]
            try: self.wfile.write(b'%x\r\n%s\r\n' % (len(part), part) if act.chunked else part); self.wfile.flush()
            except OSError: return      # the reader has left
            note['sent'] += len(part)
            if act.slow: time.sleep(act.slow)
        if act.chunked and act.cut is None: self.wfile.write(b'0\r\n\r\n')

    def plain(self, note, status, data, headers):
        note['status'] = status; self.send_response(status); self.send_header('Content-Length', str(len(data)))
        for k, v in headers.items(): self.send_header(k, v)
        self.end_headers(); self.wfile.write(data); note['sent'] = len(data)


class Server(ThreadingHTTPServer):
    "The server; close it, or use it in a `with`."
    daemon_threads = True
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler); self.files, self.answers, self.log, self.guard = {}, {}, [], threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()
    def handle_error(self, *words): pass
    def __exit__(self, *words): self.shutdown(); self.server_close()
    base = property(lambda self: f'http://127.0.0.1:{self.server_port}')
    def url(self, path): return f'{self.base}/{path}'
    def put(self, path, body, **how): self.files[path] = Served(body, **how); return self.url(path)
    def answer(self, path, f): self.answers[path] = f        # f(query) gives (status, bytes, headers)
    def asked(self, path): return [n for n in self.log if urlsplit(n['path']).path.lstrip('/') == path]

    # What the sources of the registry answer, from {name: bytes} of theirs.
    def hub(self, repo, files, kind='datasets', large=(), page=1000):
        "The tree of a repository on the hub, in pages, and its files."
        import hashlib
        rows = [dict(type='directory', path='folder', oid='0'*40, size=0)]
        for name, body in files.items():
            git = hashlib.sha1(b'blob %d\0' % len(body) + body).hexdigest(); row = dict(type='file', path=name, size=len(body), oid=git)
            if name in large: row |= dict(oid='f'*40, lfs=dict(oid=hashlib.sha256(body).hexdigest(), size=len(body), pointerSize=130))
            rows.append(row); self.put(('datasets/' if kind == 'datasets' else '')+f'{repo}/resolve/main/{name}', body)
        def tree(under=''):
            mine = [r for r in rows if not under or r['path'].startswith(under+'/')]
            def reply(query):
                at = int(query.get('cursor', ['0'])[0]); here = self.url(f'api/{kind}/{repo}/tree/main' + (f'/{under}' if under else ''))
                return 200, json.dumps(mine[at:at+page]).encode(), {'Link': f'<{here}?recursive=true&cursor={at+page}>; rel="next"'} if at+page < len(mine) else {}
            return reply
        for under in {'', *(n.rpartition('/')[0] for n in files), *(n.partition('/')[0] for n in files if '/' in n)}: self.answer(f'api/{kind}/{repo}/tree/main' + (f'/{under}' if under else ''), tree(under))

    def osf(self, node, files):
        "A node of the Open Science Framework, with folders, two entries a page."
        import hashlib
        def entries(folder):
            out, seen = [], set()
            for name, body in files.items():
                if not name.startswith(folder): continue
                rest = name[len(folder):]; first = rest.split('/')[0]
                if '/' in rest:
                    if first not in seen: out.append(dict(attributes=dict(kind='folder', name=first), relationships=dict(files=dict(links=dict(related=dict(href=self.url(f'osf/{node}/{folder}{first}/'))))))); self.answer(f'osf/{node}/{folder}{first}/', lambda q, at=f'{folder}{first}/': reply(at, q))
                    seen.add(first); continue
                hashes = dict(md5=hashlib.md5(body).hexdigest(), sha256=hashlib.sha256(body).hexdigest())
                out.append(dict(attributes=dict(kind='file', name=first, size=len(body), materialized_path='/'+name, extra=dict(hashes=hashes)), links=dict(download=self.put(f'osf-files/{node}/{name}', body))))
            return out
        def reply(folder, query):
            at = int(query.get('page', ['1'])[0]); rows = entries(folder); here = f'osf/{node}/{folder}' if folder else f'v2/nodes/{node}/files/osfstorage/'
            return 200, json.dumps(dict(data=rows[2*at-2:2*at], links=dict(next=self.url(f'{here}?page={at+1}') if len(rows) > 2*at else None))).encode(), {}
        self.answer(f'v2/nodes/{node}/files/osfstorage/', lambda q: reply('', q))

    def s3(self, bucket, files, page=2):
        "A bucket, in pages."
        import hashlib
        from xml.sax.saxutils import escape
        def reply(query):
            prefix, at = query.get('prefix', [''])[0], int(query.get('continuation-token', ['0'])[0]); names = sorted(n for n in files if n.startswith(prefix))
            rows = ''.join(f'<Contents><Key>{escape(n)}</Key><ETag>&quot;{hashlib.md5(files[n]).hexdigest()}{"-3" if n.endswith(".many") else ""}&quot;</ETag><Size>{len(files[n])}</Size></Contents>' for n in names[at:at+page])
            more = f'<IsTruncated>true</IsTruncated><NextContinuationToken>{at+page}</NextContinuationToken>' if at+page < len(names) else '<IsTruncated>false</IsTruncated>'
            return 200, f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name>{rows}{more}</ListBucketResult>'.encode(), {}
        self.answer(bucket, reply)
        for n, body in files.items(): self.put(f'{bucket}/{n}', body, etag=f'"{hashlib.md5(body).hexdigest()}"')

    def figshare(self, article, files):
        "An article with files."
        import hashlib
        rows = [dict(id=i, name=n, size=len(b), computed_md5=hashlib.md5(b).hexdigest(), download_url=self.put(f'ndownloader/files/{i}', b)) for i, (n, b) in enumerate(files.items(), 100)]
        self.answer(f'v2/articles/{article}/files', lambda q: (200, json.dumps(rows if q.get('page', ['1'])[0] == '1' else []).encode(), {}))


@pytest.fixture
def site(monkeypatch):
    "A server of its own for each test, reached without a proxy."
    monkeypatch.setenv('no_proxy', '127.0.0.1'); monkeypatch.delenv('BRAINRECON_OFFLINE', raising=False); monkeypatch.delenv('HF_TOKEN', raising=False); monkeypatch.delenv('HF_ENDPOINT', raising=False)
    with Server() as s: yield s
