// What keys do

const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Keys {
  constructor(app) {
    this.app = app;
    const hear = (ev) => this.hear(ev);
    addEventListener('keydown', hear, true);
    this.remove = () => removeEventListener('keydown', hear, true);
    for (const { el } of Object.values(app.tools.lists)) this.watch(el);
  }

  // A list that is open takes letters for itself; one that is closed leaves them to the keys
  watch(el) {
    const note = (open) => () => {
      this.open = open;
    };
    el.addEventListener('mousedown', note(el));
    for (const event of ['change', 'blur']) el.addEventListener(event, note(null));
  }

  // Heard before the notebook, which would take a letter for a command of its own: x cuts a cell
  hear(ev) {
    const { root, page } = this.app;
    const mine = root.contains(ev.target);
    if (!mine && !(page && ev.target === document.body)) return;
    const opens = ['Enter', ' ', 'F4'].includes(ev.key) || (ev.altKey && ev.key.startsWith('Arrow'));
    if (ev.target.matches('select') && opens) this.open = ev.target;
    if (ev.ctrlKey || ev.metaKey || ev.altKey) return;
    if (this.press(ev.key, ev.target, ev.shiftKey)) ev.preventDefault();
    if (mine && !page) ev.stopImmediatePropagation();
  }

  // Whether a key was one of ours
  press(key, target, shift) {
    const { app } = this;
    const window = target.closest('dialog[open]'); // a button of one that was just closed may still have the focus
    if (window) return window === app.comparison.el && app.comparison.press(key);
    if (target.matches('input[type=search]') || target === this.open) {
      if (key === 'Escape') target.blur();
      if (key === 'Enter' && target === app.tools.find) app.strip.focus();
      return false;
    }
    const arrow = key.startsWith('Arrow');
    if (arrow && target.matches('select, input[type=range]')) return false;
    if (target.matches('.chip') && app.legend.along(target, key)) return true;
    const act = arrow && shift ? () => app.hop(...ARROWS[key]) : this.actOf(key, target.closest('.go')?.card);
    act?.();
    return act !== undefined;
  }

  // `card` is the neighbour that has the focus
  actOf(key, card) {
    const { app } = this;
    const acts = {
      ArrowRight: () => app.step(1),
      ArrowLeft: () => app.step(-1),
      ArrowUp: () => app.turnTo(app.state.epoch + 1),
      ArrowDown: () => app.turnTo(app.state.epoch - 1),
      p: () => app.play(),
      x: () => app.beforeAfter(),
      r: () => app.random(),
      b: () => app.travel(-1),
      n: () => app.travel(1),
      f: () => (card ? app.flag(card.cards.run, card.cards.near[card.j]) : app.flag()),
      e: () => (card ? app.compare(card.cards.run, card.j) : app.compareFirst()),
      s: () => app.toggleSelected(),
      l: () => app.set({ lassoing: !app.state.lassoing }),
      '+': () => app.zoom(1.6),
      '=': () => app.zoom(1.6),
      '-': () => app.zoom(1 / 1.6),
      0: () => app.zoom(0),
      '/': () => app.tools.find.focus(),
      '?': () => app.help.showModal(),
      Escape: () => app.set({ lassoing: false }),
    };
    return acts[key];
  }
}
