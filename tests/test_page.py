"The page of mined neighbours in a real browser"
import pytest
from fastai.vision.all import set_seed
from psm_fastai.all import *
from common import silent

@pytest.fixture(scope='module')
def learn():
    set_seed(0)
    l = silent(psm_learner(digits_dls(bs=64, limit=300)))
    l.dls.train.vocab[3] = '<img src=x onerror="document.title=\'hacked\'">"\''
    l.fit(1, 1e-3)
    return l

@pytest.mark.parametrize('width,scheme', [(400,'light'), (1600,'dark')])
def test_page(browser, learn, tmp_path, width, scheme):
    f = neighbour_page(learn, tmp_path/'page.html', n=10, k=6)
    page,requests,errors = browser.new_page(),[],[]
    page.on('request', lambda r: requests.append(r.url))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.on('console', lambda m: errors.append(m.text) if m.type=='error' else None)
    page.set_viewport_size(dict(width=width, height=900))
    page.emulate_media(color_scheme=scheme)
    page.goto(f.as_uri())
    assert all(u.startswith(('file:','data:')) for u in requests) and not errors
    assert page.title()=='Mined neighbours'
    images = page.evaluate("[...document.images].map(i => [i.complete && i.naturalWidth>0, i.alt.length>0])")
    assert len(images)==10*7 and all(a and b for a,b in images)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    right,wrong = page.locator('figure.right').count(),page.locator('figure.wrong').count()
    df = mined_neighbours(learn, n=10, k=6)
    assert (right,wrong)==(df.right.sum(),(~df.right.astype(bool)).sum())
    assert all('✓' in t for t in page.locator('figure.right figcaption').all_inner_texts()) and all('✗' in t for t in page.locator('figure.wrong figcaption').all_inner_texts())
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")=='rgb(13, 17, 23)'
    assert dark==(scheme=='dark')
