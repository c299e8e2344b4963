"The registry: a sound table, plans that tell everything, fetching from imitations of the hub, OSF, S3 and Figshare, and nothing fetched that must be signed for."
import hashlib, io, json, os, re, subprocess, sys, zipfile
from pathlib import Path
import numpy as np
import pytest
from notebooks import ROOT
from server import Act, Server, busy, cut, page, site    # noqa: F401  (site is a fixture)
from brainrecon.core.ask import FetchError
from brainrecon.core.checks import FileError, FolderError, MissingWeights, UnsafeError
from brainrecon.data import assets, listings, registry
from brainrecon.data.assets import Asset, Part, asset, table
from brainrecon.data.listings import list_figshare, list_hub, list_osf, list_s3, list_source
from brainrecon.data.registry import fetch, plan, record_name, recorded, status, unpack, verify
from brainrecon.jobs.cli import main

rng = np.random.default_rng(0)
def blob(n, head=b'PK'): return head + rng.integers(0, 256, n, dtype=np.uint8).tobytes()
def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        for k, v in files.items(): z.writestr(k, v)
    return out.getvalue()

EEG = {f'Preprocessed_data_250Hz_whiten/sub-{s:02d}/{w}.pt': blob(1000*s + (w == 'train')) for s in range(1, 11) for w in ('train', 'test')} | {'README.md': b'hello', 'Image_set/x.zip': b'PK'}
RAW = {f'sub-{s:02d}.zip': zipped({f'sub-{s:02d}/ses-{n:02d}/raw_eeg_{w}.npy': blob(500, b'\x93NUMPY') for n in range(1, 5) for w in ('training', 'test')}) for s in (1, 2)}
PICTURES = {'image_metadata.npy': blob(300, b'\x93NUMPY'), 'training_images.zip': zipped({'training_images/00001_aardvark/aardvark_01b.jpg': blob(80)}), 'test_images.zip': zipped({'test_images/00001_aircraft_carrier/aircraft_carrier_06s.jpg': blob(90), '__MACOSX/x': b''})}
MEG = {f'ds004212/derivatives/preprocessed/preprocessed_P{s}-epo{k}.fif': blob(400, b'fif') for s in (1, 2, 3, 4) for k in ('', '-1', '-2', '-3')} | {f'ds004212/sourcedata/sample_attributes_P{s}.csv': b'a,b\n' for s in (1, 2, 3, 4)}


@pytest.fixture
def web(site, tmp_path, monkeypatch):
    "Imitations of the four services, and a data folder of its own."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data'))
    site.hub('Haitao999/things-eeg', EEG, large=[n for n in EEG if n.endswith('.pt')], page=7); site.osf('y63gw', PICTURES); site.figshare('18470912', RAW); site.s3('openneuro.org', MEG)
    site.bases = dict.fromkeys(listings.bases, site.base); return site


def lines(): return (out := []), dict(progress=out.append, wait=0, timeout=5)


# The table.

def test_table_is_sound():
    "Each entry is whole, its names stay inside, its addresses are of the web, and nothing published is made up."
    assert len(table()) >= 20 and {a.kind for a in table()} == set(assets.kinds)
    for a in table():
        assert a.title and a.what and a.citation, a.id
        for u in (a.agreement, a.terms): assert not u or u.startswith('https://')
        for p in a.parts:
            for u in [u for urls in p.urls.values() for u in urls]: assert re.match(r'https?://[\w.-]+/', u), u
            for n in (*p.files, *p.urls, *[g for gs in p.gives.values() for g in gs]): registry.inside(Path('/data'), n.replace('*', 'x').replace('{s:02d}', '01').replace('{s}', '1'))
            for facts in p.known.values(): registry.Want(**facts)
            assert not p.source or p.source.partition(':')[0] in listings.listers
            assert set(p.gives) <= {*p.files, *p.urls} and (p.unpack is None) == (not p.gives)
        if a.usable:
            module, _, name = a.usable.rpartition('.'); assert (ROOT/'brainrecon'/(module.replace('.', '/')+'.py')).read_text().count(f'def {name}('), a.usable
        if a.reads: assert (ROOT/'brainrecon'/(a.reads.split('.')[0])/(a.reads.split('.')[1]+'.py')).exists(), a.reads


def test_names_that_others_rely_on():
    for id in ('things-eeg2', 'things-meg', 'eeg-imagenet', 'nsd', 'coco-captions', 'haxby', 'labram-base', 'var', 'switti', 'ip-adapter', 'sdxl-turbo', 'fusion-prior-h14', 'hive-embeddings', 'alexnet', 'swav'): assert asset(id).id == id


@pytest.mark.parametrize('a', table(), ids=lambda a: a.id)
def test_plan_without_network(a, tmp_path, monkeypatch):
    "Every asset can be planned offline; nothing is asked, nothing is written, and what is unknown is said."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); monkeypatch.setenv('BRAINRECON_OFFLINE', '1')
    p = plan(a.id, parts=[q.name for q in a.parts]); text = str(p)
    assert a.title in text and str(tmp_path) in text and (a.licence or 'not stated') in text and not (tmp_path/'data').exists()
    for u in (a.agreement, a.terms): assert u in text
    assert p.files or p.open or a.tool
    if any(q.source for q in a.parts) and not a.agreement: assert 'could not ask' in text and 'BRAINRECON_OFFLINE' in text


# Listings.

def test_listings(web):
    hub = list_source('hub:datasets/Haitao999/things-eeg', bases=web.bases); assert set(hub) == set(EEG)
    f = hub['Preprocessed_data_250Hz_whiten/sub-01/train.pt']; body = EEG[f.name]; assert (f.bytes, f.sha256, f.git) == (len(body), hashlib.sha256(body).hexdigest(), '') and f.url.startswith(web.base)
    small = hub['README.md']; assert small.git == hashlib.sha1(b'blob 5\0hello').hexdigest() and not small.sha256
    assert len(list_hub('datasets/Haitao999/things-eeg', 'Preprocessed_data_250Hz_whiten', web.base)) == 20 and len(web.asked('api/datasets/Haitao999/things-eeg/tree/main/Preprocessed_data_250Hz_whiten')) == 3
    osf = list_source('osf:y63gw', bases=web.bases); assert {k: (v.bytes, v.md5, v.sha256) for k, v in osf.items()} == {k: (len(v), hashlib.md5(v).hexdigest(), hashlib.sha256(v).hexdigest()) for k, v in PICTURES.items()}
    web.osf('deep1', {'a/b/c.npy': b'1', 'a/d.npy': b'2', 'e.npy': b'3', 'f/g.npy': b'4'}); assert [f.name for f in list_osf('deep1', base=web.base)] == ['a/b/c.npy', 'a/d.npy', 'e.npy', 'f/g.npy'] and [f.name for f in list_osf('deep1', 'a/b', web.base)] == ['a/b/c.npy']
    s3 = list_s3('openneuro.org', 'ds004212/derivatives', web.base); assert len(s3) == 16 and s3[0].md5 == hashlib.md5(MEG[s3[0].name]).hexdigest()
    web.s3('bucket', {'a & b.many': b'x'}); many = list_s3('bucket', base=web.base)[0]; assert many.md5 == '' and many.bytes == 1 and many.url.endswith('a%20%26%20b.many')      # stored in pieces: its mark is no MD5
    assert {f.name: f.md5 for f in list_figshare('18470912', base=web.base)} == {k: hashlib.md5(v).hexdigest() for k, v in RAW.items()}


BAD = dict(not_json=b'<html>sign in</html>', number=b'7', empty=b'', text=b'"x"', null=b'null', entries_without_address=b'{"data": [{"attributes": {"name": "x", "kind": "file"}}]}', entries_of_nothing=b'[{"name": "x"}]', wrong_xml=b'<a><b></a>', bomb=b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult/>', other_xml=b'<Error/>', onward=b'{"data": [], "links": {"next": "https://elsewhere.org/x"}}',
    deep=b'['*200_000, no_address=b'{"data": [], "links": {"next": "http://[::1"}}', half_a_letter=b'[{"type": "file", "path": "a\\ud800", "size": 3}]', odd_extra=b'{"data": [{"attributes": {"name": "x", "kind": "file", "extra": [1]}, "links": {"download": "x"}}]}')

@pytest.mark.parametrize('kind', listings.listers)
@pytest.mark.parametrize('case', BAD)
def test_listings_misread(case, kind, site):
    "An answer that is no listing is refused in words, or is an empty listing; never an error of Python."
    for path in ('api/models/lab/x/tree/main', 'v2/nodes/lab/files/osfstorage/', 'lab', 'v2/articles/lab/files'): site.answer(path, lambda q: (200, BAD[case], {}))
    name = 'lab/x' if kind == 'hub' else 'lab'
    try: assert list_source(f'{kind}:{name}', bases=dict.fromkeys(listings.bases, site.base), wait=0) == {}
    except FetchError as e: assert e.came and e.expected and e.do and site.base in e.came


def test_listing_that_turns_in_a_circle(site):
    site.answer('v2/nodes/lab/files/osfstorage/', lambda q: (200, json.dumps(dict(data=[], links=dict(next=site.url('v2/nodes/lab/files/osfstorage/')))).encode(), {}))
    with pytest.raises(FetchError, match='leads nowhere'): list_osf('lab', base=site.base)
    site.answer('b', lambda q: (200, b'<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>1</NextContinuationToken></ListBucketResult>', {}))
    with pytest.raises(FetchError, match='leads nowhere'): list_s3('b', base=site.base)


@pytest.mark.parametrize('size, mark', [(-1, 'x'*64), ('\xb2', ''), ('9'*5000, ''), (None, None), ('7', 'Z'*64), (True, 12), (1.5, []), ({}, {})])
def test_odd_sizes_and_marks_count_as_unpublished(size, mark, site):
    site.answer('api/models/lab/x/tree/main', lambda q: (200, json.dumps([dict(type='file', path='a', size=size, oid=mark, lfs=None), dict(type='file', path=7), 3]).encode(), {}))
    f, = list_hub('lab/x', base=site.base); assert f.bytes in (None, 7) and not f.sha256 and not f.git


# Plans and fetching.

def test_plan_tells_everything(web):
    p = plan('things-eeg2', [1, 2], bases=web.bases); text = str(p)
    assert {f.name for f in p.files} == {n for n in EEG if 'sub-01' in n or 'sub-02' in n} | set(PICTURES) and not p.open and not p.unasked
    assert p.bytes == sum(len(EEG[n]) for n in EEG if 'sub-01' in n or 'sub-02' in n) + sum(map(len, PICTURES.values())) and not p.unsized
    for word in ('CC BY 4.0', 'https://osf.io/jum2f/files/52wrx', 'NeuroImage', 'sub-02/train.pt', 'sha256', '7 to fetch', '127.0.0.1', 'free'): assert word in text, word
    assert not any('resolve' in n['path'] or 'osf-files' in n['path'] for n in web.log) and not registry.home_of(p.asset).exists()      # not a byte moved


def test_fetch_from_hub_and_osf(web):
    "Whole, checked by what the sources publish, unpacked, recorded; the second time nothing is asked for."
    out, how = lines(); web.files['datasets/Haitao999/things-eeg/resolve/main/Preprocessed_data_250Hz_whiten/sub-01/train.pt'].acts = [cut(500), busy(503), page()]
    web.files['datasets/Haitao999/things-eeg/resolve/main/Preprocessed_data_250Hz_whiten/sub-01/train.pt'].acts.pop()
    p = fetch(plan('things-eeg2', 1, bases=web.bases), **how); root = p.root
    for n in EEG:
        if 'sub-01/' in n: assert (root/n).read_bytes() == EEG[n]
    assert sorted(x.relative_to(root).as_posix() for x in root.rglob('*') if x.is_file() and not x.name.endswith('.lock')) == sorted([record_name, 'Preprocessed_data_250Hz_whiten/sub-01/test.pt', 'Preprocessed_data_250Hz_whiten/sub-01/train.pt',
        'image_metadata.npy', 'test_images/00001_aircraft_carrier/aircraft_carrier_06s.jpg', 'training_images/00001_aardvark/aardvark_01b.jpg'])
    assert not p.missing and recorded(root)['Preprocessed_data_250Hz_whiten/sub-01/train.pt']['sha256'] == hashlib.sha256(EEG['Preprocessed_data_250Hz_whiten/sub-01/train.pt']).hexdigest()
    assert any('broke off' in l for l in out) and any('unpacked: 1 files' in l for l in out)
    web.log.clear(); fetch(plan('things-eeg2', 1, ask=False), **how); assert not web.log
    r = verify('things-eeg2'); assert not r.bad and 'verified 5 of 5 files' in str(r); r = verify('things-eeg2', 1, ask=True, bases=web.bases); assert '3 as published' in str(r)
    web.log.clear(); fetch(plan('things-eeg2', [1, 2], bases=web.bases), **how); sent = [n['path'] for n in web.log if 'resolve' in n['path']]; assert len(sent) == 2 and all('sub-02' in s for s in sent)


def test_fetch_raw_from_figshare(web):
    p = fetch(plan('things-eeg2', 2, 'raw', bases=web.bases), **lines()[1]); at = p.root/'Raw_data/sub-02'
    assert len(list(at.rglob('raw_eeg_*.npy'))) == 8 and not (p.root/'Raw_data/sub-02.zip').exists() and not p.missing and p.files[0].state == 'here'
    next(at.rglob('raw_eeg_test.npy')).unlink(); q = plan('things-eeg2', 2, 'raw', ask=False); assert q.files[0].state == 'absent'      # one of its files is gone
    fetch(plan('things-eeg2', 2, 'raw', bases=web.bases), **lines()[1]); assert len(list(at.rglob('raw_eeg_*.npy'))) == 8 and not verify('things-eeg2').bad


def test_raw_unpacked_by_hand_counts(web):
    "People who have the folders already are not made to fetch them."
    root = registry.home_of(asset('things-eeg2')); (root/'Raw_data').mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(RAW['sub-01.zip'])) as z: z.extractall(root/'Raw_data')
    assert plan('things-eeg2', 1, 'raw', ask=False).files[0].state == 'here' and not plan('things-eeg2', 1, 'raw', ask=False).missing


def test_fetch_from_s3(web):
    p = fetch(plan('things-meg', 2, bases=web.bases), **lines()[1]); assert sorted(f.name for f in p.files) == sorted([*(f'derivatives/preprocessed/preprocessed_P2-epo{k}.fif' for k in ('', '-1', '-2', '-3')), 'sourcedata/sample_attributes_P2.csv'])
    assert all((p.root/f.name).read_bytes() == MEG['ds004212/'+f.name] and f.facts['md5'] for f in p.files)


def test_people_choose_files(web):
    assert [f.name for f in plan('eeg-imagenet', 3, ask=False).files] == ['EEG-ImageNet_1.pth'] and [f.name for f in plan('eeg-imagenet', [1, 9], ask=False).files] == ['EEG-ImageNet_1.pth', 'EEG-ImageNet_2.pth']
    p = plan('things-eeg2', 3, 'atm', ask=False); assert [f.urls for f in p.files][0] == ['https://huggingface.co/datasets/LidongYang/EEG_Image_decode/resolve/main/Preprocessed_data_250Hz/sub-03/preprocessed_eeg_training.npy']
    assert plan('things-eeg2', 7, 'raw', ask=False).files[0].urls == ['https://plus.figshare.com/ndownloader/files/33247622']


def test_only_needed_folders_are_listed(web):
    "Nobody lists a whole bucket for five files."
    plan('things-meg', 1, bases=web.bases); asked = [n['path'] for n in web.asked('openneuro.org')]
    assert asked and all('prefix=ds004212%2Fderivatives%2Fpreprocessed' in a or 'prefix=ds004212%2Fsourcedata' in a for a in asked)
    assert registry.heads(['a/{s}/x', 'a/b/c', 'a/b/d']) == ['a'] and registry.heads(['x', 'a/b']) == [''] and registry.heads(['a/b', 'ab/c']) == ['a', 'ab']


def test_mirror_of_the_hub(web, monkeypatch):
    "HF_ENDPOINT names another hub, as in the hub's own library; the token stays at home."
    monkeypatch.setenv('HF_ENDPOINT', web.base); monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    p = plan('things-eeg2', 1, 'whitened'); assert not p.unasked and p.bytes and p.files[0].urls[0].startswith(web.base)
    fetch(p, **lines()[1]); assert not any('Authorization' in n['headers'] for n in web.log)


def test_names_with_stars(web):
    web.hub('Feronl/NeuroBridge', {'things_eeg/preprocessed_eeg/info.json': b'{}', **{f'things_eeg/preprocessed_eeg/sub-{s:02d}/{w}.npy': blob(50, b'\x93NUMPY') for s in (1, 2) for w in ('train', 'test')}, 'other/x.npy': b'x'})
    p = fetch(plan('things-eeg2', 1, 'arrays', bases=web.bases), **lines()[1])
    assert sorted(x.relative_to(p.root).as_posix() for x in p.root.rglob('*') if x.is_file() and x.name[0] != '.') == ['preprocessed_eeg/sub-01/test.npy', 'preprocessed_eeg/sub-01/train.npy'] or (p.root/'preprocessed_eeg/info.json').exists()
    assert (p.root/'preprocessed_eeg/sub-01/train.npy').is_file() and not (p.root/'preprocessed_eeg/sub-02').exists()


def test_source_that_lists_it_no_more(web):
    files = {n: b for n, b in EEG.items() if n != 'Preprocessed_data_250Hz_whiten/sub-03/train.pt'}; web.hub('Haitao999/things-eeg', files); del web.files['datasets/Haitao999/things-eeg/resolve/main/Preprocessed_data_250Hz_whiten/sub-03/train.pt']
    p = plan('things-eeg2', 3, 'whitened', bases=web.bases); assert 'which the source does not list' in str(p)
    with pytest.raises(FetchError) as e: fetch(p, **lines()[1])
    assert 'sub-03/train.pt' in str(e.value) and e.value.do and not (p.root/'Preprocessed_data_250Hz_whiten/sub-03/train.pt').exists()


def test_source_that_is_down(web):
    "The plan says what could not be asked; what is known without asking is fetched nevertheless."
    web.answer('v2/nodes/y63gw/files/osfstorage/', lambda q: (500, b'', {})); p = plan('things-eeg2', 1, bases=web.bases)
    assert len(p.unasked) == 1 and 'osf:y63gw' in p.unasked[0] and 'could not ask osf:y63gw' in str(p) and len(p.unsized) == 3 and [f.urls for f in p.files if f.name == 'test_images.zip'] == [['https://osf.io/download/znu7b/']]


def test_listing_cannot_write_elsewhere(web):
    "A source that lists `../` gets nothing written anywhere."
    web.hub('lab/evil', {'../../evil.parquet': b'PAR1', '/abs.parquet': b'PAR1', 'fine.parquet': b'PAR1'}, kind='models')
    assets.add(Asset('evil', 'weights', 'Evil', 'tests', (Part('all', 'all', 'hub:lab/evil', {'*.parquet': '*.parquet'}, usual=True),), citation='x'))
    try:
        with pytest.raises(UnsafeError) as e: fetch(plan('evil', bases=web.bases), **lines()[1])
        assert '.parquet' in e.value.came and not any('resolve' in n['path'] for n in web.log)
    finally: del assets._assets['evil']


def test_wrong_bytes_from_a_source(web):
    "What the hub publishes does not agree with what it sends: nothing is kept, and it is said."
    n = 'Preprocessed_data_250Hz_whiten/sub-01/train.pt'; web.files['datasets/Haitao999/things-eeg/resolve/main/'+n].always = Act(body=EEG[n][::-1])
    with pytest.raises(FetchError) as e: fetch(plan('things-eeg2', 1, 'whitened', bases=web.bases), **lines()[1])
    assert 'sends another file' in e.value.came and {x.suffix for x in registry.home_of(asset('things-eeg2')).rglob('*.pt*')} <= {'.lock'}


def test_error_in_json_is_no_weights(web):
    "Nothing is published about LaBraM's size; an error message in its place is still no `.pth` file."
    assets.add(Asset('w', 'weights', 'W', 'tests', (Part('all', 'all', urls={'w.pth': [web.put('w.pth', b'{"error": "quota"}')]}, usual=True),), citation='x'))
    try:
        with pytest.raises(FetchError, match='does not begin as a .pt file does'): fetch(plan('w'), **lines()[1])
        assert {x.suffix for x in registry.home_of(asset('w')).glob('w*')} <= {'.lock'}
    finally: del assets._assets['w']


# What must be signed for.

@pytest.mark.parametrize('a', [a for a in table() if a.agreement], ids=lambda a: a.id)
def test_behind_an_agreement(a, web):
    "The page is printed, the place is named, and nobody is asked for anything."
    text = str(plan(a.id, bases=web.bases)); assert a.agreement in text and 'sign' in text and 'Nothing is fetched' in text and 'verify' in text
    with pytest.raises(MissingWeights) as e: fetch(plan(a.id, bases=web.bases))
    assert a.agreement in e.value.do and str(registry.home_of(a)) in e.value.expected and not web.log


def test_no_password_is_known():
    "The word that opens the THINGS pictures stands at the end of their terms, and nowhere here."
    for p in [*(ROOT/'brainrecon').rglob('*.py'), *(ROOT/'nbs').rglob('*.ipynb')]: assert 'things4' + 'all' not in p.read_text(encoding='utf-8'), p


def test_verify_what_was_put_there(web):
    root = registry.home_of(asset('nsd')); (root/'wds/subj01/train').mkdir(parents=True); (root/'wds/subj01/new_test').mkdir()
    (root/'betas_all_subj01_fp32_renorm.hdf5').write_bytes(b'\x89HDF'+bytes(50)); (root/'wds/subj01/train/0.tar').write_bytes(b'tar'); (root/'wds/subj01/new_test/0.tar').write_bytes(b'tar')
    assert str(verify('nsd')) == 'nsd: verified 3 of 3 files (3 seen for the first time)' and str(verify('nsd')) == 'nsd: verified 3 of 3 files (3 as recorded)'
    (root/'betas_all_subj01_fp32_renorm.hdf5').write_bytes(b'<html>'); r = verify('nsd'); assert [x['how'] for x in r.bad] == ['it is a web page']
    with pytest.raises(FileError): r.check()
    assert [x['how'] for x in verify('nsd', 2).bad] == ['is absent']*2 + ['is absent'] or len(verify('nsd', 2).bad) >= 2
    assert not web.log


# Unpacking.

def test_unpack(tmp_path):
    p = tmp_path/'x.zip'; p.write_bytes(zipped({'a/b.txt': b'one', 'a/c.bin': b'two'*1000, '__MACOSX/a': b'', 'a/.DS_Store': b''}))
    assert set(unpack(p, tmp_path)) == {'a/b.txt', 'a/c.bin'} and (tmp_path/'a/b.txt').read_bytes() == b'one'; seen = (tmp_path/'a/b.txt').stat().st_mtime_ns
    assert set(unpack(p, tmp_path, only='a/b*')) == {'a/b.txt'} and (tmp_path/'a/b.txt').stat().st_mtime_ns == seen and set(unpack(p, tmp_path, 'in')) == {'in/a/b.txt', 'in/a/c.bin'}


def test_unpack_needs_room(tmp_path, monkeypatch):
    p = tmp_path/'x.zip'; p.write_bytes(zipped({'a': bytes(10_000)})); monkeypatch.setattr('shutil.disk_usage', lambda q: type('Usage', (), dict(free=5_000))())
    with pytest.raises(FolderError): unpack(p, tmp_path)
    assert not (tmp_path/'a').exists()


def test_zip_that_lies_about_sizes(tmp_path):
    "A member that says 10 bytes and holds a million is not let out."
    with zipfile.ZipFile(tmp_path/'x.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a', bytes(1_000_000))
    data = bytearray((tmp_path/'x.zip').read_bytes()); i = data.find(b'PK\1\2'); data[i+24:i+28] = (10).to_bytes(4, 'little'); (tmp_path/'x.zip').write_bytes(bytes(data))
    with pytest.raises(FileError): unpack(tmp_path/'x.zip', tmp_path)
    assert not (tmp_path/'a').exists()


# Status and the command.

def test_status(web):
    t = status(); assert set(t.asset) == {a.id for a in table()} and set(t.state) == {'missing'}
    fetch(plan('things-meg', 2, bases=web.bases), **lines()[1]); fetch(plan('things-eeg2', 1, 'whitened', bases=web.bases), **lines()[1]); (registry.home_of(asset('swav'))).mkdir(parents=True); (registry.home_of(asset('swav'))/'swav_800ep_pretrain.pth.tar.part').write_bytes(b'x')
    t = status(); assert t[t.asset == 'swav'].state.tolist() == ['partial'] and t[t.asset == 'var'].state.tolist() == ['missing'] and set(t[t.asset == 'things-eeg2'].columns) == {'asset', 'part', 'subject', 'state', 'detail', 'bytes'}


def run(*words, **env):
    "The command in a process of its own, with nobody to answer."
    e = {**os.environ, 'PYTHONPATH': str(ROOT), **env}
    p = subprocess.run([sys.executable, '-m', 'brainrecon.jobs.cli', *words] if False else [sys.executable, '-c', 'import sys; from brainrecon.jobs.cli import main; sys.exit(main(sys.argv[1:]))', *words], cwd=ROOT, env=e, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return p.returncode, p.stdout, p.stderr


def test_command_without_a_network(tmp_path):
    "Exit codes and words, as a script sees them."
    env = dict(BRAINRECON_DATA=str(tmp_path/'data'), BRAINRECON_OFFLINE='1')
    code, out, err = run('data', 'plan', 'things-eeg2', '--subject', '1', '2', **env); assert code == 0 and 'sub-02/train.pt' in out and 'could not ask' in out and not err
    code, out, err = run('data', 'fetch', 'things-eeg2', '--subject', '1', '--yes', **env); assert code == 2 and 'BRAINRECON_OFFLINE' in err and 'sub-01/train.pt' in err and 'Traceback' not in err
    code, out, err = run('data', 'fetch', 'nsd', '--yes', **env); assert code == 2 and 'Terms-and-Conditions' in err
    code, out, err = run('data', 'verify', 'nsd', **env); assert code == 2 and 'nothing of' in err
    code, out, err = run('data', 'status', **env); assert code == 0 and 'nothing is here yet' in out
    assert not (tmp_path/'data').exists()


def test_command(web, monkeypatch, capsys):
    "Plan, refuse without an answer, fetch, verify, status, and a source that fails."
    monkeypatch.setattr(registry, 'bases', web.bases); monkeypatch.setattr('sys.stdin', io.StringIO())
    assert main(['data', 'fetch', 'things-meg', '--subject', '1']) == 2; said = capsys.readouterr(); assert '--yes' in said.err and 'brainrecon data fetch things-meg --subject 1 --yes' in said.err and '5 to fetch' in said.out
    assert main(['data', 'fetch', 'things-meg', '--subject', '1', '--yes']) == 0; assert '5 of 5 files are here' in capsys.readouterr().out
    assert main(['data', 'fetch', 'things-meg', '--subject', '1']) == 0; assert 'Everything is here' in capsys.readouterr().out
    assert main(['data', 'verify', 'things-meg', '--ask']) == 0; assert 'verified 5 of 5 files (5 as published)' in capsys.readouterr().out
    path = registry.home_of(asset('things-meg'))/'sourcedata/sample_attributes_P1.csv'; path.write_bytes(b'a,c\n')
    assert main(['data', 'verify', 'things-meg']) == 1; assert 'sample_attributes_P1.csv' in capsys.readouterr().out
    assert main(['data', 'status', 'things-meg']) == 0 and main(['data', 'status']) == 0; assert 'things-meg' in capsys.readouterr().out
    for f in web.files.values(): f.always = busy(404)
    assert main(['data', 'fetch', 'things-meg', '--subject', '2', '--yes']) == 1; assert '404' in capsys.readouterr().err


def test_another_library_fetches(tmp_path, monkeypatch, capsys):
    "What is not in our hands is never called here."
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); assert main(['data', 'fetch', 'haxby', '--yes']) != 0
    said = capsys.readouterr(); assert 'nilearn.datasets.fetch_haxby' in said.err and 'Everything is here' not in said.out


def test_answered(web, monkeypatch, capsys):
    class Person(io.StringIO):
        def isatty(self): return True
    monkeypatch.setattr(registry, 'bases', web.bases); said = iter(['no', 'y'])
    monkeypatch.setattr('sys.stdin', Person()); monkeypatch.setattr('builtins.input', lambda words: next(said))
    assert main(['data', 'fetch', 'things-meg', '--subject', '1']) == 0 and 'nothing was fetched' in capsys.readouterr().out and not registry.home_of(asset('things-meg')).exists()
    assert main(['data', 'fetch', 'things-meg', '--subject', '1']) == 0 and '5 of 5' in capsys.readouterr().out


@pytest.mark.parametrize('words', [('list', 'nsd'), ('list', '--yes'), ('make', '--part', 'x'), ('plan', 'nsd', '--yes'), ('status', '--subject', '1'), ('fetch',), ('verify',), ('fetch', '--yes'), ('plan', 'nothing'), ('plan', 'nsd', '--subject', '0'), ('plan', 'swav', '--subject', '1'), ('plan', 'nsd', '--part', 'x'), ('verify', 'nsd', '--kind', 'eeg')])
def test_refused_words(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('BRAINRECON_DATA', str(tmp_path/'data')); assert main(['data', *words]) == 2; assert 'error:' in capsys.readouterr().err
