"Build from settings.ini, the only place that holds name, version and requirements."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['=']); ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
extras = {k[6:]: v.split() for k, v in cfg.items() if k.startswith('extra_')}
extras['demo'] = sorted({r for k in ('meeg', 'fmri', 'pictures', 'diffusion', 'jobs') for r in extras[k]})
extras['dev'] = sorted({r for k, v in extras.items() if k != 'prompt' for r in v})   # what the tests and the site need: everything but the text encoders

packages = find_packages(include=['brainrecon', 'brainrecon.*'])
jobs = here/'nbs'/'08_jobs'     # job notebooks travel inside the wheel as brainrecon/notebooks
if jobs.is_dir(): packages.append('brainrecon.notebooks')

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'].split(), license='Apache-2.0',
    url=cfg['git_url'], python_requires='>=' + cfg['min_python'],
    packages=packages,
    package_dir={'brainrecon': 'brainrecon', 'brainrecon.notebooks': 'nbs/08_jobs'},
    package_data={'brainrecon': ['assets/**/*'], 'brainrecon.notebooks': ['*/*.ipynb', 'recipes/*.yml', 'sweeps/*.yml', 'results/*.json']},
    install_requires=cfg['requirements'].split(), extras_require=extras,
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3'],
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
)
