// The figures of the training: one chart for all runs, its axis fitted to what it shows

import { svg } from './dom.js';

const [WIDTH, HEIGHT] = [360, 150];
const [LEFT, TOP, BOTTOM] = [34, 14, 22];
const LINE = 12; // height of a label

// Curves by name, chance apart
export function measuresOf(view) {
  const res = new Map();
  view.runs.forEach((run, r) => {
    for (const c of run.curves ?? []) {
      if (c.name === 'chance' || !c.values.some((v) => v !== null)) continue;
      if (!res.has(c.name)) res.set(c.name, { name: c.name, label: c.label, lines: [] });
      res.get(c.name).lines.push({ run: r, epochs: c.epochs, values: c.values });
    }
  });
  const first = ['purity_5', 'agreement'].find((name) => res.has(name) && (view.labelled || name === 'agreement'));
  return [...res.values()].sort((a, b) => Number(b.name === first) - Number(a.name === first));
}

function chanceOf(view) {
  const curve = view.runs.flatMap((r) => r.curves ?? []).find((c) => c.name === 'chance');
  const values = (curve?.values ?? []).filter((v) => v !== null);
  return values.length ? values.reduce((a, b) => a + b) / values.length : null;
}

// Ends and marks of an axis that shows all values, of a size that reads well
export function axis(values) {
  const known = values.filter((v) => v !== null && Number.isFinite(v));
  if (!known.length) return { lo: 0, hi: 1, ticks: [0, 1] };
  let [lo, hi] = [Math.min(...known), Math.max(...known)];
  if (hi - lo < 1e-9) [lo, hi] = [lo - 0.05, hi + 0.05];
  const raw = (hi - lo) / 3;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
  [lo, hi] = [Math.floor(lo / step + 1e-9) * step, Math.ceil(hi / step - 1e-9) * step];
  const ticks = Array.from({ length: Math.round((hi - lo) / step) + 1 }, (_, t) => Number((lo + t * step).toPrecision(6)));
  return { lo, hi, ticks };
}

function valueAt(line, epoch) {
  const at = line.epochs.indexOf(epoch);
  return at < 0 ? null : line.values[at];
}

const shown = (v) => (v === null || v === undefined ? 'unknown' : Number(v.toPrecision(3)).toString());

const rounded = (v) => shown(Number(v.toFixed(2)));

// Labels from top to bottom. One that would stand over another, or over a place that is taken, moves to the nearest free place
function apart(labels, kept = []) {
  const taken = [...kept];
  const free = (y) => y >= 4 && y <= HEIGHT - 4 && taken.every((t) => Math.abs(y - t) > LINE - 0.01);
  for (const l of labels.sort((a, b) => a.y - b.y)) {
    const places = [l.y, ...taken.flatMap((t) => [t + LINE, t - LINE])].filter(free);
    l.y = places.sort((a, b) => Math.abs(a - l.y) - Math.abs(b - l.y))[0] ?? l.y;
    taken.push(l.y);
  }
  return labels;
}

export class Chart {
  constructor(view, choose) {
    this.view = view;
    this.measures = measuresOf(view);
    this.chance = chanceOf(view);
    this.ends = this.span();
    this.right = WIDTH - (view.runs.length > 1 ? 80 : 46); // beyond it stand values, and of several runs their names
    this.el = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', class: 'chart' });
    this.el.addEventListener('click', (ev) => choose(this.epochAt(ev)));
  }

  epochAt(ev) {
    const box = this.el.getBoundingClientRect();
    const x = ((ev.clientX - box.left) / box.width) * WIDTH;
    const distances = this.view.epochs.map((e) => Math.abs(this.x(e) - x));
    return distances.indexOf(Math.min(...distances));
  }

  span() {
    const all = this.measures.flatMap((m) => m.lines.flatMap((l) => Array.from(l.epochs)));
    return [Math.min(...all, ...this.view.epochs), Math.max(...all, ...this.view.epochs)];
  }

  x(epoch) {
    const [first, last] = this.ends;
    return LEFT + ((epoch - first) / Math.max(1, last - first)) * (this.right - LEFT);
  }

  draw(name, epochIndex) {
    const measure = this.measures.find((m) => m.name === name) ?? this.measures[0];
    if (!measure) return;
    const epoch = this.view.epochs[epochIndex];
    const chance = this.view.labelled ? this.chance : null;
    const { lo, hi, ticks } = axis([...measure.lines.flatMap((l) => l.values), chance]);
    const y = (v) => TOP + (1 - (v - lo) / (hi - lo)) * (HEIGHT - TOP - BOTTOM);
    this.el.replaceChildren(
      ...this.grid(ticks, y),
      ...this.starts(),
      ...(chance === null ? [] : this.chanceLine(y(chance))),
      svg('line', { class: 'now', x1: this.x(epoch), x2: this.x(epoch), y1: TOP - 6, y2: HEIGHT - BOTTOM }),
      ...measure.lines.flatMap((l) => this.line(l, y, epoch)),
      ...this.names(measure, y),
      ...this.valuesAt(measure, y, epoch),
    );
    this.el.setAttribute('aria-label', this.words(measure, epoch, chance));
  }

  grid(ticks, y) {
    const lines = ticks.flatMap((t) => [
      svg('line', { class: 'grid', x1: LEFT, x2: this.right, y1: y(t), y2: y(t) }),
      svg('text', { x: LEFT - 5, y: y(t) + 3.5, 'text-anchor': 'end' }, shown(t)),
    ]);
    const [first, last] = this.ends;
    const below = HEIGHT - 6;
    return [
      ...lines,
      svg('text', { x: LEFT, y: below }, first ? `epoch ${first}` : 'before'),
      first === last ? null : svg('text', { x: this.right, y: below, 'text-anchor': 'end' }, String(last)),
    ].filter(Boolean);
  }

  starts() {
    const begun = [...new Set(this.view.runs.map((r) => r.start).filter((s) => s !== null && s !== undefined))];
    return begun.flatMap((s) => [
      svg('line', { class: 'start', x1: this.x(s), x2: this.x(s), y1: TOP, y2: HEIGHT - BOTTOM }),
      svg('text', { class: 'note', ...this.beside(s), y: TOP - 4 }, 'mining starts'),
    ]);
  }

  // To the right of an epoch, or to the left if there is no room
  beside(epoch) {
    const x = this.x(epoch);
    return x > this.right - 70 ? { x: x - 3, 'text-anchor': 'end' } : { x: x + 3 };
  }

  chanceLine(y) {
    return [
      svg('line', { class: 'chance', x1: LEFT, x2: this.right, y1: y, y2: y }),
      svg('text', { class: 'note', x: this.right + 4, y: y + 3.5 }, 'chance'),
    ];
  }

  line(l, y, epoch) {
    const points = Array.from(l.values, (v, p) => (v === null ? null : `${this.x(l.epochs[p]).toFixed(1)},${y(v).toFixed(1)}`)).filter(
      Boolean,
    );
    const v = valueAt(l, epoch);
    return [
      svg('polyline', { class: `run${l.run % 2}`, points: points.join(' ') }),
      v === null ? null : svg('circle', { class: `run${l.run % 2}`, cx: this.x(epoch), cy: y(v), r: 3.4 }),
    ].filter(Boolean);
  }

  // Names of the runs at the right, with the value at the end of each line
  names(measure, y) {
    const chance = this.view.labelled && this.chance !== null ? [y(this.chance)] : [];
    const labels = measure.lines.map((l) => {
      const last = Array.from(l.values).findLast((o) => o !== null);
      const name = this.view.runs.length > 1 ? `${this.view.runs[l.run].name.slice(0, 6)} ` : '';
      return { run: l.run, y: y(last), text: `${name}${rounded(last)}` };
    });
    return apart(labels, chance).map((l) => svg('text', { class: `end run${l.run % 2}`, x: this.right + 4, y: l.y + 3.5 }, l.text));
  }

  // The values at an epoch, beside their marks. Those of the last epoch stand at the right already
  valuesAt(measure, y, epoch) {
    if (epoch === this.ends[1]) return [];
    const x = this.x(epoch);
    const place = x > this.right - 40 ? { x: x - 7, 'text-anchor': 'end' } : { x: x + 7 };
    const known = measure.lines.map((l) => ({ run: l.run, v: valueAt(l, epoch) })).filter((l) => l.v !== null);
    const labels = known.map((l) => ({ run: l.run, y: Math.max(TOP + 4, y(l.v) - 6), text: rounded(l.v) }));
    return apart(labels).map((l) => svg('text', { class: `value run${l.run % 2}`, ...place, y: l.y + 3.5 }, l.text));
  }

  words(measure, epoch, chance) {
    const each = measure.lines.map((l) => {
      const run = this.view.runs[l.run].name;
      return `${run ? `${run}: ` : ''}${shown(valueAt(l, epoch))}`;
    });
    return `${measure.label} ${epoch ? `after epoch ${epoch}` : 'before training'}: ${each.join(', ')}${chance === null ? '' : `, chance ${shown(chance)}`}`;
  }
}
