import os
import matplotlib; matplotlib.use('Agg')
import pytest, torch
torch.set_num_threads(1)   # several workers on few cores would only wait for each other

@pytest.fixture
def browser():
    "Headless Chromium. Skips without it; fails instead where PSM_NEED_BROWSER is set"
    missing = pytest.fail if os.environ.get('PSM_NEED_BROWSER') else pytest.skip
    try: from playwright.sync_api import sync_playwright
    except ImportError: missing("playwright is not installed: pip install -e '.[dev]'")
    import shutil, tempfile
    exe = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not exe: missing("Chromium is not installed: sudo apt-get install -y chromium")
    flags = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
    with sync_playwright() as p, tempfile.TemporaryDirectory() as profile:
        ctx = p.chromium.launch_persistent_context(profile, executable_path=exe, headless=True, args=flags)
        yield ctx
        ctx.close()
