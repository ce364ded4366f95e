// All images that fit, in order, as a strip of pictures. Only those in sight have elements

import { h, icon } from './dom.js';
import { tally } from './view.js';

const [STEP, SIZE] = [58, 46];

export class Strip {
  constructor(view, pictures, app) {
    Object.assign(this, { view, pictures, app });
    this.items = new Map();
    this.inner = h('div', { class: 'inner' });
    this.el = h(
      'div',
      {
        class: 'strip',
        role: 'listbox',
        'aria-label': 'Images',
        'aria-orientation': 'horizontal',
        tabindex: -1,
        onscroll: () => this.place(),
      },
      this.inner,
    );
    this.sizes = new ResizeObserver(() => this.place());
    this.sizes.observe(this.el);
  }

  draw(state, list) {
    const moved = this.state?.query !== state.query || this.list !== list;
    const focused = this.el.contains(document.activeElement);
    Object.assign(this, { state, list, at: new Map(list.map((i, p) => [i, p])) });
    this.inner.style.width = `${list.length * STEP}px`;
    if (moved) this.center();
    this.place();
    if (focused) this.items.get(state.query)?.el.focus({ preventScroll: true });
  }

  center() {
    const p = this.at.get(this.state.query);
    if (p === undefined) return;
    const [left, width] = [this.el.scrollLeft, this.el.clientWidth];
    if (p * STEP < left + STEP || (p + 2) * STEP > left + width) this.el.scrollLeft = p * STEP - width / 2 + STEP / 2;
  }

  place() {
    if (!this.list) return;
    const first = Math.max(0, Math.floor(this.el.scrollLeft / STEP) - 4);
    const last = Math.min(this.list.length, first + Math.ceil(this.el.clientWidth / STEP) + 8);
    const wanted = new Set(this.list.slice(first, last));
    if (this.at.has(this.state.query)) wanted.add(this.state.query);
    for (const [i, item] of this.items) {
      if (wanted.has(i)) continue;
      item.el.remove();
      this.items.delete(i);
    }
    for (const i of wanted) this.show(i);
  }

  item(i) {
    const [canvas, text] = [h('canvas', { 'aria-hidden': 'true' }), h('small', {})];
    const bars = this.view.runs.map((_, run) => h('span', { class: 'bar' }, h('i', { class: `run${run}` })));
    const el = h('div', { class: 'item', role: 'option', onclick: () => this.choose(i) }, canvas, bars, text, icon('flag'));
    this.pictures.show(canvas, this.pictures.tileOf(i), SIZE);
    this.inner.append(el);
    this.items.set(i, { el, bars, text });
    return this.items.get(i);
  }

  show(i) {
    const { el, bars, text } = this.items.get(i) ?? this.item(i);
    const { runs, epoch, query } = this.state;
    const p = this.at.get(i);
    const counts = runs.map((run) => ({ run, ...tally(this.view, run, epoch, i) }));
    const known = counts.filter((t) => t.of);
    el.style.left = `${p * STEP}px`;
    el.tabIndex = i === query || (p === 0 && !this.at.has(query)) ? 0 : -1;
    el.setAttribute('aria-selected', i === query);
    el.setAttribute('aria-posinset', p + 1);
    el.setAttribute('aria-setsize', this.list.length);
    const name = (run) => (runs.length > 1 ? `${this.view.runs[run].name} ` : '');
    const said = known.map((t) => `${name(t.run)}${t.count} of ${t.of} ${t.word}`);
    el.setAttribute('aria-label', [this.view.words(i), ...said, this.app.isFlagged(null, null, i) && 'flagged'].filter(Boolean).join(', '));
    el.title = el.getAttribute('aria-label');
    el.classList.toggle('flagged', this.app.isFlagged(null, null, i));
    bars.forEach((bar, run) => {
      const t = counts.find((c) => c.run === run);
      bar.hidden = !t;
      bar.firstChild.style.width = t?.of ? `${(100 * t.count) / t.of}%` : '0';
    });
    text.textContent = known.length > 1 ? known.map((t) => t.count).join(' | ') : known.map((t) => `${t.count}/${t.of}`).join('');
  }

  // A notebook takes the focus for itself at a click
  choose(i) {
    this.app.go(i);
    this.focus();
  }

  focus() {
    this.items.get(this.state.query)?.el.focus({ preventScroll: true });
  }

  remove() {
    this.sizes.disconnect();
  }
}
