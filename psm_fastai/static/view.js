// What the map shows, without any page: reading, measuring, ordering, filtering.

const TYPES = {
  u1: Uint8Array,
  u2: Uint16Array,
  u4: Uint32Array,
  i1: Int8Array,
  i2: Int16Array,
  i4: Int32Array,
  f4: Float32Array,
  f8: Float64Array,
};
export const NOWHERE = 0xffff; // both coordinates of an image without a key
export const FAR = NOWHERE - 1; // the largest coordinate of any other

export async function unpack(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return parse(await new Response(stream).arrayBuffer());
}

// A packed view is the length of a JSON header in four bytes, the header, and the arrays it names.
export function parse(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const header = new TextDecoder().decode(new Uint8Array(buffer, 4, size));
  const start = Math.ceil((4 + size) / 8) * 8;
  return JSON.parse(header, (_, v) => {
    if (!v?.$type) return v;
    const [at, length, step] = v.$at;
    if (v.$type === 'bytes') return new Uint8Array(buffer, start + at, length);
    const values = new TYPES[v.$type](buffer, start + at, length);
    if (step) for (let p = step; p < length; p++) values[p] += values[p - step]; // each epoch says what has changed
    return values;
  });
}

export class View {
  constructor(raw) {
    Object.assign(this, raw);
    this.n = raw.ids.length;
    this.last = raw.epochs.length - 1;
    this.at = new Map(Array.from(raw.ids, (id, i) => [id, i]));
    this.probes = new Set(raw.probes ?? []);
    this.mapped = raw.runs.some((r) => r.xy.some((v) => v !== NOWHERE));
    this.kept = new Map();
    this.drawn = new Map();
    this.columns = allColumns(this, raw.columns ?? []);
  }

  // The state that an index of the epochs stands for
  when(e) {
    return this.epochs[e] === 0 ? 'before training' : `epoch ${this.epochs[e]}`;
  }

  // Whether training mines at an epoch. Until it does, neighbours are only near
  mines(run, e) {
    const { method, mining } = this.runs[run];
    return method?.n_pos !== 0 && mining?.[e] !== false;
  }

  // What happens to the neighbours that training trusts: some methods pull none, and only leave them out of the negatives
  verb(run) {
    return this.runs[run].method?.hard_weight === 1 ? 'trusted' : 'pulled';
  }

  name(i) {
    return this.files?.[i] ?? `image ${this.ids[i]}`;
  }

  label(i) {
    const l = this.labels[i];
    return l < 0 ? null : (this.vocab[l] ?? String(l));
  }

  // "cats/01.jpg, class cat"
  words(i) {
    const label = this.label(i);
    return label === null ? this.name(i) : `${this.name(i)}, class ${label}`;
  }

  place(run, e, i) {
    const xy = this.runs[run].xy;
    const at = 2 * (e * this.n + i);
    if (xy[at] === NOWHERE && xy[at + 1] === NOWHERE) return null;
    return [xy[at] / FAR, xy[at + 1] / FAR];
  }

  k(run) {
    const r = this.runs[run];
    r.k ??= Math.round(r.near.length / Math.max(1, this.n * this.epochs.length));
    return r.k;
  }

  right(i, j) {
    const [a, b] = [this.labels[i], this.labels[j]];
    return a < 0 || b < 0 ? null : a === b;
  }

  // The neighbours of an image in a run and epoch
  neighbours(run, e, i) {
    const { near, sim, weight } = this.runs[run];
    const k = this.k(run);
    const res = [];
    for (let s = (e * this.n + i) * k, end = s + k; s < end; s++) {
      if (near[s] < 0) continue;
      res.push({
        at: near[s],
        similarity: sim[s] / 255,
        weight: weight[s] / 255,
        trusted: weight[s] > 0,
        right: this.right(i, near[s]),
        rank: res.length + 1,
      });
    }
    return res;
  }

  // The position of the pulled neighbour that is doubted most, -1 if none is pulled
  doubted(run, e, i) {
    const pulled = this.mines(run, e) ? this.neighbours(run, e, i).filter((r) => r.trusted) : [];
    const doubts = pulled.map((r) => doubtOf(this, run, e, i, r.at));
    return pulled[doubts.indexOf(Math.max(...doubts))]?.at ?? -1;
  }

  isNear(run, e, i, j) {
    const k = this.k(run);
    const s = (e * this.n + i) * k;
    return this.runs[run].near.subarray(s, s + k).includes(j);
  }

  // How many of the neighbours of `i` are neighbours of `j`, too
  shared(run, e, i, j) {
    const k = this.k(run);
    const s = (e * this.n + i) * k;
    return this.runs[run].near.subarray(s, s + k).filter((o) => o >= 0 && this.isNear(run, e, j, o)).length;
  }

  // The first of the epochs in which `j` has been near `i` without a break
  since(run, e, i, j) {
    while (e > 0 && this.isNear(run, e - 1, i, j)) e--;
    return e;
  }

  // The rows of the negatives of each probe in each epoch. They are sorted once, as the map asks each time that it is drawn
  negativeRows(run) {
    if (!this.drawn.has(run)) {
      const { probe = [], epoch } = this.runs[run].negatives ?? {};
      const rows = new Map();
      probe.forEach((i, r) => {
        const key = `${i} ${epoch[r]}`;
        if (rows.has(key)) rows.get(key).push(r);
        else rows.set(key, [r]);
      });
      this.drawn.set(run, rows);
    }
    return this.drawn.get(run);
  }

  negatives(run, e, i) {
    const { place, id, similarity, times } = this.runs[run].negatives ?? {};
    const rows = this.negativeRows(run).get(`${i} ${e}`) ?? [];
    return rows.map((r) => ({
      at: place[r],
      id: id[r],
      similarity: similarity[r],
      times: Number.isNaN(times[r]) ? null : times[r],
      false: place[r] >= 0 && this.right(i, place[r]) === true,
    }));
  }

  column(name) {
    return this.columns.find((c) => c.name === name);
  }

  // The values of a column in one run and epoch, one for each image; NaN or -1 if there is none
  values(name, run, e) {
    const key = `${name} ${run} ${e}`;
    if (!this.kept.has(key)) {
      if (this.kept.size > 400) this.kept.clear();
      this.kept.set(key, this.column(name).of(this, run, e));
    }
    return this.kept.get(key);
  }

  // Smallest and largest value of a column over all runs and epochs
  range(name) {
    const key = `range ${name}`;
    if (!this.kept.has(key)) this.kept.set(key, rangeOf(this, name));
    return this.kept.get(key);
  }
}

function rangeOf(view, name) {
  let [lo, hi] = [Infinity, -Infinity];
  for (let run = 0; run < view.runs.length; run++) {
    for (let e = 0; e <= view.last; e++) {
      for (const v of view.values(name, run, e)) {
        if (v < lo) lo = v;
        if (v > hi) hi = v;
      }
    }
  }
  if (lo > hi) return [0, 1];
  return lo >= 0 && hi <= 1 ? [0, 1] : [lo, hi];
}

function perImage(f) {
  return (view, run, e) => {
    const res = new Float32Array(view.n);
    for (let i = 0; i < view.n; i++) res[i] = f(view, run, e, i);
    return res;
  };
}

// Mean of a value over the neighbours of an image, NaN if it has none
function meanNear(f) {
  return perImage((view, run, e, i) => {
    const k = view.k(run);
    const { near } = view.runs[run];
    let [sum, count] = [0, 0];
    for (let s = (e * view.n + i) * k, end = s + k; s < end; s++) {
      if (near[s] < 0) continue;
      const v = f(view, run, e, i, s, near[s]);
      if (v === null) continue;
      sum += v;
      count++;
    }
    return count ? sum / count : NaN;
  });
}

function distance(view, run, e, i, j) {
  const [a, b] = [view.place(run, e, i), view.place(run, e, j)];
  return a && b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0;
}

// Largest value over the neighbours of an image that are pulled, or only near while nothing is mined; NaN if there are none
function largest(f) {
  return perImage((view, run, e, i) => {
    const k = view.k(run);
    const { near, weight } = view.runs[run];
    let res = NaN;
    for (let s = (e * view.n + i) * k, end = s + k; s < end; s++) {
      if (near[s] < 0 || (weight[s] === 0 && view.mines(run, e))) continue;
      const v = f(view, run, e, i, near[s]);
      if (v !== null) res = Math.max(Number.isNaN(res) ? 0 : res, v);
    }
    return res;
  });
}

const LONGEST = largest(distance);
const LONGEST_WRONG = largest((view, run, e, i, j) => (view.right(i, j) === false ? distance(view, run, e, i, j) : null));

// How few neighbours two images share. Of neighbours that share equally many the farther one counts
function doubtOf(view, run, e, i, j) {
  const nearness = (Math.SQRT2 - distance(view, run, e, i, j)) / 1000;
  return 1 - view.shared(run, e, i, j) / view.k(run) - nearness;
}

const LARGEST_DOUBT = largest(doubtOf);
const DOUBT = (view, run, e) => (view.mines(run, e) ? LARGEST_DOUBT(view, run, e) : new Float32Array(view.n).fill(NaN));

const SHARE_RIGHT = meanNear((view, _r, _e, i, _s, j) => view.right(i, j));
const MEAN_TRUST = meanNear((view, run, e, _i, s) => (view.mines(run, e) ? view.runs[run].weight[s] / 255 : null));
const SHARE_TRUSTED = meanNear((view, run, e, _i, s) => (view.mines(run, e) ? Number(view.runs[run].weight[s] > 0) : null));
const MEAN_SIMILARITY = meanNear((view, run, _e, _i, s) => view.runs[run].sim[s] / 255);
const SHARE_KEPT = meanNear((view, run, e, i, _s, j) => (e ? view.isNear(run, e - 1, i, j) : NaN));
const SHARE_OTHER = meanNear((view, _r, e, i, _s, j) => !view.isNear(1, e, i, j));

function ownColumns(view) {
  const number = (name, label, help, of, when = true) => when && { name, label, help, of, kind: 'number' };
  return [
    view.labelled && {
      name: 'class',
      label: 'class',
      help: 'Known label of an image',
      kind: 'category',
      names: view.vocab,
      of: () => view.labels,
    },
    number('right', 'right neighbours', 'Share of the neighbours that have the label of the image', SHARE_RIGHT, view.labelled),
    number('trust', 'trust in its neighbours', 'How far training trusts the neighbours, mean over them; 0 is no pull', MEAN_TRUST),
    number(
      'trusted',
      `neighbours ${view.verb(0)}`,
      'Share of the neighbours that the estimate without labels trusts. If it is small, little is pulled; it measures no success',
      SHARE_TRUSTED,
    ),
    number(
      'stability',
      'stability',
      'Share of the neighbours that were neighbours at the last look, too. With an index they change when it is made again',
      SHARE_KEPT,
      view.last > 0,
    ),
    number('similarity', 'similarity', 'Mean cosine similarity to its neighbours', MEAN_SIMILARITY),
    number('edge', 'longest edge', 'Distance on the map to the farthest pulled neighbour; 1 is the width of the map', LONGEST),
    number(
      'doubt',
      'most doubtful pull',
      'Share of its neighbours that are no neighbours of the pulled one, for the pulled neighbour with the largest share',
      DOUBT,
    ),
    number('wrong_edge', 'longest wrong edge', 'Distance on the map to the farthest wrong neighbour', LONGEST_WRONG, view.labelled),
    number(
      'differ',
      'difference of the runs',
      'Share of the neighbours in the first run that are not neighbours in the second',
      SHARE_OTHER,
      view.runs.length > 1,
    ),
  ].filter(Boolean);
}

// Given values are [n], or [epochs, n] in one piece. A column of one run stands in for all that have none
function given(columns, n) {
  const of = (_view, run, e) => {
    const { values } = columns.find((c) => c.run === run) ?? columns[0];
    return values.length > n ? values.subarray(e * n, (e + 1) * n) : values;
  };
  return { ...columns[0], of };
}

function allColumns(view, raw) {
  const names = [...new Set(raw.map((c) => c.name))];
  const extra = names.map((name) =>
    given(
      raw.filter((c) => c.name === name),
      view.n,
    ),
  );
  const own = ownColumns(view);
  return [...own.map((c) => extra.find((g) => g.name === c.name) ?? c), ...extra.filter((g) => !own.some((c) => c.name === g.name))];
}

const ordersFor = (view) => [
  { name: 'right', label: 'fewest right first', column: 'right' },
  { name: 'wrong_edge', label: 'longest wrong edge first', column: 'wrong_edge', down: true },
  { name: 'trust', label: `fewest ${view.verb(0)} first`, column: 'trusted' },
  { name: 'stability', label: 'least stable first', column: 'stability' },
  { name: 'views', label: 'views disagree most first', column: 'views' },
  { name: 'doubt', label: 'most doubtful pull first', column: 'doubt', down: true },
  { name: 'similarity', label: 'least similar first', column: 'similarity' },
  { name: 'edge', label: 'longest edge first', column: 'edge', down: true },
  { name: 'outlier', label: 'outliers first', column: 'outlier', down: true },
  { name: 'loss', label: 'largest loss first', column: 'loss', down: true },
  { name: 'differ', label: 'runs differ most first', column: 'differ', down: true },
  { name: 'cluster', label: 'by cluster', column: 'cluster' },
  { name: 'class', label: 'by class', column: 'class' },
];

export function ordersOf(view) {
  const res = ordersFor(view).filter((o) => view.column(o.column));
  return [...res, { name: 'file', label: 'by name' }, { name: 'id', label: 'by id' }];
}

// The order to begin with. Without labels those come first that are pulled to what they have least in common with
export function firstOrder(view, runs, e) {
  const pulls = runs.some((run) => view.values('trusted', run, e).some((share) => share > 0));
  return !view.labelled && pulls ? 'doubt' : ordersOf(view)[0].name;
}

export function showsOf(view) {
  const has = (name) => view.column(name);
  return [
    { name: 'all', label: 'all images' },
    view.labelled && { name: 'wrong', label: 'with a wrong neighbour' },
    view.labelled && { name: 'pulled', label: 'pulled to a wrong one' },
    { name: 'untrusted', label: `with no neighbour ${view.verb(0)}` },
    has('duplicate_of') && { name: 'duplicates', label: 'duplicates: same pixels' },
    has('near_duplicate_of') && { name: 'alike', label: 'duplicates: most alike' },
    has('outlier') && { name: 'outliers', label: 'outliers' },
    view.probes.size > 0 && { name: 'probes', label: 'followed images' },
    { name: 'selected', label: 'selected images' },
    { name: 'flagged', label: 'flagged images' },
  ].filter(Boolean);
}

// A number means a whole name, not some of its digits
export function finder(view, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return () => true;
  const number = /^#?\d+$/.test(wanted) ? Number(wanted.replace('#', '')) : null;
  const matches = (s) => {
    if (s === null || s === undefined) return false;
    if (number === null) return s.toLowerCase().includes(wanted);
    return (s.match(/\d+/g) ?? []).some((d) => Number(d) === number);
  };
  const classes = new Set(view.vocab.map((c, l) => (matches(c) ? l : -1)).filter((l) => l >= 0));
  return (i) => view.ids[i] === number || classes.has(view.labels[i]) || matches(view.files?.[i]);
}

const COPIES = { duplicates: 'duplicate_of', alike: 'near_duplicate_of' };

// For each image the position of the image that it is a copy of, its own if others are copies of it, -1 if there are none
function copiesOf(view, show) {
  const of = view.values(COPIES[show], 0, 0);
  const res = Int32Array.from(of);
  of.forEach((j, i) => {
    if (j >= 0 && of[j] < 0) res[j] = j;
    if (j > i && of[j] === i) res[i] = i; // each is the copy of the other
  });
  return res;
}

function farthest(view, run, e) {
  const values = Array.from(view.values('outlier', run, e)).filter((v) => !Number.isNaN(v));
  values.sort((a, b) => b - a);
  return values[Math.min(values.length - 1, Math.ceil(values.length / 20))] ?? Infinity;
}

// Whether an image fits in one of the runs that are shown
function inSome(view, { runs, epoch }, name, test) {
  const each = runs.map((run) => view.values(name, run, epoch));
  return (i) => each.some((values) => test(values[i]));
}

function tester(view, state) {
  const { runs, epoch: e } = state;
  switch (state.show) {
    case 'wrong':
      return inSome(view, state, 'right', (v) => v < 1);
    case 'pulled':
      return inSome(view, state, 'wrong_edge', (v) => v >= 0);
    case 'untrusted':
      return inSome(view, state, 'trust', (v) => !(v > 0));
    case 'duplicates':
    case 'alike': {
      const of = copiesOf(view, state.show);
      return (i) => of[i] >= 0;
    }
    case 'outliers': {
      const least = farthest(view, runs[0], e);
      return inSome(view, state, 'outlier', (v) => v >= least);
    }
    case 'probes':
      return (i) => view.probes.has(i);
    case 'selected':
      return (i) => state.selected.has(i);
    case 'flagged':
      return (i) => state.flags.some((f) => f.query === view.ids[i] || f.id === view.ids[i]);
    default:
      return () => true;
  }
}

// One byte for each image: whether it fits the filters. `hidden` are bins of the colour that are switched off
export function fitting(view, state, bins, hidden) {
  const [test, found] = [tester(view, state), finder(view, state.find)];
  const res = new Uint8Array(view.n);
  for (let i = 0; i < view.n; i++) {
    res[i] = Number(!hidden.has(bins[i]) && found(i) && test(i));
  }
  return res;
}

// The value by which images are ordered: of several runs the one that would come first
function keys(view, { runs, epoch }, { column, down }) {
  const each = runs.map((run) => view.values(column, run, epoch));
  if (each.length === 1) return each[0];
  const better = down ? Math.max : Math.min;
  return Float64Array.from({ length: view.n }, (_, i) => {
    const known = each.map((values) => values[i]).filter((v) => !Number.isNaN(v));
    return known.length ? better(...known) : NaN;
  });
}

// Places of the images that fit, in order. Images without a value come last, ties by id
export function ordered(view, state, fits) {
  const order = ordersOf(view).find((o) => o.name === state.order);
  const res = [];
  for (let i = 0; i < view.n; i++) if (fits[i]) res.push(i);
  const byId = (a, b) => view.ids[a] - view.ids[b];
  if (COPIES[state.show]) {
    const of = copiesOf(view, state.show); // copies stand side by side
    return res.sort((a, b) => of[a] - of[b] || byId(a, b));
  }
  if (state.order === 'file') {
    const { compare } = new Intl.Collator(undefined, { numeric: true });
    return res.sort((a, b) => compare(view.name(a), view.name(b)) || byId(a, b));
  }
  if (!order?.column) return res.sort(byId);
  const values = keys(view, state, order);
  const category = view.column(order.column).kind === 'category';
  const missing = (i) => Number.isNaN(values[i]) || (category && values[i] < 0);
  const sign = order.down ? -1 : 1;
  return res.sort((a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b) || byId(a, b);
    return sign * (values[a] - values[b]) || byId(a, b);
  });
}

// "3 of 8" with what it counts, for a bar under a picture
export function tally(view, run, e, i) {
  const near = view.neighbours(run, e, i);
  const known = near.filter((r) => r.right !== null);
  if (known.length) return { count: known.filter((r) => r.right).length, of: known.length, word: 'right' };
  if (!view.mines(run, e)) return { count: 0, of: 0, word: '' };
  return { count: near.filter((r) => r.trusted).length, of: near.length, word: view.verb(run) };
}

// Text of a table cell; spreadsheets take some beginnings for formulas
export function cell(v) {
  if (v === null || v === undefined || Number.isNaN(v)) return '';
  const s = typeof v === 'string' && /^[=+\-@\t\r\n]/.test(v) ? `'${v}` : String(v);
  return /[",\r\n]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
}

export function csv(columns, rows) {
  return [columns, ...rows].map((r) => `${r.map(cell).join(',')}\n`).join('');
}

export function inPolygon(x, y, points) {
  let inside = false;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [[ax, ay], [bx, by]] = [points[i], points[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

// Which dots become pictures if no two may be closer than `gap`: earlier in `order` wins
export function thinned(xs, ys, order, gap) {
  const shown = new Uint8Array(xs.length);
  const cells = new Map();
  for (const i of order) {
    if (Number.isNaN(xs[i])) continue;
    const [cx, cy] = [Math.floor(xs[i] / gap), Math.floor(ys[i] / gap)];
    let free = true;
    for (let dx = -1; dx <= 1 && free; dx++) {
      for (let dy = -1; dy <= 1 && free; dy++) {
        const j = cells.get((cx + dx) * 65537 + cy + dy);
        if (j !== undefined && Math.max(Math.abs(xs[i] - xs[j]), Math.abs(ys[i] - ys[j])) < gap) free = false;
      }
    }
    if (!free) continue;
    shown[i] = 1;
    cells.set(cx * 65537 + cy, i);
  }
  return shown;
}

// Moves squares apart until none covers another; each stays as near to its own place as it can
export function spread(boxes, width, height, rounds = 80) {
  for (let r = 0; r < rounds; r++) {
    let moved = false;
    for (let a = 0; a < boxes.length; a++) {
      for (let b = a + 1; b < boxes.length; b++) moved = push(boxes[a], boxes[b]) || moved;
    }
    for (const o of boxes) {
      const edge = o.size / 2 + 9; // a sign stands at its corner
      o.x = Math.max(edge, Math.min(width - edge, o.x));
      o.y = Math.max(edge, Math.min(height - edge, o.y));
    }
    if (!moved) break;
  }
  return boxes;
}

function push(a, b) {
  const need = (a.size + b.size) / 2 + (a.fixed || b.fixed ? 20 : 9);
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const [ox, oy] = [need - Math.abs(dx), need - Math.abs(dy)];
  if (ox <= 0 || oy <= 0) return false;
  const share = a.fixed ? 1 : b.fixed ? 0 : 0.5;
  const along = ox < oy ? 'x' : 'y';
  const by = Math.min(ox, oy) * ((along === 'x' ? dx : dy) < 0 ? -1 : 1);
  a[along] -= by * (1 - share);
  b[along] += by * share;
  return true;
}
