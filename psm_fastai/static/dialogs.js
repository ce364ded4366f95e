// Windows above the page: two pictures side by side, and the keys with the terms

import { breakable, button, h, icon } from './dom.js';
import { wordsOf } from './words.js';

export class Compare {
  constructor(view, pictures, app) {
    Object.assign(this, { view, pictures, app });
    this.left = this.figure();
    this.right = this.figure();
    const flag = () => {
      app.flag(this.run, this.row());
      this.draw();
    };
    this.flag = h('button', { type: 'button', onclick: flag }, icon('flag'), ' Flag as wrong');
    const acts = [
      button('‹ Previous', '‹ Previous', () => this.step(-1)),
      button('Next ›', 'Next ›', () => this.step(1)),
      button('Make it the query', 'Make it the query', () => this.follow()),
      this.flag,
      button('Close', 'Close', () => this.el.close()),
    ];
    this.said = h('p', { 'aria-live': 'polite', dir: 'auto' });
    this.el = h(
      'dialog',
      { class: 'compare', 'aria-label': 'Side by side' },
      h('div', { class: 'pair' }, this.left.el, this.right.el),
      this.said,
      h('div', { class: 'acts' }, acts),
    );
  }

  figure() {
    const [canvas, name] = [h('canvas', { 'aria-hidden': 'true' }), h('figcaption', { dir: 'auto' })];
    return { canvas, name, el: h('figure', {}, canvas, name) };
  }

  near() {
    const { epoch, query } = this.app.state;
    return this.view.neighbours(this.run, epoch, query);
  }

  row() {
    return this.near()[this.j];
  }

  open(run, j) {
    Object.assign(this, { run, j });
    this.draw();
    if (!this.el.open) this.el.showModal();
  }

  step(n) {
    const { length } = this.near();
    if (length) this.j = (this.j + n + length) % length;
    this.draw();
  }

  follow() {
    const r = this.row();
    this.el.close();
    if (r) this.app.go(r.at);
  }

  draw() {
    const { epoch, query } = this.app.state;
    const { originals } = this.app;
    const size = Math.min(originals.get(query) ? 440 : 280, Math.floor((0.94 * innerWidth - 56) / 2));
    const r = this.row();
    const show = (part, i) => {
      const original = originals.get(i);
      if (original) this.pictures.showImage(part.canvas, original, size);
      else this.pictures.show(part.canvas, this.pictures.tileOf(i), size);
      part.name.replaceChildren(...breakable(this.view.words(i)));
    };
    show(this.left, query);
    this.right.el.hidden = !r;
    this.flag.disabled = !r;
    this.said.textContent = r
      ? `Neighbour ${r.rank} of ${this.near().length}: ${wordsOf(this.view, this.run, epoch, query, r)}`
      : 'It has no neighbours in this epoch.';
    if (!r) return;
    show(this.right, r.at);
    this.flag.setAttribute('aria-pressed', this.app.isFlagged(this.run, r));
  }

  // Whether a key was one of its own
  press(key) {
    const act = { ArrowRight: () => this.step(1), ArrowLeft: () => this.step(-1), f: () => this.flag.click() }[key];
    act?.();
    return act !== undefined;
  }
}

const KEYS = [
  ['← →', 'the image before in the strip, the image after'],
  ['↑ ↓', 'a later epoch, an earlier one'],
  ['p', 'play the epochs, or stop'],
  ['x', 'before training, and back'],
  ['Shift and an arrow', 'the nearest image on the map in that direction'],
  ['b, n', 'back to the image that was chosen before, forward again: the buttons with a curved arrow'],
  ['f', 'flag the image, or the neighbour that has the focus'],
  ['s', 'select the image, or deselect it'],
  ['e', 'enlarge: the image and its neighbour side by side'],
  ['r', 'a random image'],
  ['+ − 0', 'zoom in, zoom out, all'],
  ['l', 'lasso: select by drawing; Shift and dragging does the same'],
  ['/', 'find'],
];

function terms(view) {
  return [
    [
      'Neighbours',
      'The images that the model finds most similar. The number below each is its cosine similarity, at most 1. Lines on the map lead to them.',
    ],
    [
      'Pulled and trusted',
      'Training pulls an image towards those neighbours that it trusts: an estimate without labels takes them for the same thing more likely than not. A thicker line is a stronger pull. The others are near, but not pulled, and have a dotted line and frame. If few are trusted, little is pulled, and the training is nearly that of MoCo. It is no measure of success.',
    ],
    view.labelled && [
      'Right and wrong',
      'Whether a neighbour has the label of the image: ✓ and a solid line if it has, ✗ and a dashed line if not.',
    ],
    ['Stability', 'Share of the neighbours that were neighbours at the last look, too. With an index they change when it is made again.'],
    [
      'Negatives',
      'Images that the chosen one is pushed away from, marked × on the map. 1.4× means: drawn 1.4 times as often as in a uniform draw. They are kept only for the images that are followed.',
    ],
    view.labelled && ['False negative', 'A negative of the same class, marked ⚠.'],
    ['Below an image', `How many of its neighbours are ${view.labelled ? 'right' : view.verb(0)}. Of two runs there are two numbers.`],
    ['Similarity', 'Mean cosine similarity of an image to its neighbours.'],
    ['Age', 'Training steps since the key of the image was computed. An old key comes from an older state of the network.'],
    [
      'Loss',
      'What training made of the image in this epoch: large if its own other view is not much nearer than the negatives. It is not comparable between methods, nor before and after mining starts.',
    ],
    [
      'Longest edge',
      'Distance on the map from an image to the farthest neighbour that is pulled; 1 is the width of the map. A long edge may be a wrong pull, or the map may have torn apart what belongs together.',
    ],
    [
      'Most doubtful pull',
      'The pulled neighbour that shares the fewest neighbours with the image. A wrong pull often joins two crowds that have none in common. Of equals, the farther one on the map counts.',
    ],
    view.column('near_duplicate_of') && [
      'Duplicates',
      'Images with the same pixels, and apart from them the 20 pairs that look most alike, small and gray. The two of a pair stand side by side.',
    ],
    ['Map', 'Images that look alike to the model lie close together. Distances across the map mean little.'],
  ].filter(Boolean);
}

export function helpOf(view) {
  const rows = (list, tag) => list.map(([a, b]) => h('div', {}, h('dt', {}, tag ? h('kbd', {}, a) : a), h('dd', {}, b)));
  const el = h('dialog', { class: 'help', 'aria-label': 'Keys and terms' });
  const close = h('button', { type: 'button', onclick: () => el.close() }, 'Close');
  el.append(
    h('header', {}, h('h3', {}, 'Keys and terms'), close),
    h('dl', {}, rows(KEYS, true)),
    h('h3', {}, 'Terms'),
    h('dl', {}, rows(terms(view))),
  );
  return el;
}
