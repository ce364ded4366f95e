"The page of neighbours in a real browser"
import pytest
from fastai.vision.all import set_seed
from psm_fastai.all import *
from common import silent

@pytest.fixture(scope='module')
def histories():
    res = []
    for title,cb in (('MoCo',PSMCallback.moco()), ('PSM',PSMCallback(mine_after=0., k=6, n_neg=50))):
        set_seed(0)
        learn = silent(psm_learner(digits_dls(bs=64, limit=300), cbs=[cb, h := NeighbourHistory(n_probes=20, k=6, n_neg=5, title=title), KNNCallback()]))
        learn.dls.train.vocab[3] = '<img src=x onerror="document.title=\'hacked\'">"\''
        learn.fit(3, 1e-3)
        res.append(h)
    return res

def open_page(browser, f, width=1200, scheme='light'):
    page = browser.new_page()
    page.bad = []
    page.on('request', lambda r: page.bad.append(r.url) if not r.url.startswith(('file:','data:','blob:')) else None)
    page.on('pageerror', lambda e: page.bad.append(str(e)))
    page.on('console', lambda m: page.bad.append(m.text) if m.type=='error' else None)
    page.set_viewport_size(dict(width=width, height=900))
    page.emulate_media(color_scheme=scheme)
    page.goto(f.as_uri())
    page.wait_for_selector('body[data-ready]')
    return page

@pytest.mark.parametrize('width,scheme', [(400,'light'), (1600,'dark')])
def test_looks(browser, histories, tmp_path, width, scheme):
    page = open_page(browser, neighbour_page(histories, tmp_path/'p.html'), width, scheme)
    assert page.title()=='Mined neighbours' and page.evaluate('document.documentElement.scrollWidth')<=width
    assert (page.evaluate('getComputedStyle(document.body).backgroundColor')=='rgb(13, 17, 23)')==(scheme=='dark')
    pictures = page.evaluate("[...document.querySelectorAll('.t')].map(t => [t.getAttribute('aria-label'), getComputedStyle(t).backgroundImage.startsWith('url(\"data:image/webp')])")
    assert len(pictures)==20+2*(3+6+5) and all(a and b for a,b in pictures)
    assert page.locator('h2').all_inner_texts()==['MoCo','PSM'] and not page.bad
    sizes = page.evaluate("Promise.all([...document.styleSheets[0].cssRules].map(r => r.style && r.style.backgroundImage).filter(u => u && u.startsWith('url')).map(u => new Promise(f => { const i = new Image(); i.onload = () => f(i.naturalWidth); i.onerror = () => f(0); i.src = u.slice(5, -2); })))")
    assert sizes and all(s==512 for s in sizes)

def test_played_through(browser, histories, tmp_path):
    h = histories[1]
    page = open_page(browser, neighbour_page(h, tmp_path/'p.html'))
    which = lambda: int(page.locator('#which').inner_text().split()[1].strip(','))
    ids = lambda: [int(t.split(',')[0].split()[1]) for t in page.evaluate("[...document.querySelectorAll('.panel ol:not(.neg) .t')].map(t => t.getAttribute('aria-label'))")]
    assert which()==h.worst(2)
    for epoch in (2,1,0):
        pos,_ = h.rows(which(), epoch)
        assert ids()==[r['id'] for r in pos] and f'after epoch {epoch+1} of 3' in page.locator('#say').inner_text()
        assert page.locator('.panel ol:not(.neg) li.right').count()==sum(r['right'] for r in pos)
        assert all('✗' in t for t in page.locator('.panel ol:not(.neg) li.wrong').all_inner_texts())
        page.keyboard.press('ArrowDown')
    strip = lambda: [int(t.split(',')[0].split()[1]) for t in page.evaluate("[...document.querySelectorAll('#strip button')].map(b => b.getAttribute('aria-label'))")]
    share = lambda i, e: sum(r['right'] for r in h.rows(i, e)[0])/6
    assert [share(i, 0) for i in strip()]==sorted(share(i, 0) for i in h.ids)
    page.keyboard.press('ArrowRight')
    assert which() in strip()
    page.select_option('#order', 'id')
    assert strip()==sorted(h.ids)
    page.click('#strip button:nth-child(4)')
    assert which()==sorted(h.ids)[3]
    page.keyboard.press('ArrowRight')
    assert which()==sorted(h.ids)[4]
    page.select_option('#class', '5')
    assert strip()==sorted(i for i in h.ids if h.label(i)=='5') and which() in strip()
    page.select_option('#class', '')
    page.check('#wrong')
    assert set(strip())=={i for i in h.ids if share(i, 0)<1}
    page.uncheck('#wrong')
    page.fill('#text', 'nothing has this name')
    assert page.locator('#count').inner_text()=='No image fits these filters.'
    page.fill('#text', '')
    page.click('#play')
    page.wait_for_function("document.getElementById('epoch').value==2 && document.getElementById('play').textContent=='Play'", timeout=9000)
    x = page.evaluate("document.querySelector('#curve0 .now').getAttribute('x1')")
    page.locator('#epoch').fill('0')
    assert page.evaluate("document.querySelector('#curve0 .now').getAttribute('x1')")<x
    page.click('#random'), page.keyboard.press('r')
    assert not page.bad and page.title()=='Mined neighbours'      # no name became code

def test_a_page_of_the_usual_size_is_small(tmp_path):
    set_seed(0)
    learn = silent(psm_learner(digits_dls(bs=64, limit=600), cbs=[PSMCallback(mine_after=0.), h := NeighbourHistory(k=5, n_neg=10)]))
    learn.fit(1, 1e-3)
    for _ in range(19): h.look(learn)
    assert neighbour_page(h, tmp_path/'p.html').stat().st_size<5e6

def test_a_panel_without_labels_says_no_more_than_it_knows():
    learn = silent(psm_learner(digits_dls(bs=32, limit=64), k=3, mine_after=.9, cbs=[h := NeighbourHistory(n_probes=4)]))
    learn.fit(2)
    with_labels = neighbour_panel(h, h.ids[0], 0)
    h.labels.clear()
    h.tables[0] = h.tables[0].copy()         # rows are kept by table
    without = neighbour_panel(h, h.ids[0], 0)
    assert ' have its label. ' in with_labels and 'have its label' not in without and '<small>.' not in without and '<small> Not in use yet' in without
