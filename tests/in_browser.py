"A page in a real browser: opened, asked, and looked over"

def open_page(browser, f, width=1280, scheme='light', height=900, address=''):
    page = browser.new_page()
    page.bad = []
    page.on('request', lambda r: page.bad.append(r.url) if not r.url.startswith(('file:','data:','blob:')) else None)
    page.on('pageerror', lambda e: page.bad.append(str(e)))
    page.on('console', lambda m: page.bad.append(m.text) if m.type=='error' else None)
    page.set_viewport_size(dict(width=width, height=height))
    page.emulate_media(color_scheme=scheme, reduced_motion='reduce')
    page.goto(f.as_uri()+address)
    page.wait_for_selector('body[data-ready]')
    return page

def until(page, condition):
    "The page allows no `eval`, which `wait_for_function` needs"
    for _ in range(120):
        if page.evaluate(condition): return
        page.wait_for_timeout(100)
    assert page.evaluate(condition), condition

def chosen(page): return int(page.evaluate('new URLSearchParams(location.hash.slice(1)).get("image")'))
def epoch(page): return int(page.evaluate('new URLSearchParams(location.hash.slice(1)).get("epoch")'))
def strip(page):
    return page.evaluate("""[...document.querySelectorAll('.strip .item')]
        .sort((a, b) => a.getAttribute('aria-posinset')-b.getAttribute('aria-posinset')).map(e => e.getAttribute('aria-label'))""")
def cards(page):
    return page.evaluate("[...document.querySelectorAll('.panel section:not([hidden]) .go')].map(e => e.getAttribute('aria-label'))")
def focused(page):
    return page.evaluate("""(e => e.getAttribute('aria-label') || e.labels?.[0]?.firstChild.textContent || e.textContent.trim())
        (document.activeElement)""")

# A window that is open hides what is below it
_parts = """
  const root = document.querySelector('dialog[open]') ?? document.querySelector('.psm-map');
  const all = [...root.querySelectorAll('*')].filter(e => e.checkVisibility({ visibilityProperty: true }) && !e.closest('.unseen, option')
    && (root.matches('dialog') || !e.closest('dialog')));
  const words = el => [...el.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
"""

_faint = """() => {""" + _parts + """
  const lum = c => {
    const [r, g, b] = c.map(v => { v /= 255; return v <= .04045 ? v/12.92 : ((v+.055)/1.055)**2.4 });
    return .2126*r+.7152*g+.0722*b;
  };
  const rgba = s => { const [r, g, b, a = 1] = s.match(/[\\d.]+/g).map(Number); return [r, g, b, a] };
  const over = ([r, g, b, a], below) => [r, g, b].map((v, i) => v*a+below[i]*(1-a));
  const ground = el => {
    if (!el) return [255, 255, 255];
    const c = rgba(getComputedStyle(el).backgroundColor);
    return c[3] === 1 ? c.slice(0, 3) : over(c, ground(el.parentElement));
  };
  const opacity = el => el ? getComputedStyle(el).opacity*opacity(el.parentElement) : 1;
  const inks = el => {
    const style = getComputedStyle(el);
    return [el instanceof SVGElement ? style.fill : style.color, el.placeholder && getComputedStyle(el, '::placeholder').color];
  };
  const low = [];
  for (const el of all) {
    if (el.disabled || !(words(el).length || el.matches('select, input[type=search]'))) continue;
    for (const ink of inks(el).filter(Boolean)) {
      const below = ground(el), [r, g, b, a] = rgba(ink);
      const [x, y] = [lum(over([r, g, b, a*opacity(el)], below)), lum(below)];
      const ratio = (Math.max(x, y)+.05)/(Math.min(x, y)+.05);
      if (ratio < 4.5) low.push([el.tagName, el.className.baseVal ?? el.className, el.textContent.slice(0, 20), ratio.toFixed(2)].join(' '));
    }
  }
  return low;
}"""

def faint(page):
    "Texts whose contrast with what is behind them is less than 4.5:1. Controls that are switched off don't count"
    return page.evaluate(_faint)

_misplaced = """() => {""" + _parts + """
  const bad = [], wide = document.documentElement;
  if (wide.scrollWidth > wide.clientWidth) bad.push(`the page is ${wide.scrollWidth} wide in a window of ${wide.clientWidth}`);
  const name = el => (el.getAttribute('aria-label') || el.textContent.trim() || el.tagName).slice(0, 40);
  const box = r => ({ left: r.left, right: r.right, top: r.top, bottom: r.bottom });
  const meet = (a, b) => ({ left: Math.max(a.left, b.left), right: Math.min(a.right, b.right),
                            top: Math.max(a.top, b.top), bottom: Math.min(a.bottom, b.bottom) });
  const size = r => [r.right-r.left, r.bottom-r.top];
  // What is in sight of a box: ancestors that scroll or hide cut it. `cut` says by how much those cut it that hide
  const inSight = (el, r) => {
    let cut = 0;
    for (let p = el; p && p !== document.body; p = p.parentElement) {
      const { overflowX: x, overflowY: y, textOverflow, webkitLineClamp } = getComputedStyle(p), b = p.getBoundingClientRect();
      if (x === 'visible' || p instanceof SVGElement) continue;
      const told = (textOverflow === 'ellipsis' || webkitLineClamp !== 'none') && p.closest('[title]');
      const [sideways, down] = [Math.max(b.left-r.left, r.right-b.right), Math.max(b.top-r.top, r.bottom-b.bottom)];
      if (!told) cut = Math.max(cut, x === 'hidden' ? sideways : 0, y === 'hidden' ? down : 0);
      r = meet(r, b);
    }
    return { r, cut };
  };
  const texts = all.flatMap(el => words(el).flatMap(n => {
    const range = document.createRange();
    range.selectNodeContents(n);
    return [...range.getClientRects()].map(r => ({ el, ...inSight(el, box(r)) }));
  }));
  for (const { el, r, cut } of texts) {
    if (cut > 1.5) bad.push(`${name(el)}: ${cut.toFixed(1)} px are cut off`);
    if (r.left < -1 || r.right > wide.clientWidth+1) bad.push(`${name(el)}: beyond the window`);
  }
  const g = document.createElement('canvas').getContext('2d');
  for (const el of all.filter(e => e.matches('select'))) {
    const s = getComputedStyle(el);
    g.font = `${s.fontWeight} ${s.fontSize} ${s.fontFamily}`;
    const [needs, has] = [g.measureText(el.selectedOptions[0].text).width, el.clientWidth-parseFloat(s.paddingLeft)-16];
    if (needs > has) bad.push(`${el.selectedOptions[0].text}: needs ${needs.toFixed()} px, has ${has.toFixed()}`);
  }
  for (const el of all.filter(e => words(e).length || e.matches('button, select, input, canvas'))) {
    const { cut } = inSight(el, box(el.getBoundingClientRect()));
    if (cut > 1.5) bad.push(`${name(el)}: ${cut.toFixed(1)} px of its box are cut off`);
  }
  const controls = all.filter(e => e.matches('button, select, input, summary, canvas[tabindex], [role=option]'))
    .map(el => ({ el, ...inSight(el, box(el.getBoundingClientRect())) }));
  const meant = (a, b) => a.contains(b) || b.contains(a) || (a.matches('canvas[tabindex]') && b.closest('.zoom'))
    || (a.matches('.go') && b.closest('.minis'));
  const parts = [...controls, ...texts];
  for (const [at, a] of parts.entries()) {
    for (const b of parts.slice(at+1)) {
      const [w, h] = size(meet(a.r, b.r));
      if (w > 2 && h > 2 && !meant(a.el, b.el) && !meant(b.el, a.el)) bad.push(`${name(a.el)} and ${name(b.el)} overlap by ${w.toFixed()} times ${h.toFixed()} px`);
    }
  }
  return [...new Set(bad)];
}"""

def misplaced(page):
    """What is wider than the window, cut off, or over something else. An ellipsis cuts nothing off if a title says the whole.
    The map lies below its buttons, and a neighbour below its own"""
    return page.evaluate(_misplaced)
