// Selections and flags, and their tables

import { csv } from './view.js';

const FLAG_COLUMNS = ['kind', 'run', 'epoch', 'query', 'rank', 'id', 'similarity', 'query_label', 'label', 'query_file', 'file'];
const PICKED_COLUMNS = ['id', 'file', 'label', 'epoch', 'x', 'y'];
const SAME = ['kind', 'run', 'epoch', 'query', 'id'];

// The flag of an image, or of a neighbour `r` that it has in a run and epoch
export function flagOf(view, i, e, run, r) {
  const query = view.ids[i];
  if (!r) return { kind: 'image', run: null, epoch: null, query, rank: null, id: null, similarity: null };
  const similarity = Number(r.similarity.toFixed(3));
  return { kind: 'neighbour', run: view.runs[run].name, epoch: view.epochs[e], query, rank: r.rank, id: view.ids[r.at], similarity };
}

export function isIn(flags, flag) {
  return flags.some((f) => SAME.every((k) => f[k] === flag[k]));
}

// With the flag, or without it if it was there
export function toggled(flags, flag) {
  const others = flags.filter((f) => !SAME.every((k) => f[k] === flag[k]));
  return others.length < flags.length ? others : [...flags, flag];
}

export function flagTable(view, flags) {
  const of = (id, f) => (view.at.has(id) ? f(view.at.get(id)) : null);
  const label = (id) => of(id, (i) => view.label(i));
  const file = (id) => of(id, (i) => view.paths?.[i]);
  const full = (f) => ({ ...f, query_label: label(f.query), label: label(f.id), query_file: file(f.query), file: file(f.id) });
  return csv(
    FLAG_COLUMNS,
    flags.map((f) => FLAG_COLUMNS.map((c) => full(f)[c])),
  );
}

export function pickedTable(view, { selected, runs, epoch }) {
  const row = (i) => {
    const [x, y] = view.place(runs[0], epoch, i) ?? [];
    return [view.ids[i], view.paths?.[i], view.label(i), view.epochs[epoch], x?.toFixed(5), y?.toFixed(5)];
  };
  return csv(PICKED_COLUMNS, Array.from(selected, row));
}
