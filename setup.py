"Build from settings.ini, the only place that holds name, version and requirements."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['=']); ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
extras = {k[6:]: v.split() for k, v in cfg.items() if k.startswith('extra_')}
extras['demo'] = sorted({r for k in ('meeg', 'fmri', 'pictures', 'diffusion', 'jobs') for r in extras[k]})
extras['dev'] = sorted({r for k, v in extras.items() if k != 'prompt' for r in v})   # what the tests and the site need: everything but the text encoders

def page():
    "The README as the package index shows it: away from the repository, so links to its files become addresses."
    text = re.sub(r'^<!--.*?-->\s*', '', (here/'README.md').read_text(encoding='utf-8'))      # without the line that says what made it
    address = lambda m: f"{m[1]}]({cfg['git_url']}/{'raw' if m[1].startswith('!') else 'blob'}/{cfg['branch']}/{m[2]})"
    return re.sub(r'(!?\[[^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)', address, text)

packages = find_packages(include=['brainrecon', 'brainrecon.*'])
jobs = here/'nbs'/'08_jobs'     # job notebooks travel inside the wheel as brainrecon/notebooks
if jobs.is_dir(): packages.append('brainrecon.notebooks')

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=page(), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'].split(),
    license_expression='Apache-2.0 AND MIT', license_files=['LICENSE', 'brainrecon/assets/pictures/NOTICE'],     # the pictures are Microsoft's, under MIT
    project_urls={'Source': cfg['git_url'], 'Documentation': cfg['doc_host'] + cfg['doc_baseurl'], 'Changes': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"}, python_requires='>=' + cfg['min_python'],
    packages=packages,
    package_dir={'brainrecon': 'brainrecon', 'brainrecon.notebooks': 'nbs/08_jobs'},
    include_package_data=False,     # what is named below and nothing else: MANIFEST.in speaks of the source archive
    package_data={'brainrecon': ['assets/**/*'], 'brainrecon.notebooks': ['*/*.ipynb', 'recipes/*.yml', 'sweeps/*.yml', 'results/*.json', 'costs/*.json']},
    install_requires=cfg['requirements'].split(), extras_require=extras,
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Topic :: Scientific/Engineering',
        'Programming Language :: Python :: 3', *(f'Programming Language :: Python :: {v}' for v in cfg['pythons'].split())],
    options={'editable_wheel': {'mode': 'compat'}},     # a path, not an import hook: beside a clone, its folder would be taken for a package without contents
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
)
