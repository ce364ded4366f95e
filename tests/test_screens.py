"The page on a phone, a tablet, a desktop and a wide screen, light and dark, for images of every kind"
import pytest
from fastai.vision.all import TensorCategory
from psm_fastai.all import *
from common import *
from data import Images, loaders, noise_files
from fake_view import fake_view, hostile
from in_browser import cards, chosen, epoch, faint, focused, misplaced, open_page, until

def followed(dls, epochs=2, cb=None, model=None, **kwargs):
    "The history of a short training"
    cb = cb or PSMCallback(bank_size=64, n_pos=8, mine_after=.4, refresh=1)
    history = NeighbourHistory(**{**dict(ids=range(6), n_pos=8, n_neg=4), **kwargs})
    quiet(dls, model=model, cbs=[cb, history], loss_func=no_loss).fit(epochs, 1e-3)
    return history

def digits(path):
    "Labelled, two runs side by side"
    return [followed(digits_dls(bs=32, limit=96), title='PSM'),
            followed(digits_dls(bs=32, limit=96), cb=PSMCallback.moco(bank_size=64), title='MoCo')]
def photographs(path):
    "Of several sizes, one of them twice, without labels"
    noise_files(path, [(200,100),(100,220),(130,130),(64,300),(33,40)]*6, [f'holiday/IMG {i:03}.png' for i in range(30)])
    (path/'holiday/copy.png').write_bytes((path/'holiday/IMG 003.png').read_bytes())
    return followed(image_dls(path, size=32, bs=8, valid_pct=0), model=tiny(3))
def twelve_bands(path):
    dls = loaders(Images(40, (12,16,16), label=lambda i: TensorCategory(i%4)), bs=8)
    dls.vocab = ['water','forest','town','field']
    return followed(dls, model=tiny(12))
def one_image(path): return followed(digits_dls(bs=4, limit=8), ids=[0], n_map=1)

def sixty_epochs(): return fake_view(n=120, first=0, epochs=61, k=8, vocab=[str(i) for i in range(10)])
def names():
    "Long, hostile, or read from the right"
    paths = [f'/photos/{o}/{i}.jpg' if '/' not in o else f'/photos/{o}' for i,o in enumerate(hostile*3)]
    return fake_view(n=21, first=0, vocab=hostile, names=paths, runs=('<b>SimCLR, with a long name of its own','MoCo'), title='<b>Title</b>')

def page_of(data, path):
    "A page of a training, or of arrays that are made up"
    f = path/'page.html'
    if data in (names,sixty_epochs): f.write_text(view_page(data()), encoding='utf-8', errors='replace')
    else: neighbour_page(data(path), f, title='Mined neighbours', layout='pca')
    return f

# width: height, and keys that open a window. At 940 the panel just begins to stand beside the map
screens = {390: (844,'?e'), 820: (1180,''), 940: (700,''), 1280: (900,'?e'), 1920: (1080,'')}

@pytest.mark.parametrize('data', [digits,sixty_epochs,photographs,twelve_bands,one_image,names])
def test_screens(browser, tmp_path, data):
    "Nothing is cut off, covered or hard to read, nothing is asked of a network, and a desktop shows all without scrolling"
    f,wrong = page_of(data, tmp_path),{}
    for width,(height,windows) in screens.items():
        page = open_page(browser, f, width, height=height)
        for scheme in ('light','dark'):
            page.emulate_media(color_scheme=scheme)
            until(page, f"document.querySelector('.psm-map').dataset.theme === '{scheme}'")
            for key in ['',*windows]:
                if key: page.keyboard.press(key)
                wrong[width,scheme,key] = [*misplaced(page), *faint(page)]
                if key: page.keyboard.press('Escape')
        wrong[width] = [*covered(page), *page.bad]
        if width>=1280: assert page.evaluate('document.documentElement.scrollHeight')<=height
        box = page.locator('.map').first.bounding_box()
        assert box['width']>.4*min(width, 900) and box['height']>250 and page.evaluate(drawn)>50
        page.close()
    assert not any(wrong.values()), '\n'.join(f'{k}: {v}' for k,v in wrong.items() if v)

def covered(page):
    "Pictures on the maps that lie below the buttons or beyond the edge, with the lowest image chosen"
    page.evaluate("""(e => {
        const { ys } = e.maps[e.state.runs[0]];
        e.go(ys.indexOf(Math.max(...ys)));
    })(document.querySelector('.psm-map').explorer)""")
    until(page, """(e => e.state.runs.every(r => e.maps[r].framing[0]?.i === e.state.query))(document.querySelector('.psm-map').explorer)""")
    return page.evaluate("""(e => e.state.runs.map(r => e.maps[r]).flatMap(m => {
        const buttons = m.el.parentElement.querySelector('.zoom').getBoundingClientRect().top-m.el.getBoundingClientRect().top;
        return m.framing.filter(b => b.y+b.size/2 > buttons || b.y < b.size/2 || b.x < b.size/2 || b.x+b.size/2 > m.width)
            .map(b => `picture ${b.i} at ${b.x.toFixed()}, ${b.y.toFixed()} of the map`);
    }))(document.querySelector('.psm-map').explorer)""")

# Pixels of the map that differ from its ground
drawn = """(() => {
    const c = document.querySelector('.map canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let n = 0;
    for (let i = 0; i < d.length; i += 4) n += Math.abs(d[i]-d[0])+Math.abs(d[i+1]-d[1]) > 60;
    return n;
})()"""

def test_a_tour_by_keyboard_alone(browser, tmp_path):
    "Most keys work before the first Tab. Tab comes to the images after few stops, and to the neighbours after them"
    page = open_page(browser, page_of(digits, tmp_path), 1400)
    press,first,bag = page.keyboard.press,chosen(page),page.locator('.bag')
    press('ArrowRight'), press('ArrowDown')
    assert chosen(page)!=first and epoch(page)==1 and len(cards(page))==16
    press('f'), press('e')
    window = page.locator('dialog.compare')
    assert bag.inner_text().startswith('1 flagged') and window.is_visible()
    press('Escape')
    assert not window.is_visible()
    stops = []
    while len(stops)<40 and not (stops and stops[-1].startswith('image ')):
        press('Tab')
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle")=='solid'
        stops.append(focused(page))
    assert len(stops)==16 and stops[:3]==['PSM','MoCo','side by side'] and stops[4:8]==['Colour','Order','Show','Find']
    at = chosen(page)
    press('ArrowRight')
    assert chosen(page)!=at and focused(page).startswith(f'image {chosen(page)},')
    while not focused(page).startswith('Neighbour 1:'): press('Tab')
    press('f')
    assert bag.inner_text().startswith('2 flagged')
    at = chosen(page)
    press('Enter')
    assert chosen(page)!=at
    press('/')
    page.keyboard.type('17')
    press('Enter')
    assert chosen(page)==17 and focused(page).startswith('image 17,')
    press('/')
    for _ in '17': press('Backspace')
    press('Shift+Tab')
    assert focused(page)=='Show'
    press('ArrowDown')
    assert page.locator('select').nth(2).input_value()=='wrong'
    for _ in ('Find','Pictures','legend'): press('Tab')
    press('Enter')
    known = page.evaluate("[...document.querySelector('.psm-map').explorer.view.labels]").count(0)
    assert page.locator('.tools output').inner_text()==f'{known} of 96 images' and not page.bad

def test_fingers(browser, tmp_path):
    "Without a mouse the buttons of a neighbour are always shown, large enough, and not over its picture"
    page = open_page(browser, page_of(digits, tmp_path), 1180)
    cdp = page.context.new_cdp_session(page)
    cdp.send('Emulation.setDeviceMetricsOverride', dict(width=1180, height=820, deviceScaleFactor=1, mobile=True))
    cdp.send('Emulation.setTouchEmulationEnabled', dict(enabled=True))
    until(page, "matchMedia('(hover: none)').matches")
    box = lambda of: page.evaluate(f"[...document.querySelectorAll('{of}')].map(e => e.getBoundingClientRect()).map(r => [r.top, r.bottom, r.left, r.right])")
    minis,pictures,signs = box('.card .mini'),box('.go canvas'),box('.card .sign')
    assert len(minis)==2*len(pictures)==2*len(signs)==32 and misplaced(page)==[]
    assert page.locator('.minis').first.evaluate('e => getComputedStyle(e).opacity')=='1'
    assert all(b-t>=24 and r-l>=24 for t,b,l,r in minis)
    for (flag,larger),(top,*_),(*_,right) in zip(zip(minis[::2], minis[1::2]), pictures, signs):
        assert max(flag[1], larger[1])<=top+2 and right<=flag[2]<flag[3]<=larger[2]
