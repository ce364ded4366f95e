// Next to the map: the chosen image, its two views, its neighbours and its negatives

import { breakable, button, h, icon } from './dom.js';
import { aboutMining, countsOf, markOf, wordsOf } from './words.js';

const [ONE_RUN, SEVERAL] = [62, 50]; // width of a picture

class Cards {
  constructor(view, run, pictures, app) {
    Object.assign(this, { view, run, pictures, app });
    this.title = h('h3', { dir: 'auto' });
    this.said = h('p', { class: 'said' });
    this.list = h('div', { class: 'cards', role: 'group', 'aria-label': 'Neighbours' });
    this.cards = Array.from({ length: view.k(run) }, (_, j) => this.card(j));
    this.negatives = h('div', { class: 'negatives' });
    this.more = h('details', { class: 'more' }, h('summary', {}), this.negatives);
    this.el = h('section', {}, this.title, this.said, this.list, this.more);
  }

  card(j) {
    const row = () => this.near[j];
    const canvas = h('canvas', { 'aria-hidden': 'true' });
    const [sign, figure, bar] = [h('span', { class: 'sign' }), h('span', { class: 'figure' }), h('i', {})];
    const doubt = h('small', { class: 'doubt' });
    const go = h(
      'button',
      {
        class: 'go',
        type: 'button',
        onclick: () => this.app.go(row().at),
        onpointerenter: () => this.app.light(row()?.at ?? -1),
        onpointerleave: () => this.app.light(-1),
        onfocus: () => this.app.light(row()?.at ?? -1),
        onblur: () => this.app.light(-1),
      },
      canvas,
      sign,
      h('span', { class: 'bar' }, bar),
      figure,
      doubt,
    );
    const mini = { class: 'mini', tabindex: -1 };
    const flag = button('flag', 'Flag as wrong (f)', () => this.app.flag(this.run, row()), mini);
    const larger = button('larger', 'Compare (e)', () => this.app.compare(this.run, j), mini);
    const el = h('div', { class: 'card' }, go, h('div', { class: 'minis' }, flag, larger));
    go.card = { cards: this, j };
    return { el, go, canvas, sign, figure, bar, doubt, flag };
  }

  draw(state) {
    const { view, run } = this;
    const { epoch: e, query } = state;
    const mines = view.mines(run, e);
    this.near = view.neighbours(run, e, query);
    const name = view.runs.length > 1 ? `${view.runs[run].name}: ` : '';
    this.title.textContent = this.near.length
      ? `${name}${countsOf(this.near, mines && view.verb(run)) || `${this.near.length} nearest`}`
      : `${name || 'It has '}no neighbours`;
    this.said.textContent = this.near.length ? this.about(e) : this.whyNone();
    for (const [j, c] of this.cards.entries()) this.fillCard(c, this.near[j], state, mines);
    const shown = this.near.map((_, j) => this.cards[j].el);
    if (this.list.childElementCount !== shown.length) this.list.replaceChildren(...shown);
    this.drawNegatives(state);
  }

  about(e) {
    if (this.view.epochs[e] === 0) return 'Nothing is pulled before training. These are the nearest images.';
    return aboutMining(this.view.runs[this.run], e);
  }

  whyNone() {
    if (this.view.n === 1) return 'There is no other image on this map.';
    const index = this.view.runs[this.run].method?.index;
    return index ? 'The index does not cover this image, or no image near it had a key yet.' : 'The bank held no key of another image.';
  }

  fillCard(c, r, state, mines) {
    if (!r) return;
    const { kind, dotted, faint, sign } = markOf(r, mines);
    const words = wordsOf(this.view, this.run, state.epoch, state.query, r);
    const doubted = state.order === 'doubt' && r.at === this.view.doubted(this.run, state.epoch, state.query);
    this.pictures.show(c.canvas, this.pictures.tileOf(r.at), state.runs.length > 1 ? SEVERAL : ONE_RUN);
    c.el.dataset.mark = kind;
    c.el.classList.toggle('dotted', dotted);
    c.el.classList.toggle('faint', faint);
    c.el.classList.toggle('doubted', doubted);
    c.sign.textContent = sign;
    const shared = this.view.shared(this.run, state.epoch, state.query, r.at);
    c.doubt.replaceChildren(...(doubted ? [h('span', {}, 'most doubtful'), h('span', {}, `shares ${shared} of ${this.near.length}`)] : []));
    c.figure.textContent = r.similarity.toFixed(2);
    c.bar.style.width = `${Math.round(100 * Math.max(0, r.similarity))}%`;
    c.go.setAttribute('aria-label', `Neighbour ${r.rank}: ${words}${doubted ? ', the most doubtful pull' : ''}`);
    c.go.title = words;
    const on = this.app.isFlagged(this.run, r);
    c.flag.setAttribute('aria-pressed', on);
    c.el.classList.toggle('flagged', on);
  }

  drawNegatives({ epoch, query }) {
    const rows = this.view.negatives(this.run, epoch, query);
    this.more.hidden = !this.view.probes.has(query) || !rows.length;
    const wrong = this.view.labelled ? rows.filter((r) => r.false).length : 0;
    this.more.firstChild.textContent = `${rows.length} negatives, drawn at random${wrong ? `, ${wrong} of its class ⚠` : ''}`;
    this.negatives.replaceChildren(...(this.more.open || !this.more.hidden ? rows.map((r) => this.negative(r)) : []));
  }

  negative(r) {
    const words = [
      r.at < 0 ? `image ${r.id}` : this.view.words(r.at),
      `similarity ${r.similarity.toFixed(2)}`,
      r.times === null ? '' : `drawn ${Number(r.times.toPrecision(2))} times as often as in a uniform draw`,
      r.false && this.view.labelled ? 'of the same class: a false negative' : '',
    ];
    const said = words.filter(Boolean).join(', ');
    const canvas = this.pictures.show(h('canvas', { 'aria-hidden': 'true' }), this.pictures.tileOf(r.at), 40);
    const text = r.times === null ? '' : `${Number(r.times.toPrecision(2))}×`;
    const go = () => r.at >= 0 && this.app.go(r.at);
    return h(
      'button',
      { type: 'button', title: said, 'aria-label': `Negative: ${said}`, onclick: go },
      canvas,
      h('span', {}, `${r.false && this.view.labelled ? '⚠ ' : ''}${text}`),
    );
  }
}

export class Panel {
  constructor(view, pictures, app) {
    Object.assign(this, { view, pictures, app });
    this.canvas = h('canvas', { 'aria-hidden': 'true' });
    this.big = h('button', { type: 'button', class: 'big', onclick: () => app.compareFirst() }, this.canvas);
    this.name = h('b', { dir: 'auto', class: 'name' });
    this.copy = button('copy', 'Copy its path', () => app.copyPath(app.state.query));
    this.about = h('div', { class: 'about', dir: 'auto' });
    this.views = h('div', { class: 'views', title: 'What training saw of this image: one view as the query, the other as the key' });
    this.back = button('back', 'Back to the image chosen before (b)', () => app.travel(-1));
    this.forward = button('forward', 'Forward again, after going back (n)', () => app.travel(1));
    this.flag = h('button', { type: 'button', title: 'Flag this image (f)', onclick: () => app.flag() }, icon('flag'), ' Flag');
    this.pick = button('Select', 'Select this image (s)', () => app.toggleSelected());
    this.sections = view.runs.map((_, run) => new Cards(view, run, pictures, app));
    const acts = h('div', { class: 'acts' }, this.back, this.forward, this.flag, this.pick);
    const words = h('div', { class: 'words' }, h('div', { class: 'title' }, this.name, this.copy), this.about, acts, this.views);
    this.el = h(
      'aside',
      { class: 'panel', 'aria-label': 'The chosen image' },
      h('div', { class: 'query' }, this.big, words),
      ...this.sections.map((s) => s.el),
    );
  }

  draw(state) {
    const { view, pictures } = this;
    const { query } = state;
    pictures.show(this.canvas, pictures.tileOf(query), 116);
    this.big.setAttribute('aria-label', `Chosen: ${view.words(query)}. Compare with its neighbours`);
    this.name.replaceChildren(...breakable(view.name(query)));
    this.name.title = view.paths?.[query] ?? view.name(query);
    this.copy.hidden = !(view.paths?.[query] ?? view.files?.[query]);
    this.about.textContent = this.facts(state);
    this.flag.setAttribute('aria-pressed', this.app.isFlagged());
    this.pick.setAttribute('aria-pressed', state.selected.has(query));
    this.back.disabled = !this.app.canTravel(-1);
    this.forward.disabled = !this.app.canTravel(1);
    this.drawViews(query);
    this.sections.forEach((s, run) => {
      s.el.hidden = !state.runs.includes(run);
      if (!s.el.hidden) s.draw(state);
    });
  }

  drawViews(query) {
    const tiles = this.view.thumbs?.views?.[query];
    this.views.hidden = !tiles;
    const names = ['view for the query', 'view for the key'];
    const show = (tile, v) => this.pictures.show(h('canvas', { role: 'img', 'aria-label': names[v] }), tile, 44);
    this.views.replaceChildren(...(tiles ?? []).map(show), h('small', {}, 'its two views'));
  }

  facts({ query, epoch, runs }) {
    const { view } = this;
    const label = view.label(query);
    const value = (name) => view.column(name) && view.values(name, runs[0], epoch)[query];
    const number = (name, words) => {
      const v = value(name);
      return v === undefined || Number.isNaN(v) ? '' : `${words} ${v.toFixed(2)}`;
    };
    const [twin, alike] = [value('duplicate_of'), value('near_duplicate_of')];
    return [
      label === null ? '' : `class ${label}`,
      view.files?.[query] ? `id ${view.ids[query]}` : '',
      twin >= 0 ? `same pixels as ${view.name(twin)}` : '',
      alike >= 0 ? `looks like ${view.name(alike)}` : '',
      number('stability', 'stability'),
    ]
      .filter(Boolean)
      .join(' · ');
  }
}
