// What stands around the map: heading, lists and search, legend, epochs, selections and flags, tooltip

import { button, h, icon, select } from './dom.js';
import { drawMark } from './map.js';
import { ordersOf, showsOf, tally } from './view.js';

const many = (n) => n.toLocaleString('en');
const sameRuns = (a, b) => a.length === b.length && a.every((run, i) => run === b[i]);

export class Head {
  constructor(view, app) {
    const runs = view.runs.map((r, run) => ({ label: r.name || `run ${run + 1}`, runs: [run] }));
    if (runs.length > 1) runs.push({ label: 'side by side', runs: [0, 1] });
    const face = (r) =>
      h('button', { type: 'button', dir: 'auto', title: r.label, onclick: () => app.set({ runs: r.runs }, { filters: true }) }, r.label);
    this.runs = runs.map((r) => ({ ...r, el: face(r) }));
    const faces = this.runs.map((r) => r.el);
    const help = button('?', 'Keys and terms (?)', () => app.help.showModal(), { class: 'round' });
    this.el = h(
      'header',
      { class: 'head' },
      view.title && h('h1', { dir: 'auto' }, view.title),
      h('span', { class: 'soft' }, `${many(view.n)} ${view.n === 1 ? 'image' : 'images'}`),
      runs.length > 1 && h('div', { class: 'switch', role: 'group', 'aria-label': 'Runs' }, faces),
      help,
    );
  }

  draw({ state }) {
    for (const r of this.runs) r.el.setAttribute('aria-pressed', sameRuns(r.runs, state.runs));
  }
}

export class Tools {
  constructor(view, app) {
    const { state } = app;
    const colours = view.columns.filter((c) => !['duplicate_of', 'near_duplicate_of', 'wrong_edge'].includes(c.name));
    const filter = (patch) => app.set(patch, { filters: true });
    const recolour = (colour) => app.set({ colour, hidden: new Set() });
    this.lists = {
      colour: select(
        'Colour',
        [...colours, { name: 'none', label: 'nothing' }],
        state.colour,
        recolour,
        'The column that colours the dots',
      ),
      order: select('Order', ordersOf(view), state.order, (order) => filter({ order }), 'Which images come first in the strip'),
      show: select('Show', showsOf(view), state.show, (show) => filter({ show }), 'Which images are shown'),
    };
    this.find = h('input', {
      type: 'search',
      placeholder: view.labelled ? 'name, class or id' : 'name or id',
      oninput: () => filter({ find: this.find.value }),
    });
    this.pictures = h('input', { type: 'checkbox', onchange: () => app.set({ pictures: this.pictures.checked }) });
    this.count = h('output', { class: 'soft', 'aria-live': 'polite' });
    this.el = h(
      'div',
      { class: 'tools' },
      Object.values(this.lists).map((l) => l.box),
      h('label', { class: 'field' }, h('span', {}, 'Find'), this.find),
      h('label', { class: 'check', title: 'Dots become pictures as you zoom in' }, this.pictures, 'Pictures if they fit'),
      this.count,
    );
  }

  draw({ state, view, list }) {
    for (const [name, { el }] of Object.entries(this.lists)) el.value = state[name];
    if (this.find.value !== state.find) this.find.value = state.find;
    this.pictures.checked = state.pictures;
    const some = list.length === view.n ? '' : `${many(list.length)} of ${many(view.n)} images`;
    this.count.textContent = list.length ? some : 'No image fits these filters.';
  }
}

export class Legend {
  constructor(app) {
    this.app = app;
    this.el = h('div', { class: 'legend', role: 'group', 'aria-label': 'Colours. Press one to see it alone' });
  }

  draw({ state, scales, dark }) {
    const { bins } = scales[state.runs[0]];
    const shown = state.colour === 'none' ? [] : bins.slice(0, 200);
    this.el.hidden = !shown.length;
    const key = [state.colour, dark, ...shown.map((b) => b.key)].join('\n');
    if (key !== this.key) this.el.replaceChildren(...shown.map((b) => this.chip(b)));
    this.key = key;
    shown.forEach((b, at) => {
      const chip = this.el.children[at];
      chip.setAttribute('aria-pressed', !state.hidden.has(b.key));
      chip.lastChild.textContent = b.count;
    });
    if (shown.length && !this.el.querySelector('[tabindex="0"]')) this.el.firstChild.tabIndex = 0;
  }

  chip(bin) {
    const mark = h('canvas', { width: 28, height: 28, 'aria-hidden': 'true' });
    drawMark(mark.getContext('2d'), bin, 14, 14, 9);
    const props = { type: 'button', class: 'chip', tabindex: -1, dir: 'auto', title: bin.key, onclick: () => this.app.filterBy(bin.key) };
    return h('button', props, mark, h('span', { class: 'cut' }, bin.key), h('small', {}));
  }

  // Arrows go along the legend, which is one stop of Tab
  along(chip, key) {
    const next = { ArrowRight: chip.nextSibling, ArrowLeft: chip.previousSibling }[key];
    if (!next) return false;
    chip.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    return true;
  }
}

// What lines and marks on the map mean
export class Lines {
  constructor(view) {
    const verb = view.verb(0);
    const item = (kind, words) => h('span', { class: kind }, words);
    const pulled = view.labelled ? [item('right', `${verb}, right`), item('wrong', `${verb}, wrong`)] : [item('pulled', verb)];
    const mines = view.runs.some((_, run) => view.mines(run, view.last));
    const pushed = view.runs.some((run) => run.negatives?.probe.length);
    this.doubted = item('doubted', 'most doubtful');
    const items = [mines && pulled, item('near', `near, not ${verb}`), this.doubted, pushed && item('negative', 'negative')];
    this.el = h('div', { class: 'lines', role: 'group', 'aria-label': 'Lines and marks on the map' }, items.flat());
    this.el.hidden = !view.mapped;
  }

  draw({ state }) {
    this.doubted.hidden = state.order !== 'doubt';
  }
}

export class Time {
  constructor(view, app) {
    this.view = view;
    this.play = h('button', { type: 'button', class: 'play', onclick: () => app.play() });
    const move = () => app.turnTo(Number(this.slider.value));
    this.slider = h('input', { type: 'range', min: 0, max: view.last, step: 1, 'aria-label': 'Epoch', oninput: move });
    this.when = h('output', { class: 'when' });
    const byMouse = { tabindex: -1 }; // arrows do the same
    const earlier = button('‹', 'An epoch earlier (↓)', () => app.turnTo(app.state.epoch - 1), byMouse);
    const later = button('›', 'An epoch later (↑)', () => app.turnTo(app.state.epoch + 1), byMouse);
    const track = h('div', { class: 'track' }, this.slider, this.starts());
    this.before = h('button', {
      type: 'button',
      class: 'before',
      title: 'Before training, and back (x)',
      onclick: () => app.beforeAfter(),
    });
    this.before.hidden = view.epochs[0] !== 0;
    this.el = h('div', { class: 'time' }, this.play, earlier, track, later, this.when, this.before);
    this.el.hidden = view.last === 0;
  }

  // The epoch in which mining started, below the slider
  starts() {
    const { epochs, last, runs } = this.view;
    const at = [...new Set(runs.map((r) => r.start))].map((s) => epochs.indexOf(s)).filter((e) => e > 0);
    return at.map((e) =>
      h('span', { class: e > 0.8 * last ? 'begin late' : 'begin', style: `left:${(100 * e) / last}%` }, 'mining starts'),
    );
  }

  draw({ state, timer }) {
    const { epochs, last } = this.view;
    this.slider.value = state.epoch;
    this.when.textContent = epochs[state.epoch] ? `epoch ${epochs[state.epoch]} of ${epochs[last]}` : 'before training';
    this.before.textContent = state.epoch ? 'Before' : 'After';
    this.slider.setAttribute('aria-valuetext', this.when.textContent);
    this.play.replaceChildren(icon(timer ? 'pause' : 'play'));
    this.play.setAttribute('aria-label', timer ? 'Pause' : 'Play');
    this.play.title = timer ? 'Pause (p)' : 'Play the epochs (p)';
  }
}

// The images that were selected and flagged
export class Bag {
  constructor(app) {
    const group = (save, clear) => {
      const said = h('span', {});
      return { said, el: h('span', { class: 'group' }, said, button('CSV', 'Save as CSV', save), button('Clear', 'Clear', clear)) };
    };
    this.hint = h('span', { class: 'soft' }, 'Flag or select images to save a list of them.');
    this.picked = group(
      () => app.savePicked(),
      () => app.set({ selected: new Set() }),
    );
    this.flags = group(
      () => app.saveFlags(),
      () => app.set({ flags: [] }),
    );
    this.el = h('div', { class: 'bag' }, this.hint, this.picked.el, this.flags.el);
  }

  draw({ state }) {
    this.hint.hidden = state.selected.size > 0 || state.flags.length > 0;
    this.picked.el.hidden = !state.selected.size;
    this.flags.el.hidden = !state.flags.length;
    this.picked.said.textContent = `${many(state.selected.size)} selected`;
    this.flags.said.textContent = `${many(state.flags.length)} flagged`;
  }
}

// The tooltip: picture and name of the image under the mouse
export class Tip {
  constructor(view, pictures) {
    Object.assign(this, { view, pictures });
    this.el = h('div', { class: 'tip', 'aria-hidden': 'true', hidden: true });
  }

  show(i, x, y, map, state) {
    this.el.hidden = i < 0;
    if (i < 0) return;
    this.fill(i, state);
    const [box, outer] = [map.el.getBoundingClientRect(), this.el.offsetParent.getBoundingClientRect()];
    const [left, top] = [box.left - outer.left + x, box.top - outer.top + y];
    const { offsetWidth: w, offsetHeight: tall } = this.el;
    const beside = left + 16 + w > outer.width ? left - w - 16 : left + 16;
    this.el.style.left = `${Math.max(4, Math.min(outer.width - w - 4, beside))}px`;
    this.el.style.top = `${Math.max(4, Math.min(outer.height - tall - 4, top + 12))}px`;
  }

  fill(i, { runs, epoch }) {
    const { view, pictures } = this;
    const key = `${i} ${runs[0]} ${epoch}`;
    if (key === this.key) return;
    this.key = key;
    const label = view.label(i);
    const { count, of, word } = tally(view, runs[0], epoch, i);
    const lines = [
      h('b', { dir: 'auto' }, view.name(i)),
      label !== null && h('span', { dir: 'auto' }, `class ${label}`),
      of > 0 && h('span', {}, `${count} of ${of} ${word}`),
    ];
    this.el.replaceChildren(pictures.show(h('canvas'), pictures.tileOf(i), 96), h('div', {}, lines));
  }
}
