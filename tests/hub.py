"""A hub on this machine: the parts of the Hugging Face Hub's interface that sharing a decoder uses, so that huggingface_hub itself can be tried against it.

`with Hub() as hub:` listens at `hub.base` (say so in HF_ENDPOINT). `hub.repos` holds what was pushed, commit by commit; `hub.log` what was asked. Binary files
go by Git LFS (basic transfer), as with HF_HUB_DISABLE_XET=1; Xet, which huggingface_hub prefers where both sides speak it, is not spoken here.
"""
import base64, hashlib, json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = 'hf_of_nobody'


class Repo:
    "Commits of one repository: their names, and the files after each."
    def __init__(self, private): self.private, self.commits = private, [('0'*40, {})]
    def commit(self, files): body = {**self.commits[-1][1], **files}; self.commits.append((hashlib.sha1(repr((len(self.commits), sorted((k, len(v)) for k, v in body.items()))).encode()).hexdigest(), body))
    def at(self, revision): return self.commits[-1] if revision == 'main' else next(((s, f) for s, f in self.commits if s == revision), (None, None))


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *words): pass
    def body(self): return self.rfile.read(int(self.headers.get('Content-Length') or 0)) if self.headers.get('Transfer-Encoding') != 'chunked' else b''.join(iter(self.piece, b''))
    def piece(self): n = int(self.rfile.readline(), 16); data = self.rfile.read(n); self.rfile.readline(); return data
    def say(self, status, what=b'', **headers):
        data = what if isinstance(what, bytes) else json.dumps(what).encode(); self.send_response(status)
        for k, v in dict({'Content-Type': 'application/json', 'Content-Length': len(data)}, **{k.replace('_', '-'): v for k, v in headers.items()}).items(): self.send_header(k, str(v))
        self.end_headers(); self.wfile.write(b'' if self.command == 'HEAD' else data)
    def entered(self): return self.headers.get('Authorization') == f'Bearer {TOKEN}'
    def answer(self):
        data, path, hub = self.body(), unquote(urlsplit(self.path).path).strip('/'), self.server; hub.log.append((self.command, path, self.headers.get('Authorization')))
        if path == 'api/validate-yaml': return self.say(200, dict(errors=[], warnings=[]))
        if self.command in ('POST', 'PUT') and not self.entered() and not path.startswith('lfs/'): return self.say(401, dict(error='Invalid username or password.'))
        if path == 'api/repos/create':
            how = json.loads(data); name = f"{how.get('organization') or 'me'}/{how['name']}"
            if name in hub.repos: return self.say(409, dict(error='You already created this model repo', url=f'{hub.base}/{name}'))
            hub.repos[name] = Repo(how.get('private') or how.get('visibility') == 'private'); return self.say(200, dict(url=f'{hub.base}/{name}', name=name))
        if path.startswith('lfs/'): hub.large[path[4:]] = data; return self.say(200)
        words = path.split('/'); name = '/'.join(words[2:4] if words[0] == 'api' else words[:2]).removesuffix('.git'); repo = hub.repos.get(name)
        if repo is None or repo.private and not self.entered(): return self.say(404 if self.entered() else 401, dict(error='Repository not found'), X_Error_Code='RepoNotFound')
        getattr(self, {'POST': 'write', 'PUT': 'write'}.get(self.command, 'read'))(name, repo, words, data)
    do_GET = do_HEAD = do_POST = do_PUT = answer

    def write(self, name, repo, words, data):
        hub = self.server
        if 'preupload' in words: return self.say(200, dict(files=[dict(path=f['path'], uploadMode='lfs' if f['path'].endswith('.safetensors') else 'regular', shouldIgnore=False) for f in json.loads(data)['files']]))
        if words[-1] == 'batch': return self.say(200, dict(transfer='basic', objects=[dict(o, actions=dict(upload=dict(href=f"{hub.base}/lfs/{o['oid']}"), verify=dict(href=f'{hub.base}/{name}/verify'))) for o in json.loads(data)['objects']]))
        if words[-1] == 'verify': o = json.loads(data); good = len(hub.large.get(o['oid'], b'')) == o['size'] and hashlib.sha256(hub.large[o['oid']]).hexdigest() == o['oid']; return self.say(200 if good else 422)
        if 'commit' in words:
            lines = [json.loads(line) for line in data.splitlines() if line]; files = {v['path']: base64.b64decode(v['content']) if k == 'file' else hub.large[v['oid']] for k, v in ((line['key'], line['value']) for line in lines) if k in ('file', 'lfsFile')}
            repo.commit(files); return self.say(200, dict(success=True, commitOid=repo.commits[-1][0], commitUrl=f'{hub.base}/{name}/commit/{repo.commits[-1][0]}'))
        self.say(404, dict(error=f'not spoken here: {"/".join(words)}'))

    def read(self, name, repo, words, data):
        api = words[0] == 'api'; revision = words[5 if api else 3] if len(words) > (5 if api else 3) else 'main'; sha, files = repo.at(revision); large = lambda f: f.endswith('.safetensors')
        if sha is None: return self.say(404, dict(error='Invalid rev id'), X_Error_Code='RevisionNotFound')
        if api and 'tree' in words: return self.say(200, [dict(type='file', path=f, size=len(b), oid=hashlib.sha1(b).hexdigest(), **(dict(lfs=dict(oid=hashlib.sha256(b).hexdigest(), size=len(b), pointerSize=130)) if large(f) else {})) for f, b in files.items()])
        if api: return self.say(200, dict(id=name, modelId=name, sha=sha, private=bool(repo.private), tags=[], downloads=0, likes=0, siblings=[dict(rfilename=f) for f in files]))
        f = '/'.join(words[4:])
        if words[2] != 'resolve' or f not in files: return self.say(404, dict(error='Entry not found'), X_Error_Code='EntryNotFound', X_Repo_Commit=sha)
        mark = (hashlib.sha256 if large(f) else hashlib.sha1)(files[f]).hexdigest(); self.say(200, files[f], ETag=f'"{mark}"', X_Repo_Commit=sha, **(dict(X_Linked_Etag=f'"{mark}"', X_Linked_Size=len(files[f])) if large(f) else {}))


class Hub(ThreadingHTTPServer):
    "The hub; use it in a `with`."
    daemon_threads = True
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler); self.repos, self.large, self.log = {}, {}, []
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()
    base = property(lambda self: f'http://127.0.0.1:{self.server_port}')
    def __exit__(self, *words): self.shutdown(); self.server_close()
