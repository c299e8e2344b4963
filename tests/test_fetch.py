"Downloads from a hostile server: the bytes are right and whole under the final name, or there is nothing under it and a message that says why."
import hashlib, os, signal, subprocess, sys, threading, time
import numpy as np
import pytest
from notebooks import ROOT
from server import Act, Server, busy, cut, lie, page, site, to    # noqa: F401  (site is a fixture)
from brainrecon.core import ask as asking
from brainrecon.core.ask import FetchError, ask
from brainrecon.core.checks import FileError, FolderError, MissingWeights, ParameterError, UnsafeError
from brainrecon.core import fetch
from brainrecon.core.fetch import beside, fetch_file, inside

BODY = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
OTHER = BODY[::-1]
SHA, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
N = len(BODY)


def get(url, path, **how): return fetch_file(url, path, **dict(dict(progress=None, wait=0, timeout=5), **how))

def whole(path, body=BODY):
    "The file is right, and nothing else was left beside it."
    assert path.read_bytes() == body and [p.name for p in path.parent.iterdir()] == [path.name]

def refused(path, part=0):
    "There is nothing under the final name; so much of it is kept to go on with."
    assert not path.exists() and (beside(path)[0].stat().st_size if beside(path)[0].exists() else 0) == part

def parts(e, *words):
    "The message has its parts, and these words."
    assert e.value.came and e.value.expected and e.value.do and e.value.why
    for w in words: assert w.lower() in str(e.value).lower(), f'{w!r} is not in {e.value}'


# What ends well, however badly it begins: what the server does at each request, what is published, and how many bytes travel.
WELL = dict(
    plain=([], {}, N), checked=([], dict(bytes=N, sha256=SHA, md5=MD5), N), prefix=([], dict(sha256=SHA[:8]), N),
    broken_once=([cut(100_000)], {}, N), broken_often=([cut(k) for k in range(20_000, 300_000, 20_000)], {}, N),
    reset=([cut(100_000, reset=True)], {}, N), broken_before_the_first_byte=([cut(0), cut(0)], {}, N),
    says_too_much=([lie(+5_000, N)], {}, 2*N - 0), busy=([busy(503), busy(500), busy(502)], {}, N+12), too_many=([busy(429, 0)], {}, N+4),
    ranges_refused=([cut(100_000), Act(ranges=False)], {}, N+100_000), broken_twice_no_ranges=([cut(200_000), cut(250_000, ranges=False), Act(ranges=False)], {}, 750_000),
    changed=([cut(100_000), Act(then=(OTHER, '"two"'))], dict(body=OTHER), N+100_000), changed_and_blind=([cut(100_000), Act(then=(OTHER, '"two"'), blind=True)], dict(body=OTHER), None),
    other_range=([cut(100_000), Act(headers={'Content-Range': f'bytes 0-{N-1}/{N}'})], {}, None), no_range_named=([cut(100_000), Act(headers={'Content-Range': None})], {}, None),
    chunked=([Act(chunked=True)], {}, N), chunked_broken=([cut(100_000, chunked=True), Act()], {}, N),
    no_length_but_hash=([Act(headers={'Content-Length': None})], dict(md5=MD5), N), no_length_but_size=([Act(headers={'Content-Length': None})], dict(bytes=N), N),
    no_length_broken=([cut(100_000, headers={'Content-Length': None})], dict(bytes=N), N), preparing=([Act(status=202, body=b'')], {}, N),
    page_then_file=([], {}, N), too_long_is_cut=([Act(headers={'Content-Length': None}, body=BODY+b'more')], dict(bytes=N, sha256=SHA), None),
)

@pytest.mark.parametrize('case', WELL)
def test_ends_well(case, site, tmp_path):
    acts, how, travel = WELL[case]; how = dict(how); body = how.pop('body', BODY); path = tmp_path/'sub-01'/'f.bin'
    url = site.put('f.bin', BODY, acts=list(acts))
    assert get(url, path, **how) == path
    whole(path, body)
    if travel and case != 'says_too_much': assert sum(n['sent'] for n in site.log) == travel
    before = len(site.log); get(url, path, **how); assert len(site.log) == before      # what is here is not asked for again


# What cannot end well: acts, what is published, words of the message, what is kept.
BADLY = dict(
    says_too_little=([lie(-1000, N)], dict(bytes=N), ('offers 299,000 bytes', '300,000'), 0), says_too_little_hash=([lie(-1000, N)], dict(sha256=SHA), ('sends another file', 'sha256'), 0),
    says_too_much_always=(lie(+5, N), {}, ('broke off after 300,000 of 300,005', 'longer than the file there', '5 attempts in vain'), 0), wrong_bytes=(Act(body=OTHER), dict(sha256=SHA), ('sends another file', 'sha256'), 0),
    wrong_md5=(Act(body=OTHER), dict(md5=MD5), ('its md5 is',), 0), wrong_git=(Act(body=OTHER), dict(git='0'*40), ('its git is',), 0), one_bit=(Act(body=BODY[:-1]+bytes([BODY[-1] ^ 1])), dict(bytes=N, sha256=SHA), ('sends another file',), 0),
    too_short=(Act(body=BODY[:1000]), dict(bytes=N), ('offers 1,000 bytes', '300,000 are published'), 0), too_long=(Act(body=BODY+b'x'), dict(bytes=N), ('offers 300,001',), 0),
    nothing=(Act(body=b''), dict(bytes=N), ('offers 0 bytes',), 0), page=(page(), {}, ('web page',), 0), page_with_size=(page(), dict(bytes=N), ('web page',), 0), page_in_disguise=(page(kind='application/zip'), {}, ('web page',), 0),
    page_in_disguise_with_blanks=(page(b'\n  <html lang="en">', kind='application/octet-stream'), {}, ('web page',), 0),
    absent=(Act(status=404, body=b'no'), {}, ('404', 'no such file'), 0), forbidden=(Act(status=403, body=b'no'), {}, ('403', 'does not allow'), 0), sign_in=(Act(status=401, body=b'no'), {}, ('401', 'sign in'), 0), gone=(Act(status=410, body=b'no'), {}, ('410', 'removed'), 0),
    teapot=(Act(status=418, body=b'no'), {}, ('418',), 0), always_busy=(busy(503), {}, ('503', 'busy', '5 attempts in vain'), 0), error=(busy(500), {}, ('500', 'in vain'), 0), wait_an_hour=(busy(429, 3600), {}, ('429', 'asks to wait 3600 s'), 0),
    never_further=(cut(100_000, ranges=False), {}, ('broke off after 100,000 of 300,000', 'in vain'), 100_000), never_begins=(cut(0), {}, ('broke off after 0 of 300,000',), 0), no_length=(Act(headers={'Content-Length': None}), {}, ('does not say how long',), 0),
    packed=(Act(headers={'Content-Encoding': 'gzip'}), {}, ('packed',), 0), chunked_broken_no_ranges=(cut(100_000, chunked=True, ranges=False), {}, ('broke off after 100,000',), 100_000), other_mark=(Act(), dict(etag='"seven"'), ('changed the file since it was listed',), 0),
    loop=(to('f.bin'), {}, ('302', 'in a circle'), 0), to_no_address=(to('http://[::1'), {}, ('cannot be read',), 0), to_a_long_name=(to(f'http://{"a"*300}.org/x'), {}, ('cannot be read',), 0), odd_wait=(busy(503, '\xb2'), {}, ('503', 'in vain'), 0), endless_wait=(busy(503, '9'*5000), {}, ('503', 'in vain'), 0),
    endless_length=(Act(headers={'Content-Length': '9'*5000}), {}, ('does not say how long',), 0), to_a_file=(to('file:///etc/passwd'), {}, ('f.bin',), 0), to_ftp=(to('ftp://127.0.0.1/x'), {}, ('ftp',), 0), to_nowhere=(Act(status=302, body=b''), {}, ('302',), 0),
)

@pytest.mark.parametrize('case', BADLY)
def test_ends_badly(case, site, tmp_path):
    act, how, words, kept = BADLY[case]; path = tmp_path/'sub-01'/'f.bin'
    url = site.put('f.bin', BODY, **(dict(acts=act) if isinstance(act, list) else dict(always=act)))
    with pytest.raises(FetchError) as e: get(url, path, **how)
    parts(e, url, 'sub-01/f.bin', *words); refused(path, kept)
    if kept: assert f'{kept:,} bytes are kept' in e.value.do
    assert e.value.facts['tried'][0][0] == url


def test_several_sources(site, tmp_path):
    "They are tried in turn, and each is named if none gives the file."
    bad = [site.put('a', OTHER), site.put('b', BODY, always=busy(404)), site.put('c', BODY, always=page())]
    whole(get([*bad, site.put('d', BODY)], tmp_path/'f.bin', sha256=SHA)); (tmp_path/'f.bin').unlink()
    with pytest.raises(FetchError) as e: get(bad, tmp_path/'f.bin', sha256=SHA)
    parts(e, *bad, 'sends another file', '404', 'web page', SHA[:12]); refused(tmp_path/'f.bin')


def test_another_source_goes_on_if_the_content_can_be_judged(site, tmp_path):
    a, b = site.put('a', BODY, acts=[cut(200_000)], always=busy(404), etag='"a"'), site.put('b', BODY, etag='"b"')
    whole(get([a, b], tmp_path/'f.bin', sha256=SHA)); assert site.asked('b')[0]['status'] == 206 and site.asked('b')[0]['sent'] == 100_000
    a = site.put('a', BODY, acts=[cut(200_000)], always=busy(404), etag='"a"'); site.log.clear(); (tmp_path/'f.bin').unlink()
    whole(get([a, b], tmp_path/'f.bin')); assert site.asked('b')[0]['status'] == 200      # nothing is published: afresh


def test_two_halves_of_two_files_are_not_glued(site, tmp_path):
    "The second source holds another file of the same length; its first byte onward is tried, and refused."
    a, b = site.put('a', BODY, acts=[cut(200_000)], always=busy(404)), site.put('b', OTHER)
    with pytest.raises(FetchError) as e: get([a, b], tmp_path/'f.bin', sha256=SHA)
    parts(e, 'sends another file'); refused(tmp_path/'f.bin'); assert [n['status'] for n in site.asked('b')] == [206, 200]


def test_part_damaged_on_disk(site, tmp_path):
    "A part whose bytes were lost with the power is found out by the published hash, and fetched afresh."
    path = tmp_path/'f.bin'; url = site.put('f.bin', BODY, acts=[cut(100_000)]*6, ranges=False)
    with pytest.raises(FetchError): get(url, path, sha256=SHA, retries=1)
    part = beside(path)[0]; part.write_bytes(bytes(100_000)); site.put('f.bin', BODY)
    whole(get(url, path, sha256=SHA)); assert [n['status'] for n in site.log][-2:] == [206, 200]


def test_without_mark_or_hash_it_starts_afresh(site, tmp_path):
    url = site.put('f.bin', BODY, etag='', acts=[cut(100_000)]); whole(get(url, tmp_path/'f.bin')); assert [n['status'] for n in site.log] == [200, 200]
    (tmp_path/'f.bin').unlink(); site.log.clear(); url = site.put('f.bin', BODY, etag='W/"weak"', acts=[cut(100_000)])
    whole(get(url, tmp_path/'f.bin')); assert [n['status'] for n in site.log] == [200, 200] and 'If-Range' not in site.log[-1]['headers']
    (tmp_path/'f.bin').unlink(); site.log.clear(); url = site.put('f.bin', BODY, etag='', modified='Wed, 01 Jan 2025 00:00:00 GMT', acts=[cut(100_000)])
    whole(get(url, tmp_path/'f.bin')); assert [n['status'] for n in site.log] == [200, 206] and site.log[-1]['headers']['If-Range'].startswith('Wed')


def test_resume_false_starts_afresh(site, tmp_path):
    url = site.put('f.bin', BODY, always=cut(100_000, ranges=False))
    with pytest.raises(FetchError): get(url, tmp_path/'f.bin', retries=0)
    site.put('f.bin', BODY); whole(get(url, tmp_path/'f.bin', resume=False)); assert 'Range' not in site.log[-1]['headers']


@pytest.mark.parametrize('note', ['', '{"url"', '[]', '{}', 'null', '{"url": 1, "mark": 2, "want": 3}'])
def test_damaged_note(note, site, tmp_path):
    "A note that cannot be read is worth nothing, and does no harm."
    path = tmp_path/'f.bin'; part, told = beside(path); part.write_bytes(OTHER[:1000]); told.write_text(note)
    whole(get(site.put('f.bin', BODY), path))


@pytest.mark.parametrize('size', [N, N+1, 2*N])
def test_part_too_long(size, site, tmp_path):
    "The part of yesterday's longer file."
    path = tmp_path/'f.bin'; url = site.put('f.bin', OTHER*3, always=cut(size, ranges=False))
    with pytest.raises(FetchError): get(url, path, retries=0)
    assert beside(path)[0].stat().st_size == size
    site.put('f.bin', BODY); whole(get(url, path))


def test_killed_between_the_last_byte_and_the_name(site, tmp_path):
    "All bytes are here and their hash is known: nothing is asked."
    path = tmp_path/'f.bin'; url = site.put('f.bin', BODY, always=lie(+5, N))
    want = dict(bytes=N, sha256=SHA); site.put('f.bin', BODY, acts=[cut(299_999)], always=busy(404))
    with pytest.raises(FetchError): get(url, path, **want)
    with open(beside(path)[0], 'ab') as f: f.write(BODY[-1:])
    site.log.clear(); whole(get(url, path, **want)); assert not site.log


def test_dribble(site, tmp_path):
    "A server that sends a byte now and then does not hold us for ever."
    url = site.put('f.bin', BODY, always=Act(slow=.05, piece=1)); began = time.monotonic()
    with pytest.raises(FetchError) as e: get(url, tmp_path/'f.bin', timeout=.4, retries=0)
    parts(e, 'too slow'); assert time.monotonic()-began < 5 and not (tmp_path/'f.bin').exists()


def test_silence(site, tmp_path):
    url = site.put('f.bin', BODY, acts=[Act(slow=2., piece=100_000)]); began = time.monotonic()
    whole(get(url, tmp_path/'f.bin', timeout=.4)); assert time.monotonic()-began < 5


def test_slow_but_steady(site, tmp_path):
    whole(get(site.put('f.bin', BODY, always=Act(slow=.02, piece=20_000)), tmp_path/'f.bin', timeout=.2))


def test_retry_after_is_obeyed(site, tmp_path):
    url = site.put('f.bin', BODY, acts=[busy(429, 1)]); began = time.monotonic(); whole(get(url, tmp_path/'f.bin')); assert 1 <= time.monotonic()-began < 4


def test_redirects(site, tmp_path):
    "Followed to the file, within bounds, and the range goes along."
    url = site.put('real', BODY, acts=[cut(100_000)]); here = site.put('f.bin', b'', always=to(url, 307))
    whole(get(here, tmp_path/'f.bin', sha256=SHA)); assert [n['status'] for n in site.asked('real')] == [200, 206]


def test_token_goes_to_one_place_only(site, tmp_path, monkeypatch):
    "The token is sent to its own address, and not to where that one sends us on."
    monkeypatch.setenv('HF_TOKEN', 'hf_secret'); monkeypatch.setitem(asking.keys, site.base, 'HF_TOKEN')
    with Server() as other:
        far = other.put('real', BODY); near = site.put('near', BODY)
        get(site.put('f.bin', b'', always=to(far)), tmp_path/'a'); get(site.put('g.bin', b'', always=to(near)), tmp_path/'b')
        assert site.asked('f.bin')[0]['headers']['Authorization'] == 'Bearer hf_secret' and 'Authorization' not in other.log[0]['headers']
        assert site.asked('near')[0]['headers']['Authorization'] == 'Bearer hf_secret'      # the same place
        get(other.put('plain', BODY), tmp_path/'c'); assert not any('Authorization' in n['headers'] for n in other.log)


def test_token_is_never_said(site, tmp_path, monkeypatch, capsys):
    "Not in a message, not in the note, not when it is malformed."
    monkeypatch.setenv('HF_TOKEN', 'hf_secret'); monkeypatch.setitem(asking.keys, site.base, 'HF_TOKEN')
    url = site.put('f.bin', BODY, always=cut(100_000, ranges=False))
    with pytest.raises(FetchError) as e: get(url + '?token=hf_secret', tmp_path/'f.bin', progress='auto', retries=0)
    assert 'hf_secret' not in str(e.value) + str(e.value.facts) + beside(tmp_path/'f.bin')[1].read_text() + ''.join(capsys.readouterr())
    monkeypatch.setenv('HF_TOKEN', 'hf_secret\r\nX: y')
    with pytest.raises(ParameterError) as e: get(url, tmp_path/'g.bin')
    assert 'hf_secret' not in str(e.value)


@pytest.mark.parametrize('url', ['file:///etc/passwd', 'ftp://x/y', '/etc/passwd', 'C:/x', 'http:///x', 'javascript:1', ''])
def test_only_http(url, tmp_path):
    with pytest.raises(UnsafeError): get(url, tmp_path/'f.bin')
    assert not list(tmp_path.iterdir())


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with Server() as s: url = s.put('f.bin', BODY)
    with pytest.raises(FetchError) as e: get(url, tmp_path/'f.bin', retries=1)
    parts(e, 'cannot be reached', url); refused(tmp_path/'f.bin')


def test_offline(site, tmp_path, monkeypatch):
    monkeypatch.setenv('BRAINRECON_OFFLINE', '1'); url = site.put('f.bin', BODY)
    with pytest.raises(MissingWeights) as e: get(url, tmp_path/'sub-01'/'f.bin')
    assert 'sub-01/f.bin' in e.value.came and 'BRAINRECON_OFFLINE' in e.value.do and not site.log
    with pytest.raises(MissingWeights): ask(url)
    (tmp_path/'f.bin').write_bytes(BODY); whole(get(url, tmp_path/'f.bin', sha256=SHA))      # what is here needs no network


@pytest.mark.parametrize('size', [None, N])
def test_disk_full(size, site, tmp_path, monkeypatch):
    "Refused before a byte is fetched, by the published size or by the one that the server says."
    monkeypatch.setattr(fetch.shutil, 'disk_usage', lambda p: type('Usage', (), dict(free=100_000))())
    with pytest.raises(FolderError) as e: get(site.put('f.bin', BODY), tmp_path/'f.bin', bytes=size)
    assert '100.0 kB left' in e.value.came and 'BRAINRECON_DATA' in e.value.do and not beside(tmp_path/'f.bin')[0].exists() and len(site.log) == (size is None)


def test_file_that_is_here(site, tmp_path):
    "Whole: nothing is asked. Broken: it is named, and left alone."
    path = tmp_path/'f.bin'; path.write_bytes(BODY[:1000]); url = site.put('f.bin', BODY)
    with pytest.raises(FileError) as e: get(url, path, bytes=N)
    assert '1,000 bytes' in e.value.came and '300,000' in e.value.expected and 'delete' in e.value.do and path.read_bytes() == BODY[:1000] and not site.log
    path.write_bytes(OTHER)
    with pytest.raises(FileError) as e: get(url, path, sha256=SHA)
    assert 'sha256' in e.value.came


@pytest.mark.parametrize('which', ['', '.part', '.part.json', '.lock'])
def test_links_are_not_followed(which, site, tmp_path):
    (tmp_path/'precious').write_bytes(b'precious') ; (tmp_path/f'f.bin{which}').symlink_to(tmp_path/('precious' if which else 'nothing'))
    with pytest.raises(UnsafeError): get(site.put('f.bin', BODY), tmp_path/'f.bin')
    assert (tmp_path/'precious').read_bytes() == b'precious' and not (tmp_path/'nothing').exists()


@pytest.mark.parametrize('name', ['../x', 'a/../../x', '/x', '//x', 'C:\\x', 'C:x', 'a\\..\\x', '..', '.', '', 'a/../x', 'x\0', 'a\n', '~/../x', 'link/x', 'deep/link/x'])
def test_names_stay_inside(name, tmp_path):
    root = tmp_path/'root'; (root/'deep').mkdir(parents=True); (root/'link').symlink_to(tmp_path); (root/'deep'/'link').symlink_to(tmp_path)
    with pytest.raises(UnsafeError) as e: inside(root, name)
    assert e.value.came and e.value.expected and e.value.do
    assert inside(root, 'a/b.npy') == root/'a'/'b.npy' and inside(root, '~x/y..z/w') == root/'~x'/'y..z'/'w'


def test_root_may_itself_be_reached_by_a_link(tmp_path):
    "People keep data on another disk and link to it."
    (tmp_path/'disk').mkdir(); (tmp_path/'data').symlink_to(tmp_path/'disk'); assert inside(tmp_path/'data', 'a/b') == tmp_path/'data'/'a'/'b'


CHILD = '''
import sys
from brainrecon.core.fetch import fetch_file
fetch_file(sys.argv[1], sys.argv[2], sha256=sys.argv[3] or '', progress=None, wait=0)
'''

def child(url, path, sha='', **how):
    return subprocess.Popen([sys.executable, '-c', CHILD, url, str(path), sha], cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how)      # a shell that runs the tests in the background makes its children deaf to Ctrl-C

def until(check, seconds=60):
    end = time.monotonic()+seconds
    while not check():
        assert time.monotonic() < end; time.sleep(.01)


@pytest.mark.parametrize('how', ['SIGKILL', 'SIGINT'])
def test_stopped_and_resumed(how, site, tmp_path):
    "A process that is killed, or stopped with Ctrl-C, leaves a part from which the next one goes on."
    path = tmp_path/'f.bin'; url = site.put('f.bin', BODY, acts=[Act(slow=.05, piece=10_000)]); part = beside(path)[0]
    p = child(url, path, SHA); until(lambda: part.exists() and part.stat().st_size >= 50_000); p.send_signal(getattr(signal, how)); p.wait(); p.stderr.close()
    n = part.stat().st_size; assert p.returncode != 0 and 50_000 <= n < N and not path.exists()
    get(url, path, sha256=SHA); whole(path)
    assert site.log[-1]['status'] == 206 and site.log[-1]['sent'] == N-n and site.log[-1]['headers']['Range'] == f'bytes={n}-'


def test_two_processes(site, tmp_path):
    "The second waits for the first, finds the file whole, and asks for nothing."
    path = tmp_path/'f.bin'; url = site.put('f.bin', BODY, always=Act(slow=.02, piece=30_000))
    two = [child(url, path, SHA) for _ in range(2)]
    for p in two: assert p.wait() == 0, p.stderr.read(); p.stderr.close()
    whole(path); assert len(site.log) == 1


def test_many_threads(site, tmp_path):
    path = tmp_path/'f.bin'; url = site.put('f.bin', BODY, acts=[cut(k) for k in (1000, 50_000, 120_000)]); failed = []
    def one():
        try: get(url, path, sha256=SHA)
        except Exception as e: failed.append(e)
    threads = [threading.Thread(target=one) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not failed; whole(path); assert sum(n['sent'] for n in site.log) == N


def test_lines(site, tmp_path):
    "What is said: each break, and the end; no bar and no noise in a log."
    lines = []; get(site.put('f.bin', BODY, acts=[cut(100_000), busy(503)]), tmp_path/'sub-01'/'f.bin', progress=lines.append)
    assert lines == ['sub-01/f.bin  broke off after 100,000 of 300,000 bytes; again', 'sub-01/f.bin  answered 503, it is busy or broken; again', 'sub-01/f.bin  300.0 kB  done']


def test_no_bare_file_is_ever_seen(site, tmp_path):
    "Whoever looks while it is fetched sees no file, or the whole one."
    path, seen, stop = tmp_path/'f.bin', set(), threading.Event()
    def look():
        while not stop.is_set():
            if path.exists(): seen.add(path.stat().st_size)
    t = threading.Thread(target=look); t.start()
    get(site.put('f.bin', BODY, acts=[cut(100_000), cut(200_000)], always=Act(slow=.005, piece=10_000)), path); time.sleep(.05); stop.set(); t.join()
    assert seen == {N}


def test_fuzz(site, tmp_path):
    "Two hundred random sequences of misfortunes: the published file, or none."
    rng = np.random.default_rng(1); small = BODY[:5000]; sha = hashlib.sha256(small).hexdigest(); ok = 0
    make = [lambda k: cut(k), lambda k: cut(k, ranges=False), lambda k: busy(int(rng.choice([429, 500, 503])), 0), lambda k: lie(k, 5000), lambda k: lie(-min(k, 4999), 5000), lambda k: Act(then=(small[::-1], '"x"')),
            lambda k: Act(then=(small, '"y"')), lambda k: Act(body=small[:k]), lambda k: page(), lambda k: Act(headers={'Content-Range': f'bytes {k}-4999/5000'}), lambda k: Act(headers={'Content-Length': None}), lambda k: cut(k, chunked=True), lambda k: Act(blind=True)]
    for i in range(200):
        path = tmp_path/f'{i}.bin'; acts = [make[int(rng.integers(len(make)))](int(rng.integers(0, 5000))) for _ in range(int(rng.integers(1, 7)))]
        url = site.put(f'{i}', small, acts=acts)
        try: get([url, url], path, sha256=sha, retries=2); ok += 1
        except FetchError as e: assert e.came and e.expected and e.do and not path.exists(); continue
        assert path.read_bytes() == small, acts
    assert 40 < ok < 200, ok


def test_listing_answers(site):
    "Short answers are asked for again, bounded in length, and refused in words."
    url = site.put('list', b'[]', acts=[busy(503), cut(1)]); assert ask(url, wait=0)[0] == b'[]'
    with pytest.raises(FetchError): ask(site.put('list', b'[]', always=busy(503)), wait=0)
    with pytest.raises(FetchError) as e: ask(site.put('list', b'x'*100), most=10)
    parts(e, 'more than 10 bytes')
    with pytest.raises(FetchError): ask(site.url('nothing'))


def test_two_lengths(tmp_path):
    "An answer that contradicts itself is not cut at the first length."
    import socket, threading
    with socket.create_server(('127.0.0.1', 0)) as s:
        def serve():
            c, _ = s.accept(); c.recv(4096); c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Length: 300000\r\n\r\n' + BODY); c.close()
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(FetchError, match='two different lengths'): get(f'http://127.0.0.1:{s.getsockname()[1]}/f', tmp_path/'sub-01'/'f.bin')
    refused(tmp_path/'sub-01'/'f.bin')


def test_disk_that_fills_up_on_the_way(site, tmp_path, monkeypatch):
    "No error of the system, and what came is kept."
    class Full:
        def __init__(self, f): self.f, self.n = f, 0
        def __enter__(self): return self
        def __exit__(self, *why): self.f.close()
        def __getattr__(self, name): return getattr(self.f, name)
        def write(self, data):
            self.n += len(data)
            if self.n > 100_000: raise OSError(28, 'No space left on device')
            return self.f.write(data)
    import brainrecon.core.fetch as module
    monkeypatch.setattr(module, 'open', lambda path, mode='r': Full(open(path, mode)) if str(path).endswith('.part') and mode in ('ab', 'wb') else open(path, mode), raising=False)
    path = tmp_path/'sub-01'/'f.bin'; url = site.put('f.bin', BODY, always=Act(piece=10_000, slow=.001))
    with pytest.raises(FolderError, match='No space left') as e: get(url, path)
    parts(e, 'f.bin', 'make room'); assert not path.exists() and beside(path)[0].stat().st_size > 0
    monkeypatch.undo(); get(url, path); whole(path)


@pytest.mark.parametrize('name', ['x'*300, 'a/'*2000 + 'b', 'a\ud800', 'y'*250 + '/z'])
def test_names_that_no_disk_takes(name, tmp_path):
    with pytest.raises(UnsafeError) as e: inside(tmp_path, name)
    assert len(str(e.value)) < 1500
