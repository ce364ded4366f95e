// The explorer: map, panel, strip and chart of one state, which a page or a notebook keeps

import { Chart } from './chart.js';
import { Compare, helpOf } from './dialogs.js';
import { button, copy, download, h, icon, isDark, select, watchTheme } from './dom.js';
import { drawMark, MapCanvas } from './map.js';
import { scaleOf } from './palette.js';
import { Panel } from './panel.js';
import { Pictures } from './pictures.js';
import { Strip } from './strip.js';
import { csv, fitting, ordered, ordersOf, showsOf, tally, unpack, View } from './view.js';

const PLAY_MS = 1000;
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const TRAITS = ['query', 'epoch', 'runs', 'order', 'colour', 'filters', 'picked', 'flags'];
const FLAG_COLUMNS = ['kind', 'run', 'epoch', 'query', 'rank', 'id', 'similarity', 'query_label', 'label', 'query_file', 'file'];
const PICKED_COLUMNS = ['id', 'file', 'label', 'epoch', 'x', 'y'];

// What a page has in place of a notebook's model
export class PlainModel {
  constructor(values = {}) {
    this.values = values;
  }
  get(name) {
    return this.values[name];
  }
  set(name, value) {
    this.values[name] = value;
  }
  save_changes() {}
  on() {}
  off() {}
}

const same = (a, b) => a?.length === b.length && b.every((v, i) => v === a[i]);

export class Explorer {
  constructor(el, view, model, { page = false } = {}) {
    Object.assign(this, { el, view, model, page, memos: {}, past: [], future: [], dark: isDark() });
    this.pictures = new Pictures(view, () => this.repaint());
    this.state = this.initial();
    this.pull();
    const found = this.view.at.has(model.get('query'));
    if (!(page && this.readAddress()) && !found) this.begin();
    this.build();
    this.listen();
    this.derive();
    this.render();
    this.push();
    this.listening = true;
  }

  initial() {
    const { view } = this;
    return {
      runs: view.runs.length > 1 && this.el.clientWidth > 1100 ? [0, 1] : [0],
      epoch: view.last,
      query: 0,
      order: ordersOf(view)[0].name,
      colour: this.firstColour(),
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

  firstColour() {
    return ['class', 'cluster', 'trust'].find((name) => this.view.column(name)) ?? 'none';
  }

  // Everything that can be computed from the state, each only if what it depends on has changed
  derive() {
    const { view, state, dark } = this;
    const { colour, epoch, runs, order, show, find, hidden, selected, flags } = state;
    this.scales = view.runs.map((_, run) => this.memo(`scale${run}`, [colour, epoch, dark], () => scaleOf(view, colour, run, epoch, dark)));
    const { bins, of } = this.scales[runs[0]];
    const off = new Set(bins.flatMap((b, at) => (hidden.has(b.key) ? [at] : [])));
    const also = show === 'selected' ? selected : show === 'flagged' ? flags : null;
    this.fits = this.memo('fits', [of, runs, epoch, show, find, hidden, also], () => fitting(view, state, of, off));
    this.list = this.memo('list', [this.fits, runs, epoch, order], () => ordered(view, state, this.fits));
    this.flagged = this.memo(
      'flagged',
      [flags],
      () => new Set(flags.map((f) => view.at.get(f.id ?? f.query)).filter((i) => i !== undefined)),
    );
  }

  memo(name, on, make) {
    if (!same(this.memos[name]?.on, on)) this.memos[name] = { on, value: make() };
    return this.memos[name].value;
  }

  set(patch, { filters = false } = {}) {
    if ('query' in patch && patch.query !== this.state.query) this.remember();
    this.state = { ...this.state, ...patch };
    this.derive();
    if (filters && this.list.length && !this.fits[this.state.query]) {
      this.state.query = this.list[0];
    }
    this.render();
    this.push();
  }

  // --- state of the notebook, and the address of the page

  push() {
    const { view, state, model } = this;
    const now = {
      query: view.ids[state.query],
      epoch: view.epochs[state.epoch] - 1,
      runs: state.runs,
      order: state.order,
      colour: state.colour,
      filters: { show: state.show, find: state.find, hidden: [...state.hidden] },
      picked: Array.from(state.selected, (i) => view.ids[i]),
      flags: state.flags,
    };
    for (const name of TRAITS) {
      if (JSON.stringify(now[name]) !== JSON.stringify(model.get(name))) model.set(name, now[name]);
    }
    model.save_changes();
    this.settle();
    if (this.page) history.replaceState(null, '', `#image=${now.query}&epoch=${now.epoch + 1}`);
  }

  // A notebook draws its still picture anew after a pause
  settle() {
    clearTimeout(this.pause);
    if (this.page || !this.listening) return;
    this.pause = setTimeout(() => {
      this.model.set('settled', (this.model.get('settled') ?? 0) + 1);
      this.model.save_changes();
    }, 1500);
  }

  pull() {
    const { view, model } = this;
    const patch = {};
    const take = (name, f) => {
      const v = model.get(name);
      if (v !== undefined && v !== null) Object.assign(patch, f(v));
    };
    take('query', (id) => (view.at.has(id) ? { query: view.at.get(id) } : {}));
    take('epoch', (e) => (view.epochs.includes(e + 1) ? { epoch: view.epochs.indexOf(e + 1) } : {}));
    take('runs', (runs) => (runs.length ? { runs } : {}));
    take('order', (order) => (ordersOf(view).some((o) => o.name === order) ? { order } : {}));
    take('colour', (colour) => (colour === 'none' || view.column(colour) ? { colour } : {}));
    take('filters', (f) => ({ show: f.show ?? 'all', find: f.find ?? '', hidden: new Set(f.hidden ?? []) }));
    take('picked', (ids) => ({ selected: new Set(ids.map((id) => view.at.get(id)).filter((i) => i !== undefined)) }));
    take('flags', (flags) => ({ flags }));
    this.state = { ...this.state, ...patch };
  }

  readAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    const query = this.view.at.get(Number(said.get('image') ?? NaN));
    const epoch = this.view.epochs.indexOf(Number(said.get('epoch') ?? NaN));
    if (query !== undefined) this.state.query = query;
    if (epoch >= 0) this.state.epoch = epoch;
    return query !== undefined;
  }

  // --- elements

  build() {
    const { view } = this;
    this.root = h('div', {
      class: `psm-map${this.page ? ' page' : ''}`,
      role: 'region',
      'aria-label': view.title || 'Map of the images',
    });
    this.tip = h('div', { class: 'tip', 'aria-hidden': 'true', hidden: true });
    this.said = h('div', { class: 'unseen', role: 'status', 'aria-live': 'polite' });
    this.panel = new Panel(view, this.pictures, this);
    this.strip = new Strip(view, this.pictures, this);
    this.compareDialog = new Compare(view, this.pictures, this);
    this.helpDialog = helpOf(view);
    this.chart = new Chart(view, (epoch) => this.set({ epoch }));
    this.legend = h('div', { class: 'legend', role: 'group', 'aria-label': 'Colours. Press one to see it alone' });
    const left = h('div', { class: 'left' }, this.legend, this.buildMaps(), this.buildTime(), this.strip.el, this.buildBag());
    this.panel.el.append(this.buildChart());
    this.root.append(
      this.buildHead(),
      this.buildTools(),
      h('div', { class: 'main' }, left, this.panel.el),
      this.said,
      this.compareDialog.el,
      this.helpDialog,
    );
    this.root.explorer = this;
    this.el.replaceChildren(this.root);
  }

  buildHead() {
    const { view } = this;
    const runs = view.runs.map((r, run) => ({ name: String(run), label: r.name || `run ${run + 1}`, runs: [run] }));
    if (runs.length > 1) runs.push({ name: 'both', label: 'side by side', runs: [0, 1] });
    const choose = (r) => this.set({ runs: r.runs }, { filters: true });
    this.runButtons = runs.map((r) => ({ ...r, el: h('button', { type: 'button', dir: 'auto', onclick: () => choose(r) }, r.label) }));
    const help = h(
      'button',
      {
        type: 'button',
        class: 'round',
        title: 'Keys and terms (?)',
        'aria-label': 'Keys and terms',
        onclick: () => this.helpDialog.showModal(),
      },
      '?',
    );
    return h(
      'header',
      { class: 'head' },
      view.title && h('h1', { dir: 'auto' }, view.title),
      h('span', { class: 'soft' }, `${view.n.toLocaleString('en')} ${view.n === 1 ? 'image' : 'images'}`),
      runs.length > 1 &&
        h(
          'div',
          { class: 'switch', role: 'group', 'aria-label': 'Runs' },
          this.runButtons.map((r) => r.el),
        ),
      help,
    );
  }

  buildTools() {
    const { view, state } = this;
    const colours = view.columns.filter((c) => !['duplicate_of', 'wrong_edge'].includes(c.name));
    const options = [...colours, { name: 'none', label: 'nothing' }];
    this.colour = select(
      'Colour',
      options,
      state.colour,
      (colour) => this.set({ colour, hidden: new Set() }),
      'What the colour of the dots tells',
    );
    this.order = select('Order', ordersOf(view), state.order, (order) => this.set({ order }), 'Which images come first in the strip');
    this.show = select('Show', showsOf(view), state.show, (show) => this.set({ show }, { filters: true }), 'Which images are shown');
    this.find = h('input', {
      type: 'search',
      placeholder: view.labelled ? 'name, class or id' : 'name or id',
      oninput: () => this.set({ find: this.find.value }, { filters: true }),
    });
    this.thumbs = h('input', { type: 'checkbox', onchange: () => this.set({ pictures: this.thumbs.checked }) });
    this.count = h('output', { class: 'soft', 'aria-live': 'polite' });
    return h(
      'div',
      { class: 'tools' },
      this.colour.box,
      this.order.box,
      this.show.box,
      h('label', { class: 'field' }, h('span', {}, 'Find'), this.find),
      h('label', { class: 'check', title: 'Dots become pictures as you zoom in' }, this.thumbs, 'Pictures'),
      this.count,
    );
  }

  buildMaps() {
    const calls = {
      pick: (i) => this.go(i),
      hover: (i, x, y, map) => this.hover(i, x, y, map),
      lasso: (list, add) => this.lasso(list, add),
      ownsWheel: () => this.page && this.root.clientWidth >= 900,
    };
    this.maps = this.view.runs.map((_, run) => new MapCanvas(this.view, run, this.pictures, calls));
    this.figures = this.maps.map((map, run) => {
      map.top.tabIndex = 0;
      map.top.setAttribute('role', 'application');
      map.top.setAttribute('aria-roledescription', 'map');
      const name = this.view.runs[run].name;
      return h('figure', {}, this.view.runs.length > 1 && h('figcaption', { dir: 'auto' }, name), map.el, this.buildZoom(map));
    });
    const maps = h('div', { class: 'maps' }, this.figures, this.tip);
    maps.hidden = !this.view.mapped;
    return maps;
  }

  buildZoom(map) {
    const lasso = button('lasso', 'Lasso: select by drawing (l)', () => this.set({ lassoing: !this.state.lassoing }));
    this.lassos = [...(this.lassos ?? []), lasso];
    return h(
      'div',
      { class: 'zoom' },
      lasso,
      button('plus', 'Zoom in (+)', () => map.zoom(1.6)),
      button('minus', 'Zoom out (−)', () => map.zoom(1 / 1.6)),
      button('fit', 'Show all (0)', () => map.fit()),
    );
  }

  buildTime() {
    const { view } = this;
    this.player = h('button', { type: 'button', class: 'play', onclick: () => this.play() });
    this.slider = h('input', {
      type: 'range',
      min: 0,
      max: view.last,
      step: 1,
      'aria-label': 'Epoch',
      oninput: () => this.turnTo(Number(this.slider.value)),
    });
    this.when = h('output', { class: 'when' });
    const turn = (text, label, n) => button(text, label, () => this.turnTo(this.state.epoch + n));
    const track = h('div', { class: 'track' }, this.slider, this.marks());
    const el = h(
      'div',
      { class: 'time' },
      this.player,
      turn('‹', 'An epoch earlier', -1),
      track,
      turn('›', 'An epoch later', 1),
      this.when,
    );
    el.hidden = view.last === 0;
    return el;
  }

  // Where mining started, below the slider
  marks() {
    const { view } = this;
    const starts = [...new Set(view.runs.map((r) => r.start))].map((s) => view.epochs.indexOf(s)).filter((e) => e > 0);
    return starts.map((e) => h('span', { class: 'begin', style: `left:${(100 * e) / view.last}%` }, 'mining starts'));
  }

  buildBag() {
    this.pickedSaid = h('span', {});
    this.flagsSaid = h('span', {});
    this.pickedBag = h(
      'span',
      { class: 'group' },
      this.pickedSaid,
      button('CSV', 'CSV', () => this.savePicked()),
      button('Clear', 'Clear', () => this.set({ selected: new Set() })),
    );
    this.flagsBag = h(
      'span',
      { class: 'group' },
      this.flagsSaid,
      button('CSV', 'CSV', () => this.saveFlags()),
      button('Clear', 'Clear', () => this.set({ flags: [] })),
    );
    return h('div', { class: 'bag' }, this.pickedBag, this.flagsBag);
  }

  buildChart() {
    const { measures } = this.chart;
    if (!measures.length) return h('section', { class: 'figures', hidden: true });
    const choice = select('Training', measures, measures[0].name, (name) => this.drawChart(name));
    this.measure = measures[0].name;
    const keys =
      this.view.runs.length > 1 ? this.view.runs.map((r, run) => h('span', { class: `key run${run}`, dir: 'auto' }, r.name)) : [];
    return h('section', { class: 'figures' }, h('div', { class: 'row' }, choice.box, keys), this.chart.el);
  }

  // --- what a person does

  go(i) {
    if (i < 0) return;
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

  turnTo(epoch) {
    this.set({ epoch: Math.max(0, Math.min(this.view.last, epoch)) });
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

  // The flag of an image, or of what it has for a neighbour in this epoch
  flagOf(run, r, i = this.state.query) {
    const query = this.view.ids[i];
    if (!r) return { kind: 'image', run: null, epoch: null, query, rank: null, id: null, similarity: null };
    const epoch = this.view.epochs[this.state.epoch] - 1;
    return {
      kind: 'neighbour',
      run: this.view.runs[run].name,
      epoch,
      query,
      rank: r.rank,
      id: this.view.ids[r.at],
      similarity: Number(r.similarity.toFixed(3)),
    };
  }

  isFlagged(run, r, i) {
    const flag = this.flagOf(run, r, i);
    return this.state.flags.some((f) => ['kind', 'run', 'epoch', 'query', 'id'].every((k) => f[k] === flag[k]));
  }

  flag(run, r) {
    const flag = this.flagOf(run, r);
    const others = this.state.flags.filter((f) => !['kind', 'run', 'epoch', 'query', 'id'].every((k) => f[k] === flag[k]));
    const gone = others.length < this.state.flags.length;
    this.set({ flags: gone ? others : [...others, flag] });
    this.say(gone ? 'Flag removed' : 'Flagged');
  }

  compare(run, j) {
    this.compareDialog.open(run, j);
  }

  copyPath(i) {
    copy(this.view.paths?.[i] ?? this.view.name(i));
    this.say('Path copied');
  }

  filterBy(key) {
    const keys = this.scales[this.state.runs[0]].bins.map((b) => b.key);
    let hidden = new Set(this.state.hidden);
    if (!hidden.size) hidden = new Set(keys.filter((k) => k !== key));
    else if (!hidden.delete(key)) hidden.add(key);
    if (keys.every((k) => hidden.has(k))) hidden = new Set();
    this.set({ hidden }, { filters: true });
  }

  saveFlags() {
    const { view } = this;
    const of = (id, f) => (id === null || !view.at.has(id) ? null : f(view.at.get(id)));
    const rows = this.state.flags.map((f) => {
      const more = {
        query_label: of(f.query, (i) => view.label(i)),
        label: of(f.id, (i) => view.label(i)),
        query_file: of(f.query, (i) => view.paths?.[i]),
        file: of(f.id, (i) => view.paths?.[i]),
      };
      return FLAG_COLUMNS.map((c) => ({ ...f, ...more })[c]);
    });
    download('flagged.csv', csv(FLAG_COLUMNS, rows));
  }

  savePicked() {
    const { view, state } = this;
    const rows = Array.from(state.selected, (i) => {
      const [x, y] = view.place(state.runs[0], state.epoch, i) ?? [null, null];
      return [view.ids[i], view.paths?.[i], view.label(i), view.epochs[state.epoch] - 1, x?.toFixed(5), y?.toFixed(5)];
    });
    download('selected.csv', csv(PICKED_COLUMNS, rows));
  }

  say(words) {
    this.said.textContent = words;
  }

  // --- drawing

  render() {
    const { view, state } = this;
    this.root.dataset.theme = this.dark ? 'dark' : 'light';
    this.drawLegend();
    this.drawMaps();
    this.drawTime();
    this.drawTools();
    this.strip.draw(state, this.list);
    this.panel.draw(state);
    this.drawChart(this.measure);
    this.drawBag();
    const { count, of, word } = tally(view, state.runs[0], state.epoch, state.query);
    this.say(`${view.words(state.query)}, epoch ${view.epochs[state.epoch]}${of ? `: ${count} of ${of} neighbours ${word}` : ''}`);
  }

  repaint() {
    for (const map of this.maps ?? []) map.redraw();
    if (this.page) document.body.dataset.ready = '1';
  }

  drawMaps() {
    const { view, state } = this;
    const column = view.column(state.colour);
    this.figures.forEach((figure, run) => {
      figure.hidden = !state.runs.includes(run);
      if (figure.hidden) return;
      const mines = view.runs[run].method?.k !== 0;
      const { fits, flagged, dark } = this;
      this.maps[run].update({ ...state, fits, flagged, dark, column, mines, scale: this.scales[run] });
      const name = view.runs[run].name;
      this.maps[run].top.setAttribute(
        'aria-label',
        `Map${name ? ` of ${name}` : ''} after epoch ${view.epochs[state.epoch]}, ${this.list.length} of ${view.n} images. Shift and an arrow goes to the nearest image in that direction`,
      );
    });
    for (const el of this.lassos) el.setAttribute('aria-pressed', state.lassoing);
  }

  drawLegend() {
    const { hidden, colour, runs } = this.state;
    const { bins } = this.scales[runs[0]];
    const shown = colour === 'none' ? [] : bins.slice(0, 200);
    this.legend.hidden = !shown.length;
    const chips = this.memo('chips', [colour, this.dark, shown.map((b) => b.key).join('\n')], () => shown.map((b) => this.chip(b)));
    if (this.legend.firstChild !== chips[0]) this.legend.replaceChildren(...chips);
    chips.forEach((el, b) => {
      el.setAttribute('aria-pressed', !hidden.has(shown[b].key));
      el.lastChild.textContent = shown[b].count;
    });
    if (chips.length && !chips.some((c) => c.tabIndex === 0)) chips[0].tabIndex = 0;
  }

  chip(bin) {
    const mark = h('canvas', { width: 28, height: 28, 'aria-hidden': 'true' });
    drawMark(mark.getContext('2d'), bin, 14, 14, 9);
    return h(
      'button',
      { type: 'button', class: 'chip', tabindex: -1, dir: 'auto', title: bin.key, onclick: () => this.filterBy(bin.key) },
      mark,
      h('span', { class: 'cut' }, bin.key),
      h('small', {}),
    );
  }

  // Arrows go along the legend, which is one stop of Tab
  alongLegend(chip, key) {
    const next = { ArrowRight: chip.nextSibling, ArrowLeft: chip.previousSibling }[key];
    if (!next) return false;
    chip.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    return true;
  }

  drawTime() {
    const { view, state } = this;
    this.slider.value = state.epoch;
    this.slider.setAttribute('aria-valuetext', `epoch ${view.epochs[state.epoch]} of ${view.epochs[view.last]}`);
    this.when.textContent = `epoch ${view.epochs[state.epoch]} of ${view.epochs[view.last]}`;
    this.player.replaceChildren(icon(this.timer ? 'pause' : 'play'));
    this.player.setAttribute('aria-label', this.timer ? 'Pause' : 'Play');
    this.player.title = this.timer ? 'Pause (p)' : 'Play the epochs (p)';
  }

  drawTools() {
    const { state, view, list } = this;
    this.colour.el.value = state.colour;
    this.order.el.value = state.order;
    this.show.el.value = state.show;
    if (this.find.value !== state.find) this.find.value = state.find;
    this.thumbs.checked = state.pictures;
    this.count.textContent = list.length
      ? list.length === view.n
        ? ''
        : `${list.length.toLocaleString('en')} of ${view.n.toLocaleString('en')} images`
      : 'No image fits these filters.';
    for (const r of this.runButtons) r.el.setAttribute('aria-pressed', same(r.runs, state.runs));
    this.root.classList.toggle('both', state.runs.length > 1);
  }

  drawChart(name) {
    this.measure = name;
    if (name) this.chart.draw(name, this.state.epoch);
  }

  drawBag() {
    const { selected, flags } = this.state;
    this.pickedBag.hidden = !selected.size;
    this.flagsBag.hidden = !flags.length;
    this.pickedSaid.textContent = `${selected.size} selected`;
    this.flagsSaid.textContent = `${flags.length} flagged`;
  }

  light(i) {
    for (const map of this.maps) map.hover(i);
  }

  hover(i, x, y, map) {
    this.light(i);
    this.tip.hidden = i < 0;
    map.top.style.cursor = this.state.lassoing ? 'crosshair' : i >= 0 ? 'pointer' : 'grab';
    if (i < 0) return;
    if (this.tipped !== i) this.fillTip(i);
    const box = map.el.getBoundingClientRect();
    const outer = this.tip.offsetParent.getBoundingClientRect();
    const [left, top] = [box.left - outer.left + x, box.top - outer.top + y];
    const { offsetWidth: w, offsetHeight: tall } = this.tip;
    this.tip.style.left = `${Math.max(4, Math.min(outer.width - w - 4, left + 16 + w > outer.width ? left - w - 16 : left + 16))}px`;
    this.tip.style.top = `${Math.max(4, Math.min(outer.height - tall - 4, top + 12))}px`;
  }

  fillTip(i) {
    const { view, state } = this;
    this.tipped = i;
    const label = view.label(i);
    const { count, of, word } = tally(view, state.runs[0], state.epoch, i);
    const canvas = this.pictures.show(h('canvas'), this.pictures.tileOf(i), 96);
    const lines = [
      h('b', { dir: 'auto' }, view.name(i)),
      label !== null && h('span', { dir: 'auto' }, `class ${label}`),
      of > 0 && h('span', {}, `${count} of ${of} ${word}`),
    ];
    this.tip.replaceChildren(canvas, h('div', {}, lines));
  }

  // --- events

  listen() {
    const onKey = (ev) => this.hear(ev);
    addEventListener('keydown', onKey, true);
    const stopTheme = watchTheme(() => {
      if (this.dark === isDark()) return;
      this.dark = isDark();
      this.derive();
      this.render();
    });
    const pulls = TRAITS.map((name) => [`change:${name}`, () => this.pullAndDraw()]);
    for (const [event, f] of pulls) this.model.on(event, f);
    const onHash = () => {
      this.readAddress();
      this.set({});
    };
    if (this.page) addEventListener('hashchange', onHash);
    this.trackSelects();
    this.remove = () => {
      clearInterval(this.timer);
      clearTimeout(this.pause);
      removeEventListener('keydown', onKey, true);
      removeEventListener('hashchange', onHash);
      stopTheme();
      for (const [event, f] of pulls) this.model.off(event, f);
      for (const part of [...this.maps, this.strip]) part.remove();
    };
  }

  // The first image in the order chosen is where to look first
  begin() {
    this.derive();
    if (this.list.length) this.state.query = this.list[0];
  }

  pullAndDraw() {
    const before = this.state;
    this.pull();
    if (this.state.query !== before.query) this.past.push(before.query);
    this.derive();
    this.render();
  }

  // A list that is open takes letters for itself; one that is closed leaves them to the keys
  trackSelects() {
    for (const { el } of [this.colour, this.order, this.show]) {
      el.addEventListener('mousedown', () => {
        this.openList = el;
      });
      for (const event of ['change', 'blur']) {
        el.addEventListener(event, () => {
          this.openList = null;
        });
      }
    }
  }

  // Heard before the notebook, which would take a letter for a command of its own: x cuts a cell
  hear(ev) {
    const mine = this.root.contains(ev.target);
    if (!mine && !(this.page && ev.target === document.body)) return;
    if (ev.target.matches('select') && (['Enter', ' ', 'F4'].includes(ev.key) || (ev.altKey && ev.key.startsWith('Arrow')))) {
      this.openList = ev.target;
    }
    if (ev.ctrlKey || ev.metaKey || ev.altKey) return;
    if (this.key(ev.key, ev.target, ev.shiftKey)) ev.preventDefault();
    if (mine && !this.page) ev.stopImmediatePropagation();
  }

  // Whether a key was one of ours
  key(key, target, shift) {
    const window = target.closest('dialog');
    if (window) return window === this.compareDialog.el && this.compareDialog.key(key);
    if (target.matches('input[type=search]') || target === this.openList) {
      if (key === 'Escape') target.blur();
      return false;
    }
    const arrow = key.startsWith('Arrow');
    if (arrow && target.matches('select, input[type=range]')) return false;
    if (target.matches('.chip') && this.alongLegend(target, key)) return true;
    const act = arrow && shift ? () => this.hop(ARROWS[key]) : this.actOf(key, target);
    act?.();
    return act !== undefined;
  }

  actOf(key, target) {
    const card = target.closest('.go')?.card;
    const map = this.maps[this.state.runs[0]];
    const acts = {
      ArrowRight: () => this.step(1),
      ArrowLeft: () => this.step(-1),
      ArrowUp: () => this.turnTo(this.state.epoch + 1),
      ArrowDown: () => this.turnTo(this.state.epoch - 1),
      p: () => this.play(),
      r: () => this.random(),
      b: () => this.travel(-1),
      n: () => this.travel(1),
      f: () => (card ? this.flag(card.cards.run, card.cards.near[card.j]) : this.flag()),
      e: () => (card ? this.compare(card.cards.run, card.j) : this.compare(this.state.runs[0], 0)),
      s: () => this.toggleSelected(),
      l: () => this.set({ lassoing: !this.state.lassoing }),
      '+': () => map.zoom(1.6),
      '=': () => map.zoom(1.6),
      '-': () => map.zoom(1 / 1.6),
      0: () => this.fit(),
      '/': () => this.find.focus(),
      '?': () => this.helpDialog.showModal(),
      Escape: () => this.set({ lassoing: false }),
    };
    return acts[key];
  }

  fit() {
    for (const map of this.maps) map.fit();
  }

  hop([dx, dy]) {
    const map = this.maps[this.state.runs[0]];
    const i = map.toward(this.state.query, dx, dy);
    this.go(i);
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
