"What git tracks, with the changes that nobody has committed yet, as a repository that can be cloned."
import shutil, subprocess
from pathlib import Path
from notebooks import ROOT

MADE = {'PKG-INFO', 'setup.cfg'}      # what a source archive holds besides


def tracked()->list:
    "What git tracks; in an unpacked source archive, every file that was packed."
    if (ROOT/'.git').exists(): names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')[:-1]
    else: names = [n for n in (ROOT/'brainrecon.egg-info'/'SOURCES.txt').read_text(encoding='utf-8').splitlines() if '.egg-info/' not in n and n not in MADE]
    return sorted(n for n in names if (ROOT/n).is_file())


def commit_all(at):
    "A repository of one commit."
    for words in (['init', '-q'], ['add', '-A', '-f'], ['-c', 'user.name=tests', '-c', 'user.email=tests@example.org', '-c', 'commit.gpgsign=false', 'commit', '-q', '-m', 'as it lies here']): subprocess.run(['git', *words], cwd=at, check=True)


def checkout(
    at:Path,   # an empty folder
)->Path:
    "This tree as it lies here, as a repository."
    for n in tracked(): (at/n).parent.mkdir(parents=True, exist_ok=True); shutil.copy2(ROOT/n, at/n)
    commit_all(at); return at
