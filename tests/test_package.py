"What is published: wheel and sdist, as a user installs them"
import re, subprocess, sys, tarfile, zipfile
from importlib.metadata import version
from pathlib import Path
import nbformat, pytest
from common import once

pytestmark = pytest.mark.posix

root = Path(__file__).parent.parent

def run(*args, **kwargs):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kwargs)
    assert p.returncode==0, p.stdout[-2000:]+p.stderr[-2000:]
    return p.stdout

def build(d):
    for f in run('git','-C',root,'ls-files','-z','--cached','--others','--exclude-standard').split('\0'):
        if f and (root/f).is_file() and not f.startswith('nbs/'):
            (d/f).parent.mkdir(parents=True, exist_ok=True)
            (d/f).write_bytes((root/f).read_bytes())
    run(sys.executable, '-m', 'build', '--no-isolation', d)

@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "Wheel and sdist of the files that git knows"
    return once(tmp_path_factory, 'package', build)/'dist'

def test_wheel_and_sdist(dist):
    wheel,sdist = (next(dist.glob(p)) for p in ('*.whl','*.tar.gz'))
    names = zipfile.ZipFile(wheel).namelist()
    modules = {f'psm_fastai/{f.name}' for f in (root/'psm_fastai').glob('*.py')}
    static = {f'psm_fastai/static/{f.name}' for f in (root/'psm_fastai/static').iterdir() if f.suffix in ('.js','.css')}
    assert modules | static | {'psm_fastai/py.typed'} == {n for n in names if not '.dist-info/' in n} and len(modules)>20 and len(static)>10
    assert wheel.stat().st_size < 320_000
    assert modules | static | {'README.md','LICENSE','pyproject.toml'} <= {n.partition('/')[2] for n in tarfile.open(sdist).getnames()}
    run(sys.executable, '-m', 'twine', 'check', '--strict', wheel, sdist)

def test_readmes_first_command_on_a_new_machine(dist, tmp_path):
    "Word for word, but for the wheel of this clone in place of what it would download, and a shorter training"
    line = re.search(r'^python3 -m venv .*psm_pretrain digits$', (root/'README.md').read_text(), re.M)[0]
    deps = next(p for p in map(Path, sys.path) if (p/'torch').is_dir())
    wheel = next(dist.glob('*.whl'))
    install = (f'echo {deps} > $(echo .venv/lib/python*/site-packages)/deps.pth && '
               f'python -m pip install --no-deps --no-index --ignore-installed -q {wheel}')
    short = line.replace('pip install .', install) + ' --epochs 1 --limit 200'
    assert short.count('deps.pth')==1
    out = run('bash', '-ec', short.replace('python3 -m venv', f'{sys.executable} -m venv'), cwd=tmp_path)
    assert 'kNN accuracy' in out and (tmp_path/'runs/digits/neighbours.html').exists()

def test_readmes_pictures_show_on_a_package_index(dist):
    "There, and on a code-hosting page of a fork, links have to be absolute"
    wheel = zipfile.ZipFile(next(dist.glob('*.whl')))
    meta = wheel.read(next(n for n in wheel.namelist() if n.endswith('METADATA'))).decode()
    pictures = re.findall(r'!\[[^\]]*\]\(([^)]+)\)', meta)
    assert pictures and all(p.startswith('https://raw.githubusercontent.com/') for p in pictures)
    for p in pictures: assert (root/p.split('/main/')[1]).exists(), p

def test_the_version_is_the_same_everywhere(dist):
    import psm_fastai
    ini = re.search(r'^version = (.+)$', (root/'settings.ini').read_text(), re.M)[1]
    assert psm_fastai.__version__==ini==version('psm_fastai') and next(dist.glob('*.whl')).name.startswith(f'psm_fastai-{ini}-')
    assert f'## {ini}' in (root/'CHANGELOG.md').read_text()

def shorter_quickstart():
    """The code cells of the quickstart with a training of two epochs.
    What thirty reach is asserted by the page itself, which nbdev-test runs"""
    cells = [c.source for c in nbformat.read(root/'nbs/tutorials/quickstart.ipynb', 4).cells if c.cell_type=='code']
    longer,learned = 'fit_one_cycle(30,',"assert scores['trained'].interval[0] > max(untrained, scores['raw pixels'])"
    assert [sum(text in c for c in cells) for text in (longer,learned)]==[1,1]
    return [c.replace(longer, 'fit_one_cycle(2,').replace(learned, "assert {*scores}=={'raw pixels','untrained','trained'}") for c in cells]

def test_the_wheel_runs_the_quickstart(dist, tmp_path):
    "In a folder from which the sources can't be imported. The dependencies are those that are installed"
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target', tmp_path/'lib', next(dist.glob('*.whl')))
    (tmp_path/'away').mkdir()
    code = f"""
import sys, torch
torch.set_num_threads(1)
sys.path[:0] = [{str(tmp_path/'lib')!r}]
import psm_fastai
assert psm_fastai.__file__.startswith({str(tmp_path/'lib')!r}), psm_fastai.__file__
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
cells = {shorter_quickstart()!r}
for c in cells: shell.run_cell(c).raise_error()
print('ran', len(cells), 'cells')
"""
    out = run(sys.executable, '-c', code, cwd=tmp_path/'away')
    assert int(re.search(r'ran (\d+) cells', out)[1])>4
