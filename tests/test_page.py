"The page of the map in a real browser"
import shutil, subprocess
from pathlib import Path
import numpy as np, pytest
from fastai.vision.all import set_seed
from psm_fastai.all import *
from common import silent
from fake_view import checkered, fake_view, hostile
from in_browser import cards, chosen, epoch, faint, misplaced, open_page, strip, until

@pytest.fixture
def shown(browser, tmp_path):
    def f(view, *args, **kwargs):
        (tmp_path/'p.html').write_text(view_page(view), encoding='utf-8', errors='replace')
        return open_page(browser, tmp_path/'p.html', *args, **kwargs)
    return f

@pytest.mark.parametrize('width,scheme', [(390,'light'), (820,'dark'), (1280,'light'), (1920,'dark')])
@pytest.mark.parametrize('labelled', [True, False], ids=['labelled','unlabelled'])
def test_looks(shown, width, scheme, labelled):
    "A page that opens in either theme, with hundreds of dots and a class whose name is longer than a phone is wide"
    page = shown(fake_view(labelled=labelled, vocab=['a class whose name is much longer than a phone is wide, ' * 2, 'b', 'c']), width,
                 scheme)
    assert page.title()=='Made up' and page.evaluate('document.documentElement.scrollWidth')<=width
    assert page.evaluate('document.querySelector(".psm-map").dataset.theme')==scheme
    assert faint(page)==[] and not page.bad
    box = page.locator('.map').first.bounding_box()
    assert box['width']>.5*min(width, 900) and box['height']>250
    if width>=1280: assert page.evaluate('document.documentElement.scrollHeight')<=900      # a wide screen needs no scrolling
    dots = page.evaluate("""(() => {
        const c = document.querySelector('.map canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let n = 0;
        for (let i = 0; i < d.length; i += 4) n += Math.abs(d[i]-d[0])+Math.abs(d[i+1]-d[1]) > 60;
        return n;
    })()""")
    assert dots>500

def test_no_word_of_right_and_wrong_without_labels(shown):
    page = shown(fake_view(labelled=False))
    text = page.evaluate("""[...document.querySelectorAll('.psm-map *')].map(e => [e.title, e.placeholder, e.ariaLabel,
        ...[...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data)].join('\\n')).join('\\n')""").lower()
    assert 'epoch 4 of 4' in text and 'pulled' in text and 'no measure of success' in text
    for word in ('right','wrong neighbour','purity','false negative','✓','✗','⚠','class'):
        assert word not in text, (word, text[max(0, text.find(word)-60):][:140])
    assert page.locator('select').nth(1).locator('option').all_inner_texts()[:2]==['fewest pulled first','least stable first']
    lists = page.locator('select').nth(2).locator('option').all_inner_texts()
    assert {'duplicates: same pixels','duplicates: most alike','outliers'} <= {*lists}
    page.select_option('select >> nth=2', 'duplicates')
    assert len(strip(page))==3 and not page.bad
    page.select_option('select >> nth=2', 'alike')
    assert [s.split(',')[0] for s in strip(page)]==['album/img_00003.jpg','album/img_00007.jpg']
    assert 'looks like album/img_00007.jpg' in page.locator('.panel .about').inner_text()

def test_page_and_widget_begin_with_the_same_image(shown):
    "Without labels with the most doubtful pull, by one formula in two languages"
    view = fake_view(labelled=False)
    assert shown(view).evaluate("document.querySelector('.psm-map').explorer.state.query")==first_look(view)

def test_enlarge_shows_the_doubtful_pull(shown):
    "If images are ordered by their most doubtful pull, enlarging shows that one, else the nearest"
    page = shown(fake_view(labelled=False))
    page.select_option('select >> nth=1', 'doubt')
    doubted = page.evaluate("""(() => {
        const {view, state} = document.querySelector('.psm-map').explorer;
        return view.neighbours(0, state.epoch, state.query).findIndex(r => r.at === view.doubted(0, state.epoch, state.query)) + 1;
    })()""")
    page.keyboard.press('e')
    said = page.locator('.compare p').inner_text()
    assert doubted>1
    assert said.startswith(f'Neighbour {doubted} of') and not page.bad
    page.keyboard.press('Escape')
    page.locator('.compare').wait_for(state='hidden')
    page.select_option('select >> nth=1', 'stability')
    page.keyboard.press('e')
    assert page.locator('.compare p').inner_text().startswith('Neighbour 1 of')

def test_the_image_itself_takes_the_place_of_its_thumbnail(shown):
    "A kernel sends what the browser asks for, and each image is asked for once; a page has no kernel to ask"
    page = shown(fake_view(labelled=False))
    def enlarge():
        page.keyboard.press('e')
        page.locator('.compare').wait_for()
    def close():
        page.keyboard.press('Escape')
        page.locator('.compare').wait_for(state='hidden')
    enlarge()
    size = lambda: page.locator('.compare canvas').first.bounding_box()['width']
    thumbnail = size()
    close()
    page.evaluate("""() => {
        const app = document.querySelector('.psm-map').explorer;
        app.asked = [];
        app.model.send = (message) => app.asked.push(message.image);
    }""")
    for _ in range(2):
        enlarge()
        close()
    query,near = page.evaluate("""(() => {
        const {view, state} = document.querySelector('.psm-map').explorer;
        return [state.query, view.neighbours(0, state.epoch, state.query)[0].at].map(i => view.ids[i]);
    })()""")
    asked = page.evaluate("document.querySelector('.psm-map').explorer.asked")
    assert len(asked)==len({*asked})==2 and asked[0]==query
    enlarge()
    page.evaluate("""async (id) => {
        const app = document.querySelector('.psm-map').explorer, image = new OffscreenCanvas(200, 100), g = image.getContext('2d');
        g.fillStyle = '#ff0000';
        g.fillRect(0, 0, 200, 100);
        const bytes = await (await image.convertToBlob({type: 'image/webp'})).arrayBuffer();
        await app.originals.take({image: id}, [new DataView(bytes)]);
    }""", query)
    assert size()>thumbnail
    frame,last = page.locator('.compare').bounding_box(),page.locator('.compare canvas').last.bounding_box()
    assert last['x']+last['width']<frame['x']+frame['width']          # nothing is cut off
    colours = page.evaluate("""(() => {
        const c = document.querySelector('.compare canvas'), g = c.getContext('2d');
        return [[.5, .5], [.5, .1]].map(([x, y]) => [...g.getImageData(x*c.width, y*c.height, 1, 1).data]);
    })()""")
    assert colours[0][0]>200 and colours[0][1]<50 and colours[1][3]==0 and not page.bad         # twice as wide as high, so the top is empty

def test_a_model_that_tells_at_once(shown):
    "A change of several traits is drawn once, though a notebook's model tells of each of them at once"
    page = shown(fake_view())
    drawn,query,find = page.evaluate("""(() => {
        const app = document.querySelector('.psm-map').explorer, {model} = app, set = model.set.bind(model), render = app.render.bind(app);
        let drawn = 0;
        app.render = () => { drawn++; render(); };
        model.set = (name, value) => { set(name, value); app.pull(); };
        app.set({query: 3, find: 'img'});
        return [drawn, app.state.query, app.state.find];
    })()""")
    assert (drawn, query, find)==(1, 3, 'img') and not page.bad

def test_before_and_after(shown):
    "One press goes to the state before training, another one back"
    page = shown(fake_view(first=0), address='#image=27&epoch=2')
    button,when = page.locator('.before'),page.locator('.when')
    assert button.inner_text()=='Before' and when.inner_text()=='epoch 2 of 3'
    after = cards(page)
    button.click()
    assert button.inner_text()=='After' and when.inner_text()=='before training' and epoch(page)==0 and chosen(page)==27
    assert page.locator('.said').first.inner_text().startswith('Nothing is pulled before training') and cards(page)!=after
    assert page.locator('.map .top').get_attribute('aria-label').startswith('Map before training, ')
    page.keyboard.press('x')
    assert when.inner_text()=='epoch 2 of 3' and cards(page)==after and not page.bad
    assert not shown(fake_view()).locator('.before').is_visible()           # this training kept no such state

def test_before_training_neighbours_are_only_near(shown):
    "All are dotted, none faint, and none is marked as doubtful: nothing is pulled. So they are before mining starts"
    page = shown(fake_view(labelled=False), address='#image=27&epoch=2')
    marked = lambda kind: page.locator(f'.card.{kind}').count()
    lines = lambda: page.evaluate("""(m => m.framing.slice(1).map(b => m.look(b.r).dash.length > 0))
        (document.querySelector('.psm-map').explorer.maps[0])""")
    until(page, "document.querySelector('.psm-map').explorer.maps[0].framing.length === 6")
    assert marked('dotted')==marked('faint')==sum(lines())<5 and marked('doubted')==1
    page.keyboard.press('ArrowDown')
    assert (marked('dotted'),marked('faint'),marked('doubted'),lines())==(5,0,0,[True]*5)
    assert page.locator('.panel h3').first.inner_text()=='5 nearest'
    assert page.locator('.said').first.inner_text().startswith('Mining has not begun. These are the nearest images.')

def test_the_most_doubtful_pull_is_marked(shown):
    "Without labels the page begins with it. It is the pulled neighbour that shares the fewest"
    view = fake_view(labelled=False)
    page = shown(view)
    r,at = view['runs'][0],chosen(page)//3
    near = r['near'][3]
    pulled = [j for j,w in zip(near[at], r['weight'][3,at]) if w]
    shares = {j: len({*near[at]} & {*near[j]}) for j in pulled}
    card = page.locator('.card.doubted')
    assert page.locator('select').nth(1).input_value()=='doubt' and card.count()==1
    j = near[at][int(card.locator('.go').get_attribute('aria-label').split(':')[0].split()[1])-1]
    assert shares[j]==min(shares.values()) and card.inner_text().endswith(f'most doubtful\nshares {shares[j]} of 5')
    until(page, "document.querySelector('.psm-map').explorer.maps[0].framing.length > 1")
    assert page.evaluate("document.querySelector('.psm-map').explorer.maps[0].framing.filter(b => b.doubted).map(b => b.i)")==[j]
    page.select_option('select >> nth=1', 'id')
    assert card.count()==0 and not page.locator('.lines .doubted').is_visible()

def test_the_strip_follows_the_chosen_image(shown):
    "Also if the order or the epoch changes. An order begins with its first image if the chosen one does not fit"
    page = shown(fake_view(n=300), address='#image=3&epoch=4')
    def in_sight():
        item,strip = (page.locator(o).bounding_box() for o in ('.item[aria-selected=true]','.strip'))
        return strip['x']<=item['x'] and item['x']+item['width']<=strip['x']+strip['width']
    places = set()
    for order in ('id','right','similarity','outlier'):
        page.select_option('select >> nth=1', order)
        places.add(page.locator('.item[aria-selected=true]').get_attribute('aria-posinset'))
        assert in_sight() and chosen(page)==3
    for _ in range(3):
        page.keyboard.press('ArrowDown')
        assert in_sight()
    assert len(places)>2
    page.select_option('select >> nth=2', 'outliers')
    page.evaluate("document.querySelector('.psm-map').explorer.go(0)")
    assert page.locator('.item[aria-selected=true]').count()==0
    page.select_option('select >> nth=1', 'id')
    assert page.locator('.item[aria-selected=true]').get_attribute('aria-posinset')=='1'

def test_a_value_stands_beside_its_mark(shown):
    "In the chart, and that of the last epoch at the end of the line"
    page = shown(fake_view(first=1), address='#image=27&epoch=1')
    box = lambda of: page.locator(f'.chart {of}').bounding_box()
    assert page.locator('.chart .value').text_content()=='0.2' and page.locator('.chart .end').text_content()=='0.8'
    value,mark = box('.value'),box('circle')
    assert abs(value['x']-mark['x']-mark['width'])<8 and abs(value['y']-mark['y'])<20
    for _ in range(3): page.keyboard.press('ArrowUp')
    assert page.locator('.chart .value').count()==0 and page.locator('.chart .end').text_content()=='0.8'

def test_flags_that_were_not_saved_hold_the_page(shown):
    "The browser asks before they are lost, and not once they are saved or cleared. A first flag moves nothing"
    page = shown(fake_view())
    asked = []
    page.on('dialog', lambda d: (asked.append(d.type), d.accept()))
    def leave():
        asked.clear()
        page.reload()
        page.wait_for_selector('body[data-ready]')
        return asked
    place = lambda: [page.locator(o).bounding_box() for o in ('.map','.strip','.panel')]
    before = place()
    page.keyboard.press('f')
    assert place()==before and page.locator('.bag').get_by_role('button', name='CSV').is_visible()
    assert leave()==['beforeunload']
    page.keyboard.press('f')
    with page.expect_download(): page.get_by_role('button', name='CSV').click()
    assert leave()==[]
    page.keyboard.press('f')
    page.get_by_role('button', name='Clear').click()
    assert leave()==[]

@pytest.mark.parametrize('labelled', [True,False])
def test_the_lines_are_named_below_the_map(shown, labelled):
    lines = shown(fake_view(labelled=labelled), width=390).locator('.lines')
    pulled = ['pulled, right','pulled, wrong'] if labelled else ['pulled']
    want = [*pulled, 'near, not pulled', *([] if labelled else ['most doubtful']), 'negative']
    assert lines.is_visible() and lines.inner_text().split('\n')==want

def test_neighbours_are_those_of_the_view(shown):
    view = fake_view()
    page = shown(view)
    r,at = view['runs'][0],chosen(page)//3
    share = lambda i, e: (view['labels'][r['near'][e,i]]==view['labels'][i]).mean()
    assert share(at, 3)==min(share(i, 3) for i in range(60)) and epoch(page)==4
    for e in (3,2,1):
        said = cards(page)
        near = r['near'][e,at]
        assert [view['files'][j] in s for j,s in zip(near,said)]==[True]*5
        right = view['labels'][near]==view['labels'][at]
        assert [', right,' in s for s in said]==right.tolist() and [', wrong,' in s for s in said]==(~right).tolist()
        assert ['not pulled' in s for s in said]==(r['weight'][e,at]==0).tolist()
        signs = page.locator('.card .sign').all_inner_texts()
        assert signs==['✓' if x else '✗' for x in right]
        page.keyboard.press('ArrowDown')
    assert page.locator('.said').first.inner_text().startswith('Mining has not begun') and epoch(page)==1

def test_walking(shown):
    "A neighbour becomes the query; back and forward"
    page = shown(fake_view())
    first = chosen(page)
    page.locator('.go').nth(1).click()
    second = chosen(page)
    page.locator('.go').nth(0).click()
    third = chosen(page)
    assert len({first,second})==2
    for key,want in (('b',second),('b',first),('n',second),('n',third)):
        page.keyboard.press(key)
        assert chosen(page)==want
    page.get_by_role('button', name='Back to the image chosen before').click()      # an arrow to the left means the strip
    assert chosen(page)==second
    page.keyboard.press('ArrowRight')
    assert chosen(page)!=second and not page.bad

def test_the_address(shown, browser):
    page = shown(fake_view(), address='#image=27&epoch=2')
    assert (chosen(page),epoch(page))==(27,2) and page.locator('.when').inner_text()=='epoch 2 of 4'
    page.evaluate("location.hash = '#image=30&epoch=3'")
    until(page, "document.querySelector('.when').textContent == 'epoch 3 of 4'")
    assert 'img_00010.jpg' in page.locator('.panel .name').inner_text()

def test_with_the_keyboard_alone(shown):
    "Few stops before Play, focus stays if the epoch changes, shortcuts live after a list or a box was used"
    page = shown(fake_view(n=300))
    stops = []
    for _ in range(40):
        page.keyboard.press('Tab')
        stops.append(page.evaluate("""(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent
            || document.activeElement.type)"""))
        if stops[-1]=='Play': break
    assert stops[-1]=='Play' and len(stops)<=14
    page.locator('.strip .item[tabindex="0"]').focus()
    page.keyboard.press('ArrowUp'), page.keyboard.press('ArrowDown')
    focused = lambda: page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert epoch(page)==3 and focused()==page.locator('.strip .item[aria-selected=true]').get_attribute('aria-label')
    page.keyboard.press('ArrowRight')
    assert focused()==page.locator('.strip .item[aria-selected=true]').get_attribute('aria-label')
    page.locator('.go').nth(2).focus()
    page.keyboard.press('ArrowDown')
    assert focused().startswith('Neighbour 3') and epoch(page)==2
    page.keyboard.press('f')
    assert page.locator('.bag').inner_text().startswith('1 flagged') and page.locator('.card.flagged').count()==1
    for el in ('select >> nth=1', 'input[type=checkbox]'):
        page.locator(el).focus()
        seen = {chosen(page)}
        for _ in range(5):
            page.keyboard.press('r')
            seen.add(chosen(page))
        assert len(seen)>1
        page.keyboard.press('p')
        assert page.locator('.play').get_attribute('aria-label')=='Pause'
        page.keyboard.press('p')
    page.locator('input[type=search]').focus()
    page.keyboard.type('rpf')
    assert page.locator('input[type=search]').input_value()=='rpf'
    assert page.locator('output.soft').inner_text()=='No image fits these filters.'
    assert not page.bad

def test_a_screen_readers_tree(shown):
    page = shown(fake_view(runs=('MoCo','PSM')), width=1400)
    tree = page.locator('.psm-map').aria_snapshot()
    for said in ('region "Made up"', 'combobox "Colour"', 'searchbox "Find"', 'slider "Epoch"', 'button "Play"', 'listbox "Images"',
                 'application "Map of PSM after epoch 4', 'complementary "The chosen image"', 'group "Runs"', 'status',
                 'img "purity of 5 after epoch 4: MoCo: 0.8, PSM: 0.8, chance 0.1"'):
        assert said in tree, said
    assert page.locator('.strip [aria-selected=true]').count()==1
    unnamed = page.evaluate("""
        [...document.querySelectorAll('button, select, input, canvas:not([aria-hidden]), [role=option]')]
        .filter(e => !e.closest('dialog') && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length
            || e.classList.length === 0 && e.parentElement.className === 'map'))
        .map(e => e.outerHTML.slice(0, 90))""")
    assert unnamed==[]
    page.keyboard.press('ArrowDown')
    assert 'epoch 3' in page.locator('[role=status]').first.inner_text()
    for key,said in (('e',('dialog "Side by side"','button "Next ›"','button "Flag as wrong"','paragraph: "Neighbour 1 of 5: ')),
                     ('?',('dialog "Keys and terms"','button "Close"','term: Stability'))):
        page.keyboard.press(key)
        page.locator('dialog[open]').wait_for()
        tree = page.locator('.psm-map').aria_snapshot()
        assert all(o in tree for o in said), tree
        page.keyboard.press('Escape')
        page.locator('dialog[open]').wait_for(state='detached')         # a key that comes earlier is one for the window

@pytest.mark.parametrize('ends', [(.25,.23), (.1225,.118), (.1,.1)], ids=str)
def test_labels_at_the_ends_of_lines_lie_apart(shown, ends):
    "Two runs and chance, which stands at .1 and does not move"
    view = fake_view(runs=('PSM','MoCo'))
    for run,end in zip(view['runs'], ends): run['curves'][0]['values'] = [.05,.1,.2,end]
    labels = [l.bounding_box() for l in shown(view).locator('.chart .end, .chart .note').all() if 'mining' not in l.text_content()]
    labels = sorted((l['y'],l['y']+l['height']) for l in labels)
    assert len(labels)==3 and all(b>=a-5 for (_,a),(b,_) in zip(labels, labels[1:]))      # boxes are higher than the letters

def test_two_runs(shown):
    "Side by side or one at a time, linked; the chart shows both, chance, and where mining starts"
    view = fake_view(runs=('MoCo','PSM'))
    page = shown(view, width=1400)
    assert page.locator('figure:not([hidden]) .map').count()==2
    assert page.locator('.panel section:not([hidden]) h3').all_inner_texts()[1].startswith('PSM: ')
    chart = page.locator('.chart')
    assert chart.locator('polyline').count()==2 and chart.locator('.chance').count()==2-1 and chart.locator('.start').count()==1
    first = chosen(page)
    of = [int((view['labels'][r['near'][3,first//3]]==view['labels'][first//3]).sum()) for r in view['runs']]
    item = page.locator('.item[aria-selected=true]')
    assert item.locator('small').inner_text()==f'{of[0]} | {of[1]}' and item.locator('.bar').count()==2
    assert item.get_attribute('aria-label').endswith(f', MoCo {of[0]} of 5 right, PSM {of[1]} of 5 right')
    page.get_by_role('button', name='PSM', exact=True).click()
    assert item.locator('.bar:visible').count()==1
    assert page.locator('figure:not([hidden]) .map').count()==1 and chosen(page)==first
    r = view['runs'][1]
    of = [(view['labels'][r['near'][3,i]]==view['labels'][i]).sum() for i in range(60)]
    bars = page.evaluate("""[...document.querySelectorAll('.strip .item')]
        .map(e => [Number(e.getAttribute('aria-posinset')), Number(e.querySelector('small').textContent.split('/')[0])])""")
    assert all(count==sorted(of)[at-1] for at,count in bars) and len(bars)>5          # the order follows the run that is shown
    page.select_option('select >> nth=1', 'differ')
    assert not page.bad

def test_a_legend_that_filters(shown):
    view = fake_view()
    page = shown(view)
    page.locator('.chip', has_text='class 2').click()
    want = int((view['labels']==2).sum())
    assert page.locator('.tools output').inner_text()==f'{want} of 60 images' and all('class 2' in s for s in strip(page))
    assert view['labels'][chosen(page)//3]==2
    page.locator('.chip', has_text='class 3').click()
    assert page.locator('.tools output').inner_text()==f"{want+int((view['labels']==3).sum())} of 60 images"
    page.fill('input[type=search]', '3')
    assert all('class 3' in s or 'img_00003' in s for s in strip(page))
    page.fill('input[type=search]', '')
    page.select_option('select >> nth=0', 'trust')
    assert page.locator('.chip').count()>=6 and page.locator('.tools output').inner_text()==''

def test_a_lasso_selects(shown, tmp_path):
    page = shown(fake_view())
    box = page.locator('.map').first.bounding_box()
    at = lambda x, y: (box['x']+x*box['width'], box['y']+y*box['height'])
    page.get_by_role('button', name='Lasso: select by drawing').first.click()
    page.mouse.move(*at(.01,.01))
    page.mouse.down()
    for p in ((.99,.01),(.99,.99),(.01,.99)): page.mouse.move(*at(*p), steps=4)
    page.mouse.up()
    assert page.locator('.bag').inner_text().startswith('60 selected')
    with page.expect_download() as d: page.get_by_role('button', name='CSV').click()
    lines = Path(d.value.path()).read_text().splitlines()
    assert lines[0]=='id,file,label,epoch,x,y' and len(lines)==61 and '0,/photos/album/img_00000.jpg,' in '\n'.join(lines)
    page.get_by_role('button', name='Clear').click()
    page.keyboard.press('s')
    assert page.locator('.bag').inner_text().startswith('1 selected')

def test_the_map_answers_the_mouse(shown):
    "A dot tells its name, a click makes it the query, zoom turns dots into pictures"
    view = fake_view(n=40)
    page = shown(view)
    box = page.locator('.map .top').bounding_box()
    dots = page.evaluate("""(() => {
        const m = document.querySelector('.psm-map').explorer.maps[0];
        return Array.from(m.xs, (x, i) => [x, m.ys[i]]);
    })()""")
    apart = lambda i: min(np.hypot(*np.subtract(dots[i], d)) for j,d in enumerate(dots) if j!=i)
    for i in [i for i in range(40) if apart(i)>30][:8]:
        page.mouse.move(box['x']+dots[i][0], box['y']+dots[i][1])
        said = page.locator('.tip').inner_text().split('\n')
        assert said[:2]==[view['files'][i], f"class class {view['labels'][i]}"] and said[2].endswith(' right')
        page.mouse.down(), page.mouse.up()
        assert chosen(page)==3*i
    assert not page.bad
    drawn = "document.querySelector('.map canvas').toDataURL()"
    of_query = "(m => [m.xs[m.state.query], m.ys[m.state.query], m.camera.zoom])(document.querySelector('.psm-map').explorer.maps[0])"
    before = page.evaluate(of_query)
    page.keyboard.press('+')
    until(page, "document.querySelector('.psm-map').explorer.maps[0].thumbs?.drawn")
    assert page.evaluate(of_query)==[*map(pytest.approx, before[:2]),1.6]           # it stays where it is
    with_pictures = page.evaluate(drawn)
    page.uncheck('input[type=checkbox]')
    until(page, f"{drawn} !== {with_pictures!r}")

def test_compare_side_by_side(shown):
    page = shown(fake_view())
    page.locator('.go').nth(1).focus()
    page.keyboard.press('e')
    said = page.locator('dialog.compare p')
    assert said.inner_text().startswith('Neighbour 2 of 5')
    left,right = (o.bounding_box() for o in page.locator('dialog.compare figure').all())
    assert left['width']==right['width'] and page.locator('dialog.compare figcaption wbr').count()>2
    page.keyboard.press('ArrowRight')
    assert said.inner_text().startswith('Neighbour 3 of 5')
    page.keyboard.press('f')
    page.keyboard.press('Escape')
    assert page.locator('.card.flagged').count()==1 and not page.locator('dialog.compare').is_visible()
    page.keyboard.press('?')
    assert page.locator('dialog.help').evaluate('d => d.scrollTop')==0
    terms = 'Stability','Age','Loss','Longest edge','Duplicates'
    assert page.locator('dialog.help').is_visible() and all(t in page.locator('dialog.help').inner_text() for t in terms)

def test_play_moves_the_dots(shown, browser):
    page = shown(fake_view())
    page.emulate_media(reduced_motion='no-preference')
    page.keyboard.press('p')
    until(page, "document.querySelector('.play').getAttribute('aria-label')=='Pause'")
    until(page, "document.querySelector('.play').getAttribute('aria-label')=='Play' && location.hash.endsWith('epoch=4')")
    assert not page.bad

def test_hostile_names(shown):
    names = [f'/photos/{o}/{i}.jpg' if '/' not in o else f'/photos/{o}' for i,o in enumerate(hostile*3)]
    page = shown(fake_view(n=21, vocab=hostile, names=names, title='<b>Title</b>'), width=390)
    for _ in range(21): page.keyboard.press('ArrowRight')
    page.locator('.go').first.focus()
    assert page.title()=='<b>Title</b>' and not page.bad and page.locator('.psm-map img').count()==0
    assert page.evaluate('document.documentElement.scrollWidth')<=390
    assert page.locator('.panel .name').get_attribute('dir')=='auto'

@pytest.mark.parametrize('n,k', [(1,5), (2,5), (3,1)])
def test_few_images(shown, n, k):
    page = shown(fake_view(n=n, epochs=1, k=k), width=820)
    assert len(strip(page))==n and page.locator('.time').is_hidden() and not page.bad
    for key in 'rbnfsep+-0': page.keyboard.press(key)
    assert not page.bad

def test_a_history_without_a_map(shown):
    "Of an older version: strip, panel and chart work"
    view = fake_view()
    view['runs'][0]['xy'][:] = 65535
    page = shown(view)
    assert page.locator('.maps').is_hidden() and len(strip(page))>5 and len(cards(page))==5
    first = chosen(page)
    for key in ('ArrowRight','Shift+ArrowRight','+','-','0','l','p','p','f'): page.keyboard.press(key)
    page.locator('.go').first.click()
    assert chosen(page)!=first and not page.bad

def test_images_without_a_place_yet(shown):
    "They come with their first key; nothing is drawn of them before"
    view = fake_view()
    view['runs'][0]['xy'][:3,:30] = 65535
    page = shown(view, address='#image=3&epoch=1')
    placed = "Array.from(document.querySelector('.psm-map').explorer.maps[0].xs).filter(x => !Number.isNaN(x)).length"
    until(page, f"{placed} === 30")
    for _ in range(3): page.keyboard.press('ArrowUp')
    until(page, f"{placed} === 60")
    assert not page.bad

def test_many_images(shown):
    "The time of a draw is told, not judged: it is the machine's"
    page = shown(fake_view(n=50_000, epochs=2, px=8))
    page.keyboard.press('ArrowDown')
    page.wait_for_timeout(300)
    for _ in range(5): page.keyboard.press('+')
    page.wait_for_timeout(300)
    n = page.evaluate("document.querySelectorAll('.strip .item').length")
    assert n<60 and page.locator('.head .soft').inner_text()=='50,000 images' and not page.bad
    times = page.evaluate("document.querySelector('.psm-map').explorer.maps[0].times.slice().sort((a, b) => a-b)")
    page.set_viewport_size(dict(width=390, height=844))
    page.emulate_media(color_scheme='dark')
    until(page, "document.querySelector('.psm-map').dataset.theme === 'dark'")
    assert misplaced(page)==faint(page)==[]
    print('ms a draw of 50,000 dots, in the middle and at most:', times[len(times)//2], times[-1])

def test_the_page_of_a_history(browser, tmp_path):
    set_seed(0)
    learn = silent(psm_learner(digits_dls(bs=64, limit=200), n_pos=6, mine_after=0.,
                               cbs=[h := NeighbourHistory(n_probes=8, n_pos=6, n_neg=5)]))
    learn.fit(2, 1e-3)
    page = open_page(browser, neighbour_page(h, tmp_path/'p.html', layout='pca'), address=f'#image={h.ids[0]}&epoch=2')
    pos,neg = h.rows(h.ids[0], 2)
    said = cards(page)
    assert [int(s.split('image ')[1].split(',')[0]) for s in said]==[r['id'] for r in pos]
    assert [', right,' in s for s in said]==[r['right'] for r in pos]
    page.locator('summary').click()
    assert page.locator('.negatives button').count()==len(neg)
    assert 'times as often as in a uniform draw' in page.locator('.negatives button').first.get_attribute('title')
    assert page.locator('.views canvas').count()==2 and not page.bad

def test_a_page_of_the_usual_size_is_small():
    view = fake_view(n=1347, epochs=20, k=10, vocab=[str(i) for i in range(10)])
    assert len(view_page(view))<3e6

@pytest.mark.skipif(not shutil.which('node'), reason='node is not installed')
def test_the_scripts_own_tests():
    res = subprocess.run(['node','--test',str(Path(__file__).parent/'static.test.mjs')], capture_output=True, text=True)
    assert res.returncode==0, res.stdout[-3000:]
    page = subprocess.run(['node','--check','--input-type=module','-'], input=explorer_js(), capture_output=True, text=True)
    assert page.returncode==0, page.stderr

@pytest.mark.skipif(not shutil.which('biome'), reason='biome is not installed: npm install -g @biomejs/biome')
def test_the_script_is_linted_and_formatted():
    res = subprocess.run(['biome','check','--error-on-warnings'], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert res.returncode==0, res.stdout[-3000:]+res.stderr[-2000:]

@pytest.mark.parametrize('place,name,value', [('body','class','vscode-dark'), ('html','theme','dark'),
                                              ('body','data-jp-theme-light','false'), ('body','class','quarto-dark'),
                                              ('body','class','dark-theme')])
def test_dark_themes(shown, place, name, value):
    "Of VS Code, Colab, JupyterLab and this site, also if they change later"
    page = shown(fake_view())
    theme = "document.querySelector('.psm-map').dataset.theme"
    assert page.evaluate(theme)=='light'
    page.evaluate(f"document.querySelector('{place}').setAttribute('{name}', '{value}')")
    until(page, f"{theme} === 'dark'")
    assert page.evaluate("getComputedStyle(document.querySelector('.psm-map')).backgroundColor")=='rgb(20, 23, 28)'
    page.evaluate(f"document.querySelector('{place}').setAttribute('{name}', '{value.replace('dark', 'light').replace('false', 'true')}')")
    until(page, f"{theme} === 'light'")

def test_tables_of_fastprogress_are_readable_in_the_dark(browser):
    from fastprogress.fastprogress import html_styles, text2html_table
    page = browser.new_page()
    table = text2html_table([["epoch","loss"],[0,1.5],[1,1.2],[2,1.1]])
    page.set_content(f'<body style="background:#111; color:#fff">{html_styles}{table}')
    grounds = page.evaluate("[...document.querySelectorAll('tr')].map(r => getComputedStyle(r).backgroundColor)")
    assert len(grounds)==4 and {*grounds} <= {'rgba(0, 0, 0, 0)','rgba(136, 136, 136, 0.133)'}, grounds

def test_a_picture_shows_no_part_of_the_next_one(shown):
    "Each is drawn from its tile alone, to its very edge"
    view = fake_view()
    view['thumbs']['sprites'] = [checkered(8, 32)]
    view['thumbs']['place'][:] = 9
    page = shown(view)
    colours = page.evaluate("""(() => {
        const c = document.querySelector('.big canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        const s = new Set();
        for (let i = 0; i < d.length; i += 4) s.add(d[i] >> 6);
        return [...s];
    })()""")
    assert len(colours)==1
