"The explorer in JupyterLab and in Notebook 7, driven as a person does; and its parts without a browser"
import io, json, os, shutil, signal, socket, subprocess, sys, time, urllib.request
import nbformat, numpy as np, pytest
from types import SimpleNamespace
from fastai.vision.all import Image, set_seed
from psm_fastai.all import *
from common import silent
from data import noise_files, pixels
from in_browser import faint, misplaced

@pytest.fixture(scope='module')
def history():
    set_seed(0)
    learn = silent(psm_learner(digits_dls(bs=64, limit=300), cbs=[PSMCallback(mine_after=0., n_pos=6, n_neg=50),
        h := NeighbourHistory(n_probes=20, n_pos=6, n_neg=5), KNNCallback()]))
    learn.fit(3, 1e-3)
    return h

@pytest.fixture
def jupyter(tmp_path, history, request):
    "A server with one notebook: the address of that notebook in JupyterLab or Notebook 7"
    history.save(tmp_path/'history')
    cells = ["from psm_fastai.all import *\nhistory = NeighbourHistory.load('history')",
             "explorer = NeighbourExplorer(history, layout='pca')\nexplorer",
             """import json
from pathlib import Path
seen = dict(query=explorer.query, epoch=explorer.epoch, picked=explorer.selected.id.tolist(), order=explorer.order)
Path('seen.json').write_text(json.dumps(dict(seen, flagged=explorer.flagged.to_dict('list')), default=str))
from PIL import Image
Image.effect_noise((600,400), 60).save('large.png')
history.files = dict.fromkeys(history.map.ids.tolist(), 'large.png')
'all is ' + 'written'""",
             "explorer.query,explorer.epoch,explorer.order = history.ids[7],1,'id'",
             "NeighbourAudit(history, n=3)"]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells],
                                            metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))),
                   tmp_path/'explore.ipynb')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = dict(os.environ, JUPYTER_CONFIG_DIR=str(tmp_path/'.config'), JUPYTER_RUNTIME_DIR=str(tmp_path/'.run'),
               JUPYTERLAB_SETTINGS_DIR=str(tmp_path/'.settings'), JUPYTERLAB_WORKSPACES_DIR=str(tmp_path/'.workspaces'),
               OMP_NUM_THREADS='1')
    args = ['--no-browser', f'--port={port}', '--IdentityProvider.token=', '--ServerApp.allow_root=True',
            f'--ServerApp.root_dir={tmp_path}', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    proc = subprocess.Popen([sys.executable, '-m', 'jupyter', 'lab' if request.param=='lab' else 'notebook', *args], env=env,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api', timeout=2).read(); break
            except OSError: time.sleep(.5)
        yield f'http://127.0.0.1:{port}/' + ('lab/tree' if request.param=='lab' else 'notebooks') + '/explore.ipynb',tmp_path
    finally:
        os.killpg(proc.pid, signal.SIGTERM)
        proc.wait(20)

def until(page, f):
    for _ in range(150):
        if f(): return
        page.wait_for_timeout(100)
    assert f()

class Notebook:
    "A notebook in the browser"
    def __init__(self, page, url):
        self.page = page
        page.set_viewport_size(dict(width=1300, height=1400))
        self.open(url)

    def open(self, url):
        self.page.goto(url)
        self.page.wait_for_selector('.jp-Notebook .jp-Cell:visible', timeout=90_000)
        self.page.wait_for_function("document.body.innerText.includes('Python 3')", timeout=90_000)
        self.cells = self.page.locator('.jp-Notebook .jp-CodeCell')

    def run(self, i):
        for _ in range(10):             # until the kernel is there
            self.cells.nth(i).locator('.cm-content').click()
            self.page.keyboard.press('Shift+Enter')
            self.page.wait_for_timeout(1500)
            if self.cells.nth(i).locator('.jp-InputPrompt').first.inner_text()!='[ ]:': return

def scrolled(app):
    "By how much the output of a notebook is larger than its frame, which then gets bars to scroll it"
    return app.evaluate("(e => [e.scrollWidth-e.clientWidth, e.scrollHeight-e.clientHeight])(document.querySelector('.jp-OutputArea-output:has(.psm-map)'))")

@pytest.mark.parametrize('jupyter', ['lab','notebook'], indirect=True)
def test_in_the_browser(browser, jupyter, history):
    "Click, lasso, slider and keyboard are known to Python, and the other way round; the saved notebook keeps a picture"
    url,folder = jupyter
    page = browser.new_page()
    nb = Notebook(page, url)
    nb.run(0), nb.run(1)
    app = page.locator('.psm-map')
    app.wait_for(timeout=120_000)
    name,when = app.locator('.panel .name'),app.locator('.when')
    until(page, lambda: app.locator('.go').count()==6)
    assert page.locator('.psm-still').is_hidden()
    for width in (900,1600,1300):
        page.set_viewport_size(dict(width=width, height=1400))
        page.wait_for_timeout(500)
        assert scrolled(app)==[0,0], width
    start = name.inner_text()
    app.locator('.strip .item').nth(3).click()
    until(page, lambda: name.inner_text()!=start)
    count = nb.cells.count()
    for key in ('ArrowDown','a','b','f','s'): page.keyboard.press(key)        # a and b add cells to a notebook, elsewhere
    until(page, lambda: when.inner_text()=='epoch 2 of 3' and app.locator('.bag').inner_text().startswith('1 selected'))
    assert nb.cells.count()==count
    app.get_by_role('slider', name='Epoch').focus()
    page.keyboard.press('ArrowLeft')
    until(page, lambda: when.inner_text()=='epoch 1 of 3')
    page.keyboard.press('ArrowRight')
    app.get_by_role('button', name='Lasso: select by drawing').first.click()
    box = app.locator('.map').first.bounding_box()
    page.mouse.move(box['x']+.03*box['width'], box['y']+.03*box['height'])        # its corners are round
    page.mouse.down()
    for x,y in ((.99,.01),(.99,.99),(.01,.99)): page.mouse.move(box['x']+x*box['width'], box['y']+y*box['height'], steps=3)
    page.mouse.up()
    app.locator('select').nth(1).select_option('id')
    page.wait_for_timeout(500)
    last = int(name.inner_text().split()[1])
    nb.run(2)
    until(page, lambda: (folder/'seen.json').exists())
    page.wait_for_timeout(300)
    seen = json.loads((folder/'seen.json').read_text())
    assert seen['query']==last and seen['epoch']==2 and seen['order']=='id' and len(seen['picked'])>200
    assert seen['flagged']['query']==[last] and seen['flagged']['kind']==['image']
    app.locator('button.play').focus()
    page.keyboard.press('e')                  # the kernel sends the image itself, which is drawn larger than a thumbnail
    until(page, lambda: app.locator('.compare canvas').first.bounding_box()['width']>400)
    page.keyboard.press('Escape')
    for theme in ('true','false'):
        page.evaluate(f"document.body.dataset.jpThemeLight = '{theme}'")
        until(page, lambda: app.get_attribute('data-theme')==('light' if theme=='true' else 'dark'))
        for key in ('','?'):
            if key: page.keyboard.press(key)
            assert misplaced(page)==faint(page)==[]
            if key: assert app.locator('dt').first.bounding_box()['width']>140        # notebooks have a style for lists of their own
            if key: page.keyboard.press('Escape')
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    nb.run(3)
    until(page, lambda: name.inner_text()==f'image {history.ids[7]}' and when.inner_text()=='epoch 1 of 3')
    nb.run(4)
    page.get_by_role('button', name='Same').click()
    page.wait_for_timeout(2500)                # the picture is drawn anew at a pause
    page.keyboard.press('Control+s')
    def kept():
        text = (folder/'explore.ipynb').read_text()       # empty for a moment while it is written
        return [o for c in nbformat.reads(text, 4).cells for o in c.outputs] if text else []
    def has_kept(words): return any(words in o.get('data', {}).get('text/html', '') for o in kept())
    until(page, lambda: has_kept(f'image {history.ids[7]} after epoch 1') and has_kept('1 of 3 judged'))
    shutil.copy(folder/'explore.ipynb', folder/'later.ipynb')      # its kernel knows nothing of the widget
    nb.open(url.replace('explore.ipynb', 'later.ipynb'))         # JupyterLab shows the first one in a tab beside it
    still = page.locator('.psm-still:visible')
    still.first.wait_for(timeout=30_000)
    page.wait_for_timeout(3000)
    assert still.count()==2 and '1 of 3 judged' in still.nth(1).inner_text()
    still = still.first
    assert f'image {history.ids[7]} after epoch 1' in still.inner_text() and still.locator('img').evaluate('i => i.naturalWidth')>100
    assert 'Error' not in page.locator('.jp-Notebook:visible').inner_text()

def test_an_image_that_max_pixels_lets_in_is_enlarged(tmp_path, monkeypatch):
    noise_files(tmp_path, [(120,100)]*8)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    history = NeighbourHistory(n_probes=2, n_pos=2)
    silent(psm_learner(image_dls(tmp_path, size=16, bs=4, valid_pct=0, max_pixels=12_000), bank_size=8, cbs=history)).fit(1)
    explorer,sent = NeighbourExplorer(history, layout='pca'),[]
    explorer.send = lambda message, buffers: sent.append(message['image'])
    explorer.send_image(3)
    assert sent==[3]

@pytest.mark.parametrize('max_value', [4095,20_000])
def test_a_deep_image_is_enlarged_with_the_white_of_its_training(tmp_path, max_value):
    for i in range(8): Image.fromarray(pixels(100,120, hi=4096, dtype=np.uint16)).save(tmp_path/f'{i}.png')
    history = NeighbourHistory(n_probes=2, n_pos=2)
    dls = image_dls(tmp_path, size=16, bs=4, valid_pct=0, max_value=max_value)
    silent(psm_learner(dls, bank_size=8, cbs=history)).fit(1)
    explorer,sent = NeighbourExplorer(history, layout='pca'),[]
    explorer.send = lambda message, buffers: sent.append(Image.open(io.BytesIO(buffers[0])).convert('L'))
    explorer.send_image(3)
    want,by_values = (np.asarray(open_picture(dls.train_ds.items[3], max_value=v)).mean() for v in (max_value,None))
    got = np.asarray(sent[0]).mean()
    assert abs(got-want)<2 and (abs(got-by_values)>50)==(max_value==20_000)

@pytest.mark.parametrize('settings', [dict(rule='bank'), dict(refresh=1)], ids=['bank','index'])
def test_the_lab_asks_the_network_as_it_is_now(settings):
    learn = silent(psm_learner(digits_dls(bs=64, limit=128), n_pos=5, **settings))
    learn.fit(1, 1e-3)
    lab = MiningLab(learn, ids=range(8))
    def mined(lab): return lab.history.tables[0].query('negative==False')[['query','id']].to_numpy().tolist()
    before = mined(lab)
    learn.fit(3, 8e-3)
    lab.redraw()
    assert mined(lab)==mined(MiningLab(learn, ids=range(8)))!=before

def test_a_grid_begins_anew_with_other_images(monkeypatch):
    monkeypatch.setattr('psm_fastai.explorer.in_notebook', lambda: True)
    monkeypatch.setattr('psm_fastai.explorer.display', lambda *args, **kwargs: SimpleNamespace(update=lambda html: None))
    learn = silent(psm_learner(digits_dls(bs=32, limit=64), n_pos=3, cbs=[grid := NeighbourGrid(n=3)]))
    learn.fit(1)
    learn.fit(1)
    first = grid.history
    assert len(first.epochs)==2
    learn.dls = digits_dls(bs=32, limit=40)
    learn.fit(1)
    assert grid.history is not first and len(grid.history.epochs)==1
    with pytest.raises(ValueError, match='follows other images'): first.look(learn)
