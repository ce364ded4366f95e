"The documentation, as nbdev makes it for Quarto, without Quarto: links, names, pictures and code that a reader meets"
import ast, configparser, importlib, inspect, json, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, pytest, yaml
from fastcore.docments import docments
from psm_fastai.callback import PSMCallback, psm_learner, psm_methods
from psm_fastai.pretrain import psm_pretrain
from common import once
from data import noise_files

pytestmark = pytest.mark.posix

root = Path(__file__).parent.parent
notebooks = sorted(root.glob('nbs/**/*.ipynb'))

def cells(nb, kind): return [''.join(c['source']) for c in json.loads(Path(nb).read_text())['cells'] if c['cell_type']==kind]
def without_code(md): return re.sub(r'```.*?```|`[^`\n]*`', '', md, flags=re.S)
def links(md): return re.findall(r'\]\(([^)\s]+)\)', without_code(md)) + re.findall(r'(?:src|href)="([^"]+)"', md)
def slug(title): return re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', re.sub(r'[`*]', '', title)).strip().lower())

def process_notebooks(to):
    for f in ('pyproject.toml','settings.ini','_quarto.yml','README.md'): shutil.copy(root/f, to)
    for d in ('nbs','psm_fastai'):
        shutil.copytree(root/d, to/d, symlinks=True, ignore=shutil.ignore_patterns('__pycache__','.ipynb_checkpoints'))
    code = "from nbdev.serve import proc_nbs\nif __name__=='__main__': proc_nbs('nbs', n_workers=2)"
    subprocess.run([sys.executable, '-c', code], cwd=to, check=True, capture_output=True, env={**os.environ, 'MPLBACKEND':'agg'})

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder `_proc`, made in a copy of the repository"
    return once(tmp_path_factory, 'site', process_notebooks)/'_proc'

def test_every_notebook_is_processed(site):
    assert {f.relative_to(site) for f in site.glob('**/*.ipynb')}=={f.relative_to(root/'nbs') for f in notebooks}

@pytest.mark.parametrize('nb', notebooks, ids=lambda f: f.stem)
def test_notebook_is_valid(nb):
    "Jupyter and Quarto refuse another one"
    nbformat.validate(nbformat.read(nb, 4))

@pytest.mark.parametrize('nb', notebooks, ids=lambda f: f.stem)
def test_title_and_description(nb):
    first = cells(nb, 'markdown')[0].splitlines()
    assert first[0].startswith('# ') and len([l for l in first if l.startswith('> ')])==1
    assert 20 < len(next(l for l in first if l.startswith('> '))) < 200

address = 'https://psm-fastai.github.io/psm_fastai/'
def page_of(site, path):
    "The notebook behind a page of the published site, where names have no numbers"
    path = Path('index.html' if path=='.' else path.removesuffix('.md'))
    return next((f for f in (site/path.parent).glob('*.ipynb') if re.sub(r'^\d+[a-z]?_', '', f.stem)+'.html'==path.name), site/path)

def test_links_lead_somewhere(site):
    seen = doclinks = 0
    for f in site.glob('**/*.ipynb'):
        for md in cells(f, 'markdown') + ['\n'.join(outputs(f))]:
            for link in links(md):
                path,_,anchor = link.partition('#')
                ours = path.startswith(address)
                if not ours and path.startswith(('https://','http://','data:','mailto:')): continue
                seen,doclinks = seen+1,doclinks+ours
                source = site/path.removeprefix(address) if ours else f.parent/path if path else f
                if not source.exists(): source = page_of(site, os.path.relpath(source, site))
                assert source.exists() and not path.endswith('.ipynb'), f'{f.name} links to {link}, and the site has no such page'
                if anchor and source.suffix=='.ipynb':
                    text,shown = ('\n'.join(o) for o in (cells(source, 'markdown'), outputs(source)))
                    heads = {slug(h) for h in re.findall(r'^#+ (.+)$', text, re.M)}
                    heads |= {*re.findall(r'\{#([\w.-]+)', text), *re.findall(r'^#+ ([\w.]+)$', shown, re.M)}
                    assert anchor.lower() in {h.lower() for h in heads}, f'{f.name} links to {link}, there are {sorted(heads)[:20]}'
    assert seen>200 and doclinks>60

def outputs(nb):
    return [''.join(v) for c in json.loads(Path(nb).read_text())['cells'] for o in c.get('outputs', [])
            for k,v in o.get('data', {}).items() if k in ('text/markdown','text/html')]

def test_sidebar_and_notebooks_are_the_same_pages():
    def pages(o):
        if isinstance(o, str): return [o]
        return [p for c in o for p in pages(c.get('contents', c.get('href', [])) if isinstance(c, dict) else c)]
    listed = pages(yaml.safe_load((root/'_quarto.yml').read_text())['website']['sidebar']['contents'])
    assert len(listed)==len(set(listed)) and set(listed)=={str(f.relative_to(root/'nbs')) for f in notebooks}

def test_public_names_are_documented_and_linked(site):
    "Each module's public functions and classes have a heading on its page, and names in backticks lead to one"
    linked = set()
    for nb in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        name = nb.stem.partition('_')[2]
        m = importlib.import_module(f'psm_fastai.{name}')
        shown = '\n'.join(outputs(site/nb.name))
        for n in m.__all__:
            if callable(getattr(m, n)) and getattr(getattr(m, n), '__module__', '')==m.__name__:
                assert re.search(rf'^### {n}$', shown, re.M), f'{n} has no heading on the page of {name}'
    for f in site.glob('**/*.ipynb'): linked |= set(re.findall(r'\[`(\w+)`\]\(', '\n'.join(cells(f, 'markdown'))))
    assert {'PSMCallback','PSMLoss','NeighbourExplorer','PurityCallback'} <= linked and len(linked)>40

def code_cells(site):
    return [(f.name, c) for f in site.glob('**/*.ipynb') for c in json.loads(f.read_text())['cells'] if c['cell_type']=='code']

def show_doc_cells(site): return [(f, c) for f,c in code_cells(site) if re.search(r'^show_doc\(', ''.join(c['source']), re.M)]

def test_quarto_puts_no_api_heading_into_a_div(site):
    "It makes a div around a cell with metadata that it doesn't know, and a heading in a div is not in the table of contents"
    shown = show_doc_cells(site)
    assert len(shown)>300
    assert not [(f, c['metadata']) for f,c in shown if set(c['metadata'])-{'language'} or 'output: asis' not in ''.join(c['source'])]

def test_widgets_show_their_html(site):
    "Quarto would prefer the view of a widget, which shows nothing without its model"
    data = [(f, set(o.get('data', {}))) for f,c in code_cells(site) for o in c.get('outputs', [])]
    assert not [f for f,kinds in data if 'application/vnd.jupyter.widget-view+json' in kinds]
    for f in ('explore.ipynb', '09b_explorer.ipynb'):
        assert [g for g,kinds in data if f==g and 'text/html' in kinds]
        assert 'psm-still' in (site/'tutorials'/f if f=='explore.ipynb' else site/f).read_text()

def test_signatures_are_short(site):
    shown = [''.join(o['data']['text/markdown']) for _,c in show_doc_cells(site) for o in c['outputs']]
    signatures = '\n'.join(s for text in shown for s in re.findall(r'```python\n(.*?)```', text, re.S))
    assert ')->Mined:' in signatures and 'def GuestCallback(**events):' in signatures
    assert not re.findall(r'__main__|NoneType=None|psm_fastai\.\w+\.[A-Z]', signatures)

def test_headings_are_the_names_that_links_lead_to(site):
    for f,c in show_doc_cells(site):
        name = re.search(r'^show_doc\((.+)\)$', ''.join(c['source']), re.M)[1]
        assert f'### {name}\n' in '\n'.join(''.join(o['data']['text/markdown']) for o in c['outputs']), (f, name)

def test_names_lead_to_fastais_pages_too(site):
    text = '\n'.join(md for f in site.glob('**/*.ipynb') for md in cells(f, 'markdown'))
    assert '[`Learner`](https://docs.fast.ai/learner.html#learner)' in text

def test_no_link_holds_a_link(site):
    "nbdev makes a link of a name in backticks, also within the text of a link, and neither works then"
    nested = re.compile(r'(?<!!)\[[^][\n]*\[`[^`\n]+`\]\([^)\n]*\)[^][\n]*\]\(')
    assert not [(f.name, m) for f in site.glob('**/*.ipynb') for md in cells(f, 'markdown') for m in nested.findall(md)]

def test_the_page_of_names_is_complete(site):
    "It is made anew with the site, and links each name to its place"
    page = '\n'.join(outputs(site/'explain/names.ipynb'))
    for nb in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        m = importlib.import_module(f"psm_fastai.{nb.stem.partition('_')[2]}")
        for n in m.__all__: assert re.search(rf'^\| \[?`{n}`', page, re.M), n
    assert f'[`Learner.nearest`]({address}transfer.html#learner.nearest)' in page and f'[`PSMCallback`]({address}' in page
    assert '`Learner._' not in page

def test_each_public_thing_says_what_it_does():
    for nb in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        m = importlib.import_module(f"psm_fastai.{nb.stem.partition('_')[2]}")
        for n in m.__all__:
            o = getattr(m, n)
            if callable(o) and getattr(o, '__module__', '')==m.__name__: assert (o.__doc__ or '').strip(), f'{m.__name__}.{n}'

def test_each_setting_is_described():
    "In the table of parameters and in the help of the command"
    for f in (PSMCallback, psm_learner, *psm_methods.values(), psm_pretrain):
        told = docments(f)
        assert not [n for n,p in inspect.signature(f).parameters.items() if p.kind!=p.VAR_KEYWORD and n!='cls' and not told.get(n)], f
    defaults = {n: p.default for n,p in inspect.signature(PSMCallback).parameters.items()}
    assert {n: defaults[n] for n,v in PSMCallback().settings.items()}==PSMCallback().settings

def test_readmes_python_runs(tmp_path):
    "On a few images of noise, with fewer epochs"
    noise_files(tmp_path/'photos', [(32,32)]*100)
    blocks = re.findall(r'```python\n(.*?)```', (root/'README.md').read_text(), re.S)
    assert len(blocks)==3
    short,n = re.subn(r'fit_one_cycle\(\d+,', 'fit_one_cycle(1,', '\n'.join(blocks))
    short = short.replace('digits_dls()', 'digits_dls(limit=200)')
    assert n==2 and 'limit=200' in short
    script = f"import torch; torch.set_num_threads(1)\n{short}\nassert 'f127' in learn.features()\n"
    p = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ, MPLBACKEND='agg'))
    assert p.returncode==0, p.stderr[-2000:]

def test_readmes_table_is_what_was_measured():
    "Accuracy of PSM and the share of pulled neighbours that are right, from the stored rows"
    import pandas as pd
    found = re.findall(r'^\|.* (\d+) seeds \| (0\.\d+) \|.*\| (0\.\d+) \|$', (root/'README.md').read_text(), re.M)
    stored = (('digits_ablation',1), ('digits_ablation',4), ('cifar10_ablation',1), ('cifar10_longer',1))
    assert len(found)==len(stored)
    for (seeds,knn,right),(name,split_bn) in zip(found, stored):
        rows = pd.read_csv(root/f'results/{name}.csv')
        rows = rows[rows.method.eq('psm') & rows.epochs.eq(rows.epochs.max()) & rows.linear.notna() & rows.split_bn.eq(split_bn)]
        assert len(rows)==int(seeds)
        assert abs(rows.knn.mean()-float(knn))<=.00051 and abs(rows.purity.mean()-float(right))<=.0051, name

def test_readmes_commands_exist():
    text = (root/'README.md').read_text()
    scripts = configparser.ConfigParser()
    scripts.read(root/'settings.ini')
    assert scripts['DEFAULT']['console_scripts'].startswith('psm_pretrain=')
    used = {o for line in re.findall(r'psm_pretrain[^`\n&]*', text) for o in re.findall(r'--[\w-]+', line)}
    said = subprocess.run([Path(sys.executable).parent/'psm_pretrain', '--help'], capture_output=True, text=True, check=True).stdout
    assert used and used <= {*re.findall(r'--[\w-]+', said)}

def test_programs_take_the_options_that_are_named():
    "The programs in `benchmarks/`, as they and the notebooks say to start them; cifar10.py takes those of the command"
    programs = {f.stem: f.read_text() for f in root.glob('benchmarks/*.py')}
    named = {(p,o) for text in [*programs.values(), *(md for nb in notebooks for md in cells(nb, 'markdown'))]
             for p,line in re.findall(r'benchmarks/(\w+)\.py([^`\n]*)', text) for o in re.findall(r'--([\w-]+)', line)}
    takes = {p: {a.arg.replace('_','-') for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef) and f.name=='main'
                 for a in f.args.args} for p,text in programs.items()}
    takes['cifar10'] = {n.replace('_','-') for n in inspect.signature(psm_pretrain).parameters}
    assert len(named)>8 and not [(p,o) for p,o in named if o not in takes.get(p, ())]

@pytest.mark.parametrize('nb', notebooks, ids=lambda f: f.stem)
def test_what_a_cell_shows_is_saved(nb):
    "A cell that prints, or ends in a value, has an output"
    def shows(code):
        body = ast.parse(code).body
        calls = [s.value.func.id for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)
                 and isinstance(s.value.func, ast.Name)]
        last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
        values = ast.Name,ast.Attribute,ast.Subscript,ast.Dict,ast.JoinedStr
        draws = isinstance(last, ast.Call) and getattr(last.func, 'attr', '') in ('round','plot','show_neighbours','show_loss','show_batch')
        return 'print' in calls or isinstance(last, values) or draws
    for c in json.loads(nb.read_text())['cells']:
        code = ''.join(c['source'])
        if c['cell_type']!='code' or re.search(r'^#\s*\|\s*(export|hide|output: false|eval: false)', code, re.M): continue
        if shows(re.sub(r'^#\s*\|.*\n', '', code, flags=re.M)):
            assert c['outputs'], f'{nb.name} was saved without what this shows: {code[-200:]}'

@pytest.mark.parametrize('nb', notebooks, ids=lambda f: f.stem)
def test_each_figure_has_a_text_for_those_who_cannot_see_it(nb):
    for c in json.loads(nb.read_text())['cells']:
        code = ''.join(c['source'])
        figure = any(kind.startswith('image/') for o in c.get('outputs', []) for kind in o.get('data', {}))
        if figure and not code.startswith('#| hide'):
            assert '#| fig-alt: ' in code, f'{nb.name} has a figure without fig-alt: {code[-200:]}'

def test_spelling():
    "codespell finds nothing in what people read; a link check is above"
    files = [*notebooks, *root.glob('*.md'), *root.glob('psm_fastai/*.py'), *root.glob('tests/*.py'), *root.glob('benchmarks/*.py'),
             root/'settings.ini']
    text = {f: '\n'.join(cells(f, 'markdown')+cells(f, 'code')) if f.suffix=='.ipynb' else f.read_text()
            for f in files if f.name!='_modidx.py'}
    p = subprocess.run([sys.executable, '-m', 'codespell_lib', '-', '-L', 'fo,te,ist,ue,ba,docments'], input='\n'.join(text.values()),
                       capture_output=True, text=True)
    assert p.returncode==0 and not p.stdout, p.stdout+p.stderr
