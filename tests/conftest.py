import json, os, platform
from importlib.metadata import version
from pathlib import Path
import matplotlib; matplotlib.use('Agg')
import pytest
import machine

def pytest_addoption(parser):
    parser.addoption('--guarantees', action='store_true', help='write the outcomes of the marked tests to nbs/explain/guarantees.json')

def pytest_collection_modifyitems(items):
    for o in items: o.user_properties += [('guarantee', m.args[0]) for m in o.iter_markers('guarantee')]

def pytest_sessionfinish(session):
    if not session.config.getoption('guarantees') or hasattr(session.config, 'workerinput'): return
    f = Path(__file__).parent.parent/'nbs/explain/guarantees.json'
    tests,seen = json.loads(f.read_text())['tests'] if f.exists() else {},{}
    for outcome in ('passed','failed','skipped','error'):
        for r in session.config.pluginmanager.get_plugin('terminalreporter').stats.get(outcome, []):
            name = r.nodeid.removeprefix('tests/').split('[')[0]
            for _,row in [p for p in getattr(r, 'user_properties', ()) if p[0]=='guarantee']:
                res = seen.setdefault(row, {}).setdefault(name, {})
                res[outcome] = res.get(outcome, 0)+1
    for row,of in seen.items(): tests.setdefault(row, {}).update(of)
    versions = dict(python=platform.python_version(), **{n: version(n) for n in ('torch','torchvision','fastai','fastcore','accelerate')})
    f.write_text(json.dumps(dict(versions=versions, system=platform.system(), tests=tests), indent=1, sort_keys=True)+'\n')

@pytest.fixture
def learn():
    "A learner that was pretrained for two epochs"
    from fastai.vision.all import set_seed
    from common import PSMCallback, quiet
    set_seed(0)
    l = quiet(cbs=[PSMCallback(bank_size=128, mine_after=.3)])
    l.fit_one_cycle(2, 1e-3)
    return l

@pytest.fixture
def browser():
    "Headless Chromium. Skips without it; fails instead where PSM_NEED_BROWSER is set"
    missing = pytest.fail if os.environ.get('PSM_NEED_BROWSER') else pytest.skip
    try: from playwright.sync_api import sync_playwright
    except ImportError: missing("playwright is not installed: pip install -e '.[dev]'")
    import shutil, tempfile
    exe = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not exe: missing("Chromium is not installed: sudo apt-get install -y chromium")
    flags = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
             '--disable-component-update --disable-sync').split()
    with sync_playwright() as p, tempfile.TemporaryDirectory() as profile:
        ctx = p.chromium.launch_persistent_context(profile, executable_path=exe, headless=True, args=flags)
        yield ctx
        ctx.close()
