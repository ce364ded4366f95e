// The state as others keep it: a notebook's model, and the address of a page

import { ordersOf } from './view.js';

export const TRAITS = ['query', 'epoch', 'runs', 'order', 'colour', 'filters', 'picked', 'flags'];

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

// Ids in place of positions, numbers of epochs in place of indices, lists in place of sets
export function asTraits(view, state) {
  return {
    query: view.ids[state.query],
    epoch: view.epochs[state.epoch],
    runs: state.runs,
    order: state.order,
    colour: state.colour,
    filters: { show: state.show, find: state.find, hidden: [...state.hidden] },
    picked: Array.from(state.selected, (i) => view.ids[i]),
    flags: state.flags,
  };
}

export function give(model, traits) {
  for (const name of TRAITS) {
    if (JSON.stringify(traits[name]) !== JSON.stringify(model.get(name))) model.set(name, traits[name]);
  }
  model.save_changes();
}

// The part of the state that a model has and this view knows
export function take(model, view) {
  const res = {};
  const read = (name, f) => {
    const v = model.get(name);
    if (v !== undefined && v !== null) Object.assign(res, f(v));
  };
  read('query', (id) => (view.at.has(id) ? { query: view.at.get(id) } : {}));
  read('epoch', (e) => (view.epochs.includes(e) ? { epoch: view.epochs.indexOf(e) } : {}));
  read('runs', (runs) => (runs.length && runs.every((run) => run in view.runs) ? { runs } : {}));
  read('order', (order) => (ordersOf(view).some((o) => o.name === order) ? { order } : {}));
  read('colour', (colour) => (colour === 'none' || view.column(colour) ? { colour } : {}));
  read('filters', (f) => ({ show: f.show ?? 'all', find: f.find ?? '', hidden: new Set(f.hidden ?? []) }));
  read('picked', (ids) => ({ selected: new Set(ids.map((id) => view.at.get(id)).filter((i) => i !== undefined)) }));
  read('flags', (flags) => ({ flags }));
  return res;
}

// #image=252&epoch=12
export function fromAddress(view, hash) {
  const said = new URLSearchParams(hash.slice(1));
  const query = view.at.get(Number(said.get('image') ?? NaN));
  const epoch = view.epochs.indexOf(Number(said.get('epoch') ?? NaN));
  return { ...(query === undefined ? {} : { query }), ...(epoch < 0 ? {} : { epoch }) };
}

export function asAddress(traits) {
  return `#image=${traits.query}&epoch=${traits.epoch}`;
}
