// The map itself: dots written pixel by pixel, so that 50,000 of them take no graphics card, and lines and pictures above them.

import { rgb } from './palette.js';
import { FAR, inPolygon, NOWHERE, spread, thinned } from './view.js';
import { markOf } from './words.js';

const PAD = 30;
const FOOT = 40; // the buttons lie there
const MOVE_MS = 420;

const ease = (t) => (t < 0.5 ? 4 * t ** 3 : 1 - (2 - 2 * t) ** 3 / 2);
const clamp = (v, lo, hi) => Math.max(lo, Math.min(hi, v));

function outline(g, shape, x, y, r) {
  g.beginPath();
  if (shape === 'square') return g.rect(x - r * 0.88, y - r * 0.88, r * 1.76, r * 1.76);
  if (shape === 'cross') {
    const [a, b] = [r * 1.1, r * 0.4];
    const points = [
      [-b, -a],
      [b, -a],
      [b, -b],
      [a, -b],
      [a, b],
      [b, b],
      [b, a],
      [-b, a],
      [-b, b],
      [-a, b],
      [-a, -b],
      [-b, -b],
    ]; // prettier-ignore
    for (const [dx, dy] of points) g.lineTo(x + dx, y + dy);
    return g.closePath();
  }
  const corners = { triangle: [3, -90], diamond: [4, 0], down: [3, 90] }[shape];
  if (!corners) return g.arc(x, y, r, 0, 2 * Math.PI);
  for (let c = 0; c < corners[0]; c++) {
    const angle = ((corners[1] + (360 / corners[0]) * c) * Math.PI) / 180;
    g.lineTo(x + 1.2 * r * Math.cos(angle), y + 1.2 * r * Math.sin(angle));
  }
  return g.closePath();
}

// Draws a mark of the legend
export function drawMark(g, bin, x, y, r) {
  outline(g, bin.shape, x, y, r);
  g.strokeStyle = bin.color;
  g.fillStyle = bin.color;
  g.lineWidth = r * 0.45;
  if (bin.shape === 'ring') g.stroke();
  else g.fill();
}

// The pixels of one mark: how far each lies from its centre, its colour, how much it covers
function stampOf(bin, r, alpha, rim) {
  const size = 2 * Math.ceil(r * 1.3 + 2) + 1;
  const canvas = new OffscreenCanvas(size, size);
  const g = canvas.getContext('2d', { willReadFrequently: true });
  drawMark(g, bin, size / 2, size / 2, r);
  if (rim && bin.shape !== 'ring') {
    outline(g, bin.shape, size / 2, size / 2, r);
    g.strokeStyle = rim;
    g.lineWidth = Math.max(0.7, r * 0.22);
    g.stroke();
  }
  const { data } = g.getImageData(0, 0, size, size);
  const [dx, dy, color, cover] = [[], [], [], []];
  for (let p = 0; p < size * size; p++) {
    const a = Math.round(data[4 * p + 3] * alpha);
    if (!a) continue;
    dx.push((p % size) - (size >> 1));
    dy.push(Math.floor(p / size) - (size >> 1));
    color.push((data[4 * p + 2] << 16) | (data[4 * p + 1] << 8) | data[4 * p]);
    cover.push(a);
  }
  return {
    n: dx.length,
    reach: size >> 1,
    dx: Int16Array.from(dx),
    dy: Int16Array.from(dy),
    color: Uint32Array.from(color),
    cover: Uint8Array.from(cover),
  };
}

function stampOn(pixels, width, height, stamp, x, y) {
  const { n, dx, dy, color, cover, reach } = stamp;
  if (x < -reach || y < -reach || x >= width + reach || y >= height + reach) return;
  const inside = x >= reach && y >= reach && x < width - reach && y < height - reach;
  for (let p = 0; p < n; p++) {
    const px = x + dx[p];
    const py = y + dy[p];
    if (!inside && (px < 0 || py < 0 || px >= width || py >= height)) continue;
    const at = py * width + px;
    pixels[at] = cover[p] === 255 ? 0xff000000 | color[p] : mixed(color[p], pixels[at], cover[p]);
  }
}

function mixed(above, below, cover) {
  const rest = 255 - cover;
  const redBlue = (((above & 0xff00ff) * cover + (below & 0xff00ff) * rest) >>> 8) & 0xff00ff;
  const green = (((above & 0xff00) >>> 8) * cover + ((below & 0xff00) >>> 8) * rest) & 0xff00;
  return 0xff000000 | redBlue | green;
}

// Numbers below n in an order without pattern, the same at each visit
function shuffled(n) {
  const res = Uint32Array.from({ length: n }, (_, i) => i);
  let seed = 12345;
  for (let i = n - 1; i > 0; i--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const j = Math.floor((seed / 4294967296) * (i + 1));
    [res[i], res[j]] = [res[j], res[i]];
  }
  return res;
}

// Where a name `w` by `h` lies: above, below or beside the box of its dots, over as few dots and other names as it can
export function beside([left, top, right, bottom], [w, h], xs, ys, taken) {
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const [dx, dy] = [(w + right - left) / 2, (h + bottom - top) / 2];
  const places = [
    [x, y - dy],
    [x, y + dy],
    [x + dx, y],
    [x - dx, y],
  ]; // prettier-ignore
  const covers = ([px, py]) => {
    const near = (ox, oy, ow, oh) => Math.abs(ox - px) < (w + ow) / 2 && Math.abs(oy - py) < (h + oh) / 2;
    let n = 0;
    for (let i = 0; i < xs.length; i++) n += near(xs[i], ys[i], 6, 6);
    return n + xs.length * taken.filter((t) => near(...t)).length;
  };
  const counts = places.map(covers);
  return places[counts.indexOf(Math.min(...counts))];
}

const nameOf = ({ key }) => (key.length > 18 ? `${key.slice(0, 17)}…` : key);

export class MapCanvas {
  // `calls` are functions: pick(i), hover(i or -1, x, y), lasso(list of images, whether to add)
  constructor(view, run, pictures, calls) {
    Object.assign(this, { view, run, pictures, calls });
    this.base = document.createElement('canvas');
    this.top = document.createElement('canvas');
    this.top.className = 'top';
    this.top.tabIndex = 0;
    this.top.setAttribute('role', 'application');
    this.top.setAttribute('aria-roledescription', 'map');
    this.el = document.createElement('div');
    this.el.className = 'map';
    this.el.append(this.base, this.top);
    this.order = shuffled(view.n);
    this.now = new Float32Array(2 * view.n).fill(NaN);
    this.xs = new Float32Array(view.n);
    this.ys = new Float32Array(view.n);
    this.camera = { zoom: 1, x: 0, y: 0 };
    this.stamps = null;
    this.hovered = -1;
    this.framing = [];
    this.times = [];
    this.listen();
    this.boxes = view.epochs.map((_, e) => this.bounds(e));
    this.box = this.boxes[0];
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.el);
  }

  // The part of the layout's square that an epoch fills: left, top, right, bottom
  bounds(e) {
    const { n, runs } = this.view;
    const { xy } = runs[this.run];
    const res = [1, 1, 0, 0];
    for (let p = 2 * e * n, end = p + 2 * n; p < end; p += 2) {
      if (xy[p] === NOWHERE && xy[p + 1] === NOWHERE) continue;
      for (const a of [0, 1]) {
        res[a] = Math.min(res[a], xy[p + a] / FAR);
        res[2 + a] = Math.max(res[2 + a], xy[p + a] / FAR);
      }
    }
    return res[0] > res[2] ? [0, 0, 1, 1] : res;
  }

  // `state`: epoch, scale, fits, query, selected, flags, dark, pictures, lassoing
  update(state) {
    const before = this.state;
    this.state = state;
    if (before?.epoch !== state.epoch) this.travel(before !== undefined);
    if (before?.scale !== state.scale || before?.dark !== state.dark) this.stamps = null;
    if (before?.epoch !== state.epoch || before?.fits !== state.fits) this.thumbs = null;
    if (before?.epoch !== state.epoch || before?.scale !== state.scale) this.names = null;
    this.top.style.cursor = state.lassoing ? 'crosshair' : '';
    this.redraw();
  }

  travel(smooth) {
    const { view, run, state } = this;
    const at = 2 * state.epoch * view.n;
    const xy = view.runs[run].xy;
    this.goal = new Float32Array(2 * view.n);
    for (let p = 0; p < 2 * view.n; p += 2) {
      const none = xy[at + p] === NOWHERE && xy[at + p + 1] === NOWHERE;
      this.goal[p] = none ? NaN : xy[at + p] / FAR;
      this.goal[p + 1] = none ? NaN : xy[at + p + 1] / FAR;
    }
    const still = !smooth || matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.from = still ? this.goal : this.now.slice();
    this.boxFrom = this.box;
    this.boxGoal = this.boxes[state.epoch];
    this.began = still ? -Infinity : performance.now();
    if (still) this.now.set(this.goal);
    if (still) this.box = this.boxGoal;
  }

  advance(time) {
    const t = clamp((time - this.began) / MOVE_MS, 0, 1);
    const s = ease(t);
    for (let p = 0; p < this.now.length; p++) {
      const from = Number.isNaN(this.from[p]) ? this.goal[p] : this.from[p];
      this.now[p] = from + (this.goal[p] - from) * s;
    }
    this.box = this.boxGoal.map((v, side) => this.boxFrom[side] + (v - this.boxFrom[side]) * s);
    return t < 1;
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const { width, height } = this.el.getBoundingClientRect();
    if (!width || !height) return;
    Object.assign(this, { width, height, ratio });
    for (const c of [this.base, this.top]) {
      c.width = Math.round(width * ratio);
      c.height = Math.round(height * ratio);
    }
    this.image = null;
    this.thumbs = null;
    this.names = null;
    this.stamps = null;
    this.redraw();
  }

  redraw(topOnly = false) {
    this.stale = this.stale || !topOnly;
    this.frame ??= requestAnimationFrame((time) => this.draw(time));
  }

  draw(time) {
    this.frame = null;
    if (!this.width || !this.state || !this.el.isConnected) return;
    const moving = this.began > -Infinity && this.advance(time);
    if (!moving) this.began = -Infinity;
    if (this.stale || moving) {
      const start = performance.now();
      this.project();
      this.drawDots();
      this.drawThumbs();
      this.times.push(performance.now() - start);
      if (this.times.length > 200) this.times.shift();
    }
    this.stale = false;
    this.drawTop();
    if (moving) this.redraw();
  }

  // Pixels to a unit of the layout; the map may be stretched a little to fill its frame
  scales([left, top, right, bottom] = this.box) {
    const w = (this.width - 2 * PAD) / Math.max(1e-3, right - left);
    const h = (2 * this.middle()[1] - 2 * PAD) / Math.max(1e-3, bottom - top);
    const least = Math.min(w, h);
    return [Math.min(w, 1.45 * least) * this.camera.zoom, Math.min(h, 1.45 * least) * this.camera.zoom];
  }

  // Where the middle of the layout lies, so that no dot is below the buttons
  middle() {
    return [this.width / 2, (this.height - FOOT / 2) / 2];
  }

  // A place p of the layout is drawn at p * scale + offset: [scale x, scale y, offset x, offset y]
  projection() {
    const [sx, sy] = this.scales();
    const [left, top, right, bottom] = this.box;
    const [mx, my] = this.middle();
    return [sx, sy, mx + this.camera.x - (sx * (left + right)) / 2, my + this.camera.y - (sy * (top + bottom)) / 2];
  }

  project() {
    const [sx, sy, ox, oy] = this.projection();
    const { now, xs, ys } = this;
    for (let i = 0; i < xs.length; i++) {
      xs[i] = now[2 * i] * sx + ox;
      ys[i] = now[2 * i + 1] * sy + oy;
    }
  }

  radius() {
    const room = Math.sqrt((this.width * this.height) / Math.max(1, this.view.n));
    const r = clamp(0.22 * room * this.camera.zoom ** 0.5, 1.3, this.camera.zoom > 2 ? 7 : 5);
    return Math.round(4 * r) / 4;
  }

  // Marks of all bins, faint ones and full ones, and the ring around what is selected
  makeStamps() {
    const r = this.radius();
    if (this.stamps?.radius === r) return this.stamps;
    const { dark, scale } = this.state;
    const rim = dark ? '#00000066' : '#ffffffb0';
    const make = (bin, size, alpha) => stampOf(bin, r * size * this.ratio, alpha, rim);
    this.stamps = {
      radius: r,
      marks: [scale.bins.map((b) => make(b, 0.8, 0.13)), scale.bins.map((b) => make(b, 1, 0.92))],
      ring: make({ shape: 'ring', color: this.colors.text }, 1.75, 1),
    };
    return this.stamps;
  }

  drawDots() {
    const { base, ratio, order, xs, ys } = this;
    const { scale, fits, selected } = this.state;
    const g = base.getContext('2d');
    this.readColors();
    const { marks, ring } = this.makeStamps();
    this.image ??= g.createImageData(base.width, base.height);
    const pixels = new Uint32Array(this.image.data.buffer);
    const [red, green, blue] = rgb(this.colors.ground);
    pixels.fill(0xff000000 | (blue << 16) | (green << 8) | red);
    const put = (i, stamp) => {
      if (!Number.isNaN(xs[i])) stampOn(pixels, base.width, base.height, stamp, Math.round(xs[i] * ratio), Math.round(ys[i] * ratio));
    };
    for (const fit of [0, 1]) {
      for (const i of order) if (fits[i] === fit) put(i, marks[fit][scale.of[i]]);
    }
    for (const i of selected) put(i, ring);
    g.putImageData(this.image, 0, 0);
  }

  readColors() {
    const style = getComputedStyle(this.el);
    const read = (name) => style.getPropertyValue(name).trim();
    this.colors = {
      ground: read('--ground'),
      text: read('--text'),
      right: read('--right'),
      wrong: read('--wrong'),
      accent: read('--accent'),
      soft: read('--soft'),
      second: read('--second'),
    };
  }

  thumbSize(zoom = this.camera.zoom) {
    return clamp(21 * Math.sqrt(zoom), 21, 58);
  }

  // The step of zoom, for what should not change at each turn of the wheel
  level() {
    return 2 ** (Math.round(2 * Math.log2(this.camera.zoom)) / 2);
  }

  goalScales(level) {
    return this.scales(this.boxGoal).map((s) => (s / this.camera.zoom) * level);
  }

  // Which dots are pictures at this zoom. The choice holds for a step of zoom, so that it does not flicker
  chooseThumbs() {
    const level = this.level();
    if (this.thumbs?.level === level) return this.thumbs.shown;
    const [sx, sy] = this.goalScales(level);
    const { fits } = this.state;
    const [xs, ys] = [new Float32Array(this.view.n), new Float32Array(this.view.n)];
    for (let i = 0; i < xs.length; i++) {
      const off = !fits[i] || !this.pictures.has(i);
      xs[i] = off ? NaN : this.goal[2 * i] * sx;
      ys[i] = this.goal[2 * i + 1] * sy;
    }
    const shown = thinned(xs, ys, this.order, this.thumbSize(level) * 1.12);
    this.thumbs = { level, shown };
    return shown;
  }

  // Whether enough of the visible images can be pictures. Fewer are enough for a reader who has zoomed in
  roomy(shown) {
    let [all, pictures] = [0, 0];
    for (let i = 0; i < shown.length; i++) {
      if (!this.state.fits[i] || !this.visible(i, 0)) continue;
      all++;
      pictures += shown[i];
    }
    return pictures >= (this.camera.zoom < 1.8 ? 0.34 : 0.12) * all;
  }

  drawThumbs() {
    if (!this.state.pictures) return;
    const shown = this.chooseThumbs();
    this.thumbs.drawn = this.roomy(shown);
    if (!this.thumbs.drawn) return;
    const g = this.base.getContext('2d');
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    const size = this.thumbSize();
    const { scale } = this.state;
    for (let i = 0; i < shown.length; i++) {
      if (!shown[i] || !this.visible(i, size)) continue;
      this.framed(g, i, this.xs[i], this.ys[i], size, scale.bins[scale.of[i]].color, 2);
    }
    g.setTransform(1, 0, 0, 1, 0, 0);
  }

  visible(i, margin) {
    const [x, y] = [this.xs[i], this.ys[i]];
    return x > -margin && y > -margin && x < this.width + margin && y < this.height + margin;
  }

  framed(g, i, x, y, size, color, border, alpha = 1) {
    const full = size + 2 * border;
    g.fillStyle = color;
    g.beginPath();
    g.roundRect(x - full / 2, y - full / 2, full, full, border + 1);
    g.fill();
    g.fillStyle = this.colors.ground;
    g.fillRect(x - size / 2, y - size / 2, size, size);
    g.globalAlpha = alpha;
    this.pictures.paint(g, i, x - size / 2, y - size / 2, size);
    g.globalAlpha = 1;
  }

  drawTop() {
    const g = this.top.getContext('2d');
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    g.clearRect(0, 0, this.width, this.height);
    this.drawNames(g);
    this.drawNegatives(g);
    this.drawEdges(g);
    this.drawFlags(g);
    this.drawHover(g);
    this.drawLasso(g);
  }

  text(g, words, x, y, size = 12, weight = 600, color = this.colors.text) {
    g.font = `${weight} ${size}px system-ui, sans-serif`;
    g.textAlign = 'center';
    g.textBaseline = 'middle';
    g.lineJoin = 'round';
    g.lineWidth = 3.5;
    g.strokeStyle = this.colors.ground;
    g.strokeText(words, x, y);
    g.fillStyle = color;
    g.fillText(words, x, y);
  }

  // The dots of each category where they lie closest together
  closestDots() {
    const cells = 18;
    const counts = this.state.scale.bins.map(() => new Map());
    for (let i = 0; i < this.view.n; i++) {
      const [x, y] = [this.goal[2 * i], this.goal[2 * i + 1]];
      if (Number.isNaN(x)) continue;
      const [of, key] = [counts[this.state.scale.of[i]], Math.floor(x * cells) * 100 + Math.floor(y * cells)];
      if (of.has(key)) of.get(key).push(i);
      else of.set(key, [i]);
    }
    return counts.map((of) => [...of.values()].sort((p, q) => q.length - p.length)[0] ?? []);
  }

  // Places of names on the layout. They hold for a step of zoom
  placeNames(level, size, margin) {
    const [sx, sy] = this.goalScales(level);
    const xs = Float32Array.from(this.xs, (_, i) => this.goal[2 * i] * sx);
    const ys = Float32Array.from(this.ys, (_, i) => this.goal[2 * i + 1] * sy);
    const taken = [];
    return this.closestDots().map((dots, b) => {
      const bin = this.state.scale.bins[b];
      if (!dots.length || bin.value < 0) return null;
      const [x, y] = [dots.map((i) => xs[i]), dots.map((i) => ys[i])];
      const box = [Math.min(...x) - margin, Math.min(...y) - margin, Math.max(...x) + margin, Math.max(...y) + margin];
      const frame = [size * 0.6 * nameOf(bin).length + 12, size + 5];
      const at = beside(box, frame, xs, ys, taken);
      taken.push([...at, ...frame]);
      return [at[0] / sx, at[1] / sy];
    });
  }

  drawNames(g) {
    const { scale, column } = this.state;
    if (column?.kind !== 'category' || scale.bins.length > 30 || this.camera.zoom > 5 || this.view.n < 30) return;
    const size = this.width < 480 ? 11 : 13;
    const level = this.level();
    const margin = this.state.pictures && this.thumbs?.drawn ? this.thumbSize(level) / 2 + 2 : 6;
    const on = `${level} ${margin}`;
    if (this.names?.on !== on) this.names = { on, places: this.placeNames(level, size, margin) };
    const [sx, sy, ox, oy] = this.projection();
    const taken = [];
    this.names.places.forEach((at, b) => {
      if (!at || this.state.hidden.has(scale.bins[b].key)) return;
      const [x, y] = [at[0] * sx + ox, at[1] * sy + oy];
      const words = nameOf(scale.bins[b]);
      const half = (size * 0.6 * words.length) / 2 + 6;
      if (taken.some((t) => Math.abs(t.x - x) < t.half + half && Math.abs(t.y - y) < size + 4)) return;
      taken.push({ x, y, half });
      this.label(g, words, x, y, size, scale.bins[b].color);
    });
  }

  // A name on a ground of its own, or it would be read as a part of the picture below it
  label(g, words, x, y, size, color) {
    g.font = `700 ${size}px system-ui, sans-serif`;
    const [w, h] = [g.measureText(words).width + 10, size + 5];
    g.beginPath();
    g.roundRect(x - w / 2, y - h / 2, w, h, h / 2);
    g.fillStyle = this.colors.ground;
    g.fill();
    g.strokeStyle = color;
    g.lineWidth = 1.5;
    g.stroke();
    g.textAlign = 'center';
    g.textBaseline = 'middle';
    g.fillStyle = this.colors.text;
    g.fillText(words, x, y + 0.5);
  }

  drawNegatives(g) {
    const { query, epoch, labelled } = this.state;
    for (const r of this.view.negatives(this.run, epoch, query)) {
      if (r.at < 0 || Number.isNaN(this.xs[r.at])) continue;
      const [x, y] = [this.xs[r.at], this.ys[r.at]];
      const wrong = labelled && r.false;
      g.strokeStyle = wrong ? this.colors.wrong : this.colors.soft;
      g.lineWidth = wrong ? 2 : 1.4;
      g.beginPath();
      for (const s of [1, -1]) {
        g.moveTo(x - 4, y - 4 * s);
        g.lineTo(x + 4, y + 4 * s);
      }
      g.stroke();
      if (wrong) this.text(g, '⚠', x, y - 11, 12, 400, this.colors.wrong);
    }
  }

  look(r) {
    const mark = markOf(r, this.state.mines);
    const { right, wrong, accent, soft } = this.colors;
    if (mark.dotted) return { ...mark, color: { right, wrong, plain: soft }[mark.kind], dash: [1, 4], width: 1.6 };
    return {
      ...mark,
      color: { right, wrong, plain: accent }[mark.kind],
      dash: mark.kind === 'wrong' ? [7, 5] : [],
      width: 1.3 + 3.2 * r.share,
    };
  }

  drawEdges(g) {
    const { query, epoch, order } = this.state;
    const doubted = order === 'doubt' ? this.view.doubted(this.run, epoch, query) : -1;
    const [x, y] = [this.xs[query], this.ys[query]];
    if (Number.isNaN(x)) return;
    const near = this.view.neighbours(this.run, epoch, query).filter((r) => !Number.isNaN(this.xs[r.at]));
    const most = Math.max(1e-6, ...near.map((r) => r.weight));
    const small = this.width < 420;
    const boxes = near.map((r) => ({
      i: r.at,
      r: { ...r, share: r.weight / most },
      ...this.outward(r.at, x, y),
      doubted: r.at === doubted,
      size: small ? 26 : 32,
    }));
    const own = { i: query, x, y, size: small ? 42 : 54, fixed: true };
    const seen = [own, ...boxes].filter((b) => this.visible(b.i, 0));
    this.framing = spread(seen, this.width, this.height - FOOT);
    for (const halo of [true, false]) {
      for (const b of boxes.toReversed()) this.line(g, [x, y], b, this.look(b.r), halo);
    }
    for (const b of boxes.toReversed()) if (seen.includes(b)) this.neighbour(g, b);
    if (seen.includes(own)) this.framed(g, query, own.x, own.y, own.size, this.colors.text, 3);
  }

  // A picture stands a little beyond its dot, seen from the query
  outward(i, x, y) {
    const [dx, dy] = [this.xs[i] - x, this.ys[i] - y];
    const far = Math.hypot(dx, dy) || 1;
    return { x: this.xs[i] + (20 * dx) / far, y: this.ys[i] + (20 * dy) / far };
  }

  line(g, from, box, look, halo) {
    const [dx, dy] = [this.xs[box.i], this.ys[box.i]];
    g.setLineDash(halo ? [] : look.dash);
    g.lineCap = look.dash[0] === 1 ? 'round' : 'butt';
    g.lineWidth = halo ? look.width + 2.5 : look.width;
    g.strokeStyle = halo ? this.colors.ground : look.color;
    g.beginPath();
    g.moveTo(...from);
    g.lineTo(dx, dy);
    g.lineTo(box.x, box.y);
    g.stroke();
    g.setLineDash([]);
    if (halo) return;
    g.beginPath();
    g.arc(dx, dy, 3.5, 0, 2 * Math.PI);
    g.fillStyle = look.dotted ? this.colors.ground : look.color;
    g.fill();
    g.lineWidth = 1.5;
    g.stroke();
  }

  neighbour(g, b) {
    const look = this.look(b.r);
    const lit = this.hovered === b.i;
    this.framed(g, b.i, b.x, b.y, b.size + (lit ? 8 : 0), look.color, look.dotted ? 1 : 2.5, look.faint && !lit ? 0.6 : 1);
    if (b.doubted) this.ring(g, b);
    if (look.sign) this.badge(g, look, b.x + b.size / 2, b.y - b.size / 2);
  }

  // Around the most doubtful pull
  ring(g, { x, y, size }) {
    const half = size / 2 + 6;
    g.strokeStyle = this.colors.second;
    g.lineWidth = 3;
    g.beginPath();
    g.roundRect(x - half, y - half, 2 * half, 2 * half, 8);
    g.stroke();
  }

  badge(g, look, x, y) {
    g.fillStyle = this.colors.ground;
    g.strokeStyle = look.color;
    g.lineWidth = 1.2;
    g.beginPath();
    g.arc(x, y, 7, 0, 2 * Math.PI);
    g.fill();
    g.stroke();
    g.font = '700 10px system-ui, sans-serif';
    g.textAlign = 'center';
    g.textBaseline = 'middle';
    g.fillStyle = look.color;
    g.fillText(look.sign, x, y + 0.5);
  }

  drawFlags(g) {
    g.strokeStyle = this.colors.wrong;
    g.fillStyle = this.colors.wrong;
    g.lineWidth = 1.5;
    for (const i of this.state.flagged) {
      if (Number.isNaN(this.xs[i])) continue;
      const [x, y] = [this.xs[i] + 3, this.ys[i] - 3];
      g.beginPath();
      for (const [dx, dy] of [
        [0, 0],
        [0, -13],
        [9, -10],
        [0, -7],
      ])
        g.lineTo(x + dx, y + dy); // prettier-ignore
      g.stroke();
      g.fill();
    }
  }

  drawHover(g) {
    const i = this.hovered;
    if (i < 0 || Number.isNaN(this.xs[i])) return;
    g.beginPath();
    g.arc(this.xs[i], this.ys[i], this.radius() + 5, 0, 2 * Math.PI);
    g.lineWidth = 2.5;
    g.strokeStyle = this.colors.text;
    g.stroke();
  }

  drawLasso(g) {
    if (!this.trail?.length) return;
    g.beginPath();
    for (const p of this.trail) g.lineTo(...p);
    g.closePath();
    g.fillStyle = `${this.colors.accent}26`;
    g.fill();
    g.setLineDash([5, 4]);
    g.lineWidth = 1.5;
    g.strokeStyle = this.colors.accent;
    g.stroke();
    g.setLineDash([]);
  }

  hover(i) {
    if (i === this.hovered) return;
    this.hovered = i;
    this.redraw(true);
  }

  // The image that is drawn at a place, -1 if there is none
  hit(x, y) {
    let [best, least] = [-1, (this.radius() + 8) ** 2];
    const shown = this.state.pictures && this.thumbs?.drawn && this.thumbs.shown;
    const half = this.thumbSize() / 2;
    for (let i = 0; i < this.xs.length; i++) {
      if (!this.state.fits[i] && i !== this.state.query) continue;
      const [dx, dy] = [this.xs[i] - x, this.ys[i] - y];
      const d = shown?.[i] && Math.abs(dx) < half && Math.abs(dy) < half ? (dx * dx + dy * dy) * 0.05 : dx * dx + dy * dy;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  }

  // The nearest image in a direction, for the keyboard
  toward(i, dx, dy) {
    let [best, least] = [i, Infinity];
    for (let j = 0; j < this.xs.length; j++) {
      const [x, y] = [this.xs[j] - this.xs[i], this.ys[j] - this.ys[i]];
      const along = x * dx + y * dy;
      const across = Math.abs(x * dy - y * dx);
      if (j === i || !this.state.fits[j] || along <= 0 || across > 1.5 * along) continue;
      const d = along + 2 * across;
      if (d < least) [best, least] = [j, d];
    }
    return best;
  }

  // Where keys and buttons zoom to: the chosen image if it is in sight
  aim() {
    const i = this.state.query;
    return this.visible(i, 0) ? [this.xs[i], this.ys[i]] : this.middle();
  }

  zoom(by, [x, y] = this.aim()) {
    const zoom = clamp(this.camera.zoom * by, 1, 60);
    const f = zoom / this.camera.zoom;
    const [mx, my] = this.middle();
    const [cx, cy] = [x - mx, y - my];
    this.camera = { zoom, x: cx - (cx - this.camera.x) * f, y: cy - (cy - this.camera.y) * f };
    this.pan(0, 0);
  }

  pan(dx, dy) {
    const [w, h] = [this.width * (this.camera.zoom / 2), this.height * (this.camera.zoom / 2)];
    this.camera.x = clamp(this.camera.x + dx, -w, w);
    this.camera.y = clamp(this.camera.y + dy, -h, h);
    if (this.camera.zoom === 1) Object.assign(this.camera, { x: 0, y: 0 });
    this.top.style.touchAction = this.camera.zoom > 1 || this.state?.lassoing ? 'none' : 'pan-y';
    this.redraw();
  }

  fit() {
    this.camera = { zoom: 1, x: 0, y: 0 };
    this.pan(0, 0);
  }

  // Moves the map only if an image is out of sight
  reveal(i) {
    this.project();
    if (Number.isNaN(this.xs[i]) || this.visible(i, -20)) return;
    this.pan(this.width / 2 - this.xs[i], this.height / 2 - this.ys[i]);
  }

  listen() {
    const { top } = this;
    const fingers = new Map();
    const at = (ev) => {
      const r = top.getBoundingClientRect();
      return [ev.clientX - r.left, ev.clientY - r.top];
    };
    let moved = 0;
    top.addEventListener('pointerdown', (ev) => {
      top.setPointerCapture(ev.pointerId);
      fingers.set(ev.pointerId, at(ev));
      moved = 0;
      if (this.state.lassoing || ev.shiftKey) this.trail = [at(ev)];
    });
    top.addEventListener('pointermove', (ev) => {
      const p = at(ev);
      if (!fingers.has(ev.pointerId)) return this.calls.hover(this.hit(...p), ...p, this);
      const before = fingers.get(ev.pointerId);
      moved += Math.hypot(p[0] - before[0], p[1] - before[1]);
      if (this.trail) this.extend(p);
      else if (fingers.size === 2) this.pinch(fingers, ev.pointerId, p);
      else if (moved > 4) this.pan(p[0] - before[0], p[1] - before[1]);
      return fingers.set(ev.pointerId, p);
    });
    const up = (ev) => {
      if (!fingers.delete(ev.pointerId)) return;
      const trail = this.trail;
      this.trail = null;
      if (trail && moved > 8) this.calls.lasso(this.inside(trail), ev.shiftKey);
      else if (moved <= 4 && ev.type === 'pointerup') this.choose(...at(ev));
      this.redraw(true);
    };
    top.addEventListener('pointerup', up);
    top.addEventListener('pointercancel', up);
    top.addEventListener('pointerleave', () => this.calls.hover(-1, 0, 0, this));
    top.addEventListener('dblclick', (ev) => this.zoom(ev.shiftKey ? 0.5 : 2, at(ev)));
    top.addEventListener('wheel', (ev) => this.wheel(ev, at(ev)), { passive: false });
  }

  extend(p) {
    this.trail.push(p);
    this.redraw(true);
  }

  // A page that scrolls keeps its wheel, until the map was clicked
  wheel(ev, p) {
    if (!ev.ctrlKey && document.activeElement !== this.top && !this.calls.ownsWheel()) return;
    ev.preventDefault();
    this.zoom(Math.exp(-clamp(ev.deltaY, -120, 120) * (ev.ctrlKey ? 0.01 : 0.0022)), p);
  }

  pinch(fingers, id, p) {
    const [, other] = [...fingers].find(([key]) => key !== id);
    const before = fingers.get(id);
    const [a, b] = [Math.hypot(before[0] - other[0], before[1] - other[1]), Math.hypot(p[0] - other[0], p[1] - other[1])];
    this.zoom(b / Math.max(1, a), [(p[0] + other[0]) / 2, (p[1] + other[1]) / 2]);
  }

  choose(x, y) {
    const i = this.hit(x, y);
    if (i >= 0) this.calls.pick(i);
    this.top.focus({ preventScroll: true });
  }

  inside(trail) {
    const res = [];
    for (let i = 0; i < this.xs.length; i++) {
      if (this.state.fits[i] && !Number.isNaN(this.xs[i]) && inPolygon(this.xs[i], this.ys[i], trail)) res.push(i);
    }
    return res;
  }

  remove() {
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
  }
}
