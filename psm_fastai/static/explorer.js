// The explorer: map, panel, strip and chart of one state, which a page or a notebook keeps

import { Chart } from './chart.js';
import { Bag, Head, Legend, Lines, Time, Tip, Tools } from './controls.js';
import { Compare, helpOf } from './dialogs.js';
import { button, copy, download, h, isDark, select, watchTheme } from './dom.js';
import { flagOf, flagTable, isIn, pickedTable, toggled } from './flags.js';
import { Keys } from './keys.js';
import { MapCanvas } from './map.js';
import { Originals } from './originals.js';
import { scaleOf } from './palette.js';
import { Panel } from './panel.js';
import { Pictures } from './pictures.js';
import { Strip } from './strip.js';
import { asAddress, asTraits, fromAddress, give, PlainModel, TRAITS, take } from './sync.js';
import { firstOrder, fitting, ordered, tally, unpack, View } from './view.js';

const PLAY_MS = 1000;
const PAUSE_MS = 1500; // after which a notebook draws its still picture

const same = (a, b) => a?.length === b.length && b.every((v, i) => v === a[i]);

export class Explorer {
  constructor(el, view, model, { page = false } = {}) {
    Object.assign(this, { el, view, model, page, memos: {}, past: [], future: [], dark: isDark() });
    this.pictures = new Pictures(view, () => this.repaint());
    const given = { ...take(model, view), ...(page ? fromAddress(view, location.hash) : {}) };
    this.state = { ...this.initial(), ...given };
    this.derive();
    if (given.query === undefined && this.list.length) this.state.query = this.list[0]; // where to look first
    this.build();
    this.listen();
    this.render();
    this.push();
    this.listening = true;
  }

  initial() {
    const { view } = this;
    const runs = view.runs.length > 1 && this.el.clientWidth > 1100 ? [0, 1] : [0];
    return {
      runs,
      epoch: view.last,
      query: 0,
      order: firstOrder(view, runs, view.last),
      colour: ['class', 'cluster', 'trust'].find((name) => view.column(name)) ?? 'none',
      show: 'all',
      find: '',
      hidden: new Set(),
      selected: new Set(),
      flags: [],
      pictures: true,
      lassoing: false,
      labelled: view.labelled,
    };
  }

  // All that is computed from the state, each part only if something it depends on has changed
  derive() {
    const { view, state, dark } = this;
    const { colour, epoch, runs, order, show, find, hidden, selected, flags } = state;
    this.scales = view.runs.map((_, run) => this.memo(`scale${run}`, [colour, epoch, dark], () => scaleOf(view, colour, run, epoch, dark)));
    const { bins, of } = this.scales[runs[0]];
    const off = new Set(bins.flatMap((b, at) => (hidden.has(b.key) ? [at] : [])));
    const also = show === 'selected' ? selected : show === 'flagged' ? flags : null;
    this.fits = this.memo('fits', [of, runs, epoch, show, find, hidden, also], () => fitting(view, state, of, off));
    this.list = this.memo('list', [this.fits, runs, epoch, order], () => ordered(view, state, this.fits));
    const marked = () => new Set(flags.map((f) => view.at.get(f.id ?? f.query)).filter((i) => i !== undefined));
    this.flagged = this.memo('flagged', [flags], marked);
  }

  memo(name, on, make) {
    if (!same(this.memos[name]?.on, on)) this.memos[name] = { on, value: make() };
    return this.memos[name].value;
  }

  // With `filters`, another image is chosen if the present one no longer fits
  set(patch, { filters = false } = {}) {
    if ('query' in patch && patch.query !== this.state.query) this.remember();
    this.state = { ...this.state, ...patch };
    this.derive();
    if (filters && this.list.length && !this.fits[this.state.query]) this.state.query = this.list[0];
    this.render();
    this.push();
  }

  push() {
    const traits = asTraits(this.view, this.state);
    this.giving = true; // a notebook's model tells of each change at once, and the others are still old then
    give(this.model, traits);
    this.giving = false;
    if (this.page) history.replaceState(null, '', asAddress(traits));
    else this.settle();
  }

  pull() {
    if (this.giving) return;
    const before = this.state.query;
    this.state = { ...this.state, ...take(this.model, this.view) };
    if (this.state.query !== before) this.past.push(before);
    this.derive();
    this.render();
    this.settle();
  }

  // A notebook draws its still picture anew after a pause
  settle() {
    clearTimeout(this.pause);
    if (!this.listening) return;
    this.pause = setTimeout(() => {
      this.model.set('settled', (this.model.get('settled') ?? 0) + 1);
      this.model.save_changes();
    }, PAUSE_MS);
  }

  // --- elements

  build() {
    const { view, pictures, page } = this;
    const name = view.title || 'Map of the images';
    this.root = h('div', { class: `psm-map${page ? ' page' : ''}`, role: 'region', 'aria-label': name });
    this.said = h('div', { class: 'unseen', role: 'status', 'aria-live': 'polite' });
    this.tip = new Tip(view, pictures);
    this.head = new Head(view, this);
    this.tools = new Tools(view, this);
    this.legend = new Legend(this);
    this.lines = new Lines(view);
    this.time = new Time(view, this);
    this.bag = new Bag(this);
    this.panel = new Panel(view, pictures, this);
    this.strip = new Strip(view, pictures, this);
    this.comparison = new Compare(view, pictures, this);
    this.originals = new Originals(view, this.model, () => this.comparison.el.open && this.comparison.draw());
    this.help = helpOf(view);
    const below = [this.lines.el, this.time.el, this.strip.el, this.bag.el];
    const left = h('div', { class: 'left' }, this.legend.el, this.buildMaps(), below);
    this.panel.el.append(this.buildChart());
    const main = h('div', { class: 'main' }, left, this.panel.el);
    this.root.append(this.head.el, this.tools.el, main, this.said, this.comparison.el, this.help);
    if (this.model.get('key')) this.root.classList.add('psm-live', this.model.get('key'));
    this.root.explorer = this;
    this.el.replaceChildren(this.root);
  }

  buildMaps() {
    const calls = {
      pick: (i) => this.go(i),
      hover: (i, x, y, map) => this.hover(i, x, y, map),
      lasso: (list, add) => this.lasso(list, add),
      ownsWheel: () => this.page && this.root.clientWidth >= 900,
    };
    this.maps = this.view.runs.map((_, run) => new MapCanvas(this.view, run, this.pictures, calls));
    this.lassos = [];
    this.figures = this.maps.map((map, run) => {
      const name = this.view.runs[run].name;
      const title = this.view.runs.length > 1 && h('figcaption', { dir: 'auto', title: name }, name);
      return h('figure', {}, title, map.el, this.buildZoom(map));
    });
    const maps = h('div', { class: 'maps' }, this.figures, this.tip.el);
    maps.hidden = !this.view.mapped;
    return maps;
  }

  // Keys do the same, so that Tab need not stop at them
  buildZoom(map) {
    const act = (face, label, click) => button(face, label, click, { tabindex: -1 });
    const lasso = act('lasso', 'Lasso: select by drawing (l)', () => this.set({ lassoing: !this.state.lassoing }));
    this.lassos.push(lasso);
    const closer = act('plus', 'Zoom in (+)', () => map.zoom(1.6));
    const farther = act('minus', 'Zoom out (−)', () => map.zoom(1 / 1.6));
    const all = act('fit', 'Show all (0)', () => map.fit());
    return h('div', { class: 'zoom' }, lasso, closer, farther, all);
  }

  buildChart() {
    this.chart = new Chart(this.view, (epoch) => this.set({ epoch }));
    const { measures } = this.chart;
    if (!measures.length) return h('section', { class: 'figures', hidden: true });
    this.measure = measures[0].name;
    const choice = select('Training', measures, this.measure, (name) => this.drawChart(name));
    const { runs } = this.view;
    const keys = runs.length > 1 ? runs.map((r, run) => h('span', { class: `key run${run}`, dir: 'auto' }, r.name)) : [];
    return h('section', { class: 'figures' }, h('div', { class: 'row' }, choice.box, h('span', { class: 'row' }, keys)), this.chart.el);
  }

  // --- what a person does

  go(i) {
    this.set({ query: i });
    for (const map of this.maps) if (map.width) map.reveal(i);
  }

  remember() {
    this.past.push(this.state.query);
    this.future = [];
    if (this.past.length > 200) this.past.shift();
  }

  canTravel(n) {
    return (n < 0 ? this.past : this.future).length > 0;
  }

  travel(n) {
    const from = n < 0 ? this.past : this.future;
    if (!from.length) return;
    const past = n < 0 ? this.past.slice(0, -1) : [...this.past, this.state.query];
    const future = n < 0 ? [...this.future, this.state.query] : this.future.slice(0, -1);
    this.set({ query: from.at(-1) });
    Object.assign(this, { past, future });
    this.render();
  }

  step(n) {
    const { list } = this;
    if (!list.length) return;
    const at = list.indexOf(this.state.query);
    this.go(list[at < 0 ? 0 : (at + n + list.length) % list.length]);
  }

  random() {
    if (this.list.length) this.go(this.list[Math.floor(Math.random() * this.list.length)]);
  }

  hop(dx, dy) {
    this.go(this.maps[this.state.runs[0]].toward(this.state.query, dx, dy));
  }

  // 0 shows all
  zoom(by) {
    for (const run of this.state.runs) {
      if (by) this.maps[run].zoom(by);
      else this.maps[run].fit();
    }
  }

  turnTo(epoch) {
    this.set({ epoch: Math.max(0, Math.min(this.view.last, epoch)) });
  }

  // Before training, or back to the epoch that was shown
  beforeAfter() {
    const { epoch } = this.state;
    this.turnTo(epoch ? 0 : (this.after ?? this.view.last));
    this.after = epoch || this.view.last;
  }

  play() {
    if (this.timer) return this.stop();
    if (this.state.epoch === this.view.last) this.turnTo(0);
    this.timer = setInterval(() => {
      this.turnTo(this.state.epoch + 1);
      if (this.state.epoch === this.view.last) this.stop();
    }, PLAY_MS);
    return this.render();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.render();
  }

  lasso(list, add) {
    this.set({ selected: new Set(add ? [...this.state.selected, ...list] : list), lassoing: false });
  }

  toggleSelected() {
    const selected = new Set(this.state.selected);
    if (!selected.delete(this.state.query)) selected.add(this.state.query);
    this.set({ selected });
  }

  // Whether an image is flagged, or a neighbour `r` of it
  isFlagged(run, r, i = this.state.query) {
    return isIn(this.state.flags, flagOf(this.view, i, this.state.epoch, run, r));
  }

  flag(run, r) {
    const flags = toggled(this.state.flags, flagOf(this.view, this.state.query, this.state.epoch, run, r));
    const gone = flags.length < this.state.flags.length;
    this.set({ flags });
    this.say(gone ? 'Flag removed' : 'Flagged');
  }

  compare(run, j) {
    this.comparison.open(run, j);
  }

  // With the most doubtful pull if the images are ordered by it, else with the nearest
  compareFirst() {
    const { runs, order, epoch, query } = this.state;
    const [run] = runs;
    const doubted = order === 'doubt' ? this.view.doubted(run, epoch, query) : -1;
    const j = this.view.neighbours(run, epoch, query).findIndex((r) => r.at === doubted);
    this.compare(run, Math.max(0, j));
  }

  copyPath(i) {
    copy(this.view.paths?.[i] ?? this.view.name(i));
    this.say('Path copied');
  }

  // The first press shows one category alone, further presses add others. If none is left, all are shown again
  filterBy(key) {
    const keys = this.scales[this.state.runs[0]].bins.map((b) => b.key);
    let hidden = new Set(this.state.hidden);
    if (!hidden.size) hidden = new Set(keys.filter((k) => k !== key));
    else if (!hidden.delete(key)) hidden.add(key);
    if (keys.every((k) => hidden.has(k))) hidden = new Set();
    this.set({ hidden }, { filters: true });
  }

  saveFlags() {
    download('flagged.csv', flagTable(this.view, this.state.flags));
    this.saved = this.state.flags;
  }

  savePicked() {
    download('selected.csv', pickedTable(this.view, this.state));
  }

  say(words) {
    this.said.textContent = words;
  }

  // --- drawing

  render() {
    const { view, state } = this;
    this.root.dataset.theme = this.dark ? 'dark' : 'light';
    this.root.classList.toggle('both', state.runs.length > 1);
    for (const part of [this.head, this.tools, this.legend, this.lines, this.time, this.bag]) part.draw(this);
    this.drawMaps();
    this.strip.draw(state, this.list);
    this.panel.draw(state);
    this.drawChart(this.measure);
    const { count, of, word } = tally(view, state.runs[0], state.epoch, state.query);
    this.say(`${view.words(state.query)}, ${view.when(state.epoch)}${of ? `: ${count} of ${of} neighbours ${word}` : ''}`);
  }

  repaint() {
    for (const map of this.maps) map.redraw();
    if (this.page) document.body.dataset.ready = '1';
  }

  drawMaps() {
    const { view, state, fits, flagged, dark } = this;
    const column = view.column(state.colour);
    this.figures.forEach((figure, run) => {
      figure.hidden = !state.runs.includes(run);
      if (figure.hidden) return;
      const mines = view.mines(run, state.epoch);
      this.maps[run].update({ ...state, fits, flagged, dark, column, mines, scale: this.scales[run] });
      const of = view.runs[run].name ? ` of ${view.runs[run].name}` : '';
      const what = `Map${of} ${view.epochs[state.epoch] ? 'after ' : ''}${view.when(state.epoch)}, ${this.list.length} of ${view.n} images`;
      this.maps[run].top.setAttribute('aria-label', `${what}. Shift and an arrow goes to the nearest image in that direction`);
    });
    for (const el of this.lassos) el.setAttribute('aria-pressed', state.lassoing);
  }

  drawChart(name) {
    this.measure = name;
    if (name) this.chart.draw(name, this.state.epoch);
  }

  light(i) {
    for (const map of this.maps) map.hover(i);
  }

  hover(i, x, y, map) {
    this.light(i);
    map.top.style.cursor = this.state.lassoing ? 'crosshair' : i >= 0 ? 'pointer' : 'grab';
    this.tip.show(i, x, y, map, this.state);
  }

  // --- events

  listen() {
    this.keys = new Keys(this);
    const stopTheme = watchTheme(() => {
      if (this.dark === isDark()) return;
      this.dark = isDark();
      this.derive();
      this.render();
    });
    const pull = () => this.pull();
    for (const name of TRAITS) this.model.on(`change:${name}`, pull);
    const moved = () => this.set(fromAddress(this.view, location.hash));
    if (this.page) addEventListener('hashchange', moved);
    const leave = (ev) => {
      if (this.state.flags.length && this.state.flags !== this.saved) ev.preventDefault(); // the browser asks
    };
    if (this.page) addEventListener('beforeunload', leave);
    this.remove = () => {
      clearInterval(this.timer);
      clearTimeout(this.pause);
      removeEventListener('hashchange', moved);
      removeEventListener('beforeunload', leave);
      stopTheme();
      for (const name of TRAITS) this.model.off(`change:${name}`, pull);
      for (const part of [...this.maps, this.strip, this.keys, this.originals]) part.remove();
    };
  }
}

export function mount(el, view, model = new PlainModel(), options = {}) {
  return new Explorer(el, new View(view), model, options);
}

// A page of its own holds the view in an element
export async function openPage() {
  const text = document.getElementById('packed').textContent;
  const data = await unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  return mount(document.getElementById('map'), data, new PlainModel(), { page: true });
}

export default {
  async render({ model, el }) {
    const bytes = model.get('packed');
    const data = await unpack(bytes instanceof DataView ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : bytes);
    const explorer = mount(el, data, model);
    return () => explorer.remove();
  },
};
