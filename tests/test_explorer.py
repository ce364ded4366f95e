"The explorer in JupyterLab and in Notebook 7, driven as a person does; and its parts without a browser"
import json, os, signal, socket, subprocess, sys, time, urllib.request
import nbformat, pandas as pd, pytest
from types import SimpleNamespace
from fastai.vision.all import set_seed
from psm_fastai.all import *
from common import silent

@pytest.fixture(scope='module')
def history():
    set_seed(0)
    learn = silent(psm_learner(digits_dls(bs=64, limit=300), cbs=[PSMCallback(mine_after=0., k=6, n_neg=50), h := NeighbourHistory(n_probes=20, k=6, n_neg=5), KNNCallback()]))
    learn.fit(3, 1e-3)
    return h

@pytest.fixture
def jupyter(tmp_path, history, request):
    "A server with one notebook: the address of that notebook in JupyterLab or Notebook 7"
    history.save(tmp_path/'history')
    cells = ["from psm_fastai.all import *\nhistory = NeighbourHistory.load('history')", "explorer = NeighbourExplorer(history)\nexplorer",
             "import json\nfrom pathlib import Path\nPath('seen.json').write_text(json.dumps(dict(query=explorer.query, epoch=explorer.epoch, flagged=explorer.flagged.to_dict('list'))))\n'all is ' + 'written'"]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))), tmp_path/'explore.ipynb')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = dict(os.environ, JUPYTER_CONFIG_DIR=str(tmp_path/'.config'), JUPYTER_RUNTIME_DIR=str(tmp_path/'.run'), JUPYTERLAB_SETTINGS_DIR=str(tmp_path/'.settings'), JUPYTERLAB_WORKSPACES_DIR=str(tmp_path/'.workspaces'), OMP_NUM_THREADS='1')
    args = ['--no-browser', f'--port={port}', '--IdentityProvider.token=', '--ServerApp.allow_root=True', f'--ServerApp.root_dir={tmp_path}', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    proc = subprocess.Popen([sys.executable, '-m', 'jupyter', 'lab' if request.param=='lab' else 'notebook', *args], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api', timeout=2).read(); break
            except OSError: time.sleep(.5)
        yield f'http://127.0.0.1:{port}/' + ('lab/tree' if request.param=='lab' else 'notebooks') + '/explore.ipynb',tmp_path
    finally:
        os.killpg(proc.pid, signal.SIGTERM)
        proc.wait(20)

@pytest.mark.parametrize('jupyter', ['lab','notebook'], indirect=True)
def test_in_the_browser(browser, jupyter, history):
    url,folder = jupyter
    page = browser.new_page()
    page.set_viewport_size(dict(width=1300, height=1400))
    page.goto(url)
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=90_000)
    page.wait_for_function("document.body.innerText.includes('Python 3')", timeout=90_000)
    cells = page.locator('.jp-Notebook .jp-CodeCell')
    def run(i):
        for _ in range(10):             # until the kernel is there
            cells.nth(i).locator('.cm-content').click()
            page.keyboard.press('Shift+Enter')
            page.wait_for_timeout(1500)
            if cells.nth(i).locator('.jp-InputPrompt').first.inner_text()!='[ ]:': return
    run(0), run(1)
    panel = page.locator('.psm .panel')
    panel.wait_for(timeout=120_000)
    shown = lambda: int(panel.locator('.query small').first.inner_text().split()[1])
    def until(f):
        for _ in range(100):
            if f(): return
            page.wait_for_timeout(100)
        assert f()
    start = history.worst(2)
    until(lambda: shown()==start)
    page.get_by_role('button', name='Next', exact=True).click()
    until(lambda: shown()!=start)
    query = shown()
    epoch = lambda: page.locator('.psm .curves svg').first.get_attribute('aria-label').split(':')[0]
    track = page.locator('.noUi-target').first.bounding_box()
    page.mouse.click(track['x']+2, track['y']+track['height']/2)
    until(lambda: epoch()=='After epoch 1')
    page.get_by_role('button', name='›', exact=True).focus()
    page.keyboard.press('Enter')
    until(lambda: epoch()=='After epoch 2')
    page.get_by_role('button', name='⚑ 1', exact=True).click()
    until(lambda: 'mod-active' in page.get_by_role('button', name='⚑ 1', exact=True).get_attribute('class'))
    strip = page.locator('button[title^="image"]')
    assert strip.count()==20
    strip.nth(5).focus()
    page.keyboard.press('Enter')
    until(lambda: shown()!=query)
    last = shown()
    pictures = page.evaluate("[...document.querySelectorAll('.psm img')].map(i => i.naturalWidth>0 && i.alt.length>0)")
    assert len(pictures)==3+6+5 and all(pictures)
    run(2)
    until(lambda: (folder/'seen.json').exists())
    page.wait_for_timeout(300)
    seen = json.loads((folder/'seen.json').read_text())
    assert seen['query']==last and seen['epoch']==1
    assert seen['flagged']['query']==[query] and seen['flagged']['id']==[history.rows(query, 1)[0][0]['id']] and seen['flagged']['epoch']==[1]

def test_flags_survive_sorting_filters_and_moves(history, tmp_path):
    ex = NeighbourExplorer(history)
    for q in history.ids[:4]:
        ex.query = q
        ex.marks[0].value = ex.marks[2].value = True
    ex.interesting.value = True
    ex.marks[2].value = False
    want = ex.flagged
    assert len(want)==8 and (want.kind=='image').sum()==1
    for order in ('similarity','label','id'): ex.order.value = order
    ex.wrong.value,ex.text.value,ex.epoch = True,'5',0
    ex.text.value,ex.wrong.value = '',False
    for _ in range(30): ex.next.click(), ex.random.click(), ex.previous.click()
    pd.testing.assert_frame_equal(ex.flagged, want)
    ex.to_csv(tmp_path/'f.csv')
    assert pd.read_csv(tmp_path/'f.csv').id.dropna().astype(int).tolist()==want.id.dropna().astype(int).tolist()

def test_order_and_filters(history):
    ex = NeighbourExplorer(history)
    share = lambda i: sum(r['right'] for r in history.rows(i, 2)[0])/6
    assert ex.query==ex.shown[0] and [share(i) for i in ex.shown]==sorted(map(share, history.ids))
    ex.order.value = 'id'
    assert ex.shown==sorted(history.ids)
    ex.wrong.value = True
    assert set(ex.shown)=={i for i in history.ids if share(i)<1}
    ex.wrong.value,ex.only.value = False,'3'
    assert set(ex.shown)=={i for i in history.ids if history.label(i)=='3'} and ex.query in ex.shown
    ex.only.value,ex.text.value = '','no such thing'
    assert ex.shown==[] and ex.count.value=='No image fits these filters.'
    ex.next.click(), ex.random.click()

def test_an_audit_by_keyboard_can_be_undone_and_is_kept(history, tmp_path):
    audit = NeighbourAudit(history, n=10, epoch=1)
    for key in ('s','d','x','u','ss'): audit.field.value = key
    assert audit.judged==[True,True,True] and audit.field.value==''
    for _ in range(9): audit.same.click()
    assert len(audit.judged)==10 and 'Thank you' in audit.said.value and float(audit.purity)==1 and audit.results.judged.tolist()==[10]
    history.save(tmp_path/'h')
    assert NeighbourHistory.load(tmp_path/'h').audits==history.audits and len(history.audits)==1
    with pytest.raises(ValueError, match='epoch 9 was not kept'): NeighbourAudit(history, epoch=9)
    with pytest.raises(ValueError, match='n must be a whole number, at least 1, got 0'): NeighbourAudit(history, n=0)

@pytest.mark.parametrize('settings', [dict(rule='bank'), dict(refresh=1)], ids=['bank','index'])
def test_the_lab_asks_the_network_as_it_is_now(settings):
    learn = silent(psm_learner(digits_dls(bs=64, limit=128), k=5, **settings))
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
    learn = silent(psm_learner(digits_dls(bs=32, limit=64), k=3, cbs=[grid := NeighbourGrid(n=3)]))
    learn.fit(1)
    learn.fit(1)
    first = grid.history
    assert len(first.epochs)==2
    learn.dls = digits_dls(bs=32, limit=40)
    learn.fit(1)
    assert grid.history is not first and len(grid.history.epochs)==1
    with pytest.raises(ValueError, match='of other images'): first.look(learn)
