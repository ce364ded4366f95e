"The repository itself: generated files are up to date, and what is not published stays out"
import json, re, shutil, subprocess, sys
from collections import Counter
from importlib import import_module
from pathlib import Path
import pytest

pytestmark = pytest.mark.posix

root = Path(__file__).parent.parent

def run(*args, cwd=root): return subprocess.run([str(a) for a in args], cwd=cwd, capture_output=True, text=True, check=True).stdout

def test_pyproject_comes_from_settings(tmp_path):
    shutil.copy(root/'settings.ini', tmp_path)
    shutil.copytree(root/'.github', tmp_path/'.github')
    run(Path(sys.executable).parent/'nbdev-migrate-config', cwd=tmp_path)
    for f in ('pyproject.toml', '.github/workflows/test.yaml'):
        kept = re.sub(r'.+# by hand\n', '', (root/f).read_text())         # what settings.ini can't say
        assert (tmp_path/f).read_text()==kept, f"{f} is stale: run nbdev-migrate-config, and put back the lines marked `# by hand`"
    version = (tmp_path/'psm_fastai/__init__.py').read_text().strip()
    here = (root/'psm_fastai/__init__.py').read_text()
    assert version in here, "the version in __init__.py differs from settings.ini: run nbdev-migrate-config"

def test_readme_comes_from_index(tmp_path):
    run(sys.executable, root/'tools/readme.py', tmp_path/'README.md')
    assert (tmp_path/'README.md').read_text()==(root/'README.md').read_text(), "README.md is stale: run python tools/readme.py"

def test_readme_links_to_what_exists():
    links = re.findall(r'\]\(([^)#]+)', (root/'README.md').read_text())
    pages = {re.sub(r'^\d+[a-z]?_', '', str(f.relative_to(root/'nbs').with_suffix(''))) for f in root.glob('nbs/**/*.ipynb')}
    assert len(links)>8
    for link in links:
        page = r'https://psm-fastai.github.io/psm_fastai/(.*)\.html$'
        file = 'https://raw.githubusercontent.com/psm-fastai/psm_fastai/main/(.*)'
        m = re.match(f'{page}|{file}', link)
        if m: assert m[2] and (root/m[2]).exists() or m[1] and m[1] in pages, link
        else: assert link.startswith('https://') or (root/link).exists(), link

def test_llms_txt_comes_from_the_sidebar(tmp_path):
    run(sys.executable, root/'tools/llms.py', tmp_path/'llms.txt')
    assert (tmp_path/'llms.txt').read_text()==(root/'nbs/llms.txt').read_text(), "llms.txt is stale: run python tools/llms.py"

def test_quarto_config_is_linked():
    assert (root/'nbs/_quarto.yml').resolve()==root/'_quarto.yml'

@pytest.mark.parametrize('nb', sorted(root.glob('nbs/**/*.ipynb')), ids=lambda p: p.name)
def test_notebook_outputs_are_clean(nb):
    "No traceback, no warning and no path of a machine in what is published"
    for c in json.loads(nb.read_text())['cells']:
        for o in c.get('outputs', []):
            assert o['output_type']!='error', f"{nb.name}: {o.get('ename')}"
            text = ''.join(o.get('text', [])) + ''.join(''.join(v) for k,v in o.get('data', {}).items() if k.startswith('text/'))
            for bad in ('Traceback', 'Warning:', '/home/', '/root/', '/work/', '/tmp/'):
                assert bad not in text, f"{nb.name} prints {bad!r}:\n{text[:300]}"
    assert nb.stat().st_size < 1_000_000

def test_the_repository_stays_small():
    files = [root/f for f in run('git', 'ls-files', '-z').split('\0') if f]
    assert len(files)>100 and sum(f.stat().st_size for f in files if f.is_file()) < 12e6      # 2.8 MB are the page with the map

def test_public_names_do_not_hide_fastais():
    import fastai.vision.all, psm_fastai.all as ours
    own = {n for n,o in vars(ours).items() if getattr(o, '__module__', '').startswith('psm_fastai')}
    assert len(own)>30 and not own & set(vars(fastai.vision.all))

def test_a_public_name_is_of_one_module():
    "Of two objects of one name `psm_fastai.all` would have only the last one"
    lines = (root/'psm_fastai/all.py').read_text()
    names = [n for m in re.findall(r'^from (\S+) import', lines, re.M) for n in import_module(m).__all__]
    assert len(names)>100 and not [n for n,count in Counter(names).items() if count>1]

def test_the_table_of_guarantees_is_of_these_tests():
    "Rows of the page, marks of the tests and stored outcomes belong together, and none has failed"
    marked = set()
    for f in (root/'tests').glob('test_*.py'): marked |= {(row,f.name) for row in re.findall(r"mark.guarantee\('(\w+)'\)", f.read_text())}
    stored = json.loads((root/'nbs/explain/guarantees.json').read_text())['tests']
    how = 'run pytest --guarantees, and once more with -m slow'
    assert {(row,t.split('::')[0]) for row,tests in stored.items() for t in tests}==marked, how
    assert all(set(o)=={'passed'} for tests in stored.values() for o in tests.values()), how
    for row,tests in stored.items():
        for t in tests:
            f,name = t.split('::')
            assert f'def {name}(' in (root/'tests'/f).read_text(), f'{t} is gone: remove it from guarantees.json, {how}'
    page = json.loads((root/'nbs/explain/guarantees.ipynb').read_text())
    source = ''.join(''.join(c['source']) for c in page['cells'])
    assert {row for row,_ in marked}==set(re.findall(r"^    (\w+) = \(", source, re.M))
